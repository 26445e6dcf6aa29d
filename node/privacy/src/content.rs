//! What is encrypted. RLP, format 1:
//!
//! ```text
//! [1, 0, data]                          data of a transaction in Quorum's form
//! [1, 1, [] or [to], data, gas limit]   the whole inner call of a marker transaction
//! [1, 2, signed transaction]            an inner transaction in Quorum's form (EIP-2718 bytes)
//! [1, 3, contract, newcomer, newcomer's account, [party …]]   a contract is offered to a new party; parties rise
//! [1, 4, offer, 1 or 0]                 the newcomer accepts, or declines
//! [1, 5, offer]                         an offer is taken back
//! ```
//! Exactly one byte string encodes a content.

use std::collections::BTreeSet;

use alloy_primitives::{Address, B256, Bytes};
use alloy_rlp::{Decodable as _, Encodable, Header};
use quorate_enclave::PublicKey;
use quorate_enclave::envelope::PAYLOAD_BYTES_MAX;

use crate::TERMS_PARTIES_MAX;

const VERSION: u8 = 1;
const KIND_DATA: u8 = 0;
const KIND_CALL: u8 = 1;
const KIND_SIGNED: u8 = 2;
const KIND_OFFER: u8 = 3;
const KIND_VOTE: u8 = 4;
const KIND_CANCEL: u8 = 5;

/// Largest encoded content in bytes: what one envelope takes.
pub const CONTENT_BYTES_MAX: usize = PAYLOAD_BYTES_MAX;

/// A payload in the clear.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// Call data or init code of a transaction in Quorum's form, whose recipient is public.
    Data(Bytes),
    /// All of a marker transaction's inner call. It is executed for the sender and with the nonce of the transaction that carries
    /// its hash.
    Call {
        /// Recipient; `None` creates a contract.
        to: Option<Address>,
        /// Call data or init code.
        data: Bytes,
        /// Gas limit of the private execution.
        gas_limit: u64,
    },
    /// A signed transaction in Quorum's form whose data is the hash of a second payload. It is executed only if its signer and
    /// nonce are those of the transaction that carries this content's hash.
    Signed(Bytes),
    /// A step of extending a contract to a new party.
    Extension(ExtensionStep),
}

/// A step of extending a contract to a new party. See [`Extension`](crate::Extension).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExtensionStep {
    /// A party offers the contract.
    Offer {
        /// Which contract.
        contract: Address,
        /// The key that is to become a party.
        newcomer: PublicKey,
        /// The account whose vote counts.
        newcomer_account: Address,
        /// Parties who will vouch for the contract's state, the offering one among them, the newcomer not. 1 to 256.
        parties: BTreeSet<PublicKey>,
    },
    /// The newcomer answers.
    Vote {
        /// Address of the offer.
        offer: Address,
        /// True to accept.
        accept: bool,
    },
    /// Who made the offer takes it back.
    Cancel {
        /// Address of the offer.
        offer: Address,
    },
}

/// Bytes that are no content.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ContentError {
    /// Too long.
    #[error("payload content has {got} bytes, allowed are at most {CONTENT_BYTES_MAX}")]
    TooLarge {
        /// How many bytes.
        got: usize,
    },
    /// Not the RLP that the format asks for.
    #[error("payload content does not decode at {field}: {reason}")]
    Malformed {
        /// The field at which it fails.
        field: &'static str,
        /// What the decoder says.
        reason: alloy_rlp::Error,
    },
    /// Written by another version, or a kind that this one does not know.
    #[error("{field} of the payload content is {got}, allowed is {allowed}")]
    Unknown {
        /// Which number.
        field: &'static str,
        /// What it is.
        got: u8,
        /// What it may be.
        allowed: &'static str,
    },
    /// More elements than the kind has.
    #[error("payload content has {bytes} superfluous bytes after {field}")]
    Trailing {
        /// The field before them.
        field: &'static str,
        /// How many.
        bytes: usize,
    },
}

impl Content {
    /// The bytes to encrypt.
    pub fn encode(&self) -> Vec<u8> {
        let mut body = Vec::with_capacity(self.data().map_or(0, |data| data.len()) + 64);
        VERSION.encode(&mut body);
        match self {
            Self::Data(data) => {
                KIND_DATA.encode(&mut body);
                data.encode(&mut body);
            }
            Self::Call {
                to,
                data,
                gas_limit,
            } => {
                KIND_CALL.encode(&mut body);
                to.iter()
                    .copied()
                    .collect::<Vec<Address>>()
                    .encode(&mut body);
                data.encode(&mut body);
                gas_limit.encode(&mut body);
            }
            Self::Signed(transaction) => {
                KIND_SIGNED.encode(&mut body);
                transaction.encode(&mut body);
            }
            Self::Extension(step) => step.encode(&mut body),
        }
        let mut out = Vec::with_capacity(body.len() + 9);
        Header {
            list: true,
            payload_length: body.len(),
        }
        .encode(&mut out);
        out.extend_from_slice(&body);
        out
    }

    /// Reads what [`encode`](Self::encode) wrote.
    ///
    /// # Errors
    /// [`ContentError`] names the field.
    pub fn decode(bytes: &[u8]) -> Result<Self, ContentError> {
        if bytes.len() > CONTENT_BYTES_MAX {
            return Err(ContentError::TooLarge { got: bytes.len() });
        }
        let mut rest = bytes;
        let mut body = Header::decode_bytes(&mut rest, true).map_err(at("list"))?;
        nothing_after("list", rest)?;
        match u8::decode(&mut body).map_err(at("version"))? {
            VERSION => {}
            got => {
                return Err(ContentError::Unknown {
                    field: "version",
                    got,
                    allowed: "1",
                });
            }
        }
        let content = match u8::decode(&mut body).map_err(at("kind"))? {
            KIND_DATA => Self::Data(Bytes::decode(&mut body).map_err(at("data"))?),
            KIND_CALL => {
                let mut to = Header::decode_bytes(&mut body, true).map_err(at("to"))?;
                let recipient = match to {
                    [] => None,
                    _ => Some(Address::decode(&mut to).map_err(at("to"))?),
                };
                nothing_after("to", to)?;
                Self::Call {
                    to: recipient,
                    data: Bytes::decode(&mut body).map_err(at("data"))?,
                    gas_limit: u64::decode(&mut body).map_err(at("gas limit"))?,
                }
            }
            KIND_SIGNED => Self::Signed(Bytes::decode(&mut body).map_err(at("transaction"))?),
            KIND_OFFER => Self::Extension(ExtensionStep::decode_offer(&mut body)?),
            KIND_VOTE => Self::Extension(ExtensionStep::Vote {
                offer: Address::decode(&mut body).map_err(at("offer"))?,
                accept: bool::decode(&mut body).map_err(at("vote"))?,
            }),
            KIND_CANCEL => Self::Extension(ExtensionStep::Cancel {
                offer: Address::decode(&mut body).map_err(at("offer"))?,
            }),
            got => {
                return Err(ContentError::Unknown {
                    field: "kind",
                    got,
                    allowed: "0 to 5",
                });
            }
        };
        nothing_after("content", body)?;
        Ok(content)
    }

    /// The data, or the signed transaction: the part that has no fixed length. `None` for a step of an extension.
    pub fn data(&self) -> Option<&Bytes> {
        match self {
            Self::Data(data) | Self::Call { data, .. } | Self::Signed(data) => Some(data),
            Self::Extension(_) => None,
        }
    }

    /// What clients are shown as the input: the data, or the encoding of a step of an extension.
    pub fn into_input(self) -> Bytes {
        match self {
            Self::Data(data) | Self::Call { data, .. } | Self::Signed(data) => data,
            Self::Extension(_) => self.encode().into(),
        }
    }
}

impl ExtensionStep {
    fn encode(&self, body: &mut Vec<u8>) {
        match self {
            Self::Offer {
                contract,
                newcomer,
                newcomer_account,
                parties,
            } => {
                KIND_OFFER.encode(body);
                contract.encode(body);
                B256::from(*newcomer.as_bytes()).encode(body);
                newcomer_account.encode(body);
                let parties = parties.iter().map(|key| B256::from(*key.as_bytes()));
                parties.collect::<Vec<_>>().encode(body);
            }
            Self::Vote { offer, accept } => {
                KIND_VOTE.encode(body);
                offer.encode(body);
                accept.encode(body);
            }
            Self::Cancel { offer } => {
                KIND_CANCEL.encode(body);
                offer.encode(body);
            }
        }
    }

    fn decode_offer(body: &mut &[u8]) -> Result<Self, ContentError> {
        let contract = Address::decode(body).map_err(at("contract"))?;
        let newcomer = decode_key(body, "newcomer")?;
        let newcomer_account = Address::decode(body).map_err(at("newcomer's account"))?;
        let mut list = Header::decode_bytes(body, true).map_err(at("parties"))?;
        let mut parties = BTreeSet::new();
        while !list.is_empty() {
            let key = decode_key(&mut list, "party")?;
            if parties.last().is_some_and(|last| *last >= key) || key == newcomer {
                let reason = alloy_rlp::Error::Custom("they must rise, without the newcomer");
                return Err(at("parties")(reason));
            }
            parties.insert(key);
        }
        if parties.is_empty() || parties.len() > TERMS_PARTIES_MAX {
            let reason = alloy_rlp::Error::Custom("1 to 256 are allowed");
            return Err(at("parties")(reason));
        }
        Ok(Self::Offer {
            contract,
            newcomer,
            newcomer_account,
            parties,
        })
    }
}

fn decode_key(bytes: &mut &[u8], field: &'static str) -> Result<PublicKey, ContentError> {
    let word = B256::decode(bytes).map_err(at(field))?;
    Ok(PublicKey::from_bytes(word.0))
}

fn at(field: &'static str) -> impl Fn(alloy_rlp::Error) -> ContentError {
    move |reason| ContentError::Malformed { field, reason }
}

fn nothing_after(field: &'static str, rest: &[u8]) -> Result<(), ContentError> {
    if rest.is_empty() {
        return Ok(());
    }
    Err(ContentError::Trailing {
        field,
        bytes: rest.len(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn contents() -> impl Strategy<Value = Content> {
        let bytes = || proptest::collection::vec(any::<u8>(), 0..200).prop_map(Bytes::from);
        let to = proptest::option::of(any::<[u8; 20]>().prop_map(Address::from));
        prop_oneof![
            bytes().prop_map(Content::Data),
            (to, bytes(), any::<u64>()).prop_map(|(to, data, gas_limit)| Content::Call {
                to,
                data,
                gas_limit
            }),
            bytes().prop_map(Content::Signed),
            steps().prop_map(Content::Extension),
        ]
    }

    fn steps() -> impl Strategy<Value = ExtensionStep> {
        let address = || any::<[u8; 20]>().prop_map(Address::from);
        let keys = proptest::collection::btree_set(1u8.., 1..20);
        let offer = (address(), address(), keys).prop_map(|(contract, account, keys)| {
            let keys = keys
                .into_iter()
                .map(|number| PublicKey::from_bytes([number; 32]));
            ExtensionStep::Offer {
                contract,
                newcomer: PublicKey::from_bytes([0; 32]),
                newcomer_account: account,
                parties: keys.collect(),
            }
        });
        prop_oneof![
            offer,
            (address(), any::<bool>())
                .prop_map(|(offer, accept)| ExtensionStep::Vote { offer, accept }),
            address().prop_map(|offer| ExtensionStep::Cancel { offer }),
        ]
    }

    proptest! {
        #[test]
        fn what_was_encoded_decodes_to_the_same(content in contents()) {
            prop_assert_eq!(Content::decode(&content.encode()), Ok(content));
        }

        #[test]
        fn a_changed_content_is_refused_or_encodes_to_what_was_read(
            content in contents(),
            at in any::<proptest::sample::Index>(),
            byte in any::<u8>(),
        ) {
            let mut bytes = content.encode();
            let at = at.index(bytes.len());
            bytes[at] = byte;
            if let Ok(read) = Content::decode(&bytes) {
                prop_assert_eq!(read.encode(), bytes);
            }
        }

        #[test]
        fn bytes_of_any_kind_do_no_harm(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            if let Ok(read) = Content::decode(&bytes) {
                prop_assert_eq!(read.encode(), bytes);
            }
        }
    }

    #[test]
    fn the_encodings_are_these() {
        let check = |content: Content, hex: &str| {
            assert_eq!(alloy_primitives::hex::encode(content.encode()), hex);
        };
        check(
            Content::Data(Bytes::from_static(&[0x12, 0x34])),
            "c50180821234",
        );
        let to = Some(Address::repeat_byte(0xaa));
        let data = Bytes::from_static(&[0x05]);
        check(
            Content::Call {
                to,
                data: data.clone(),
                gas_limit: 1024,
            },
            "dc0101d594aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa05820400",
        );
        let creation = Content::Call {
            to: None,
            data,
            gas_limit: 0,
        };
        check(creation, "c50101c00580");
        check(Content::Signed(Bytes::from_static(&[0x99])), "c401028199");
        let offer = Address::repeat_byte(0xaa);
        check(
            Content::Extension(ExtensionStep::Vote {
                offer,
                accept: true,
            }),
            "d8010494aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa01",
        );
        check(
            Content::Extension(ExtensionStep::Cancel { offer }),
            "d7010594aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
        );
    }

    #[test]
    fn what_follows_a_content_or_is_of_another_kind_is_named() {
        let mut long = Content::Data(Bytes::from_static(&[1])).encode();
        long.push(0);
        assert!(matches!(
            Content::decode(&long),
            Err(ContentError::Trailing {
                field: "list",
                bytes: 1
            })
        ));
        assert!(matches!(
            Content::decode(&[0xc3, 0x01, 0x06, 0x80]),
            Err(ContentError::Unknown {
                field: "kind",
                got: 6,
                ..
            })
        ));
        assert!(matches!(
            Content::decode(&[0xc3, 0x02, 0x80, 0x80]),
            Err(ContentError::Unknown {
                field: "version",
                got: 2,
                ..
            })
        ));
        assert!(matches!(
            Content::decode(&vec![0; CONTENT_BYTES_MAX + 1]),
            Err(ContentError::TooLarge { .. })
        ));
    }
}
