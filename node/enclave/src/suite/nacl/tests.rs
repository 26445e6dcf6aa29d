use super::*;
use crate::identity::{Identity, Secret};

fn bytes<const N: usize>(text: &str) -> [u8; N] {
    hex::decode(text).unwrap().try_into().unwrap()
}

fn secret(text: &str) -> Secret {
    Box::new(Zeroizing::new(bytes(text)))
}

fn content_key(text: &str) -> ContentKey {
    secret(text)
}

// The keys, nonce, message and box that NaCl publishes (Bernstein: Cryptography in NaCl, 2009, sections 2 to 10).
const ALICE: &str = "77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a";
const ALICE_PUBLIC: &str = "8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a";
const BOB: &str = "5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb";
const BOB_PUBLIC: &str = "de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f";
const NONCE: &str = "69696ee955b62b73cd62bda875fc73d68219e0036b7a0b37";
const FIRST_KEY: &str = "1b27556473e985d462cd51197a9a46c76009549eac6474f206c4ee0844f68389";
const MESSAGE: &str = "be075fc53c81f2d5cf141316ebeb0c7b5228c52a4c62cbd44b66849b64244ffce5ecbaaf33bd751a1ac728d45e6c61296cdc3c01233561f41db66cce314adb310e3be8250c46f06dceea3a7fa1348057e2f6556ad6b1318a024a838f21af1fde048977eb48f59ffd4924ca1c60902e52f0a089bc76897040e082f937763848645e0705";
const BOXED: &str = "f3ffc7703f9400e52a7dfb4b3d3305d98e993b9f48681273c29650ba32fc76ce48332ea7164d96a4476fb8c531a1186ac0dfc17c98dce87b4da7f011ec48c97271d2c20f9b928fe2270d6fb863d51738b48eeee314a7cc8ab932164548e526ae90224368517acfeabd6bb3732bc0e9da99832b61ca01b6de56244a9e88d5f9b37973f622a43d14a6599b1f654cb45a74e355a5";

#[test]
fn content_is_nacls_published_secretbox() {
    let key = content_key(FIRST_KEY);
    let message = hex::decode(MESSAGE).unwrap();
    let sealed = seal_content(&key, &bytes(NONCE), &message).unwrap();
    assert_eq!(hex::encode(&sealed), BOXED);
    let opened = open_content(&key, &bytes(NONCE), &sealed).unwrap();
    assert_eq!(*opened, message);
}

#[test]
fn a_box_is_nacls_published_box_from_either_side() {
    let alice = Identity::from_secrets(secret(ALICE), None);
    let bob = Identity::from_secrets(secret(BOB), None);
    assert_eq!(hex::encode(alice.public().as_bytes()), ALICE_PUBLIC);
    assert_eq!(hex::encode(bob.public().as_bytes()), BOB_PUBLIC);
    let nonce: [u8; 24] = bytes(NONCE);
    let message = hex::decode(MESSAGE).unwrap();
    for (ours, theirs) in [(&alice, &bob), (&bob, &alice)] {
        let shared = shared_box(ours, &theirs.public());
        let boxed = shared.encrypt((&nonce).into(), message.as_slice());
        assert_eq!(hex::encode(boxed.unwrap()), BOXED);
    }
}

#[test]
fn a_wrapped_key_is_a_box_with_the_key_in_it_and_opens_for_both_only() {
    let alice = Identity::from_secrets(secret(ALICE), None);
    let bob = Identity::from_secrets(secret(BOB), None);
    let eve = Identity::generate().unwrap();
    let nonce: [u8; 24] = bytes(NONCE);
    let key = content_key(&MESSAGE[..64]);
    let wrapped = wrap(&key, &nonce, &shared_box(&alice, &bob.public())).unwrap();
    assert_eq!(wrapped.len(), WRAPPED_KEY_BYTES);
    // The same 32 bytes under the published key of the two.
    assert_eq!(
        wrapped,
        seal_content(&content_key(FIRST_KEY), &nonce, key.as_slice()).unwrap()
    );
    let shared = SharedBoxes::default();
    let opened = |ours: &Identity, theirs: &PublicKey| {
        unwrap(&wrapped, &nonce, &*shared.between(ours, theirs)?)
    };
    let for_bob = opened(&bob, &alice.public()).unwrap();
    let for_alice = opened(&alice, &bob.public()).unwrap();
    assert_eq!(for_bob.as_slice(), key.as_slice());
    assert_eq!(for_alice.as_slice(), key.as_slice());
    // Also from the boxes that are kept by now.
    for _ in 0..2 {
        assert!(opened(&bob, &alice.public()).is_some());
        assert!(opened(&eve, &alice.public()).is_none());
        assert!(opened(&bob, &eve.public()).is_none());
    }
    assert!(
        shared
            .between(&bob, &PublicKey::from_bytes([0; 32]))
            .is_none()
    );
}
