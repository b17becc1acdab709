//! The gRPC listeners: TLS, plaintext where asked for, and the Unix socket.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use proto::controller::v1::admin_service_server::AdminServiceServer;
use proto::controller::v1::config_service_server::ConfigServiceServer;
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::watch;
use tokio_stream::wrappers::UnixListenerStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;
use tonic::transport::server::{Router, TcpIncoming};
use tonic_health::ServingStatus;

use crate::admin::Admin;
use crate::identity::Trust;
use crate::reconcile::View;
use crate::registry::Registry;
use crate::secrets::Secrets;
use crate::serve::Config;
use crate::source::SourceState;
use crate::standing::Lead;
use crate::status;
use crate::tls::{self, Tls};
use crate::tunnel::Proxy;

/// A connection on which nothing is heard is asked whether it lives after this, and closed when it
/// does not answer for as long again.
const KEEPALIVE: Duration = Duration::from_secs(10);

/// What the services are made of.
pub(crate) struct Services {
    pub(crate) registry: Arc<Registry>,
    pub(crate) view: watch::Receiver<View>,
    pub(crate) source: watch::Receiver<SourceState>,
    pub(crate) lead: Lead,
    /// Keys of peers; none where there are no Secrets.
    pub(crate) secrets: Option<Arc<Secrets>>,
    /// Writes of status, where there is somewhere to write it.
    pub(crate) written: Option<status::Numbers>,
    pub(crate) shutdown: CancellationToken,
}

impl Services {
    /// All services, for one listener.
    pub(crate) async fn server(&self, trust: &Trust) -> anyhow::Result<Router> {
        let mut server = Server::builder()
            .http2_keepalive_interval(Some(KEEPALIVE))
            .http2_keepalive_timeout(Some(KEEPALIVE))
            .tcp_keepalive(Some(KEEPALIVE))
            .tcp_nodelay(true);
        let reflection = tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(proto::DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            .build_v1()
            .context("the built-in descriptors are damaged")?;
        let (reporter, health) = tonic_health::server::health_reporter();
        let mut view = self.view.clone();
        let alone = self.lead.is_alone();
        // Before anybody can ask: the library begins with `Serving`.
        reporter
            .set_service_status("", ServingStatus::NotServing)
            .await;
        tokio::spawn(async move {
            // Ready means: resources are in force and committed. One of several is always ready: it
            // leads, or says who does.
            let ready = view.wait_for(|view| !alone || view.generation > 0);
            if ready.await.is_ok() {
                reporter
                    .set_service_status("", ServingStatus::Serving)
                    .await;
                let _ = view.wait_for(|_| false).await; // keeps the reporter until the end
            }
        });
        let config = Config {
            registry: Arc::clone(&self.registry),
            trust: trust.clone(),
            lead: self.lead.clone(),
            secrets: self.secrets.clone(),
            shutdown: self.shutdown.clone(),
        };
        let admin = Admin {
            registry: Arc::clone(&self.registry),
            view: self.view.clone(),
            source: self.source.clone(),
            trust: trust.clone(),
            lead: self.lead.clone(),
        };
        let proxy = Proxy {
            registry: Arc::clone(&self.registry),
            trust: trust.clone(),
            lead: self.lead.clone(),
        };
        Ok(server
            .add_service(ConfigServiceServer::new(config))
            .add_service(AdminServiceServer::new(admin))
            .add_service(proxy)
            .add_service(health)
            .add_service(reflection))
    }
}

/// Serves on a TCP port until `shutdown`, with TLS where this is given.
pub(crate) async fn tcp(
    server: Router,
    listener: TcpListener,
    tls: Option<Arc<Tls>>,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let incoming = TcpIncoming::from(listener)
        .with_nodelay(Some(true))
        .with_keepalive(Some(KEEPALIVE));
    let stopped = shutdown.cancelled_owned();
    match tls {
        Some(tls) => {
            let incoming = tls::incoming(incoming, tls);
            server.serve_with_incoming_shutdown(incoming, stopped).await
        }
        None => server.serve_with_incoming_shutdown(incoming, stopped).await,
    }
    .context("gRPC server")
}

/// Serves on the Unix socket until `shutdown`.
pub(crate) async fn unix(
    server: Router,
    listener: UnixListener,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let incoming = UnixListenerStream::new(listener);
    server
        .serve_with_incoming_shutdown(incoming, shutdown.cancelled_owned())
        .await
        .context("gRPC server on the Unix socket")
}

/// Listens on a Unix socket that only its owner can use. What an earlier run left there is replaced.
pub(crate) fn bind_unix(path: &Path) -> io::Result<UnixListener> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    if UnixStream::connect(path).is_ok() {
        return Err(io::Error::new(
            io::ErrorKind::AddrInUse,
            "another program answers there; give one of the two another --socket",
        ));
    }
    // Under another name until its mode is right: nobody can connect before.
    let temporary = path.with_added_extension(format!("new-{}", std::process::id()));
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(&temporary)?;
    fs::set_permissions(&temporary, fs::Permissions::from_mode(0o600))?;
    fs::rename(&temporary, path)?;
    Ok(listener)
}
