//! What a party's enclave and payload store know, as a test says.

use std::collections::{BTreeMap, BTreeSet};

use futures::future::BoxFuture;
use parking_lot::Mutex;
use quorate_chain::PrivateReference;
use quorate_enclave::{PayloadHash, PublicKey};
use quorate_privacy::{
    ContractState, Executed, HandoverAnswer, HandoverOutcome, HandoverWanted, Lookup, Payloads,
    PrivateLedger,
};

/// What one party's enclave and payload store know.
#[derive(Debug, Default)]
pub struct FakePayloads {
    known: Mutex<BTreeMap<PayloadHash, Lookup>>,
    pub nudged: Mutex<BTreeSet<PayloadHash>>,
    pub reports: Mutex<Vec<Executed>>,
    /// Whose word counts when a contract is handed over.
    pub vouching: Mutex<Vec<(PublicKey, PrivateLedger)>>,
    /// What is answered in place of what they say.
    pub told: Mutex<Option<HandoverAnswer>>,
}

impl FakePayloads {
    pub fn set(&self, hash: PayloadHash, lookup: Lookup) {
        self.known.lock().insert(hash, lookup);
    }
    pub fn get(&self, hash: &PayloadHash) -> Option<Lookup> {
        self.known.lock().get(hash).cloned()
    }
}

impl Payloads for FakePayloads {
    fn lookup(&self, references: Vec<PrivateReference>) -> BoxFuture<'_, Vec<Lookup>> {
        Box::pin(async move {
            // As a real one, it does not answer at once.
            tokio::task::yield_now().await;
            let answer = |reference: &PrivateReference| {
                let hash = PayloadHash::from_bytes(reference.hash);
                self.get(&hash).unwrap_or(Lookup::NotAParty)
            };
            references.iter().map(answer).collect()
        })
    }
    fn executed(&self, report: Executed) {
        self.reports.lock().push(report);
    }
    fn waiting(&self, hash: &PayloadHash) {
        self.nudged.lock().insert(*hash);
    }
    fn handover(&self, wanted: HandoverWanted) -> BoxFuture<'_, HandoverAnswer> {
        Box::pin(async move {
            tokio::task::yield_now().await;
            if let Some(told) = self.told.lock().clone() {
                return told;
            }
            self.gathered(&wanted)
        })
    }
}

impl FakePayloads {
    /// As the exchange does it, without signatures.
    fn gathered(&self, wanted: &HandoverWanted) -> HandoverAnswer {
        let vouching = self.vouching.lock();
        let missing = |reason: &str| HandoverAnswer::Missing {
            reason: reason.to_owned(),
        };
        let mut agreed = None;
        for (key, ledger) in vouching
            .iter()
            .filter(|(key, _)| wanted.parties.contains(key))
        {
            let Some(head) = ledger.handover(&wanted.transaction).unwrap() else {
                return missing(&format!("{key} has not executed it"));
            };
            assert_eq!((head.offer, head.newcomer), (wanted.offer, wanted.newcomer));
            match head.outcome {
                HandoverOutcome::Refused { reason } => return HandoverAnswer::Refused { reason },
                HandoverOutcome::State { digest, .. } => {
                    assert!(agreed.is_none_or(|(other, _)| other == digest));
                    agreed = Some((digest, ledger));
                }
            }
        }
        let Some((digest, ledger)) = agreed else {
            return missing("nobody vouches");
        };
        let page = ledger.handover_page(&wanted.transaction, 0).unwrap();
        HandoverAnswer::Proved {
            state: Box::new(ContractState::decode(&page).unwrap()),
            digest,
        }
    }
}
