//! An envelope with its terms as they arrive, and what must hold before either is believed.

use bytes::Bytes;
use quorate_enclave::{Envelope, NodeKey, PayloadHash, PrivacyFlag};
use quorate_privacy::SignedTerms;

use crate::ExchangeIdentity;
use crate::signing::Signers;
use crate::wire::RefusalCode;

/// An envelope and terms that belong together and that the node which they name signed.
#[derive(Debug, Clone)]
pub(crate) struct Package {
    pub(crate) hash: PayloadHash,
    pub(crate) envelope: Envelope,
    pub(crate) terms: SignedTerms,
}

/// Why a package is not believed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NotBelieved {
    pub(crate) code: RefusalCode,
    pub(crate) text: String,
}

impl Package {
    /// Reads and checks a package: both parts decode, are of this network and of one payload, name the same sender and node, do
    /// not contradict each other, and are signed by that node.
    pub(crate) fn read(
        identity: &ExchangeIdentity,
        signers: &Signers,
        envelope: &Bytes,
        terms: &Bytes,
    ) -> Result<Self, NotBelieved> {
        let malformed = |text: String| NotBelieved {
            code: RefusalCode::Malformed,
            text,
        };
        let envelope = Envelope::decode(envelope).map_err(|e| malformed(e.to_string()))?;
        let terms = SignedTerms::decode(terms).map_err(|e| malformed(e.to_string()))?;
        let hash = envelope.payload_hash();
        let package = Self {
            hash,
            envelope,
            terms,
        };
        package.check(identity, signers)?;
        Ok(package)
    }

    /// The node that sent it, by its signatures.
    pub(crate) fn sender_node(&self) -> NodeKey {
        self.terms.terms.sender_node
    }

    fn check(&self, identity: &ExchangeIdentity, signers: &Signers) -> Result<(), NotBelieved> {
        let refuse = |text: String| NotBelieved {
            code: RefusalCode::NotAuthentic,
            text,
        };
        let wrong = |what: &str| Err(refuse(format!("{what} of envelope and terms differ")));
        let (envelope, terms) = (&self.envelope, &self.terms.terms);
        let context = envelope.context();
        if context.chain_id != identity.chain_id {
            return Err(refuse(format!(
                "the envelope is for chain {}, this is {}",
                context.chain_id, identity.chain_id
            )));
        }
        if envelope.suite() != identity.suite {
            return Err(refuse(format!(
                "the envelope is of suite {}, this network uses {}",
                envelope.suite().number(),
                identity.suite.number()
            )));
        }
        if terms.hash != self.hash {
            return wrong("the payload hashes");
        }
        if terms.sender != envelope.sender() {
            return wrong("the sender's keys");
        }
        if terms.sender_node != context.sender_node {
            return wrong("the sending nodes");
        }
        // A payload that was stored before it was sent says nothing about flag, group and parties; one that does must agree.
        let bare = context.flag == PrivacyFlag::Standard && context.privacy_group.is_none();
        if !bare && (context.flag != terms.flag || context.privacy_group != terms.group) {
            return wrong("the flags or groups");
        }
        if context.flag == PrivacyFlag::MandatoryParties
            && !envelope.mandatory().iter().eq(&terms.mandatory)
        {
            return wrong("the mandatory parties");
        }
        if context.flag == PrivacyFlag::StateValidation
            && !envelope
                .parties()
                .unwrap_or_default()
                .iter()
                .eq(&terms.parties)
        {
            return wrong("the parties");
        }
        // One that was stored before it was sent was signed then, without terms.
        if envelope.is_signed() {
            let signed = envelope.verify_signature();
            signed.map_err(|e| refuse(e.to_string()))?;
        }
        let envelope = envelope.signing_digest();
        let signer = |signature: &[u8; 65], digest| signers.of(signature, digest);
        let signed = self.terms.verify_by(identity.chain_id, &envelope, signer);
        signed.map_err(|e| refuse(e.to_string()))
    }
}
