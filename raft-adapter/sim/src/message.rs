//! Raft messages in a few words, for traces.
//!
//! Members' messages are opaque outside of `raft-adapter`; this reads just the numbers out of their protobuf encoding
//! (`eraftpb.proto` of raft-rs), and nothing of the simulation depends on what it says.

/// Names of the kinds, by number.
const KINDS: [&str; 19] = [
    "Hup",
    "Beat",
    "Propose",
    "Append",
    "AppendResponse",
    "RequestVote",
    "RequestVoteResponse",
    "Snapshot",
    "Heartbeat",
    "HeartbeatResponse",
    "Unreachable",
    "SnapStatus",
    "CheckQuorum",
    "TransferLeader",
    "TimeoutNow",
    "ReadIndex",
    "ReadIndexResp",
    "RequestPreVote",
    "RequestPreVoteResponse",
];

/// Kind and numbers of an encoded message; what cannot be read ends the description.
pub(crate) fn described(message: &[u8]) -> String {
    let mut kind = 0;
    let (mut entries, mut text) = (0, String::new());
    let mut rest = message;
    while let Some((field, value, after)) = next_field(rest) {
        rest = after;
        let name = match field {
            1 => {
                kind = value.number();
                continue;
            }
            4 => "term",
            5 => "log term",
            6 => "index",
            7 => {
                entries += 1;
                continue;
            }
            8 => "commit",
            9 => "with a manifest of",
            10 => "rejected",
            11 => "hint",
            12 => "context",
            15 => "commit term",
            _ => continue,
        };
        text += " ";
        text += name;
        text += " ";
        text += &match value {
            Value::Number(number) => number.to_string(),
            Value::Bytes(bytes) if field == 12 => {
                let words = bytes.chunks(8).map(|word| {
                    let word = word.iter().rev();
                    word.fold(0_u64, |number, byte| (number << 8) | u64::from(*byte))
                });
                format!("{:?}", words.collect::<Vec<_>>())
            }
            Value::Bytes(bytes) => format!("{} bytes", bytes.len()),
        };
    }
    let kind = usize::try_from(kind).ok().and_then(|kind| KINDS.get(kind));
    let mut all = kind.map_or_else(|| "?".to_string(), ToString::to_string);
    all += &text;
    if entries > 0 {
        all += &format!(" entries {entries}");
    }
    all
}

enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

impl Value<'_> {
    fn number(&self) -> u64 {
        match self {
            Self::Number(number) => *number,
            Self::Bytes(_) => 0,
        }
    }
}

/// Number and value of the first field, and what comes behind it.
fn next_field(bytes: &[u8]) -> Option<(u64, Value<'_>, &[u8])> {
    let (key, rest) = varint(bytes)?;
    match key & 7 {
        0 => {
            let (number, rest) = varint(rest)?;
            Some((key >> 3, Value::Number(number), rest))
        }
        2 => {
            let (length, rest) = varint(rest)?;
            let (value, rest) = rest.split_at_checked(usize::try_from(length).ok()?)?;
            Some((key >> 3, Value::Bytes(value), rest))
        }
        _ => None,
    }
}

fn varint(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let mut number = 0_u64;
    for (at, byte) in bytes.iter().enumerate().take(10) {
        number |= u64::from(byte & 0x7f) << (7 * at);
        if byte & 0x80 == 0 {
            return Some((number, bytes.get(at + 1..)?));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_heartbeat_is_told_by_its_numbers() {
        let mut message = vec![8, 8, 16, 2, 24, 1, 32, 0xac, 2, 64, 55, 98, 16];
        message.extend([7_u64, 3].map(u64::to_le_bytes).concat());
        assert_eq!(
            described(&message),
            "Heartbeat term 300 commit 55 context [7, 3]"
        );
        for cut in 0..message.len() {
            assert!(!described(&message[..cut]).is_empty());
        }
    }

    #[test]
    fn entries_are_counted() {
        let message = [8, 3, 48, 9, 58, 2, 24, 1, 58, 0];
        assert_eq!(described(&message), "Append index 9 entries 2");
    }
}
