//! Answers, and what becomes of errors. Bodies of errors are plain text, as Tessera's.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE, LOCATION, RETRY_AFTER};
use http::{HeaderValue, Response, StatusCode};
use http_body_util::Full;
use quorate_enclave::PayloadHash;
use serde::Serialize;

use super::media;
use crate::privacy::PrivacyError;

/// An answer of the surface.
#[derive(Debug)]
pub(super) struct Answer {
    status: StatusCode,
    content_type: HeaderValue,
    location: Option<HeaderValue>,
    allow: Option<HeaderValue>,
    body: Bytes,
}

impl Answer {
    fn new(status: StatusCode, content_type: HeaderValue, body: impl Into<Bytes>) -> Self {
        Self {
            status,
            content_type,
            location: None,
            allow: None,
            body: body.into(),
        }
    }

    /// Text, with 200.
    pub(super) fn text(text: impl Into<String>) -> Self {
        let text: String = text.into();
        Self::new(StatusCode::OK, media::TEXT, text)
    }

    /// Bytes as they are, with 200.
    pub(super) fn octets(bytes: Bytes) -> Self {
        Self::new(StatusCode::OK, media::OCTETS, bytes)
    }

    /// JSON of the version that the client speaks, with 200.
    pub(super) fn json(content_type: HeaderValue, value: &impl Serialize) -> Result<Self, Refusal> {
        let body = serde_json::to_vec(value).map_err(|error| {
            tracing::error!(%error, "third party: an answer could not be written as JSON");
            Refusal::internal()
        })?;
        Ok(Self::new(StatusCode::OK, content_type, body))
    }

    /// Nothing more to say.
    pub(super) fn no_content() -> Self {
        Self::new(StatusCode::NO_CONTENT, media::TEXT, Bytes::new())
    }

    /// The same, as one that made the payload with this hash.
    pub(super) fn created(mut self, hash: &PayloadHash) -> Self {
        self.status = StatusCode::CREATED;
        let escaped = hash_text(hash)
            .replace('+', "%2B")
            .replace('/', "%2F")
            .replace('=', "%3D");
        self.location = HeaderValue::from_str(&format!("/transaction/{escaped}")).ok();
        self
    }

    pub(super) fn status(&self) -> StatusCode {
        self.status
    }

    pub(super) fn into_response(self) -> Response<Full<Bytes>> {
        let empty = self.body.is_empty();
        let mut response = Response::new(Full::new(self.body));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        if self.status != StatusCode::NO_CONTENT || !empty {
            headers.insert(CONTENT_TYPE, self.content_type);
        }
        if let Some(location) = self.location {
            headers.insert(LOCATION, location);
        }
        if let Some(allow) = self.allow {
            headers.insert(ALLOW, allow);
        }
        if self.status == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}

/// Why a request was not carried out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) status: StatusCode,
    pub(super) text: String,
    /// With 405: what is allowed.
    pub(super) allow: Option<&'static str>,
}

impl Refusal {
    pub(super) fn new(status: StatusCode, text: impl Into<String>) -> Self {
        Self {
            status,
            text: text.into(),
            allow: None,
        }
    }

    pub(super) fn bad_request(text: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, text)
    }

    /// What is wrong is in the log.
    pub(super) fn internal() -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal error")
    }

    /// This node is no party, or has never heard of it: nobody is told which.
    pub(super) fn not_found(hash: &PayloadHash) -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            format!("Message with hash {} was not found", hash_text(hash)),
        )
    }

    pub(super) fn into_answer(self) -> Answer {
        let mut answer = Answer::new(self.status, media::TEXT, self.text);
        answer.allow = self.allow.map(HeaderValue::from_static);
        answer
    }
}

impl From<PrivacyError> for Refusal {
    fn from(error: PrivacyError) -> Self {
        let text = error.to_string();
        match error {
            PrivacyError::Argument { .. } | PrivacyError::AmbiguousGroup { .. } => {
                Self::bad_request(text)
            }
            PrivacyError::UnknownKey { key } => Self::new(
                StatusCode::NOT_FOUND,
                format!("Recipient not found for key: {key}"),
            ),
            PrivacyError::UnknownPayload { hash } => Self::not_found(&hash),
            PrivacyError::NotOurKey { .. }
            | PrivacyError::UnknownGroup { .. }
            | PrivacyError::BeforeStart { .. } => Self::new(StatusCode::NOT_FOUND, text),
            PrivacyError::Refused { .. } | PrivacyError::Reverted { .. } => {
                Self::new(StatusCode::FORBIDDEN, text)
            }
            PrivacyError::Conflict { .. } => Self::new(StatusCode::CONFLICT, text),
            PrivacyError::RefusedByRecipient { .. } => Self::new(StatusCode::BAD_GATEWAY, text),
            PrivacyError::Off
            | PrivacyError::NotAcknowledged { .. }
            | PrivacyError::PayloadMissing { .. }
            | PrivacyError::Behind { .. }
            | PrivacyError::Halted { .. }
            | PrivacyError::Enclave { .. }
            | PrivacyError::Busy { .. }
            | PrivacyError::Stopping => Self::new(StatusCode::SERVICE_UNAVAILABLE, text),
            PrivacyError::Internal { reason } => {
                tracing::error!(reason, "third party: a request failed");
                Self::internal()
            }
        }
    }
}

/// A hash as it stands in answers: standard base64.
pub(super) fn hash_text(hash: &PayloadHash) -> String {
    STANDARD.encode(hash.as_bytes())
}
