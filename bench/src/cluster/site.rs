//! Where the controller has its nodes and resources from: files, or a real API server.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result};
use crd::Kind;
use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::Node;
use kube::Api;
use kube::api::{DynamicObject, Patch, PatchParams, PostParams};
use lab::cluster::{Cluster, Replica, node as lab_node};
use serde_json::{Value, json};
use tonic::transport::{Channel, Endpoint, Uri};

use super::{REFLECTORS, name};
use crate::measure::{self, Cost};

/// Nodes in a file.
const IN_A_FILE: usize = 500;
/// Nodes made at once.
const AT_ONCE: usize = 32;

/// Where nodes and resources are.
pub(super) enum Site {
    /// In YAML files below a folder, which has the controller's own files too.
    Files(PathBuf),
    /// In an API server with etcd behind it.
    Api(Box<Cluster>),
}

/// Where speakers connect.
#[derive(Clone)]
pub(super) enum Target {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

/// The running controller; ended when it is dropped.
pub(super) struct Controller {
    running: Running,
    pub(super) target: Target,
}

enum Running {
    Own(Child),
    Lab(lab::cluster::Controller),
}

impl Site {
    /// Files below this folder.
    pub(super) fn files(directory: &Path) -> Result<Site> {
        fs::create_dir(directory.join("resources"))?;
        Ok(Site::Files(directory.to_owned()))
    }

    /// An API server, with our kinds.
    pub(super) fn api() -> Result<Site> {
        let cluster = Cluster::start()?;
        cluster.apply_directory("deploy/crds")?;
        cluster.ensure_namespace(crd::names::NAMESPACE)?;
        Ok(Site::Api(Box::new(cluster)))
    }

    pub(super) fn describe(&self) -> &'static str {
        match self {
            Site::Files(_) => "nodes and resources in files, streams over TCP on loopback",
            Site::Api(_) => {
                "nodes and resources in a real API server (on the same processors), streams over a Unix socket"
            }
        }
    }

    pub(super) fn is_api(&self) -> bool {
        matches!(self, Site::Api(_))
    }

    pub(super) fn start(&self, binaries: &Path) -> Result<Controller> {
        match self {
            Site::Files(directory) => start_on_files(binaries, directory),
            Site::Api(cluster) => {
                let pod = "controller";
                let replica = Replica {
                    pod,
                    number: 1,
                    kubeconfig: Some(cluster.admin_kubeconfig()),
                    ..Replica::default()
                };
                let running = cluster.controller(&replica)?;
                let socket = cluster.lab().directory().join(pod).join("controller.sock");
                Ok(Controller {
                    running: Running::Lab(running),
                    target: Target::Unix(socket),
                })
            }
        }
    }

    /// Fabric and Pool, with this hold time.
    pub(super) async fn fabric(&self, hold: u32) -> Result<()> {
        let names: Vec<String> = (0..REFLECTORS).map(name).collect();
        let fabric = json!({
            "asn": {"value": 64512},
            "topology": "Reflectors",
            "reflectors": {"nodeSelector": {"names": names}},
            "timers": {"holdSeconds": hold},
        });
        let pool = json!({"prefixes": ["10.0.0.0/9", "fd00:64::/48"]});
        let objects = [(Kind::Fabric, "fabric", fabric), (Kind::Pool, "pods", pool)];
        match self {
            Site::Files(directory) => {
                let documents = objects.map(|(kind, name, spec)| document(kind, name, &spec));
                write(directory, "fabric.yaml", &documents.join("---\n"))
            }
            Site::Api(cluster) => {
                for (kind, name, spec) in objects {
                    let resource = kind.api_resource();
                    let api: Api<DynamicObject> = Api::all_with(cluster.client(), &resource);
                    let object: Value = serde_json::from_str(&document(kind, name, &spec))?;
                    let parameters = PatchParams::apply("bench").force();
                    api.patch(name, &parameters, &Patch::Apply(&object)).await?;
                }
                Ok(())
            }
        }
    }

    /// Further nodes.
    pub(super) async fn add(&self, nodes: Range<usize>) -> Result<()> {
        match self {
            Site::Files(directory) => {
                for first in nodes.clone().step_by(IN_A_FILE) {
                    let last = (first + IN_A_FILE).min(nodes.end);
                    let text = nodes_file(first..last)?;
                    write(directory, &format!("nodes-{first}.yaml"), &text)?;
                }
                Ok(())
            }
            Site::Api(cluster) => {
                let api: Api<Node> = Api::all(cluster.client());
                let made = stream::iter(nodes).map(|number| {
                    let [ipv4, ipv6] = addresses(number);
                    let zone = format!("zone-{}", number % 3);
                    let labels = [("topology.kubernetes.io/zone", zone.as_str())];
                    let node = lab_node(&name(number), &[&ipv4, &ipv6], &labels);
                    let api = api.clone();
                    async move { api.create(&PostParams::default(), &node).await.map(drop) }
                });
                made.buffer_unordered(AT_ONCE).try_collect::<()>().await?;
                Ok(())
            }
        }
    }

    /// How many requests the API server has had so far, by verb and resource; watches and what renews the
    /// Lease are left out.
    pub(super) async fn requests(&self) -> Result<BTreeMap<String, u64>> {
        match self {
            Site::Files(_) => Ok(BTreeMap::new()),
            Site::Api(cluster) => cluster.requests().await,
        }
    }
}

fn start_on_files(binaries: &Path, directory: &Path) -> Result<Controller> {
    // Free a moment ago; nobody else on this machine takes ports of loopback at random.
    let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?
        .local_addr()?
        .port();
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let log = fs::File::create(directory.join("log"))?;
    let program = binaries.join("routeshare-controller");
    let child = Command::new(&program)
        .arg("--resources")
        .arg(directory.join("resources"))
        .arg("--state")
        .arg(directory.join("state.redb"))
        .arg("--socket")
        .arg(directory.join("socket"))
        .arg("--insecure-listen")
        .arg(address.to_string())
        .env("NO_COLOR", "1")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .with_context(|| format!("cannot start {}", program.display()))?;
    Ok(Controller {
        running: Running::Own(child),
        target: Target::Tcp(address),
    })
}

impl Controller {
    /// How much of what users are told waits to be written, numbers left out; nothing with files.
    pub(super) fn waiting(&self) -> Result<u64> {
        match &self.running {
            Running::Own(_) => Ok(0),
            Running::Lab(controller) => {
                controller.metric("routeshare_controller_status_writes_waiting ")
            }
        }
    }

    pub(super) fn cost(&self) -> Cost {
        let pid = match &self.running {
            Running::Own(child) => Some(child.id()),
            Running::Lab(controller) => controller.pid(),
        };
        let pids: Vec<u32> = pid.into_iter().collect();
        measure::cost(&pids)
    }
}

impl Drop for Controller {
    fn drop(&mut self) {
        if let Running::Own(child) = &mut self.running {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Target {
    pub(super) async fn connect(&self) -> Result<Channel> {
        Ok(match self {
            Target::Tcp(address) => {
                let endpoint = Endpoint::from_shared(format!("http://{address}"))?;
                endpoint.connect().await?
            }
            Target::Unix(socket) => {
                let socket = socket.clone();
                let connect = tower::service_fn(move |_: Uri| {
                    let socket = socket.clone();
                    async move {
                        let stream = tokio::net::UnixStream::connect(socket).await;
                        stream.map(TokioIo::new)
                    }
                });
                let endpoint = Endpoint::from_static("http://controller");
                endpoint.connect_with_connector(connect).await?
            }
        })
    }
}

/// JSON, which is YAML too.
fn document(kind: Kind, name: &str, spec: &Value) -> String {
    let object = json!({
        "apiVersion": "routeshare.io/v1alpha1",
        "kind": kind.to_string(),
        "metadata": {"name": name},
        "spec": spec,
    });
    format!("{object}\n")
}

fn addresses(node: usize) -> [String; 2] {
    let (high, low) = (node >> 8, node & 0xFF);
    [
        format!("172.16.{high}.{low}"),
        format!("2001:db8::{node:x}"),
    ]
}

fn nodes_file(nodes: Range<usize>) -> Result<String> {
    let mut text = String::new();
    for node in nodes {
        let [ipv4, ipv6] = addresses(node);
        writeln!(
            text,
            "---\napiVersion: routeshare.io/v1alpha1\nkind: Node\nmetadata: {{name: {}, labels: \
             {{topology.kubernetes.io/zone: zone-{}}}}}\nspec: {{addresses: [{ipv4}, \"{ipv6}\"]}}",
            name(node),
            node % 3
        )?;
    }
    Ok(text)
}

/// As editors do: whole.
fn write(directory: &Path, name: &str, text: &str) -> Result<()> {
    let new = directory.join("new");
    fs::write(&new, text)?;
    let path = directory.join("resources").join(name);
    fs::rename(&new, &path).with_context(|| format!("cannot write {}", path.display()))
}
