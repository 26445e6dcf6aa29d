//! Store, outbox and groups together on a real disk, in one key-value store.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use quorate_enclave::{
    AckPolicy, AckProgress, Enclave as _, ErasureReason, ListQuery, NewGroup, NodeKey, Outbox,
    OutboxConfig, PayloadStore, PrivacyGroups, PublicKey, Put, StoreConfig, Stored, Suite,
};
use quorate_kv::{Kv, SledConfig, SledKv};
use tempfile::TempDir;

use crate::parties::{announcement, local, open, request};

fn open_all(dir: &Path) -> (PayloadStore, Outbox, PrivacyGroups) {
    let kv = SledKv::open(&dir.join("kv"), &SledConfig::default()).unwrap();
    let kv: Arc<dyn Kv> = Arc::new(kv);
    let store = PayloadStore::open(&dir.join("payloads"), kv.clone(), &StoreConfig::default());
    let outbox = Outbox::open(kv.clone(), OutboxConfig::default());
    (
        store.unwrap(),
        outbox.unwrap(),
        PrivacyGroups::open(kv, 10).unwrap(),
    )
}

#[tokio::test]
async fn a_node_finds_its_payloads_deliveries_and_groups_again_after_a_restart() {
    let dir = TempDir::new().unwrap();
    let (sender, reader) = (local(), local());
    let to = announcement(&reader).await;
    let nodes: BTreeSet<NodeKey> = [NodeKey::from([2; 33]), NodeKey::from([3; 33])].into();
    // The largest set of parties and the longest texts: every entry must fit.
    let members: BTreeSet<PublicKey> = (1..=255u8)
        .map(|n| PublicKey::from_bytes([n; 32]))
        .collect();
    let mut recipients: Vec<_> = members.iter().take(254).map(|key| (*key).into()).collect();
    recipients.push(to.clone());
    let sealed = sender
        .seal(request(Suite::Nacl, &recipients, b"payload"))
        .await
        .unwrap();
    let gone = sender
        .seal(request(Suite::Hybrid, &[to], b"gone"))
        .await
        .unwrap();
    let group = {
        let (store, outbox, groups) = open_all(dir.path());
        assert_eq!(store.put(&sealed.envelope, 1, None), Ok(Put::Stored));
        assert_eq!(store.put(&gone.envelope, 2, None), Ok(Put::Stored));
        let note = "n".repeat(quorate_enclave::NOTE_BYTES_MAX);
        store
            .erase(&gone.hash, ErasureReason::Requested, &note, 3)
            .unwrap();
        outbox
            .enqueue(&sealed.hash, &nodes, &AckPolicy::KOfN(1), 1)
            .unwrap();
        outbox
            .acknowledged(&sealed.hash, &NodeKey::from([2; 33]), 2)
            .unwrap();
        let new = NewGroup {
            name: "n".repeat(64),
            description: "d".repeat(1024),
            members,
            payloads_live_ms: None,
        };
        groups.create(new, 1).unwrap()
    };
    let (store, outbox, groups) = open_all(dir.path());
    let Some(Stored::Held { envelope, .. }) = store.get(&sealed.hash).unwrap() else {
        panic!("the payload is gone");
    };
    assert_eq!(*envelope, sealed.envelope);
    assert_eq!(*open(&reader, &envelope).await.payload, b"payload");
    assert!(matches!(store.get(&gone.hash), Ok(Some(Stored::Erased(_)))));
    let query = ListQuery {
        party: Some(announcement(&reader).await.key),
        limit: 10,
        ..ListQuery::default()
    };
    assert_eq!(store.list(&query).unwrap().len(), 1);
    assert_eq!(
        outbox.progress(&sealed.hash),
        Ok(Some(AckProgress::Satisfied))
    );
    assert_eq!(outbox.status().unwrap().pending, 1);
    assert_eq!(groups.resolve(&group.name), Ok(group));
}
