//! What every enclave promises, asked of both implementations.

use quorate_enclave::{
    Enclave, EnclaveError, HybridKey, KeyAnnouncement, KeyRing, LocalEnclave, Opening, PayloadHash,
    PrivacyFlag, PublicKey, RecogniseRequest, Recognised, Refusal, Suite, TagRequest, envelope,
};

use crate::parties::{Served, announcement, context, local, open, request};

/// Runs a check with an enclave in this process and with one behind a socket.
async fn both(check: impl AsyncFn(&dyn Enclave)) {
    check(&local()).await;
    let mut served = Served::start().await;
    check(&served.client()).await;
    served.stop().await;
}

#[tokio::test]
async fn every_recipient_opens_its_own_copy_and_the_sender_the_whole() {
    both(async |sender| {
        for suite in Suite::ALL {
            let (one, two) = (local(), local());
            let to = [announcement(&one).await, announcement(&two).await];
            let sealed = sender.seal(request(suite, &to, b"payload")).await.unwrap();
            let from = announcement(sender).await.key;
            assert_eq!(sealed.envelope.sender(), from);
            let copies = sealed.copies();
            assert_eq!(copies.len(), 2);
            for (key, copy) in &copies {
                let reader = if *key == to[0].key { &one } else { &two };
                let opened = open(reader, copy).await;
                assert_eq!(*opened.payload, b"payload");
                assert_eq!((opened.as_recipient, opened.sender), (*key, from));
                // The other one is told that it is not for him, the sender as well: this copy is not his.
                let other = if *key == to[0].key { &two } else { &one };
                let opening = other.open(copy.clone(), context()).await;
                assert_eq!(opening, Ok(Opening::NotForUs));
            }
            assert_eq!(*open(sender, &sealed.envelope).await.payload, b"payload");
            let opening = sender.open(copies[0].1.clone(), context()).await;
            assert_eq!(opening, Ok(Opening::NotForUs));
        }
    })
    .await;
}

#[tokio::test]
async fn two_seals_of_one_payload_have_nothing_in_common() {
    both(async |sender| {
        for suite in Suite::ALL {
            let one = sender.seal(request(suite, &[], b"payload")).await.unwrap();
            let two = sender.seal(request(suite, &[], b"payload")).await.unwrap();
            assert_ne!(one.hash, two.hash);
            assert!(!one.envelope.is_same_payload(&two.envelope));
        }
    })
    .await;
}

#[tokio::test]
async fn payloads_of_every_size_up_to_the_limit_go_through_and_larger_ones_are_refused() {
    both(async |sender| {
        for suite in Suite::ALL {
            for size in [0, 1, 300_000] {
                let payload = vec![7; size];
                let sealed = sender.seal(request(suite, &[], &payload)).await.unwrap();
                assert_eq!(*open(sender, &sealed.envelope).await.payload, payload);
            }
        }
        let large = vec![7; envelope::PAYLOAD_BYTES_MAX + 1];
        let refused = sender.seal(request(Suite::Nacl, &[], &large)).await;
        let (got, max) = (large.len() as u64, envelope::PAYLOAD_BYTES_MAX as u64);
        assert_eq!(
            refused,
            Err(EnclaveError::Refused(Refusal::PayloadTooLarge { got, max }))
        );
    })
    .await;
}

#[tokio::test]
async fn a_changed_envelope_for_us_is_forged_and_never_not_for_us() {
    both(async |sender| {
        for suite in Suite::ALL {
            let sealed = sender.seal(request(suite, &[], b"payload")).await.unwrap();
            let bytes = sealed.envelope.encode();
            let ours = *sealed.envelope.sender().as_bytes();
            let mut forged = 0;
            // Every eleventh byte of the envelope, and all of the small parts at its end.
            for at in (0..bytes.len()).filter(|at| at % 11 == 0 || bytes.len() - at < 120) {
                let mut changed = bytes.clone();
                changed[at] ^= 0x40;
                let Ok(envelope) = quorate_enclave::Envelope::decode(&changed) else {
                    continue;
                };
                let still_ours = envelope.recipients().any(|key| *key.as_bytes() == ours);
                match sender.open(envelope, context()).await {
                    Err(EnclaveError::Refused(Refusal::Forged { .. })) => forged += 1,
                    Err(EnclaveError::Refused(Refusal::ContextMismatch { .. })) => {}
                    Ok(Opening::NotForUs) => assert!(!still_ours, "byte {at}"),
                    // Suite 1 does not bind what surrounds the ciphertext: that is the signature's task.
                    Ok(Opening::Opened(opened)) => {
                        assert_eq!(suite, Suite::Nacl, "byte {at}");
                        assert_eq!(*opened.payload, b"payload");
                    }
                    Err(e) => panic!("byte {at}: {e}"),
                }
            }
            assert!(forged > 5, "{suite:?}: {forged}");
        }
    })
    .await;
}

#[tokio::test]
async fn an_envelope_for_another_context_is_refused_by_the_part_that_differs() {
    both(async |sender| {
        for suite in Suite::ALL {
            let sealed = sender.seal(request(suite, &[], b"payload")).await.unwrap();
            let mut chain = context();
            chain.chain_id = 11;
            let mut node = context();
            node.sender_node = quorate_enclave::NodeKey::from([3; 33]);
            let mut flag = context();
            flag.flag = PrivacyFlag::PartyProtection;
            let mut group = context();
            group.privacy_group = Some(quorate_enclave::GroupId::from_bytes([1; 32]));
            for (other, field) in [
                (chain, "chain id"),
                (node, "sender node"),
                (flag, "privacy flag"),
                (group, "privacy group"),
            ] {
                let field = field.to_owned();
                assert_eq!(
                    sender.open(sealed.envelope.clone(), other).await,
                    Err(EnclaveError::Refused(Refusal::ContextMismatch { field }))
                );
            }
        }
    })
    .await;
}

#[tokio::test]
async fn a_party_reseals_for_a_new_one_and_a_stranger_cannot() {
    both(async |enclave| {
        for suite in Suite::ALL {
            let (sender, new) = (local(), local());
            let us = announcement(enclave).await;
            let sealed = sender
                .seal(request(suite, &[us], b"payload"))
                .await
                .unwrap();
            let copy = sealed.copies().remove(0).1;
            let to = vec![announcement(&new).await];
            // By a recipient, and by the sender.
            for (party, envelope) in [(enclave, copy.clone()), (&sender, sealed.envelope.clone())] {
                let resealed = party.reseal(envelope.clone(), context(), to.clone()).await;
                let resealed = resealed.unwrap();
                assert_eq!(resealed.payload_hash(), sealed.hash);
                let copy = resealed.copy_for(to[0].key).unwrap();
                assert_eq!(copy.recipients().count(), 1);
                let opened = open(&new, &copy).await;
                assert_eq!(*opened.payload, b"payload");
                assert_eq!(opened.sender, sealed.envelope.sender());
                // A second time it changes nothing.
                let again = party.reseal(resealed.clone(), context(), to.clone()).await;
                assert_eq!(again, Ok(resealed));
            }
            let refused = new.reseal(copy.clone(), context(), to).await;
            assert_eq!(refused, Err(EnclaveError::Refused(Refusal::NotAParty)));
            let refused = enclave.reseal(copy, context(), Vec::new()).await;
            assert_eq!(refused, Err(EnclaveError::Refused(Refusal::NoRecipients)));
        }
    })
    .await;
}

#[tokio::test]
async fn requests_that_cannot_be_are_refused_by_the_field_that_is_wrong() {
    both(async |sender| {
        let seal = async |request| match sender.seal(request).await {
            Err(EnclaveError::Refused(refusal)) => refusal,
            other => panic!("{other:?}"),
        };
        let stranger = PublicKey::from_bytes([9; 32]);
        let mut wrong = request(Suite::Nacl, &[], b"");
        wrong.sender = Some(stranger);
        assert_eq!(seal(wrong).await, Refusal::UnknownSender { key: stranger });

        let weak = PublicKey::from_bytes([0; 32]);
        let wrong = request(Suite::Nacl, &[weak.into()], b"");
        assert_eq!(seal(wrong).await, Refusal::WeakKey { key: weak });

        let wrong = request(Suite::Hybrid, &[stranger.into()], b"");
        assert_eq!(seal(wrong).await, Refusal::NoHybridKey { key: stranger });

        let many: Vec<KeyAnnouncement> = (1..=256u16)
            .map(|n| {
                let mut key = [5; 32];
                key[..2].copy_from_slice(&n.to_be_bytes());
                PublicKey::from_bytes(key).into()
            })
            .collect();
        let wrong = request(Suite::Nacl, &many, b"");
        assert_eq!(
            seal(wrong).await,
            Refusal::TooManyRecipients { got: 257, max: 256 }
        );
        let fits = request(Suite::Nacl, &many[..255], b"");
        let sealed = sender.seal(fits).await.unwrap();
        assert_eq!(sealed.envelope.recipients().count(), 256);

        let mut wrong = request(Suite::Nacl, &[], b"");
        wrong.mandatory = vec![announcement(sender).await.key];
        assert!(matches!(
            seal(wrong.clone()).await,
            Refusal::Malformed { .. }
        ));
        wrong.context.flag = PrivacyFlag::MandatoryParties;
        assert!(sender.seal(wrong.clone()).await.is_ok());
        wrong.mandatory = vec![stranger];
        assert!(matches!(
            seal(wrong.clone()).await,
            Refusal::Malformed { .. }
        ));
        wrong.mandatory.clear();
        assert!(matches!(seal(wrong).await, Refusal::Malformed { .. }));
    })
    .await;
}

#[tokio::test]
async fn an_enclave_without_keys_seals_nothing_and_is_no_party() {
    let empty = LocalEnclave::new(KeyRing::empty());
    let refused = empty.seal(request(Suite::Nacl, &[], b"")).await;
    assert_eq!(refused, Err(EnclaveError::Refused(Refusal::NoKeys)));
    let sealed = local().seal(request(Suite::Nacl, &[], b"")).await.unwrap();
    let opening = empty.open(sealed.envelope, context()).await;
    assert_eq!(opening, Ok(Opening::NotForUs));
    assert_eq!(empty.health().await.unwrap().keys, 0);
}

#[tokio::test]
async fn suites_and_keys_are_told_to_whoever_asks() {
    both(async |enclave| {
        let health = enclave.health().await.unwrap();
        assert_eq!((health.keys, health.suites), (1, Suite::ALL.to_vec()));
        let keys = enclave.public_keys().await.unwrap();
        assert_eq!(keys.len(), 1);
        let hybrid = keys[0].hybrid.as_ref().unwrap();
        assert_eq!(
            HybridKey::from_bytes(hybrid.as_bytes()).as_ref(),
            Some(hybrid)
        );
        assert_eq!(HybridKey::from_bytes(&[1; 32]), None);
    })
    .await;
}

#[tokio::test]
async fn a_second_key_sends_when_it_is_named_and_either_opens() {
    let enclave = LocalEnclave::new(KeyRing::generate(2).unwrap());
    let keys = enclave.public_keys().await.unwrap();
    for suite in Suite::ALL {
        let mut request = request(suite, &[keys[0].clone()], b"payload");
        request.sender = Some(keys[1].key);
        let sealed = enclave.seal(request).await.unwrap();
        assert_eq!(sealed.envelope.sender(), keys[1].key);
        for key in &keys {
            let copy = sealed.envelope.copy_for(key.key).unwrap();
            assert_eq!(open(&enclave, &copy).await.as_recipient, key.key);
        }
    }
}

#[tokio::test]
async fn a_party_recognises_its_tag_among_others_and_strangers_recognise_none() {
    both(async |enclave| {
        let (one, stranger) = (local(), local());
        let sender = announcement(enclave).await.key;
        let party = announcement(&one).await.key;
        let hash = PayloadHash::of(b"ciphertext");
        let request = TagRequest {
            hash,
            sender,
            parties: vec![sender, party],
        };
        let mut tags = enclave.tags(request).await.unwrap();
        assert_eq!(tags.len(), 2);
        tags.reverse();
        tags.insert(0, [7; 8]);
        let ask = |senders: Vec<PublicKey>| RecogniseRequest {
            hash,
            senders,
            tags: tags.clone(),
        };
        let others = announcement(&stranger).await.key;
        let senders = || vec![others, sender];
        let found = Recognised { party, sender };
        assert_eq!(one.recognise(ask(senders())).await, Ok(Some(found)));
        assert_eq!(stranger.recognise(ask(senders())).await, Ok(None));
        // The sender itself, after it lost its disk.
        let found = Recognised {
            party: sender,
            sender,
        };
        assert_eq!(enclave.recognise(ask(senders())).await, Ok(Some(found)));
        assert_eq!(enclave.recognise(ask(vec![others])).await, Ok(None));
        let unknown = TagRequest {
            hash,
            sender: party,
            parties: vec![sender],
        };
        assert_eq!(
            enclave.tags(unknown).await,
            Err(EnclaveError::Refused(Refusal::UnknownSender { key: party }))
        );
    })
    .await;
}
