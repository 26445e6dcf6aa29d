//! The list of fail points is the truth about the sources.

#![allow(clippy::unwrap_used, reason = "a test may fail loudly")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use quorate_fail_points::{Effect, POINTS};

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
}

/// Name → whether an error can be pretended there, and how often it occurs.
fn in_sources() -> BTreeMap<String, (bool, usize)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut files = Vec::new();
    for room in [
        "raft-adapter",
        "node/kv",
        "node/chain",
        "node/state",
        "node/engine",
        "node/quorate",
    ] {
        sources(&root.join(room).join("src"), &mut files);
    }
    let mut points: BTreeMap<String, (bool, usize)> = BTreeMap::new();
    for file in files {
        let text = fs::read_to_string(file).unwrap();
        for call in text.split("fail_point!(\"").skip(1) {
            let (name, rest) = call.split_once('"').unwrap();
            let fails = rest.trim_start().starts_with(',');
            let point = points.entry(name.to_owned()).or_default();
            *point = (fails, point.1 + 1);
        }
    }
    points
}

#[test]
fn every_fail_point_of_the_sources_is_listed_once_with_what_it_can_do() {
    let found = in_sources();
    let listed: BTreeMap<String, (bool, usize)> = POINTS
        .iter()
        .map(|p| (p.name.to_owned(), (p.effect == Effect::Fail, 1)))
        .collect();
    assert_eq!(found, listed);
    assert!(listed.len() >= 45, "{} fail points", listed.len());
}

#[test]
fn the_command_prints_the_names_of_all_fail_points() {
    let output = Command::new(env!("CARGO_BIN_EXE_chaos"))
        .arg("--list-points")
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let names: Vec<&str> = text
        .lines()
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    let expected: Vec<&str> = POINTS.iter().map(|p| p.name).collect();
    assert!(output.status.success());
    assert_eq!(names, expected);
}
