//! What the data of a raft-rs snapshot is made of: the member table beside the application's manifest.
//!
//! ```text
//! version u8 (1)   table length u32, member table   manifest
//! ```

use crate::{
    encoding::{Reader, put_blob},
    member_table::MemberTable,
};

const VERSION: u8 = 1;

/// Table and manifest in one.
pub(crate) fn join(table: &MemberTable, manifest: &[u8]) -> Vec<u8> {
    let mut out = vec![VERSION];
    put_blob(&mut out, &table.encode());
    out.extend_from_slice(manifest);
    out
}

/// Table and manifest again. `None` if `data` was not made by [`join`].
pub(crate) fn split(data: &[u8]) -> Option<(MemberTable, &[u8])> {
    let mut reader = Reader(data);
    if reader.u8()? != VERSION {
        return None;
    }
    let table_bytes = reader.count(1)?;
    let table = MemberTable::decode(reader.take(table_bytes)?).ok()?;
    Some((table, reader.0))
}
