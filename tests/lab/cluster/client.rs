//! Who asks the API server, and a client whose connections begin on the cluster's machine.

use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use hyper_util::client::legacy::Client as HttpClient;
use hyper_util::rt::{TokioExecutor, TokioIo};
use kube::client::ConfigExt as _;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use serde_json::{Value, json};
use tower::ServiceBuilder;

use super::SERVER;
use super::pki::Pair;
use crate::namespace::Entrance;

/// How somebody proves who he is.
#[derive(Clone, Debug)]
pub enum Credentials {
    /// By a client certificate of the cluster's authority.
    Certificate {
        /// PEM
        certificate: String,
        /// PEM
        key: String,
    },
    /// By a token.
    Token(String),
    /// By the token that is in a file at that time.
    TokenFile(PathBuf),
}

impl From<Pair> for Credentials {
    fn from(pair: Pair) -> Credentials {
        Credentials::Certificate {
            certificate: pair.certificate,
            key: pair.key,
        }
    }
}

/// What `kubectl` and every client library take: JSON, which is YAML too. `directory` gets the files
/// it names.
pub(super) fn kubeconfig(
    directory: &Path,
    authority: &Path,
    name: &str,
    credentials: &Credentials,
) -> anyhow::Result<Value> {
    let user = match credentials {
        Credentials::Certificate { certificate, key } => {
            let write = |ending: &str, text: &str| -> anyhow::Result<PathBuf> {
                let file = directory.join(format!("{name}.{ending}"));
                std::fs::write(&file, text)?;
                Ok(file)
            };
            json!({"client-certificate": write("crt", certificate)?, "client-key": write("key", key)?})
        }
        Credentials::Token(token) => json!({ "token": token }),
        Credentials::TokenFile(file) => json!({ "tokenFile": file }),
    };
    Ok(json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "tests", "cluster": {"server": SERVER, "certificate-authority": authority}}],
        "users": [{"name": name, "user": user}],
        "contexts": [{"name": name, "context": {"cluster": "tests", "user": name}}],
        "current-context": name,
    }))
}

/// A client as this kubeconfig says; each of its connections begins behind `entrance`, so that it can
/// be used from anywhere.
pub(super) async fn connect(kubeconfig: Value, entrance: Entrance) -> anyhow::Result<Client> {
    let kubeconfig: Kubeconfig = serde_json::from_value(kubeconfig)?;
    let options = KubeConfigOptions::default();
    let config = Config::from_custom_kubeconfig(kubeconfig, &options).await?;
    let address: String = SERVER.trim_start_matches("https://").to_owned();
    let connector = tower::service_fn(move |_: http::Uri| {
        let entrance = entrance.clone();
        let address = address.clone();
        async move {
            let connect = move || entrance.within(|| open(&address)).and_then(|stream| stream);
            let stream = tokio::task::spawn_blocking(connect)
                .await
                .map_err(std::io::Error::other)?
                .map_err(std::io::Error::other)?;
            stream.set_nonblocking(true)?;
            Ok::<_, std::io::Error>(TokioIo::new(tokio::net::TcpStream::from_std(stream)?))
        }
    });
    let connector = config.rustls_https_connector_with_connector(connector)?;
    let http = HttpClient::builder(TokioExecutor::new()).build(connector);
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .option_layer(config.auth_layer()?)
        .map_err(tower::BoxError::from)
        .service(http);
    Ok(Client::new(service, config.default_namespace))
}

fn open(address: &str) -> anyhow::Result<TcpStream> {
    let to = address.parse().context("the API server has no address")?;
    TcpStream::connect_timeout(&to, Duration::from_secs(10))
        .with_context(|| format!("cannot connect to {address}"))
}
