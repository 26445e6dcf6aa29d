//! Who gets in. After Noise has proved the other side's key, and before Yamux, so before any protocol and any state:
//! the key must be in the whitelist, the two sides exchange a hello and compare it, and each tells the other its verdict.
//!
//! Members send before they read, so each of them learns both values and can say them. A stranger that dialled us speaks
//! first, within limits of its own ([`Strangers`]), and is sent nothing but a verdict that it has a right to: that the raft
//! id it claims was removed, that we are busy, or the answer to its application. A stranger that we dialled is sent nothing.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
    time::Instant,
};

use futures::{AsyncRead, AsyncWrite};
use libp2p::PeerId;
use parking_lot::{Mutex, RwLock};
use tokio::sync::mpsc;

use crate::{
    admission::Applicant,
    application::{APPLICATION_BYTES_MAX, Application},
    handshake::{
        Claim, Code, FRAME_BYTES_MAX, Frame, HandshakeError, Hello, Reason, Refused, read_frame,
        say_and_close, verdict, write_frame,
    },
    strangers::{Place, Strangers},
};

/// Who may connect, and who may no more.
#[derive(Debug, Default)]
struct Whitelist {
    allowed: BTreeMap<PeerId, u64>,
    removed: BTreeSet<u64>,
}

/// How a connection began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Origin {
    /// We dialled an address of this peer.
    Dialled { expected: Option<PeerId> },
    /// It came from there.
    Accepted { from: IpAddr },
}

/// What every handshake of this node consults.
#[derive(Debug)]
pub(crate) struct Gate {
    hello: Hello,
    whitelist: RwLock<Whitelist>,
    /// The Raft logs with which members were seen. Grows by one entry per raft id, and those are few.
    logs: Mutex<BTreeMap<u64, [u8; 16]>>,
    /// Those of them that the application knew from the start.
    remembered: BTreeMap<u64, [u8; 16]>,
    strangers: Arc<Strangers>,
    /// Those who are to be answered; when full, they are told that we are busy.
    applicants: mpsc::Sender<Applicant>,
}

impl Gate {
    pub(crate) fn new(
        hello: Hello,
        mut known_logs: BTreeMap<u64, [u8; 16]>,
        strangers: Arc<Strangers>,
        applicants: mpsc::Sender<Applicant>,
    ) -> Self {
        known_logs.retain(|_raft_id, log_id| *log_id != [0; 16]);
        Self {
            hello,
            whitelist: RwLock::default(),
            logs: Mutex::new(known_logs.clone()),
            remembered: known_logs,
            strangers,
            applicants,
        }
    }

    /// Replaces the whitelist.
    pub(crate) fn allow_only(&self, allowed: BTreeMap<PeerId, u64>, removed: BTreeSet<u64>) {
        *self.whitelist.write() = Whitelist { allowed, removed };
    }

    /// The Raft log with which a member was seen.
    pub(crate) fn log_of(&self, raft_id: u64) -> Option<[u8; 16]> {
        self.logs.lock().get(&raft_id).copied()
    }

    /// The Raft log that the application knew a member by from the start.
    pub(crate) fn remembered_log_of(&self, raft_id: u64) -> Option<[u8; 16]> {
        self.remembered.get(&raft_id).copied()
    }

    /// Lets a connection through, or refuses it, or hands it over as an applicant's.
    pub(crate) async fn pass<S>(
        &self,
        peer: PeerId,
        origin: Origin,
        stream: S,
    ) -> Result<S, HandshakeError>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let table = self.whitelist.read().allowed.get(&peer).copied();
        match (table, origin) {
            (Some(raft_id), Origin::Dialled { expected }) => match expected {
                Some(expected) if expected != peer => {
                    Err(refused(peer, Reason::WrongPeer { expected }))
                }
                _ => self.meet(peer, raft_id, origin, stream).await,
            },
            (Some(raft_id), Origin::Accepted { .. }) => {
                self.meet(peer, raft_id, origin, stream).await
            }
            (None, Origin::Dialled { .. }) => Err(refused(peer, Reason::UnknownKey)),
            (None, Origin::Accepted { from }) => self.hear_stranger(peer, from, stream).await,
        }
    }

    /// Exchanges hello and verdict with the holder of a member's key.
    async fn meet<S>(
        &self,
        peer: PeerId,
        raft_id: u64,
        origin: Origin,
        mut stream: S,
    ) -> Result<S, HandshakeError>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        write_frame(&mut stream, &self.hello.encode()).await?;
        let max = match origin {
            Origin::Dialled { .. } => FRAME_BYTES_MAX,
            Origin::Accepted { .. } => APPLICATION_BYTES_MAX,
        };
        let judged = match read_frame(&mut stream, max).await? {
            Ok(Frame::Hello(bytes)) => self.judge(raft_id, &bytes),
            Ok(Frame::Verdict(code)) => return Err(refused(peer, Reason::Told(code))),
            Ok(Frame::Application(bytes)) => match origin {
                Origin::Accepted { from } => {
                    let place = self.strangers.enter(from, Instant::now());
                    return self.hear_applicant(peer, &bytes, stream, place).await;
                }
                Origin::Dialled { .. } => Err(Reason::Malformed("an application")),
            },
            Err(reason) => Err(reason),
        };
        let claim = match judged {
            Ok(claim) => claim,
            Err(reason) => return Err(refuse(peer, reason, stream).await),
        };
        write_frame(&mut stream, &verdict(Code::Welcome)).await?;
        match read_frame(&mut stream, FRAME_BYTES_MAX).await? {
            Ok(Frame::Verdict(Code::Welcome)) => {}
            Ok(Frame::Verdict(code)) => return Err(refused(peer, Reason::Told(code))),
            Ok(Frame::Hello(_) | Frame::Application(_)) => {
                return Err(refused(peer, Reason::Malformed("no verdict after it")));
            }
            Err(reason) => return Err(refused(peer, reason)),
        }
        if claim.log_id != [0; 16] {
            self.logs.lock().entry(raft_id).or_insert(claim.log_id);
        }
        Ok(stream)
    }

    /// Whether the holder of the key of member `raft_id` may come in with this hello.
    fn judge(&self, raft_id: u64, bytes: &[u8]) -> Result<Claim, Reason> {
        let claim = self.hello.compare(bytes)?;
        if claim.raft_id != raft_id {
            // The same key may be back as another member; who still believes to be the old one is that one no more.
            return Err(if self.whitelist.read().removed.contains(&claim.raft_id) {
                Reason::Removed {
                    raft_id: claim.raft_id,
                }
            } else {
                Reason::RaftId {
                    theirs: claim.raft_id,
                    table: raft_id,
                }
            });
        }
        match self.log_of(raft_id) {
            Some(known) if known != claim.log_id => Err(Reason::OtherLog {
                raft_id,
                theirs: hex::encode(claim.log_id),
                known: hex::encode(known),
            }),
            _ => Ok(claim),
        }
    }

    /// Lets somebody with an unknown key say what it wants.
    async fn hear_stranger<S>(
        &self,
        peer: PeerId,
        from: IpAddr,
        mut stream: S,
    ) -> Result<S, HandshakeError>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let Some(place) = self.strangers.enter(from, Instant::now()) else {
            return Err(refuse(peer, Reason::Strangers, stream).await);
        };
        let reason = match read_frame(&mut stream, APPLICATION_BYTES_MAX).await? {
            Ok(Frame::Application(bytes)) => {
                return self.hear_applicant(peer, &bytes, stream, Some(place)).await;
            }
            Ok(Frame::Hello(bytes)) => match self.hello.compare(&bytes) {
                Ok(claim) if self.whitelist.read().removed.contains(&claim.raft_id) => {
                    Reason::Removed {
                        raft_id: claim.raft_id,
                    }
                }
                _ => Reason::UnknownKey,
            },
            Ok(Frame::Verdict(_)) | Err(_) => Reason::UnknownKey,
        };
        Err(refuse(peer, reason, stream).await)
    }

    /// Hands an applicant to those who answer it; always an error, because no connection comes of it.
    async fn hear_applicant<S>(
        &self,
        peer: PeerId,
        bytes: &[u8],
        stream: S,
        place: Option<Place>,
    ) -> Result<S, HandshakeError>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let Some(place) = place else {
            return Err(refuse(peer, Reason::Strangers, stream).await);
        };
        let application = match Application::read(peer, bytes, &self.hello) {
            Ok(application) => application,
            Err(reason) => return Err(refuse(peer, reason, stream).await),
        };
        let applicant = Applicant {
            application,
            stream: Box::new(stream),
            place,
        };
        match self.applicants.try_send(applicant) {
            Ok(()) => Err(refused(peer, Reason::Applicant)),
            Err(
                mpsc::error::TrySendError::Full(applicant)
                | mpsc::error::TrySendError::Closed(applicant),
            ) => Err(refuse(peer, Reason::Strangers, applicant.stream).await),
        }
    }
}

fn refused(peer: PeerId, reason: Reason) -> HandshakeError {
    HandshakeError::Refused(Box::new(Refused { peer, reason }))
}

/// Tells the other side why, as far as it has a right to know, and sees that it hears it.
async fn refuse<S>(peer: PeerId, reason: Reason, mut stream: S) -> HandshakeError
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    if let Some(code) = reason.code() {
        say_and_close(&mut stream, code).await;
    }
    refused(peer, reason)
}

#[cfg(test)]
mod tests {
    use futures::{AsyncReadExt, AsyncWriteExt};
    use tokio_util::compat::{Compat, TokioAsyncReadCompatExt};

    use super::*;
    use crate::config::Limits;

    const HELLO: Hello = Hello {
        protocol: 2,
        raft_id: 5,
        chain_id: 1337,
        genesis: [7; 32],
        log_id: [9; 16],
    };

    fn gate(hello: Hello, allowed: &[(PeerId, u64)], removed: &[u64]) -> Gate {
        let strangers = Arc::new(Strangers::new(&Limits::default()));
        let (applicants, _nobody) = mpsc::channel(1);
        let gate = Gate::new(hello, BTreeMap::new(), strangers, applicants);
        let allowed = allowed.iter().copied().collect();
        gate.allow_only(allowed, removed.iter().copied().collect());
        gate
    }

    const INBOUND: Origin = Origin::Accepted {
        from: IpAddr::V4(std::net::Ipv4Addr::LOCALHOST),
    };
    const OUTBOUND: Origin = Origin::Dialled { expected: None };

    fn line() -> (
        Compat<tokio::io::DuplexStream>,
        Compat<tokio::io::DuplexStream>,
    ) {
        let (one, two) = tokio::io::duplex(4_096);
        (one.compat(), two.compat())
    }

    /// The reasons at the dialling and the accepting side; `None` means that it let the other one in.
    async fn meet(dialler: (&Gate, PeerId), acceptor: (&Gate, PeerId)) -> [Option<Reason>; 2] {
        let (one, two) = line();
        let (there, here) = tokio::join!(
            dialler.0.pass(acceptor.1, OUTBOUND, one),
            acceptor.0.pass(dialler.1, INBOUND, two),
        );
        [there, here].map(|side| match side {
            Ok(_stream) => None,
            Err(HandshakeError::Refused(refused)) => Some(refused.reason),
            Err(HandshakeError::Io(error)) => panic!("{error}"),
        })
    }

    #[tokio::test]
    async fn members_remember_each_others_logs_and_refuse_another_one() {
        let (one, two) = (PeerId::random(), PeerId::random());
        let first = gate(
            Hello {
                raft_id: 1,
                ..HELLO
            },
            &[(two, 2)],
            &[],
        );
        let log = |log_id| {
            let hello = Hello {
                raft_id: 2,
                log_id: [log_id; 16],
                ..HELLO
            };
            gate(hello, &[(one, 1)], &[])
        };
        // Without a log there is nothing to remember.
        assert_eq!(meet((&first, one), (&log(0), two)).await, [None, None]);
        assert_eq!(first.log_of(2), None);
        let second = log(3);
        assert_eq!(meet((&first, one), (&second, two)).await, [None, None]);
        assert_eq!(
            (first.log_of(2), second.log_of(1)),
            (Some([3; 16]), Some([9; 16]))
        );
        for wiped in [4, 0] {
            let wiped = log(wiped);
            let [ours, theirs] = meet((&first, one), (&wiped, two)).await;
            assert_eq!(ours.unwrap().label(), "other_log");
            assert_eq!(theirs, Some(Reason::Told(Code::OtherLog)));
            let [theirs, ours] = meet((&wiped, two), (&first, one)).await;
            assert_eq!(ours.unwrap().label(), "other_log");
            assert_eq!(theirs, Some(Reason::Told(Code::OtherLog)));
        }
        assert_eq!(meet((&second, two), (&first, one)).await, [None, None]);
    }

    #[tokio::test]
    async fn a_removed_id_is_told_so_also_when_its_key_is_back_under_another_id() {
        let (one, two) = (PeerId::random(), PeerId::random());
        let stale = gate(
            Hello {
                raft_id: 2,
                ..HELLO
            },
            &[(one, 1)],
            &[],
        );
        for allowed in [vec![], vec![(two, 4)]] {
            let ours = gate(
                Hello {
                    raft_id: 1,
                    ..HELLO
                },
                &allowed,
                &[2],
            );
            let [theirs, here] = meet((&stale, two), (&ours, one)).await;
            assert_eq!(here, Some(Reason::Removed { raft_id: 2 }));
            assert_eq!(theirs, Some(Reason::Told(Code::Removed)));
        }
        let ours = gate(
            Hello {
                raft_id: 1,
                ..HELLO
            },
            &[(two, 4)],
            &[],
        );
        let [_, here] = meet((&stale, two), (&ours, one)).await;
        assert_eq!(
            here,
            Some(Reason::RaftId {
                theirs: 2,
                table: 4
            })
        );
    }

    #[tokio::test]
    async fn a_member_at_another_members_address_is_not_even_greeted() {
        let (one, two) = (PeerId::random(), PeerId::random());
        let ours = gate(HELLO, &[(one, 1), (two, 2)], &[]);
        let (near, mut far) = line();
        let origin = Origin::Dialled {
            expected: Some(one),
        };
        let error = ours.pass(two, origin, near).await.map(drop).unwrap_err();
        assert!(error.to_string().contains(&one.to_string()), "{error}");
        let mut sent = Vec::new();
        far.read_to_end(&mut sent).await.unwrap();
        assert!(sent.is_empty());
    }

    #[tokio::test]
    async fn a_stranger_is_sent_nothing_whoever_dialled() {
        for origin in [OUTBOUND, INBOUND] {
            let (near, mut far) = line();
            if origin == INBOUND {
                write_frame(&mut far, &HELLO.encode()).await.unwrap();
            }
            let ours = gate(HELLO, &[], &[1]);
            let error = ours.pass(PeerId::random(), origin, near).await;
            let error = error.map(drop).unwrap_err();
            assert!(
                error
                    .to_string()
                    .ends_with("its key is not that of a member"),
                "{error}"
            );
            let mut sent = Vec::new();
            far.read_to_end(&mut sent).await.unwrap();
            assert!(sent.is_empty());
        }
    }

    #[tokio::test]
    async fn a_frame_longer_than_allowed_is_refused_unread() {
        let peer = PeerId::random();
        for (allowed, said) in [
            (vec![(peer, 1)], "longer"),
            (vec![], "not that of a member"),
        ] {
            let (near, mut far) = line();
            far.write_all(&[0xff, 0xff]).await.unwrap();
            far.close().await.unwrap();
            let ours = gate(HELLO, &allowed, &[]);
            let error = ours.pass(peer, INBOUND, near).await.map(drop).unwrap_err();
            assert!(error.to_string().contains(said), "{error}");
        }
    }
}
