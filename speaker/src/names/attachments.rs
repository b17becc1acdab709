//! The attachments of this node, out of the leases on disk, whenever they change.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cni::leases::{Lease, Now, Snapshot};
use notify::{RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::Notify;

use super::zone::{Attachment, normal};

/// Names of one attachment at most; more are left out, which is said.
const MOST_NAMES: usize = 64;

/// Reads the leases, and follows their directory.
pub(crate) struct Attachments {
    data_dir: PathBuf,
    changes: Arc<Notify>,
    /// And the directory it follows.
    watching: Option<(PathBuf, RecommendedWatcher)>,
    last: Vec<Attachment>,
    problem: Option<String>,
}

impl Attachments {
    pub(crate) fn new(data_dir: PathBuf) -> Attachments {
        Attachments {
            data_dir,
            changes: Arc::default(),
            watching: None,
            last: Vec::new(),
            problem: None,
        }
    }

    /// Returns when the leases may have changed. Cancel-safe.
    pub(crate) async fn changed(&self) {
        self.changes.notified().await;
    }

    /// What there is now; what there was last if it cannot be read.
    pub(crate) fn read(&mut self) -> Vec<Attachment> {
        self.watch();
        let now = match Now::read() {
            Ok(now) => now,
            Err(error) => return self.keep(&error),
        };
        match Snapshot::read(&self.data_dir, &now) {
            Ok(snapshot) => {
                let (attachments, left_out) = attachments(&snapshot.leases);
                self.last = attachments;
                self.problem = left_out;
            }
            Err(error) => return self.keep(&error),
        }
        self.last.clone()
    }

    /// Why not all names are known.
    pub(crate) fn problem(&self) -> Option<String> {
        self.problem.clone()
    }

    fn keep(&mut self, error: &dyn std::error::Error) -> Vec<Attachment> {
        let cause = error.source().map(|it| format!(": {it}"));
        self.problem = Some(format!(
            "names stay as they were, because leases cannot be read: {error}{}",
            cause.unwrap_or_default()
        ));
        self.last.clone()
    }

    /// Follows the directory of the leases; until there are any, the one it will be in.
    fn watch(&mut self) {
        let log = Snapshot::path(&self.data_dir);
        let directory = match log.parent() {
            Some(directory) if directory.is_dir() => directory,
            _ => &self.data_dir,
        };
        let followed = self
            .watching
            .as_ref()
            .map(|(followed, _)| followed.as_path());
        if followed != Some(directory) || !directory.is_dir() {
            let watcher = follow(directory, &self.changes);
            self.watching = watcher.map(|watcher| (directory.to_owned(), watcher));
        }
    }
}

fn follow(directory: &Path, changes: &Arc<Notify>) -> Option<RecommendedWatcher> {
    let changes = Arc::clone(changes);
    let notice = move |event: notify::Result<notify::Event>| {
        // To read is an event, too, and must not lead to reading again.
        if !matches!(&event, Ok(event) if event.kind.is_access()) {
            changes.notify_one();
        }
    };
    let mut watcher = notify::recommended_watcher(notice).ok()?;
    // Without it they are read from time to time.
    watcher.watch(directory, RecursiveMode::NonRecursive).ok()?;
    Some(watcher)
}

/// The attachments, and what is left out of them and why.
fn attachments(leases: &[Lease]) -> (Vec<Attachment>, Option<String>) {
    let mut left_out = BTreeSet::new();
    let attachments = leases
        .iter()
        // What began before the machine was booted is not running any more.
        .filter(|lease| !lease.earlier_boot)
        .map(|lease| {
            let owner = &lease.owner;
            let name = owner.name.as_ref().map(|name| match &owner.namespace {
                // Without Kubernetes runtimes say nothing, or the name once more.
                Some(namespace) if !namespace.is_empty() && namespace != name => {
                    format!("{name}.{namespace}")
                }
                _ => name.clone(),
            });
            let given = name.iter().chain(&owner.aliases);
            let (good, bad): (Vec<&String>, Vec<&String>) =
                given.partition(|name| normal(name).is_some());
            left_out.extend(
                bad.into_iter()
                    .chain(good.iter().skip(MOST_NAMES).copied())
                    .cloned(),
            );
            Attachment {
                network: lease.network.clone(),
                container: owner.container.clone(),
                of_node: lease.of_node,
                addresses: lease.addresses.iter().map(|it| it.ip()).collect(),
                names: good.into_iter().take(MOST_NAMES).cloned().collect(),
            }
        })
        .collect();
    let first = left_out.first().map(|name| {
        format!(
            "{} names of containers are not answered, such as `{name}`: allowed are {MOST_NAMES} names a \
             container, of letters, digits, - and _, with dots between labels of at most 63",
            left_out.len()
        )
    });
    (attachments, first)
}
