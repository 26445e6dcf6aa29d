//! Accounts that are not in the storage. Every private call asks private state for its sender, who is in public state; the storage
//! takes as long to say no as to say yes.

use std::collections::HashSet;

use alloy_primitives::Address;
use parking_lot::Mutex;

/// So many are remembered; then all are forgotten.
const ADDRESSES_MAX: usize = 1_024;

/// Addresses without a flat value.
#[derive(Debug, Default)]
pub(crate) struct Absent {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    addresses: HashSet<Address>,
    /// Counts how often everything was forgotten because the storage changed.
    turn: u64,
}

impl Absent {
    /// `Ok` if the address has no flat value, as far as anyone knows who reads at the same time as a flush writes. Else what
    /// [`remember`](Self::remember) wants to know, if the storage is asked next.
    pub(crate) fn check(&self, address: &Address) -> Result<(), u64> {
        let inner = self.inner.lock();
        match inner.addresses.contains(address) {
            true => Ok(()),
            false => Err(inner.turn),
        }
    }

    /// The storage had nothing, asked in this turn.
    pub(crate) fn remember(&self, address: Address, turn: u64) {
        let mut inner = self.inner.lock();
        if inner.turn != turn {
            // What was written meanwhile may have been this account.
            return;
        }
        if inner.addresses.len() >= ADDRESSES_MAX {
            inner.addresses.clear();
        }
        inner.addresses.insert(address);
    }

    /// Flat values were written. To be called after that, and before the new durable height is told: whoever is not yet told it
    /// has the changed accounts in memory, or finds their old values in the history.
    pub(crate) fn written(&self) {
        let mut inner = self.inner.lock();
        inner.addresses.clear();
        inner.turn += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_asked_before_a_write_is_not_remembered_after_it() {
        let absent = Absent::default();
        let (one, two) = (Address::repeat_byte(1), Address::repeat_byte(2));
        let turn = absent.check(&one).unwrap_err();
        absent.remember(one, turn);
        assert_eq!(absent.check(&one), Ok(()));
        let before = absent.check(&two).unwrap_err();
        absent.written();
        absent.remember(two, before);
        for address in [one, two] {
            assert_ne!(absent.check(&address), Err(before));
            assert!(absent.check(&address).is_err());
        }
    }

    #[test]
    fn not_more_than_so_many_are_remembered() {
        let absent = Absent::default();
        let address = |n: usize| Address::left_padding_from(&n.to_be_bytes());
        for n in 0..=ADDRESSES_MAX {
            let turn = absent.check(&address(n)).unwrap_err();
            absent.remember(address(n), turn);
        }
        assert!(absent.check(&address(0)).is_err());
        assert_eq!(absent.check(&address(ADDRESSES_MAX)), Ok(()));
    }
}
