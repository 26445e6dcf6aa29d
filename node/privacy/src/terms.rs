//! What the sending node says about a payload, and signs. RLP, format 1; sets and maps rise, options are lists of none or one:
//!
//! ```text
//! [1, hash, flag, [group], sender key, [from], [party …], [mandatory party …],
//!  [[contract, creation hash] …], [execution root], [[contract, digest] …], sender node,
//!  [kind, k, [node …]]]
//! signed = [terms as above, signature (65)], or [terms as above, signature (65), [path's digest …]] if others were signed with them
//! digest = keccak256( "quorate private terms 1" | chain id, u64 big-endian | signing digest of the envelope (32) | the encoding )
//! ```
//! With that one signature the sending node stands for the envelope as well: whoever has both can prove who sent what. What is signed
//! is the digest, or what its [path](together) leads to.
//! Exactly one byte string encodes terms.

mod together;

use std::collections::{BTreeMap, BTreeSet};

use alloy_primitives::{Address, B256, B512, FixedBytes, Keccak256};
use alloy_rlp::{Decodable, RlpDecodable, RlpEncodable};
use quorate_enclave::{GroupId, NodeKey, PayloadHash, PrivacyFlag, PublicKey};
use secp256k1::ecdsa::{RecoverableSignature, RecoveryId};
use secp256k1::{Message, SECP256K1};

use together::{PATH_MAX, follow};
pub use together::{TERMS_TOGETHER_MAX, together};

const VERSION: u8 = 1;
const DIGEST_DOMAIN: &[u8] = b"quorate private terms 1";

/// Most parties, and most mandatory ones.
pub const TERMS_PARTIES_MAX: usize = 256;
/// Most contracts that terms name.
pub const TERMS_CONTRACTS_MAX: usize = 64;
/// Most bytes of encoded terms, with signature.
pub const TERMS_BYTES_MAX: usize = 3 * TERMS_PARTIES_MAX * 34 + TERMS_CONTRACTS_MAX * 144 + 1024;

/// What goes beside the envelope of a payload. Where an envelope's context says something else, terms are right: a payload that was
/// stored raw is sealed before its flag and parties are known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Terms {
    /// Hash of the payload.
    pub hash: PayloadHash,
    /// How strictly its parties are held together.
    pub flag: PrivacyFlag,
    /// The group that it was sent to, if a group was named.
    pub group: Option<GroupId>,
    /// The sender's key.
    pub sender: PublicKey,
    /// The only account whose public transaction may carry the payload; `None`: any. Without it, whoever sees the hash can have
    /// the payload executed again in a transaction of his own.
    pub from: Option<Address>,
    /// All parties, the sender's key among them. With [`PrivacyFlag::StateValidation`] and only then.
    pub parties: BTreeSet<PublicKey>,
    /// Who must take part. With [`PrivacyFlag::MandatoryParties`] and only then.
    pub mandatory: BTreeSet<PublicKey>,
    /// The private contracts that the transaction affects, with the payload by which each was created: who knows that was a
    /// party of its creation. Contracts that the transaction creates are not listed. An offer of an
    /// [`Extension`](crate::Extension) names the contract that is offered.
    pub affected: BTreeMap<Address, PayloadHash>,
    /// Root over the affected contracts after the transaction, as its sender found it. With [`PrivacyFlag::StateValidation`] and
    /// only then.
    pub exec_root: Option<B256>,
    /// Digest of each affected contract before the transaction, as its sender found it. With [`PrivacyFlag::StateValidation`] only.
    pub base: BTreeMap<Address, B256>,
    /// The node that sends the payload, and signs.
    pub sender_node: NodeKey,
    /// What the sender waited for before it sent the public transaction.
    pub acknowledgements: Acknowledgements,
}

/// Which recipients must have stored a payload before its transaction is sent.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Acknowledgements {
    /// All of them.
    #[default]
    All,
    /// Those of mandatory parties.
    Mandatory,
    /// Any so many of them.
    KOfN(u16),
    /// These nodes.
    Nodes(BTreeSet<NodeKey>),
}

/// Terms with the sending node's signature.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedTerms {
    /// What was signed.
    pub terms: Terms,
    /// r (32 bytes), s (32, in the lower half), recovery id (1).
    pub signature: [u8; 65],
    /// From the digest of the terms to what was signed; empty if they were signed alone.
    pub path: Vec<B256>,
}

/// Terms that are refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TermsError {
    /// Too long.
    #[error("terms have {got} bytes, allowed are at most {TERMS_BYTES_MAX}")]
    TooLarge {
        /// How many bytes.
        got: usize,
    },
    /// Not the RLP that the format asks for.
    #[error("terms do not decode: {reason}")]
    Malformed {
        /// What the decoder says.
        reason: alloy_rlp::Error,
    },
    /// A number is out of its range, or there are too many of something.
    #[error("{field} of the terms is {got}, allowed is {allowed}")]
    OutOfRange {
        /// Which.
        field: &'static str,
        /// What it is.
        got: u64,
        /// What it may be.
        allowed: &'static str,
    },
    /// It could be written in another way: something does not rise, occurs twice, or bytes follow.
    #[error("terms are not in their canonical form")]
    NotCanonical,
    /// Parts do not go together.
    #[error("{field} of the terms: {reason}")]
    Inconsistent {
        /// Which.
        field: &'static str,
        /// Why.
        reason: &'static str,
    },
    /// The signature is none.
    #[error("the signature of the terms is malformed")]
    Signature,
    /// Someone else signed, or the terms were changed.
    #[error("the terms name {expected} as their sending node, but {found} signed them")]
    OtherSigner {
        /// The node that the terms name.
        expected: NodeKey,
        /// The key that fits the signature.
        found: NodeKey,
    },
}

#[derive(RlpEncodable, RlpDecodable)]
struct TermsWire {
    version: u8,
    hash: B512,
    flag: u8,
    group: Vec<B256>,
    sender: B256,
    from: Vec<Address>,
    parties: Vec<B256>,
    mandatory: Vec<B256>,
    affected: Vec<AffectedWire>,
    exec_root: Vec<B256>,
    base: Vec<BaseWire>,
    sender_node: FixedBytes<33>,
    acknowledgements: AcknowledgementsWire,
}

#[derive(RlpEncodable, RlpDecodable)]
struct AffectedWire {
    contract: Address,
    creation: B512,
}

#[derive(RlpEncodable, RlpDecodable)]
struct BaseWire {
    contract: Address,
    digest: B256,
}

#[derive(RlpEncodable, RlpDecodable)]
struct AcknowledgementsWire {
    kind: u8,
    k: u16,
    nodes: Vec<FixedBytes<33>>,
}

#[derive(RlpEncodable, RlpDecodable)]
#[rlp(trailing)]
struct SignedWire {
    terms: TermsWire,
    signature: FixedBytes<65>,
    path: Option<Vec<B256>>,
}

impl Terms {
    /// The bytes that are signed.
    pub fn encode(&self) -> Vec<u8> {
        alloy_rlp::encode(TermsWire::from(self))
    }

    /// Reads what [`encode`](Self::encode) wrote.
    ///
    /// # Errors
    /// [`TermsError`], but for the signature's variants.
    pub fn decode(bytes: &[u8]) -> Result<Self, TermsError> {
        let terms = Self::try_from(decoded::<TermsWire>(bytes)?)?;
        if terms.encode() != bytes {
            return Err(TermsError::NotCanonical);
        }
        Ok(terms)
    }

    /// Checks limits, and that flag, parties, mandatory parties and roots go together.
    ///
    /// # Errors
    /// [`TermsError::OutOfRange`] or [`TermsError::Inconsistent`].
    pub fn check(&self) -> Result<(), TermsError> {
        let limited = |field, got: usize, max: usize, allowed| {
            if got > max {
                let got = u64::try_from(got).unwrap_or(u64::MAX);
                return Err(TermsError::OutOfRange {
                    field,
                    got,
                    allowed,
                });
            }
            Ok(())
        };
        let parties = "at most 256";
        limited(
            "number of parties",
            self.parties.len(),
            TERMS_PARTIES_MAX,
            parties,
        )?;
        limited(
            "number of mandatory parties",
            self.mandatory.len(),
            TERMS_PARTIES_MAX,
            parties,
        )?;
        let contracts = "at most 64";
        limited(
            "number of affected contracts",
            self.affected.len(),
            TERMS_CONTRACTS_MAX,
            contracts,
        )?;
        limited(
            "number of base digests",
            self.base.len(),
            TERMS_CONTRACTS_MAX,
            contracts,
        )?;
        if let Acknowledgements::Nodes(nodes) = &self.acknowledgements {
            limited(
                "number of acknowledging nodes",
                nodes.len(),
                TERMS_PARTIES_MAX,
                parties,
            )?;
        }
        let wrong = |field, reason| Err(TermsError::Inconsistent { field, reason });
        let validated = self.flag == PrivacyFlag::StateValidation;
        if validated == self.parties.is_empty() {
            return wrong("parties", "they are named with flag 3, and only then");
        }
        if validated && !self.parties.contains(&self.sender) {
            return wrong("parties", "the sender is not among them");
        }
        if validated != self.exec_root.is_some() {
            return wrong("execution root", "there is one with flag 3, and only then");
        }
        if (self.flag == PrivacyFlag::MandatoryParties) == self.mandatory.is_empty() {
            return wrong(
                "mandatory parties",
                "they are named with flag 2, and only then",
            );
        }
        if !validated && !self.base.is_empty() {
            return wrong("base digests", "they are given with flag 3 only");
        }
        if self
            .base
            .keys()
            .any(|contract| !self.affected.contains_key(contract))
        {
            return wrong("base digests", "one is of a contract that is not affected");
        }
        Ok(())
    }

    /// What the sending node signs about the envelope with this [signing digest](quorate_enclave::Envelope::signing_digest).
    pub fn signing_digest(&self, chain_id: u64, envelope: &B256) -> B256 {
        let mut hasher = Keccak256::new();
        hasher.update(DIGEST_DOMAIN);
        hasher.update(chain_id.to_be_bytes());
        hasher.update(envelope);
        hasher.update(self.encode());
        hasher.finalize()
    }

    /// Has the sending node sign these alone: `sign` gets the digest and returns r, s and recovery id.
    ///
    /// # Errors
    /// What `sign` returned.
    pub fn sign<E>(
        self,
        chain_id: u64,
        envelope: &B256,
        sign: impl FnOnce(B256) -> Result<[u8; 65], E>,
    ) -> Result<SignedTerms, E> {
        let signature = sign(self.signing_digest(chain_id, envelope))?;
        Ok(SignedTerms {
            terms: self,
            signature,
            path: Vec::new(),
        })
    }
}

impl SignedTerms {
    /// The bytes that travel and are kept.
    pub fn encode(&self) -> Vec<u8> {
        alloy_rlp::encode(SignedWire {
            terms: TermsWire::from(&self.terms),
            signature: FixedBytes(self.signature),
            path: Some(self.path.clone()).filter(|path| !path.is_empty()),
        })
    }

    /// Reads what [`encode`](Self::encode) wrote, and checks the terms. The signature is not looked at.
    ///
    /// # Errors
    /// As [`Terms::decode`].
    pub fn decode(bytes: &[u8]) -> Result<Self, TermsError> {
        let wire = decoded::<SignedWire>(bytes)?;
        let signed = Self {
            signature: wire.signature.0,
            path: wire.path.unwrap_or_default(),
            terms: Terms::try_from(wire.terms)?,
        };
        if signed.path.len() > PATH_MAX {
            return Err(TermsError::OutOfRange {
                field: "length of the path",
                got: u64::try_from(signed.path.len()).unwrap_or(u64::MAX),
                allowed: "at most 4",
            });
        }
        if signed.encode() != bytes {
            return Err(TermsError::NotCanonical);
        }
        Ok(signed)
    }

    /// Checks that the node which the terms name signed them and the envelope with this signing digest, on this chain.
    ///
    /// # Errors
    /// [`TermsError::Signature`] or [`TermsError::OtherSigner`].
    pub fn verify(&self, chain_id: u64, envelope: &B256) -> Result<(), TermsError> {
        self.verify_by(chain_id, envelope, signer)
    }

    /// As [`verify`](Self::verify), for who remembers whose signatures he has seen: `signer` says as [`signer`] does whose signature
    /// over a digest it is.
    ///
    /// # Errors
    /// As there.
    pub fn verify_by(
        &self,
        chain_id: u64,
        envelope: &B256,
        signer: impl FnOnce(&[u8; 65], B256) -> Option<NodeKey>,
    ) -> Result<(), TermsError> {
        let digest = follow(self.terms.signing_digest(chain_id, envelope), &self.path);
        let found = signer(&self.signature, digest).ok_or(TermsError::Signature)?;
        let expected = self.terms.sender_node;
        if found != expected {
            return Err(TermsError::OtherSigner { expected, found });
        }
        Ok(())
    }
}

/// Whose signature over `digest` this is; `None` if it is none, or one with the upper of two possible s.
pub fn signer(signature: &[u8; 65], digest: B256) -> Option<NodeKey> {
    let [compact @ .., id] = signature;
    let id = RecoveryId::try_from(i32::from(*id)).ok()?;
    let signature = RecoverableSignature::from_compact(compact, id).ok()?;
    let standard = signature.to_standard();
    let mut normal = standard;
    normal.normalize_s();
    if normal != standard {
        return None;
    }
    let message = Message::from_digest(digest.0);
    let key = SECP256K1.recover_ecdsa(message, &signature).ok()?;
    Some(NodeKey::from(key.serialize()))
}

fn decoded<T: Decodable>(bytes: &[u8]) -> Result<T, TermsError> {
    if bytes.len() > TERMS_BYTES_MAX {
        return Err(TermsError::TooLarge { got: bytes.len() });
    }
    let mut rest = bytes;
    let value = T::decode(&mut rest).map_err(|reason| TermsError::Malformed { reason })?;
    if rest.is_empty() {
        Ok(value)
    } else {
        Err(TermsError::NotCanonical)
    }
}

impl From<&Terms> for TermsWire {
    fn from(terms: &Terms) -> Self {
        let keys =
            |keys: &BTreeSet<PublicKey>| keys.iter().map(|k| B256::from(*k.as_bytes())).collect();
        Self {
            version: VERSION,
            hash: B512::from(*terms.hash.as_bytes()),
            flag: terms.flag.number(),
            group: terms
                .group
                .iter()
                .map(|id| B256::from(*id.as_bytes()))
                .collect(),
            sender: B256::from(*terms.sender.as_bytes()),
            from: terms.from.into_iter().collect(),
            parties: keys(&terms.parties),
            mandatory: keys(&terms.mandatory),
            affected: terms
                .affected
                .iter()
                .map(|(contract, creation)| AffectedWire {
                    contract: *contract,
                    creation: B512::from(*creation.as_bytes()),
                })
                .collect(),
            exec_root: terms.exec_root.into_iter().collect(),
            base: terms
                .base
                .iter()
                .map(|(contract, digest)| BaseWire {
                    contract: *contract,
                    digest: *digest,
                })
                .collect(),
            sender_node: terms.sender_node,
            acknowledgements: AcknowledgementsWire::from(&terms.acknowledgements),
        }
    }
}

impl From<&Acknowledgements> for AcknowledgementsWire {
    fn from(acknowledgements: &Acknowledgements) -> Self {
        let (kind, k, nodes) = match acknowledgements {
            Acknowledgements::All => (0, 0, Vec::new()),
            Acknowledgements::Mandatory => (1, 0, Vec::new()),
            Acknowledgements::KOfN(k) => (2, *k, Vec::new()),
            Acknowledgements::Nodes(nodes) => (3, 0, nodes.iter().copied().collect()),
        };
        Self { kind, k, nodes }
    }
}

/// The one value of an optional field.
fn optional<T: Copy>(field: &'static str, values: &[T]) -> Result<Option<T>, TermsError> {
    match values {
        [] => Ok(None),
        [one] => Ok(Some(*one)),
        more => Err(TermsError::OutOfRange {
            field,
            got: u64::try_from(more.len()).unwrap_or(u64::MAX),
            allowed: "none or one",
        }),
    }
}

impl TryFrom<TermsWire> for Terms {
    type Error = TermsError;

    fn try_from(wire: TermsWire) -> Result<Self, TermsError> {
        if wire.version != VERSION {
            return Err(TermsError::OutOfRange {
                field: "version",
                got: wire.version.into(),
                allowed: "1",
            });
        }
        let flag = PrivacyFlag::from_number(wire.flag).ok_or(TermsError::OutOfRange {
            field: "privacy flag",
            got: wire.flag.into(),
            allowed: "0 to 3",
        })?;
        // An order that does not rise, or something twice, is found by encoding again.
        let keys = |keys: Vec<B256>| {
            keys.into_iter()
                .map(|k| PublicKey::from_bytes(k.0))
                .collect()
        };
        let AcknowledgementsWire { kind, k, nodes } = wire.acknowledgements;
        let acknowledgements = match kind {
            0 => Acknowledgements::All,
            1 => Acknowledgements::Mandatory,
            2 => Acknowledgements::KOfN(k),
            3 => Acknowledgements::Nodes(nodes.into_iter().collect()),
            got => {
                return Err(TermsError::OutOfRange {
                    field: "kind of acknowledgements",
                    got: got.into(),
                    allowed: "0 to 3",
                });
            }
        };
        let terms = Self {
            hash: PayloadHash::from_bytes(wire.hash.0),
            flag,
            group: optional("group", &wire.group)?.map(|id| GroupId::from_bytes(id.0)),
            sender: PublicKey::from_bytes(wire.sender.0),
            from: optional("from", &wire.from)?,
            parties: keys(wire.parties),
            mandatory: keys(wire.mandatory),
            affected: wire
                .affected
                .into_iter()
                .map(|entry| (entry.contract, PayloadHash::from_bytes(entry.creation.0)))
                .collect(),
            exec_root: optional("execution root", &wire.exec_root)?,
            base: wire
                .base
                .into_iter()
                .map(|entry| (entry.contract, entry.digest))
                .collect(),
            sender_node: wire.sender_node,
            acknowledgements,
        };
        terms.check()?;
        Ok(terms)
    }
}

#[cfg(test)]
mod tests;
