//! What the private executor asks: are we a party of this transaction, and what is its payload.

use std::collections::BTreeSet;
use std::sync::Arc;

use futures::future::BoxFuture;
use quorate_chain::PrivateReference;
use quorate_enclave::{PayloadHash, PublicKey, RecogniseRequest, SENDERS_MAX, Stored};
use quorate_privacy::{Executed, HandoverAnswer, HandoverWanted, Lookup, Payloads, PrivatePayload};

use crate::cache::OpenedPayload;
use crate::keeping::Looked;
use crate::{Exchange, ExchangeError};

/// What lies under a hash, opened if it can be.
#[derive(Debug)]
pub(crate) enum Held {
    Opened(Arc<OpenedPayload>),
    Erased(quorate_enclave::Erasure),
    /// Nothing, or an envelope without its terms, which was not acknowledged to anybody.
    Absent,
    /// Something is there and cannot be read or opened now.
    Unreadable(String),
}

impl Exchange {
    /// Reads and opens what lies under a hash. An error of any kind is never "nothing".
    pub(crate) async fn held(&self, hash: PayloadHash) -> Held {
        if let Some(opened) = self.inner.cache.get(&hash) {
            return Held::Opened(opened);
        }
        let since = self.inner.cache.since_now();
        let found = self.blocking(move |inner| {
            let stored = inner.store.get(&hash)?;
            let terms = match &stored {
                Some(Stored::Held { .. }) => inner.records.terms(&hash)?,
                Some(Stored::Erased(_)) | None => None,
            };
            Ok((stored, terms))
        });
        let (envelope, terms) = match found.await {
            Ok((None, _)) => return Held::Absent,
            Ok((Some(Stored::Erased(erasure)), _)) => return Held::Erased(erasure),
            Ok((Some(Stored::Held { envelope, .. }), terms)) => (envelope, terms),
            Err(e) => return Held::Unreadable(e.to_string()),
        };
        let Some(terms) = terms else {
            return Held::Absent;
        };
        match self.look_into(&envelope).await {
            Looked::Clear(clear) => {
                let opened = Arc::new(OpenedPayload {
                    content: clear.content,
                    as_recipient: clear.as_recipient,
                    sender: clear.sender,
                    terms,
                });
                self.inner.cache.put(hash, Arc::clone(&opened), since);
                Held::Opened(opened)
            }
            // It was for a key of ours when it was stored: that key is gone from the enclave.
            Looked::NotForUs => Held::Unreadable(ExchangeError::NoKey { hash }.to_string()),
            Looked::NoContent(reason) => Held::Unreadable(reason),
            Looked::Failed(e) => Held::Unreadable(e.to_string()),
        }
    }

    async fn look_up(&self, reference: &PrivateReference) -> Lookup {
        let hash = PayloadHash::from_bytes(reference.hash);
        match self.held(hash).await {
            Held::Opened(opened) => Lookup::Party(Box::new(PrivatePayload {
                content: opened.content.clone(),
                terms: opened.terms.terms.clone(),
                as_recipient: opened.as_recipient,
                sender: opened.sender,
                we_sent: opened.terms.terms.sender_node == self.node(),
            })),
            Held::Erased(_) => Lookup::Erased,
            Held::Unreadable(reason) => {
                // Another party's copy may be readable.
                self.inner.wanted.add(&hash, None);
                Lookup::Unknown { reason }
            }
            Held::Absent => self.absent(reference, hash).await,
        }
    }

    /// A payload that is not here: whether it should be.
    async fn absent(&self, reference: &PrivateReference, hash: PayloadHash) -> Lookup {
        let complete = self.is_complete();
        if reference.tags.is_empty() {
            if complete {
                return Lookup::NotAParty;
            }
            self.inner.wanted.add(&hash, None);
            return Lookup::Unknown {
                reason: format!(
                    "payload {hash} is not here, and the payload store is not complete: a resync with every member is needed"
                ),
            };
        }
        let request = RecogniseRequest {
            hash,
            senders: self.possible_senders(),
            tags: reference.tags.clone(),
        };
        match self.inner.enclave.recognise(request).await {
            Ok(Some(found)) => {
                self.inner.wanted.add(&hash, Some(found.sender));
                Lookup::Unknown {
                    reason: format!("waiting for payload {hash} from {}", found.sender),
                }
            }
            // Somebody may have sent it under a key that this node never heard of.
            Ok(None) if !complete && !self.inner.records.history_known() => Lookup::Unknown {
                reason: format!(
                    "payload {hash} is not here, and no other member told yet which keys there were before this node's time"
                ),
            },
            Ok(None) => Lookup::NotAParty,
            Err(e) => Lookup::Unknown {
                reason: format!("payload {hash} is not here, and {e}"),
            },
        }
    }

    /// Every key that any member has, or had.
    fn possible_senders(&self) -> Vec<PublicKey> {
        let members = self.members();
        let listed = members.iter().flat_map(|m| m.keys.iter().map(|k| k.key));
        let mut senders: BTreeSet<PublicKey> = listed.collect();
        let history = self.inner.records.history();
        for key in history.keys() {
            if senders.len() >= SENDERS_MAX {
                break;
            }
            senders.insert(*key);
        }
        senders.extend(self.inner.own_keys.read().iter().map(|k| k.key));
        senders.into_iter().take(SENDERS_MAX).collect()
    }
}

impl Payloads for Exchange {
    fn lookup(&self, reference: &PrivateReference) -> BoxFuture<'_, Lookup> {
        let reference = reference.clone();
        Box::pin(async move { self.look_up(&reference).await })
    }

    fn executed(&self, report: Executed) {
        // At once: the next sender of a contract with flag 3 waits for it.
        self.inner.reservations.release(&report.hash);
        self.inner.digests.report(report);
    }

    fn waiting(&self, hash: &PayloadHash) {
        self.inner.wanted.add(hash, None);
    }

    fn handover(&self, wanted: HandoverWanted) -> BoxFuture<'_, HandoverAnswer> {
        Box::pin(self.gather(wanted))
    }
}
