//! Where NodeConfig comes from: the controller's stream, its last copy on disk, or local files.
//!
//! One task finds out what is desired and offers it to the daemon's loop, whole, one at a time
//! ([`Offer`]); the loop says whether it is in force. Only what is in force is kept on disk
//! (`desired/disk.rs`), and the copy is offered first after a start, so that a node needs nobody to
//! come back. Then either `desired/controller.rs` or `desired/files.rs` goes on for ever.

pub(crate) mod controller;
mod disk;
mod files;
mod keys;
mod leader;
mod names;
mod token;
mod tunnel;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use plan::NodeConfig;
use proto::controller::v1 as pb;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tonic::service::Routes;

use crate::keys::Vault;
use crate::names::Exchange;

/// Where a node's configuration comes from.
#[derive(Clone, Debug)]
pub(crate) enum Origin {
    /// A controller's stream.
    Controller(controller::Address),
    /// YAML files in this directory, planned here.
    Files(PathBuf),
}

/// What this task needs to know.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// Our node's name; a configuration for another one is refused.
    pub(crate) node: String,
    /// Where from.
    pub(crate) origin: Origin,
    /// Where the last configuration in force is kept.
    pub(crate) state_dir: PathBuf,
    /// Where keys out of Secrets go.
    pub(crate) vault: Arc<Vault>,
    /// Names of containers, ours and those of other nodes.
    pub(crate) names: Arc<Exchange>,
}

/// Which way a configuration came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// From the controller.
    Controller,
    /// The copy on disk.
    Disk,
    /// Planned from local files.
    Files,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Source::Controller => "controller",
            Source::Disk => "disk",
            Source::Files => "files",
        })
    }
}

/// A configuration to be put in force.
#[derive(Debug)]
pub(crate) struct Offer {
    /// The whole of it.
    pub(crate) config: NodeConfig,
    /// Which way it came.
    pub(crate) source: Source,
    /// In force, or why not.
    pub(crate) answer: oneshot::Sender<Result<(), String>>,
}

/// How the source fares.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Status {
    /// The controller's stream is open.
    pub(crate) connected: bool,
    /// Why the newest configuration is not in force; `None` when it is.
    pub(crate) refused: Option<String>,
    /// What the configuration in force lacks, as far as it was planned here.
    pub(crate) incomplete: Vec<String>,
    /// What is wrong with the copy on disk.
    pub(crate) copy: Option<String>,
    /// Why there is no controller.
    pub(crate) source: Option<String>,
}

/// The loop's end.
pub(crate) struct Desired {
    /// What to put in force.
    pub(crate) offers: mpsc::Receiver<Offer>,
    /// How the source fares.
    pub(crate) status: watch::Receiver<Status>,
    task: JoinHandle<()>,
}

impl Drop for Desired {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Starts the task. `reports` is what the controller is told; `admin` answers its questions.
pub(crate) fn start(
    settings: Settings,
    reports: watch::Receiver<pb::NodeReport>,
    admin: Routes,
) -> Desired {
    let (offers_tx, offers) = mpsc::channel(1);
    let (status_tx, status) = watch::channel(Status::default());
    let sink = Sink {
        node: settings.node.clone(),
        disk: disk::Copy::new(&settings.state_dir),
        offers: offers_tx,
        status: status_tx,
        last: None,
        vault: settings.vault,
        names: settings.names,
    };
    let task = tokio::spawn(run(settings.origin, sink, reports, admin));
    Desired {
        offers,
        status,
        task,
    }
}

async fn run(
    origin: Origin,
    mut sink: Sink,
    reports: watch::Receiver<pb::NodeReport>,
    admin: Routes,
) {
    sink.restore().await;
    match origin {
        Origin::Controller(address) => controller::run(address, sink, reports, admin).await,
        Origin::Files(directory) => files::run(directory, sink).await,
    }
}

/// The task's end: takes what a source gives, checks whose it is, offers it, keeps it.
struct Sink {
    node: String,
    disk: disk::Copy,
    offers: mpsc::Sender<Offer>,
    status: watch::Sender<Status>,
    /// In force.
    last: Option<NodeConfig>,
    vault: Arc<Vault>,
    names: Arc<Exchange>,
}

impl Sink {
    /// Offers the copy on disk, if there is one that can be read.
    async fn restore(&mut self) {
        let config = match self.disk.load() {
            Ok(Some(message)) => plan::wire::from_proto(message).map_err(|error| {
                format!(
                    "the configuration in {} cannot be used: {}",
                    self.disk.path().display(),
                    chain(&error)
                )
            }),
            Ok(None) => return,
            Err(error) => Err(chain(&error)),
        };
        match config {
            Ok(config) => {
                tracing::info!(
                    version = config.version,
                    path = %self.disk.path().display(),
                    "starting from the configuration on disk"
                );
                self.offer(config, Source::Disk).await;
            }
            Err(problem) => {
                tracing::error!("{problem}; going on without it");
                self.status
                    .send_modify(|status| status.copy = Some(problem));
            }
        }
    }

    /// Takes a configuration as the controller sent it.
    async fn offer_message(&mut self, message: pb::NodeConfig, source: Source) {
        match plan::wire::from_proto(message) {
            Ok(config) => self.offer(config, source).await,
            Err(error) => self.refuse(format!(
                "the configuration cannot be read: {}",
                chain(&error)
            )),
        }
    }

    /// Puts a configuration in force if it is for us and the engine agrees; keeps it on disk then.
    async fn offer(&mut self, config: NodeConfig, source: Source) {
        if config.node != self.node {
            return self.refuse(format!(
                "the configuration from {source} is for node `{}`, and this is node `{}`; start the \
                 speaker with the right --node, or give it the right certificate",
                config.node, self.node
            ));
        }
        let (answer, answered) = oneshot::channel();
        let offer = Offer {
            config: config.clone(),
            source,
            answer,
        };
        if self.offers.send(offer).await.is_err() {
            return; // the loop has ended, and so shall we
        }
        match answered.await {
            Ok(Ok(())) => {
                let copy = (source != Source::Disk)
                    .then(|| self.keep(&config))
                    .flatten();
                self.last = Some(config);
                self.status.send_modify(|status| {
                    status.refused = None;
                    status.copy = copy;
                });
            }
            Ok(Err(reason)) => self.refuse(reason),
            Err(_) => {}
        }
    }

    /// The newest configuration is not in force.
    fn refuse(&self, reason: String) {
        self.status.send_if_modified(|status| {
            if status.refused.as_ref() == Some(&reason) {
                return false;
            }
            match self.last {
                Some(_) => tracing::error!(%reason, "configuration refused; the one before stays in force"),
                None => tracing::error!(%reason, "configuration refused; there is none before it: nothing is done"),
            }
            status.refused = Some(reason);
            true
        });
    }

    /// The controller's stream is open, or why it is not; what is in force stays.
    fn connected(&self, connected: Result<(), String>) {
        self.status.send_if_modified(|status| {
            let before = status.clone();
            status.connected = connected.is_ok();
            status.source = connected.err();
            *status != before
        });
    }

    fn keep(&self, config: &NodeConfig) -> Option<String> {
        let error = self.disk.save(&plan::wire::to_proto(config)).err()?;
        tracing::error!(%error, "the next start will not have this configuration");
        Some(error.to_string())
    }
}

/// The error and its causes, outermost first, for those whose own text says only the half.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.contains(&next) {
            text = format!("{text}: {next}");
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
pub(crate) mod tests;
