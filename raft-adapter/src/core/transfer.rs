//! Handing leadership over (Raft thesis, 3.10).

use raft::StateRole;

use super::{Core, non_zero};
use crate::{
    error::TransferError,
    ids::{RaftId, Ticket},
    io::{Answer, Output},
};

/// A hand-over somebody waits for.
#[derive(Clone, Copy, Debug)]
pub(super) struct PendingTransfer {
    to: RaftId,
    ticket: Ticket,
    /// Ticks left until the outcome counts as unknown and thus failed.
    ticks_left: u32,
}

impl Core {
    pub(super) fn transfer(&mut self, to: RaftId, ticket: Ticket, out: &mut Vec<Output>) {
        if let Err(refusal) = self.check_transfer(to) {
            out.push(Output::Answer {
                ticket,
                answer: Answer::Transfer(Err(refusal)),
            });
            return;
        }
        fail_point!("raft.ready.transfer");
        self.raw.transfer_leader(to.0);
        // raft-rs gives up after one election timeout; the election itself may take another.
        let ticks_left = self.config.election_ticks.saturating_mul(2);
        self.transfer = Some(PendingTransfer {
            to,
            ticket,
            ticks_left,
        });
    }

    fn check_transfer(&self, to: RaftId) -> Result<(), TransferError> {
        let raft = &self.raw.raft;
        if raft.state != StateRole::Leader {
            return Err(TransferError::NotLeader {
                leader: non_zero(raft.leader_id),
            });
        }
        if to == self.config.id {
            return Err(TransferError::ToItself { to });
        }
        if !raft.prs().conf().to_conf_state().voters.contains(&to.0) {
            return Err(TransferError::NotVoter { to });
        }
        if let Some(under_way) = raft.lead_transferee {
            return Err(TransferError::UnderWay {
                to: RaftId(under_way),
            });
        }
        Ok(())
    }

    /// Hands over to the voter that needs the least to catch up, among those heard from lately.
    pub(super) fn hand_over(&mut self) {
        if self.raw.raft.state != StateRole::Leader || self.raw.raft.lead_transferee.is_some() {
            return;
        }
        let successor = self
            .voters()
            .into_iter()
            .filter(|voter| *voter != self.config.id)
            .filter_map(|voter| {
                let progress = self.raw.raft.prs().get(voter.0)?;
                Some((
                    progress.recent_active,
                    progress.matched,
                    std::cmp::Reverse(voter),
                ))
            })
            .max();
        if let Some((_, _, std::cmp::Reverse(successor))) = successor {
            tracing::info!(%successor, "handing leadership over before stopping");
            self.raw.transfer_leader(successor.0);
        }
    }

    /// Answers a hand-over once its outcome shows.
    pub(super) fn settle_transfer(&mut self, out: &mut Vec<Output>) {
        let Some(pending) = self.transfer else { return };
        let (to, raft) = (pending.to, &self.raw.raft);
        let outcome = if raft.state == StateRole::Leader {
            match raft.lead_transferee {
                Some(_) if pending.ticks_left > 0 => return,
                _ => Err(TransferError::TimedOut { to }),
            }
        } else {
            match non_zero(raft.leader_id) {
                Some(leader) if leader == to => Ok(()),
                Some(leader) => Err(TransferError::OtherLeader { to, leader }),
                None if pending.ticks_left > 0 => return,
                None => Err(TransferError::TimedOut { to }),
            }
        };
        self.transfer = None;
        let (ticket, answer) = (pending.ticket, Answer::Transfer(outcome));
        out.push(Output::Answer { ticket, answer });
    }

    pub(super) fn age_transfer(&mut self) {
        if let Some(pending) = &mut self.transfer {
            pending.ticks_left = pending.ticks_left.saturating_sub(1);
        }
    }
}
