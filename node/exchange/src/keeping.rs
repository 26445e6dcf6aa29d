//! Opening and keeping payloads: what sending, receiving and fetching have in common.

use std::sync::Arc;

use quorate_enclave::{EnclaveError, Envelope, Opening, PublicKey};
use quorate_privacy::{Content, SignedTerms};

use crate::cache::OpenedPayload;
use crate::clock::now_ms;
use crate::exchange::Inner;
use crate::keeper::{Kept, ToKeep};
use crate::package::Package;
use crate::{Exchange, ExchangeError, metrics};

/// A payload in the clear.
#[derive(Debug, Clone)]
pub(crate) struct InTheClear {
    pub(crate) content: Content,
    pub(crate) as_recipient: PublicKey,
    pub(crate) sender: PublicKey,
}

/// What the enclave, and then the decoder, say about an envelope.
#[derive(Debug)]
pub(crate) enum Looked {
    /// It is for us.
    Clear(InTheClear),
    /// None of our keys.
    NotForUs,
    /// It is for us and no content.
    NoContent(String),
    /// The enclave refused or is silent.
    Failed(EnclaveError),
}

impl Exchange {
    /// Has the enclave open an envelope.
    pub(crate) async fn look_into(&self, envelope: &Envelope) -> Looked {
        let context = *envelope.context();
        // The caller checked chain and signature, or it is our own.
        match self.inner.enclave.open(envelope.clone(), context).await {
            Ok(Opening::Opened(opened)) => match Content::decode(&opened.payload) {
                Ok(content) => Looked::Clear(InTheClear {
                    content,
                    as_recipient: opened.as_recipient,
                    sender: opened.sender,
                }),
                Err(e) => Looked::NoContent(e.to_string()),
            },
            Ok(Opening::NotForUs) => Looked::NotForUs,
            Err(e) => Looked::Failed(e),
        }
    }

    /// Keeps a payload with its terms durably, and in memory, and tells who waits for it. `false`: the payload was executed with other
    /// terms, and nothing was changed.
    pub(crate) async fn keep(
        &self,
        package: Package,
        clear: InTheClear,
    ) -> Result<bool, ExchangeError> {
        let (hash, terms) = (package.hash, package.terms);
        let recipients = package.envelope.recipients().collect();
        let payload = ToKeep {
            expires_at_ms: self.expires_at_ms(&terms)?,
            envelope: package.envelope,
            terms: terms.clone(),
        };
        let since = self.inner.cache.since_now();
        if self.keep_durably(payload).await? == Kept::Executed {
            return Ok(false);
        }
        let payload = OpenedPayload {
            content: clear.content,
            as_recipient: clear.as_recipient,
            sender: clear.sender,
            terms,
            recipients,
        };
        self.inner.cache.put(hash, Arc::new(payload), since);
        if self.inner.wanted.found(&hash) {
            metrics::fetched();
        }
        self.announce_stored(&hash);
        Ok(true)
    }

    /// When a payload is to be erased, if the group that it was sent to says so.
    pub(crate) fn expires_at_ms(&self, terms: &SignedTerms) -> Result<Option<u64>, ExchangeError> {
        let lives = self.inner.lives_ms(terms)?;
        Ok(lives.map(|ms| now_ms().saturating_add(ms)))
    }
}

impl Inner {
    /// How long a payload with these terms lives, if its group says so.
    pub(crate) fn lives_ms(&self, terms: &SignedTerms) -> Result<Option<u64>, ExchangeError> {
        let Some(id) = &terms.terms.group else {
            return Ok(None);
        };
        let group = self.groups.get(id)?;
        Ok(group.and_then(|group| group.payloads_live_ms))
    }
}
