use std::sync::Arc;

use alloy_primitives::{B256, address, b256, keccak256};
use quorate_kv::{Batch, Kv, MemoryKv};
use quorate_state::{
    FlushPolicy, GenesisAccount, OpenError, ReadError, StateConfig, StateRead, StateStore,
    genesis_state_root,
};

use crate::model::{GENESIS_HASH, genesis, genesis_model, open, tight};

#[test]
fn the_genesis_state_is_readable_and_durable_at_height_zero() {
    let kv = Arc::new(MemoryKv::new());
    let store = open(&kv, StateConfig::default());
    assert_eq!((store.latest().height(), store.durable_height()), (0, 0));
    genesis_model().assert_equals(&store.latest(), "at genesis");
    drop(store);
    kv.crash();
    let store = open(&kv, StateConfig::default());
    genesis_model().assert_equals(&store.latest(), "after a crash");
    assert_eq!(store.durable_root(), genesis_model().root());
}

#[test]
fn an_empty_genesis_has_the_root_of_an_empty_trie() {
    let kv: Arc<dyn Kv> = Arc::new(MemoryKv::new());
    let store = StateStore::open(Arc::clone(&kv), &[], GENESIS_HASH).unwrap();
    assert_eq!(store.latest().state_root(), alloy_trie::EMPTY_ROOT_HASH);
    assert_eq!(genesis_state_root([]), alloy_trie::EMPTY_ROOT_HASH);
    drop(store);
    StateStore::open(kv, &[], GENESIS_HASH).unwrap();
}

#[test]
fn the_root_of_a_well_known_allocation_is_as_published() {
    // Ethereum's Sepolia genesis has fifteen accounts; its state root is in block 0.
    let wei = |text: &str| GenesisAccount::default().with_balance(text.parse().unwrap());
    let rich = "0xd3c21bcecceda1000000";
    let accounts = [
        (
            address!("a2A6d93439144FFE4D27c9E088dCD8b783946263"),
            wei(rich),
        ),
        (
            address!("Bc11295936Aa79d594139de1B2e12629414F3BDB"),
            wei(rich),
        ),
        (
            address!("7cF5b79bfe291A67AB02b393E456cCc4c266F753"),
            wei(rich),
        ),
        (
            address!("aaec86394441f915bce3e6ab399977e9906f3b69"),
            wei(rich),
        ),
        (
            address!("F47CaE1CF79ca6758Bfc787dbD21E6bdBe7112B8"),
            wei(rich),
        ),
        (
            address!("d7eDDB78ED295B3C9629240E8924fb8D8874ddD8"),
            wei(rich),
        ),
        (
            address!("8b7F0977Bb4f0fBE7076FA22bC24acA043583F5e"),
            wei(rich),
        ),
        (
            address!("e2e2659028143784d557bcec6ff3a0721048880a"),
            wei(rich),
        ),
        (
            address!("d9a5179f091d85051d3c982785efd1455cec8699"),
            wei(rich),
        ),
        (
            address!("beef32ca5b9a198d27B4e02F4c70439fE60356Cf"),
            wei(rich),
        ),
        (
            address!("0000006916a87b82333f4245046623b23794c65c"),
            wei("0x84595161401484a000000"),
        ),
        (
            address!("b21c33de1fab3fa15499c62b59fe0cc3250020d1"),
            wei("0x52b7d2dcc80cd2e4000000"),
        ),
        (
            address!("10F5d45854e038071485AC9e402308cF80D2d2fE"),
            wei("0x52b7d2dcc80cd2e4000000"),
        ),
        (
            address!("d7d76c58b3a519e9fA6Cc4D22dC017259BC49F1E"),
            wei("0x52b7d2dcc80cd2e4000000"),
        ),
        (
            address!("799D329e5f583419167cD722962485926E338F4a"),
            wei("0xde0b6b3a7640000"),
        ),
    ];
    let root = b256!("5eb6e371a698b8d68f665192350ffcecbbbf322916f4b51bd79bb6887da3f494");
    assert_eq!(
        genesis_state_root(accounts.iter().map(|(address, account)| (address, account))),
        root
    );
    let kv: Arc<dyn Kv> = Arc::new(MemoryKv::new());
    let store = StateStore::open(kv, &accounts, GENESIS_HASH).unwrap();
    assert_eq!(store.latest().state_root(), root);
}

#[test]
fn the_state_of_another_chain_is_refused() {
    let kv = Arc::new(MemoryKv::new());
    drop(open(&kv, StateConfig::default()));
    let other = B256::repeat_byte(1);
    let error = StateStore::open(kv, &genesis(), other).unwrap_err();
    assert_eq!(
        error,
        OpenError::OtherGenesis {
            expected: other,
            found: GENESIS_HASH
        }
    );
}

#[test]
fn a_storage_with_something_else_in_it_is_refused() {
    let kv = Arc::new(MemoryKv::new());
    let mut batch = Batch::new();
    batch.put(*b"somebody else's", *b"value");
    kv.write(batch).unwrap();
    let error = StateStore::open(kv, &genesis(), GENESIS_HASH).unwrap_err();
    assert_eq!(error, OpenError::NotOurs);
}

#[test]
fn another_format_is_refused_by_number() {
    let kv = Arc::new(MemoryKv::new());
    drop(open(&kv, StateConfig::default()));
    let mut batch = Batch::new();
    batch.put(*b"Mformat", [9]);
    kv.write(batch).unwrap();
    let error = StateStore::open(kv, &genesis(), GENESIS_HASH).unwrap_err();
    assert_eq!(
        error,
        OpenError::Format {
            found: 9,
            supported: 1
        }
    );
}

#[test]
fn a_root_node_that_does_not_fit_the_durable_root_is_damage() {
    let kv = Arc::new(MemoryKv::new());
    drop(open(&kv, StateConfig::default()));
    let mut batch = Batch::new();
    batch.delete(*b"T");
    kv.write(batch).unwrap();
    let error = StateStore::open(kv, &genesis(), GENESIS_HASH).unwrap_err();
    assert!(
        matches!(error, OpenError::Read(ReadError::Damaged { .. })),
        "{error}"
    );
}

#[test]
fn settings_out_of_range_are_refused_by_name() {
    let flush = FlushPolicy {
        blocks: 0,
        ..FlushPolicy::default()
    };
    let config = StateConfig {
        flush,
        ..StateConfig::default()
    };
    let kv: Arc<dyn Kv> = Arc::new(MemoryKv::new());
    let error = StateStore::open_with(config, kv, &genesis(), GENESIS_HASH).unwrap_err();
    assert!(matches!(
        error,
        OpenError::Config {
            field: "flush.blocks",
            ..
        }
    ));
}

#[test]
fn a_crash_while_the_genesis_state_is_written_is_repaired_at_the_next_start() {
    // More than one batch, so that a crash can fall between two.
    let accounts: Vec<_> = (0..22_000u32)
        .map(|n| {
            let account = GenesisAccount::default().with_balance(n.try_into().unwrap());
            (
                alloy_primitives::Address::from_slice(&keccak256(n.to_be_bytes())[12..]),
                account,
            )
        })
        .collect();
    let root = genesis_state_root(accounts.iter().map(|(address, account)| (address, account)));
    let kv = Arc::new(MemoryKv::new());
    drop(StateStore::open_with(tight(), kv.clone(), &accounts, GENESIS_HASH).unwrap());
    let complete = kv.entries();
    // The same entries without the durable mark and without some of the rest: as left behind half-way.
    let mut batch = Batch::new();
    batch.delete(*b"Mdurable");
    for (key, _) in complete.iter().filter(|(key, _)| key[0] != b'M').step_by(3) {
        batch.delete(key.clone());
    }
    // What an older attempt with another allocation could have left must go too.
    batch.put(*b"Astray", *b"x");
    kv.write(batch).unwrap();
    let store = StateStore::open_with(tight(), kv.clone(), &accounts, GENESIS_HASH).unwrap();
    assert_eq!(store.latest().state_root(), root);
    let (address, account) = &accounts[777];
    assert_eq!(
        store.latest().account(address).unwrap().unwrap().balance,
        account.balance
    );
    assert_eq!(kv.entries(), complete);
}
