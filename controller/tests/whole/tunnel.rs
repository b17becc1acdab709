//! Asking a speaker through the controller.

use std::pin::Pin;

use futures::Stream;
use proto::controller::v1 as pb;
use proto::controller::v1::config_service_client::ConfigServiceClient;
use proto::speaker::v1::speaker_service_client::SpeakerServiceClient;
use proto::speaker::v1::speaker_service_server::{SpeakerService, SpeakerServiceServer};
use proto::speaker::v1::*;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Server};
use tonic::{Code, Request, Response, Status as GrpcStatus};

use crate::bench::{Bench, Running, wait_for};

const PAGES: u64 = 2000;

/// A speaker's admin service that knows its node's name and a long table.
struct Fake(&'static str);

type Pages<T> = Pin<Box<dyn Stream<Item = Result<T, GrpcStatus>> + Send>>;
type Answer<T> = Result<Response<T>, GrpcStatus>;

#[tonic::async_trait]
impl SpeakerService for Fake {
    type ListPodsStream = Pages<PodPage>;
    type WatchPeersStream = Pages<Peer>;
    type ListRoutesStream = Pages<RoutePage>;
    type WatchRoutesStream = Pages<RouteChange>;

    async fn get_status(&self, _: Request<GetStatusRequest>) -> Answer<Status> {
        Ok(Response::new(Status {
            node: self.0.to_owned(),
            ..Status::default()
        }))
    }

    async fn list_routes(&self, _: Request<ListRoutesRequest>) -> Answer<Pages<RoutePage>> {
        let page = |number| RoutePage {
            routes: vec![
                Route {
                    prefix: format!("route {number}"),
                    ..Route::default()
                };
                100
            ],
            ..RoutePage::default()
        };
        let pages = futures::stream::iter((0..PAGES).map(move |number| Ok(page(number))));
        Ok(Response::new(Box::pin(pages)))
    }

    async fn explain(&self, _: Request<ExplainRequest>) -> Answer<Explanation> {
        Err(GrpcStatus::not_found("no such prefix"))
    }

    async fn get_config(&self, _: Request<GetConfigRequest>) -> Answer<pb::NodeConfig> {
        Err(GrpcStatus::unimplemented(""))
    }
    async fn list_peers(&self, _: Request<ListPeersRequest>) -> Answer<ListPeersResponse> {
        Err(GrpcStatus::unimplemented(""))
    }
    async fn list_pods(&self, _: Request<ListPodsRequest>) -> Answer<Pages<PodPage>> {
        Err(GrpcStatus::unimplemented(""))
    }
    async fn watch_peers(&self, _: Request<WatchPeersRequest>) -> Answer<Pages<Peer>> {
        Err(GrpcStatus::unimplemented(""))
    }
    async fn watch_routes(&self, _: Request<ListRoutesRequest>) -> Answer<Pages<RouteChange>> {
        Err(GrpcStatus::unimplemented(""))
    }
    async fn reset_peer(&self, _: Request<ResetPeerRequest>) -> Answer<CommandResponse> {
        Err(GrpcStatus::unimplemented(""))
    }
    async fn shutdown_peer(&self, _: Request<ShutdownPeerRequest>) -> Answer<CommandResponse> {
        Err(GrpcStatus::unimplemented(""))
    }
    async fn enable_peer(&self, _: Request<EnablePeerRequest>) -> Answer<CommandResponse> {
        Err(GrpcStatus::unimplemented(""))
    }
}

fn asking<T>(message: T, node: &str) -> Request<T> {
    let mut request = Request::new(message);
    let metadata = request.metadata_mut();
    metadata.insert("routeshare-node", node.parse().unwrap());
    request
}

/// Opens a tunnel for `node` and answers on it until the task is aborted.
async fn speaker(controller: &Running, node: &'static str) -> JoinHandle<()> {
    let (sender, receiver) = mpsc::channel(4);
    let mut client = ConfigServiceClient::new(controller.connect().await);
    let request = asking(ReceiverStream::new(receiver), node);
    let mut incoming = client.tunnel(request).await.unwrap().into_inner();
    let (pipe, ours) = tokio::io::duplex(64 << 10);
    let (mut read, mut write) = tokio::io::split(pipe);
    tokio::spawn(async move {
        let inwards = async {
            while let Ok(Some(chunk)) = incoming.message().await {
                write.write_all(&chunk.data).await.unwrap();
            }
        };
        let outwards = async {
            let mut buffer = vec![0; 16 << 10];
            while let Ok(length @ 1..) = read.read(&mut buffer).await {
                let data = buffer[..length].to_vec();
                if sender.send(pb::TunnelChunk { data }).await.is_err() {
                    return;
                }
            }
        };
        let once = futures::stream::iter([Ok::<_, std::io::Error>(ours)]);
        let serving = Server::builder()
            .add_service(SpeakerServiceServer::new(Fake(node)))
            .serve_with_incoming(once);
        tokio::join!(
            async {
                tokio::select! {
                    () = inwards => {}
                    () = outwards => {}
                }
            },
            async { serving.await.unwrap() }
        );
    })
}

async fn name(operator: &Channel, node: &str) -> Result<String, GrpcStatus> {
    let mut client = SpeakerServiceClient::new(operator.clone());
    let status = client.get_status(asking(GetStatusRequest {}, node)).await?;
    Ok(status.into_inner().node)
}

#[tokio::test]
async fn a_speaker_answers_through_the_controller_with_streams_and_errors_as_they_are() {
    let bench = Bench::new();
    bench.nodes(["a", "b"]);
    let controller = bench.start(&[]);
    let _a = speaker(&controller, "a").await;
    let _b = speaker(&controller, "b").await;
    let operator = controller.connect().await;
    assert_eq!(name(&operator, "a").await.unwrap(), "a");
    assert_eq!(name(&operator, "b").await.unwrap(), "b");
    let mut client = SpeakerServiceClient::new(operator);
    let request = asking(ListRoutesRequest::default(), "a");
    let mut pages = client.list_routes(request).await.unwrap().into_inner();
    for number in 0..PAGES {
        let page = pages.message().await.unwrap().unwrap();
        assert_eq!(page.routes.len(), 100);
        assert_eq!(page.routes[0].prefix, format!("route {number}"));
    }
    assert!(pages.message().await.unwrap().is_none());
    let request = asking(ExplainRequest::default(), "a");
    let error = client.explain(request).await.unwrap_err();
    assert_eq!(
        (error.code(), error.message()),
        (Code::NotFound, "no such prefix")
    );
}

#[tokio::test]
async fn a_reader_that_stops_in_the_middle_does_not_hinder_others() {
    let bench = Bench::new();
    bench.nodes(["a"]);
    let controller = bench.start(&[]);
    let _a = speaker(&controller, "a").await;
    let operator = controller.connect().await;
    let mut client = SpeakerServiceClient::new(operator);
    let request = asking(ListRoutesRequest::default(), "a");
    let mut slow = client.list_routes(request).await.unwrap().into_inner();
    slow.message().await.unwrap().unwrap();
    // On a connection of its own, as another operator has.
    let other = controller.connect().await;
    assert_eq!(name(&other, "a").await.unwrap(), "a");
}

#[tokio::test]
async fn a_speaker_that_is_not_there_or_not_named_is_an_error_that_says_so() {
    let bench = Bench::new();
    bench.nodes(["a"]);
    let controller = bench.start(&[]);
    let operator = controller.connect().await;
    let error = name(&operator, "a").await.unwrap_err();
    assert_eq!(error.code(), Code::Unavailable);
    assert!(
        error.message().contains("node a is not connected"),
        "{error}"
    );
    let mut client = SpeakerServiceClient::new(operator.clone());
    let error = client.get_status(GetStatusRequest {}).await.unwrap_err();
    assert_eq!(error.code(), Code::InvalidArgument);

    let first = speaker(&controller, "a").await;
    assert_eq!(name(&operator, "a").await.unwrap(), "a");
    first.abort();
    wait_for("the end of the tunnel", || async {
        match name(&operator, "a").await {
            Err(error) if error.message().contains("is not connected") => Ok(()),
            other => Err(other),
        }
    })
    .await;
    let _second = speaker(&controller, "a").await;
    assert_eq!(name(&operator, "a").await.unwrap(), "a");
}
