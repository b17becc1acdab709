//! `ConfigService`: one stream of NodeConfigs per speaker, its tunnel, and its keys.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures::Stream;
use proto::controller::v1 as pb;
use proto::controller::v1::config_service_server::ConfigService;
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::{Request, Response, Status, Streaming};
use tracing::{info, warn};

use crate::identity::{Ending, Identity, Trust};
use crate::key_stream;
use crate::names;
use crate::registry::{OpenStream, Registry};
use crate::secrets::Secrets;
use crate::source::files::now;
use crate::standing::Lead;
use crate::tunnel;

/// A speaker that opens a stream says who it is within this.
const FIRST_REPORT: Duration = Duration::from_secs(10);

/// The service, on one listener.
#[derive(Clone)]
pub(crate) struct Config {
    pub(crate) registry: Arc<Registry>,
    pub(crate) trust: Trust,
    pub(crate) lead: Lead,
    /// Keys of peers; none where there are no Secrets.
    pub(crate) secrets: Option<Arc<Secrets>>,
    pub(crate) shutdown: CancellationToken,
}

#[tonic::async_trait]
impl ConfigService for Config {
    type WatchStream = Pin<Box<dyn Stream<Item = Result<pb::NodeConfig, Status>> + Send>>;
    type KeysStream = ReceiverStream<Result<pb::SealedKeys, Status>>;
    type NamesStream = ReceiverStream<Result<pb::OtherNames, Status>>;
    type TunnelStream = ReceiverStream<Result<pb::TunnelChunk, Status>>;

    async fn watch(
        &self,
        request: Request<Streaming<pb::NodeReport>>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        // First: who stands by need not know who is asking.
        self.lead.wait(request.metadata()).await?;
        let identity = self.identify(&request).await?;
        let outlived = self.trust.ending(request.metadata().as_ref());
        let mut reports = request.into_inner();
        let first = timeout(FIRST_REPORT, reports.message())
            .await
            .map_err(|_| Status::deadline_exceeded("no NodeReport; the speaker sends one first"))??
            .ok_or_else(|| Status::invalid_argument("the stream ended without a NodeReport"))?;
        let node = first.node.clone();
        if node.is_empty() {
            return Err(Status::invalid_argument(
                "the first NodeReport has no `node`",
            ));
        }
        identity.check_node(&node).inspect_err(|status| {
            warn!(%node, reason = status.message(), "speaker refused");
        })?;
        let OpenStream {
            id,
            config,
            replaced,
        } = self.registry.opened(&node, now());
        info!(%node, version = first.version, software = first.software, "speaker connected");
        self.registry.report(&node, id, first);

        let ended = CancellationToken::new();
        let closing = Closing {
            registry: Arc::clone(&self.registry),
            node: node.clone(),
            id,
        };
        tokio::spawn(read_reports(reports, closing, ended.clone()));
        let outgoing = Outgoing {
            config,
            replaced,
            lead: self.lead.clone(),
            shutdown: self.shutdown.clone(),
            outlived,
            ended: ended.clone(),
            _ends: ended.drop_guard(),
            sent: 0,
        };
        let stream = futures::stream::unfold(Some(outgoing), async |outgoing| {
            let mut outgoing = outgoing?;
            match outgoing.next().await? {
                Ok(config) => Some((Ok(config), Some(outgoing))),
                Err(status) => Some((Err(status), None)),
            }
        });
        Ok(Response::new(Box::pin(stream)))
    }

    async fn tunnel(
        &self,
        request: Request<Streaming<pb::TunnelChunk>>,
    ) -> Result<Response<Self::TunnelStream>, Status> {
        self.lead.check()?;
        let node = self.node(&request).await?;
        let outlived = self.trust.ending(request.metadata().as_ref());
        let outgoing = tunnel::open(
            Arc::clone(&self.registry),
            node,
            request.into_inner(),
            outlived,
            self.shutdown.clone(),
        );
        Ok(Response::new(outgoing))
    }

    async fn keys(
        &self,
        request: Request<Streaming<pb::KeyRequest>>,
    ) -> Result<Response<Self::KeysStream>, Status> {
        self.lead.check()?;
        let node = self.node(&request).await?;
        let Some(secrets) = &self.secrets else {
            return Err(Status::unimplemented(
                "this controller reads no Secrets: its resources come from files",
            ));
        };
        let stream = key_stream::Stream {
            config: self.registry.config(&node),
            node,
            secrets: Arc::clone(secrets),
            lead: self.lead.clone(),
            shutdown: self.shutdown.clone(),
            outlived: self.trust.ending(request.metadata().as_ref()),
        };
        Ok(Response::new(stream.open(request.into_inner())))
    }

    async fn names(
        &self,
        request: Request<Streaming<pb::NodeNames>>,
    ) -> Result<Response<Self::NamesStream>, Status> {
        self.lead.check()?;
        let node = self.node(&request).await?;
        let stream = names::Stream {
            config: self.registry.config(&node),
            node,
            registry: Arc::clone(&self.registry),
            lead: self.lead.clone(),
            shutdown: self.shutdown.clone(),
        };
        Ok(Response::new(stream.open(request.into_inner())))
    }
}

impl Config {
    async fn identify<T>(&self, request: &Request<T>) -> Result<Identity, Status> {
        let headers = request.metadata().as_ref();
        self.trust.identify(headers, request.extensions()).await
    }

    /// The node whose speaker asks.
    async fn node<T>(&self, request: &Request<T>) -> Result<String, Status> {
        let identity = self.identify(request).await?;
        let named = tunnel::node_of(request.metadata().as_ref())?;
        Ok(match (&identity, named) {
            (_, Some(named)) => {
                identity.check_node(&named)?;
                named
            }
            (Identity::Node(name), None) => name.clone(),
            (_, None) => {
                return Err(Status::invalid_argument(
                    "without a node's certificate, metadata `routeshare-node` must name the node",
                ));
            }
        })
    }
}

/// What a stream sends: the node's newest configuration, whenever it is another.
struct Outgoing {
    config: watch::Receiver<Option<Arc<pb::NodeConfig>>>,
    replaced: CancellationToken,
    lead: Lead,
    shutdown: CancellationToken,
    /// It has gone on for too long with what its speaker showed.
    outlived: Ending,
    ended: CancellationToken,
    /// The version sent last; versions begin at 1.
    sent: u64,
    /// The stream is dropped when the connection breaks; then the reader of reports ends too.
    _ends: DropGuard,
}

impl Outgoing {
    async fn next(&mut self) -> Option<Result<pb::NodeConfig, Status>> {
        loop {
            let newest = self.config.borrow_and_update().clone();
            if let Some(config) = newest.filter(|config| config.version != self.sent) {
                self.sent = config.version;
                return Some(Ok(config.as_ref().clone()));
            }
            tokio::select! {
                biased;
                () = self.replaced.cancelled() => return Some(Err(Status::aborted(
                    "another stream of this node took over; is its speaker running twice?",
                ))),
                () = self.shutdown.cancelled() => {
                    return Some(Err(self.lead.stopping()));
                }
                status = self.lead.ended() => return Some(Err(status)),
                status = &mut self.outlived => return Some(Err(status)),
                () = self.ended.cancelled() => return None,
                changed = self.config.changed() => changed.ok()?,
            }
        }
    }
}

/// Says that the stream is closed when it is dropped.
struct Closing {
    registry: Arc<Registry>,
    node: String,
    id: u64,
}

impl Drop for Closing {
    fn drop(&mut self) {
        self.registry.closed(&self.node, self.id, now());
        info!(node = self.node, "speaker disconnected");
    }
}

/// Takes in what the speaker says until it stops or its stream is closed.
async fn read_reports(
    mut reports: Streaming<pb::NodeReport>,
    closing: Closing,
    ended: CancellationToken,
) {
    loop {
        let report = tokio::select! {
            () = ended.cancelled() => return,
            report = reports.message() => report,
        };
        let Ok(Some(report)) = report else {
            ended.cancel();
            return;
        };
        if report.node != closing.node {
            warn!(
                node = closing.node,
                other = report.node,
                "a speaker reports for another node"
            );
            ended.cancel();
            return;
        }
        if !report.refused.is_empty() {
            warn!(
                node = closing.node,
                reason = report.refused,
                "speaker refuses its configuration"
            );
        }
        closing.registry.report(&closing.node, closing.id, report);
    }
}
