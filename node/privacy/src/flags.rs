//! The rules of privacy flags. Pure: the same question has the same answer on every party.
//!
//! | flag | a transaction with it |
//! |---|---|
//! | 0 | may call contracts of flag 0 |
//! | 1 | may call contracts of flag 1 whose creation its sender was a party of |
//! | 2 | the same for flag 2, and their mandatory parties take part |
//! | 3 | the same for flag 3, with exactly the parties of each, and all of them find the same state afterwards |
//!
//! Every private contract counts that was called, changed or not: what was read may have decided what was written. Public contracts
//! do not count.

use std::collections::{BTreeMap, BTreeSet};

use alloy_primitives::{Address, B256};
use quorate_enclave::{PayloadHash, PrivacyFlag, PublicKey};

use crate::{ContractMetadata, Terms};

/// What a transaction says about itself.
#[derive(Debug, Clone, Copy)]
pub struct Claim<'a> {
    /// Its flag.
    pub flag: PrivacyFlag,
    /// The keys that are known to take part: all parties if they are known, else the mandatory ones and the sender.
    pub parties: &'a BTreeSet<PublicKey>,
    /// The contracts that it says it calls, with the payloads that created them.
    pub affected: &'a BTreeMap<Address, PayloadHash>,
}

/// A rule that a transaction breaks. The beginnings of the first five texts are those that clients of Quorum know.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FlagViolation {
    /// There is nothing to call.
    #[error("contract not found. cannot transact: {contract}")]
    NoContract {
        /// The recipient.
        contract: Address,
    },
    /// A contract has another flag.
    #[error(
        "sent privacy flag doesn't match all affected contract flags: {contract} has flag {}, the transaction {}",
        contract_flag.number(),
        flag.number()
    )]
    OtherFlag {
        /// The contract.
        contract: Address,
        /// Its flag.
        contract_flag: PrivacyFlag,
        /// The transaction's flag.
        flag: PrivacyFlag,
    },
    /// A contract has no flag to match: it was created without one.
    #[error("PrivacyMetadata not found: contract {contract} was created without a privacy flag")]
    NoFlag {
        /// The contract.
        contract: Address,
    },
    /// Under flag 3 a contract has other parties.
    #[error("Recipients mismatched for Affected Txn: contract {contract} has other parties")]
    OtherParties {
        /// The contract.
        contract: Address,
    },
    /// A mandatory party of a contract does not take part.
    #[error("Recipients mismatched for Affected Txn: contract {contract} needs party {party}")]
    MandatoryMissing {
        /// The contract.
        contract: Address,
        /// Who is missing.
        party: PublicKey,
    },
    /// The transaction does not name a contract that it calls, or names another creation: its sender is no party of it.
    #[error("the sender did not prove to be a party of contract {contract}")]
    NotProven {
        /// The contract.
        contract: Address,
    },
    /// Parties did not find the same state.
    #[error("private state validation failed: the sender found {expected}, this node {found}")]
    OtherRoot {
        /// Root that the sender found.
        expected: B256,
        /// Root that was found here.
        found: B256,
    },
}

/// Judges a transaction by the private contracts that existed before it and that it called, each with what is known of its creation.
///
/// # Errors
/// The first rule that it breaks, contracts by rising address.
pub fn check_contracts(
    claim: &Claim<'_>,
    called: &BTreeMap<Address, Option<ContractMetadata>>,
) -> Result<(), FlagViolation> {
    let flag = claim.flag;
    for (address, metadata) in called {
        let contract = *address;
        let contract_flag = metadata
            .as_ref()
            .map_or(PrivacyFlag::Standard, |metadata| metadata.flag);
        if contract_flag != flag {
            return Err(match contract_flag {
                PrivacyFlag::Standard => FlagViolation::NoFlag { contract },
                PrivacyFlag::PartyProtection
                | PrivacyFlag::MandatoryParties
                | PrivacyFlag::StateValidation => FlagViolation::OtherFlag {
                    contract,
                    contract_flag,
                    flag,
                },
            });
        }
        if flag == PrivacyFlag::Standard {
            continue;
        }
        let Some(metadata) = metadata else {
            return Err(FlagViolation::NoFlag { contract });
        };
        if claim.affected.get(address) != Some(&metadata.creation_hash) {
            return Err(FlagViolation::NotProven { contract });
        }
        if let Some(party) = metadata.mandatory.difference(claim.parties).next() {
            let party = *party;
            return Err(FlagViolation::MandatoryMissing { contract, party });
        }
        if flag == PrivacyFlag::StateValidation && metadata.parties.as_ref() != Some(claim.parties)
        {
            return Err(FlagViolation::OtherParties { contract });
        }
    }
    Ok(())
}

/// Judges an executed transaction by its terms; `root` is the root over the affected contracts after it, which counts under flag 3.
///
/// # Errors
/// The first rule that it breaks.
pub fn judge(
    terms: &Terms,
    called: &BTreeMap<Address, Option<ContractMetadata>>,
    root: Option<B256>,
) -> Result<(), FlagViolation> {
    let known = match terms.flag {
        PrivacyFlag::StateValidation => terms.parties.clone(),
        PrivacyFlag::Standard | PrivacyFlag::PartyProtection | PrivacyFlag::MandatoryParties => {
            let mut parties = terms.mandatory.clone();
            parties.insert(terms.sender);
            parties
        }
    };
    let claim = Claim {
        flag: terms.flag,
        parties: &known,
        affected: &terms.affected,
    };
    check_contracts(&claim, called)?;
    match (terms.exec_root, root) {
        (said, found) if said == found => Ok(()),
        // Terms without a root where one counts promise nothing that could hold.
        (said, found) => Err(FlagViolation::OtherRoot {
            expected: said.unwrap_or_default(),
            found: found.unwrap_or_default(),
        }),
    }
}

#[cfg(test)]
mod tests;
