use std::time::Duration;

use alloy_consensus::{SignableTransaction as _, TxLegacy};
use alloy_primitives::{Signature, TxKind};
use proptest::prelude::*;

use super::*;

fn tx_with(sender: u8, nonce: u64, gas_price: u128, value: u64) -> RecoveredTransaction {
    let tx = TxLegacy {
        chain_id: Some(7),
        nonce,
        gas_price,
        gas_limit: 21_000,
        to: TxKind::Call(Address::repeat_byte(0xee)),
        value: U256::from(value),
        ..TxLegacy::default()
    };
    // The pool never looks at signatures: admission has checked them. Make hashes differ by sender.
    let signature = Signature::new(U256::from(u64::from(sender) + 1), U256::from(1), false);
    RecoveredTransaction::with_sender(
        tx.into_signed(signature).into(),
        Address::repeat_byte(sender),
    )
}

fn tx(sender: u8, nonce: u64) -> RecoveredTransaction {
    tx_with(sender, nonce, 0, 1)
}

fn rich(nonce: u64) -> Option<Account> {
    Some(Account {
        nonce,
        balance: U256::from(u128::MAX),
        ..Account::default()
    })
}

fn pool() -> Pool {
    Pool::new(PoolConfig::default())
}

fn order(pool: &mut Pool) -> Vec<(u8, u64)> {
    std::iter::from_fn(|| pool.take_next())
        .map(|t| (t.sender().0[0], t.nonce()))
        .collect()
}

#[test]
fn senders_take_turns_and_each_goes_in_nonce_order() {
    let mut pool = pool();
    for nonce in [2, 0, 1] {
        pool.admit(tx(1, nonce), rich(0), 0).unwrap();
    }
    for nonce in [0, 1] {
        pool.admit(tx(2, nonce), rich(0), 0).unwrap();
    }
    assert_eq!(order(&mut pool), [(1, 0), (2, 0), (1, 1), (2, 1), (1, 2)]);
    assert!(pool.take_next().is_none());
}

#[test]
fn a_gap_holds_later_nonces_back_and_says_so() {
    let mut pool = pool();
    let late = tx(1, 2);
    assert!(!pool.admit(late.clone(), rich(0), 0).unwrap());
    pool.admit(tx(1, 0), rich(0), 0).unwrap();
    assert_eq!(order(&mut pool), [(1, 0)]);
    assert_eq!(
        pool.pending_reason(&late.hash()).unwrap(),
        "waits for nonce 1 of the same sender"
    );
    assert_eq!(pool.pending_nonce(&late.sender()), Some(1));
    assert!(pool.admit(tx(1, 1), rich(0), 0).unwrap());
    assert_eq!(order(&mut pool), [(1, 1), (1, 2)]);
}

#[test]
fn what_is_in_flight_is_offered_again_after_a_lost_leader_and_gone_after_commit() {
    let mut pool = pool();
    for nonce in 0..3 {
        pool.admit(tx(1, nonce), rich(0), 0).unwrap();
    }
    assert_eq!(order(&mut pool).len(), 3);
    pool.offer_again();
    assert_eq!(order(&mut pool).len(), 3);
    pool.on_block(1, &[(Address::repeat_byte(1), 2)]);
    assert_eq!(pool.len(), 1);
    pool.offer_again();
    assert_eq!(order(&mut pool), [(1, 2)]);
}

#[test]
fn what_did_not_fit_into_a_block_comes_first_in_the_next() {
    let mut pool = pool();
    for sender in 1..=3 {
        for nonce in 0..2 {
            pool.admit(tx(sender, nonce), rich(0), 0).unwrap();
        }
    }
    let first = pool.take_next().unwrap();
    let second = pool.take_next().unwrap();
    pool.put_back(&second);
    pool.put_back(&first);
    assert_eq!(
        order(&mut pool),
        [(1, 0), (2, 0), (3, 0), (1, 1), (2, 1), (3, 1)]
    );
}

#[test]
fn refusals_say_what_and_how_much() {
    let mut pool = Pool::new(PoolConfig {
        per_sender_max: 2,
        transactions_max: 3,
        nonce_window: 5,
        ..PoolConfig::default()
    });
    let poor = Some(Account {
        nonce: 0,
        balance: U256::from(5),
        ..Account::default()
    });
    pool.admit(tx(1, 3), rich(3), 0).unwrap();
    assert_eq!(
        pool.admit(tx(1, 3), rich(3), 0),
        Err(AdmitError::Known {
            hash: tx(1, 3).hash()
        })
    );
    assert_eq!(
        pool.admit(tx(1, 2), rich(3), 0),
        Err(AdmitError::NonceTooLow { got: 2, next: 3 })
    );
    assert_eq!(
        pool.admit(tx(1, 9), rich(3), 0),
        Err(AdmitError::NonceTooHigh { got: 9, max: 8 })
    );
    assert_eq!(
        pool.admit(tx_with(2, 0, 0, 6), poor, 0),
        Err(AdmitError::InsufficientFunds {
            balance: U256::from(5),
            cost: U256::from(6)
        })
    );
    pool.admit(tx(1, 4), rich(3), 0).unwrap();
    assert_eq!(
        pool.admit(tx(1, 5), rich(3), 0),
        Err(AdmitError::SenderFull { count: 2, max: 2 })
    );
    pool.admit(tx(2, 0), rich(0), 0).unwrap();
    assert!(matches!(
        pool.admit(tx(3, 0), rich(0), 0),
        Err(AdmitError::PoolFull {
            transactions: 3,
            ..
        })
    ));
}

#[test]
fn a_replacement_must_pay_more_and_leaves_a_trace() {
    let mut pool = pool();
    let old = tx_with(1, 0, 100, 1);
    pool.admit(old.clone(), rich(0), 0).unwrap();
    let cheap = tx_with(1, 0, 109, 2);
    assert!(matches!(
        pool.admit(cheap, rich(0), 0),
        Err(AdmitError::Underpriced { percent: 10, .. })
    ));
    let better = tx_with(1, 0, 110, 2);
    pool.admit(better.clone(), rich(0), 0).unwrap();
    assert_eq!(
        pool.fate(&old.hash()),
        Some(&Fate::Replaced { by: better.hash() })
    );
    assert_eq!(pool.len(), 1);
    assert_eq!(pool.take_next().unwrap().hash(), better.hash());
    assert!(matches!(
        pool.admit(tx_with(1, 0, 200, 2), rich(0), 0),
        Err(AdmitError::InFlight { nonce: 0, .. })
    ));
}

#[test]
fn what_waits_too_long_expires_unless_it_is_in_flight() {
    let config = PoolConfig {
        lifetime: Duration::from_secs(1),
        ..PoolConfig::default()
    };
    let mut pool = Pool::new(config);
    pool.admit(tx(1, 0), rich(0), 0).unwrap();
    pool.admit(tx(2, 0), rich(0), 0).unwrap();
    let taken = pool.take_next().unwrap();
    assert_eq!(pool.expire(1_001), 1);
    assert!(pool.get(&taken.hash()).is_some());
    assert_eq!(pool.fate(&tx(2, 0).hash()), Some(&Fate::Expired));
}

#[test]
fn a_dropped_transaction_keeps_its_reason_and_holds_its_successors_back() {
    let mut pool = pool();
    pool.admit(tx(1, 0), rich(0), 0).unwrap();
    pool.admit(tx(1, 1), rich(0), 0).unwrap();
    let first = pool.take_next().unwrap();
    let reason = DropReason::NotExecutable("funds".into());
    pool.drop_transaction(&first, reason.clone());
    assert_eq!(pool.fate(&first.hash()), Some(&Fate::Dropped(reason)));
    assert!(pool.take_next().is_none());
    pool.admit(tx_with(1, 0, 1, 1), rich(0), 0).unwrap();
    assert_eq!(order(&mut pool), [(1, 0), (1, 1)]);
}

#[test]
fn a_pool_full_of_waiting_transactions_takes_the_one_that_they_wait_for() {
    let config = PoolConfig {
        transactions_max: 3,
        per_sender_max: 2,
        ..PoolConfig::default()
    };
    let mut pool = Pool::new(config);
    pool.admit(tx(1, 1), rich(0), 0).unwrap();
    pool.admit(tx(1, 2), rich(0), 0).unwrap();
    pool.admit(tx(2, 5), rich(0), 0).unwrap();
    // Waiting ones push nothing out, neither of their sender nor of others.
    assert!(matches!(
        pool.admit(tx(3, 7), rich(0), 0),
        Err(AdmitError::PoolFull { .. })
    ));
    assert!(matches!(
        pool.admit(tx(1, 3), rich(0), 0),
        Err(AdmitError::SenderFull { .. })
    ));
    // The first of sender 1 takes the place of its last.
    pool.admit(tx(1, 0), rich(0), 0).unwrap();
    assert_eq!(
        pool.fate(&tx(1, 2).hash()),
        Some(&Fate::Dropped(DropReason::MadeRoom))
    );
    // Another sender's first takes the place of what waits elsewhere.
    pool.admit(tx(3, 0), rich(0), 0).unwrap();
    assert_eq!(
        pool.fate(&tx(2, 5).hash()),
        Some(&Fate::Dropped(DropReason::MadeRoom))
    );
    // Now all could be minted: nothing more is pushed out.
    assert!(matches!(
        pool.admit(tx(4, 0), rich(0), 0),
        Err(AdmitError::PoolFull { .. })
    ));
    assert_eq!(order(&mut pool), [(1, 0), (3, 0), (1, 1)]);
}

#[test]
fn a_nonce_that_was_used_without_a_transaction_does_not_hold_the_next_one_up() {
    let mut pool = pool();
    pool.admit(tx(1, 0), rich(0), 0).unwrap();
    pool.admit(tx(1, 1), rich(0), 0).unwrap();
    // An EIP-7702 authorization of another sender's transaction used nonce 0.
    let first = pool.take_next().unwrap();
    pool.drop_transaction(&first, DropReason::NotExecutable("nonce too low".into()));
    assert!(pool.take_next().is_none());
    pool.catch_up(&first.sender(), 1);
    assert_eq!(order(&mut pool), [(1, 1)]);
}

#[derive(Debug, Clone)]
enum Step {
    Admit(u8, u64),
    Take,
    Commit(u8, u64),
    OfferAgain,
    Drop,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (0u8..4, 0u64..8).prop_map(|(s, n)| Step::Admit(s, n)),
        3 => Just(Step::Take),
        2 => (0u8..4, 0u64..8).prop_map(|(s, n)| Step::Commit(s, n)),
        1 => Just(Step::OfferAgain),
        1 => Just(Step::Drop),
    ];
    proptest::collection::vec(step, 1..120)
}

proptest! {
    /// Whatever happens, a sender's transactions come out in nonce order without gaps from its next nonce on,
    /// a sender stands in line exactly if it has an offer, and the counters add up.
    #[test]
    fn the_order_holds_under_any_sequence_of_events(steps in steps()) {
        let mut pool = pool();
        let mut next = [0u64; 4];
        let mut offered = [0u64; 4];
        let mut last = None;
        for step in steps {
            match step {
                Step::Admit(s, n) => {
                    drop(pool.admit(tx(s, n), rich(next[s as usize]), 0));
                }
                Step::Take => {
                    if let Some(t) = pool.take_next() {
                        let s = t.sender().0[0] as usize;
                        prop_assert_eq!(t.nonce(), offered[s].max(next[s]));
                        offered[s] = t.nonce() + 1;
                        last = Some(t);
                    }
                }
                Step::Commit(s, n) => {
                    let i = s as usize;
                    next[i] = next[i].max(n);
                    offered[i] = offered[i].max(next[i]);
                    pool.on_block(1, &[(Address::repeat_byte(s), next[i])]);
                }
                Step::OfferAgain => {
                    pool.offer_again();
                    offered = next;
                }
                Step::Drop => {
                    if let Some(t) = last.take() {
                        let s = t.sender().0[0] as usize;
                        if pool.get(&t.hash()).is_some() {
                            offered[s] = offered[s].min(t.nonce()).max(next[s]);
                        }
                        pool.drop_transaction(&t, DropReason::NotExecutable("test".into()));
                    }
                }
            }
            let offering = pool.senders.values().filter(|q| q.offerable().is_some()).count();
            prop_assert_eq!(offering, pool.line.len());
            let waiting = pool.senders.iter().filter(|(_, q)| q.has_waiting()).map(|(s, _)| *s);
            prop_assert!(waiting.eq(pool.gapped.iter().copied()));
            let present: usize = pool.senders.values().map(|q| q.by_nonce.len()).sum();
            prop_assert_eq!(present, pool.len());
            let bytes: usize = pool.content().map(|(_, _, p, _)| p.transaction.size_bytes()).sum();
            prop_assert_eq!(bytes, pool.counts().bytes);
            for (s, queue) in &pool.senders {
                let i = s.0[0] as usize;
                prop_assert!(queue.offer_from >= queue.next);
                prop_assert!(queue.by_nonce.keys().all(|n| *n >= next[i].min(queue.next)));
            }
        }
    }
}
