//! Histories that must be refused, each made from one that holds by a single change.

use super::*;
use crate::accounts::{Account, recipient, teller};

/// Two accounts, four transfers in three blocks, seen by two members, an observer and a subscriber.
struct Case {
    history: History,
    members: Vec<Holdings>,
    genesis: BTreeMap<Address, U256>,
}

fn hash(n: u8) -> B256 {
    B256::repeat_byte(n)
}

fn case() -> Case {
    let (alice, bob) = (Account::of(1).unwrap(), Account::of(2).unwrap());
    // What carol gets emits a log each time.
    let (carol, mint) = (teller(), recipient(2));
    let transfers = [
        alice.transfer(0, bob.address, U256::from(10), 1),
        alice.transfer(1, carol, U256::from(20), 0),
        bob.transfer(0, carol, U256::from(5), 0),
        bob.transfer(1, carol, U256::from(7), 0),
    ];
    let in_block = [&[0_usize][..], &[1, 2], &[3]];
    let blocks: Vec<Block> = (1..=3u8)
        .map(|height| Block {
            height: height.into(),
            hash: hash(height),
            parent: hash(height - 1),
            state_root: hash(100 + height),
            coinbase: mint,
            transactions: in_block[usize::from(height) - 1]
                .iter()
                .map(|n| transfers[*n].hash)
                .collect(),
        })
        .collect();
    let seen = |height: u8| Seen {
        height: height.into(),
        hash: hash(height),
    };
    let submission = |n: usize, at, block, told| Submission {
        transfer: transfers[n].clone(),
        at,
        acknowledged: Some(Acknowledgement {
            at: told,
            block: seen(block),
        }),
    };
    let fee = U256::from(TRANSFER_GAS);
    let start = U256::from(1_000_000);
    let balances: BTreeMap<Address, U256> = [
        (alice.address, start - U256::from(30) - fee),
        (bob.address, start + U256::from(10) - U256::from(12)),
        (carol, U256::from(32)),
        (mint, fee),
    ]
    .into();
    let nonces: BTreeMap<Address, u64> = [(alice.address, 2), (bob.address, 2), (carol, 0)].into();
    let member = |slot| Holdings {
        slot,
        partial: false,
        blocks: blocks.clone(),
        balances: balances.clone(),
        nonces: nonces.clone(),
    };
    let report = |slot, life, height: u8, committed| Report {
        slot,
        life,
        at: u64::from(height) * 100,
        head: seen(height),
        committed: Some(committed),
    };
    let log = |n: usize, height: u8| LogSeen {
        block: seen(height),
        transaction: transfers[n].hash,
    };
    let logs = [log(1, 2), log(2, 2), log(3, 3)];
    Case {
        history: History {
            submissions: vec![
                submission(0, 10, 1, 20),
                submission(1, 30, 2, 60),
                submission(2, 40, 2, 50),
                submission(3, 70, 3, 80),
            ],
            reports: vec![
                report(0, 1, 1, 5),
                report(1, 1, 1, 5),
                report(0, 1, 2, 6),
                report(0, 2, 1, 4),
                report(0, 2, 3, 8),
            ],
            subscriptions: vec![vec![seen(1), seen(2), seen(3)]],
            logs: vec![LogStory {
                all: logs.to_vec(),
                connections: vec![logs[..2].to_vec(), Vec::new(), logs[1..].to_vec()],
            }],
            ..History::default()
        },
        members: vec![member(0), member(1)],
        genesis: [(alice.address, start), (bob.address, start)].into(),
    }
}

/// What is found after one change.
fn found(change: impl FnOnce(&mut Case)) -> Vec<Violation> {
    let mut case = case();
    change(&mut case);
    check(&case.history, &case.members, &case.genesis)
}

fn both(case: &mut Case, change: impl Fn(&mut Holdings)) {
    case.members.iter_mut().for_each(change);
}

#[test]
fn what_holds_is_not_refused() {
    assert_eq!(found(|_| {}), []);
}

#[test]
fn another_block_or_state_at_a_height_is_a_fork() {
    let fork = Violation::Fork {
        height: 2,
        slot: 0,
        other: 1,
    };
    let roots = found(|c| c.members[1].blocks[1].state_root = hash(9));
    assert_eq!(roots.as_slice(), std::slice::from_ref(&fork));
    let hashes = found(|c| {
        c.members[1].blocks[1].hash = hash(9);
        c.members[1].blocks[2].parent = hash(9);
    });
    assert_eq!(hashes, [fork]);
}

#[test]
fn a_member_that_ends_earlier_or_whose_blocks_do_not_follow_is_found() {
    let short = found(|c| {
        c.members[1].blocks.pop();
    });
    assert_eq!(
        short,
        [Violation::Length {
            slot: 1,
            height: 2,
            expected: 3
        }]
    );
    let broken = found(|c| {
        c.members[1].blocks.remove(1);
    });
    assert_eq!(broken, [Violation::Broken { slot: 1, height: 3 }]);
}

#[test]
fn a_damaged_member_may_withhold_but_not_alter() {
    let withheld = found(|c| {
        c.members[1].partial = true;
        c.members[1].blocks.remove(1);
        c.members[1].balances.clear();
        c.members[1].nonces.clear();
    });
    assert_eq!(withheld, []);
    let altered = found(|c| {
        c.members[1].partial = true;
        c.members[1].blocks[1].state_root = hash(9);
        c.members[1].balances.insert(teller(), U256::from(1));
    });
    assert_eq!(altered.len(), 2, "{altered:?}");
}

#[test]
fn older_blocks_may_be_missing_but_not_on_all_members() {
    assert_eq!(found(|c| drop(c.members[1].blocks.remove(0))), []);
    let nowhere = found(|c| both(c, |m| drop(m.blocks.remove(0))));
    assert_eq!(nowhere, [Violation::NoWholeChain]);
}

#[test]
fn an_acknowledged_transaction_that_is_not_in_the_chain_is_lost() {
    let lost = found(|c| both(c, |m| m.blocks[2].transactions.clear()));
    assert!(
        lost.iter().any(|v| matches!(v, Violation::Lost(_))),
        "{lost:?}"
    );
}

#[test]
fn a_transaction_in_two_blocks_is_found() {
    let twice = found(|c| {
        let hash = c.members[0].blocks[0].transactions[0];
        both(c, |m| m.blocks[2].transactions.push(hash));
    });
    assert!(
        twice.iter().any(|v| matches!(v, Violation::Twice(_))),
        "{twice:?}"
    );
}

#[test]
fn a_transaction_that_nobody_sent_is_found() {
    let unknown = found(|c| both(c, |m| m.blocks[1].transactions.push(hash(77))));
    assert_eq!(unknown, [Violation::Unknown(hash(77))]);
}

#[test]
fn an_acknowledgement_of_another_block_is_found() {
    let elsewhere = |change: fn(&mut Seen)| {
        found(|c| {
            let told = c.history.submissions[1].acknowledged.as_mut().unwrap();
            change(&mut told.block);
        })
    };
    for found in [
        elsewhere(|block| block.height = 1),
        elsewhere(|block| block.hash = hash(9)),
    ] {
        assert!(
            matches!(found.as_slice(), [Violation::Elsewhere(_)]),
            "{found:?}"
        );
    }
}

#[test]
fn a_transaction_without_an_answer_is_found() {
    let found = found(|c| c.history.submissions[3].acknowledged = None);
    assert!(
        matches!(found.as_slice(), [Violation::Unanswered(_)]),
        "{found:?}"
    );
}

#[test]
fn nonces_out_of_order_are_found() {
    // The two transactions of one account change places.
    let swapped = found(|c| {
        let (first, second) = (
            c.members[0].blocks[0].transactions[0],
            c.members[0].blocks[1].transactions[0],
        );
        both(c, |m| {
            m.blocks[0].transactions[0] = second;
            m.blocks[1].transactions[0] = first;
        });
    });
    assert!(
        swapped
            .iter()
            .any(|v| matches!(v, Violation::NonceOrder { nonce: 1, .. })),
        "{swapped:?}"
    );
}

#[test]
fn a_transaction_before_one_that_was_acknowledged_before_it_was_sent_is_found() {
    let found = found(|c| {
        // Sent when the one in the block behind it had long been acknowledged.
        c.history.submissions[3].at = 5;
        c.history.submissions[3].acknowledged.as_mut().unwrap().at = 9;
    });
    assert_eq!(found.len(), 3, "{found:?}");
    assert!(
        found
            .iter()
            .all(|v| matches!(v, Violation::RealTime { .. })),
        "{found:?}"
    );
}

#[test]
fn transactions_that_overlap_in_time_may_stand_in_any_order() {
    let found = found(|c| {
        for submission in &mut c.history.submissions {
            submission.at = 1;
        }
    });
    assert_eq!(found, []);
}

#[test]
fn a_wrong_balance_or_nonce_is_found_on_the_member_that_has_it() {
    let carol = teller();
    let richer = found(|c| {
        c.members[1].balances.insert(carol, U256::from(33));
    });
    let balance = Violation::Balance {
        slot: 1,
        account: carol,
    };
    assert_eq!(richer, [Violation::Sum { slot: 1 }, balance]);
    let alice = Account::of(1).unwrap().address;
    let earlier = found(|c| {
        c.members[1].nonces.insert(alice, 1);
    });
    assert_eq!(
        earlier,
        [Violation::Balance {
            slot: 1,
            account: alice
        }]
    );
}

#[test]
fn a_block_that_was_shown_and_is_gone_is_found() {
    let by_observer = found(|c| c.history.reports[2].head.hash = hash(9));
    let by_subscriber = found(|c| c.history.subscriptions[0][1].hash = hash(9));
    let above = found(|c| c.history.reports[4].head.height = 4);
    for found in [by_observer, by_subscriber, above] {
        assert!(
            matches!(found.as_slice(), [Violation::Phantom { .. }]),
            "{found:?}"
        );
    }
}

#[test]
fn a_head_or_commit_index_that_goes_back_in_one_life_is_found() {
    let head = found(|c| {
        c.history.reports[4].head = Seen {
            height: 0,
            hash: hash(0),
        }
    });
    assert!(
        matches!(
            head.as_slice(),
            [Violation::WentBack {
                what: "head",
                from: 1,
                to: 0,
                ..
            }]
        ),
        "{head:?}"
    );
    let commit = |c: &mut Case| c.history.reports[2].committed = Some(3);
    let found_commit = found(commit);
    assert!(
        matches!(
            found_commit.as_slice(),
            [Violation::WentBack {
                what: "commit index",
                from: 5,
                to: 3,
                ..
            }]
        ),
        "{found_commit:?}"
    );
    // It was opened again in between, once.
    let excused = found(|c| {
        commit(c);
        c.history.reopened.insert(0, 1);
    });
    assert_eq!(excused, []);
}

#[test]
fn a_gap_or_a_wrong_order_in_a_subscription_is_found() {
    let gap = found(|c| {
        c.history.subscriptions[0].remove(1);
    });
    assert_eq!(
        gap,
        [Violation::Gap {
            subscriber: 0,
            due: 2,
            came: Some(3)
        }]
    );
    let end = found(|c| {
        c.history.subscriptions[0].pop();
    });
    assert_eq!(
        end,
        [Violation::Gap {
            subscriber: 0,
            due: 3,
            came: None
        }]
    );
    let swapped = found(|c| c.history.subscriptions[0].swap(1, 2));
    assert!(swapped.len() >= 2, "{swapped:?}");
}

#[test]
fn a_log_that_is_missing_repeated_out_of_order_or_of_another_block_is_found() {
    let log_gap = |v: &Violation| matches!(v, Violation::LogGap { subscriber: 0, .. });
    let changes: [fn(&mut LogStory); 8] = [
        |story| story.all.truncate(2),
        |story| {
            story.all.remove(1);
        },
        |story| story.all.swap(0, 1),
        |story| story.all.insert(1, story.all[0]),
        |story| story.all[1].block.hash = hash(77),
        |story| story.connections[0].swap(0, 1),
        |story| {
            // Within one subscription nothing excuses a gap.
            let all = story.all.clone();
            story.connections[1] = vec![all[0], all[2]];
        },
        |story| {
            let last = story.all[2];
            story.connections[2].push(last);
        },
    ];
    for (n, change) in changes.into_iter().enumerate() {
        let found = found(|c| change(&mut c.history.logs[0]));
        assert!(
            matches!(found.as_slice(), [one] if log_gap(one)),
            "{n}: {found:?}"
        );
    }
}

#[test]
fn complaints_are_violations() {
    let found = found(|c| c.history.complaints.push("seen".into()));
    assert_eq!(found, [Violation::Complaint("seen".into())]);
}
