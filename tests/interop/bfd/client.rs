//! A running `routeshare-bfd`, and a subscriber as the speaker is one.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use hyper_util::rt::TokioIo;
use lab::{Daemon, Namespace, program, try_wait_for, wait_for};
use nix::sys::signal::Signal;
use pb::bfd_service_client::BfdServiceClient;
pub(crate) use proto::bfd::v1 as pb;
use tokio::runtime::Runtime;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::{Channel, Endpoint};

const SOON: Duration = Duration::from_secs(20);

pub(crate) struct Bfd {
    daemon: Daemon,
    socket: PathBuf,
    runtime: Runtime,
    stream: Option<(mpsc::Sender<pb::DesiredSessions>, Streaming<pb::Event>)>,
}

/// A single-hop session of this many milliseconds × 3.
pub(crate) fn wanted(remote: &str, millis: u32) -> pb::SessionConfig {
    pb::SessionConfig {
        remote: remote.into(),
        local: String::new(),
        multihop: false,
        min_tx_millis: millis,
        min_rx_millis: millis,
        multiplier: 3,
        admin_down: false,
        authentication: None,
        echo_millis: 0,
    }
}

pub(crate) fn with(
    mut session: pb::SessionConfig,
    change: impl FnOnce(&mut pb::SessionConfig),
) -> pb::SessionConfig {
    change(&mut session);
    session
}

pub(crate) fn signed(session: pb::SessionConfig, kind: &str, file: &Path) -> pb::SessionConfig {
    pb::SessionConfig {
        authentication: Some(pb::Authentication {
            kind: kind.into(),
            key_id: 7,
            key_file: file.display().to_string(),
        }),
        ..session
    }
}

impl Bfd {
    pub(crate) fn start(machine: &Namespace, directory: &Path, name: &str) -> Bfd {
        Bfd::start_with(machine, directory, name, &[])
    }

    pub(crate) fn start_with(
        machine: &Namespace,
        directory: &Path,
        name: &str,
        arguments: &[&str],
    ) -> Bfd {
        let socket = directory.join(format!("{name}.bfd.sock"));
        let log = directory.join(format!("{name}.bfd.log"));
        Bfd::start_at(machine, socket, &log, arguments)
    }

    /// For the speaker of a host, where that looks for it.
    pub(crate) fn beside(machine: &Namespace, directory: &Path, host: &str) -> Bfd {
        let directory = directory.join(host);
        let log = directory.join("bfd.log");
        Bfd::start_at(machine, directory.join("bfd.sock"), &log, &[])
    }

    /// The pod of a rolling update that is there before the last one has ended: it waits, until
    /// [`answers`](Bfd::answers). `log` is the name of its log.
    pub(crate) fn start_as_next(
        machine: &Namespace,
        directory: &Path,
        name: &str,
        log: &str,
    ) -> Bfd {
        let socket = directory.join(format!("{name}.bfd.sock"));
        let log = directory.join(log);
        let next = Bfd::launch(machine, socket, &log, &["--take-turns"]);
        wait_for("the next one to wait", SOON, || {
            let log = next.daemon.log_tail();
            anyhow::ensure!(log.contains("another process has the sessions"), "{log}");
            Ok(())
        });
        next
    }

    fn start_at(machine: &Namespace, socket: PathBuf, log: &Path, arguments: &[&str]) -> Bfd {
        let bfd = Bfd::launch(machine, socket, log, arguments);
        bfd.answers();
        bfd
    }

    fn launch(machine: &Namespace, socket: PathBuf, log: &Path, arguments: &[&str]) -> Bfd {
        let mut command = machine.command(program("routeshare-bfd").unwrap());
        command.arg("--socket").arg(&socket).args(arguments);
        Bfd {
            daemon: machine.start("routeshare-bfd", command, log).unwrap(),
            socket,
            runtime: Runtime::new().unwrap(),
            stream: None,
        }
    }

    /// Waits until it answers on its socket.
    pub(crate) fn answers(&self) {
        wait_for("routeshare-bfd to answer", SOON, || {
            self.runtime.block_on(connect(&self.socket))
        });
    }

    /// Subscribes if need be, says what is wanted, and waits until those are the sessions.
    #[track_caller]
    pub(crate) fn want(&mut self, sessions: Vec<pb::SessionConfig>) {
        let mut remotes: Vec<String> = sessions.iter().map(|it| it.remote.clone()).collect();
        remotes.sort();
        let desired = pb::DesiredSessions { sessions };
        let stream = &mut self.stream;
        let socket = &self.socket;
        self.runtime.block_on(async {
            if stream.is_none() {
                let (sender, outgoing) = mpsc::channel(4);
                let mut client = connect(socket).await.unwrap();
                let events = client.subscribe(ReceiverStream::new(outgoing)).await;
                *stream = Some((sender, events.unwrap().into_inner()));
            }
            let (sender, _) = stream.as_mut().unwrap();
            sender.send(desired).await.unwrap();
        });
        wait_for("the sessions to be those wanted", SOON, || {
            let there: Vec<String> = self.list().into_iter().map(|it| it.remote).collect();
            anyhow::ensure!(there == remotes, "{there:?}");
            Ok(())
        });
    }

    /// The subscriber goes.
    pub(crate) fn leave(&mut self) {
        self.stream = None;
    }

    pub(crate) fn answer(&self) -> pb::ListSessionsResponse {
        self.runtime.block_on(list(&self.socket)).unwrap()
    }

    pub(crate) fn list(&self) -> Vec<pb::Session> {
        let mut sessions = self.answer().sessions;
        sessions.sort_by(|a, b| (&a.remote, &a.local).cmp(&(&b.remote, &b.local)));
        sessions
    }

    #[track_caller]
    pub(crate) fn session(&self, remote: &str) -> pb::Session {
        let all = self.list();
        let found = all.iter().find(|it| it.remote == remote);
        found
            .unwrap_or_else(|| panic!("no session with {remote}: {all:?}"))
            .clone()
    }

    #[track_caller]
    pub(crate) fn wait_for(&self, remote: &str, state: &str) -> pb::Session {
        let what = format!("the session with {remote} to be {state}");
        let waited = try_wait_for(&what, SOON, || {
            let it = self.session(remote);
            anyhow::ensure!(it.state == state, "{it:?}");
            Ok(it)
        });
        waited.unwrap_or_else(|error| panic!("{error}\n{}", self.daemon.log_tail()))
    }

    /// The next change to `state` that the subscriber is told of.
    pub(crate) fn wait_for_change(&mut self, state: &str) -> pb::Session {
        let (_, events) = self.stream.as_mut().unwrap();
        let next = async {
            loop {
                let event = events.message().await.unwrap().unwrap();
                let changed = event.sessions.into_iter().find(|it| it.state == state);
                if let Some(changed) = changed.filter(|_| !event.whole) {
                    return changed;
                }
            }
        };
        let limited = self
            .runtime
            .block_on(async { tokio::time::timeout(SOON, next).await });
        limited.unwrap_or_else(|_| panic!("no change to {state}\n{}", self.daemon.log_tail()))
    }

    /// The session with `remote` as the subscriber is told of it next, among all sessions.
    pub(crate) fn told(&mut self, remote: &str) -> pb::Session {
        let (_, events) = self.stream.as_mut().unwrap();
        let next = async {
            loop {
                let event = events.message().await.unwrap().unwrap();
                let mut sessions = event.sessions.into_iter();
                let found = sessions.find(|it| it.remote == remote);
                if let Some(found) = found.filter(|_| event.whole) {
                    return found;
                }
            }
        };
        let limited = self
            .runtime
            .block_on(async { tokio::time::timeout(SOON, next).await });
        limited.unwrap_or_else(|_| panic!("not told\n{}", self.daemon.log_tail()))
    }

    /// Stops it with the intention that another one goes on.
    pub(crate) fn stop(&mut self) {
        self.daemon.stop().unwrap();
    }

    pub(crate) fn kill(&mut self) {
        self.daemon.kill().unwrap();
    }

    /// Stops it for good: the other sides are told AdminDown.
    pub(crate) fn leave_for_good(&mut self) {
        self.daemon.signal(Signal::SIGUSR1).unwrap();
        wait_for("routeshare-bfd to be gone", SOON, || {
            let gone = self.daemon.check().err().context("still there")?;
            anyhow::ensure!(gone.to_string().contains("exit code 100"), "{gone}");
            Ok(())
        });
    }

    /// Another process of the program takes its place, without a stop in between.
    pub(crate) fn replace(&mut self) {
        let before = self.answer().started_ms;
        self.daemon.signal(Signal::SIGHUP).unwrap();
        self.stream = None;
        wait_for("another process to answer", SOON, || {
            let answer = self.runtime.block_on(list(&self.socket))?;
            anyhow::ensure!(answer.started_ms != before, "still the one before");
            Ok(())
        });
    }

    /// For how long no process sent anything before this one, in milliseconds, as it logged it.
    pub(crate) fn silent_millis(&self) -> Option<u64> {
        let log = self.daemon.log_tail();
        let (_, rest) = log.rsplit_once("silent_millis=")?;
        rest.split_whitespace().next()?.parse().ok()
    }

    /// Processor time used until now.
    pub(crate) fn cpu_seconds(&self) -> f64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.daemon.id().unwrap()));
        let stat = stat.unwrap();
        let fields: Vec<&str> = stat
            .rsplit(')')
            .next()
            .unwrap()
            .split_whitespace()
            .collect();
        // utime and stime, in hundredths on every Linux there is.
        let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
        ticks as f64 / 100.0
    }
}

async fn list(socket: &Path) -> anyhow::Result<pb::ListSessionsResponse> {
    let mut client = connect(socket).await?;
    let answer = client.list_sessions(pb::ListSessionsRequest {}).await?;
    Ok(answer.into_inner())
}

async fn connect(socket: &Path) -> anyhow::Result<BfdServiceClient<Channel>> {
    let path = socket.to_owned();
    let connector = tower::service_fn(move |_| {
        let path = path.clone();
        async move {
            tokio::net::UnixStream::connect(path)
                .await
                .map(TokioIo::new)
        }
    });
    let endpoint = Endpoint::from_static("http://routeshare-bfd");
    let channel = endpoint.connect_with_connector(connector).await?;
    Ok(BfdServiceClient::new(channel).max_decoding_message_size(64 << 20))
}
