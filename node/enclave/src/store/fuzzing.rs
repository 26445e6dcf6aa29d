//! See the crate's `fuzzing.rs`.

use bytes::Bytes;

use super::{
    ErasureReason,
    record::{PayloadRecord, Record, TombstoneRecord},
};
use crate::{Envelope, PayloadHash};

/// The body of a record of a payload store. Panics if what was taken does not encode to the same bytes.
#[must_use]
pub fn record(body: &[u8]) -> bool {
    Record::decode(body).is_ok_and(|record| {
        // Of a blanked record nothing is left but its length.
        let blank = record == Record::Blank;
        assert!(
            blank || record.encode() == body,
            "one record, two encodings"
        );
        true
    })
}

/// A record of each kind; the envelope is the caller's.
#[must_use]
pub fn record_seeds(envelope: &Envelope) -> Vec<Vec<u8>> {
    let hash = envelope.payload_hash();
    let tombstone = Record::Tombstone(TombstoneRecord {
        hash: PayloadHash::from_bytes([7; 64]),
        sequence: 2,
        erased_at_ms: 1_700_000_000_000,
        reason: ErasureReason::Requested,
        note: "asked for".into(),
    });
    let payload = |beside| {
        Record::Payload(Box::new(PayloadRecord {
            hash,
            sequence: 1,
            stored_at_ms: 1_700_000_000_000,
            expires_at_ms: None,
            beside,
            envelope: envelope.clone(),
        }))
        .encode()
    };
    let with_terms = payload(Some(Bytes::from_static(b"terms")));
    vec![payload(None), with_terms, tombstone.encode(), vec![3, 0, 0]]
}
