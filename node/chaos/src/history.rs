//! What clients and observers saw, and the judgement of it against the chains that the members ended with. No clock, no
//! network: data in, violations out.

use std::collections::{BTreeMap, BTreeSet};

use alloy_primitives::{Address, B256, U256};

pub use self::violation::Violation;
use crate::accounts::{TRANSFER_GAS, Transfer, teller};

mod violation;

/// Microseconds since the run began.
pub type Moment = u64;

/// Height and hash of a block that somebody was shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// Its height.
    pub height: u64,
    /// Its hash.
    pub hash: B256,
}

/// A log that somebody was told of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogSeen {
    /// The block that it is said to be in.
    pub block: Seen,
    /// The transaction that emitted it; each emits one.
    pub transaction: B256,
}

/// What one subscriber was told of logs.
#[derive(Debug, Clone, Default)]
pub struct LogStory {
    /// Each log once, in the order in which it was told or, where a connection had been lost, asked for.
    pub all: Vec<LogSeen>,
    /// What each subscription told of, by itself.
    pub connections: Vec<Vec<LogSeen>>,
}

/// A member's word that a transaction is in a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Acknowledgement {
    /// When the client had the answer.
    pub at: Moment,
    /// The block.
    pub block: Seen,
}

/// One transaction as its client saw it.
#[derive(Debug, Clone)]
pub struct Submission {
    /// What was sent.
    pub transfer: Transfer,
    /// Just before it was first sent to anybody.
    pub at: Moment,
    /// The first answer that it is in a block.
    pub acknowledged: Option<Acknowledgement>,
}

/// What a member said of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Report {
    /// Which one.
    pub slot: usize,
    /// How often its process had been started.
    pub life: u32,
    /// When it had answered.
    pub at: Moment,
    /// Its last block.
    pub head: Seen,
    /// Commit index of its log, if it told.
    pub committed: Option<u64>,
}

/// Everything that was seen.
#[derive(Debug, Default)]
pub struct History {
    /// By the clients.
    pub submissions: Vec<Submission>,
    /// By the observer, in order of time for each member.
    pub reports: Vec<Report>,
    /// By each subscriber, in the order in which it was told, repetitions after a reconnect left out.
    pub subscriptions: Vec<Vec<Seen>>,
    /// By each subscriber to logs.
    pub logs: Vec<LogStory>,
    /// How often each member closed and opened itself again within one process, to exchange its stores. What it knows of the
    /// commit index may be less afterwards.
    pub reopened: BTreeMap<usize, u64>,
    /// What a subscriber knew at once to be wrong.
    pub complaints: Vec<String>,
}

/// A block as a member gave it at the end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    /// Its height.
    pub height: u64,
    /// Its hash.
    pub hash: B256,
    /// Hash of the block before.
    pub parent: B256,
    /// State after it.
    pub state_root: B256,
    /// Who made it and gets the fees.
    pub coinbase: Address,
    /// What is in it, in order.
    pub transactions: Vec<B256>,
}

/// What a member holds at the end.
#[derive(Debug, Clone, Default)]
pub struct Holdings {
    /// Which one.
    pub slot: usize,
    /// Its files were damaged: it may refuse to give something. What it gives must be right.
    pub partial: bool,
    /// Its blocks, from 1 or, where older ones are not kept, from a later one on, without gaps.
    pub blocks: Vec<Block>,
    /// Balances at the last block.
    pub balances: BTreeMap<Address, U256>,
    /// Next nonces at the last block.
    pub nonces: BTreeMap<Address, u64>,
}

/// All promises that the history breaks. `genesis` has the balances at the beginning.
#[must_use]
pub fn check(
    history: &History,
    members: &[Holdings],
    genesis: &BTreeMap<Address, U256>,
) -> Vec<Violation> {
    let mut found: Vec<Violation> = history
        .complaints
        .iter()
        .cloned()
        .map(Violation::Complaint)
        .collect();
    went_back(history, &mut found);
    let whole = members
        .iter()
        .find(|m| !m.partial && m.blocks.first().is_none_or(|b| b.height == 1));
    let Some(whole) = whole else {
        found.push(Violation::NoWholeChain);
        return found;
    };
    same_chains(whole, members, &mut found);
    let places = places(whole, &mut found);
    transactions(history, whole, &places, &mut found);
    nonces(history, &places, &mut found);
    real_time(history, &places, &mut found);
    balances(history, whole, members, genesis, &mut found);
    shown(history, whole, &mut found);
    subscriptions(history, whole, &mut found);
    logs(history, whole, &mut found);
    found
}

/// Heads and commit indexes of one process only rise.
fn went_back(history: &History, found: &mut Vec<Violation>) {
    let mut heads: BTreeMap<(usize, u32), u64> = BTreeMap::new();
    let mut commits: BTreeMap<(usize, u32), u64> = BTreeMap::new();
    let mut reopened = history.reopened.clone();
    for report in &history.reports {
        let (slot, life) = (report.slot, (report.slot, report.life));
        let to = report.head.height;
        if let Some(from) = heads.insert(life, to)
            && to < from
        {
            let what = "head";
            found.push(Violation::WentBack {
                slot,
                what,
                from,
                to,
            });
        }
        if let Some(to) = report.committed
            && let Some(from) = commits.insert(life, to)
            && to < from
        {
            // Each opening excuses one step back.
            let openings = reopened.entry(slot).or_default();
            match openings.checked_sub(1) {
                Some(left) => *openings = left,
                None => {
                    let what = "commit index";
                    found.push(Violation::WentBack {
                        slot,
                        what,
                        from,
                        to,
                    });
                }
            }
        }
    }
}

fn same_chains(whole: &Holdings, members: &[Holdings], found: &mut Vec<Violation>) {
    let expected = whole.blocks.len() as u64;
    for member in members {
        let slot = member.slot;
        let pairs = member.blocks.iter().zip(member.blocks.iter().skip(1));
        let broken = pairs
            .into_iter()
            .find(|(a, b)| match a.height + 1 == b.height {
                true => a.hash != b.parent,
                false => !member.partial,
            });
        if let Some((_, block)) = broken {
            let height = block.height;
            found.push(Violation::Broken { slot, height });
        }
        let height = member.blocks.last().map_or(0, |b| b.height);
        if height != expected {
            found.push(Violation::Length {
                slot,
                height,
                expected,
            });
        }
        let differs = member
            .blocks
            .iter()
            .find(|b| at(whole, b.height).is_some_and(|ours| ours != *b));
        if let Some(block) = differs {
            found.push(Violation::Fork {
                height: block.height,
                slot: whole.slot,
                other: slot,
            });
        }
    }
}

fn at(chain: &Holdings, height: u64) -> Option<&Block> {
    let position = usize::try_from(height.checked_sub(1)?).ok()?;
    chain.blocks.get(position).filter(|b| b.height == height)
}

/// Where each transaction stands: height, and position among all.
fn places(whole: &Holdings, found: &mut Vec<Violation>) -> BTreeMap<B256, (u64, usize)> {
    let mut places = BTreeMap::new();
    let all = whole
        .blocks
        .iter()
        .flat_map(|b| b.transactions.iter().map(|hash| (b.height, *hash)));
    for (position, (height, hash)) in all.enumerate() {
        if places.insert(hash, (height, position)).is_some() {
            found.push(Violation::Twice(hash));
        }
    }
    places
}

fn transactions(
    history: &History,
    whole: &Holdings,
    places: &BTreeMap<B256, (u64, usize)>,
    found: &mut Vec<Violation>,
) {
    let mut sent = BTreeSet::new();
    for submission in &history.submissions {
        let hash = submission.transfer.hash;
        sent.insert(hash);
        let Some(acknowledged) = submission.acknowledged else {
            found.push(Violation::Unanswered(hash));
            continue;
        };
        match places.get(&hash) {
            None => found.push(Violation::Lost(hash)),
            Some((height, _)) => {
                let Seen {
                    height: told,
                    hash: block,
                } = acknowledged.block;
                if *height != told || at(whole, told).is_none_or(|b| b.hash != block) {
                    found.push(Violation::Elsewhere(hash));
                }
            }
        }
    }
    let unknown = places.keys().filter(|hash| !sent.contains(*hash));
    found.extend(unknown.copied().map(Violation::Unknown));
}

/// In the chain, an account's nonces are 0, 1, 2 and so on.
fn nonces(history: &History, places: &BTreeMap<B256, (u64, usize)>, found: &mut Vec<Violation>) {
    let mut accounts: BTreeMap<Address, BTreeMap<usize, u64>> = BTreeMap::new();
    for Submission { transfer, .. } in &history.submissions {
        if let Some((_, position)) = places.get(&transfer.hash) {
            accounts
                .entry(transfer.from)
                .or_default()
                .insert(*position, transfer.nonce);
        }
    }
    for (account, nonces) in accounts {
        let wrong = (0u64..)
            .zip(nonces.values())
            .find(|(due, nonce)| due != *nonce);
        if let Some((_, nonce)) = wrong {
            let nonce = *nonce;
            found.push(Violation::NonceOrder { account, nonce });
        }
    }
}

/// Whatever was acknowledged before something was sent stands before it.
fn real_time(history: &History, places: &BTreeMap<B256, (u64, usize)>, found: &mut Vec<Violation>) {
    enum Event {
        /// At the same moment nothing is known about the order: sent comes first.
        Sent(usize, B256),
        Acknowledged(usize),
    }
    let mut events: Vec<(Moment, u8, Event)> = Vec::new();
    for submission in &history.submissions {
        let hash = submission.transfer.hash;
        let Some((_, position)) = places.get(&hash).copied() else {
            continue;
        };
        events.push((submission.at, 0, Event::Sent(position, hash)));
        if let Some(acknowledged) = submission.acknowledged {
            events.push((acknowledged.at, 1, Event::Acknowledged(position)));
        }
    }
    events.sort_by_key(|(at, order, _)| (*at, *order));
    let mut furthest: Option<usize> = None;
    for (_, _, event) in events {
        match event {
            Event::Acknowledged(position) => furthest = furthest.max(Some(position)),
            Event::Sent(position, later) => {
                if furthest.is_some_and(|furthest| position < furthest) {
                    found.push(Violation::RealTime { later });
                }
            }
        }
    }
}

/// Executes the transfers in the order of the chain, and compares.
fn balances(
    history: &History,
    whole: &Holdings,
    members: &[Holdings],
    genesis: &BTreeMap<Address, U256>,
    found: &mut Vec<Violation>,
) {
    let sent: BTreeMap<B256, &Transfer> = history
        .submissions
        .iter()
        .map(|s| (s.transfer.hash, &s.transfer))
        .collect();
    let mut expected = genesis.clone();
    let mut nonces: BTreeMap<Address, u64> = BTreeMap::new();
    for block in &whole.blocks {
        for transfer in block.transactions.iter().filter_map(|hash| sent.get(hash)) {
            let fee = U256::from(transfer.gas_price) * U256::from(TRANSFER_GAS);
            let from = expected.entry(transfer.from).or_default();
            *from = from.wrapping_sub(transfer.value).wrapping_sub(fee);
            *expected.entry(transfer.to).or_default() += transfer.value;
            *expected.entry(block.coinbase).or_default() += fee;
            *nonces.entry(transfer.from).or_default() += 1;
        }
    }
    let total = genesis
        .values()
        .fold(U256::ZERO, |sum, b| sum.wrapping_add(*b));
    for member in members {
        let slot = member.slot;
        let sum = member
            .balances
            .values()
            .fold(U256::ZERO, |sum, b| sum.wrapping_add(*b));
        if sum != total && !member.partial {
            found.push(Violation::Sum { slot });
        }
        for (account, balance) in &expected {
            let told = member.balances.get(account);
            if told.is_none() && member.partial {
                continue;
            }
            let same = told.copied().unwrap_or_default() == *balance;
            // Of accounts that sent nothing, genesis alone knows the nonce.
            let next = nonces.get(account).copied();
            let same_nonce = next.is_none_or(|next| {
                let told = member.nonces.get(account);
                told.map_or(member.partial, |told| *told == next)
            });
            if !(same && same_nonce) {
                let account = *account;
                found.push(Violation::Balance { slot, account });
            }
        }
    }
}

/// Every block that a member ever showed is in the chain.
fn shown(history: &History, whole: &Holdings, found: &mut Vec<Violation>) {
    let is_there = |seen: &Seen| {
        seen.height == 0 || at(whole, seen.height).is_some_and(|b| b.hash == seen.hash)
    };
    let by_members = history
        .reports
        .iter()
        .map(|r| (format!("the observer of node {}", r.slot), r.head));
    let by_subscribers = history
        .subscriptions
        .iter()
        .enumerate()
        .flat_map(|(n, told)| told.iter().map(move |s| (format!("subscriber {n}"), *s)));
    let mut told = BTreeSet::new();
    for (by, seen) in by_members.chain(by_subscribers) {
        if !is_there(&seen) && told.insert((by.clone(), seen.height)) {
            let height = seen.height;
            found.push(Violation::Phantom { by, height });
        }
    }
}

/// Every subscriber was told of every block, in order, from its first one to the head.
fn subscriptions(history: &History, whole: &Holdings, found: &mut Vec<Violation>) {
    let head = whole.blocks.len() as u64;
    for (subscriber, told) in history.subscriptions.iter().enumerate() {
        let mut due = told.first().map_or(1, |s| s.height);
        for seen in told {
            if seen.height != due {
                let came = Some(seen.height);
                found.push(Violation::Gap {
                    subscriber,
                    due,
                    came,
                });
            }
            due = seen.height + 1;
        }
        if due <= head {
            let came = None;
            found.push(Violation::Gap {
                subscriber,
                due,
                came,
            });
        }
    }
}

/// Every subscriber to logs came to know all of them in order, and no subscription left one out between two that it told of.
fn logs(history: &History, whole: &Holdings, found: &mut Vec<Violation>) {
    let emits: BTreeSet<B256> = history
        .submissions
        .iter()
        .filter(|s| s.transfer.to == teller())
        .map(|s| s.transfer.hash)
        .collect();
    let expected: Vec<LogSeen> = whole
        .blocks
        .iter()
        .flat_map(|block| {
            let (height, hash) = (block.height, block.hash);
            let emitting = block.transactions.iter().filter(|tx| emits.contains(*tx));
            emitting.map(move |transaction| LogSeen {
                block: Seen { height, hash },
                transaction: *transaction,
            })
        })
        .collect();
    for (subscriber, story) in history.logs.iter().enumerate() {
        let mut compare = |due: &[LogSeen], came: &[LogSeen]| {
            let count = due.len().max(came.len());
            let pairs = (0..count).map(|n| (due.get(n), came.get(n)));
            if let Some((due, came)) = pairs.into_iter().find(|(due, came)| due != came) {
                found.push(Violation::LogGap {
                    subscriber,
                    due: due.map(|log| log.transaction),
                    came: came.map(|log| log.transaction),
                });
            }
        };
        compare(&expected, &story.all);
        for told in &story.connections {
            let Some(first) = told.first() else { continue };
            let start = expected.iter().position(|log| log == first);
            let due = start.and_then(|start| expected.get(start..));
            let due = due.unwrap_or_default();
            compare(due.get(..told.len()).unwrap_or(due), told);
        }
    }
}

#[cfg(test)]
mod tests;
