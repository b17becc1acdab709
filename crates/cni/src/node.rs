//! The node file: what the plugin has to know of its node, so that it needs nobody to be running.
//!
//! The speaker writes it whenever its content changes; the plugin reads it at every ADD, STATUS and GC.
//! One of them may be newer than the other: fields that a reader does not know are passed over, and
//! those that a writer did not know have defaults. What cannot be read so has another `version`.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};

use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};

/// The file's name in the data directory.
pub const NAME: &str = "node.json";
/// The version that this program reads and writes.
pub const VERSION: u32 = 1;

/// What the plugin has to know of its node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeFile {
    /// Always [`VERSION`].
    pub version: u32,
    /// In the order of their prefixes; none before anything was given to the node.
    pub subnets: Vec<Subnet>,
    /// Of pods' interfaces, in octets.
    pub mtu: u32,
    /// How long an address is not used again.
    #[serde(default = "a_minute")]
    pub cooldown_seconds: u64,
    /// What host routes to pods carry; [`crate::ROUTE_PROTOCOL`].
    #[serde(default = "route_protocol")]
    pub route_protocol: u8,
    /// Where pods ask for names; absent where nobody answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub names: Option<Names>,
}

/// A subnet of the node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Subnet {
    /// Its addresses.
    pub prefix: IpNetwork,
    /// The Pool it is out of; empty for one that the node was given by hand.
    #[serde(default)]
    pub pool: String,
    /// What the addresses are for; pods have those of `Pods`.
    pub purpose: String,
    /// Parts of it that no pod gets.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reserved: Vec<IpNetwork>,
    /// Whether pods still get addresses out of it.
    pub state: State,
}

/// The purpose of subnets for pods.
pub const PODS: &str = "Pods";

/// Whether pods get addresses out of a subnet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum State {
    /// They do.
    Active,
    /// Those that have one keep it; nobody gets another one.
    Draining,
}

/// Where pods ask for names.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Names {
    /// The resolver's IPv4 address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address4: Option<Ipv4Addr>,
    /// The resolver's IPv6 address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address6: Option<Ipv6Addr>,
    /// What names of containers end in, without dots around it.
    pub domain: String,
}

/// Why there is no node file to work by.
#[derive(Debug, thiserror::Error)]
pub enum NodeFileError {
    /// There is none.
    #[error(
        "there is no {path}: routeshare-speaker writes it as soon as it has the node's configuration; \
         `bgpctl show status` on this node says what it waits for; does it run, with this directory as its \
         --cni-data-dir?"
    )]
    Missing {
        /// Where it should be.
        path: PathBuf,
    },
    /// It is there.
    #[error("cannot read {path}")]
    Read {
        /// Where it is.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is none.
    #[error(
        "{path} is no node file; routeshare-speaker writes it again within ten seconds while it runs"
    )]
    Parse {
        /// Where it is.
        path: PathBuf,
        /// Why.
        source: serde_json::Error,
    },
    /// Somebody newer wrote it.
    #[error(
        "{path} has version {found}, and this program reads version {VERSION}: install the plugin and the \
         speaker of one release"
    )]
    Version {
        /// Where it is.
        path: PathBuf,
        /// What it says.
        found: u32,
    },
    /// It cannot be replaced.
    #[error("cannot write {path}")]
    Write {
        /// Where it is.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl NodeFile {
    /// The file in a data directory.
    pub fn path(data_dir: &Path) -> PathBuf {
        data_dir.join(NAME)
    }

    /// Reads the file at `path`.
    ///
    /// # Errors
    ///
    /// [`NodeFileError`], but for `Write`.
    pub fn read(path: &Path) -> Result<NodeFile, NodeFileError> {
        let path_of = || path.to_owned();
        let bytes = fs::read(path).map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => NodeFileError::Missing { path: path_of() },
            _ => NodeFileError::Read {
                path: path_of(),
                source,
            },
        })?;
        /// Of another version nothing else is looked at.
        #[derive(Deserialize)]
        struct Versioned {
            version: u32,
        }
        let parse = |source| NodeFileError::Parse {
            path: path_of(),
            source,
        };
        let found = serde_json::from_slice::<Versioned>(&bytes).map_err(parse)?;
        if found.version != VERSION {
            return Err(NodeFileError::Version {
                path: path_of(),
                found: found.version,
            });
        }
        serde_json::from_slice(&bytes).map_err(parse)
    }

    /// Replaces the file at `path`, whose directory is made if need be. When this returns, the new one
    /// survives a power failure; whoever reads meanwhile finds the old one or the new one.
    ///
    /// # Errors
    ///
    /// [`NodeFileError::Write`].
    pub fn write(&self, path: &Path) -> Result<(), NodeFileError> {
        let mut bytes = serde_json::to_vec_pretty(self).expect("there is no map with other keys");
        bytes.push(b'\n');
        replace(path, &bytes).map_err(|source| NodeFileError::Write {
            path: path.to_owned(),
            source,
        })
    }

    /// Subnets out of which pods get addresses now.
    pub fn active(&self) -> impl Iterator<Item = &Subnet> {
        let subnets = self.subnets.iter();
        subnets.filter(|subnet| subnet.purpose == PODS && subnet.state == State::Active)
    }
}

/// Writes a file whole or not at all: beside it, then in its place.
fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let directory = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(directory)?;
    let next = path.with_extension("json.new");
    let mut file = File::create(&next)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&next, path)?;
    File::open(directory)?.sync_all()
}

fn a_minute() -> u64 {
    60
}

fn route_protocol() -> u8 {
    crate::ROUTE_PROTOCOL
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file() -> NodeFile {
        NodeFile {
            version: VERSION,
            subnets: vec![Subnet {
                prefix: "10.64.0.0/24".parse().unwrap(),
                pool: "pods".into(),
                purpose: PODS.into(),
                reserved: vec!["10.64.0.0/30".parse().unwrap()],
                state: State::Active,
            }],
            mtu: 1500,
            cooldown_seconds: 30,
            route_protocol: 150,
            names: Some(Names {
                address4: Some("169.254.1.1".parse().unwrap()),
                address6: None,
                domain: "pods".into(),
            }),
        }
    }

    #[test]
    fn what_was_written_is_read_and_nothing_is_left_beside_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = NodeFile::path(&directory.path().join("not/there/yet"));
        file().write(&path).unwrap();
        assert_eq!(NodeFile::read(&path).unwrap(), file());
        let other = NodeFile {
            mtu: 9000,
            ..file()
        };
        other.write(&path).unwrap();
        assert_eq!(NodeFile::read(&path).unwrap(), other);
        let beside = fs::read_dir(path.parent().unwrap()).unwrap();
        assert_eq!(beside.count(), 1);
    }

    #[test]
    fn fields_may_be_more_or_fewer_than_we_know() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(NAME);
        let text = r#"{"version": 1, "mtu": 1450, "zone": "a", "subnets":
            [{"prefix": "fd00::/64", "purpose": "Pods", "state": "Draining", "rack": 7}]}"#;
        fs::write(&path, text).unwrap();
        let read = NodeFile::read(&path).unwrap();
        assert_eq!((read.cooldown_seconds, read.route_protocol), (60, 150));
        assert_eq!(read.subnets[0].state, State::Draining);
        assert_eq!(read.active().count(), 0);
    }

    #[test]
    fn what_cannot_be_worked_by_says_what_to_do() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(NAME);
        let why = || NodeFile::read(&path).unwrap_err().to_string();
        assert!(why().contains("routeshare-speaker writes it"), "{}", why());
        fs::write(&path, r#"{"version": 2, "subnets": 0}"#).unwrap();
        assert!(why().contains("version 2"), "{}", why());
        fs::write(&path, r#"{"version": 1}"#).unwrap();
        assert!(why().contains("no node file"), "{}", why());
        let below = path.join("node.json");
        let error = file().write(&below).unwrap_err().to_string();
        assert!(error.contains("cannot write"), "{error}");
    }
}
