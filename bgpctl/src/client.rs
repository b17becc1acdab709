//! Whom to ask, and how to reach them.

use std::path::{Path, PathBuf};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use proto::controller::v1::admin_service_client::AdminServiceClient;
use proto::controller::v1::{GetStatusRequest, ListNodesRequest, Node};
use proto::speaker::v1::speaker_service_client::SpeakerServiceClient;
use tokio::net::UnixStream;
use tokio::sync::OnceCell;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity, Uri};
use tonic::{Code, Request, Status};
use tower::service_fn;

use crate::cli::{CONTROLLER_SOCKET, SPEAKER_SOCKET, Target};
use crate::error::Failure;
use crate::kubernetes::{self, Where};

/// The request metadata that tells the controller whose speaker is meant.
const NODE: &str = "routeshare-node";
/// The request metadata that shows a token.
const AUTHORIZATION: &str = "authorization";
/// Metadata of a controller's answer that does not lead: where the leader is, as `HOST:PORT`.
const LEADER: &str = "routeshare-leader";
/// So often one controller after the other is believed that another one leads.
const STEPS: usize = 3;
/// What this program is called as a plugin of kubectl.
const PLUGIN: &str = "kubectl-bgp";
/// A page of routes or a node's configuration may be larger than gRPC's 4 MiB.
const MAX_MESSAGE: usize = 64 * 1024 * 1024;
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// A client of one speaker, direct or through the controller.
pub(crate) type SpeakerClient = SpeakerServiceClient<InterceptedService<Channel, Said>>;
/// A client of the controller.
pub(crate) type ControllerClient = AdminServiceClient<InterceptedService<Channel, Said>>;

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

/// What every request says besides its question.
#[derive(Clone, Debug, Default)]
pub(crate) struct Said {
    /// Whose speaker is meant, when the controller is asked.
    node: Option<MetadataValue<Ascii>>,
    /// Who asks, where a certificate does not say it.
    authorization: Option<MetadataValue<Ascii>>,
}

impl Interceptor for Said {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        let metadata = request.metadata_mut();
        if let Some(node) = &self.node {
            metadata.insert(NODE, node.clone());
        }
        if let Some(authorization) = &self.authorization {
            metadata.insert(AUTHORIZATION, authorization.clone());
        }
        Ok(request)
    }
}

/// An open connection.
#[derive(Clone)]
struct Opened {
    channel: Channel,
    authorization: Option<MetadataValue<Ascii>>,
}

impl Opened {
    fn plain(channel: Channel) -> Opened {
        Opened {
            channel,
            authorization: None,
        }
    }

    fn controller(&self) -> ControllerClient {
        let said = Said {
            node: None,
            authorization: self.authorization.clone(),
        };
        AdminServiceClient::with_interceptor(self.channel.clone(), said)
            .max_decoding_message_size(MAX_MESSAGE)
    }

    /// Where the leader is, when the one at the other end says that it is not.
    async fn leader(&self) -> Option<String> {
        let answer = self.controller().get_status(GetStatusRequest {}).await;
        let status = answer.err().filter(|it| it.code() == Code::Unavailable)?;
        let leader = status.metadata().get(LEADER)?.to_str().ok()?;
        Some(leader.to_owned())
    }

    fn speaker(&self, node: Option<String>) -> Result<Speaker, Failure> {
        let value = node
            .as_ref()
            .map(|name| name.parse())
            .transpose()
            .map_err(|_| Failure::Answer(format!("{node:?} is no node's name")))?;
        let said = Said {
            node: value,
            authorization: self.authorization.clone(),
        };
        let client = SpeakerServiceClient::with_interceptor(self.channel.clone(), said)
            .max_decoding_message_size(MAX_MESSAGE);
        Ok(Speaker { node, client })
    }
}

/// What there is around this process, by which it is known whom to ask when nobody says.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Surroundings {
    /// A speaker's socket at its usual place.
    speaker: bool,
    /// A controller's socket at its usual place.
    controller: bool,
    /// A kubeconfig where kubectl looks for one.
    kubeconfig: bool,
    /// We are called as a plugin of kubectl.
    plugin: bool,
}

impl Surroundings {
    pub(crate) fn look() -> Surroundings {
        // What may not be looked at is there.
        let is_there = |path: &Path| path.try_exists().unwrap_or(true);
        let controller = CONTROLLER_SOCKET.trim_start_matches("unix:");
        let named = std::env::var_os("KUBECONFIG").is_some_and(|paths| !paths.is_empty());
        let home = std::env::home_dir().map(|home| home.join(".kube/config"));
        Surroundings {
            speaker: is_there(Path::new(SPEAKER_SOCKET)),
            controller: is_there(Path::new(controller)),
            kubeconfig: named || home.is_some_and(|path| path.is_file()),
            plugin: is_plugin(),
        }
    }
}

/// Whether we are called as a plugin of kubectl.
pub(crate) fn is_plugin() -> bool {
    let name = std::env::args_os().next().map(PathBuf::from);
    name.is_some_and(|name| name.file_name().is_some_and(|name| name == PLUGIN))
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
    surroundings: Surroundings,
    /// The connection to the controller, once it was needed.
    opened: OnceCell<Opened>,
}

impl<'a> Connector<'a> {
    pub(crate) fn new(target: &'a Target, surroundings: Surroundings) -> Connector<'a> {
        Connector {
            target,
            surroundings,
            opened: OnceCell::new(),
        }
    }

    /// Whether the controller is one that runs in Kubernetes: that was said, or nothing was said and
    /// there is nobody on this machine to ask.
    fn in_cluster(&self) -> bool {
        let (target, around) = (self.target, self.surroundings);
        let said = target.cluster.is_named() || around.plugin;
        target.controller.is_none() && (said || !around.controller && around.kubeconfig)
    }

    /// Named nodes go first, then `--all`, then an explicit socket; a controller alone means all
    /// nodes, and so does a cluster.
    fn scope(&self) -> Scope {
        let target = self.target;
        if !target.node.is_empty() {
            return Scope::Nodes(target.node.clone());
        }
        match &target.socket {
            _ if target.all => Scope::All,
            Some(socket) => Scope::Socket(socket.clone()),
            None if target.controller.is_some() => Scope::All,
            None if target.cluster.is_named() || self.surroundings.plugin => Scope::All,
            None if !self.surroundings.speaker && self.in_cluster() => Scope::All,
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
        Ok(self.opened().await?.controller())
    }

    /// The speakers the command is about. Nodes that are not connected are not among them; they are
    /// the second part of the result.
    pub(crate) async fn speakers(&self) -> Result<(Vec<Speaker>, Vec<Node>), Failure> {
        let names = match self.scope() {
            Scope::Socket(path) => {
                let channel = unix_channel("speaker", &path).await?;
                return Ok((vec![Opened::plain(channel).speaker(None)?], Vec::new()));
            }
            Scope::Nodes(names) => names,
            Scope::All => {
                let opened = self.opened().await?;
                let nodes = nodes(&mut opened.controller()).await?;
                let (connected, away): (Vec<Node>, Vec<Node>) =
                    nodes.into_iter().partition(|node| node.connected);
                let speakers = connected
                    .into_iter()
                    .map(|node| opened.speaker(Some(node.name)))
                    .collect::<Result<_, _>>()?;
                return Ok((speakers, away));
            }
        };
        let opened = self.opened().await?;
        let speakers = names
            .into_iter()
            .map(|name| opened.speaker(Some(name)))
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

    async fn opened(&self) -> Result<&Opened, Failure> {
        self.opened.get_or_try_init(|| self.open()).await
    }

    async fn open(&self) -> Result<Opened, Failure> {
        let target = self.target;
        let Some(url) = target.controller.as_deref() else {
            let place = match target.cluster.direct {
                true => Where::Direct,
                false if self.in_cluster() => Where::Forwarded,
                false => {
                    let path = CONTROLLER_SOCKET.trim_start_matches("unix:");
                    let channel = unix_channel("controller", Path::new(path)).await?;
                    return Ok(Opened::plain(channel));
                }
            };
            return self.open_in_cluster(&place).await;
        };
        if let Some(path) = url.strip_prefix("unix:") {
            let channel = unix_channel("controller", Path::new(path)).await?;
            return Ok(Opened::plain(channel));
        }
        let mut opened = self.open_at(url).await?;
        if url.starts_with("https:") {
            for _ in 0..STEPS {
                let Some(leader) = opened.leader().await else {
                    break;
                };
                opened = self.open_at(&format!("https://{leader}")).await?;
            }
        }
        Ok(opened)
    }

    async fn open_in_cluster(&self, place: &Where<'_>) -> Result<Opened, Failure> {
        let ca = self.target.ca.as_ref().map(read).transpose()?;
        let connection = kubernetes::connect(&self.target.cluster, place, ca).await?;
        Ok(Opened {
            channel: connection.channel,
            authorization: Some(connection.authorization),
        })
    }

    /// The controller at this URL, by its name or by what the one of `--controller` is called.
    async fn open_at(&self, url: &str) -> Result<Opened, Failure> {
        if self.target.cluster.is_named() && url.starts_with("https:") {
            return self.open_in_cluster(&Where::Url(url)).await;
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
        let channel = endpoint.connect().await;
        let channel = channel.map_err(|source| Failure::Connect {
            url: url.to_owned(),
            source,
        })?;
        Ok(Opened::plain(channel))
    }

    fn tls(&self) -> Result<ClientTlsConfig, Failure> {
        let mut tls = ClientTlsConfig::new();
        // A leader elsewhere has to have the name that was asked for.
        let uri = self.target.controller.as_deref();
        let uri = uri.and_then(|url| url.parse::<Uri>().ok());
        if let Some(host) = uri.as_ref().and_then(Uri::host) {
            tls = tls.domain_name(host.trim_matches(['[', ']']));
        }
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

fn read(path: &PathBuf) -> Result<Vec<u8>, Failure> {
    std::fs::read(path).map_err(|source| Failure::Read {
        path: path.clone(),
        source,
    })
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

    fn scope_in(surroundings: Surroundings, arguments: &[&str]) -> (Scope, bool) {
        let words = ["bgpctl", "show", "peers"].iter().chain(arguments);
        let cli = Cli::try_parse_from(words).unwrap();
        let connector = Connector::new(&cli.target, surroundings);
        (connector.scope(), connector.in_cluster())
    }

    fn scope(arguments: &[&str]) -> Scope {
        scope_in(Surroundings::default(), arguments).0
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

    #[test]
    fn a_cluster_is_asked_where_it_is_named_or_nobody_else_is_there() {
        let alone = Surroundings {
            kubeconfig: true,
            ..Surroundings::default()
        };
        assert_eq!(scope_in(alone, &[]), (Scope::All, true));
        assert!(scope_in(alone, &["--node", "a"]).1);
        let socket = ["--socket", "/s"];
        assert_eq!(scope_in(alone, &socket).0, Scope::Socket("/s".into()));
        assert!(!scope_in(alone, &["--controller", "unix:/c"]).1);

        let on_a_node = Surroundings {
            speaker: true,
            ..alone
        };
        assert_eq!(
            scope_in(on_a_node, &[]).0,
            Scope::Socket(SPEAKER_SOCKET.into())
        );
        assert_eq!(scope_in(on_a_node, &["--context", "x"]), (Scope::All, true));
        assert_eq!(scope_in(on_a_node, &["--all"]), (Scope::All, true));

        let beside_a_controller = Surroundings {
            controller: true,
            ..alone
        };
        assert!(!scope_in(beside_a_controller, &["--all"]).1);

        let plugin = Surroundings {
            plugin: true,
            speaker: true,
            controller: true,
            ..alone
        };
        assert_eq!(scope_in(plugin, &[]), (Scope::All, true));
    }
}
