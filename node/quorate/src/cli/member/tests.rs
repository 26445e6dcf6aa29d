//! What operators type, and what they get to read.

use std::time::UNIX_EPOCH;

use clap::{FromArgMatches as _, Subcommand as _};
use quorate_chain::{Member, NodeId};
use quorate_rpc::{Applicant, BreakRecord, MemberState, RemovedMember};

use super::*;

const KEYS: [&str; 4] = [
    "0x0279be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798",
    "0x02c6047f9441ed7d6d3045406e95c07cd85c778e4b8cef3ca7abac09b95c709ee5",
    "0x02f9308a019258c31049344f85f89d5229b531c845836f99b08601f113bce036f9",
    "0x02e493dbf1c10d80f3581e4904930b1404cc6c13900ee0758474fa94abe8c4cd13",
];

fn key(n: usize) -> NodeId {
    KEYS[n].parse().unwrap()
}

fn parse(args: &[&str]) -> Result<MemberCommand, String> {
    let command = MemberCommand::augment_subcommands(clap::Command::new("member"));
    let matches = command
        .try_get_matches_from([&["member"], args].concat())
        .map_err(|e| e.to_string())?;
    MemberCommand::from_arg_matches(&matches).map_err(|e| e.to_string())
}

#[track_caller]
fn parsed(args: &[&str]) -> MemberCommand {
    parse(args).unwrap_or_else(|e| panic!("{args:?}: {e}"))
}

fn member(raft_id: u64, role: MemberRole, organisation: &str) -> MemberState {
    MemberState {
        member: Member {
            raft_id,
            node_id: key((raft_id - 1) as usize % 4),
            address: format!("node{raft_id}:30303"),
            organisation: organisation.into(),
            role,
        },
        leaving: false,
        outgoing_voter: false,
        connected: true,
        lag: Some(0),
        enclave_keys: Vec::new(),
        keys_sequence: 0,
    }
}

fn consortium() -> MembershipView {
    MembershipView {
        table_index: 41,
        joint: false,
        term: 3,
        leader: Some(1),
        next_raft_id: 12,
        this: Some(2),
        members: vec![
            member(1, MemberRole::Voter, "Bank A"),
            member(2, MemberRole::Voter, "Bank B"),
            MemberState {
                connected: false,
                lag: None,
                ..member(11, MemberRole::Learner, "")
            },
        ],
        ..MembershipView::default()
    }
}

#[test]
fn a_change_is_read_from_its_flags_in_a_fixed_order() {
    let (first, second) = (
        format!("{}@a:1", KEYS[0]),
        format!("{}@/ip4/10.0.0.1/tcp/2", KEYS[1]),
    );
    let command = parsed(&[
        "change",
        "--remove",
        "1",
        "--remove",
        "2",
        "--add-learner",
        &second,
        "--add-voter",
        &first,
        "--promote",
        "3",
        "--demote",
        "4",
        "--set-address",
        "5=b:3",
        "--organisation",
        "Org",
        "--force",
        "--change-id",
        "000102030405060708090a0b0c0d0e0f",
        "--if-table-index",
        "7",
        "--grpc",
        "http://a:1",
        "--grpc",
        "http://b:1",
        "--timeout",
        "5s",
    ]);
    let MemberCommand::Change(args) = command else {
        panic!("{command:?}");
    };
    assert_eq!(args.options.members.urls(), ["http://a:1", "http://b:1"]);
    assert_eq!(args.if_table_index, Some(7));
    let request = args.options.request(args.steps());
    let add = |n: usize, address: &str, role| ChangeStep::Add {
        node_id: key(n),
        address: address.into(),
        organisation: "Org".into(),
        role,
    };
    let id: [u8; 16] = std::array::from_fn(|i| i as u8);
    assert_eq!(
        request,
        ChangeRequest {
            change_id: Some(id),
            steps: vec![
                add(0, "a:1", MemberRole::Voter),
                add(1, "/ip4/10.0.0.1/tcp/2", MemberRole::Learner),
                ChangeStep::SetRole {
                    raft_id: 3,
                    role: MemberRole::Voter
                },
                ChangeStep::SetRole {
                    raft_id: 4,
                    role: MemberRole::Learner
                },
                ChangeStep::SetAddress {
                    raft_id: 5,
                    address: "b:3".into()
                },
                ChangeStep::Remove { raft_id: 1 },
                ChangeStep::Remove { raft_id: 2 },
            ],
            force: true,
            if_table_index: None,
        }
    );
    let wire = to_wire(&request);
    assert_eq!((wire.steps.len(), wire.force), (7, true));
    assert_eq!(wire.change_id, id.to_vec());
}

#[test]
fn an_address_may_stand_beside_the_key_or_with_it() {
    let named = |args: &[&str]| match parsed(args) {
        MemberCommand::Add(args) => args.named().map_err(|e| e.to_string()),
        other => panic!("{other:?}"),
    };
    let url = format!("{}@a:1", KEYS[0]);
    let expected = Ok((key(0), "a:1".to_owned()));
    assert_eq!(named(&["add", KEYS[0], "a:1"]), expected);
    assert_eq!(
        named(&["add", &url, "--promote", "--wait-caught-up"]),
        expected
    );
    assert!(named(&["add", KEYS[0]]).unwrap_err().contains("where"));
    assert!(
        named(&["add", &url, "b:1"])
            .unwrap_err()
            .contains("two addresses")
    );
}

#[test]
fn what_cannot_be_meant_is_refused_with_what_can() {
    let bare = KEYS[0];
    let cases: [(&[&str], &str); 12] = [
        (&["remove"], "RAFT_ID"),
        (&["remove", "0"], "they are numbers from 1"),
        (&["promote", "x"], "they are numbers from 1"),
        (&["add"], "NODE"),
        (&["add", "0x12", "a:1"], "node id must be 33 bytes"),
        (&["add", bare, "a:1", "--promote"], "--wait-caught-up"),
        (
            &[
                "add",
                bare,
                "a:1",
                "--voter",
                "--promote",
                "--wait-caught-up",
            ],
            "cannot be used with",
        ),
        (&["change", "--add-voter", bare], "must be enode://"),
        (
            &["change", "--set-address", "5"],
            "must be <raft id>=<address>",
        ),
        (
            &["change", "--set-address", "0=a:1"],
            "they are numbers from 1",
        ),
        (
            &["remove", "1", "--change-id", "12"],
            "32 hexadecimal digits",
        ),
        (&["transfer", "1", "2"], "unexpected argument"),
    ];
    for (args, text) in cases {
        let error = parse(args).unwrap_err();
        assert!(error.contains(text), "{args:?}: {error}");
    }
}

#[test]
fn each_change_has_an_id_of_its_own() {
    let MemberCommand::Remove(args) = parsed(&["remove", "1"]) else {
        panic!("not a removal");
    };
    let id = || args.options.request(Vec::new()).change_id.unwrap();
    assert_ne!(id(), id());
    assert_eq!(
        ChangeId([0xab; 16]).to_string().parse(),
        Ok(ChangeId([0xab; 16]))
    );
}

#[test]
fn the_table_shows_who_leads_who_lags_and_what_to_do_for_applicants() {
    let view = MembershipView {
        removed: vec![RemovedMember {
            raft_id: 9,
            node_id: key(3),
            organisation: "Gone".into(),
        }],
        breaks: vec![BreakRecord {
            raft_index: 70,
            term: 2,
            survivor: 1,
            lost: vec![7, 8],
            note: "fire\u{1b}[2J".into(),
        }],
        applicants: vec![Applicant {
            node_id: key(3),
            addresses: vec!["/ip4/10.0.0.9/tcp/30303".into()],
            last_seen: UNIX_EPOCH + Duration::from_secs(100),
        }],
        ..consortium()
    };
    let expected = "\
member table at log index 41, term 3, raft id 1 leads, as raft id 2 sees it
raft id  role     leader  node id            address       organisation  connected  lag
      1  voter    *       0x0279be66…f81798  node1:30303   Bank A        yes          0
      2  voter            0x02c6047f…709ee5  node2:30303   Bank B        yes          0
     11  learner          0x02f9308a…e036f9  node11:30303                no           ?
removed for ever: 9 (Gone)
BREAK at log index 70, term 2: raft id 1 went on alone by force, given up were raft id 7, 8: fire\u{fffd}[2J
waiting to be admitted:
  quorate member add 0x02e493dbf1c10d80f3581e4904930b1404cc6c13900ee0758474fa94abe8c4cd13 /ip4/10.0.0.9/tcp/30303    (asked 12 s ago)";
    assert_eq!(
        table::text(&view, UNIX_EPOCH + Duration::from_secs(112)),
        expected
    );
}

#[test]
fn the_table_shows_a_joint_configuration_and_a_node_that_is_no_member() {
    let mut view = MembershipView {
        joint: true,
        leader: None,
        this: None,
        ..consortium()
    };
    view.members[0].leaving = true;
    view.members[1].member.role = MemberRole::Learner;
    view.members[1].outgoing_voter = true;
    let expected = "\
member table at log index 41, term 3, no leader is elected, as a node sees it that is no member
raft id  role                  leader  node id            address       organisation  connected  lag
      1  voter, leaving                0x0279be66…f81798  node1:30303   Bank A        yes          0
      2  learner, still votes          0x02c6047f…709ee5  node2:30303   Bank B        yes          0
     11  learner                       0x02f9308a…e036f9  node11:30303                no           ?
A change is under way: majorities of the old and of the new voters are both needed until it is in force.";
    assert_eq!(table::text(&view, UNIX_EPOCH), expected);
}

#[test]
fn a_view_survives_the_wire() {
    let wire = v1::MembershipView {
        table_index: 1,
        this_raft_id: 0,
        leader: 2,
        members: vec![v1::MemberState {
            raft_id: 2,
            node_id: key(0).as_bytes().to_vec().into(),
            role: v1::MemberRole::Voter.into(),
            lag: Some(0),
            enclave_keys: vec![v1::EnclaveKey {
                key: vec![7; 32].into(),
                hybrid_digest: vec![8; 32].into(),
            }],
            keys_sequence: 2,
            ..v1::MemberState::default()
        }],
        ..v1::MembershipView::default()
    };
    let view = from_wire(wire.clone()).unwrap();
    assert_eq!((view.this, view.leader), (None, Some(2)));
    assert_eq!(view.members[0].lag, Some(0));
    assert_eq!(table::json(&view)["members"][0]["role"], "voter");
    let shown = &table::json(&view)["members"][0];
    assert_eq!(
        shown["enclaveKeys"],
        serde_json::json!([{
            "key": "BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=",
            "hybridDigest": format!("0x{}", "08".repeat(32)),
        }])
    );
    assert_eq!(shown["keysSequence"], 2);
    let mut strange = wire.clone();
    strange.members[0].enclave_keys[0].key = vec![7; 31].into();
    assert!(from_wire(strange).is_err());
    let mut strange = wire.clone();
    strange.members[0].role = 7;
    assert!(from_wire(strange).is_err());
    let mut strange = wire;
    strange.members[0].node_id = vec![2; 5].into();
    assert!(from_wire(strange).is_err());
}

#[test]
fn a_dry_run_shows_the_members_then_and_whether_it_takes_a_joint_configuration() {
    let view = consortium();
    let request = |steps: Vec<ChangeStep>| ChangeRequest {
        steps,
        ..ChangeRequest::default()
    };
    let remove = |raft_id| ChangeStep::Remove { raft_id };
    let promote = |raft_id| ChangeStep::SetRole {
        raft_id,
        role: MemberRole::Voter,
    };
    let add = ChangeStep::Add {
        node_id: key(3),
        address: "new:1".into(),
        organisation: "New".into(),
        role: MemberRole::Voter,
    };
    let planned = plan(&request(vec![remove(2), add.clone(), promote(11)]), &view).unwrap();
    assert_eq!(
        plan_text(&planned),
        "\
Nothing was changed. The members would be, through a joint configuration:
raft id  role   leader  node id            address       organisation  connected  lag
      1  voter  *       0x0279be66…f81798  node1:30303   Bank A        yes          0
     11  voter          0x02f9308a…e036f9  node11:30303                no           ?
     12  voter          0x02e493db…c4cd13  new:1         New           no           ?
3 voters, 2 of them needed for a majority; 1 of them are connected to the member that was asked"
    );
    let joint = |steps| plan(&request(steps), &view).unwrap().joint;
    assert!(!joint(vec![remove(2)]));
    assert!(joint(vec![remove(1)]), "the leader goes");
    assert!(!joint(vec![remove(11)]));
    assert!(!joint(vec![promote(11)]));
    let refused = |steps| plan(&request(steps), &view).unwrap_err().to_string();
    assert!(refused(vec![remove(5)]).contains("no member has raft id 5"));
    assert!(refused(vec![remove(1), remove(2)]).contains("no voter would be left"));
    assert!(refused(vec![]).contains("nothing to do"));
}

#[test]
fn refusals_say_what_to_do_next_and_how_to_find_out_what_happened() {
    let refused = |reason, uncertain| Refused {
        text: "http://a:1: no".into(),
        reason,
        uncertain,
    };
    let id = Some(ChangeId([0xab; 16]));
    let text = |refused: &Refused| explain(refused, id).to_string();
    assert!(
        text(&refused(Some(Reason::QuorumAtRisk), false)).contains("--wait-caught-up --promote")
    );
    assert!(text(&refused(Some(Reason::NoLeader), false)).contains("majority of the voters"));
    assert!(text(&refused(Some(Reason::LearnerNotAllowed), false)).contains("name a voter"));
    let undecided = text(&refused(Some(Reason::Undecided), true));
    assert!(
        undecided.contains(&format!("--change-id 0x{}", "ab".repeat(16))),
        "{undecided}"
    );
    assert!(!text(&refused(None, false)).contains("--change-id"));
    assert!(
        !explain(&refused(None, true), None)
            .to_string()
            .contains("--change-id")
    );
}

#[test]
fn a_report_names_what_is_in_force() {
    let done = v1::ChangeMembersResponse {
        change_id: vec![1; 16].into(),
        table_index: 12,
        added: vec![5, 6],
        joint: true,
    };
    assert_eq!(
        report_text(&done),
        "in force: member table at log index 12, through a joint configuration; new: raft id 5, 6"
    );
    assert_eq!(
        report_json(&done),
        json!({"changeId": format!("0x{}", "01".repeat(16)), "tableIndex": 12, "added": [5, 6], "joint": true})
    );
}
