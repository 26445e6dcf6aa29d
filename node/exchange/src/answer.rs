//! What members are answered. Who may ask for what is decided by the replicated table and by what signatures and the enclave prove,
//! never by what the asker says of itself.

use alloy_primitives::Address;
use bytes::Bytes;
use futures::{StreamExt as _, stream};
use quorate_enclave::{
    Cursor, EnclaveError, ListQuery, PayloadHash, PrivacyFlag, PublicKey, Refusal, StoreError,
    Stored,
};
use quorate_privacy::Terms;

use crate::deliver::copy_for;
use crate::keeping::{InTheClear, Looked};
use crate::package::Package;
use crate::wire::{
    ANNOUNCED_MAX, Answer, Delivered, HISTORY_MAX, Handed, PAYLOADS_BYTES_SOFT_MAX, Place,
    RefusalCode, Request, Taken,
};
use crate::{Exchange, ExchangeError, MemberKeys, metrics};

/// Payloads of one message that the enclave is asked about at once.
const OPENED_AT_ONCE: usize = 16;

impl Exchange {
    /// Answers a request that the member `from` sent over the members' stream for private payloads. Never fails: a request that
    /// cannot be served is answered with the reason.
    pub async fn answer(&self, from: u64, body: Bytes) -> Bytes {
        metrics::received(body.len());
        let answer = match self.inner.answering.try_acquire() {
            Ok(_permit) => self.answer_to(from, &body).await,
            Err(_) => Answer::refused(RefusalCode::Busy, "too many requests are under way"),
        };
        if let Answer::Refused { code, text } = &answer {
            metrics::refused(metrics::Side::Here);
            tracing::debug!(from, ?code, text, "a member's request was refused");
        }
        let encoded = answer.encode();
        metrics::sent(encoded.len());
        encoded
    }

    async fn answer_to(&self, from: u64, body: &Bytes) -> Answer {
        let members = self.members();
        let Some(member) = members.iter().find(|m| m.raft_id == from && !m.this) else {
            let text = format!("raft id {from} is no other member");
            return Answer::refused(RefusalCode::NotAMember, text);
        };
        let request = match Request::decode(body) {
            Ok(request) => request,
            Err(e) => return Answer::refused(RefusalCode::Malformed, e),
        };
        match request {
            Request::Deliver { items } => Answer::Taken {
                items: self.take_all(&members, member, items).await,
            },
            Request::Withdraw { hash } => self.was_withdrawn(member, &hash),
            Request::Fetch { hashes } => self.hand_out(&members, member, hashes).await,
            Request::List { key, place, limit } => {
                self.list(&members, member, key, place, limit).await
            }
            Request::Erased { key, place, limit } => {
                self.list_erased(&members, member, key, place, limit).await
            }
            Request::Digests { items } => self.compare(member, items).await,
            Request::Group(group) => self.learn_group(&members, member, group).await,
            Request::Keys => self.tell_keys().await,
            Request::Groups { key, after } => self.tell_groups(&members, member, key, after).await,
            Request::Statement { transaction } => self.vouch(&members, member, transaction).await,
            Request::State { transaction, page } => {
                self.hand_over_state(&members, member, transaction, page)
                    .await
            }
        }
    }

    /// Payloads arrive. What came of each, in their order.
    async fn take_all(
        &self,
        members: &[MemberKeys],
        member: &MemberKeys,
        items: Vec<Delivered>,
    ) -> Vec<Taken> {
        let count = items.len();
        // Signatures take their time; not on a thread that serves many.
        let read = self.blocking(move |inner| {
            let read = |item: Delivered| {
                Package::read(&inner.identity, &inner.signers, &item.envelope, &item.terms)
                    .map_err(|e| Taken::refused(e.code, e.text))
            };
            Ok(items.into_iter().map(read).collect::<Vec<_>>())
        });
        let Ok(read) = read.await else {
            return vec![Taken::refused(RefusalCode::Busy, "this node is stopping"); count];
        };
        let each = read
            .into_iter()
            .map(|package| async { self.believed(members, member, package?).await });
        let believed: Vec<_> = stream::iter(each).buffered(OPENED_AT_ONCE).collect().await;
        let kept = believed.into_iter().map(|believed| async move {
            match believed {
                Ok((package, clear)) => self.take(package, clear).await,
                Err(refused) => refused,
            }
        });
        let taken = futures::future::join_all(kept).await;
        for taken in &taken {
            if let Taken::Refused { code, text } = taken {
                metrics::refused(metrics::Side::Here);
                tracing::debug!(
                    from = member.raft_id,
                    ?code,
                    text,
                    "a member's payload was refused"
                );
            }
        }
        taken
    }

    /// Checks who sent a payload, and opens it.
    async fn believed(
        &self,
        members: &[MemberKeys],
        member: &MemberKeys,
        package: Package,
    ) -> Result<(Package, InTheClear), Taken> {
        let refused = |code, text: &str| Err(Taken::refused(code, text));
        if package.sender_node() != member.node {
            let text = "another node signed the payload than the one that delivers it";
            return refused(RefusalCode::NotAuthentic, text);
        }
        // Suite 2 proves the sender by the node's signature alone, so the node must be the one that the key belongs to.
        let sender = package.envelope.sender();
        if !self.belongs(members, member, &sender) {
            let text = format!("the table does not say that the sender's key {sender} is yours");
            return refused(RefusalCode::UnknownSenderKey, &text);
        }
        let clear = match self.look_into(&package.envelope).await {
            Looked::Clear(clear) => clear,
            Looked::NotForUs => {
                return refused(RefusalCode::NotForUs, "no key of ours is a recipient");
            }
            Looked::NoContent(text) => return refused(RefusalCode::Malformed, &text),
            Looked::Failed(e) => {
                let (code, text) = why_not_opened(&e);
                return refused(code, &text);
            }
        };
        let terms = &package.terms.terms;
        let validated = terms.flag == PrivacyFlag::StateValidation;
        if validated && !terms.parties.contains(&clear.as_recipient) {
            let text = "the terms do not name the recipient among the parties";
            return refused(RefusalCode::NotAuthentic, text);
        }
        Ok((package, clear))
    }

    /// Keeps a payload that is believed.
    async fn take(&self, package: Package, clear: InTheClear) -> Taken {
        let hash = package.hash;
        if let Err(contract) = self.reserve(&package.terms.terms) {
            metrics::conflict(metrics::Side::Here);
            return Taken::Conflict { contract };
        }
        match self.keep(package, clear).await {
            Ok(true) => {
                metrics::stored();
                Taken::Stored
            }
            Ok(false) => {
                self.inner.reservations.release(&hash);
                let text = "the payload was executed here, with other terms";
                Taken::refused(RefusalCode::AlreadyExecuted, text)
            }
            Err(e) => {
                self.inner.reservations.release(&hash);
                let (code, text) = why_not_kept(&hash, &e);
                Taken::refused(code, text)
            }
        }
    }

    /// With flag 3: checks that the contracts are as the sender found them, and keeps others from them until it is executed.
    ///
    /// # Errors
    /// The contract that differs or that another payload is on its way to change.
    pub(crate) fn reserve(&self, terms: &Terms) -> Result<(), Address> {
        if terms.flag != PrivacyFlag::StateValidation {
            return Ok(());
        }
        // Reserved first: what is compared then is changed by nobody else's payload.
        let contracts = terms.affected.keys();
        let reservations = &self.inner.reservations;
        reservations.reserve(contracts, &terms.hash, &terms.sender_node)?;
        let Some(view) = self.state_view() else {
            return Ok(());
        };
        let differs = |(contract, digest): &(&Address, &alloy_primitives::B256)| {
            view.contract_digest(**contract) != Some(**digest)
        };
        if let Some((contract, _)) = terms.base.iter().find(differs) {
            self.inner.reservations.release(&terms.hash);
            return Err(*contract);
        }
        Ok(())
    }

    /// The sender of a payload gave it up. Of a payload of others nothing is said.
    fn was_withdrawn(&self, member: &MemberKeys, hash: &PayloadHash) -> Answer {
        self.inner.reservations.withdraw(hash, &member.node);
        Answer::Noted
    }

    /// Hands out payloads to one of their parties. The answer to anyone else is the one for a payload that is not here.
    async fn hand_out(
        &self,
        members: &[MemberKeys],
        member: &MemberKeys,
        hashes: Vec<PayloadHash>,
    ) -> Answer {
        let mut items: Vec<Handed> = Vec::with_capacity(hashes.len());
        let mut bytes = 0usize;
        for hash in hashes {
            let payload = match self.copy_of(members, member, hash).await {
                Ok(payload) => payload,
                Err(e) => {
                    tracing::warn!(payload = %hash, raft_id = member.raft_id, error = %e, "a payload that a party asked for cannot be handed out");
                    if matches!(&e, ExchangeError::Enclave(e) if e.is_silence()) {
                        // Not "nothing here": the asker tries again.
                        return keeping_failed(&hash, &e);
                    }
                    None
                }
            };
            let size = payload
                .as_ref()
                .map_or(0, |(envelope, terms)| envelope.len() + terms.len());
            // The asker asks for the rest again.
            if !items.is_empty() && bytes.saturating_add(size) > PAYLOADS_BYTES_SOFT_MAX {
                break;
            }
            bytes = bytes.saturating_add(size);
            items.push(Handed { hash, payload });
        }
        Answer::Payloads { items }
    }

    /// Envelope and terms as this member may have them; `None` if it is no party, or they are not here.
    async fn copy_of(
        &self,
        members: &[MemberKeys],
        member: &MemberKeys,
        hash: PayloadHash,
    ) -> Result<Option<(Bytes, Bytes)>, ExchangeError> {
        let found = self.blocking(move |inner| {
            let held = inner.store.get(&hash)?;
            let Some(Stored::Held {
                envelope, beside, ..
            }) = held
            else {
                return Ok(None);
            };
            let terms = inner.terms(&hash, beside.as_ref())?;
            Ok(terms.map(|terms| (envelope, terms)))
        });
        let Some((mut envelope, terms)) = found.await? else {
            return Ok(None);
        };
        let theirs = |key: &PublicKey| self.belongs(members, member, key);
        let sender = envelope.sender();
        let sent_it = theirs(&sender);
        let mut keys: Vec<_> = envelope.recipients().filter(theirs).collect();
        let mut lacking: Vec<PublicKey> = terms
            .terms
            .parties
            .iter()
            .filter(|key| theirs(key) && !keys.contains(key))
            .copied()
            .collect();
        if sent_it && !keys.contains(&sender) && !lacking.contains(&sender) {
            lacking.push(sender);
        }
        if keys.is_empty() && lacking.is_empty() {
            return Ok(None);
        }
        if !lacking.is_empty() {
            let mut to = Vec::with_capacity(lacking.len());
            for key in &lacking {
                to.push(self.announced(member, key).await?);
            }
            let context = *envelope.context();
            *envelope = self.inner.enclave.reseal(*envelope, context, to).await?;
            keys.extend(lacking);
        }
        if sent_it {
            // It made our boxes itself, and so learns again whom it sent the payload to.
            let ours = |key: &PublicKey| {
                self.is_own(members, key) || self.node_of_key(key) == Some(self.node())
            };
            keys.extend(envelope.recipients().filter(ours));
            keys.sort_unstable();
            keys.dedup();
        }
        let copy = copy_for(&envelope, &keys);
        Ok(copy.map(|copy| (copy.encode().into(), terms.encode().into())))
    }

    /// A page of the payloads that a key of the asker's sent or may read.
    async fn list(
        &self,
        members: &[MemberKeys],
        member: &MemberKeys,
        key: PublicKey,
        place: Place,
        limit: u16,
    ) -> Answer {
        if !self.belongs(members, member, &key) {
            // As for a key that nothing is here for.
            return Answer::Listed {
                hashes: Vec::new(),
                next: None,
            };
        }
        let limit = usize::from(limit);
        let page = self.blocking(move |inner| match place {
            Place::Start | Place::Behind(_) => {
                let after: Option<Cursor> = match place {
                    Place::Behind(cursor) => Some(cursor),
                    Place::Start | Place::BehindHash(_) => None,
                };
                let query = ListQuery {
                    party: Some(key),
                    since_ms: 0,
                    after,
                    limit,
                };
                let listed = inner.store.list(&query)?;
                let next = match listed.last() {
                    Some(last) if listed.len() >= limit => Place::Behind(last.cursor),
                    // Then those that only their terms connect with the key.
                    Some(_) | None => Place::BehindHash(PayloadHash::from_bytes([0; 64])),
                };
                Ok((listed.into_iter().map(|l| l.hash).collect(), Some(next)))
            }
            Place::BehindHash(hash) => {
                let hashes: Vec<PayloadHash> = inner.records.named(&key, Some(&hash), limit)?;
                let last = hashes.last().copied().filter(|_| hashes.len() >= limit);
                let mut held = Vec::with_capacity(hashes.len());
                for hash in hashes {
                    if inner.store.holds(&hash)? {
                        held.push(hash);
                    }
                }
                Ok((held, last.map(Place::BehindHash)))
            }
        });
        match page.await {
            Ok((hashes, next)) => Answer::Listed { hashes, next },
            Err(e) => failed("listing payloads", &e),
        }
    }

    /// A page of the payloads that a key of the asker's sent or could read, and that were erased here.
    async fn list_erased(
        &self,
        members: &[MemberKeys],
        member: &MemberKeys,
        key: PublicKey,
        place: Place,
        limit: u16,
    ) -> Answer {
        let limit = usize::from(limit);
        let behind = match place {
            Place::Start => None,
            Place::BehindHash(hash) => Some(hash),
            Place::Behind(_) => {
                let text = "place: erased payloads are listed by their hash";
                return Answer::refused(RefusalCode::Malformed, text);
            }
        };
        if !self.belongs(members, member, &key) {
            return Answer::Listed {
                hashes: Vec::new(),
                next: None,
            };
        }
        let page = self.blocking(move |inner| {
            let hashes = inner.records.erased_of(&key, behind.as_ref(), limit)?;
            let last = hashes.last().copied().filter(|_| hashes.len() >= limit);
            let mut erased = Vec::with_capacity(hashes.len());
            for hash in hashes {
                match inner.store.get(&hash) {
                    Ok(Some(Stored::Erased(_))) => erased.push(hash),
                    Ok(_) | Err(StoreError::Damaged { .. }) => {}
                    Err(e) => return Err(e.into()),
                }
            }
            Ok((erased, last.map(Place::BehindHash)))
        });
        match page.await {
            Ok((hashes, next)) => Answer::Listed { hashes, next },
            Err(e) => failed("listing erased payloads", &e),
        }
    }

    async fn tell_keys(&self) -> Answer {
        match self.keys().await {
            Ok(mut announced) => {
                announced.truncate(ANNOUNCED_MAX);
                let history = self.inner.records.history();
                let history = history.iter().take(HISTORY_MAX);
                Answer::Keys {
                    announced,
                    history: history.map(|(key, known)| (*key, known.node)).collect(),
                }
            }
            Err(ExchangeError::Enclave(e)) => enclave_failed(&e),
            Err(e) => failed("telling keys", &e),
        }
    }
}

/// The enclave's no is final, its silence is not.
fn why_not_opened(error: &EnclaveError) -> (RefusalCode, String) {
    match error {
        EnclaveError::Refused(Refusal::Forged { .. }) => (
            RefusalCode::EnclaveRefused,
            "the enclave finds the envelope forged or damaged".to_owned(),
        ),
        EnclaveError::Refused(refusal) => (RefusalCode::EnclaveRefused, refusal.to_string()),
        // Where it is and what its socket says is nobody else's business.
        EnclaveError::Unreachable { .. }
        | EnclaveError::TimedOut { .. }
        | EnclaveError::Busy { .. }
        | EnclaveError::NotAdmitted { .. }
        | EnclaveError::Protocol { .. }
        | EnclaveError::Failed { .. } => {
            tracing::warn!(error = %error, "the enclave did not answer for a member's request");
            let text = "our enclave does not answer".to_owned();
            (RefusalCode::EnclaveSilent, text)
        }
    }
}

fn enclave_failed(error: &EnclaveError) -> Answer {
    let (code, text) = why_not_opened(error);
    Answer::refused(code, text)
}

fn why_not_kept(hash: &PayloadHash, error: &ExchangeError) -> (RefusalCode, String) {
    let because = |code, text: &str| (code, text.to_owned());
    match error {
        ExchangeError::Store(StoreError::Erased(_)) => {
            because(RefusalCode::Erased, "the payload was erased here")
        }
        ExchangeError::Store(StoreError::Conflict { .. }) => because(
            RefusalCode::NotAuthentic,
            "another envelope is here under this hash",
        ),
        ExchangeError::Enclave(e) => why_not_opened(e),
        other => {
            tracing::error!(payload = %hash, error = %other, "a member's payload was not kept");
            because(RefusalCode::StoreFailed, "our disk did not take it")
        }
    }
}

fn keeping_failed(hash: &PayloadHash, error: &ExchangeError) -> Answer {
    let (code, text) = why_not_kept(hash, error);
    Answer::refused(code, text)
}

pub(crate) fn failed(what: &str, error: &ExchangeError) -> Answer {
    tracing::error!(error = %error, "{what} for a member failed");
    Answer::refused(RefusalCode::StoreFailed, "our disk does not answer")
}
