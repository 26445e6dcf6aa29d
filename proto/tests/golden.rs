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

#[test]
fn a_membership_view_keeps_its_field_numbers() {
    let view = v1::MembershipView {
        table_index: 1,
        joint: true,
        term: 2,
        leader: 3,
        next_raft_id: 4,
        this_raft_id: 5,
        members: vec![v1::MemberState {
            raft_id: 6,
            node_id: vec![7].into(),
            address: "a".into(),
            organisation: "b".into(),
            role: v1::MemberRole::Learner.into(),
            leaving: true,
            outgoing_voter: true,
            connected: true,
            lag: Some(0),
            enclave_keys: vec![v1::EnclaveKey {
                key: vec![17].into(),
                hybrid_digest: vec![18].into(),
            }],
            keys_sequence: 19,
        }],
        removed: vec![v1::RemovedMember {
            raft_id: 8,
            node_id: vec![9].into(),
            organisation: "c".into(),
        }],
        breaks: vec![v1::BreakRecord {
            raft_index: 10,
            term: 11,
            survivor: 12,
            lost: vec![13, 14],
            note: "d".into(),
        }],
        applicants: vec![v1::Applicant {
            node_id: vec![15].into(),
            addresses: vec!["e".into()],
            last_seen: 16,
        }],
    };
    assert_eq!(
        hex(&view.encode_to_vec()),
        "0801 1001 1802 2003 2804 3005 \
         3a1f 0806 120107 1a0161 220162 2802 3001 3801 4001 4800 5206 0a0111 120112 5813 \
         4208 0808 120109 1a0163 \
         4a0d 080a 100b 180c 22020d0e 2a0164 \
         5208 0a010f 120165 1810"
            .replace(' ', "")
    );
}

#[test]
fn a_membership_change_keeps_its_field_numbers() {
    use v1::change_step::Step;
    let step = |step: Step| v1::ChangeStep { step: Some(step) };
    let request = v1::ChangeMembersRequest {
        change_id: vec![1].into(),
        steps: vec![
            step(Step::Add(v1::AddMember {
                node_id: vec![2].into(),
                address: "a".into(),
                organisation: "b".into(),
                role: v1::MemberRole::Voter.into(),
            })),
            step(Step::SetRole(v1::SetMemberRole {
                raft_id: 3,
                role: v1::MemberRole::Learner.into(),
            })),
            step(Step::SetAddress(v1::SetMemberAddress {
                raft_id: 4,
                address: "c".into(),
            })),
            step(Step::Remove(5)),
            step(Step::SetKeys(v1::SetMemberKeys {
                raft_id: 6,
                keys: vec![v1::EnclaveKey {
                    key: vec![7].into(),
                    hybrid_digest: vec![8].into(),
                }],
                sequence: 9,
                signature: vec![10].into(),
            })),
        ],
        force: true,
        if_table_index: Some(0),
    };
    assert_eq!(
        hex(&request.encode_to_vec()),
        "0a0101 120d 0a0b 0a0102 120161 1a0162 2001 \
         1206 1204 0803 1002 1207 1a05 0804 120163 1202 2005 \
         1211 2a0f 0806 1206 0a0107 120108 1809 22010a 1801 2000"
            .replace(' ', "")
    );
    let answer = v1::ChangeMembersResponse {
        change_id: vec![1].into(),
        table_index: 2,
        added: vec![3, 4],
        joint: true,
    };
    assert_eq!(hex(&answer.encode_to_vec()), "0a010110021a0203042001");
    let add = v1::AddLearnerRequest {
        change_id: vec![1].into(),
        node_id: vec![2].into(),
        address: "a".into(),
        organisation: "b".into(),
    };
    assert_eq!(hex(&add.encode_to_vec()), "0a01011201021a0161220162");
    let promote = v1::PromoteMembersRequest {
        change_id: vec![1].into(),
        raft_ids: vec![2, 3],
        force: true,
    };
    assert_eq!(hex(&promote.encode_to_vec()), "0a0101120202031801");
    let remove = v1::RemoveMembersRequest {
        change_id: vec![1].into(),
        raft_ids: vec![2, 3],
        force: true,
    };
    assert_eq!(hex(&remove.encode_to_vec()), "0a0101120202031801");
    let transfer = v1::TransferLeadershipRequest { raft_id: 7 };
    assert_eq!(hex(&transfer.encode_to_vec()), "0807");
    let transferred = v1::TransferLeadershipResponse { leader: 7 };
    assert_eq!(hex(&transferred.encode_to_vec()), "0807");
}

#[test]
fn a_membership_fault_and_its_envelope_keep_their_field_numbers() {
    use v1::membership_fault::Reason;
    let fault = v1::MembershipFault {
        reason: Reason::QuorumAtRisk.into(),
        retryable: true,
        change_id: vec![1].into(),
        field: "a".into(),
        raft_id: 2,
        needed: 3,
        reachable: 4,
        unreachable: vec![5, 6],
        expected_table_index: 7,
        actual_table_index: 8,
    };
    assert_eq!(
        hex(&fault.encode_to_vec()),
        "0803 1001 1a0101 220161 2802 3003 3804 42020506 4807 5008".replace(' ', "")
    );
    let numbers = [
        Reason::Unspecified,
        Reason::NoLeader,
        Reason::Pending,
        Reason::QuorumAtRisk,
        Reason::Invalid,
        Reason::UnknownMember,
        Reason::TableMoved,
        Reason::NotApplied,
        Reason::Undecided,
        Reason::NotAMember,
        Reason::LearnerNotAllowed,
        Reason::Failed,
    ]
    .map(|reason| reason as i32);
    assert_eq!(numbers, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]);
    let roles = [
        v1::MemberRole::Unspecified,
        v1::MemberRole::Voter,
        v1::MemberRole::Learner,
    ]
    .map(|role| role as i32);
    assert_eq!(roles, [0, 1, 2]);
    let status = quorate_proto::RichStatus {
        code: 9,
        message: "m".into(),
        details: vec![quorate_proto::AnyMessage {
            type_url: "t".into(),
            value: vec![1].into(),
        }],
    };
    assert_eq!(hex(&status.encode_to_vec()), "080912016d1a060a0174120101");
    assert_eq!(
        quorate_proto::RichStatus::decode(status.encode_to_vec().as_slice()),
        Ok(status)
    );
}

#[test]
fn a_private_submission_and_its_answer_keep_their_field_numbers() {
    use v1::acknowledgement_policy::Policy;
    use v1::submit_private_transaction_request::Transaction;
    let call = v1::PrivateCall {
        from: vec![1].into(),
        to: vec![2].into(),
        data: vec![3].into(),
        nonce: Some(4),
        gas_limit: Some(5),
        gas_price: vec![6].into(),
        form: v1::PublicForm::Quorum.into(),
    };
    let arguments = |policy| v1::PrivateArguments {
        private_from: vec![1].into(),
        private_for: vec!["a".into()],
        privacy_flag: 2,
        mandatory_for: vec![vec![3].into()],
        acknowledgements: Some(v1::AcknowledgementPolicy {
            policy: Some(policy),
        }),
    };
    let request = v1::SubmitPrivateTransactionRequest {
        transaction: Some(Transaction::Call(call)),
        arguments: Some(arguments(Policy::AtLeast(4))),
        wait: true,
    };
    assert_eq!(
        hex(&request.encode_to_vec()),
        "0a120a010112010 21a010320042805320106 3802 1a0f0a0101120161180222010 32a021804 2001"
            .replace(' ', "")
    );
    let policies = [
        Policy::All(true),
        Policy::Mandatory(true),
        Policy::AtLeast(7),
        Policy::Named(v1::PartyKeys {
            keys: vec![vec![8].into()],
        }),
    ]
    .map(|policy| {
        let policy = v1::AcknowledgementPolicy {
            policy: Some(policy),
        };
        hex(&policy.encode_to_vec())
    });
    assert_eq!(policies, ["0801", "1001", "1807", "22030a0108"]);
    let signed = v1::SubmitPrivateTransactionRequest {
        transaction: Some(Transaction::Raw(vec![1].into())),
        ..v1::SubmitPrivateTransactionRequest::default()
    };
    assert_eq!(hex(&signed.encode_to_vec()), "120101");
    let answer = v1::SubmitPrivateTransactionResponse {
        hash: vec![1].into(),
        payload_hash: vec![2].into(),
        pending: vec![vec![3].into()],
        commitment: None,
        receipt: Some(v1::PrivateReceiptResponse {
            success: true,
            digest: vec![4].into(),
            affected: vec![vec![5].into()],
            ..v1::PrivateReceiptResponse::default()
        }),
    };
    assert_eq!(
        hex(&answer.encode_to_vec()),
        "0a0101 120102 1a0103 2a0a 2801 920101049a010105".replace(' ', "")
    );
}

#[test]
fn a_privacy_status_keeps_its_field_numbers() {
    let status = v1::PrivacyStatus {
        cursor: 1,
        head_height: 2,
        private_state_root: vec![3].into(),
        private_height: 4,
        starts_at: 5,
        waiting: Some(v1::WaitingForPayload {
            block_height: 1,
            transaction_hash: vec![2].into(),
            payload_hash: vec![3].into(),
            since_ms: 4,
            reason: "r".into(),
        }),
        halted: "h".into(),
        records: 8,
        records_erased: 9,
        complete: true,
        payloads: 11,
        payloads_erased: 12,
        deliveries_pending: 13,
        alarms: 14,
        resyncing: true,
        enclave_version: "v".into(),
        enclave_error: "e".into(),
    };
    assert_eq!(
        hex(&status.encode_to_vec()),
        "0801 1002 1a0103 2004 2805 320d08011201021a010320042a0172 3a0168 4008 4809 5001 580b 600c 680d 700e 7801 82010176 8a010165"
            .replace(' ', "")
    );
}

#[test]
fn the_steps_of_an_extension_keep_their_field_numbers() {
    let transaction = v1::ExtensionTransaction {
        from: vec![1].into(),
        nonce: Some(0),
        gas_price: vec![3].into(),
        arguments: Some(v1::PrivateArguments::default()),
        signed_elsewhere: true,
        wait: true,
    };
    let transaction_text = "0a0101 1000 1a0103 2200 2801 3001".replace(' ', "");
    assert_eq!(hex(&transaction.encode_to_vec()), transaction_text);
    let offer = v1::OfferExtensionRequest {
        contract: vec![1].into(),
        newcomer: vec![2].into(),
        newcomer_account: vec![3].into(),
        transaction: Some(transaction.clone()),
    };
    assert_eq!(
        hex(&offer.encode_to_vec()),
        format!("0a01011201021a0103220e{transaction_text}")
    );
    let vote = v1::VoteOnExtensionRequest {
        extension: vec![1].into(),
        accept: true,
        transaction: Some(transaction.clone()),
    };
    assert_eq!(
        hex(&vote.encode_to_vec()),
        format!("0a010110011a0e{transaction_text}")
    );
    let cancel = v1::CancelExtensionRequest {
        extension: vec![1].into(),
        transaction: Some(transaction),
    };
    assert_eq!(
        hex(&cancel.encode_to_vec()),
        format!("0a0101120e{transaction_text}")
    );
    let answer = v1::ExtensionStepResponse {
        transaction_hash: vec![1].into(),
        payload_hash: vec![2].into(),
        pending: vec![vec![3].into()],
        extension: vec![4].into(),
        receipt: Some(v1::PrivateReceiptResponse::default()),
        marker_data: vec![6].into(),
    };
    assert_eq!(
        hex(&answer.encode_to_vec()),
        "0a0101 120102 1a0103 220104 2a00 320106".replace(' ', "")
    );
}

#[test]
fn an_extension_keeps_its_field_numbers_and_states() {
    use v1::contract_extension::State;
    let extension = v1::ContractExtension {
        extension: vec![1].into(),
        contract: vec![2].into(),
        newcomer: vec![3].into(),
        newcomer_account: vec![4].into(),
        initiator: vec![5].into(),
        initiator_account: vec![6].into(),
        parties: vec![vec![7].into()],
        transaction_hash: vec![8].into(),
        payload_hash: vec![9].into(),
        offered_at: 10,
        state: State::Done.into(),
        ended_at: 12,
    };
    assert_eq!(
        hex(&extension.encode_to_vec()),
        "0a0101 120102 1a0103 220104 2a0105 320106 3a0107 420108 4a0109 500a 5802 600c"
            .replace(' ', "")
    );
    let numbers = [
        State::Unspecified,
        State::Active,
        State::Done,
        State::Declined,
        State::Cancelled,
        State::Refused,
    ]
    .map(|state| state as i32);
    assert_eq!(numbers, [0, 1, 2, 3, 4, 5]);
}
