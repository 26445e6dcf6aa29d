use quorate_kv::MemoryKv;

use super::*;

fn node(n: u8) -> NodeKey {
    NodeKey::from([n; 33])
}

fn nodes(of: &[u8]) -> BTreeSet<NodeKey> {
    of.iter().map(|n| node(*n)).collect()
}

fn hash(n: u8) -> PayloadHash {
    PayloadHash::from_bytes([n; 64])
}

fn outbox() -> (Arc<MemoryKv>, Outbox) {
    let kv = Arc::new(MemoryKv::new());
    let outbox = Outbox::open(kv.clone(), OutboxConfig::default()).unwrap();
    (kv, outbox)
}

fn names(deliveries: &[Delivery]) -> Vec<(PayloadHash, NodeKey)> {
    deliveries.iter().map(|d| (d.hash, d.node)).collect()
}

#[test]
fn a_delivery_is_due_at_once_and_again_after_its_lease_until_it_is_acknowledged() {
    let (_, outbox) = outbox();
    outbox
        .enqueue(&hash(1), &nodes(&[2, 3]), &AckPolicy::All, 100)
        .unwrap();
    assert_eq!(outbox.take_due(99, 10).unwrap(), []);
    let taken = outbox.take_due(100, 10).unwrap();
    assert_eq!(names(&taken), [(hash(1), node(2)), (hash(1), node(3))]);
    assert_eq!(outbox.take_due(100, 10).unwrap(), []);
    outbox.acknowledged(&hash(1), &node(2), 150).unwrap();
    let again = outbox.take_due(100 + 30_000, 10).unwrap();
    assert_eq!(names(&again), [(hash(1), node(3))]);
    assert_eq!(again[0].attempts, 2);
    outbox.acknowledged(&hash(1), &node(3), 160).unwrap();
    outbox.acknowledged(&hash(1), &node(3), 170).unwrap();
    assert_eq!(outbox.take_due(u64::MAX, 10).unwrap(), []);
    let status = outbox.status().unwrap();
    assert_eq!((status.pending, status.next_at_ms), (0, None));
    assert_eq!(
        outbox.progress(&hash(1)).unwrap(),
        Some(AckProgress::Satisfied)
    );
    assert!(outbox.forget(&hash(1)).unwrap());
    assert_eq!(outbox.progress(&hash(1)).unwrap(), None);
    assert!(!outbox.forget(&hash(1)).unwrap());
}

#[test]
fn pauses_grow_up_to_the_limit_and_differ_between_deliveries() {
    let (_, outbox) = outbox();
    outbox
        .enqueue(&hash(1), &nodes(&[2, 3]), &AckPolicy::All, 0)
        .unwrap();
    let mut now = 0;
    let mut last = 0;
    let mut differ = false;
    for attempt in 1..=14u32 {
        outbox.wake(&node(2), now, 10).unwrap();
        outbox.wake(&node(3), now, 10).unwrap();
        let taken = outbox.take_due(now, 10).unwrap();
        assert_eq!(taken.len(), 2);
        for delivery in &taken {
            assert_eq!(delivery.attempts, attempt);
            outbox
                .failed(&hash(1), &delivery.node, "no answer", now)
                .unwrap();
        }
        let pauses: Vec<u64> = outbox
            .deliveries(&hash(1))
            .unwrap()
            .iter()
            .map(|d| d.next_at_ms - now)
            .collect();
        let full = (1000u64 << (attempt - 1)).min(300_000);
        for pause in &pauses {
            assert!(
                (full - full / 4..=full).contains(pause),
                "{attempt}: {pause}"
            );
        }
        differ |= pauses[0] != pauses[1];
        assert!(pauses[0] > last / 2);
        last = pauses[0];
        now += 1_000_000;
    }
    assert!(differ);
}

#[test]
fn a_node_that_is_back_gets_what_waits_for_it_now() {
    let (_, outbox) = outbox();
    for n in 1..=3 {
        outbox
            .enqueue(&hash(n), &nodes(&[7, 8]), &AckPolicy::All, 0)
            .unwrap();
    }
    for delivery in outbox.take_due(0, 10).unwrap() {
        outbox
            .failed(&delivery.hash, &delivery.node, "down", 0)
            .unwrap();
    }
    assert_eq!(outbox.take_due(1, 10).unwrap(), []);
    assert_eq!(outbox.wake(&node(7), 1, 10).unwrap(), 3);
    let due = outbox.take_due(1, 10).unwrap();
    assert_eq!(names(&due), [1, 2, 3].map(|n| (hash(n), node(7))));
    assert_eq!(due[0].reason, "down");
}

#[test]
fn each_policy_says_when_it_is_satisfied_waiting_or_lost() {
    use DeliveryState::{Acknowledged, Pending, Refused};
    let deliveries = |states: &[DeliveryState]| -> Vec<Delivery> {
        let each = states.iter().zip(1u8..).map(|(state, n)| Delivery {
            hash: hash(1),
            node: node(n),
            state: *state,
            named: false,
            attempts: 0,
            next_at_ms: 0,
            changed_at_ms: 0,
            reason: String::new(),
        });
        each.collect()
    };
    let waiting = |of: &[u8], lacking| AckProgress::Waiting {
        nodes: nodes(of).into_iter().collect(),
        lacking,
    };
    let impossible = |of: &[u8]| AckProgress::Impossible {
        refused: nodes(of).into_iter().collect(),
    };
    let check = |policy: &AckPolicy, states: &[DeliveryState], expected: AckProgress| {
        let deliveries = deliveries(states);
        assert_eq!(policy.progress(&deliveries), expected);
        let satisfied = expected == AckProgress::Satisfied;
        assert_eq!(policy.satisfied(&deliveries), satisfied);
    };
    check(&AckPolicy::All, &[], AckProgress::Satisfied);
    check(&AckPolicy::All, &[Acknowledged, Pending], waiting(&[2], 1));
    check(
        &AckPolicy::All,
        &[Acknowledged, Acknowledged],
        AckProgress::Satisfied,
    );
    check(
        &AckPolicy::All,
        &[Acknowledged, Refused, Pending],
        impossible(&[2]),
    );
    let named = AckPolicy::Named(nodes(&[1, 3]));
    check(&named, &[Acknowledged, Pending, Pending], waiting(&[3], 1));
    check(
        &named,
        &[Acknowledged, Refused, Acknowledged],
        AckProgress::Satisfied,
    );
    check(
        &named,
        &[Refused, Acknowledged, Acknowledged],
        impossible(&[1]),
    );
    let two = AckPolicy::KOfN(2);
    check(
        &two,
        &[Acknowledged, Refused, Pending, Pending],
        waiting(&[3, 4], 1),
    );
    check(
        &two,
        &[Acknowledged, Refused, Acknowledged],
        AckProgress::Satisfied,
    );
    check(&two, &[Acknowledged, Refused, Refused], impossible(&[2, 3]));
    check(&AckPolicy::KOfN(0), &[Pending], AckProgress::Satisfied);
}

#[test]
fn a_policy_is_remembered_with_the_payload_and_checked_when_it_is_entered() {
    let (kv, outbox) = outbox();
    outbox
        .enqueue(&hash(1), &nodes(&[2, 3]), &AckPolicy::Named(nodes(&[3])), 0)
        .unwrap();
    outbox
        .enqueue(&hash(2), &nodes(&[2, 3]), &AckPolicy::KOfN(1), 0)
        .unwrap();
    // Entering it again, even with another policy, changes nothing.
    outbox
        .enqueue(&hash(2), &nodes(&[2]), &AckPolicy::All, 9)
        .unwrap();
    assert_eq!(outbox.deliveries(&hash(2)).unwrap().len(), 2);
    kv.crash();
    let outbox = Outbox::open(kv, OutboxConfig::default()).unwrap();
    assert_eq!(outbox.status().unwrap().pending, 4);
    for n in [1, 2] {
        outbox.acknowledged(&hash(n), &node(3), 1).unwrap();
        assert_eq!(
            outbox.progress(&hash(n)).unwrap(),
            Some(AckProgress::Satisfied)
        );
    }
    // The rest goes on.
    assert_eq!(outbox.status().unwrap().pending, 2);

    let refused = outbox.enqueue(&hash(3), &nodes(&[2]), &AckPolicy::Named(nodes(&[4])), 0);
    assert_eq!(refused, Err(OutboxError::NoRecipient { node: node(4) }));
    let refused = outbox.enqueue(&hash(3), &nodes(&[2]), &AckPolicy::KOfN(2), 0);
    assert!(matches!(
        refused,
        Err(OutboxError::OutOfRange { field: "k", .. })
    ));
}

#[test]
fn a_refusal_ends_the_attempts_and_an_acknowledgement_wins_over_it() {
    let (_, outbox) = outbox();
    outbox
        .enqueue(&hash(1), &nodes(&[2]), &AckPolicy::All, 0)
        .unwrap();
    let long = "é".repeat(300);
    outbox.refused(&hash(1), &node(2), &long, 5).unwrap();
    let delivery = outbox.deliveries(&hash(1)).unwrap().remove(0);
    assert_eq!(delivery.state, DeliveryState::Refused);
    assert_eq!(delivery.reason, "é".repeat(128));
    assert_eq!(outbox.take_due(u64::MAX, 10).unwrap(), []);
    outbox.failed(&hash(1), &node(2), "late", 6).unwrap();
    assert_eq!(outbox.status().unwrap().pending, 0);
    outbox.acknowledged(&hash(1), &node(2), 7).unwrap();
    outbox.refused(&hash(1), &node(2), "late", 8).unwrap();
    assert_eq!(
        outbox.progress(&hash(1)).unwrap(),
        Some(AckProgress::Satisfied)
    );
    let unknown = outbox.acknowledged(&hash(1), &node(3), 7);
    assert!(matches!(unknown, Err(OutboxError::Unknown { .. })));
}

#[test]
fn the_limit_refuses_what_would_exceed_it_and_frees_as_deliveries_end() {
    let config = OutboxConfig {
        pending_max: 3,
        ..OutboxConfig::default()
    };
    let outbox = Outbox::open(Arc::new(MemoryKv::new()), config).unwrap();
    outbox
        .enqueue(&hash(1), &nodes(&[2, 3]), &AckPolicy::All, 0)
        .unwrap();
    let full = outbox.enqueue(&hash(2), &nodes(&[2, 3]), &AckPolicy::All, 0);
    assert_eq!(full, Err(OutboxError::Full { pending: 2, max: 3 }));
    outbox.acknowledged(&hash(1), &node(2), 1).unwrap();
    outbox
        .enqueue(&hash(2), &nodes(&[2, 3]), &AckPolicy::All, 0)
        .unwrap();
    outbox.forget(&hash(2)).unwrap();
    outbox
        .enqueue(&hash(3), &nodes(&[2, 3]), &AckPolicy::All, 0)
        .unwrap();
}

#[test]
fn after_a_crash_at_any_write_every_delivery_is_either_done_or_due_again() {
    for seed in 0..40 {
        let kv = Arc::new(MemoryKv::new());
        let outbox = Outbox::open(kv.clone(), OutboxConfig::default()).unwrap();
        for n in 1..=4 {
            outbox
                .enqueue(&hash(n), &nodes(&[2, 3]), &AckPolicy::All, 0)
                .unwrap();
        }
        for delivery in outbox.take_due(0, 5).unwrap() {
            outbox
                .acknowledged(&delivery.hash, &delivery.node, 1)
                .unwrap();
        }
        outbox.failed(&hash(4), &node(2), "down", 1).unwrap();
        drop(outbox);
        kv.crash_by_seed(seed);
        let outbox = Outbox::open(kv, OutboxConfig::default()).unwrap();
        let mut pending = 0;
        for n in 1..=4 {
            let deliveries = outbox.deliveries(&hash(n)).unwrap();
            assert_eq!(deliveries.len(), 2);
            pending += deliveries
                .iter()
                .filter(|d| d.state == DeliveryState::Pending)
                .count();
        }
        assert_eq!(outbox.status().unwrap().pending, pending as u64);
        assert_eq!(outbox.take_due(u64::MAX, 100).unwrap().len(), pending);
    }
}

#[test]
fn outcomes_that_are_entered_later_keep_acknowledgements_and_leave_only_what_is_pending() {
    let (kv, outbox) = outbox();
    let outcome = |state| (state, String::new());
    let first = BTreeMap::from([
        (node(2), outcome(DeliveryState::Acknowledged)),
        (node(3), outcome(DeliveryState::Pending)),
        (node(4), (DeliveryState::Refused, "no".to_owned())),
    ]);
    outbox
        .enter(&hash(1), &first, &AckPolicy::KOfN(1), 100)
        .unwrap();
    // Durable without anyone else's barrier.
    kv.crash();
    let outbox = Outbox::open(kv, OutboxConfig::default()).unwrap();
    assert_eq!(outbox.status().unwrap().pending, 1);
    assert_eq!(
        outbox.progress(&hash(1)).unwrap(),
        Some(AckProgress::Satisfied)
    );
    let due = outbox.take_due(100, 10).unwrap();
    assert_eq!(names(&due), [(hash(1), node(3))]);

    let second = BTreeMap::from([
        (node(2), outcome(DeliveryState::Pending)),
        (node(3), outcome(DeliveryState::Acknowledged)),
        (node(5), outcome(DeliveryState::Pending)),
    ]);
    outbox
        .enter(&hash(1), &second, &AckPolicy::All, 200)
        .unwrap();
    let states: Vec<_> = outbox.deliveries(&hash(1)).unwrap();
    let states: Vec<_> = states.iter().map(|d| (d.node, d.state)).collect();
    assert_eq!(
        states,
        [
            (node(2), DeliveryState::Acknowledged),
            (node(3), DeliveryState::Acknowledged),
            (node(4), DeliveryState::Refused),
            (node(5), DeliveryState::Pending),
        ]
    );
    assert_eq!(outbox.status().unwrap().pending, 1);
    outbox.acknowledged(&hash(1), &node(5), 300).unwrap();
    assert_eq!(outbox.status().unwrap().pending, 0);
}
