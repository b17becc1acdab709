//! The store on disk, for a controller without Kubernetes.
//!
//! One `redb` file. Every grant is in a committed (synced) transaction before a NodeConfig that
//! contains it leaves this process, so that a crash at any moment forgets no grant that anybody has
//! seen. `redb` locks the file: a second controller on the same file is refused. The values are JSON,
//! so that what is in there can be read in ten years.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use api::SourceFile;
use ipam::numbers;
use ipam::pool::{self, Lease, Ledger};
use ipnetwork::IpNetwork;
use redb::{Database, DatabaseError, ReadableDatabase, ReadableTable, TableDefinition};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Commit, Contents, resources_digest};

/// Counts up when the tables change so that an older controller must not touch them.
const SCHEMA: u64 = 1;

const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
const SUBNETS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("subnets");
const NUMBERS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("numbers");
const VERSIONS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("versions");
const RESOURCES: TableDefinition<'_, &str, &str> = TableDefinition::new("resources");

const META_SCHEMA: &str = "schema";
const META_LAST_VERSION: &str = "last_version";
const META_GENERATION: &str = "generation";
const META_LOADED: &str = "loaded";
const META_CLOCK: &str = "clock";

/// The store in a file.
pub(crate) struct FileStore {
    path: PathBuf,
    /// None from an error to the next opening.
    database: Option<Database>,
}

/// Why the file cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FileError {
    #[error(
        "another controller has {path} open; only one may run on a state file: stop the other one, \
         or give this one a --state of its own (two controllers never serve the same nodes)"
    )]
    InUse { path: PathBuf },
    #[error(
        "{path} has schema {found}, which is newer than this controller ({SCHEMA}) understands; \
         use the newer controller"
    )]
    Newer { path: PathBuf, found: u64 },
    #[error("cannot create the state file {path}")]
    Create { path: PathBuf, source: io::Error },
    #[error(
        "cannot open the state file {path}; without it, it is not known which node holds which \
         subnet: restore it from a backup. (Deleting it gives every subnet out anew.)"
    )]
    Open { path: PathBuf, source: redb::Error },
    #[error("cannot read the state file {path}")]
    Read { path: PathBuf, source: redb::Error },
    #[error("cannot commit to the state file {path}")]
    Commit { path: PathBuf, source: redb::Error },
    #[error("the state file {path} is damaged: {what}")]
    Damaged { path: PathBuf, what: String },
}

impl FileStore {
    /// Opens the store, or creates it when the file is not there, and reads all of it.
    pub(crate) fn open(path: &Path) -> Result<(FileStore, Contents), FileError> {
        if !path.exists() {
            create(path).map_err(|source| FileError::Create {
                path: path.to_owned(),
                source,
            })?;
            // Whoever lost the old one must hear of it: nodes may hold subnets of it.
            tracing::warn!(
                path = %path.display(),
                "there was no state file; a new one was made, and nothing counts as given out: right for a new \
                 cluster; otherwise stop the controller and put the backup there"
            );
        }
        let mut store = FileStore {
            path: path.to_owned(),
            database: None,
        };
        let contents = store.reopen()?;
        Ok((store, contents))
    }

    /// Opens the file, which must be there, and reads all of it.
    pub(crate) fn reopen(&mut self) -> Result<Contents, FileError> {
        self.database = None;
        let database = Database::open(&self.path).map_err(|error| match error {
            DatabaseError::DatabaseAlreadyOpen => FileError::InUse {
                path: self.path.clone(),
            },
            other => FileError::Open {
                path: self.path.clone(),
                source: other.into(),
            },
        })?;
        let contents = self.read(&database)?;
        self.database = Some(database);
        Ok(contents)
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Makes the changes durable, all or none; returns after they are on disk.
    ///
    /// After an error it is not known which of the two happened: [`FileStore::reopen`] says.
    pub(crate) fn commit(&mut self, commit: &Commit<'_>) -> Result<(), FileError> {
        let database = self.database.take();
        let database = database.expect("nobody commits between an error and reopen()");
        try_commit(&database, commit).map_err(|source| FileError::Commit {
            path: self.path.clone(),
            source,
        })?;
        self.database = Some(database);
        Ok(())
    }

    fn read(&self, database: &Database) -> Result<Contents, FileError> {
        let (contents, leases) = self.try_read(database)?;
        let ledger = Ledger::new(leases).map_err(|overlap| FileError::Damaged {
            path: self.path.clone(),
            what: overlap.to_string(),
        })?;
        Ok(Contents { ledger, ..contents })
    }

    fn try_read(
        &self,
        database: &Database,
    ) -> Result<(Contents, Vec<(IpNetwork, Lease)>), FileError> {
        let failed = |source: redb::Error| FileError::Read {
            path: self.path.clone(),
            source,
        };
        let transaction = database.begin_read().map_err(|e| failed(e.into()))?;
        let meta = transaction.open_table(META).map_err(|e| failed(e.into()))?;
        let number = |key: &str| -> Result<u64, FileError> {
            let value = meta.get(key).map_err(|e| failed(e.into()))?;
            Ok(value.map_or(0, |value| value.value()))
        };
        let found = number(META_SCHEMA)?;
        if found > SCHEMA {
            return Err(FileError::Newer {
                path: self.path.clone(),
                found,
            });
        }
        if found == 0 {
            return Err(self.damaged("it has no schema version".to_owned()));
        }
        let table = |definition: TableDefinition<'static, &'static str, &'static [u8]>| {
            let table = transaction
                .open_table(definition)
                .map_err(|e| failed(e.into()))?;
            let rows = table.iter().map_err(|e| failed(e.into()))?;
            rows.map(|row| {
                let (key, value) = row.map_err(|e| failed(e.into()))?;
                Ok((key.value().to_owned(), value.value().to_vec()))
            })
            .collect::<Result<Vec<(String, Vec<u8>)>, FileError>>()
        };
        let mut leases = Vec::new();
        for (key, value) in table(SUBNETS)? {
            let subnet = key.parse().map_err(|_| self.damaged(format!("`{key}`")))?;
            leases.push((subnet, self.parse(&key, &value)?));
        }
        let mut contents = Contents {
            last_version: number(META_LAST_VERSION)?,
            clock: number(META_CLOCK)?,
            ..Contents::default()
        };
        for (key, value) in table(NUMBERS)? {
            let lease = self.parse(&key, &value)?;
            contents.numbers.insert(key, lease);
        }
        for (key, value) in table(VERSIONS)? {
            let version = self.parse(&key, &value)?;
            contents.versions.insert(key, version);
        }
        contents.resources.generation = number(META_GENERATION)?;
        contents.resources.loaded = number(META_LOADED)?;
        let files = transaction
            .open_table(RESOURCES)
            .map_err(|e| failed(e.into()))?;
        for row in files.iter().map_err(|e| failed(e.into()))? {
            let (name, text) = row.map_err(|e| failed(e.into()))?;
            contents.resources.files.push(SourceFile {
                name: name.value().to_owned(),
                text: text.value().to_owned(),
            });
        }
        contents.resources.digest = resources_digest(&contents.resources.files);
        Ok((contents, leases))
    }

    fn parse<T: DeserializeOwned>(&self, key: &str, value: &[u8]) -> Result<T, FileError> {
        serde_json::from_slice(value).map_err(|error| self.damaged(format!("`{key}`: {error}")))
    }

    fn damaged(&self, what: String) -> FileError {
        FileError::Damaged {
            path: self.path.clone(),
            what,
        }
    }
}

fn try_commit(database: &Database, commit: &Commit<'_>) -> Result<(), redb::Error> {
    // The default durability is Immediate: commit() returns after the sync.
    let transaction = database.begin_write()?;
    {
        let mut subnets = transaction.open_table(SUBNETS)?;
        for change in commit.subnets {
            match change {
                pool::Change::Set(subnet, lease) => {
                    subnets.insert(subnet.to_string().as_str(), json(lease).as_slice())?;
                }
                pool::Change::Free(subnet) => {
                    subnets.remove(subnet.to_string().as_str())?;
                }
            }
        }
        let mut numbers = transaction.open_table(NUMBERS)?;
        for change in commit.numbers {
            match change {
                numbers::Change::Set(key, lease) => {
                    numbers.insert(key.as_str(), json(lease).as_slice())?;
                }
                numbers::Change::Free(key) => {
                    numbers.remove(key.as_str())?;
                }
            }
        }
        let mut versions = transaction.open_table(VERSIONS)?;
        for (node, version) in commit.versions {
            match version {
                Some(version) => {
                    versions.insert(node.as_str(), json(version).as_slice())?;
                }
                None => {
                    versions.remove(node.as_str())?;
                }
            }
        }
        let mut meta = transaction.open_table(META)?;
        meta.insert(META_LAST_VERSION, commit.last_version)?;
        meta.insert(META_CLOCK, commit.clock)?;
        if let Some(resources) = commit.resources {
            meta.insert(META_GENERATION, resources.generation)?;
            meta.insert(META_LOADED, resources.loaded)?;
            transaction.delete_table(RESOURCES)?;
            let mut files = transaction.open_table(RESOURCES)?;
            for file in &resources.files {
                files.insert(file.name.as_str(), file.text.as_str())?;
            }
        }
    }
    transaction.commit()?;
    Ok(())
}

fn json<T: Serialize>(value: &T) -> Vec<u8> {
    serde_json::to_vec(value).expect("leases and versions have nothing JSON cannot say")
}

/// Creates the file whole or not at all: a crash never leaves one that is half made, and of two
/// controllers that create it at once, both open the same.
fn create(path: &Path) -> io::Result<()> {
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    fs::create_dir_all(parent)?;
    let temporary = path.with_added_extension(format!("new-{}", std::process::id()));
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    initialise(&temporary).map_err(io::Error::other)?;
    let linked = fs::hard_link(&temporary, path);
    fs::remove_file(&temporary)?;
    match linked {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => File::open(parent)?.sync_all(),
    }
}

fn initialise(path: &Path) -> Result<(), redb::Error> {
    let database = Database::create(path)?;
    let transaction = database.begin_write()?;
    transaction.open_table(META)?.insert(META_SCHEMA, SCHEMA)?;
    transaction.open_table(SUBNETS)?;
    transaction.open_table(NUMBERS)?;
    transaction.open_table(VERSIONS)?;
    transaction.open_table(RESOURCES)?;
    transaction.commit()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use ipam::numbers::NumberLease;
    use ipam::pool::{Change, State};

    use super::*;
    use crate::store::{StoredResources, Version};

    fn lease(node: &str) -> Lease {
        Lease {
            pool: "pods".to_owned(),
            node: node.to_owned(),
            fixed: false,
            state: State::Waiting { free_at: 7 },
            since: 5,
        }
    }

    #[test]
    fn what_was_committed_is_there_after_opening_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sub/state.redb");
        let subnet: IpNetwork = "10.0.0.0/24".parse().unwrap();
        let resources = StoredResources {
            files: vec![SourceFile {
                name: "a.yaml".to_owned(),
                text: "kind: Fabric".to_owned(),
            }],
            ..StoredResources::default()
        };
        let resources = StoredResources {
            digest: resources_digest(&resources.files),
            generation: 3,
            loaded: 99,
            ..resources
        };
        let number = NumberLease {
            asn: 65001,
            free_at: None,
        };
        let version = Version {
            version: 12,
            digest: "00ff".to_owned(),
        };
        {
            let (mut store, contents) = FileStore::open(&path).unwrap();
            assert_eq!(contents.ledger, Ledger::default());
            store
                .commit(&Commit {
                    subnets: &[Change::Set(subnet, lease("a"))],
                    numbers: &[numbers::Change::Set("node/a".to_owned(), number)],
                    versions: &[("a".to_owned(), Some(version.clone()))],
                    last_version: 12,
                    clock: 1234,
                    resources: Some(&resources),
                })
                .unwrap();
        }
        {
            let (mut store, contents) = FileStore::open(&path).unwrap();
            assert_eq!(contents.ledger.get(subnet), Some(&lease("a")));
            assert_eq!(contents.numbers["node/a"], number);
            assert_eq!(contents.versions["a"], version);
            assert_eq!(contents.last_version, 12);
            assert_eq!(contents.clock, 1234);
            assert_eq!(contents.resources, resources);
            store
                .commit(&Commit {
                    subnets: &[Change::Free(subnet)],
                    numbers: &[numbers::Change::Free("node/a".to_owned())],
                    versions: &[("a".to_owned(), None)],
                    last_version: 12,
                    clock: 1234,
                    resources: None,
                })
                .unwrap();
        }
        let (_store, contents) = FileStore::open(&path).unwrap();
        assert_eq!(contents.ledger, Ledger::default());
        assert!(contents.numbers.is_empty() && contents.versions.is_empty());
        assert_eq!(contents.resources, resources, "kept by a commit without");
    }

    #[test]
    fn a_second_controller_on_the_same_file_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.redb");
        let _first = FileStore::open(&path).unwrap();
        let error = FileStore::open(&path).map(|_| ()).unwrap_err();
        assert!(matches!(error, FileError::InUse { .. }), "{error}");
    }

    #[test]
    fn an_emptied_or_foreign_file_is_refused_and_not_taken_for_a_new_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.redb");
        for text in ["", "apiVersion: v1\n", &"x".repeat(100_000)] {
            fs::write(&path, text).unwrap();
            let error = FileStore::open(&path).map(|_| ()).unwrap_err();
            assert!(matches!(error, FileError::Open { .. }), "{error}");
            assert_eq!(fs::read_to_string(&path).unwrap(), text, "not touched");
        }
    }

    #[test]
    fn a_store_of_a_newer_controller_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.redb");
        drop(FileStore::open(&path).unwrap());
        let database = Database::open(&path).unwrap();
        let transaction = database.begin_write().unwrap();
        let mut meta = transaction.open_table(META).unwrap();
        meta.insert(META_SCHEMA, SCHEMA + 1).unwrap();
        drop(meta);
        transaction.commit().unwrap();
        drop(database);
        let error = FileStore::open(&path).map(|_| ()).unwrap_err();
        assert!(matches!(error, FileError::Newer { .. }), "{error}");
    }
}
