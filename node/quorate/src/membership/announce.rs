//! This node's enclave keys in the replicated table: announced when the enclave has others than the table says, by a change like
//! any other, signed with the node's key.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use alloy_primitives::{B256, keccak256};
use quorate_engine::{ENCLAVE_KEYS_MAX, EnclaveKey, MemberDetails};
use quorate_rpc::{ChangeRequest, ChangeStep, MembershipApi as _};
use raft_adapter::{MemberRole, MemberTable, RaftId};
use secp256k1::{Message, SECP256K1, SecretKey};
use tokio_util::sync::CancellationToken;

use super::ChainIdentity;
use super::follow::Follow;

/// Pause after an announcement that was not taken; it doubles up to the second figure, by chance a quarter more or less: all
/// members announce when a consortium starts, and only one change is made at a time.
const PAUSE: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));
/// The id of a change that announces begins with this, before it is hashed.
const CHANGE_DOMAIN: &[u8] = b"quorate enclave keys change 1";

/// Signs with the node's key.
#[derive(Clone)]
pub struct NodeSigner(SecretKey);

impl NodeSigner {
    /// A signer with this key.
    pub fn new(key: SecretKey) -> Self {
        Self(key)
    }

    /// Signs a digest: r, s in the lower half, recovery id. The same digest has one signature.
    pub fn sign(&self, digest: B256) -> [u8; 65] {
        let signature = SECP256K1.sign_ecdsa_recoverable(Message::from_digest(digest.0), &self.0);
        let (id, compact) = signature.serialize_compact();
        let mut bytes = [0; 65];
        let (head, tail) = bytes.split_at_mut(compact.len());
        head.copy_from_slice(&compact);
        // A recovery id is 0 to 3.
        tail.fill(i32::from(id) as u8);
        bytes
    }
}

impl fmt::Debug for NodeSigner {
    /// The key stays out of logs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NodeSigner")
    }
}

/// The keys in the one order that the table has, none twice.
fn ordered(keys: &[EnclaveKey]) -> Vec<EnclaveKey> {
    let mut keys = keys.to_vec();
    keys.sort_unstable();
    keys.dedup_by_key(|key| key.key);
    keys
}

/// What to ask the leader for so that the table says what the enclave has; `None` if it does, if the enclave has no keys (then
/// privacy is off, and what the table says stays), or as long as this node has no place in the table.
pub fn announcement(
    table: &MemberTable,
    raft_id: u64,
    chain: ChainIdentity,
    enclave: &[EnclaveKey],
    signer: &NodeSigner,
) -> Option<ChangeRequest> {
    let entry = table.members.get(&RaftId(raft_id))?;
    if enclave.is_empty() || entry.role == MemberRole::Removed {
        return None;
    }
    let mut details = MemberDetails::decode(RaftId(raft_id), &entry.details).ok()?;
    let keys = ordered(enclave);
    let ChainIdentity {
        chain_id,
        genesis_hash,
    } = chain;
    if details.enclave_keys == keys && details.verify_keys(raft_id, chain_id, genesis_hash).is_ok()
    {
        return None;
    }
    details.enclave_keys = keys;
    details.keys_sequence = details.keys_sequence.saturating_add(1);
    let digest = details.keys_digest(raft_id, chain_id, genesis_hash);
    Some(ChangeRequest {
        // The same announcement has the same id, whoever takes it and however often.
        change_id: Some(change_id(digest)),
        steps: vec![ChangeStep::SetKeys {
            raft_id,
            keys: details.enclave_keys,
            sequence: details.keys_sequence,
            signature: signer.sign(digest),
        }],
        ..ChangeRequest::default()
    })
}

fn change_id(digest: B256) -> [u8; 16] {
    let hash = keccak256([CHANGE_DOMAIN, digest.as_slice()].concat());
    let mut id = [0; 16];
    id.iter_mut().zip(hash).for_each(|(to, from)| *to = from);
    id
}

impl Follow {
    /// Keeps this node's entry in step with its enclave.
    pub(super) async fn own_keys(self: Arc<Self>, stop: CancellationToken) {
        let mut enclave_keys = self.enclave_keys.clone();
        let mut status = self.raft().watch();
        let mut pause = PAUSE.0;
        loop {
            let keys = enclave_keys.borrow_and_update().clone();
            let table = Arc::clone(&status.borrow_and_update().table);
            if let Some(request) = self.wanted(&table, &keys) {
                match stop.run_until_cancelled(self.service.change(request)).await {
                    None => return,
                    Some(Ok(report)) => {
                        pause = PAUSE.0;
                        tracing::info!(
                            index = report.table_index,
                            keys = keys.len(),
                            "the keys of this node's enclave stand in the member table"
                        );
                    }
                    Some(Err(e)) => {
                        tracing::info!(reason = %e, "the keys of this node's enclave are not announced yet");
                        let spread = rand::random_range(0.75..1.25);
                        let waiting = tokio::time::sleep(pause.mul_f64(spread));
                        if stop.run_until_cancelled(waiting).await.is_none() {
                            return;
                        }
                        pause = pause.saturating_mul(2).min(PAUSE.1);
                        continue;
                    }
                }
            }
            let seen = table.index;
            let news = async {
                let exchanged = async {
                    if enclave_keys.changed().await.is_err() {
                        // Nobody will ever exchange them; the table may still change.
                        std::future::pending::<()>().await;
                    }
                };
                tokio::select! {
                    () = exchanged => true,
                    moved = status.wait_for(|now| now.table.index != seen) => moved.is_ok(),
                }
            };
            match stop.run_until_cancelled(news).await {
                Some(true) => {}
                // Ordering has ended, or the node stops.
                Some(false) | None => return,
            }
        }
    }

    fn wanted(&self, table: &MemberTable, keys: &[EnclaveKey]) -> Option<ChangeRequest> {
        let max = ENCLAVE_KEYS_MAX;
        if keys.len() > max {
            tracing::error!(
                keys = keys.len(),
                max,
                "the enclave has more keys than a member can announce: none is announced until it has fewer"
            );
            return None;
        }
        let chain = self.service.shared.chain;
        announcement(table, self.raft_id, chain, keys, &self.key_signer)
    }
}

#[cfg(test)]
mod tests {
    use quorate_chain::NodeId;
    use raft_adapter::TableMember;

    use super::super::steps::Plan;
    use super::super::wire::Refusal;
    use super::*;

    const CHAIN: ChainIdentity = ChainIdentity {
        chain_id: 1337,
        genesis_hash: B256::repeat_byte(5),
    };

    fn secret(n: u8) -> SecretKey {
        SecretKey::from_byte_array([n; 32]).unwrap()
    }

    fn signer(n: u8) -> NodeSigner {
        NodeSigner::new(secret(n))
    }

    fn key(n: u8) -> EnclaveKey {
        EnclaveKey {
            key: [n; 32],
            hybrid_digest: Some([n; 32]),
        }
    }

    fn details(n: u8) -> MemberDetails {
        let node_id = NodeId::of(&secret(n).public_key(SECP256K1));
        MemberDetails::new(node_id, format!("node{n}:30303"), String::new())
    }

    /// A table of the members with these details, from raft id 1 on.
    fn table(members: &[MemberDetails]) -> MemberTable {
        let mut table = MemberTable::default();
        for (n, details) in members.iter().enumerate() {
            let member = TableMember {
                role: MemberRole::Voter,
                details: details.encode(),
            };
            table.members.insert(RaftId(n as u64 + 1), member);
        }
        table
    }

    fn planned(table: &MemberTable, step: ChangeStep) -> Result<MemberDetails, Refusal> {
        let steps = Plan::new(table, CHAIN)?.steps(&[step])?;
        match steps.as_slice() {
            [raft_adapter::MemberStep::SetDetails { id, details }] => {
                Ok(MemberDetails::decode(*id, details).unwrap())
            }
            other => panic!("{other:?}"),
        }
    }

    fn step(request: ChangeRequest) -> ChangeStep {
        request.steps.into_iter().next().unwrap()
    }

    #[test]
    fn a_node_announces_until_the_table_says_what_its_enclave_has() {
        let before = table(&[details(1), details(2)]);
        let keys = [key(9), key(4)];
        let wish = |table: &MemberTable, keys: &[EnclaveKey]| {
            announcement(table, 1, CHAIN, keys, &signer(1))
        };
        let first = wish(&before, &keys).unwrap();
        assert_eq!(
            wish(&before, &keys),
            Some(first.clone()),
            "a stable change id"
        );
        let after = planned(&before, step(first.clone())).unwrap();
        assert_eq!(after.enclave_keys, [key(4), key(9)]);
        assert_eq!(after.keys_sequence, 1);
        assert_eq!(
            after.verify_keys(1, CHAIN.chain_id, CHAIN.genesis_hash),
            Ok(())
        );

        let now = table(&[after.clone(), details(2)]);
        assert_eq!(wish(&now, &keys), None);
        assert_eq!(wish(&now, &[key(4), key(9), key(4)]), None);
        assert_eq!(
            wish(&now, &[]),
            None,
            "privacy off leaves the entry as it is"
        );
        // Away from a key and back to it is two changes, not one that was made before.
        let second = wish(&now, &[key(4)]).unwrap();
        let now = table(&[planned(&now, step(second)).unwrap(), details(2)]);
        let third = wish(&now, &keys).unwrap();
        assert_ne!(third.change_id, first.change_id);
        assert_eq!(planned(&now, step(third)).unwrap().keys_sequence, 3);
    }

    #[test]
    fn a_node_without_a_place_in_the_table_announces_nothing() {
        let keys = [key(1)];
        let mut now = table(&[details(1)]);
        assert_eq!(announcement(&now, 2, CHAIN, &keys, &signer(2)), None);
        now.members.get_mut(&RaftId(1)).unwrap().role = MemberRole::Removed;
        assert_eq!(announcement(&now, 1, CHAIN, &keys, &signer(1)), None);
    }

    #[test]
    fn the_leader_refuses_keys_that_their_member_did_not_sign_or_signed_before() {
        let before = table(&[details(1), details(2)]);
        let refusal = |step: ChangeStep| match planned(&before, step) {
            Err(Refusal::Invalid { field, reason }) => format!("{field}: {reason}"),
            other => panic!("{other:?}"),
        };
        let foreign = announcement(&before, 1, CHAIN, &[key(3)], &signer(2)).unwrap();
        let node = details(1).node_id;
        let other_signer =
            format!("keys: the signature over the enclave keys is not that of node {node}");
        assert_eq!(refusal(step(foreign)), other_signer);
        let other_chain = ChainIdentity {
            chain_id: 1,
            ..CHAIN
        };
        let elsewhere = announcement(&before, 1, other_chain, &[key(3)], &signer(1)).unwrap();
        assert_eq!(refusal(step(elsewhere)), other_signer);

        let own = announcement(&before, 1, CHAIN, &[key(3)], &signer(1)).unwrap();
        let now = table(&[planned(&before, step(own.clone())).unwrap(), details(2)]);
        assert_eq!(
            planned(&now, step(own)),
            Err(Refusal::Invalid {
                field: "sequence".into(),
                reason: "1 is not after 1, the last announcement of member 1".into(),
            })
        );
    }

    #[test]
    fn a_key_of_one_member_cannot_be_announced_by_another() {
        let before = table(&[details(1), details(2)]);
        let first = announcement(&before, 1, CHAIN, &[key(3)], &signer(1)).unwrap();
        let now = table(&[planned(&before, step(first)).unwrap(), details(2)]);
        let second = announcement(&now, 2, CHAIN, &[key(3), key(4)], &signer(2)).unwrap();
        let key = "AwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwM=";
        assert_eq!(
            planned(&now, step(second)),
            Err(Refusal::Invalid {
                field: "keys".into(),
                reason: format!("member 1 and member 2 cannot both have the enclave key {key}"),
            })
        );
    }

    #[test]
    fn a_new_address_keeps_the_keys() {
        let before = table(&[details(1)]);
        let own = announcement(&before, 1, CHAIN, &[key(3)], &signer(1)).unwrap();
        let with_keys = planned(&before, step(own)).unwrap();
        let moved = planned(
            &table(std::slice::from_ref(&with_keys)),
            ChangeStep::SetAddress {
                raft_id: 1,
                address: "moved:1".into(),
            },
        );
        let expected = MemberDetails {
            address: "moved:1".into(),
            ..with_keys
        };
        assert_eq!(moved, Ok(expected));
    }
}
