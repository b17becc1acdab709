//! Between one controller and the API server: requests that arrive late, or twice, or never, and answers
//! that get lost. And a Lease of its own for every start, so that each controller takes itself for the
//! leader, for as long as it runs.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::{Method, Request, Response, StatusCode, header};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use kube::Client;
use kube::client::Body;
use lab::cluster::Cluster;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::sleep;

/// What is done to requests; counted, so that a test can say that something was.
#[derive(Debug, Default)]
pub(super) struct Faults {
    /// Arrived after the controller had given up.
    pub(super) late: AtomicUsize,
    /// Were carried out, and the connection was cut before the answer.
    pub(super) answer_lost: AtomicUsize,
    /// Arrived twice.
    pub(super) twice: AtomicUsize,
    /// Were refused by a gateway, carried out or not.
    pub(super) gateway: AtomicUsize,
    /// Were slow.
    pub(super) slow: AtomicUsize,
}

/// A running proxy; ends when dropped.
pub(super) struct Proxy {
    address: SocketAddr,
    _serving: JoinSet<()>,
}

struct Shared {
    client: Client,
    random: Mutex<StdRng>,
    faults: Arc<Faults>,
    /// Where the Lease of this start is.
    lease_namespace: String,
}

impl Proxy {
    /// One that listens on the machine `control`; `start` names the Lease.
    pub(super) fn start(cluster: &Cluster, start: usize, seed: u64, faults: &Arc<Faults>) -> Proxy {
        let lease_namespace = format!("lease-{start}");
        cluster.ensure_namespace(&lease_namespace).unwrap();
        let bind = || std::net::TcpListener::bind(("127.0.0.1", 0));
        let listener = cluster.control().within(bind).unwrap().unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            client: cluster.client(),
            random: Mutex::new(StdRng::seed_from_u64(seed)),
            faults: Arc::clone(faults),
            lease_namespace,
        });
        let mut serving = JoinSet::new();
        cluster.block_on(async {
            let listener = TcpListener::from_std(listener).unwrap();
            serving.spawn(accept(listener, shared));
        });
        Proxy {
            address,
            _serving: serving,
        }
    }

    /// A kubeconfig that leads here.
    pub(super) fn kubeconfig(&self) -> String {
        serde_json::json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "tests", "cluster": {"server": format!("http://{}", self.address)}}],
            "users": [{"name": "nobody", "user": {}}],
            "contexts": [{"name": "tests", "context": {"cluster": "tests", "user": "nobody"}}],
            "current-context": "tests",
        })
        .to_string()
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        connections.spawn(connection(stream, Arc::clone(&shared)));
    }
}

async fn connection(stream: TcpStream, shared: Arc<Shared>) {
    let cut = Arc::new(Notify::new());
    let cut_by_us = Arc::clone(&cut);
    let service = tower::service_fn(move |request| {
        let (shared, cut) = (Arc::clone(&shared), Arc::clone(&cut_by_us));
        async move { Ok::<_, io::Error>(answer(&shared, request, &cut).await) }
    });
    let builder = Builder::new(TokioExecutor::new()).http1_only();
    let serving = builder.serve_connection(TokioIo::new(stream), TowerToHyperService::new(service));
    tokio::select! {
        _ = serving => {}
        () = cut.notified() => {} // dropped, and the connection with it
    }
}

/// What happens to one request.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fate {
    Well,
    SlowThere(Duration),
    SlowBack(Duration),
    /// Cut at once; arrives after this all the same.
    Late(Duration),
    AnswerLost,
    Twice,
    GatewayBefore,
    GatewayAfter,
}

impl Shared {
    fn fate(&self, method: &Method, path: &str) -> Fate {
        let mut random = self.random.lock().unwrap_or_else(PoisonError::into_inner);
        let millis = Duration::from_millis(random.random_range(0..1500));
        let dice = random.random_range(0..100);
        if path.contains("/leases") {
            return Fate::Well; // leading is what this is not about
        }
        if *method == Method::GET {
            return match dice {
                0..4 => Fate::SlowBack(millis),
                4..6 => Fate::GatewayBefore,
                _ => Fate::Well,
            };
        }
        match dice {
            0..7 => Fate::SlowThere(millis),
            7..14 => Fate::SlowBack(millis),
            14..19 => Fate::Late(3 * millis),
            19..25 => Fate::AnswerLost,
            25..30 => Fate::Twice,
            30..32 => Fate::GatewayBefore,
            32..35 => Fate::GatewayAfter,
            _ => Fate::Well,
        }
    }
}

async fn answer<B>(shared: &Arc<Shared>, request: Request<B>, cut: &Notify) -> Response<Body>
where
    B: http_body::Body<Data = bytes::Bytes> + Send + 'static,
    B::Error: std::fmt::Debug,
{
    let (parts, body) = request.into_parts();
    let body = http_body_util::BodyExt::collect(body)
        .await
        .unwrap()
        .to_bytes();
    let sent = Sent { parts, body };
    let fate = shared.fate(&sent.parts.method, sent.parts.uri.path());
    let faults = &shared.faults;
    let count = |counter: &AtomicUsize| {
        counter.fetch_add(1, Ordering::Relaxed);
    };
    match fate {
        Fate::Well => sent.forward(shared).await,
        Fate::SlowThere(time) => {
            count(&faults.slow);
            sleep(time).await;
            sent.forward(shared).await
        }
        Fate::SlowBack(time) => {
            count(&faults.slow);
            let answer = sent.forward(shared).await;
            sleep(time).await;
            answer
        }
        Fate::Late(time) => {
            count(&faults.late);
            let shared = Arc::clone(shared);
            tokio::spawn(async move {
                sleep(time).await;
                sent.forward(&shared).await;
            });
            cut.notify_one();
            std::future::pending().await
        }
        Fate::AnswerLost => {
            count(&faults.answer_lost);
            sent.forward(shared).await;
            cut.notify_one();
            std::future::pending().await
        }
        Fate::Twice => {
            count(&faults.twice);
            sent.forward(shared).await;
            sent.forward(shared).await
        }
        Fate::GatewayBefore => {
            count(&faults.gateway);
            gateway()
        }
        Fate::GatewayAfter => {
            count(&faults.gateway);
            sent.forward(shared).await;
            gateway()
        }
    }
}

fn gateway() -> Response<Body> {
    let mut answer = Response::new(Body::from(b"the gateway gave up".to_vec()));
    *answer.status_mut() = StatusCode::BAD_GATEWAY;
    answer
}

/// A request as the controller sent it.
struct Sent {
    parts: http::request::Parts,
    body: bytes::Bytes,
}

impl Sent {
    /// Carries it out. The API server's answer to an error of the proxy is a bad gateway.
    async fn forward(&self, shared: &Shared) -> Response<Body> {
        let (mut path, mut body) = (self.parts.uri.to_string(), self.body.to_vec());
        if path.contains("/leases") {
            let from = format!("/namespaces/{}/", crd::names::NAMESPACE);
            path = path.replace(&from, &format!("/namespaces/{}/", shared.lease_namespace));
            let from = format!("\"namespace\":\"{}\"", crd::names::NAMESPACE);
            let to = format!("\"namespace\":\"{}\"", shared.lease_namespace);
            body = String::from_utf8_lossy(&body)
                .replace(&from, &to)
                .into_bytes();
        }
        let mut request = Request::builder().method(&self.parts.method).uri(path);
        for name in [header::ACCEPT, header::CONTENT_TYPE] {
            if let Some(value) = self.parts.headers.get(&name) {
                request = request.header(name, value);
            }
        }
        let request = request.body(Body::from(body)).unwrap();
        let mut answer = match shared.client.send(request).await {
            Ok(answer) => answer,
            Err(_) => return gateway(),
        };
        for name in [header::TRANSFER_ENCODING, header::CONNECTION] {
            answer.headers_mut().remove(name);
        }
        *answer.version_mut() = http::Version::HTTP_11;
        answer
    }
}
