//! `--standalone`: the same resource files a controller reads, planned here for our node alone.
//!
//! The directory is looked at once a second; nothing is read unless a name, size or time changed, and
//! nothing is believed before two looks agree, so that a file being written is left to finish. What
//! cannot be read or is wrong changes nothing: the last good state stays in force. An empty file
//! counts as wrong, because that is what a half-written one looks like; to take resources away, take
//! the file away.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};
use std::{fs, io};

use api::{Resources, SourceFile};
use plan::{NodeConfig, Snapshot};
use tokio::time::{MissedTickBehavior, interval};

use super::{Sink, Source};

/// How often the directory is looked at.
const LOOK: Duration = Duration::from_secs(1);

/// Offers the node's configuration whenever the files change. Never returns.
pub(super) async fn run(directory: PathBuf, mut sink: Sink) {
    let mut ticks = interval(LOOK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut watched = Watched::new(directory);
    loop {
        ticks.tick().await;
        if !watched.changed() {
            continue;
        }
        let version = sink.last.as_ref().map_or(0, |last| last.version);
        match load(&watched.directory, &sink.node) {
            Ok(loaded) => {
                for warning in loaded.warnings.iter().chain(&loaded.incomplete) {
                    tracing::warn!("{warning}");
                }
                offer(&mut sink, loaded, version).await;
            }
            Err(reason) => sink.refuse(reason),
        }
    }
}

/// Numbers a configuration by its content: the same content keeps its version.
async fn offer(sink: &mut Sink, loaded: Loaded, version: u64) {
    let Loaded {
        mut config,
        incomplete,
        ..
    } = loaded;
    config.version = version;
    if sink.last.as_ref() != Some(&config) {
        config.version = version + 1;
    }
    sink.offer(config, Source::Files).await;
    sink.status.send_if_modified(|status| {
        let news = status.refused.is_none() && status.incomplete != incomplete;
        if news {
            status.incomplete = incomplete;
        }
        news
    });
}

/// What a directory's files looked like.
type Look = BTreeMap<PathBuf, (u64, Option<SystemTime>)>;

struct Watched {
    directory: PathBuf,
    /// The last look; `Err` when the directory could not be read.
    seen: Option<Result<Look, io::ErrorKind>>,
    /// The look that was last acted upon.
    acted: Option<Result<Look, io::ErrorKind>>,
}

impl Watched {
    fn new(directory: PathBuf) -> Watched {
        Watched {
            directory,
            seen: None,
            acted: None,
        }
    }

    /// Whether there is something new that has stayed the same for two looks (at first: at once).
    fn changed(&mut self) -> bool {
        let look = Some(look(&self.directory).map_err(|error| error.kind()));
        let settled = self.seen.is_none() || self.seen == look;
        self.seen = look;
        if !settled || self.acted == self.seen {
            return false;
        }
        self.acted.clone_from(&self.seen);
        true
    }
}

fn look(directory: &Path) -> io::Result<Look> {
    let mut look = Look::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if is_resource_file(&path) {
            // Follows symbolic links, as mounted ConfigMaps are made of them.
            let seen =
                fs::metadata(&path).map_or((0, None), |data| (data.len(), data.modified().ok()));
            look.insert(path, seen);
        }
    }
    Ok(look)
}

fn is_resource_file(path: &Path) -> bool {
    let hidden = path
        .file_name()
        .is_none_or(|name| name.as_encoded_bytes().starts_with(b"."));
    !hidden
        && path
            .extension()
            .is_some_and(|extension| extension == "yaml" || extension == "yml")
}

struct Loaded {
    config: NodeConfig,
    /// What looks like a mistake in the files.
    warnings: Vec<String>,
    /// What our node does not have of what the files say it should.
    incomplete: Vec<String>,
}

/// Reads, parses and plans; the error is for a person, one line per mistake.
fn load(directory: &Path, node: &str) -> Result<Loaded, String> {
    let files = read(directory)?;
    let parsed = api::parse_without_kubernetes(&files).map_err(|mistakes| lines(&mistakes))?;
    let snapshot = Snapshot {
        resources: parsed.resources,
        subnets: BTreeMap::new(),
        numbers: BTreeMap::new(),
    };
    let mut plan = plan::plan(&snapshot);
    let ours = plan.problems.iter().filter(|problem| problem.node == node);
    let mut problems: Vec<String> = ours.map(ToString::to_string).collect();
    let Some(config) = plan.configs.remove(node) else {
        if problems.is_empty() {
            let known: Vec<&str> = snapshot
                .resources
                .nodes
                .keys()
                .map(String::as_str)
                .collect();
            return Err(format!(
                "no Node is named `{node}` in {}; the nodes there are: {}",
                directory.display(),
                known.join(", ")
            ));
        }
        return Err(problems.join("\n"));
    };
    problems.extend(not_given(&snapshot.resources, &config));
    Ok(Loaded {
        config,
        warnings: parsed.warnings.iter().map(ToString::to_string).collect(),
        incomplete: problems,
    })
}

/// The Pools that a controller would give our node a subnet out of, and nobody does here.
fn not_given(resources: &Resources, config: &NodeConfig) -> impl Iterator<Item = String> {
    let has = |family| {
        let mut subnets = config.subnets.iter();
        subnets.any(|subnet| subnet.prefix.family() == family)
    };
    let wanted = plan::wanted_subnets(resources).into_iter();
    let missing = wanted.filter(move |wanted| wanted.node == config.node && !has(wanted.family));
    missing.map(|wanted| {
        let (node, pool, family) = (wanted.node, wanted.pool, wanted.family);
        format!(
            "node `{node}`: Pool `{pool}` selects it, but it has no {family} subnet: a speaker without \
             a controller gives out none; write one in Node spec.subnets, and in Pool spec.reserved \
             if it lies in the Pool"
        )
    })
}

fn read(directory: &Path) -> Result<Vec<SourceFile>, String> {
    let cannot = |path: &Path, error: io::Error| format!("cannot read {}: {error}", path.display());
    let look = look(directory).map_err(|error| cannot(directory, error))?;
    if look.is_empty() {
        return Err(format!(
            "there is no .yaml or .yml file in {}",
            directory.display()
        ));
    }
    let mut files = Vec::new();
    for path in look.into_keys() {
        let text = fs::read_to_string(&path).map_err(|error| cannot(&path, error))?;
        if text.trim().is_empty() {
            return Err(format!(
                "{} is empty; is it half-written? To take its resources away, delete it",
                path.display()
            ));
        }
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        files.push(SourceFile { name, text });
    }
    Ok(files)
}

fn lines<T: ToString>(values: &[T]) -> String {
    values
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join("\n")
}
