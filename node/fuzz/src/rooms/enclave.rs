//! Envelopes of private payloads, and key files.

use quorate_enclave::{
    Context, Envelope, KeyFile, KeyRing, LocalEnclave, NodeKey, PrivacyFlag, PublicKey,
    SealRequest, Suite, fuzzing,
};
use secp256k1::SECP256K1;

use crate::{Memory, Target, figures};

pub(crate) const TARGETS: &[Target] = &[
    Target::new(
        "enclave-envelope",
        envelope,
        envelope_seeds,
        Memory::DECODER,
    ),
    Target::new("enclave-record", record, record_seeds, Memory::DECODER),
    Target::new("enclave-remote", remote, remote_seeds, Memory::DECODER),
    Target::new(
        "enclave-key-file",
        key_file,
        key_file_seeds,
        Memory::DECODER,
    ),
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

/// Signed envelopes of each suite.
pub(super) fn envelopes() -> Vec<Envelope> {
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

/// As a payload store holds it.
fn record(bytes: &[u8]) -> bool {
    fuzzing::record(bytes)
}

fn record_seeds() -> Vec<Vec<u8>> {
    let envelopes = envelopes();
    envelopes.iter().flat_map(fuzzing::record_seeds).collect()
}

/// What a node and a separate enclave say to each other.
fn remote(bytes: &[u8]) -> bool {
    fuzzing::remote(bytes)
}

fn remote_seeds() -> Vec<Vec<u8>> {
    let envelope = envelopes().into_iter().next();
    fuzzing::remote_seeds(&envelope.map(|e| e.encode()).unwrap_or_default())
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
