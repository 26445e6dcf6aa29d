//! What two nodes say after Noise has proved their keys and before Yamux, and how it is compared. Who gets in, and who is
//! told what, is in `gate.rs`.
//!
//! ```text
//! frame     length u16 | kind u8 | body
//! hello     kind 1: magic "QRTE" | version u16 (PROTOCOL_VERSION) | raft id u64 | chain id u64 | genesis 32 bytes
//!                   | log id 16 bytes | anything a later version may add, at most 256 bytes in all; ignored
//! verdict   kind 2: code u8, see `Code`
//! applying  kind 3: see `application.rs`
//!
//!  either side of a connection of members     an applicant          the member it dialled
//!  hello ─────────────────────────► hello     application ────────►
//!  verdict ───────────────────────► verdict              ◄──────── (hello, if it knows the key) answer
//! ```

use std::{io, time::Duration};

use futures::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use libp2p::PeerId;
use tokio::time::timeout;

pub(crate) const MAGIC: [u8; 4] = *b"QRTE";
const HELLO_BYTES: usize = 70;
/// Longest hello or verdict, its kind included.
pub(crate) const FRAME_BYTES_MAX: usize = 256;

const KIND_HELLO: u8 = 1;
const KIND_VERDICT: u8 = 2;
const KIND_APPLICATION: u8 = 3;

/// The side that refuses reads on for so long, so that its last words are not lost with the connection.
const LINGER: Duration = Duration::from_millis(500);
/// And no more than this.
const LINGER_BYTES_MAX: usize = 16 << 10;

/// What one side tells the other before it goes on or closes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Code {
    Welcome = 0,
    Protocol = 1,
    ChainId = 2,
    Genesis = 3,
    Malformed = 4,
    /// It believes to be another member than the one that has its key.
    RaftId = 5,
    /// It is no member any more.
    Removed = 6,
    /// It was known with another Raft log.
    OtherLog = 7,
    /// Too many strangers, or the application did not answer.
    Busy = 8,
    /// Answers to an application.
    NotYet = 9,
    /// As before; one frame with a length of four bytes follows.
    Admitted = 10,
}

impl Code {
    fn read(byte: u8) -> Option<Self> {
        [
            Self::Welcome,
            Self::Protocol,
            Self::ChainId,
            Self::Genesis,
            Self::Malformed,
            Self::RaftId,
            Self::Removed,
            Self::OtherLog,
            Self::Busy,
            Self::NotYet,
            Self::Admitted,
        ]
        .into_iter()
        .find(|code| *code as u8 == byte)
    }
}

/// What this side says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Hello {
    pub(crate) protocol: u16,
    pub(crate) raft_id: u64,
    pub(crate) chain_id: u64,
    pub(crate) genesis: [u8; 32],
    /// Zeros: none.
    pub(crate) log_id: [u8; 16],
}

/// What the other side says of itself, beyond what must be the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Claim {
    pub(crate) raft_id: u64,
    pub(crate) log_id: [u8; 16],
}

/// Why a connection was refused. The texts go into the log; both values are in them.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Reason {
    #[error("its key is not that of a member")]
    UnknownKey,
    #[error("it speaks protocol version {theirs}, we speak {ours}")]
    Protocol { ours: u16, theirs: u16 },
    #[error("its chain id is {theirs}, ours is {ours}")]
    ChainId { ours: u64, theirs: u64 },
    #[error("its genesis is {theirs}, ours is {ours}")]
    Genesis { ours: String, theirs: String },
    #[error("its hello is malformed: {0}")]
    Malformed(&'static str),
    #[error("it says that it is member {theirs}, its key is that of member {table}")]
    RaftId { theirs: u64, table: u64 },
    #[error("member {raft_id} was removed")]
    Removed { raft_id: u64 },
    #[error("member {raft_id} comes with Raft log {theirs}, it was known with {known}")]
    OtherLog {
        raft_id: u64,
        theirs: String,
        known: String,
    },
    #[error("too many strangers")]
    Strangers,
    #[error("another member answers, expected was {expected}")]
    WrongPeer { expected: PeerId },
    #[error("it refuses us: {0:?}")]
    Told(Code),
    /// Not a refusal: it applied for admission and is being answered.
    #[error("it applies for admission")]
    Applicant,
}

impl Reason {
    /// For the label `reason`.
    pub(crate) fn label(&self) -> &'static str {
        match self {
            Self::UnknownKey => "unknown_key",
            Self::Protocol { .. } => "protocol",
            Self::ChainId { .. } => "chain_id",
            Self::Genesis { .. } => "genesis",
            Self::Malformed(_) => "malformed_hello",
            Self::RaftId { .. } => "raft_id",
            Self::Removed { .. } => "removed",
            Self::OtherLog { .. } => "other_log",
            Self::Strangers => "strangers",
            Self::WrongPeer { .. } => "wrong_peer",
            Self::Told(Code::Removed) => "told_removed",
            Self::Told(Code::OtherLog) => "told_other_log",
            Self::Told(_) => "told_refused",
            Self::Applicant => "applicant",
        }
    }

    /// What the other side is told, if anything.
    pub(crate) fn code(&self) -> Option<Code> {
        match self {
            Self::Protocol { .. } => Some(Code::Protocol),
            Self::ChainId { .. } => Some(Code::ChainId),
            Self::Genesis { .. } => Some(Code::Genesis),
            Self::Malformed(_) => Some(Code::Malformed),
            Self::RaftId { .. } => Some(Code::RaftId),
            Self::Removed { .. } => Some(Code::Removed),
            Self::OtherLog { .. } => Some(Code::OtherLog),
            Self::Strangers => Some(Code::Busy),
            Self::UnknownKey | Self::WrongPeer { .. } | Self::Told(_) | Self::Applicant => None,
        }
    }
}

impl Hello {
    /// The body of its frame, kind included.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(1 + HELLO_BYTES);
        bytes.push(KIND_HELLO);
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&self.protocol.to_be_bytes());
        bytes.extend_from_slice(&self.raft_id.to_be_bytes());
        bytes.extend_from_slice(&self.chain_id.to_be_bytes());
        bytes.extend_from_slice(&self.genesis);
        bytes.extend_from_slice(&self.log_id);
        bytes
    }

    /// Compares magic and version, and returns what follows: it may look different in another version.
    pub(crate) fn compare_version<'a>(&self, bytes: &'a [u8]) -> Result<&'a [u8], Reason> {
        let (magic, rest) = bytes
            .split_first_chunk::<4>()
            .ok_or(Reason::Malformed("shorter than its magic"))?;
        if *magic != MAGIC {
            return Err(Reason::Malformed("wrong magic"));
        }
        let (protocol, rest) = rest
            .split_first_chunk::<2>()
            .ok_or(Reason::Malformed("ends before its version"))?;
        let theirs = u16::from_be_bytes(*protocol);
        if theirs != self.protocol {
            return Err(Reason::Protocol {
                ours: self.protocol,
                theirs,
            });
        }
        Ok(rest)
    }

    /// Compares the chain that the other side names with ours.
    pub(crate) fn compare_chain(&self, chain_id: u64, genesis: &[u8; 32]) -> Result<(), Reason> {
        if chain_id != self.chain_id {
            return Err(Reason::ChainId {
                ours: self.chain_id,
                theirs: chain_id,
            });
        }
        if *genesis != self.genesis {
            return Err(Reason::Genesis {
                ours: hex::encode(self.genesis),
                theirs: hex::encode(genesis),
            });
        }
        Ok(())
    }

    /// Compares the other side's hello (without length and kind) with ours.
    pub(crate) fn compare(&self, bytes: &[u8]) -> Result<Claim, Reason> {
        let rest = self.compare_version(bytes)?;
        let (raft_id, rest) = rest
            .split_first_chunk::<8>()
            .ok_or(Reason::Malformed("ends before its raft id"))?;
        let (chain_id, rest) = rest
            .split_first_chunk::<8>()
            .ok_or(Reason::Malformed("ends before its chain id"))?;
        let (genesis, rest) = rest
            .split_first_chunk::<32>()
            .ok_or(Reason::Malformed("ends before its genesis"))?;
        let log_id = rest
            .first_chunk::<16>()
            .ok_or(Reason::Malformed("ends before its log id"))?;
        self.compare_chain(u64::from_be_bytes(*chain_id), genesis)?;
        Ok(Claim {
            raft_id: u64::from_be_bytes(*raft_id),
            log_id: *log_id,
        })
    }
}

/// A refusal and whom it concerns.
#[derive(Debug, Clone, thiserror::Error)]
#[error("peer {peer} refused: {reason}")]
pub(crate) struct Refused {
    pub(crate) peer: PeerId,
    pub(crate) reason: Reason,
}

/// Why a connection did not come about.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HandshakeError {
    #[error("hello: {0}")]
    Io(#[from] io::Error),
    #[error(transparent)]
    Refused(Box<Refused>),
}

/// The refusal inside an error of the transport, if there is one.
pub(crate) fn refusal_in(error: &io::Error) -> Option<&Refused> {
    let mut next: Option<&(dyn std::error::Error + 'static)> = error
        .get_ref()
        .map(|inner| inner as &(dyn std::error::Error + 'static));
    while let Some(error) = next {
        if let Some(HandshakeError::Refused(refused)) = error.downcast_ref::<HandshakeError>() {
            return Some(refused);
        }
        // An io::Error's source is the source of what it wraps, so what it wraps has to be asked itself.
        next = match error
            .downcast_ref::<io::Error>()
            .and_then(io::Error::get_ref)
        {
            Some(inner) => Some(inner),
            None => error.source(),
        };
    }
    None
}

/// Writes a last frame, closes our direction and reads on for a moment: closing with unread bytes would reset the
/// connection, and what we said might be lost with it.
pub(crate) async fn say_and_close<S>(stream: &mut S, code: Code)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let saying = async {
        write_frame(stream, &verdict(code)).await?;
        linger(stream).await
    };
    match timeout(LINGER, saying).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::trace!(%error, ?code, "a verdict was perhaps not heard"),
        Err(_elapsed) => tracing::trace!(?code, "the other side does not close"),
    }
}

/// Closes our direction and waits for the other side to close its own.
pub(crate) async fn linger<S>(stream: &mut S) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    stream.close().await?;
    let mut scratch = [0; 512];
    let mut left = LINGER_BYTES_MAX;
    while left > 0 {
        match stream.read(&mut scratch).await? {
            0 => return Ok(()),
            count => left = left.saturating_sub(count),
        }
    }
    Ok(())
}

pub(crate) fn verdict(code: Code) -> [u8; 2] {
    [KIND_VERDICT, code as u8]
}

/// The body of an application's frame, kind included.
pub(crate) fn application_frame(body: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(1 + body.len());
    bytes.push(KIND_APPLICATION);
    bytes.extend_from_slice(body);
    bytes
}

/// One frame of a handshake, without its kind.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Frame {
    Hello(Vec<u8>),
    Verdict(Code),
    Application(Vec<u8>),
}

pub(crate) async fn write_frame<S: AsyncWrite + Unpin>(
    stream: &mut S,
    body: &[u8],
) -> io::Result<()> {
    // Hello, verdict and application are far below 64 KiB.
    let mut bytes = Vec::with_capacity(2 + body.len());
    bytes.extend_from_slice(&(body.len() as u16).to_be_bytes());
    bytes.extend_from_slice(body);
    stream.write_all(&bytes).await?;
    stream.flush().await
}

/// Reads one frame of at most `max` bytes. The inner error is what is wrong with it.
pub(crate) async fn read_frame<S: AsyncRead + Unpin>(
    stream: &mut S,
    max: usize,
) -> io::Result<Result<Frame, Reason>> {
    let mut length = [0; 2];
    stream.read_exact(&mut length).await?;
    let length = usize::from(u16::from_be_bytes(length));
    if length > max {
        return Ok(Err(Reason::Malformed("longer than allowed")));
    }
    let mut bytes = vec![0; length];
    stream.read_exact(&mut bytes).await?;
    Ok(match bytes.split_first() {
        Some((&KIND_HELLO, rest)) if length <= FRAME_BYTES_MAX => Ok(Frame::Hello(rest.to_vec())),
        Some((&KIND_HELLO, _)) => Err(Reason::Malformed("longer than allowed")),
        Some((&KIND_VERDICT, rest)) => rest
            .first()
            .and_then(|byte| Code::read(*byte))
            .map(Frame::Verdict)
            .ok_or(Reason::Malformed("unknown verdict")),
        Some((&KIND_APPLICATION, rest)) => Ok(Frame::Application(rest.to_vec())),
        _ => Err(Reason::Malformed("unknown kind of frame")),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HELLO: Hello = Hello {
        protocol: 2,
        raft_id: 5,
        chain_id: 1337,
        genesis: [7; 32],
        log_id: [9; 16],
    };

    #[test]
    fn the_encoding_is_fixed() {
        assert_eq!(
            hex::encode(HELLO.encode()),
            format!(
                "01 51525445 0002 0000000000000005 0000000000000539 {}{}",
                "07".repeat(32),
                "09".repeat(16)
            )
            .replace(' ', "")
        );
        for code in 0..=10 {
            assert_eq!(Code::read(code).map(|code| code as u8), Some(code));
        }
        assert_eq!(Code::read(11), None);
    }

    #[test]
    fn each_difference_is_named_with_both_values() {
        let ours = |change: fn(&mut Hello)| {
            let mut theirs = HELLO;
            change(&mut theirs);
            HELLO.compare(&theirs.encode()[1..]).unwrap_err()
        };
        assert_eq!(
            ours(|h| h.protocol = 3),
            Reason::Protocol { ours: 2, theirs: 3 }
        );
        assert_eq!(
            ours(|h| h.chain_id = 9),
            Reason::ChainId {
                ours: 1337,
                theirs: 9
            }
        );
        let genesis = ours(|h| h.genesis = [8; 32]);
        assert_eq!(genesis.label(), "genesis");
        assert!(genesis.to_string().contains(&"07".repeat(32)));
        assert!(genesis.to_string().contains(&"08".repeat(32)));
        let mut longer = HELLO.encode()[1..].to_vec();
        longer.extend_from_slice(b"something new");
        let claim = HELLO.compare(&longer).unwrap();
        assert_eq!((claim.raft_id, claim.log_id), (5, [9; 16]));
    }

    #[test]
    fn a_refusal_is_found_behind_the_transports_wrappers() {
        let error = HandshakeError::Refused(Box::new(Refused {
            peer: PeerId::random(),
            reason: Reason::UnknownKey,
        }));
        let error = io::Error::other(io::Error::other(error));
        assert_eq!(refusal_in(&error).unwrap().reason, Reason::UnknownKey);
        assert!(refusal_in(&io::Error::other("something else")).is_none());
        assert!(refusal_in(&io::ErrorKind::TimedOut.into()).is_none());
    }

    proptest! {
        #[test]
        fn any_frame_is_read_or_refused_and_never_more_than_allowed_is_taken(bytes in proptest::collection::vec(any::<u8>(), 0..400), max in 0_usize..300) {
            let mut stream = futures::io::Cursor::new(bytes.clone());
            let read = futures::executor::block_on(read_frame(&mut stream, max));
            if let Ok(Ok(_frame)) = read {
                let length = usize::from(u16::from_be_bytes([bytes[0], bytes[1]]));
                prop_assert!(length <= max && bytes.len() >= 2 + length);
            }
            prop_assert!(stream.position() <= 2 + max as u64);
        }

        #[test]
        fn only_our_own_chain_passes(bytes in proptest::collection::vec(any::<u8>(), 0..FRAME_BYTES_MAX), at in 0_usize..HELLO_BYTES, flip in 1_u8..) {
            prop_assert!(HELLO.compare(&bytes).is_err());
            let mut changed = HELLO.encode()[1..].to_vec();
            changed[at] ^= flip;
            // Raft id and log id are claims, to be compared with the table.
            let claim = (6..14).contains(&at) || at >= 54;
            prop_assert_eq!(HELLO.compare(&changed).is_ok(), claim);
            prop_assert!(HELLO.compare(&changed[..at]).is_err());
        }
    }
}
