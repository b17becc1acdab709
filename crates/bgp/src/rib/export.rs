//! What the peers of an update group may know of a route, and in which form. RFC 4271 §5.1, §9.1.3,
//! §9.2, RFC 1997, RFC 4456, RFC 8212, RFC 9494.

use std::borrow::Cow;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use super::attrs::{AttrId, AttrStore, DEFAULT_LOCAL_PREF};
use super::table::{Path, SourceId};
use super::{Origin, Shared};
use crate::attributes::{Attributes, NextHop};
use crate::codec::{UpdateBuilder, encode_block};
use crate::config::{Advertisement, NextHopMode, Set, Source};
use crate::engine::LocalAddresses;
use crate::policy::{self, Chain, Subject};
use crate::query::{PolicyTrace, Withheld};
use crate::types::{Asn, Community, ExtendedCommunity, Family, Prefix, RouterId};

/// All that decides what a peer is sent: peers for which it is equal form an update group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Export {
    /// The peers are in another AS.
    pub(crate) ebgp: bool,
    /// The AS number we speak as.
    pub(crate) local_asn: Asn,
    /// The peers are our route reflection clients. RFC 4456.
    pub(crate) reflector_client: bool,
    /// Our cluster, towards internal peers.
    pub(crate) cluster_id: Option<Ipv4Addr>,
    /// What NEXT_HOP says.
    pub(crate) next_hop: NextHopMode,
    /// Our addresses.
    pub(crate) local: LocalAddresses,
    /// IPv4 routes may have IPv6 next hops. RFC 8950.
    pub(crate) extended_next_hop: bool,
    /// AS numbers have four octets.
    pub(crate) four_octet_as: bool,
    /// The longest message, in octets.
    pub(crate) max_message: u16,
    /// What they are told of long-lived stale routes.
    pub(crate) long_lived_stale: LongLivedStale,
    /// Names of export policies.
    pub(crate) policies: Vec<String>,
    /// Names of advertisements.
    pub(crate) advertisements: Vec<String>,
}

/// What peers are told of long-lived stale routes. RFC 9494 §4.3, §4.6.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LongLivedStale {
    /// That they are: the peers know what it means.
    Told,
    /// Nothing.
    Withheld,
    /// The lowest preference, and not to tell others: the peers are internal, and do not know more.
    Disguised,
}

/// The rules behind the names of an [`Export`], which may change under it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rules {
    /// Export policies.
    pub(crate) chain: Chain,
    /// Advertisements that name the peers, in the order of the configuration.
    pub(crate) advertisements: Vec<Arc<Advertisement>>,
}

/// What is done to a route's attributes before they are sent, besides what is done to all.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Change {
    /// Where the route came from.
    pub(crate) source: Source,
    /// What advertisement and policy say.
    pub(crate) sets: Vec<Set>,
    /// It is an internal peer's, told to another one.
    pub(crate) reflected: Option<Reflected>,
}

/// What reflecting a route adds to it. RFC 4456 §8.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Reflected {
    /// ORIGINATOR_ID, where it has none yet.
    pub(crate) originator: Option<RouterId>,
    /// Goes in front of CLUSTER_LIST.
    pub(crate) cluster: Ipv4Addr,
}

/// A judgement in full.
pub(crate) struct Judged {
    /// May it be sent, and changed how?
    pub(crate) outcome: Result<Change, Withheld>,
    /// What policy said; `None` where it was not asked.
    pub(crate) trace: Option<PolicyTrace>,
}

impl Export {
    /// Judges a prefix's best route, with the names of rules.
    pub(crate) fn judge(
        &self,
        rules: &Rules,
        shared: &Shared,
        prefix: Prefix,
        path: &Path,
        asked_for_by: &[Arc<str>],
    ) -> Judged {
        let mut judge = Judge::new(self, rules);
        let outcome = judge.ask(shared, prefix, path, asked_for_by);
        Judged {
            outcome: outcome.map(|()| judge.change()),
            trace: judge.verdict.as_ref().map(|v| rules.chain.trace(v)),
        }
    }

    /// The attributes in the form in which they are sent. `attributes` are as accepted.
    ///
    /// # Errors
    ///
    /// When there is no address that could be the next hop.
    pub(crate) fn shape(
        &self,
        family: Family,
        change: &Change,
        mut attributes: Attributes,
    ) -> Result<(Attributes, NextHop), Withheld> {
        self.prepare(change.source, &mut attributes);
        for set in &change.sets {
            policy::apply(set, &mut attributes);
        }
        attributes.canonicalize();
        let next_hop = self
            .resolve_next_hop(family, attributes.next_hop)
            .ok_or(Withheld::NoNextHop)?;
        attributes.next_hop = Some(next_hop);
        if self.ebgp {
            attributes.as_path.prepend(self.local_asn, 1);
            attributes.local_pref = None;
            attributes.originator_id = None;
            attributes.cluster_list.clear();
        } else {
            attributes.local_pref.get_or_insert(DEFAULT_LOCAL_PREF);
        }
        if let Some(reflected) = change.reflected {
            attributes.originator_id = attributes.originator_id.or(reflected.originator);
            attributes.cluster_list.insert(0, reflected.cluster);
        }
        Ok((attributes, next_hop))
    }

    /// Whether at least one prefix fits into a message with these attributes.
    pub(crate) fn fits(&self, family: Family, attributes: &Attributes, next_hop: NextHop) -> bool {
        let mut block = Vec::new();
        encode_block(attributes, self.four_octet_as, &mut block);
        let mut out = bytes::BytesMut::new();
        UpdateBuilder::announce(&block, next_hop, family, self.max_message, &mut out).is_ok()
    }

    /// What comes before policy, so that policy has the last word on it.
    fn prepare(&self, source: Source, attributes: &mut Attributes) {
        if self.ebgp && source != Source::Local {
            attributes.med = None; // another AS's MED is not for a third one, RFC 4271 §5.1.4
            let transitive = |c: &ExtendedCommunity| c.0[0] & 0x40 == 0;
            attributes.extended_communities.retain(transitive); // RFC 4360 §6
        }
        if self.is_next_hop(source) {
            attributes.next_hop = None;
        }
    }

    /// Whether we are the next hop of routes from such a source, unless policy says otherwise.
    fn is_next_hop(&self, source: Source) -> bool {
        match self.next_hop {
            // A reflector that made itself the next hop would draw all traffic to itself, and its
            // clients' shorter ways would be lost. RFC 4456 §10.
            NextHopMode::Self_ => self.ebgp || source != Source::Ibgp,
            NextHopMode::Auto => self.ebgp || source == Source::Local,
            NextHopMode::Unchanged => source == Source::Local,
        }
    }

    /// The next hop to send, ours where none is wanted; `None` where there is none that the peer
    /// could take.
    pub(crate) fn resolve_next_hop(
        &self,
        family: Family,
        wanted: Option<NextHop>,
    ) -> Option<NextHop> {
        let fits = |address: &IpAddr| match (family, address) {
            (Family::Ipv4, IpAddr::V4(_)) => true,
            (Family::Ipv4, IpAddr::V6(address)) => {
                self.extended_next_hop && !address.is_unicast_link_local()
            }
            (Family::Ipv6, IpAddr::V6(address)) => !address.is_unicast_link_local(),
            (Family::Ipv6, IpAddr::V4(_)) => false,
        };
        match wanted {
            // A link-local address means nothing beyond its link.
            Some(next_hop) => Some(next_hop.address).filter(fits),
            // The address that the peer reaches for certain goes first.
            None => [Some(self.local.address), self.local.other_family]
                .into_iter()
                .flatten()
                .find(fits),
        }
        .map(NextHop::from)
    }
}

/// Judges route after route for one group and remembers what several of them have in common.
pub(crate) struct Judge<'a> {
    export: &'a Export,
    rules: &'a Rules,
    by_prefix: bool,
    by_attributes: bool,
    /// What `attributes` are of.
    about: Option<(AttrId, SourceId)>,
    source: Source,
    from_client: bool,
    /// Who says that it originated the route, unless that is written in it.
    originator: Option<RouterId>,
    long_lived_stale: bool,
    attributes: Attributes,
    advertisement: Option<&'a Advertisement>,
    verdict: Option<policy::Verdict>,
    outcome: Option<Result<(), Withheld>>,
}

impl<'a> Judge<'a> {
    /// Knows nothing yet.
    pub(crate) fn new(export: &'a Export, rules: &'a Rules) -> Judge<'a> {
        Judge {
            export,
            rules,
            by_prefix: rules.chain.looks_at_prefixes(),
            by_attributes: rules.chain.looks_at_attributes(),
            about: None,
            source: Source::Local,
            from_client: false,
            originator: None,
            long_lived_stale: false,
            attributes: Attributes::default(),
            advertisement: None,
            verdict: None,
            outcome: None,
        }
    }

    /// Whether the best route of `prefix` may be sent; [`Judge::change`] has the rest.
    pub(crate) fn ask(
        &mut self,
        shared: &Shared,
        prefix: Prefix,
        path: &Path,
        asked_for_by: &[Arc<str>],
    ) -> Result<(), Withheld> {
        let local = path.source == SourceId::LOCAL;
        let about = (path.accepted, path.source);
        if self.about == Some(about)
            && !local
            && !self.by_prefix
            && let Some(outcome) = self.outcome
        {
            return outcome;
        }
        if self.about != Some(about) || local {
            self.about = Some(about);
            self.verdict = None;
            let origin = shared.source(path.source);
            self.source = origin.map_or(Source::Local, |origin| origin.kind);
            let facts = shared.attrs.facts(path.accepted);
            self.from_client = origin.is_some_and(|origin| origin.reflector_client);
            let unsaid = origin.filter(|_| facts.originator == 0);
            self.originator = unsaid.map(|origin| origin.router_id);
            let known = facts.known;
            self.long_lived_stale = known.llgr_stale() && origin.is_some_and(|o| o.long_lived);
            self.attributes = match self.by_attributes {
                true => shared.attrs.attributes(path.accepted),
                false => Attributes {
                    next_hop: shared.attrs.parts(path.accepted).0,
                    ..Attributes::default()
                },
            };
            self.export.prepare(self.source, &mut self.attributes);
        }
        let outcome = self.ask_all(shared, prefix, path, asked_for_by);
        self.outcome = Some(outcome);
        outcome
    }

    fn ask_all(
        &mut self,
        shared: &Shared,
        prefix: Prefix,
        path: &Path,
        asked_for_by: &[Arc<str>],
    ) -> Result<(), Withheld> {
        let facts = shared.attrs.facts(path.accepted);
        // RFC 4456 §6: a client's routes are for all, those of others for clients.
        let reflecting = self.from_client || self.export.reflector_client;
        if self.source == Source::Ibgp && !self.export.ebgp && !reflecting {
            return Err(Withheld::IbgpToIbgp);
        }
        if facts.known.no_advertise() {
            return Err(Withheld::NoAdvertise);
        }
        if facts.known.no_export() && self.export.ebgp {
            return Err(Withheld::NoExport);
        }
        if self.long_lived_stale && self.export.long_lived_stale == LongLivedStale::Withheld {
            return Err(Withheld::LongLivedStale);
        }
        let mut attributes = Cow::Borrowed(&self.attributes);
        self.advertisement = None;
        if self.source == Source::Local {
            let advertisements = &self.rules.advertisements;
            let found = advertisements
                .iter()
                .find(|adv| asked_for_by.iter().any(|name| **name == *adv.name));
            let advertisement = found.ok_or(Withheld::NotAdvertisedTo)?;
            self.advertisement = Some(advertisement);
            if !advertisement.set.is_empty() {
                let attributes = attributes.to_mut();
                for set in &advertisement.set {
                    policy::apply(set, attributes);
                }
                attributes.canonicalize();
            }
        }
        let subject = Subject {
            prefix,
            source: self.source,
            peer: shared.source(path.source).and_then(peer_name),
            advertisement: self.advertisement.map(|adv| adv.name.as_str()),
        };
        let verdict = self.rules.chain.judge(&subject, &mut attributes);
        let accepted = verdict.accepted;
        self.verdict = Some(verdict);
        if self.rules.chain.is_closed() {
            return Err(Withheld::NoExportPolicy);
        }
        if !accepted {
            return Err(Withheld::ExportPolicy);
        }
        let next_hop = attributes.next_hop;
        let next_hop = self.export.resolve_next_hop(prefix.family(), next_hop);
        next_hop.map(|_| ()).ok_or(Withheld::NoNextHop)
    }

    /// What is to be done to the attributes of the route asked about last.
    pub(crate) fn change(&self) -> Change {
        let mut sets: Vec<Set> = Vec::new();
        if let Some(advertisement) = self.advertisement {
            sets.extend_from_slice(&advertisement.set);
        }
        if let Some(verdict) = &self.verdict {
            sets.extend(self.rules.chain.changes(&verdict.applied).cloned());
        }
        if self.long_lived_stale {
            if self.export.long_lived_stale == LongLivedStale::Disguised {
                sets.push(Set::AddCommunity(Community::NO_EXPORT));
                sets.push(Set::LocalPreference(0));
            }
            // Policy may not hide what it is.
            if !sets.is_empty() {
                sets.push(Set::AddCommunity(Community::LLGR_STALE));
            }
        }
        let cluster_id = self
            .export
            .cluster_id
            .filter(|_| self.source == Source::Ibgp);
        let reflected = cluster_id.map(|cluster| Reflected {
            originator: self.originator,
            cluster,
        });
        Change {
            source: self.source,
            sets,
            reflected,
        }
    }
}

fn peer_name(origin: &Origin) -> Option<&str> {
    origin.peer.is_some().then_some(&*origin.name)
}

/// The attribute block and next hop to send for a set and a change.
///
/// # Errors
///
/// When there is no address that could be the next hop.
pub(crate) fn encode(
    export: &Export,
    family: Family,
    change: &Change,
    set: AttrId,
    attrs: &AttrStore,
    block: &mut Vec<u8>,
) -> Result<NextHop, Withheld> {
    block.clear();
    let (next_hop, stored) = attrs.parts(set);
    if change.sets.is_empty() && patch(export, change, stored, block) {
        let next_hop = next_hop.filter(|_| !export.is_next_hop(change.source));
        let next_hop = export.resolve_next_hop(family, next_hop);
        return next_hop.ok_or(Withheld::NoNextHop);
    }
    block.clear();
    let (attributes, next_hop) = export.shape(family, change, attrs.attributes(set))?;
    encode_block(&attributes, export.four_octet_as, block);
    Ok(next_hop)
}

/// Types of path attributes that depend on the kind of peer.
mod kind {
    pub(super) const AS_PATH: u8 = 2;
    pub(super) const MED: u8 = 4;
    pub(super) const LOCAL_PREF: u8 = 5;
    pub(super) const ORIGINATOR_ID: u8 = 9;
    pub(super) const CLUSTER_LIST: u8 = 10;
    pub(super) const EXTENDED_COMMUNITIES: u8 = 16;
}

/// Does to a stored block what [`Export::shape`] does to attributes without changes of policy,
/// byte by byte: most routes are sent like this. False: it takes more than that.
fn patch(export: &Export, change: &Change, mut stored: &[u8], block: &mut Vec<u8>) -> bool {
    if !export.four_octet_as {
        return false;
    }
    let foreign = export.ebgp && change.source != Source::Local;
    let mut due = Due {
        local_pref: !export.ebgp,
        originator: change.reflected.and_then(|reflected| reflected.originator),
        cluster: change.reflected.map(|reflected| reflected.cluster),
    };
    while let Some(&[flags, kind, short]) = stored.first_chunk::<3>() {
        let (header, length) = match stored.get(3) {
            Some(low) if flags & 0x10 != 0 => (4, usize::from(short) << 8 | usize::from(*low)),
            _ => (3, usize::from(short)),
        };
        let Some((attribute, rest)) = stored.split_at_checked(header + length) else {
            return false; // `encode_block` makes no such thing
        };
        stored = rest;
        let value = &attribute[header..];
        due.before(kind, block);
        if kind == kind::CLUSTER_LIST
            && let Some(cluster) = due.cluster.take()
        {
            put_cluster_list(cluster, value, block);
            continue;
        }
        match kind {
            kind::AS_PATH if export.ebgp => prepend(export.local_asn, value, block),
            kind::MED if foreign => {}
            kind::LOCAL_PREF | kind::ORIGINATOR_ID | kind::CLUSTER_LIST if export.ebgp => {}
            kind::EXTENDED_COMMUNITIES
                if foreign && value.chunks(8).any(|community| community[0] & 0x40 != 0) =>
            {
                return false;
            }
            _ => block.extend_from_slice(attribute),
        }
    }
    due.before(u8::MAX, block);
    stored.is_empty()
}

/// Attributes yet to be put in among a route's own, in the order of their types.
struct Due {
    local_pref: bool,
    originator: Option<RouterId>,
    cluster: Option<Ipv4Addr>,
}

impl Due {
    /// Appends those that go before the route's next attribute. One that it has itself stays as it
    /// is; only CLUSTER_LIST grows, and that is the caller's.
    fn before(&mut self, kind: u8, block: &mut Vec<u8>) {
        if kind >= kind::LOCAL_PREF
            && std::mem::take(&mut self.local_pref)
            && kind > kind::LOCAL_PREF
        {
            block.extend_from_slice(&[0x40, kind::LOCAL_PREF, 4]);
            block.extend_from_slice(&DEFAULT_LOCAL_PREF.to_be_bytes());
        }
        if kind >= kind::ORIGINATOR_ID
            && let Some(originator) = self.originator.take()
            && kind > kind::ORIGINATOR_ID
        {
            block.extend_from_slice(&[0x80, kind::ORIGINATOR_ID, 4]);
            block.extend_from_slice(&originator.0.octets());
        }
        if kind > kind::CLUSTER_LIST
            && let Some(cluster) = self.cluster.take()
        {
            put_cluster_list(cluster, &[], block);
        }
    }
}

/// CLUSTER_LIST with one more cluster in front. RFC 4456 §8.
fn put_cluster_list(cluster: Ipv4Addr, list: &[u8], block: &mut Vec<u8>) {
    let length = 4 + list.len();
    match u8::try_from(length) {
        Ok(length) => block.extend_from_slice(&[0x80, kind::CLUSTER_LIST, length]),
        Err(_) => {
            block.extend_from_slice(&[0x90, kind::CLUSTER_LIST]);
            block.extend_from_slice(&(length as u16).to_be_bytes());
        }
    }
    block.extend_from_slice(&cluster.octets());
    block.extend_from_slice(list);
}

/// AS_PATH with one more AS in front. RFC 4271 §5.1.2.
fn prepend(asn: Asn, path: &[u8], block: &mut Vec<u8>) {
    let (count, rest) = match path.split_first_chunk::<2>() {
        Some((&[_, count], rest)) if count < u8::MAX => (count + 1, rest),
        _ => (1, path), // empty, or a sequence that takes no more
    };
    let length = 2 + 4 + rest.len();
    match u8::try_from(length) {
        Ok(length) => block.extend_from_slice(&[0x40, kind::AS_PATH, length]),
        Err(_) => {
            block.extend_from_slice(&[0x50, kind::AS_PATH]);
            block.extend_from_slice(&(length as u16).to_be_bytes());
        }
    }
    block.extend_from_slice(&[2, count]);
    block.extend_from_slice(&asn.0.to_be_bytes());
    block.extend_from_slice(rest);
}

#[cfg(test)]
#[path = "export_tests.rs"]
mod tests;
