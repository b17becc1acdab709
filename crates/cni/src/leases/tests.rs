//! One rule each, with files in a directory of the test's own and a clock that it sets.

mod addresses;
mod files;
mod model;

use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use ipnetwork::IpNetwork;
use jiff::Timestamp;
use tempfile::TempDir;

use super::*;

const COOLDOWN: Duration = Duration::from_secs(60);

/// So many milliseconds after the boot `boot`.
fn at(boot: &str, uptime_ms: u64) -> Now {
    let uptime = Duration::from_millis(uptime_ms);
    Now {
        boot: boot.to_owned(),
        uptime,
        wall: "2026-11-21T14:45:00Z".parse::<Timestamp>().unwrap() + uptime,
    }
}

fn owner(container: &str) -> Owner {
    Owner {
        container: container.to_owned(),
        ifname: "eth0".to_owned(),
        mode: "routed".to_owned(),
        ..Owner::default()
    }
}

fn routed(subnets: &[&str]) -> Request {
    let ranges = subnets
        .iter()
        .map(|subnet| Range::routed(net(subnet)).of_node());
    Request {
        ranges: ranges.collect(),
        requested: Vec::new(),
        cooldown: COOLDOWN,
    }
}

fn net(text: &str) -> IpNetwork {
    text.parse().unwrap()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// A machine's leases, used by one process after the other.
struct Machine {
    directory: TempDir,
    now: Now,
}

impl Machine {
    fn new() -> Machine {
        Machine {
            directory: tempfile::tempdir().unwrap(),
            now: at("boot-1", 1_000_000),
        }
    }

    /// In memory where that can be had: for thousands of writes, none of which has to outlive the power.
    fn quick() -> Machine {
        let directory = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir());
        Machine {
            directory: directory.unwrap(),
            ..Machine::new()
        }
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }

    fn log(&self) -> PathBuf {
        Snapshot::path(self.path())
    }

    fn pass(&mut self, time: Duration) {
        self.now = at(&self.now.boot, 0).after(self.now.uptime + time);
    }

    fn open(&self, network: &str) -> Leases {
        Leases::open(self.path(), network, self.now.clone()).unwrap()
    }

    fn add_as(
        &self,
        network: &str,
        owner: Owner,
        request: &Request,
    ) -> Result<Vec<String>, AllocateError> {
        let (lease, durable) = self.open(network).allocate(owner, request)?;
        durable.wait().unwrap();
        Ok(lease.addresses.iter().map(ToString::to_string).collect())
    }

    fn add(&self, container: &str, request: &Request) -> Result<Vec<String>, AllocateError> {
        self.add_as("pods", owner(container), request)
    }

    fn del(&self, container: &str) -> Option<Lease> {
        self.open("pods").release(container, "eth0").unwrap()
    }

    fn snapshot(&self) -> Snapshot {
        Snapshot::read(self.path(), &self.now).unwrap()
    }
}

impl Now {
    fn after(mut self, uptime: Duration) -> Now {
        self.uptime = uptime;
        self
    }
}
