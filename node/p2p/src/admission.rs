//! Asking for admission, and answering those who ask. A node that is no member yet proves its key, says where it will be
//! reached, and gets one answer. It never becomes a peer: no stream, no protocol, no state beyond this one exchange.

use std::{fmt, net::SocketAddr, time::Duration};

use bytes::{Bytes, BytesMut};
use futures::{AsyncRead, AsyncWrite};
use libp2p::{PeerId, core::upgrade::OutboundConnectionUpgrade, identity, noise};
use multistream_select::{Version, dialer_select_proto};
use tokio::{
    net::TcpStream,
    sync::{mpsc, oneshot},
    time::timeout,
};
use tokio_util::compat::TokioAsyncReadCompatExt;

use crate::{
    address::{ADDRESSES_PER_DIAL, DialAddress, Resolver},
    announcement::ADDRESSES_MAX,
    application::{self, Application},
    config::{PROTOCOL_VERSION, Timing},
    entry,
    error::{AddressError, AdmissionError},
    events::{ADMISSION_BYTES_MAX, AdmissionAnswer, Request},
    frame::{self, FrameReader},
    handshake::{self, Code, Frame},
    members, metrics,
    strangers::Place,
};

/// Name of the encryption, as libp2p's transport negotiates it.
const ENCRYPTION: &str = "/noise";

/// Longest frame before the content of an admission.
const ANSWER_FRAME_MAX: usize = 256;

/// The content of an admission may take so many times as long as the rest.
const CONTENT_TIMES: u32 = 6;

/// A node's wish to become a member.
#[derive(Clone)]
pub struct AdmissionRequest {
    /// Its secp256k1 secret.
    pub secret_key: [u8; 32],
    /// Any member: `host:port` or a multiaddr. With a trailing `/p2p/<peer id>` nobody else's answer is taken; without, the
    /// answer is as trustworthy as the way to that address.
    pub member: String,
    /// Where this node will be reached, at most 8. Empty: it will dial the others.
    pub addresses: Vec<String>,
    /// Chain id and genesis hash, if this node knows which chain it wants to join.
    pub chain: Option<(u64, [u8; 32])>,
    /// For everything together.
    pub timeout: Duration,
}

impl fmt::Debug for AdmissionRequest {
    /// The secret stays out of logs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AdmissionRequest")
            .field("member", &self.member)
            .field("addresses", &self.addresses)
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}

/// An answer, and whose it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admission {
    /// libp2p peer id of the node that answered; it proved that key, not that it is a member.
    pub by: String,
    /// What it said.
    pub answer: AdmissionAnswer,
}

/// Asks a member, once, whether this node is admitted. Needs a tokio runtime and no network of ours.
///
/// # Errors
/// [`AdmissionError`]; see its `is_retryable`.
pub async fn ask_admission(request: AdmissionRequest) -> Result<Admission, AdmissionError> {
    let pair = members::keypair(&request.secret_key)?;
    let own = identity::PublicKey::from(pair.public().clone()).to_peer_id();
    if request.addresses.len() > ADDRESSES_MAX {
        return Err(AdmissionError::Address(AddressError::Count {
            got: request.addresses.len(),
            min: 0,
            max: ADDRESSES_MAX,
        }));
    }
    for text in &request.addresses {
        DialAddress::parse(text, &own)?;
    }
    let (address, expected) = DialAddress::parse_with_peer(&request.member)?;
    let noise = noise::Config::new(&identity::Keypair::from(pair)).map_err(|error| {
        AdmissionError::Unreachable {
            member: request.member.clone(),
            reason: error.to_string(),
        }
    })?;
    let limit = request.timeout;
    let asking = Asking {
        member: &request.member,
        expected,
        body: application::encode(request.chain, &request.addresses),
        limit,
    };
    match timeout(limit, asking.ask(&address, noise)).await {
        Ok(result) => result,
        Err(_elapsed) => Err(AdmissionError::Timeout {
            member: request.member.clone(),
            limit,
        }),
    }
}

/// One attempt to be admitted.
struct Asking<'a> {
    member: &'a str,
    expected: Option<PeerId>,
    body: Vec<u8>,
    limit: Duration,
}

impl Asking<'_> {
    async fn ask(
        self,
        address: &DialAddress,
        noise: noise::Config,
    ) -> Result<Admission, AdmissionError> {
        let socket = self.connect(address).await?;
        let unreachable = |reason: &dyn ToString| self.unreachable(reason);
        // Each protocol is proposed together with its first bytes, as libp2p does on the other connections.
        let (name, socket) = dialer_select_proto(socket.compat(), [ENCRYPTION], Version::V1Lazy)
            .await
            .map_err(|error| unreachable(&error))?;
        let (peer, secured) = noise
            .upgrade_outbound(socket, name)
            .await
            .map_err(|error| unreachable(&error))?;
        if let Some(expected) = self.expected
            && expected != peer
        {
            return Err(AdmissionError::WrongPeer {
                member: self.member.to_owned(),
                expected: expected.to_string(),
                got: peer.to_string(),
            });
        }
        let (_name, stream) = dialer_select_proto(secured, [entry::PROTOCOL], Version::V1Lazy)
            .await
            .map_err(|error| unreachable(&error))?;
        let answer = self.exchange(stream, peer).await?;
        Ok(Admission {
            by: peer.to_string(),
            answer,
        })
    }

    async fn connect(&self, address: &DialAddress) -> Result<TcpStream, AdmissionError> {
        let found = address
            .resolve(&Resolver::System)
            .await
            .map_err(|error| self.unreachable(&error))?;
        let mut last = None;
        for socket in found.into_iter().take(ADDRESSES_PER_DIAL) {
            match connect(socket).await {
                Ok(stream) => return Ok(stream),
                Err(error) => last = Some(error),
            }
        }
        Err(match last {
            Some(error) => self.unreachable(&error),
            None => self.unreachable(&"the name has no address"),
        })
    }

    async fn exchange<S>(
        &self,
        mut stream: S,
        peer: PeerId,
    ) -> Result<AdmissionAnswer, AdmissionError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let by = peer.to_string();
        handshake::write_frame(&mut stream, &handshake::application_frame(&self.body))
            .await
            .map_err(|error| self.unreachable(&error))?;
        let code = loop {
            match handshake::read_frame(&mut stream, ANSWER_FRAME_MAX)
                .await
                .map_err(|error| self.unreachable(&error))?
            {
                // It knows our key already, and greets before it listens.
                Ok(Frame::Hello(_)) => {}
                Ok(Frame::Verdict(code)) => break code,
                Ok(Frame::Application(_)) => {
                    return Err(AdmissionError::Malformed {
                        by,
                        reason: "an application in return".to_owned(),
                    });
                }
                Err(reason) => {
                    return Err(AdmissionError::Malformed {
                        by,
                        reason: reason.to_string(),
                    });
                }
            }
        };
        match code {
            Code::NotYet => Ok(AdmissionAnswer::NotYet),
            Code::Removed => Ok(AdmissionAnswer::Removed),
            Code::Busy => Err(AdmissionError::Busy { by }),
            Code::ChainId | Code::Genesis => Err(AdmissionError::OtherChain { by }),
            Code::Protocol => Err(AdmissionError::Protocol {
                by,
                ours: PROTOCOL_VERSION,
            }),
            Code::Admitted => {
                let mut reader = FrameReader::new(stream, ADMISSION_BYTES_MAX, self.limit);
                match reader.only().await {
                    Ok(body) => Ok(AdmissionAnswer::Admitted { body }),
                    Err(error) => Err(AdmissionError::Malformed {
                        by,
                        reason: error.to_string(),
                    }),
                }
            }
            Code::Welcome | Code::Malformed | Code::RaftId | Code::OtherLog => {
                Err(AdmissionError::Malformed {
                    by,
                    reason: format!("the answer is {code:?}"),
                })
            }
        }
    }

    fn unreachable(&self, reason: &dyn ToString) -> AdmissionError {
        AdmissionError::Unreachable {
            member: self.member.to_owned(),
            reason: reason.to_string(),
        }
    }
}

async fn connect(socket: SocketAddr) -> std::io::Result<TcpStream> {
    let stream = TcpStream::connect(socket).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Anything bytes go through both ways.
pub(crate) trait Duplex: AsyncRead + AsyncWrite + Unpin + Send {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Duplex for S {}

/// Somebody who waits for the answer to its application.
pub(crate) struct Applicant {
    pub(crate) application: Application,
    pub(crate) stream: Box<dyn Duplex>,
    /// Among the strangers; given back when it has its answer.
    pub(crate) place: Place,
}

impl fmt::Debug for Applicant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Applicant")
            .field("application", &self.application)
            .field("place", &self.place)
            .finish_non_exhaustive()
    }
}

impl Applicant {
    /// Puts the question to the application and passes its answer on.
    pub(crate) async fn serve(self, control: mpsc::Sender<Request>, timing: Timing) {
        let Self {
            application,
            mut stream,
            place,
        } = self;
        let peer = application.peer;
        let (reply, answered) = oneshot::channel();
        let request = Request::Admission {
            public_key: application.public_key,
            addresses: application.addresses,
            reply,
        };
        let asking = async {
            control.send(request).await.ok()?;
            answered.await.ok()
        };
        let answer = timeout(timing.stranger_timeout, asking).await;
        let outcome = match answer {
            Ok(Some(AdmissionAnswer::NotYet)) => {
                handshake::say_and_close(&mut stream, Code::NotYet).await;
                "not_yet"
            }
            Ok(Some(AdmissionAnswer::Removed)) => {
                handshake::say_and_close(&mut stream, Code::Removed).await;
                "removed"
            }
            Ok(Some(AdmissionAnswer::Admitted { body })) if body.len() > ADMISSION_BYTES_MAX => {
                tracing::error!(
                    bytes = body.len(),
                    max = ADMISSION_BYTES_MAX,
                    "the content of an admission is too large to be sent"
                );
                handshake::say_and_close(&mut stream, Code::Busy).await;
                "too_large"
            }
            Ok(Some(AdmissionAnswer::Admitted { body })) => {
                let limit = timing.stranger_timeout * CONTENT_TIMES;
                match timeout(limit, admit(&mut stream, body)).await {
                    Ok(Ok(())) => "admitted",
                    Ok(Err(error)) => {
                        tracing::debug!(%peer, %error, "an admission was not delivered");
                        "broken"
                    }
                    Err(_elapsed) => "broken",
                }
            }
            Ok(None) | Err(_) => {
                handshake::say_and_close(&mut stream, Code::Busy).await;
                "busy"
            }
        };
        drop(place);
        metrics::admission(outcome);
        tracing::debug!(%peer, outcome, "answered an application for admission");
    }
}

async fn admit<S: Duplex>(stream: &mut S, body: Bytes) -> std::io::Result<()> {
    handshake::write_frame(stream, &handshake::verdict(Code::Admitted)).await?;
    frame::write_frames(stream, &[body], &mut BytesMut::new()).await?;
    handshake::linger(stream).await
}
