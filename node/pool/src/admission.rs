//! The checks that need no other transaction: from bytes to a transaction that this chain allows.

use alloy_consensus::Transaction as _;
use alloy_primitives::Address;
use quorate_chain::{
    BlockLimits, ChainSpec, RecoveredTransaction, Transaction, decode_transaction,
    is_quorum_private,
};

use crate::{AdmitError, PoolConfig};

/// The rules of the consortium as far as a transaction alone is concerned.
#[derive(Debug, Clone)]
pub(crate) struct Rules {
    pub(crate) spec: ChainSpec,
    pub(crate) limits: BlockLimits,
    pub(crate) gas_limit: u64,
}

impl Rules {
    /// Decodes the network form after a look at its length.
    pub(crate) fn decode(&self, raw: &[u8]) -> Result<Transaction, AdmitError> {
        let max = usize::try_from(self.limits.max_transaction_bytes).unwrap_or(usize::MAX);
        if raw.len() > max {
            return Err(AdmitError::TooLarge {
                got: raw.len(),
                max,
            });
        }
        Ok(decode_transaction(raw)?)
    }

    /// Everything cheap first, then the signature (about 40 microseconds), unless it was checked before and `sender` found.
    pub(crate) fn check(
        &self,
        transaction: Transaction,
        sender: Option<Address>,
        config: &PoolConfig,
        (height, timestamp): (u64, u64),
    ) -> Result<RecoveredTransaction, AdmitError> {
        let expected = self.spec.chain_id();
        // A transaction without chain id (before EIP-155) could be replayed from any other chain; and one in Quorum's private form
        // could be turned into a public one, because its signature does not cover the mark. The form itself has no chain id: what
        // it names is a payload of this chain or of none.
        if !is_quorum_private(&transaction) && transaction.chain_id() != Some(expected) {
            return Err(AdmitError::WrongChainId {
                got: transaction.chain_id(),
                expected,
            });
        }
        if transaction.gas_limit() > self.gas_limit {
            return Err(AdmitError::GasLimitTooHigh {
                got: transaction.gas_limit(),
                max: self.gas_limit,
            });
        }
        let price = transaction.max_fee_per_gas();
        if price < config.min_gas_price {
            return Err(AdmitError::GasPriceTooLow {
                got: price,
                min: config.min_gas_price,
            });
        }
        let fork = self.spec.fork_at(height, timestamp);
        quorate_evm::validate_static(fork, &transaction).map_err(AdmitError::Rules)?;
        Ok(match sender {
            Some(sender) => RecoveredTransaction::with_sender(transaction, sender),
            None => RecoveredTransaction::recover(transaction)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use alloy_consensus::{SignableTransaction as _, TxEip1559, TxLegacy};
    use alloy_eips::eip2718::Encodable2718 as _;
    use alloy_primitives::{Signature, TxKind, U256};
    use quorate_chain::{
        Fork, PRIVACY_PRECOMPILE, PublicForm, QuorumFormError, TransactionError, private_reference,
        quorum_private_transaction,
    };
    use secp256k1::{Message, SECP256K1, SecretKey};

    use super::*;

    const CHAIN: u64 = 1337;

    fn rules() -> Rules {
        Rules {
            spec: ChainSpec::with_fork(CHAIN, Fork::Prague),
            limits: BlockLimits {
                max_transaction_bytes: 2_000,
                ..BlockLimits::default()
            },
            gas_limit: 10_000_000,
        }
    }

    fn legacy(change: impl FnOnce(&mut TxLegacy)) -> TxLegacy {
        let mut tx = TxLegacy {
            chain_id: Some(CHAIN),
            gas_limit: 21_000,
            to: TxKind::Call(Address::repeat_byte(1)),
            ..TxLegacy::default()
        };
        change(&mut tx);
        tx
    }

    fn sign(tx: &TxLegacy) -> Signature {
        let key = SecretKey::from_byte_array([3; 32]).unwrap();
        let digest = Message::from_digest(tx.signature_hash().0);
        let (id, compact) = SECP256K1
            .sign_ecdsa_recoverable(digest, &key)
            .serialize_compact();
        Signature::from_bytes_and_parity(&compact, i32::from(id) == 1)
    }

    fn check(tx: TxLegacy) -> Result<RecoveredTransaction, AdmitError> {
        let signature = sign(&tx);
        check_raw(&Transaction::from(tx.into_signed(signature)).encoded_2718())
    }

    fn check_raw(raw: &[u8]) -> Result<RecoveredTransaction, AdmitError> {
        rules()
            .decode(raw)
            .and_then(|tx| rules().check(tx, None, &PoolConfig::default(), (1, 0)))
    }

    /// What is signed of a transaction in Quorum's form.
    fn private(change: impl FnOnce(&mut TxLegacy)) -> TxLegacy {
        legacy(|tx| {
            tx.chain_id = None;
            tx.input = vec![0x5a; 64].into();
            tx.gas_limit = 100_000;
            change(tx);
        })
    }

    #[test]
    fn a_signed_transaction_of_this_chain_gets_its_sender() {
        let key = SecretKey::from_byte_array([3; 32]).unwrap();
        let sender = quorate_chain::address_of(&key.public_key(SECP256K1));
        assert_eq!(check(legacy(|_| {})).unwrap().sender(), sender);
    }

    #[test]
    fn another_chain_or_none_is_refused() {
        let other = check(legacy(|tx| tx.chain_id = Some(7))).unwrap_err();
        assert_eq!(
            other,
            AdmitError::WrongChainId {
                got: Some(7),
                expected: CHAIN
            }
        );
        let none = check(legacy(|tx| tx.chain_id = None)).unwrap_err();
        assert_eq!(
            none,
            AdmitError::WrongChainId {
                got: None,
                expected: CHAIN
            }
        );
    }

    #[test]
    fn the_quorum_form_is_admitted_with_the_sender_that_signed_the_hash_of_homestead() {
        let key = SecretKey::from_byte_array([3; 32]).unwrap();
        let sender = quorate_chain::address_of(&key.public_key(SECP256K1));
        for nonce in 0..8 {
            let tx = private(|tx| tx.nonce = nonce);
            let raw = quorum_private_transaction(tx.clone(), sign(&tx))
                .unwrap()
                .encoded_2718();
            let admitted = check_raw(&raw).unwrap();
            assert_eq!(admitted.sender(), sender);
            assert_eq!(admitted.encoded().to_vec(), raw);
        }
        // The same signature without the mark would be a public call with the hash for data.
        let tx = private(|_| {});
        let signature = sign(&tx);
        let unmarked = check_raw(&Transaction::from(tx.into_signed(signature)).encoded_2718());
        let refused = AdmitError::WrongChainId {
            got: None,
            expected: CHAIN,
        };
        assert_eq!(unmarked.unwrap_err(), refused);
    }

    #[test]
    fn the_quorum_form_with_value_or_other_data_is_refused_and_blames_the_peer() {
        let refused = |change: &dyn Fn(&mut TxLegacy)| {
            let unsigned = private(change);
            let signature = sign(&unsigned);
            let marked = TxLegacy {
                chain_id: Some(1),
                ..unsigned
            };
            check_raw(&Transaction::from(marked.into_signed(signature)).encoded_2718()).unwrap_err()
        };
        let value = refused(&|tx| tx.value = U256::ONE);
        assert_eq!(
            value.to_string(),
            "ether value is not supported for private transactions"
        );
        assert!(value.blames_peer());
        for length in [0, 63, 65, 72] {
            let data = refused(&|tx| tx.input = vec![1; length].into());
            let reason = QuorumFormError::DataLength { got: length };
            assert_eq!(data, AdmitError::Rules(reason.into()));
        }
        // Creation and call cost what the recipient says.
        let gas = refused(&|tx| {
            tx.to = TxKind::Create;
            tx.gas_limit = 25_100;
        });
        assert!(
            gas.to_string().starts_with("intrinsic gas too low"),
            "{gas}"
        );
    }

    #[test]
    fn a_marker_is_an_ordinary_transaction() {
        let marker = |chain_id| {
            check(legacy(|tx| {
                tx.chain_id = chain_id;
                tx.to = TxKind::Call(PRIVACY_PRECOMPILE);
                tx.input = vec![0x5a; 64 + 4 * 8].into();
                tx.gas_limit = 100_000;
            }))
        };
        let admitted = marker(Some(CHAIN)).unwrap();
        let reference = private_reference(admitted.transaction()).unwrap();
        assert_eq!(reference.form, PublicForm::Marker);
        assert!(matches!(
            marker(Some(7)).unwrap_err(),
            AdmitError::WrongChainId { got: Some(7), .. }
        ));
    }

    #[test]
    fn gas_that_no_block_holds_or_that_does_not_pay_for_the_bytes_is_refused() {
        let most = check(legacy(|tx| tx.gas_limit = 10_000_001)).unwrap_err();
        assert_eq!(
            most,
            AdmitError::GasLimitTooHigh {
                got: 10_000_001,
                max: 10_000_000
            }
        );
        let least = check(legacy(|tx| tx.gas_limit = 20_999)).unwrap_err();
        assert!(matches!(least, AdmitError::Rules(_)), "{least}");
        assert!(least.blames_peer());
    }

    #[test]
    fn a_high_s_gives_no_second_form_of_the_same_transaction() {
        let tx = legacy(|_| {});
        let low = sign(&tx);
        let order = U256::from_be_slice(&secp256k1::constants::CURVE_ORDER);
        let high = Signature::new(low.r(), order - low.s(), !low.v());
        let twin = Transaction::from(tx.into_signed(high));
        let refused = rules()
            .check(twin, None, &PoolConfig::default(), (1, 0))
            .unwrap_err();
        assert_eq!(
            refused,
            AdmitError::NotATransaction(TransactionError::HighS)
        );
    }

    #[test]
    fn size_and_superfluous_bytes_are_refused_before_anything_else() {
        let large = check(legacy(|tx| tx.input = vec![0; 3_000].into())).unwrap_err();
        assert!(matches!(large, AdmitError::TooLarge { max: 2_000, .. }));
        let tx = legacy(|_| {});
        let signature = sign(&tx);
        let mut raw = Transaction::from(tx.into_signed(signature)).encoded_2718();
        raw.push(0);
        let trailing = AdmitError::NotATransaction(TransactionError::TrailingBytes { count: 1 });
        assert_eq!(rules().decode(&raw).unwrap_err(), trailing);
        assert!(rules().decode(&[]).is_err());
        for length in 0..raw.len() - 1 {
            assert!(rules().decode(&raw[..length]).is_err());
        }
    }

    #[test]
    fn a_price_below_this_nodes_minimum_and_a_tip_above_the_cap_are_refused() {
        let config = PoolConfig {
            min_gas_price: 5,
            ..PoolConfig::default()
        };
        let tx = legacy(|tx| tx.gas_price = 4);
        let signature = sign(&tx);
        let refused = rules()
            .check(tx.into_signed(signature).into(), None, &config, (1, 0))
            .unwrap_err();
        assert_eq!(refused, AdmitError::GasPriceTooLow { got: 4, min: 5 });
        let tx = TxEip1559 {
            chain_id: CHAIN,
            gas_limit: 21_000,
            max_fee_per_gas: 1,
            max_priority_fee_per_gas: 2,
            to: TxKind::Call(Address::ZERO),
            ..TxEip1559::default()
        };
        let signed = tx.into_signed(Signature::new(U256::from(1), U256::from(1), false));
        let refused = rules()
            .check(signed.into(), None, &PoolConfig::default(), (1, 0))
            .unwrap_err();
        assert!(matches!(refused, AdmitError::Rules(_)), "{refused}");
    }
}
