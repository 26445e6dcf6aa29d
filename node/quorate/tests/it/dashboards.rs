//! Dashboard and alerts ask only for metrics that the code has.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use crate::consortium::workspace;

/// Every word that begins like a metric of ours.
fn metrics_in(text: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for (at, _) in text.match_indices("quorate_") {
        let preceded = text[..at].ends_with(|c: char| c.is_ascii_alphanumeric() || c == '_');
        let name: String = text[at..]
            .chars()
            .take_while(|c| c.is_ascii_alphanumeric() || *c == '_')
            .collect();
        if !preceded {
            found.insert(name);
        }
    }
    found
}

fn collect(folder: &Path, found: &mut BTreeSet<String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.extend(metrics_in(&fs::read_to_string(&path).unwrap()));
        }
    }
}

#[test]
fn dashboard_and_alerts_name_only_metrics_that_exist() {
    let mut known = BTreeSet::new();
    for room in [
        "node/kv",
        "node/state",
        "node/pool",
        "node/p2p",
        "node/engine",
        "node/rpc",
        "node/quorate",
        "raft-adapter",
    ] {
        collect(&workspace().join(room).join("src"), &mut known);
    }
    for file in ["grafana/quorate.json", "prometheus-alerts.yml"] {
        let text = fs::read_to_string(workspace().join("deploy").join(file)).unwrap();
        let asked = metrics_in(&text);
        assert!(asked.len() > 5, "{file} asks for {asked:?} only");
        for name in asked {
            let plain = name
                .strip_suffix("_sum")
                .or(name.strip_suffix("_count"))
                .unwrap_or(&name);
            assert!(
                known.contains(plain),
                "{file} asks for {name}, which no room has"
            );
        }
    }
}
