//! What Prometheus is told; every name is in this file. Made anew for each scrape from what the other
//! parts know anyway, so nothing has to be kept up to date.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::routing::get;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::registry::{Registry as Metrics, Unit};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::reconcile::View;
use crate::registry::Registry;
use crate::source::SourceState;
use crate::status;

const PREFIX: &str = "routeshare_controller";
const TEXT: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Where the numbers come from.
#[derive(Clone)]
pub(crate) struct Numbers {
    pub(crate) registry: Arc<Registry>,
    pub(crate) view: watch::Receiver<View>,
    pub(crate) source: watch::Receiver<SourceState>,
    pub(crate) written: Option<status::Numbers>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PoolLabels {
    pool: String,
    prefix: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KindLabels {
    kind: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct NodeLabels {
    node: String,
}

/// Serves `/metrics`, and answers probes at `/healthz` and `/readyz`, until `shutdown`.
pub(crate) async fn serve(
    listener: TcpListener,
    numbers: Numbers,
    shutdown: CancellationToken,
) -> std::io::Result<()> {
    let view = numbers.view.clone();
    let answer = async move || ([(CONTENT_TYPE, TEXT)], numbers.render());
    // It answers: a restart mends nothing else.
    let healthy = async || "ok\n";
    let ready = async move || match view.borrow().generation {
        0 => (
            StatusCode::SERVICE_UNAVAILABLE,
            "no resources are in force yet\n",
        ),
        _ => (StatusCode::OK, "ok\n"),
    };
    let app = Router::new()
        .route("/metrics", get(answer))
        .route("/healthz", get(healthy))
        .route("/readyz", get(ready));
    axum::serve(
        listener,
        app.into_make_service_with_connect_info::<SocketAddr>(),
    )
    .with_graceful_shutdown(shutdown.cancelled_owned())
    .await
}

impl Numbers {
    fn render(&self) -> String {
        let mut metrics = Metrics::with_prefix(PREFIX);
        self.resources(&mut metrics);
        self.nodes(&mut metrics);
        self.pools(&mut metrics);
        self.writes(&mut metrics);
        let mut text = String::new();
        if encode(&mut text, &metrics).is_err() {
            text.clear();
            let _ = writeln!(text, "# EOF"); // writing to a String does not fail
        }
        text
    }

    fn resources(&self, metrics: &mut Metrics) {
        let source = self.source.borrow().clone();
        let (generation, loaded, warnings, store_failing, store_size) = {
            let view = self.view.borrow();
            let loaded = view.loaded.as_ref();
            (
                view.generation,
                loaded.map_or(0, |loaded| loaded.at / 1000),
                loaded.map_or(0, |loaded| loaded.warnings.len()),
                !view.store_error.is_empty(),
                view.store_size,
            )
        };
        let gauge = |value: u64| ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX));
        metrics.register(
            "resources_refused",
            "1 while the resources that are there are refused and older ones are in force",
            gauge(u64::from(!source.refused.is_empty())),
        );
        metrics.register(
            "resources_refusals",
            "How often a set of resources was refused",
            ConstCounter::new(source.refusals),
        );
        metrics.register(
            "resources_generation",
            "Counts up with every accepted change of the resources",
            gauge(generation),
        );
        metrics.register_with_unit(
            "resources_loaded_timestamp",
            "When the resources in force were read, in seconds since the Unix epoch",
            Unit::Seconds,
            gauge(loaded),
        );
        metrics.register(
            "resources_warnings",
            "What is allowed in the resources but probably not meant",
            gauge(warnings as u64),
        );
        metrics.register(
            "store_failing",
            "1 while it cannot be written who holds what, and nothing is given out",
            gauge(u64::from(store_failing)),
        );
        if let Some(size) = store_size {
            metrics.register(
                "ledger_bytes",
                "Size of the ConfigMap that says who holds which subnet",
                gauge(size.used as u64),
            );
            metrics.register(
                "ledger_limit_bytes",
                "Size at which that ConfigMap is full and nothing further is given out",
                gauge(size.limit as u64),
            );
        }
    }

    fn nodes(&self, metrics: &mut Metrics) {
        let states = self.registry.states();
        let current = Family::<NodeLabels, Gauge>::default();
        let (mut nodes, mut behind, mut problems) = (0, 0, 0);
        {
            let view = self.view.borrow();
            for (name, node) in view.nodes.iter().filter(|(_, node)| node.exists) {
                nodes += 1;
                problems += i64::from(!node.problems.is_empty());
                let desired = view.configs.get(name).map(|config| config.version);
                let state = states.get(name);
                let connected = state.is_some_and(|state| state.connected_since.is_some());
                let reported = state.and_then(|state| state.report.as_ref().map(|r| r.version));
                behind += i64::from(desired.is_some() && desired != reported);
                let labels = NodeLabels { node: name.clone() };
                current.get_or_create(&labels).set(i64::from(connected));
            }
        }
        let connected = states.values().filter(|s| s.connected_since.is_some());
        let connected = i64::try_from(connected.count()).unwrap_or(i64::MAX);
        metrics.register("nodes", "Nodes in the resources", ConstGauge::new(nodes));
        metrics.register(
            "nodes_connected",
            "Speakers whose stream is open",
            ConstGauge::new(connected),
        );
        metrics.register(
            "nodes_behind",
            "Nodes whose speaker has not said that the newest configuration is in force",
            ConstGauge::new(behind),
        );
        metrics.register(
            "nodes_with_problems",
            "Nodes without a configuration or a subnet, or with another problem",
            ConstGauge::new(problems),
        );
        metrics.register(
            "node_connected",
            "1 while the node's speaker has its stream open",
            current,
        );
    }

    fn writes(&self, metrics: &mut Metrics) {
        let Some(counts) = self.written.as_ref().map(status::Numbers::counts) else {
            return;
        };
        let by_kind = |counts: &BTreeMap<&'static str, u64>| {
            let family = Family::<KindLabels, Counter>::default();
            for (kind, count) in counts {
                family.get_or_create(&KindLabels { kind }).inc_by(*count);
            }
            family
        };
        metrics.register(
            "status_writes",
            "Statuses, conditions and events that the API server took",
            by_kind(&counts.written),
        );
        metrics.register(
            "status_writes_failed",
            "Those that it did not take; they are tried again",
            by_kind(&counts.failed),
        );
        let gauge = |value| ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX));
        metrics.register(
            "status_writes_waiting",
            "Those that wait for their turn, without numbers",
            gauge(counts.waiting),
        );
        metrics.register(
            "status_numbers_waiting",
            "NodeStatus objects of which only numbers are old; they are written at leisure",
            gauge(counts.numbers_waiting),
        );
        metrics.register(
            "events_uncounted",
            "Events that were not written themselves, as there were too many",
            ConstCounter::new(counts.uncounted_events),
        );
    }

    fn pools(&self, metrics: &mut Metrics) {
        let [total, used, waiting] = [(); 3].map(|()| Family::<PoolLabels, Gauge>::default());
        for (name, uses) in &self.view.borrow().pools {
            for each in uses {
                let labels = PoolLabels {
                    pool: name.clone(),
                    prefix: each.prefix.to_string(),
                };
                for (family, value) in [
                    (&total, each.total),
                    (&used, each.used),
                    (&waiting, each.waiting),
                ] {
                    let value = i64::try_from(value).unwrap_or(i64::MAX);
                    family.get_or_create(&labels).set(value);
                }
            }
        }
        metrics.register(
            "pool_subnets",
            "Subnets of a node's size in the prefix",
            total,
        );
        metrics.register("pool_subnets_used", "Subnets that nodes hold", used);
        metrics.register(
            "pool_subnets_waiting",
            "Subnets whose node is gone and whose grace time runs",
            waiting,
        );
    }
}
