//! Which request is meant.

use http::{Method, StatusCode, Uri};
use quorate_enclave::{PayloadHash, PublicKey};

use super::answer::Refusal;
use super::fields;

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Route {
    Upcheck,
    Version,
    VersionApi,
    Keys,
    PartyKeys,
    Send,
    SendRaw,
    StoreRaw,
    SendSigned,
    Receive,
    ReceiveRaw,
    Transaction,
    IsSender,
    Participants,
    Mandatory,
    Delete,
    DeleteTransaction,
}

impl Route {
    /// For metrics: never anything that a client chose.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Upcheck => "upcheck",
            Self::Version => "version",
            Self::VersionApi => "version_api",
            Self::Keys => "keys",
            Self::PartyKeys => "partyinfo_keys",
            Self::Send => "send",
            Self::SendRaw => "sendraw",
            Self::StoreRaw => "storeraw",
            Self::SendSigned => "sendsignedtx",
            Self::Receive => "receive",
            Self::ReceiveRaw => "receiveraw",
            Self::Transaction => "transaction",
            Self::IsSender => "is_sender",
            Self::Participants => "participants",
            Self::Mandatory => "mandatory",
            Self::Delete => "delete",
            Self::DeleteTransaction => "delete_transaction",
        }
    }
}

/// A request line that makes sense.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) route: Route,
    /// The payload in the path.
    pub(super) hash: Option<PayloadHash>,
    /// The recipient that the query names.
    pub(super) recipient: Option<PublicKey>,
}

/// Where `/transaction/{hash}` may go on.
const SUFFIXES: [(&str, Route); 3] = [
    ("/isSender", Route::IsSender),
    ("/participants", Route::Participants),
    ("/mandatory", Route::Mandatory),
];

impl Route {
    /// Finds out what a request line means.
    pub(super) fn find(method: &Method, uri: &Uri) -> Result<Found, Refusal> {
        let path = match uri.path() {
            "/" => "/",
            path => path.strip_suffix('/').unwrap_or(path),
        };
        let (allowed, hash): (&[(Method, Route)], Option<&str>) = match path {
            "/upcheck" => (&[(Method::GET, Self::Upcheck)], None),
            "/version" => (&[(Method::GET, Self::Version)], None),
            "/version/api" => (&[(Method::GET, Self::VersionApi)], None),
            "/keys" => (&[(Method::GET, Self::Keys)], None),
            "/partyinfo/keys" => (&[(Method::GET, Self::PartyKeys)], None),
            "/send" => (&[(Method::POST, Self::Send)], None),
            "/sendraw" => (&[(Method::POST, Self::SendRaw)], None),
            "/storeraw" => (&[(Method::POST, Self::StoreRaw)], None),
            "/sendsignedtx" => (&[(Method::POST, Self::SendSigned)], None),
            "/receive" => (
                &[(Method::GET, Self::Receive), (Method::POST, Self::Receive)],
                None,
            ),
            "/receiveraw" => (
                &[
                    (Method::GET, Self::ReceiveRaw),
                    (Method::POST, Self::ReceiveRaw),
                ],
                None,
            ),
            "/delete" => (&[(Method::POST, Self::Delete)], None),
            other => match other.strip_prefix("/transaction/") {
                Some(rest) => of_transaction(rest),
                None => {
                    return Err(Refusal::new(
                        StatusCode::NOT_FOUND,
                        "there is nothing at this path",
                    ));
                }
            },
        };
        let route = allowed.iter().find(|(allowed, _)| allowed == method);
        let Some((_, route)) = route else {
            return Err(Refusal {
                allow: Some(names(allowed)),
                ..Refusal::new(
                    StatusCode::METHOD_NOT_ALLOWED,
                    "this path has no such method",
                )
            });
        };
        let hash = hash.map(|text| fields::hash("hash", &unescaped(text)?));
        Ok(Found {
            route: *route,
            hash: hash.transpose()?,
            recipient: recipient(uri.query().unwrap_or_default())?,
        })
    }
}

/// A hash in standard base64 may hold a '/' that the client did not escape: what is behind the prefix and before a known suffix
/// is the hash.
fn of_transaction(rest: &str) -> (&'static [(Method, Route)], Option<&str>) {
    for (suffix, route) in SUFFIXES {
        if let Some(hash) = rest.strip_suffix(suffix) {
            return (on_get(route), Some(hash));
        }
    }
    (
        &[
            (Method::GET, Route::Transaction),
            (Method::DELETE, Route::DeleteTransaction),
        ],
        Some(rest),
    )
}

fn on_get(route: Route) -> &'static [(Method, Route)] {
    match route {
        Route::IsSender => &[(Method::GET, Route::IsSender)],
        Route::Participants => &[(Method::GET, Route::Participants)],
        _ => &[(Method::GET, Route::Mandatory)],
    }
}

/// Value of the `Allow` header.
fn names(allowed: &[(Method, Route)]) -> &'static str {
    let has = |method: Method| allowed.iter().any(|(allowed, _)| *allowed == method);
    match (has(Method::GET), has(Method::POST), has(Method::DELETE)) {
        (true, true, _) => "GET, POST",
        (true, false, true) => "GET, DELETE",
        (true, false, false) => "GET",
        (false, ..) => "POST",
    }
}

/// Reads `to` and checks `isRaw`. Stored and sent payloads lie in one place here, so the latter changes nothing.
fn recipient(query: &str) -> Result<Option<PublicKey>, Refusal> {
    let mut recipient = None;
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let value = unescaped(value)?;
        match name {
            "to" if !value.is_empty() => recipient = Some(fields::key("to", &value)?),
            "isRaw" if !matches!(value.to_ascii_lowercase().as_str(), "true" | "false") => {
                return Err(Refusal::bad_request("isRaw must be true or false"));
            }
            _ => {}
        }
    }
    Ok(recipient)
}

/// Undoes percent-encoding. A '+' stays: keys and hashes have no spaces.
fn unescaped(text: &str) -> Result<String, Refusal> {
    let refused = || Refusal::bad_request("the path or query is not percent-encoded text");
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let digit = |byte: Option<u8>| char::from(byte?).to_digit(16);
        let (high, low) = (digit(rest.next()), digit(rest.next()));
        let value = high.zip(low).map(|(high, low)| high * 16 + low);
        let value = value.and_then(|value| u8::try_from(value).ok());
        bytes.push(value.ok_or_else(refused)?);
    }
    String::from_utf8(bytes).map_err(|_| refused())
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};

    use super::*;

    fn find(method: Method, uri: &str) -> Result<Found, Refusal> {
        Route::find(&method, &uri.parse().unwrap())
    }

    #[test]
    fn a_hash_is_found_in_every_way_of_writing_it() {
        // All of '+', '/' and '=' are in its standard form.
        let hash = PayloadHash::from_bytes([0xfb; 64]);
        let standard = STANDARD.encode(hash.as_bytes());
        assert!(standard.contains('+') || standard.contains('/'));
        let escaped = standard
            .replace('+', "%2B")
            .replace('/', "%2f")
            .replace('=', "%3D");
        let safe = URL_SAFE_NO_PAD.encode(hash.as_bytes());
        for text in [&standard, &escaped, &safe] {
            for (suffix, route) in [
                ("", Route::Transaction),
                ("/", Route::Transaction),
                ("?isRaw=true", Route::Transaction),
                ("/isSender", Route::IsSender),
                ("/participants", Route::Participants),
                ("/mandatory", Route::Mandatory),
            ] {
                let found = find(Method::GET, &format!("/transaction/{text}{suffix}")).unwrap();
                assert_eq!((found.route, found.hash), (route, Some(hash)));
            }
            let found = find(Method::DELETE, &format!("/transaction/{text}")).unwrap();
            assert_eq!(found.route, Route::DeleteTransaction);
        }
    }

    #[test]
    fn a_recipient_may_stand_in_the_query() {
        let key = PublicKey::from_bytes([0xfb; 32]);
        let hash = URL_SAFE_NO_PAD.encode([1; 64]);
        let with = |query: &str| find(Method::GET, &format!("/transaction/{hash}?{query}"));
        let escaped = key.to_string().replace('+', "%2B").replace('/', "%2F");
        assert_eq!(with(&format!("to={escaped}")).unwrap().recipient, Some(key));
        assert_eq!(
            with(&format!("to={key}&isRaw=FALSE")).unwrap().recipient,
            Some(key)
        );
        assert_eq!(with("to=&other=1").unwrap().recipient, None);
        assert_eq!(with("to=xyz").unwrap_err().status, StatusCode::BAD_REQUEST);
        assert!(with("isRaw=maybe").unwrap_err().text.contains("isRaw"));
    }

    #[test]
    fn other_paths_and_methods_are_told_apart() {
        assert_eq!(
            find(Method::GET, "/nothing").unwrap_err().status,
            StatusCode::NOT_FOUND
        );
        assert_eq!(
            find(Method::GET, "/").unwrap_err().status,
            StatusCode::NOT_FOUND
        );
        let check = |method: Method, uri: &str, allow: &str| {
            let refusal = find(method, uri).unwrap_err();
            assert_eq!(refusal.status, StatusCode::METHOD_NOT_ALLOWED);
            assert_eq!(refusal.allow, Some(allow), "{uri}");
        };
        check(Method::GET, "/send", "POST");
        check(Method::POST, "/upcheck", "GET");
        check(Method::DELETE, "/receive", "GET, POST");
        check(Method::POST, "/transaction/AA", "GET, DELETE");
    }

    #[test]
    fn a_hash_that_is_none_is_a_bad_request() {
        for text in ["", "AA", "%zz", "%4", "%ff", "x".repeat(5_000).as_str()] {
            let refusal = find(Method::GET, &format!("/transaction/{text}")).unwrap_err();
            assert!(
                matches!(
                    refusal.status,
                    StatusCode::BAD_REQUEST | StatusCode::NOT_FOUND
                ),
                "{text}"
            );
        }
    }

    #[test]
    fn no_request_line_makes_it_panic() {
        use rand::{Rng as _, SeedableRng as _};
        let mut random = rand::rngs::StdRng::seed_from_u64(7);
        let parts = [
            "/",
            "transaction",
            "%",
            "%2",
            "isSender",
            "?",
            "to=",
            "&",
            "=",
            "isRaw",
            "%C3",
            "+",
            "-",
            "_",
            "AAAA",
            "é",
        ];
        for _ in 0..20_000 {
            let count = random.random_range(0..12);
            let text: String = (0..count)
                .map(|_| parts[random.random_range(0..parts.len())])
                .collect();
            if let Ok(uri) = format!("/{text}").parse::<Uri>() {
                let method = [Method::GET, Method::DELETE][random.random_range(0..2)].clone();
                if let Ok(found) = Route::find(&method, &uri) {
                    assert!(!found.route.name().is_empty());
                }
            }
        }
    }
}
