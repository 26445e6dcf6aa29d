//! Sending a payload: seal, sign, keep, deliver, wait for what the sender asked for.
//!
//! The outbox is written last, and only for a payload whose policy is satisfied: a crash before that leaves an envelope that no
//! transaction names, here or with a recipient, and nothing that goes on by itself.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use alloy_primitives::{Address, Bytes};
use quorate_enclave::{
    Context, DeliveryState, Envelope, NodeKey, PayloadHash, PrivacyFlag, PublicKey, SealRequest,
    Sealed, Stored, TagRequest,
};
use quorate_privacy::{Content, SignedTerms, Terms};
use rand::Rng as _;
use rand::seq::SliceRandom as _;
use tokio::time::Instant;

use crate::clock::now_ms;
use crate::deliver::{self, Needed, Outcome, Parcel, Verdict};
use crate::keeping::{InTheClear, Looked};
use crate::package::Package;
use crate::recipients::Recipients;
use crate::reservations::Turn;
use crate::wire::Request;
use crate::{Distributed, Distribution, Exchange, ExchangeError, metrics};

/// Tags come in multiples of this number, so that they say less about how many parties there are.
const TAGS_MULTIPLE: usize = 4;
/// Pause after the first conflict; it doubles, and varies by half.
const CONFLICT_PAUSE: Duration = Duration::from_millis(40);
/// Longest time for telling recipients that a payload was given up.
const WITHDRAW_TIMEOUT: Duration = Duration::from_secs(1);

/// A payload on its way.
struct Sending {
    package: Package,
    clear: InTheClear,
    parties: BTreeSet<PublicKey>,
    tags: Vec<[u8; 8]>,
    parcels: BTreeMap<u64, Parcel>,
    needed: Needed,
    own_raft_id: Option<u64>,
    deadline: Instant,
}

impl Exchange {
    /// Encrypts a payload for its parties, keeps it, and hands it to their nodes. When this returns, the public transaction may be
    /// submitted; when it fails, nothing of it is in force, and it may be tried again.
    ///
    /// # Errors
    /// [`ExchangeError`]: [`NotAcknowledged`](ExchangeError::NotAcknowledged) names the members that did not answer,
    /// [`Conflict`](ExchangeError::Conflict) asks for a new simulation, [`UnknownRecipient`](ExchangeError::UnknownRecipient) names
    /// the key.
    pub async fn distribute(
        &self,
        content: Content,
        how: Distribution,
    ) -> Result<Distributed, ExchangeError> {
        let turn = self.turn_for(&how).await?;
        self.distribute_in(turn, content, how).await
    }

    /// Waits until this node's other senders of flag 3 have had their turns on these contracts, and nothing that is under way
    /// changes them. Simulate while holding it, and give it to [`distribute_in`](Self::distribute_in).
    ///
    /// # Errors
    /// [`ExchangeError::Conflict`] if that takes longer than the time for acknowledgements.
    pub async fn turn(&self, contracts: BTreeSet<Address>) -> Result<Turn, ExchangeError> {
        let deadline = Instant::now() + self.inner.config.acknowledge_timeout;
        let turn = self.inner.reservations.turn(contracts, deadline).await;
        turn.map_err(|contract| ExchangeError::Conflict {
            contract,
            retryable: true,
        })
    }

    /// As [`distribute`](Self::distribute), within a turn on every contract that it affects.
    ///
    /// # Errors
    /// As there.
    pub async fn distribute_in(
        &self,
        turn: Turn,
        content: Content,
        how: Distribution,
    ) -> Result<Distributed, ExchangeError> {
        check_turn(&turn, &how)?;
        let deadline = Instant::now() + self.inner.config.acknowledge_timeout;
        let _permit = self.permit(deadline).await?;
        let recipients = self.recipients(&how).await?;
        // The signature of its terms will stand for the envelope, too.
        let envelope = self.seal(&content, &how, &recipients).await?.envelope;
        let clear = InTheClear {
            content,
            as_recipient: envelope.sender(),
            sender: envelope.sender(),
        };
        self.send(envelope, clear, how, recipients, deadline).await
    }

    /// Encrypts call data for this node alone and keeps it, until [`distribute_stored`](Self::distribute_stored) sends it. Its hash
    /// goes into a transaction that someone else signs.
    ///
    /// # Errors
    /// [`ExchangeError`].
    pub async fn store_raw(
        &self,
        data: Bytes,
        sender: Option<PublicKey>,
    ) -> Result<PayloadHash, ExchangeError> {
        let deadline = Instant::now() + self.inner.config.acknowledge_timeout;
        let _permit = self.permit(deadline).await?;
        let how = Distribution {
            sender,
            ..Distribution::to([])
        };
        let recipients = self.recipients(&how).await?;
        let content = Content::Data(data);
        let mut sealed = self.seal(&content, &how, &recipients).await?;
        // There are no terms yet whose signature could stand for the envelope.
        let signed = sealed.sign(|digest| self.inner.peers.sign(digest));
        signed.map_err(|reason| ExchangeError::Signature { reason })?;
        let envelope = sealed.envelope;
        let hash = envelope.payload_hash();
        self.blocking(move |inner| Ok(inner.store.put(&envelope, now_ms(), None)?))
            .await?;
        Ok(hash)
    }

    /// Sends a payload that [`store_raw`](Self::store_raw) kept, under the hash that it has.
    ///
    /// # Errors
    /// [`ExchangeError::Missing`], [`ExchangeError::Erased`], [`ExchangeError::NotOurs`]; the others as
    /// [`distribute`](Self::distribute).
    pub async fn distribute_stored(
        &self,
        hash: PayloadHash,
        how: Distribution,
    ) -> Result<Distributed, ExchangeError> {
        let _turn = self.turn_for(&how).await?;
        let deadline = Instant::now() + self.inner.config.acknowledge_timeout;
        let _permit = self.permit(deadline).await?;
        let found = self.blocking(move |inner| Ok(inner.store.get(&hash)?));
        let envelope = match found.await? {
            None => return Err(ExchangeError::Missing { hash }),
            Some(Stored::Erased(_)) => return Err(ExchangeError::Erased { hash }),
            Some(Stored::Held { envelope, .. }) => *envelope,
        };
        let ours = envelope.context().sender_node == self.node();
        if !ours || how.sender.is_some_and(|key| key != envelope.sender()) {
            return Err(ExchangeError::NotOurs { hash });
        }
        let clear = self.own_payload(&envelope).await?;
        let recipients = self.recipients(&how).await?;
        let envelope = self.reseal(envelope, &recipients).await?;
        self.send(envelope, clear, how, recipients, deadline).await
    }

    async fn turn_for(&self, how: &Distribution) -> Result<Turn, ExchangeError> {
        // Of other flags nobody has to wait.
        let contracts = match how.flag {
            PrivacyFlag::StateValidation => how.affected.keys().copied().collect(),
            PrivacyFlag::Standard
            | PrivacyFlag::PartyProtection
            | PrivacyFlag::MandatoryParties => BTreeSet::new(),
        };
        self.turn(contracts).await
    }

    async fn permit(
        &self,
        deadline: Instant,
    ) -> Result<tokio::sync::SemaphorePermit<'_>, ExchangeError> {
        let permit = tokio::time::timeout_at(deadline, self.inner.distributing.acquire()).await;
        let busy = ExchangeError::Busy {
            max: self.inner.config.distributions_max,
        };
        permit
            .map_err(|_| busy)?
            .map_err(|_| ExchangeError::Stopping)
    }

    async fn seal(
        &self,
        content: &Content,
        how: &Distribution,
        recipients: &Recipients,
    ) -> Result<Sealed, ExchangeError> {
        let request = SealRequest {
            payload: content.encode().into(),
            sender: how.sender,
            recipients: recipients.announcements.clone(),
            mandatory: how.mandatory.iter().copied().collect(),
            context: Context {
                chain_id: self.inner.identity.chain_id,
                sender_node: self.node(),
                privacy_group: how.parties.group,
                flag: how.flag,
            },
            suite: self.inner.identity.suite,
        };
        Ok(self.inner.enclave.seal(request).await?)
    }

    async fn reseal(
        &self,
        envelope: Envelope,
        recipients: &Recipients,
    ) -> Result<Envelope, ExchangeError> {
        if recipients.announcements.is_empty() {
            return Ok(envelope);
        }
        let context = *envelope.context();
        let to = recipients.announcements.clone();
        Ok(self.inner.enclave.reseal(envelope, context, to).await?)
    }

    /// Opens a payload that lies here.
    pub(crate) async fn own_payload(
        &self,
        envelope: &Envelope,
    ) -> Result<InTheClear, ExchangeError> {
        match self.look_into(envelope).await {
            Looked::Clear(clear) => Ok(clear),
            Looked::NotForUs => Err(ExchangeError::NoKey {
                hash: envelope.payload_hash(),
            }),
            Looked::NoContent(_) => Err(ExchangeError::Malformed {
                field: "payload",
                allowed: "a content of format 1",
            }),
            Looked::Failed(e) => Err(e.into()),
        }
    }

    /// Everything after sealing.
    async fn send(
        &self,
        envelope: Envelope,
        clear: InTheClear,
        how: Distribution,
        recipients: Recipients,
        deadline: Instant,
    ) -> Result<Distributed, ExchangeError> {
        let sending = self
            .prepare(envelope, clear, &how, recipients, deadline)
            .await?;
        let outcomes = if how.flag == PrivacyFlag::StateValidation {
            self.send_in_order(&sending).await?
        } else {
            self.send_side_by_side(&sending).await?
        };
        self.conclude(sending, outcomes).await
    }

    async fn prepare(
        &self,
        envelope: Envelope,
        clear: InTheClear,
        how: &Distribution,
        recipients: Recipients,
        deadline: Instant,
    ) -> Result<Sending, ExchangeError> {
        let hash = envelope.payload_hash();
        let sender = envelope.sender();
        let mut parties: BTreeSet<_> = recipients.announcements.iter().map(|a| a.key).collect();
        parties.insert(sender);
        if !how.mandatory.iter().all(|key| parties.contains(key)) {
            return Err(ExchangeError::Malformed {
                field: "mandatory",
                allowed: "keys of parties",
            });
        }
        let validated = how.flag == PrivacyFlag::StateValidation;
        let terms = Terms {
            hash,
            flag: how.flag,
            group: how.parties.group,
            sender,
            from: how.from,
            parties: if validated {
                parties.clone()
            } else {
                BTreeSet::new()
            },
            mandatory: how.mandatory.clone(),
            affected: how.affected.clone(),
            exec_root: how.exec_root,
            base: how.base.clone(),
            sender_node: self.node(),
            acknowledgements: deliver::effective(how),
        };
        terms.check()?;
        let chain_id = self.inner.identity.chain_id;
        let digest = terms.signing_digest(chain_id, &envelope.signing_digest());
        let signed = self.signed(digest).await?;
        let package = Package {
            hash,
            envelope,
            terms: SignedTerms {
                terms,
                signature: signed.signature,
                path: signed.path,
            },
        };
        let tags = if how.tags {
            self.tags(hash, sender, &parties).await?
        } else {
            Vec::new()
        };
        let needed = Needed::of(how, &recipients)?;
        let own_raft_id = recipients.own_raft_id;
        let mut parcels = BTreeMap::new();
        for (raft_id, to) in recipients.members {
            // The enclave made a box for every key that it was given.
            let key = to.keys.first().copied().unwrap_or(sender);
            let parcel = deliver::parcel(&package, to);
            let parcel = parcel.ok_or(ExchangeError::UnknownRecipient { key })?;
            parcels.insert(raft_id, parcel);
        }
        Ok(Sending {
            package,
            clear,
            parties,
            tags,
            parcels,
            needed,
            own_raft_id,
            deadline,
        })
    }

    /// One tag for every party, hidden among random ones.
    async fn tags(
        &self,
        hash: PayloadHash,
        sender: PublicKey,
        parties: &BTreeSet<PublicKey>,
    ) -> Result<Vec<[u8; 8]>, ExchangeError> {
        let request = TagRequest {
            hash,
            sender,
            parties: parties.iter().copied().collect(),
        };
        let mut tags = self.inner.enclave.tags(request).await?;
        let mut random = rand::rng();
        while tags.is_empty() || !tags.len().is_multiple_of(TAGS_MULTIPLE) {
            tags.push(random.random());
        }
        tags.shuffle(&mut random);
        Ok(tags)
    }

    /// Keeps the payload here and hands it to everyone at once.
    async fn send_side_by_side(
        &self,
        sending: &Sending,
    ) -> Result<BTreeMap<u64, Outcome>, ExchangeError> {
        let mut outcomes = BTreeMap::new();
        let keep = self.keep(sending.package.clone(), sending.clear.clone());
        let deliver = self.deliver_to(
            sending.parcels.values(),
            sending.parcels.len(),
            &sending.needed,
            sending.deadline,
            &mut outcomes,
        );
        let (kept, ()) = tokio::join!(keep, deliver);
        check_kept(kept?, &sending.package.hash)?;
        Ok(outcomes)
    }

    /// Sends a payload with flag 3: to the member with the lowest raft id first, to the others only when that one agreed. All
    /// senders of a contract with flag 3 address the same parties, so that one member decides who comes first, and the others
    /// never hold what cannot be sent.
    async fn send_in_order(
        &self,
        sending: &Sending,
    ) -> Result<BTreeMap<u64, Outcome>, ExchangeError> {
        let mut round = 0;
        loop {
            let mut outcomes = BTreeMap::new();
            let contract = match self.one_round(sending, &mut outcomes).await {
                Ok(None) => return Ok(outcomes),
                Ok(Some(contract)) => contract,
                Err(e) => {
                    self.withdraw(sending, &outcomes).await;
                    return Err(e);
                }
            };
            self.withdraw(sending, &outcomes).await;
            let pause = CONFLICT_PAUSE.saturating_mul(1 << round.min(6));
            let pause = pause.mul_f64(rand::rng().random_range(0.5..1.5));
            let too_late = Instant::now() + pause >= sending.deadline;
            if round >= self.inner.config.conflict_retries || too_late {
                return Err(ExchangeError::Conflict {
                    contract,
                    retryable: true,
                });
            }
            round += 1;
            tokio::time::sleep(pause).await;
        }
    }

    /// Returns the contract over which there is a conflict, if there is one.
    async fn one_round(
        &self,
        sending: &Sending,
        outcomes: &mut BTreeMap<u64, Outcome>,
    ) -> Result<Option<Address>, ExchangeError> {
        let all = sending.parcels.len();
        let lowest = sending.parcels.keys().next().copied();
        let first = match (lowest, sending.own_raft_id) {
            (Some(lowest), Some(own)) if own < lowest => None,
            (lowest, _) => lowest,
        };
        if let Some(first) = first {
            let parcel = sending.parcels.get(&first).into_iter();
            self.deliver_to(parcel, all, &sending.needed, sending.deadline, outcomes)
                .await;
            match outcomes.get(&first) {
                Some(Outcome::Stored) => {}
                Some(Outcome::Conflict(contract)) => return Ok(Some(*contract)),
                // The verdict on what is known is the caller's.
                Some(Outcome::Refused(_) | Outcome::Failed(_)) | None => return Ok(None),
            }
        }
        let terms = &sending.package.terms.terms;
        if let Err(contract) = self.reserve(terms) {
            metrics::conflict(metrics::Side::Here);
            return Ok(Some(contract));
        }
        let others = sending
            .parcels
            .iter()
            .filter(|(id, _)| Some(**id) != first)
            .map(|(_, parcel)| parcel);
        let keep = self.keep(sending.package.clone(), sending.clear.clone());
        let deliver = self.deliver_to(others, all, &sending.needed, sending.deadline, outcomes);
        let (kept, ()) = tokio::join!(keep, deliver);
        check_kept(kept?, &sending.package.hash)?;
        Ok(outcomes.values().find_map(|outcome| match outcome {
            Outcome::Conflict(contract) => Some(*contract),
            Outcome::Stored | Outcome::Refused(_) | Outcome::Failed(_) => None,
        }))
    }

    /// Gives back what a payload with flag 3 holds, here and with everyone who may have taken it.
    async fn withdraw(&self, sending: &Sending, outcomes: &BTreeMap<u64, Outcome>) {
        let hash = sending.package.hash;
        self.inner.reservations.release(&hash);
        let body = Request::Withdraw { hash }.encode();
        let reached = sending.parcels.keys().filter(|id| {
            // Of one that did not answer nobody knows what it did.
            !matches!(
                outcomes.get(id),
                Some(Outcome::Conflict(_) | Outcome::Refused(_))
            )
        });
        let told = reached.map(|id| async {
            let asked = self.ask(*id, body.clone(), WITHDRAW_TIMEOUT).await;
            if let Err(e) = asked {
                tracing::debug!(raft_id = *id, payload = %hash, error = %e, "a withdrawal was not heard; the reservation ends by itself");
            }
        });
        futures::future::join_all(told).await;
    }

    /// Success, or the error that names who is to blame.
    async fn conclude(
        &self,
        sending: Sending,
        outcomes: BTreeMap<u64, Outcome>,
    ) -> Result<Distributed, ExchangeError> {
        let (parcels, needed) = (&sending.parcels, &sending.needed);
        let verdict = needed.verdict(&outcomes, parcels.len());
        if verdict != Verdict::Enough {
            if sending.package.terms.terms.flag == PrivacyFlag::StateValidation {
                self.withdraw(&sending, &outcomes).await;
            }
            let refusing = needed.refusing(parcels, &outcomes);
            if verdict == Verdict::Never && !refusing.is_empty() {
                return Err(ExchangeError::Refused { nodes: refusing });
            }
            let after = self.inner.config.acknowledge_timeout.as_millis();
            return Err(ExchangeError::NotAcknowledged {
                nodes: needed.lacking(parcels, &outcomes),
                after_ms: u64::try_from(after).unwrap_or(u64::MAX),
            });
        }
        let pending = deliver::unacknowledged(parcels, &outcomes, |_, _| true);
        let hash = sending.package.hash;
        self.inner.acknowledged.note(hash, now_ms());
        if !pending.is_empty() {
            let entries = outbox_entries(parcels, &outcomes);
            let policy = needed.policy(parcels);
            self.blocking(move |inner| {
                Ok(inner.outbox.enter(&hash, &entries, &policy, now_ms())?)
            })
            .await?;
            self.inner.outbox_wake.notify_one();
        }
        Ok(Distributed {
            hash,
            tags: sending.tags,
            sender: sending.package.envelope.sender(),
            parties: sending.parties,
            pending,
        })
    }
}

/// What the outbox is to know. Whoever did not decide gets the payload later.
fn outbox_entries(
    parcels: &BTreeMap<u64, Parcel>,
    outcomes: &BTreeMap<u64, Outcome>,
) -> BTreeMap<NodeKey, (DeliveryState, String)> {
    let each = parcels.iter().map(|(raft_id, parcel)| {
        let state = match outcomes.get(raft_id) {
            Some(Outcome::Stored) => (DeliveryState::Acknowledged, String::new()),
            Some(Outcome::Refused(reason)) => (DeliveryState::Refused, reason.clone()),
            Some(Outcome::Failed(reason)) => (DeliveryState::Pending, reason.clone()),
            Some(Outcome::Conflict(_)) | None => (DeliveryState::Pending, String::new()),
        };
        (parcel.to.node, state)
    });
    each.collect()
}

fn check_turn(turn: &Turn, how: &Distribution) -> Result<(), ExchangeError> {
    let covered = how.affected.keys().all(|c| turn.contracts().contains(c));
    if how.flag == PrivacyFlag::StateValidation && !covered {
        return Err(ExchangeError::Malformed {
            field: "turn",
            allowed: "one on every contract that is affected",
        });
    }
    Ok(())
}

fn check_kept(kept: bool, hash: &PayloadHash) -> Result<(), ExchangeError> {
    if kept {
        return Ok(());
    }
    Err(ExchangeError::AlreadyExecuted { hash: *hash })
}
