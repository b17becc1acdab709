//! The part of a kubelet that forwards ports: what the API server asks of it for `pods/portforward`,
//! answered as kubelets do (WebSocket, `v4.channel.k8s.io`). No pods run here, so bytes go to an address
//! the test says.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use futures::{SinkExt as _, StreamExt as _};
use lab::Namespace;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::server::{Request, Response};

/// Data of the first port, and errors about it.
const DATA: u8 = 0;
const ERRORS: u8 = 1;
const PROTOCOL: &str = "v4.channel.k8s.io";

pub(super) struct Kubelet {
    requests: Arc<Mutex<Vec<String>>>,
    /// Ends it when dropped.
    _runtime: tokio::runtime::Runtime,
}

impl Kubelet {
    /// Listens on `address` of a machine, and forwards to `to` there.
    pub(super) fn start(machine: &Namespace, address: &str, to: SocketAddr) -> Kubelet {
        let address: SocketAddr = address.parse().unwrap();
        let listener = machine
            .within(|| TcpListener::bind(address))
            .unwrap()
            .unwrap();
        listener.set_nonblocking(true).unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let requests: Arc<Mutex<Vec<String>>> = Arc::default();
        let (seen, machine) = (Arc::clone(&requests), machine.name().to_owned());
        runtime.spawn(async move {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            let acceptor = acceptor();
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, seen) = (acceptor.clone(), Arc::clone(&seen));
                let machine = machine.clone();
                tokio::spawn(async move {
                    if let Ok(stream) = acceptor.accept(stream).await {
                        forward(stream, &machine, to, &seen).await;
                    }
                });
            }
        });
        Kubelet {
            requests,
            _runtime: runtime,
        }
    }

    /// What it was asked.
    pub(super) fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }
}

/// Kubelets have certificates of their own making, unless somebody changes that.
fn acceptor() -> TlsAcceptor {
    let own = rcgen::generate_simple_self_signed(vec!["control".to_owned()]).unwrap();
    let key = rustls::pki_types::PrivatePkcs8KeyDer::from(own.signing_key.serialize_der());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![own.cert.der().clone()], key.into())
        .unwrap();
    TlsAcceptor::from(Arc::new(config))
}

async fn forward(
    stream: TlsStream<tokio::net::TcpStream>,
    machine: &str,
    to: SocketAddr,
    seen: &Mutex<Vec<String>>,
) {
    #[expect(clippy::result_large_err, reason = "the library wants it so")]
    let answer = |request: &Request, mut response: Response| {
        seen.lock().unwrap().push(request.uri().to_string());
        let protocol = PROTOCOL.parse().unwrap();
        response
            .headers_mut()
            .insert("sec-websocket-protocol", protocol);
        Ok(response)
    };
    let Ok(socket) = tokio_tungstenite::accept_hdr_async(stream, answer).await else {
        return;
    };
    let machine = Namespace::existing(machine).unwrap();
    let there = machine.within(|| TcpStream::connect(to)).unwrap().unwrap();
    there.set_nonblocking(true).unwrap();
    let there = tokio::net::TcpStream::from_std(there).unwrap();
    let (mut from_there, mut to_there) = there.into_split();
    let (mut to_client, mut from_client) = socket.split();
    let port = to.port().to_le_bytes();
    for channel in [DATA, ERRORS] {
        let first = vec![channel, port[0], port[1]];
        if to_client.send(Message::binary(first)).await.is_err() {
            return;
        }
    }
    let there_to_client = async {
        let mut buffer = vec![0; 16 * 1024];
        while let Ok(read @ 1..) = from_there.read(&mut buffer).await {
            let message = [&[DATA], &buffer[..read]].concat();
            if to_client.send(Message::binary(message)).await.is_err() {
                break;
            }
        }
        // A client that is gone does not hear it.
        let _ = to_client.close().await;
    };
    let client_to_there = async {
        while let Some(Ok(message)) = from_client.next().await {
            let Message::Binary(bytes) = message else {
                continue;
            };
            if bytes.first() == Some(&DATA) && to_there.write_all(&bytes[1..]).await.is_err() {
                break;
            }
        }
        let _ = to_there.shutdown().await;
    };
    tokio::join!(there_to_client, client_to_there);
}
