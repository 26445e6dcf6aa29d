//! What a client asked for, checked against the member table and turned into what ordering replicates.

use std::collections::{BTreeMap, BTreeSet};

use alloy_primitives::B256;
use quorate_chain::{MemberRole, NodeId};
use quorate_enclave::PublicKey;
use quorate_engine::MemberDetails;
use quorate_rpc::ChangeStep;
use raft_adapter::{MemberStep, MemberTable, RaftId};

use super::wire::Refusal;

/// The chain that a consortium agrees on: what members sign counts on it alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChainIdentity {
    /// Its number.
    pub chain_id: u64,
    /// Hash of its genesis block.
    pub genesis_hash: B256,
}

/// A table, readable, as it would be after the steps taken so far.
pub struct Plan {
    chain: ChainIdentity,
    members: BTreeMap<RaftId, MemberDetails>,
    added: Vec<MemberDetails>,
    touched: BTreeSet<RaftId>,
}

impl Plan {
    /// Begins with the table of the moment; members that are leaving count as gone.
    pub fn new(table: &MemberTable, chain: ChainIdentity) -> Result<Self, Refusal> {
        let present = table
            .members
            .iter()
            .filter(|(_, member)| member.role != raft_adapter::MemberRole::Removed);
        let members = present
            .map(|(id, member)| Ok((*id, MemberDetails::decode(*id, &member.details)?)))
            .collect::<Result<_, quorate_engine::DetailsError>>()
            .map_err(|e| Refusal::Failed {
                reason: e.to_string(),
            })?;
        Ok(Self {
            chain,
            members,
            added: Vec::new(),
            touched: BTreeSet::new(),
        })
    }

    /// Checks all steps and turns them into ordering's.
    pub fn steps(mut self, steps: &[ChangeStep]) -> Result<Vec<MemberStep>, Refusal> {
        let mut planned = Vec::with_capacity(steps.len());
        for step in steps {
            planned.push(self.step(step)?);
        }
        self.check_unique()?;
        Ok(planned)
    }

    fn step(&mut self, step: &ChangeStep) -> Result<MemberStep, Refusal> {
        match step {
            ChangeStep::Add {
                node_id,
                address,
                organisation,
                role,
            } => {
                check_address(address, node_id)?;
                let details = MemberDetails::new(*node_id, address.clone(), organisation.clone());
                let encoded = details.encode();
                self.added.push(details);
                Ok(MemberStep::Add {
                    role: raft_role(*role),
                    details: encoded,
                })
            }
            ChangeStep::SetRole { raft_id, role } => {
                let id = self.member(*raft_id)?;
                Ok(MemberStep::SetRole {
                    id,
                    role: raft_role(*role),
                })
            }
            ChangeStep::SetAddress { raft_id, address } => {
                let id = self.member(*raft_id)?;
                let details = self
                    .members
                    .get_mut(&id)
                    .ok_or(Refusal::UnknownMember { raft_id: *raft_id })?;
                check_address(address, &details.node_id)?;
                details.address.clone_from(address);
                Ok(MemberStep::SetDetails {
                    id,
                    details: details.encode(),
                })
            }
            ChangeStep::SetKeys {
                raft_id,
                keys,
                sequence,
                signature,
            } => {
                let id = self.member(*raft_id)?;
                let details = self
                    .members
                    .get_mut(&id)
                    .ok_or(Refusal::UnknownMember { raft_id: *raft_id })?;
                if *sequence <= details.keys_sequence {
                    return Err(Refusal::Invalid {
                        field: "sequence".into(),
                        reason: format!(
                            "{sequence} is not after {}, the last announcement of member {raft_id}",
                            details.keys_sequence
                        ),
                    });
                }
                details.enclave_keys.clone_from(keys);
                details.keys_sequence = *sequence;
                details.keys_signature = Some(*signature);
                let ChainIdentity {
                    chain_id,
                    genesis_hash,
                } = self.chain;
                details
                    .verify_keys(*raft_id, chain_id, genesis_hash)
                    .map_err(|e| Refusal::Invalid {
                        field: "keys".into(),
                        reason: e.to_string(),
                    })?;
                Ok(MemberStep::SetDetails {
                    id,
                    details: details.encode(),
                })
            }
            ChangeStep::Remove { raft_id } => {
                let id = self.member(*raft_id)?;
                self.members.remove(&id);
                Ok(MemberStep::Remove { id })
            }
        }
    }

    fn member(&mut self, raft_id: u64) -> Result<RaftId, Refusal> {
        let id = RaftId(raft_id);
        if !self.touched.insert(id) {
            return Err(Refusal::Invalid {
                field: "steps".into(),
                reason: format!(
                    "member {raft_id} is named twice; one change does one thing to a member"
                ),
            });
        }
        if self.members.contains_key(&id) {
            Ok(id)
        } else {
            Err(Refusal::UnknownMember { raft_id })
        }
    }

    fn check_unique(&self) -> Result<(), Refusal> {
        let (mut keys, mut addresses) = (BTreeSet::new(), BTreeSet::new());
        let mut enclave_keys = BTreeMap::new();
        for (id, details) in &self.members {
            for key in &details.enclave_keys {
                if let Some(other) = enclave_keys.insert(key.key, *id) {
                    return Err(Refusal::Invalid {
                        field: "keys".into(),
                        reason: format!(
                            "member {other} and member {id} cannot both have the enclave key {}",
                            PublicKey::from_bytes(key.key)
                        ),
                    });
                }
            }
        }
        for details in self.members.values().chain(&self.added) {
            if !keys.insert(details.node_id) {
                return Err(Refusal::Invalid {
                    field: "node_id".into(),
                    reason: format!("{} is a member already", details.node_id),
                });
            }
            if !addresses.insert(&details.address) {
                return Err(Refusal::Invalid {
                    field: "address".into(),
                    reason: format!("{} is another member's address", details.address),
                });
            }
        }
        Ok(())
    }
}

fn check_address(address: &str, node_id: &NodeId) -> Result<(), Refusal> {
    quorate_p2p::check_address(address, node_id.as_bytes()).map_err(|e| Refusal::Invalid {
        field: "address".into(),
        reason: e.to_string(),
    })
}

fn raft_role(role: MemberRole) -> raft_adapter::MemberRole {
    match role {
        MemberRole::Voter => raft_adapter::MemberRole::Voter,
        MemberRole::Learner => raft_adapter::MemberRole::Learner,
    }
}
