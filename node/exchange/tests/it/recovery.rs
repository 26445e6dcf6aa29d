//! Disks that were lost, stores that are not complete, keys that were replaced.

use std::collections::BTreeMap;

use quorate_chain::{PrivateReference, PublicForm};
use quorate_enclave::{NewGroup, PrivacyFlag, PrivacyGroup, Suite};
use quorate_exchange::{Distribution, Reception};
use quorate_privacy::Lookup;

use crate::network::{Network, content, is_unknown, party, reference, unknown_hash, wait_until};

#[tokio::test]
async fn a_member_that_lost_its_disk_gets_back_what_it_may_read_and_what_it_sent() {
    for suite in Suite::ALL {
        let mut network = Network::with_suite(suite);
        let mut sent = Vec::new();
        // To it, from it to one and to two others, between others, and from it to itself alone.
        for (from, to) in [(1, vec![2]), (2, vec![1]), (2, vec![1, 3]), (3, vec![4])] {
            let how = Distribution::to(to.iter().map(|n| network.key(*n)));
            let text = format!("{from} to {to:?}");
            let done = network
                .at(from)
                .distribute(content(&text), how)
                .await
                .unwrap();
            sent.push((from, to, text, done));
        }
        let mut validated = Distribution::to([network.key(1), network.key(2)]);
        validated.flag = PrivacyFlag::StateValidation;
        validated.exec_root = Some(Default::default());
        let done = network
            .at(3)
            .distribute(content("validated"), validated)
            .await
            .unwrap();
        sent.push((3, vec![1, 2], "validated".to_owned(), done));

        network.lose_disk(2).await;
        assert!(!network.at(2).is_complete());
        for (_, _, _, done) in &sent {
            let lookup = network.lookup(2, &reference(done)).await;
            assert!(is_unknown(&lookup), "{lookup:?}");
        }
        // One of the others is away: what the rest has comes, and the store is not complete yet.
        network.set_offline(3, true);
        let report = network.at(2).resync().await.unwrap();
        assert!(!report.complete);
        assert!(!network.at(2).is_complete());
        network.set_offline(3, false);
        let report = network.at(2).resync().await.unwrap();
        assert!(report.complete && network.at(2).is_complete(), "{report:?}");
        for (from, to, text, done) in &sent {
            let lookup = network.lookup(2, &reference(done)).await;
            if *from == 2 || to.contains(&2) {
                let payload = party(lookup);
                assert_eq!(payload.content, content(text));
                assert_eq!(payload.we_sent, *from == 2);
            } else {
                assert_eq!(lookup, Lookup::NotAParty);
            }
        }
        // It knows again to whom it sent.
        let Reception::Received(received) = network.at(2).receive(sent[2].3.hash).await.unwrap()
        else {
            panic!("not received");
        };
        assert_eq!(received.parties, sent[2].3.parties);
        // Once more, there is nothing to fetch; and power loss changes nothing.
        let report = network.at(2).resync().await.unwrap();
        assert!(
            report
                .members
                .iter()
                .all(|m| m.fetched == 0 && m.failed == 0)
        );
        network.crash(2).await;
        assert!(network.at(2).is_complete());
        party(network.lookup(2, &reference(&sent[0].3)).await);
    }
}

#[tokio::test]
async fn a_member_that_lost_its_disk_learns_its_groups_again_and_keeps_those_it_deleted_deleted() {
    let mut network = Network::of_four();
    let new = |name: String, of: &[u64]| NewGroup {
        name,
        description: "of some of us".to_owned(),
        members: of.iter().map(|n| network.key(*n)).collect(),
        payloads_live_ms: Some(60_000),
    };
    // More than one page of them.
    for n in 0..70 {
        let new = new(format!("loans-{n}"), &[1, 2]);
        network.at(1).create_group(new).await.unwrap();
    }
    let foreign = new("foreign".to_owned(), &[1, 3]);
    network.at(1).create_group(foreign).await.unwrap();
    let groups = |network: &Network| network.at(2).groups(None, 100).unwrap();
    let all = groups(&network);
    let summary = |groups: &[PrivacyGroup]| -> Vec<_> {
        let parts = groups
            .iter()
            .map(|g| (g.id, g.description.clone(), g.payloads_live_ms));
        parts.collect()
    };
    assert_eq!(all.len(), 70);
    network.lose_disk(2).await;
    assert_eq!(groups(&network), []);
    assert!(network.at(2).resync().await.unwrap().complete);
    assert_eq!(summary(&groups(&network)), summary(&all));
    // A resync by hand later on brings nothing back that was deleted here.
    network.at(2).delete_group(all[0].id).await.unwrap();
    assert!(network.at(2).resync().await.unwrap().complete);
    assert_eq!(summary(&groups(&network)), summary(&all[1..]));
}

#[tokio::test]
async fn a_third_party_hands_out_a_validated_payload_when_its_sender_is_gone() {
    let mut network = Network::of_four();
    let mut how = Distribution::to([network.key(2), network.key(3)]);
    how.flag = PrivacyFlag::StateValidation;
    how.exec_root = Some(Default::default());
    let sent = network.at(1).distribute(content("a"), how).await.unwrap();
    network.lose_disk(2).await;
    network.set_offline(1, true);
    let report = network.at(2).resync().await.unwrap();
    let by_member: BTreeMap<_, _> = report.members.iter().map(|m| (m.raft_id, m)).collect();
    assert_eq!(by_member[&3].fetched, 1, "{report:?}");
    let payload = party(network.lookup(2, &reference(&sent)).await);
    assert_eq!(payload.terms.parties.len(), 3);
}

#[tokio::test]
async fn a_store_that_is_not_complete_completes_itself_when_everyone_is_there() {
    let mut network = Network::of_four();
    let how = Distribution::to([network.key(2)]);
    let sent = network.at(1).distribute(content("a"), how).await.unwrap();
    network.config.resync_by_itself = true;
    network.lose_disk(2).await;
    let bare = PrivateReference {
        form: PublicForm::Quorum,
        hash: *unknown_hash().as_bytes(),
        tags: Vec::new(),
    };
    assert!(is_unknown(&network.lookup(2, &bare).await));
    network.run(2);
    wait_until("the store is complete", async || {
        network.at(2).is_complete()
    })
    .await;
    assert_eq!(network.lookup(2, &bare).await, Lookup::NotAParty);
    party(network.lookup(2, &reference(&sent)).await);
    network.stop(2).await;
}

#[tokio::test]
async fn what_was_sent_under_a_key_that_is_replaced_is_still_recognised() {
    let network = Network::of_four();
    network.set_offline(2, true);
    let mut how = Distribution::to([network.key(2), network.key(3)]);
    how.acknowledgements = quorate_exchange::Acknowledgements::KOfN(1);
    let sent = network.at(1).distribute(content("a"), how).await.unwrap();
    network.set_offline(2, false);
    // Member 2 sees the table with the old key once, and then without.
    network.at(2).member_keys();
    let old = network.key(1);
    for n in 1..=4 {
        network.change_table(n, |table| {
            table[0].keys.retain(|k| k.key != old);
        });
    }
    let lookup = network.lookup(2, &reference(&sent)).await;
    assert!(is_unknown(&lookup), "{lookup:?}");
    let fetched = network.at(2).resync().await.unwrap();
    assert!(fetched.complete, "{fetched:?}");
    party(network.lookup(2, &reference(&sent)).await);
}

#[tokio::test]
async fn a_new_member_calls_nothing_foreign_before_it_heard_of_former_keys() {
    let mut network = Network::of_four();
    let how = Distribution::to([network.key(2)]);
    let sent = network.at(1).distribute(content("a"), how).await.unwrap();
    network.lose_disk(4).await;
    let lookup = network.lookup(4, &reference(&sent)).await;
    assert!(is_unknown(&lookup), "{lookup:?}");
    network.run(4);
    wait_until("it heard of them", async || {
        network.lookup(4, &reference(&sent)).await == Lookup::NotAParty
    })
    .await;
    assert!(!network.at(4).is_complete());
    network.stop(4).await;
}

#[tokio::test]
async fn another_networks_folder_is_refused() {
    let network = Network::of_four();
    let mut identity = network.identity(1);
    identity.chain_id = 11;
    let node = network.node(1);
    let folder = tempfile::TempDir::new().unwrap();
    let opened = quorate_exchange::Exchange::open_with(
        std::sync::Arc::clone(&node.kv) as std::sync::Arc<dyn quorate_kv::Kv>,
        folder.path(),
        network.config.clone(),
        std::sync::Arc::clone(&node.enclave) as std::sync::Arc<dyn quorate_enclave::Enclave>,
        std::sync::Arc::new(Nobody),
        identity,
        false,
    );
    assert!(matches!(
        opened,
        Err(quorate_exchange::ExchangeOpenError::OtherNetwork { field: "chain id" })
    ));
}

#[derive(Debug)]
struct Nobody;

impl quorate_exchange::Peers for Nobody {
    fn members(&self) -> std::sync::Arc<Vec<quorate_exchange::MemberKeys>> {
        Default::default()
    }
    fn ask(
        &self,
        raft_id: u64,
        _: bytes::Bytes,
        _: std::time::Duration,
    ) -> futures::future::BoxFuture<'_, Result<bytes::Bytes, quorate_exchange::PeerError>> {
        Box::pin(async move { Err(quorate_exchange::PeerError::NotAMember { raft_id }) })
    }
    fn sign(&self, _: alloy_primitives::B256) -> Result<[u8; 65], String> {
        Err("no key".to_owned())
    }
}

#[tokio::test]
async fn on_a_real_disk_an_exchange_opens_again_with_what_it_had() {
    let network = Network::of_four();
    let node = network.node(1);
    let folder = tempfile::TempDir::new().unwrap();
    let open = |empty: bool| {
        quorate_exchange::Exchange::open(
            folder.path(),
            network.config.clone(),
            std::sync::Arc::clone(&node.enclave) as std::sync::Arc<dyn quorate_enclave::Enclave>,
            std::sync::Arc::new(OnlyUs(node.secret)),
            network.identity(1),
            empty,
        )
    };
    let exchange = open(true).unwrap();
    assert!(exchange.is_complete());
    let sent = exchange
        .distribute(content("alone"), Distribution::to([]))
        .await
        .unwrap();
    exchange.mark_incomplete().await.unwrap();
    drop(exchange);
    // What it was still writing down keeps the folder for a moment.
    let exchange = loop {
        match open(true) {
            Ok(exchange) => break exchange,
            Err(_) => tokio::time::sleep(std::time::Duration::from_millis(10)).await,
        }
    };
    assert!(!exchange.is_complete());
    assert!(matches!(
        exchange.receive(sent.hash).await.unwrap(),
        Reception::Received(_)
    ));
    // Alone, there is nobody to lack anything from.
    assert!(exchange.resync().await.unwrap().complete);
    assert!(exchange.is_complete());
}

#[derive(Debug)]
struct OnlyUs(secp256k1::SecretKey);

impl quorate_exchange::Peers for OnlyUs {
    fn members(&self) -> std::sync::Arc<Vec<quorate_exchange::MemberKeys>> {
        Default::default()
    }
    fn ask(
        &self,
        raft_id: u64,
        _: bytes::Bytes,
        _: std::time::Duration,
    ) -> futures::future::BoxFuture<'_, Result<bytes::Bytes, quorate_exchange::PeerError>> {
        Box::pin(async move { Err(quorate_exchange::PeerError::NotAMember { raft_id }) })
    }
    fn sign(&self, digest: alloy_primitives::B256) -> Result<[u8; 65], String> {
        Ok(crate::network::sign(&self.0, digest))
    }
}
