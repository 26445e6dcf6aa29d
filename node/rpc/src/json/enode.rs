//! Members' keys and addresses in the forms that Ethereum's tools know.

use quorate_chain::NodeId;

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

#[cfg(test)]
mod tests {
    use super::*;

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
        // The generator of secp256k1.
        let id: NodeId = "0x0279be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798"
            .parse()
            .unwrap();
        let expected = "enode://79be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798\
                        483ada7726a3c4655da4fbfc0e1108a8fd17b448a68554199c47d08ffb10d4b8@[::1]:30303";
        assert_eq!(enode(&id, "/ip6/::1/tcp/30303"), expected);
    }
}
