//! The gRPC service: ask the engine, convert (`admin/convert.rs`), answer.
//!
//! Served on a Unix socket that only its owner may open, and through the tunnel to the controller.
//! Tables are streamed (`admin/routes.rs`): each page is one question to the loop, so nothing is
//! copied and the loop does a bounded piece of work at a time.

mod convert;
mod pods;
mod routes;
pub(crate) mod socket;

use std::net::IpAddr;
use std::time::Duration;

use bgp::engine::Command;
use bgp::query::{QueryError, View};
use bgp::types::Family;
use proto::controller::v1 as controller;
use proto::speaker::v1 as pb;
use proto::speaker::v1::speaker_service_server::{SpeakerService, SpeakerServiceServer};
use tokio::sync::{broadcast, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::service::Routes;
use tonic::{Request, Response, Status};

use crate::clock::{wall_ms, wall_ms_or_0};
use crate::daemon::{Asker, Stopping, now};
use crate::report;

/// How long the kernel's side may take to answer.
const KERNEL_ANSWER: Duration = Duration::from_secs(2);
/// Pages and events on their way to a client.
const AHEAD: usize = 2;

/// Everything that is served: the service, health, and reflection.
pub(crate) async fn routes(asker: Asker) -> Result<Routes, tonic_reflection::server::Error> {
    let (health, health_service) = tonic_health::server::health_reporter();
    let service = SpeakerServiceServer::new(Service {
        asker,
        started_ms: wall_ms(now()),
    });
    health.set_serving::<SpeakerServiceServer<Service>>().await;
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(proto::DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()?;
    Ok(Routes::new(service)
        .add_service(health_service)
        .add_service(reflection))
}

struct Service {
    asker: Asker,
    started_ms: i64,
}

type Stream<T> = ReceiverStream<Result<T, Status>>;

#[tonic::async_trait]
impl SpeakerService for Service {
    async fn get_status(
        &self,
        _: Request<pb::GetStatusRequest>,
    ) -> Result<Response<pb::Status>, Status> {
        let started_ms = self.started_ms;
        let ask = self.asker.ask(move |daemon| {
            let engine = daemon.engine.status();
            let best = |family| engine.best.get(&family).copied().unwrap_or_default();
            let deferral = daemon.engine.deferral();
            let status = pb::Status {
                node: daemon.node(),
                software: report::SOFTWARE.to_owned(),
                asn: engine.speaker.map_or(0, |(asn, _)| asn.0),
                router_id: engine
                    .speaker
                    .map_or(String::new(), |(_, id)| id.to_string()),
                version: daemon.version(),
                config_source: daemon
                    .in_force
                    .as_ref()
                    .map_or(String::new(), |in_force| in_force.source.to_string()),
                controller_connected: daemon.desired.connected,
                refused: daemon.desired.refused.clone().unwrap_or_default(),
                routes_ipv4: best(Family::Ipv4),
                routes_ipv6: best(Family::Ipv6),
                kernel_routes: 0,
                kernel_pending: engine.fib_pending,
                problems: report::problems(daemon),
                started_ms,
                subnets: report::subnets(daemon),
                attribute_sets: engine.attribute_sets,
                restart_until_ms: wall_ms_or_0(deferral.as_ref().map(|it| it.until)),
                restart_waiting_for: deferral.map_or_else(Vec::new, |it| it.waiting_for),
            };
            (status, daemon.kernel.fib())
        });
        let (mut status, fib) = ask.await?;
        if let Some(fib) = fib {
            let summary = in_time(fib.summary()).await;
            status.kernel_routes = summary.installed;
            status.kernel_pending += summary.pending;
        }
        Ok(Response::new(status))
    }

    async fn get_config(
        &self,
        _: Request<pb::GetConfigRequest>,
    ) -> Result<Response<controller::NodeConfig>, Status> {
        let in_force = self.asker.ask(|daemon| daemon.in_force.clone()).await?;
        let in_force = in_force.ok_or_else(|| {
            Status::failed_precondition("this speaker has no configuration yet; see `show status`")
        })?;
        Ok(Response::new(plan::wire::to_proto(&in_force.config)))
    }

    async fn list_peers(
        &self,
        request: Request<pb::ListPeersRequest>,
    ) -> Result<Response<pb::ListPeersResponse>, Status> {
        let wanted = request.into_inner().peer;
        let mut peers = self.asker.ask(|daemon| daemon.peers()).await?;
        if !wanted.is_empty() {
            let address: Option<IpAddr> = wanted.parse().ok();
            let known: Vec<String> = peers.iter().map(|(peer, ..)| peer.name.clone()).collect();
            peers.retain(|(peer, ..)| peer.name == wanted || Some(peer.address) == address);
            if peers.is_empty() {
                let error = QueryError::NoPeer {
                    peer: wanted,
                    known: known.join(", "),
                };
                return Err(Status::not_found(error.to_string()));
            }
        }
        let peers = peers.into_iter().map(convert::peer).collect();
        Ok(Response::new(pb::ListPeersResponse { peers }))
    }

    type ListPodsStream = Stream<pb::PodPage>;

    async fn list_pods(
        &self,
        request: Request<pb::ListPodsRequest>,
    ) -> Result<Response<Self::ListPodsStream>, Status> {
        let leases = self.asker.ask(|daemon| daemon.leases.known()).await?;
        let pages = pods::pages(&leases, request.into_inner())?;
        Ok(stream(|sender| async move {
            for page in pages {
                if sender.send(Ok(page)).await.is_err() {
                    break;
                }
            }
            Ok(())
        }))
    }

    type WatchPeersStream = Stream<pb::Peer>;

    async fn watch_peers(
        &self,
        _: Request<pb::WatchPeersRequest>,
    ) -> Result<Response<Self::WatchPeersStream>, Status> {
        let asker = self.asker.clone();
        let ask = asker.ask(|daemon| (daemon.peers(), daemon.peer_changes.subscribe()));
        let (mut peers, mut changes) = ask.await?;
        Ok(stream(|sender| async move {
            loop {
                for peer in peers.drain(..) {
                    if sender.send(Ok(convert::peer(peer))).await.is_err() {
                        return Ok(());
                    }
                }
                let change = tokio::select! {
                    change = changes.recv() => change,
                    () = sender.closed() => return Ok(()),
                };
                peers = match change {
                    Ok(id) => {
                        let peer = asker.ask(move |daemon| daemon.peer(id)).await?;
                        peer.into_iter().collect()
                    }
                    // Too many to tell one by one: everybody's present state says it all.
                    Err(broadcast::error::RecvError::Lagged(_)) => {
                        asker.ask(|daemon| daemon.peers()).await?
                    }
                    Err(broadcast::error::RecvError::Closed) => return Ok(()),
                };
            }
        }))
    }

    type ListRoutesStream = Stream<pb::RoutePage>;

    async fn list_routes(
        &self,
        request: Request<pb::ListRoutesRequest>,
    ) -> Result<Response<Self::ListRoutesStream>, Status> {
        let request = request.into_inner();
        let compact = request.compact;
        let query = routes::query(request)?;
        let asker = self.asker.clone();
        // The first page is asked for here, so that a wrong peer fails the call itself.
        let first = routes::next_page(&asker, &query, None).await?;
        Ok(stream(|sender| async move {
            routes::send_pages(&asker, &query, first, compact, &sender).await
        }))
    }

    type WatchRoutesStream = Stream<pb::RouteChange>;

    async fn watch_routes(
        &self,
        request: Request<pb::ListRoutesRequest>,
    ) -> Result<Response<Self::WatchRoutesStream>, Status> {
        let query = routes::query(request.into_inner())?;
        if query.view != View::Best {
            return Err(Status::invalid_argument(
                "only best routes (view `Best`) can be watched",
            ));
        }
        let mut changes = self.asker.ask(|daemon| daemon.watch_routes()).await?;
        Ok(stream(|sender| async move {
            let mut missed = false;
            loop {
                let change = tokio::select! {
                    change = changes.recv() => change,
                    () = sender.closed() => return Ok(()),
                };
                match change {
                    Ok(change) if routes::concerns(&query, change.prefix) => {
                        let change = convert::route_change(change, std::mem::take(&mut missed));
                        if sender.send(Ok(change)).await.is_err() {
                            return Ok(());
                        }
                    }
                    Ok(_) => {}
                    Err(broadcast::error::RecvError::Lagged(_)) => missed = true,
                    Err(broadcast::error::RecvError::Closed) => return Ok(()),
                }
            }
        }))
    }

    async fn explain(
        &self,
        request: Request<pb::ExplainRequest>,
    ) -> Result<Response<pb::Explanation>, Status> {
        let target = routes::Target::parse(&request.into_inner().prefix)?;
        let ask = self.asker.ask(move |daemon| {
            let prefix = match target {
                routes::Target::Prefix(prefix) => prefix,
                routes::Target::Address(address) => daemon
                    .engine
                    .lookup(address)
                    .unwrap_or_else(|| routes::host(address)),
            };
            (daemon.engine.explain(prefix), daemon.kernel.fib())
        });
        let (explanation, fib) = ask.await?;
        let kernel = match fib {
            Some(fib) => in_time(fib.states(vec![explanation.prefix])).await.pop(),
            None => None,
        };
        Ok(Response::new(convert::explanation(explanation, kernel)))
    }

    async fn reset_peer(
        &self,
        request: Request<pb::ResetPeerRequest>,
    ) -> Result<Response<pb::CommandResponse>, Status> {
        let pb::ResetPeerRequest {
            peer,
            soft,
            message,
        } = request.into_inner();
        let command = if soft {
            Command::SoftReset { peer }
        } else {
            Command::Reset { peer, message }
        };
        self.command(command).await
    }

    async fn shutdown_peer(
        &self,
        request: Request<pb::ShutdownPeerRequest>,
    ) -> Result<Response<pb::CommandResponse>, Status> {
        let pb::ShutdownPeerRequest { peer, message } = request.into_inner();
        self.command(Command::Shutdown { peer, message }).await
    }

    async fn enable_peer(
        &self,
        request: Request<pb::EnablePeerRequest>,
    ) -> Result<Response<pb::CommandResponse>, Status> {
        let pb::EnablePeerRequest { peer } = request.into_inner();
        self.command(Command::Enable { peer }).await
    }
}

impl Service {
    async fn command(&self, command: Command) -> Result<Response<pb::CommandResponse>, Status> {
        tracing::info!(?command, "command");
        let done = self
            .asker
            .ask(move |daemon| daemon.engine.command(now(), command))
            .await?;
        let text = done.map_err(|error| match error {
            bgp::engine::CommandError::NoPeer { .. } => Status::not_found(error.to_string()),
            _ => Status::failed_precondition(error.to_string()),
        })?;
        Ok(Response::new(pb::CommandResponse { text }))
    }
}

impl From<Stopping> for Status {
    fn from(stopping: Stopping) -> Status {
        Status::unavailable(stopping.to_string())
    }
}

/// A response stream fed by a task, which ends when the client goes.
fn stream<T, W, F>(work: W) -> Response<Stream<T>>
where
    T: Send + 'static,
    W: FnOnce(mpsc::Sender<Result<T, Status>>) -> F,
    F: Future<Output = Result<(), Status>> + Send + 'static,
{
    let (sender, receiver) = mpsc::channel(AHEAD);
    let work = work(sender.clone());
    tokio::spawn(async move {
        if let Err(status) = work.await {
            // The client may have gone.
            let _ = sender.send(Err(status)).await;
        }
    });
    Response::new(ReceiverStream::new(receiver))
}

/// What the kernel's side answers, or nothing if it is too busy: a question about the speaker must be
/// answered above all when something is stuck.
pub(crate) async fn in_time<T: Default>(answer: impl Future<Output = T>) -> T {
    tokio::time::timeout(KERNEL_ANSWER, answer)
        .await
        .unwrap_or_default()
}
