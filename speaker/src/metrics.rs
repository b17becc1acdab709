//! Metrics for Prometheus: every name in one place, read from the loop when somebody asks.
//!
//! Nothing is counted twice: the engine and the kernel's side count, and a scrape asks them.

mod bfd;

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use bgp::query::{EngineStatus, PeerStatus};
use bgp::types::Family;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family as MetricFamily;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use proto::bfd::v1::Session;
use tokio::net::TcpListener;

use crate::daemon::{Asker, ESTABLISHED, Stopping};
use crate::fib::FibSummary;

/// What every name begins with.
const PREFIX: &str = "routeshare_speaker";
const TEXT: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

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

    /// Answers `GET /metrics`, and probes, until the task is ended.
    pub(crate) async fn serve(self, asker: Asker) -> io::Result<()> {
        let app = Router::new()
            .route("/metrics", get(scrape))
            .merge(crate::health::routes())
            .with_state(asker);
        axum::serve(self.0, app).await
    }
}

async fn scrape(State(asker): State<Asker>) -> Response {
    match read(&asker).await {
        Ok(reading) => ([(header::CONTENT_TYPE, TEXT)], render(&reading)).into_response(),
        Err(stopping) => (StatusCode::SERVICE_UNAVAILABLE, stopping.to_string()).into_response(),
    }
}

/// What a scrape is made of.
#[derive(Default)]
struct Reading {
    engine: EngineStatus,
    peers: Vec<PeerStatus>,
    /// Of the peers that have one, by their names.
    bfd: Vec<(String, Session)>,
    bfd_connected: bool,
    version: u64,
    refused: bool,
    connected: bool,
    refused_unknown: u64,
    refused_too_many: u64,
    refused_no_key: u64,
    problems: usize,
    names: Vec<(&'static str, u64)>,
    fib: FibSummary,
}

async fn read(asker: &Asker) -> Result<Reading, Stopping> {
    let ask = asker.ask(|daemon| {
        let (mut peers, mut bfd) = (Vec::new(), Vec::new());
        for (peer, session, _) in daemon.peers() {
            bfd.extend(session.map(|session| (peer.name.clone(), session)));
            peers.push(peer);
        }
        let reading = Reading {
            engine: daemon.engine.status(),
            peers,
            bfd,
            bfd_connected: daemon.bfd.is_connected(),
            version: daemon.version(),
            refused: daemon.desired.refused.is_some(),
            connected: daemon.desired.connected,
            refused_unknown: daemon.transport.refusals().count_unknown(),
            refused_too_many: daemon.transport.refusals().count_too_many(),
            refused_no_key: daemon.transport.refusals().count_no_key(),
            problems: crate::report::problems(daemon).len(),
            names: daemon.names.counts(),
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
    let mut registry = Registry::with_prefix(PREFIX);
    whole(&mut registry, reading);
    kernel(&mut registry, reading);
    sessions(&mut registry, &reading.peers);
    prefixes(&mut registry, &reading.peers);
    limits(&mut registry, &reading.peers);
    bfd::sessions(&mut registry, reading);
    let mut text = String::new();
    if encode(&mut text, &registry).is_err() {
        // Writing to a String does not fail; half an answer would be worse than none.
        "# EOF\n".clone_into(&mut text);
    }
    text
}

/// The speaker as a whole.
fn whole(registry: &mut Registry, reading: &Reading) {
    gauge(
        registry,
        "config_version",
        "NodeConfig version in force, 0 when there is none",
        [(vec![], reading.version)],
    );
    gauge(
        registry,
        "config_refused",
        "1 while the newest configuration is refused and an older one stays in force",
        [(vec![], u64::from(reading.refused))],
    );
    gauge(
        registry,
        "controller_connected",
        "1 while the controller's configuration stream is open",
        [(vec![], u64::from(reading.connected))],
    );
    gauge(
        registry,
        "problems",
        "Conditions that `bgpctl show status` lists",
        [(vec![], reading.problems as u64)],
    );
    let by_family = |counts: &BTreeMap<Family, u64>| {
        let rows = counts.iter();
        rows.map(|(family, count)| (vec![("family", family.to_string())], *count))
            .collect::<Vec<_>>()
    };
    gauge(
        registry,
        "best_routes",
        "Prefixes with a best route",
        by_family(&reading.engine.best),
    );
    gauge(
        registry,
        "paths",
        "Paths of all peers",
        by_family(&reading.engine.paths),
    );
    gauge(
        registry,
        "attribute_sets",
        "Different sets of path attributes held",
        [(vec![], reading.engine.attribute_sets)],
    );
    let refused = [
        ("unknown-address", reading.refused_unknown),
        ("too-many", reading.refused_too_many),
        ("no-key", reading.refused_no_key),
    ];
    counter(
        registry,
        "connections_refused",
        "Connections to the BGP port closed without asking any session",
        refused.map(|(reason, count)| (vec![("reason", reason.to_owned())], count)),
    );
    counter(
        registry,
        "name_queries",
        "Questions of containers and this host to the resolver for names, by how they ended",
        (reading.names.iter())
            .map(|(outcome, count)| (vec![("outcome", (*outcome).to_owned())], *count)),
    );
}

/// Kernel routes.
fn kernel(registry: &mut Registry, reading: &Reading) {
    let fib = &reading.fib;
    let states = [
        ("installed", fib.installed),
        ("pending", fib.pending + reading.engine.fib_pending),
        ("refused", fib.refused),
        ("stale", fib.stale),
    ];
    gauge(
        registry,
        "kernel_routes",
        "Routes by what became of them in the kernel",
        states.map(|(state, count)| (vec![("state", state.to_owned())], count)),
    );
    gauge(
        registry,
        "kernel_nexthop_groups",
        "Nexthop groups in use",
        [(vec![], fib.groups)],
    );
    counter(
        registry,
        "kernel_repairs",
        "Kernel routes of ours put right after somebody else changed or removed them",
        [(vec![], fib.repaired)],
    );
    counter(
        registry,
        "kernel_overruns",
        "Times the kernel's changes came too fast and everything was listed again",
        [(vec![], fib.overruns)],
    );
}

/// Sessions and messages, by peer.
fn sessions(registry: &mut Registry, peers: &[PeerStatus]) {
    gauge(
        registry,
        "session_established",
        "1 while the session is Established",
        peers
            .iter()
            .map(|peer| (of(peer), u64::from(peer.state == ESTABLISHED))),
    );
    counter(
        registry,
        "session_establishments",
        "Times the session was established",
        peers.iter().map(|peer| (of(peer), peer.established_count)),
    );
    let directions = |peer: &PeerStatus| [("sent", peer.sent), ("received", peer.received)];
    counter(
        registry,
        "messages",
        "BGP messages by direction and type",
        peers.iter().flat_map(|peer| {
            directions(peer)
                .into_iter()
                .flat_map(|(direction, counts)| {
                    let types = [
                        ("open", counts.open),
                        ("update", counts.update),
                        ("notification", counts.notification),
                        ("keepalive", counts.keepalive),
                        ("route-refresh", counts.route_refresh),
                    ];
                    types.map(|(kind, count)| {
                        let more = [
                            ("direction", direction.to_owned()),
                            ("type", kind.to_owned()),
                        ];
                        (of(peer).into_iter().chain(more).collect(), count)
                    })
                })
        }),
    );
    counter(
        registry,
        "message_bytes",
        "Octets of BGP messages, headers included",
        peers.iter().flat_map(|peer| {
            directions(peer).map(|(direction, counts)| {
                let more = [("direction", direction.to_owned())];
                (of(peer).into_iter().chain(more).collect(), counts.bytes)
            })
        }),
    );
    counter(
        registry,
        "faults",
        "What was wrong with what a peer sent, by kind",
        peers.iter().flat_map(|peer| {
            peer.faults.iter().map(|(fault, count)| {
                let more = [("fault", fault.name().to_owned())];
                (of(peer).into_iter().chain(more).collect(), *count)
            })
        }),
    );
}

/// Prefixes, by peer and family.
fn prefixes(registry: &mut Registry, peers: &[PeerStatus]) {
    gauge(
        registry,
        "prefixes",
        "Prefixes of a peer by state",
        peers.iter().flat_map(|peer| {
            peer.families.iter().flat_map(|family| {
                let states = [
                    ("received", family.received),
                    ("stale", family.stale),
                    ("long-lived-stale", family.long_lived_stale),
                    ("accepted", family.accepted),
                    ("best", family.best),
                    ("advertised", family.advertised),
                    ("pending", family.pending),
                ];
                states.map(|(state, count)| {
                    let more = [
                        ("family", family.family.to_string()),
                        ("state", state.to_owned()),
                    ];
                    (of(peer).into_iter().chain(more).collect(), count)
                })
            })
        }),
    );
}

/// How many prefixes peers may send, where that is limited.
fn limits(registry: &mut Registry, peers: &[PeerStatus]) {
    let limit = |peer: &PeerStatus, family: Family| {
        let limit = peer.max_prefixes?.of(family)?;
        let more = [("family", family.to_string())];
        Some((of(peer).into_iter().chain(more).collect(), u64::from(limit)))
    };
    gauge(
        registry,
        "prefix_limit",
        "How many prefixes a peer may send",
        (peers.iter())
            .flat_map(|peer| Family::ALL.map(|family| limit(peer, family)))
            .flatten(),
    );
}

/// Names and values; the library escapes them.
type Labels = Vec<(&'static str, String)>;

fn of(peer: &PeerStatus) -> Labels {
    vec![("peer", peer.name.clone())]
}

fn gauge(
    registry: &mut Registry,
    name: &str,
    help: &str,
    rows: impl IntoIterator<Item = (Labels, u64)>,
) {
    let family = MetricFamily::<Labels, Gauge>::default();
    for (labels, value) in rows {
        let value = i64::try_from(value).unwrap_or(i64::MAX);
        family.get_or_create(&labels).set(value);
    }
    registry.register(name, help, family);
}

/// The library adds `_total` to the name.
fn counter(
    registry: &mut Registry,
    name: &str,
    help: &str,
    rows: impl IntoIterator<Item = (Labels, u64)>,
) {
    let family = MetricFamily::<Labels, Counter>::default();
    for (labels, value) in rows {
        family.get_or_create(&labels).inc_by(value);
    }
    registry.register(name, help, family);
}

#[cfg(test)]
mod tests {
    use bgp::config::{LimitAction, PrefixLimits};
    use std::net::{IpAddr, Ipv4Addr};

    use bgp::query::{FamilyStatus, Fault, MessageCounts};
    use bgp::types::{Asn, PeerId};

    use super::*;

    /// A speaker with one peer that has done everything once.
    fn reading(name: &str) -> Reading {
        let peer = PeerStatus {
            id: PeerId(1),
            name: name.to_owned(),
            description: String::new(),
            address: IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)),
            port: 179,
            local_address: None,
            remote_asn: Asn(65001),
            local_asn: Asn(65002),
            remote_router_id: None,
            state: ESTABLISHED,
            since: None,
            hold: None,
            keepalive: None,
            families: vec![FamilyStatus {
                family: Family::Ipv4,
                negotiated: true,
                received: 7,
                accepted: 6,
                best: 5,
                advertised: 4,
                pending: 0,
                end_of_rib_received: true,
                end_of_rib_sent: true,
                extended_next_hop: false,
                stale: 1,
                long_lived_stale: 0,
                graceful_restart: true,
            }],
            capabilities_sent: Vec::new(),
            capabilities_received: Vec::new(),
            sent: MessageCounts::default(),
            received: MessageCounts {
                update: 3,
                ..MessageCounts::default()
            },
            established_count: 1,
            last_error: None,
            faults: [(Fault::Martian, 2)].into(),
            last_fault: None,
            reflector_client: false,
            passive: false,
            shutdown: None,
            import: Vec::new(),
            export: Vec::new(),
            retry_at: None,
            ttl_security: None,
            authentication: None,
            max_prefixes: Some(PrefixLimits {
                ipv4: Some(10),
                ipv6: None,
                warn_at_percent: 75,
                action: LimitAction::Drop,
                restart_seconds: None,
            }),
            over_limit: false,
            graceful_restart: None,
        };
        let session = Session {
            state: "Up".into(),
            ups: 2,
            late_received: 3,
            detection_micros: 900_000,
            ..Session::default()
        };
        let mut reading = Reading {
            bfd: vec![(peer.name.clone(), session)],
            peers: vec![peer],
            ..Reading::default()
        };
        reading.fib.installed = 3;
        reading.engine.fib_pending = 1;
        reading.engine.best.insert(Family::Ipv4, 5);
        reading.engine.paths.insert(Family::Ipv4, 6);
        reading
    }

    #[test]
    fn what_a_peer_and_the_kernel_did_is_told() {
        let text = render(&reading("tor"));
        for line in [
            "prefixes{peer=\"tor\",family=\"IPv4\",state=\"received\"} 7",
            "messages_total{peer=\"tor\",direction=\"received\",type=\"update\"} 3",
            "prefix_limit{peer=\"tor\",family=\"IPv4\"} 10",
            "faults_total{peer=\"tor\",fault=\"martian\"} 2",
            "session_established{peer=\"tor\"} 1",
            "kernel_routes{state=\"installed\"} 3",
            "bfd_sessions{state=\"Up\"} 1",
            "bfd_ups_total{peer=\"tor\"} 2",
            "bfd_late_packets_total{peer=\"tor\",direction=\"received\"} 3",
            "bfd_detection_microseconds{peer=\"tor\"} 900000",
            "kernel_routes{state=\"pending\"} 1",
        ] {
            assert!(
                text.contains(&format!("routeshare_speaker_{line}\n")),
                "{line} in {text}"
            );
        }
    }

    #[test]
    fn a_peers_name_cannot_break_the_format() {
        let text = render(&reading("a\"b\\c\nd"));
        assert!(text.contains(r#"{peer="a\"b\\c\nd"}"#), "{text}");
    }

    #[test]
    fn every_name_stands_in_the_documentation() {
        let documented = include_str!("../../docs/metrics.md");
        let text = render(&reading("tor"));
        let samples = text.lines().filter(|line| !line.starts_with('#'));
        let names = samples.filter_map(|line| line.split(['{', ' ']).next());
        for name in names {
            assert!(
                documented.contains(&format!("`{name}`")),
                "{name} is not in docs/metrics.md"
            );
        }
    }
}
