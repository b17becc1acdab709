//! Asking a speaker through the connection that it has opened to us.
//!
//! A speaker's `Tunnel` call is a pipe of bytes. We are the HTTP/2 client on it, the speaker is the
//! server, so that a request for its `SpeakerService` is passed on as it is: [`Proxy`] looks at the
//! metadata `routeshare-node` and at nothing else. Every stage waits for the next, so a slow reader
//! slows the speaker's answer down and costs no memory.

use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use futures::future::BoxFuture;
use hyper_util::rt::TokioIo;
use proto::controller::v1::TunnelChunk;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::body::Body;
use tonic::codegen::{Service, http};
use tonic::server::NamedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Status, Streaming};
use tower::ServiceExt as _;
use tracing::{debug, info};

use crate::identity::{AUTHORIZATION, Ending, Trust};
use crate::registry::Registry;
use crate::standing::Lead;

/// Request metadata that says which node is meant.
const NODE: &str = "routeshare-node";
const PIPE: usize = 64 << 10;
/// What we say comes in such pieces: requests, which are short. Every tunnel has one, whether it is asked or not.
const CHUNK: usize = 2 << 10;

/// The node that a request's metadata names.
///
/// # Errors
///
/// `InvalidArgument` when it is not text.
pub(crate) fn node_of(headers: &http::HeaderMap) -> Result<Option<String>, Status> {
    let Some(value) = headers.get(NODE) else {
        return Ok(None);
    };
    let node = value.to_str().map_err(|_| {
        Status::invalid_argument(format!("metadata `{NODE}` is not the name of a node"))
    })?;
    Ok(Some(node.to_owned()))
}

/// Takes a tunnel into use, until it has `outlived` what it was opened with; returns what is sent to the
/// speaker.
pub(crate) fn open(
    registry: Arc<Registry>,
    node: String,
    incoming: Streaming<TunnelChunk>,
    outlived: Ending,
    shutdown: CancellationToken,
) -> ReceiverStream<Result<TunnelChunk, Status>> {
    let (ours, pipe) = tokio::io::duplex(PIPE);
    let (sender, receiver) = mpsc::channel(4);
    let (id, replaced) = registry.tunnel_opened(&node, channel(ours));
    debug!(%node, "tunnel opened");
    tokio::spawn(async move {
        tokio::select! {
            () = carry(pipe, incoming, sender) => {}
            () = replaced.cancelled() => {}
            _ = outlived => {}
            () = shutdown.cancelled() => {}
        }
        registry.tunnel_closed(&node, id);
        debug!(%node, "tunnel closed");
    });
    ReceiverStream::new(receiver)
}

/// An HTTP/2 client on one pipe; when the pipe is gone there is no other.
fn channel(pipe: DuplexStream) -> Channel {
    let pipe = Arc::new(Mutex::new(Some(pipe)));
    Endpoint::from_static("http://speaker").connect_with_connector_lazy(tower::service_fn(
        move |_: http::Uri| {
            let pipe = pipe.lock().unwrap_or_else(PoisonError::into_inner).take();
            std::future::ready(match pipe {
                Some(pipe) => Ok(TokioIo::new(pipe)),
                None => Err(std::io::Error::from(std::io::ErrorKind::NotConnected)),
            })
        },
    ))
}

/// Carries bytes both ways until either side ends.
async fn carry(
    pipe: DuplexStream,
    mut incoming: Streaming<TunnelChunk>,
    sender: mpsc::Sender<Result<TunnelChunk, Status>>,
) {
    let (mut from_us, mut to_us) = tokio::io::split(pipe);
    let outwards = async {
        let mut buffer = vec![0; CHUNK];
        loop {
            match from_us.read(&mut buffer).await {
                Ok(0) | Err(_) => return,
                Ok(length) => {
                    let data = buffer[..length].to_vec();
                    if sender.send(Ok(TunnelChunk { data })).await.is_err() {
                        return;
                    }
                }
            }
        }
    };
    let inwards = async {
        while let Ok(Some(chunk)) = incoming.message().await {
            if to_us.write_all(&chunk.data).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = outwards => {}
        () = inwards => {}
        // The speaker has stopped to listen.
        () = sender.closed() => {}
    }
}

/// `SpeakerService` of any node, for operators.
#[derive(Clone)]
pub(crate) struct Proxy {
    pub(crate) registry: Arc<Registry>,
    pub(crate) trust: Trust,
    pub(crate) lead: Lead,
}

impl NamedService for Proxy {
    const NAME: &'static str = "routeshare.speaker.v1.SpeakerService";
}

impl Service<http::Request<Body>> for Proxy {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<http::Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let proxy = self.clone();
        Box::pin(async move {
            let answer = proxy.forward(request).await;
            Ok(answer.unwrap_or_else(Status::into_http))
        })
    }
}

impl Proxy {
    async fn forward(&self, request: http::Request<Body>) -> Result<http::Response<Body>, Status> {
        self.lead.check()?;
        let identity = self.trust.identify(request.headers(), request.extensions());
        identity.await?.check_operator()?;
        let node = node_of(request.headers())?.ok_or_else(|| {
            Status::invalid_argument(format!(
                "which node? Through the controller, metadata `{NODE}` names it (bgpctl --node)"
            ))
        })?;
        let channel = self.registry.tunnel(&node).ok_or_else(|| {
            Status::unavailable(format!(
                "the speaker of node {node} is not connected to the controller; `bgpctl show nodes` lists \
                 the nodes, and on the node itself `bgpctl` works without controller"
            ))
        })?;
        let (mut parts, body) = request.into_parts();
        parts.extensions = http::Extensions::new(); // they tell of the operator's connection
        // A node must not get what makes it an operator.
        parts.headers.remove(AUTHORIZATION);
        channel
            .oneshot(http::Request::from_parts(parts, body))
            .await
            .map_err(|error| {
                info!(%node, error = &error as &dyn std::error::Error, "tunnel failed");
                Status::unavailable(format!("the connection to the speaker of {node} broke"))
            })
    }
}
