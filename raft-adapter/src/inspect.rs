//! Looking at a log that nobody runs on, to choose among survivors.

use std::{path::Path, sync::Arc};

use crate::{
    config::Config,
    driver::open_folder,
    error::OpenError,
    ids::{LogIndex, Term},
    log::Log,
    member_table::MemberTable,
};

/// Where a log ends. Of several survivors, the one with the highest `last_term`, and of those the highest `last_index`,
/// holds everything that any of them knows to be committed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogEnd {
    /// Its last entry.
    pub last_index: LogIndex,
    /// That entry's term.
    pub last_term: Term,
    /// The last entry that this member knew to be committed, as far as it wrote that down.
    pub committed: LogIndex,
    /// The membership in force here.
    pub table: Arc<MemberTable>,
}

/// Opens the log in `dir` and says where it ends.
///
/// # Errors
/// [`OpenError`]: a process has the log open, or it is damaged or another member's.
pub fn inspect(dir: &Path, config: Config) -> Result<LogEnd, OpenError> {
    let config = config.validated()?;
    let log = Log::open(&config, Arc::new(open_folder(dir)?))?;
    let last = log.last();
    Ok(LogEnd {
        last_index: LogIndex(last),
        last_term: Term(log.term_at(last).unwrap_or_default()),
        committed: LogIndex(log.hard_state().commit),
        table: Arc::clone(log.table()),
    })
}
