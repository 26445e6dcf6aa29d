//! Sending, and being disturbed while sending.

use alloy_primitives::hex;
use serde_json::{Value, json};

use super::{ACCOUNTS, Disturbance, Form, GAS, Parties, REMOTE, is_retryable, outcome};

/// A call that distributes a payload.
#[derive(Debug, Clone)]
struct Submission {
    method: &'static str,
    params: Value,
    /// Which of the parameters says who takes part.
    private: usize,
}

impl Submission {
    fn of(request: &Value) -> Self {
        Self {
            method: "eth_sendTransaction",
            params: json!([request]),
            private: 0,
        }
    }
}

impl Parties {
    /// A private transaction of node `from` to these nodes, as `eth_sendTransaction` takes it.
    pub fn request(&self, from: usize, to: &[usize], contract: Option<&str>, data: &[u8]) -> Value {
        let mut request = json!({
            "from": self.account(from),
            "gas": GAS,
            "data": hex::encode_prefixed(data),
            "privateFor": self.keys(to),
        });
        if let Some(contract) = contract {
            request["to"] = contract.into();
        }
        request
    }

    /// Sends through node `from`; the error object if it is refused.
    pub fn try_send(&self, from: usize, request: &Value) -> Result<String, Value> {
        self.try_submit(from, &Submission::of(request))
    }

    fn try_submit(&self, from: usize, submission: &Submission) -> Result<String, Value> {
        let answer = self
            .c
            .try_rpc(from, submission.method, submission.params.clone());
        outcome(answer.unwrap_or_else(|e| panic!("node {from}: {e}")))
    }

    /// Sends through node `from` and must be let. If a disturbance is due, it happens now.
    pub fn send(&mut self, from: usize, request: &Value) -> String {
        self.submit(from, &Submission::of(request))
    }

    /// The same for a transaction that was signed by the client, or another call that distributes a payload.
    pub fn send_raw(
        &mut self,
        from: usize,
        method: &'static str,
        raw: &str,
        private: &Value,
    ) -> String {
        let params = json!([raw, private]);
        let submission = Submission {
            method,
            params,
            private: 1,
        };
        self.submit(from, &submission)
    }

    fn submit(&mut self, from: usize, submission: &Submission) -> String {
        let armed = std::mem::take(&mut self.armed);
        self.disturbed += usize::from(armed);
        let hash = match self.disturbance {
            Disturbance::LeaderKilled if armed => self.send_while_the_leader_dies(from, submission),
            Disturbance::EnclaveDown if armed => {
                self.send_while_an_enclave_is_down(from, submission)
            }
            Disturbance::Nothing | Disturbance::LeaderKilled | Disturbance::EnclaveDown => self
                .try_submit(from, submission)
                .unwrap_or_else(|error| panic!("{submission:?}: {error}")),
        };
        self.sent.push(hash.clone());
        hash
    }

    /// A transaction that must be refused. Nothing of it may come on the chain.
    pub fn refused(&self, from: usize, request: &Value) -> String {
        let error = match self.try_send(from, request) {
            Err(error) => error,
            Ok(hash) => panic!("{request} was not refused: {hash}"),
        };
        error["message"].as_str().unwrap().to_owned()
    }

    /// From here on the scenario is disturbed, if it is to be: at the next transaction that it sends.
    pub fn midway(&mut self) {
        self.armed = self.disturbance != Disturbance::Nothing;
    }

    fn send_while_the_leader_dies(&mut self, from: usize, submission: &Submission) -> String {
        // A pool is memory: what a dying node has accepted and told nobody yet is gone with it. That is another test's subject.
        for hash in self.sent.iter().filter(|hash| hash.len() == 2 + 64) {
            self.public_receipt(from, hash);
        }
        let leader = self.c.leader();
        let height = self.c.height(leader);
        self.c.kill(leader);
        self.c.start(leader);
        // What a node has not heard of yet, it cannot judge.
        self.wait("the sending node has all blocks", || {
            let answer = self.c.try_rpc(from, "eth_blockNumber", json!([])).ok()?;
            let reached = crate::consortium::quantity(answer.get("result")?);
            (reached >= height).then_some(())
        });
        // An error says that nothing came on the chain: then trying again is safe.
        let hash = self.wait("the transaction is taken", || {
            let params = submission.params.clone();
            let answer = self.c.try_rpc(from, submission.method, params).ok()?;
            match outcome(answer) {
                Ok(hash) => Some(hash),
                Err(error) if is_retryable(&error) => None,
                Err(error) => panic!("{submission:?}: {error}"),
            }
        });
        self.wait_ready();
        hash
    }

    fn send_while_an_enclave_is_down(&mut self, from: usize, submission: &Submission) -> String {
        self.stop_enclave();
        // What is public goes on, through this node too.
        let public = self.c.transfer(REMOTE, ACCOUNTS[REMOTE], ACCOUNTS[0]);
        for i in 0..4 {
            assert_eq!(self.public_receipt(i, &public)["status"], "0x1");
        }
        let private = &submission.params[submission.private];
        let named = private["privateFor"].to_string();
        let is_recipient = named.contains(&self.keys[REMOTE])
            || self
                .groups
                .iter()
                .any(|group| named.contains(&format!("{group:?}")));
        // Without tags, and where all validate the state, all recipients must have it before it is on the chain.
        let may_lag = self.form == Form::Marker
            && submission.private == 0
            && private.get("acknowledgements").is_none()
            && private["privacyFlag"] != 3;
        if from == REMOTE || (is_recipient && !may_lag) {
            let error = self
                .try_submit(from, submission)
                .expect_err("a key is missing");
            assert!(is_retryable(&error), "{error}");
            let said = error["message"].as_str().unwrap();
            let named = match from == REMOTE {
                true => "enclave",
                false => "member 2",
            };
            assert!(said.contains(named), "{said}");
            self.start_enclave();
            return self.wait("the transaction is taken", || {
                match self.try_submit(from, submission) {
                    Ok(hash) => Some(hash),
                    Err(error) if is_retryable(&error) => None,
                    Err(error) => panic!("{submission:?}: {error}"),
                }
            });
        }
        let mut submission = submission.clone();
        if is_recipient {
            submission.params[0]["acknowledgements"] = json!({ "k": 0 });
        }
        let hash = self
            .try_submit(from, &submission)
            .unwrap_or_else(|error| panic!("{submission:?}: {error}"));
        if is_recipient {
            // It is a party and does not know it: that must not look like "not a party".
            self.wait("the block is everywhere", || {
                let answer = self
                    .c
                    .try_rpc(REMOTE, "eth_getTransactionByHash", json!([hash]))
                    .ok()?;
                (!answer["result"]["blockNumber"].is_null()).then_some(())
            });
            let answer =
                self.c
                    .rpc_error(REMOTE, "eth_getPrivateTransactionReceipt", json!([hash]));
            let said = answer["message"].as_str().unwrap();
            assert!(
                said.contains("private state at block") && said.contains("waiting for payload 0x")
                    || said.contains("enclave"),
                "{said}"
            );
        }
        self.start_enclave();
        hash
    }
}
