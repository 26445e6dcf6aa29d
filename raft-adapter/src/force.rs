//! A new beginning after the majority was lost for good: one survivor goes on alone.
//!
//! Done offline, on the log of a member that does not run. What this log holds counts as committed, whoever else may have
//! had more; that is the loss which the break in the member table tells of, for ever. The break is an entry of the log, so
//! that every member added later learns of it at the same position.

use std::{path::Path, sync::Arc};

use bytes::Bytes;
use prost011::Message as _;
use raft::eraftpb::{Entry, EntryType, HardState};

use crate::{
    config::Config,
    core::change_of,
    driver::open_folder,
    error::OpenError,
    ids::{LogIndex, Term},
    log::{Log, LogBatch, disk::Disk, writer::LogWriter},
    member_change::Logged,
    member_table::{DETAILS_BYTES_MAX, MemberRole, MemberTable},
};

/// Entries read at once, in bytes.
const READ_BYTES: u64 = 4 << 20;

/// Makes the member of `config` the only one of a consortium that begins anew on its log in `dir`: every entry of this log
/// counts as committed, all other members are removed, the term rises, and a [`crate::Break`] with `note` says so in the
/// member table for ever. Durable when it returns. If it is interrupted, it can be done again; done again without need, it
/// changes nothing.
///
/// The others must never run under their ids again: they may hold entries that are committed no more.
///
/// # Errors
/// [`OpenError`]: a process has the log open, the log is damaged or another member's, this member is neither voter nor
/// learner by its own log, or the note is too long.
pub fn force_new_cluster(
    dir: &Path,
    config: Config,
    note: Bytes,
) -> Result<MemberTable, OpenError> {
    force_new_cluster_on(Arc::new(open_folder(dir)?), config, note)
}

/// As [`force_new_cluster`], on any disk.
///
/// # Errors
/// See [`force_new_cluster`].
pub fn force_new_cluster_on(
    disk: Arc<dyn Disk>,
    config: Config,
    note: Bytes,
) -> Result<MemberTable, OpenError> {
    let config = config.validated()?;
    if note.len() > DETAILS_BYTES_MAX {
        return Err(OpenError::NoteTooLong {
            got: note.len(),
            max: DETAILS_BYTES_MAX,
        });
    }
    let mut log = Log::open(&config, Arc::clone(&disk))?;
    let mut writer = LogWriter::new(disk);
    let (changes, table) = committed_tables(&log, &config)?;
    fail_point!("raft.log.force");
    let last = log.last();
    let survivor = config.id;
    let is_member = table
        .members
        .get(&survivor)
        .is_some_and(|member| member.role != MemberRole::Removed);
    if !is_member {
        return Err(OpenError::NotMember { id: survivor });
    }
    let mut batches = Vec::new();
    let done_before = table.members.len() == 1
        && table
            .breaks
            .last()
            .is_some_and(|broken| broken.index.0 == last && broken.survivor == survivor);
    let hard_state = log.hard_state().clone();
    let (mut index, mut term) = (last, hard_state.term);
    let mut tables = changes;
    let mut table = table;
    if !done_before {
        index = last + 1;
        term = term.max(log.term_at(last).unwrap_or_default()) + 1;
        let entry = Entry {
            index,
            term,
            entry_type: EntryType::EntryConfChangeV2 as i32,
            data: Logged::break_to_raft(survivor, &note).encode_to_vec(),
            ..Entry::default()
        };
        table = table
            .broken(LogIndex(index), Term(term), survivor, note)
            .ok_or(OpenError::NotMember { id: survivor })?;
        tables.push((index, table.clone()));
        // The term first and durably: an entry of a term this member forgot would be worse than a term without one.
        let begun = HardState {
            term,
            vote: survivor.0,
            commit: hard_state.commit,
        };
        batches.push(log.save(None, Some(begun), vec![entry])?);
        write(&mut log, &mut writer, &mut batches)?;
    }
    for (index, table) in tables {
        let conf_state = table.conf_state();
        batches.push(log.save_membership(index, &conf_state, Arc::new(table)));
    }
    if log.floor() != 0 {
        // Whoever counted on what is missing here is gone.
        batches.push(log.save_floor(0));
    }
    let committed = HardState {
        term,
        vote: survivor.0,
        commit: index,
    };
    batches.push(log.save(None, Some(committed), Vec::new())?);
    write(&mut log, &mut writer, &mut batches)?;
    tracing::warn!(%survivor, index, term, lost = ?table.breaks.last().map(|broken| &broken.lost), "the consortium begins anew with one member");
    Ok(table)
}

fn write(
    log: &mut Log,
    writer: &mut LogWriter,
    batches: &mut Vec<(crate::ids::WriteNumber, LogBatch)>,
) -> Result<(), OpenError> {
    for (_, batch) in batches.iter() {
        writer.write(batch)?;
    }
    writer.barrier()?;
    for (number, _) in batches.drain(..) {
        log.persisted(number);
    }
    Ok(())
}

/// The tables made by the entries behind the one in force, if all of them are committed, and the last of them.
fn committed_tables(
    log: &Log,
    config: &Config,
) -> Result<(Vec<(u64, MemberTable)>, MemberTable), OpenError> {
    let (since, _) = log.membership();
    let mut table = MemberTable::clone(log.table());
    let mut tables = Vec::new();
    let (mut next, end) = ((since + 1).max(log.first()), log.last() + 1);
    while next < end {
        let entries = log.read(next, end, READ_BYTES)?;
        for entry in &entries {
            next = entry.index + 1;
            let (index, term) = (LogIndex(entry.index), Term(entry.term));
            let Some(Some((change, logged))) = change_of(entry) else {
                continue;
            };
            if index <= table.index {
                continue;
            }
            let after = match logged {
                Logged::Change(change) => table.with_change(index, term, &change).ok(),
                Logged::Break { survivor, note } => table.broken(index, term, survivor, note),
                Logged::Leave => table.is_joint().then(|| table.left_joint(index)),
                Logged::Plain => table.with_plain(index, &change, &config.details),
            };
            if let Some(after) = after {
                table = after;
                tables.push((entry.index, table.clone()));
            }
        }
    }
    Ok((tables, table))
}
