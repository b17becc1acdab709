//! Whole speakers in this process, over the loopback addresses 127.0.0.0/8, with kernel routes off.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use bgp::config::{
    Action, Advertisement, GracefulRestart, Match, NextHopMode, Originated, PeerConfig, Policy,
    Rule, Set, Timers,
};
use bgp::types::{Asn, Family, Prefix, RouterId};
use hyper_util::rt::TokioIo;
use plan::wire::routes::{CompactPage, attributes, kernel_word};
use proto::speaker::v1 as pb;
use proto::speaker::v1::speaker_service_client::SpeakerServiceClient;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream, UnixStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tonic::transport::{Channel, Endpoint, Uri};

use super::*;
use crate::desired::controller::Address;
use crate::desired::tests::{Fake, config, keep};
use crate::speaker::{Settings, Speaker};

/// How long a condition may take before a test fails.
const DEADLINE: Duration = Duration::from_secs(30);
const PORT: u16 = 17_900;

/// Addresses that no other test uses: 127.X.Y.N, by process and test.
struct Net(u8, u8);

impl Net {
    fn new() -> Net {
        static NEXT: AtomicU8 = AtomicU8::new(1);
        let process = u8::try_from(std::process::id() % 200).unwrap() + 20;
        Net(process, NEXT.fetch_add(1, Ordering::Relaxed))
    }

    fn address(&self, node: u8) -> IpAddr {
        Ipv4Addr::new(127, self.0, self.1, node).into()
    }

    /// Node `node` (AS 64512 + node) with an eBGP session to each of `peers`, which are let hear and
    /// say everything, and one prefix of its own.
    fn config(&self, node: u8, peers: &[u8]) -> NodeConfig {
        let mut config = config(1);
        config.node = format!("n{node}");
        config.listen_port = PORT;
        config.bgp.asn = asn(node);
        config.bgp.router_id = RouterId(Ipv4Addr::new(10, 0, 0, node));
        // Loopback addresses are no next hops.
        let next_hop = Set::NextHop(Ipv4Addr::new(192, 0, 2, node).into());
        config.bgp.policies = vec![
            all("everything", Vec::new()),
            all("outside", vec![next_hop]),
        ];
        config.bgp.peers = peers.iter().map(|peer| self.peer(node, *peer)).collect();
        config.bgp.advertisements = vec![Advertisement {
            name: "subnets".into(),
            peers: config
                .bgp
                .peers
                .iter()
                .map(|peer| peer.name.clone())
                .collect(),
            set: Vec::new(),
        }];
        config.bgp.originate = vec![Originated {
            prefix: own_prefix(node),
            advertisements: vec!["subnets".into()],
        }];
        config
    }

    fn peer(&self, node: u8, peer: u8) -> PeerConfig {
        PeerConfig {
            name: format!("n{peer}"),
            description: String::new(),
            address: self.address(peer),
            port: PORT,
            local_address: Some(self.address(node)),
            local_asn: asn(node),
            remote_asn: asn(peer),
            passive: false,
            shutdown: None,
            ttl: 1,
            families: vec![Family::Ipv4],
            extended_next_hop: false,
            ttl_security: None,
            authentication: None,
            max_prefixes: None,
            timers: Timers {
                connect_retry: 1,
                ..Timers::default()
            },
            import: vec!["everything".into()],
            export: vec!["outside".into()],
            next_hop: NextHopMode::Auto,
            allow_own_as: 0,
            reflector_client: false,
            graceful_restart: None,
        }
    }

    /// A connection to `to`'s BGP port from `from`'s address.
    async fn dial(&self, from: u8, to: u8) -> TcpStream {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind((self.address(from), 0).into()).unwrap();
        socket
            .connect((self.address(to), PORT).into())
            .await
            .unwrap()
    }
}

/// A policy that lets everything through.
fn all(name: &str, set: Vec<Set>) -> Policy {
    let rule = Rule {
        name: "all".into(),
        matches: Match::default(),
        action: Action::Accept,
        set,
    };
    Policy {
        name: name.into(),
        rules: vec![rule],
    }
}

fn asn(node: u8) -> Asn {
    Asn(64512 + u32::from(node))
}

fn own_prefix(node: u8) -> Prefix {
    Prefix::new(IpAddr::V4(Ipv4Addr::new(10, 64, node, 0)), 24)
}

/// A running speaker.
struct Node {
    directory: TempDir,
    admin: SpeakerServiceClient<Channel>,
    stop: oneshot::Sender<Departure>,
    loop_task: JoinHandle<()>,
    metrics: SocketAddr,
}

impl Node {
    /// Starts from a configuration on disk, with the controller away.
    async fn start(net: &Net, config: &NodeConfig) -> Node {
        let directory = tempfile::tempdir().unwrap();
        keep(directory.path(), config);
        Node::start_in(directory, net, config).await
    }

    async fn start_in(directory: TempDir, net: &Net, config: &NodeConfig) -> Node {
        let number = config.bgp.router_id.0.octets()[3];
        let metrics = std::net::TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap();
        let settings = Settings {
            node: config.node.clone(),
            origin: desired::Origin::Controller(Address::Unix(directory.path().join("controller"))),
            state_dir: directory.path().to_path_buf(),
            socket: directory.path().join("speaker.sock"),
            bfd_socket: directory.path().join("bfd.sock"),
            keys: directory.path().join("keys"),
            metrics: Some(metrics),
            listen: vec![net.address(number)],
        };
        let path = settings.socket.clone();
        let speaker = Speaker::start(settings).await.unwrap();
        let (stop, stopped) = oneshot::channel();
        let loop_task = tokio::spawn(speaker.run(async { stopped.await.unwrap() }));
        let channel = Endpoint::from_static("http://speaker")
            .connect_with_connector(tower::service_fn(move |_: Uri| {
                let path = path.clone();
                async move { UnixStream::connect(path).await.map(TokioIo::new) }
            }))
            .await
            .unwrap();
        let admin = SpeakerServiceClient::new(channel);
        Node {
            directory,
            admin,
            stop,
            loop_task,
            metrics,
        }
    }

    async fn stop(self, departure: Departure) -> TempDir {
        self.stop.send(departure).unwrap();
        timeout(DEADLINE, self.loop_task)
            .await
            .expect("it stops in time")
            .unwrap();
        self.directory
    }

    async fn peer(&mut self, name: &str) -> pb::Peer {
        let request = pb::ListPeersRequest { peer: name.into() };
        self.admin
            .list_peers(request)
            .await
            .unwrap()
            .into_inner()
            .peers
            .remove(0)
    }

    /// Watches until a peer is as `is` says.
    async fn wait(&mut self, name: &str, what: &str, is: impl Fn(&pb::Peer) -> bool) -> pb::Peer {
        let request = pb::WatchPeersRequest {};
        let mut changes = self.admin.watch_peers(request).await.unwrap().into_inner();
        let mut last = None;
        let found = timeout(DEADLINE, async {
            while let Some(peer) = changes.message().await.unwrap() {
                if peer.name == name && is(&peer) {
                    return peer;
                }
                last = Some(peer);
            }
            panic!("the watch ended")
        });
        match found.await {
            Ok(peer) => peer,
            Err(_) => panic!("{name} is not {what}; it was last {last:#?}"),
        }
    }

    /// Asks again and again until a peer is as `is` says: counters change without an event.
    async fn until(&mut self, name: &str, what: &str, is: impl Fn(&pb::Peer) -> bool) {
        let asking = async {
            while !is(&self.peer(name).await) {
                tokio::task::yield_now().await;
            }
        };
        timeout(DEADLINE, asking)
            .await
            .unwrap_or_else(|_| panic!("{name} is not {what} in time"));
    }

    async fn established(&mut self, name: &str) -> pb::Peer {
        self.wait(name, "Established", |peer| peer.state == ESTABLISHED)
            .await
    }

    async fn routes(&mut self, view: &str, peer: &str) -> Vec<pb::Route> {
        let request = pb::ListRoutesRequest {
            view: view.into(),
            peer: peer.into(),
            ..pb::ListRoutesRequest::default()
        };
        let mut pages = self.admin.list_routes(request).await.unwrap().into_inner();
        let mut routes = Vec::new();
        while let Some(page) = pages.message().await.unwrap() {
            routes.extend(page.routes);
        }
        routes
    }

    /// A table by columns says what it says route by route; it has `count` routes.
    async fn same_in_columns(&mut self, view: &str, peer: &str, count: usize) {
        let routes = self.routes(view, peer).await;
        assert_eq!(routes.len(), count, "{routes:#?}");
        let request = pb::ListRoutesRequest {
            view: view.into(),
            peer: peer.into(),
            compact: true,
            ..pb::ListRoutesRequest::default()
        };
        let mut pages = self.admin.list_routes(request).await.unwrap().into_inner();
        let mut plain = routes.iter();
        while let Some(page) = pages.message().await.unwrap() {
            assert_eq!(page.routes, []);
            let page = CompactPage::new(page.compact.unwrap()).unwrap();
            for (compact, plain) in page.routes().zip(&mut plain) {
                assert_eq!(compact.prefix.to_string(), plain.prefix);
                assert_eq!(
                    (compact.peer, compact.reason),
                    (&*plain.peer, &*plain.reason)
                );
                assert_eq!(compact.advertisements, plain.advertisements);
                assert_eq!((compact.best, compact.stale), (plain.best, plain.stale));
                assert_eq!(kernel_word(compact.kernel), plain.kernel);
                let attributes = Some(attributes(&compact.set.decode()));
                assert_eq!(attributes, plain.attributes);
            }
        }
        assert_eq!(plain.len(), 0, "pages lack {plain:#?}");
    }

    async fn metrics(&self) -> String {
        self.get("/metrics").await
    }

    /// What the listener for metrics and probes answers.
    async fn get(&self, path: &str) -> String {
        let mut stream = TcpStream::connect(self.metrics).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        text
    }
}

/// Nodes 1 and 2 with an established session.
async fn pair(net: &Net) -> (Node, Node) {
    let mut a = Node::start(net, &net.config(1, &[2])).await;
    let mut b = Node::start(net, &net.config(2, &[1])).await;
    a.established("n2").await;
    b.established("n1").await;
    (a, b)
}

#[tokio::test]
async fn two_speakers_find_each_other_from_their_disks_alone() {
    let net = Net::new();
    let (mut a, _b) = pair(&net).await;
    let peer = a.peer("n2").await;
    assert_eq!(
        (peer.remote_asn, peer.remote_router_id.as_str()),
        (64514, "10.0.0.2")
    );
    assert_eq!(peer.local_address, net.address(1).to_string());
    assert_eq!(peer.hold_seconds, 90);
    let status = a
        .admin
        .get_status(pb::GetStatusRequest {})
        .await
        .unwrap()
        .into_inner();
    assert_eq!((status.node.as_str(), status.version), ("n1", 1));
    assert_eq!(
        (status.config_source.as_str(), status.controller_connected),
        ("disk", false)
    );
    assert!(
        status
            .problems
            .iter()
            .any(|problem| problem.reason == "NoController")
    );
    let config = a
        .admin
        .get_config(pb::GetConfigRequest {})
        .await
        .unwrap()
        .into_inner();
    assert_eq!(plan::wire::from_proto(config).unwrap(), net.config(1, &[2]));
}

#[tokio::test]
async fn a_speaker_without_peers_and_controller_is_healthy_and_ready_once_it_has_a_configuration() {
    let net = Net::new();
    let a = Node::start(&net, &net.config(1, &[2])).await;
    let config_in_force = async {
        while !a.get("/readyz").await.starts_with("HTTP/1.1 200 ") {
            tokio::task::yield_now().await;
        }
    };
    timeout(DEADLINE, config_in_force)
        .await
        .expect("ready, though its peer never comes");
    let nothing = tempfile::tempdir().unwrap();
    let b = Node::start_in(nothing, &net, &net.config(2, &[1])).await;
    assert!(b.get("/healthz").await.starts_with("HTTP/1.1 200 "));
    let answer = b.get("/readyz").await;
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    assert!(answer.contains("no configuration on disk"), "{answer}");
}

#[tokio::test]
async fn routes_go_from_one_speaker_to_the_other_and_go_with_the_session() {
    let net = Net::new();
    let (a, mut b) = pair(&net).await;
    let told = |peer: &pb::Peer| peer.families.iter().any(|family| family.received == 1);
    b.until("n1", "heard", told).await;
    let received = b.routes("Received", "n1").await.remove(0);
    assert_eq!(received.prefix, own_prefix(1).to_string());
    let attributes = received.attributes.unwrap();
    assert_eq!(
        (attributes.as_path.as_str(), attributes.next_hop.as_str()),
        ("64513", "192.0.2.1")
    );
    let request = pb::ExplainRequest {
        prefix: "10.64.1.0/24".into(),
    };
    let explanation = b.admin.explain(request).await.unwrap().into_inner();
    assert_eq!(explanation.candidates.len(), 1, "{explanation:#?}");
    b.same_in_columns("Received", "n1", 1).await;
    b.same_in_columns("Advertised", "n1", 1).await;
    b.same_in_columns("All", "", 2).await;
    a.stop(Departure::ComingBack).await;
    b.wait("n1", "down", |peer| peer.state != ESTABLISHED).await;
    assert!(b.routes("Received", "n1").await.is_empty());
}

#[tokio::test]
async fn coming_back_says_nothing_and_leaving_says_cease() {
    let net = Net::new();
    let (a, mut b) = pair(&net).await;
    let directory = a.stop(Departure::ComingBack).await;
    let peer = b.wait("n1", "down", |peer| peer.state != ESTABLISHED).await;
    assert_eq!(
        peer.received.unwrap().notification,
        0,
        "{}",
        peer.last_error
    );
    // The same speaker again, from the same disk.
    let a = Node::start_in(directory, &net, &net.config(1, &[2])).await;
    b.established("n1").await;
    a.stop(Departure::Leaving).await;
    let peer = b
        .wait("n1", "told", |peer| !peer.last_error.is_empty())
        .await;
    assert_eq!(peer.received.unwrap().notification, 1);
    assert!(peer.last_error.contains("leaving"), "{}", peer.last_error);
}

/// Nodes 1 and 2 with graceful restart.
fn graceful(net: &Net, node: u8, peer: u8) -> NodeConfig {
    let mut config = net.config(node, &[peer]);
    config.bgp.peers[0].graceful_restart = Some(GracefulRestart::default());
    config
}

#[tokio::test]
async fn a_speaker_that_comes_back_is_a_restart_to_its_peers_and_one_that_left_is_not() {
    let net = Net::new();
    let config = graceful(&net, 1, 2);
    let mut a = Node::start(&net, &config).await;
    let mut b = Node::start(&net, &graceful(&net, 2, 1)).await;
    a.established("n2").await;
    let restart = b.established("n1").await.graceful_restart.unwrap();
    assert!(
        restart.notification && !restart.peer_restarted,
        "a first start"
    );
    assert_eq!(
        (restart.restart_seconds, restart.peer_seconds),
        (120, Some(120))
    );
    let told = |peer: &pb::Peer| peer.families.iter().any(|family| family.received == 1);
    b.until("n1", "heard", told).await;

    let directory = a.stop(Departure::ComingBack).await;
    let away = b.wait("n1", "down", |peer| peer.state != ESTABLISHED).await;
    assert_eq!(away.families[0].stale, 1);
    assert!(away.graceful_restart.unwrap().stale_until_ms > 0);
    let kept = b.routes("Received", "n1").await.remove(0);
    assert!(kept.stale && kept.prefix == own_prefix(1).to_string());

    let mut a = Node::start_in(directory, &net, &config).await;
    a.established("n2").await;
    let back = b.established("n1").await;
    assert!(back.graceful_restart.unwrap().peer_restarted, "{back:#?}");
    let repeated = |peer: &pb::Peer| peer.families[0].received == 1 && peer.families[0].stale == 0;
    b.until("n1", "told everything again", repeated).await;
    let status = a.admin.get_status(pb::GetStatusRequest {}).await.unwrap();
    assert!(status.into_inner().restart_waiting_for.is_empty());

    let directory = a.stop(Departure::Leaving).await;
    b.wait("n1", "down", |peer| peer.state != ESTABLISHED).await;
    assert!(b.routes("Received", "n1").await.is_empty());
    let _a = Node::start_in(directory, &net, &config).await;
    let back = b.established("n1").await;
    assert!(!back.graceful_restart.unwrap().peer_restarted, "{back:#?}");
}

#[tokio::test]
async fn a_speaker_that_crashes_is_a_restart_too() {
    let net = Net::new();
    let config = graceful(&net, 1, 2);
    let mut a = Node::start(&net, &config).await;
    let mut b = Node::start(&net, &graceful(&net, 2, 1)).await;
    a.established("n2").await;
    b.established("n1").await;
    let note = a.directory.path().join("alive");
    let noted = async {
        while !std::fs::read_to_string(&note).is_ok_and(|text| text.contains("peer n2")) {
            tokio::task::yield_now().await;
        }
    };
    timeout(DEADLINE, noted)
        .await
        .expect("it notes that it lives");
    a.loop_task.abort();
    assert!(a.loop_task.await.unwrap_err().is_cancelled());
    b.wait("n1", "down", |peer| peer.state != ESTABLISHED).await;
    // In a directory of its own: the tasks that answer questions live on in this process.
    let directory = tempfile::tempdir().unwrap();
    keep(directory.path(), &config);
    std::fs::copy(note, directory.path().join("alive")).unwrap();
    let _a = Node::start_in(directory, &net, &config).await;
    let back = b.established("n1").await;
    assert!(back.graceful_restart.unwrap().peer_restarted, "{back:#?}");
}

#[tokio::test]
async fn an_operator_shuts_a_session_down_and_enables_it_again() {
    let net = Net::new();
    let (mut a, mut b) = pair(&net).await;
    let request = pb::ShutdownPeerRequest {
        peer: "n2".into(),
        message: "new cables".into(),
    };
    a.admin.shutdown_peer(request).await.unwrap();
    let peer = b
        .wait("n1", "down", |peer| !peer.last_error.is_empty())
        .await;
    assert!(
        peer.last_error.contains("new cables"),
        "{}",
        peer.last_error
    );
    a.admin
        .enable_peer(pb::EnablePeerRequest { peer: "n2".into() })
        .await
        .unwrap();
    a.wait("n2", "back", |peer| peer.established_count == 2)
        .await;
    let request = pb::ResetPeerRequest {
        peer: "n9".into(),
        ..pb::ResetPeerRequest::default()
    };
    let error = a.admin.reset_peer(request).await.unwrap_err();
    assert_eq!(error.code(), tonic::Code::NotFound);
    assert!(
        error.message().contains("n2"),
        "it names the peers there are: {error}"
    );
}

#[tokio::test]
async fn garbage_from_a_peers_address_is_answered_counted_and_harms_no_other_session() {
    let net = Net::new();
    let mut a = Node::start(&net, &net.config(1, &[2, 3])).await;
    let mut b = Node::start(&net, &net.config(2, &[1])).await;
    a.established("n2").await;
    b.established("n1").await;
    let garbage = [
        &b"GET / HTTP/1.1\r\nHost: bgp\r\n\r\n"[..],
        &[0xff; 19],
        &[0x00; 4096],
    ];
    let mut answers = Vec::new();
    for garbage in garbage {
        let mut stream = net.dial(3, 1).await;
        stream.write_all(garbage).await.unwrap();
        let mut answer = Vec::new();
        let read = timeout(DEADLINE, stream.read_to_end(&mut answer));
        // Later ones meet a session that waits (IdleHoldTimer) and are closed unheard, or reset.
        let _ = read.await.expect("the connection is closed in time");
        answers.push(answer);
    }
    // OPEN comes first; the last message is a NOTIFICATION: Message Header Error.
    let last = answers[0]
        .windows(16)
        .rposition(|marker| marker == [0xff; 16])
        .unwrap();
    assert_eq!(answers[0][last + 18..last + 20], [3, 1], "{answers:02x?}");
    let peer = a
        .wait("n3", "told", |peer| !peer.last_error.is_empty())
        .await;
    assert!(peer.sent.unwrap().notification >= 1);
    assert_eq!(a.peer("n2").await.established_count, 1);
    assert_eq!(a.peer("n2").await.state, ESTABLISHED);
}

#[tokio::test]
async fn five_hundred_strangers_are_counted_and_harm_no_session() {
    let net = Net::new();
    let (mut a, _b) = pair(&net).await;
    for _ in 0..500 {
        let mut stream = net.dial(77, 1).await;
        assert!(matches!(stream.read(&mut [0]).await, Ok(0) | Err(_)));
    }
    let text = a.metrics().await;
    let line = "routeshare_speaker_connections_refused_total{reason=\"unknown-address\"} 500";
    assert!(text.contains(line), "{text}");
    assert!(
        text.contains("routeshare_speaker_session_established{peer=\"n2\"} 1"),
        "{text}"
    );
    assert_eq!(a.peer("n2").await.established_count, 1);
}

#[tokio::test]
async fn a_session_is_opened_although_another_program_has_our_port() {
    let net = Net::new();
    let taken = std::net::TcpListener::bind((net.address(1), PORT)).unwrap();
    let mut a = Node::start(&net, &net.config(1, &[2])).await;
    let _b = Node::start(&net, &net.config(2, &[1])).await;
    a.established("n2").await;
    let status = a
        .admin
        .get_status(pb::GetStatusRequest {})
        .await
        .unwrap()
        .into_inner();
    let problem = status
        .problems
        .iter()
        .find(|problem| problem.reason == "CannotListen");
    assert!(problem.unwrap().message.contains("listenPort"));
    drop(taken);
}

#[tokio::test]
async fn a_changed_configuration_is_put_in_force_and_reported() {
    let net = Net::new();
    let mut b = Node::start(&net, &net.config(2, &[1])).await;
    let directory = tempfile::tempdir().unwrap();
    let mut fake = Fake::start_for("n1", &directory.path().join("controller"));
    let first = NodeConfig {
        version: 5,
        ..net.config(1, &[2])
    };
    fake.say(&first);
    let mut a = Node::start_in(directory, &net, &first).await;
    a.established("n2").await;
    let told = async {
        loop {
            let report = fake.reports.recv().await.unwrap();
            let up = report
                .sessions
                .iter()
                .any(|session| session.state == ESTABLISHED);
            if report.version == 5 && up {
                return report;
            }
        }
    };
    assert_eq!(timeout(DEADLINE, told).await.unwrap().node, "n1");
    // Without the peer, the session ends and its peer hears why.
    fake.say(&NodeConfig {
        version: 6,
        ..net.config(1, &[])
    });
    let peer = b.wait("n1", "down", |peer| peer.state != ESTABLISHED).await;
    assert_eq!(
        peer.received.unwrap().notification,
        1,
        "{}",
        peer.last_error
    );
    let status = a
        .admin
        .get_status(pb::GetStatusRequest {})
        .await
        .unwrap()
        .into_inner();
    assert_eq!(
        (status.version, status.config_source.as_str()),
        (6, "controller")
    );
}

#[tokio::test]
async fn a_configuration_that_contradicts_itself_changes_nothing() {
    let net = Net::new();
    let directory = tempfile::tempdir().unwrap();
    let mut fake = Fake::start_for("n1", &directory.path().join("controller"));
    let good = net.config(1, &[2]);
    fake.say(&good);
    let mut a = Node::start_in(directory, &net, &good).await;
    let mut b = Node::start(&net, &net.config(2, &[1])).await;
    b.established("n1").await;
    let mut bad = NodeConfig { version: 2, ..good };
    bad.bgp.policies.clear();
    fake.say(&bad);
    let refused = async {
        loop {
            let report = fake.reports.recv().await.unwrap();
            if !report.refused.is_empty() {
                return report;
            }
        }
    };
    let report = timeout(DEADLINE, refused).await.unwrap();
    assert!(
        report.refused.contains("`everything`"),
        "{}",
        report.refused
    );
    assert_eq!(report.version, 1);
    assert_eq!(a.peer("n2").await.state, ESTABLISHED);
}
