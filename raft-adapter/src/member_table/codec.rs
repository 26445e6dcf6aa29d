//! The member table as bytes.
//!
//! ```text
//! table   version u8 (1)   index u64   next id u64
//!         members   count u32, each: id u64, role u8 (1 voter, 2 learner, 3 leaving), details
//!         outgoing  count u32, each: id u64
//!         removed   count u32, each: id u64, details
//!         recent    count u32, each: change id 16 bytes, index u64, term u64, added (count u32, ids u64)
//!         breaks    count u32, each: index u64, term u64, survivor u64, lost (count u32, ids u64), note
//! details, note    length u32, bytes
//! ```
//!
//! Numbers are little-endian, ids ascend, nothing follows: equal tables have equal encodings and nothing else decodes.
//! Version rule: another layout gets another version; a table of an unknown version is refused.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::{
    AppliedChange, Break, ChangeId, DETAILS_BYTES_MAX, MemberRole, MemberTable, TableError,
    TableMember,
};
use crate::{
    encoding::{Reader, put_blob, put_count, put_numbers},
    ids::{LogIndex, RaftId, Term},
};

pub(super) const VERSION: u8 = 1;

impl MemberTable {
    /// The one encoding of this table.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut out = vec![VERSION];
        put_numbers(&mut out, &[self.index.0, self.next_id.0]);
        put_count(&mut out, self.members.len());
        for (id, member) in &self.members {
            put_numbers(&mut out, &[id.0]);
            out.push(member.role.code());
            put_blob(&mut out, &member.details);
        }
        put_ids(&mut out, self.outgoing.iter().copied());
        put_count(&mut out, self.removed.len());
        for (id, details) in &self.removed {
            put_numbers(&mut out, &[id.0]);
            put_blob(&mut out, details);
        }
        put_count(&mut out, self.recent.len());
        for change in &self.recent {
            out.extend_from_slice(&change.id.0);
            put_numbers(&mut out, &[change.index.0, change.term.0]);
            put_ids(&mut out, change.added.iter().copied());
        }
        put_count(&mut out, self.breaks.len());
        for broken in &self.breaks {
            put_numbers(
                &mut out,
                &[broken.index.0, broken.term.0, broken.survivor.0],
            );
            put_ids(&mut out, broken.lost.iter().copied());
            put_blob(&mut out, &broken.note);
        }
        out.into()
    }

    /// Reads what [`MemberTable::encode`] wrote.
    ///
    /// # Errors
    /// [`TableError`]: another version, cut short, or impossible content.
    pub fn decode(bytes: &[u8]) -> Result<Self, TableError> {
        let mut reader = Reader(bytes);
        match reader.u8() {
            Some(VERSION) => {}
            Some(found) => return Err(TableError::UnknownVersion { found }),
            None => return Err(TableError::Length { part: "version" }),
        }
        let part = |part| move || TableError::Length { part };
        let table = Self {
            index: LogIndex(reader.u64().ok_or_else(part("index"))?),
            next_id: RaftId(reader.u64().ok_or_else(part("next id"))?),
            members: read_members(&mut reader).ok_or_else(part("members"))?,
            outgoing: {
                let ids = read_ids(&mut reader).ok_or_else(part("outgoing"))?;
                let count = ids.len();
                let outgoing: BTreeSet<_> = ids.into_iter().collect();
                if outgoing.len() != count {
                    return Err(TableError::Content {
                        fault: "an outgoing voter is named twice",
                    });
                }
                outgoing
            },
            removed: read_removed(&mut reader).ok_or_else(part("removed"))?,
            recent: read_recent(&mut reader).ok_or_else(part("recent"))?,
            breaks: read_breaks(&mut reader).ok_or_else(part("breaks"))?,
        };
        table.check_itself()?;
        // One comparison instead of a check per list: order, repetition and what follows the end all show in it.
        if table.encode() != bytes {
            return Err(TableError::Content {
                fault: "it is not in its one encoding",
            });
        }
        Ok(table)
    }
}

fn put_ids(out: &mut Vec<u8>, ids: impl ExactSizeIterator<Item = RaftId>) {
    put_count(out, ids.len());
    ids.for_each(|id| put_numbers(out, &[id.0]));
}

fn read_ids(reader: &mut Reader<'_>) -> Option<Vec<RaftId>> {
    (0..reader.count(8)?)
        .map(|_| reader.u64().map(RaftId))
        .collect()
}

fn read_members(reader: &mut Reader<'_>) -> Option<BTreeMap<RaftId, TableMember>> {
    (0..reader.count(13)?)
        .map(|_| {
            let id = RaftId(reader.u64()?);
            let role = MemberRole::from_code(reader.u8()?)?;
            let details = reader.blob(DETAILS_BYTES_MAX)?;
            Some((id, TableMember { role, details }))
        })
        .collect()
}

fn read_removed(reader: &mut Reader<'_>) -> Option<BTreeMap<RaftId, Bytes>> {
    (0..reader.count(12)?)
        .map(|_| Some((RaftId(reader.u64()?), reader.blob(DETAILS_BYTES_MAX)?)))
        .collect()
}

fn read_recent(reader: &mut Reader<'_>) -> Option<Vec<AppliedChange>> {
    (0..reader.count(36)?)
        .map(|_| {
            Some(AppliedChange {
                id: ChangeId(reader.array()?),
                index: LogIndex(reader.u64()?),
                term: Term(reader.u64()?),
                added: read_ids(reader)?,
            })
        })
        .collect()
}

fn read_breaks(reader: &mut Reader<'_>) -> Option<Vec<Break>> {
    (0..reader.count(32)?)
        .map(|_| {
            Some(Break {
                index: LogIndex(reader.u64()?),
                term: Term(reader.u64()?),
                survivor: RaftId(reader.u64()?),
                lost: read_ids(reader)?,
                note: reader.blob(DETAILS_BYTES_MAX)?,
            })
        })
        .collect()
}
