//! Sending: who takes part, what the transaction would do, and then the exchange.

use std::collections::{BTreeMap, BTreeSet};
use std::str::FromStr as _;
use std::time::Duration;

use alloy_consensus::Transaction as _;
use alloy_primitives::{Address, Bytes};
use quorate_chain::{PublicForm, RecoveredTransaction, decode_transaction, private_reference};
use quorate_enclave::{GroupId, PayloadHash, PrivacyFlag, PublicKey};
use quorate_evm::PrivateCall;
use quorate_exchange::{Distribution, ExchangeError, Parties};
use quorate_privacy::{Content, Simulation, simulate};
use quorate_rpc::{
    Acknowledgements, Distributed, PrivacyError, PrivateArguments, PrivateSend, StoredSend,
    TransactionParts,
};
use rand::Rng as _;

use super::errors::{of_exchange, of_read_at, of_simulation};
use super::service::PrivacyService;

/// How often a transaction under private state validation is simulated again because another one came first.
const CONFLICT_ATTEMPTS: u32 = 12;
/// Pause before that; it doubles up to the second figure, by chance a half more or less.
const CONFLICT_PAUSE: (Duration, Duration) =
    (Duration::from_millis(20), Duration::from_millis(640));
/// Calls that may burn no more than this are simulated where they are asked for: it takes less than handing them to a thread that may
/// block, and coming back.
const SIMULATED_HERE_GAS_MAX: u64 = 100_000;
/// Longest wait for this node to be where the others are.
const IN_STEP_MAX: Duration = Duration::from_secs(2);
/// Parties that a client may name.
const NAMED_MAX: usize = 256;

/// What a client asked for, with every name resolved.
pub(super) struct Resolved {
    pub(super) sender: PublicKey,
    keys: BTreeSet<PublicKey>,
    group: Option<GroupId>,
    /// All that take part, the sender among them.
    pub(super) parties: BTreeSet<PublicKey>,
    flag: PrivacyFlag,
    mandatory: BTreeSet<PublicKey>,
    pub(super) acknowledgements: quorate_privacy::Acknowledgements,
}

impl Resolved {
    fn distribution(&self, from: Option<Address>, tags: bool) -> Distribution {
        Distribution {
            sender: Some(self.sender),
            parties: Parties {
                keys: self.keys.clone(),
                group: self.group,
            },
            from,
            flag: self.flag,
            mandatory: self.mandatory.clone(),
            affected: BTreeMap::new(),
            exec_root: None,
            base: BTreeMap::new(),
            acknowledgements: self.acknowledgements.clone(),
            tags,
        }
    }

    fn with(&self, from: Address, tags: bool, simulation: Simulation) -> Distribution {
        Distribution {
            mandatory: simulation.mandatory,
            affected: simulation.affected,
            exec_root: simulation.exec_root,
            base: simulation.base,
            ..self.distribution(Some(from), tags)
        }
    }
}

/// What is handed to the exchange once it is known what it does.
enum Payload {
    Fresh(Content),
    Stored(PayloadHash),
}

impl PrivacyService {
    pub(super) async fn resolve(
        &self,
        arguments: &PrivateArguments,
    ) -> Result<Resolved, PrivacyError> {
        if arguments.private_for.len() > NAMED_MAX {
            return Err(PrivacyError::argument(
                "privateFor",
                format!(
                    "names {} parties, at most {NAMED_MAX} are allowed",
                    arguments.private_for.len()
                ),
            ));
        }
        let own = self.exchange.keys().await.map_err(of_exchange)?;
        let sender = match arguments.private_from {
            Some(key) => own
                .iter()
                .find(|own| own.key == key)
                .map(|own| own.key)
                .ok_or_else(|| PrivacyError::NotOurKey {
                    key: key.to_string(),
                })?,
            None => own
                .first()
                .map(|own| own.key)
                .ok_or_else(|| PrivacyError::Enclave {
                    reason: "it has no keys".into(),
                })?,
        };
        let mut keys = BTreeSet::new();
        let mut group = None;
        let mut parties = BTreeSet::from([sender]);
        for name in &arguments.private_for {
            if let Ok(key) = PublicKey::from_str(name)
                && self.is_announced(&key)
            {
                keys.insert(key);
                parties.insert(key);
                continue;
            }
            let found = match self.find_group(name) {
                Err(PrivacyError::UnknownGroup { .. }) => {
                    return Err(PrivacyError::UnknownKey { key: name.clone() });
                }
                found => found?,
            };
            if group
                .replace(found.id)
                .is_some_and(|other| other != found.id)
            {
                return Err(PrivacyError::argument(
                    "privateFor",
                    "names two privacy groups, at most one is allowed",
                ));
            }
            parties.extend(found.members.iter().copied());
        }
        let mandatory: BTreeSet<PublicKey> = arguments.mandatory_for.iter().copied().collect();
        let acknowledgements = match &arguments.acknowledgements {
            Acknowledgements::All => quorate_privacy::Acknowledgements::All,
            Acknowledgements::Mandatory => quorate_privacy::Acknowledgements::Mandatory,
            Acknowledgements::AtLeast(k) => quorate_privacy::Acknowledgements::KOfN(*k),
            Acknowledgements::Named(keys) => {
                let members = self.exchange.member_keys();
                let node = |key: &PublicKey| {
                    let owner = members.iter().find(|member| member.has(key));
                    owner
                        .map(|owner| owner.node)
                        .ok_or_else(|| PrivacyError::UnknownKey {
                            key: key.to_string(),
                        })
                };
                let nodes = keys.iter().map(node).collect::<Result<_, _>>()?;
                quorate_privacy::Acknowledgements::Nodes(nodes)
            }
        };
        Ok(Resolved {
            sender,
            keys,
            group,
            parties,
            flag: arguments.privacy_flag,
            mandatory,
            acknowledgements,
        })
    }

    pub(super) fn is_announced(&self, key: &PublicKey) -> bool {
        let members = self.exchange.member_keys();
        members.iter().any(|member| member.has(key))
    }

    pub(super) async fn send(&self, send: PrivateSend) -> Result<Distributed, PrivacyError> {
        let call = PrivateCall {
            sender: send.from,
            nonce: send.nonce,
            to: send.to,
            data: send.data.clone(),
            gas_limit: send.gas_limit,
            gas_price: send.gas_price,
            ..PrivateCall::default()
        };
        let (content, tags) = match send.form {
            PublicForm::Quorum => (Content::Data(send.data), false),
            PublicForm::Marker => {
                let content = Content::Call {
                    to: send.to,
                    data: send.data,
                    gas_limit: send.gas_limit,
                };
                (content, true)
            }
        };
        let resolved = self.resolve(&send.arguments).await?;
        self.simulated(call, &resolved, tags, Payload::Fresh(content))
            .await
    }

    pub(super) async fn send_data(
        &self,
        data: Bytes,
        arguments: &PrivateArguments,
    ) -> Result<Distributed, PrivacyError> {
        let resolved = self.resolve(arguments).await?;
        needs_no_simulation(resolved.flag)?;
        let how = resolved.distribution(None, false);
        let sent = self.exchange.distribute(Content::Data(data), how).await;
        self.distributed(sent)
    }

    pub(super) async fn send_stored(&self, send: StoredSend) -> Result<Distributed, PrivacyError> {
        let resolved = self.resolve(&send.arguments).await?;
        let Some(parts) = send.transaction else {
            needs_no_simulation(resolved.flag)?;
            let how = resolved.distribution(None, false);
            let sent = self.exchange.distribute_stored(send.hash, how).await;
            return self.distributed(sent);
        };
        self.stored(send.hash, parts, &resolved).await
    }

    async fn stored(
        &self,
        hash: PayloadHash,
        parts: TransactionParts,
        resolved: &Resolved,
    ) -> Result<Distributed, PrivacyError> {
        let data = self.stored_data(&hash).await?;
        let call = PrivateCall {
            sender: parts.from,
            nonce: parts.nonce,
            to: parts.to,
            data,
            gas_limit: parts.gas_limit,
            gas_price: parts.gas_price,
            ..PrivateCall::default()
        };
        self.simulated(call, resolved, false, Payload::Stored(hash))
            .await
    }

    async fn stored_data(&self, hash: &PayloadHash) -> Result<Bytes, PrivacyError> {
        match self.exchange.receive(*hash).await.map_err(of_exchange)? {
            quorate_exchange::Reception::Received(received) => match received.content {
                Content::Data(data) => Ok(data),
                Content::Call { .. } | Content::Signed(_) | Content::Extension(_) => {
                    Err(PrivacyError::Refused {
                        reason: format!("payload {hash} holds a whole transaction, not its data"),
                    })
                }
            },
            quorate_exchange::Reception::NotAParty
            | quorate_exchange::Reception::Erased(_)
            | quorate_exchange::Reception::Missing => {
                Err(PrivacyError::UnknownPayload { hash: *hash })
            }
        }
    }

    /// A signed private transaction, and the payload that it names.
    pub(super) async fn send_signed(
        &self,
        raw: Bytes,
        arguments: &PrivateArguments,
    ) -> Result<Distributed, PrivacyError> {
        let refused = |reason: String| PrivacyError::argument("transaction", reason);
        let decoded = decode_transaction(&raw).map_err(|e| refused(e.to_string()))?;
        let reference = private_reference(&decoded)
            .filter(|reference| reference.form == PublicForm::Quorum)
            .ok_or_else(|| {
                refused("it must have v 37 or 38, value 0, and a payload hash as its data".into())
            })?;
        let inner = RecoveredTransaction::recover(decoded).map_err(|e| refused(e.to_string()))?;
        let parts = TransactionParts {
            from: inner.sender(),
            nonce: inner.nonce(),
            to: inner.transaction().to(),
            gas_limit: inner.transaction().gas_limit(),
            gas_price: inner.transaction().max_fee_per_gas(),
        };
        let resolved = self.resolve(arguments).await?;
        self.stored(PayloadHash::from_bytes(reference.hash), parts, &resolved)
            .await?;
        // The rules of the flag are those of the payload inside.
        let outer = Resolved {
            flag: PrivacyFlag::Standard,
            mandatory: BTreeSet::new(),
            acknowledgements: quorate_privacy::Acknowledgements::All,
            ..resolved
        };
        let how = outer.distribution(Some(parts.from), false);
        let sent = self.exchange.distribute(Content::Signed(raw), how).await;
        self.distributed(sent)
    }

    /// Simulates a transaction and hands it to the exchange. Under private state validation others may be faster: then it is
    /// simulated again, on what they made.
    async fn simulated(
        &self,
        call: PrivateCall,
        resolved: &Resolved,
        tags: bool,
        payload: Payload,
    ) -> Result<Distributed, PrivacyError> {
        let from = call.sender;
        if resolved.flag != PrivacyFlag::StateValidation {
            let simulation = self.simulate(&call, resolved).await?;
            let how = resolved.with(from, tags, simulation);
            let sent = match payload {
                Payload::Fresh(content) => self.exchange.distribute(content, how).await,
                Payload::Stored(hash) => self.exchange.distribute_stored(hash, how).await,
            };
            return self.distributed(sent);
        }
        let mut contracts = self
            .simulate(&call, resolved)
            .await?
            .base
            .into_keys()
            .collect();
        let mut pause = CONFLICT_PAUSE.0;
        for attempt in 1.. {
            let sent = async {
                let turn = self.exchange.turn(contracts).await?;
                Ok::<_, ExchangeError>(match self.simulate(&call, resolved).await {
                    Err(refused) => Err(refused),
                    Ok(simulation) => {
                        let seen: BTreeSet<Address> = simulation.base.keys().copied().collect();
                        let how = resolved.with(from, tags, simulation);
                        let sent = match &payload {
                            Payload::Fresh(content) => {
                                self.exchange
                                    .distribute_in(turn, content.clone(), how)
                                    .await
                            }
                            Payload::Stored(hash) => {
                                drop(turn);
                                self.exchange.distribute_stored(*hash, how).await
                            }
                        };
                        Ok((seen, sent))
                    }
                })
            };
            let (seen, sent) = match sent.await {
                Ok(simulated) => simulated?,
                Err(conflict) => return Err(of_exchange(conflict)),
            };
            contracts = seen;
            match sent {
                Err(ExchangeError::Conflict {
                    retryable: true, ..
                }) if attempt < CONFLICT_ATTEMPTS => {
                    let by_chance = rand::rng().random_range(0.5..1.5);
                    tokio::time::sleep(pause.mul_f64(by_chance)).await;
                    pause = (pause * 2).min(CONFLICT_PAUSE.1);
                }
                sent => return self.distributed(sent),
            }
        }
        // The last attempt returns.
        Err(PrivacyError::Stopping)
    }

    /// Waits until this node has imported, and executed privately, what it knows to be committed: a node that was just started might
    /// say that a contract does not exist.
    async fn in_step(&self) -> Result<(), PrivacyError> {
        let mut ordering = self.raft.watch();
        let mut applied = self.applied.clone();
        let imported = async {
            let led = ordering.wait_for(|status| status.leader.is_some());
            let committed = led.await.ok()?.committed.0;
            applied.wait_for(|index| *index >= committed).await.ok()?;
            Some(())
        };
        if !matches!(
            tokio::time::timeout(IN_STEP_MAX, imported).await,
            Ok(Some(()))
        ) {
            return Err(PrivacyError::Busy {
                what: "this node is still catching up with the others".into(),
            });
        }
        let reached = self.ledger.reached(self.chain.head(), IN_STEP_MAX).await;
        reached.map_err(|error| of_read_at(error, &self.ledger.status()))
    }

    async fn simulate(
        &self,
        call: &PrivateCall,
        resolved: &Resolved,
    ) -> Result<Simulation, PrivacyError> {
        if resolved.flag != PrivacyFlag::Standard {
            self.in_step().await?;
        }
        let Resolved {
            flag,
            parties,
            mandatory,
            ..
        } = resolved;
        let simulated = if call.gas_limit <= SIMULATED_HERE_GAS_MAX {
            simulate(&*self.chain, &self.ledger, call, *flag, parties, mandatory)
        } else {
            let (chain, ledger) = (self.chain.clone(), self.ledger.clone());
            let (call, flag) = (call.clone(), *flag);
            let (parties, mandatory) = (parties.clone(), mandatory.clone());
            let work = move || simulate(&*chain, &ledger, &call, flag, &parties, &mandatory);
            let simulated = tokio::task::spawn_blocking(work).await;
            simulated.map_err(PrivacyError::internal)?
        };
        let simulation = simulated.map_err(of_simulation)?;
        match &simulation.reverted {
            Some(data) if *flag != PrivacyFlag::Standard => {
                Err(PrivacyError::Reverted { data: data.clone() })
            }
            _ => Ok(simulation),
        }
    }

    pub(super) fn distributed(
        &self,
        sent: Result<quorate_exchange::Distributed, ExchangeError>,
    ) -> Result<Distributed, PrivacyError> {
        let sent = sent.map_err(of_exchange)?;
        let members = self.exchange.member_keys();
        let ours = |key: &PublicKey| members.iter().any(|member| member.this && member.has(key));
        let managed = sent
            .parties
            .iter()
            .filter(|key| **key == sent.sender || ours(key));
        Ok(Distributed {
            hash: sent.hash,
            tags: sent.tags,
            sender: sent.sender,
            managed_parties: managed.copied().collect(),
            pending: sent.pending.iter().map(|member| member.node).collect(),
        })
    }
}

fn needs_no_simulation(flag: PrivacyFlag) -> Result<(), PrivacyError> {
    if flag == PrivacyFlag::Standard {
        return Ok(());
    }
    Err(PrivacyError::argument(
        "privacyFlag",
        format!(
            "{} needs the transaction to be simulated: send it through eth_sendTransaction or eth_sendRawPrivateTransaction",
            flag.number()
        ),
    ))
}
