//! Our controller in Kubernetes mode.

use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::Context as _;
use crd::names;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::Api;
use nix::sys::signal::Signal;
use serde_json::Value;

use super::{Cluster, ClusterNode, Credentials};
use crate::controller::{certificate, certificates};
use crate::namespace::Entrance;
use crate::process::{Daemon, output, program};
use crate::speaker::Speaker;
use crate::wait::{try_wait_for, wait_for};

/// For what comes by itself soon after a controller has started.
const PATIENCE: Duration = Duration::from_secs(30);
/// The replicas' metrics are on the ports after this one.
const METRICS: u16 = 9180;

/// How a replica is started.
#[derive(Clone, Debug, Default)]
pub struct Replica<'a> {
    /// Its pod.
    pub pod: &'a str,
    /// 1 to 3: it listens on 10.99.0.1NUMBER, port 7443.
    pub number: u8,
    /// Who it is for the API server; the administrator's kubeconfig unless one is given.
    pub kubeconfig: Option<PathBuf>,
    /// More arguments.
    pub arguments: &'a [&'a str],
    /// What its environment has beside ours.
    pub environment: &'a [(&'a str, &'a str)],
    /// Its certificate and that of its clients are from [`Cluster::certify`], not its own affair.
    pub certified: bool,
}

/// A running replica of the controller; ended when dropped.
#[derive(Debug)]
pub struct Controller {
    daemon: Daemon,
    address: SocketAddr,
    socket: PathBuf,
    machine: Entrance,
    metrics: u16,
}

impl Cluster {
    /// Starts a replica of the controller and waits until it listens; it may lead or not.
    ///
    /// # Errors
    ///
    /// When it does not come up, with what it said.
    pub fn controller(&self, replica: &Replica<'_>) -> anyhow::Result<Controller> {
        let address = SocketAddr::from(([10, 99, 0, 10 + replica.number], names::CONTROLLER_PORT));
        let metrics = METRICS + u16::from(replica.number);
        let directory = self.lab().directory().join(replica.pod);
        std::fs::create_dir_all(&directory)?;
        let socket = directory.join("controller.sock");
        let kubeconfig = match &replica.kubeconfig {
            Some(file) => file.clone(),
            None => self.admin_kubeconfig(),
        };
        let mut command = self.control().command(program("routeshare-controller")?);
        command
            .arg("--kubernetes")
            .arg("--kubeconfig")
            .arg(kubeconfig)
            .args(["--namespace", names::NAMESPACE, "--pod", replica.pod])
            .args(["--listen", &address.to_string()])
            .args(["--advertise", &address.to_string()])
            .args(["--metrics", &format!("127.0.0.1:{metrics}")])
            .arg("--socket")
            .arg(&socket)
            .args(replica.arguments)
            .envs(replica.environment.iter().copied())
            .env("NO_COLOR", "1")
            .env("RUST_LOG", "info,routeshare_controller=debug");
        if replica.certified {
            command.args(certificate(self.lab().directory(), "controller"));
        }
        let log = directory.join("controller.log");
        let name = format!("routeshare-controller {}", replica.pod);
        let mut daemon = self.control().start(&name, command, &log)?;
        let listens = try_wait_for("the controller to listen", PATIENCE, || {
            daemon.check()?;
            let connect = || TcpStream::connect_timeout(&address, Duration::from_secs(1));
            Ok(self.control().within(connect)??)
        });
        listens.with_context(|| format!("the controller said:\n{}", daemon.log_tail()))?;
        Ok(Controller {
            daemon,
            address,
            socket,
            machine: self.control().entrance()?,
            metrics,
        })
    }
}

impl Cluster {
    /// An authority beside the cluster's own, certificates of the controllers and of these nodes'
    /// speakers (`bgpctl pki`): for who does not use tokens.
    ///
    /// # Errors
    ///
    /// When there are some already.
    pub fn certify(&self, nodes: &[&str]) -> anyhow::Result<()> {
        let addresses = ["10.99.0.11", "10.99.0.12", "10.99.0.13"];
        certificates(&self.lab().directory().join("pki"), &addresses, nodes)
    }

    /// Starts the speaker of a node that was [certified](Cluster::certify), and waits until it answers.
    ///
    /// # Errors
    ///
    /// When it does not come up, with what it said.
    pub fn certified_speaker<'a>(
        &self,
        node: &'a ClusterNode,
        controller: &Controller,
    ) -> anyhow::Result<Speaker<'a>> {
        let mut told = vec![
            "--controller".to_owned(),
            format!("https://{}", controller.address),
        ];
        told.extend(certificate(self.lab().directory(), &node.name));
        Speaker::start_with(&node.machine, self.lab().directory(), &node.name, told)
    }
}

impl Cluster {
    /// The namespace, accounts and rights of an installation; gives the kubeconfig of the controllers'
    /// account, which may do what `deploy/` says and nothing else.
    ///
    /// # Errors
    ///
    /// When the API server refuses.
    pub fn install_rights(&self) -> anyhow::Result<PathBuf> {
        for file in ["namespace", "service-accounts", "rbac"] {
            self.apply_directory(&format!("deploy/kubernetes/base/{file}.yaml"))?;
        }
        let account = names::CONTROLLER_ACCOUNT;
        let token = self.token(names::NAMESPACE, account, super::ISSUER, None)?;
        self.kubeconfig(account, &Credentials::Token(token))
    }

    /// Starts the speaker of a node as its pod does, with the token of that pod and the authority that
    /// the controllers publish, and waits until it answers.
    ///
    /// # Errors
    ///
    /// When it does not come up, with what it said.
    pub fn speaker<'a>(
        &self,
        node: &'a ClusterNode,
        controller: &Controller,
    ) -> anyhow::Result<Speaker<'a>> {
        let directory = self.lab().directory().join(format!("{}-pod", node.name));
        std::fs::create_dir_all(&directory)?;
        let maps: Api<ConfigMap> = Api::namespaced(self.client(), names::NAMESPACE);
        let authority = try_wait_for("the controllers' authority", PATIENCE, || {
            let map = self.block_on(maps.get(names::CA))?;
            let data = map.data.unwrap_or_default();
            let certificate = data.get(names::CA_CERTIFICATE).cloned();
            certificate.context("a ConfigMap without it")
        })?;
        let write = |name: &str, text: &str| -> anyhow::Result<String> {
            let file = directory.join(name);
            std::fs::write(&file, text)?;
            Ok(file.display().to_string())
        };
        let told = [
            "--controller".to_owned(),
            format!("https://{}", controller.address),
            "--controller-name".to_owned(),
            names::CONTROLLER_SERVICE.to_owned(),
            "--ca".to_owned(),
            write(names::CA_CERTIFICATE, &authority)?,
            "--token".to_owned(),
            write("token", &self.speaker_token(&node.name)?)?,
            "--keys".to_owned(),
            directory.join("keys").display().to_string(),
        ];
        Speaker::start_with(
            &node.machine,
            self.lab().directory(),
            &node.name,
            told.into(),
        )
    }
}

impl Controller {
    /// Where speakers reach it.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its process; none once it has ended.
    pub fn pid(&self) -> Option<u32> {
        self.daemon.id()
    }

    /// A metric by its name and labels, as its line begins.
    ///
    /// # Errors
    ///
    /// When it cannot be asked, or has no such metric.
    pub fn metric(&self, name: &str) -> anyhow::Result<u64> {
        self.machine.metric(self.metrics, name)
    }

    /// What `bgpctl` prints for a command line such as `show nodes`, asked over the controller's
    /// socket.
    ///
    /// # Errors
    ///
    /// When `bgpctl` does not succeed, with what it printed.
    pub fn bgpctl(&self, line: &str) -> anyhow::Result<String> {
        output(
            Command::new(program("bgpctl")?)
                .arg("--controller")
                .arg(format!("unix:{}", self.socket.display()))
                .args(line.split_whitespace()),
        )
    }

    /// What `bgpctl … --output json` prints.
    ///
    /// # Errors
    ///
    /// When `bgpctl` does not succeed, with what it printed.
    pub fn json(&self, line: &str) -> anyhow::Result<Value> {
        let text = self.bgpctl(&format!("{line} --output json"))?;
        serde_json::from_str(&text).with_context(|| format!("bgpctl {line} gave no JSON: {text}"))
    }

    /// The subnets of a node, by prefix; also those that are kept for it while it is away.
    ///
    /// # Errors
    ///
    /// When `bgpctl` does not succeed, as with a controller that does not lead.
    pub fn subnets(&self, node: &str) -> anyhow::Result<Vec<String>> {
        let all = self.json("show subnets")?;
        let all = all.as_array().context("no list of subnets")?;
        let of_node = all.iter().filter(|subnet| subnet["node"] == node);
        let prefix = |subnet: &Value| subnet["prefix"].as_str().map(str::to_owned);
        let mut prefixes: Vec<String> = of_node.filter_map(prefix).collect();
        prefixes.sort();
        Ok(prefixes)
    }

    /// Waits until it has said something since `seen`, the length of its [log](Controller::log) then.
    ///
    /// # Panics
    ///
    /// When it has not after a minute.
    #[track_caller]
    pub fn wait_until_it_says(&self, text: &str, seen: usize) {
        let minute = Duration::from_secs(60);
        wait_for(&format!("the controller to say: {text}"), minute, || {
            let log = self.log();
            let new = log.get(seen..).unwrap_or_default();
            anyhow::ensure!(new.contains(text), "{}", self.daemon.log_tail());
            Ok(())
        });
    }

    /// Whether it runs.
    ///
    /// # Errors
    ///
    /// When it has ended by itself, with how and what it printed last.
    pub fn check(&mut self) -> anyhow::Result<()> {
        self.daemon.check()
    }

    /// Ends it without a chance to say goodbye.
    ///
    /// # Errors
    ///
    /// When it cannot be waited for.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        self.daemon.kill()
    }

    /// Asks it to end (SIGTERM) and waits for that.
    ///
    /// # Errors
    ///
    /// When it does not end in half a minute.
    pub fn stop(&mut self) -> anyhow::Result<()> {
        self.daemon.stop()
    }

    /// Sends it a signal: SIGSTOP makes it hang, as a machine that is out of breath.
    ///
    /// # Errors
    ///
    /// When it does not run.
    pub fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        self.daemon.signal(signal)
    }

    /// Waits until it has ended by itself, as one that lost its lease does.
    ///
    /// # Errors
    ///
    /// When it is still there after half a minute.
    pub fn wait_for_end(&mut self) -> anyhow::Result<()> {
        self.daemon.wait_for_end()
    }

    /// Its process number, while it has not been stopped.
    pub fn id(&self) -> Option<u32> {
        self.daemon.id()
    }

    /// All that it has printed so far.
    pub fn log(&self) -> String {
        self.daemon.log()
    }
}
