//! CPU time and memory of the nodes, from /proc (proc(5)).

use std::fs;
use std::path::Path;

use anyhow::{Context as _, anyhow};

/// A process that is measured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Watched {
    /// Its id.
    pub pid: u32,
    /// What to call it.
    pub name: String,
}

/// What a process has used.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Usage {
    /// CPU time of all threads in seconds.
    pub cpu_seconds: f64,
    /// Resident memory in bytes.
    pub rss_bytes: u64,
    /// Most resident memory so far, in bytes.
    pub rss_peak_bytes: u64,
}

impl Watched {
    /// A process by its id.
    ///
    /// # Errors
    /// If there is none.
    pub fn new(pid: u32) -> anyhow::Result<Self> {
        let watched = Self {
            pid,
            name: format!("pid {pid}"),
        };
        watched.usage()?;
        Ok(watched)
    }

    /// What it has used until now.
    ///
    /// # Errors
    /// If it has ended.
    pub fn usage(&self) -> anyhow::Result<Usage> {
        let read = |file: &str| fs::read_to_string(format!("/proc/{}/{file}", self.pid));
        let missing = || format!("process {} cannot be read", self.pid);
        let cpu_seconds =
            cpu_seconds(&read("stat").with_context(missing)?).ok_or_else(|| anyhow!(missing()))?;
        let status = read("status").with_context(missing)?;
        Ok(Usage {
            cpu_seconds,
            rss_bytes: kilobytes(&status, "VmRSS:") << 10,
            rss_peak_bytes: kilobytes(&status, "VmHWM:") << 10,
        })
    }
}

/// The processes whose pid files lie in `folder/node*/node.pid` and that live.
pub fn by_pid_files(folder: &Path) -> Vec<Watched> {
    let Ok(entries) = fs::read_dir(folder) else {
        return Vec::new();
    };
    let mut watched: Vec<Watched> = entries
        .filter_map(|entry| {
            let path = entry.ok()?.path();
            let name = path.file_name()?.to_str()?.to_owned();
            let pid = fs::read_to_string(path.join("node.pid"))
                .ok()?
                .trim()
                .parse()
                .ok()?;
            let watched = Watched { pid, name };
            watched.usage().is_ok().then_some(watched)
        })
        .collect();
    watched.sort_by(|a, b| a.name.cmp(&b.name));
    watched
}

/// CPU seconds of this process.
///
/// # Errors
/// If /proc cannot be read.
pub fn own_cpu() -> anyhow::Result<f64> {
    let stat = fs::read_to_string("/proc/self/stat").context("/proc/self/stat")?;
    cpu_seconds(&stat).ok_or_else(|| anyhow!("/proc/self/stat is not as expected"))
}

/// What each process used between two looks; nothing for one that has ended.
pub fn differences(
    watched: &[Watched],
    before: &[Usage],
    after: Vec<anyhow::Result<Usage>>,
) -> Vec<(Watched, Option<Usage>)> {
    let looks = before.iter().zip(after).map(|(before, after)| {
        after.ok().map(|after| Usage {
            cpu_seconds: after.cpu_seconds - before.cpu_seconds,
            ..after
        })
    });
    watched.iter().cloned().zip(looks).collect()
}

/// utime and stime: the 14th and 15th field, counted behind the name, which may contain anything.
fn cpu_seconds(stat: &str) -> Option<f64> {
    let fields: Vec<&str> = stat
        .get(stat.rfind(')')? + 1..)?
        .split_whitespace()
        .collect();
    let ticks = fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?;
    Some(ticks as f64 / rustix::param::clock_ticks_per_second() as f64)
}

fn kilobytes(status: &str, name: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|rest| rest.split_whitespace().next()?.parse().ok())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_counted_behind_the_name_whatever_it_contains() {
        let ticks = rustix::param::clock_ticks_per_second();
        let stat = format!(
            "7 (a ) b (c) S 1 2 3 4 5 6 7 8 9 10 {} {ticks} 0 0",
            ticks * 2
        );
        assert_eq!(cpu_seconds(&stat), Some(3.0));
        assert_eq!(cpu_seconds("7 (x) S 1"), None);
        assert_eq!(kilobytes("VmHWM:\t  12 kB\nVmRSS:\t 7 kB\n", "VmRSS:"), 7);
    }

    #[test]
    fn this_process_uses_memory_and_is_found_by_its_pid_file() {
        let folder = tempfile::tempdir().unwrap();
        for (node, pid) in [
            ("node1", std::process::id().to_string()),
            ("node2", "4294967295".into()),
        ] {
            fs::create_dir(folder.path().join(node)).unwrap();
            fs::write(folder.path().join(node).join("node.pid"), pid).unwrap();
        }
        let watched = by_pid_files(folder.path());
        assert_eq!(watched.len(), 1);
        assert_eq!(watched[0].name, "node1");
        let usage = watched[0].usage().unwrap();
        assert!(usage.rss_bytes > 0 && usage.rss_peak_bytes >= usage.rss_bytes);
        let same = differences(&watched, &[usage], vec![Ok(usage)]);
        assert_eq!(same[0].1.unwrap().cpu_seconds, 0.0);
        assert!(Watched::new(u32::MAX).is_err());
    }
}
