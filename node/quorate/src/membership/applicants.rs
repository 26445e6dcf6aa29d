//! Nodes that asked to be admitted and are no members: shown to operators, forgotten after a while.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use quorate_chain::NodeId;
use quorate_rpc::Applicant;

/// Most applicants remembered; when full, the one that asked longest ago is forgotten.
const APPLICANTS_MAX: usize = 64;
/// An applicant that has not asked again for so long is forgotten.
const LIFETIME: Duration = Duration::from_secs(600);

/// Who asked.
#[derive(Debug, Default)]
pub struct Applicants(Mutex<BTreeMap<NodeId, Applicant>>);

impl Applicants {
    /// Notes that a node asked.
    pub fn asked(&self, node_id: NodeId, addresses: Vec<String>) {
        let mut applicants = self.0.lock();
        let now = SystemTime::now();
        if !applicants.contains_key(&node_id) {
            tracing::info!(node = %node_id, ?addresses, "a node asks to be admitted");
        }
        applicants.insert(
            node_id,
            Applicant {
                node_id,
                addresses,
                last_seen: now,
            },
        );
        if applicants.len() > APPLICANTS_MAX {
            let oldest = applicants.values().min_by_key(|a| (a.last_seen, a.node_id));
            if let Some(oldest) = oldest.map(|a| a.node_id) {
                applicants.remove(&oldest);
            }
        }
    }

    /// A node has become a member.
    pub fn admitted(&self, node_id: &NodeId) {
        self.0.lock().remove(node_id);
    }

    /// Those that asked lately, by key.
    pub fn list(&self) -> Vec<Applicant> {
        let mut applicants = self.0.lock();
        applicants.retain(|_, applicant| {
            let age = applicant.last_seen.elapsed().unwrap_or_default();
            age <= LIFETIME
        });
        applicants.values().cloned().collect()
    }
}
