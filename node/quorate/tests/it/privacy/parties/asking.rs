//! What nodes say when they are asked.

use std::time::{Duration, Instant};

use alloy_primitives::{U256, hex};
use serde_json::{Value, json};

use super::{PATIENCE, Parties, first_word, is_retryable, outcome_value};

impl Parties {
    /// What the whole chain says of a transaction, once node `i` has it. In Quorum's form a party is shown its own receipt, which it
    /// may have to wait for: the block is what tells.
    pub fn public_receipt(&self, i: usize, hash: &str) -> Value {
        self.wait(&format!("node {i} has {hash} in a block"), || {
            let answer = self
                .c
                .try_rpc(i, "eth_getTransactionByHash", json!([hash]))
                .ok()?;
            (!answer["result"]["blockNumber"].is_null()).then_some(())
        });
        let answer = self
            .c
            .try_rpc(i, "eth_getTransactionReceipt", json!([hash]))
            .unwrap();
        match answer.get("result") {
            Some(receipt) => receipt.clone(),
            None => json!({}),
        }
    }

    /// The receipt of the private execution on node `i`, which must be a party.
    pub fn private_receipt(&self, i: usize, hash: &str) -> Value {
        self.wait(
            &format!("node {i} has the private receipt of {hash}"),
            || {
                let answer = self
                    .c
                    .try_rpc(i, "eth_getPrivateTransactionReceipt", json!([hash]))
                    .ok()?;
                answer
                    .get("result")
                    .filter(|receipt| !receipt.is_null())
                    .cloned()
            },
        )
    }

    /// Asserts that node `i` has the transaction in a block and is no party of it.
    pub fn assert_no_party(&self, i: usize, hash: &str) {
        self.public_receipt(i, hash);
        let receipt = self.patiently(i, "eth_getPrivateTransactionReceipt", json!([hash]));
        assert!(receipt.is_null(), "node {i}: {receipt}");
        let transaction = self.patiently(i, "eth_getPrivateTransactionByHash", json!([hash]));
        assert!(transaction.is_null(), "node {i}: {transaction}");
        let payload = self.payload_hash(hash);
        let data = self.patiently(i, "eth_getQuorumPayload", json!([payload]));
        assert_eq!(data, "0x", "node {i}");
    }

    /// A read that may have to wait for private execution.
    pub fn patiently(&self, i: usize, method: &str, params: Value) -> Value {
        self.wait(
            &format!("node {i} answers {method} {params}"),
            || match outcome_value(self.c.try_rpc(i, method, params.clone()).ok()?) {
                Ok(result) => Some(result),
                Err(error) if is_retryable(&error) => None,
                Err(error) => panic!("{method} on node {i}: {error}"),
            },
        )
    }

    /// What a contract answers on node `i`, in hexadecimal; `0x` where there is none.
    pub fn ask(&self, i: usize, contract: &str, data: &[u8]) -> String {
        let call =
            json!({ "from": self.account(i), "to": contract, "data": hex::encode_prefixed(data) });
        let answer = self.patiently(i, "eth_call", json!([call, "latest"]));
        answer.as_str().unwrap().to_owned()
    }

    /// The first word of a contract's answer to an empty call; `None` where there is no contract.
    pub fn number(&self, i: usize, contract: &str) -> Option<u64> {
        first_word(&self.ask(i, contract, &[]))
    }

    /// Waits until all these nodes read this number.
    pub fn wait_number(&self, nodes: &[usize], contract: &str, expected: u64) {
        for i in nodes {
            self.wait(
                &format!("node {i} reads {expected} from {contract}"),
                || (self.number(*i, contract) == Some(expected)).then_some(()),
            );
        }
    }

    /// A storage slot on node `i`.
    pub fn slot(&self, i: usize, contract: &str, slot: u64) -> U256 {
        let value = self.patiently(
            i,
            "eth_getStorageAt",
            json!([contract, format!("{slot:#x}"), "latest"]),
        );
        value.as_str().unwrap().parse().unwrap()
    }

    pub fn code(&self, i: usize, contract: &str) -> String {
        let code = self.patiently(i, "eth_getCode", json!([contract, "latest"]));
        code.as_str().unwrap().to_owned()
    }

    pub fn storage_root(&self, i: usize, contract: &str) -> Value {
        self.patiently(i, "eth_storageRoot", json!([contract, "latest"]))
    }

    /// The payload hash that a public transaction carries, with 0x.
    pub fn payload_hash(&self, transaction: &str) -> String {
        let some = self.c.running()[0];
        let tx = self.wait(&format!("node {some} knows {transaction}"), || {
            let answer = self
                .c
                .try_rpc(some, "eth_getTransactionByHash", json!([transaction]))
                .ok()?;
            answer.get("result").filter(|tx| !tx.is_null()).cloned()
        });
        let input = tx["input"].as_str().unwrap();
        input[..2 + 128].to_owned()
    }

    /// Logs of a contract on node `i`, over the whole chain.
    pub fn logs(&self, i: usize, contract: &str) -> Vec<Value> {
        let filter = json!([{ "fromBlock": "0x0", "toBlock": "latest", "address": contract }]);
        let logs = self.patiently(i, "eth_getLogs", filter);
        logs.as_array().unwrap().clone()
    }

    /// The sum of all figures of this name on node `i`; 0 if there is none.
    pub fn metric(&self, i: usize, name: &str) -> f64 {
        let text = crate::consortium::http(&self.c.metrics_url(i), None).unwrap_or_default();
        let lines = text.lines().filter(|line| {
            line.strip_prefix(name)
                .is_some_and(|rest| rest.starts_with([' ', '{']))
        });
        lines
            .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
            .sum()
    }

    /// Asks until `condition` gives something.
    pub fn wait<T>(&self, what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
        let started = Instant::now();
        loop {
            if let Some(value) = condition() {
                return value;
            }
            assert!(started.elapsed() < PATIENCE, "waited in vain until {what}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}
