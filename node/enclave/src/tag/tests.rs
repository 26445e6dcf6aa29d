use super::*;
use crate::identity::Secret;

/// The keys and the shared secret that RFC 7748 publishes (section 6.1).
const ALICE: &str = "77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a";
const BOB: &str = "5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb";

fn identity(secret: &str) -> Identity {
    let bytes: [u8; 32] = hex::decode(secret).unwrap().try_into().unwrap();
    let secret: Secret = Box::new(Zeroizing::new(bytes));
    Identity::from_secrets(secret, None)
}

fn ring(secret: &str) -> (KeyRing, PublicKey) {
    let identity = identity(secret);
    let name = identity.public();
    let mut ring = KeyRing::empty();
    ring.add(identity);
    (ring, name)
}

fn payload() -> PayloadHash {
    let mut bytes = [0; 64];
    for (byte, number) in bytes.iter_mut().zip(0..) {
        *byte = number;
    }
    PayloadHash::from_bytes(bytes)
}

#[test]
fn a_tag_is_the_hash_of_the_published_secret_keys_and_payload_from_either_side() {
    let (alice, from) = ring(ALICE);
    let (bob, to) = ring(BOB);
    let request = TagRequest {
        hash: payload(),
        sender: from,
        parties: vec![to],
    };
    let made = tags(&alice, &SharedSecrets::default(), &request).unwrap();
    // Computed by another program from the secret that the RFC prints, 4a5d9d5b…1742.
    assert_eq!(hex::encode(made.concat()), "f3aedf7b68065bad");
    let found = recognise(
        &bob,
        &SharedSecrets::default(),
        &RecogniseRequest {
            hash: payload(),
            senders: vec![from],
            tags: made,
        },
    );
    let expected = Recognised {
        party: to,
        sender: from,
    };
    assert_eq!(found, Ok(Some(expected)));
}

#[test]
fn a_tag_is_for_one_payload_one_sender_and_one_direction() {
    let (alice, alice_name) = ring(ALICE);
    let (bob, bob_name) = ring(BOB);
    let secrets = SharedSecrets::default();
    let request = |sender, party, hash| TagRequest {
        hash,
        sender,
        parties: vec![party],
    };
    let there = tags(&alice, &secrets, &request(alice_name, bob_name, payload())).unwrap();
    let other = PayloadHash::from_bytes([9; 64]);
    let elsewhere = tags(&alice, &secrets, &request(alice_name, bob_name, other)).unwrap();
    assert_ne!(there, elsewhere);
    let bobs = SharedSecrets::default();
    let back = tags(&bob, &bobs, &request(bob_name, alice_name, payload())).unwrap();
    assert_ne!(there, back);
    let ask = |hash, senders, tags| RecogniseRequest {
        hash,
        senders,
        tags,
    };
    for (hash, senders) in [
        (other, vec![alice_name]),
        (payload(), vec![bob_name]),
        (payload(), vec![]),
    ] {
        let found = recognise(&bob, &bobs, &ask(hash, senders, there.clone()));
        assert_eq!(found, Ok(None));
    }
    let found = recognise(
        &bob,
        &bobs,
        &ask(payload(), vec![alice_name], there.clone()),
    );
    assert!(matches!(found, Ok(Some(_))));
    // A secret that is kept gives the same answer as one that is not.
    let found = recognise(&bob, &bobs, &ask(payload(), vec![alice_name], there));
    assert!(matches!(found, Ok(Some(_))));
}

#[test]
fn weak_keys_and_long_lists_are_refused_by_name() {
    let (alice, name) = ring(ALICE);
    let secrets = SharedSecrets::default();
    let weak = PublicKey::from_bytes([0; 32]);
    let request = |sender, parties| TagRequest {
        hash: payload(),
        sender,
        parties,
    };
    let refused = tags(&alice, &secrets, &request(name, vec![weak]));
    assert_eq!(refused, Err(Refusal::WeakKey { key: weak }));
    let stranger = PublicKey::from_bytes([9; 32]);
    let refused = tags(&alice, &secrets, &request(stranger, vec![name]));
    assert_eq!(refused, Err(Refusal::UnknownSender { key: stranger }));
    let refused = tags(
        &alice,
        &secrets,
        &request(name, vec![name; PARTIES_MAX + 1]),
    );
    assert!(matches!(refused, Err(Refusal::Malformed { field }) if field.starts_with("parties")));
    let long = RecogniseRequest {
        hash: payload(),
        senders: vec![name; SENDERS_MAX + 1],
        tags: vec![[0; 8]],
    };
    let refused = recognise(&alice, &secrets, &long);
    assert!(matches!(refused, Err(Refusal::Malformed { field }) if field.starts_with("senders")));
    // A sender that is no key is passed over and hides nobody.
    let own = tags(&alice, &secrets, &request(name, vec![name])).unwrap();
    let found = recognise(
        &alice,
        &secrets,
        &RecogniseRequest {
            hash: payload(),
            senders: vec![weak, name],
            tags: own,
        },
    );
    assert!(matches!(found, Ok(Some(found)) if found.party == name && found.sender == name));
}

#[test]
fn a_retired_key_recognises_and_tags_what_it_sent() {
    let (alice, from) = ring(ALICE);
    let retired = identity(BOB);
    let to = retired.public();
    let mut bob = KeyRing::generate(1).unwrap();
    bob.add_retired(retired);
    let request = TagRequest {
        hash: payload(),
        sender: from,
        parties: vec![to, from],
    };
    let made = tags(&alice, &SharedSecrets::default(), &request).unwrap();
    assert_eq!(made.len(), 2);
    let asked = RecogniseRequest {
        hash: payload(),
        senders: vec![to, from],
        tags: made,
    };
    let found = recognise(&bob, &SharedSecrets::default(), &asked).unwrap();
    assert_eq!(
        found,
        Some(Recognised {
            party: to,
            sender: from
        })
    );
    let request = TagRequest {
        hash: payload(),
        sender: to,
        parties: vec![from],
    };
    assert!(tags(&bob, &SharedSecrets::default(), &request).is_ok());
}
