//! Log queries: filters with geth's meaning, and the search for what they match.
//!
//! A party's answers hold the logs of private contracts too: of each block, first the public ones, then the private ones in the
//! order of their transactions. A query waits for private execution, unless it names public contracts alone: they log nothing in
//! private transactions.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

use alloy_eips::BlockNumberOrTag;
use alloy_primitives::{Address, B256, Bloom, BloomInput};
use jsonrpsee::server::RegisterMethodError;
use parking_lot::Mutex;
use quorate_chain::ImportedBlock;
use quorate_privacy::PrivateRecord;
use serde::Deserialize;

use super::args::Args;
use super::methods::{Module, method};
use super::view::{Json, LogView, block_logs, json, private_logs};
use crate::dual::has_code;
use crate::node::Node;
use crate::{PrivacyApi, RpcError};

/// Header blooms kept in memory (256 bytes each): a query that is repeated over old blocks does not read them again.
const BLOOMS_MAX: usize = 65_536;

/// Records of private transactions that are read at once. Each holds its payload in the clear.
const RECORDS_PAGE: usize = 32;

pub(crate) fn register(module: &mut Module) -> Result<(), RegisterMethodError> {
    method(module, "eth_getLogs", get_logs)
}

async fn get_logs(node: Arc<Node>, mut args: Args) -> Result<Json, RpcError> {
    let filter: LogFilter = args.required("filter")?;
    args.end()?;
    filter.check(&node)?;
    let range = filter.resolve(&node).await?;
    let mut found = Found::default();
    if let Some((first, last)) = range {
        found = search_all(&node, Arc::new(filter), first, last).await?;
    }
    json(&found.logs)
}

/// Searches both sides, after waiting for private execution where it matters.
pub(crate) async fn search_all(
    node: &Arc<Node>,
    filter: Arc<LogFilter>,
    first: u64,
    last: u64,
) -> Result<Found, RpcError> {
    let mut side = Side::Public;
    if let Some(privacy) = &node.ctx.privacy
        && !filter.names_public_contracts_only(node).await?
    {
        privacy.executed(last).await?;
        side = Side::Both;
    }
    search(node, filter, first, last, OnFull::Refuse, side).await
}

/// Which logs a client wants. Unknown fields are ignored, as in geth.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", try_from = "Requested")]
pub(crate) struct LogFilter {
    pub(crate) from: Option<BlockNumberOrTag>,
    pub(crate) to: Option<BlockNumberOrTag>,
    pub(crate) block_hash: Option<B256>,
    /// None of them: any address.
    addresses: BTreeSet<Address>,
    /// By position; an empty set: any topic, but there must be one.
    topics: Vec<BTreeSet<B256>>,
    /// What a header's bloom must contain: one of each group.
    blooms: Vec<Vec<Bloom>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Requested {
    from_block: Option<BlockNumberOrTag>,
    to_block: Option<BlockNumberOrTag>,
    block_hash: Option<B256>,
    address: Option<OneOrMany<Address>>,
    topics: Option<Vec<Option<OneOrMany<Option<B256>>>>>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum OneOrMany<T> {
    One(T),
    Many(Vec<T>),
}

impl<T> OneOrMany<T> {
    fn into_vec(self) -> Vec<T> {
        match self {
            Self::One(value) => vec![value],
            Self::Many(values) => values,
        }
    }
}

impl TryFrom<Requested> for LogFilter {
    type Error = &'static str;

    fn try_from(requested: Requested) -> Result<Self, Self::Error> {
        let Requested {
            from_block: from,
            to_block: to,
            block_hash,
            address,
            topics,
        } = requested;
        if block_hash.is_some() && (from.is_some() || to.is_some()) {
            return Err(
                "cannot specify both blockHash and fromBlock/toBlock, choose one or the other",
            );
        }
        let topics = topics.unwrap_or_default();
        if topics.len() > 4 {
            return Err("at most 4 topic positions are allowed");
        }
        let addresses: BTreeSet<Address> = address
            .map(OneOrMany::into_vec)
            .unwrap_or_default()
            .into_iter()
            .collect();
        let topics: Vec<BTreeSet<B256>> = topics
            .into_iter()
            .map(|position| {
                let wanted = position.map(OneOrMany::into_vec).unwrap_or_default();
                // A null among the alternatives: any topic.
                wanted
                    .into_iter()
                    .collect::<Option<BTreeSet<B256>>>()
                    .unwrap_or_default()
            })
            .collect();
        let mut blooms = Vec::new();
        if !addresses.is_empty() {
            blooms.push(
                addresses
                    .iter()
                    .map(|a| Bloom::from(BloomInput::Raw(a.as_slice())))
                    .collect(),
            );
        }
        for position in topics.iter().filter(|position| !position.is_empty()) {
            blooms.push(
                position
                    .iter()
                    .map(|t| Bloom::from(BloomInput::Raw(t.as_slice())))
                    .collect(),
            );
        }
        Ok(Self {
            from,
            to,
            block_hash,
            addresses,
            topics,
            blooms,
        })
    }
}

impl LogFilter {
    /// Refuses a filter that names too much: each term costs time on each block.
    pub(crate) fn check(&self, node: &Node) -> Result<(), RpcError> {
        let max = node.ctx.config.log_terms_max;
        let terms = self.addresses.len() + self.topics.iter().map(BTreeSet::len).sum::<usize>();
        if terms > max {
            return Err(RpcError::Limit {
                what: "log filter",
                max: max as u64,
                unit: "addresses and topics",
            });
        }
        Ok(())
    }

    /// First and last height to search; `None` if no such block exists yet. Both ends are the head if they are not given.
    pub(crate) async fn resolve(&self, node: &Node) -> Result<Option<(u64, u64)>, RpcError> {
        if let Some(hash) = self.block_hash {
            let block = node
                .block_by_hash(hash)
                .await?
                .ok_or(RpcError::UnknownBlock)?;
            return Ok(Some((block.height(), block.height())));
        }
        let head = node.head();
        let height = |tag: Option<BlockNumberOrTag>| match tag {
            Some(BlockNumberOrTag::Number(height)) => height,
            Some(BlockNumberOrTag::Earliest) => 0,
            Some(
                BlockNumberOrTag::Latest
                | BlockNumberOrTag::Safe
                | BlockNumberOrTag::Finalized
                | BlockNumberOrTag::Pending,
            )
            | None => head,
        };
        let (first, last) = (height(self.from), height(self.to));
        // A range that begins above the head has no blocks yet; one that ends before it begins never has.
        if first > last && self.to.is_some() {
            return Err(RpcError::argument(
                "filter",
                format!("fromBlock {first} is above toBlock {last}"),
            ));
        }
        let last = last.min(head);
        if first > last {
            return Ok(None);
        }
        let max = node.ctx.config.log_blocks_max;
        if last - first >= max {
            return Err(RpcError::Limit {
                what: "block range of a log query",
                max,
                unit: "blocks",
            });
        }
        Ok(Some((first, last)))
    }

    /// False if no log under this bloom can match.
    fn may_match(&self, bloom: &Bloom) -> bool {
        self.blooms
            .iter()
            .all(|group| group.iter().any(|wanted| bloom.contains(wanted)))
    }

    fn matches(&self, address: Address, topics: &[B256]) -> bool {
        (self.addresses.is_empty() || self.addresses.contains(&address))
            && self.topics.len() <= topics.len()
            && self
                .topics
                .iter()
                .zip(topics)
                .all(|(wanted, topic)| wanted.is_empty() || wanted.contains(topic))
    }

    /// True if no private contract can match: it would have no public code.
    pub(crate) async fn names_public_contracts_only(
        self: &Arc<Self>,
        node: &Node,
    ) -> Result<bool, RpcError> {
        if self.addresses.is_empty() {
            return Ok(false);
        }
        let filter = Arc::clone(self);
        let state = node.ledger().latest_state();
        node.read(move |_| {
            for address in &filter.addresses {
                if !has_code(&state, address)? {
                    return Ok(false);
                }
            }
            Ok(true)
        })
        .await
    }

    /// The matching logs of one block's private transactions; `records` are all that this node has of the block.
    pub(crate) fn private_logs_of<'a>(
        &'a self,
        block: &'a ImportedBlock,
        records: &'a [PrivateRecord],
    ) -> impl Iterator<Item = LogView<'a>> + 'a {
        private_logs(block, records).filter(|log| self.matches(log.address(), log.topics()))
    }

    /// False if no log of these transactions can match.
    pub(crate) fn may_match_any(&self, records: &[PrivateRecord]) -> bool {
        records.iter().any(|record| self.may_match(&record.bloom))
    }

    /// The matching logs of one block.
    pub(crate) fn logs_of<'a>(
        &'a self,
        block: &'a ImportedBlock,
    ) -> impl Iterator<Item = LogView<'a>> + 'a {
        let may = self.may_match(&block.block.header().logs_bloom);
        let logs = may.then(|| block_logs(block)).into_iter().flatten();
        logs.map(|(_, log)| log)
            .filter(|log| self.matches(log.address(), log.topics()))
    }
}

/// Blooms of blocks that have been read; the lowest heights make room for higher ones.
#[derive(Debug, Default)]
pub(crate) struct Blooms {
    by_height: Mutex<BTreeMap<u64, Bloom>>,
}

impl Blooms {
    fn get(&self, height: u64) -> Option<Bloom> {
        self.by_height.lock().get(&height).copied()
    }

    fn insert(&self, height: u64, bloom: Bloom) {
        let mut by_height = self.by_height.lock();
        by_height.insert(height, bloom);
        if by_height.len() > BLOOMS_MAX {
            by_height.pop_first();
        }
    }
}

/// What a search does when it has found as much as it may return.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OnFull {
    /// An error: the caller must narrow the query.
    Refuse,
    /// It stops after a block, and the next search goes on there.
    Pause,
}

/// Whose logs a search is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Public,
    /// Private execution must have reached the end of the range.
    Private,
    /// Likewise.
    Both,
}

/// Records of private transactions, block by block, read in pages.
struct RecordPages {
    privacy: Arc<dyn PrivacyApi>,
    last: u64,
    /// Of blocks up to `through`, without those that were taken.
    by_height: BTreeMap<u64, Vec<PrivateRecord>>,
    /// Everything up to here has been read; `None`: nothing yet.
    through: Option<u64>,
}

impl RecordPages {
    fn new(privacy: Arc<dyn PrivacyApi>, last: u64) -> Self {
        Self {
            privacy,
            last,
            by_height: BTreeMap::new(),
            through: None,
        }
    }

    /// The records of a block. Heights rise from call to call.
    fn take(&mut self, height: u64) -> Result<Vec<PrivateRecord>, RpcError> {
        if self.through.is_none_or(|through| through < height) {
            let records = self.privacy.records(height, self.last, RECORDS_PAGE)?;
            // A page ends with a whole block, so that what comes next is known.
            let full = records.len() >= RECORDS_PAGE;
            let end = records.last().filter(|_| full).map(|record| record.height);
            self.through = Some(end.unwrap_or(self.last));
            for record in records {
                self.by_height
                    .entry(record.height)
                    .or_default()
                    .push(record);
            }
        }
        Ok(self.by_height.remove(&height).unwrap_or_default())
    }
}

/// What a search has found.
#[derive(Debug, Default)]
pub(crate) struct Found {
    pub(crate) logs: Vec<Json>,
    /// Last height that was searched.
    pub(crate) through: u64,
}

/// Searches blocks `first` to `last`, within the limits of the settings.
pub(crate) async fn search(
    node: &Arc<Node>,
    filter: Arc<LogFilter>,
    first: u64,
    last: u64,
    on_full: OnFull,
    side: Side,
) -> Result<Found, RpcError> {
    let shared = Arc::clone(node);
    node.call(move || {
        let node = shared;
        let config = &node.ctx.config;
        let started = Instant::now();
        let mut pages = match &node.ctx.privacy {
            Some(privacy) if side != Side::Public => {
                Some(RecordPages::new(Arc::clone(privacy), last))
            }
            _ => None,
        };
        let mut found = Found {
            logs: Vec::new(),
            through: first,
        };
        for height in first..=last {
            found.through = height;
            let late = started.elapsed() > config.log_time_max;
            if late && on_full == OnFull::Refuse {
                let max = u64::try_from(config.log_time_max.as_millis()).unwrap_or(u64::MAX);
                return Err(RpcError::Limit {
                    what: "time of a log query, narrow its range",
                    max,
                    unit: "ms",
                });
            }
            if side != Side::Private
                && node
                    .blooms
                    .get(height)
                    .is_none_or(|bloom| filter.may_match(&bloom))
            {
                let block = node.ledger().block(height)?.ok_or(RpcError::UnknownBlock)?;
                node.blooms.insert(height, block.block.header().logs_bloom);
                for log in filter.logs_of(&block) {
                    found.logs.push(json(&log)?);
                }
            }
            let records = match &mut pages {
                Some(pages) => pages.take(height)?,
                None => Vec::new(),
            };
            if filter.may_match_any(&records) {
                let block = node.ledger().block(height)?.ok_or(RpcError::UnknownBlock)?;
                for log in filter.private_logs_of(&block, &records) {
                    found.logs.push(json(&log)?);
                }
            }
            if found.logs.len() > config.log_results_max && on_full == OnFull::Refuse {
                let max = config.log_results_max as u64;
                return Err(RpcError::Limit {
                    what: "results of a log query, narrow its range",
                    max,
                    unit: "logs",
                });
            }
            if on_full == OnFull::Pause && (late || found.logs.len() >= config.log_results_max) {
                break;
            }
        }
        Ok(found)
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(text: &str) -> LogFilter {
        serde_json::from_str(text).unwrap()
    }

    fn topic(n: u8) -> B256 {
        B256::repeat_byte(n)
    }

    #[test]
    fn topics_match_by_position_as_in_geth() {
        let (a, b) = (topic(0xaa), topic(0xbb));
        let address = Address::repeat_byte(1);
        let cases = [
            ("{}", vec![], true),
            (
                r#"{"topics": null, "address": null, "fromBlock": null}"#,
                vec![a],
                true,
            ),
            (r#"{"topics": []}"#, vec![a, b], true),
            (&format!(r#"{{"topics": ["{a}"]}}"#), vec![a, b], true),
            (&format!(r#"{{"topics": ["{b}"]}}"#), vec![a, b], false),
            (&format!(r#"{{"topics": [null, "{b}"]}}"#), vec![a, b], true),
            (&format!(r#"{{"topics": [null, "{b}"]}}"#), vec![b], false),
            // A position that takes anything still asks for a topic there.
            (r#"{"topics": [null, null]}"#, vec![a], false),
            (&format!(r#"{{"topics": [["{b}", "{a}"]]}}"#), vec![a], true),
            (&format!(r#"{{"topics": [["{b}", null]]}}"#), vec![a], true),
            (r#"{"topics": [[]], "someday": 1}"#, vec![a], true),
        ];
        for (text, topics, expected) in cases {
            assert_eq!(
                filter(text).matches(address, &topics),
                expected,
                "{text} on {topics:?}"
            );
        }
    }

    #[test]
    fn addresses_match_one_or_any_of_many() {
        let (a, b) = (Address::repeat_byte(0xaa), Address::repeat_byte(0xbb));
        assert!(filter(&format!(r#"{{"address": "{a}"}}"#)).matches(a, &[]));
        assert!(!filter(&format!(r#"{{"address": "{a}"}}"#)).matches(b, &[]));
        assert!(filter(&format!(r#"{{"address": ["{a}", "{b}"]}}"#)).matches(b, &[]));
        assert!(filter(r#"{"address": []}"#).matches(b, &[]));
    }

    #[test]
    fn a_bloom_without_the_terms_is_skipped() {
        let wanted = Address::repeat_byte(0xaa);
        let filter = filter(&format!(
            r#"{{"address": "{wanted}", "topics": [null, "{}"]}}"#,
            topic(1)
        ));
        assert!(!filter.may_match(&Bloom::ZERO));
        let mut bloom = Bloom::from(BloomInput::Raw(wanted.as_slice()));
        assert!(!filter.may_match(&bloom));
        bloom.accrue(BloomInput::Raw(topic(1).as_slice()));
        assert!(filter.may_match(&bloom));
    }

    #[test]
    fn contradictions_are_refused() {
        let hash = topic(1);
        for text in [
            format!(r#"{{"blockHash": "{hash}", "fromBlock": "0x0"}}"#),
            r#"{"topics": [null, null, null, null, null]}"#.into(),
            r#"{"fromBlock": "0xzz"}"#.into(),
        ] {
            assert!(serde_json::from_str::<LogFilter>(&text).is_err(), "{text}");
        }
    }

    #[test]
    fn the_bloom_cache_keeps_the_newest() {
        let blooms = Blooms::default();
        for height in 0..BLOOMS_MAX as u64 + 10 {
            blooms.insert(height, Bloom::ZERO);
        }
        assert_eq!(blooms.get(9), None);
        assert!(blooms.get(10).is_some());
        assert_eq!(blooms.by_height.lock().len(), BLOOMS_MAX);
    }
}
