//! Which failures are tried again, and that a change keeps its id while they are.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use quorate_proto::v1::membership_server::{Membership, MembershipServer};
use quorate_rpc::{MembershipError, RpcError};
use tokio::net::TcpListener;
use tonic::Response;
use tonic::transport::Server;

use super::*;

fn fault(reason: Reason, retryable: bool) -> v1::MembershipFault {
    v1::MembershipFault {
        reason: reason.into(),
        retryable,
        ..v1::MembershipFault::default()
    }
}

#[test]
fn what_another_member_or_a_moment_may_cure_is_tried_again() {
    let status = |code| Status::new(code, "");
    let cases = [
        (
            Code::Unavailable,
            Some((Reason::NoLeader, true)),
            Verdict::Later,
            false,
        ),
        (
            Code::Unavailable,
            Some((Reason::Pending, true)),
            Verdict::Later,
            false,
        ),
        (
            Code::Unavailable,
            Some((Reason::NotApplied, true)),
            Verdict::Later,
            false,
        ),
        (
            Code::DeadlineExceeded,
            Some((Reason::Undecided, true)),
            Verdict::Later,
            true,
        ),
        (
            Code::FailedPrecondition,
            Some((Reason::NotAMember, true)),
            Verdict::Elsewhere,
            false,
        ),
        (
            Code::FailedPrecondition,
            Some((Reason::LearnerNotAllowed, true)),
            Verdict::Elsewhere,
            false,
        ),
        (
            Code::FailedPrecondition,
            Some((Reason::QuorumAtRisk, false)),
            Verdict::Final,
            false,
        ),
        (
            Code::Aborted,
            Some((Reason::TableMoved, false)),
            Verdict::Final,
            false,
        ),
        (Code::Unavailable, None, Verdict::Later, true),
        (Code::Unknown, None, Verdict::Later, true),
        (Code::DeadlineExceeded, None, Verdict::Later, true),
        (Code::ResourceExhausted, None, Verdict::Later, false),
        (Code::Unimplemented, None, Verdict::Elsewhere, false),
        (Code::InvalidArgument, None, Verdict::Final, false),
        (Code::Internal, None, Verdict::Final, true),
    ];
    for (code, reason, expected, uncertain) in cases {
        let fault = reason.map(|(reason, retryable)| fault(reason, retryable));
        assert_eq!(
            verdict(&status(code), fault.as_ref()),
            expected,
            "{code:?} {reason:?}"
        );
        assert_eq!(
            is_uncertain(&status(code), fault.as_ref()),
            uncertain,
            "{code:?} {reason:?}"
        );
    }
}

type Watched = futures::stream::Empty<Result<v1::MembershipView, Status>>;
type Answer = Result<v1::ChangeMembersResponse, Status>;

/// A member that plays a list of answers and remembers what it was asked.
#[derive(Debug, Clone, Default)]
struct ScriptedMember {
    answers: Arc<Mutex<VecDeque<Answer>>>,
    asked: Arc<Mutex<Vec<v1::ChangeMembersRequest>>>,
}

#[tonic::async_trait]
impl Membership for ScriptedMember {
    type WatchChangesStream = Watched;

    async fn list(
        &self,
        _: Request<v1::ListMembersRequest>,
    ) -> Result<Response<v1::MembershipView>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn change(
        &self,
        request: Request<v1::ChangeMembersRequest>,
    ) -> Result<Response<v1::ChangeMembersResponse>, Status> {
        self.asked.lock().unwrap().push(request.into_inner());
        let answer = self.answers.lock().unwrap().pop_front();
        answer
            .expect("the script is long enough")
            .map(Response::new)
    }

    async fn add_learner(
        &self,
        _: Request<v1::AddLearnerRequest>,
    ) -> Result<Response<v1::ChangeMembersResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn promote(
        &self,
        _: Request<v1::PromoteMembersRequest>,
    ) -> Result<Response<v1::ChangeMembersResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn remove(
        &self,
        _: Request<v1::RemoveMembersRequest>,
    ) -> Result<Response<v1::ChangeMembersResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn transfer_leadership(
        &self,
        _: Request<v1::TransferLeadershipRequest>,
    ) -> Result<Response<v1::TransferLeadershipResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn watch_changes(
        &self,
        _: Request<v1::WatchMembershipRequest>,
    ) -> Result<Response<Watched>, Status> {
        Err(Status::unimplemented(""))
    }
}

/// A running member; its address, and what it was asked.
async fn scripted(answers: Vec<Answer>) -> (String, ScriptedMember) {
    let member = ScriptedMember::default();
    member.answers.lock().unwrap().extend(answers);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address: SocketAddr = listener.local_addr().unwrap();
    let incoming = futures::stream::unfold(listener, |listener| async {
        let accepted = listener.accept().await.map(|(stream, _)| stream);
        Some((accepted, listener))
    });
    let served = Server::builder()
        .add_service(MembershipServer::new(member.clone()))
        .serve_with_incoming(incoming);
    tokio::spawn(served);
    (format!("http://{address}"), member)
}

/// An address where nothing listens.
async fn nobody() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    format!("http://{}", listener.local_addr().unwrap())
}

fn refusal(error: MembershipError) -> Answer {
    Err(RpcError::from(error).into_status())
}

async fn change(
    grpc: Vec<String>,
    timeout: Duration,
) -> Result<v1::ChangeMembersResponse, Refused> {
    let members = Members { grpc, timeout };
    let request = v1::ChangeMembersRequest {
        change_id: vec![7; 16].into(),
        ..v1::ChangeMembersRequest::default()
    };
    members
        .ask(request, ATTEMPT, async |client, request| {
            Ok(client.change(request).await?.into_inner())
        })
        .await
}

/// A scripted member answers in less.
const ATTEMPT: Duration = Duration::from_secs(2);
/// Longer than any test takes.
const PATIENCE: Duration = Duration::from_secs(60);

#[tokio::test]
async fn members_that_cannot_help_are_passed_over_and_the_id_stays_the_same() {
    let done = v1::ChangeMembersResponse {
        table_index: 9,
        ..v1::ChangeMembersResponse::default()
    };
    let (learner, asked_first) = scripted(vec![
        refusal(MembershipError::LearnerNotAllowed),
        refusal(MembershipError::LearnerNotAllowed),
    ])
    .await;
    let (voter, asked_second) = scripted(vec![
        refusal(MembershipError::Undecided { change_id: [7; 16] }),
        Ok(done.clone()),
    ])
    .await;
    let answer = change(vec![nobody().await, learner, voter], PATIENCE).await;
    assert_eq!(answer, Ok(done));
    let (first, second) = (
        asked_first.asked.lock().unwrap(),
        asked_second.asked.lock().unwrap(),
    );
    assert_eq!((first.len(), second.len()), (2, 2));
    for request in first.iter().chain(second.iter()) {
        assert_eq!(request.change_id, vec![7; 16]);
    }
}

#[tokio::test]
async fn a_refusal_on_its_merits_ends_the_attempts() {
    let (one, _) = scripted(vec![refusal(MembershipError::UnknownMember { raft_id: 5 })]).await;
    let (other, asked) = scripted(vec![]).await;
    let refused = change(vec![one.clone(), other], PATIENCE)
        .await
        .unwrap_err();
    assert_eq!(
        refused,
        Refused {
            text: format!("{one}: no member has raft id 5"),
            reason: Some(Reason::UnknownMember),
            uncertain: false,
        }
    );
    assert_eq!(asked.asked.lock().unwrap().len(), 0);
}

#[tokio::test]
async fn when_nobody_can_help_the_attempts_end_at_once() {
    let (one, _) = scripted(vec![refusal(MembershipError::NotAMember)]).await;
    let (other, _) = scripted(vec![refusal(MembershipError::LearnerNotAllowed)]).await;
    let refused = change(vec![one, other], PATIENCE).await.unwrap_err();
    assert_eq!(refused.reason, Some(Reason::NotAMember));
    assert!(!refused.uncertain);
}

#[tokio::test]
async fn an_outcome_that_stays_unknown_is_said_to_be() {
    let (one, _) = scripted(vec![refusal(MembershipError::Undecided {
        change_id: [7; 16],
    })])
    .await;
    // No time for a second attempt.
    let refused = change(vec![one], PAUSE.0).await.unwrap_err();
    assert_eq!(
        (refused.reason, refused.uncertain),
        (Some(Reason::Undecided), true)
    );
    let refused = change(vec![nobody().await], Duration::from_millis(1))
        .await
        .unwrap_err();
    assert!(
        refused.text.contains("does not answer gRPC"),
        "{}",
        refused.text
    );
    assert!(!refused.uncertain, "nothing was sent");
    let refused = change(vec!["https://a:1".into()], Duration::ZERO)
        .await
        .unwrap_err();
    assert!(
        refused.text.contains("is not http://host:port"),
        "{}",
        refused.text
    );
}

#[tokio::test]
async fn a_member_that_hangs_is_passed_over() {
    // Its kernel accepts connections; nobody reads what arrives.
    let hung = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let hung_url = format!("http://{}", hung.local_addr().unwrap());
    let (voter, asked) = scripted(vec![Ok(v1::ChangeMembersResponse::default())]).await;
    let answer = change(vec![hung_url, voter], PATIENCE).await;
    assert_eq!(answer, Ok(v1::ChangeMembersResponse::default()));
    assert_eq!(asked.asked.lock().unwrap().len(), 1);
    drop(hung);
}
