//! Proposals: refused here rather than by raft-rs, which would forward them from a follower to its leader.

use raft::StateRole;

use super::{Core, non_zero};
use crate::{
    error::ProposeError,
    ids::{LogIndex, Term},
    io::{Answer, Output, Proposal, ProposeOutcome},
};

impl Core {
    pub(super) fn propose(&mut self, proposal: Proposal, out: &mut Vec<Output>) {
        let ticket = proposal.ticket;
        let outcome = match self.try_propose(proposal) {
            Ok(()) => self.appended(),
            Err(refusal) => {
                self.refused_proposals += 1;
                ProposeOutcome::Refused(refusal)
            }
        };
        if let Some(ticket) = ticket {
            out.push(Output::Answer {
                ticket,
                answer: Answer::Propose(outcome),
            });
        }
    }

    fn try_propose(&mut self, proposal: Proposal) -> Result<(), ProposeError> {
        self.check_leading(proposal.in_term)?;
        check_payload(proposal.payload.len() as u64, self.config.payload_bytes_max)?;
        self.raw
            .propose(Vec::new(), proposal.payload.into())
            .map_err(|_| self.uncommitted_full())
    }

    pub(super) fn check_leading(&self, in_term: Term) -> Result<(), ProposeError> {
        let raft = &self.raw.raft;
        if raft.state != StateRole::Leader {
            return Err(ProposeError::NotLeader {
                leader: non_zero(raft.leader_id),
            });
        }
        if raft.term != in_term.0 {
            return Err(ProposeError::OtherTerm {
                proposed: in_term,
                current: Term(raft.term),
            });
        }
        if raft.lead_transferee.is_some() {
            return Err(ProposeError::Transferring);
        }
        Ok(())
    }

    /// The one reason left for raft-rs to drop a leader's proposal.
    pub(super) fn uncommitted_full(&self) -> ProposeError {
        ProposeError::Busy {
            waiting: self.raw.raft.uncommitted_size() as u64,
            max: self.config.uncommitted_bytes_max,
            unit: "uncommitted bytes",
        }
    }

    /// The position of what was just appended.
    pub(super) fn appended(&self) -> ProposeOutcome {
        let index = LogIndex(self.raw.raft.raft_log.last_index());
        ProposeOutcome::Appended {
            index,
            term: self.term(),
        }
    }
}

/// Checks a payload's size, before it waits anywhere.
pub(crate) fn check_payload(bytes: u64, max: u64) -> Result<(), ProposeError> {
    match bytes {
        0 => Err(ProposeError::EmptyPayload),
        got if got > max => Err(ProposeError::PayloadTooLarge { got, max }),
        _ => Ok(()),
    }
}
