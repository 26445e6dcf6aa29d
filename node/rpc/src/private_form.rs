//! Telling Quorum's private form from public transactions before the pool looks at them.

use crate::RpcError;

/// Fields of a legacy transaction before `v`: nonce, gas price, gas limit, recipient, value, data.
const FIELDS_BEFORE_V: usize = 6;
/// What begins an RLP list; a typed transaction begins with a lower byte (EIP-2718).
const RLP_LIST: u8 = 0xc0;

/// Refuses a transaction with `v` 37 or 38 where public ones are taken. Its payload was not distributed by this call, and a
/// transaction in the chain whose payload nobody has would be nothing to anyone, for ever.
pub(crate) fn refuse_private(raw: &[u8]) -> Result<(), RpcError> {
    if is_private(raw) {
        return Err(RpcError::PrivateForm);
    }
    Ok(())
}

/// Cheap: steps over the fields without decoding them. What is no transaction is not private.
pub(crate) fn is_private(raw: &[u8]) -> bool {
    raw.first().is_some_and(|first| *first >= RLP_LIST) && matches!(v_of(raw), Some(37 | 38))
}

fn v_of(raw: &[u8]) -> Option<u64> {
    let mut rest = raw;
    let mut fields = alloy_rlp::Header::decode_bytes(&mut rest, true).ok()?;
    for _ in 0..FIELDS_BEFORE_V {
        alloy_rlp::Header::decode_bytes(&mut fields, false).ok()?;
    }
    alloy_rlp::Decodable::decode(&mut fields).ok()
}

#[cfg(test)]
mod tests {
    use alloy_consensus::{SignableTransaction as _, TxEip1559, TxLegacy};
    use alloy_eips::eip2718::Encodable2718 as _;
    use alloy_primitives::{Bytes, Signature, U256};
    use quorate_chain::{Transaction, quorum_private_transaction};

    use super::*;

    fn signature(odd: bool) -> Signature {
        Signature::new(U256::from(7), U256::from(8), odd)
    }

    fn legacy(chain_id: Option<u64>) -> Transaction {
        let tx = TxLegacy {
            chain_id,
            input: Bytes::from(vec![1; 200]),
            ..TxLegacy::default()
        };
        tx.into_signed(signature(true)).into()
    }

    #[test]
    fn v_37_and_38_are_told_from_all_others() {
        for odd in [false, true] {
            let tx = TxLegacy {
                input: Bytes::from(vec![1; 64]),
                ..TxLegacy::default()
            };
            let private = quorum_private_transaction(tx, signature(odd)).unwrap();
            assert_eq!(
                refuse_private(&private.encoded_2718()),
                Err(RpcError::PrivateForm)
            );
        }
        let typed: Transaction = TxEip1559 {
            chain_id: 1,
            ..TxEip1559::default()
        }
        .into_signed(signature(true))
        .into();
        for public in [legacy(None), legacy(Some(2)), legacy(Some(1_337)), typed] {
            assert_eq!(refuse_private(&public.encoded_2718()), Ok(()), "{public:?}");
        }
    }

    #[test]
    fn what_is_no_transaction_is_left_to_the_pool() {
        let whole = legacy(Some(1)).encoded_2718();
        assert!(is_private(&whole));
        for end in 0..whole.len() {
            assert!(!is_private(&whole[..end]));
        }
        assert!(!is_private(&[0xc0]));
        assert!(!is_private(&[0xff; 40]));
    }
}
