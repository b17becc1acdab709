//! Nodes to test: whole speakers with addresses of their own.

use super::*;
use crate::{cni_conf, host};

/// Addresses that no other test uses: 127.X.Y.N, by process and test.
pub(super) struct Net(pub(super) u8, pub(super) u8);

impl Net {
    pub(super) fn new() -> Net {
        static NEXT: AtomicU8 = AtomicU8::new(1);
        let process = u8::try_from(std::process::id() % 200).unwrap() + 20;
        Net(process, NEXT.fetch_add(1, Ordering::Relaxed))
    }

    pub(super) fn address(&self, node: u8) -> IpAddr {
        Ipv4Addr::new(127, self.0, self.1, node).into()
    }

    /// Node `node` (AS 64512 + node) with an eBGP session to each of `peers`, which are let hear and
    /// say everything, and one prefix of its own.
    pub(super) fn config(&self, node: u8, peers: &[u8]) -> NodeConfig {
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

    pub(super) fn peer(&self, node: u8, peer: u8) -> PeerConfig {
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
    pub(super) async fn dial(&self, from: u8, to: u8) -> TcpStream {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind((self.address(from), 0).into()).unwrap();
        socket
            .connect((self.address(to), PORT).into())
            .await
            .unwrap()
    }
}

/// A policy that lets everything through.
pub(super) fn all(name: &str, set: Vec<Set>) -> Policy {
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

pub(super) fn asn(node: u8) -> Asn {
    Asn(64512 + u32::from(node))
}

pub(super) fn own_prefix(node: u8) -> Prefix {
    Prefix::new(IpAddr::V4(Ipv4Addr::new(10, 64, node, 0)), 24)
}

/// A running speaker.
pub(super) struct Node {
    pub(super) directory: TempDir,
    pub(super) admin: SpeakerServiceClient<Channel>,
    pub(super) stop: oneshot::Sender<Departure>,
    pub(super) loop_task: JoinHandle<()>,
    pub(super) metrics: SocketAddr,
}

impl Node {
    /// Starts from a configuration on disk, with the controller away.
    pub(super) async fn start(net: &Net, config: &NodeConfig) -> Node {
        let directory = tempfile::tempdir().unwrap();
        keep(directory.path(), config);
        Node::start_in(directory, net, config).await
    }

    pub(super) async fn start_in(directory: TempDir, net: &Net, config: &NodeConfig) -> Node {
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
            cni: cni_conf::Settings {
                conf_dir: Some(directory.path().join("net.d")),
                data_dir: directory.path().join("cni"),
            },
            // This test's machine stays as it is.
            host: host::Settings {
                pods: false,
                sysctls: directory.path().to_path_buf(),
            },
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

    pub(super) async fn stop(self, departure: Departure) -> TempDir {
        self.stop.send(departure).unwrap();
        timeout(DEADLINE, self.loop_task)
            .await
            .expect("it stops in time")
            .unwrap();
        self.directory
    }

    pub(super) async fn peer(&mut self, name: &str) -> pb::Peer {
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
    pub(super) async fn wait(
        &mut self,
        name: &str,
        what: &str,
        is: impl Fn(&pb::Peer) -> bool,
    ) -> pb::Peer {
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
    pub(super) async fn until(&mut self, name: &str, what: &str, is: impl Fn(&pb::Peer) -> bool) {
        let asking = async {
            while !is(&self.peer(name).await) {
                tokio::task::yield_now().await;
            }
        };
        timeout(DEADLINE, asking)
            .await
            .unwrap_or_else(|_| panic!("{name} is not {what} in time"));
    }

    pub(super) async fn established(&mut self, name: &str) -> pb::Peer {
        self.wait(name, "Established", |peer| peer.state == ESTABLISHED)
            .await
    }

    pub(super) async fn routes(&mut self, view: &str, peer: &str) -> Vec<pb::Route> {
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
    pub(super) async fn same_in_columns(&mut self, view: &str, peer: &str, count: usize) {
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

    pub(super) async fn metrics(&self) -> String {
        self.get("/metrics").await
    }

    /// What the listener for metrics and probes answers.
    pub(super) async fn get(&self, path: &str) -> String {
        let mut stream = TcpStream::connect(self.metrics).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        text
    }
}

/// Nodes 1 and 2 with an established session.
pub(super) async fn pair(net: &Net) -> (Node, Node) {
    let mut a = Node::start(net, &net.config(1, &[2])).await;
    let mut b = Node::start(net, &net.config(2, &[1])).await;
    a.established("n2").await;
    b.established("n1").await;
    (a, b)
}
