//! Senders, recipients and signed transactions.

use alloy_consensus::{SignableTransaction as _, TxLegacy};
use alloy_eips::eip2718::Encodable2718 as _;
use alloy_primitives::{Address, B256, Bytes, TxKind, U256, keccak256};
use rayon::prelude::*;
use secp256k1::SecretKey;

use super::token;
use crate::accounts::{address_of_key, sign};
use crate::keys::new_key;

/// Gas limit of a token transfer; it uses about 52,000 when the recipient is new to the token.
pub const TOKEN_GAS: u64 = 80_000;
/// Gas of a plain transfer (yellow paper, G_transaction).
pub const TRANSFER_GAS: u64 = 21_000;

/// What is the same in all transactions of a run.
#[derive(Debug, Clone, Copy)]
pub struct Terms {
    /// The chain.
    pub chain_id: u64,
    /// In wei.
    pub gas_price: u128,
}

/// A signed transaction.
#[derive(Debug, Clone)]
pub struct Signed {
    /// Network form.
    pub raw: Bytes,
    /// keccak256 of it.
    pub hash: B256,
}

/// An account of the run.
#[derive(Clone)]
pub struct Account {
    /// Its key.
    pub key: SecretKey,
    /// Its address.
    pub address: Address,
}

impl Account {
    /// One that nobody has used.
    pub fn new() -> Self {
        Self::of(new_key())
    }

    /// The account of a key.
    pub fn of(key: SecretKey) -> Self {
        Self {
            address: address_of_key(&key),
            key,
        }
    }

    /// Signs a legacy transaction (EIP-155).
    pub fn sign(
        &self,
        terms: Terms,
        nonce: u64,
        to: TxKind,
        value: U256,
        gas_limit: u64,
        input: Bytes,
    ) -> Signed {
        let tx = TxLegacy {
            chain_id: Some(terms.chain_id),
            nonce,
            gas_price: terms.gas_price,
            gas_limit,
            to,
            value,
            input,
        };
        let signature = sign(&self.key, tx.signature_hash());
        let raw: Bytes = tx.into_signed(signature).encoded_2718().into();
        Signed {
            hash: keccak256(&raw),
            raw,
        }
    }
}

/// Everything that is needed to sign the transactions of a run.
pub struct Workload {
    /// Chain id and price.
    pub terms: Terms,
    /// The senders; their next nonce is 0.
    pub senders: Vec<Account>,
    /// How many recipients.
    pub recipients: usize,
    /// The token, unless ether is sent.
    pub token: Option<Address>,
}

impl Workload {
    /// Signs `count` transactions on all cores. Transaction `i` comes from sender `i % senders` with nonce `i / senders`.
    pub fn sign(&self, count: usize) -> Vec<Signed> {
        (0..count)
            .into_par_iter()
            .filter_map(|i| self.transaction(i))
            .collect()
    }

    fn transaction(&self, i: usize) -> Option<Signed> {
        let sender = self.senders.get(i.checked_rem(self.senders.len())?)?;
        let nonce = (i / self.senders.len()) as u64;
        let recipient = recipient(i % self.recipients.max(1));
        Some(match self.token {
            None => sender.sign(
                self.terms,
                nonce,
                recipient.into(),
                U256::from(1u64),
                TRANSFER_GAS,
                Bytes::new(),
            ),
            Some(token) => {
                let call = token::transfer_call(recipient, 1);
                sender.sign(self.terms, nonce, token.into(), U256::ZERO, TOKEN_GAS, call)
            }
        })
    }
}

/// Address number `i`: nobody has its key, and it is the same in every run.
fn recipient(i: usize) -> Address {
    Address::from_word(keccak256((i as u64).to_be_bytes()))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn transactions_are_signed_by_their_senders_with_nonces_without_holes() {
        let workload = Workload {
            terms: Terms {
                chain_id: 1337,
                gas_price: 7,
            },
            senders: (0..3).map(|_| Account::new()).collect(),
            recipients: 2,
            token: None,
        };
        let signed = workload.sign(8);
        let hashes: BTreeSet<B256> = signed.iter().map(|s| s.hash).collect();
        assert_eq!(hashes.len(), 8);
        for (i, signed) in signed.iter().enumerate() {
            let decoded = quorate_chain::decode_transaction(&signed.raw).unwrap();
            let recovered = quorate_chain::RecoveredTransaction::recover(decoded).unwrap();
            assert_eq!(recovered.sender(), workload.senders[i % 3].address);
            assert_eq!(recovered.nonce(), (i / 3) as u64);
            assert_eq!(recovered.hash(), signed.hash);
        }
    }
}
