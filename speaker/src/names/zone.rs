//! The names of containers, and who may know which. Pure.
//!
//! A container sees the names of the networks it is attached to and no others: who asks is told by the
//! source address, which belongs to one attachment of this node. A name is asked for as it is written
//! (`web`), or in full (`web.NETWORK.DOMAIN`).

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::atomic::{AtomicUsize, Ordering};

/// Addresses of one answer at most; more containers than that share a name only by turns.
const MOST_ADDRESSES: usize = 64;
/// Longest name, without the dot at its end. RFC 1035 §2.3.4.
const LONGEST_NAME: usize = 253;
const LONGEST_LABEL: usize = 63;

/// One interface of a container in a network.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Attachment {
    pub(crate) network: String,
    /// The container's id; the same in all networks it is attached to. Empty for one on another node.
    pub(crate) container: String,
    /// Its addresses are out of the node's subnets, to which every node has a route.
    pub(crate) of_node: bool,
    pub(crate) addresses: Vec<IpAddr>,
    /// Its name, then its aliases.
    pub(crate) names: Vec<String>,
}

/// All that can be answered, at one moment.
#[derive(Debug, Default)]
pub(crate) struct Zone {
    domain: String,
    networks: BTreeMap<String, Network>,
    /// Who asks, by source address; `None` for an address of several containers.
    askers: HashMap<IpAddr, Option<Asker>>,
    reverse: HashMap<IpAddr, BTreeSet<(String, String)>>,
}

/// A container that asks: its networks, the one of the address it asks from first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Asker {
    container: String,
    networks: Vec<String>,
}

#[derive(Debug, Default)]
struct Network {
    names: HashMap<String, Bearers>,
}

/// The addresses under one name.
#[derive(Debug, Default)]
struct Bearers {
    ipv4: Vec<IpAddr>,
    ipv6: Vec<IpAddr>,
    /// Whose turn it is to be first, in each family: who asks for both asks for each once.
    turn4: AtomicUsize,
    turn6: AtomicUsize,
}

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Ipv4,
    Ipv6,
    Pointer,
    /// Start of authority, which only the domain itself has.
    Authority,
    /// Any other type: no name has one.
    Other,
}

/// What there is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// Of the family asked for, in turn.
    Addresses(Vec<IpAddr>),
    /// Names in full, for a PTR question.
    Names(Vec<String>),
    /// The name is the domain's.
    Authority,
    /// There is such a name, but nothing of the type asked for.
    NoData,
    /// It is ours to say that there is none.
    NoName,
    /// Not ours: others may know.
    Elsewhere,
}

impl Zone {
    /// What can be answered about `here`, the attachments of this node, and `elsewhere`, those of others.
    /// The first turn is `turn`: where containers come and go all the time, each is first as often as others
    /// only if a new zone does not begin anew.
    pub(crate) fn new(
        domain: &str,
        here: &[Attachment],
        elsewhere: &[Attachment],
        turn: usize,
    ) -> Zone {
        let mut zone = Zone {
            domain: domain.to_ascii_lowercase(),
            ..Zone::default()
        };
        let mut networks_of: HashMap<&str, Vec<&str>> = HashMap::new();
        for attachment in here {
            let networks = networks_of.entry(&attachment.container).or_default();
            if !networks.contains(&attachment.network.as_str()) {
                networks.push(&attachment.network);
            }
        }
        for attachment in here {
            let mut networks = vec![attachment.network.clone()];
            let others = &networks_of[attachment.container.as_str()];
            networks.extend(others.iter().map(|it| (*it).to_owned()));
            let mut seen = BTreeSet::new();
            networks.retain(|network| seen.insert(network.clone()));
            let asker = Asker {
                container: attachment.container.clone(),
                networks,
            };
            for address in &attachment.addresses {
                zone.askers
                    .entry(*address)
                    .and_modify(|known| {
                        // Two networks with the same addresses: nobody can tell who asks.
                        let same = known
                            .as_ref()
                            .is_some_and(|it| it.container == asker.container);
                        if !same {
                            *known = None;
                        }
                    })
                    .or_insert_with(|| Some(asker.clone()));
            }
        }
        for attachment in here.iter().chain(elsewhere) {
            zone.add(attachment);
        }
        for network in zone.networks.values_mut() {
            for bearers in network.names.values_mut() {
                bearers.settle(turn);
            }
        }
        zone
    }

    fn add(&mut self, attachment: &Attachment) {
        let network = self.networks.entry(attachment.network.clone()).or_default();
        for name in attachment.names.iter().filter_map(|name| normal(name)) {
            let bearers = network.names.entry(name.clone()).or_default();
            for address in &attachment.addresses {
                match address {
                    IpAddr::V4(_) => bearers.ipv4.push(*address),
                    IpAddr::V6(_) => bearers.ipv6.push(*address),
                }
            }
        }
        for address in &attachment.addresses {
            let names = self.reverse.entry(*address).or_default();
            // The name itself; aliases do not say who it is.
            if let Some(name) = attachment.names.first().and_then(|name| normal(name)) {
                names.insert((attachment.network.clone(), name));
            }
        }
    }

    /// Whose address this is. `Some(None)`: of several containers, so nobody can tell.
    pub(crate) fn asker(&self, source: IpAddr) -> Option<Option<&Asker>> {
        self.askers.get(&source).map(Option::as_ref)
    }

    /// The host may ask for all networks, by names in full.
    pub(crate) fn host(&self) -> Asker {
        Asker {
            container: String::new(),
            networks: self.networks.keys().cloned().collect(),
        }
    }

    /// How many names there are, over all networks.
    pub(crate) fn len(&self) -> usize {
        self.networks.values().map(|it| it.names.len()).sum()
    }

    pub(crate) fn domain(&self) -> &str {
        &self.domain
    }

    /// Answers one question. `name` is in lower case, without a dot at its end.
    pub(crate) fn find(&self, asker: &Asker, name: &str, kind: Kind) -> Found {
        if let Some(address) = reverse_address(name) {
            return self.pointer(asker, address, kind);
        }
        if name == self.domain {
            return match kind {
                Kind::Authority => Found::Authority,
                _ => Found::NoData,
            };
        }
        let Some(inside) = within(name, &self.domain) else {
            // As it is written: only from inside a network, where it is one of its names.
            let mut networks = asker
                .networks
                .iter()
                .filter(|_| !asker.container.is_empty());
            return networks
                .find_map(|network| self.bearers(network, name))
                .map_or(Found::Elsewhere, |bearers| bearers.answer(kind));
        };
        let mut exists = false;
        for network in &asker.networks {
            let label = network.to_ascii_lowercase();
            exists |= inside == label || within(&label, inside).is_some();
            let Some(name) = within(inside, &label) else {
                continue;
            };
            if let Some(bearers) = self.bearers(network, name) {
                return bearers.answer(kind);
            }
        }
        match exists {
            true => Found::NoData,
            false => Found::NoName,
        }
    }

    fn bearers(&self, network: &str, name: &str) -> Option<&Bearers> {
        self.networks.get(network)?.names.get(name)
    }

    fn pointer(&self, asker: &Asker, address: IpAddr, kind: Kind) -> Found {
        let Some(names) = self.reverse.get(&address) else {
            return Found::Elsewhere;
        };
        let mut names = names
            .iter()
            .filter(|(network, _)| asker.networks.contains(network))
            .map(|(network, name)| {
                format!("{name}.{}.{}", network.to_ascii_lowercase(), self.domain)
            })
            .peekable();
        if names.peek().is_none() {
            return Found::NoName;
        }
        match kind {
            Kind::Pointer => Found::Names(names.take(MOST_ADDRESSES).collect()),
            _ => Found::NoData,
        }
    }
}

impl Bearers {
    /// One order on every node, and no address twice.
    fn settle(&mut self, turn: usize) {
        (self.turn4, self.turn6) = (turn.into(), turn.into());
        for addresses in [&mut self.ipv4, &mut self.ipv6] {
            addresses.sort_unstable();
            addresses.dedup();
        }
    }

    fn answer(&self, kind: Kind) -> Found {
        let (addresses, turn) = match kind {
            Kind::Ipv4 => (&self.ipv4, &self.turn4),
            Kind::Ipv6 => (&self.ipv6, &self.turn6),
            Kind::Pointer | Kind::Authority | Kind::Other => return Found::NoData,
        };
        if addresses.is_empty() {
            return Found::NoData;
        }
        let turn = turn.fetch_add(1, Ordering::Relaxed) % addresses.len();
        let (last, first) = addresses.split_at(turn);
        let in_turn = first.iter().chain(last).take(MOST_ADDRESSES);
        Found::Addresses(in_turn.copied().collect())
    }
}

/// A name as it is compared; `None` for one that no question can be about.
pub(crate) fn normal(name: &str) -> Option<String> {
    let name = name.strip_suffix('.').unwrap_or(name);
    let fits = |label: &str| {
        let good = |it: u8| it.is_ascii_alphanumeric() || it == b'-' || it == b'_';
        (1..=LONGEST_LABEL).contains(&label.len()) && label.bytes().all(good)
    };
    let fits = name.len() <= LONGEST_NAME && name.split('.').all(fits);
    fits.then(|| name.to_ascii_lowercase())
}

/// What stands before `.domain`.
fn within<'a>(name: &'a str, domain: &str) -> Option<&'a str> {
    let inside = name.strip_suffix(domain)?.strip_suffix('.')?;
    (!inside.is_empty()).then_some(inside)
}

/// The address of a name for PTR. RFC 1035 §3.5, RFC 3596 §2.5.
fn reverse_address(name: &str) -> Option<IpAddr> {
    if let Some(octets) = name.strip_suffix(".in-addr.arpa") {
        let octets: Vec<&str> = octets.split('.').rev().collect();
        let address: Ipv4Addr = octets.join(".").parse().ok()?;
        return Some(address.into());
    }
    let nibbles = name.strip_suffix(".ip6.arpa")?;
    let mut bits = 0_u128;
    let mut count = 0;
    for nibble in nibbles.split('.').rev() {
        let single = nibble.len() == 1;
        let value = single.then(|| u128::from_str_radix(nibble, 16).ok())??;
        bits = bits << 4 | value;
        count += 1;
    }
    (count == 32).then(|| Ipv6Addr::from_bits(bits).into())
}

#[cfg(test)]
#[path = "zone_tests.rs"]
mod tests;
