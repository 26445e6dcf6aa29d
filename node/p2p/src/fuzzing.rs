//! Doors to the private decoders for the crate of fuzz targets; behind the feature `fuzzing`, and no part of the API.
//!
//! Each function answers whether the bytes were taken, and panics if a promise of the decoder is broken. Each has a
//! companion that makes bytes to begin with.

use std::sync::OnceLock;

use bytes::{Bytes, BytesMut};
use libp2p::{PeerId, identity::secp256k1};

use crate::{
    address::DialAddress,
    announcement::{Announcement, addresses_of},
    application::{self, Application},
    config::PROTOCOL_VERSION,
    frame::{FrameDecoder, FrameError, HEAD},
    handshake::{self, Code, Frame, Hello},
    members, wire,
};

const GENESIS: [u8; 32] = [7; 32];
const RAFT_ID: u64 = 2;

const OURS: Hello = Hello {
    protocol: PROTOCOL_VERSION,
    raft_id: 1,
    chain_id: 1337,
    genesis: GENESIS,
    log_id: [5; 16],
};

/// A member's key and peer id. Made once: they cost more than all that is tried here.
fn member() -> Option<&'static (secp256k1::Keypair, PeerId)> {
    static MEMBER: OnceLock<Option<(secp256k1::Keypair, PeerId)>> = OnceLock::new();
    let make = || {
        let pair = members::keypair(&[3; 32]).ok()?;
        let peer = members::peer_id(&pair.public().to_bytes()).ok()?;
        Some((pair, peer))
    };
    MEMBER.get_or_init(make).as_ref()
}

/// The frames of a stream that arrives in pieces of `piece` bytes, none longer than `max`.
#[must_use]
pub fn frames(bytes: &[u8], piece: usize, max: usize) -> bool {
    let mut decoder = FrameDecoder::new(max);
    let (mut fed, mut taken) = (0, 0);
    for piece in bytes.chunks(piece.max(1)) {
        decoder.feed(piece);
        fed += piece.len();
        loop {
            match decoder.next() {
                Ok(Some(frame)) => {
                    assert!(frame.len() <= max, "a frame over the limit was given out");
                    taken += HEAD + frame.len();
                }
                Ok(None) => break,
                Err(FrameError::TooLarge { length, .. }) => {
                    assert!(length > max, "a frame within the limit was refused");
                    return false;
                }
                Err(error) => panic!("there is no stream to fail: {error}"),
            }
        }
        assert_eq!(taken + decoder.pending(), fed, "bytes got lost");
    }
    decoder.pending() == 0
}

/// Two frames.
#[must_use]
pub fn frames_seeds() -> Vec<Vec<u8>> {
    vec![b"\0\0\0\x03abc\0\0\0\0\0\0\0\x01x".to_vec()]
}

/// One frame of the handshake, and what is compared of it.
#[must_use]
pub fn handshake(bytes: &[u8]) -> bool {
    let mut stream = futures::io::Cursor::new(bytes);
    let reading = handshake::read_frame(&mut stream, application::APPLICATION_BYTES_MAX);
    match futures::executor::block_on(reading) {
        Ok(Ok(Frame::Hello(body))) => match OURS.compare(&body) {
            Ok(claim) => {
                let said = Hello {
                    raft_id: claim.raft_id,
                    log_id: claim.log_id,
                    ..OURS
                };
                assert!(
                    said.encode()
                        .get(1..)
                        .is_some_and(|own| body.starts_with(own)),
                    "a hello was taken for another one"
                );
                true
            }
            Err(_reason) => false,
        },
        Ok(Ok(Frame::Application(body))) => match member() {
            Some((_pair, peer)) => Application::read(*peer, &body, &OURS).is_ok(),
            None => false,
        },
        Ok(Ok(Frame::Verdict(_code))) => true,
        Ok(Err(_reason)) => false,
        Err(_ended) => false,
    }
}

/// A hello, a verdict and two applications.
#[must_use]
pub fn handshake_seeds() -> Vec<Vec<u8>> {
    let addresses = ["node-2:30303".to_owned(), "/ip4/10.0.0.1/tcp/1".to_owned()];
    [
        OURS.encode(),
        handshake::verdict(Code::Admitted).to_vec(),
        handshake::application_frame(&application::encode(Some((1337, GENESIS)), &addresses)),
        handshake::application_frame(&application::encode(None, &[])),
    ]
    .into_iter()
    .map(|body| [&(body.len() as u16).to_be_bytes(), body.as_slice()].concat())
    .collect()
}

/// What is said on the streams: the first byte chooses the kind of message.
#[must_use]
pub fn messages(bytes: &[u8]) -> bool {
    let Some((kind, body)) = bytes.split_first() else {
        return false;
    };
    let body = Bytes::copy_from_slice(body);
    match kind % 5 {
        0 => wire::read_gossip(body.clone()).is_ok_and(|(items, relay)| {
            let nonce = body.get(2..10).and_then(|nonce| nonce.try_into().ok());
            let mut again =
                wire::gossip_message(u64::from_be_bytes(nonce.unwrap_or_default()), &items);
            if relay {
                wire::mark_for_relay(&mut again);
            }
            assert_eq!(again, body, "one gossip message, two encodings");
            true
        }),
        1 => wire::read_list(body.clone()).is_ok_and(|items| {
            let mut again = BytesMut::new();
            wire::put_list(&mut again, &items);
            assert_eq!(again, body, "one list, two encodings");
            true
        }),
        2 => wire::read_blocks_request(body.clone()).is_ok_and(|(first, count)| {
            assert_eq!(wire::blocks_request(first, count), body);
            true
        }),
        3 => wire::Control::read(body.clone()).is_ok_and(|control| {
            assert_eq!(control.encode(), body);
            true
        }),
        _ => wire::read_answer(body.clone()).is_ok_and(|(status, content)| {
            let again = if status == wire::Status::Done {
                wire::query_answer(&content)
            } else {
                wire::status_answer(status)
            };
            assert_eq!(again, body);
            true
        }),
    }
}

/// One message of each kind.
#[must_use]
pub fn messages_seeds() -> Vec<Vec<u8>> {
    let items = [Bytes::from_static(b"first"), Bytes::from_static(b"")];
    let mut list = BytesMut::new();
    wire::put_list(&mut list, &items);
    [
        wire::gossip_message(9, &items).freeze(),
        list.freeze(),
        wire::blocks_request(17, 256),
        wire::Control::Farewell.encode(),
        wire::blocks_answer(&items),
    ]
    .iter()
    .enumerate()
    .map(|(kind, body)| [&[kind as u8], body.as_ref()].concat())
    .collect()
}

/// An announcement of a member's addresses. Only what the member signed may be believed.
#[must_use]
pub fn announcement(bytes: &[u8]) -> bool {
    let Some((pair, peer)) = member() else {
        return false;
    };
    let record = Bytes::copy_from_slice(bytes);
    let key = pair.public().to_bytes();
    let read = Announcement::read(&record, &GENESIS, |id| {
        (id == RAFT_ID).then_some((key, *peer))
    });
    read.is_ok_and(|read| {
        assert_eq!(read.bytes, record);
        // Our signatures are deterministic and their encoding is unique: nobody without the key makes another one.
        let signed =
            Announcement::sign(pair, &GENESIS, read.raft_id, read.sequence, read.addresses);
        assert_eq!(signed.bytes, record, "a forged announcement was believed");
        true
    })
}

/// Two signed records.
#[must_use]
pub fn announcement_seeds() -> Vec<Vec<u8>> {
    let Some((pair, peer)) = member() else {
        return Vec::new();
    };
    let texts = ["10.0.0.7:30303".to_owned(), "node-2:9".to_owned()];
    let Ok(addresses) = addresses_of(&texts, peer) else {
        return Vec::new();
    };
    [7, u64::MAX]
        .map(|sequence| {
            Announcement::sign(pair, &GENESIS, RAFT_ID, sequence, addresses.clone())
                .bytes
                .to_vec()
        })
        .to_vec()
}

/// An address as operators, members and applicants write it.
#[must_use]
pub fn address(bytes: &[u8]) -> bool {
    let (Ok(text), Some((_pair, peer))) = (std::str::from_utf8(bytes), member()) else {
        return false;
    };
    DialAddress::parse(text, peer).is_ok_and(|address| {
        let again = DialAddress::parse(&address.to_string(), peer);
        assert_eq!(
            again.as_ref(),
            Ok(&address),
            "an address does not read back"
        );
        true
    })
}

/// Addresses of every form.
#[must_use]
pub fn address_seeds() -> Vec<Vec<u8>> {
    [
        "10.0.0.7:30303",
        "[fe80::1]:9",
        "node-2.bank.example:30303",
        "/ip4/10.0.0.1/tcp/1",
        "/ip6/::1/tcp/65535",
        "/dns4/node/tcp/2",
        "/dns/node/tcp/2/p2p/16Uiu2HAm1",
    ]
    .map(|text| text.as_bytes().to_vec())
    .to_vec()
}
