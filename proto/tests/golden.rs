//! Golden encodings: a changed field number or type is a broken promise to every client.

use prost::Message as _;
use quorate_proto::v1;

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

#[test]
fn a_commitment_keeps_its_field_numbers() {
    let commitment = v1::Commitment {
        block_height: 7,
        block_hash: vec![0xaa; 2].into(),
        position: 3,
        success: true,
        gas_used: 21_000,
        revert_data: vec![0xbb].into(),
    };
    assert_eq!(
        hex(&commitment.encode_to_vec()),
        "08071202aaaa1803200128 88a401 3201bb".replace(' ', "")
    );
}

#[test]
fn a_submission_and_its_answer_keep_their_field_numbers() {
    let request = v1::SubmitTransactionRequest {
        raw: vec![1, 2].into(),
        wait: true,
    };
    assert_eq!(hex(&request.encode_to_vec()), "0a0201021001");
    let answer = v1::SubmitTransactionResponse {
        hash: vec![9].into(),
        commitment: None,
    };
    assert_eq!(hex(&answer.encode_to_vec()), "0a0109");
}

#[test]
fn a_block_keeps_its_field_numbers() {
    let block = v1::Block {
        height: 1,
        hash: vec![1].into(),
        parent_hash: vec![2].into(),
        timestamp: 3,
        state_root: vec![4].into(),
        transactions_root: vec![5].into(),
        receipts_root: vec![6].into(),
        gas_used: 7,
        gas_limit: 8,
        coinbase: vec![9].into(),
        header: vec![10].into(),
        seal: vec![11].into(),
        term: 12,
        transaction_hashes: vec![vec![13].into()],
        transactions: vec![vec![14].into()],
    };
    assert_eq!(
        hex(&block.encode_to_vec()),
        "0801 120101 1a0102 2003 2a0104 320105 3a0106 4007 4808 520109 5a010a 62010b 680c 72010d 7a010e".replace(' ', "")
    );
}

#[test]
fn transaction_states_keep_their_numbers() {
    use v1::transaction_status::State;
    let numbers = [
        State::Unknown,
        State::Pending,
        State::Committed,
        State::Replaced,
        State::Expired,
        State::Dropped,
    ]
    .map(|s| s as i32);
    assert_eq!(numbers, [0, 1, 2, 3, 4, 5]);
}
