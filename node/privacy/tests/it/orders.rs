//! Payloads arrive in any order, and every party ends with the same roots.

use proptest::prelude::*;
use quorate_enclave::PayloadHash;
use quorate_privacy::Lookup;

use crate::script::{Dice, chain_of};
use crate::world::*;

const BLOCKS: u64 = 14;

/// Everything is missing at first; payloads come in an order by seed, some of them before their block is there.
async fn arrive_in_any_order(chain_seed: u64, order_seed: u64) {
    let net = chain_of(chain_seed, BLOCKS);
    let reference = net.parties[0].afresh();
    reference.catch_up(&net.chain).await;

    let late = Party::new(2);
    let mut arrivals: Vec<(PayloadHash, Lookup)> = reference
        .ledger
        .records(0, BLOCKS, usize::MAX)
        .unwrap()
        .iter()
        .map(|record| {
            let there = net.parties[1].payloads.get(&record.hash).unwrap();
            let reason = "on its way".to_owned();
            late.payloads.set(record.hash, Lookup::Unknown { reason });
            (record.hash, there)
        })
        .collect();
    let mut dice = Dice::new(order_seed);
    for i in (1..arrivals.len()).rev() {
        arrivals.swap(i, dice.below(i as u64 + 1) as usize);
    }
    let running = late.start(&net.chain);
    for (hash, payload) in arrivals {
        late.payloads.set(hash, payload);
        late.ledger.retry_now();
        if dice.below(3) == 0 {
            tokio::task::yield_now().await;
        }
    }
    late.arrive(BLOCKS).await;
    running.stop().await.unwrap();
    let roots = |party: &Party| -> Vec<_> {
        (0..=BLOCKS)
            .map(|height| party.ledger.root_at(height).unwrap())
            .collect()
    };
    assert_eq!(roots(&late), roots(&reference));
    let digests = |party: &Party| -> Vec<_> {
        let records = party.ledger.records(0, BLOCKS, usize::MAX).unwrap();
        records
            .into_iter()
            .map(|record| (record.transaction, record.digest))
            .collect()
    };
    assert_eq!(digests(&late), digests(&reference));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn two_parties_agree_whatever_order_their_payloads_come_in(chain in 0u64..1_000, order: u64) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(arrive_in_any_order(chain, order));
    }
}
