//! `/healthz` and `/readyz`, beside `/metrics`: what kubelet's probes ask.
//!
//! Both are answered by the loop, so that one that hangs does not answer. A full table, lost peers or an
//! absent controller do not keep it from answering: its turns are short.

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;

use crate::daemon::{Asker, Daemon};

/// The two paths.
pub(crate) fn routes() -> Router<Asker> {
    Router::new()
        .route("/healthz", get(healthy))
        .route("/readyz", get(ready))
}

/// The loop takes its turns. Nothing else is asked: a restart mends nothing else.
async fn healthy(State(asker): State<Asker>) -> (StatusCode, String) {
    match asker.ask(|_| ()).await {
        Ok(()) => (StatusCode::OK, "ok\n".into()),
        Err(stopping) => (StatusCode::SERVICE_UNAVAILABLE, format!("{stopping}\n")),
    }
}

/// An upgrade may go on with the next node.
async fn ready(State(asker): State<Asker>) -> (StatusCode, String) {
    match asker.ask(|daemon| unready(daemon)).await {
        Ok(None) => (StatusCode::OK, "ok\n".into()),
        Ok(Some(reason)) => (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")),
        Err(stopping) => (StatusCode::SERVICE_UNAVAILABLE, format!("{stopping}\n")),
    }
}

/// Why this node does not do yet what it did before the speaker was replaced. Peers that are down do not
/// count: they may be down for reasons of their own, and would hold up the upgrade of all other nodes.
fn unready(daemon: &Daemon) -> Option<String> {
    if let Some(deferral) = daemon.engine.deferral() {
        let peers = deferral.waiting_for.join(", ");
        return Some(format!(
            "a restart: waiting for all routes of {peers} before anything is told"
        ));
    }
    // A node that no resource wants anything of is ready as it is.
    if daemon.in_force.is_none() && !daemon.desired.connected {
        let source = daemon.desired.source.as_deref();
        return Some(format!(
            "no configuration on disk, and {}",
            source.unwrap_or("none from the controller yet")
        ));
    }
    None
}
