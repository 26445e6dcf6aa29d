//! What lies where in the key-value store, and how it is written.
//!
//! ```text
//! key                                       value
//! A | address 20                            account as of the durable height
//! S | address 20 | slot 32                  storage value, 1 to 32 bytes big-endian without leading zeros
//! C | code hash 32 | part 2                 code, in parts of at most 4096 bytes
//! T | path                                  node of the account trie, RLP; one byte per nibble of its path
//! U | keccak256(address) 32 | path          node of a storage trie, RLP
//! a | address 20 | last height 8            old accounts: see below; empty: did not exist
//! s | address 20 | slot 32 | last height 8  old storage values: see below; empty: zero
//! R | height 8                              state root after the block at this height
//! M | name                                  see the constants
//! ```
//! Numbers are big-endian, so that keys sort by them. An account is
//! `nonce length 1 | nonce | balance length 1 | balance | code hash 32 or nothing`, numbers without leading zeros.
//!
//! Old values are what was there before the block at a height changed it. Those that one flush adds for one key lie together,
//! `(height 8 | size 1 | old value)*` with rising heights, under the last of these heights, so that the first key at or after a
//! height has the value of that height. [`FORMAT`] names this layout; a store with another one is refused.

use alloy_primitives::{Address, B256, KECCAK256_EMPTY, U256};
use alloy_trie::Nibbles;

use crate::Account;
use crate::trie::Space;

/// Version of the layout.
pub(crate) const FORMAT: u8 = 1;

/// `M | format`: one byte.
pub(crate) const KEY_FORMAT: &[u8] = b"Mformat";
/// `M | genesis`: hash of the genesis block, written before anything else.
pub(crate) const KEY_GENESIS: &[u8] = b"Mgenesis";
/// `M | durable`: height 8, state root 32. Missing while the genesis state is being written.
pub(crate) const KEY_DURABLE: &[u8] = b"Mdurable";
/// `M | history`: height 8; the first height at which reads are possible.
pub(crate) const KEY_HISTORY: &[u8] = b"Mhistory";
/// `M | restore`: height 8; there while a state is being restored from chunks.
pub(crate) const KEY_RESTORE: &[u8] = b"Mrestore";

/// Largest entry of old values, in bytes. Entries of one page of the storage should fit into memory together.
const OLD_VALUES_SIZE_MAX: usize = 1024;

/// Largest part of a code, in bytes.
pub(crate) const CODE_PART_SIZE: usize = 4096;

pub(crate) fn account_key(address: &Address) -> Vec<u8> {
    join(b'A', &[address.as_slice()])
}

pub(crate) fn storage_key(address: &Address, slot: &U256) -> Vec<u8> {
    join(b'S', &[address.as_slice(), &slot.to_be_bytes::<32>()])
}

/// What all storage entries of an account begin with.
pub(crate) fn storage_prefix(address: &Address) -> Vec<u8> {
    join(b'S', &[address.as_slice()])
}

/// The slot of a storage entry; `None` if the key is none.
pub(crate) fn storage_slot(key: &[u8]) -> Option<U256> {
    let slot: [u8; 32] = key.get(21..)?.try_into().ok()?;
    Some(U256::from_be_bytes(slot))
}

pub(crate) fn code_key(hash: &B256, part: u16) -> Vec<u8> {
    join(b'C', &[hash.as_slice(), &part.to_be_bytes()])
}

/// What all parts of a code begin with.
pub(crate) fn code_prefix(hash: &B256) -> Vec<u8> {
    join(b'C', &[hash.as_slice()])
}

pub(crate) fn account_history_key(address: &Address, height: u64) -> Vec<u8> {
    join(b'a', &[address.as_slice(), &height.to_be_bytes()])
}

/// What all old values of an account begin with.
pub(crate) fn account_history_prefix(address: &Address) -> Vec<u8> {
    join(b'a', &[address.as_slice()])
}

pub(crate) fn storage_history_key(address: &Address, slot: &U256, height: u64) -> Vec<u8> {
    let slot = slot.to_be_bytes::<32>();
    join(b's', &[address.as_slice(), &slot, &height.to_be_bytes()])
}

/// What all old values of a slot begin with.
pub(crate) fn storage_history_prefix(address: &Address, slot: &U256) -> Vec<u8> {
    join(b's', &[address.as_slice(), &slot.to_be_bytes::<32>()])
}

pub(crate) fn root_key(height: u64) -> Vec<u8> {
    join(b'R', &[&height.to_be_bytes()])
}

pub(crate) fn trie_node_key(space: Space, path: &Nibbles) -> Vec<u8> {
    let (kind, account) = match &space {
        Space::Accounts => (b'T', &[][..]),
        Space::Storage(address) => (b'U', address.as_slice()),
    };
    let mut key = Vec::with_capacity(1 + account.len() + path.len());
    key.push(kind);
    key.extend_from_slice(account);
    key.extend(path.iter());
    key
}

fn join(kind: u8, parts: &[&[u8]]) -> Vec<u8> {
    let mut key = Vec::with_capacity(1 + parts.iter().map(|part| part.len()).sum::<usize>());
    key.push(kind);
    for part in parts {
        key.extend_from_slice(part);
    }
    key
}

pub(crate) fn encode_account(account: &Account) -> Vec<u8> {
    let mut out = Vec::with_capacity(60);
    let nonce = account.nonce.to_be_bytes();
    let nonce = &nonce[account.nonce.leading_zeros() as usize / 8..];
    // At most 8 and 32.
    out.push(nonce.len() as u8);
    out.extend_from_slice(nonce);
    let balance = account.balance.to_be_bytes_trimmed_vec();
    out.push(balance.len() as u8);
    out.extend_from_slice(&balance);
    if account.has_code() {
        out.extend_from_slice(account.code_hash.as_slice());
    }
    out
}

pub(crate) fn decode_account(bytes: &[u8]) -> Result<Account, &'static str> {
    let (nonce, rest) = take_number(bytes, 8)?;
    let (balance, rest) = take_number(rest, 32)?;
    let code_hash = match rest.len() {
        0 => KECCAK256_EMPTY,
        32 => B256::from_slice(rest),
        _ => return Err("code hash is not 32 bytes"),
    };
    // `take_number` allowed at most eight bytes.
    Ok(Account {
        nonce: nonce.saturating_to(),
        balance,
        code_hash,
    })
}

fn take_number(bytes: &[u8], size_max: usize) -> Result<(U256, &[u8]), &'static str> {
    let (size, rest) = bytes.split_first().ok_or("a number is missing")?;
    let size = usize::from(*size);
    if size > size_max {
        return Err("a number is too long");
    }
    let (number, rest) = rest.split_at_checked(size).ok_or("a number is cut off")?;
    Ok((U256::from_be_slice(number), rest))
}

/// A storage value as bytes; empty for zero.
pub(crate) fn encode_value(value: &U256) -> Vec<u8> {
    value.to_be_bytes_trimmed_vec()
}

pub(crate) fn decode_value(bytes: &[u8]) -> Result<U256, &'static str> {
    U256::try_from_be_slice(bytes).ok_or("a storage value is over 32 bytes")
}

/// An old account as bytes; empty if it did not exist.
pub(crate) fn encode_old_account(account: Option<&Account>) -> Vec<u8> {
    account.map(encode_account).unwrap_or_default()
}

pub(crate) fn decode_old_account(bytes: &[u8]) -> Result<Option<Account>, &'static str> {
    if bytes.is_empty() {
        Ok(None)
    } else {
        decode_account(bytes).map(Some)
    }
}

/// Old values of one key as entries: the last height of each, and its value. More than one if they do not fit into one.
pub(crate) fn encode_old_values(values: &[(u64, Vec<u8>)]) -> Vec<(u64, Vec<u8>)> {
    let mut entries: Vec<(u64, Vec<u8>)> = Vec::with_capacity(1);
    for (height, value) in values {
        let size = 8 + 1 + value.len();
        if entries
            .last()
            .is_none_or(|(_, entry)| entry.len() + size > OLD_VALUES_SIZE_MAX)
        {
            entries.push((*height, Vec::with_capacity(size)));
        }
        if let Some((last, entry)) = entries.last_mut() {
            *last = *height;
            entry.extend_from_slice(&height.to_be_bytes());
            // At most 74: an account with code.
            entry.push(value.len() as u8);
            entry.extend_from_slice(value);
        }
    }
    entries
}

/// The old value of the first change at or after `height`; `None` if all of them are before it.
pub(crate) fn old_value_from(mut entry: &[u8], height: u64) -> Result<Option<&[u8]>, &'static str> {
    while !entry.is_empty() {
        let (changed, rest) = entry
            .split_first_chunk::<8>()
            .ok_or("a height is cut off")?;
        let (size, rest) = rest.split_first().ok_or("a size is cut off")?;
        let (value, rest) = rest
            .split_at_checked(usize::from(*size))
            .ok_or("an old value is cut off")?;
        if u64::from_be_bytes(*changed) >= height {
            return Ok(Some(value));
        }
        entry = rest;
    }
    Ok(None)
}

pub(crate) fn encode_durable(height: u64, root: &B256) -> Vec<u8> {
    [&height.to_be_bytes()[..], root.as_slice()].concat()
}

pub(crate) fn decode_durable(bytes: &[u8]) -> Option<(u64, B256)> {
    let (height, root) = bytes.split_first_chunk::<8>()?;
    Some((u64::from_be_bytes(*height), B256::try_from(root).ok()?))
}

pub(crate) fn decode_height(bytes: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(bytes.try_into().ok()?))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed step fails the test")]
mod tests {
    use alloy_primitives::{address, b256, hex};

    use super::*;

    #[test]
    fn the_layout_on_disk_is_as_written_down() {
        let owner = address!("00112233445566778899aabbccddeeff00112233");
        let check = |actual: Vec<u8>, expected: &str| {
            assert_eq!(hex::encode(actual), expected.replace(' ', ""));
        };
        let slot = U256::from(7);
        let slot_hex = format!("{:0>64}", "7");
        check(
            account_key(&owner),
            "41 00112233445566778899aabbccddeeff00112233",
        );
        check(
            storage_key(&owner, &slot),
            &format!("53 00112233445566778899aabbccddeeff00112233 {slot_hex}"),
        );
        check(
            account_history_key(&owner, 258),
            "61 00112233445566778899aabbccddeeff00112233 0000000000000102",
        );
        check(
            storage_history_key(&owner, &slot, 1),
            &format!("73 00112233445566778899aabbccddeeff00112233 {slot_hex} 0000000000000001"),
        );
        check(root_key(5), "52 0000000000000005");
        let path = Nibbles::from_nibbles([0xa, 0x0, 0x3]);
        check(trie_node_key(Space::Accounts, &path), "54 0a0003");
        let hashed = b256!("1111111111111111111111111111111111111111111111111111111111111111");
        check(
            trie_node_key(Space::Storage(hashed), &path),
            &format!("55 {} 0a0003", "11".repeat(32)),
        );
        check(
            code_key(&hashed, 1),
            &format!("43 {} 0001", "11".repeat(32)),
        );

        let plain = Account {
            nonce: 258,
            balance: U256::from(1_000_000),
            ..Account::default()
        };
        check(encode_account(&plain), "02 0102 03 0f4240");
        check(encode_account(&Account::default()), "00 00");
        let contract = Account {
            code_hash: hashed,
            ..plain
        };
        check(
            encode_account(&contract),
            &format!("02 0102 03 0f4240 {}", "11".repeat(32)),
        );
        check(encode_value(&U256::from(0x1234)), "1234");
        check(
            encode_durable(3, &hashed),
            &format!("0000000000000003 {}", "11".repeat(32)),
        );
    }

    #[test]
    fn old_values_are_found_by_the_first_height_at_or_after() {
        let values: Vec<(u64, Vec<u8>)> = (1..200u64)
            .map(|n| (n * 10, vec![n as u8; n as usize % 33]))
            .collect();
        let entries = encode_old_values(&values);
        assert!(entries.len() > 2, "they do not fit into one");
        assert!(
            entries
                .iter()
                .all(|(_, entry)| entry.len() <= OLD_VALUES_SIZE_MAX)
        );
        for height in 0..2_000 {
            let expected = values.iter().find(|(changed, _)| *changed >= height);
            let entry = entries.iter().find(|(last, _)| *last >= height);
            let found =
                entry.and_then(|(_, entry)| old_value_from(entry, height).unwrap().map(Vec::from));
            assert_eq!(
                found,
                expected.map(|(_, value)| value.clone()),
                "height {height}"
            );
        }
        assert_eq!(old_value_from(&entries[0].1, 100_000), Ok(None));
        assert!(old_value_from(&[0; 9], 0).is_ok());
        for cut in [1, 8, 9 + 1] {
            assert!(
                old_value_from(&values[2].1.repeat(9)[..cut], 0).is_err(),
                "cut at {cut}"
            );
        }
        let golden = encode_old_values(&[(1, vec![0xaa]), (258, vec![])]);
        assert_eq!(
            golden,
            [(258, hex!("000000000000000101aa000000000000010200").to_vec())]
        );
    }

    #[test]
    fn what_is_encoded_decodes_to_itself_and_rubbish_is_refused() {
        let code_hash = B256::repeat_byte(9);
        for account in [
            Account::default(),
            Account {
                nonce: u64::MAX,
                balance: U256::MAX,
                code_hash,
            },
            Account {
                nonce: 1,
                balance: U256::ZERO,
                code_hash,
            },
        ] {
            assert_eq!(decode_account(&encode_account(&account)), Ok(account));
            let old = encode_old_account(Some(&account));
            assert_eq!(decode_old_account(&old), Ok(Some(account)));
        }
        assert_eq!(decode_old_account(&[]), Ok(None));
        assert_eq!(decode_value(&encode_value(&U256::MAX)), Ok(U256::MAX));
        assert_eq!(decode_value(&encode_value(&U256::ZERO)), Ok(U256::ZERO));
        for rubbish in [&[][..], &[9, 1], &[0], &[0, 33], &[1, 1, 0, 5], &[2, 1]] {
            assert!(decode_account(rubbish).is_err(), "{rubbish:?}");
        }
        assert!(decode_value(&[1; 33]).is_err());
        let durable = encode_durable(7, &code_hash);
        assert_eq!(decode_durable(&durable), Some((7, code_hash)));
        assert_eq!(decode_durable(&durable[1..]), None);
    }
}
