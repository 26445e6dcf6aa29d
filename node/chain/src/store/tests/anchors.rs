//! Beginning at a block whose predecessors are not here.

use super::*;
use crate::{Anchor, AnchorError};

fn anchor(height: u64) -> (TempDir, BlockStore, Anchor) {
    let dir = TempDir::new().unwrap();
    let store = open(&dir, &Arc::new(MemoryKv::new())).unwrap();
    fill(&store, 350);
    let anchor = store.anchor(height).unwrap().unwrap();
    (dir, store, anchor)
}

fn begin(dir: &TempDir, kv: &Arc<MemoryKv>, anchor: Anchor) -> Result<BlockStore, StoreError> {
    let kv = Arc::clone(kv) as Arc<dyn Kv>;
    BlockStore::open_from_anchor(dir.path(), kv, genesis(), anchor)
}

#[test]
fn a_store_begins_at_an_anchor_goes_on_from_there_and_can_give_the_next_anchor() {
    for height in [1, 2, 255, 256, 257, 300] {
        let (_source_dir, source, anchor) = anchor(height);
        let anchor = Anchor::decode(&anchor.encode()).unwrap();
        anchor.check().unwrap();
        let (dir, kv) = (TempDir::new().unwrap(), Arc::new(MemoryKv::new()));
        let store = begin(&dir, &kv, anchor.clone()).unwrap();
        let check = |store: &BlockStore, head: u64| {
            assert_eq!((store.base(), store.head().height()), (height, head));
            for h in height.saturating_sub(256)..=head {
                assert_eq!(store.hash_at(h).unwrap(), source.hash_at(h).unwrap());
            }
            if height > 1 {
                let below = store.block(height - 1);
                assert!(matches!(below, Err(StoreError::Pruned { below }) if below == height));
            }
        };
        check(&store, height);
        for h in height + 1..=340 {
            store.append(source.block(h).unwrap().unwrap()).unwrap();
        }
        check(&store, 340);
        assert_eq!(
            store.anchor(320).unwrap(),
            source.anchor(320).unwrap(),
            "from a store that began at {height}"
        );
        store.barrier().unwrap();
        drop(store);
        check(&open(&dir, &kv).unwrap(), 340);
        check(&open(&dir, &Arc::new(MemoryKv::new())).unwrap(), 340);
        let again = begin(&dir, &Arc::new(MemoryKv::new()), anchor.clone());
        assert!(matches!(again, Err(StoreError::NotEmpty { .. })));
        let empty = TempDir::new().unwrap();
        let again = begin(&empty, &kv, anchor);
        assert!(matches!(again, Err(StoreError::NotEmpty { .. })));
    }
}

#[test]
fn an_anchor_that_contradicts_its_hash_is_refused() {
    let (_dir, store, good) = anchor(300);
    let check = |change: &dyn Fn(&mut Anchor), expected: fn(&AnchorError) -> bool| {
        let mut anchor = good.clone();
        change(&mut anchor);
        let error = anchor.check().unwrap_err();
        assert!(expected(&error), "{error:?}");
        let dir = TempDir::new().unwrap();
        let refused = begin(&dir, &Arc::new(MemoryKv::new()), anchor);
        assert!(matches!(refused, Err(StoreError::Anchor(_))));
    };
    let chain = |e: &AnchorError| matches!(e, AnchorError::Chain { .. });
    let content = |e: &AnchorError| matches!(e, AnchorError::Content { .. });
    let transaction = |e: &AnchorError| matches!(e, AnchorError::Transaction { .. });
    check(&|a| a.ancestors[17].timestamp += 1, chain);
    check(&|a| a.ancestors.swap(3, 4), chain);
    check(&|a| drop(a.ancestors.pop()), |e| {
        matches!(
            e,
            AnchorError::Ancestors {
                got: 255,
                expected: 256
            }
        )
    });
    check(&|a| a.block.receipts[0].success = false, content);
    check(&|a| a.block.receipts[0].gas_used = 5, transaction);
    check(
        &|a| a.block.receipts[0].contract_address = Some(alloy_primitives::Address::ZERO),
        transaction,
    );
    check(&|a| a.block.senders[0].0[3] ^= 1, transaction);
    check(&|a| a.block.receipts.clear(), content);
    let other = store.block(299).unwrap().unwrap();
    check(&|a| a.block.block = other.block.clone(), |e| {
        matches!(e, AnchorError::Chain { .. })
    });
    let stranger = Sealer::new(SecretKey::from_byte_array([9; 32]).unwrap());
    let resealed = |anchor: &mut Anchor| {
        let header = anchor.block.block.header().clone();
        let template = BlockTemplate {
            parent_hash: header.parent_hash,
            height: header.number,
            timestamp: header.timestamp,
            coinbase: header.beneficiary,
            gas_limit: header.gas_limit,
        };
        let executed = ExecutedRoots {
            state_root: header.state_root,
            gas_used: header.gas_used,
        };
        let transactions = anchor.block.recovered().collect();
        let receipts = &anchor.block.receipts;
        let draft = DraftBlock::new(&template, &spec(), transactions, receipts, executed);
        anchor.block.block = draft.seal(&stranger, 3);
    };
    check(&resealed, |e| matches!(e, AnchorError::Seal { .. }));

    let bytes = good.encode();
    assert!(Anchor::decode(&bytes[..bytes.len() - 1]).is_err());
    assert!(Anchor::decode(&[&bytes[..], &[0]].concat()).is_err());
    assert!(Anchor::decode(&[]).is_err());
}

#[test]
fn an_anchor_that_reaches_down_to_another_genesis_is_refused() {
    let (_dir, _store, anchor) = anchor(20);
    let other = SealedBlock::genesis(Header {
        gas_limit: 31_000_000,
        ..Header::default()
    });
    let dir = TempDir::new().unwrap();
    let kv = Arc::new(MemoryKv::new()) as Arc<dyn Kv>;
    let result = BlockStore::open_from_anchor(dir.path(), kv, other, anchor);
    assert!(matches!(result, Err(StoreError::OtherGenesis { .. })));
}
