//! What several tests need.

use crate::{
    Context, KeyAnnouncement, KeyRing, LocalEnclave, NodeKey, PrivacyFlag, PublicKey, SealRequest,
    Sealed, Suite,
};
use secp256k1::{Message, SECP256K1, SecretKey};

pub(crate) fn enclave() -> LocalEnclave {
    LocalEnclave::new(KeyRing::generate(1).unwrap())
}

pub(crate) fn announcement(enclave: &LocalEnclave) -> KeyAnnouncement {
    enclave.public_keys_now().remove(0)
}

pub(crate) fn name(enclave: &LocalEnclave) -> PublicKey {
    announcement(enclave).key
}

pub(crate) fn node_secret() -> SecretKey {
    SecretKey::from_byte_array([0x42; 32]).unwrap()
}

pub(crate) fn context(flag: PrivacyFlag) -> Context {
    Context {
        chain_id: 10,
        sender_node: NodeKey::from(node_secret().public_key(SECP256K1).serialize()),
        privacy_group: None,
        flag,
    }
}

pub(crate) fn request(suite: Suite, to: &[&LocalEnclave], payload: &[u8]) -> SealRequest {
    SealRequest {
        payload: payload.to_vec().into(),
        sender: None,
        recipients: to.iter().map(|enclave| announcement(enclave)).collect(),
        mandatory: Vec::new(),
        context: context(PrivacyFlag::Standard),
        suite,
    }
}

/// As a node does it.
pub(crate) fn signature(secret: &SecretKey, digest: [u8; 32]) -> [u8; 65] {
    let signature = SECP256K1.sign_ecdsa_recoverable(Message::from_digest(digest), secret);
    let (id, compact) = signature.serialize_compact();
    let mut bytes = [0; 65];
    bytes[..64].copy_from_slice(&compact);
    bytes[64] = u8::try_from(i32::from(id)).unwrap();
    bytes
}

pub(crate) fn sealed(suite: Suite, to: &[&LocalEnclave], payload: &[u8]) -> Sealed {
    let mut sealed = enclave().seal_now(&request(suite, to, payload)).unwrap();
    sealed
        .sign(|digest| Ok::<_, ()>(signature(&node_secret(), digest.0)))
        .unwrap();
    sealed
}
