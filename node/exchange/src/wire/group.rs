//! A privacy group, in the request that announces it and in the answer to who asks for those of a key.

use quorate_enclave::PublicKey;

use super::reader::Reader;
use super::{GROUP_KEYS_MAX, GroupItem, WireError, put_count};

pub(super) fn put_group(out: &mut Vec<u8>, group: &GroupItem) {
    out.push(u8::try_from(group.name.len()).unwrap_or(u8::MAX));
    out.extend_from_slice(group.name.as_bytes());
    put_count(out, group.description.len());
    out.extend_from_slice(group.description.as_bytes());
    out.extend_from_slice(&group.payloads_live_ms.to_be_bytes());
    put_count(out, group.members.len());
    for key in &group.members {
        out.extend_from_slice(key.as_bytes());
    }
}

pub(super) fn read_group(reader: &mut Reader) -> Result<GroupItem, WireError> {
    let length = usize::from(reader.byte("length of the name")?);
    let name = reader.text("name", length)?;
    let length = reader.count("length of the description", 0, 1024, "at most 1024")?;
    let description = reader.text("description", length)?;
    let payloads_live_ms = u64::from_be_bytes(reader.array("time that payloads live")?);
    let count = reader.count("number of members", 1, GROUP_KEYS_MAX, "1 to 256")?;
    let mut members: Vec<PublicKey> = Vec::with_capacity(count);
    for _ in 0..count {
        let key = reader.key("member")?;
        if members.last().is_some_and(|last| *last >= key) {
            return Err(WireError::Malformed { field: "members" });
        }
        members.push(key);
    }
    Ok(GroupItem {
        name,
        description,
        payloads_live_ms,
        members,
    })
}
