//! What the records of the log come to.

use std::collections::BTreeMap;
use std::hash::BuildHasher as _;
use std::net::IpAddr;
use std::time::Duration;

use hashbrown::{DefaultHashBuilder, HashMap, HashTable};

use super::record::{Boot, Cooling, Format, Free, Record};
use super::{Lease, Now};

/// Records more than twice as many as there would be in a log written anew, and this many: written
/// anew. A log of 250 containers then has at most some 150 KiB.
const HISTORY: usize = 128;

/// When the log is written anew, addresses stay in it as freed for this long, and for as long as the
/// cool-down was when they were given; so a longer one holds for those that are freed already.
const KEPT: Duration = Duration::from_secs(600);

/// The leases and freed addresses of all networks.
#[derive(Clone, Debug, Default)]
pub(super) struct State {
    /// By their place in the order in which they began.
    leases: BTreeMap<u64, Lease>,
    /// Those places, by whose the leases are.
    places: HashTable<u64>,
    hasher: DefaultHashBuilder,
    /// By address and, for the networks' own subnets, network.
    cooling: HashMap<(Scope, IpAddr), Cooling>,
    next_place: u64,
    boot: Option<String>,
    /// The log does not say yet that this boot has begun.
    boot_unwritten: bool,
    records: usize,
}

/// Within what an address is unique: the node, or one network.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Scope {
    Node,
    Network(String),
}

impl Scope {
    pub(super) fn new(of_node: bool, network: &str) -> Scope {
        match of_node {
            true => Scope::Node,
            false => Scope::Network(network.to_owned()),
        }
    }
}

/// How long ago something happened, at least. What seems to lie ahead was before the clock began
/// anew, which a container's /proc/uptime does when that is restarted.
pub(super) fn ago(uptime_ms: u64, now: &Now) -> Duration {
    let then = Duration::from_millis(uptime_ms);
    now.uptime.checked_sub(then).unwrap_or(now.uptime)
}

/// The kernel tells hundredths of a second, so the end itself is not yet past it.
pub(super) fn is_cooling_down(ago: Duration, cooldown: Duration) -> bool {
    !cooldown.is_zero() && ago <= cooldown
}

impl State {
    /// What a record of the log does.
    pub(super) fn apply(&mut self, record: Record) {
        self.records += 1;
        match record {
            Record::Format(_) => {}
            Record::Boot(boot) => self.begin(boot.id),
            Record::Lease(lease) => self.lease(lease),
            Record::Free(free) => self.free(&free),
            Record::Cooling(cooling) => self.cool(cooling),
        }
    }

    /// The boot that the last record is of.
    pub(super) fn boot(&self) -> Option<&str> {
        self.boot.as_deref()
    }

    /// Knows what a new boot of the machine means, whether or not the log says so yet.
    pub(super) fn enter(&mut self, now: &Now) {
        if self.boot.as_ref() != Some(&now.boot) {
            self.begin(now.boot.clone());
            self.boot_unwritten = true;
        }
    }

    /// The record that has to be written before any other.
    pub(super) fn boot_to_write(&self, now: &Now) -> Option<Record> {
        self.boot_unwritten.then(|| boot_record(now))
    }

    pub(super) fn boot_is_written(&mut self) {
        self.boot_unwritten = false;
    }

    /// In the order in which they began.
    pub(super) fn leases(&self) -> impl Iterator<Item = &Lease> {
        self.leases.values()
    }

    pub(super) fn leases_newest_first(&self) -> impl Iterator<Item = &Lease> {
        self.leases.values().rev()
    }

    pub(super) fn of(&self, network: &str, container: &str, ifname: &str) -> Option<&Lease> {
        let of_it = |place: &u64| self.leases[place].is_of(network, container, ifname);
        let hash = self.hasher.hash_one((network, container, ifname));
        self.leases.get(self.places.find(hash, of_it)?)
    }

    /// Who had an address that was freed, and when.
    pub(super) fn freed(&self, scope: Scope, address: IpAddr) -> Option<&Cooling> {
        self.cooling.get(&(scope, address))
    }

    /// Freed addresses, in no order; of some the cool-down is over.
    pub(super) fn cooling(&self) -> impl Iterator<Item = &Cooling> {
        self.cooling.values()
    }

    /// Whether a log written anew would be much shorter.
    pub(super) fn is_mostly_history(&self, now: &Now) -> bool {
        let kept = self.leases.len() + self.kept(now).count();
        self.records > 2 * kept + HISTORY
    }

    /// The lines of a log that comes to the same state.
    pub(super) fn compact(&self, now: &Now) -> Vec<u8> {
        let mut lines = Vec::new();
        Record::Format(Format::ours()).write(&mut lines);
        boot_record(now).write(&mut lines);
        let mut cooling: Vec<&Cooling> = self.kept(now).collect();
        cooling.sort_by_key(|cooling| (cooling.uptime_ms, cooling.ip()));
        for cooling in cooling {
            Record::Cooling(cooling.clone()).write(&mut lines);
        }
        for lease in self.leases.values() {
            Record::Lease(lease.clone()).write(&mut lines);
        }
        lines
    }

    fn kept(&self, now: &Now) -> impl Iterator<Item = &Cooling> {
        let recent = |cooling: &&Cooling| {
            let cooldown = Duration::from_secs(cooling.cooldown_seconds);
            ago(cooling.uptime_ms, now) <= cooldown.max(KEPT)
        };
        self.cooling.values().filter(recent)
    }

    fn begin(&mut self, boot: String) {
        if self.boot.as_ref() == Some(&boot) {
            return;
        }
        self.boot = Some(boot);
        for lease in self.leases.values_mut() {
            lease.earlier_boot = true;
        }
        for cooling in self.cooling.values_mut() {
            cooling.uptime_ms = 0;
        }
    }

    fn lease(&mut self, lease: Lease) {
        for address in &lease.addresses {
            let scope = Scope::new(lease.of_node, &lease.network);
            self.cooling.remove(&(scope, address.ip()));
        }
        let place = self.next_place;
        self.next_place += 1;
        let (container, ifname) = (&lease.owner.container, &lease.owner.ifname);
        self.take(&lease.network, container, ifname);
        let hash = hash_of(&self.hasher, &lease);
        self.leases.insert(place, lease);
        let (hasher, leases) = (&self.hasher, &self.leases);
        self.places
            .insert_unique(hash, place, |place| hash_of(hasher, &leases[place]));
    }

    fn free(&mut self, free: &Free) {
        let Some(lease) = self.take(&free.network, &free.container, &free.ifname) else {
            return;
        };
        let mut addresses = lease.addresses.into_iter();
        let Some(address) = addresses.next() else {
            return;
        };
        let cooling = Cooling {
            address,
            of_node: lease.of_node,
            network: lease.network,
            container: lease.owner.container,
            ifname: lease.owner.ifname,
            name: lease.owner.name,
            namespace: lease.owner.namespace,
            at: free.at,
            uptime_ms: match lease.earlier_boot {
                true => 0,
                false => free.uptime_ms,
            },
            cooldown_seconds: lease.cooldown_seconds,
        };
        for address in addresses {
            self.cool(Cooling {
                address,
                ..cooling.clone()
            });
        }
        self.cool(cooling);
    }

    /// The lease of an attachment, which has none from now on.
    fn take(&mut self, network: &str, container: &str, ifname: &str) -> Option<Lease> {
        let of_it = |place: &u64| self.leases[place].is_of(network, container, ifname);
        let hash = self.hasher.hash_one((network, container, ifname));
        let (place, _) = self.places.find_entry(hash, of_it).ok()?.remove();
        self.leases.remove(&place)
    }

    fn cool(&mut self, cooling: Cooling) {
        let scope = Scope::new(cooling.of_node, &cooling.network);
        self.cooling.insert((scope, cooling.ip()), cooling);
    }
}

fn hash_of(hasher: &DefaultHashBuilder, lease: &Lease) -> u64 {
    let (container, ifname) = (lease.owner.container.as_str(), lease.owner.ifname.as_str());
    hasher.hash_one((lease.network.as_str(), container, ifname))
}

fn boot_record(now: &Now) -> Record {
    Record::Boot(Boot {
        id: now.boot.clone(),
        at: now.wall,
    })
}
