//! The tables of one speaker, in the order of a route's way: [`adj_in`] takes UPDATEs apart and asks
//! import policy, [`loc`] keeps the paths and chooses ([`decision`]), [`adj_out`] tells the peers
//! what [`export`] says they may know. [`attrs`], [`hops`] and [`paged`] are what these are made of.

pub(crate) mod adj_in;
pub(crate) mod adj_out;
pub(crate) mod attrs;
pub(crate) mod decision;
pub(crate) mod export;
pub(crate) mod hops;
pub(crate) mod jobs;
pub(crate) mod loc;
pub(crate) mod long_lived;
pub(crate) mod paged;
pub(crate) mod table;

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use self::adj_in::{Decodings, Imported};
use self::attrs::AttrStore;
use self::hops::{HopId, HopSets, Hops};
use self::table::SourceId;
use crate::config::{DecisionConfig, Source};
use crate::engine::{NextHopState, Output};
use crate::policy::Chain;
use crate::types::{Asn, Family, PeerId, Prefix, RouterId};

/// What the tables of both families share.
pub(crate) struct Shared {
    /// Path attributes.
    pub(crate) attrs: AttrStore,
    /// Next hops.
    pub(crate) hops: Hops,
    /// Sets of next hops the kernel's side was told of.
    pub(crate) sets: HopSets,
    /// Sessions that routes came from; the first is ourselves.
    sources: Vec<Option<Origin>>,
    last_source: u16,
    /// What may not be learned from others.
    pub(crate) own: Own,
    /// How the best route is chosen.
    pub(crate) decision: DecisionConfig,
    /// Seconds since the engine began.
    pub(crate) clock: u32,
    /// Peers that have something to be sent, since they last had nothing.
    pub(crate) wake: Vec<PeerId>,
    /// Whether somebody wants to know of `changed`.
    pub(crate) watched: bool,
    /// Prefixes whose best route changed, while watched.
    pub(crate) changed: Vec<Prefix>,
    /// Attribute blocks decoded lately.
    pub(crate) decodings: Decodings,
    /// The last answer of import policy.
    pub(crate) imported: Imported,
}

/// Ourselves, for the checks on what others send.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Own {
    /// Our AS number.
    pub(crate) asn: Option<Asn>,
    /// Our BGP Identifier.
    pub(crate) router_id: Option<RouterId>,
    /// Our cluster, where we have clients. RFC 4456.
    pub(crate) cluster_id: Option<Ipv4Addr>,
    /// Addresses of ours that sessions use.
    pub(crate) addresses: BTreeSet<IpAddr>,
}

/// A session that routes came from, or ourselves.
#[derive(Clone, Debug)]
pub(crate) struct Origin {
    /// Whose; `None`: ourselves.
    pub(crate) peer: Option<PeerId>,
    /// The peer's name.
    pub(crate) name: Arc<str>,
    /// What kind of peer.
    pub(crate) kind: Source,
    /// The AS number we speak as on the session.
    pub(crate) local_asn: Asn,
    /// The peer's BGP Identifier.
    pub(crate) router_id: RouterId,
    /// The peer's address.
    pub(crate) address: IpAddr,
    /// The peer is on a network of ours, and so must be its next hops.
    pub(crate) connected: bool,
    /// Its long-lived stale routes are the last choice: we offered the session to keep routes for
    /// long. RFC 9494 §4.3.
    pub(crate) long_lived: bool,
    /// It is our route reflection client. RFC 4456.
    pub(crate) reflector_client: bool,
    /// How often our own AS may stand in AS_PATH.
    pub(crate) allow_own_as: u8,
    /// Import policy.
    pub(crate) import: Arc<Chain>,
    /// IPv4 and IPv6.
    pub(crate) counts: [Counts; 2],
    /// The session is over and all of its routes are about to be removed: none counts any more.
    pub(crate) gone: bool,
    /// Families whose routes have yet to be removed before the number is free.
    pub(crate) leaving: u8,
}

/// Routes of one source in one family.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// In Adj-RIB-In.
    pub(crate) received: u64,
    /// Let in.
    pub(crate) accepted: u64,
    /// The best.
    pub(crate) best: u64,
}

impl Shared {
    /// Nothing but ourselves.
    pub(crate) fn new(seed: u64) -> Shared {
        let ourselves = Origin {
            peer: None,
            name: Arc::from(""),
            kind: Source::Local,
            local_asn: Asn(0),
            router_id: RouterId(0.into()),
            address: IpAddr::V4(0.into()),
            connected: false,
            long_lived: false,
            reflector_client: false,
            allow_own_as: 0,
            import: Arc::new(Chain::new(Vec::new(), true)),
            counts: [Counts::default(); 2],
            gone: false,
            leaving: 0,
        };
        Shared {
            attrs: AttrStore::new(seed),
            hops: Hops::new(seed),
            sets: HopSets::new(seed),
            sources: vec![Some(ourselves)],
            last_source: 0,
            own: Own::default(),
            decision: DecisionConfig::default(),
            clock: 0,
            wake: Vec::new(),
            watched: false,
            changed: Vec::new(),
            decodings: Decodings::default(),
            imported: Imported::default(),
        }
    }

    /// A number for a session that was just established; `None` while 65,535 others are in use.
    pub(crate) fn add_source(&mut self, origin: Origin) -> Option<SourceId> {
        for _ in 0..u16::MAX {
            self.last_source = self.last_source.checked_add(1).unwrap_or(1);
            let index = usize::from(self.last_source);
            if self.sources.len() <= index {
                self.sources.resize(index + 1, None);
            }
            if self.sources[index].is_none() {
                self.sources[index] = Some(origin);
                return Some(SourceId(self.last_source));
            }
        }
        None
    }

    /// All routes of a source are about to be removed. Where no packets can go any more is told at
    /// once: the next hops that nobody else's routes have.
    pub(crate) fn gone(&mut self, source: SourceId) {
        if let Some(origin) = self.source_mut(source) {
            origin.gone = true;
        }
        let gone = |other| self.source(other).is_none_or(|origin| origin.gone);
        let hops = self.hops.only_of(source, gone);
        self.hops_down(hops);
    }

    /// The kernel's word on an address. The next hop, when routes have to be decided again.
    pub(crate) fn hop_state(
        &mut self,
        address: IpAddr,
        state: Option<NextHopState>,
    ) -> Option<HopId> {
        let before = self.hops.way_to(address);
        let hop = self.hops.set_state(address, state)?;
        let now = self.hops.way(hop);
        // Only a default route leads there now: what directly connected peers say of it is over.
        let strayed = || {
            let connected = |source| self.source(source).is_some_and(|origin| origin.connected);
            now.is_some_and(|way| !way.connected) && self.hops.users(hop).all(connected)
        };
        if before.is_some() && (now.is_none() || strayed()) {
            self.hops_down(vec![address]);
        }
        Some(hop)
    }

    /// Every route with these next hops is about to be decided again, and none will have them.
    fn hops_down(&mut self, hops: Vec<IpAddr>) {
        if !hops.is_empty() {
            let last_set = self.sets.retire(&hops);
            let down = Output::NextHopsDown { hops, last_set };
            self.hops.outputs.push(down);
        }
    }

    /// One family's routes of a session that is over are gone; with the last one, so is its number.
    pub(crate) fn left(&mut self, source: SourceId) {
        let place = &mut self.sources[usize::from(source.0)];
        if let Some(origin) = place {
            origin.leaving = origin.leaving.saturating_sub(1);
            if origin.leaving == 0 {
                *place = None;
            }
        }
    }

    /// Where routes came from; `None` once the last of them is gone.
    pub(crate) fn source(&self, source: SourceId) -> Option<&Origin> {
        self.sources.get(usize::from(source.0))?.as_ref()
    }

    /// The same, to be changed.
    pub(crate) fn source_mut(&mut self, source: SourceId) -> Option<&mut Origin> {
        self.sources.get_mut(usize::from(source.0))?.as_mut()
    }

    /// The counts of a source in a family.
    pub(crate) fn counts(&mut self, source: SourceId, family: Family) -> Option<&mut Counts> {
        let origin = self.source_mut(source)?;
        Some(&mut origin.counts[family as usize])
    }

    /// The peer that routes of `source` came from.
    pub(crate) fn peer_of(&self, source: SourceId) -> Option<PeerId> {
        self.source(source)?.peer
    }
}
