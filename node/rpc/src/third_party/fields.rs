//! Reading bodies and headers: everything is checked before anything is done.

use alloy_primitives::Bytes;
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use http::HeaderMap;
use quorate_enclave::{PayloadHash, PrivacyFlag, PublicKey};
use serde::Deserialize;

use super::answer::Refusal;
use crate::privacy::{Acknowledgements, PrivateArguments};

/// Most recipients of a payload.
const RECIPIENTS_MAX: usize = 256;
/// Characters of the base64 of a hash, with padding.
const HASH_CHARS_MAX: usize = 88;

/// Who takes part, as the bodies of `/send` and `/sendsignedtx` say it.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Parties {
    from: Option<String>,
    to: Option<Vec<String>>,
    privacy_flag: Option<u8>,
    privacy_group_id: Option<String>,
    mandatory_recipients: Option<Vec<String>>,
    affected_contract_transactions: Option<Vec<String>>,
    exec_hash: Option<String>,
}

/// Body of `/send` and `/storeraw`.
#[derive(Deserialize)]
pub(super) struct Send {
    payload: String,
    #[serde(flatten)]
    pub(super) parties: Parties,
}

/// Body of `/sendsignedtx`.
#[derive(Debug, Deserialize)]
pub(super) struct SendSigned {
    hash: String,
    #[serde(flatten)]
    pub(super) parties: Parties,
}

/// Body of `/receive`.
#[derive(Debug, Deserialize)]
pub(super) struct Receive {
    key: String,
    to: Option<String>,
}

/// Body of `/delete`.
#[derive(Debug, Deserialize)]
pub(super) struct Delete {
    key: String,
}

impl Send {
    /// The payload in the clear.
    pub(super) fn data(&self) -> Result<Bytes, Refusal> {
        let data = STANDARD
            .decode(&self.payload)
            .map_err(|_| Refusal::bad_request("payload is not standard base64"))?;
        checked(data)
    }
}

/// A payload has at least one byte.
pub(super) fn checked(data: impl Into<Bytes>) -> Result<Bytes, Refusal> {
    let data: Bytes = data.into();
    if data.is_empty() {
        return Err(Refusal::bad_request("payload must not be empty"));
    }
    Ok(data)
}

impl SendSigned {
    pub(super) fn hash(&self) -> Result<PayloadHash, Refusal> {
        hash("hash", &self.hash)
    }
}

impl Receive {
    pub(super) fn hash(&self) -> Result<PayloadHash, Refusal> {
        hash("key", &self.key)
    }

    pub(super) fn recipient(&self) -> Result<Option<PublicKey>, Refusal> {
        let named = self.to.as_deref().filter(|to| !to.is_empty());
        named.map(|to| key("to", to)).transpose()
    }
}

impl Delete {
    pub(super) fn hash(&self) -> Result<PayloadHash, Refusal> {
        hash("key", &self.key)
    }
}

impl Parties {
    /// The sender, if one is named.
    pub(super) fn sender(&self) -> Result<Option<PublicKey>, Refusal> {
        let named = self.from.as_deref().filter(|from| !from.is_empty());
        named.map(|from| key("from", from)).transpose()
    }

    /// The same for the node's own interface. A group takes the place of named recipients, as in Tessera.
    pub(super) fn arguments(&self) -> Result<PrivateArguments, Refusal> {
        let number = self.privacy_flag.unwrap_or_default();
        let privacy_flag = PrivacyFlag::from_number(number)
            .ok_or_else(|| Refusal::bad_request("privacyFlag must be 0, 1, 2 or 3"))?;
        let affected = self.affected_contract_transactions.as_ref();
        let computed = affected.is_some_and(|list| !list.is_empty())
            || self.exec_hash.as_ref().is_some_and(|text| !text.is_empty());
        if computed {
            return Err(Refusal::bad_request(
                "affectedContractTransactions and execHash are computed by the node: send the transaction through \
                 eth_sendTransaction or eth_sendRawPrivateTransaction",
            ));
        }
        let mandatory = self.mandatory_recipients.as_deref().unwrap_or_default();
        let is_mandatory = privacy_flag == PrivacyFlag::MandatoryParties;
        if is_mandatory == mandatory.is_empty() {
            return Err(Refusal::bad_request(
                "mandatoryRecipients must be given with privacyFlag 2, and only then",
            ));
        }
        let to = self.to.as_deref().unwrap_or_default();
        let private_for = match self.privacy_group_id.as_deref() {
            Some(group) if !group.is_empty() => vec![group.to_owned()],
            _ => keys("to", to.iter().map(String::as_str))?
                .iter()
                .map(ToString::to_string)
                .collect(),
        };
        Ok(PrivateArguments {
            private_from: self.sender()?,
            private_for,
            privacy_flag,
            mandatory_for: keys("mandatoryRecipients", mandatory.iter().map(String::as_str))?,
            // Without tags on the chain nothing but the acknowledgement of every recipient says that they all have it.
            acknowledgements: Acknowledgements::All,
        })
    }
}

/// What `/sendraw` and the raw form of `/sendsignedtx` say in headers.
pub(super) fn arguments_of(headers: &HeaderMap) -> Result<PrivateArguments, Refusal> {
    let sender = header(headers, "c11n-from")?.filter(|from| !from.is_empty());
    let mut to = Vec::new();
    for value in headers.get_all("c11n-to") {
        let text = value
            .to_str()
            .map_err(|_| Refusal::bad_request("c11n-to is no text"))?;
        to.extend(text.split(',').map(str::trim).filter(|t| !t.is_empty()));
    }
    Ok(PrivateArguments {
        private_from: sender.map(|from| key("c11n-from", from)).transpose()?,
        private_for: keys("c11n-to", to.into_iter())?
            .iter()
            .map(ToString::to_string)
            .collect(),
        ..PrivateArguments::default()
    })
}

/// The payload and the recipient that `/receiveraw` names in headers.
pub(super) fn wanted_of(headers: &HeaderMap) -> Result<(PayloadHash, Option<PublicKey>), Refusal> {
    let wanted = header(headers, "c11n-key")?
        .ok_or_else(|| Refusal::bad_request("the header c11n-key is missing"))?;
    let recipient = header(headers, "c11n-to")?.filter(|to| !to.is_empty());
    let recipient = recipient.map(|to| key("c11n-to", to)).transpose()?;
    Ok((hash("c11n-key", wanted)?, recipient))
}

fn header<'a>(headers: &'a HeaderMap, name: &str) -> Result<Option<&'a str>, Refusal> {
    let text = headers.get(name).map(|value| {
        let refused = |_| Refusal::bad_request(format!("{name} is no text"));
        value.to_str().map(str::trim).map_err(refused)
    });
    text.transpose()
}

/// Reads a body of JSON. The error says where, and repeats nothing of the body.
pub(super) fn json<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, Refusal> {
    serde_json::from_slice(body).map_err(|error| {
        let what = match error.classify() {
            serde_json::error::Category::Data => "has not the fields that it needs",
            _ => "is not JSON",
        };
        Refusal::bad_request(format!(
            "the body {what} (line {}, column {})",
            error.line(),
            error.column()
        ))
    })
}

/// Reads a payload hash in base64: standard or URL-safe, with padding or without.
pub(super) fn hash(field: &str, text: &str) -> Result<PayloadHash, Refusal> {
    let refused =
        || Refusal::bad_request(format!("{field} is not the base64 of a hash of 64 bytes"));
    if text.len() > HASH_CHARS_MAX {
        return Err(refused());
    }
    let standard = text.replace('-', "+").replace('_', "/");
    let bytes = STANDARD_NO_PAD.decode(standard.trim_end_matches('='));
    let bytes: [u8; 64] = bytes
        .ok()
        .and_then(|bytes| bytes.try_into().ok())
        .ok_or_else(refused)?;
    Ok(PayloadHash::from_bytes(bytes))
}

/// Reads a key in base64.
pub(super) fn key(field: &str, text: &str) -> Result<PublicKey, Refusal> {
    text.parse()
        .map_err(|error| Refusal::bad_request(format!("{field}: {error}")))
}

fn keys<'a>(
    field: &str,
    texts: impl ExactSizeIterator<Item = &'a str>,
) -> Result<Vec<PublicKey>, Refusal> {
    if texts.len() > RECIPIENTS_MAX {
        return Err(Refusal::bad_request(format!(
            "{field} has {} keys, allowed are at most {RECIPIENTS_MAX}",
            texts.len()
        )));
    }
    texts.map(|text| key(field, text)).collect()
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    const KEY: &str = "BULeR8JyUWhiuuCMU/HLA0Q5pzkYT+cHII3ZKBey3Bo=";
    const OTHER: &str = "QfeDAys9MPDs2XHExtc84jKGHxZg/aj52DTh0vtA3Xc=";

    fn arguments(body: &str) -> Result<PrivateArguments, Refusal> {
        json::<Send>(body.as_bytes())?.parties.arguments()
    }

    #[test]
    fn a_body_becomes_arguments() {
        let body = format!(
            r#"{{"payload":"AAE=","from":"{KEY}","to":["{OTHER}"],"privacyFlag":2,"mandatoryRecipients":["{OTHER}"],"new":1}}"#
        );
        let read: Send = json(body.as_bytes()).unwrap();
        assert_eq!(read.data().unwrap(), Bytes::from_static(&[0, 1]));
        let arguments = read.parties.arguments().unwrap();
        assert_eq!(arguments.private_from, Some(KEY.parse().unwrap()));
        assert_eq!(arguments.private_for, [OTHER]);
        assert_eq!(arguments.privacy_flag, PrivacyFlag::MandatoryParties);
        assert_eq!(arguments.mandatory_for, [OTHER.parse().unwrap()]);
    }

    #[test]
    fn a_group_takes_the_place_of_recipients() {
        let body = format!(r#"{{"payload":"AA==","to":["{OTHER}"],"privacyGroupId":"{KEY}"}}"#);
        assert_eq!(arguments(&body).unwrap().private_for, [KEY]);
    }

    #[test]
    fn what_cannot_be_is_refused_with_the_name_of_the_field() {
        let check = |body: String, named: &str| {
            let refusal = arguments(&body).unwrap_err();
            assert_eq!(refusal.status, http::StatusCode::BAD_REQUEST);
            assert!(refusal.text.contains(named), "{}", refusal.text);
        };
        check(r#"{"payload":"AA==","to":["short"]}"#.into(), "to");
        check(r#"{"payload":"AA==","from":"?"}"#.into(), "from");
        check(
            r#"{"payload":"AA==","privacyFlag":4}"#.into(),
            "privacyFlag",
        );
        check(r#"{"payload":"AA==","privacyFlag":300}"#.into(), "fields");
        check(
            r#"{"payload":"AA==","privacyFlag":2}"#.into(),
            "mandatoryRecipients",
        );
        check(
            format!(r#"{{"payload":"AA==","mandatoryRecipients":["{KEY}"]}}"#),
            "mandatoryRecipients",
        );
        check(
            r#"{"payload":"AA==","privacyFlag":3,"execHash":"x"}"#.into(),
            "execHash",
        );
        check(r#"{"to":[]}"#.into(), "fields");
        check("{".into(), "JSON");
        check("[]".into(), "fields");
        check(String::new(), "JSON");
        let many = vec![KEY; RECIPIENTS_MAX + 1];
        check(
            serde_json::json!({ "payload": "AA==", "to": many }).to_string(),
            "at most 256",
        );
        let data = |text: &str| {
            let body = format!(r#"{{"payload":"{text}"}}"#);
            json::<Send>(body.as_bytes()).unwrap().data()
        };
        assert!(data("").is_err() && data("A").is_err() && data("_w==").is_err());
    }

    #[test]
    fn headers_name_recipients_once_or_many_times() {
        let mut headers = HeaderMap::new();
        headers.append("c11n-from", HeaderValue::from_static(KEY));
        let both = format!("{OTHER}, {KEY}");
        headers.append("c11n-to", HeaderValue::from_str(&both).unwrap());
        headers.append("c11n-to", HeaderValue::from_static(OTHER));
        let arguments = arguments_of(&headers).unwrap();
        assert_eq!(arguments.private_from, Some(KEY.parse().unwrap()));
        assert_eq!(arguments.private_for, [OTHER, KEY, OTHER]);
        headers.append("c11n-to", HeaderValue::from_static("nobody"));
        assert!(arguments_of(&headers).is_err());
        assert!(wanted_of(&HeaderMap::new()).is_err());
    }

    #[test]
    fn no_body_makes_the_decoders_panic() {
        use rand::{Rng as _, SeedableRng as _};
        let seed = format!(
            r#"{{"payload":"AAE=","hash":"{}","key":"{KEY}","from":"{KEY}","to":["{OTHER}"],"privacyFlag":1,"execHash":""}}"#,
            STANDARD.encode([7; 64])
        );
        let mut random = rand::rngs::StdRng::seed_from_u64(11);
        let mut understood = 0;
        for _ in 0..20_000 {
            let mut body = seed.clone().into_bytes();
            for _ in 0..random.random_range(0..4) {
                let at = random.random_range(0..body.len());
                match random.random_range(0..3) {
                    0 => body[at] = random.random(),
                    1 => body.truncate(at.max(1)),
                    _ => body.insert(at, random.random()),
                }
            }
            if let Ok(send) = json::<Send>(&body) {
                understood += usize::from(send.data().is_ok() && send.parties.arguments().is_ok());
            }
            if let Ok(signed) = json::<SendSigned>(&body) {
                understood += usize::from(signed.hash().is_ok());
            }
            if let Ok(wanted) = json::<Receive>(&body) {
                understood += usize::from(wanted.hash().is_ok() || wanted.recipient().is_ok());
            }
        }
        assert!(understood > 1_000, "{understood}");
    }
}
