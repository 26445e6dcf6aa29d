//! Media types. Tessera names the version of a message in its type; our JSON has the fields of all versions.

use http::header::{ACCEPT, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, StatusCode};

use super::answer::Refusal;

pub(super) const TEXT: HeaderValue = HeaderValue::from_static("text/plain");
pub(super) const OCTETS: HeaderValue = HeaderValue::from_static("application/octet-stream");
const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// Types of JSON that are read and written, the plain one first.
const JSON_TYPES: [&str; 5] = [
    "application/json",
    "application/vnd.tessera-2.0+json",
    "application/vnd.tessera-2.1+json",
    "application/vnd.tessera-3.0+json",
    "application/vnd.tessera-4.0+json",
];

/// Versions of the messages that are understood, as `/version/api` lists them.
pub(super) const API_VERSIONS: [&str; 5] = ["1.0", "2.0", "2.1", "3.0", "4.0"];

/// What the body of a request is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Content {
    /// JSON of any version; a body without a type counts as JSON.
    Json,
    /// Bytes as they are.
    Octets,
}

/// The type of the request's body. Types that a web page could send without asking first are refused.
pub(super) fn content(headers: &HeaderMap) -> Result<Content, Refusal> {
    let Some(value) = headers.get(CONTENT_TYPE) else {
        return Ok(Content::Json);
    };
    let name = value.to_str().map(essence).unwrap_or_default();
    if JSON_TYPES.contains(&name.as_str()) {
        Ok(Content::Json)
    } else if name == "application/octet-stream" {
        Ok(Content::Octets)
    } else {
        Err(Refusal::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            format!(
                "the body must be of type {} or application/octet-stream",
                JSON_TYPES.join(", ")
            ),
        ))
    }
}

/// The type of a JSON answer: the first one in `Accept` that we write, else that of the request's body, else plain JSON.
pub(super) fn json_for(headers: &HeaderMap) -> HeaderValue {
    let accepted = headers
        .get_all(ACCEPT)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','));
    let own = headers.get(CONTENT_TYPE).and_then(|v| v.to_str().ok());
    accepted
        .chain(own)
        .map(essence)
        .find_map(|name| JSON_TYPES.iter().find(|known| **known == name))
        .map_or(JSON, |known| HeaderValue::from_static(known))
}

/// A type without its parameters.
fn essence(value: &str) -> String {
    let name = value.split(';').next().unwrap_or_default();
    name.trim().to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(http::HeaderName, &'static str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| (name.clone(), HeaderValue::from_static(value)))
            .collect()
    }

    #[test]
    fn json_of_every_version_and_octets_are_read_and_nothing_else() {
        let check = |value: &'static str, expected: Option<Content>| {
            let found = content(&headers(&[(CONTENT_TYPE, value)])).ok();
            assert_eq!(found, expected, "{value}");
        };
        check("application/json", Some(Content::Json));
        check("Application/JSON; charset=utf-8", Some(Content::Json));
        check("application/vnd.tessera-2.1+json", Some(Content::Json));
        check("application/vnd.tessera-4.0+json", Some(Content::Json));
        check("application/octet-stream", Some(Content::Octets));
        check("application/vnd.tessera-9.0+json", None);
        check("text/plain", None);
        check("application/x-www-form-urlencoded", None);
        check("multipart/form-data; boundary=x", None);
        assert_eq!(content(&HeaderMap::new()), Ok(Content::Json));
    }

    #[test]
    fn an_answer_has_the_type_that_the_client_speaks() {
        let check = |pairs: &[(http::HeaderName, &'static str)], expected: &str| {
            assert_eq!(json_for(&headers(pairs)), expected, "{pairs:?}");
        };
        check(&[], "application/json");
        check(&[(ACCEPT, "*/*")], "application/json");
        check(
            &[(ACCEPT, "application/vnd.tessera-4.0+json")],
            "application/vnd.tessera-4.0+json",
        );
        check(
            &[(ACCEPT, "text/html, application/vnd.tessera-2.1+json;q=0.5")],
            "application/vnd.tessera-2.1+json",
        );
        check(
            &[(CONTENT_TYPE, "application/vnd.tessera-2.1+json")],
            "application/vnd.tessera-2.1+json",
        );
    }
}
