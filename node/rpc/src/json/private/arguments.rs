//! What makes a request private: `privateFor` and what stands beside it, as in Quorum.

use quorate_chain::PublicForm;
use quorate_enclave::{PrivacyFlag, PublicKey};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::super::args::parse;
use crate::privacy::{Acknowledgements, PrivateArguments};
use crate::{PrivacyError, RpcError};

/// Parties of one transaction, as in the exchange.
pub(crate) const PARTIES_MAX: usize = 256;
/// A key has 44 characters, a group's name at most 64 bytes.
const PARTY_BYTES_MAX: usize = 64;

const BAD_FLAG: &str = "invalid privacyFlag";
const MANDATORY_MISSING: &str = "missing mandatory recipients data. if no mandatory recipients required consider using PrivacyFlag=1(PartyProtection)";
const MANDATORY_NOT_ALLOWED: &str =
    "mandatory recipients are only applicable for PrivacyFlag=2(MandatoryRecipients)";

/// The fields of a request that Quorum adds to a transaction, and two of ours. Others are not looked at.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct PrivateFields {
    pub(crate) private_from: Option<String>,
    /// Even an empty list makes a request private: for the sender alone.
    pub(crate) private_for: Option<Vec<String>>,
    pub(crate) privacy_flag: Option<Flag>,
    pub(crate) mandatory_for: Option<Vec<String>>,
    /// Quorum's kind of private transaction; there is one.
    pub(crate) restriction: Option<String>,
    /// Ours: which recipients are waited for.
    pub(crate) acknowledgements: Option<Wanted>,
    /// Ours: how it is put on the chain, if not as the node does it.
    pub(crate) public_form: Option<String>,
}

/// A privacy flag as tools write it.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
pub(crate) enum Flag {
    Number(u64),
    Text(String),
}

/// `"all"`, `"mandatory"`, `{"k": 2}`, or `{"of": ["key"]}`.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
pub(crate) enum Wanted {
    Name(String),
    AtLeast { k: u16 },
    Named { of: Vec<String> },
}

impl PrivateFields {
    /// Reads them out of a request.
    pub(crate) fn read(name: &'static str, request: &RawValue) -> Result<Self, RpcError> {
        parse(name, request)
    }

    /// What the client wants; `None` if the request is a public one.
    ///
    /// Fields without `privateFor` are refused: whoever names a private sender must not see the data become public.
    pub(crate) fn arguments(&self) -> Result<Option<PrivateArguments>, RpcError> {
        let flag = self.flag()?;
        let Some(private_for) = &self.private_for else {
            let from = self
                .private_from
                .as_ref()
                .is_some_and(|key| !key.is_empty());
            let mandatory = self.mandatory_for.as_ref().is_some_and(|m| !m.is_empty());
            if from || mandatory || flag != PrivacyFlag::Standard || self.restriction.is_some() {
                let reason =
                    "missing, though the request names other fields of a private transaction";
                return Err(RpcError::argument("privateFor", reason));
            }
            return Ok(None);
        };
        if let Some(kind) = &self.restriction
            && !matches!(kind.as_str(), "" | "restricted")
        {
            let reason = format!("{kind:?} is not restricted, which is the only kind there is");
            return Err(RpcError::argument("restriction", reason));
        }
        check_parties("privateFor", private_for)?;
        let mandatory = self.mandatory_for.as_deref().unwrap_or_default();
        check_parties("mandatoryFor", mandatory)?;
        check_flag(flag, mandatory.is_empty())?;
        let arguments = PrivateArguments {
            private_from: self
                .private_from
                .as_deref()
                .filter(|key| !key.is_empty())
                .map(|key| parse_key("privateFrom", key))
                .transpose()?,
            private_for: private_for.clone(),
            privacy_flag: flag,
            mandatory_for: mandatory
                .iter()
                .map(|key| parse_key("mandatoryFor", key))
                .collect::<Result<_, _>>()?,
            acknowledgements: self.acknowledgements()?,
        };
        check_acknowledgements(&arguments)?;
        Ok(Some(arguments))
    }

    /// The same, where there is nothing but private transactions.
    pub(crate) fn required(&self) -> Result<PrivateArguments, RpcError> {
        self.arguments()?
            .ok_or_else(|| RpcError::argument("privateFor", "missing"))
    }

    /// How it is to be put on the chain, if the client says so.
    pub(crate) fn form(&self) -> Result<Option<PublicForm>, RpcError> {
        match self.public_form.as_deref() {
            None | Some("") => Ok(None),
            Some("marker") => Ok(Some(PublicForm::Marker)),
            Some("quorum") => Ok(Some(PublicForm::Quorum)),
            Some(other) => {
                let reason = format!("{other:?} is none of marker, quorum");
                Err(RpcError::argument("publicForm", reason))
            }
        }
    }

    fn flag(&self) -> Result<PrivacyFlag, RpcError> {
        let number = match &self.privacy_flag {
            None => Some(0),
            Some(Flag::Number(number)) => Some(*number),
            Some(Flag::Text(text)) => match text.strip_prefix("0x") {
                Some(digits) => u64::from_str_radix(digits, 16).ok(),
                None => text.parse().ok(),
            },
        };
        number
            .and_then(|number| u8::try_from(number).ok())
            .and_then(PrivacyFlag::from_number)
            .ok_or_else(|| RpcError::argument("privacyFlag", format!("{BAD_FLAG}: 0, 1, 2 or 3")))
    }

    fn acknowledgements(&self) -> Result<Acknowledgements, RpcError> {
        match &self.acknowledgements {
            None => Ok(Acknowledgements::All),
            Some(Wanted::AtLeast { k }) => Ok(Acknowledgements::AtLeast(*k)),
            Some(Wanted::Named { of }) => {
                check_parties("acknowledgements", of)?;
                let keys = of.iter().map(|key| parse_key("acknowledgements", key));
                Ok(Acknowledgements::Named(keys.collect::<Result<_, _>>()?))
            }
            Some(Wanted::Name(name)) => match name.as_str() {
                "all" => Ok(Acknowledgements::All),
                "mandatory" => Ok(Acknowledgements::Mandatory),
                other => Err(RpcError::argument(
                    "acknowledgements",
                    format!(
                        "{other:?} is none of \"all\", \"mandatory\", {{\"k\": number}}, {{\"of\": [keys]}}"
                    ),
                )),
            },
        }
    }
}

/// Mandatory recipients belong to one flag, and to no other.
pub(crate) fn check_flag(flag: PrivacyFlag, nobody_is_mandatory: bool) -> Result<(), RpcError> {
    match (flag, nobody_is_mandatory) {
        (PrivacyFlag::MandatoryParties, true) => Err(refused(MANDATORY_MISSING)),
        (PrivacyFlag::MandatoryParties, false) => Ok(()),
        (_, true) => Ok(()),
        (_, false) => Err(refused(MANDATORY_NOT_ALLOWED)),
    }
}

/// What can be said about acknowledgements without knowing the parties.
pub(crate) fn check_acknowledgements(arguments: &PrivateArguments) -> Result<(), RpcError> {
    let nobody = match &arguments.acknowledgements {
        Acknowledgements::All | Acknowledgements::AtLeast(_) => false,
        Acknowledgements::Mandatory => arguments.mandatory_for.is_empty(),
        Acknowledgements::Named(keys) => keys.is_empty(),
    };
    if nobody {
        let reason =
            "names nobody to wait for: \"mandatory\" needs mandatoryFor, \"of\" needs keys";
        return Err(RpcError::argument("acknowledgements", reason));
    }
    Ok(())
}

/// A key, or a refusal that names the field.
fn parse_key(field: &'static str, text: &str) -> Result<PublicKey, RpcError> {
    text.parse()
        .map_err(|e| RpcError::argument(field, format!("{text:?}: {e}")))
}

/// Refused before they are looked at.
pub(crate) fn check_parties(field: &'static str, parties: &[String]) -> Result<(), RpcError> {
    if parties.len() > PARTIES_MAX {
        let reason = format!("{} given, at most {PARTIES_MAX} are allowed", parties.len());
        return Err(RpcError::argument(field, reason));
    }
    if parties
        .iter()
        .any(|p| p.is_empty() || p.len() > PARTY_BYTES_MAX)
    {
        let reason = format!("each must have 1 to {PARTY_BYTES_MAX} bytes");
        return Err(RpcError::argument(field, reason));
    }
    Ok(())
}

fn refused(reason: &str) -> RpcError {
    PrivacyError::Refused {
        reason: reason.into(),
    }
    .into()
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "BULeR8JyUWhiuuCMU/HLA0Q5pzkYT+cHII3ZKBey3Bo=";

    fn read(text: &str) -> Result<Option<PrivateArguments>, RpcError> {
        let raw = RawValue::from_string(text.to_owned()).unwrap();
        PrivateFields::read("transaction", &raw)?.arguments()
    }

    #[test]
    fn private_for_alone_makes_a_request_private() {
        assert_eq!(read("{}").unwrap(), None);
        assert_eq!(
            read(r#"{"privateFor": null, "privateFrom": ""}"#).unwrap(),
            None
        );
        assert_eq!(
            read(r#"{"privateFor": []}"#).unwrap(),
            Some(PrivateArguments::default())
        );
        for text in [
            format!(r#"{{"privateFrom": "{KEY}"}}"#),
            format!(r#"{{"mandatoryFor": ["{KEY}"]}}"#),
            r#"{"privacyFlag": 1}"#.into(),
            r#"{"restriction": "restricted"}"#.into(),
        ] {
            let error = read(&text).unwrap_err().to_string();
            assert!(error.contains("privateFor"), "{text}: {error}");
        }
    }

    #[test]
    fn everything_is_read() {
        let text = format!(
            r#"{{"from": "0x00", "privateFrom": "{KEY}", "privateFor": ["{KEY}", "loans"], "privacyFlag": "0x2",
                "mandatoryFor": ["{KEY}"], "restriction": "restricted", "acknowledgements": {{"k": 1}}}}"#
        );
        let key: PublicKey = KEY.parse().unwrap();
        assert_eq!(
            read(&text).unwrap(),
            Some(PrivateArguments {
                private_from: Some(key),
                private_for: vec![KEY.into(), "loans".into()],
                privacy_flag: PrivacyFlag::MandatoryParties,
                mandatory_for: vec![key],
                acknowledgements: Acknowledgements::AtLeast(1),
            })
        );
    }

    #[test]
    fn what_cannot_be_is_refused_by_name() {
        let cases = [
            (
                r#"{"privateFor": [], "privacyFlag": 4}"#,
                "invalid privacyFlag",
            ),
            (
                r#"{"privateFor": [], "privacyFlag": "x"}"#,
                "invalid privacyFlag",
            ),
            (
                r#"{"privateFor": [], "privacyFlag": 2}"#,
                "missing mandatory recipients data",
            ),
            (
                &format!(r#"{{"privateFor": [], "privacyFlag": 1, "mandatoryFor": ["{KEY}"]}}"#),
                "only applicable for PrivacyFlag=2",
            ),
            (r#"{"privateFor": [], "privateFrom": "abc"}"#, "privateFrom"),
            (r#"{"privateFor": [""]}"#, "privateFor"),
            (r#"{"privateFor": "key"}"#, "transaction"),
            (
                r#"{"privateFor": [], "restriction": "open"}"#,
                "restriction",
            ),
            (
                r#"{"privateFor": [], "acknowledgements": "some"}"#,
                "acknowledgements",
            ),
            (
                r#"{"privateFor": [], "acknowledgements": "mandatory"}"#,
                "acknowledgements",
            ),
        ];
        for (text, expected) in cases {
            let error = read(text).unwrap_err().to_string();
            assert!(error.contains(expected), "{text}: {error}");
        }
        let many = vec![KEY; PARTIES_MAX + 1];
        let text = serde_json::json!({ "privateFor": many }).to_string();
        assert!(read(&text).unwrap_err().to_string().contains("at most 256"));
    }

    #[test]
    fn a_client_may_choose_the_public_form() {
        let form = |text: &str| {
            let raw = RawValue::from_string(text.to_owned()).unwrap();
            PrivateFields::read("transaction", &raw).unwrap().form()
        };
        assert_eq!(form("{}").unwrap(), None);
        assert_eq!(
            form(r#"{"publicForm": "marker"}"#).unwrap(),
            Some(PublicForm::Marker)
        );
        assert_eq!(
            form(r#"{"publicForm": "quorum"}"#).unwrap(),
            Some(PublicForm::Quorum)
        );
        assert!(form(r#"{"publicForm": "other"}"#).is_err());
    }
}
