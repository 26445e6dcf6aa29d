//! Asking every other member for all that it has for us: after the disk was lost, or when it turned out to be older than our word.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use quorate_enclave::{PayloadHash, PublicKey, Stored};

use crate::fetch::{FetchFailed, Fetched};
use crate::wire::{Answer, FETCH_MAX, LIST_MAX, Place, Request};
use crate::{Exchange, ExchangeError, MemberKeys, MemberResync, ResyncReport, metrics};

/// Most pages of one member's listing for one key: 100 million payloads.
const PAGES_MAX: usize = 100_000;

/// How long a member may take to tell all its groups.
const GROUPS_WITHIN: Duration = Duration::from_secs(60);

/// What a member is asked to list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Listing {
    Held,
    Erased,
}

impl Exchange {
    /// Asks all other members that have, or had, keys, to the end of their lists, for payloads that a key of ours may read or sent. When
    /// every one of them answered and all was taken, the store is complete, durably. May be repeated at any time. One that was not
    /// complete before also learns which of its payloads they erased, and its privacy groups: a complete one knows, and what it
    /// deleted stays deleted.
    ///
    /// # Errors
    /// [`ExchangeError`] if this node's own enclave or disk failed. What goes wrong with a member is in the report.
    pub async fn resync(&self) -> Result<ResyncReport, ExchangeError> {
        let members = self.members();
        // Whoever never had a key sent nothing and received nothing.
        let history = self.inner.records.history();
        let had_keys = |m: &MemberKeys| {
            !m.keys.is_empty() || history.values().any(|known| known.node == m.node)
        };
        let others: Vec<_> = members.iter().filter(|m| !m.this && had_keys(m)).collect();
        // First the keys of former times: with these, payloads of former senders are recognised and our former keys asked for.
        for member in &others {
            self.learn_keys(member).await?;
        }
        let keys = self.every_own_key().await?;
        let lost = self.inner.records.incomplete_since();
        let mut not_told = BTreeMap::new();
        if lost.is_some() {
            // Before payloads: a group says how long they live.
            let asked = others.iter().map(|member| async {
                let told = self.resync_groups(&members, member, &keys);
                let told = tokio::time::timeout(GROUPS_WITHIN, told).await;
                let late = || "it did not tell its groups in time".to_owned();
                let reason = told.unwrap_or_else(|_| Ok(Some(late())))?;
                Ok::<_, ExchangeError>(reason.map(|reason| (member.raft_id, reason)))
            });
            let asked = futures::future::try_join_all(asked).await?;
            not_told.extend(asked.into_iter().flatten());
        }
        let asked = others
            .iter()
            .map(|member| self.resync_with(member, &keys, lost.is_some()));
        let mut reports = futures::future::try_join_all(asked).await?;
        for report in &mut reports {
            let groups = not_told.remove(&report.raft_id);
            report.error = report.error.take().or(groups);
        }
        let mut complete = reports.iter().all(MemberResync::is_complete);
        if complete {
            if !self.inner.records.history_known() {
                self.blocking(|inner| Ok(inner.records.set_history_known()?))
                    .await?;
            }
            if let Some(since) = lost {
                self.blocking(move |inner| Ok(inner.records.complete(since)?))
                    .await?;
                metrics::complete(self.is_complete());
            }
            complete = self.is_complete();
        }
        Ok(ResyncReport {
            members: reports,
            complete,
        })
    }

    /// Learns from a member which keys there were before this node's time. Returns whether it answered.
    pub(crate) async fn learn_keys(&self, member: &MemberKeys) -> Result<bool, ExchangeError> {
        let Ok(Answer::Keys { history, .. }) = self.ask_for(member.raft_id, &Request::Keys).await
        else {
            return Ok(false);
        };
        self.blocking(move |inner| {
            // What this node saw in the table itself is not changed by what others say.
            inner.records.remember_keys(history.into_iter(), false)?;
            Ok(())
        })
        .await?;
        Ok(true)
    }

    async fn resync_with(
        &self,
        member: &MemberKeys,
        keys: &BTreeSet<PublicKey>,
        lost: bool,
    ) -> Result<MemberResync, ExchangeError> {
        let mut report = MemberResync {
            raft_id: member.raft_id,
            node: member.node,
            listed: 0,
            fetched: 0,
            held: 0,
            failed: 0,
            erased: 0,
            error: None,
        };
        // What is held first: it does not depend on what else the member can tell.
        let listings: &[Listing] = match lost {
            true => &[Listing::Held, Listing::Erased],
            false => &[Listing::Held],
        };
        for listing in listings {
            for key in keys {
                match self.resync_key(member, key, *listing, &mut report).await {
                    Ok(()) => {}
                    Err(FetchFailed::Here(e)) => return Err(e),
                    Err(FetchFailed::Peer(reason)) => {
                        report.error = Some(reason);
                        return Ok(report);
                    }
                }
            }
        }
        Ok(report)
    }

    async fn resync_key(
        &self,
        member: &MemberKeys,
        key: &PublicKey,
        listing: Listing,
        report: &mut MemberResync,
    ) -> Result<(), FetchFailed> {
        let mut place = Place::Start;
        let limit = u16::try_from(LIST_MAX).unwrap_or(u16::MAX);
        for _ in 0..PAGES_MAX {
            let key = *key;
            let request = match listing {
                Listing::Held => Request::List { key, place, limit },
                Listing::Erased => Request::Erased { key, place, limit },
            };
            let answer = self.ask_for(member.raft_id, &request).await;
            let (hashes, next) = match answer.map_err(|e| FetchFailed::Peer(e.to_string()))? {
                Answer::Listed { hashes, next } => (hashes, next),
                Answer::Refused { text, .. } => return Err(FetchFailed::Peer(text)),
                other => {
                    let reason = format!("it answers {}", other.name());
                    return Err(FetchFailed::Peer(reason));
                }
            };
            match listing {
                Listing::Held => self.resync_page(member, hashes, report).await?,
                Listing::Erased => {
                    let erased = self.hear_of_erased(member, hashes).await;
                    let erased = erased.map_err(FetchFailed::Here)?;
                    report.erased = report.erased.saturating_add(erased);
                }
            }
            match next {
                None => return Ok(()),
                Some(next) if !is_behind(&next, &place) => {
                    let reason = "its list goes back to where it was".to_owned();
                    return Err(FetchFailed::Peer(reason));
                }
                Some(next) => place = next,
            }
        }
        Err(FetchFailed::Peer("its list does not end".to_owned()))
    }

    async fn resync_page(
        &self,
        member: &MemberKeys,
        hashes: Vec<PayloadHash>,
        report: &mut MemberResync,
    ) -> Result<(), FetchFailed> {
        report.listed = report.listed.saturating_add(count(hashes.len()));
        let lacking = self.lacking(member, hashes).await;
        let (lacking, held) = lacking.map_err(FetchFailed::Here)?;
        report.held = report.held.saturating_add(held);
        for batch in lacking.chunks(FETCH_MAX) {
            let fetched: BTreeMap<_, _> = self.fetch_many(member, batch).await?;
            for outcome in fetched.values() {
                match outcome {
                    Fetched::Kept => report.fetched = report.fetched.saturating_add(1),
                    // Listed a moment ago and gone now, or damaged: not complete.
                    Fetched::Nothing | Fetched::Unusable => {
                        report.failed = report.failed.saturating_add(1);
                    }
                }
            }
        }
        Ok(())
    }

    /// A member says that it erased these payloads of ours. Returns how many of them are not here either.
    async fn hear_of_erased(
        &self,
        member: &MemberKeys,
        hashes: Vec<PayloadHash>,
    ) -> Result<u64, ExchangeError> {
        let by = member.node;
        self.blocking(move |inner| {
            let mut absent = Vec::new();
            for hash in hashes {
                match inner.store.get(&hash) {
                    Ok(None) => absent.push(hash),
                    Ok(Some(_)) | Err(quorate_enclave::StoreError::Damaged { .. }) => {}
                    Err(e) => return Err(e.into()),
                }
            }
            if !absent.is_empty() {
                inner.records.erased_elsewhere(&absent, &by)?;
                inner.records.make_durable()?;
            }
            Ok(count(absent.len()))
        })
        .await
    }

    /// Which of these payloads are not here as they should be, and how many are.
    async fn lacking(
        &self,
        member: &MemberKeys,
        hashes: Vec<PayloadHash>,
    ) -> Result<(Vec<PayloadHash>, u64), ExchangeError> {
        let node = self.node();
        let theirs: Vec<PublicKey> = member.keys.iter().map(|k| k.key).collect();
        self.blocking(move |inner| {
            let mut lacking = Vec::new();
            let mut held = 0u64;
            for hash in hashes {
                let as_it_should = match inner.store.get(&hash) {
                    Ok(None) => false,
                    // Erased on purpose, and not to come back.
                    Ok(Some(Stored::Erased(_))) => true,
                    Ok(Some(Stored::Held {
                        envelope,
                        beside,
                        expires_at_ms,
                        ..
                    })) => {
                        // Of what we sent we also want to know to whom: the boxes say it.
                        let we_sent = envelope.context().sender_node == node;
                        let known = envelope.recipients().any(|key| theirs.contains(&key));
                        let terms = inner.terms(&hash, beside.as_ref())?;
                        // Else it came before its group was known.
                        let lives = terms
                            .as_ref()
                            .map_or(Ok(None), |terms| inner.lives_ms(terms))?;
                        let expires = expires_at_ms.is_some() || lives.is_none();
                        terms.is_some() && (!we_sent || known) && expires
                    }
                    Err(quorate_enclave::StoreError::Damaged { .. }) => false,
                    Err(e) => return Err(e.into()),
                };
                if as_it_should {
                    held = held.saturating_add(1);
                } else {
                    lacking.push(hash);
                }
            }
            Ok((lacking, held))
        })
        .await
    }
}

/// True if a place lies behind another, so that a listing ends.
fn is_behind(next: &Place, place: &Place) -> bool {
    match (next, place) {
        (Place::Start, _) => false,
        (Place::Behind(_) | Place::BehindHash(_), Place::Start)
        | (Place::BehindHash(_), Place::Behind(_)) => true,
        (Place::Behind(next), Place::Behind(place)) => next > place,
        (Place::BehindHash(next), Place::BehindHash(place)) => next > place,
        (Place::Behind(_), Place::BehindHash(_)) => false,
    }
}

fn count(number: usize) -> u64 {
    u64::try_from(number).unwrap_or(u64::MAX)
}
