//! Metrics for Prometheus: every name in one place, read from the loop when somebody asks.
//!
//! Nothing is counted twice: the engine and the kernel's side count, and a scrape asks them.

use std::fmt::Write as _;
use std::io;
use std::net::SocketAddr;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use bgp::query::{EngineStatus, PeerStatus};
use tokio::net::TcpListener;

use crate::daemon::{Asker, Stopping, now};
use crate::fib::FibSummary;

/// Why metrics cannot be served.
#[derive(Debug, thiserror::Error)]
#[error("cannot serve metrics on {address}; give another --metrics")]
pub(crate) struct MetricsError {
    address: SocketAddr,
    source: io::Error,
}

/// A listener for scrapes.
pub(crate) struct Metrics(TcpListener);

impl Metrics {
    /// Listens on `address`.
    pub(crate) async fn bind(address: SocketAddr) -> Result<Metrics, MetricsError> {
        let listener = TcpListener::bind(address).await;
        listener
            .map(Metrics)
            .map_err(|source| MetricsError { address, source })
    }

    /// Answers `GET /metrics` until the task is ended.
    pub(crate) async fn serve(self, asker: Asker) -> io::Result<()> {
        let app = Router::new()
            .route("/metrics", get(scrape))
            .with_state(asker);
        axum::serve(self.0, app).await
    }
}

async fn scrape(State(asker): State<Asker>) -> Response {
    match read(&asker).await {
        Ok(reading) => (
            [(header::CONTENT_TYPE, "text/plain; version=0.0.4")],
            render(&reading),
        )
            .into_response(),
        Err(stopping) => (StatusCode::SERVICE_UNAVAILABLE, stopping.to_string()).into_response(),
    }
}

/// What a scrape is made of.
#[derive(Default)]
struct Reading {
    engine: EngineStatus,
    peers: Vec<PeerStatus>,
    version: u64,
    refused: bool,
    connected: bool,
    refused_unknown: u64,
    refused_too_many: u64,
    problems: usize,
    fib: FibSummary,
}

async fn read(asker: &Asker) -> Result<Reading, Stopping> {
    let ask = asker.ask(|daemon| {
        let reading = Reading {
            engine: daemon.engine.status(),
            peers: daemon.engine.peers(now()),
            version: daemon.version(),
            refused: daemon.desired.refused.is_some(),
            connected: daemon.desired.connected,
            refused_unknown: daemon.transport.refusals().count_unknown(),
            refused_too_many: daemon.transport.refusals().count_too_many(),
            problems: crate::report::problems(daemon).len(),
            fib: FibSummary::default(),
        };
        (reading, daemon.kernel.fib())
    });
    let (mut reading, fib) = ask.await?;
    if let Some(fib) = fib {
        reading.fib = crate::admin::in_time(fib.summary()).await;
    }
    Ok(reading)
}

fn render(reading: &Reading) -> String {
    let mut text = Text::default();
    whole(&mut text, reading);
    sessions(&mut text, &reading.peers);
    prefixes(&mut text, &reading.peers);
    text.0
}

/// The speaker as a whole.
fn whole(text: &mut Text, reading: &Reading) {
    text.metric(
        "routeshare_config_version",
        GAUGE,
        "NodeConfig version in force; 0 when there is none.",
        [(labels(&[]), reading.version)],
    );
    text.metric(
        "routeshare_config_refused",
        GAUGE,
        "1 while the newest configuration is refused and an older one stays in force.",
        [(labels(&[]), u64::from(reading.refused))],
    );
    text.metric(
        "routeshare_controller_connected",
        GAUGE,
        "1 while the controller's configuration stream is open.",
        [(labels(&[]), u64::from(reading.connected))],
    );
    text.metric(
        "routeshare_problems",
        GAUGE,
        "Problems that `bgpctl show status` lists.",
        [(labels(&[]), reading.problems as u64)],
    );
    text.metric(
        "routeshare_best_routes",
        GAUGE,
        "Prefixes with a best route.",
        reading
            .engine
            .best
            .iter()
            .map(|(family, count)| (labels(&[("family", &family.to_string())]), *count)),
    );
    text.metric(
        "routeshare_paths",
        GAUGE,
        "Paths of all peers.",
        reading
            .engine
            .paths
            .iter()
            .map(|(family, count)| (labels(&[("family", &family.to_string())]), *count)),
    );
    text.metric(
        "routeshare_attribute_sets",
        GAUGE,
        "Different sets of path attributes held.",
        [(labels(&[]), reading.engine.attribute_sets)],
    );
    let fib = &reading.fib;
    let state = |state| labels(&[("state", state)]);
    text.metric(
        "routeshare_kernel_routes",
        GAUGE,
        "Routes by what became of them in the kernel; stale ones are left from the last run.",
        [
            (state("installed"), fib.installed),
            (state("pending"), fib.pending + reading.engine.fib_pending),
            (state("refused"), fib.refused),
            (state("stale"), fib.stale),
        ],
    );
    text.metric(
        "routeshare_kernel_nexthop_groups",
        GAUGE,
        "Nexthop groups in use.",
        [(labels(&[]), fib.groups)],
    );
    text.metric(
        "routeshare_kernel_repairs_total",
        COUNTER,
        "Kernel routes of ours put right after somebody else changed or removed them.",
        [(labels(&[]), fib.repaired)],
    );
    text.metric(
        "routeshare_kernel_overruns_total",
        COUNTER,
        "Times the kernel's changes came too fast and everything was listed again.",
        [(labels(&[]), fib.overruns)],
    );
    text.metric(
        "routeshare_connections_refused_total",
        COUNTER,
        "Connections to the BGP port closed at once.",
        [
            (
                labels(&[("reason", "unknown-address")]),
                reading.refused_unknown,
            ),
            (labels(&[("reason", "too-many")]), reading.refused_too_many),
        ],
    );
}

/// Sessions and messages, by peer.
fn sessions(text: &mut Text, peers: &[PeerStatus]) {
    text.metric(
        "routeshare_session_established",
        GAUGE,
        "1 while the session is Established.",
        peers.iter().map(|peer| {
            (
                labels(&[("peer", &peer.name)]),
                u64::from(peer.state == "Established"),
            )
        }),
    );
    text.metric(
        "routeshare_session_established_total",
        COUNTER,
        "Times the session was established.",
        peers
            .iter()
            .map(|peer| (labels(&[("peer", &peer.name)]), peer.established_count)),
    );
    text.metric(
        "routeshare_messages_total",
        COUNTER,
        "BGP messages by direction and type.",
        peers.iter().flat_map(|peer| {
            let directions = [("sent", peer.sent), ("received", peer.received)];
            directions.into_iter().flat_map(|(direction, counts)| {
                let types = [
                    ("open", counts.open),
                    ("update", counts.update),
                    ("notification", counts.notification),
                    ("keepalive", counts.keepalive),
                    ("route-refresh", counts.route_refresh),
                ];
                let peer = &peer.name;
                types.into_iter().map(move |(kind, count)| {
                    (
                        labels(&[("peer", peer), ("direction", direction), ("type", kind)]),
                        count,
                    )
                })
            })
        }),
    );
    text.metric(
        "routeshare_message_bytes_total",
        COUNTER,
        "Octets of BGP messages, headers included.",
        peers.iter().flat_map(|peer| {
            let directions = [("sent", peer.sent.bytes), ("received", peer.received.bytes)];
            directions.into_iter().map(|(direction, bytes)| {
                (
                    labels(&[("peer", &peer.name), ("direction", direction)]),
                    bytes,
                )
            })
        }),
    );
    text.metric(
        "routeshare_faults_total",
        COUNTER,
        "What was wrong with what a peer sent, by kind.",
        peers.iter().flat_map(|peer| {
            peer.faults.iter().map(|(fault, count)| {
                (
                    labels(&[("peer", &peer.name), ("fault", fault.name())]),
                    *count,
                )
            })
        }),
    );
}

/// Prefixes, by peer and family.
fn prefixes(text: &mut Text, peers: &[PeerStatus]) {
    text.metric(
        "routeshare_prefixes",
        GAUGE,
        "Prefixes of a peer: received, accepted by import policy, best, advertised to it, pending.",
        peers.iter().flat_map(|peer| {
            peer.families.iter().flat_map(|family| {
                let name = family.family.to_string();
                let states = [
                    ("received", family.received),
                    ("accepted", family.accepted),
                    ("best", family.best),
                    ("advertised", family.advertised),
                    ("pending", family.pending),
                ];
                states.map(|(state, count)| {
                    (
                        labels(&[("peer", &peer.name), ("family", &name), ("state", state)]),
                        count,
                    )
                })
            })
        }),
    );
}

const GAUGE: &str = "gauge";
const COUNTER: &str = "counter";

/// Prometheus' text format, version 0.0.4.
#[derive(Default)]
struct Text(String);

impl Text {
    fn metric(
        &mut self,
        name: &str,
        kind: &str,
        help: &str,
        samples: impl IntoIterator<Item = (String, u64)>,
    ) {
        // Writing to a String cannot fail.
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
        for (labels, value) in samples {
            let _ = writeln!(self.0, "{name}{labels} {value}");
        }
    }
}

fn labels(pairs: &[(&str, &str)]) -> String {
    if pairs.is_empty() {
        return String::new();
    }
    let escape = |value: &str| {
        value
            .replace('\\', "\\\\")
            .replace('"', "\\\"")
            .replace('\n', "\\n")
    };
    let pairs: Vec<String> = pairs
        .iter()
        .map(|(name, value)| format!("{name}=\"{}\"", escape(value)))
        .collect();
    format!("{{{}}}", pairs.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_metric_says_what_it_is_and_names_are_used_once() {
        let text = render(&Reading::default());
        let mut names: Vec<&str> = text
            .lines()
            .filter_map(|line| line.strip_prefix("# TYPE "))
            .filter_map(|line| line.split(' ').next())
            .collect();
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
        assert!(names.iter().all(|name| name.starts_with("routeshare_")));
        assert_eq!(text.matches("# HELP ").count(), count);
    }

    #[test]
    fn names_of_peers_cannot_break_the_format() {
        assert_eq!(labels(&[("peer", "a\"b\\c\nd")]), r#"{peer="a\"b\\c\nd"}"#);
    }

    #[test]
    fn what_the_kernel_holds_is_told_by_state() {
        let fib = FibSummary {
            installed: 3,
            pending: 1,
            ..FibSummary::default()
        };
        let text = render(&Reading {
            fib,
            ..Reading::default()
        });
        assert!(
            text.contains("routeshare_kernel_routes{state=\"installed\"} 3\n"),
            "{text}"
        );
        assert!(
            text.contains("routeshare_kernel_routes{state=\"pending\"} 1\n"),
            "{text}"
        );
    }
}
