//! A byte pipe to the controller, on which our admin service answers. See `ConfigService.Tunnel`.

use std::time::Duration;

use futures::StreamExt as _;
use proto::controller::v1::TunnelChunk;
use proto::controller::v1::config_service_client::ConfigServiceClient;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tonic::service::Routes;
use tonic::transport::{Channel, Server};

use super::controller::Caller;

/// Bytes on their way in one direction; HTTP/2 does the rest of the flow control.
const PIPE: usize = 64 * 1024;
/// Largest chunk.
const CHUNK: usize = 16 * 1024;
/// Between attempts.
const RETRY: Duration = Duration::from_secs(10);

/// A tunnel that is kept open until this is dropped.
pub(super) struct Tunnel(JoinHandle<()>);

impl Drop for Tunnel {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Tunnel {
    /// Opens the tunnel and opens it again when it ends.
    pub(super) fn open(channel: Channel, caller: Caller, admin: Routes) -> Tunnel {
        Tunnel(tokio::spawn(async move {
            loop {
                if let Err(status) = once(channel.clone(), &caller, admin.clone()).await {
                    tracing::debug!(%status, "no tunnel to the controller");
                }
                tokio::time::sleep(RETRY).await;
            }
        }))
    }
}

async fn once(channel: Channel, caller: &Caller, admin: Routes) -> Result<(), tonic::Status> {
    let (chunks, queue) = mpsc::channel(2);
    let mut client = ConfigServiceClient::new(channel);
    let mut incoming = client
        .tunnel(caller.request(ReceiverStream::new(queue)))
        .await?
        .into_inner();
    let (pipe, server_end) = tokio::io::duplex(PIPE);
    let (mut from_server, mut to_server) = tokio::io::split(pipe);
    serve(server_end, admin).await;
    let outward = async {
        let mut buffer = vec![0; CHUNK];
        while let Ok(count @ 1..) = from_server.read(&mut buffer).await {
            let chunk = TunnelChunk {
                data: buffer[..count].to_vec(),
            };
            if chunks.send(chunk).await.is_err() {
                return;
            }
        }
    };
    let inward = async {
        while let Some(chunk) = incoming.next().await {
            if to_server.write_all(&chunk?.data).await.is_err() {
                break;
            }
        }
        Ok(())
    };
    tokio::select! {
        () = outward => Ok(()),
        result = inward => result,
    }
}

/// Serves one connection; it goes on by itself until its other end is dropped.
async fn serve(connection: DuplexStream, admin: Routes) {
    let one = futures::stream::iter([Ok::<_, std::io::Error>(connection)]);
    if let Err(error) = Server::builder()
        .add_routes(admin)
        .serve_with_incoming(one)
        .await
    {
        tracing::debug!(%error, "tunnel ended");
    }
}
