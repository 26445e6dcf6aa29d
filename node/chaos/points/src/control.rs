//! Arming from outside, and the record of what was passed.

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

/// Between two looks at the file.
const PACE: Duration = Duration::from_millis(10);
/// No set of places needs more.
const SET_BYTES_MAX: u64 = 64 << 10;

/// The folder that is watched.
const FOLDER: &str = "QUORATE_FAIL_POINTS_DIR";
/// Actions from the start on; read by the crate `fail`.
const ACTIONS: &str = "FAILPOINTS";

/// Why places cannot be armed from outside.
#[derive(Debug)]
pub enum WatchError {
    /// The folder named by `QUORATE_FAIL_POINTS_DIR` cannot be written to, or the system gives no thread.
    Io(std::io::Error),
    /// It was called twice.
    Twice,
}

impl std::fmt::Display for WatchError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Io(error) => write!(f, "{FOLDER}: {error}"),
            Self::Twice => f.write_str("fail points are being watched already"),
        }
    }
}

impl std::error::Error for WatchError {}

struct Noted {
    file: File,
    armed: BTreeSet<String>,
    passed: BTreeSet<&'static str>,
    fired: BTreeSet<&'static str>,
}

static NOTED: OnceLock<Mutex<Noted>> = OnceLock::new();

/// Arms what the variable `FAILPOINTS` says. If `QUORATE_FAIL_POINTS_DIR` names a folder, follows its file `set` from then on
/// and notes in its file `reached` which places were passed.
///
/// # Errors
/// [`WatchError`].
pub fn watch() -> Result<(), WatchError> {
    // Held for the life of the process: dropped, it would disarm everything.
    std::mem::forget(fail::FailScenario::setup());
    let Some(folder) = std::env::var_os(FOLDER).map(PathBuf::from) else {
        return Ok(());
    };
    let mut file = OpenOptions::new()
        .create(true)
        .append(true)
        .open(folder.join("reached"))
        .map_err(WatchError::Io)?;
    file.write_all(b"ready\n").map_err(WatchError::Io)?;
    let at_start = std::env::var(ACTIONS).unwrap_or_default();
    let noted = Noted {
        file,
        armed: names_in(at_start.split(';')),
        passed: BTreeSet::new(),
        fired: BTreeSet::new(),
    };
    NOTED
        .set(Mutex::new(noted))
        .map_err(|_| WatchError::Twice)?;
    // What the file says at the start holds from the first place on.
    let set = folder.join("set");
    let mut known = String::new();
    follow(&set, &mut known);
    std::thread::Builder::new()
        .name("fail-points".into())
        .spawn(move || {
            loop {
                std::thread::sleep(PACE);
                follow(&set, &mut known);
            }
        })
        .map_err(WatchError::Io)?;
    Ok(())
}

fn names_in<'a>(lines: impl Iterator<Item = &'a str>) -> BTreeSet<String> {
    lines
        .filter_map(|line| Some(line.split_once('=')?.0.trim().to_owned()))
        .collect()
}

fn locked(noted: &Mutex<Noted>) -> MutexGuard<'_, Noted> {
    noted.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Arms what the file says, if that has changed.
fn follow(set: &Path, known: &mut String) {
    let small = std::fs::metadata(set).is_ok_and(|file| file.len() <= SET_BYTES_MAX);
    let Some(wanted) = small.then(|| std::fs::read_to_string(set).ok()).flatten() else {
        return;
    };
    if wanted == *known {
        return;
    }
    let before = names_in(known.lines());
    let after = names_in(wanted.lines());
    for gone in before.difference(&after) {
        fail::remove(gone);
    }
    if let Some(noted) = NOTED.get() {
        let mut noted = locked(noted);
        noted.armed.retain(|name| !before.contains(name));
        noted.armed.extend(after);
    }
    let changed = |line: &&str| !known.lines().any(|old| old == *line);
    for (name, actions) in wanted
        .lines()
        .filter(changed)
        .filter_map(|line| line.split_once('='))
    {
        if let Err(reason) = fail::cfg(name.trim(), actions.trim()) {
            note_line(&format!("refused {name}: {reason}\n"));
        }
    }
    *known = wanted;
}

/// Notes the first passing of a place in this process, and the first while it is armed.
pub(crate) fn note(name: &'static str) {
    let Some(noted) = NOTED.get() else { return };
    let mut noted = locked(noted);
    let mut lines = String::new();
    if noted.passed.insert(name) {
        lines.push_str(&format!("reached {name}\n"));
    }
    if noted.armed.contains(name) && noted.fired.insert(name) {
        lines.push_str(&format!("fired {name}\n"));
    }
    if !lines.is_empty() {
        write(&mut noted.file, &lines);
    }
}

fn note_line(line: &str) {
    if let Some(noted) = NOTED.get() {
        write(&mut locked(noted).file, line);
    }
}

/// In one write, so that several lives of a node do not mix their lines. That a line is lost costs a figure, not the node.
fn write(file: &mut File, lines: &str) {
    file.write_all(lines.as_bytes()).ok();
}
