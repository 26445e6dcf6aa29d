//! Members that say what is not true, or ask for what is not theirs.

use bytes::Bytes;
use quorate_enclave::{Envelope, PayloadHash, PublicKey};
use quorate_exchange::{Distribution, ExchangeError};
use quorate_privacy::{Lookup, SignedTerms};

use crate::network::{CHAIN_ID, Fate, Network, content, party, reference, sign, unknown_hash};

const TAKEN: u8 = 1;
const STORED: u8 = 0;
const REFUSED: u8 = 2;
const DELIVER: u8 = 1;

/// Envelope and signed terms of a delivery of one payload.
fn taken_apart(body: &Bytes) -> (Vec<u8>, Vec<u8>) {
    assert_eq!(body[2], 1, "a delivery of one payload");
    let long = |from: usize| {
        let length = u32::from_be_bytes(body[from..from + 4].try_into().unwrap());
        from + 4..from + 4 + length as usize
    };
    let envelope = long(3);
    let terms = long(envelope.end);
    assert_eq!(terms.end, body.len());
    (body[envelope].to_vec(), body[terms].to_vec())
}

fn put_together(envelope: &[u8], terms: &[u8]) -> Bytes {
    let mut body = vec![1, DELIVER, 1];
    for part in [envelope, terms] {
        body.extend_from_slice(&u32::try_from(part.len()).unwrap().to_be_bytes());
        body.extend_from_slice(part);
    }
    body.into()
}

fn fetch(hash: &PayloadHash) -> Bytes {
    let mut body = vec![1, 3, 1];
    body.extend_from_slice(hash.as_bytes());
    body.into()
}

fn list(key: &PublicKey) -> Bytes {
    let mut body = vec![1, 4];
    body.extend_from_slice(key.as_bytes());
    body.push(0);
    body.extend_from_slice(&100u16.to_be_bytes());
    body.into()
}

/// Whether the one payload of a delivery is stored; refused with the whole request, or on its own.
async fn kind(network: &Network, from: u64, to: u64, body: Bytes) -> u8 {
    let answer = network.at(to).answer(from, body).await;
    match (answer[1], &answer[2..]) {
        (REFUSED, _) => REFUSED,
        (TAKEN, [1, 0]) => STORED,
        (TAKEN, [1, 1, ..]) => REFUSED,
        other => panic!("it is answered with {other:?}"),
    }
}

#[tokio::test]
async fn a_delivery_is_taken_from_its_sender_alone_and_repeating_it_changes_nothing() {
    let network = Network::of_four();
    let how = Distribution::to([network.key(2), network.key(3)]);
    let sent = network.at(1).distribute(content("a"), how).await.unwrap();
    let body = network.last_request(1, 2, DELIVER);
    let before = party(network.lookup(2, &reference(&sent)).await);
    assert_eq!(kind(&network, 1, 2, body.clone()).await, STORED);
    assert_eq!(party(network.lookup(2, &reference(&sent)).await), before);
    // Another member replays it, to the same one and to others.
    assert_eq!(kind(&network, 3, 2, body.clone()).await, REFUSED);
    assert_eq!(kind(&network, 2, 4, body.clone()).await, REFUSED);
    // The sender itself delivers to someone that has no box in it.
    assert_eq!(kind(&network, 1, 4, body.clone()).await, REFUSED);
    assert_eq!(kind(&network, 1, 3, body.clone()).await, REFUSED);
    // Nobody at all.
    assert_eq!(kind(&network, 9, 2, body).await, REFUSED);
}

#[tokio::test]
async fn any_byte_of_a_delivery_that_is_changed_makes_it_void() {
    let network = Network::of_four();
    let how = Distribution::to([network.key(2)]);
    network.at(1).distribute(content("a"), how).await.unwrap();
    let body = network.last_request(1, 2, DELIVER);
    let mut taken = Vec::new();
    for at in 0..body.len() {
        let mut changed = body.to_vec();
        changed[at] ^= 0x41;
        if kind(&network, 1, 2, changed.into()).await != REFUSED {
            taken.push(at);
        }
    }
    assert_eq!(taken, Vec::<usize>::new());
}

#[tokio::test]
async fn terms_of_another_payload_or_signer_or_chain_are_refused() {
    let network = Network::of_four();
    let how = Distribution::to([network.key(2)]);
    let one = &network.at(1);
    one.distribute(content("a"), how.clone()).await.unwrap();
    let (envelope, terms) = taken_apart(&network.last_request(1, 2, DELIVER));
    one.distribute(content("b"), how).await.unwrap();
    let (_, others) = taken_apart(&network.last_request(1, 2, DELIVER));
    let swapped = put_together(&envelope, &others);
    assert_eq!(kind(&network, 1, 2, swapped).await, REFUSED);

    let signed = SignedTerms::decode(&terms).unwrap();
    let digest = Envelope::decode(&envelope).unwrap().signing_digest();
    let secret = |n: u64| network.node(n).secret;
    let resigned = |chain_id, n: u64| {
        let terms = signed.terms.clone();
        let signed = terms.sign(chain_id, &digest, |d| Ok::<_, ()>(sign(&secret(n), d)));
        put_together(&envelope, &signed.unwrap().encode())
    };
    assert_eq!(kind(&network, 1, 2, resigned(CHAIN_ID, 1)).await, STORED);
    assert_eq!(kind(&network, 1, 2, resigned(CHAIN_ID, 3)).await, REFUSED);
    assert_eq!(kind(&network, 1, 2, resigned(11, 1)).await, REFUSED);

    // Terms that name another sending node, correctly signed by it.
    let mut foreign = signed.terms.clone();
    foreign.sender_node = network.node(3).node();
    let foreign = foreign.sign(CHAIN_ID, &digest, |d| Ok::<_, ()>(sign(&secret(3), d)));
    let body = put_together(&envelope, &foreign.unwrap().encode());
    assert_eq!(kind(&network, 3, 2, body.clone()).await, REFUSED);
    assert_eq!(kind(&network, 1, 2, body).await, REFUSED);
}

#[tokio::test]
async fn a_sender_cannot_use_a_key_that_the_table_gives_to_another() {
    let network = Network::of_four();
    // In the eyes of member 2, the first key of member 1 belongs to member 3.
    network.change_table(2, |table| {
        let key = table[0].keys.remove(0);
        table[2].keys.push(key);
    });
    let refused = network
        .at(1)
        .distribute(content("a"), Distribution::to([network.key(2)]))
        .await;
    // It may be that the table is late: not for ever, but not now.
    assert!(matches!(
        refused,
        Err(ExchangeError::NotAcknowledged { .. })
    ));
}

#[tokio::test]
async fn a_stranger_that_asks_learns_nothing() {
    let network = Network::of_four();
    let how = Distribution::to([network.key(2)]);
    let sent = network.at(1).distribute(content("a"), how).await.unwrap();
    for holder in [1, 2] {
        let of = async |from: u64, hash: &PayloadHash| {
            let answer = network.at(holder).answer(from, fetch(hash)).await;
            // Without the hash that the asker named itself.
            [&answer[..3], &answer[67..]].concat()
        };
        let nothing = of(4, &unknown_hash()).await;
        assert_eq!(of(4, &sent.hash).await, nothing);
        let party = 3 - holder;
        assert_ne!(of(party, &sent.hash).await, nothing);
        // Nor by asking for what others may read.
        let listed = network
            .at(holder)
            .answer(4, list(&network.key(party)))
            .await;
        let empty = network.at(holder).answer(4, list(&network.key(4))).await;
        assert_eq!(listed[..4], [1, 5, 0, 0]);
        assert_eq!(empty[..4], [1, 5, 0, 0]);
    }
}

#[tokio::test]
async fn what_a_liar_hands_out_is_not_taken() {
    let mut network = Network::of_four();
    network.set_offline(3, true);
    let mut how = Distribution::to([network.key(2), network.key(3)]);
    how.acknowledgements = quorate_exchange::Acknowledgements::KOfN(1);
    let sent = network.at(1).distribute(content("a"), how).await.unwrap();
    let body = network.last_request(1, 2, DELIVER);
    let (envelope, _) = taken_apart(&body);
    assert_eq!(
        Envelope::decode(&envelope).unwrap().payload_hash(),
        sent.hash
    );
    network.set_offline(3, false);
    // Whoever is asked for it by member 3 is asked for something else.
    let other = unknown_hash();
    network.set_fault(move |from, _, body| {
        if from == 3 && body[1] == 3 {
            Fate::Exchange(fetch(&other))
        } else {
            Fate::Pass
        }
    });
    let reference = reference(&sent);
    network.run(3);
    network.lookup(3, &reference).await;
    crate::network::wait_until("everybody was asked", async || {
        let requests = network.shared.requests.lock().unwrap();
        requests
            .iter()
            .filter(|(f, _, b)| *f == 3 && b[1] == 3)
            .count()
            >= 3
    })
    .await;
    assert!(matches!(
        network.lookup(3, &reference).await,
        Lookup::Unknown { .. }
    ));
    network.clear_fault();
    crate::network::wait_until("member 3 has it", async || {
        matches!(network.lookup(3, &reference).await, Lookup::Party(_))
    })
    .await;
    network.stop(3).await;
}

#[tokio::test]
async fn of_payloads_in_one_message_each_is_judged_on_its_own() {
    let network = Network::of_four();
    let how = Distribution::to([network.key(2)]);
    let one = &network.at(1);
    one.distribute(content("a"), how.clone()).await.unwrap();
    let (envelope, terms) = taken_apart(&network.last_request(1, 2, DELIVER));
    one.distribute(content("b"), how).await.unwrap();
    let (other, others) = taken_apart(&network.last_request(1, 2, DELIVER));
    let mut body = vec![1, DELIVER, 4];
    let parts = [
        [&envelope, &terms],
        // Terms of another payload, nothing that decodes, and one that is good again.
        [&envelope, &others],
        [&terms, &terms],
        [&other, &others],
    ];
    for part in parts.iter().flatten() {
        body.extend_from_slice(&u32::try_from(part.len()).unwrap().to_be_bytes());
        body.extend_from_slice(part);
    }
    let answer = network.at(2).answer(1, body.into()).await;
    assert_eq!(answer[..4], [1, TAKEN, 4, STORED]);
    let refused = |at: usize| {
        assert_eq!(answer[at], 1, "the payload is refused");
        at + 4 + usize::from(u16::from_be_bytes([answer[at + 2], answer[at + 3]]))
    };
    assert_eq!(answer[refused(refused(4))..], [STORED]);
}
