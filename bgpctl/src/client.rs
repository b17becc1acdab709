//! Whom to ask, and how to reach them.

use std::path::{Path, PathBuf};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use proto::controller::v1::admin_service_client::AdminServiceClient;
use proto::controller::v1::{ListNodesRequest, Node};
use proto::speaker::v1::speaker_service_client::SpeakerServiceClient;
use tokio::net::UnixStream;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity, Uri};
use tonic::{Request, Status};
use tower::service_fn;

use crate::cli::{CONTROLLER_SOCKET, SPEAKER_SOCKET, Target};
use crate::error::Failure;

/// The request metadata that tells the controller whose speaker is meant.
const NODE: &str = "routeshare-node";
/// A page of routes or a node's configuration may be larger than gRPC's 4 MiB.
const MAX_MESSAGE: usize = 64 * 1024 * 1024;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// A client of one speaker, direct or through the controller.
pub(crate) type SpeakerClient = SpeakerServiceClient<InterceptedService<Channel, ForNode>>;
/// A client of the controller.
pub(crate) type ControllerClient = AdminServiceClient<Channel>;

/// A speaker to ask.
pub(crate) struct Speaker {
    /// The node's name, when the controller is asked.
    pub(crate) node: Option<String>,
    pub(crate) client: SpeakerClient,
}

impl Speaker {
    /// What answers and errors call it.
    pub(crate) fn name(&self) -> &str {
        self.node.as_deref().unwrap_or("the speaker")
    }

    /// Turns a refusal into an error that names the speaker.
    pub(crate) fn refused(&self, status: Status) -> Failure {
        Failure::Refused {
            who: self.name().to_owned(),
            status: Box::new(status),
        }
    }
}

/// Puts the node's name into each request.
#[derive(Clone, Debug)]
pub(crate) struct ForNode(Option<MetadataValue<Ascii>>);

impl Interceptor for ForNode {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(node) = &self.0 {
            request.metadata_mut().insert(NODE, node.clone());
        }
        Ok(request)
    }
}

/// Which speakers a command is about.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Scope {
    /// The one on this socket.
    Socket(PathBuf),
    /// These, through the controller.
    Nodes(Vec<String>),
    /// All the controller knows.
    All,
}

/// Opens connections as the command line says.
pub(crate) struct Connector<'a> {
    target: &'a Target,
}

impl<'a> Connector<'a> {
    pub(crate) fn new(target: &'a Target) -> Connector<'a> {
        Connector { target }
    }

    /// Named nodes go first, then `--all`, then an explicit socket; a controller alone means all
    /// nodes.
    fn scope(&self) -> Scope {
        let target = self.target;
        if !target.node.is_empty() {
            return Scope::Nodes(target.node.clone());
        }
        match &target.socket {
            _ if target.all => Scope::All,
            Some(socket) => Scope::Socket(socket.clone()),
            None if target.controller.is_some() => Scope::All,
            None => Scope::Socket(SPEAKER_SOCKET.into()),
        }
    }

    /// Whether answers come from the controller rather than from one speaker.
    pub(crate) fn asks_controller(&self) -> bool {
        !matches!(self.scope(), Scope::Socket(_))
    }

    /// Whether every node's speaker is asked for by `--all`.
    pub(crate) fn all(&self) -> bool {
        self.target.all
    }

    /// The nodes named by `--node`.
    pub(crate) fn named_nodes(&self) -> &[String] {
        &self.target.node
    }

    /// The controller.
    pub(crate) async fn controller(&self) -> Result<ControllerClient, Failure> {
        let channel = self.controller_channel().await?;
        Ok(AdminServiceClient::new(channel).max_decoding_message_size(MAX_MESSAGE))
    }

    /// The speakers the command is about. Nodes that are not connected are not among them; they are
    /// the second part of the result.
    pub(crate) async fn speakers(&self) -> Result<(Vec<Speaker>, Vec<Node>), Failure> {
        let names = match self.scope() {
            Scope::Socket(path) => {
                let channel = unix_channel("speaker", &path).await?;
                return Ok((vec![speaker(channel, None)?], Vec::new()));
            }
            Scope::Nodes(names) => names,
            Scope::All => {
                let channel = self.controller_channel().await?;
                let mut admin =
                    AdminServiceClient::new(channel.clone()).max_decoding_message_size(MAX_MESSAGE);
                let nodes = nodes(&mut admin).await?;
                let (connected, away): (Vec<Node>, Vec<Node>) =
                    nodes.into_iter().partition(|node| node.connected);
                let speakers = connected
                    .into_iter()
                    .map(|node| speaker(channel.clone(), Some(node.name)))
                    .collect::<Result<_, _>>()?;
                return Ok((speakers, away));
            }
        };
        let channel = self.controller_channel().await?;
        let speakers = names
            .into_iter()
            .map(|name| speaker(channel.clone(), Some(name)))
            .collect::<Result<_, _>>()?;
        Ok((speakers, Vec::new()))
    }

    /// The one speaker a command is for.
    pub(crate) async fn one_speaker(&self, command: &'static str) -> Result<Speaker, Failure> {
        let one = match self.scope() {
            Scope::Socket(_) => true,
            Scope::Nodes(names) => names.len() == 1,
            Scope::All => false,
        };
        if !one {
            return Err(Failure::OneNode { command });
        }
        let (mut speakers, _) = self.speakers().await?;
        speakers.pop().ok_or(Failure::OneNode { command })
    }

    async fn controller_channel(&self) -> Result<Channel, Failure> {
        let url = self
            .target
            .controller
            .as_deref()
            .unwrap_or(CONTROLLER_SOCKET);
        if let Some(path) = url.strip_prefix("unix:") {
            return unix_channel("controller", Path::new(path)).await;
        }
        let wrong = |reason: &str| Failure::Url {
            url: url.to_owned(),
            reason: reason.to_owned(),
        };
        let mut endpoint = Endpoint::from_shared(url.to_owned())
            .map_err(|error| wrong(&error.to_string()))?
            .connect_timeout(CONNECT_TIMEOUT);
        match endpoint.uri().scheme_str() {
            Some("https") => {
                let tls = self.tls()?;
                endpoint = endpoint
                    .tls_config(tls)
                    .map_err(|error| wrong(&error.to_string()))?;
            }
            Some("http") => {}
            _ => return Err(wrong("no URL of a controller")),
        }
        endpoint.connect().await.map_err(|source| Failure::Connect {
            url: url.to_owned(),
            source,
        })
    }

    fn tls(&self) -> Result<ClientTlsConfig, Failure> {
        let read = |path: &PathBuf| {
            std::fs::read(path).map_err(|source| Failure::Read {
                path: path.clone(),
                source,
            })
        };
        let mut tls = ClientTlsConfig::new();
        if let Some(ca) = &self.target.ca {
            tls = tls.ca_certificate(Certificate::from_pem(read(ca)?));
        }
        if let (Some(cert), Some(key)) = (&self.target.cert, &self.target.key) {
            tls = tls.identity(Identity::from_pem(read(cert)?, read(key)?));
        }
        Ok(tls)
    }
}

/// All nodes the controller knows, by name.
pub(crate) async fn nodes(admin: &mut ControllerClient) -> Result<Vec<Node>, Failure> {
    let answer = admin.list_nodes(ListNodesRequest {}).await;
    let mut nodes = answer.map_err(controller_refused)?.into_inner().nodes;
    nodes.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(nodes)
}

/// Turns a refusal into an error that names the controller.
pub(crate) fn controller_refused(status: Status) -> Failure {
    Failure::Refused {
        who: "the controller".into(),
        status: Box::new(status),
    }
}

fn speaker(channel: Channel, node: Option<String>) -> Result<Speaker, Failure> {
    let value = node
        .as_ref()
        .map(|name| name.parse())
        .transpose()
        .map_err(|_| Failure::Answer(format!("{node:?} is no node's name")))?;
    let client = SpeakerServiceClient::with_interceptor(channel, ForNode(value))
        .max_decoding_message_size(MAX_MESSAGE);
    Ok(Speaker { node, client })
}

async fn unix_channel(who: &'static str, path: &Path) -> Result<Channel, Failure> {
    let failure = |source| Failure::Socket {
        who,
        path: path.to_owned(),
        source,
    };
    // Tried first by itself: what tonic says of a failure does not tell a missing file from a
    // forbidden one.
    UnixStream::connect(path).await.map_err(failure)?;
    let owned = path.to_owned();
    // The URL is never used, but there has to be one.
    Endpoint::from_static("http://unix.socket")
        .connect_with_connector(service_fn(move |_: Uri| {
            let path = owned.clone();
            async move { UnixStream::connect(path).await.map(TokioIo::new) }
        }))
        .await
        .map_err(|error| failure(std::io::Error::other(error)))
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::cli::Cli;

    fn scope(arguments: &[&str]) -> Scope {
        let words = ["bgpctl", "show", "peers"].iter().chain(arguments);
        let cli = Cli::try_parse_from(words).unwrap();
        Connector::new(&cli.target).scope()
    }

    #[test]
    fn this_machines_speaker_is_asked_unless_another_is_named() {
        assert_eq!(scope(&[]), Scope::Socket(SPEAKER_SOCKET.into()));
        assert_eq!(scope(&["--node", "a1"]), Scope::Nodes(vec!["a1".into()]));
        assert_eq!(scope(&["--all"]), Scope::All);
    }

    #[test]
    fn a_controller_without_a_node_means_all_nodes_and_a_socket_goes_before_it() {
        assert_eq!(scope(&["--controller", "unix:/c"]), Scope::All);
        let both = ["--controller", "unix:/c", "--socket", "/s"];
        assert_eq!(scope(&both), Scope::Socket("/s".into()));
    }
}
