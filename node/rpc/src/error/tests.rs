//! Codes, statuses and texts of all errors as golden text: clients parse them.

use alloy_primitives::{Address, U256, hex};
use quorate_chain::Fork;
use quorate_pool::DropReason;

use super::*;

fn line(error: RpcError) -> String {
    let outward = error.outward();
    let data = outward
        .data
        .map(|data| match data {
            Value::String(text) => format!(" | {text}"),
            data => format!(" | {data}"),
        })
        .unwrap_or_default();
    format!("{} {:?}: {error}{data}", outward.json, outward.grpc)
}

#[track_caller]
fn check(errors: Vec<RpcError>, expected: &str) {
    let got: Vec<String> = errors.into_iter().map(line).collect();
    let expected: Vec<&str> = expected
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .collect();
    assert_eq!(got, expected);
}

const HASH: B256 = B256::ZERO;
const ZERO_HASH: &str = "0x0000000000000000000000000000000000000000000000000000000000000000";

#[test]
fn refusals_of_the_pool_keep_codes_and_texts() {
    let one = U256::from(1);
    let errors = [
        AdmitError::NotATransaction(TransactionError::Malformed { reason: "x".into() }),
        AdmitError::NotATransaction(TransactionError::TrailingBytes { count: 2 }),
        AdmitError::NotATransaction(TransactionError::HighS),
        AdmitError::NotATransaction(TransactionError::InvalidSignature),
        AdmitError::TooLarge { got: 2, max: 1 },
        AdmitError::WrongChainId {
            got: Some(1),
            expected: 2,
        },
        AdmitError::Rules(InvalidTransaction::IntrinsicGas {
            got: 1,
            required: 2,
        }),
        AdmitError::GasLimitTooHigh { got: 2, max: 1 },
        AdmitError::GasPriceTooLow { got: 1, min: 2 },
        AdmitError::Known { hash: HASH },
        AdmitError::NonceTooLow { got: 1, next: 2 },
        AdmitError::NonceTooHigh { got: 2, max: 1 },
        AdmitError::InsufficientFunds {
            balance: U256::ZERO,
            cost: one,
        },
        AdmitError::Underpriced {
            existing: HASH,
            percent: 10,
        },
        AdmitError::InFlight {
            nonce: 1,
            existing: HASH,
        },
        AdmitError::SenderFull { count: 1, max: 1 },
        AdmitError::PoolFull {
            transactions: 1,
            transactions_max: 1,
            bytes: 1,
            bytes_max: 1,
        },
    ];
    check(
        errors.into_iter().map(RpcError::from).collect(),
        &format!(
            "
            -32602 InvalidArgument: transaction does not decode: x
            -32602 InvalidArgument: transaction is followed by 2 superfluous bytes
            1001 InvalidArgument: signature s is above half of the curve order (EIP-2)
            1001 InvalidArgument: signature is invalid: no sender can be recovered
            -32005 ResourceExhausted: transaction has 2 bytes, at most 1 are allowed | {{\"reason\":\"tooLarge\",\"retryable\":false}}
            -32000 InvalidArgument: transaction is signed for chain id 1, this chain is 2
            800 FailedPrecondition: intrinsic gas too low: gas limit 1, required 2
            803 FailedPrecondition: gas limit 2 exceeds the block gas limit 1
            802 FailedPrecondition: gas price 1 is below this node's minimum 2
            1000 AlreadyExists: already known: {ZERO_HASH}
            1 FailedPrecondition: nonce too low: next nonce 2, tx nonce 1
            2 FailedPrecondition: nonce too high: tx nonce 2, at most 1 is accepted now
            809 FailedPrecondition: insufficient funds for gas * price + value: balance 0, tx cost 1
            -32000 FailedPrecondition: replacement transaction underpriced: fee cap and tip must rise by 10% over those of {ZERO_HASH}
            -32000 FailedPrecondition: nonce 1 is already being committed by {ZERO_HASH}
            -32003 ResourceExhausted: sender has 1 transactions in the pool, at most 1 are kept
            -32003 ResourceExhausted: pool is full: 1 of 1 transactions, 1 of 1 bytes
            "
        ),
    );
}

#[test]
fn transactions_that_cannot_begin_keep_codes_and_texts() {
    use InvalidTransaction as I;
    let one = U256::from(1);
    let errors = [
        I::NonceTooLow {
            got: 1,
            expected: 2,
        },
        I::NonceTooHigh {
            got: 2,
            expected: 1,
        },
        I::NonceOverflow { got: u64::MAX },
        I::InsufficientFunds {
            balance: U256::ZERO,
            cost: one,
        },
        I::CostOverflow,
        I::GasLimitAboveRemaining {
            got: 2,
            remaining: 1,
        },
        I::GasLimitAboveBlock { got: 2, max: 1 },
        I::GasLimitAboveCap { got: 2, max: 1 },
        I::IntrinsicGas {
            got: 1,
            required: 2,
        },
        I::FeeCapBelowBaseFee {
            got: 1,
            base_fee: 2,
        },
        I::TipAboveFeeCap { tip: 2, fee_cap: 1 },
        I::SenderHasCode {
            sender: Address::ZERO,
        },
        I::InitCodeTooLarge { got: 2, max: 1 },
        I::WrongChainId {
            got: None,
            expected: 2,
        },
        I::TypeNotSupported {
            tx_type: 4,
            fork: Fork::London,
        },
        I::BlobsRefused,
        I::BlobFeeCapTooLow { got: 1, price: 2 },
        I::NoBlobs,
        I::TooManyBlobs { got: 2, max: 1 },
        I::BlobVersion,
        I::RecipientMissing { tx_type: 4 },
        I::EmptyAuthorizationList,
        I::PrivateForm(quorate_chain::QuorumFormError::DataLength { got: 2 }),
    ];
    check(
        errors.into_iter().map(RpcError::from).collect(),
        "
        1 FailedPrecondition: nonce too low: next nonce 2, tx nonce 1
        2 FailedPrecondition: nonce too high: next nonce 1, tx nonce 2
        -32000 FailedPrecondition: nonce 18446744073709551615 is not allowed, the largest is 18446744073709551614
        809 FailedPrecondition: insufficient funds for gas * price + value: balance 0, tx cost 1
        -32000 FailedPrecondition: gas limit * price + value exceeds 256 bits
        803 FailedPrecondition: gas limit 2 exceeds the 1 gas that the block has left
        803 FailedPrecondition: gas limit 2 exceeds the block gas limit 1
        803 FailedPrecondition: gas limit 2 exceeds the limit per transaction 1 (EIP-7825)
        800 FailedPrecondition: intrinsic gas too low: gas limit 1, required 2
        806 FailedPrecondition: max fee per gas 1 is below the base fee 2
        804 FailedPrecondition: max priority fee per gas 2 exceeds max fee per gas 1
        -32000 FailedPrecondition: sender 0x0000000000000000000000000000000000000000 has code that is no delegation (EIP-3607)
        -32000 FailedPrecondition: init code has 2 bytes, at most 1 are allowed (EIP-3860)
        -32000 InvalidArgument: transaction is signed for chain id (none), this chain is 2
        -32000 InvalidArgument: transaction type 4 is not supported by fork London
        -32000 InvalidArgument: blob transactions (type 3) are not accepted on this chain
        -32000 InvalidArgument: max fee per blob gas 1 is below the blob base fee 2
        -32000 InvalidArgument: blob transaction without blobs
        -32000 InvalidArgument: transaction has 2 blobs, at most 1 are allowed
        -32000 InvalidArgument: blob hash is not of version 1
        -32000 InvalidArgument: transaction type 4 needs a recipient
        -32000 InvalidArgument: authorization list is empty (EIP-7702)
        -32000 InvalidArgument: data of a private transaction must be a payload hash of 64 bytes, got 2 bytes
        ",
    );
}

#[test]
fn everything_else_keeps_codes_and_texts() {
    let account = Address::ZERO;
    let errors = vec![
        RpcError::argument("block", "missing"),
        RpcError::Reverted {
            data: Bytes::from_static(&[1, 2]),
        },
        RpcError::Halted {
            reason: "out of gas".into(),
        },
        RpcError::GasAllowance { allowance: 1 },
        RpcError::UnknownBlock,
        RpcError::UnknownTransaction { hash: HASH },
        RpcError::UnknownFilter,
        RpcError::from(HistoryError::Pruned {
            requested: 1,
            first: 2,
        }),
        RpcError::from(StoreError::Pruned { below: 3 }),
        RpcError::from(FeedError::Store(StoreError::Pruned { below: 4 })),
        RpcError::from(ReadError::Pruned {
            height: 1,
            first: 5,
        }),
        RpcError::from(HistoryError::Future {
            requested: 2,
            head: 1,
        }),
        RpcError::from(ApplyError::Superseded { height: 1 }),
        RpcError::from(CallError::OverrideConflict { address: account }),
        RpcError::Limit {
            what: "filters",
            max: 1,
            unit: "at the same time",
        },
        RpcError::Busy {
            what: "too many calls",
        },
        RpcError::NoNotifications,
        RpcError::NoLeader,
        RpcError::Stopping,
        RpcError::WaitTimeout {
            hash: HASH,
            waited_ms: 5,
        },
        RpcError::Departed {
            hash: HASH,
            fate: Fate::Replaced { by: HASH },
        },
        RpcError::Departed {
            hash: HASH,
            fate: Fate::Expired,
        },
        RpcError::Departed {
            hash: HASH,
            fate: Fate::Dropped(DropReason::NonceUsed { height: 3 }),
        },
        RpcError::Sign(SignError::UnknownAccount { account }),
        RpcError::Sign(SignError::Locked { account }),
        RpcError::Sign(SignError::Failed { reason: "x".into() }),
        RpcError::Peer { reason: "x".into() },
        // Inner texts are for the log only.
        RpcError::from(ReadError::Storage {
            reason: "secret".into(),
        }),
        RpcError::from(StoreError::Poisoned),
        RpcError::from(CallError::Internal {
            reason: "secret".into(),
        }),
    ];
    check(
        errors,
        &format!(
            "
            -32602 InvalidArgument: invalid argument block: missing
            3 Aborted: execution reverted | 0x0102
            -32000 Aborted: out of gas
            -32000 FailedPrecondition: gas required exceeds allowance (1)
            -32001 NotFound: unknown block
            -32001 NotFound: transaction {ZERO_HASH} not found
            -32001 NotFound: filter not found
            4444 OutOfRange: pruned history unavailable: state is pruned below 2 | {{\"prunedBelow\":2}}
            4444 OutOfRange: pruned history unavailable: blocks are pruned below 3 | {{\"prunedBelow\":3}}
            4444 OutOfRange: pruned history unavailable: blocks are pruned below 4 | {{\"prunedBelow\":4}}
            4444 OutOfRange: pruned history unavailable: state is pruned below 5 | {{\"prunedBelow\":5}}
            -32001 NotFound: unknown block
            4444 OutOfRange: state at height 1 has no trie any more, the head moved on without it
            -32602 InvalidArgument: invalid argument stateOverrides: override of 0x0000000000000000000000000000000000000000: state and stateDiff exclude each other
            -32005 ResourceExhausted: filters: at most 1 at the same time | {{\"reason\":\"limit\",\"retryable\":false}}
            -32005 ResourceExhausted: node is busy: too many calls; try again later | {{\"reason\":\"busy\",\"retryable\":true}}
            -32601 Unimplemented: notifications not supported, use WebSocket
            -32002 Unavailable: no leader is currently elected | {{\"reason\":\"noLeader\",\"retryable\":true}}
            -32002 Unavailable: node is shutting down | {{\"reason\":\"stopping\",\"retryable\":true}}
            4 DeadlineExceeded: transaction {ZERO_HASH} was accepted and is not in a block after 5 ms | {ZERO_HASH}
            -32000 FailedPrecondition: transaction {ZERO_HASH} was replaced by {ZERO_HASH}
            -32000 FailedPrecondition: transaction {ZERO_HASH} waited too long and left the pool
            -32000 FailedPrecondition: transaction {ZERO_HASH} left the pool: its nonce was used by another transaction in block 3
            -32000 FailedPrecondition: unknown account 0x0000000000000000000000000000000000000000
            -32000 FailedPrecondition: authentication needed: account 0x0000000000000000000000000000000000000000 is locked
            -32603 Internal: signing failed: x
            -32602 InvalidArgument: peer was not added: x
            -32603 Internal: internal error
            -32603 Internal: internal error
            -32603 Internal: internal error
            "
        ),
    );
}

#[test]
fn refusals_of_membership_changes_keep_codes_texts_and_details() {
    let id = [0xab; 16];
    let errors = [
        MembershipError::NoLeader,
        MembershipError::Pending { change_id: None },
        MembershipError::Pending {
            change_id: Some(id),
        },
        MembershipError::QuorumAtRisk {
            needed: 2,
            reachable: 1,
            unreachable: vec![2, 3],
        },
        MembershipError::Invalid {
            field: "steps".into(),
            reason: "there is nothing to do".into(),
        },
        MembershipError::UnknownMember { raft_id: 7 },
        MembershipError::TableMoved {
            expected: 1,
            actual: 2,
        },
        MembershipError::NotApplied {
            reason: "the leader lost its term".into(),
        },
        MembershipError::Undecided { change_id: id },
        MembershipError::NotAMember,
        MembershipError::LearnerNotAllowed,
        // The reason is for the log only.
        MembershipError::Failed {
            reason: "secret".into(),
        },
    ];
    check(
        errors.into_iter().map(RpcError::from).collect(),
        r#"
        -32002 Unavailable: no leader is currently elected | {"reason":"noLeader","retryable":true}
        -32002 Unavailable: another membership change is not in force yet; repeat this one when it is | {"reason":"pending","retryable":true}
        -32002 Unavailable: another membership change (change id 0xabababababababababababababababab) is not in force yet; repeat this one when it is | {"changeId":"0xabababababababababababababababab","reason":"pending","retryable":true}
        -32000 FailedPrecondition: refused to protect the quorum: 2 voters would be needed and 1 are reachable and caught up (not counted: raft id 2, 3); force it only if you know better | {"needed":2,"reachable":1,"reason":"quorumAtRisk","retryable":false,"unreachable":[2,3]}
        -32602 InvalidArgument: invalid argument steps: there is nothing to do | {"field":"steps","reason":"invalid","retryable":false}
        -32001 NotFound: no member has raft id 7 | {"raftId":7,"reason":"unknownMember","retryable":false}
        -32000 Aborted: the member table has moved from index 1 to 2; look at it again before changing it | {"actual":2,"expected":1,"reason":"tableMoved","retryable":false}
        -32002 Unavailable: the change was not applied: the leader lost its term; it is safe to repeat it | {"reason":"notApplied","retryable":true}
        -32002 DeadlineExceeded: it is not known yet whether the change with id 0xabababababababababababababababab is applied; repeat it with the same change id to find out | {"changeId":"0xabababababababababababababababab","reason":"undecided","retryable":true}
        -32000 FailedPrecondition: node not part of raft cluster. operations not allowed | {"reason":"notAMember","retryable":true}
        -32000 FailedPrecondition: this node is a learner: it may only remove itself; ask a voter to add, promote or change members | {"reason":"learnerNotAllowed","retryable":true}
        -32603 Internal: internal error | {"reason":"failed","retryable":false}
        "#,
    );
    check(
        vec![
            RpcError::NewVoter(MembershipError::QuorumAtRisk {
                needed: 2,
                reachable: 1,
                unreachable: vec![],
            }),
            RpcError::NotALearner { raft_id: 7 },
            RpcError::UnknownNode { node: "x".into() },
            RpcError::TransferTimeout,
        ],
        r#"
        -32000 FailedPrecondition: refused to protect the quorum: 2 voters would be needed and 1 are reachable and caught up; force it only if you know better; a new voter counts only when it has caught up: add it with raft_addLearner, and when it follows use raft_promoteToPeer | {"needed":2,"reachable":1,"reason":"quorumAtRisk","retryable":false,"unreachable":[]}
        -32000 FailedPrecondition: 7 is not a learner. only learner can be promoted to peer
        -32001 NotFound: node not found in the cluster: x
        -32002 DeadlineExceeded: leadership was not handed over in time; the leader may be the same as before | {"reason":"handover","retryable":true}
        "#,
    );
}

#[test]
fn programs_read_the_fault_of_a_membership_change_from_the_status_details() {
    use prost::Message as _;
    use quorate_proto::{MEMBERSHIP_FAULT_TYPE, RichStatus, v1};
    use v1::membership_fault::Reason;

    let error = MembershipError::QuorumAtRisk {
        needed: 2,
        reachable: 1,
        unreachable: vec![3],
    };
    let status = RpcError::from(error).into_status();
    let rich = RichStatus::decode(status.details()).unwrap();
    assert_eq!(
        (rich.code, rich.message.as_str()),
        (Code::FailedPrecondition as i32, status.message())
    );
    assert_eq!(rich.details[0].type_url, MEMBERSHIP_FAULT_TYPE);
    let fault = v1::MembershipFault::decode(rich.details[0].value.clone()).unwrap();
    assert_eq!(
        fault,
        v1::MembershipFault {
            reason: Reason::QuorumAtRisk.into(),
            needed: 2,
            reachable: 1,
            unreachable: vec![3],
            ..v1::MembershipFault::default()
        }
    );
    assert_eq!(membership_fault(&status), Some(fault));
    assert!(RpcError::NoLeader.into_status().details().is_empty());
    assert_eq!(membership_fault(&RpcError::NoLeader.into_status()), None);
}

#[test]
fn refusals_of_private_transactions_keep_codes_texts_and_data() {
    let hash = quorate_enclave::PayloadHash::from_bytes([0; 64]);
    let contract = Address::ZERO;
    let behind = |payload, reason: &str| PrivacyError::Behind {
        wanted: 7,
        cursor: 5,
        payload,
        reason: reason.into(),
    };
    let errors = [
        PrivacyError::Off,
        PrivacyError::argument("privateFrom", "x"),
        PrivacyError::UnknownKey { key: "k".into() },
        PrivacyError::NotOurKey { key: "k".into() },
        PrivacyError::UnknownGroup { name: "g".into() },
        PrivacyError::AmbiguousGroup {
            name: "g".into(),
            count: 2,
        },
        PrivacyError::UnknownPayload { hash },
        PrivacyError::PayloadMissing { hash },
        PrivacyError::Refused { reason: "r".into() },
        PrivacyError::Reverted {
            data: vec![1].into(),
        },
        PrivacyError::NotAcknowledged {
            nodes: vec!["a".into(), "b".into()],
            waited_ms: 9,
        },
        PrivacyError::RefusedByRecipient {
            node: "a".into(),
            reason: "r".into(),
        },
        PrivacyError::Conflict { contract },
        behind(Some(hash), ""),
        behind(Some(hash), "r"),
        behind(None, ""),
        PrivacyError::BeforeStart {
            wanted: 1,
            starts_at: 4,
        },
        PrivacyError::Halted { reason: "r".into() },
        PrivacyError::Enclave { reason: "r".into() },
        PrivacyError::Busy { what: "w".into() },
        PrivacyError::Stopping,
        PrivacyError::internal("secret"),
    ];
    let mut errors: Vec<RpcError> = errors.map(RpcError::from).into();
    errors.push(RpcError::PrivateForm);
    errors.push(RpcError::UnknownContract { address: contract });
    errors.push(RpcError::UnknownExtension { address: contract });
    let zeros = format!("0x{}", "00".repeat(64));
    check(
        errors,
        &format!(
            r#"
            -32000 FailedPrecondition: private transactions are switched off on this node | {{"reason":"off","retryable":false}}
            -32602 InvalidArgument: invalid argument privateFrom: x
            -32000 FailedPrecondition: recipient not found for key: k | {{"key":"k","reason":"unknownKey","retryable":false}}
            -32000 FailedPrecondition: privateFrom k is not a key of this node
            -32001 NotFound: there is no privacy group "g"
            -32602 InvalidArgument: 2 privacy groups are named "g"; name one by its id
            -32001 NotFound: there is no payload {zeros} on this node
            -32014 Unavailable: payload {zeros} is not here, and this node may be a party of it: not all members have told it yet what they have, or they erased it | {{"payload":"{zeros}","reason":"payloadMissing","retryable":true}}
            -32000 FailedPrecondition: r
            3 Aborted: execution reverted | 0x01
            -32016 Unavailable: payload was not acknowledged within 9 ms by a, b | {{"nodes":["a","b"],"reason":"notAcknowledged","retryable":true,"waitedMs":9}}
            -32016 FailedPrecondition: payload was refused by a: r | {{"node":"a","reason":"refusedByRecipient","retryable":false}}
            -32015 Aborted: contract {contract} is being changed by another transaction under private state validation; send it again | {{"contract":"{contract}","reason":"conflict","retryable":true}}
            -32014 Unavailable: private state at block 5, waiting for payload {zeros} | {{"block":7,"cursor":5,"payload":"{zeros}","reason":"behind","retryable":true}}
            -32014 Unavailable: private state at block 5, waiting for payload {zeros}: r | {{"block":7,"cursor":5,"payload":"{zeros}","reason":"behind","retryable":true}}
            -32014 Unavailable: private state at block 5, block 7 is not executed yet | {{"block":7,"cursor":5,"payload":null,"reason":"behind","retryable":true}}
            4444 OutOfRange: private state of block 1 is not on this node: it begins at block 4 | {{"block":1,"reason":"beforeStart","retryable":false,"startsAt":4}}
            -32014 FailedPrecondition: private execution has halted: r | {{"reason":"halted","retryable":false}}
            -32002 Unavailable: enclave: r | {{"reason":"enclave","retryable":true}}
            -32005 ResourceExhausted: node is busy: w; try again later | {{"reason":"busy","retryable":true}}
            -32002 Unavailable: node is shutting down | {{"reason":"stopping","retryable":true}}
            -32603 Internal: internal error
            -32000 InvalidArgument: this is a private transaction (v 37 or 38): send it with eth_sendRawPrivateTransaction and its privateFor
            -32001 NotFound: there is no private contract {contract} on this node
            -32001 NotFound: there is no extension {contract} on this node
            "#
        ),
    );
}

#[test]
fn solidity_errors_are_spelt_out() {
    let word = |n: u8| format!("{}{n:02x}", "00".repeat(31));
    let error = |offset: u8, length: u8, text: &str| {
        format!("08c379a0{}{}{text}", word(offset), word(length))
    };
    let cases = [
        (error(0x20, 2, "6e6f"), "execution reverted: no"),
        // Lengths and offsets that lie are not believed.
        (error(0x20, 3, "6e6f"), "execution reverted"),
        (error(0xff, 2, "6e6f"), "execution reverted"),
        (
            format!("08c379a0{}{}", "ff".repeat(32), word(2)),
            "execution reverted",
        ),
        ("08c379a0".into(), "execution reverted"),
        (
            format!("4e487b71{}", word(0x11)),
            "execution reverted: arithmetic underflow or overflow",
        ),
        (
            format!("4e487b71{}", word(0x99)),
            "execution reverted: unknown panic code: 0x99",
        ),
        (String::new(), "execution reverted"),
    ];
    for (data, expected) in cases {
        assert_eq!(
            revert_text(&hex::decode(&data).unwrap()),
            expected,
            "{data}"
        );
    }
}
