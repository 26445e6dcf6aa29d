//! Members' keys and addresses in the forms that operators and Ethereum's tools know.

use quorate_chain::{NodeId, NodeIdError};

/// A libp2p peer id of a secp256k1 key: an identity multihash (code 0, 37 bytes) of the key's protobuf form (type 2, 33 bytes),
/// as the libp2p specification of peer ids describes. So the key can be read out of the id.
const PEER_ID_PREFIX: [u8; 6] = [0x00, 0x25, 0x08, 0x02, 0x12, 0x21];
/// Bytes of such a peer id.
const PEER_ID_BYTES: usize = PEER_ID_PREFIX.len() + 33;
/// Longest text that is looked at.
const URL_BYTES_MAX: usize = 1_024;

/// Why a text names no member.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MemberUrlError {
    /// None of the forms.
    #[error(
        "must be enode://<128 hexadecimal digits>@host:port, <node id>@host:port, or a multiaddress that ends in /p2p/<peer id>"
    )]
    Form,
    /// The key of an enode is no key.
    #[error("the key of an enode must be 128 hexadecimal digits of a point of secp256k1")]
    EnodeKey,
    /// The node id is none.
    #[error(transparent)]
    NodeId(#[from] NodeIdError),
    /// The peer id is none, or of another kind of key.
    #[error("peer id {peer_id:?} is not that of a secp256k1 key (they begin with 16Uiu2HA)")]
    PeerId {
        /// What was given.
        peer_id: String,
    },
    /// Nobody can be reached there.
    #[error("address {reason}")]
    Address {
        /// What is allowed.
        reason: String,
    },
}

/// Reads a member's key and address out of one text: `enode://<key>@host:port[?…]` (what follows the question mark is
/// ignored: one port carries everything here), `<node id>@<address>`, or a multiaddress that ends in `/p2p/<peer id>`.
///
/// # Errors
/// [`MemberUrlError`].
pub fn parse_member_url(text: &str) -> Result<(NodeId, String), MemberUrlError> {
    if text.len() > URL_BYTES_MAX {
        return Err(MemberUrlError::Form);
    }
    let (node_id, address) = if let Some(rest) = text.strip_prefix("enode://") {
        let (key, place) = rest.split_once('@').ok_or(MemberUrlError::Form)?;
        let address = place.split_once('?').map_or(place, |(address, _)| address);
        (enode_key(key)?, address.trim_end_matches('/'))
    } else if text.starts_with('/') {
        let (address, peer_id) = text.rsplit_once("/p2p/").ok_or(MemberUrlError::Form)?;
        (peer_key(peer_id)?, address)
    } else {
        let (node_id, address) = text.split_once('@').ok_or(MemberUrlError::Form)?;
        (node_id.parse()?, address)
    };
    match address_fault(address) {
        None => Ok((node_id, address.to_owned())),
        Some(reason) => Err(MemberUrlError::Address { reason }),
    }
}

/// Only the key: what [`parse_member_url`] reads, or a bare node id.
///
/// # Errors
/// [`MemberUrlError`].
pub(crate) fn parse_member_key(text: &str) -> Result<NodeId, MemberUrlError> {
    if text.contains(['@', '/']) {
        parse_member_url(text).map(|(node_id, _)| node_id)
    } else {
        Ok(text.parse()?)
    }
}

/// The uncompressed point without its leading 4.
fn enode_key(digits: &str) -> Result<NodeId, MemberUrlError> {
    let mut point = [4u8; 65];
    let body = point.get_mut(1..).ok_or(MemberUrlError::EnodeKey)?;
    hex::decode_to_slice(digits, body).map_err(|_| MemberUrlError::EnodeKey)?;
    let key = secp256k1::PublicKey::from_slice(&point).map_err(|_| MemberUrlError::EnodeKey)?;
    Ok(NodeId::of(&key))
}

fn peer_key(peer_id: &str) -> Result<NodeId, MemberUrlError> {
    let refused = || MemberUrlError::PeerId {
        peer_id: peer_id.to_owned(),
    };
    // One byte more than needed, so that a longer id is seen as such.
    let mut decoded = [0u8; PEER_ID_BYTES + 1];
    let length = bs58::decode(peer_id)
        .onto(decoded.as_mut_slice())
        .map_err(|_| refused())?;
    let key = decoded
        .get(..length)
        .and_then(|bytes| bytes.strip_prefix(&PEER_ID_PREFIX))
        .and_then(|key| <[u8; 33]>::try_from(key).ok())
        .ok_or_else(refused)?;
    NodeId::from_bytes(key).map_err(|_| refused())
}

/// A key as it stands in an enode: 64 bytes without a prefix, 128 hexadecimal digits.
pub(crate) fn public_key_hex(node_id: &NodeId) -> String {
    match secp256k1::PublicKey::from_slice(node_id.as_bytes()) {
        Ok(key) => key
            .serialize_uncompressed()
            .get(1..)
            .map(hex::encode)
            .unwrap_or_default(),
        // A node id is a checked point of the curve.
        Err(_) => String::new(),
    }
}

/// `enode://<key>@host:port`.
pub(crate) fn enode(node_id: &NodeId, address: &str) -> String {
    let (host, port) = host_and_port(address);
    let host = if host.contains(':') {
        format!("[{host}]")
    } else {
        host
    };
    format!("enode://{}@{host}:{port}", public_key_hex(node_id))
}

/// Host and port of `host:port`, `[v6]:port` or a multiaddress (`/ip4/…/tcp/…`, `/dns4/…/tcp/…`). What is not there is empty
/// or zero.
pub(crate) fn host_and_port(address: &str) -> (String, u16) {
    if address.starts_with('/') {
        let mut parts = address.split('/').skip(1);
        let (mut host, mut port) = (String::new(), 0);
        while let (Some(protocol), Some(value)) = (parts.next(), parts.next()) {
            match protocol {
                "ip4" | "ip6" | "dns" | "dns4" | "dns6" => host = value.to_owned(),
                "tcp" => port = value.parse().unwrap_or_default(),
                _ => {}
            }
        }
        return (host, port);
    }
    match address.rsplit_once(':') {
        Some((host, port)) => {
            let host = host.trim_start_matches('[').trim_end_matches(']');
            (host.to_owned(), port.parse().unwrap_or_default())
        }
        None => (address.to_owned(), 0),
    }
}

/// The key that a multiaddress names at its end, if it does.
///
/// # Errors
/// [`MemberUrlError::PeerId`].
pub(crate) fn key_in_address(address: &str) -> Result<Option<NodeId>, MemberUrlError> {
    match address.rsplit_once("/p2p/") {
        Some((_, peer_id)) => peer_key(peer_id).map(Some),
        None => Ok(None),
    }
}

/// Why nobody can be dialled at `address`, a `host:port` or a multiaddress with or without `/p2p/…` at its end; `None` if it
/// has a form that can.
pub(crate) fn address_fault(address: &str) -> Option<String> {
    if let Err(error) = key_in_address(address) {
        return Some(error.to_string());
    }
    let address = address
        .rsplit_once("/p2p/")
        .map_or(address, |(address, _)| address);
    let form = || {
        Some(format!(
            "{address:?} is neither host:port nor a multiaddress (/ip4/…/tcp/…, /dns4/…/tcp/…)"
        ))
    };
    let (host, port) = match address.strip_prefix('/') {
        Some(parts) => match parts.split('/').collect::<Vec<_>>().as_slice() {
            ["ip4", ip, "tcp", port] if ip.parse::<std::net::Ipv4Addr>().is_ok() => (*ip, *port),
            ["ip6", ip, "tcp", port] if ip.parse::<std::net::Ipv6Addr>().is_ok() => (*ip, *port),
            ["dns" | "dns4" | "dns6", name, "tcp", port] if is_name(name) => (*name, *port),
            _ => return form(),
        },
        None => {
            let Some((host, port)) = address.rsplit_once(':') else {
                return form();
            };
            let is_v6 = host
                .strip_prefix('[')
                .and_then(|host| host.strip_suffix(']'))
                .is_some_and(|ip| ip.parse::<std::net::Ipv6Addr>().is_ok());
            if !is_v6 && !is_name(host) {
                return form();
            }
            (host, port)
        }
    };
    match port.parse::<u16>() {
        Ok(0) => Some(format!("{address:?}: port 0 cannot be dialled")),
        Ok(_) if host == "0.0.0.0" || matches!(host, "::" | "[::]") => Some(format!(
            "{address:?}: others cannot dial the unspecified address {host}"
        )),
        Ok(_) => None,
        Err(_) => form(),
    }
}

/// A host name or an IPv4 address.
fn is_name(name: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    !name.is_empty() && name.len() <= 253 && name.chars().all(allowed)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// The generator of secp256k1: the public key of the secret key 1.
    pub(crate) const GENERATOR: &str =
        "0x0279be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798";
    const GENERATOR_POINT: &str = "79be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798\
                                   483ada7726a3c4655da4fbfc0e1108a8fd17b448a68554199c47d08ffb10d4b8";

    /// The public key of the secret key `n`.
    pub(crate) fn key(n: u8) -> NodeId {
        let mut secret = [0; 32];
        secret[31] = n;
        let secret = secp256k1::SecretKey::from_byte_array(secret).unwrap();
        NodeId::of(&secret.public_key(secp256k1::SECP256K1))
    }

    fn encoded(prefix: &[u8], node_id: &NodeId) -> String {
        bs58::encode([prefix, node_id.as_bytes()].concat()).into_string()
    }

    /// The libp2p peer id of a key.
    pub(crate) fn peer_id(node_id: &NodeId) -> String {
        encoded(&PEER_ID_PREFIX, node_id)
    }

    #[test]
    fn hosts_and_ports_are_found_in_all_forms() {
        let cases = [
            ("node1:30303", ("node1", 30303)),
            ("10.0.0.7:1", ("10.0.0.7", 1)),
            ("[::1]:30303", ("::1", 30303)),
            ("/ip4/10.0.0.7/tcp/30303", ("10.0.0.7", 30303)),
            ("/dns4/node1/tcp/30303/p2p/16Uiu2", ("node1", 30303)),
            ("node1", ("node1", 0)),
            ("", ("", 0)),
        ];
        for (address, (host, port)) in cases {
            assert_eq!(host_and_port(address), (host.to_owned(), port), "{address}");
        }
    }

    #[test]
    fn an_enode_holds_the_uncompressed_key() {
        let id: NodeId = GENERATOR.parse().unwrap();
        let expected = format!("enode://{GENERATOR_POINT}@[::1]:30303");
        assert_eq!(enode(&id, "/ip6/::1/tcp/30303"), expected);
        assert_eq!(
            parse_member_url(&expected),
            Ok((id, "[::1]:30303".to_owned()))
        );
    }

    #[test]
    fn members_are_read_in_all_forms() {
        let id: NodeId = GENERATOR.parse().unwrap();
        let peer = peer_id(&id);
        assert!(peer.starts_with("16Uiu2HA"), "{peer}");
        let cases = [
            (
                format!("enode://{GENERATOR_POINT}@10.0.0.7:21000?discport=0&raftport=50400"),
                "10.0.0.7:21000",
            ),
            (format!("enode://{GENERATOR_POINT}@node7:1/"), "node7:1"),
            (format!("{GENERATOR}@node7:1"), "node7:1"),
            (format!("{}@node7:1", &GENERATOR[2..]), "node7:1"),
            (
                format!("{GENERATOR}@/dns4/node7/tcp/1"),
                "/dns4/node7/tcp/1",
            ),
            (
                format!("/ip4/10.0.0.7/tcp/30303/p2p/{peer}"),
                "/ip4/10.0.0.7/tcp/30303",
            ),
        ];
        for (text, address) in cases {
            assert_eq!(
                parse_member_url(&text),
                Ok((id, address.to_owned())),
                "{text}"
            );
            assert_eq!(parse_member_key(&text), Ok(id));
        }
        assert_eq!(parse_member_key(GENERATOR), Ok(id));
        let address = format!("/ip4/10.0.0.7/tcp/30303/p2p/{peer}");
        assert_eq!(address_fault(&address), None);
        assert_eq!(key_in_address(&address), Ok(Some(id)));
        assert_eq!(key_in_address("node7:1"), Ok(None));
    }

    #[test]
    fn what_names_no_member_is_refused_with_the_reason() {
        let id: NodeId = GENERATOR.parse().unwrap();
        let ed25519 = encoded(&[0x00, 0x25, 0x08, 0x01, 0x12, 0x21], &id);
        let longer = format!("{}1111", peer_id(&id));
        let cases = [
            (String::new(), "must be enode://"),
            ("node1:30303".into(), "must be enode://"),
            ("/ip4/10.0.0.7/tcp/1".into(), "must be enode://"),
            ("x".repeat(2_000), "must be enode://"),
            ("enode://12@a:1".into(), "128 hexadecimal digits"),
            (
                format!("enode://{}@a:1", "00".repeat(64)),
                "128 hexadecimal digits",
            ),
            ("0x12@a:1".into(), "node id must be 33 bytes"),
            (format!("/ip4/1.2.3.4/tcp/1/p2p/{ed25519}"), "peer id"),
            (format!("/ip4/1.2.3.4/tcp/1/p2p/{longer}"), "peer id"),
            ("/ip4/1.2.3.4/tcp/1/p2p/0OIl".into(), "peer id"),
            (format!("{GENERATOR}@node7"), "address \"node7\""),
            (
                format!("{GENERATOR}@node7:70000"),
                "address \"node7:70000\"",
            ),
            (format!("{GENERATOR}@:1"), "address \":1\""),
            (format!("{GENERATOR}@a b:1"), "address \"a b:1\""),
            (format!("{GENERATOR}@0.0.0.0:1"), "unspecified"),
            (format!("{GENERATOR}@[::]:1"), "unspecified"),
            (format!("{GENERATOR}@node7:0"), "port 0"),
            (format!("{GENERATOR}@/ip4/1.2.3/tcp/1"), "address \"/ip4"),
            (format!("{GENERATOR}@/ip4/1.2.3.4/udp/1"), "address \"/ip4"),
            (
                format!("{GENERATOR}@/ip4/1.2.3.4/tcp/1/p2p/x"),
                "address peer id \"x\"",
            ),
        ];
        for (text, expected) in cases {
            let error = parse_member_url(&text).unwrap_err().to_string();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }
}
