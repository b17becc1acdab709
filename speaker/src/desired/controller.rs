//! The controller's stream: configurations in, reports out, and a tunnel for its questions.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use std::{fs, io};

use hyper_util::rt::TokioIo;
use proto::controller::v1 as pb;
use proto::controller::v1::config_service_client::ConfigServiceClient;
use rand::Rng as _;
use tokio::net::UnixStream;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_stream::wrappers::WatchStream;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Routes;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity, Uri};

use super::leader::{self, End, Way};
use super::token::{Bearer, TokenError};
use super::{Sink, Source, keys, names, tunnel};

/// A whole NodeConfig must fit.
pub(super) const LARGEST_MESSAGE: usize = 64 << 20;
/// How long connecting may take.
const CONNECT: Duration = Duration::from_secs(5);
/// How often a quiet connection is probed, and how long the answer may take: a leader whose host has
/// died is missed before another one leads.
const PROBE: Duration = Duration::from_secs(5);
/// Speakers that all have to go to another controller do so within this.
const SPREAD: Duration = Duration::from_millis(300);
/// How often the token's file is looked at, at most: kubelet writes a new one minutes before the old one
/// ends.
const LOOK_AT_TOKEN: Duration = Duration::from_secs(30);
/// The metadata key by which a speaker says whose it is; where there is TLS, the certificate or the token
/// decides.
pub(super) const NODE_KEY: &str = "routeshare-node";

/// Where the controller is.
#[derive(Clone, Debug)]
pub(crate) enum Address {
    /// `https://…`, with the file of the authority, what the controller's certificate must say where
    /// that is not the URL's host, and what says who we are.
    Tls {
        uri: Uri,
        ca: PathBuf,
        name: Option<String>,
        proof: Proof,
    },
    /// `http://…` on this host, without TLS.
    Insecure(Uri),
    /// A Unix socket, without TLS.
    Unix(PathBuf),
}

/// What says which node we are; its files are read anew for every connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Proof {
    /// Our certificate and its key.
    Certificate { cert: PathBuf, key: PathBuf },
    /// A service-account token.
    Token(PathBuf),
}

/// Why `--controller` and the options that go with it say nothing usable.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum AddressError {
    #[error(
        "`{text}` is no URL: {reason}; expected https://HOST:PORT, or unix:PATH with --insecure"
    )]
    NoUrl { text: String, reason: String },
    #[error(
        "`{text}` names a variable that kubelet knew no value of: is the Service of \
         the controller in the namespace of this pod? Make it; the next start of this container has its \
         address"
    )]
    NotReplaced { text: String },
    #[error(
        "{text} needs --ca, and --cert and --key (`bgpctl pki node` makes them) or in Kubernetes --token; \
         missing: {missing}"
    )]
    NoCertificate { text: String, missing: &'static str },
    #[error("{text} is without TLS, which has to be asked for by --insecure")]
    NotAskedFor { text: String },
    #[error(
        "--insecure is only for this host (localhost, 127.0.0.1, [::1] or unix:PATH), not {host}"
    )]
    NotLocal { host: String },
    #[error("--insecure and {text} contradict each other; use http:// or leave --insecure out")]
    Contradiction { text: String },
}

/// The options that say how to reach the controller.
#[derive(Clone, Debug, Default)]
pub(crate) struct Options {
    pub(crate) ca: Option<PathBuf>,
    pub(crate) cert: Option<PathBuf>,
    pub(crate) key: Option<PathBuf>,
    pub(crate) token: Option<PathBuf>,
    pub(crate) name: Option<String>,
    pub(crate) insecure: bool,
}

impl Address {
    /// Reads `--controller` with the options beside it.
    ///
    /// # Errors
    ///
    /// What is missing or contradictory, and what to give instead.
    pub(crate) fn new(text: &str, options: Options) -> Result<Address, AddressError> {
        if text.contains("$(") {
            return Err(AddressError::NotReplaced { text: text.into() });
        }
        // As kubelet writes a Service's address into the environment of pods.
        let text = match text.strip_prefix("tcp://") {
            Some(address) => format!("https://{address}"),
            None => text.to_owned(),
        };
        if let Some(path) = text.strip_prefix("unix:") {
            if !options.insecure {
                return Err(AddressError::NotAskedFor { text });
            }
            return Ok(Address::Unix(Path::new(path).to_path_buf()));
        }
        let no_url = |reason: String| AddressError::NoUrl {
            text: text.clone(),
            reason,
        };
        let uri: Uri = text.parse().map_err(|error| no_url(format!("{error}")))?;
        let host = uri
            .host()
            .ok_or_else(|| no_url("no host".into()))?
            .to_owned();
        match (uri.scheme_str(), options.insecure) {
            (Some("https"), false) => {
                let missing = |missing| AddressError::NoCertificate {
                    text: text.clone(),
                    missing,
                };
                Ok(Address::Tls {
                    uri,
                    ca: options.ca.ok_or_else(|| missing("--ca"))?,
                    name: options.name,
                    proof: match options.token {
                        Some(token) => Proof::Token(token),
                        None => Proof::Certificate {
                            cert: options.cert.ok_or_else(|| missing("--cert or --token"))?,
                            key: options.key.ok_or_else(|| missing("--key"))?,
                        },
                    },
                })
            }
            (Some("https"), true) => Err(AddressError::Contradiction { text }),
            (Some("http"), false) => Err(AddressError::NotAskedFor { text }),
            (Some("http"), true) if is_loopback(&host) => Ok(Address::Insecure(uri)),
            (Some("http"), true) => Err(AddressError::NotLocal { host }),
            _ => Err(no_url("the scheme is neither https nor http".into())),
        }
    }
}

impl Address {
    /// The same controller's service at another one's address, `HOST:PORT`; the certificate there must
    /// say the same name. `None` where nobody can be sent: from a Unix socket, and to another host
    /// without TLS.
    pub(super) fn at(&self, leader: &str) -> Option<Address> {
        match self {
            Address::Tls {
                uri,
                ca,
                name,
                proof,
            } => Some(Address::Tls {
                name: name.clone().or_else(|| {
                    let host = uri.host()?;
                    Some(host.trim_matches(['[', ']']).to_owned())
                }),
                uri: format!("https://{leader}").parse().ok()?,
                ca: ca.clone(),
                proof: proof.clone(),
            }),
            Address::Insecure(_) => {
                let uri: Uri = format!("http://{leader}").parse().ok()?;
                is_loopback(uri.host()?).then_some(Address::Insecure(uri))
            }
            Address::Unix(_) => None,
        }
    }
}

fn is_loopback(host: &str) -> bool {
    let address = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost"
        || address
            .parse()
            .is_ok_and(|ip: std::net::IpAddr| ip.is_loopback())
}

/// How long a controller has to send the first configuration before somebody is told that it does not.
const FIRST: Duration = Duration::from_secs(5);

/// Why there is no stream.
#[derive(Debug, thiserror::Error)]
enum StreamError {
    #[error("cannot read {path}: {source}")]
    File { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Token(#[from] TokenError),
    #[error("cannot connect to the controller at {to}: {text}")]
    Connect { to: String, text: String },
    #[error("the controller refuses us: {0}")]
    Refused(String),
    #[error(
        "the controller ended the connection without an answer ({text}); is {cert} of an authority that it \
         trusts (its --ca)?"
    )]
    Unanswered { text: String, cert: PathBuf },
    #[error("another controller leads, at {0}")]
    Elsewhere(String),
    #[error("the controller's stream broke: {0}")]
    Broken(String),
    #[error("the controller closed the stream")]
    Ended,
}

/// Keeps a stream open for ever, with growing pauses between attempts.
pub(super) async fn run(
    address: Address,
    mut sink: Sink,
    reports: watch::Receiver<pb::NodeReport>,
    admin: Routes,
) {
    let mut pauses = Pauses::default();
    let mut way = Way::new(address);
    loop {
        let begun = Instant::now();
        let Err(error) = stream(&mut way, &mut sink, reports.clone(), &admin).await;
        pauses.ended_after(begun.elapsed());
        let end = match &error {
            StreamError::Elsewhere(leader) => End::Elsewhere(leader),
            _ => End::Failed,
        };
        let at_once = way.ended(end);
        let pause = match at_once {
            true => SPREAD.mul_f64(rand::rng().random_range(0.0..1.0)),
            false => pauses.next(rand::rng().random_range(0.5..1.0)),
        };
        tracing::warn!(%error, retry_ms = pause.as_millis(), "no configuration stream");
        sink.connected(Err(format!(
            "no controller: {error}; forwarding goes on as it is"
        )));
        tokio::time::sleep(pause).await;
    }
}

async fn stream(
    way: &mut Way,
    sink: &mut Sink,
    reports: watch::Receiver<pb::NodeReport>,
    admin: &Routes,
) -> Result<std::convert::Infallible, StreamError> {
    let mut open = Open::new(way, sink, reports.clone(), admin).await?;
    way.opened();
    tracing::info!("connected to the controller");
    sink.connected(Ok(()));
    let first = tokio::time::sleep(FIRST);
    tokio::pin!(first);
    loop {
        let message = tokio::select! {
            message = open.configs.message() => message,
            () = &mut first, if sink.last.is_none() && !first.is_elapsed() => {
                tracing::warn!(
                    node = sink.node,
                    "the controller has no configuration for this node; is there a Node of this name? \
                     `bgpctl show nodes`, which asks the controller, says what is missing"
                );
                continue;
            }
            () = open.caller.replaced(way.address()) => {
                // The old stream stays until there is a new one, and the controller takes its end for
                // what it is.
                match Open::new(way, sink, reports.clone(), admin).await {
                    Ok(new) => open = new,
                    Err(error) => {
                        tracing::warn!(%error, "no stream with the new token; the old one stays");
                        open.caller.later();
                    }
                }
                continue;
            }
        };
        match message {
            Ok(Some(message)) => sink.offer_message(message, Source::Controller).await,
            Ok(None) => return Err(StreamError::Ended),
            Err(status) => {
                return Err(match leader::named_in(&status) {
                    Some(leader) => StreamError::Elsewhere(leader),
                    None => StreamError::Broken(words(&status)),
                });
            }
        }
    }
}

/// A stream, and what goes with it until it is dropped.
struct Open {
    configs: tonic::Streaming<pb::NodeConfig>,
    caller: Caller,
    _tunnel: tunnel::Tunnel,
    _keys: keys::Keys,
    _names: names::Names,
}

impl Open {
    async fn new(
        way: &Way,
        sink: &Sink,
        reports: watch::Receiver<pb::NodeReport>,
        admin: &Routes,
    ) -> Result<Open, StreamError> {
        let address = way.address();
        let caller = Caller::new(&sink.node, address)?;
        let channel = connect(address).await?;
        let mut client = ConfigServiceClient::new(channel.clone())
            .max_decoding_message_size(LARGEST_MESSAGE)
            .max_encoding_message_size(LARGEST_MESSAGE);
        let mut request = caller.request(WatchStream::new(reports));
        way.mark(request.metadata_mut());
        // Whoever does not lead may take its time to answer.
        let answer = client.watch(request).await;
        let configs = answer.map_err(|status| refused(address, &status))?;
        Ok(Open {
            configs: configs.into_inner(),
            _tunnel: tunnel::Tunnel::open(channel.clone(), caller.clone(), admin.clone()),
            _names: names::Names::exchange(
                channel.clone(),
                caller.clone(),
                Arc::clone(&sink.names),
            ),
            _keys: keys::Keys::fetch(channel, caller.clone(), Arc::clone(&sink.vault)),
            caller,
        })
    }
}

/// Who asks: our node, and the token that says so.
#[derive(Clone, Debug)]
pub(super) struct Caller {
    node: Option<MetadataValue<Ascii>>,
    bearer: Option<Bearer>,
    /// When the token's file is looked at next.
    look_at: Instant,
}

impl Caller {
    fn new(node: &str, address: &Address) -> Result<Caller, TokenError> {
        let bearer = match address {
            Address::Tls {
                proof: Proof::Token(path),
                ..
            } => Some(Bearer::read(path)?),
            _ => None,
        };
        let mut caller = Caller {
            node: node.parse().ok(),
            bearer,
            look_at: Instant::now(),
        };
        caller.later();
        Ok(caller)
    }

    /// The token is looked at after a while; not by all speakers at the same moment.
    fn later(&mut self) {
        self.look_at = Instant::now() + LOOK_AT_TOKEN.mul_f64(rand::rng().random_range(0.5..1.0));
    }

    /// A request of ours.
    pub(super) fn request<T>(&self, message: T) -> tonic::Request<T> {
        let mut request = tonic::Request::new(message);
        if let Some(node) = &self.node {
            request.metadata_mut().insert(NODE_KEY, node.clone());
        }
        if let Some(bearer) = &self.bearer {
            bearer.show(&mut request);
        }
        request
    }

    /// Returns when there is another token. Cancel-safe.
    async fn replaced(&mut self, address: &Address) {
        let (
            Some(bearer),
            Address::Tls {
                proof: Proof::Token(path),
                ..
            },
        ) = (&self.bearer, address)
        else {
            return std::future::pending().await;
        };
        let (bearer, path) = (bearer.clone(), path.clone());
        loop {
            tokio::time::sleep_until(self.look_at).await;
            if bearer.is_replaced(&path) {
                return;
            }
            self.later();
        }
    }
}

/// Connects; certificates are read anew, so that renewed ones are used.
async fn connect(address: &Address) -> Result<Channel, StreamError> {
    match address {
        Address::Tls {
            uri,
            ca,
            name,
            proof,
        } => {
            let mut tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(read(ca)?));
            if let Proof::Certificate { cert, key } = proof {
                tls = tls.identity(Identity::from_pem(read(cert)?, read(key)?));
            }
            if let Some(name) = name {
                tls = tls.domain_name(name);
            }
            let endpoint = prepared(uri.clone())
                .tls_config(tls)
                .map_err(|error| no_connection(uri, &error))?;
            endpoint
                .connect()
                .await
                .map_err(|error| no_connection(uri, &error))
        }
        Address::Insecure(uri) => prepared(uri.clone())
            .connect()
            .await
            .map_err(|error| no_connection(uri, &error)),
        Address::Unix(path) => {
            let path = path.clone();
            let to = format!("unix:{}", path.display());
            // The URI only fills the request's `host`.
            let connector = tower::service_fn(move |_: Uri| {
                let path = path.clone();
                async move { UnixStream::connect(path).await.map(TokioIo::new) }
            });
            prepared(Uri::from_static("http://localhost"))
                .connect_with_connector(connector)
                .await
                .map_err(|error| no_connection(to, &error))
        }
    }
}

fn prepared(uri: Uri) -> Endpoint {
    Endpoint::from(uri)
        .connect_timeout(CONNECT)
        .http2_keep_alive_interval(PROBE)
        .keep_alive_timeout(PROBE)
        .keep_alive_while_idle(true)
}

fn read(path: &Path) -> Result<Vec<u8>, StreamError> {
    fs::read(path).map_err(|source| StreamError::File {
        path: path.to_path_buf(),
        source,
    })
}

fn no_connection(to: impl ToString, error: &tonic::transport::Error) -> StreamError {
    let text = super::chain(error);
    StreamError::Connect {
        to: to.to_string(),
        text: format!("{text}{}", tls_hint(&text)),
    }
}

/// In TLS 1.3 a server judges our certificate after we think that the connection is there: what we see of
/// its refusal is only that the first call ends.
fn refused(address: &Address, status: &tonic::Status) -> StreamError {
    if let Some(leader) = leader::named_in(status) {
        return StreamError::Elsewhere(leader);
    }
    match (address, status.code()) {
        (
            Address::Tls {
                proof: Proof::Certificate { cert, .. },
                ..
            },
            tonic::Code::Unknown | tonic::Code::Cancelled,
        ) => StreamError::Unanswered {
            text: status.message().to_owned(),
            cert: cert.clone(),
        },
        _ => StreamError::Refused(words(status)),
    }
}

/// What a person can do about what rustls says.
fn tls_hint(text: &str) -> &'static str {
    if text.contains("KeyMismatch") {
        "; --key is not the key of --cert"
    } else if text.contains("BadSignature") || text.contains("UnknownIssuer") {
        "; the controller's certificate is not of the authority in --ca"
    } else {
        ""
    }
}

fn words(status: &tonic::Status) -> String {
    format!("{} ({:?})", status.message(), status.code())
}

/// The pauses between attempts: doubling from 200 ms to 30 s, each shortened by chance so that a
/// thousand speakers do not come back at the same moment.
#[derive(Debug, Default)]
struct Pauses {
    failures: u32,
}

impl Pauses {
    const FIRST: Duration = Duration::from_millis(200);
    const LONGEST: Duration = Duration::from_secs(30);

    /// `part` is the share of the full pause that is taken, out of 0.5 to 1.
    fn next(&mut self, part: f64) -> Duration {
        let full = Self::FIRST.saturating_mul(2_u32.saturating_pow(self.failures));
        self.failures = self.failures.saturating_add(1);
        full.min(Self::LONGEST).mul_f64(part)
    }

    /// A stream ended. One that held starts over with the shortest pause; one that was taken away at
    /// once does not: two speakers of one name would take it from each other for ever.
    fn ended_after(&mut self, lasted: Duration) {
        if lasted >= Self::LONGEST {
            self.failures = 0;
        }
    }
}

#[cfg(test)]
mod tests;
