//! From an UPDATE to candidates: what it says is remembered as received, checked, and shown to
//! import policy. RFC 4271 §9, RFC 7606.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::attrs::{AttrId, AttrStore};
use super::hops::Hops;
use super::loc::FamilyRib;
use super::paged::BitSet;
use super::table::{Key, SourceId};
use super::{Own, Shared};
use crate::attributes::Attributes;
use crate::codec::{self, Context};
use crate::policy::{Applied, Subject};
use crate::query::{Fault, Refusal};
use crate::types::{Community, Prefix, Prefix4, Prefix6};

/// What was wrong with what a peer sent, counted, and the last of it in words.
#[derive(Clone, Debug, Default)]
pub(crate) struct Faults {
    /// By kind.
    pub(crate) counts: BTreeMap<Fault, u64>,
    /// In words.
    pub(crate) last: Option<String>,
}

impl Faults {
    /// Counts a fault whose description is worth keeping.
    pub(crate) fn note(&mut self, fault: Fault, text: String) {
        *self.counts.entry(fault).or_default() += 1;
        self.last = Some(format!("{fault}: {text}"));
    }

    /// Counts a route that was refused for what it says, not by policy; the first of an UPDATE is
    /// described.
    fn refused(&mut self, refusal: Refusal, prefix: Prefix, first: bool) {
        let fault = match refusal {
            Refusal::OwnAs => Fault::OwnAs,
            Refusal::OwnRouterId => Fault::OwnRouterId,
            Refusal::ClusterLoop => Fault::ClusterLoop,
            Refusal::OwnNextHop => Fault::OwnNextHop,
            Refusal::BadNextHop => Fault::BadNextHop,
            Refusal::OwnSubnet => Fault::OwnSubnet,
            Refusal::Martian => Fault::Martian,
            Refusal::NoImportPolicy
            | Refusal::ImportPolicy
            | Refusal::NextHopUnresolved
            | Refusal::NextHopNotConnected
            | Refusal::SessionDown => return,
        };
        *self.counts.entry(fault).or_default() += 1;
        if first {
            self.last = Some(format!("{fault}: {prefix}: {refusal}"));
        }
    }
}

/// How many decoded attribute blocks are remembered.
const DECODINGS: usize = 1024;
/// How long such a block is at most, in octets.
const DECODED_KEY: usize = 512;

/// Attribute blocks decoded lately, by their bytes: a peer that says the same again, as it does when
/// the prefixes of one set fill several messages, costs no second decoding.
#[derive(Default)]
pub(crate) struct Decodings {
    places: Vec<Option<Decoding>>,
    hasher: foldhash::fast::FixedState,
}

struct Decoding {
    key: Vec<u8>,
    context: Context,
    set: AttrId,
}

impl Decodings {
    fn find(&self, key: &[u8], context: &Context) -> (usize, Option<AttrId>) {
        let place = super::attrs::hash_bytes(&self.hasher, key) as usize % DECODINGS;
        let found = self.places.get(place).and_then(Option::as_ref);
        let found = found.filter(|known| known.key == key && known.context == *context);
        (place, found.map(|known| known.set))
    }

    /// Remembers a set, whose reference is the memory's from now on.
    fn put(
        &mut self,
        place: usize,
        key: &[u8],
        context: &Context,
        set: AttrId,
        attrs: &mut AttrStore,
        hops: &mut Hops,
    ) {
        if self.places.is_empty() {
            self.places.resize_with(DECODINGS, || None);
        }
        match &mut self.places[place] {
            Some(old) => {
                attrs.release(old.set, hops);
                old.key.clear();
                old.key.extend_from_slice(key);
                (old.context, old.set) = (*context, set);
            }
            empty => {
                *empty = Some(Decoding {
                    key: key.to_vec(),
                    context: *context,
                    set,
                });
            }
        }
    }

    /// Forgets everything.
    pub(crate) fn clear(&mut self, attrs: &mut AttrStore, hops: &mut Hops) {
        for known in self.places.drain(..).flatten() {
            attrs.release(known.set, hops);
        }
        self.places = Vec::new();
    }
}

/// Import policy's answer for one set of attributes from one source, for the prefixes that follow.
#[derive(Default)]
pub(crate) struct Imported {
    asked: Option<Asked>,
}

struct Asked {
    source: SourceId,
    received: AttrId,
    /// As long as they are needed.
    attributes: Option<Box<Attributes>>,
    /// The answer for every prefix; `None`: policy looks at prefixes.
    answer: Option<Result<AttrId, Refusal>>,
    /// The changes made last, and what came of them.
    changed: Option<(Applied, AttrId)>,
}

impl Shared {
    /// Whether a route may be a candidate, and with which attributes (whose reference is the
    /// memory's: retain it). `fresh` are those of `received`, where they are at hand.
    pub(crate) fn import(
        &mut self,
        source: SourceId,
        received: AttrId,
        fresh: Option<&Attributes>,
        prefix: Prefix,
    ) -> Result<AttrId, Refusal> {
        let known = self.imported.asked.as_ref();
        if known.is_none_or(|asked| (asked.source, asked.received) != (source, received)) {
            self.forget_imported();
            self.attrs.retain(received);
            let attributes = match fresh {
                Some(attributes) => Cow::Borrowed(attributes),
                None => Cow::Owned(self.attrs.attributes(received)),
            };
            let mut changed = None;
            let mut answer = self.import_by_attributes(source, received, &attributes);
            let by_prefix = (self.source(source)).is_none_or(|o| o.import.looks_at_prefixes());
            if answer.is_none() && !by_prefix {
                let asked = (source, received, &*attributes);
                answer = Some(self.import_by_policy(asked, prefix, &mut changed));
            }
            // Whoever has the answer has no need of the attributes.
            let attributes = answer.is_none().then(|| Box::new(attributes.into_owned()));
            self.imported.asked = Some(Asked {
                source,
                received,
                attributes,
                answer,
                changed,
            });
        }
        let Some(mut asked) = self.imported.asked.take() else {
            return Err(Refusal::ImportPolicy); // it was put there above
        };
        let answer = match (asked.answer, &asked.attributes) {
            (Some(answer), _) => answer,
            (None, Some(attributes)) => {
                let of = (source, received, &**attributes);
                self.import_by_policy(of, prefix, &mut asked.changed)
            }
            (None, None) => Err(Refusal::ImportPolicy),
        };
        self.imported.asked = Some(asked);
        answer
    }

    /// What can be said without a look at the prefix.
    fn import_by_attributes(
        &self,
        source: SourceId,
        received: AttrId,
        attributes: &Attributes,
    ) -> Option<Result<AttrId, Refusal>> {
        let origin = self.source(source)?;
        if let Some(refusal) = check_attributes(&self.own, origin, attributes) {
            return Some(Err(refusal));
        }
        if origin.import.is_closed() {
            return Some(Err(Refusal::NoImportPolicy));
        }
        origin.import.is_open().then_some(Ok(received))
    }

    /// What policy says; `changed` remembers the last changes made and what came of them.
    fn import_by_policy(
        &mut self,
        (source, received, attributes): (SourceId, AttrId, &Attributes),
        prefix: Prefix,
        changed: &mut Option<(Applied, AttrId)>,
    ) -> Result<AttrId, Refusal> {
        let Some(origin) = self.source(source) else {
            return Err(Refusal::ImportPolicy);
        };
        let subject = Subject {
            prefix,
            source: origin.kind,
            peer: Some(&origin.name),
            advertisement: None,
        };
        let stale = origin.long_lived && self.attrs.facts(received).known.llgr_stale();
        let mut attributes = Cow::Borrowed(attributes);
        let verdict = origin.import.judge(&subject, &mut attributes);
        if !verdict.accepted {
            return Err(Refusal::ImportPolicy);
        }
        if verdict.applied.is_empty() {
            return Ok(received);
        }
        if let Some((applied, set)) = changed
            && *applied == verdict.applied
        {
            return Ok(*set);
        }
        if attributes.next_hop.is_none() {
            return Err(Refusal::BadNextHop); // `NextHopSelf` means nothing here
        }
        if stale {
            mark_stale(attributes.to_mut());
        }
        let set = self.attrs.intern(&attributes, &mut self.hops);
        if let Some((_, old)) = changed.replace((verdict.applied, set)) {
            self.attrs.release(old, &mut self.hops);
        }
        Ok(set)
    }

    /// Forgets the last answer of import policy; policy or the checks may have changed.
    pub(crate) fn forget_imported(&mut self) {
        if let Some(asked) = self.imported.asked.take() {
            self.attrs.release(asked.received, &mut self.hops);
            if let Some((_, set)) = asked.changed {
                self.attrs.release(set, &mut self.hops);
            }
        }
    }

    /// Gives up what is remembered only for speed.
    pub(crate) fn forget_all(&mut self) {
        self.forget_imported();
        let mut decodings = std::mem::take(&mut self.decodings);
        decodings.clear(&mut self.attrs, &mut self.hops);
    }

    /// The attributes of an UPDATE, with a reference that is the caller's; none: its prefixes count
    /// as withdrawn. The attributes in full where they had to be decoded.
    pub(crate) fn decode(
        &mut self,
        key: &[u8],
        context: &Context,
        faults: &mut Faults,
    ) -> Option<(AttrId, Option<Attributes>)> {
        let (place, known) = self.decodings.find(key, context);
        if let Some(set) = known {
            self.attrs.retain(set);
            return Some((set, None));
        }
        match codec::decode_attributes(key, context) {
            Ok(decoded) => {
                let set = self.attrs.intern(&decoded.attributes, &mut self.hops);
                for fault in &decoded.discarded {
                    faults.note(Fault::AttributeDiscard, describe(fault, key));
                }
                if decoded.discarded.is_empty() && key.len() <= DECODED_KEY {
                    self.attrs.retain(set);
                    let (attrs, hops) = (&mut self.attrs, &mut self.hops);
                    self.decodings.put(place, key, context, set, attrs, hops);
                }
                Some((set, Some(decoded.attributes)))
            }
            Err(fault) => {
                faults.note(Fault::TreatAsWithdraw, describe(&fault, key));
                None
            }
        }
    }
}

/// A fault with the first octets of what it was found in.
pub(crate) fn describe(fault: &codec::Fault, bytes: &[u8]) -> String {
    format!("{fault} (attributes begin {})", hex(bytes))
}

/// The first octets in hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    let mut text = String::new();
    for byte in bytes.iter().take(48) {
        let _ = write!(text, "{byte:02x}"); // writing to a String cannot fail
    }
    if bytes.len() > 48 {
        text.push('…');
    }
    text
}

/// Puts the community on that says so.
pub(super) fn mark_stale(attributes: &mut Attributes) {
    attributes.communities.push(Community::LLGR_STALE);
    attributes.canonicalize();
}

/// Loops, and next hops that cannot be.
fn check_attributes(own: &Own, origin: &super::Origin, attributes: &Attributes) -> Option<Refusal> {
    let allowed = usize::from(origin.allow_own_as);
    let path = &attributes.as_path;
    let too_often = |asn| path.count(asn) > allowed;
    if too_often(origin.local_asn) || own.asn.is_some_and(too_often) {
        return Some(Refusal::OwnAs);
    }
    let Some(router_id) = own.router_id else {
        return None; // there is no session without a configuration
    };
    if attributes.originator_id == Some(router_id) {
        return Some(Refusal::OwnRouterId);
    }
    if (own.cluster_id).is_some_and(|id| attributes.cluster_list.contains(&id)) {
        return Some(Refusal::ClusterLoop);
    }
    let Some(next_hop) = attributes.next_hop else {
        return Some(Refusal::BadNextHop);
    };
    if own.addresses.contains(&next_hop.address) {
        return Some(Refusal::OwnNextHop);
    }
    let bad = match next_hop.address {
        IpAddr::V4(address) => {
            address.is_unspecified()
                || address.is_loopback()
                || address.is_link_local()
                || address.octets()[0] >= 224
        }
        // A link-local one says nothing without its interface.
        IpAddr::V6(address) => {
            address.is_unspecified()
                || address.is_loopback()
                || address.is_multicast()
                || address.is_unicast_link_local()
        }
    };
    bad.then_some(Refusal::BadNextHop)
}

/// Destinations that nothing can be sent to over a router: RFC 6890's blocks that are not
/// forwardable, multicast, and what is reserved. The default routes are none of them, and neither is
/// the NAT64 prefix inside of `::/8` (RFC 6052, RFC 8215).
pub(crate) trait Martian: Key {
    /// Whether it is one.
    fn is_martian(self) -> bool;
}

impl Martian for Prefix4 {
    fn is_martian(self) -> bool {
        let within = |a, length| Prefix4::new(Ipv4Addr::from(a), length).contains(self);
        match self.address().octets()[0] {
            0 => self.length() >= 8,
            127 => true,
            169 => within([169, 254, 0, 0], 16),
            first => first >= 224,
        }
    }
}

impl Martian for Prefix6 {
    fn is_martian(self) -> bool {
        let within = |a: [u16; 8], length| Prefix6::new(Ipv6Addr::from(a), length).contains(self);
        match self.address().octets()[0] {
            0 => {
                let nat64 = within([0x64, 0xff9b, 0, 0, 0, 0, 0, 0], 96)
                    || within([0x64, 0xff9b, 1, 0, 0, 0, 0, 0], 48);
                self.length() >= 8 && !nat64
            }
            0xfe => within([0xfe80, 0, 0, 0, 0, 0, 0, 0], 10),
            0xff => true,
            _ => false,
        }
    }
}

/// Prefixes brought near at the same time.
const AHEAD: usize = 32;

impl<P: Martian> FamilyRib<P> {
    /// Prefixes announced with one set of attributes, in the order of the message.
    pub(crate) fn announce_all(
        &mut self,
        shared: &mut Shared,
        source: SourceId,
        received: AttrId,
        fresh: Option<&Attributes>,
        prefixes: impl Iterator<Item = P> + Clone,
        faults: &mut Faults,
    ) {
        let mut first = true;
        let mut ahead = prefixes.clone();
        for (at, prefix) in prefixes.enumerate() {
            if at.is_multiple_of(AHEAD) {
                self.table.warm(ahead.by_ref().take(AHEAD));
            }
            let accepted = self.accept(shared, source, received, fresh, prefix);
            if let Err(refusal) = accepted {
                faults.refused(refusal, prefix.into(), std::mem::take(&mut first));
            }
            let slot = self.table.enter(prefix);
            self.is_young_again(source, slot);
            if let Some(refreshing) = self.refreshing.get_mut(&source) {
                let sets = [&mut refreshing.said, &mut refreshing.kept];
                for set in sets.into_iter().flatten() {
                    set.insert(slot);
                }
            }
            self.announce(shared, slot, source, received, accepted);
        }
    }

    /// Prefixes that a source takes back.
    pub(crate) fn withdraw_all(
        &mut self,
        shared: &mut Shared,
        source: SourceId,
        prefixes: impl Iterator<Item = P> + Clone,
    ) {
        let mut ahead = prefixes.clone();
        for (at, prefix) in prefixes.enumerate() {
            if at.is_multiple_of(AHEAD) {
                self.table.warm(ahead.by_ref().take(AHEAD));
            }
            if let Some(slot) = self.table.find(prefix) {
                let refreshing = self.refreshing.get_mut(&source);
                if let Some(said) = refreshing.and_then(|refreshing| refreshing.said.as_mut()) {
                    said.remove(slot);
                }
                self.withdraw(shared, slot, source);
            }
        }
    }

    /// Checks on the destination, then on everything else.
    pub(super) fn accept(
        &self,
        shared: &mut Shared,
        source: SourceId,
        received: AttrId,
        fresh: Option<&Attributes>,
        prefix: P,
    ) -> Result<AttrId, Refusal> {
        if prefix.is_martian() {
            return Err(Refusal::Martian);
        }
        let within = |own: &P| prefix.len() >= own.len() && prefix.shortened(own.len()) == *own;
        let imported = shared.import(source, received, fresh, prefix.into());
        if self.own_subnets.iter().any(within) {
            // Our own route come back, as some speakers send it, is no claim to our subnet.
            return Err(match imported {
                Err(Refusal::OwnAs) => Refusal::OwnAs,
                _ => Refusal::OwnSubnet,
            });
        }
        imported
    }

    /// The peer begins to send all of its routes again: what it does not repeat until
    /// [`end_refresh`](Self::end_refresh) is gone. RFC 7313 §4.
    pub(crate) fn begin_refresh(&mut self, source: SourceId) {
        self.refreshing.entry(source).or_default().said = Some(BitSet::default());
    }

    /// The session ended before the peer came to an end: all that it said in its life counts.
    pub(crate) fn abandon_refresh(&mut self, source: SourceId) {
        if let Some(refreshing) = self.refreshing.get_mut(&source) {
            refreshing.said = None;
            if refreshing.kept.is_none() {
                self.refreshing.remove(&source);
            }
        }
    }

    /// How many of its routes the peer has said since it began to send all of them again.
    pub(crate) fn repeated(&self, source: SourceId) -> u64 {
        let said = self.refreshing.get(&source).and_then(|r| r.said.as_ref());
        said.map_or(0, |said| said.len() as u64)
    }

    /// Whether this is one of them.
    pub(crate) fn is_repeated(&self, source: SourceId, prefix: P) -> bool {
        let said = self.refreshing.get(&source).and_then(|r| r.said.as_ref());
        let slot = self.table.find(prefix);
        said.is_some_and(|said| slot.is_some_and(|slot| said.contains(slot)))
    }

    /// The peer has sent all of its routes again.
    pub(crate) fn end_refresh(&mut self, source: SourceId) {
        let Some(refreshing) = self.refreshing.get_mut(&source) else {
            return;
        };
        let Some(said) = refreshing.said.take() else {
            return;
        };
        // What an earlier refresh was about to remove and the peer has still not said is not among
        // them either.
        match refreshing.kept.replace(said) {
            None => self.sweep(source),
            Some(_) => refreshing.again = true,
        }
    }
}
