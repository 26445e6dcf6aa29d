//! Changes over gRPC.

use std::time::Duration;

use futures::StreamExt as _;
use quorate_proto::v1::change_step::Step;
use quorate_rpc::MembershipError;
use tonic::Request;

use super::*;
use crate::members::Script;

fn learner(n: u8, address: &str) -> v1::AddMember {
    v1::AddMember {
        node_id: node_id(n).as_bytes().to_vec().into(),
        address: address.into(),
        organisation: "New".into(),
        role: v1::MemberRole::Learner.into(),
    }
}

fn steps(steps: Vec<Step>) -> v1::ChangeMembersRequest {
    v1::ChangeMembersRequest {
        steps: steps
            .into_iter()
            .map(|step| v1::ChangeStep { step: Some(step) })
            .collect(),
        ..v1::ChangeMembersRequest::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_over_grpc_answer_when_they_are_in_force() {
    let node = consortium().await;
    let mut client = connect(&node).await;
    let report = client
        .add_learner(v1::AddLearnerRequest {
            change_id: vec![7; 16].into(),
            node_id: node_id(5).as_bytes().to_vec().into(),
            address: "node5:1".into(),
            organisation: "Five".into(),
        })
        .await
        .unwrap()
        .into_inner();
    assert_eq!(
        report,
        v1::ChangeMembersResponse {
            change_id: vec![7; 16].into(),
            table_index: 2,
            added: vec![5],
            joint: false,
        }
    );
    let promoted = client
        .promote(v1::PromoteMembersRequest {
            raft_ids: vec![4, 5],
            ..v1::PromoteMembersRequest::default()
        })
        .await
        .unwrap()
        .into_inner();
    assert_eq!((promoted.change_id.len(), promoted.joint), (16, true));
    let removed = client
        .remove(v1::RemoveMembersRequest {
            raft_ids: vec![2, 3],
            ..v1::RemoveMembersRequest::default()
        })
        .await
        .unwrap()
        .into_inner();
    assert_eq!(removed.table_index, 4);
    let changed = client
        .change(steps(vec![
            Step::Add(learner(6, "node6:1")),
            Step::SetRole(v1::SetMemberRole {
                raft_id: 5,
                role: v1::MemberRole::Learner.into(),
            }),
            Step::SetAddress(v1::SetMemberAddress {
                raft_id: 4,
                address: "moved:1".into(),
            }),
        ]))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(changed.added, [6]);
    let transferred = client.transfer_leadership(v1::TransferLeadershipRequest { raft_id: 4 });
    assert_eq!(transferred.await.unwrap().into_inner().leader, 4);
    let view = client
        .list(v1::ListMembersRequest {})
        .await
        .unwrap()
        .into_inner();
    assert_eq!(view.leader, 4);
    let shown: Vec<(u64, i32, String)> = view
        .members
        .into_iter()
        .map(|m| (m.raft_id, m.role, m.address))
        .collect();
    let (voter, learner) = (
        i32::from(v1::MemberRole::Voter),
        i32::from(v1::MemberRole::Learner),
    );
    assert_eq!(
        shown,
        [
            (1, voter, "node1:30303".to_owned()),
            (4, voter, "moved:1".to_owned()),
            (5, learner, "node5:1".to_owned()),
            (6, learner, "node6:1".to_owned()),
        ]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn malformed_changes_over_grpc_name_their_field() {
    let node = consortium().await;
    let mut client = connect(&node).await;
    let role = |role: i32| Step::SetRole(v1::SetMemberRole { raft_id: 4, role });
    let new = |node_id: &[u8]| {
        Step::Add(v1::AddMember {
            node_id: node_id.to_vec().into(),
            ..learner(5, "node5:1")
        })
    };
    let cases = [
        (steps(vec![]), "steps: there is nothing to do"),
        (
            steps((1..=257).map(Step::Remove).collect()),
            "steps: 257 given, at most 256",
        ),
        (
            v1::ChangeMembersRequest {
                steps: vec![v1::ChangeStep { step: None }],
                ..v1::ChangeMembersRequest::default()
            },
            "steps: a step says nothing to do",
        ),
        (
            v1::ChangeMembersRequest {
                change_id: vec![1].into(),
                ..steps(vec![Step::Remove(4)])
            },
            "change_id: must have 16 bytes",
        ),
        (steps(vec![role(0)]), "role: must be voter or learner"),
        (steps(vec![role(3)]), "role: must be voter or learner"),
        (steps(vec![new(&[2; 32])]), "node_id: must have 33 bytes"),
        (steps(vec![new(&[9; 33])]), "node_id: node id is not"),
        (steps(vec![Step::Remove(0)]), "steps[0].raftId"),
        (
            steps(vec![Step::Add(learner(5, "node5"))]),
            "steps[0].address",
        ),
        (
            steps(vec![Step::Add(learner(5, "node2:30303"))]),
            "already using",
        ),
        (
            steps(vec![Step::Add(learner(2, "node5:1"))]),
            "already been added",
        ),
    ];
    for (change, text) in cases {
        let status = client.change(change).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{text}");
        assert!(status.message().contains(text), "{}", status.message());
    }
    assert_eq!(node.membership.applied(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_over_grpc_carry_a_fault_for_programs() {
    let node = consortium().await;
    let mut client = connect(&node).await;
    node.membership
        .script(Script::Refuse(MembershipError::Pending {
            change_id: Some([3; 16]),
        }));
    let change = steps(vec![Step::Remove(4)]);
    let status = client.change(change.clone()).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    let told = fault(&status);
    assert_eq!(
        (told.reason(), told.retryable, told.change_id),
        (Reason::Pending, true, vec![3; 16].into())
    );
    node.membership
        .script(Script::Refuse(MembershipError::Failed {
            reason: "secret".into(),
        }));
    let status = client.change(change).await.unwrap_err();
    assert_eq!(
        (status.code(), status.message()),
        (Code::Internal, "internal error")
    );
    assert!(!String::from_utf8_lossy(status.details()).contains("secret"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_outlasts_the_deadline_is_undecided_and_can_be_asked_for_again() {
    let node = consortium().await;
    let mut client = connect(&node).await;
    node.membership.script(Script::Vanish);
    let change = v1::AddLearnerRequest {
        node_id: node_id(5).as_bytes().to_vec().into(),
        address: "node5:1".into(),
        ..v1::AddLearnerRequest::default()
    };
    // The server answers before the client gives up, and names the id that it chose.
    let mut request = Request::new(change.clone());
    request.set_timeout(Duration::from_secs(2));
    let status = client.add_learner(request).await.unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded);
    let told = fault(&status);
    assert_eq!(
        (told.reason(), told.change_id.len()),
        (Reason::Undecided, 16)
    );
    assert_eq!(node.membership.applied(), 2);
    let again = v1::AddLearnerRequest {
        change_id: told.change_id,
        ..change
    };
    let report = client.add_learner(again).await.unwrap().into_inner();
    assert_eq!(report.added, [5]);
    assert_eq!(node.membership.applied(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_stops_leaves_a_waiting_change_undecided() {
    let node = consortium().await;
    let mut client = connect(&node).await;
    node.membership.script(Script::Vanish);
    let change = steps(vec![Step::Remove(4)]);
    let waiting = tokio::spawn(async move { client.change(change).await });
    crate::chain::wait_until("the change is asked for", || node.membership.applied() == 2).await;
    node.stop.cancel();
    let status = waiting.await.unwrap().unwrap_err();
    assert_eq!(fault(&status).reason(), Reason::Undecided);
}

#[tokio::test(flavor = "multi_thread")]
async fn watchers_see_the_view_at_once_and_each_change_but_no_progress() {
    let node = TestNode::start().await;
    let mut client = connect(&node).await;
    let mut views = client
        .watch_changes(v1::WatchMembershipRequest {})
        .await
        .unwrap()
        .into_inner();
    let first = views.next().await.unwrap().unwrap();
    assert_eq!((first.table_index, first.members.len()), (0, 1));
    // Progress alone is no news: the next message is that of the change.
    node.membership.edit(|view| view.members[0].lag = Some(5));
    let url = enode(2, "node2:30303");
    assert_eq!(call(node.rpc, "raft_addLearner", json!([url])).await, 2);
    let second = views.next().await.unwrap().unwrap();
    assert_eq!((second.table_index, second.members.len()), (1, 2));
    assert_eq!(second.members[0].lag, Some(5));
    node.membership
        .edit(|view| view.members[1].connected = true);
    assert!(views.next().await.unwrap().unwrap().members[1].connected);
    node.stop.cancel();
    assert!(views.next().await.is_none_or(|last| last.is_err()));
}
