//! Who may ask what: tokens, the authority for TLS, keys out of Secrets, rights.

mod authority;
mod keys;
mod rights;
mod routers;
mod tokens;

use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use crd::names;
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::Api;
use kube::api::DeleteParams;
use lab::cluster::{Cluster, ClusterNode, Controller, Replica};
use lab::speaker::Speaker;
use lab::wait_for;
use proto::controller::v1 as pb;
use proto::controller::v1::admin_service_client::AdminServiceClient;
use proto::controller::v1::config_service_client::ConfigServiceClient;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};
use tonic::{Code, Status};

/// For what is not measured; the machines of the tests are busy.
const SOON: Duration = Duration::from_secs(60);
/// Longer than what was said of a token is believed.
const TOKEN_FORGOTTEN: Duration = Duration::from_secs(120);

const FABRIC: &str = "\
apiVersion: routeshare.io/v1alpha1
kind: Fabric
metadata: {name: fabric}
spec:
  asn: {value: 65201}
  timers: {holdSeconds: 9, keepaliveSeconds: 3, connectRetrySeconds: 1}
---
apiVersion: routeshare.io/v1alpha1
kind: Pool
metadata: {name: pods}
spec: {prefixes: [10.64.0.0/16]}
";

/// A cluster with what `deploy` installs before any program runs, and two nodes.
fn cluster() -> Cluster {
    let cluster = Cluster::start().unwrap();
    cluster.apply_directory("deploy/crds").unwrap();
    cluster.install_rights().unwrap();
    cluster.apply(FABRIC).unwrap();
    cluster
}

/// A controller with these further arguments.
fn controller(cluster: &Cluster, number: u8, arguments: &[&str]) -> Controller {
    let pod = format!("controller-{number}");
    let replica = Replica {
        pod: &pod,
        number,
        arguments,
        ..Replica::default()
    };
    cluster.controller(&replica).unwrap()
}

/// What everybody is told to trust.
fn bundle(cluster: &Cluster) -> anyhow::Result<String> {
    let maps: Api<ConfigMap> = Api::namespaced(cluster.client(), names::NAMESPACE);
    let map = cluster.block_on(maps.get(names::CA))?;
    let data = map.data.unwrap_or_default();
    let bundle = data.get(names::CA_CERTIFICATE).cloned();
    bundle.ok_or_else(|| anyhow::anyhow!("no {}", names::CA_CERTIFICATE))
}

/// What kubelet mounts into a speaker's pod.
struct Mounts {
    directory: PathBuf,
}

impl Mounts {
    fn new(cluster: &Cluster, node: &str) -> Mounts {
        let directory = cluster.lab().directory().join(format!("{node}-mounts"));
        std::fs::create_dir_all(&directory).unwrap();
        let mounts = Mounts { directory };
        mounts.write("token", &cluster.speaker_token(node).unwrap());
        wait_for("the authority's certificate", SOON, || {
            mounts.refresh(cluster)
        });
        mounts
    }

    /// The bundle as it is now, as kubelet does once a minute.
    fn refresh(&self, cluster: &Cluster) -> anyhow::Result<()> {
        self.write("ca.crt", &bundle(cluster)?);
        Ok(())
    }

    fn write(&self, name: &str, text: &str) {
        let new = self.directory.join(".new");
        std::fs::write(&new, text).unwrap();
        std::fs::rename(new, self.directory.join(name)).unwrap();
    }

    fn path(&self, name: &str) -> String {
        self.directory.join(name).display().to_string()
    }
}

/// The speaker of a node, as its pod starts it; it keeps keys in `keys`.
fn speaker<'a>(
    cluster: &Cluster,
    node: &'a ClusterNode,
    controller: &Controller,
    mounts: &Mounts,
    keys: &Path,
) -> Speaker<'a> {
    let mut told = vec![
        "--controller".to_owned(),
        format!("https://{}", controller.address()),
    ];
    let options = [
        ("--controller-name", names::CONTROLLER_SERVICE.to_owned()),
        ("--ca", mounts.path("ca.crt")),
        ("--token", mounts.path("token")),
        ("--keys", keys.display().to_string()),
    ];
    for (option, value) in options {
        told.extend([option.to_owned(), value]);
    }
    Speaker::start_with(&node.machine, cluster.lab().directory(), &node.name, told).unwrap()
}

/// Waits until a speaker has a configuration of the controller's.
#[track_caller]
fn wait_until_told(speaker: &Speaker<'_>) {
    wait_for("a configuration", SOON, || {
        let status = speaker.json("show status")?;
        anyhow::ensure!(status["controllerConnected"] == true, "{status}");
        anyhow::ensure!(status["version"].as_u64() > Some(0), "{status}");
        Ok(())
    });
}

/// A client that shows this token and trusts this bundle.
struct Client<'a> {
    cluster: &'a Cluster,
    controller: &'a Controller,
    bundle: String,
    token: Option<String>,
}

impl Client<'_> {
    fn request<T>(&self, message: T) -> tonic::Request<T> {
        let mut request = tonic::Request::new(message);
        if let Some(token) = &self.token {
            let bearer = format!("Bearer {token}").parse().unwrap();
            request.metadata_mut().insert("authorization", bearer);
        }
        request
    }

    /// Asks something; `Unavailable` when there is no connection.
    fn ask<T: Send>(
        &self,
        what: impl AsyncFnOnce(Channel) -> Result<T, Status> + Send,
    ) -> Result<T, Status> {
        let uri = format!("https://{}", self.controller.address());
        let tls = ClientTlsConfig::new()
            .ca_certificate(Certificate::from_pem(&self.bundle))
            .domain_name(names::CONTROLLER_SERVICE);
        let ask = || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async {
                let endpoint = Endpoint::from_shared(uri).unwrap().tls_config(tls).unwrap();
                let connected = endpoint.connect().await;
                let channel =
                    connected.map_err(|error| Status::unavailable(format!("{error:?}")))?;
                what(channel).await
            })
        };
        self.cluster.control().within(ask).unwrap()
    }

    /// Opens the stream of a node, as its speaker does.
    fn watch(&self, node: &str) -> Result<(), Status> {
        let report = pb::NodeReport {
            node: node.to_owned(),
            ..pb::NodeReport::default()
        };
        self.ask(async |channel| {
            let reports = tokio_stream::iter([report]);
            let mut client = ConfigServiceClient::new(channel);
            client.watch(self.request(reports)).await.map(drop)
        })
    }

    /// Opens the streams of all these nodes at once, each on a connection of its own and with a token of
    /// its own, and gives how many were opened.
    fn watch_all(&self, all: &[(String, String)]) -> Result<usize, Status> {
        let tls = ClientTlsConfig::new()
            .ca_certificate(Certificate::from_pem(&self.bundle))
            .domain_name(names::CONTROLLER_SERVICE);
        let uri = format!("https://{}", self.controller.address());
        let open = async |node: &str, token: &str| {
            let endpoint = Endpoint::from_shared(uri.clone()).unwrap();
            let endpoint = endpoint.tls_config(tls.clone()).unwrap();
            let channel = endpoint.connect().await;
            let channel = channel.map_err(|error| Status::unavailable(format!("{error:?}")))?;
            let report = pb::NodeReport {
                node: node.to_owned(),
                ..pb::NodeReport::default()
            };
            let mut request = tonic::Request::new(tokio_stream::iter([report]));
            let bearer = format!("Bearer {token}").parse().unwrap();
            request.metadata_mut().insert("authorization", bearer);
            ConfigServiceClient::new(channel).watch(request).await
        };
        let ask = || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async {
                let opened = all.iter().map(|(node, token)| open(node, token));
                let opened = futures::future::try_join_all(opened).await?;
                Ok(opened.len())
            })
        };
        self.cluster.control().within(ask).unwrap()
    }

    /// Asks what only operators may.
    fn status(&self) -> Result<(), Status> {
        self.ask(async |channel| {
            let mut client = AdminServiceClient::new(channel);
            let request = self.request(pb::GetStatusRequest {});
            client.get_status(request).await.map(drop)
        })
    }
}

/// A token with a claim changed, and the signature of what it was.
fn forged(token: &str, change: impl FnOnce(&mut serde_json::Value)) -> String {
    let parts: Vec<&str> = token.split('.').collect();
    let claims = URL_SAFE_NO_PAD.decode(parts[1]).unwrap();
    let mut claims = serde_json::from_slice(&claims).unwrap();
    change(&mut claims);
    let claims = URL_SAFE_NO_PAD.encode(claims.to_string());
    format!("{}.{claims}.{}", parts[0], parts[2])
}

#[track_caller]
fn refused(outcome: Result<(), Status>, code: Code, words: &str) {
    let status = outcome.expect_err("it was not refused");
    assert_eq!(status.code(), code, "{status:?}");
    assert!(status.message().contains(words), "{status:?}");
}

#[test]
fn a_token_opens_its_own_nodes_stream_and_nothing_else() {
    let cluster = cluster();
    for (name, address) in [("n1", "10.99.1.1"), ("n2", "10.99.1.2")] {
        cluster.create_node(name, &[address], &[]).unwrap();
    }
    let controller = controller(&cluster, 1, &[]);
    let bundle = wait_for("the bundle", SOON, || bundle(&cluster));
    let client = |token: Option<String>| Client {
        cluster: &cluster,
        controller: &controller,
        bundle: bundle.clone(),
        token,
    };
    let token = cluster.speaker_token("n1").unwrap();
    let speaker = client(Some(token.clone()));
    wait_for("the controller to lead", SOON, || Ok(speaker.watch("n1")?));

    refused(
        speaker.watch("n2"),
        Code::PermissionDenied,
        "speaker of node n1",
    );
    refused(speaker.status(), Code::PermissionDenied, "for operators");
    refused(
        client(None).watch("n1"),
        Code::Unauthenticated,
        "neither a certificate nor",
    );
    let of = |namespace: &str, account: &str, audience: &str, pod: Option<&Pod>| {
        cluster.ensure_account(namespace, account).unwrap();
        client(Some(
            cluster.token(namespace, account, audience, pod).unwrap(),
        ))
    };
    let (ours, audience) = (names::NAMESPACE, names::TOKEN_AUDIENCE);
    let unbound = of(ours, names::SPEAKER_ACCOUNT, audience, None);
    refused(
        unbound.watch("n1"),
        Code::PermissionDenied,
        "not bound to a pod",
    );
    let pods: Api<Pod> = Api::namespaced(cluster.client(), ours);
    let pod = cluster.block_on(pods.get("routeshare-speaker-n1")).unwrap();
    let other = of(ours, names::SPEAKER_ACCOUNT, "somebody-else", Some(&pod));
    refused(other.watch("n1"), Code::Unauthenticated, "audience");
    cluster
        .ensure_account("default", names::SPEAKER_ACCOUNT)
        .unwrap();
    let stranger = cluster
        .create_pod("default", "stranger", names::SPEAKER_ACCOUNT, "n1")
        .unwrap();
    let stranger = of("default", names::SPEAKER_ACCOUNT, audience, Some(&stranger));
    refused(
        stranger.watch("n1"),
        Code::PermissionDenied,
        "default:routeshare-speaker",
    );
    let pod_of_controller = cluster
        .create_pod(ours, "other", names::CONTROLLER_ACCOUNT, "n1")
        .unwrap();
    let other = of(
        ours,
        names::CONTROLLER_ACCOUNT,
        audience,
        Some(&pod_of_controller),
    );
    refused(
        other.watch("n1"),
        Code::PermissionDenied,
        "routeshare-controller",
    );

    let expired = forged(&token, |claims| claims["exp"] = 1_700_000_000.into());
    refused(
        client(Some(expired)).watch("n1"),
        Code::Unauthenticated,
        "expired",
    );
    let stretched = forged(&token, |claims| claims["exp"] = 4_000_000_000_u64.into());
    refused(
        client(Some(stretched)).watch("n1"),
        Code::Unauthenticated,
        "audience",
    );
    let no_token = client(Some("hunter2".into()));
    refused(
        no_token.watch("n1"),
        Code::Unauthenticated,
        "not that of a service account",
    );

    let operator = of(ours, names::OPERATOR_ACCOUNT, audience, None);
    operator.status().unwrap();
    refused(operator.watch("n1"), Code::PermissionDenied, "no speaker");

    // It was good, and is so for a while more; then its pod is gone.
    let delete = DeleteParams::default().grace_period(0);
    cluster
        .block_on(pods.delete("routeshare-speaker-n1", &delete))
        .unwrap();
    wait_for(
        "the token of a deleted pod to be refused",
        TOKEN_FORGOTTEN,
        || match speaker.watch("n1") {
            Err(status) if status.code() == Code::Unauthenticated => Ok(()),
            other => anyhow::bail!("{other:?}"),
        },
    );
    let log = controller.log();
    assert!(!log.contains(&token), "{log}");
}

#[test]
fn an_api_server_that_is_away_keeps_out_who_is_not_known_and_nobody_else() {
    let cluster = cluster();
    for (name, address) in [("n1", "10.99.1.1"), ("n2", "10.99.1.2")] {
        cluster.create_node(name, &[address], &[]).unwrap();
    }
    let controller = controller(&cluster, 1, &[]);
    let bundle = wait_for("the bundle", SOON, || bundle(&cluster));
    let [known, unknown] = ["n1", "n2"].map(|node| Client {
        cluster: &cluster,
        controller: &controller,
        bundle: bundle.clone(),
        token: Some(cluster.speaker_token(node).unwrap()),
    });
    wait_for("the controller to lead", SOON, || Ok(known.watch("n1")?));
    cluster.api_server.kill().unwrap();
    known.watch("n1").unwrap();
    refused(unknown.watch("n2"), Code::Unavailable, "cannot be asked");
    cluster.api_server.start_again().unwrap();
    cluster.wait_until_ready().unwrap();
    wait_for("the second speaker to be let in", SOON, || {
        Ok(unknown.watch("n2")?)
    });
}

#[test]
fn a_certificate_is_as_good_as_a_token_where_an_authority_is_given() {
    let cluster = cluster();
    cluster.certify(&["n1"]).unwrap();
    let node = cluster.node("n1", 1, &[]).unwrap();
    cluster.create_node("n2", &["10.99.1.2"], &[]).unwrap();
    let replica = Replica {
        pod: "controller-1",
        number: 1,
        certified: true,
        ..Replica::default()
    };
    let controller = cluster.controller(&replica).unwrap();
    let speaker = cluster.certified_speaker(&node, &controller).unwrap();
    wait_until_told(&speaker);
    let authority = cluster.lab().directory().join("pki/ca.crt");
    let client = |token| Client {
        cluster: &cluster,
        controller: &controller,
        bundle: std::fs::read_to_string(&authority).unwrap(),
        token,
    };
    // Its certificate names addresses and not the Service, so this one goes by the address.
    let token = cluster.speaker_token("n2").unwrap();
    refused(
        client(None).watch("n2"),
        Code::Unavailable,
        "NotValidForName",
    );
    let mounts = Mounts {
        directory: cluster.lab().directory().to_owned(),
    };
    mounts.write("token", &token);
    let machine = cluster.machine("n2", 2).unwrap();
    let told = [
        ("--controller", format!("https://{}", controller.address())),
        ("--ca", authority.display().to_string()),
        ("--token", mounts.path("token")),
    ];
    let told = told
        .into_iter()
        .flat_map(|(option, value)| [option.to_owned(), value]);
    let directory = cluster.lab().directory();
    let second = Speaker::start_with(&machine.machine, directory, "n2", told.collect()).unwrap();
    wait_until_told(&second);
}
