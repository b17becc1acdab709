//! The files themselves: read, compared, replaced. Blocks on the disk.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use ::cni::names::{ADDRESS4, ADDRESS6};
use ::cni::node::{self, NodeFile, NodeFileError};
use serde_json::Value;

use super::{Found, Settings, Wanted, conflist};

/// The network configuration's name. Runtimes take the first one in the order of names.
const CONFLIST: &str = "10-routeshare.conflist";
/// What runtimes take for a network configuration.
const EXTENSIONS: [&str; 3] = ["conf", "conflist", "json"];
/// MTU of pods where no path has ever been known.
const ETHERNET: u32 = 1500;

const NODE_FILE: &str = "CniNodeFile";
const CONFIGURATION: &str = "CniConfiguration";
const SHADOWED: &str = "CniConfigurationShadowed";

pub(super) struct Files {
    conf_dir: Option<PathBuf>,
    data_dir: PathBuf,
}

impl Files {
    pub(super) fn new(settings: Settings) -> Files {
        Files {
            conf_dir: settings.conf_dir,
            data_dir: settings.data_dir,
        }
    }

    /// Makes the files what they are to be, and tells how they are then.
    pub(super) fn put_right(&self, wanted: &Wanted) -> Found {
        let mut found = Found::default();
        let node_file = self.node_file(wanted);
        if let Err(error) = &node_file {
            let message = format!("{}; pods cannot start by it", crate::desired::chain(error));
            found.problems.push((NODE_FILE, message));
        }
        if let Some(directory) = &self.conf_dir {
            self.conflist(directory, wanted, node_file.is_ok(), &mut found);
        }
        found
    }

    fn node_file(&self, wanted: &Wanted) -> Result<(), NodeFileError> {
        let path = NodeFile::path(&self.data_dir);
        let found = NodeFile::read(&path).ok(); // what cannot be read is replaced
        let mtu = wanted.mtu.or(found.as_ref().map(|found| found.mtu));
        let file = NodeFile {
            version: node::VERSION,
            subnets: wanted.subnets.clone(),
            mtu: mtu.unwrap_or(ETHERNET),
            cooldown_seconds: wanted.cooldown_seconds,
            route_protocol: ::cni::ROUTE_PROTOCOL,
            names: wanted.names.as_ref().map(|domain| node::Names {
                address4: Some(ADDRESS4),
                address6: Some(ADDRESS6),
                domain: domain.clone(),
            }),
        };
        match found.as_ref() == Some(&file) {
            true => Ok(()),
            false => file.write(&path),
        }
    }

    /// Written for the first time when pods may start; what is there is kept right in any case.
    fn conflist(&self, directory: &Path, wanted: &Wanted, has_node_file: bool, found: &mut Found) {
        let path = directory.join(CONFLIST);
        let before = fs::read(&path);
        let is_there = before.is_ok();
        let before = before
            .ok()
            .and_then(|bytes| serde_json::from_slice::<Value>(&bytes).ok());
        let content = conflist::wanted(wanted, &self.data_dir, before.as_ref());
        found.stands = is_there;
        let may_be_there = is_there || (wanted.ready && has_node_file);
        if may_be_there && before.as_ref() != Some(&content) {
            match replace(&path, &content) {
                Ok(()) => found.stands = true,
                Err(error) => found.problems.push(cannot_write(&path, &error, is_there)),
            }
        } else if !may_be_there && let Err(error) = fs::read_dir(directory) {
            // Better known before it matters.
            found.problems.push(cannot_write(&path, &error, is_there));
        }
        if found.stands
            && let Some(first) = first_before(directory, CONFLIST)
        {
            let message = format!(
                "{} comes before {CONFLIST}, so that the runtime takes it and pods do not get our network; \
                 remove it, or give it a name that comes later",
                directory.join(first).display()
            );
            found.problems.push((SHADOWED, message));
        }
    }
}

fn cannot_write(path: &Path, error: &io::Error, is_there: bool) -> (&'static str, String) {
    let meanwhile = match is_there {
        true => "the one before stays",
        false => "no pod can start",
    };
    let message = format!(
        "cannot write the network configuration {}: {error}; {meanwhile}, trying again; look whether the \
         directory is there (--cni-conf-dir) and can be written",
        path.display()
    );
    (CONFIGURATION, message)
}

/// The first network configuration that runtimes would take in place of `own`.
fn first_before(directory: &Path, own: &str) -> Option<String> {
    let entries = fs::read_dir(directory).ok()?;
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let is_configuration = |name: &String| {
        let extension = Path::new(name).extension().and_then(|it| it.to_str());
        extension.is_some_and(|it| EXTENSIONS.contains(&it))
    };
    let before = names.filter(|name| is_configuration(name) && name.as_str() < own);
    before.min()
}

/// Written beside it under a name that no runtime reads, then put in its place.
fn replace(path: &Path, content: &Value) -> io::Result<()> {
    let next = path.with_extension("conflist.new");
    let write = || -> io::Result<()> {
        let mut file = File::create(&next)?;
        writeln!(file, "{content:#}")?;
        file.sync_all()?;
        fs::rename(&next, path)
    };
    write().inspect_err(|_| {
        let _ = fs::remove_file(&next); // it may not have come to be
    })?;
    File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()
}
