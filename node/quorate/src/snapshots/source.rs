//! Fetching: blocks one after the other, or a state snapshot chunk by chunk, from whichever member can help.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use quorate_chain::{ANCHOR_BYTES_MAX, Anchor};
use quorate_engine::snapshots::{Download, DownloadError, Expectation, SnapshotDescription};
use quorate_engine::{BlockSource, Target};
use quorate_p2p::QueryKind;
use tokio_util::sync::CancellationToken;

use super::questions::{Description, Question, read_part};
use super::{Ready, Shared};
use crate::network::PeerBlocks;

/// So long it is waited for members that are making a snapshot.
const COMING_MAX: Duration = Duration::from_secs(120);
/// So long it is waited for anybody to answer.
const EARLY_MAX: Duration = Duration::from_secs(5);
/// Pause between two questions whether it is made.
const COMING_PAUSE: Duration = Duration::from_millis(500);
/// Chunks that are asked for between two looks at what is missing.
const CHUNKS_AT_ONCE: usize = 16;
/// Entries behind those known to be committed within which the block of a snapshot must have come.
const PROOF_SLACK: u64 = 256;
/// Parts of an anchor have at least so many bytes, but for the last.
const PART_BYTES_MIN: u64 = 64 << 10;
/// Rounds over all members for a chunk that none of them gave.
const FRUITLESS_MAX: usize = 8;

/// What the importer asks when it is behind the log.
pub struct SnapshotSource {
    shared: Arc<Shared>,
    blocks: PeerBlocks,
    stop: CancellationToken,
}

impl fmt::Debug for SnapshotSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SnapshotSource").finish_non_exhaustive()
    }
}

impl BlockSource for SnapshotSource {
    fn fetch(&mut self, first: u64, count: u32, attempt: u32) -> Vec<Bytes> {
        self.blocks.fetch(first, count, attempt)
    }

    fn snapshot(&mut self, head: u64, target: &Target<'_>) -> Option<u64> {
        let pending = self.shared.memory.state.lock().pending.is_some();
        if pending && target.without_blocks {
            // What follows the installed snapshot is gone everywhere: back to the old stores, then a newer one.
            self.shared.memory.state.lock().revert = true;
            return Some(head);
        }
        if pending {
            return None;
        }
        let behind = target.manifest.height.saturating_sub(head);
        let far = self.shared.distance > 0
            && behind >= self.shared.distance
            && !self.shared.needs_every_block();
        if !far && !target.without_blocks {
            return None;
        }
        let started = Instant::now();
        while !self.stop.is_cancelled() && started.elapsed() < COMING_MAX {
            let (offers, coming, answers) = self.offers(head, target);
            for (peer, description) in offers {
                // Its block is among the next that ordering delivers; entries without a block may lie between.
                let committed = self.shared.raft.status().committed.0;
                let proved_by = committed.saturating_add(PROOF_SLACK);
                let block = description.block_hash;
                if let Some(height) = self.download(peer, description) {
                    self.shared.memory.state.lock().ready = Some(Ready {
                        giver: peer,
                        block,
                        index: target.index,
                        proved_by,
                    });
                    return Some(height);
                }
            }
            // Right after the start nobody may be connected yet.
            let too_early = answers == 0 && started.elapsed() < EARLY_MAX;
            if !coming && !too_early {
                return None;
            }
            std::thread::sleep(COMING_PAUSE);
        }
        None
    }

    fn confirm_snapshot(&mut self, height: u64) {
        self.shared.confirm(height);
    }

    fn reject_snapshot(&mut self) -> bool {
        self.shared.reject()
    }

    fn unproved_at(&mut self, index: u64) -> bool {
        self.shared.is_overdue(index) && self.shared.reject()
    }
}

impl SnapshotSource {
    pub(super) fn new(shared: Arc<Shared>, blocks: PeerBlocks, stop: CancellationToken) -> Self {
        Self {
            shared,
            blocks,
            stop,
        }
    }

    /// Members that have not been caught at giving what no honest one gives.
    fn peers(&self) -> Vec<u64> {
        let connected = self.shared.network.connected();
        let memory = self.shared.memory.state.lock();
        let trusted = connected.into_iter();
        trusted
            .filter(|peer| !memory.blamed.contains(peer))
            .collect()
    }

    fn ask(&self, peer: u64, question: Question) -> Option<Bytes> {
        let asked = self
            .shared
            .network
            .query(peer, QueryKind::Snapshot, question.encode());
        let asked = self.stop.run_until_cancelled(asked);
        let answer = self.blocks.runtime.block_on(asked)?;
        answer
            .inspect_err(
                |e| tracing::debug!(peer, error = %e, "a snapshot question was not answered"),
            )
            .ok()
    }

    fn blame(&self, peer: u64, reason: &dyn fmt::Display) {
        metrics::counter!("quorate_snapshot_peers_blamed_total").increment(1);
        tracing::warn!(peer, %reason, "a member gave a snapshot that no honest one gives; it is not asked again");
        self.shared.memory.state.lock().blamed.insert(peer);
    }

    /// What the members offer, the highest first, whether some are still making one, and how many answered.
    fn offers(
        &self,
        head: u64,
        target: &Target<'_>,
    ) -> (Vec<(u64, SnapshotDescription)>, bool, usize) {
        let (mut offers, mut coming, mut answers) = (Vec::new(), false, 0);
        for peer in self.peers() {
            let answer = self.ask(peer, Question::Describe { above: head });
            answers += usize::from(answer.is_some());
            match answer.and_then(|answer| Description::decode(&answer)) {
                Some(Description::Here(bytes)) => match SnapshotDescription::decoded(&bytes) {
                    Ok(description) => offers.push((peer, description)),
                    Err(e) => self.blame(peer, &e),
                },
                Some(Description::Coming) => coming = true,
                Some(Description::None) | None => {}
            }
        }
        // One that is not of use yet may be in a moment.
        let offered = offers.len();
        offers.retain(|(peer, description)| self.is_of_use(*peer, description, head, target));
        coming |= offers.is_empty() && offered > 0;
        offers.sort_by_key(|(peer, description)| (std::cmp::Reverse(description.height), *peer));
        (offers, coming, answers)
    }

    fn is_of_use(
        &self,
        peer: u64,
        description: &SnapshotDescription,
        head: u64,
        target: &Target<'_>,
    ) -> bool {
        let manifest = target.manifest;
        if description.height == manifest.height && description.block_hash != manifest.hash {
            self.blame(peer, &"its snapshot is of another chain");
            return false;
        }
        // One above the target is proved right or wrong by what ordering delivers after that: at most as many blocks as it knows
        // to be committed.
        let committed = self.shared.raft.status().committed.0;
        let further = committed.saturating_sub(target.index);
        let highest = manifest.height.saturating_add(further);
        let block = &description.block_hash;
        let rejected = self.shared.memory.state.lock().rejected.contains(block);
        !rejected && description.height > head && description.height <= highest
    }

    fn download(&self, peer: u64, description: SnapshotDescription) -> Option<u64> {
        let started = Instant::now();
        let anchor = self.anchor(peer, &description)?;
        let ledger = &self.shared.ledger;
        if !ledger.is_sealer(&anchor.block.block.header().beneficiary) {
            self.blame(peer, &"its snapshot's block is not a member's");
            return None;
        }
        let expected = Expectation {
            chain_id: ledger.spec().chain_id(),
            genesis_hash: ledger.genesis().hash(),
            highest: u64::MAX,
        };
        let (id, height, total) = (
            description.id(),
            description.height,
            description.total_bytes(),
        );
        // Its chunks, and the stores that are made from them beside the old ones.
        match free_bytes(&self.shared.data_dir) {
            Some(free) if total.saturating_mul(4) > free => {
                tracing::error!(
                    height,
                    bytes = total,
                    free,
                    "there is no room for this state snapshot"
                );
                return None;
            }
            _ => {}
        }
        tracing::info!(peer, height, bytes = total, %id, "fetching a state snapshot");
        let mut download =
            match Download::begin(&self.shared.data_dir, description, anchor, &expected) {
                Ok(download) => download,
                Err(e) => {
                    self.note(peer, &e);
                    return None;
                }
            };
        let mut fruitless = 0;
        while !download.is_complete() {
            if self.stop.is_cancelled() || fruitless >= FRUITLESS_MAX {
                return None;
            }
            let before = download.progress().chunks;
            self.chunks(&mut download, peer);
            if download.progress().chunks == before {
                fruitless += 1;
                std::thread::sleep(COMING_PAUSE);
            } else {
                fruitless = 0;
            }
        }
        match download.finish() {
            Ok(_) => {
                let seconds = started.elapsed().as_secs_f64();
                tracing::info!(
                    height,
                    snapshot_bytes = total,
                    seconds,
                    "state snapshot fetched"
                );
                Some(height)
            }
            Err(e) => {
                tracing::warn!(error = %e, "the fetched snapshot cannot be used");
                None
            }
        }
    }

    /// The next missing chunks, each from the first member that gives it: equal states make equal chunks everywhere.
    fn chunks(&self, download: &mut Download, first: u64) {
        let id = download.description().id();
        for number in download.missing(CHUNKS_AT_ONCE) {
            let place = usize::try_from(number).unwrap_or(usize::MAX);
            let Some(hash) = download.description().chunks.get(place).map(|c| c.hash) else {
                return;
            };
            let others = self.peers().into_iter().filter(|peer| *peer != first);
            let candidates = self.peers().into_iter().filter(|peer| *peer == first);
            for peer in candidates.chain(others) {
                if self.stop.is_cancelled() {
                    return;
                }
                let question = Question::Chunk { id, number, hash };
                let Some(bytes) = self.ask(peer, question) else {
                    continue;
                };
                match download.accept(number, &bytes) {
                    Ok(_) => break,
                    Err(e) => self.note(peer, &e),
                }
            }
        }
    }

    fn note(&self, peer: u64, e: &DownloadError) {
        if e.blames_peer() {
            self.blame(peer, e);
        } else {
            tracing::warn!(peer, error = %e, "a snapshot could not be fetched");
        }
    }

    fn anchor(&self, peer: u64, description: &SnapshotDescription) -> Option<Anchor> {
        let id = description.id();
        let mut bytes = Vec::new();
        loop {
            let offset = bytes.len() as u64;
            let answer = self.ask(peer, Question::Anchor { id, offset })?;
            let (length, part) = read_part(&answer)?;
            let rest = length.saturating_sub(offset);
            let full = part.len() as u64 >= rest.min(PART_BYTES_MIN);
            if length > ANCHOR_BYTES_MAX as u64 || !full || part.is_empty() {
                self.blame(peer, &"its anchor is too long, or ends early");
                return None;
            }
            bytes.extend_from_slice(part);
            if bytes.len() as u64 >= length {
                break;
            }
        }
        match Anchor::decode(&bytes) {
            Ok(anchor) => Some(anchor),
            Err(e) => {
                self.blame(peer, &e);
                None
            }
        }
    }
}

/// Bytes that this process may still write to the file system of `folder`.
fn free_bytes(folder: &std::path::Path) -> Option<u64> {
    let space = rustix::fs::statvfs(folder).ok()?;
    Some(space.f_bavail.saturating_mul(space.f_frsize))
}
