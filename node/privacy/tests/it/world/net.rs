//! Parties on one chain, and what they send each other.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use alloy_primitives::{Address, B256, Bytes};
use quorate_chain::RecoveredTransaction;
use quorate_enclave::{PayloadHash, PrivacyFlag, PublicKey};
use quorate_evm::PrivateCall;
use quorate_privacy::{
    Acknowledgements, Content, Lookup, PrivatePayload, Simulation, SimulationRefusal, Terms,
    simulate,
};

use super::*;

/// A chain and four nodes.
pub struct Net {
    pub chain: Arc<Chain>,
    pub parties: Vec<Party>,
    /// Next nonce by user.
    nonces: BTreeMap<u8, u64>,
    payloads: u64,
}

/// What to send: who signs, whose key sends, to whom, with what flag.
#[derive(Debug, Clone)]
pub struct Send<'a> {
    pub user: u8,
    pub from: usize,
    pub to: &'a [usize],
    pub flag: PrivacyFlag,
    pub mandatory: &'a [usize],
}

/// By Alice from node 0.
pub fn by_alice(flag: PrivacyFlag, to: &[usize]) -> Send<'_> {
    Send {
        user: ALICE,
        from: 0,
        to,
        flag,
        mandatory: &[],
    }
}

pub fn standard(to: &[usize]) -> Send<'_> {
    by_alice(PrivacyFlag::Standard, to)
}

impl Net {
    pub fn new() -> Self {
        Self {
            chain: Chain::new(),
            parties: (1..=4).map(Party::new).collect(),
            nonces: BTreeMap::new(),
            payloads: 0,
        }
    }

    pub fn nonce(&mut self, user: u8) -> u64 {
        let next = self.nonces.entry(user).or_insert(0);
        *next += 1;
        *next - 1
    }

    pub fn peek_nonce(&self, user: u8) -> u64 {
        self.nonces.get(&user).copied().unwrap_or(0)
    }

    fn fresh_hash(&mut self, content: &Content) -> PayloadHash {
        self.payloads += 1;
        let mut sealed = content.encode();
        sealed.extend(self.payloads.to_be_bytes());
        PayloadHash::of(&sealed)
    }

    fn keys(&self, nodes: &[usize]) -> BTreeSet<PublicKey> {
        nodes.iter().map(|node| self.parties[*node].key()).collect()
    }

    pub fn simulate(
        &self,
        send: &Send<'_>,
        to: Option<Address>,
        data: &[u8],
    ) -> Result<Simulation, SimulationRefusal> {
        let call = PrivateCall {
            sender: user(send.user),
            nonce: self.peek_nonce(send.user),
            to,
            data: Bytes::copy_from_slice(data),
            gas_limit: GAS,
            ..PrivateCall::default()
        };
        let parties = self.parties_of(send);
        let mandatory = self.keys(send.mandatory);
        let ledger = &self.parties[send.from].ledger;
        simulate(
            self.chain.as_ref(),
            ledger,
            &call,
            send.flag,
            &parties,
            &mandatory,
        )
    }

    fn parties_of(&self, send: &Send<'_>) -> BTreeSet<PublicKey> {
        let mut parties = self.keys(send.to);
        parties.insert(self.parties[send.from].key());
        parties
    }

    /// Terms as an honest node makes them.
    pub fn terms(&self, send: &Send<'_>, simulation: Simulation) -> Terms {
        let validated = send.flag == PrivacyFlag::StateValidation;
        Terms {
            hash: PayloadHash::from_bytes([0; 64]),
            flag: send.flag,
            group: None,
            sender: self.parties[send.from].key(),
            from: Some(user(send.user)),
            parties: if validated {
                self.parties_of(send)
            } else {
                BTreeSet::new()
            },
            mandatory: simulation.mandatory,
            affected: simulation.affected,
            exec_root: simulation.exec_root,
            base: simulation.base,
            sender_node: self.parties[send.from].node(),
            acknowledgements: Acknowledgements::All,
        }
    }

    /// Gives a payload to its parties.
    pub fn distribute(&mut self, send: &Send<'_>, content: Content, terms: Terms) -> PayloadHash {
        let hash = self.fresh_hash(&content);
        terms.check().unwrap();
        let terms = Terms { hash, ..terms };
        let mut nodes: BTreeSet<usize> = send.to.iter().copied().collect();
        nodes.insert(send.from);
        for node in nodes {
            let party = &self.parties[node];
            let payload = PrivatePayload {
                content: content.clone(),
                terms: terms.clone(),
                as_recipient: party.key(),
                sender: terms.sender,
                we_sent: node == send.from,
            };
            party.payloads.set(hash, Lookup::Party(Box::new(payload)));
        }
        hash
    }

    /// A marker for a call as an honest node sends it, not yet in a block.
    pub fn try_send(
        &mut self,
        send: &Send<'_>,
        to: Option<Address>,
        data: &[u8],
    ) -> Result<RecoveredTransaction, SimulationRefusal> {
        let simulation = self.simulate(send, to, data)?;
        let terms = self.terms(send, simulation);
        Ok(self.send_with(send, to, data, terms))
    }

    pub fn send(
        &mut self,
        send: &Send<'_>,
        to: Option<Address>,
        data: &[u8],
    ) -> RecoveredTransaction {
        self.try_send(send, to, data).unwrap()
    }

    pub fn send_with(
        &mut self,
        send: &Send<'_>,
        to: Option<Address>,
        data: &[u8],
        terms: Terms,
    ) -> RecoveredTransaction {
        let content = Content::Call {
            to,
            data: Bytes::copy_from_slice(data),
            gas_limit: GAS,
        };
        let hash = self.distribute(send, content, terms);
        marker(send.user, self.nonce(send.user), hash)
    }

    /// A block, executed by everyone.
    pub async fn mine(&mut self, transactions: Vec<RecoveredTransaction>) -> u64 {
        let height = self.chain.mine(transactions);
        for party in &self.parties {
            party.catch_up(&self.chain).await;
        }
        height
    }

    /// One private transaction in a block of its own, executed by everyone.
    pub async fn run(&mut self, send: &Send<'_>, to: Option<Address>, data: &[u8]) -> B256 {
        let transaction = self.send(send, to, data);
        let hash = transaction.hash();
        self.mine(vec![transaction]).await;
        hash
    }

    pub async fn deploy(&mut self, send: &Send<'_>, runtime: &[u8]) -> Address {
        let hash = self.run(send, None, &deploying(runtime)).await;
        let record = self.parties[send.from].record(hash);
        assert!(record.is_success(), "{:?}", record.outcome);
        record.contract_address.unwrap()
    }
}
