use super::*;
use crate::fixtures::{context, enclave, name, request, sealed};
use crate::random::random_secret;
use crate::{EnclaveError, LocalEnclave, Opening, PrivacyFlag, Suite};

/// SHA3-256 of that key.
const PUBLISHED_KEY: &str = "5121745904643ad9dfacca7869292c19a8a69533b53e60666b7db910b4ad6367";

#[test]
fn an_x_wing_key_is_the_published_one_for_its_seed() {
    // draft-connolly-cfrg-xwing-kem, appendix C, first vector; SHA3-256 of the 1216 bytes of its public key.
    let seed = "7f9c2ba4e88f827d616045507605853ed73b8093f6efbc88eb1a6eacfa66ef26";
    let seed: [u8; 32] = hex::decode(seed).unwrap().try_into().unwrap();
    let key = public_key(&seed).unwrap();
    assert_eq!(hex::encode(Sha3_256::digest(key.as_bytes())), PUBLISHED_KEY);
}

#[test]
fn a_wrapped_key_is_bound_to_recipient_header_and_ciphertext() {
    let ours = sealed(Suite::Hybrid, &[&enclave()], b"payload").envelope;
    let secret = random_secret::<32>().unwrap();
    let hybrid = public_key(&secret).unwrap();
    let recipient = PublicKey::from_bytes([9; 32]);
    let key: ContentKey = random_secret().unwrap();
    let bound = BoxContext::new(&ours.header, &ours.ciphertext);
    let wrapped = wrap(&key, &recipient, &hybrid, &bound).unwrap();
    assert_eq!(wrapped.len(), WRAPPED_KEY_BYTES);
    let opened = unwrap_with(&wrapped, &secret, &recipient, &bound).unwrap();
    assert_eq!(opened.as_slice(), key.as_slice());

    let other_recipient = PublicKey::from_bytes([8; 32]);
    assert!(unwrap_with(&wrapped, &secret, &other_recipient, &bound).is_none());
    let other_ciphertext = BoxContext::new(&ours.header, b"another");
    assert!(unwrap_with(&wrapped, &secret, &recipient, &other_ciphertext).is_none());
    let mut header = ours.header.clone();
    header.context.chain_id += 1;
    let other_header = BoxContext::new(&header, &ours.ciphertext);
    assert!(unwrap_with(&wrapped, &secret, &recipient, &other_header).is_none());
    let other_secret = random_secret::<32>().unwrap();
    assert!(unwrap_with(&wrapped, &other_secret, &recipient, &bound).is_none());
}

#[test]
fn content_commits_to_its_key() {
    // Two keys could be made to fit one Poly1305 tag. The commitment leaves room for one of them only.
    let (one, two): (ContentKey, ContentKey) = (random_secret().unwrap(), random_secret().unwrap());
    let nonce = [3; 24];
    let sealed = seal_content(&one, &nonce, b"payload", b"header").unwrap();
    assert_eq!(
        *open_content(&one, &nonce, &sealed, b"header").unwrap(),
        b"payload"
    );
    let mut swapped = sealed.clone();
    swapped[..32].copy_from_slice(&commitment(&two, &nonce));
    assert!(open_content(&two, &nonce, &swapped, b"header").is_none());
    assert!(open_content(&one, &nonce, &swapped, b"header").is_none());
    assert!(open_content(&one, &nonce, &sealed, b"another").is_none());
    assert!(open_content(&one, &[4; 24], &sealed, b"header").is_none());
}

#[test]
fn a_party_without_an_x_wing_key_is_refused_by_name() {
    let recipient = enclave();
    let mut request = request(Suite::Hybrid, &[&recipient], b"payload");
    request.recipients[0].hybrid = None;
    let refusal = Refusal::NoHybridKey {
        key: name(&recipient),
    };
    assert_eq!(
        enclave().seal_now(&request),
        Err(EnclaveError::Refused(refusal))
    );
}

#[test]
fn nobody_else_can_exchange_the_senders_own_x_wing_key() {
    let sender: LocalEnclave = enclave();
    let mut request = request(Suite::Hybrid, &[&sender], b"payload");
    // The caller says that the sender's X-Wing key is someone else's.
    request.recipients[0].hybrid = enclave().public_keys_now().remove(0).hybrid;
    let sealed = sender.seal_now(&request).unwrap();
    let opening = sender.open_now(&sealed.envelope, &context(PrivacyFlag::Standard));
    assert!(matches!(opening, Ok(Opening::Opened(_))));
}
