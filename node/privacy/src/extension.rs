//! A new party joins a private contract.
//!
//! ```text
//! offer (a party) ──► vote (the newcomer's account) ──► at this transaction T
//!                │                                       parties: keep the contract's state as of T, to be handed over
//!                └──► cancel (who offered)               newcomer: waits for it; takes it when all named parties vouch for it
//! ```
//! Every step is a private transaction to the parties that the offer names and to the newcomer. All of them judge it alike.

use std::collections::{BTreeMap, BTreeSet};

use alloy_primitives::{Address, B256, B512, Bytes, KECCAK256_EMPTY, Keccak256, U256, keccak256};
use alloy_rlp::{RlpDecodable, RlpEncodable};
use alloy_trie::{EMPTY_ROOT_HASH, HashBuilder, Nibbles};
use quorate_enclave::{NodeKey, PayloadHash, PrivacyFlag, PublicKey};
use quorate_evm::{RootedState, contract_digest};
use quorate_state::{Account, ApplyError, ReadError, StateRead};

use crate::ContractMetadata;
use crate::terms::signer;

/// Most slots that a contract may have to be handed over.
pub const HANDOVER_SLOTS_MAX: usize = 1 << 20;
/// Most bytes of an encoded [`ContractState`].
pub const HANDOVER_BYTES_MAX: usize = HANDOVER_SLOTS_MAX * 68 + (1 << 20);

const VERSION: u8 = 1;
/// Begins what [`ContractState::digest`] hashes. Another format gets another name.
const DIGEST_DOMAIN: &[u8] = b"quorate contract handover 1";
/// Begins what a party signs about a vote.
const STATEMENT_DOMAIN: &[u8] = b"quorate extension statement 1";

/// Where an extension stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExtensionState {
    /// The newcomer has not voted.
    Active,
    /// The newcomer has accepted and the contract was handed over.
    Done,
    /// The newcomer has declined.
    Declined,
    /// Who offered it took it back.
    Cancelled,
    /// The newcomer has accepted, and a party did not agree. On the newcomer's node only.
    Refused,
}

/// The offer of a private contract to a new party, and what became of it here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Extension {
    /// Its address: that of a contract which the offering transaction would have created.
    pub id: Address,
    /// The contract.
    pub contract: Address,
    /// The key that is to become a party.
    pub newcomer: PublicKey,
    /// The account whose vote counts.
    pub newcomer_account: Address,
    /// The account that offered it.
    pub initiator: Address,
    /// The key that offered it.
    pub initiator_key: PublicKey,
    /// The parties that vouch for the state, without the newcomer.
    pub parties: BTreeSet<PublicKey>,
    /// The public transaction that carried the offer.
    pub transaction: B256,
    /// The payload of the offer.
    pub payload: PayloadHash,
    /// Height of its block.
    pub offered_at: u64,
    /// Where it stands.
    pub state: ExtensionState,
    /// Height of the block that ended it.
    pub ended_at: Option<u64>,
}

/// A private contract as of one transaction: all that a new party needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContractState {
    /// Its address.
    pub contract: Address,
    /// Nonce of its account.
    pub nonce: u64,
    /// Its code.
    pub code: Bytes,
    /// Its slots that are not zero.
    pub storage: BTreeMap<U256, U256>,
    /// The public transaction that created it.
    pub creation_transaction: B256,
    /// The payload that created it.
    pub creation_hash: PayloadHash,
    /// Its privacy flag.
    pub flag: PrivacyFlag,
    /// All its parties, the newcomer among them; with [`PrivacyFlag::StateValidation`] only.
    pub parties: Option<BTreeSet<PublicKey>>,
    /// Who must take part in each of its transactions.
    pub mandatory: BTreeSet<PublicKey>,
    /// The key of its creator.
    pub creator: PublicKey,
}

/// What a node can say about an accepting vote that it executed, without the state itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HandoverHead {
    /// Address of the offer.
    pub offer: Address,
    /// Whom it may tell.
    pub newcomer: PublicKey,
    /// What came of the vote.
    pub outcome: HandoverOutcome,
}

/// What came of an accepting vote on one node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HandoverOutcome {
    /// The contract is handed over.
    State {
        /// [`ContractState::digest`].
        digest: B256,
        /// Bytes of the encoded [`ContractState`].
        bytes: u32,
    },
    /// It is not.
    Refused {
        /// Why, for people.
        reason: String,
    },
}

impl HandoverHead {
    /// What a party's node signs to vouch for this:
    ///
    /// ```text
    /// keccak256( "quorate extension statement 1" | chain id, u64 big-endian | vote's transaction (32) | offer (20)
    ///            | newcomer (32) | 1 | digest of the state (32) | bytes of the state, u32 big-endian )
    /// the same for a refusal, from behind the newcomer: 0 | reason, UTF-8
    /// ```
    pub fn signing_digest(&self, chain_id: u64, transaction: &B256) -> B256 {
        let mut hasher = Keccak256::new();
        hasher.update(STATEMENT_DOMAIN);
        hasher.update(chain_id.to_be_bytes());
        hasher.update(transaction);
        hasher.update(self.offer);
        hasher.update(self.newcomer.as_bytes());
        match &self.outcome {
            HandoverOutcome::State { digest, bytes } => {
                hasher.update([1]);
                hasher.update(digest);
                hasher.update(bytes.to_be_bytes());
            }
            HandoverOutcome::Refused { reason } => {
                hasher.update([0]);
                hasher.update(reason.as_bytes());
            }
        }
        hasher.finalize()
    }

    /// True if this node signed it: r (32 bytes), s (32, in the lower half), recovery id (1).
    pub fn is_signed_by(
        &self,
        node: &NodeKey,
        signature: &[u8; 65],
        chain_id: u64,
        transaction: &B256,
    ) -> bool {
        signer(signature, self.signing_digest(chain_id, transaction)) == Some(*node)
    }
}

/// A state that the newcomer's executor needs before it can go on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HandoverWanted {
    /// The public transaction that carried the vote.
    pub transaction: B256,
    /// Height of its block.
    pub height: u64,
    /// The payload of the vote.
    pub payload: PayloadHash,
    /// Address of the offer.
    pub offer: Address,
    /// The contract.
    pub contract: Address,
    /// Our key.
    pub newcomer: PublicKey,
    /// The key that offered it, which is asked first.
    pub initiator_key: PublicKey,
    /// All whose word is needed.
    pub parties: BTreeSet<PublicKey>,
}

/// What the other parties say about a state that is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HandoverAnswer {
    /// The state, and the digest that all of [`HandoverWanted::parties`] have signed.
    Proved {
        /// What one of them handed over.
        state: Box<ContractState>,
        /// What all of them signed.
        digest: B256,
    },
    /// One of them has signed that it does not hand over the contract.
    Refused {
        /// Why.
        reason: String,
    },
    /// Not yet: someone has not answered, or answers contradict each other.
    Missing {
        /// Why, for people.
        reason: String,
    },
}

/// Bytes that are no contract state.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HandoverError {
    /// Too long.
    #[error("a contract's state has {got} bytes, allowed are at most {HANDOVER_BYTES_MAX}")]
    TooLarge {
        /// How many bytes.
        got: usize,
    },
    /// Not what the format asks for.
    #[error("{field} of a contract's state is malformed: {reason}")]
    Malformed {
        /// Which field.
        field: &'static str,
        /// What is wrong with it.
        reason: String,
    },
}

#[derive(RlpEncodable, RlpDecodable)]
struct StateWire {
    version: u8,
    contract: Address,
    nonce: u64,
    code: Bytes,
    storage: Vec<SlotWire>,
    about: AboutWire,
}

#[derive(RlpEncodable, RlpDecodable)]
struct SlotWire {
    slot: U256,
    value: U256,
}

/// What is digested beside the account.
#[derive(RlpEncodable, RlpDecodable)]
struct AboutWire {
    creation_transaction: B256,
    creation_hash: B512,
    flag: u8,
    parties_known: bool,
    parties: Vec<B256>,
    mandatory: Vec<B256>,
    creator: B256,
}

fn words(keys: &BTreeSet<PublicKey>) -> Vec<B256> {
    keys.iter().map(|k| B256::from(*k.as_bytes())).collect()
}

fn keys(field: &'static str, words: Vec<B256>) -> Result<BTreeSet<PublicKey>, HandoverError> {
    if !words.is_sorted_by(|a, b| a < b) {
        return Err(malformed(field, "keys must rise"));
    }
    let keys = words.into_iter().map(|word| PublicKey::from_bytes(word.0));
    Ok(keys.collect())
}

fn malformed(field: &'static str, reason: impl ToString) -> HandoverError {
    HandoverError::Malformed {
        field,
        reason: reason.to_string(),
    }
}

impl ContractState {
    /// Puts together what a party has, `newcomer` already among the parties if those are known.
    pub(crate) fn of(
        metadata: &ContractMetadata,
        account: &Account,
        code: Bytes,
        storage: BTreeMap<U256, U256>,
    ) -> Self {
        Self {
            contract: metadata.address,
            nonce: account.nonce,
            code,
            storage,
            creation_transaction: metadata.creation_transaction,
            creation_hash: metadata.creation_hash,
            flag: metadata.flag,
            parties: metadata.parties.clone(),
            mandatory: metadata.mandatory.clone(),
            creator: metadata.creator,
        }
    }

    /// What holds for the contract here, where it came at `height` and `as_recipient` is our key.
    pub(crate) fn metadata(&self, as_recipient: PublicKey, height: u64) -> ContractMetadata {
        ContractMetadata {
            address: self.contract,
            creation_transaction: self.creation_transaction,
            creation_hash: self.creation_hash,
            flag: self.flag,
            parties: self.parties.clone(),
            mandatory: self.mandatory.clone(),
            creator: self.creator,
            as_recipient,
            created_at: height,
        }
    }

    /// Its account. Private accounts have no balance.
    pub fn account(&self) -> Account {
        let code_hash = if self.code.is_empty() {
            KECCAK256_EMPTY
        } else {
            keccak256(&self.code)
        };
        Account {
            nonce: self.nonce,
            balance: U256::ZERO,
            code_hash,
        }
    }

    /// What parties sign: keccak256 of a name for the format, the contract's [`contract_digest`], and the RLP of creation, flag,
    /// parties, mandatory parties and creator. Two parties have the same digest if, and only if, they have the same state.
    ///
    /// # Errors
    /// None that is of the storage: everything is here.
    pub fn digest(&self) -> Result<B256, ApplyError> {
        let mut hasher = Keccak256::new();
        hasher.update(DIGEST_DOMAIN);
        hasher.update(contract_digest(self, &self.contract)?);
        hasher.update(alloy_rlp::encode(self.about()));
        Ok(hasher.finalize())
    }

    fn about(&self) -> AboutWire {
        AboutWire {
            creation_transaction: self.creation_transaction,
            creation_hash: B512::from(*self.creation_hash.as_bytes()),
            flag: self.flag.number(),
            parties_known: self.parties.is_some(),
            parties: self.parties.as_ref().map(words).unwrap_or_default(),
            mandatory: words(&self.mandatory),
            creator: B256::from(*self.creator.as_bytes()),
        }
    }

    /// The bytes that are kept and handed over.
    pub fn encode(&self) -> Vec<u8> {
        let slots = self.storage.iter().map(|(slot, value)| SlotWire {
            slot: *slot,
            value: *value,
        });
        alloy_rlp::encode(StateWire {
            version: VERSION,
            contract: self.contract,
            nonce: self.nonce,
            code: self.code.clone(),
            storage: slots.collect(),
            about: self.about(),
        })
    }

    /// Reads what [`encode`](Self::encode) wrote.
    ///
    /// # Errors
    /// [`HandoverError`] names the field.
    pub fn decode(bytes: &[u8]) -> Result<Self, HandoverError> {
        if bytes.len() > HANDOVER_BYTES_MAX {
            return Err(HandoverError::TooLarge { got: bytes.len() });
        }
        let wire: StateWire =
            alloy_rlp::decode_exact(bytes).map_err(|error| malformed("encoding", error))?;
        if wire.version != VERSION {
            return Err(malformed("version", format!("{}, not 1", wire.version)));
        }
        if wire.storage.len() > HANDOVER_SLOTS_MAX
            || !wire.storage.is_sorted_by(|a, b| a.slot < b.slot)
            || wire.storage.iter().any(|slot| slot.value.is_zero())
        {
            return Err(malformed(
                "storage",
                "slots must rise, with values other than zero",
            ));
        }
        let about = wire.about;
        if !about.parties_known && !about.parties.is_empty() {
            return Err(malformed("parties", "there are some, and none are known"));
        }
        let parties = keys("parties", about.parties)?;
        Ok(Self {
            contract: wire.contract,
            nonce: wire.nonce,
            code: wire.code,
            storage: wire
                .storage
                .into_iter()
                .map(|entry| (entry.slot, entry.value))
                .collect(),
            creation_transaction: about.creation_transaction,
            creation_hash: PayloadHash::from_bytes(about.creation_hash.0),
            flag: PrivacyFlag::from_number(about.flag)
                .ok_or_else(|| malformed("privacy flag", about.flag))?,
            parties: about.parties_known.then_some(parties),
            mandatory: keys("mandatory parties", about.mandatory)?,
            creator: PublicKey::from_bytes(about.creator.0),
        })
    }
}

/// A state of one account.
impl StateRead for ContractState {
    fn account(&self, address: &Address) -> Result<Option<Account>, ReadError> {
        Ok((*address == self.contract).then(|| Self::account(self)))
    }

    fn storage(&self, address: &Address, slot: &U256) -> Result<U256, ReadError> {
        let value = self.storage.get(slot).filter(|_| *address == self.contract);
        Ok(value.copied().unwrap_or_default())
    }

    fn code(&self, code_hash: &B256) -> Result<Bytes, ReadError> {
        let ours = Self::account(self).code_hash == *code_hash;
        Ok(if ours {
            self.code.clone()
        } else {
            Bytes::new()
        })
    }
}

impl RootedState for ContractState {
    fn storage_root(&self, address: &Address) -> Result<B256, ApplyError> {
        if *address != self.contract || self.storage.is_empty() {
            return Ok(EMPTY_ROOT_HASH);
        }
        let hashed = self
            .storage
            .iter()
            .map(|(slot, value)| (keccak256(slot.to_be_bytes::<32>()), value));
        let sorted: BTreeMap<B256, &U256> = hashed.collect();
        let mut trie = HashBuilder::default();
        for (key, value) in sorted {
            trie.add_leaf(Nibbles::unpack(key), &alloy_rlp::encode(value));
        }
        Ok(trie.root())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn key(number: u8) -> PublicKey {
        PublicKey::from_bytes([number; 32])
    }

    fn states() -> impl Strategy<Value = ContractState> {
        let slots = proptest::collection::btree_map(any::<u64>(), 1u64.., 0..40);
        (slots, any::<u64>(), any::<bool>(), any::<u8>()).prop_map(
            |(slots, nonce, known, number)| ContractState {
                contract: Address::repeat_byte(number),
                nonce,
                code: Bytes::from(vec![number; usize::from(number)]),
                storage: slots
                    .into_iter()
                    .map(|(slot, value)| (U256::from(slot), U256::from(value)))
                    .collect(),
                creation_transaction: B256::repeat_byte(number),
                creation_hash: PayloadHash::from_bytes([number; 64]),
                flag: PrivacyFlag::StateValidation,
                parties: known.then(|| BTreeSet::from([key(1), key(number)])),
                mandatory: BTreeSet::from([key(number)]),
                creator: key(1),
            },
        )
    }

    proptest! {
        #[test]
        fn a_state_decodes_to_what_it_was(state in states()) {
            prop_assert_eq!(ContractState::decode(&state.encode()), Ok(state));
        }

        #[test]
        fn a_changed_state_is_refused_or_has_another_digest(
            state in states(),
            at in any::<proptest::sample::Index>(),
            byte in any::<u8>(),
        ) {
            let mut bytes = state.encode();
            let at = at.index(bytes.len());
            prop_assume!(bytes[at] != byte);
            bytes[at] = byte;
            if let Ok(read) = ContractState::decode(&bytes) {
                prop_assert_eq!(read.encode(), bytes);
                prop_assert_ne!(read.digest(), state.digest());
            }
        }
    }
}
