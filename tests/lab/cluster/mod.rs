//! A Kubernetes cluster without kubelets: a real etcd and a real kube-apiserver, on a machine of a lab
//! of its own, and nodes on a LAN with it.
//!
//! ```text
//!   machine `control`                                machine `n1`, `n2`, …
//!     etcd            127.0.0.1:2379                   speaker, daemons of the test
//!     kube-apiserver  10.99.0.1:6443   ── LAN ──       10.99.1.1, fd99::1:1
//!     controllers     10.99.0.11:7443, …               10.99.1.2, fd99::1:2
//! ```
//!
//! The kube clients of a test work on any thread: their connections begin on the machine `control`.
//! Everything ends when the [`Cluster`] is dropped, also by a panic; then the logs' last lines are shown.
//!
//! - [`Cluster`]: the API server, clients, `kubectl`, stopping and starting again;
//! - `objects`: nodes, service accounts, pods, tokens;
//! - [`ClusterNode`]: a machine on the LAN;
//! - [`Controller`]: our controller in Kubernetes mode.
//!
//! The programs come from [`crate::modules`].

mod client;
mod component;
mod controller;
mod lan;
mod objects;
mod pki;
mod requests;

use std::fmt;
use std::future::Future;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, bail};
use kube::Client;
use tokio::runtime::Runtime;

pub use client::Credentials;
pub use component::Component;
pub use controller::{Controller, Replica};
pub use lan::ClusterNode;
pub use objects::node;

use crate::modules;
use crate::namespace::{Lab, Namespace};
use crate::wait::try_wait_for;
use pki::Authority;

/// The API server, from everywhere on the LAN.
const SERVER: &str = "https://10.99.0.1:6443";
/// Who service accounts' tokens are of.
const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";
/// Until the API server is ready; it is 3 s on a machine that has nothing else to do.
const READY: Duration = Duration::from_secs(90);

/// What a cluster has beside etcd and the API server.
#[derive(Clone, Debug, Default)]
pub struct Settings<'a> {
    /// Controllers that kube-controller-manager runs, such as `node-ipam-controller`; without any it
    /// is not started.
    pub controllers: &'a [&'a str],
    /// The addresses kube-controller-manager gives to nodes, such as `10.0.0.0/8,fd00::/48`; empty
    /// for none.
    pub cluster_cidr: &'a str,
    /// More arguments of the API server.
    pub api_server: &'a [&'a str],
    /// Let etcd wait for the disk, as in production; for tests that kill it.
    pub durable: bool,
}

/// A running cluster.
pub struct Cluster {
    client: Client,
    runtime: Runtime,
    /// kube-controller-manager, where [`Settings::controllers`] asks for it.
    pub manager: Option<Component>,
    /// kube-apiserver.
    pub api_server: Component,
    /// etcd.
    pub etcd: Component,
    authority: Authority,
    control: Namespace,
    lab: Lab,
}

impl fmt::Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut all = f.debug_struct("Cluster");
        all.field("control", &self.control).finish_non_exhaustive()
    }
}

/// Where `kubectl` is.
///
/// # Errors
///
/// When it is not there, with what makes it.
pub fn kubectl_program() -> anyhow::Result<PathBuf> {
    modules::find("kubectl")
}

impl Cluster {
    /// etcd and an API server that is ready.
    ///
    /// # Errors
    ///
    /// Without root, without the programs, or when they do not come up, with what they said.
    pub fn start() -> anyhow::Result<Cluster> {
        Cluster::start_with(&Settings::default())
    }

    /// As [`start`](Cluster::start), with more.
    ///
    /// # Errors
    ///
    /// As [`start`](Cluster::start).
    pub fn start_with(settings: &Settings<'_>) -> anyhow::Result<Cluster> {
        // An error only says that there is a provider already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let lab = Lab::new()?;
        let control = lab.machine("control")?;
        lan::raise(&control)?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()?;
        let authority = Authority::new()?;
        write_keys(lab.directory(), &authority)?;
        let etcd = start_etcd(&control, lab.directory(), settings)?;
        let api_server = start_api_server(&control, lab.directory(), settings)?;
        let admin = authority.client("admin", Some("system:masters"))?;
        let kubeconfig = write_kubeconfig(lab.directory(), "admin", &admin.into())?;
        let client = runtime.block_on(client::connect(kubeconfig, control.entrance()?))?;
        let mut cluster = Cluster {
            client,
            runtime,
            manager: None,
            api_server,
            etcd,
            authority,
            control,
            lab,
        };
        cluster.wait_until_ready()?;
        if !settings.controllers.is_empty() {
            cluster.manager = Some(cluster.start_manager(settings)?);
        }
        Ok(cluster)
    }

    /// Waits until the API server says that it is ready, as after a start.
    ///
    /// # Errors
    ///
    /// When it is not after a minute and a half, or a program has ended.
    pub fn wait_until_ready(&self) -> anyhow::Result<()> {
        let request = || http::Request::get("/readyz").body(Vec::new());
        let ready = try_wait_for("the API server to be ready", READY, || {
            self.etcd.check()?;
            self.api_server.check()?;
            let answer = self.block_on(self.client.request_text(request()?))?;
            anyhow::ensure!(answer == "ok", "it says {answer}");
            Ok(())
        });
        Ok(ready?)
    }

    /// The client of an administrator.
    pub fn client(&self) -> Client {
        self.client.clone()
    }

    /// The client of somebody else.
    ///
    /// # Errors
    ///
    /// When the credentials are no such.
    pub fn client_as(&self, name: &str, credentials: &Credentials) -> anyhow::Result<Client> {
        let kubeconfig = write_kubeconfig(self.lab.directory(), name, credentials)?;
        self.block_on(client::connect(kubeconfig, self.control.entrance()?))
    }

    /// A client certificate for a user who is in at most one group, such as `system:node:n1` in
    /// `system:nodes`.
    ///
    /// # Errors
    ///
    /// When the name cannot be one in a certificate.
    pub fn user(&self, name: &str, group: Option<&str>) -> anyhow::Result<Credentials> {
        Ok(self.authority.client(name, group)?.into())
    }

    /// A kubeconfig file for somebody; programs on machines of the LAN can use it.
    ///
    /// # Errors
    ///
    /// When it cannot be written.
    pub fn kubeconfig(&self, name: &str, credentials: &Credentials) -> anyhow::Result<PathBuf> {
        write_kubeconfig(self.lab.directory(), name, credentials)?;
        Ok(kubeconfig_path(self.lab.directory(), name))
    }

    /// The kubeconfig file of the administrator.
    pub fn admin_kubeconfig(&self) -> PathBuf {
        kubeconfig_path(self.lab.directory(), "admin")
    }

    /// Waits for what the clients do; what they spawn goes on between two calls.
    pub fn block_on<T>(&self, work: impl Future<Output = T>) -> T {
        self.runtime.block_on(work)
    }

    /// What `kubectl` prints for these arguments, as the administrator.
    ///
    /// # Errors
    ///
    /// When it does not succeed, with what it printed.
    pub fn kubectl(&self, arguments: &[&str]) -> anyhow::Result<String> {
        self.kubectl_with(arguments, "")
    }

    /// As [`kubectl`](Cluster::kubectl), with `input` for `-f -`.
    ///
    /// # Errors
    ///
    /// When it does not succeed, with what it printed.
    pub fn kubectl_with(&self, arguments: &[&str], input: &str) -> anyhow::Result<String> {
        self.run("kubectl", arguments, input)
    }

    /// What `helm` prints for these arguments, as the administrator.
    ///
    /// # Errors
    ///
    /// When it does not succeed, with what it printed.
    pub fn helm(&self, arguments: &[&str]) -> anyhow::Result<String> {
        self.run("helm", arguments, "")
    }

    fn run(&self, program: &str, arguments: &[&str], input: &str) -> anyhow::Result<String> {
        let mut child = self
            .control
            .command(modules::find(program)?)
            .arg("--kubeconfig")
            .arg(self.admin_kubeconfig())
            .args(arguments)
            // Its caches of what the server offers; another server may have the same address.
            .env("HOME", self.lab.directory())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {program}"))?;
        let mut stdin = child.stdin.take().context("it has no input")?;
        // An error is one of the program's too, which says more.
        let _ = stdin.write_all(input.as_bytes());
        drop(stdin);
        let result = child.wait_with_output()?;
        if !result.status.success() {
            bail!(
                "{program} {}: {}{}",
                arguments.join(" "),
                String::from_utf8_lossy(&result.stderr).trim(),
                String::from_utf8_lossy(&result.stdout).trim()
            );
        }
        Ok(String::from_utf8_lossy(&result.stdout).into_owned())
    }

    /// Applies manifests (server-side) as the administrator.
    ///
    /// # Errors
    ///
    /// When one is refused, with the server's reason.
    pub fn apply(&self, manifests: &str) -> anyhow::Result<String> {
        self.kubectl_with(&["apply", "--server-side", "-f", "-"], manifests)
    }

    /// Applies the files of a directory of the repository, such as `deploy/crds`, and waits until the
    /// kinds among them are served.
    ///
    /// # Errors
    ///
    /// When one is refused, with the server's reason.
    pub fn apply_directory(&self, directory: &str) -> anyhow::Result<()> {
        let path = repository().join(directory);
        let files = match path.join("kustomization.yaml").exists() {
            true => "-k",
            false => "-f",
        };
        let path = path.to_str().context("a path that is no text")?;
        self.kubectl(&["apply", "--server-side", files, path])?;
        let wait = ["wait", "--for=condition=Established", "--timeout=60s"];
        let crds = self.kubectl(&["get", "crds", "-o", "name"])?;
        let crds: Vec<&str> = crds.split_whitespace().collect();
        if !crds.is_empty() {
            self.kubectl(&[wait.as_slice(), &crds].concat())?;
        }
        Ok(())
    }

    /// Forgets what etcd had before its newest revision: whoever follows a change older than that is
    /// told that it is expired (410), once the API server's own memory is gone too.
    ///
    /// # Errors
    ///
    /// When etcd does not answer as it should.
    pub fn compact(&self) -> anyhow::Result<()> {
        let newest = self.ask_etcd("range", r#"{"key": "AA=="}"#)?;
        let revision = newest["header"]["revision"].as_str();
        let revision = revision.with_context(|| format!("no revision in {newest}"))?;
        let body = format!(r#"{{"revision": "{revision}", "physical": true}}"#);
        self.ask_etcd("compaction", &body).map(drop)
    }

    /// One request to etcd's HTTP gateway.
    fn ask_etcd(&self, method: &str, body: &str) -> anyhow::Result<serde_json::Value> {
        let request = format!(
            "POST /v3/kv/{method} HTTP/1.0\r\nContent-Type: application/json\r\nContent-Length: \
             {}\r\n\r\n{body}",
            body.len()
        );
        let ask = || -> std::io::Result<String> {
            let mut stream = TcpStream::connect("127.0.0.1:2379")?;
            stream.write_all(request.as_bytes())?;
            let mut text = String::new();
            stream.read_to_string(&mut text)?;
            Ok(text)
        };
        let text = self.control.within(ask)?.context("cannot ask etcd")?;
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or_default();
        anyhow::ensure!(head.contains(" 200 "), "etcd's {method} said: {text}");
        Ok(serde_json::from_str(body)?)
    }

    /// The machine of the control plane.
    pub fn control(&self) -> &Namespace {
        &self.control
    }

    /// For further machines, and files.
    pub fn lab(&self) -> &Lab {
        &self.lab
    }

    fn start_manager(&self, settings: &Settings<'_>) -> anyhow::Result<Component> {
        let directory = self.lab.directory();
        let mut arguments = vec![
            format!("--kubeconfig={}", self.admin_kubeconfig().display()),
            format!("--controllers={}", settings.controllers.join(",")),
            "--leader-elect=false".to_owned(),
            "--bind-address=127.0.0.1".to_owned(),
            format!("--cert-dir={}", directory.join("manager").display()),
            file("--root-ca-file", directory, "ca.crt"),
            file("--service-account-private-key-file", directory, "sa.key"),
        ];
        if !settings.cluster_cidr.is_empty() {
            arguments.push("--allocate-node-cidrs=true".to_owned());
            arguments.push(format!("--cluster-cidr={}", settings.cluster_cidr));
        }
        start_component(
            &self.control,
            "kube-controller-manager",
            directory,
            arguments,
        )
    }
}

/// Where the repository is.
fn repository() -> PathBuf {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    own.parent().unwrap_or(own).to_owned()
}

fn write_keys(directory: &Path, authority: &Authority) -> anyhow::Result<()> {
    std::fs::write(directory.join("ca.crt"), authority.certificate())?;
    let addresses = ["10.99.0.1", "fd99::1", "127.0.0.1"].map(str::parse);
    let addresses: Vec<_> = addresses.into_iter().collect::<Result<_, _>>()?;
    let server = authority.server(&["kubernetes", "kubernetes.default.svc"], &addresses)?;
    std::fs::write(directory.join("apiserver.crt"), server.certificate)?;
    std::fs::write(directory.join("apiserver.key"), server.key)?;
    pki::key_pair(directory, "sa")
}

fn kubeconfig_path(directory: &Path, name: &str) -> PathBuf {
    // Users have colons in their names.
    directory.join(format!("{}.kubeconfig", name.replace([':', '/'], "-")))
}

fn write_kubeconfig(
    directory: &Path,
    name: &str,
    credentials: &Credentials,
) -> anyhow::Result<serde_json::Value> {
    let name = name.replace([':', '/'], "-");
    let kubeconfig = client::kubeconfig(directory, &directory.join("ca.crt"), &name, credentials)?;
    let path = kubeconfig_path(directory, &name);
    std::fs::write(&path, kubeconfig.to_string())
        .with_context(|| format!("cannot write {}", path.display()))?;
    Ok(kubeconfig)
}

/// `FLAG=PATH`
fn file(flag: &str, directory: &Path, name: &str) -> String {
    format!("{flag}={}", directory.join(name).display())
}

fn start_component(
    control: &Namespace,
    name: &str,
    directory: &Path,
    arguments: Vec<String>,
) -> anyhow::Result<Component> {
    let program = modules::find(name)?;
    let control = control.name().to_owned();
    Component::start(name, directory, move || {
        let mut command = Namespace::command_in(&control, &program);
        command.args(&arguments);
        command
    })
}

fn start_etcd(
    control: &Namespace,
    directory: &Path,
    settings: &Settings<'_>,
) -> anyhow::Result<Component> {
    let mut arguments = vec![
        file("--data-dir", directory, "etcd"),
        "--listen-client-urls=http://127.0.0.1:2379".to_owned(),
        "--advertise-client-urls=http://127.0.0.1:2379".to_owned(),
        "--listen-peer-urls=http://127.0.0.1:2380".to_owned(),
        "--log-level=warn".to_owned(),
    ];
    if !settings.durable {
        arguments.push("--unsafe-no-fsync".to_owned());
    }
    start_component(control, "etcd", directory, arguments)
}

fn start_api_server(
    control: &Namespace,
    directory: &Path,
    settings: &Settings<'_>,
) -> anyhow::Result<Component> {
    let mut arguments = vec![
        "--etcd-servers=http://127.0.0.1:2379".to_owned(),
        "--bind-address=::".to_owned(),
        "--advertise-address=10.99.0.1".to_owned(),
        "--secure-port=6443".to_owned(),
        file("--tls-cert-file", directory, "apiserver.crt"),
        file("--tls-private-key-file", directory, "apiserver.key"),
        file("--client-ca-file", directory, "ca.crt"),
        "--service-cluster-ip-range=10.96.0.0/16,fd96::/112".to_owned(),
        "--authorization-mode=Node,RBAC".to_owned(),
        "--enable-admission-plugins=NodeRestriction".to_owned(),
        "--allow-privileged=true".to_owned(),
        format!("--service-account-issuer={ISSUER}"),
        file("--service-account-key-file", directory, "sa.pub"),
        file("--service-account-signing-key-file", directory, "sa.key"),
        file("--cert-dir", directory, "apiserver"),
    ];
    arguments.extend(
        settings
            .api_server
            .iter()
            .map(|&argument| argument.to_owned()),
    );
    start_component(control, "kube-apiserver", directory, arguments)
}
