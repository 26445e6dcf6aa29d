//! A new party joins a private contract, as users of Quorum do it, and what comes in between.

use serde_json::{Value, json};

use super::codes::*;
use super::parties::{Contract, Form, Parties, REMOTE, is_retryable};
use super::signing::Wallet;

const OFFER: &str = "quorumExtension_extendContract";
const VOTE: &str = "quorumExtension_approveExtension";
const CANCEL: &str = "quorumExtension_cancelExtension";
const PRECOMPILE: &str = "0x000000000000000000000000000000000000007a";

/// Sends a step of an extension, to these nodes beside those that it concerns anyway; what it returned, or the error.
fn step(
    p: &Parties,
    from: usize,
    method: &str,
    mut params: Vec<Value>,
    to: &[usize],
) -> Result<String, Value> {
    params.push(json!({ "from": p.account(from), "privateFor": p.keys(to) }));
    let answer = p.c.try_rpc(from, method, Value::from(params)).unwrap();
    match answer.get("result").and_then(Value::as_str) {
        Some(hash) => Ok(hash.to_owned()),
        None => Err(answer["error"].clone()),
    }
}

/// What an error says.
fn said(error: &Value) -> &str {
    error["message"].as_str().unwrap()
}

/// Node `from` offers the contract to node `newcomer`, whose account `voter` is to vote, before these parties. The extension.
fn try_offer(
    p: &Parties,
    from: usize,
    contract: &str,
    newcomer: usize,
    voter: &str,
    parties: &[usize],
) -> Result<String, Value> {
    let params = vec![json!(contract), json!(p.key(newcomer)), json!(voter)];
    let hash = step(p, from, OFFER, params, parties)?;
    let mut extension = String::new();
    for i in parties.iter().copied().chain([from, newcomer]) {
        let receipt = p.private_receipt(i, &hash);
        assert_eq!(receipt["status"], "0x1", "node {i}: {receipt}");
        extension = receipt["contractAddress"].as_str().unwrap().to_owned();
        assert_eq!(status(p, i, &extension), "ACTIVE", "node {i}");
    }
    Ok(extension)
}

fn offer(p: &Parties, from: usize, contract: &str, newcomer: usize, parties: &[usize]) -> String {
    try_offer(p, from, contract, newcomer, p.account(newcomer), parties)
        .unwrap_or_else(|error| panic!("{contract} to node {newcomer}: {error}"))
}

fn vote(p: &Parties, from: usize, extension: &str, accept: bool) -> Result<String, Value> {
    let params = vec![json!(extension), json!(accept)];
    step(p, from, VOTE, params, &[])
}

/// Distributes an accepting vote; the data of the transaction that casts it.
fn vote_elsewhere(p: &Parties, from: usize, extension: &str) -> Value {
    let account = p.account(from);
    let accept = ["extension", "accept", extension, "--from", account];
    let approved = p.cli(from, &[&accept[..], &["--signed-elsewhere"]].concat());
    assert_eq!(approved["transaction"], Value::Null);
    approved["markerData"].clone()
}

/// Casts it, as soon as somebody leads.
fn send_marker(p: &Parties, from: usize, data: &Value) -> String {
    let marker = json!([{ "from": p.account(from), "to": PRECOMPILE, "data": data }]);
    p.wait("the others have a leader", || {
        let answer = p.c.try_rpc(from, "eth_sendTransaction", marker.clone());
        answer.ok()?["result"].as_str().map(str::to_owned)
    })
}

/// A step that succeeded on all these nodes.
fn assert_done(p: &Parties, nodes: &[usize], transaction: &str) {
    for i in nodes {
        let receipt = p.private_receipt(*i, transaction);
        assert_eq!(receipt["status"], "0x1", "node {i}: {receipt}");
    }
}

fn status(p: &Parties, i: usize, extension: &str) -> Value {
    p.patiently(i, "quorumExtension_getExtensionStatus", json!([extension]))
}

fn active(p: &Parties, i: usize) -> Value {
    p.patiently(i, "quorumExtension_activeExtensionContracts", json!([]))
}

/// Where the extension stands on these nodes, in our words.
fn states(p: &Parties, nodes: &[usize], extension: &str) -> Vec<Value> {
    let state = |i: &usize| p.cli(*i, &["extension", "show", extension])["state"].clone();
    nodes.iter().map(state).collect()
}

#[test]
fn a_contract_is_extended_to_a_third_party_which_then_takes_part() {
    let mut p = Parties::of(Form::Marker);
    let contract = p.deploy(0, &[1], &deploying_with(STORE, 42));
    let address = contract.address.clone();
    p.execute(0, &[1], &contract, &word(129));
    assert_eq!(p.number(2, &address), None);

    // A node that does not have the contract cannot offer it.
    let refused = try_offer(&p, 3, &address, 2, p.account(2), &[1]).unwrap_err();
    assert!(said(&refused).contains("not private here"), "{refused}");
    let nothing = "0x00000000000000000000000000000000000000ee";
    let refused = try_offer(&p, 0, nothing, 2, p.account(2), &[1]).unwrap_err();
    assert!(said(&refused).contains("not private here"), "{refused}");
    let extension = offer(&p, 0, &address, 2, &[1]);
    for i in [0, 1, 2] {
        let listed = active(&p, i);
        assert_eq!(listed[0]["managementContractAddress"], extension);
        assert_eq!(listed[0]["contractExtended"], address.to_lowercase());
        assert_eq!(listed[0]["recipientPtmKey"], p.key(2));
    }
    assert_eq!(active(&p, 3), json!([]));
    let refused = try_offer(&p, 0, &address, 2, p.account(2), &[1]).unwrap_err();
    assert!(said(&refused).contains("already"), "{refused}");

    // Whoever was not asked cannot answer.
    vote(&p, 1, &extension, true).unwrap_err();
    let voted = vote(&p, 2, &extension, true).unwrap();
    assert_done(&p, &[0, 1, 2], &voted);
    assert_eq!(states(&p, &[0, 1, 2], &extension), ["done"; 3]);
    assert_eq!(status(&p, 2, &extension), "DONE");
    p.wait_number(&[0, 1, 2], &address, 129);

    let contract = p.joined(&contract, 2);
    p.execute(1, &[0, 2], &contract, &word(999));
    p.wait_number(&[0, 1, 2], &address, 999);
    p.execute(2, &[0, 1], &contract, &word(1000));
    p.wait_number(&[0, 1, 2], &address, 1000);
    assert_eq!(p.number(3, &address), None);
    p.assert_no_party(3, &voted);
    let refused = vote(&p, 2, &extension, true).unwrap_err();
    assert!(said(&refused).contains("ended"), "{refused}");
    // A party of a contract without a flag may bring in another one, too.
    let further = offer(&p, 2, &address, 3, &[0, 1]);
    let voted = vote(&p, 3, &further, true).unwrap();
    assert_done(&p, &[0, 1, 2, 3], &voted);
    p.joined(&contract, 3);
    p.wait_number(&[0, 1, 2, 3], &address, 1000);
    p.finish();
}

#[test]
fn an_extension_that_is_declined_or_taken_back_changes_nothing() {
    let mut p = Parties::of(Form::Quorum);
    let contract = p.deploy(0, &[1], &deploying_with(STORE, 42));
    let address = contract.address.clone();

    let declined = offer(&p, 0, &address, 2, &[1]);
    let answer = vote(&p, 2, &declined, false).unwrap();
    assert_done(&p, &[0, 1, 2], &answer);
    assert_eq!(states(&p, &[0, 1, 2], &declined), ["declined"; 3]);
    let refused = vote(&p, 2, &declined, true).unwrap_err();
    assert!(said(&refused).contains("ended"), "{refused}");

    // From the command line. Only the account that offered it takes it back.
    let signed = |p: &Parties, i: usize, arguments: &[&str]| {
        let mut all = vec!["extension"];
        all.extend(arguments);
        all.extend(["--from", p.account(i)]);
        p.try_cli(i, &all)
    };
    let parsed = |output: std::process::Output| -> Value {
        let complaint = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{complaint}");
        serde_json::from_slice(&output.stdout).unwrap()
    };
    let newcomer = ["--newcomer", p.key(2), "--newcomer-account", p.account(2)];
    let arguments = [
        ["offer", &address].as_slice(),
        &newcomer,
        &["--for", p.key(1)],
    ]
    .concat();
    let offered = parsed(signed(&p, 0, &arguments));
    assert_eq!(offered["receipt"]["success"], true, "{offered}");
    let cancelled = offered["extension"].as_str().unwrap();
    assert_eq!(offered["receipt"]["contractAddress"], cancelled);
    let params = vec![json!(cancelled)];
    let refused = step(&p, 1, CANCEL, params, &[]).unwrap_err();
    assert!(said(&refused).contains("only the account"), "{refused}");
    let refused = signed(&p, 2, &["cancel", cancelled]);
    assert!(!refused.status.success());
    let taken_back = parsed(signed(&p, 0, &["cancel", cancelled]));
    assert_eq!(taken_back["receipt"]["success"], true, "{taken_back}");
    let done = taken_back["transaction"].as_str().unwrap();
    assert_done(&p, &[0, 1, 2], done);
    assert_eq!(states(&p, &[0, 1, 2], cancelled), ["cancelled"; 3]);
    let refused = vote(&p, 2, cancelled, true).unwrap_err();
    assert!(said(&refused).contains("ended"), "{refused}");

    // Nothing came of all that; and the contract can be offered anew.
    assert_eq!(p.code(2, &address), "0x");
    p.execute(1, &[0], &contract, &word(43));
    assert_eq!(p.number(2, &address), None);
    for i in [0, 2] {
        assert_eq!(active(&p, i), json!([]));
        let listed = p.cli(i, &["extension", "list"]);
        assert_eq!(listed.as_array().unwrap().len(), 2, "{listed}");
        assert_eq!(p.cli(i, &["extension", "list", "--active"]), json!([]));
    }
    assert_eq!(p.cli(3, &["extension", "list"]), json!([]));
    let unknown = p.try_cli(3, &["extension", "show", cancelled]);
    assert!(String::from_utf8_lossy(&unknown.stderr).contains("no extension"));
    let extension = offer(&p, 0, &address, 2, &[1]);
    let accepted = parsed(signed(&p, 2, &["accept", &extension]));
    assert_done(&p, &[0, 1, 2], accepted["transaction"].as_str().unwrap());
    p.joined(&contract, 2);
    p.wait_number(&[0, 1, 2], &address, 43);
    p.finish();
}

/// A named party that does not have the contract cannot vouch for it: then the newcomer does not take it, and goes on.
#[test]
fn a_party_that_does_not_vouch_for_the_contract_prevents_the_handover() {
    let mut p = Parties::of(Form::Marker);
    let contract = p.deploy(0, &[1], &deploying_with(STORE, 42));
    let address = contract.address.clone();
    // Node 3 is named and has never heard of it.
    let params = vec![json!(address), json!(p.key(2)), json!(p.account(2))];
    let offered = step(&p, 0, OFFER, params, &[1, 3]).unwrap();
    p.expect_alarms_about(&offered);
    assert_done(&p, &[0, 1, 2], &offered);
    let refused = p.private_receipt(3, &offered);
    assert_eq!(refused["status"], "0x0");
    let reason = refused["failureReason"].as_str().unwrap();
    assert!(reason.contains("not private here"), "{refused}");
    let extension = p.private_receipt(0, &offered)["contractAddress"].clone();
    let extension = extension.as_str().unwrap();

    let voted = vote(&p, 2, extension, true).unwrap();
    p.expect_alarms_about(&voted);
    let refused = p.private_receipt(2, &voted);
    assert_eq!(refused["status"], "0x0");
    let reason = refused["failureReason"].as_str().unwrap();
    assert!(reason.contains("does not hand over"), "{refused}");
    assert_eq!(states(&p, &[2], extension), ["refused"]);
    assert_eq!(p.code(2, &address), "0x");
    // Everyone's private execution goes on.
    let other = p.deploy(2, &[0, 1, 3], &deploying_with(STORE, 7));
    p.wait_number(&[0, 1, 2, 3], &other.address, 7);
    p.execute(0, &[1], &contract, &word(43));

    // Offered before those alone who have it, it is handed over.
    let extension = offer(&p, 0, &address, 2, &[1]);
    let voted = vote(&p, 2, &extension, true).unwrap();
    assert_done(&p, &[0, 1, 2], &voted);
    p.joined(&contract, 2);
    p.wait_number(&[0, 1, 2], &address, 43);
    p.finish();
}

/// The newcomer's enclave is down when it is to vote, and again when its vote is on the chain.
#[test]
fn a_newcomer_without_its_enclave_votes_later_and_takes_the_contract_later() {
    let mut p = Parties::of(Form::Marker);
    let wallet = Wallet::named("the newcomer's account, whose key is elsewhere");
    let voter = wallet.address().to_string();
    let contract = p.deploy(0, &[2], &deploying_with(STORE, 42));
    let address = contract.address.clone();
    let extension = try_offer(&p, 0, &address, REMOTE, &voter, &[2]).unwrap();

    // Signed elsewhere: the node distributes the vote, and gives what is to be signed.
    let approve = |p: &Parties| {
        let params = json!([extension, voter, { "privateFor": [] }]);
        let method = "quorumExtension_generateExtensionApprovalUuid";
        let answer = p.c.try_rpc(REMOTE, method, params).unwrap();
        match answer.get("error") {
            Some(error) => Err(error.clone()),
            None => Ok(answer["result"].as_str().unwrap().to_owned()),
        }
    };
    p.stop_enclave();
    let refused = approve(&p).unwrap_err();
    assert!(is_retryable(&refused), "{refused}");
    assert_eq!(refused["data"]["reason"], "enclave");
    assert_eq!(status(&p, 0, &extension), "ACTIVE");
    p.start_enclave();
    let data = p.wait("the vote is distributed", || match approve(&p) {
        Ok(data) => Some(data),
        Err(error) => {
            assert!(is_retryable(&error), "{error}");
            None
        }
    });

    // A node that has just sent a payload need not open it again: one that was started anew has to.
    p.stop_enclave();
    p.c.kill(REMOTE);
    p.c.start(REMOTE);
    p.wait_ready();
    let data = alloy_primitives::hex::decode(data).unwrap();
    let raw = wallet.public(0, PRECOMPILE, &data);
    let voted = p.c.rpc(3, "eth_sendRawTransaction", json!([raw]));
    let voted = voted.as_str().unwrap();
    assert_done(&p, &[0, 2], voted);
    assert_eq!(states(&p, &[0, 2], &extension), ["done"; 2]);
    // It is a party and cannot see of what; what is public goes on.
    p.public_receipt(REMOTE, voted);
    let waiting =
        p.c.rpc_error(REMOTE, "eth_call", json!([{ "to": address }, "latest"]));
    assert!(is_retryable(&waiting), "{waiting}");
    let public = p.c.transfer(REMOTE, p.account(REMOTE), p.account(0));
    assert_eq!(p.public_receipt(REMOTE, &public)["status"], "0x1");
    // The parties go on, too: the newcomer is handed what there was at its vote, and then executes what came later.
    let mut request = p.request(2, &[0, REMOTE], Some(&address), &word(43));
    request["acknowledgements"] = json!({ "of": p.keys(&[0]) });
    p.send(2, &request);
    p.wait_number(&[0, 2], &address, 43);

    p.start_enclave();
    assert_done(&p, &[REMOTE], voted);
    p.wait_number(&[0, REMOTE, 2], &address, 43);
    let contract = p.joined(&contract, REMOTE);
    p.execute(REMOTE, &[0, 2], &contract, &word(44));
    assert_eq!(p.number(3, &address), None);
    p.finish();
}

/// A party that is to vouch for the contract is gone: the newcomer goes on without the contract when its operator says so, and can be
/// offered it again.
#[test]
fn a_newcomer_goes_on_without_a_contract_that_nobody_vouches_for_when_it_is_told_to() {
    let mut p = Parties::of(Form::Marker);
    let contract = p.deploy(0, &[1], &deploying_with(STORE, 42));
    let address = contract.address.clone();
    let own = p.deploy(2, &[], &deploying_with(STORE, 7));
    let extension = offer(&p, 0, &address, 2, &[1]);
    let data = vote_elsewhere(&p, 2, &extension);
    p.c.kill(1);
    let voted = send_marker(&p, 2, &data);
    let payload = p.payload_hash(&voted);
    p.wait("the newcomer waits for the contract", || {
        let waiting = p.cli(2, &["status"])["waiting"].clone();
        (waiting["payload"] == payload.as_str()).then_some(())
    });
    let done = p.cli(2, &["give-up", &payload, "--note", "case 12"]);
    assert_eq!(done["givenUp"], 1);
    p.wait_number(&[2], &own.address, 7);
    assert_eq!(states(&p, &[2], &extension), ["refused"]);
    let refused = p.private_receipt(2, &voted);
    let reason = refused["failureReason"].as_str().unwrap();
    assert!(reason.contains("case 12"), "{refused}");
    p.expect_alarms_about(&voted);
    p.c.start(1);
    p.wait_ready();
    assert_done(&p, &[0, 1], &voted);
    let extension = offer(&p, 0, &address, 2, &[1]);
    let voted = vote(&p, 2, &extension, true).unwrap();
    assert_done(&p, &[0, 1, 2], &voted);
    p.joined(&contract, 2);
    p.wait_number(&[0, 1, 2], &address, 42);
    p.finish();
}

/// The leader is the party that offered the contract. It dies between the distribution of the vote and its transaction.
#[test]
fn a_newcomer_waits_for_a_party_that_died_while_it_led() {
    let mut p = Parties::of(Form::Marker);
    let contract = p.deploy(0, &[2], &deploying_with(STORE, 42));
    let address = contract.address.clone();
    let extension = offer(&p, 0, &address, 3, &[2]);
    if p.c.leader() != 0 {
        p.c.member(&["transfer", "1"]);
        p.wait("node 0 leads", || (p.c.leader() == 0).then_some(()));
    }
    let data = vote_elsewhere(&p, 3, &extension);
    p.c.kill(0);
    let voted = send_marker(&p, 3, &data);
    assert_done(&p, &[2], &voted);
    // Only one of the two that are to vouch for it is there.
    let waiting = p.wait("the newcomer waits and says so", || {
        let status = p.cli(3, &["status"]);
        status["waiting"]
            .is_object()
            .then(|| status["waiting"].clone())
    });
    assert_eq!(waiting["transaction"], voted, "{waiting}");
    let behind =
        p.c.rpc_error(3, "eth_call", json!([{ "to": address }, "latest"]));
    assert_eq!(behind["data"]["reason"], "behind", "{behind}");
    let public = p.c.transfer(3, p.account(3), p.account(0));
    assert_eq!(p.public_receipt(3, &public)["status"], "0x1");

    p.c.start(0);
    p.wait_ready();
    assert_done(&p, &[0, 2, 3], &voted);
    p.wait_number(&[0, 2, 3], &address, 42);
    let contract = p.joined(&contract, 3);
    // Those who died and those who waited agree about what comes next.
    p.execute(3, &[0, 2], &contract, &word(43));
    p.execute(0, &[2, 3], &contract, &word(44));
    p.wait_number(&[0, 2, 3], &address, 44);
    p.finish();
}

#[test]
fn contracts_with_a_flag_are_extended_by_their_creator_alone_and_keep_it() {
    let mut p = Parties::of(Form::Marker);
    let flagged = |p: &mut Parties, flag: u64| -> Contract {
        p.deploy_with(
            0,
            &[1],
            &deploying_with(STORE, 42),
            json!({ "privacyFlag": flag }),
        )
    };
    let protected = flagged(&mut p, 1);
    let refused = try_offer(&p, 1, &protected.address, 2, p.account(2), &[0]).unwrap_err();
    assert!(said(&refused).contains("only the creator"), "{refused}");
    let extension = offer(&p, 0, &protected.address, 2, &[1]);
    let voted = vote(&p, 2, &extension, true).unwrap();
    assert_done(&p, &[0, 1, 2], &voted);
    let protected = p.joined(&protected, 2);
    let flag = json!({ "privacyFlag": 1 });
    p.execute_with(2, &[0, 1], &protected, &word(43), flag);
    p.wait_number(&[0, 1, 2], &protected.address, 43);
    let metadata = p.patiently(
        2,
        "eth_getContractPrivacyMetadata",
        json!([protected.address]),
    );
    assert_eq!(metadata["privacyFlag"], 1);

    // Under state validation all parties are known: none need be named, and the new one is needed from then on.
    let validated = flagged(&mut p, 3);
    let extension = offer(&p, 0, &validated.address, 3, &[]);
    let voted = vote(&p, 3, &extension, true).unwrap();
    assert_done(&p, &[0, 1, 3], &voted);
    let validated = p.joined(&validated, 3);
    let flag = json!({ "privacyFlag": 3 });
    let mut without = p.request(0, &[1], Some(&validated.address), &word(43));
    without["privacyFlag"] = json!(3);
    let refused = p.refused(0, &without);
    assert!(refused.contains("other parties"), "{refused}");
    p.execute_with(1, &[0, 3], &validated, &word(44), flag.clone());
    p.execute_with(3, &[0, 1], &validated, &word(45), flag);
    p.wait_number(&[0, 1, 3], &validated.address, 45);
    p.finish();
}
