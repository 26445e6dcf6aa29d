//! Contracts that a scenario makes and calls.

use std::collections::BTreeSet;

use alloy_primitives::hex;
use serde_json::{Value, json};

use super::{Contract, GAS, Parties, merge};

impl Parties {
    /// Deploys a private contract of node `from` and these nodes.
    pub fn deploy(&mut self, from: usize, to: &[usize], init: &[u8]) -> Contract {
        self.deploy_with(from, to, init, json!({}))
    }

    /// The same with further fields of the request.
    pub fn deploy_with(&mut self, from: usize, to: &[usize], init: &[u8], more: Value) -> Contract {
        let mut request = self.request(from, to, None, init);
        merge(&mut request, more);
        let transaction = self.send(from, &request);
        let parties: BTreeSet<usize> = to.iter().copied().chain([from]).collect();
        let contract = self.deployed(&transaction, &parties);
        self.track(contract.clone());
        contract
    }

    /// The contract that a transaction has created, once its parties have executed it.
    pub fn deployed(&self, transaction: &str, parties: &BTreeSet<usize>) -> Contract {
        let mut address = None;
        for i in parties {
            let receipt = self.private_receipt(*i, transaction);
            assert_eq!(receipt["status"], "0x1", "on node {i}: {receipt}");
            let created = receipt["contractAddress"].as_str().unwrap().to_owned();
            assert!(address.is_none_or(|other| other == created));
            address = Some(created);
        }
        Contract {
            address: address.unwrap(),
            parties: parties.clone(),
            transaction: transaction.to_owned(),
            payload: self.payload_hash(transaction),
        }
    }

    /// Its parties will be compared at the end of the scenario.
    pub fn track(&mut self, contract: Contract) {
        self.contracts.push(contract);
    }

    /// A contract was extended to node `i`: from here on that is one of its parties.
    pub fn joined(&mut self, contract: &Contract, i: usize) -> Contract {
        let mut parties = contract.parties.clone();
        parties.insert(i);
        let joined = Contract {
            parties,
            ..contract.clone()
        };
        self.contracts.retain(|c| c.address != contract.address);
        self.contracts.push(joined.clone());
        joined
    }

    /// Alarms about this transaction are right.
    pub fn expect_alarms_about(&mut self, transaction: &str) {
        self.diverging.insert(transaction.to_owned());
    }

    /// The parties of this contract are not going to agree, and that is right.
    pub fn let_diverge(&mut self, contract: &Contract) {
        self.contracts.retain(|c| c.address != contract.address);
        self.alarms_expected = true;
    }

    /// Alarms are right, but the contracts agree in the end.
    pub fn expect_alarms(&mut self) {
        self.alarms_expected = true;
    }

    /// Sends a call to a private contract; all parties must execute it successfully. Its hash.
    pub fn execute(
        &mut self,
        from: usize,
        to: &[usize],
        contract: &Contract,
        data: &[u8],
    ) -> String {
        self.execute_with(from, to, contract, data, json!({}))
    }

    /// The same with further fields of the request.
    pub fn execute_with(
        &mut self,
        from: usize,
        to: &[usize],
        contract: &Contract,
        data: &[u8],
        more: Value,
    ) -> String {
        let mut request = self.request(from, to, Some(&contract.address), data);
        merge(&mut request, more);
        let hash = self.send(from, &request);
        for i in to.iter().copied().chain([from]) {
            let receipt = self.private_receipt(i, &hash);
            assert_eq!(receipt["status"], "0x1", "on node {i}: {receipt}");
        }
        hash
    }

    /// Deploys a contract for everyone.
    pub fn deploy_publicly(&mut self, from: usize, init: &[u8]) -> String {
        let request = json!({
            "from": self.account(from), "gas": GAS, "data": hex::encode_prefixed(init),
        });
        let hash = self.send_publicly(from, &request);
        let receipt = self.public_receipt(from, &hash);
        assert_eq!(receipt["status"], "0x1");
        receipt["contractAddress"].as_str().unwrap().to_owned()
    }

    /// A public transaction; its hash once all nodes have it.
    pub fn send_publicly(&mut self, from: usize, request: &Value) -> String {
        let hash = self.try_send(from, request);
        let hash = hash.unwrap_or_else(|error| panic!("{request}: {error}"));
        for i in self.c.running() {
            self.public_receipt(i, &hash);
        }
        hash
    }

    /// A public call of a contract; its receipt.
    pub fn call_publicly(&mut self, from: usize, to: &str, data: &[u8]) -> Value {
        let request = json!({
            "from": self.account(from), "to": to, "gas": GAS, "data": hex::encode_prefixed(data),
        });
        let hash = self.send_publicly(from, &request);
        self.public_receipt(from, &hash)
    }
}
