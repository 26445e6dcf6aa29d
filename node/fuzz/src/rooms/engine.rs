//! Descriptions of snapshots, and members' entries in the replicated table.

use alloy_primitives::{B256, Bytes};
use alloy_rlp::{Decodable as _, Encodable as _};
use quorate_engine::{EnclaveKey, MemberDetails, SnapshotManifest, snapshots::SnapshotDescription};
use quorate_state::ChunkInfo;
use raft_adapter::RaftId;

use crate::{Memory, Target, figures};

pub(crate) const TARGETS: &[Target] = &[
    Target::new(
        "engine-description",
        description,
        description_seeds,
        Memory::DECODER,
    ),
    Target::new("engine-manifest", manifest, manifest_seeds, Memory::DECODER),
    Target::new("engine-details", details, details_seeds, Memory::DECODER),
];

/// What a snapshot is, as another member describes it.
fn description(bytes: &[u8]) -> bool {
    SnapshotDescription::decoded(bytes).is_ok_and(|description| {
        assert_eq!(
            description.encoded().as_ref(),
            bytes,
            "one snapshot, two ids"
        );
        true
    })
}

fn description_seeds() -> Vec<Vec<u8>> {
    let chunk = |number: u8| ChunkInfo {
        hash: B256::repeat_byte(number),
        bytes: 1 << 20,
        records: 9,
    };
    let description = SnapshotDescription {
        version: 1,
        chain_id: figures::CHAIN_ID,
        genesis_hash: B256::repeat_byte(1),
        height: 1_000,
        block_hash: B256::repeat_byte(2),
        state_root: B256::repeat_byte(3),
        raft_index: 1_010,
        members: Bytes::from_static(b"table"),
        chunks: (1..=3).map(chunk).collect(),
    };
    vec![description.encoded().to_vec()]
}

/// What a Raft snapshot carries.
fn manifest(bytes: &[u8]) -> bool {
    let mut rest = bytes;
    SnapshotManifest::decode(&mut rest).is_ok_and(|manifest| {
        let taken = bytes.len() - rest.len();
        assert_eq!(Some(manifest.encoded().as_ref()), bytes.get(..taken));
        assert_eq!(manifest.length(), taken);
        true
    })
}

fn manifest_seeds() -> Vec<Vec<u8>> {
    let manifest = SnapshotManifest {
        height: 1_000,
        hash: B256::repeat_byte(2),
        state_root: B256::repeat_byte(3),
    };
    vec![manifest.encoded().to_vec()]
}

/// A member's entry in the table.
fn details(bytes: &[u8]) -> bool {
    MemberDetails::decode(RaftId(3), bytes).is_ok_and(|details| {
        assert_eq!(details.encode(), bytes, "one entry, two encodings");
        true
    })
}

/// An entry of version 1, written down as the format says: a list of version, key, address and organisation; and one of version
/// 2, which has the keys of its enclave.
fn details_seeds() -> Vec<Vec<u8>> {
    let key = figures::sealer().node_id();
    let mut fields = Vec::new();
    1_u8.encode(&mut fields);
    key.as_bytes().as_slice().encode(&mut fields);
    "bank-a.example:30303".encode(&mut fields);
    "Bank A".encode(&mut fields);
    let mut plain = Vec::new();
    alloy_rlp::Header {
        list: true,
        payload_length: fields.len(),
    }
    .encode(&mut plain);
    plain.extend_from_slice(&fields);
    let with_keys = MemberDetails {
        enclave_keys: [None, Some([9; 32])]
            .into_iter()
            .zip(1..)
            .map(|(hybrid_digest, n)| EnclaveKey {
                key: [n; 32],
                hybrid_digest,
            })
            .collect(),
        keys_sequence: 7,
        keys_signature: Some([5; 65]),
        ..MemberDetails::new(key, "bank-a.example:30303".into(), "Bank A".into())
    };
    vec![plain, with_keys.encode().to_vec()]
}
