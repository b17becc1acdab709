//! Where a demo stands: one that stays is found again by name, one that is checked and removed is alone.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use lab::Namespace;

use super::topology;

/// The files of the demo that stays, and how those of the others begin.
const DIRECTORY: &str = "/run/routeshare-demo";

/// The names of a demo's namespaces and files. Two demos of different sites do not see each other.
pub(crate) struct Site {
    prefix: String,
    directory: PathBuf,
}

impl Site {
    /// The one that a person explores, and that the next demo replaces.
    pub(crate) fn to_stay() -> Site {
        Site {
            prefix: "rs-".into(),
            directory: DIRECTORY.into(),
        }
    }

    /// That of this process alone.
    pub(crate) fn of_this_process() -> Site {
        Site::of_process(std::process::id())
    }

    fn of_process(id: u32) -> Site {
        Site {
            prefix: format!("rs{id}-"),
            directory: format!("{DIRECTORY}-{id}").into(),
        }
    }

    /// Those of processes that ended before they could remove it.
    pub(crate) fn orphans() -> anyhow::Result<Vec<Site>> {
        let parent = Path::new(DIRECTORY).parent().unwrap_or(Path::new("/"));
        let entries =
            fs::read_dir(parent).with_context(|| format!("cannot read {}", parent.display()))?;
        let ids = entries.flatten().filter_map(|entry| {
            let path = entry.path();
            let id = path.to_str()?.strip_prefix(DIRECTORY)?.strip_prefix('-')?;
            id.parse::<u32>().ok()
        });
        let gone = ids.filter(|id| !Path::new(&format!("/proc/{id}")).exists());
        Ok(gone.map(Site::of_process).collect())
    }

    /// Whether it is left up to be explored.
    pub(crate) fn stays(&self) -> bool {
        self.directory == Path::new(DIRECTORY)
    }

    /// Files of this demo.
    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    /// The name of a machine's namespace.
    pub(crate) fn namespace(&self, machine: &str) -> String {
        format!("{}{machine}", self.prefix)
    }

    /// A machine, which stays when this program ends.
    pub(crate) fn create(&self, machine: &str) -> anyhow::Result<Namespace> {
        Namespace::create(&self.namespace(machine)).map(Namespace::keep)
    }

    /// Removes every machine and all files; says how many machines there were.
    pub(crate) fn remove(&self) -> anyhow::Result<usize> {
        let mut removed = 0;
        for name in topology::all_machines() {
            if let Some(machine) = Namespace::existing(&self.namespace(&name)) {
                machine.remove()?;
                removed += 1;
            }
        }
        match fs::remove_dir_all(&self.directory) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("cannot remove {}", self.directory.display()))
            }
            _ => Ok(removed),
        }
    }

    /// Keeps other demos from building or removing this one until the file is dropped; `waiting` is
    /// called when that takes a while.
    pub(crate) fn lock(&self, waiting: impl FnOnce()) -> anyhow::Result<File> {
        let path = self.directory.with_extension("lock");
        let what = || format!("cannot lock {}", path.display());
        let file = File::create(&path).with_context(what)?;
        if file.try_lock().is_err() {
            waiting();
            file.lock().with_context(what)?;
        }
        Ok(file)
    }
}
