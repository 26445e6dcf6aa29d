//! What can be said about a change without asking anybody: lengths, forms, and what it names twice.

use std::collections::BTreeSet;

use quorate_chain::NodeId;
use quorate_engine::{ENCLAVE_KEYS_MAX, EnclaveKey};

use super::{
    ADDRESS_BYTES_MAX, CHANGE_STEPS_MAX, ChangeRequest, ChangeStep, MembershipError,
    MembershipView, ORGANISATION_BYTES_MAX,
};
use crate::member_url::{address_fault, host_and_port, key_in_address};

fn invalid(field: impl Into<String>, reason: impl Into<String>) -> MembershipError {
    MembershipError::Invalid {
        field: field.into(),
        reason: reason.into(),
    }
}

impl ChangeRequest {
    /// Refuses a request that no member could carry out.
    ///
    /// # Errors
    /// [`MembershipError::Invalid`] with the first fault.
    pub fn check(&self) -> Result<(), MembershipError> {
        if self.steps.is_empty() {
            return Err(invalid("steps", "there is nothing to do"));
        }
        if self.steps.len() > CHANGE_STEPS_MAX {
            let reason = format!(
                "{} steps, at most {CHANGE_STEPS_MAX} are allowed",
                self.steps.len()
            );
            return Err(invalid("steps", reason));
        }
        let (mut named, mut keys) = (BTreeSet::new(), BTreeSet::new());
        for (i, step) in self.steps.iter().enumerate() {
            let field = |name: &str| format!("steps[{i}].{name}");
            match step {
                ChangeStep::Add {
                    node_id,
                    address,
                    organisation,
                    role: _,
                } => {
                    check_address(field("address"), address)?;
                    if key_in_address(address)
                        .is_ok_and(|key| key.is_some_and(|key| key != *node_id))
                    {
                        let reason = "the peer id at its end is that of another key than nodeId";
                        return Err(invalid(field("address"), reason));
                    }
                    if organisation.len() > ORGANISATION_BYTES_MAX {
                        let reason = format!(
                            "{} bytes, at most {ORGANISATION_BYTES_MAX} are allowed",
                            organisation.len()
                        );
                        return Err(invalid(field("organisation"), reason));
                    }
                    if organisation.chars().any(char::is_control) {
                        return Err(invalid(
                            field("organisation"),
                            "control characters are not allowed",
                        ));
                    }
                    if !keys.insert(*node_id) {
                        return Err(invalid(field("nodeId"), "is added twice in this change"));
                    }
                }
                ChangeStep::SetRole { raft_id, role: _ } | ChangeStep::Remove { raft_id } => {
                    check_raft_id(field("raftId"), *raft_id, &mut named)?;
                }
                ChangeStep::SetAddress { raft_id, address } => {
                    check_raft_id(field("raftId"), *raft_id, &mut named)?;
                    check_address(field("address"), address)?;
                }
                ChangeStep::SetKeys {
                    raft_id,
                    keys,
                    sequence,
                    signature: _,
                } => {
                    check_raft_id(field("raftId"), *raft_id, &mut named)?;
                    if keys.len() > ENCLAVE_KEYS_MAX {
                        let reason = format!(
                            "{} keys, at most {ENCLAVE_KEYS_MAX} are allowed",
                            keys.len()
                        );
                        return Err(invalid(field("keys"), reason));
                    }
                    if !keys.is_sorted_by(|a, b| a.key < b.key) {
                        return Err(invalid(field("keys"), "must rise, and none may come twice"));
                    }
                    if *sequence == 0 {
                        return Err(invalid(field("sequence"), "announcements count from 1"));
                    }
                }
            }
        }
        Ok(())
    }

    /// Refuses keys and addresses that other members have. Not for a request that may have been applied already: its own
    /// members would be in its way.
    ///
    /// # Errors
    /// [`MembershipError::Invalid`] with the first fault.
    pub fn check_against(&self, view: &MembershipView) -> Result<(), MembershipError> {
        for (i, step) in self.steps.iter().enumerate() {
            match step {
                ChangeStep::Add {
                    node_id, address, ..
                } => {
                    check_key_is_free(i, node_id, view)?;
                    self.check_address_is_free(i, address, None, view)?;
                }
                ChangeStep::SetAddress { raft_id, address } => {
                    self.check_address_is_free(i, address, Some(*raft_id), view)?;
                }
                ChangeStep::SetKeys { raft_id, keys, .. } => {
                    self.check_keys_are_free(i, *raft_id, keys, view)?;
                }
                ChangeStep::SetRole { .. } | ChangeStep::Remove { .. } => {}
            }
        }
        Ok(())
    }

    fn check_keys_are_free(
        &self,
        step: usize,
        own: u64,
        keys: &[EnclaveKey],
        view: &MembershipView,
    ) -> Result<(), MembershipError> {
        // Whoever goes, or announces others, in this same change gives its keys up.
        let gives_up = |id: u64| {
            self.steps.iter().any(|step| match step {
                ChangeStep::Remove { raft_id } | ChangeStep::SetKeys { raft_id, .. } => {
                    *raft_id == id
                }
                ChangeStep::Add { .. }
                | ChangeStep::SetRole { .. }
                | ChangeStep::SetAddress { .. } => false,
            })
        };
        let holder = view.members.iter().find(|state| {
            !state.leaving
                && state.member.raft_id != own
                && !gives_up(state.member.raft_id)
                && state
                    .enclave_keys
                    .iter()
                    .any(|held| keys.iter().any(|key| key.key == held.key))
        });
        match holder {
            None => Ok(()),
            Some(state) => Err(invalid(
                format!("steps[{step}].keys"),
                format!(
                    "one of them is an enclave key of the member with raft ID {}",
                    state.member.raft_id
                ),
            )),
        }
    }

    fn check_address_is_free(
        &self,
        step: usize,
        address: &str,
        own: Option<u64>,
        view: &MembershipView,
    ) -> Result<(), MembershipError> {
        let place = host_and_port(address);
        // Whoever goes, or moves, in this same change makes room.
        let goes = |id: u64| {
            self.steps.iter().any(|step| match step {
                ChangeStep::Remove { raft_id } | ChangeStep::SetAddress { raft_id, .. } => {
                    *raft_id == id
                }
                ChangeStep::Add { .. }
                | ChangeStep::SetRole { .. }
                | ChangeStep::SetKeys { .. } => false,
            })
        };
        let user = view
            .members
            .iter()
            .map(|state| &state.member)
            .find(|member| {
                Some(member.raft_id) != own
                    && !goes(member.raft_id)
                    && host_and_port(&member.address) == place
            });
        match user {
            None => Ok(()),
            Some(member) => Err(invalid(
                format!("steps[{step}].address"),
                format!(
                    "existing node {} with raft ID {} is already using {address}",
                    member.node_id, member.raft_id
                ),
            )),
        }
    }
}

fn check_key_is_free(
    step: usize,
    node_id: &NodeId,
    view: &MembershipView,
) -> Result<(), MembershipError> {
    let known = view
        .members
        .iter()
        .find(|state| state.member.node_id == *node_id);
    match known {
        None => Ok(()),
        Some(state) => Err(invalid(
            format!("steps[{step}].nodeId"),
            format!(
                "node with this enode has already been added to the cluster: {node_id} has raft ID {}",
                state.member.raft_id
            ),
        )),
    }
}

fn check_address(field: String, address: &str) -> Result<(), MembershipError> {
    if address.len() > ADDRESS_BYTES_MAX {
        let reason = format!(
            "{} bytes, at most {ADDRESS_BYTES_MAX} are allowed",
            address.len()
        );
        return Err(invalid(field, reason));
    }
    match address_fault(address) {
        None => Ok(()),
        Some(reason) => Err(invalid(field, reason)),
    }
}

fn check_raft_id(
    field: String,
    raft_id: u64,
    named: &mut BTreeSet<u64>,
) -> Result<(), MembershipError> {
    if raft_id == 0 {
        return Err(invalid(field, "raft ids begin at 1"));
    }
    if !named.insert(raft_id) {
        return Err(invalid(
            field,
            format!("raft id {raft_id} is named twice in this change"),
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use quorate_chain::{Member, MemberRole};

    use super::*;
    use crate::MemberState;
    use crate::member_url::tests::{GENERATOR, key, peer_id};

    fn add(n: u8, address: &str) -> ChangeStep {
        ChangeStep::Add {
            node_id: key(n),
            address: address.into(),
            organisation: "Org".into(),
            role: MemberRole::Learner,
        }
    }

    fn enclave_key(n: u8) -> EnclaveKey {
        EnclaveKey {
            key: [n; 32],
            hybrid_digest: None,
        }
    }

    fn announce(raft_id: u64, keys: impl IntoIterator<Item = u8>, sequence: u64) -> ChangeStep {
        ChangeStep::SetKeys {
            raft_id,
            keys: keys.into_iter().map(enclave_key).collect(),
            sequence,
            signature: [0; 65],
        }
    }

    fn fault(steps: Vec<ChangeStep>) -> String {
        let request = ChangeRequest {
            steps,
            ..ChangeRequest::default()
        };
        request.check().unwrap_err().to_string()
    }

    #[test]
    fn faults_of_a_request_name_the_step_and_what_is_allowed() {
        let organisation = |organisation: String| ChangeStep::Add {
            node_id: key(1),
            address: "a:1".into(),
            organisation,
            role: MemberRole::Voter,
        };
        let remove = |raft_id| ChangeStep::Remove { raft_id };
        let cases = [
            (vec![], "invalid argument steps: there is nothing to do"),
            (
                (1..=257).map(remove).collect(),
                "invalid argument steps: 257 steps, at most 256 are allowed",
            ),
            (
                vec![remove(0)],
                "invalid argument steps[0].raftId: raft ids begin at 1",
            ),
            (
                vec![
                    remove(1),
                    ChangeStep::SetRole {
                        raft_id: 1,
                        role: MemberRole::Voter,
                    },
                ],
                "invalid argument steps[1].raftId: raft id 1 is named twice in this change",
            ),
            (
                vec![add(1, "a:1"), add(1, "b:1")],
                "invalid argument steps[1].nodeId: is added twice in this change",
            ),
            (
                vec![add(1, "a")],
                "invalid argument steps[0].address: \"a\" is neither host:port nor a multiaddress (/ip4/…/tcp/…, /dns4/…/tcp/…)",
            ),
            (
                vec![add(1, &format!("{}:1", "a".repeat(511)))],
                "invalid argument steps[0].address: 513 bytes, at most 512 are allowed",
            ),
            (
                vec![ChangeStep::SetAddress {
                    raft_id: 1,
                    address: "a:0".into(),
                }],
                "invalid argument steps[0].address: \"a:0\": port 0 cannot be dialled",
            ),
            (
                vec![add(
                    2,
                    &format!("/ip4/10.0.0.1/tcp/1/p2p/{}", peer_id(&key(1))),
                )],
                "invalid argument steps[0].address: the peer id at its end is that of another key than nodeId",
            ),
            (
                vec![organisation("x".repeat(257))],
                "invalid argument steps[0].organisation: 257 bytes, at most 256 are allowed",
            ),
            (
                vec![organisation("a\nb".into())],
                "invalid argument steps[0].organisation: control characters are not allowed",
            ),
            (
                vec![announce(1, 0..17, 1)],
                "invalid argument steps[0].keys: 17 keys, at most 16 are allowed",
            ),
            (
                vec![announce(1, [1, 1], 1)],
                "invalid argument steps[0].keys: must rise, and none may come twice",
            ),
            (
                vec![announce(1, [1], 0)],
                "invalid argument steps[0].sequence: announcements count from 1",
            ),
            (
                vec![remove(1), announce(1, [1], 1)],
                "invalid argument steps[1].raftId: raft id 1 is named twice in this change",
            ),
        ];
        for (steps, expected) in cases {
            assert_eq!(fault(steps), expected);
        }
        let whole = ChangeRequest {
            steps: (1..=256).map(remove).collect(),
            ..ChangeRequest::default()
        };
        assert_eq!(whole.check(), Ok(()));
        let own = ChangeRequest {
            steps: vec![add(
                1,
                &format!("/ip4/10.0.0.1/tcp/1/p2p/{}", peer_id(&key(1))),
            )],
            ..ChangeRequest::default()
        };
        assert_eq!(own.check(), Ok(()));
    }

    #[test]
    fn keys_and_addresses_of_members_are_taken_unless_they_leave() {
        let member = |raft_id: u64, n: u8, address: &str| MemberState {
            member: Member {
                raft_id,
                node_id: key(n),
                address: address.into(),
                organisation: String::new(),
                role: MemberRole::Voter,
            },
            leaving: false,
            outgoing_voter: false,
            connected: true,
            lag: None,
            enclave_keys: vec![enclave_key(n)],
            keys_sequence: 1,
        };
        let view = MembershipView {
            members: vec![member(1, 1, "a:1"), member(2, 2, "/dns4/b/tcp/2")],
            ..MembershipView::default()
        };
        let check = |steps: Vec<ChangeStep>| {
            let request = ChangeRequest {
                steps,
                ..ChangeRequest::default()
            };
            request.check_against(&view).map_err(|e| e.to_string())
        };
        assert_eq!(check(vec![add(3, "a:2")]), Ok(()));
        assert_eq!(
            check(vec![add(1, "c:1")]),
            Err(format!(
                "invalid argument steps[0].nodeId: node with this enode has already been added to the cluster: {GENERATOR} has raft ID 1"
            ))
        );
        // The same place in another form.
        let taken = check(vec![add(3, "b:2")]).unwrap_err();
        assert!(
            taken.contains("with raft ID 2 is already using b:2"),
            "{taken}"
        );
        let moves = |raft_id: u64, address: &str| ChangeStep::SetAddress {
            raft_id,
            address: address.into(),
        };
        assert!(check(vec![moves(1, "b:2")]).is_err());
        assert_eq!(check(vec![moves(1, "a:1")]), Ok(()));
        assert_eq!(
            check(vec![add(3, "b:2"), ChangeStep::Remove { raft_id: 2 }]),
            Ok(())
        );
        assert_eq!(check(vec![moves(1, "b:2"), moves(2, "a:1")]), Ok(()));
        assert_eq!(check(vec![announce(1, [1, 3], 2)]), Ok(()));
        assert_eq!(
            check(vec![announce(1, [1, 2], 2)]),
            Err(
                "invalid argument steps[0].keys: one of them is an enclave key of the member with raft ID 2"
                    .into()
            )
        );
        assert_eq!(
            check(vec![announce(1, [1, 2], 2), announce(2, [3], 2)]),
            Ok(())
        );
    }
}
