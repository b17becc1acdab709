use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bgp::config::{Config, DecisionConfig};
use bgp::types::{Asn, RouterId};
use hyper_util::rt::TokioIo;
use plan::{KernelConfig, PodsConfig};
use proto::controller::v1::config_service_server::{ConfigService, ConfigServiceServer};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio::net::UnixListener;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::{ReceiverStream, UnixListenerStream};
use tonic::transport::{Endpoint, Server, Uri};
use tonic::{Request, Response, Streaming};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use super::*;

/// Leaves a configuration in a state directory, as a speaker that ran before would have.
pub(crate) fn keep(state_dir: &Path, config: &NodeConfig) {
    disk::Copy::new(state_dir)
        .save(&plan::wire::to_proto(config))
        .unwrap();
}

/// A configuration of node `a` without peers.
pub(crate) fn config(version: u64) -> NodeConfig {
    NodeConfig {
        node: "a".into(),
        version,
        bgp: Config {
            asn: Asn(64512),
            router_id: RouterId("192.0.2.1".parse().unwrap()),
            cluster_id: None,
            peers: Vec::new(),
            policies: Vec::new(),
            advertisements: Vec::new(),
            originate: Vec::new(),
            decision: DecisionConfig::default(),
            own_subnets: Vec::new(),
        },
        listen_port: 1790,
        subnets: Vec::new(),
        kernel: KernelConfig {
            table: 254,
            protocol: 149,
            metric: 512,
            install: false,
        },
        pods: PodsConfig::default(),
        bfd: Vec::new(),
        masquerade: None,
    }
}

/// A controller that says what it is told to say.
pub(crate) struct Fake {
    configs: watch::Sender<Option<pb::NodeConfig>>,
    /// What it was told.
    pub(crate) reports: mpsc::UnboundedReceiver<pb::NodeReport>,
    tunnels: mpsc::UnboundedReceiver<DuplexStream>,
    server: JoinHandle<()>,
}

struct Service {
    node: &'static str,
    configs: watch::Receiver<Option<pb::NodeConfig>>,
    reports: mpsc::UnboundedSender<pb::NodeReport>,
    tunnels: mpsc::UnboundedSender<DuplexStream>,
}

impl Fake {
    fn start(socket: &Path) -> Fake {
        Fake::start_for("a", socket)
    }

    /// Answers at `socket`, and expects `node` to call.
    pub(crate) fn start_for(node: &'static str, socket: &Path) -> Fake {
        let (configs, configs_rx) = watch::channel(None);
        let (reports_tx, reports) = mpsc::unbounded_channel();
        let (tunnels_tx, tunnels) = mpsc::unbounded_channel();
        let service = Service {
            node,
            configs: configs_rx,
            reports: reports_tx,
            tunnels: tunnels_tx,
        };
        let listener = UnixListener::bind(socket).unwrap();
        let server = tokio::spawn(async move {
            Server::builder()
                .add_service(ConfigServiceServer::new(service))
                .serve_with_incoming(UnixListenerStream::new(listener))
                .await
                .unwrap();
        });
        Fake {
            configs,
            reports,
            tunnels,
            server,
        }
    }

    pub(crate) fn say(&self, config: &NodeConfig) {
        self.configs
            .send_replace(Some(plan::wire::to_proto(config)));
    }
}

#[tonic::async_trait]
impl ConfigService for Service {
    type WatchStream = ReceiverStream<Result<pb::NodeConfig, tonic::Status>>;

    async fn watch(
        &self,
        request: Request<Streaming<pb::NodeReport>>,
    ) -> Result<Response<Self::WatchStream>, tonic::Status> {
        assert_eq!(
            request.metadata().get("routeshare-node").unwrap(),
            self.node
        );
        let mut incoming = request.into_inner();
        let (sender, receiver) = mpsc::channel(1);
        let (mut configs, reports) = (self.configs.clone(), self.reports.clone());
        tokio::spawn(async move {
            let mut said = None;
            loop {
                let config = configs.borrow_and_update().clone();
                if config != said
                    && let Some(config) = config
                {
                    said = Some(config.clone());
                    let _ = sender.send(Ok(config)).await;
                }
                tokio::select! {
                    changed = configs.changed() => if changed.is_err() { return },
                    report = incoming.next() => match report {
                        Some(Ok(report)) => drop(reports.send(report)),
                        _ => return,
                    },
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }

    type KeysStream = ReceiverStream<Result<pb::SealedKeys, tonic::Status>>;

    async fn keys(
        &self,
        _: Request<Streaming<pb::KeyRequest>>,
    ) -> Result<Response<Self::KeysStream>, tonic::Status> {
        Err(tonic::Status::unimplemented(
            "no configuration here names a Secret",
        ))
    }

    type NamesStream = ReceiverStream<Result<pb::OtherNames, tonic::Status>>;

    async fn names(
        &self,
        _: Request<Streaming<pb::NodeNames>>,
    ) -> Result<Response<Self::NamesStream>, tonic::Status> {
        Err(tonic::Status::unimplemented(
            "no configuration here has names",
        ))
    }

    type TunnelStream = ReceiverStream<Result<pb::TunnelChunk, tonic::Status>>;

    async fn tunnel(
        &self,
        request: Request<Streaming<pb::TunnelChunk>>,
    ) -> Result<Response<Self::TunnelStream>, tonic::Status> {
        assert_eq!(
            request.metadata().get("routeshare-node").unwrap(),
            self.node
        );
        let mut incoming = request.into_inner();
        let (sender, receiver) = mpsc::channel(4);
        let (ours, theirs) = tokio::io::duplex(4096);
        let (mut read, mut write) = tokio::io::split(ours);
        tokio::spawn(async move {
            while let Some(Ok(chunk)) = incoming.next().await {
                write.write_all(&chunk.data).await.unwrap();
            }
        });
        tokio::spawn(async move {
            let mut buffer = [0; 1024];
            while let Ok(count @ 1..) = read.read(&mut buffer).await {
                let data = buffer[..count].to_vec();
                if sender.send(Ok(pb::TunnelChunk { data })).await.is_err() {
                    return;
                }
            }
        });
        let _ = self.tunnels.send(theirs);
        Ok(Response::new(ReceiverStream::new(receiver)))
    }
}

/// A speaker's source whose controller is, or would be, at `DIR/controller.sock`.
struct Bench {
    directory: TempDir,
}

impl Bench {
    fn new() -> Bench {
        Bench {
            directory: tempfile::tempdir().unwrap(),
        }
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("controller.sock")
    }

    fn copy(&self) -> disk::Copy {
        disk::Copy::new(self.directory.path())
    }

    fn start(&self, origin: Origin) -> (Desired, watch::Sender<pb::NodeReport>) {
        let report = pb::NodeReport {
            node: "a".into(),
            ..pb::NodeReport::default()
        };
        let (reports, reports_rx) = watch::channel(report);
        let (_, health) = tonic_health::server::health_reporter();
        let settings = Settings {
            node: "a".into(),
            origin,
            state_dir: self.directory.path().to_path_buf(),
            vault: Arc::new(Vault::new(self.directory.path().join("keys"))),
            names: Arc::new(crate::names::Exchange::new(self.directory.path())),
        };
        (start(settings, reports_rx, Routes::new(health)), reports)
    }

    fn with_controller(&self) -> (Desired, watch::Sender<pb::NodeReport>) {
        self.start(Origin::Controller(controller::Address::Unix(self.socket())))
    }
}

/// Takes the next offer and answers it.
async fn take(desired: &mut Desired, answer: Result<(), String>) -> (NodeConfig, Source) {
    let offer = tokio::time::timeout(Duration::from_secs(20), desired.offers.recv());
    let offer = offer.await.expect("an offer in time").unwrap();
    offer.answer.send(answer).unwrap();
    (offer.config, offer.source)
}

async fn status(desired: &mut Desired, is: impl FnMut(&Status) -> bool) -> Status {
    let wait = tokio::time::timeout(Duration::from_secs(20), desired.status.wait_for(is));
    wait.await.expect("the status in time").unwrap().clone()
}

#[tokio::test]
async fn what_the_controller_says_is_offered_and_kept_once_in_force() {
    let bench = Bench::new();
    let fake = Fake::start(&bench.socket());
    fake.say(&config(3));
    {
        let (mut desired, _reports) = bench.with_controller();
        assert_eq!(
            take(&mut desired, Ok(())).await,
            (config(3), Source::Controller)
        );
        assert!(
            status(&mut desired, |status| status.connected)
                .await
                .refused
                .is_none()
        );
        fake.say(&config(4));
        assert_eq!(take(&mut desired, Ok(())).await.0, config(4));
        fake.say(&config(5));
        take(&mut desired, Err("no".into())).await;
        assert_eq!(
            status(&mut desired, |s| s.refused.is_some())
                .await
                .refused
                .unwrap(),
            "no"
        );
    }
    // The controller away, a start has the last one that was in force.
    fake.server.abort();
    fs::remove_file(bench.socket()).unwrap();
    let (mut desired, _reports) = bench.with_controller();
    assert_eq!(take(&mut desired, Ok(())).await, (config(4), Source::Disk));
    let status = status(&mut desired, |status| status.source.is_some()).await;
    assert!(status.source.unwrap().contains("no controller"));
}

#[tokio::test]
async fn a_damaged_copy_is_told_and_the_controller_replaces_it() {
    let bench = Bench::new();
    bench
        .copy()
        .save(&plan::wire::to_proto(&config(1)))
        .unwrap();
    let mut bytes = fs::read(bench.copy().path()).unwrap();
    bytes.truncate(bytes.len() - 1);
    fs::write(bench.copy().path(), bytes).unwrap();
    let (mut desired, _reports) = bench.with_controller();
    let told = status(&mut desired, |status| status.copy.is_some()).await;
    assert!(told.copy.unwrap().contains("damaged"));
    let fake = Fake::start(&bench.socket());
    fake.say(&config(2));
    assert_eq!(
        take(&mut desired, Ok(())).await,
        (config(2), Source::Controller)
    );
    status(&mut desired, |status| status.copy.is_none()).await;
    assert!(
        bench
            .copy()
            .load()
            .unwrap()
            .is_some_and(|kept| kept.version == 2)
    );
}

#[tokio::test]
async fn another_nodes_configuration_is_refused() {
    let bench = Bench::new();
    let fake = Fake::start(&bench.socket());
    fake.say(&NodeConfig {
        node: "b".into(),
        ..config(1)
    });
    let (mut desired, _reports) = bench.with_controller();
    let refused = status(&mut desired, |status| status.refused.is_some())
        .await
        .refused
        .unwrap();
    assert!(
        refused.contains("`b`") && refused.contains("--node"),
        "{refused}"
    );
    assert!(desired.offers.try_recv().is_err());
}

#[tokio::test]
async fn reports_reach_the_controller_and_again_after_it_was_away() {
    let bench = Bench::new();
    let mut fake = Fake::start(&bench.socket());
    let (mut desired, reports) = bench.with_controller();
    assert_eq!(fake.reports.recv().await.unwrap().version, 0);
    reports.send_modify(|report| report.version = 7);
    assert_eq!(fake.reports.recv().await.unwrap().version, 7);
    fs::remove_file(bench.socket()).unwrap();
    fake.server.abort();
    drop(fake); // ends the stream
    status(&mut desired, |status| {
        !status.connected && status.source.is_some()
    })
    .await;
    let mut fake = Fake::start(&bench.socket());
    assert_eq!(fake.reports.recv().await.unwrap().version, 7);
    status(&mut desired, |status| {
        status.connected && status.source.is_none()
    })
    .await;
}

#[tokio::test]
async fn the_admin_service_answers_through_the_tunnel() {
    let bench = Bench::new();
    let mut fake = Fake::start(&bench.socket());
    let (_desired, _reports) = bench.with_controller();
    let mut pipe = Some(TokioIo::new(fake.tunnels.recv().await.unwrap()));
    let connector = tower::service_fn(move |_: Uri| {
        let pipe = pipe.take().ok_or_else(|| std::io::Error::other("used"));
        async move { pipe }
    });
    let channel = Endpoint::from_static("http://speaker")
        .connect_with_connector(connector)
        .await
        .unwrap();
    let answer = HealthClient::new(channel)
        .check(HealthCheckRequest::default())
        .await
        .unwrap();
    assert_eq!(answer.into_inner().status, 1, "serving");
}

const FABRIC: &str = "
apiVersion: routeshare.io/v1alpha1
kind: Fabric
metadata: {name: fabric}
spec:
  asn: {value: 64512}
  topology: ToR
";

fn node(address: &str) -> String {
    format!(
        "
apiVersion: routeshare.io/v1alpha1
kind: Node
metadata: {{name: a}}
spec: {{addresses: [{address}]}}
"
    )
}

#[tokio::test(start_paused = true)]
async fn files_are_planned_and_a_mistake_leaves_the_last_good_state_in_force() {
    let bench = Bench::new();
    let files = bench.directory.path().join("resources");
    fs::create_dir(&files).unwrap();
    fs::write(files.join("fabric.yaml"), FABRIC).unwrap();
    fs::write(files.join("nodes.yaml"), node("192.0.2.1")).unwrap();
    let (mut desired, _reports) = bench.start(Origin::Files(files.clone()));
    let (first, source) = take(&mut desired, Ok(())).await;
    assert_eq!((source, first.version), (Source::Files, 1));
    assert_eq!(first.bgp.asn, Asn(64512));

    // Emptied, half-written, unreadable, gone: told, and nothing is offered.
    let is_refused = |word: &'static str| {
        move |status: &Status| {
            status
                .refused
                .as_ref()
                .is_some_and(|text| text.contains(word))
        }
    };
    fs::write(files.join("nodes.yaml"), "").unwrap();
    status(&mut desired, is_refused("is empty")).await;
    fs::write(files.join("nodes.yaml"), "kind: No").unwrap();
    status(&mut desired, is_refused("nodes.yaml")).await;
    fs::write(files.join("nodes.yaml"), b"\xff\xfe").unwrap();
    status(&mut desired, is_refused("cannot read")).await;
    fs::write(files.join("nodes.yaml"), node("192.0.2.1")).unwrap();
    fs::remove_file(files.join("fabric.yaml")).unwrap();
    status(&mut desired, is_refused("Fabric")).await;
    fs::remove_file(files.join("nodes.yaml")).unwrap();
    status(&mut desired, is_refused("no .yaml")).await;
    fs::remove_dir(&files).unwrap();
    status(&mut desired, is_refused("cannot read")).await;
    assert!(desired.offers.try_recv().is_err());

    // The same content has the same version, a change has the next.
    fs::create_dir(&files).unwrap();
    fs::write(
        files.join("all.yaml"),
        format!("{FABRIC}---{}", node("192.0.2.1")),
    )
    .unwrap();
    assert_eq!(take(&mut desired, Ok(())).await.0, first);
    status(&mut desired, |status| status.refused.is_none()).await;
    fs::write(
        files.join("all.yaml"),
        format!("{FABRIC}---{}", node("192.0.2.22")),
    )
    .unwrap();
    let (second, _) = take(&mut desired, Ok(())).await;
    assert_eq!(second.version, 2);
}

#[tokio::test(start_paused = true)]
async fn a_node_that_no_file_names_is_told_with_those_there_are() {
    let bench = Bench::new();
    let files = bench.directory.path().join("resources");
    fs::create_dir(&files).unwrap();
    let other = node("192.0.2.1").replace("name: a", "name: other");
    fs::write(files.join("all.yml"), format!("{FABRIC}---{other}")).unwrap();
    let (mut desired, _reports) = bench.start(Origin::Files(files));
    let refused = status(&mut desired, |status| status.refused.is_some())
        .await
        .refused
        .unwrap();
    assert!(
        refused.contains("`a`") && refused.contains("other"),
        "{refused}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_node_that_a_pool_selects_is_told_that_nobody_gives_it_a_subnet() {
    let bench = Bench::new();
    let files = bench.directory.path().join("resources");
    fs::create_dir(&files).unwrap();
    let pool = "
apiVersion: routeshare.io/v1alpha1
kind: Pool
metadata: {name: pods}
spec: {prefixes: [10.64.0.0/16, 'fd00:64::/48'], nodeSubnetLength: {ipv4: 24, ipv6: 64}, reserved: [10.64.9.0/24]}
";
    let write = |node: String| {
        fs::write(
            files.join("all.yaml"),
            format!("{FABRIC}---{pool}---{node}"),
        )
        .unwrap();
    };
    write(node("192.0.2.1"));
    let (mut desired, _reports) = bench.start(Origin::Files(files.clone()));
    take(&mut desired, Ok(())).await;
    let told = status(&mut desired, |status| status.incomplete.len() == 2).await;
    let text = told.incomplete.join("\n");
    for word in ["`a`", "`pods`", "IPv4", "IPv6", "spec.subnets"] {
        assert!(text.contains(word), "{text}");
    }
    assert!(told.refused.is_none(), "the rest of it is in force");

    let with_subnets = |subnets: &str| {
        let subnets = format!("192.0.2.1], subnets: [{subnets}");
        write(node(&subnets));
    };
    with_subnets("10.64.9.0/24");
    take(&mut desired, Ok(())).await;
    let told = status(&mut desired, |status| status.incomplete.len() == 1).await;
    assert!(
        told.incomplete[0].contains("IPv6"),
        "{}",
        told.incomplete[0]
    );
    with_subnets("10.64.9.0/24, 'fd00:65::/64'");
    take(&mut desired, Ok(())).await;
    status(&mut desired, |status| status.incomplete.is_empty()).await;
}
