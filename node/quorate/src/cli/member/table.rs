//! The membership as text for people and as JSON for scripts.

use std::fmt::Write as _;
use std::time::{SystemTime, UNIX_EPOCH};

use alloy_primitives::B256;
use quorate_chain::{MemberRole, NodeId};
use quorate_enclave::PublicKey;
use quorate_rpc::{MemberState, MembershipView};
use serde_json::{Value, json};

const HEADINGS: [&str; 8] = [
    "raft id",
    "role",
    "leader",
    "node id",
    "address",
    "organisation",
    "connected",
    "lag",
];

/// The whole view, as of `now`.
pub fn text(view: &MembershipView, now: SystemTime) -> String {
    let mut lines = vec![heading(view)];
    lines.push(members(view));
    if view.joint {
        lines.push(
            "A change is under way: majorities of the old and of the new voters are both needed until it is in force.".into(),
        );
    }
    if !view.removed.is_empty() {
        let removed = view
            .removed
            .iter()
            .map(|gone| match gone.organisation.as_str() {
                "" => gone.raft_id.to_string(),
                organisation => format!("{} ({})", gone.raft_id, printable(organisation)),
            });
        lines.push(format!(
            "removed for ever: {}",
            removed.collect::<Vec<_>>().join(", ")
        ));
    }
    for record in &view.breaks {
        let lost: Vec<String> = record.lost.iter().map(u64::to_string).collect();
        let note = match record.note.as_str() {
            "" => String::new(),
            note => format!(": {}", printable(note)),
        };
        lines.push(format!(
            "BREAK at log index {}, term {}: raft id {} went on alone by force, given up were raft id {}{note}",
            record.raft_index,
            record.term,
            record.survivor,
            lost.join(", ")
        ));
    }
    if !view.applicants.is_empty() {
        lines.push("waiting to be admitted:".into());
    }
    for applicant in &view.applicants {
        let address = applicant
            .addresses
            .first()
            .map_or("<address>".into(), |address| printable(address));
        let ago = now
            .duration_since(applicant.last_seen)
            .map_or(0, |ago| ago.as_secs());
        lines.push(format!(
            "  quorate member add {} {address}    (asked {ago} s ago)",
            applicant.node_id
        ));
    }
    lines.join("\n")
}

fn heading(view: &MembershipView) -> String {
    let leader = match view.leader {
        Some(leader) => format!("raft id {leader} leads"),
        None => "no leader is elected".into(),
    };
    let asked = match view.this {
        Some(this) => format!("as raft id {this} sees it"),
        None => "as a node sees it that is no member".into(),
    };
    format!(
        "member table at log index {}, term {}, {leader}, {asked}",
        view.table_index, view.term
    )
}

/// The members as a table.
pub fn members(view: &MembershipView) -> String {
    let rows: Vec<[String; 8]> = view
        .members
        .iter()
        .map(|state| row(state, view.leader))
        .collect();
    let mut widths = HEADINGS.map(|heading| heading.chars().count());
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let line = |cells: &[String; 8]| {
        let mut text = String::new();
        for ((cell, width), heading) in cells.iter().zip(widths).zip(HEADINGS) {
            // Writing to a String cannot fail.
            let written = match heading {
                "raft id" | "lag" => write!(text, "{cell:>width$}  "),
                _ => write!(text, "{cell:<width$}  "),
            };
            debug_assert!(written.is_ok());
        }
        text.trim_end().to_owned()
    };
    let mut lines = vec![line(&HEADINGS.map(str::to_owned))];
    lines.extend(rows.iter().map(line));
    lines.join("\n")
}

fn row(state: &MemberState, leader: Option<u64>) -> [String; 8] {
    let member = &state.member;
    let mut role = role_name(member.role).to_owned();
    if state.leaving {
        role.push_str(", leaving");
    } else if state.outgoing_voter && member.role == MemberRole::Learner {
        role.push_str(", still votes");
    }
    [
        member.raft_id.to_string(),
        role,
        if leader == Some(member.raft_id) {
            "*"
        } else {
            ""
        }
        .to_owned(),
        short(&member.node_id),
        printable(&member.address),
        printable(&member.organisation),
        if state.connected { "yes" } else { "no" }.to_owned(),
        state.lag.map_or("?".to_owned(), |lag| lag.to_string()),
    ]
}

fn role_name(role: MemberRole) -> &'static str {
    match role {
        MemberRole::Voter => "voter",
        MemberRole::Learner => "learner",
    }
}

/// Enough of a key to tell members apart.
fn short(node_id: &NodeId) -> String {
    let digits = node_id.to_string();
    match (
        digits.get(..10),
        digits.get(digits.len().saturating_sub(6)..),
    ) {
        (Some(start), Some(end)) => format!("{start}…{end}"),
        _ => digits,
    }
}

/// Texts come from other organisations' nodes: none may move the cursor of this terminal.
fn printable(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .collect()
}

/// The whole view for scripts; the same names as in `raft_membership`.
pub fn json(view: &MembershipView) -> Value {
    let member = |state: &MemberState| {
        json!({
            "raftId": state.member.raft_id,
            "nodeId": state.member.node_id.to_string(),
            "address": state.member.address,
            "organisation": state.member.organisation,
            "role": role_name(state.member.role),
            "leaving": state.leaving,
            "outgoingVoter": state.outgoing_voter,
            "connected": state.connected,
            "lag": state.lag,
            "enclaveKeys": state.enclave_keys.iter().map(|key| json!({
                "key": PublicKey::from_bytes(key.key),
                "hybridDigest": key.hybrid_digest.map(B256::from),
            })).collect::<Vec<_>>(),
            "keysSequence": state.keys_sequence,
        })
    };
    let seconds = |time: SystemTime| {
        time.duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.as_secs())
    };
    json!({
        "tableIndex": view.table_index,
        "joint": view.joint,
        "term": view.term,
        "leader": view.leader,
        "nextRaftId": view.next_raft_id,
        "raftId": view.this,
        "members": view.members.iter().map(member).collect::<Vec<_>>(),
        "removed": view.removed.iter().map(|gone| json!({
            "raftId": gone.raft_id,
            "nodeId": gone.node_id.to_string(),
            "organisation": gone.organisation,
        })).collect::<Vec<_>>(),
        "breaks": view.breaks.iter().map(|record| json!({
            "raftIndex": record.raft_index,
            "term": record.term,
            "survivor": record.survivor,
            "lost": record.lost,
            "note": record.note,
        })).collect::<Vec<_>>(),
        "applicants": view.applicants.iter().map(|applicant| json!({
            "nodeId": applicant.node_id.to_string(),
            "addresses": applicant.addresses,
            "lastSeen": seconds(applicant.last_seen),
        })).collect::<Vec<_>>(),
    })
}
