//! A private transaction before it is sent: what it would affect, and whether the rules of its flag allow it.

use std::collections::{BTreeMap, BTreeSet};

use alloy_primitives::{Address, B256, Bytes};
use quorate_enclave::{PayloadHash, PrivacyFlag, PublicKey};
use quorate_evm::{
    BlockContext, CallStatus, DualState, PrivateCall, PrivateOutcome, PrivateRefusal,
    affected_root, contract_digest, execute_private,
};
use quorate_state::{ApplyError, HistoryError, ReadError, Snapshot};

use crate::chain::context_of;
use crate::flags::{Claim, FlagViolation, check_contracts};
use crate::{
    ContractMetadata, PrivateLedger, PrivateReadError, PublicChain, TERMS_CONTRACTS_MAX, Waiting,
};

/// How often a simulation begins again because the head moved away under it.
const ATTEMPTS: u32 = 8;

/// What a transaction would do now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Simulation {
    /// The private contracts that it calls, with the payloads that created them: what [`Terms::affected`](crate::Terms::affected)
    /// must say. Empty for flag 0.
    pub affected: BTreeMap<Address, PayloadHash>,
    /// What [`Terms::exec_root`](crate::Terms::exec_root) must say: the root after it, under flag 3.
    pub exec_root: Option<B256>,
    /// What [`Terms::base`](crate::Terms::base) must say: the digests before it, under flag 3.
    pub base: BTreeMap<Address, B256>,
    /// What [`Terms::mandatory`](crate::Terms::mandatory) must say: what was asked for, and the mandatory parties of the contracts.
    pub mandatory: BTreeSet<PublicKey>,
    /// The contract that it creates.
    pub contract_address: Option<Address>,
    /// Gas that it uses.
    pub gas_used: u64,
    /// How it ends.
    pub status: CallStatus,
    /// What it says when it reverts; `None` if it does not.
    pub reverted: Option<Bytes>,
    /// The block after which this holds.
    pub height: u64,
}

/// A transaction that must not be sent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SimulationRefusal {
    /// It breaks a rule of its flag.
    #[error(transparent)]
    Flag(#[from] FlagViolation),
    /// Parties and flag do not go together.
    #[error("{field}: {reason}")]
    Parties {
        /// Which.
        field: &'static str,
        /// Why.
        reason: &'static str,
    },
    /// It affects more contracts than terms can name.
    #[error(
        "the transaction affects {got} private contracts, allowed are at most {TERMS_CONTRACTS_MAX}"
    )]
    TooManyContracts {
        /// How many.
        got: usize,
    },
    /// It could not be executed as a private transaction.
    #[error(transparent)]
    Execution(PrivateRefusal),
    /// Private state stands still, so nobody can say what the transaction would do. Worth trying again later.
    #[error(transparent)]
    Behind(PrivateReadError),
    /// Blocks or states moved too fast to look at them. Worth trying again at once.
    #[error("the state moved on while the transaction was simulated")]
    Busy,
    /// The storage failed.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// A block could not be read.
    #[error("block {height}: {reason}")]
    Block {
        /// Its height.
        height: u64,
        /// Why.
        reason: String,
    },
}

impl SimulationRefusal {
    /// True if the same transaction may be allowed later, without anybody changing it.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Behind(_) | Self::Busy => true,
            Self::Flag(_)
            | Self::Parties { .. }
            | Self::TooManyContracts { .. }
            | Self::Execution(_)
            | Self::Read(_)
            | Self::Block { .. } => false,
        }
    }
}

/// Executes `call` on the heads and keeps nothing of it. `parties` are all parties, the sender's key among them; `mandatory` those
/// that the sender names as such.
///
/// A transaction that reverts is a simulation, not a refusal: under flag 0 it may be sent all the same.
///
/// # Errors
/// [`SimulationRefusal`].
pub fn simulate(
    chain: &dyn PublicChain,
    ledger: &PrivateLedger,
    call: &PrivateCall,
    flag: PrivacyFlag,
    parties: &BTreeSet<PublicKey>,
    mandatory: &BTreeSet<PublicKey>,
) -> Result<Simulation, SimulationRefusal> {
    check_parties(flag, parties, mandatory)?;
    if flag != PrivacyFlag::Standard {
        check_in_step(ledger)?;
    }
    let request = Request {
        chain,
        ledger,
        call,
        flag,
        parties,
        mandatory,
    };
    for _ in 0..ATTEMPTS {
        if let Some(simulation) = request.attempt()? {
            return Ok(simulation);
        }
    }
    Err(SimulationRefusal::Busy)
}

fn check_parties(
    flag: PrivacyFlag,
    parties: &BTreeSet<PublicKey>,
    mandatory: &BTreeSet<PublicKey>,
) -> Result<(), SimulationRefusal> {
    let refused = |field, reason| Err(SimulationRefusal::Parties { field, reason });
    if flag == PrivacyFlag::MandatoryParties && mandatory.is_empty() {
        return refused("mandatory parties", "flag 2 needs at least one");
    }
    if flag != PrivacyFlag::MandatoryParties && !mandatory.is_empty() {
        return refused("mandatory parties", "they go with flag 2 only");
    }
    if !mandatory.is_subset(parties) {
        return refused("mandatory parties", "each must be among the recipients");
    }
    Ok(())
}

/// Flags beyond 0 rest on what this node knows of the contracts, so it must not be waiting for a payload.
fn check_in_step(ledger: &PrivateLedger) -> Result<(), SimulationRefusal> {
    let status = ledger.status();
    match status.waiting {
        None => Ok(()),
        Some(waiting) => Err(behind(status.cursor, waiting)),
    }
}

fn behind(cursor: u64, waiting: Waiting) -> SimulationRefusal {
    SimulationRefusal::Behind(PrivateReadError::Behind {
        wanted: waiting.height,
        cursor,
        waiting: Some(Box::new(waiting)),
    })
}

struct Request<'a> {
    chain: &'a dyn PublicChain,
    ledger: &'a PrivateLedger,
    call: &'a PrivateCall,
    flag: PrivacyFlag,
    parties: &'a BTreeSet<PublicKey>,
    mandatory: &'a BTreeSet<PublicKey>,
}

impl Request<'_> {
    /// `None` if the head moved on meanwhile.
    fn attempt(&self) -> Result<Option<Simulation>, SimulationRefusal> {
        let (height, private) = self.ledger.head();
        let public = match self.chain.state_at(height) {
            Ok(public) => public,
            Err(HistoryError::Read(error)) => return Err(error.into()),
            Err(HistoryError::Future { .. } | HistoryError::Pruned { .. }) => return Ok(None),
        };
        let context = self.next_block(height)?;
        let dual = DualState::new(&public, &private);
        if let Some(contract) = self.call.to
            && self.flag != PrivacyFlag::Standard
            && dual.code_of(&contract)?.is_empty()
        {
            return Err(FlagViolation::NoContract { contract }.into());
        }
        let hashes = self.chain.hashes();
        let outcome = execute_private(
            self.chain.spec(),
            context,
            &public,
            &private,
            &hashes,
            self.call,
        )
        .map_err(|refusal| match refusal {
            PrivateRefusal::State(error) => SimulationRefusal::Read(error),
            other => SimulationRefusal::Execution(other),
        })?;
        let called = self.called(&outcome)?;
        let affected = self.named(&called)?;
        let claim = Claim {
            flag: self.flag,
            parties: self.parties,
            affected: &affected,
        };
        check_contracts(&claim, &called)?;
        match self.validation(&outcome, &private, &called) {
            Ok((exec_root, base)) => Ok(Some(Simulation {
                affected,
                exec_root,
                base,
                mandatory: self.mandatory_of(&called),
                contract_address: outcome.receipt.contract_address,
                gas_used: outcome.receipt.gas_used,
                reverted: (outcome.receipt.status == CallStatus::Reverted)
                    .then(|| outcome.receipt.revert_data()),
                status: outcome.receipt.status,
                height,
            })),
            Err(ApplyError::Superseded { .. }) => Ok(None),
            Err(ApplyError::Read(error)) => Err(error.into()),
            Err(error @ ApplyError::InvalidDiff { .. }) => {
                Err(SimulationRefusal::Execution(PrivateRefusal::Internal {
                    reason: error.to_string(),
                }))
            }
        }
    }

    /// The block after the one at `height`, as far as it can be known.
    fn next_block(&self, height: u64) -> Result<BlockContext, SimulationRefusal> {
        let unreadable = |reason: String| SimulationRefusal::Block { height, reason };
        let block = self.chain.block(height);
        let block = block
            .map_err(|error| unreadable(error.to_string()))?
            .ok_or_else(|| unreadable("it is not there".to_owned()))?;
        Ok(BlockContext {
            height: height + 1,
            parent_hash: block.hash(),
            ..context_of(block.block.header())
        })
    }

    fn called(
        &self,
        outcome: &PrivateOutcome,
    ) -> Result<BTreeMap<Address, Option<ContractMetadata>>, SimulationRefusal> {
        let addresses = outcome.touched.called.keys();
        addresses
            .map(|address| match self.ledger.contract(address) {
                Ok(contract) => Ok((*address, contract)),
                Err(PrivateReadError::Read(error)) => Err(error.into()),
                Err(other) => Err(SimulationRefusal::Behind(other)),
            })
            .collect()
    }

    fn named(
        &self,
        called: &BTreeMap<Address, Option<ContractMetadata>>,
    ) -> Result<BTreeMap<Address, PayloadHash>, SimulationRefusal> {
        if self.flag == PrivacyFlag::Standard {
            return Ok(BTreeMap::new());
        }
        if called.len() > TERMS_CONTRACTS_MAX {
            return Err(SimulationRefusal::TooManyContracts { got: called.len() });
        }
        let known = called.iter();
        let known = known.filter_map(|(address, c)| Some((*address, c.as_ref()?.creation_hash)));
        Ok(known.collect())
    }

    fn mandatory_of(
        &self,
        called: &BTreeMap<Address, Option<ContractMetadata>>,
    ) -> BTreeSet<PublicKey> {
        if self.flag != PrivacyFlag::MandatoryParties {
            return BTreeSet::new();
        }
        let of_contracts = called.values().flatten().flat_map(|c| &c.mandatory);
        self.mandatory.iter().chain(of_contracts).copied().collect()
    }

    /// Root after the transaction and digests before it, if the flag asks for them.
    fn validation(
        &self,
        outcome: &PrivateOutcome,
        private: &Snapshot,
        called: &BTreeMap<Address, Option<ContractMetadata>>,
    ) -> Result<(Option<B256>, BTreeMap<Address, B256>), ApplyError> {
        if self.flag != PrivacyFlag::StateValidation {
            return Ok((None, BTreeMap::new()));
        }
        let after = private.apply(&outcome.diff)?;
        let root = affected_root(&after, &outcome.affected())?;
        let digests = called
            .keys()
            .map(|address| Ok((*address, contract_digest(private, address)?)));
        Ok((Some(root), digests.collect::<Result<_, ApplyError>>()?))
    }
}
