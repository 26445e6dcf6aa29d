//! Who gets in. After Noise has proved the other side's key, and before Yamux, so before any protocol and any state:
//! the key must be in the whitelist, and the two sides exchange a hello and compare it.
//!
//! ```text
//! hello (in a frame: length u16, then)
//!   0  magic       "QRTE"
//!   4  version     u16   PROTOCOL_VERSION
//!   6  chain id    u64
//!  14  genesis     32 bytes
//!  46  anything a later version may add, at most 256 bytes in all; ignored
//! ```
//!
//! Both sides send before they read, so each of them learns both values and can say them. A stranger is sent nothing.

use std::{collections::BTreeSet, io, pin::Pin, sync::Arc};

use futures::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use libp2p::{
    PeerId,
    core::{
        UpgradeInfo,
        upgrade::{InboundConnectionUpgrade, OutboundConnectionUpgrade},
    },
    noise,
};
use parking_lot::RwLock;

const MAGIC: [u8; 4] = *b"QRTE";
const HELLO_BYTES: usize = 46;
const HELLO_BYTES_MAX: usize = 256;

/// What this side says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Hello {
    pub(crate) protocol: u16,
    pub(crate) chain_id: u64,
    pub(crate) genesis: [u8; 32],
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
        }
    }
}

impl Hello {
    fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(2 + HELLO_BYTES);
        bytes.extend_from_slice(&(HELLO_BYTES as u16).to_be_bytes());
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&self.protocol.to_be_bytes());
        bytes.extend_from_slice(&self.chain_id.to_be_bytes());
        bytes.extend_from_slice(&self.genesis);
        bytes
    }

    /// Compares the other side's hello (without its length) with ours.
    fn compare(&self, bytes: &[u8]) -> Result<(), Reason> {
        let (magic, rest) = bytes
            .split_first_chunk::<4>()
            .ok_or(Reason::Malformed("shorter than its magic"))?;
        if *magic != MAGIC {
            return Err(Reason::Malformed("wrong magic"));
        }
        // Version first: what follows may look different in another one.
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
        let (chain_id, rest) = rest
            .split_first_chunk::<8>()
            .ok_or(Reason::Malformed("ends before its chain id"))?;
        let theirs = u64::from_be_bytes(*chain_id);
        if theirs != self.chain_id {
            return Err(Reason::ChainId {
                ours: self.chain_id,
                theirs,
            });
        }
        let genesis = rest
            .first_chunk::<32>()
            .ok_or(Reason::Malformed("ends before its genesis"))?;
        if *genesis != self.genesis {
            return Err(Reason::Genesis {
                ours: hex::encode(self.genesis),
                theirs: hex::encode(genesis),
            });
        }
        Ok(())
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
    #[error(transparent)]
    Noise(#[from] noise::Error),
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

/// What every handshake of this node consults.
#[derive(Debug)]
pub(crate) struct Gate {
    hello: Hello,
    allowed: RwLock<BTreeSet<PeerId>>,
}

impl Gate {
    pub(crate) fn new(hello: Hello) -> Self {
        Self {
            hello,
            allowed: RwLock::default(),
        }
    }

    /// Replaces the whitelist.
    pub(crate) fn allow_only(&self, peers: BTreeSet<PeerId>) {
        *self.allowed.write() = peers;
    }

    async fn check<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        peer: PeerId,
        stream: &mut S,
    ) -> Result<(), HandshakeError> {
        let refuse = |reason| Err(HandshakeError::Refused(Box::new(Refused { peer, reason })));
        if !self.allowed.read().contains(&peer) {
            return refuse(Reason::UnknownKey);
        }
        stream.write_all(&self.hello.encode()).await?;
        stream.flush().await?;
        let mut length = [0; 2];
        stream.read_exact(&mut length).await?;
        let mut bytes = [0; HELLO_BYTES_MAX];
        let Some(bytes) = bytes.get_mut(..usize::from(u16::from_be_bytes(length))) else {
            return refuse(Reason::Malformed("longer than 256 bytes"));
        };
        stream.read_exact(bytes).await?;
        self.hello.compare(bytes).or_else(refuse)
    }
}

/// Noise, then the gate: a transport upgrade.
#[derive(Clone)]
pub(crate) struct Handshake {
    noise: noise::Config,
    gate: Arc<Gate>,
}

impl Handshake {
    pub(crate) fn new(noise: noise::Config, gate: Arc<Gate>) -> Self {
        Self { noise, gate }
    }
}

impl UpgradeInfo for Handshake {
    type Info = &'static str;
    type InfoIter = std::iter::Once<Self::Info>;

    fn protocol_info(&self) -> Self::InfoIter {
        self.noise.protocol_info()
    }
}

type Upgraded<T> = Pin<
    Box<dyn Future<Output = Result<(PeerId, noise::Output<T>), HandshakeError>> + Send + 'static>,
>;

impl<T> InboundConnectionUpgrade<T> for Handshake
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    type Output = (PeerId, noise::Output<T>);
    type Error = HandshakeError;
    type Future = Upgraded<T>;

    fn upgrade_inbound(self, socket: T, info: Self::Info) -> Self::Future {
        Box::pin(async move {
            let (peer, mut stream) = self.noise.upgrade_inbound(socket, info).await?;
            self.gate.check(peer, &mut stream).await?;
            Ok((peer, stream))
        })
    }
}

impl<T> OutboundConnectionUpgrade<T> for Handshake
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    type Output = (PeerId, noise::Output<T>);
    type Error = HandshakeError;
    type Future = Upgraded<T>;

    fn upgrade_outbound(self, socket: T, info: Self::Info) -> Self::Future {
        Box::pin(async move {
            let (peer, mut stream) = self.noise.upgrade_outbound(socket, info).await?;
            self.gate.check(peer, &mut stream).await?;
            Ok((peer, stream))
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tokio_util::compat::TokioAsyncReadCompatExt;

    use super::*;

    const HELLO: Hello = Hello {
        protocol: 1,
        chain_id: 1337,
        genesis: [7; 32],
    };

    #[test]
    fn the_encoding_is_fixed() {
        assert_eq!(
            hex::encode(HELLO.encode()),
            format!("002e5152544500010000000000000539{}", "07".repeat(32))
        );
    }

    #[test]
    fn each_difference_is_named_with_both_values() {
        let ours = |change: fn(&mut Hello)| {
            let mut theirs = HELLO;
            change(&mut theirs);
            HELLO.compare(&theirs.encode()[2..]).unwrap_err()
        };
        assert_eq!(
            ours(|h| h.protocol = 2),
            Reason::Protocol { ours: 1, theirs: 2 }
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
        let mut longer = HELLO.encode()[2..].to_vec();
        longer.extend_from_slice(b"something new");
        assert_eq!(HELLO.compare(&longer), Ok(()));
    }

    #[tokio::test]
    async fn a_stranger_is_sent_nothing() {
        let gate = Gate::new(HELLO);
        let (mut theirs, ours) = tokio::io::duplex(64);
        let error = gate
            .check(PeerId::random(), &mut ours.compat())
            .await
            .unwrap_err();
        assert!(
            error
                .to_string()
                .ends_with("its key is not that of a member"),
            "{error}"
        );
        let mut sent = Vec::new();
        tokio::io::AsyncReadExt::read_to_end(&mut theirs, &mut sent)
            .await
            .unwrap();
        assert!(sent.is_empty());
    }

    #[tokio::test]
    async fn a_hello_longer_than_allowed_is_refused_unread() {
        let gate = Gate::new(HELLO);
        let peer = PeerId::random();
        gate.allow_only([peer].into());
        let (mut theirs, ours) = tokio::io::duplex(64);
        tokio::io::AsyncWriteExt::write_all(&mut theirs, &[0xff, 0xff])
            .await
            .unwrap();
        let error = gate.check(peer, &mut ours.compat()).await.unwrap_err();
        assert!(error.to_string().contains("longer than 256"), "{error}");
    }

    #[test]
    fn a_refusal_is_found_behind_the_transports_wrappers() {
        let refused = Refused {
            peer: PeerId::random(),
            reason: Reason::UnknownKey,
        };
        let error = io::Error::other(io::Error::other(HandshakeError::Refused(Box::new(refused))));
        assert_eq!(refusal_in(&error).unwrap().reason, Reason::UnknownKey);
        assert!(refusal_in(&io::Error::other("something else")).is_none());
        assert!(refusal_in(&io::ErrorKind::TimedOut.into()).is_none());
    }

    proptest! {
        #[test]
        fn only_our_own_hello_passes(bytes in proptest::collection::vec(any::<u8>(), 0..HELLO_BYTES_MAX), at in 0_usize..HELLO_BYTES, flip in 1_u8..) {
            prop_assert!(HELLO.compare(&bytes).is_err());
            let mut changed = HELLO.encode()[2..].to_vec();
            changed[at] ^= flip;
            prop_assert!(HELLO.compare(&changed).is_err());
            prop_assert!(HELLO.compare(&changed[..at]).is_err());
        }
    }
}
