//! Asking other parties for payloads that are missing here.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use quorate_enclave::{PayloadHash, PublicKey};

use crate::keeping::Looked;
use crate::package::Package;
use crate::wire::{Answer, FETCH_MAX, Handed, Request};
use crate::{Exchange, ExchangeError, MemberKeys};

/// Payloads that are looked for side by side.
const FETCHES_MAX: usize = 8;
/// How long the sender is asked alone, before everyone is.
const SENDER_FIRST: Duration = Duration::from_secs(2);

/// What came of a payload that a member handed out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fetched {
    /// It is here now.
    Kept,
    /// The member has nothing for us under this hash.
    Nothing,
    /// It is not what it should be, or the enclave does not open it.
    Unusable,
}

impl Exchange {
    /// Looks for what is due.
    pub(crate) async fn fetch_round(&self) -> Result<(), ExchangeError> {
        let mut under_way: FuturesUnordered<_> = self
            .inner
            .wanted
            .due(FETCHES_MAX)
            .into_iter()
            .map(|(hash, sender)| self.look_for(hash, sender))
            .collect();
        while let Some(done) = under_way.next().await {
            done?;
        }
        Ok(())
    }

    /// Asks for one payload: its sender first, if it is known, then everyone else.
    async fn look_for(
        &self,
        hash: PayloadHash,
        sender: Option<PublicKey>,
    ) -> Result<(), ExchangeError> {
        let members = self.members();
        let owner = sender.and_then(|key| {
            let by_table = Self::owner(&members, &key);
            let history = self.inner.records.history();
            by_table.or_else(|| {
                let known = history.get(&key)?;
                members.iter().find(|m| m.node == known.node)
            })
        });
        let owner = owner.filter(|member| !member.this);
        if let Some(member) = owner {
            let asked = self.fetch_from(member, hash, SENDER_FIRST).await?;
            if asked == Fetched::Kept {
                return Ok(());
            }
        }
        let first = owner.map(|member| member.raft_id);
        let others = members
            .iter()
            .filter(|m| !m.this && Some(m.raft_id) != first);
        let timeout = self.inner.config.ask_timeout;
        let mut asked: FuturesUnordered<_> = others
            .map(|member| self.fetch_from(member, hash, timeout))
            .collect();
        while let Some(fetched) = asked.next().await {
            if fetched? == Fetched::Kept {
                break;
            }
        }
        Ok(())
    }

    async fn fetch_from(
        &self,
        member: &MemberKeys,
        hash: PayloadHash,
        timeout: Duration,
    ) -> Result<Fetched, ExchangeError> {
        let request = Request::Fetch { hashes: vec![hash] };
        let answer = self.ask(member.raft_id, request.encode(), timeout).await;
        let Ok(Answer::Payloads { items }) = answer else {
            return Ok(Fetched::Nothing);
        };
        let item = items.into_iter().find(|item| item.hash == hash);
        match item {
            Some(item) => self.take_in(member, item).await,
            None => Ok(Fetched::Nothing),
        }
    }

    /// Asks a member for several payloads, until it gave all of them or nothing for the rest.
    pub(crate) async fn fetch_many(
        &self,
        member: &MemberKeys,
        hashes: &[PayloadHash],
    ) -> Result<BTreeMap<PayloadHash, Fetched>, FetchFailed> {
        let mut done = BTreeMap::new();
        let mut left: Vec<PayloadHash> = hashes.to_vec();
        while !left.is_empty() {
            let batch: Vec<_> = left.iter().take(FETCH_MAX).copied().collect();
            let request = Request::Fetch {
                hashes: batch.clone(),
            };
            let answer = self.ask_for(member.raft_id, &request).await;
            let items = match answer.map_err(|e| FetchFailed::Peer(e.to_string()))? {
                Answer::Payloads { items } => items,
                Answer::Refused { text, .. } => return Err(FetchFailed::Peer(text)),
                other => {
                    let reason = format!("it answers {}", other.name());
                    return Err(FetchFailed::Peer(reason));
                }
            };
            let before = done.len();
            let asked = |item: &Handed| batch.contains(&item.hash);
            let taken = items.into_iter().filter(asked).map(|item| async {
                let hash = item.hash;
                (hash, self.take_in(member, item).await)
            });
            for (hash, fetched) in futures::future::join_all(taken).await {
                done.insert(hash, fetched.map_err(FetchFailed::Here)?);
            }
            if done.len() == before {
                let reason = "it answers with payloads that it was not asked for".to_owned();
                return Err(FetchFailed::Peer(reason));
            }
            left.retain(|hash| !done.contains_key(hash));
        }
        Ok(done)
    }

    /// Checks, opens and keeps what a member handed out.
    async fn take_in(&self, member: &MemberKeys, item: Handed) -> Result<Fetched, ExchangeError> {
        let Some((envelope, terms)) = item.payload else {
            return Ok(Fetched::Nothing);
        };
        let unusable = |reason: &str| {
            tracing::warn!(raft_id = member.raft_id, payload = %item.hash, reason, "a payload that was handed out cannot be used");
            Fetched::Unusable
        };
        let package =
            match Package::read(&self.inner.identity, &self.inner.signers, &envelope, &terms) {
                Ok(package) if package.hash == item.hash => package,
                Ok(_) => return Ok(unusable("it has another hash")),
                Err(e) => return Ok(unusable(&e.text)),
            };
        // Whoever hands it out, the node that signed it must be the one that its sender's key belongs to.
        let signer = self.node_of_key(&package.envelope.sender());
        if signer != Some(package.sender_node()) {
            return Ok(unusable(
                "its sender's key is not known to be the signing node's",
            ));
        }
        let clear = match self.look_into(&package.envelope).await {
            Looked::Clear(clear) => clear,
            Looked::NotForUs => return Ok(unusable("it is for none of our keys")),
            Looked::NoContent(reason) => return Ok(unusable(&reason)),
            Looked::Failed(e) => return Ok(unusable(&e.to_string())),
        };
        match self.keep(package, clear).await {
            Ok(true) => Ok(Fetched::Kept),
            Ok(false) => Ok(unusable("it was executed with other terms")),
            Err(ExchangeError::Store(e)) if !e.is_fatal() => Ok(unusable(&e.to_string())),
            Err(e) => Err(e),
        }
    }
}

/// Why a member was not asked to the end.
#[derive(Debug)]
pub(crate) enum FetchFailed {
    /// It did not answer, or not as it should.
    Peer(String),
    /// Our own disk failed.
    Here(ExchangeError),
}
