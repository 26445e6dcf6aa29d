//! The membership of running consortia: it changes under load, and whatever dies meanwhile, every member ends with the
//! same table and the same chain.

use std::time::Duration;

use serde_json::json;

use crate::consortium::{ALICE, BOB, Consortium, quantity, quorate};
use crate::load::Load;

const CAROL: &str = "0x3C44CdDdB6a900fa2b585dd299e03d12FA4293BC";

fn urls(c: &Consortium, nodes: &[usize]) -> Vec<String> {
    nodes.iter().map(|i| c.rpc_url(*i)).collect()
}

/// Every transfer that a client saw included is in the same block on all nodes.
fn assert_all_there(c: &Consortium, nodes: &[usize], hashes: &[String]) {
    let last = hashes.last().expect("the load got something through");
    let reached = quantity(&c.receipt(nodes[0], last)["blockNumber"]);
    c.assert_same_chain(reached);
    // Each of many thousand would take long on this many nodes: a spread of them, and the last ones.
    let step = (hashes.len() / 50).max(1);
    for hash in hashes
        .iter()
        .step_by(step)
        .chain(hashes.iter().rev().take(5))
    {
        let expected = c.receipt(nodes[0], hash);
        assert_eq!(expected["status"], "0x1");
        for i in &nodes[1..] {
            assert_eq!(c.receipt(*i, hash), expected, "{hash} on node {i}");
        }
    }
}

#[test]
fn a_consortium_of_one_grows_to_seven_and_shrinks_to_three_under_load() {
    let mut c = Consortium::of(1);
    let load = Load::begin(urls(&c, &[0]), ALICE, BOB);
    for raft_id in 2..=7u64 {
        let (i, admitted) = c.join(0, &["--promote-when-caught-up"]);
        assert_eq!(admitted, raft_id);
        c.wait_roles(0, &(1..=raft_id).collect::<Vec<_>>(), &[]);
        c.wait_roles(i, &(1..=raft_id).collect::<Vec<_>>(), &[]);
    }
    load.use_members(urls(&c, &[4, 5, 6]));
    // The first four leave at once, the founder among them, whoever leads.
    c.member(&[
        "change", "--remove", "1", "--remove", "2", "--remove", "3", "--remove", "4",
    ]);
    for i in 4..7 {
        c.wait_roles(i, &[5, 6, 7], &[]);
    }
    for i in 0..4 {
        assert_eq!(c.exit_code(i), Some(15), "{}", c.log(i));
    }
    let hash = c.transfer(5, CAROL, BOB);
    c.receipt(5, &hash);
    let report = load.end();
    assert_eq!(report.failed, Vec::<String>::new());
    assert_all_there(&c, &[4, 5, 6], &report.done);
}

#[test]
fn removing_the_leader_hands_over_first_and_the_removed_member_stays_out() {
    let mut c = Consortium::of(3);
    let leader = c.leader();
    let rest: Vec<usize> = (0..3).filter(|i| *i != leader).collect();
    let load = Load::begin(urls(&c, &rest), ALICE, BOB);
    let raft_id = (leader + 1).to_string();
    c.member(&["remove", &raft_id]);
    eprintln!(
        "longest pause while the leader was removed: {:?}",
        load.longest_gap()
    );
    let left: Vec<u64> = rest.iter().map(|i| *i as u64 + 1).collect();
    for i in &rest {
        c.wait_roles(*i, &left, &[]);
    }
    // It is told, stops, and says so again at every later start.
    assert_eq!(c.exit_code(leader), Some(15));
    c.start(leader);
    assert_eq!(c.exit_code(leader), Some(15));
    assert!(c.log(leader).contains("was removed from the consortium"));
    // Also when it stopped before it could note what its own log says.
    let noted = c.node_dir(leader).join("data/removed.json");
    if noted.exists() {
        std::fs::remove_file(&noted).expect("the note of the removal");
    }
    c.start(leader);
    assert_eq!(c.exit_code(leader), Some(15));
    assert!(!c.log(leader).contains("not among them"));
    let hash = c.transfer(rest[0], CAROL, BOB);
    c.receipt(rest[1], &hash);
    let report = load.end();
    assert_eq!(report.failed, Vec::<String>::new());
    assert_all_there(&c, &rest, &report.done);
}

#[test]
fn three_members_are_replaced_by_three_others_in_one_change_under_load() {
    let mut c = Consortium::of(3);
    let load = Load::begin(urls(&c, &[0, 1, 2]), ALICE, BOB);
    for _ in 0..3 {
        c.join(0, &[]);
    }
    c.wait_roles(0, &[1, 2, 3], &[4, 5, 6]);
    load.use_members(urls(&c, &[0, 1, 2, 3, 4, 5]));
    c.wait("the learners have caught up", || {
        let view = c.membership(0);
        let lags = view["members"]
            .as_array()?
            .iter()
            .map(|m| m["lag"].as_u64());
        lags.collect::<Option<Vec<_>>>()?
            .iter()
            .all(|lag| *lag < 500)
            .then_some(())
    });
    c.member(&[
        "change",
        "--remove",
        "1",
        "--remove",
        "2",
        "--remove",
        "3",
        "--promote",
        "4",
        "--promote",
        "5",
        "--promote",
        "6",
    ]);
    for i in 3..6 {
        c.wait_roles(i, &[4, 5, 6], &[]);
    }
    for i in 0..3 {
        assert_eq!(c.exit_code(i), Some(15), "{}", c.log(i));
    }
    let hash = c.transfer(4, CAROL, BOB);
    c.receipt(3, &hash);
    let report = load.end();
    assert_eq!(report.failed, Vec::<String>::new());
    assert_all_there(&c, &[3, 4, 5], &report.done);
}

#[test]
fn a_change_whose_leader_is_killed_at_any_step_is_made_once_or_not_at_all() {
    let mut c = Consortium::of(4);
    c.member(&["change", "--demote", "4"]);
    c.wait_roles(0, &[1, 2, 3], &[4]);
    let load = Load::begin(urls(&c, &[0, 1, 2, 3]), ALICE, BOB);
    // Learner and voter change places, again and again, and the leader dies at a later moment each time.
    for round in 0..8u64 {
        let leader = c.leader();
        let before = c.wait("no joint configuration", || c.roles(leader));
        let learner = before.1[0];
        let voter = *before
            .0
            .iter()
            .find(|id| **id != leader as u64 + 1)
            .unwrap();
        let change_id = format!("{:032x}", 0xabc0 + round);
        let (promote, demote) = (learner.to_string(), voter.to_string());
        let arguments = [
            "change",
            "--promote",
            &promote,
            "--demote",
            &demote,
            "--change-id",
            &change_id,
        ];
        let output = std::thread::scope(|scope| {
            let change = scope.spawn(|| c.try_member(&arguments));
            std::thread::sleep(Duration::from_millis(round * 6));
            // A process that is killed twice is an error: this one is killed by its id, and taken from the harness below.
            let killed = std::process::Command::new("kill")
                .args(["-9", &c.pid(leader).to_string()])
                .status();
            assert!(killed.unwrap().success());
            change.join().unwrap()
        });
        assert_eq!(c.exit_code(leader), None, "killed by a signal");
        let some = (leader + 1) % 4;
        // The same change again says what became of it, and makes it if it was lost.
        if !output.status.success() {
            c.member(&arguments);
        }
        // A member that did not answer the client may learn of it a moment later.
        let after = c.wait("the change is in force", || {
            c.roles(some)
                .filter(|after| after.0.contains(&learner) && after.1 == [voter])
        });
        c.start(leader);
        c.wait_ready();
        let others: Vec<usize> = (0..4).filter(|i| *i != some).collect();
        for i in others {
            c.wait_roles(i, &after.0, &after.1);
        }
    }
    let report = load.end();
    assert_eq!(report.failed, Vec::<String>::new());
    assert_all_there(&c, &[0, 1, 2, 3], &report.done);
    // No change was made twice: as many entries of the table's history as changes.
    let view = c.membership(0);
    assert_eq!(view["removed"], json!([]));
    assert_eq!(view["nextRaftId"], 5);
}

#[test]
fn a_node_added_as_a_peer_or_a_learner_sees_all_blocks_and_a_learner_does_not_count() {
    let mut c = Consortium::of(3);
    let early = c.transfer(0, ALICE, BOB);
    c.receipt(0, &early);
    // Quorum's names and order: addLearner, then promoteToPeer.
    let fourth = c.prepare_joiner(0, &[]);
    c.start(fourth);
    let peer = format!("{}@{}", c.node_id(fourth), c.p2p_address(fourth));
    let raft_id = c.rpc(1, "raft_addLearner", json!([peer]));
    assert_eq!(raft_id, 4);
    c.wait("the learner follows", || {
        (c.try_rpc(fourth, "raft_role", json!([])).ok()?["result"] == "learner").then_some(())
    });
    assert_eq!(c.receipt(fourth, &early)["status"], "0x1");
    // Three voters and a learner: without one voter and the learner it goes on.
    let leader = c.leader();
    let other = (0..3).find(|i| *i != leader).unwrap();
    c.stop(fourth);
    c.stop(other);
    let hash = c.transfer(leader, ALICE, BOB);
    c.receipt(leader, &hash);
    c.start(fourth);
    c.start(other);
    c.wait_ready();
    let promoted = c.wait("the learner may vote", || {
        let answer = c.try_rpc(0, "raft_promoteToPeer", json!([4])).ok()?;
        answer.get("result").cloned()
    });
    assert_eq!(promoted, true);
    let refused = c.rpc_error(0, "raft_promoteToPeer", json!([4]));
    let message = refused["message"].as_str().unwrap();
    assert!(
        message.contains("4 is not a learner. only learner can be promoted to peer"),
        "{message}"
    );
    // Four voters need three: without two nothing is mined, with them it is.
    let leader = c.leader();
    let two: Vec<usize> = (0..4).filter(|i| *i != leader).take(2).collect();
    c.stop(two[0]);
    c.kill(two[1]);
    let hash = c.transfer(leader, ALICE, BOB);
    c.wait("the leader steps down for want of a majority", || {
        (c.rpc(leader, "raft_role", json!([])) != "minter").then_some(())
    });
    assert!(
        c.rpc(leader, "eth_getTransactionReceipt", json!([hash]))
            .is_null()
    );
    c.start(two[0]);
    c.start(two[1]);
    c.receipt(leader, &hash);
    // Stop all, start all: members, roles and heights are as before.
    let height = c.height(leader);
    for i in 0..4 {
        c.stop(i);
    }
    for i in 0..4 {
        c.start(i);
    }
    c.wait_ready();
    c.assert_same_chain(height);
    for i in 0..4 {
        c.wait_roles(i, &[1, 2, 3, 4], &[]);
    }
}

#[test]
fn host_names_are_addresses_and_survive_a_restart() {
    let mut c = Consortium::of(3);
    let i = c.prepare_joiner(0, &[]);
    c.start(i);
    let address = c.p2p_address(i).replace("127.0.0.1", "localhost");
    let node_id = c.node_id(i);
    c.member(&["add", &node_id, &address]);
    c.wait_roles(i, &[1, 2, 3], &[4]);
    c.stop(i);
    c.stop(1);
    c.start(1);
    c.start(i);
    c.wait_ready();
    let cluster = c.rpc(1, "raft_cluster", json!([]));
    let member = cluster
        .as_array()
        .unwrap()
        .iter()
        .find(|m| m["raftId"] == 4)
        .unwrap()
        .clone();
    assert_eq!(member["hostname"], "localhost");
    let wrong = c.try_member(&["set-address", "4", "no port here"]);
    assert!(!wrong.status.success());
    let said = String::from_utf8_lossy(&wrong.stderr).into_owned();
    assert!(said.contains("address"), "{said}");
}

#[test]
fn a_change_that_would_cost_the_quorum_is_refused_unless_forced() {
    let mut c = Consortium::of(3);
    let leader = c.leader();
    let gone = (leader + 1) % 3;
    c.kill(gone);
    // Two of three are there. A voter that nobody ever heard of would make it two of four.
    let i = c.prepare_joiner(leader, &[]);
    let (node_id, address) = (c.node_id(i), c.p2p_address(i));
    c.wait("the leader has noticed that a member is gone", || {
        let view = c.membership(leader);
        let member = view["members"]
            .as_array()?
            .iter()
            .find(|m| m["raftId"] == gone as u64 + 1)?;
        (member["connected"] == false).then_some(())
    });
    let steps = json!([{ "add": [{ "nodeId": node_id, "address": address, "role": "voter" }] }]);
    let refusal = c.rpc_error(leader, "raft_changeMembership", steps);
    let message = refusal["message"].as_str().unwrap();
    assert!(message.contains("quorum"), "{message}");
    c.wait_roles(leader, &[1, 2, 3], &[]);
    // Removing the one that is gone is no risk: two of two are there.
    let gone_id = (gone + 1).to_string();
    c.member(&["remove", &gone_id]);
    let left: Vec<u64> = (0..3u64)
        .filter(|n| *n != gone as u64)
        .map(|n| n + 1)
        .collect();
    c.wait_roles(leader, &left, &[]);
    // Whoever was away when it was removed is told when it returns.
    c.start(gone);
    assert_eq!(c.exit_code(gone), Some(15), "{}", c.log(gone));
}

#[test]
fn a_member_without_its_disk_is_refused_and_comes_back_as_a_new_one() {
    let mut c = Consortium::of(3);
    let hash = c.transfer(0, ALICE, BOB);
    for i in 0..3 {
        c.receipt(i, &hash);
    }
    let wiped = (c.leader() + 1) % 3;
    c.kill(wiped);
    std::fs::remove_dir_all(c.node_dir(wiped).join("data")).unwrap();
    c.start(wiped);
    assert_eq!(c.exit_code(wiped), Some(16), "{}", c.log(wiped));
    // Also when all the others were started anew meanwhile: they remember on disk.
    let others: Vec<usize> = (0..3).filter(|i| *i != wiped).collect();
    for i in &others {
        c.stop(*i);
    }
    for i in &others {
        c.start(*i);
    }
    c.wait_ready();
    std::fs::remove_dir_all(c.node_dir(wiped).join("data")).unwrap();
    c.start(wiped);
    assert_eq!(c.exit_code(wiped), Some(16), "{}", c.log(wiped));
    let raft_id = (wiped + 1).to_string();
    c.member(&["remove", &raft_id]);
    let (new, id) = c.join(others[0], &["--promote-when-caught-up"]);
    assert_eq!(id, 4);
    let mut voters: Vec<u64> = others.iter().map(|i| *i as u64 + 1).collect();
    voters.push(4);
    c.wait_roles(new, &voters, &[]);
    assert_eq!(c.receipt(new, &hash)["status"], "0x1");
}

#[test]
fn a_member_that_moved_is_found_again_without_touching_the_others() {
    let mut c = Consortium::of(3);
    let moved = (c.leader() + 1) % 3;
    c.stop(moved);
    let old = c.p2p_address(moved);
    let new = format!("127.0.0.1:{}", crate::consortium::free_base_port());
    let listen = format!("listen = \"{old}\"");
    c.configure(moved, &listen, &format!("listen = \"{new}\""));
    c.configure(moved, "announce = []", &format!("announce = [\"{new}\"]"));
    c.start(moved);
    let reader = (moved + 1) % 3;
    c.wait("the table has the new address", || {
        let view = c.membership(reader);
        let member = view["members"]
            .as_array()?
            .iter()
            .find(|m| m["raftId"] == moved as u64 + 1)?;
        (member["address"] == new.as_str()).then_some(())
    });
    // It is needed now: the third one dies, and the others must reach it at its new place, also after a restart.
    let third = 3 - moved - reader;
    c.kill(third);
    let hash = c.transfer(reader, ALICE, BOB);
    c.receipt(moved, &hash);
    c.stop(reader);
    c.start(reader);
    let hash = c.wait("somebody takes a transfer", || {
        c.try_transfer(reader, ALICE, BOB)
    });
    c.receipt(moved, &hash);
}

#[test]
fn leadership_goes_where_the_operator_wants_it() {
    let c = Consortium::of(3);
    let leader = c.leader();
    let to = (leader + 1) % 3;
    let raft_id = (to + 1).to_string();
    c.member(&["transfer", &raft_id]);
    c.wait("the chosen member leads", || {
        (c.rpc(to, "raft_role", json!([])) == "minter").then_some(())
    });
    let hash = c.transfer(leader, ALICE, BOB);
    c.receipt(to, &hash);
    let refused = c.try_member(&["transfer", "9"]);
    assert!(!refused.status.success());
}

#[test]
fn a_stranger_waits_and_is_shown_to_operators() {
    let mut c = Consortium::of(1);
    let i = c.prepare_joiner(0, &[]);
    c.start(i);
    let node_id = c.node_id(i);
    c.wait("the applicant is listed", || {
        let list = c.member(&["list", "--json"]);
        list.contains(node_id.trim_start_matches("0x"))
            .then_some(())
    });
    c.wait("the applicant says what to do", || {
        c.log(i)
            .contains(&format!("quorate member add {node_id}"))
            .then_some(())
    });
    // It serves nothing yet.
    assert!(c.try_rpc(i, "eth_blockNumber", json!([])).is_err());
    c.stop(i);
    let help = quorate(&["member", "--help"]);
    assert!(help.status.success());
}
