//! Resources from a directory of YAML files.
//!
//! The directory is watched, and read again from time to time because watches get lost. Everything in
//! it is one set of resources: it is good as a whole, or refused as a whole and the last good set
//! stays in force. What is refused:
//!
//! - a file that cannot be read whole, or that has mistakes;
//! - a directory without resources (not mounted, emptied);
//! - a file that is gone or has become empty while it said something nobody else says now. Files
//!   vanish by accident, and losing the file of the peers must not close every session. A file of
//!   nodes may be deleted: their subnets wait for the grace time;
//! - the removal of more than half of the nodes, or of all resources of a kind, at once: that is what
//!   a half-written file looks like.
//!
//! The last two are accepted when an operator says that they are meant (SIGHUP).

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use api::{Resources, SourceFile};
use ipam::Millis;
use notify::{RecursiveMode, Watcher as _};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use super::{Loaded, SourceState};

/// How long the directory must be quiet before it is read; writers rarely write in one go.
const SETTLE: Duration = Duration::from_millis(60);
/// It is read after this long even if it is never quiet.
const SETTLE_MOST: Duration = Duration::from_secs(1);
/// How often the directory is read without having been told of a change.
const RESCAN: Duration = Duration::from_secs(5);
/// Larger files are a mistake, and would be read into memory whole.
const LARGEST: u64 = 64 << 20;

/// A watched directory.
pub(crate) struct Files {
    directory: PathBuf,
    state: watch::Sender<SourceState>,
    /// What was read last, good or not: the same again needs no second look.
    seen: Option<Result<Vec<SourceFile>, Vec<String>>>,
}

impl Files {
    /// A source that begins with `stored`, the good set of an earlier run, and reads the directory
    /// once before it returns.
    pub(crate) fn new(directory: PathBuf, stored: Option<(Vec<SourceFile>, Millis)>) -> Files {
        let in_force = stored.and_then(|(files, at)| match api::parse_without_kubernetes(&files) {
            Ok(parsed) => Some(Arc::new(loaded(parsed, files, at))),
            Err(mistakes) => {
                warn!(
                    mistake = mistakes.first().map(ToString::to_string),
                    "the resources of the last run are not understood any more"
                );
                None
            }
        });
        let mut files = Files {
            directory,
            state: watch::Sender::new(SourceState {
                in_force,
                ..SourceState::default()
            }),
            seen: None,
        };
        files.reload(false);
        files
    }

    /// Where the newest state can be seen.
    pub(crate) fn subscribe(&self) -> watch::Receiver<SourceState> {
        self.state.subscribe()
    }

    /// Watches until `shutdown`. A message in `confirmed` accepts what is held back because it looks
    /// like an accident.
    pub(crate) async fn run(
        mut self,
        mut confirmed: mpsc::Receiver<()>,
        shutdown: CancellationToken,
    ) {
        let (events, mut changes) = mpsc::channel(1);
        let mut watching = None;
        loop {
            let mut unseen = false;
            if watching.is_none() {
                watching = watch_directory(&self.directory, events.clone());
                // What changed before the watch was there, it does not tell of.
                unseen = watching.is_some();
            }
            let confirm = tokio::select! {
                () = shutdown.cancelled() => return,
                () = std::future::ready(()), if unseen => false,
                Some(()) = confirmed.recv() => true,
                Some(()) = changes.recv() => {
                    settle(&mut changes).await;
                    false
                }
                () = tokio::time::sleep(RESCAN) => false,
            };
            if !self.directory.is_dir() {
                watching = None; // gone; a new one of this name is another directory
            }
            self = match tokio::task::spawn_blocking(move || {
                self.reload(confirm);
                self
            })
            .await
            {
                Ok(files) => files,
                Err(panicked) => {
                    error!(error = %panicked, "reading the resources failed; they are not watched any more");
                    return;
                }
            };
        }
    }

    /// Reads the directory, and accepts or refuses what is there.
    fn reload(&mut self, confirmed: bool) {
        let read = read_directory(&self.directory);
        if self.seen.as_ref() == Some(&read) && !confirmed {
            return;
        }
        self.seen = Some(read.clone());
        let last = self.state.borrow().in_force.clone();
        if let (Ok(files), Some(last)) = (&read, &last)
            && *files == last.files
        {
            self.state.send_if_modified(|state| {
                let was_refused = !state.refused.is_empty();
                state.refused.clear();
                if was_refused {
                    info!("the resources are again those in force");
                }
                was_refused
            });
            return;
        }
        let judged = read.and_then(|files| {
            let parsed = judge(last.as_deref(), &files, confirmed)?;
            Ok(loaded(parsed, files, now()))
        });
        match judged {
            Ok(loaded) => {
                info!(
                    files = loaded.files.len(),
                    nodes = loaded.resources.nodes.len(),
                    warnings = loaded.warnings.len(),
                    "resources accepted"
                );
                for warning in &loaded.warnings {
                    warn!(%warning, "resources");
                }
                self.state.send_modify(|state| {
                    state.in_force = Some(Arc::new(loaded));
                    state.refused.clear();
                });
            }
            Err(reasons) => {
                let stays = match last {
                    Some(_) => "the last good ones stay in force",
                    None => "there are no earlier ones; nothing is given out",
                };
                for reason in &reasons {
                    error!(%reason, "resources refused; {stays}");
                }
                self.state.send_modify(|state| {
                    state.refused = reasons;
                    state.refusals += 1;
                });
            }
        }
    }
}

fn loaded(parsed: api::Parsed, files: Vec<SourceFile>, at: Millis) -> Loaded {
    Loaded {
        resources: parsed.resources,
        files,
        warnings: parsed.warnings.iter().map(ToString::to_string).collect(),
        problems: Vec::new(),
        at,
    }
}

/// The time, for things that are compared with what another run of this program wrote down.
pub(crate) fn now() -> Millis {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    let since = since.expect("the clock is set to a time after 1970");
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Waits until nothing has changed for a moment.
async fn settle(changes: &mut mpsc::Receiver<()>) {
    let latest = Instant::now() + SETTLE_MOST;
    loop {
        let quiet_at = (Instant::now() + SETTLE).min(latest);
        match timeout_at(quiet_at, changes.recv()).await {
            Ok(Some(())) if Instant::now() < latest => {}
            _ => return,
        }
    }
}

/// Starts to watch; without a watch (no such directory yet, too many watches) the rescan remains.
fn watch_directory(
    directory: &Path,
    events: mpsc::Sender<()>,
) -> Option<notify::RecommendedWatcher> {
    let notice = move |event: notify::Result<notify::Event>| {
        // Reading the directory is an event of its own, which must not lead to reading it again.
        if !matches!(&event, Ok(event) if event.kind.is_access()) {
            let _ = events.try_send(()); // full: a notice is already waiting
        }
    };
    let watching = notify::recommended_watcher(notice).and_then(|mut watcher| {
        watcher.watch(directory, RecursiveMode::NonRecursive)?;
        Ok(watcher)
    });
    match watching {
        Ok(watcher) => Some(watcher),
        Err(error) => {
            debug!(%error, "no watch on the resources; they are read from time to time");
            None
        }
    }
}

/// Every `*.yaml` and `*.yml` of the directory (not of directories in it), in the order of names.
fn read_directory(directory: &Path) -> Result<Vec<SourceFile>, Vec<String>> {
    let whole = |error: io::Error| vec![format!("cannot read {}: {error}", directory.display())];
    let mut files = Vec::new();
    let mut refused = Vec::new();
    for entry in fs::read_dir(directory).map_err(whole)? {
        let path = entry.map_err(whole)?.path();
        let Some(name) = path.file_name().map(|name| name.to_string_lossy()) else {
            continue;
        };
        // Editors keep their unfinished copies in hidden files.
        let wanted = name.ends_with(".yaml") || name.ends_with(".yml");
        if !wanted || name.starts_with('.') {
            continue;
        }
        match read_file(&path) {
            Ok(text) => files.push(SourceFile {
                name: name.into_owned(),
                text,
            }),
            // Deleted since the directory was listed; if that matters, `judge` says so.
            Err(error) if error.kind() == io::ErrorKind::NotFound && !path.is_symlink() => {}
            Err(error) => refused.push(format!("cannot read {}: {error}", path.display())),
        }
    }
    files.sort_by(|a, b| a.name.cmp(&b.name));
    refused.sort();
    if refused.is_empty() {
        Ok(files)
    } else {
        Err(refused)
    }
}

fn read_file(path: &Path) -> io::Result<String> {
    let invalid = |what| io::Error::new(io::ErrorKind::InvalidData, what);
    // Before opening: opening a FIFO waits for a writer.
    if !fs::metadata(path)?.is_file() {
        return Err(invalid("it is not a file"));
    }
    let mut text = String::new();
    let read = fs::File::open(path)?
        .take(LARGEST + 1)
        .read_to_string(&mut text)?;
    if read as u64 > LARGEST {
        return Err(invalid("it is larger than 64 MiB"));
    }
    Ok(text)
}

/// Whether these files may come into force after `last`.
fn judge(
    last: Option<&Loaded>,
    files: &[SourceFile],
    confirmed: bool,
) -> Result<api::Parsed, Vec<String>> {
    if files.iter().all(is_blank) {
        return Err(vec![
            "there are no resources: no *.yaml or *.yml file in the directory says anything"
                .to_owned(),
        ]);
    }
    let parsed = api::parse_without_kubernetes(files)
        .map_err(|mistakes| mistakes.iter().map(ToString::to_string).collect::<Vec<_>>())?;
    let Some(last) = last.filter(|_| !confirmed) else {
        return Ok(parsed);
    };
    let suspicions = suspicions(last, files, &parsed.resources);
    if suspicions.is_empty() {
        return Ok(parsed);
    }
    let hint = "; if it is meant, send SIGHUP to the controller (systemctl reload \
                routeshare-controller)";
    Err(suspicions.into_iter().map(|s| s + hint).collect())
}

/// What looks like an accident in the step from the last good set to this one.
fn suspicions(last: &Loaded, files: &[SourceFile], next: &Resources) -> Vec<String> {
    let (before, after) = (keys(&last.resources), keys(next));
    let mut gone: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for (kind, name) in before.difference(&after) {
        gone.entry(kind).or_default().insert(name);
    }
    if gone.is_empty() {
        return Vec::new();
    }
    let only_nodes = gone.keys().all(|kind| *kind == "Node");
    let mut suspicions = Vec::new();
    for old in last.files.iter().filter(|file| !is_blank(file)) {
        match files.iter().find(|file| file.name == old.name) {
            Some(file) if is_blank(file) => suspicions.push(format!(
                "{} has become empty, and with it {} would be removed",
                old.name,
                list(&gone)
            )),
            None if !only_nodes => suspicions.push(format!(
                "{} is gone, and with it {} would be removed",
                old.name,
                list(&gone)
            )),
            Some(_) | None => {}
        }
    }
    if !suspicions.is_empty() {
        return suspicions;
    }
    for (kind, names) in &gone {
        let total = before.iter().filter(|(k, _)| k == kind).count();
        if names.len() == total {
            suspicions.push(format!(
                "every {kind} would be removed ({total} of {total})"
            ));
        } else if *kind == "Node" && names.len() > 1 && names.len() * 2 > total {
            suspicions.push(format!(
                "{} of {total} nodes would be removed at once",
                names.len()
            ));
        }
    }
    suspicions
}

/// Kind and name of every resource.
fn keys(resources: &Resources) -> BTreeSet<(&'static str, &str)> {
    fn of<'a, T>(
        kind: &'static str,
        map: &'a BTreeMap<String, T>,
    ) -> impl Iterator<Item = (&'static str, &'a str)> {
        map.keys().map(move |name| (kind, name.as_str()))
    }
    of("Pool", &resources.pools)
        .chain(of("Node", &resources.nodes))
        .chain(of("Peer", &resources.peers))
        .chain(of("RoutePolicy", &resources.policies))
        .chain(of("Advertisement", &resources.advertisements))
        .collect()
}

/// `Node a, b and 7 more; Pool pods`.
fn list(gone: &BTreeMap<&str, BTreeSet<&str>>) -> String {
    let kinds = gone.iter().map(|(kind, names)| {
        let some: Vec<&str> = names.iter().take(3).copied().collect();
        let more = match names.len() - some.len() {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        format!("{kind} {}{more}", some.join(", "))
    });
    kinds.collect::<Vec<_>>().join("; ")
}

/// Whether a file says nothing: it is empty, or has comments and separators only.
fn is_blank(file: &SourceFile) -> bool {
    let mut lines = file.text.lines().map(str::trim);
    lines.all(|line| line.is_empty() || line.starts_with('#') || line == "---" || line == "...")
}

#[cfg(test)]
mod tests;
