//! What can go wrong with leases, in words that say what to do.

use std::fmt;
use std::io;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use ipnetwork::IpNetwork;
use jiff::Timestamp;

use super::range::Exclusion;
use super::{Lease, Now};

/// The log of leases cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The operating system does not let us.
    #[error("cannot {attempt} {path}: {error}{advice}", advice = advice(error))]
    Io {
        /// What was attempted.
        attempt: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        error: io::Error,
    },
    /// The directory is there, the log is not.
    #[error(
        "{path} is missing beside its lock, so it is not known who has which address; put it back, or, \
         when no container of this machine has an interface of ours any more, remove the directory"
    )]
    Missing {
        /// Where it should be.
        path: PathBuf,
    },
    /// Not a log of ours.
    #[error("{path} is no log of leases ({what}); it is left as it is: move it away")]
    Foreign {
        /// The file.
        path: PathBuf,
        /// What it is instead.
        what: String,
    },
    /// Of another version of this program.
    #[error(
        "{path} is of version {version}, this build reads version {}; it is left as it is: use the \
         build that wrote it, or a newer one",
        super::record::VERSION
    )]
    Version {
        /// The file.
        path: PathBuf,
        /// Its version.
        version: u32,
    },
    /// A line is not as it was written, and it is no trace of a power failure.
    #[error(
        "{path} is damaged in line {line}: {what}; no address is given or freed until that is mended, \
         because one that is in use could be given again. Restore the file, or, when no container of \
         this machine has an interface of ours any more, remove its directory"
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
        /// What is wrong.
        what: String,
    },
}

fn advice(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            " (no lease can begin until there is room again; leases can end)"
        }
        _ => "",
    }
}

/// Why a container gets no address.
#[derive(Debug, thiserror::Error)]
pub enum AllocateError {
    /// No address of a family is free.
    #[error(transparent)]
    Exhausted(Exhausted),
    /// An address was requested that cannot be had.
    #[error("the requested address {address} cannot be given: {why}")]
    Unavailable {
        /// As requested.
        address: IpAddr,
        /// Why not.
        why: Unavailable,
    },
    /// The attachment has other addresses already.
    #[error(
        "the requested address {address} cannot be given: {} of container {} has {} already; DEL it \
         first",
        lease.owner.ifname, lease.owner.container, list(&lease.addresses)
    )]
    HasOthers {
        /// As requested.
        address: IpAddr,
        /// What it has.
        lease: Box<Lease>,
    },
    /// The log cannot be written.
    #[error(transparent)]
    Log(#[from] LogError),
}

impl AllocateError {
    /// The same request can succeed a little later with nobody doing anything: an address is cooling
    /// down. (CNI: error code 11, "try again later".)
    #[must_use]
    pub fn is_temporary(&self) -> bool {
        match self {
            AllocateError::Exhausted(exhausted) => exhausted.next.is_some(),
            AllocateError::Unavailable { why, .. } => matches!(why, Unavailable::CoolingDown(_)),
            AllocateError::HasOthers { .. } | AllocateError::Log(_) => false,
        }
    }
}

/// Why a requested address cannot be had.
#[derive(Debug)]
pub enum Unavailable {
    /// It is in none of the ranges, which are these.
    OutOfRange(Vec<String>),
    /// Nobody may have it.
    Excluded(Exclusion),
    /// Its subnet gives no new addresses.
    Draining(IpNetwork),
    /// Somebody has it.
    Taken(Box<Lease>),
    /// It was freed too short a time ago.
    CoolingDown(Ends),
}

impl fmt::Display for Unavailable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Unavailable::OutOfRange(ranges) if ranges.is_empty() => {
                f.write_str("this network gives no addresses")
            }
            Unavailable::OutOfRange(ranges) => {
                write!(f, "it is not in {}", ranges.join(", "))
            }
            Unavailable::Excluded(exclusion) => write!(f, "it is {exclusion}"),
            Unavailable::Draining(subnet) => {
                write!(f, "its subnet {subnet} is being taken away from this node")
            }
            Unavailable::Taken(lease) => {
                let (owner, network) = (&lease.owner, &lease.network);
                let (ifname, container) = (&owner.ifname, &owner.container);
                write!(f, "{ifname} of container {container}")?;
                if let Some(name) = &owner.name {
                    write!(f, " ({name})")?;
                }
                write!(f, " has it in the network {network}")
            }
            Unavailable::CoolingDown(ends) => write!(
                f,
                "it was freed a short time ago and is given to nobody else before {ends}"
            ),
        }
    }
}

/// When a cool-down ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ends {
    /// From now.
    pub after: Duration,
    /// By the clock on the wall, if nobody sets it meanwhile.
    pub at: Timestamp,
}

impl Ends {
    pub(super) fn after(after: Duration, now: &Now) -> Ends {
        let at = now.wall.checked_add(after).unwrap_or(Timestamp::MAX);
        Ends { after, at }
    }
}

impl fmt::Display for Ends {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Rounded up: at that second it can be had.
        let seconds = self.after.as_secs() + 1;
        let at = self.at.as_second() + 1;
        let at = Timestamp::from_second(at).unwrap_or(self.at);
        write!(f, "{at} (in {seconds} s)")
    }
}

/// No address of a family is free.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exhausted {
    /// IPv4 or IPv6.
    pub family: &'static str,
    /// What the addresses would have come from.
    pub ranges: Vec<String>,
    /// How many of these give no new addresses.
    pub draining: usize,
    /// How many addresses containers have.
    pub leased: usize,
    /// How many were freed too short a time ago.
    pub cooling: usize,
    /// When the first of those can be given again.
    pub next: Option<Ends>,
}

impl Exhausted {
    pub(super) fn new(ipv4: bool) -> Exhausted {
        Exhausted {
            family: if ipv4 { "IPv4" } else { "IPv6" },
            ranges: Vec::new(),
            draining: 0,
            leased: 0,
            cooling: 0,
            next: None,
        }
    }
}

impl fmt::Display for Exhausted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (family, ranges) = (self.family, self.ranges.join(", "));
        if self.draining == self.ranges.len() {
            return write!(
                f,
                "no {family} address: {ranges} being taken away from this node, and it has no other \
                 subnet"
            );
        }
        write!(f, "no {family} address is free in {ranges}: ")?;
        if self.draining > 0 {
            write!(
                f,
                "{} of them being taken away from this node, ",
                self.draining
            )?;
        }
        write!(f, "containers have {}", self.leased)?;
        if let Some(next) = &self.next {
            write!(
                f,
                ", {} were freed a short time ago and are cooling down, the first until {next}",
                self.cooling
            )?;
        }
        Ok(())
    }
}

impl std::error::Error for Exhausted {}

fn list(addresses: &[IpNetwork]) -> String {
    let addresses: Vec<String> = addresses.iter().map(|it| it.ip().to_string()).collect();
    match addresses.is_empty() {
        true => "no address".to_owned(),
        false => addresses.join(" and "),
    }
}
