//! Envelopes of private payloads, key files, and the folder of a payload store.

use std::sync::Arc;

use quorate_enclave::{
    Context, Envelope, KeyFile, KeyRing, LocalEnclave, NodeKey, PayloadStore, PrivacyFlag,
    PublicKey, SealRequest, StoreConfig, Suite,
};
use quorate_kv::MemoryKv;
use secp256k1::SECP256K1;

use crate::{Memory, Target, cutter::Cutter, figures, folder};

pub(crate) const TARGETS: &[Target] = &[
    Target::new(
        "enclave-envelope",
        envelope,
        envelope_seeds,
        Memory::DECODER,
    ),
    Target::new(
        "enclave-key-file",
        key_file,
        key_file_seeds,
        Memory::DECODER,
    ),
    Target::new("enclave-payloads", payloads, payloads_seeds, Memory::ROOM),
];

/// As another member sends it.
fn envelope(bytes: &[u8]) -> bool {
    Envelope::decode(bytes).is_ok_and(|mut envelope| {
        assert_eq!(envelope.encode(), bytes, "one envelope, two encodings");
        let own = envelope.clone();
        assert!(envelope.is_same_payload(&own));
        assert_eq!(envelope.merge(&own), Some(false), "it gained from itself");
        true
    })
}

fn context(flag: PrivacyFlag) -> Context {
    Context {
        chain_id: figures::CHAIN_ID,
        sender_node: NodeKey::from(figures::key(1).public_key(SECP256K1).serialize()),
        privacy_group: None,
        flag,
    }
}

fn envelopes() -> Vec<Envelope> {
    let Ok(keys) = KeyRing::generate(3) else {
        return Vec::new();
    };
    let enclave = LocalEnclave::new(keys);
    let recipients = enclave.public_keys_now();
    let sealed = |suite, flag| {
        let request = SealRequest {
            payload: b"a payload".to_vec().into(),
            sender: None,
            recipients: recipients.clone(),
            mandatory: Vec::new(),
            context: context(flag),
            suite,
        };
        let mut sealed = enclave.seal_now(&request).ok()?;
        let signed = sealed.sign(|digest| {
            let signature = figures::sign(&figures::key(1), digest);
            let mut bytes = [0; 65];
            bytes.copy_from_slice(&signature.as_rsy());
            bytes[64] = u8::from(signature.v());
            Ok::<_, ()>(bytes)
        });
        signed.ok()?;
        Some(sealed.envelope)
    };
    [
        (Suite::Nacl, PrivacyFlag::Standard),
        (Suite::Nacl, PrivacyFlag::StateValidation),
        (Suite::Hybrid, PrivacyFlag::PartyProtection),
    ]
    .into_iter()
    .filter_map(|(suite, flag)| sealed(suite, flag))
    .collect()
}

fn envelope_seeds() -> Vec<Vec<u8>> {
    envelopes().iter().map(Envelope::encode).collect()
}

/// As an operator imports it: ours, or Tessera's.
fn key_file(bytes: &[u8]) -> bool {
    KeyFile::decode(bytes).is_ok_and(|file| {
        let named = file.public_key();
        if let Some(key) = named {
            assert_eq!(key.to_string().parse::<PublicKey>(), Ok(key));
        }
        true
    })
}

fn key_file_seeds() -> Vec<Vec<u8>> {
    [
        r#"{"type": "unlocked", "data": {"bytes": "yAWAJjwPqUtNVlqGjSrBmr1/iIkghuOh1803Yzx9jLM="}}"#,
        r#"{"type": "argon2sbox", "data": {"aopts": {"variant": "id", "memory": 1024, "iterations": 1, "parallelism": 1},
            "snonce": "xx3HUNXH6LQldKtEv3q0h0hR4S12Ur9pC7gUNP6flMqb/+Q4pv2rAYjdBXXi9o5z",
            "asalt": "l3SaA+1mqXQaxZXyFLP+cA==", "sbox": "d0CmRus0rP0bdc7P7d/wnOyEW14pwFJmcLbdu2W3HmDNRWVJtoNpHrauA/Sr5Vxc"}}"#,
    ]
    .map(|text| text.as_bytes().to_vec())
    .to_vec()
}

/// First whether sums are put right, then the files.
fn payloads(bytes: &[u8]) -> bool {
    const HEADER_BYTES: usize = 1536;
    let mut input = Cutter(bytes);
    let mended = input.byte() & 1 == 1;
    let files = folder::unpack(input, |file| {
        if mended {
            folder::mend_records(file, HEADER_BYTES);
        }
    });
    let Ok(files) = files else {
        return false;
    };
    let open = || {
        let index = Arc::new(MemoryKv::new());
        PayloadStore::open(files.path(), index, &StoreConfig::default()).ok()
    };
    let Some(store) = open() else {
        return false;
    };
    let size = store.size_bytes().ok();
    let damaged = store.damaged_at_open().len();
    drop(store);
    let again = open();
    let again = again.map(|store| (store.size_bytes().ok(), store.damaged_at_open().len()));
    assert_eq!(
        again,
        Some((size, damaged)),
        "a store that was recovered changed"
    );
    true
}

fn payloads_seeds() -> Vec<Vec<u8>> {
    let packed = || {
        let files = tempfile::tempdir().ok()?;
        let index = Arc::new(MemoryKv::new());
        let store = PayloadStore::open(files.path(), index, &StoreConfig::default()).ok()?;
        for envelope in envelopes() {
            store.put(&envelope, 1_700_000_000_000, None).ok()?;
        }
        folder::pack(files.path()).ok()
    };
    let mut seeds = Vec::new();
    if let Some(packed) = packed() {
        seeds.push([&[0], packed.as_slice()].concat());
        seeds.push([&[1], packed.as_slice()].concat());
    }
    seeds
}
