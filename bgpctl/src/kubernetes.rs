//! A controller that runs in Kubernetes: found by its Lease, reached through the API server, trusted by
//! the authority it publishes, and shown a token that the API server made for us.
//!
//! All with the rights of the user's kubeconfig: get the Lease and the ConfigMap, create
//! `serviceaccounts/token` of `routeshare-operator` (which is what makes an operator), and, unless it is
//! reached directly, create `pods/portforward`.

use std::path::PathBuf;

use crd::names::{
    CA, CA_CERTIFICATE, CONTROLLER_PORT, CONTROLLER_SERVICE, LEADER_ADDRESS_ANNOTATION,
    LEADER_POD_ANNOTATION, LEASE, NAMESPACE, OPERATOR_ACCOUNT, TOKEN_AUDIENCE,
};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, ServiceAccount};
use kube::api::PostParams;
use kube::config::{KubeConfigOptions, Kubeconfig, KubeconfigError};
use kube::{Api, Client, Config};
use tokio::io::DuplexStream;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Uri};
use tower::service_fn;

use crate::cli::InCluster;

/// How long a token is good for; no cluster makes shorter ones. A stream goes on after that.
const TOKEN_SECONDS: i64 = 600;

/// Why a controller in Kubernetes could not be reached.
#[derive(Debug, thiserror::Error)]
pub(crate) enum KubernetesError {
    #[error("cannot use the kubeconfig{}", file(path.as_ref()))]
    Kubeconfig {
        path: Option<PathBuf>,
        source: Box<KubeconfigError>,
    },
    #[error("the API server of the kubeconfig cannot be asked")]
    Client(#[source] Box<kube::Error>),
    #[error("cannot {what}: {}", said(error))]
    Ask {
        what: String,
        error: Box<kube::Error>,
    },
    #[error("no controller leads in namespace {namespace}: nobody holds the Lease {LEASE}")]
    NoLeader { namespace: String },
    #[error("the ConfigMap {CA} in namespace {namespace} has no {CA_CERTIFICATE}")]
    NoAuthority { namespace: String },
    #[error("the API server made no token that can be sent")]
    NoToken,
    #[error("cannot reach the controller through pod {pod} of namespace {namespace}")]
    Forward {
        namespace: String,
        pod: String,
        source: tonic::transport::Error,
    },
    #[error("cannot reach the controller at {address}")]
    Direct {
        address: String,
        source: tonic::transport::Error,
    },
}

impl KubernetesError {
    /// What to do, in a line or two.
    pub(crate) fn help(&self) -> String {
        match self {
            KubernetesError::Kubeconfig { .. } => {
                "name another by --kubeconfig and --context, or ask without Kubernetes: --controller URL, \
                 --socket PATH"
                    .into()
            }
            KubernetesError::Client(_) => {
                "does `kubectl get nodes` work with the same --kubeconfig and --context?".into()
            }
            KubernetesError::Ask { error, .. } => match error.as_ref() {
                kube::Error::Api(status) if status.code == 404 => {
                    "is routeshare in another namespace? Say --namespace".into()
                }
                kube::Error::Api(status) if status.code == 403 => format!(
                    "an operator may get leases and configmaps there, create pods/portforward, and create \
                     serviceaccounts/token of {OPERATOR_ACCOUNT} (docs/kubernetes.md, Asking with bgpctl)"
                ),
                _ => "does `kubectl get nodes` work with the same --kubeconfig and --context?".into(),
            },
            KubernetesError::NoLeader { namespace } => {
                format!("do its pods run? `kubectl -n {namespace} get pods`, and their logs")
            }
            KubernetesError::NoAuthority { .. } => {
                "the controller publishes it when it has led for the first time; with certificates of your \
                 own say --ca"
                    .into()
            }
            KubernetesError::NoToken => String::new(),
            KubernetesError::Forward { namespace, pod, .. } => format!(
                "does `kubectl -n {namespace} port-forward {pod} {CONTROLLER_PORT}` work? Inside the cluster's \
                 network --direct needs no port-forward"
            ),
            KubernetesError::Direct { .. } => {
                "is this machine in the network of the cluster's nodes? Without --direct the API server \
                 forwards the connection"
                    .into()
            }
        }
    }
}

fn file(path: Option<&PathBuf>) -> String {
    path.map(|path| format!(" {}", path.display()))
        .unwrap_or_default()
}

/// What the API server said, or why it could not be asked.
fn said(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message.clone(),
        other => other.to_string(),
    }
}

/// A connection to the controller, and what shows who we are.
#[derive(Clone)]
pub(crate) struct Connection {
    pub(crate) channel: Channel,
    pub(crate) authorization: MetadataValue<Ascii>,
}

/// Where to connect.
pub(crate) enum Where<'a> {
    /// Through the API server to the leader's pod.
    Forwarded,
    /// To the address that the leader says.
    Direct,
    /// To this `https://` URL.
    Url(&'a str),
}

/// A cluster, and the namespace the controller runs in.
struct Cluster {
    client: Client,
    namespace: String,
}

/// Connects to the controller of a cluster. `ca` is the authority to trust instead of the published one.
///
/// # Errors
///
/// [`KubernetesError`].
pub(crate) async fn connect(
    cluster: &InCluster,
    place: &Where<'_>,
    ca: Option<Vec<u8>>,
) -> Result<Connection, KubernetesError> {
    let cluster = Cluster::open(cluster).await?;
    let ca = match ca {
        Some(ca) => ca,
        None => cluster.authority().await?,
    };
    let authorization = cluster.token().await?;
    // The certificate names the Service, wherever the connection goes.
    let tls = ClientTlsConfig::new()
        .ca_certificate(Certificate::from_pem(ca))
        .domain_name(CONTROLLER_SERVICE);
    let channel = match place {
        Where::Forwarded => cluster.forwarded(tls).await?,
        Where::Direct => {
            let leader = cluster.leader().await?;
            direct(&format!("https://{}", leader.address), tls).await?
        }
        Where::Url(url) => direct(url, tls).await?,
    };
    Ok(Connection {
        channel,
        authorization,
    })
}

/// Who leads.
struct Leader {
    pod: String,
    address: String,
}

impl Cluster {
    async fn open(cluster: &InCluster) -> Result<Cluster, KubernetesError> {
        let options = KubeConfigOptions {
            context: cluster.context.clone(),
            ..KubeConfigOptions::default()
        };
        let config = match &cluster.kubeconfig {
            Some(path) => match Kubeconfig::read_from(path) {
                Ok(kubeconfig) => Config::from_custom_kubeconfig(kubeconfig, &options).await,
                Err(error) => Err(error),
            },
            None => Config::from_kubeconfig(&options).await,
        };
        let config = config.map_err(|source| KubernetesError::Kubeconfig {
            path: cluster.kubeconfig.clone(),
            source: Box::new(source),
        })?;
        let client =
            Client::try_from(config).map_err(|source| KubernetesError::Client(Box::new(source)))?;
        let namespace = cluster.namespace.as_deref().unwrap_or(NAMESPACE);
        Ok(Cluster {
            client,
            namespace: namespace.to_owned(),
        })
    }

    async fn authority(&self) -> Result<Vec<u8>, KubernetesError> {
        let maps: Api<ConfigMap> = Api::namespaced(self.client.clone(), &self.namespace);
        let map = maps.get(CA).await;
        let map = map.map_err(|source| self.cannot(&format!("get the ConfigMap {CA}"), source))?;
        let certificate = map.data.and_then(|mut data| data.remove(CA_CERTIFICATE));
        let certificate = certificate.filter(|text| !text.trim().is_empty());
        certificate
            .map(String::into_bytes)
            .ok_or_else(|| KubernetesError::NoAuthority {
                namespace: self.namespace.clone(),
            })
    }

    async fn token(&self) -> Result<MetadataValue<Ascii>, KubernetesError> {
        let accounts: Api<ServiceAccount> = Api::namespaced(self.client.clone(), &self.namespace);
        let request = TokenRequest {
            spec: Some(TokenRequestSpec {
                audiences: Some(vec![TOKEN_AUDIENCE.to_owned()]),
                expiration_seconds: Some(TOKEN_SECONDS),
                ..TokenRequestSpec::default()
            }),
            ..TokenRequest::default()
        };
        let post = PostParams::default();
        let answer = accounts.create_token_request(OPERATOR_ACCOUNT, &post, &request);
        let answer = answer.await.map_err(|source| {
            let what = format!("have a token of service account {OPERATOR_ACCOUNT} made");
            self.cannot(&what, source)
        })?;
        let token = answer.status.and_then(|status| status.token);
        let mut value: MetadataValue<Ascii> = token
            .and_then(|token| format!("Bearer {token}").parse().ok())
            .ok_or(KubernetesError::NoToken)?;
        value.set_sensitive(true);
        Ok(value)
    }

    async fn leader(&self) -> Result<Leader, KubernetesError> {
        let leases: Api<Lease> = Api::namespaced(self.client.clone(), &self.namespace);
        let lease = leases.get(LEASE).await;
        let lease =
            lease.map_err(|source| self.cannot(&format!("get the Lease {LEASE}"), source))?;
        let annotation = |name: &str| {
            let annotations = lease.metadata.annotations.as_ref();
            annotations.and_then(|all| all.get(name).cloned())
        };
        let pod = annotation(LEADER_POD_ANNOTATION);
        let address = annotation(LEADER_ADDRESS_ANNOTATION);
        match (pod, address) {
            (Some(pod), Some(address)) => Ok(Leader { pod, address }),
            _ => Err(KubernetesError::NoLeader {
                namespace: self.namespace.clone(),
            }),
        }
    }

    /// A channel whose connections go through the API server to the leader's pod.
    async fn forwarded(&self, tls: ClientTlsConfig) -> Result<Channel, KubernetesError> {
        let leader = self.leader().await?;
        let port = leader.port();
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), &self.namespace);
        let failed = |source| KubernetesError::Forward {
            namespace: self.namespace.clone(),
            pod: leader.pod.clone(),
            source,
        };
        let pod = leader.pod.clone();
        let connector = service_fn(move |_: Uri| {
            let (pods, pod) = (pods.clone(), pod.clone());
            async move { forward(&pods, &pod, port).await.map(TokioIo::new) }
        });
        Endpoint::from_shared(format!("https://{CONTROLLER_SERVICE}:{port}"))
            .and_then(|endpoint| endpoint.tls_config(tls))
            .map_err(failed)?
            .connect_with_connector(connector)
            .await
            .map_err(failed)
    }

    fn cannot(&self, what: &str, error: kube::Error) -> KubernetesError {
        KubernetesError::Ask {
            what: format!("{what} in namespace {}", self.namespace),
            error: Box::new(error),
        }
    }
}

impl Leader {
    /// The port it listens on, in its pod as well: it has the host's network.
    fn port(&self) -> u16 {
        let port = self.address.rsplit_once(':').map(|(_, port)| port);
        port.and_then(|port| port.parse().ok())
            .unwrap_or(CONTROLLER_PORT)
    }
}

/// A connection to a port of a pod, through the API server.
async fn forward(pods: &Api<Pod>, pod: &str, port: u16) -> std::io::Result<DuplexStream> {
    let mut forwarder = pods
        .portforward(pod, &[port])
        .await
        .map_err(|error| std::io::Error::other(said(&error)))?;
    let stream = forwarder.take_stream(port);
    // It carries the bytes until one side closes; what went wrong is seen by who reads them.
    tokio::spawn(async move { drop(forwarder.join().await) });
    stream.ok_or_else(|| std::io::Error::other(format!("port {port} was not forwarded")))
}

async fn direct(url: &str, tls: ClientTlsConfig) -> Result<Channel, KubernetesError> {
    let failed = |source| KubernetesError::Direct {
        address: url.trim_start_matches("https://").to_owned(),
        source,
    };
    Endpoint::from_shared(url.to_owned())
        .and_then(|endpoint| endpoint.tls_config(tls))
        .map_err(failed)?
        .connect_timeout(crate::client::CONNECT_TIMEOUT)
        .connect()
        .await
        .map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_leaders_port_is_that_of_its_address() {
        let port = |address: &str| {
            let leader = Leader {
                pod: "p".into(),
                address: address.into(),
            };
            leader.port()
        };
        assert_eq!(port("10.0.0.1:8443"), 8443);
        assert_eq!(port("[fd00::1]:7444"), 7444);
        assert_eq!(port("somewhere"), CONTROLLER_PORT);
    }
}
