//! What operators and orchestrators look at: `/metrics`, `/health`, `/ready`, and the logs.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use axum::routing::get;
use metrics_exporter_prometheus::PrometheusHandle;
use quorate_engine::Ledger;
use quorate_p2p::NetworkHandle;
use quorate_rpc::MembershipApi as _;
use raft_adapter::{RaftHandle, Role};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::membership::MembershipService;
use crate::snapshots::SnapshotMemory;

/// A node that has applied all but so many of the entries that it knows to be committed counts as ready.
const READY_LAG: u64 = 64;

/// What the answers are made from.
#[derive(Clone)]
pub struct Monitor {
    /// Renders the metrics.
    pub prometheus: PrometheusHandle,
    /// The chain.
    pub ledger: Ledger,
    /// Ordering.
    pub raft: RaftHandle,
    /// The members' network.
    pub network: NetworkHandle,
    /// Who belongs to the consortium.
    pub membership: MembershipService,
    /// Whether the stores began with a snapshot that is still to be proved.
    pub snapshots: SnapshotMemory,
}

/// Serves until cancelled.
///
/// # Errors
/// If the listener fails.
pub async fn serve(
    monitor: Monitor,
    listener: TcpListener,
    cancel: CancellationToken,
) -> std::io::Result<()> {
    let router = Router::new()
        .route("/metrics", get(metrics_page))
        .route("/health", get(health))
        .route("/ready", get(ready))
        .with_state(Arc::new(monitor));
    axum::serve(listener, router)
        .with_graceful_shutdown(cancel.cancelled_owned())
        .await
}

async fn metrics_page(State(monitor): State<Arc<Monitor>>) -> String {
    let status = monitor.raft.status();
    metrics::gauge!("quorate_p2p_connected_peers").set(monitor.network.connected().len() as f64);
    metrics::gauge!("quorate_raft_is_leader").set(f64::from(u8::from(status.role == Role::Leader)));
    metrics::gauge!("quorate_state_durable_height")
        .set(monitor.ledger.state_durable_height() as f64);
    if let Some(bytes) = resident_bytes() {
        metrics::gauge!("process_resident_memory_bytes").set(bytes as f64);
    }
    monitor.prometheus.run_upkeep();
    monitor.prometheus.render()
}

/// The process lives and its threads answer.
async fn health(State(monitor): State<Arc<Monitor>>) -> impl IntoResponse {
    let body = serde_json::json!({ "status": "ok", "height": monitor.ledger.head().height() });
    (StatusCode::OK, axum::response::Json(body))
}

/// Ready: a leader is known, this node is a member by its own log, and it is close to what it and the leader know to be there.
async fn ready(State(monitor): State<Arc<Monitor>>) -> impl IntoResponse {
    let status = monitor.raft.status();
    let lag = status
        .committed
        .0
        .saturating_sub(*monitor.ledger.watch_applied().borrow());
    let view = monitor.membership.view();
    let own = view.own();
    // A node that has just joined, or that is cut off, knows of little and has all of it: the leader must have said lately how
    // far it is behind.
    let behind = own.and_then(|member| member.lag);
    let near = lag <= READY_LAG && behind.is_some_and(|behind| behind <= READY_LAG);
    let proved = !monitor.snapshots.is_unproved();
    let ready = status.leader.is_some() && near && proved;
    let body = serde_json::json!({
        "ready": ready,
        "leader": status.leader.map(|id| id.0),
        "role": format!("{:?}", status.role).to_lowercase(),
        "lag": lag.max(behind.unwrap_or_default()),
        "member": own.is_some(),
        "height": monitor.ledger.head().height(),
        "peers": monitor.network.connected().len(),
    });
    let code = if ready {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    (code, axum::response::Json(body))
}

fn resident_bytes() -> Option<u64> {
    let statm = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = statm.split_whitespace().nth(1)?.parse().ok()?;
    Some(pages * rustix::param::page_size() as u64)
}
