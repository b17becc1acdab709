//! TLS of the gRPC port: our certificate and the authority of the clients', read again when their files
//! change, or our certificate alone, as the authority in Kubernetes issues it; and handshakes that fail told to the operator.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use anyhow::Context as _;
use futures::Stream;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::TcpIncoming;
use tracing::{info, warn};

use crate::gates::Gates;

/// A client that does not finish its handshake costs a connection no longer than this.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// So many handshakes are under way at once.
const AT_ONCE: usize = 256;
/// So many of one address: who begins handshakes and ends none keeps nobody else out.
const AT_ONCE_OF_ONE: usize = 64;
/// So many connections of one address wait for that. More than a cluster behind one address has speakers.
const WAITING_OF_ONE: usize = 1 << 13;
/// So many connections wait or are in their handshake; further ones wait in the kernel.
const ACCEPTED: usize = 1 << 14;
/// Failed handshakes are told at most so often: anybody who reaches the port can cause them.
const TELL_EVERY: Duration = Duration::from_secs(1);

/// PEM files for TLS.
#[derive(Clone, Debug)]
pub(crate) struct TlsFiles {
    pub(crate) ca: PathBuf,
    pub(crate) cert: PathBuf,
    pub(crate) key: PathBuf,
    /// Clients may show no certificate: they may have something else to show.
    pub(crate) may_lack_certificates: bool,
}

/// What changes when a file is replaced.
type Stamp = [Option<(SystemTime, u64)>; 3];

/// The configuration of new connections.
pub(crate) enum Tls {
    /// From files.
    Files(Files),
    /// From the authority that the controllers keep; none before that is known.
    Issued(watch::Receiver<Option<Arc<ServerConfig>>>),
}

impl Tls {
    /// For the next connection; none while there is no certificate.
    fn current(&self) -> Option<Arc<ServerConfig>> {
        match self {
            Tls::Files(files) => Some(files.current()),
            Tls::Issued(issued) => issued.borrow().clone(),
        }
    }
}

/// The configuration that files give.
pub(crate) struct Files {
    files: TlsFiles,
    current: Mutex<(Stamp, Arc<ServerConfig>)>,
}

impl Files {
    /// Reads the files.
    ///
    /// # Errors
    ///
    /// When one cannot be read or they do not fit together.
    pub(crate) fn new(files: TlsFiles) -> anyhow::Result<Files> {
        let stamp = files.stamp();
        let config = files.load()?;
        Ok(Files {
            files,
            current: Mutex::new((stamp, config)),
        })
    }

    /// For the next connection: from the files as they are now, or, while these do not fit together (the
    /// certificate is replaced before its key), as they were.
    fn current(&self) -> Arc<ServerConfig> {
        let stamp = self.files.stamp();
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if current.0 != stamp {
            // Not tried again until they change once more.
            current.0 = stamp;
            match self.files.load() {
                Ok(config) => {
                    info!(certificate = %self.files.cert.display(), "certificates read again");
                    current.1 = config;
                }
                Err(error) => warn!(
                    error = format!("{error:#}"),
                    "the certificates have changed and are of no use; those of before stay in use"
                ),
            }
        }
        Arc::clone(&current.1)
    }
}

impl TlsFiles {
    fn stamp(&self) -> Stamp {
        [&self.ca, &self.cert, &self.key].map(|path| {
            let metadata = fs::metadata(path).ok()?;
            Some((metadata.modified().ok()?, metadata.len()))
        })
    }

    fn load(&self) -> anyhow::Result<Arc<ServerConfig>> {
        let mut roots = RootCertStore::empty();
        for authority in certificates(&self.ca)? {
            roots
                .add(authority)
                .with_context(|| format!("{}: no authority's certificate", self.ca.display()))?;
        }
        let verifier = WebPkiClientVerifier::builder(Arc::new(roots));
        let verifier = match self.may_lack_certificates {
            true => verifier.allow_unauthenticated(),
            false => verifier,
        };
        let verifier = verifier
            .build()
            .with_context(|| format!("cannot use {} for TLS", self.ca.display()))?;
        let key = PrivateKeyDer::from_pem_slice(&read(&self.key)?)
            .map_err(|error| anyhow::anyhow!("{}: no private key: {error}", self.key.display()))?;
        let mut config = ServerConfig::builder()
            .with_client_cert_verifier(verifier)
            .with_single_cert(certificates(&self.cert)?, key)
            .with_context(|| {
                format!(
                    "cannot use {} with {} for TLS; `bgpctl pki controller` makes such files",
                    self.cert.display(),
                    self.key.display()
                )
            })?;
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(Arc::new(config))
    }
}

fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

fn certificates(path: &Path) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let list: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&read(path)?).collect();
    let list =
        list.map_err(|error| anyhow::anyhow!("{}: no certificate: {error}", path.display()))?;
    anyhow::ensure!(!list.is_empty(), "{}: no certificate in it", path.display());
    Ok(list)
}

/// Connections whose client has shown a certificate of our authority, or none where it may. Ends when the result is dropped.
pub(crate) fn incoming(
    mut listener: TcpIncoming,
    tls: Arc<Tls>,
) -> impl Stream<Item = io::Result<TlsStream<TcpStream>>> {
    let (sender, receiver) = mpsc::channel(AT_ONCE);
    let accepted = Arc::new(Semaphore::new(ACCEPTED));
    let handshakes = Arc::new(Handshakes {
        gates: Gates::new(AT_ONCE_OF_ONE, WAITING_OF_ONE),
        at_once: Semaphore::new(AT_ONCE),
    });
    let failures = Arc::new(Mutex::new(Failures::default()));
    tokio::spawn(async move {
        loop {
            let Ok(permit) = Arc::clone(&accepted).acquire_owned().await else {
                return;
            };
            let connection = tokio::select! {
                () = sender.closed() => return,
                connection = listener.next() => connection,
            };
            let socket = match connection {
                Some(Ok(socket)) => socket,
                // The server behind us decides what an error of the listening socket means.
                Some(Err(error)) => match sender.send(Err(error)).await {
                    Ok(()) => continue,
                    Err(_) => return,
                },
                None => return,
            };
            let Some(config) = tls.current() else {
                warn!("a connection is closed: there is no certificate for TLS yet");
                continue;
            };
            let (sender, failures) = (sender.clone(), Arc::clone(&failures));
            let handshakes = Arc::clone(&handshakes);
            tokio::spawn(async move {
                let _permit = permit;
                let client = socket.peer_addr();
                let error = match handshakes.shake(config, socket).await {
                    Ok(stream) => {
                        // Nobody is there any more when the server stops.
                        let _ = sender.send(Ok(stream)).await;
                        return;
                    }
                    Err(error) => error,
                };
                let mut failures = failures.lock().unwrap_or_else(PoisonError::into_inner);
                failures.tell(client, &error, Instant::now());
            });
        }
    });
    ReceiverStream::new(receiver)
}

/// Those that are under way.
struct Handshakes {
    gates: Gates,
    at_once: Semaphore,
}

impl Handshakes {
    /// One handshake; why it failed, for people.
    async fn shake(
        &self,
        config: Arc<ServerConfig>,
        socket: TcpStream,
    ) -> Result<TlsStream<TcpStream>, String> {
        let client = socket.peer_addr().map_err(|error| error.to_string())?;
        let place = self.gates.enter(client.ip(), HANDSHAKE).await;
        let _place = place.map_err(|crowded| crowded.to_string())?;
        let _permit = self
            .at_once
            .acquire()
            .await
            .map_err(|closed| closed.to_string())?;
        let handshake = TlsAcceptor::from(config).accept(socket);
        match tokio::time::timeout(HANDSHAKE, handshake).await {
            Ok(Ok(stream)) => Ok(stream),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err(format!(
                "nothing more was heard for {} s",
                HANDSHAKE.as_secs()
            )),
        }
    }
}

/// Failed handshakes.
#[derive(Default)]
struct Failures {
    told: Option<Instant>,
    untold: u64,
}

impl Failures {
    fn tell(&mut self, client: io::Result<SocketAddr>, error: &str, now: Instant) {
        if self.told.is_some_and(|told| now < told + TELL_EVERY) {
            self.untold += 1;
            return;
        }
        self.told = Some(now);
        let client = client.map_or_else(|_| "gone".to_owned(), |client| client.to_string());
        let others = std::mem::take(&mut self.untold);
        warn!(
            client,
            error,
            others,
            "a client's TLS handshake failed; speakers and operators need our authority's certificate (--ca), \
             and one of their own where they show no token (bgpctl pki)"
        );
    }
}
