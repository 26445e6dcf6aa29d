//! Addresses of members. Names are kept as names and resolved at every dial, by the system's resolver and without a cache
//! of ours: a container that came back with another address must be found at the next attempt.

use std::{
    collections::BTreeSet,
    fmt, io,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use libp2p::{Multiaddr, PeerId, multiaddr::Protocol};

use crate::error::AddressError;

/// Most IP addresses tried in one dial of one member.
pub(crate) const ADDRESSES_PER_DIAL: usize = 32;

/// Longest text that is looked at.
pub(crate) const TEXT_BYTES_MAX: usize = 512;

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Host {
    Ip(IpAddr),
    Name(String, Family),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Family {
    Any,
    V4,
    V6,
}

/// A host and a port to dial.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct DialAddress {
    host: Host,
    port: u16,
}

impl DialAddress {
    /// Reads a multiaddr or `host:port`. `owner` is the peer a trailing `/p2p/…` must name.
    pub(crate) fn parse(text: &str, owner: &PeerId) -> Result<Self, AddressError> {
        match Self::parse_with_peer(text)? {
            (_address, Some(peer)) if peer != *owner => Err(AddressError::OtherPeer {
                address: text.to_owned(),
                got: peer.to_string(),
                expected: owner.to_string(),
            }),
            (address, _peer) => Ok(address),
        }
    }

    /// Reads a multiaddr or `host:port`, either with the peer that a trailing `/p2p/…` names.
    pub(crate) fn parse_with_peer(text: &str) -> Result<(Self, Option<PeerId>), AddressError> {
        let address = || text.chars().take(TEXT_BYTES_MAX).collect::<String>();
        let malformed = || AddressError::Malformed { address: address() };
        if text.len() > TEXT_BYTES_MAX {
            return Err(malformed());
        }
        let (parsed, peer) = if text.starts_with('/') {
            Self::from_multiaddr(text)?
        } else {
            let (host, peer) = match text.split_once("/p2p/") {
                Some((host, peer)) => (host, Some(peer.parse().map_err(|_error| malformed())?)),
                None => (text, None),
            };
            (Self::from_host_port(host).ok_or_else(malformed)?, peer)
        };
        if parsed.port == 0 {
            return Err(AddressError::PortZero { address: address() });
        }
        Ok((parsed, peer))
    }

    fn from_multiaddr(text: &str) -> Result<(Self, Option<PeerId>), AddressError> {
        let malformed = || AddressError::Malformed {
            address: text.to_owned(),
        };
        let unsupported = || AddressError::Unsupported {
            address: text.to_owned(),
        };
        let multiaddr: Multiaddr = text.parse().map_err(|_error| malformed())?;
        let mut parts = multiaddr.iter();
        let host = match parts.next() {
            Some(Protocol::Ip4(ip)) => Host::Ip(ip.into()),
            Some(Protocol::Ip6(ip)) => Host::Ip(ip.into()),
            Some(Protocol::Dns(name)) => Host::Name(name.into_owned(), Family::Any),
            Some(Protocol::Dns4(name)) => Host::Name(name.into_owned(), Family::V4),
            Some(Protocol::Dns6(name)) => Host::Name(name.into_owned(), Family::V6),
            _ => return Err(unsupported()),
        };
        let Some(Protocol::Tcp(port)) = parts.next() else {
            return Err(unsupported());
        };
        let peer = match parts.next() {
            None => None,
            Some(Protocol::P2p(peer)) => Some(peer),
            Some(_) => return Err(unsupported()),
        };
        if parts.next().is_some() {
            return Err(unsupported());
        }
        Ok((Self { host, port }, peer))
    }

    fn from_host_port(text: &str) -> Option<Self> {
        if let Ok(socket) = text.parse::<SocketAddr>() {
            return Some(Self {
                host: Host::Ip(socket.ip()),
                port: socket.port(),
            });
        }
        let (name, port) = text.rsplit_once(':')?;
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
        if name.is_empty() || name.len() > 253 || !name.chars().all(allowed) {
            return None;
        }
        // "127.1" and the like are no names: leave them to nobody's guess.
        if name.chars().all(|c| c.is_ascii_digit() || c == '.') {
            return None;
        }
        Some(Self {
            host: Host::Name(name.to_owned(), Family::Any),
            port: port.parse().ok()?,
        })
    }

    /// True if it is worth telling others: an IP address that is neither unspecified nor of one link only.
    pub(crate) fn is_announceable(&self) -> bool {
        match &self.host {
            Host::Ip(IpAddr::V6(ip)) => !ip.is_unspecified() && !ip.is_unicast_link_local(),
            Host::Ip(IpAddr::V4(ip)) => !ip.is_unspecified() && !ip.is_link_local(),
            Host::Name(..) => true,
        }
    }

    /// True if it leads nowhere but to the machine itself.
    pub(crate) fn is_loopback(&self) -> bool {
        matches!(&self.host, Host::Ip(ip) if ip.is_loopback())
    }

    /// The IP addresses behind it now.
    pub(crate) async fn resolve(&self, resolver: &Resolver) -> io::Result<Vec<SocketAddr>> {
        let (name, family) = match &self.host {
            Host::Ip(ip) => return Ok(vec![SocketAddr::new(*ip, self.port)]),
            Host::Name(name, family) => (name, family),
        };
        let found = resolver.look_up(name, self.port).await?;
        Ok(found
            .into_iter()
            .filter(|socket| match family {
                Family::Any => true,
                Family::V4 => socket.is_ipv4(),
                Family::V6 => socket.is_ipv6(),
            })
            .collect())
    }
}

impl fmt::Display for DialAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Host::Ip(IpAddr::V4(ip)) => write!(f, "/ip4/{ip}")?,
            Host::Ip(IpAddr::V6(ip)) => write!(f, "/ip6/{ip}")?,
            Host::Name(name, Family::Any) => write!(f, "/dns/{name}")?,
            Host::Name(name, Family::V4) => write!(f, "/dns4/{name}")?,
            Host::Name(name, Family::V6) => write!(f, "/dns6/{name}")?,
        }
        write!(f, "/tcp/{}", self.port)
    }
}

/// What a test says that a name leads to.
#[cfg(test)]
pub(crate) type Script = std::sync::Arc<dyn Fn(&str) -> Vec<SocketAddr> + Send + Sync>;

/// Turns names into addresses, anew each time it is asked.
#[derive(Clone)]
pub(crate) enum Resolver {
    /// The system's, which asks what the system asks: hosts file, DNS.
    System,
    /// What a test says.
    #[cfg(test)]
    Scripted(Script),
}

impl Resolver {
    async fn look_up(&self, name: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        match self {
            Self::System => Ok(tokio::net::lookup_host((name, port)).await?.collect()),
            #[cfg(test)]
            Self::Scripted(script) => Ok(script(name)),
        }
    }
}

/// The multiaddr of a socket address.
pub(crate) fn multiaddr_of(socket: SocketAddr) -> Multiaddr {
    Multiaddr::from(socket.ip()).with(Protocol::Tcp(socket.port()))
}

/// Resolves all addresses of a member, in their order, without doubles, at most [`ADDRESSES_PER_DIAL`].
pub(crate) async fn resolve_all(
    addresses: &[DialAddress],
    resolver: &Resolver,
    limit: Duration,
) -> Vec<Multiaddr> {
    let lookups = addresses.iter().map(|address| async move {
        match tokio::time::timeout(limit, address.resolve(resolver)).await {
            Ok(Ok(sockets)) => sockets,
            Ok(Err(error)) => {
                tracing::debug!(%address, %error, "cannot resolve a member's address");
                Vec::new()
            }
            Err(_elapsed) => {
                tracing::debug!(%address, ?limit, "resolving a member's address took too long");
                Vec::new()
            }
        }
    });
    let mut seen = BTreeSet::new();
    futures::future::join_all(lookups)
        .await
        .into_iter()
        .flatten()
        .filter(|socket| seen.insert(*socket))
        .take(ADDRESSES_PER_DIAL)
        .map(multiaddr_of)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<String, AddressError> {
        DialAddress::parse(text, &PeerId::random()).map(|a| a.to_string())
    }

    #[test]
    fn hosts_and_multiaddrs_become_one_form() {
        for (text, expected) in [
            ("127.0.0.1:30303", "/ip4/127.0.0.1/tcp/30303"),
            ("[::1]:1", "/ip6/::1/tcp/1"),
            ("node-2:30303", "/dns/node-2/tcp/30303"),
            ("n.example.org:9", "/dns/n.example.org/tcp/9"),
            ("/ip4/10.0.0.1/tcp/7", "/ip4/10.0.0.1/tcp/7"),
            ("/dns4/a/tcp/7", "/dns4/a/tcp/7"),
            ("/dns6/a/tcp/7", "/dns6/a/tcp/7"),
        ] {
            assert_eq!(parse(text).as_deref(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn everything_else_is_refused_by_kind() {
        for text in [
            "",
            ":",
            "host",
            "host:",
            ":30303",
            "host:70000",
            "ho st:1",
            "127.1:1",
            "1.2.3.4.5:6",
            "/ip4/1",
            &"x".repeat(9_999),
        ] {
            assert!(
                matches!(parse(text), Err(AddressError::Malformed { .. })),
                "{text}"
            );
        }
        for text in [
            "/ip4/1.2.3.4/udp/1",
            "/ip4/1.2.3.4",
            "/tcp/1",
            "/ip4/1.2.3.4/tcp/1/ws",
            "/memory/1",
        ] {
            assert!(
                matches!(parse(text), Err(AddressError::Unsupported { .. })),
                "{text}"
            );
        }
        for text in ["host:0", "1.2.3.4:0", "/ip4/1.2.3.4/tcp/0"] {
            assert!(
                matches!(parse(text), Err(AddressError::PortZero { .. })),
                "{text}"
            );
        }
    }

    #[test]
    fn a_peer_id_in_the_address_must_be_the_members() {
        let (owner, other) = (PeerId::random(), PeerId::random());
        let text = format!("/ip4/1.2.3.4/tcp/5/p2p/{owner}");
        assert!(DialAddress::parse(&text, &owner).is_ok());
        let (address, peer) =
            DialAddress::parse_with_peer(&format!("node-2:5/p2p/{owner}")).unwrap();
        assert_eq!(
            (address.to_string().as_str(), peer),
            ("/dns/node-2/tcp/5", Some(owner))
        );
        assert!(DialAddress::parse_with_peer("node-2:5/p2p/somebody").is_err());
        assert!(matches!(
            DialAddress::parse(&text, &other),
            Err(AddressError::OtherPeer { .. })
        ));
    }

    #[tokio::test]
    async fn resolving_drops_doubles_and_what_cannot_be_found() {
        let owner = PeerId::random();
        let addresses: Vec<_> = [
            "127.0.0.1:1",
            "/ip4/127.0.0.1/tcp/1",
            "name.invalid:2",
            "[::1]:3",
        ]
        .iter()
        .map(|text| DialAddress::parse(text, &owner).unwrap())
        .collect();
        let found = resolve_all(&addresses, &Resolver::System, Duration::from_secs(20)).await;
        let found: Vec<_> = found.iter().map(ToString::to_string).collect();
        assert_eq!(found, ["/ip4/127.0.0.1/tcp/1", "/ip6/::1/tcp/3"]);
    }
}
