//! What the private executor asks: are we a party of this transaction, and what is its payload.

use std::collections::BTreeSet;
use std::sync::Arc;

use futures::future::BoxFuture;
use futures::{StreamExt as _, stream};
use quorate_chain::PrivateReference;
use quorate_enclave::{Envelope, PayloadHash, PublicKey, RecogniseRequest, SENDERS_MAX, Stored};
use quorate_privacy::{
    Executed, HandoverAnswer, HandoverWanted, Lookup, Payloads, PrivatePayload, SignedTerms,
};

use crate::cache::{OpenedPayload, Since};
use crate::exchange::Inner;
use crate::keeping::Looked;
use crate::{Exchange, ExchangeError};

/// Payloads that the enclave is asked about at once.
const OPENED_AT_ONCE: usize = 16;

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

/// What a look into memory and onto the disk found.
#[derive(Debug)]
enum Read {
    Opened(Arc<OpenedPayload>),
    Here(Box<Envelope>, Box<SignedTerms>),
    Erased(quorate_enclave::Erasure),
    Absent,
    Failed(ExchangeError),
    Stopping,
}

impl Inner {
    fn read(&self, hash: &PayloadHash) -> Result<Read, ExchangeError> {
        Ok(match self.store.get(hash)? {
            None => Read::Absent,
            Some(Stored::Erased(erasure)) => Read::Erased(erasure),
            Some(Stored::Held {
                envelope, beside, ..
            }) => match self.terms(hash, beside.as_ref())? {
                Some(terms) => Read::Here(envelope, Box::new(terms)),
                None => Read::Absent,
            },
        })
    }
}

impl Exchange {
    /// Reads and opens what lies under a hash. An error of any kind is never "nothing".
    pub(crate) async fn held(&self, hash: PayloadHash) -> Held {
        let held = self.held_each(vec![hash]).await.pop();
        held.unwrap_or_else(|| Held::Unreadable(ExchangeError::Stopping.to_string()))
    }

    /// As [`held`](Self::held), for several, in their order.
    async fn held_each(&self, hashes: Vec<PayloadHash>) -> Vec<Held> {
        let cache = &self.inner.cache;
        let in_memory: Vec<_> = hashes.iter().map(|hash| cache.get(hash)).collect();
        let since = cache.since_now();
        let others = hashes.iter().zip(&in_memory);
        let others = others.filter(|(_, opened)| opened.is_none());
        let others: Vec<_> = others.map(|(hash, _)| *hash).collect();
        let mut read = self.read_each(others).await.into_iter();
        let each = hashes.into_iter().zip(in_memory);
        let each = each.map(|(hash, opened)| {
            let read = match opened {
                Some(opened) => Read::Opened(opened),
                None => read.next().unwrap_or(Read::Stopping),
            };
            self.opened(hash, read, since)
        });
        let each: Vec<_> = each.collect();
        stream::iter(each).buffered(OPENED_AT_ONCE).collect().await
    }

    /// Reads several at one go: most that are asked for are not here, and a thread for each would cost more than the look.
    async fn read_each(&self, hashes: Vec<PayloadHash>) -> Vec<Read> {
        if hashes.is_empty() {
            return Vec::new();
        }
        let read = self.blocking(move |inner| {
            let read = |hash| inner.read(hash).unwrap_or_else(Read::Failed);
            Ok(hashes.iter().map(read).collect())
        });
        read.await.unwrap_or_default()
    }

    async fn opened(&self, hash: PayloadHash, read: Read, since: Since) -> Held {
        let (envelope, terms) = match read {
            Read::Opened(opened) => return Held::Opened(opened),
            Read::Absent => return Held::Absent,
            Read::Erased(erasure) => return Held::Erased(erasure),
            Read::Failed(e) => return Held::Unreadable(e.to_string()),
            Read::Stopping => return Held::Unreadable(ExchangeError::Stopping.to_string()),
            Read::Here(envelope, terms) => (envelope, *terms),
        };
        match self.look_into(&envelope).await {
            Looked::Clear(clear) => {
                let opened = Arc::new(OpenedPayload {
                    content: clear.content,
                    as_recipient: clear.as_recipient,
                    sender: clear.sender,
                    terms,
                    recipients: envelope.recipients().collect(),
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

    async fn look_up(
        &self,
        reference: PrivateReference,
        held: Held,
        senders: &[PublicKey],
        complete: bool,
    ) -> Lookup {
        let hash = PayloadHash::from_bytes(reference.hash);
        match held {
            Held::Opened(opened) => Lookup::Party(Box::new(PrivatePayload {
                content: opened.content.clone(),
                terms: opened.terms.terms.clone(),
                as_recipient: opened.as_recipient,
                sender: opened.sender,
                we_sent: opened.terms.terms.sender_node == self.node(),
            })),
            Held::Erased(_) => {
                // A look that was under way when it was erased, or given up, may have asked for it.
                self.inner.wanted.found(&hash);
                Lookup::Erased
            }
            Held::Unreadable(reason) => {
                // Another party's copy may be readable.
                self.inner.wanted.add(&hash, None);
                Lookup::Unknown { reason }
            }
            Held::Absent => self.absent(&reference, hash, senders, complete).await,
        }
    }

    /// A payload that is not here: whether it should be.
    async fn absent(
        &self,
        reference: &PrivateReference,
        hash: PayloadHash,
        senders: &[PublicKey],
        complete: bool,
    ) -> Lookup {
        let erased = match self.inner.records.who_erased(&hash) {
            Ok(by) => by.map(|node| {
                format!(
                    "payload {hash} is not here, and member {node} erased it: nobody else may have it, and without it private execution goes on only if it is given up"
                )
            }),
            Err(e) => {
                return Lookup::Unknown {
                    reason: format!("payload {hash} is not here, and {e}"),
                };
            }
        };
        if reference.tags.is_empty() {
            // Tags would say whose it is. So it is the word of another party that this one is not foreign.
            if let Some(reason) = erased {
                self.inner.wanted.add(&hash, None);
                return Lookup::Unknown { reason };
            }
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
            senders: senders.to_vec(),
            tags: reference.tags.clone(),
        };
        match self.inner.enclave.recognise(request).await {
            Ok(Some(found)) => {
                self.inner.wanted.add(&hash, Some(found.sender));
                let waiting = || format!("waiting for payload {hash} from {}", found.sender);
                Lookup::Unknown {
                    reason: erased.unwrap_or_else(waiting),
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
    fn lookup(&self, references: Vec<PrivateReference>) -> BoxFuture<'_, Vec<Lookup>> {
        Box::pin(async move {
            let hashes = references.iter().map(|r| PayloadHash::from_bytes(r.hash));
            // Before the look: what completes the store meanwhile may bring what was not found.
            let complete = self.is_complete();
            let held = self.held_each(hashes.collect()).await;
            let senders = self.possible_senders();
            let each = references.into_iter().zip(held);
            let each =
                each.map(|(reference, held)| self.look_up(reference, held, &senders, complete));
            let each: Vec<_> = each.collect();
            stream::iter(each).buffered(OPENED_AT_ONCE).collect().await
        })
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
