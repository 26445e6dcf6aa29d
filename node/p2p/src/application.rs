//! What an applicant for admission says.
//!
//! ```text
//! application   magic "QRTE" | version u16 | chain known u8 (0 or 1) | chain id u64 | genesis 32 bytes (zeros if not known)
//!               | count u8 (0 to 8) | count × ( length u16 | address, UTF-8, at most 512 bytes )
//!               | anything a later version may add; ignored
//! answer        a verdict frame of `handshake.rs`; after "admitted": length u32 | content
//! ```

use libp2p::{PeerId, identity};

use crate::{
    address::TEXT_BYTES_MAX,
    announcement::ADDRESSES_MAX,
    config::PROTOCOL_VERSION,
    handshake::{Hello, MAGIC, Reason},
};

/// Longest frame with an application that is read, its kind included.
pub(crate) const APPLICATION_BYTES_MAX: usize = 5 << 10;

/// An application for admission, its key proved by the connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Application {
    pub(crate) public_key: [u8; 33],
    pub(crate) peer: PeerId,
    pub(crate) addresses: Vec<String>,
}

impl Application {
    /// Reads an application (without its kind) of `peer`, and compares its version and chain with ours.
    pub(crate) fn read(peer: PeerId, bytes: &[u8], ours: &Hello) -> Result<Self, Reason> {
        let rest = ours.compare_version(bytes)?;
        let cut = || Reason::Malformed("application ends too early");
        let (known, rest) = rest.split_first().ok_or_else(cut)?;
        let (chain_id, rest) = rest.split_first_chunk::<8>().ok_or_else(cut)?;
        let (genesis, rest) = rest.split_first_chunk::<32>().ok_or_else(cut)?;
        match known {
            0 => {}
            1 => ours.compare_chain(u64::from_be_bytes(*chain_id), genesis)?,
            _ => return Err(Reason::Malformed("chain known is neither 0 nor 1")),
        }
        let (count, mut rest) = rest.split_first().ok_or_else(cut)?;
        if usize::from(*count) > ADDRESSES_MAX {
            return Err(Reason::Malformed("too many addresses"));
        }
        let mut addresses = Vec::with_capacity(usize::from(*count));
        for _ in 0..*count {
            let (length, after) = rest.split_first_chunk::<2>().ok_or_else(cut)?;
            let length = usize::from(u16::from_be_bytes(*length));
            if length > TEXT_BYTES_MAX {
                return Err(Reason::Malformed("address too long"));
            }
            let (text, after) = after.split_at_checked(length).ok_or_else(cut)?;
            let text = std::str::from_utf8(text)
                .map_err(|_error| Reason::Malformed("address is not UTF-8"))?;
            addresses.push(text.to_owned());
            rest = after;
        }
        let public_key =
            public_key_in(&peer).ok_or(Reason::Malformed("its key is not of secp256k1"))?;
        Ok(Self {
            public_key,
            peer,
            addresses,
        })
    }
}

/// An application's body, without its kind. The addresses have been checked.
pub(crate) fn encode(chain: Option<(u64, [u8; 32])>, addresses: &[String]) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend_from_slice(&MAGIC);
    bytes.extend_from_slice(&PROTOCOL_VERSION.to_be_bytes());
    bytes.push(u8::from(chain.is_some()));
    let (chain_id, genesis) = chain.unwrap_or_default();
    bytes.extend_from_slice(&chain_id.to_be_bytes());
    bytes.extend_from_slice(&genesis);
    bytes.push(addresses.len() as u8);
    for address in addresses {
        bytes.extend_from_slice(&(address.len() as u16).to_be_bytes());
        bytes.extend_from_slice(address.as_bytes());
    }
    bytes
}

/// The key inside a peer id: those of secp256k1 keys hold it whole.
fn public_key_in(peer: &PeerId) -> Option<[u8; 33]> {
    let key = identity::PublicKey::try_decode_protobuf(peer.as_ref().digest()).ok()?;
    if key.to_peer_id() != *peer {
        return None;
    }
    key.try_into_secp256k1().ok().map(|key| key.to_bytes())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::members::{peer_id, public_key_of};

    const OURS: Hello = Hello {
        protocol: PROTOCOL_VERSION,
        raft_id: 1,
        chain_id: 1337,
        genesis: [7; 32],
        log_id: [0; 16],
    };

    fn key() -> [u8; 33] {
        public_key_of(&[5; 32]).unwrap()
    }

    fn read(bytes: &[u8]) -> Result<Application, Reason> {
        Application::read(peer_id(&key()).unwrap(), bytes, &OURS)
    }

    #[test]
    fn what_is_written_is_read_back_with_the_key_from_the_peer_id() {
        let addresses = vec!["node-9:30303".to_owned(), "10.0.0.9:1".to_owned()];
        for chain in [None, Some((1337, [7; 32]))] {
            let read = read(&encode(chain, &addresses)).unwrap();
            assert_eq!((read.public_key, &read.addresses), (key(), &addresses));
        }
        assert_eq!(
            hex::encode(encode(Some((1337, [7; 32])), &["a:1".to_owned()])),
            format!(
                "5152544500020100000000000005 39{}01 0003613a31",
                "07".repeat(32)
            )
            .replace(' ', "")
        );
    }

    #[test]
    fn another_chain_and_another_kind_of_key_are_refused_by_name() {
        let refused = |chain| read(&encode(Some(chain), &[])).unwrap_err().label();
        assert_eq!(refused((1, [7; 32])), "chain_id");
        assert_eq!(refused((1337, [8; 32])), "genesis");
        // A random peer id is of another kind of key.
        let other = Application::read(PeerId::random(), &encode(None, &[]), &OURS);
        assert_eq!(other.unwrap_err().label(), "malformed_hello");
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..128), cut in 0_usize..60) {
            prop_assert!(read(&bytes).is_err());
            let whole = encode(None, &["node-9:30303".to_owned()]);
            prop_assert!(read(&whole[..cut.min(whole.len() - 1)]).is_err());
        }
    }
}
