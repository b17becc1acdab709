//! Starts the program in a directory of its own, and plays its speakers and operators.

use std::fmt::Write as _;
use std::fs;
use std::future::Future;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use proto::controller::v1 as pb;
use proto::controller::v1::admin_service_client::AdminServiceClient;
use proto::controller::v1::config_service_client::ConfigServiceClient;
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Status, Streaming};

/// Everything that is waited for comes long before this.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

/// A directory with resources, a state file and a socket; the program may run on it.
pub(crate) struct Bench {
    pub(crate) dir: tempfile::TempDir,
}

/// The running program; killed when it is dropped.
pub(crate) struct Running {
    child: Child,
    log: PathBuf,
    socket: PathBuf,
}

impl Bench {
    /// With a fabric that gives a number to every node, and a pool of both families.
    pub(crate) fn new() -> Bench {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("resources")).unwrap();
        let bench = Bench { dir };
        bench.write("fabric.yaml", &fabric(3600));
        bench.write("pool.yaml", &pool("10.64.0.0/16", "fd00:64::/48"));
        bench
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn resource(&self, name: &str) -> PathBuf {
        self.path("resources").join(name)
    }

    /// Replaces a resource file as editors do: whole.
    pub(crate) fn write(&self, name: &str, text: &str) {
        let new = self.path("new");
        fs::write(&new, text).unwrap();
        fs::rename(&new, self.resource(name)).unwrap();
    }

    pub(crate) fn nodes<S: AsRef<str>>(&self, names: impl IntoIterator<Item = S>) {
        self.write("nodes.yaml", &nodes(names));
    }

    /// Starts the program with further arguments.
    pub(crate) fn start(&self, arguments: &[&str]) -> Running {
        let log = self.path("log");
        let output = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(&log)
            .unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_routeshare-controller"))
            .arg("--resources")
            .arg(self.path("resources"))
            .arg("--state")
            .arg(self.path("state.redb"))
            .arg("--socket")
            .arg(self.path("socket"))
            .args(arguments)
            .env("NO_COLOR", "1")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(output)
            .spawn()
            .unwrap();
        Running {
            child,
            log,
            socket: self.path("socket"),
        }
    }
}

impl Running {
    /// A connection to the Unix socket, as soon as somebody answers there.
    pub(crate) async fn connect(&self) -> Channel {
        let endpoint = endpoint(&self.socket);
        wait_for("the controller's socket", || {
            let endpoint = endpoint.clone();
            async move {
                endpoint
                    .connect()
                    .await
                    .map_err(|error| format!("{error:?}"))
            }
        })
        .await
    }

    pub(crate) async fn admin(&self) -> AdminServiceClient<Channel> {
        AdminServiceClient::new(self.connect().await)
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).unwrap();
        kill(Pid::from_raw(pid), signal).unwrap();
    }

    /// kill -9, and gone when this returns.
    pub(crate) fn kill(&mut self) {
        if self.child.try_wait().unwrap().is_none() {
            self.child.kill().unwrap();
        }
        let status = self.child.wait().unwrap();
        assert_eq!(
            status.signal(),
            Some(9),
            "ended by itself: {status}\n{}",
            self.log()
        );
    }

    /// How it ended by itself.
    pub(crate) async fn ended(mut self) -> (ExitStatus, String) {
        let status = wait_for("the end of the controller", || {
            let status = self.child.try_wait().unwrap();
            async move { status.ok_or("it still runs") }
        })
        .await;
        (status, self.log())
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }

    /// What stands behind the last `key=` in the log.
    pub(crate) async fn logged(&self, line: &str, key: &str) -> String {
        wait_for("a line in the log", || {
            let log = self.log();
            let found = log
                .lines()
                .rev()
                .find(|l| l.contains(line))
                .and_then(|line| {
                    let (_, value) = line.split_once(&format!("{key}="))?;
                    Some(
                        value
                            .split_whitespace()
                            .next()
                            .unwrap_or_default()
                            .to_owned(),
                    )
                });
            async move { found.ok_or(log) }
        })
        .await
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) fn endpoint(socket: &Path) -> Endpoint {
    Endpoint::from_shared(format!("unix:{}", socket.display())).unwrap()
}

/// A speaker's open stream.
pub(crate) struct Speaker {
    pub(crate) node: String,
    pub(crate) reports: mpsc::UnboundedSender<pb::NodeReport>,
    pub(crate) configs: Streaming<pb::NodeConfig>,
}

impl Speaker {
    pub(crate) async fn open(channel: Channel, node: &str) -> Result<Speaker, Status> {
        let (reports, receiver) = mpsc::unbounded_channel();
        let first = pb::NodeReport {
            node: node.to_owned(),
            ..pb::NodeReport::default()
        };
        reports.send(first).unwrap();
        let stream = UnboundedReceiverStream::new(receiver);
        let configs = ConfigServiceClient::new(channel)
            .watch(stream)
            .await?
            .into_inner();
        Ok(Speaker {
            node: node.to_owned(),
            reports,
            configs,
        })
    }

    /// The next configuration.
    pub(crate) async fn next(&mut self) -> pb::NodeConfig {
        let next = tokio::time::timeout(DEADLINE, self.configs.message()).await;
        next.expect("a configuration in time")
            .unwrap()
            .expect("the stream is open")
    }

    /// Says that `config` is in force and that so many addresses of each subnet are used.
    pub(crate) fn report(&self, config: &pb::NodeConfig, used: u64) {
        self.report_use(config, used, 256, 0);
    }

    /// As [`Speaker::report`]; of `size` addresses for pods each so many are used and so many cool down.
    pub(crate) fn report_use(&self, config: &pb::NodeConfig, used: u64, size: u64, cooling: u64) {
        let subnets = config.subnets.iter().map(|subnet| pb::SubnetUse {
            prefix: subnet.prefix.clone(),
            used,
            size,
            cooling,
        });
        let report = pb::NodeReport {
            node: self.node.clone(),
            version: config.version,
            subnets: subnets.collect(),
            ..pb::NodeReport::default()
        };
        let _ = self.reports.send(report); // fails when the stream has broken
    }
}

/// The subnets of a configuration.
pub(crate) fn subnets(config: &pb::NodeConfig) -> Vec<String> {
    config
        .subnets
        .iter()
        .map(|subnet| subnet.prefix.clone())
        .collect()
}

/// Asks again and again until the answer is there; says what it saw last when time is up.
pub(crate) async fn wait_for<T, E: std::fmt::Debug, F: Future<Output = Result<T, E>>>(
    what: &str,
    mut ask: impl FnMut() -> F,
) -> T {
    let mut last = None;
    let answer = tokio::time::timeout(DEADLINE, async {
        let mut turns = tokio::time::interval(Duration::from_millis(2));
        loop {
            turns.tick().await;
            match ask().await {
                Ok(answer) => return answer,
                Err(error) => last = Some(error),
            }
        }
    })
    .await;
    answer.unwrap_or_else(|_| panic!("waited in vain for {what}; last seen: {last:?}"))
}

pub(crate) fn fabric(grace: u32) -> String {
    format!(
        "apiVersion: routeshare.io/v1alpha1\nkind: Fabric\nmetadata: {{name: fabric}}\nspec:\n  \
         asn: {{perNode: {{range: 4200000000-4200000999}}}}\n  subnetGraceSeconds: {grace}\n"
    )
}

pub(crate) fn pool(ipv4: &str, ipv6: &str) -> String {
    format!(
        "apiVersion: routeshare.io/v1alpha1\nkind: Pool\nmetadata: {{name: pods}}\nspec: \
         {{prefixes: [\"{ipv4}\", \"{ipv6}\"], nodeSubnetLength: {{ipv4: 26, ipv6: 64}}}}\n"
    )
}

pub(crate) fn nodes<S: AsRef<str>>(names: impl IntoIterator<Item = S>) -> String {
    let mut text = String::new();
    for name in names {
        let name = name.as_ref();
        // Any address will do; it is only to be another one for every node.
        let number = name
            .bytes()
            .fold(0_u16, |n, b| n.wrapping_mul(31).wrapping_add(b.into()));
        write!(
            text,
            "---\napiVersion: routeshare.io/v1alpha1\nkind: Node\nmetadata: {{name: {name}}}\n\
             spec: {{addresses: [\"10.200.{}.{}\"]}}\n",
            number >> 8,
            number & 0xFF
        )
        .unwrap();
    }
    text
}
