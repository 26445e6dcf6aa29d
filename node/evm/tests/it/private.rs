//! Private transactions: what they may see and change, and what parties agree on.

mod agreement;
mod answers;
mod codes;
mod effects;

use std::collections::BTreeSet;

use alloy_primitives::{Address, Bytes, U256, address};
use quorate_chain::Fork;
use quorate_evm::{
    CallOutcome, CallRequest, CallSettings, CallStatus, PrivateCall, PrivateEstimateError,
    PrivateOutcome, PrivateRefusal, call_private, estimate_private_gas, execute_private,
};

use crate::world::*;

const CAP: u64 = 50_000_000;
/// A private contract that the fixture puts there without a transaction.
const PRIVATE: Address = address!("00000000000000000000000000000000c0de00aa");
const OTHER_PRIVATE: Address = address!("00000000000000000000000000000000c0de00bb");

/// One party: the public state that all have, and its private one.
#[derive(Debug, Clone)]
struct Party {
    fork: Fork,
    public: World,
    private: World,
}

impl Party {
    fn new() -> Self {
        Self {
            fork: Fork::Prague,
            public: World::new(),
            private: World::default(),
        }
    }

    fn under(mut self, fork: Fork) -> Self {
        self.fork = fork;
        self
    }

    fn with_public(mut self, address: Address, code: &[u8]) -> Self {
        self.public = self.public.with_code(address, code);
        self
    }

    fn with_private(mut self, address: Address, code: &[u8]) -> Self {
        self.private = self.private.with_code(address, code);
        self
    }

    fn execute(&self, call: &PrivateCall) -> Result<PrivateOutcome, PrivateRefusal> {
        let spec = spec(self.fork);
        execute_private(&spec, context(), &self.public, &self.private, &HASHES, call)
    }

    /// What Alice sends, executed after its public side; its changes stay.
    fn send(&mut self, to: Option<Address>, data: &[u8]) -> PrivateOutcome {
        let sender = self.public.accounts.get_mut(&alice()).unwrap();
        let call = PrivateCall {
            nonce: sender.nonce,
            ..by_alice_privately(to, data)
        };
        sender.nonce += 1;
        let public = self.public.clone();
        let outcome = self.execute(&call).unwrap();
        assert_eq!(self.public, public);
        assert_private(&outcome, &self.private);
        self.private = self.private.after(&outcome.diff);
        outcome
    }

    fn deploy(&mut self, runtime: &[u8]) -> Address {
        let outcome = self.send(None, &deploying(runtime));
        assert!(outcome.receipt.is_success());
        outcome.receipt.contract_address.unwrap()
    }

    fn ask(&self, request: &CallRequest) -> Result<CallOutcome, PrivateRefusal> {
        self.ask_with(request, &CallSettings::capped(CAP))
    }

    fn ask_with(
        &self,
        request: &CallRequest,
        settings: &CallSettings,
    ) -> Result<CallOutcome, PrivateRefusal> {
        let (public, private) = (&self.public, &self.private);
        let spec = spec(self.fork);
        call_private(
            &spec,
            &context(),
            public,
            private,
            &HASHES,
            request,
            settings,
        )
    }

    fn estimate(&self, request: &CallRequest) -> Result<u64, PrivateEstimateError> {
        let (public, private) = (&self.public, &self.private);
        let settings = CallSettings::capped(CAP);
        let spec = spec(self.fork);
        estimate_private_gas(
            &spec,
            &context(),
            public,
            private,
            &HASHES,
            request,
            &settings,
        )
    }
}

/// Everything in the difference is private, and nothing private holds value.
fn assert_private(outcome: &PrivateOutcome, before: &World) {
    for (address, change) in &outcome.diff.accounts {
        assert!(
            outcome.touched.created.contains(address) || before.accounts.contains_key(address),
            "{address} is not private"
        );
        assert!(
            change
                .account
                .is_none_or(|account| account.balance.is_zero())
        );
    }
}

fn by_alice_privately(to: Option<Address>, data: &[u8]) -> PrivateCall {
    PrivateCall {
        sender: alice(),
        to,
        data: Bytes::copy_from_slice(data),
        gas_limit: GAS,
        ..PrivateCall::default()
    }
}

fn request(to: Address, input: &[u8]) -> CallRequest {
    CallRequest {
        from: Some(alice()),
        to: Some(to),
        input: Bytes::copy_from_slice(input),
        ..CallRequest::default()
    }
}

fn word(value: u64) -> [u8; 32] {
    U256::from(value).to_be_bytes()
}

/// Words of an output.
fn numbers(output: &[u8]) -> Vec<U256> {
    output.chunks(32).map(U256::from_be_slice).collect()
}

/// What a forwarding contract says: whether its call succeeded, and the first word that came back.
fn forwarded(outcome: &PrivateOutcome) -> (bool, u64) {
    assert!(outcome.receipt.is_success(), "{:?}", outcome.receipt);
    let words = numbers(&outcome.receipt.output);
    (words[0] == U256::ONE, words[1].to())
}

fn halted(reason: &str) -> CallStatus {
    CallStatus::Halted {
        reason: reason.into(),
    }
}

fn set<const N: usize>(addresses: [Address; N]) -> BTreeSet<Address> {
    addresses.into()
}
