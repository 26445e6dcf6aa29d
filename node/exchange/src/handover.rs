//! A contract is handed over to a new party.
//!
//! ```text
//! the newcomer                                         each party that the offer names
//!   statement about the vote ── to all ──────────────►   executed it? is the asker the newcomer? ─► signed: digest, or a refusal
//!   any refusal ─► refused; any silence ─► not yet
//!   different digests ─► alarm, not yet
//!   pages of the state ── to one, who offered first ─►   page
//!   another digest than was signed ─► alarm, the next
//! ```

use std::collections::BTreeMap;

use alloy_primitives::B256;
use futures::future::join_all;
use quorate_enclave::{NodeKey, PublicKey};
use quorate_privacy::{
    ContractState, HANDOVER_BYTES_MAX, HANDOVER_PAGE_BYTES, HandoverAnswer, HandoverHead,
    HandoverOutcome, HandoverWanted,
};

use crate::answer::failed;
use crate::clock::now_ms;
use crate::wire::{Answer, RefusalCode, Request, cut};
use crate::{Alarm, Exchange, ExchangeError, MemberKeys};

/// What one party says.
enum Said {
    State {
        digest: B256,
        bytes: u32,
    },
    Refused(String),
    /// Nothing that can be used.
    Nothing(String),
}

/// What all parties say.
enum Word {
    State { digest: B256, bytes: u32 },
    Answer(HandoverAnswer),
}

impl Exchange {
    /// Collects what the parties say about a contract that was extended to us, and its state.
    pub(crate) async fn gather(&self, wanted: HandoverWanted) -> HandoverAnswer {
        let members = self.members();
        let parties = match self.vouching(&members, &wanted) {
            Ok(parties) => parties,
            Err(answer) => return answer,
        };
        let asked = parties
            .values()
            .map(|member| self.statement(member, &wanted));
        let said = join_all(asked).await;
        let parties: Vec<&MemberKeys> = parties.into_values().collect();
        let (digest, bytes) = match self.word(&wanted, &parties, said).await {
            Word::State { digest, bytes } => (digest, bytes),
            Word::Answer(answer) => return answer,
        };
        let first = self.node_of_key(&wanted.initiator_key);
        let (mut order, others): (Vec<&MemberKeys>, Vec<&MemberKeys>) = parties
            .iter()
            .partition(|member| Some(member.node) == first);
        order.extend(others);
        let mut reasons = Vec::new();
        for member in order {
            match self.state_from(member, &wanted, digest, bytes).await {
                Ok(state) => {
                    return HandoverAnswer::Proved {
                        state: Box::new(state),
                        digest,
                    };
                }
                Err(reason) => reasons.push(named(member, &reason)),
            }
        }
        HandoverAnswer::Missing {
            reason: reasons.join("; "),
        }
    }

    /// The members whose word is needed, by node.
    fn vouching<'a>(
        &self,
        members: &'a [MemberKeys],
        wanted: &HandoverWanted,
    ) -> Result<BTreeMap<NodeKey, &'a MemberKeys>, HandoverAnswer> {
        let mut parties = BTreeMap::new();
        for key in &wanted.parties {
            let node = self.node_of_key(key);
            let Some(member) = members.iter().find(|m| Some(m.node) == node) else {
                return Err(HandoverAnswer::Missing {
                    reason: format!("no member has the party key {key}"),
                });
            };
            if member.this {
                return Err(HandoverAnswer::Refused {
                    reason: format!("the party key {key} is this node's, and the contract is not"),
                });
            }
            parties.insert(member.node, member);
        }
        Ok(parties)
    }

    async fn statement(&self, member: &MemberKeys, wanted: &HandoverWanted) -> Said {
        let transaction = wanted.transaction;
        let request = Request::Statement { transaction };
        let (head, signature) = match self.ask_for(member.raft_id, &request).await {
            Ok(Answer::Statement {
                signed: Some(signed),
            }) => signed,
            Ok(Answer::Statement { signed: None }) => {
                return Said::Nothing("it has not executed the vote yet".to_owned());
            }
            Ok(Answer::Refused { text, .. }) => return Said::Nothing(text),
            Ok(other) => return Said::Nothing(format!("it answers {}", other.name())),
            Err(e) => return Said::Nothing(e.to_string()),
        };
        let chain_id = self.inner.identity.chain_id;
        if !head.is_signed_by(&member.node, &signature, chain_id, &transaction) {
            tracing::error!(raft_id = member.raft_id, tx = %transaction, "a party's statement about an extension is not signed by its node");
            return Said::Nothing("its statement is not signed by its node".to_owned());
        }
        if head.offer != wanted.offer || head.newcomer != wanted.newcomer {
            return Said::Nothing("its statement is about something else".to_owned());
        }
        match head.outcome {
            HandoverOutcome::State { digest, bytes } => Said::State { digest, bytes },
            HandoverOutcome::Refused { reason } => Said::Refused(reason),
        }
    }

    /// What follows from what everyone said, in the order of the parties.
    async fn word(
        &self,
        wanted: &HandoverWanted,
        parties: &[&MemberKeys],
        said: Vec<Said>,
    ) -> Word {
        let mut lacking = Vec::new();
        let mut agreed: Option<(B256, u32)> = None;
        let mut contradiction = None;
        for (member, said) in parties.iter().zip(said) {
            match said {
                Said::Refused(reason) => {
                    let reason = named(member, &reason);
                    return Word::Answer(HandoverAnswer::Refused { reason });
                }
                Said::Nothing(reason) => lacking.push(named(member, &reason)),
                Said::State { digest, bytes } => match agreed {
                    None => agreed = Some((digest, bytes)),
                    Some(first) if first == (digest, bytes) => {}
                    Some((first, _)) => {
                        self.contradicted(wanted, member.node, first, digest).await;
                        contradiction = Some(named(member, "it has another state than others"));
                    }
                },
            }
        }
        lacking.extend(contradiction);
        match agreed {
            Some((digest, bytes)) if lacking.is_empty() => Word::State { digest, bytes },
            Some(_) | None => Word::Answer(HandoverAnswer::Missing {
                reason: lacking.join("; "),
            }),
        }
    }

    /// The state as one party hands it over, if it is the one that all have signed.
    async fn state_from(
        &self,
        member: &MemberKeys,
        wanted: &HandoverWanted,
        digest: B256,
        bytes: u32,
    ) -> Result<ContractState, String> {
        let whole = usize::try_from(bytes).unwrap_or(usize::MAX);
        if whole == 0 || whole > HANDOVER_BYTES_MAX {
            return Err(format!("a state of {bytes} bytes is not taken"));
        }
        let mut encoded: Vec<u8> = Vec::new();
        for page in 0u32.. {
            let left = whole.saturating_sub(encoded.len());
            if left == 0 {
                break;
            }
            let request = Request::State {
                transaction: wanted.transaction,
                page,
            };
            let bytes = match self.ask_for(member.raft_id, &request).await {
                Ok(Answer::Page { bytes }) => bytes,
                Ok(Answer::Refused { text, .. }) => return Err(text),
                Ok(other) => return Err(format!("it answers {}", other.name())),
                Err(e) => return Err(e.to_string()),
            };
            if bytes.len() != left.min(HANDOVER_PAGE_BYTES) {
                return Err(format!("page {page} of the state has a wrong length"));
            }
            encoded.extend_from_slice(&bytes);
        }
        let read = self
            .blocking(move |_| {
                let state = ContractState::decode(&encoded).map_err(|e| e.to_string());
                Ok(state.and_then(|state| {
                    let found = state.digest().map_err(|e| e.to_string())?;
                    Ok((state, found))
                }))
            })
            .await
            .map_err(|e| e.to_string())?;
        let (state, found) = match read {
            Ok(read) => read,
            Err(reason) => {
                self.contradicted(wanted, member.node, digest, B256::ZERO)
                    .await;
                return Err(reason);
            }
        };
        if found != digest || state.contract != wanted.contract {
            self.contradicted(wanted, member.node, digest, found).await;
            return Err("it hands over another state than was signed".to_owned());
        }
        Ok(state)
    }

    /// A party contradicts the others, or itself: that is for people to look at.
    async fn contradicted(
        &self,
        wanted: &HandoverWanted,
        node: NodeKey,
        signed: B256,
        theirs: B256,
    ) {
        let alarm = Alarm {
            number: 0,
            at_ms: now_ms(),
            transaction: wanted.transaction,
            height: wanted.height,
            payload: wanted.payload,
            node,
            ours: signed,
            theirs,
        };
        if let Err(e) = self.raise(alarm).await {
            tracing::error!(error = %e, "an alarm was not recorded");
        }
    }

    /// Answers the newcomer of a vote that was executed here. Anyone else hears what is said of a vote that was not.
    pub(crate) async fn vouch(
        &self,
        members: &[MemberKeys],
        member: &MemberKeys,
        transaction: B256,
    ) -> Answer {
        let mut head = match self.head_for(members, member, transaction).await {
            Ok(Some(head)) => head,
            Ok(None) => return Answer::Statement { signed: None },
            Err(e) => return failed("vouching for an extension", &e),
        };
        if let HandoverOutcome::Refused { reason } = &mut head.outcome {
            *reason = cut(reason);
        }
        let digest = head.signing_digest(self.inner.identity.chain_id, &transaction);
        match self.inner.peers.sign(digest) {
            Ok(signature) => Answer::Statement {
                signed: Some((head, signature)),
            },
            Err(reason) => {
                tracing::error!(reason, "the node's key did not sign a statement");
                Answer::refused(RefusalCode::Busy, "our key does not sign")
            }
        }
    }

    /// A page of the state for the newcomer.
    pub(crate) async fn hand_over_state(
        &self,
        members: &[MemberKeys],
        member: &MemberKeys,
        transaction: B256,
        page: u32,
    ) -> Answer {
        match self.head_for(members, member, transaction).await {
            Ok(Some(_)) => {}
            Ok(None) => {
                return Answer::Page {
                    bytes: Default::default(),
                };
            }
            Err(e) => return failed("handing over a contract", &e),
        }
        let Some(view) = self.state_view() else {
            return Answer::refused(RefusalCode::Busy, "private state is not there yet");
        };
        let read = self.blocking(move |_| Ok(view.handover_page(&transaction, page)));
        match read.await {
            Ok(Ok(bytes)) => Answer::Page {
                bytes: bytes.into(),
            },
            Ok(Err(reason)) => {
                tracing::error!(reason, "a state that is to be handed over cannot be read");
                Answer::refused(RefusalCode::StoreFailed, "our disk does not answer")
            }
            Err(e) => failed("handing over a contract", &e),
        }
    }

    /// What came of a vote here, if this member is the newcomer.
    async fn head_for(
        &self,
        members: &[MemberKeys],
        member: &MemberKeys,
        transaction: B256,
    ) -> Result<Option<HandoverHead>, ExchangeError> {
        let Some(view) = self.state_view() else {
            return Ok(None);
        };
        let read = self
            .blocking(move |_| Ok(view.handover(&transaction)))
            .await?;
        match read {
            Ok(head) => {
                let theirs = |key: &PublicKey| self.belongs(members, member, key);
                Ok(head.filter(|head| theirs(&head.newcomer)))
            }
            Err(reason) => {
                tracing::error!(reason, "what came of a vote cannot be read");
                Ok(None)
            }
        }
    }
}

fn named(member: &MemberKeys, reason: &str) -> String {
    let name = match member.organisation.as_str() {
        "" => "?",
        name => name,
    };
    format!("member {} ({name}): {reason}", member.raft_id)
}
