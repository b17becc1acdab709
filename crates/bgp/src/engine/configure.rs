//! A new configuration: what is different from the last one, and what follows from that.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Instant;

use super::peers::Peer;
use super::{Engine, LocalAddresses, Output};
use crate::attributes::Attributes;
use crate::config::{Config, ConfigError, Originated, PeerConfig};
use crate::policy::Chain;
use crate::rib::Shared;
use crate::rib::adj_in::{Faults, Martian};
use crate::rib::adj_out::Member;
use crate::rib::export::{Export, Rules};
use crate::rib::loc::FamilyRib;
use crate::rib::table::SourceId;
use crate::session::Session;
use crate::types::{Family, PeerId};

impl Engine {
    /// Puts a configuration in force, whole; the difference to the last one is found here. Sessions
    /// are reset only where something changed that was told in OPEN or decides about the connection;
    /// changed policies are applied to the routes already there, in bounded turns.
    ///
    /// # Errors
    ///
    /// What is wrong in `config`; then everything stays as it was.
    pub fn configure(&mut self, now: Instant, config: Config) -> Result<(), ConfigError> {
        config.check()?;
        self.tick(now);
        if self.config.as_ref() == Some(&config) {
            return Ok(());
        }
        self.policies = (config.policies.iter())
            .map(|policy| (policy.name.clone(), Arc::new(policy.clone())))
            .collect();
        self.advertisements = config
            .advertisements
            .iter()
            .cloned()
            .map(Arc::new)
            .collect();
        self.heard_by.clear();
        for advertisement in &config.advertisements {
            for peer in &advertisement.peers {
                let heard = self.heard_by.entry(peer.clone()).or_default();
                heard.push(advertisement.name.clone());
            }
        }
        let checks_changed = self.configure_ourselves(&config);
        self.configure_peers(now, &config);
        if self.config.is_none() {
            self.begin_deferral(now);
        }
        self.tell_sessions_of_restart();
        self.configure_imports(checks_changed);
        self.configure_reflection();
        self.configure_exports();
        self.v4.originate(&mut self.shared, &config.originate);
        self.v6.originate(&mut self.shared, &config.originate);
        self.config = Some(config);
        self.settle();
        Ok(())
    }

    /// What concerns all routes. Whether the checks on received ones changed.
    fn configure_ourselves(&mut self, config: &Config) -> bool {
        if self.shared.decision != config.decision {
            self.shared.decision = config.decision;
            self.v4.decide_again();
            self.v6.decide_again();
        }
        let addresses = (self.peers.values())
            .filter_map(|peer| peer.up.as_ref())
            .flat_map(|up| [Some(up.local.address), up.local.other_family])
            .chain(config.peers.iter().map(|peer| peer.local_address))
            .flatten()
            .collect();
        let own = crate::rib::Own {
            asn: Some(config.asn),
            router_id: Some(config.router_id),
            cluster_id: config.is_reflector().then(|| config.cluster_id()),
            addresses,
        };
        let (v4, v6) = (own_subnets(config), own_subnets(config));
        let changed =
            own != self.shared.own || v4 != self.v4.own_subnets || v6 != self.v6.own_subnets;
        self.shared.own = own;
        self.cluster_id = config.cluster_id();
        self.v4.own_subnets = v4;
        self.v6.own_subnets = v6;
        changed
    }

    fn configure_peers(&mut self, now: Instant, config: &Config) {
        // By name: a reflector has thousands of them.
        let mut known: HashMap<Arc<str>, PeerId> = (self.peers.iter())
            .map(|(id, peer)| (peer.name.clone(), *id))
            .collect();
        let wanted: HashSet<&str> = config.peers.iter().map(|peer| peer.name.as_str()).collect();
        let mut gone: Vec<PeerId> = (known.iter())
            .filter(|(name, _)| !wanted.contains(&***name))
            .map(|(_, id)| *id)
            .collect();
        gone.sort_unstable();
        known.retain(|name, _| wanted.contains(&**name));
        for id in gone {
            if let Some(peer) = self.peers.get_mut(&id) {
                peer.session.deconfigure(now);
            }
            self.carry_out(now, id);
            self.peers.remove(&id);
            self.conns.retain(|_, conn| conn.peer != id || conn.closing);
            self.outputs.push_back(Output::SessionChanged(id));
        }
        // Connections are matched to peers by address from now on by the new configuration.
        self.by_address.clear();
        self.order.clear();
        for new in &config.peers {
            let id = match known.get(new.name.as_str()) {
                Some(id) => *id,
                None => {
                    self.last_peer += 1;
                    PeerId(self.last_peer)
                }
            };
            self.by_address.insert(new.address, id);
            self.order.push(id);
            self.configure_peer(now, id, new, config);
        }
    }

    fn configure_peer(&mut self, now: Instant, id: PeerId, new: &PeerConfig, config: &Config) {
        match self.peers.get_mut(&id) {
            Some(peer) => {
                if peer.config != *new {
                    self.outputs.push_back(Output::SessionChanged(id));
                }
                let other = |peer: &PeerConfig| (peer.address, peer.local_asn, peer.remote_asn);
                let kept = new.graceful_restart.is_some() && other(&peer.config) == other(new);
                peer.config = new.clone();
                peer.session.reconfigure(now, new, config.router_id);
                if peer.up.is_none() && kept {
                    self.review_long_lived(now, id);
                } else if peer.up.is_none() {
                    self.give_up_stale(id);
                }
                self.check_limits(now, id);
            }
            None => {
                let seed = self.seed.wrapping_add(u64::from(id.0));
                let mut session = Session::new(id, new, config.router_id, seed);
                session.start(now);
                let peer = Peer {
                    name: Arc::from(new.name.as_str()),
                    config: new.clone(),
                    session,
                    up: None,
                    stale: None,
                    faults: Faults::default(),
                };
                self.peers.insert(id, peer);
                self.outputs.push_back(Output::SessionChanged(id));
            }
        }
        self.carry_out(now, id);
    }

    /// Import policies of peers that have routes here, asked again where they changed.
    fn configure_imports(&mut self, checks_changed: bool) {
        let mut again: BTreeSet<SourceId> = BTreeSet::new();
        for peer in self.peers.values() {
            let Some(source) = peer.source() else {
                continue;
            };
            let import = self.import_chain(&peer.config);
            let Some(origin) = self.shared.source_mut(source) else {
                continue;
            };
            let allow_own_as = peer.config.allow_own_as;
            if checks_changed || *origin.import != import || origin.allow_own_as != allow_own_as {
                origin.import = Arc::new(import);
                origin.allow_own_as = allow_own_as;
                again.insert(source);
            }
        }
        self.shared.forget_imported();
        if !again.is_empty() {
            self.v4.import_again(&again);
            self.v6.import_again(&again);
        }
    }

    /// Whose routes are reflected, and to whom: a route of a peer that became our client, or is it no
    /// longer, may be for others than before.
    fn configure_reflection(&mut self) {
        let mut changed = false;
        for peer in self.peers.values() {
            if let Some(source) = peer.source()
                && let Some(origin) = self.shared.source_mut(source)
                && origin.reflector_client != peer.config.reflector_client
            {
                origin.reflector_client = peer.config.reflector_client;
                changed = true;
            }
        }
        if changed {
            self.v4.look_again(&mut self.shared);
            self.v6.look_again(&mut self.shared);
        }
    }

    /// Export policies: a group whose rules changed asks them again; a peer whose group is another
    /// one now moves.
    fn configure_exports(&mut self) {
        let (policies, advertisements) = (&self.policies, &self.advertisements);
        let rules = |export: &Export| rules(policies, advertisements, export);
        self.v4.change_rules(&mut self.shared, rules);
        self.v6.change_rules(&mut self.shared, rules);
        let up: Vec<PeerId> = (self.peers.iter())
            .filter(|(_, peer)| peer.up.is_some())
            .map(|(id, _)| *id)
            .collect();
        for id in up {
            self.regroup(id);
        }
    }

    /// Moves a peer to the update groups it belongs to, where those are others now.
    pub(super) fn regroup(&mut self, id: PeerId) {
        let moves = Family::ALL.map(|family| {
            let now = self.export_of(id, family);
            let was = match family {
                Family::Ipv4 => self.v4.group_of(id).map(|group| &*group.export),
                Family::Ipv6 => self.v6.group_of(id).map(|group| &*group.export),
            };
            now.as_ref() != was
        });
        let mut told: [Option<Member>; 2] = [None, None];
        if moves[0] {
            told[0] = self.v4.leave(id);
        }
        if moves[1] {
            told[1] = self.v6.leave(id);
        }
        if moves[0] || moves[1] {
            self.join_groups(id, told);
        }
    }

    /// Puts a peer into the update groups it belongs to, where it is in none. `told`: what it was
    /// told by its last groups.
    pub(super) fn join_groups(&mut self, id: PeerId, told: [Option<Member>; 2]) {
        let [told4, told6] = told;
        if let Some(export) = self.export_of(id, Family::Ipv4)
            && self.v4.group_of(id).is_none()
        {
            let rules = rules(&self.policies, &self.advertisements, &export);
            self.v4.join(&mut self.shared, id, export, rules, told4);
        }
        if let Some(export) = self.export_of(id, Family::Ipv6)
            && self.v6.group_of(id).is_none()
        {
            let rules = rules(&self.policies, &self.advertisements, &export);
            self.v6.join(&mut self.shared, id, export, rules, told6);
        }
    }

    /// What decides about what a peer is sent; `None` where its session does not carry the family.
    fn export_of(&self, id: PeerId, family: Family) -> Option<Export> {
        let peer = self.peers.get(&id)?;
        let up = peer.up.as_ref()?;
        if !up.negotiated.families.contains(&family) {
            return None;
        }
        let advertisements = self.heard_by.get(&*peer.name).cloned();
        Some(Export {
            ebgp: peer.config.is_ebgp(),
            local_asn: peer.config.local_asn,
            reflector_client: peer.config.reflector_client,
            cluster_id: (!peer.config.is_ebgp()).then_some(self.cluster_id),
            next_hop: peer.config.next_hop,
            local: up.local,
            extended_next_hop: up.negotiated.extended_next_hop.contains(&family),
            four_octet_as: up.negotiated.four_octet_as,
            max_message: up.negotiated.max_message,
            long_lived_stale: peer.tells_long_lived_stale(up),
            policies: peer.config.export.clone(),
            advertisements: advertisements.unwrap_or_default(),
        })
    }

    /// A peer's import policies.
    pub(super) fn import_chain(&self, config: &PeerConfig) -> Chain {
        chain(&self.policies, &config.import, !config.is_ebgp())
    }

    /// A session uses these addresses of ours; routes with such a next hop lead to ourselves.
    pub(super) fn add_own_addresses(&mut self, local: LocalAddresses) {
        let mut known = false;
        for address in [Some(local.address), local.other_family]
            .into_iter()
            .flatten()
        {
            let new = self.shared.own.addresses.insert(address);
            known |= new && self.shared.hops.is_known(address);
        }
        self.shared.forget_imported();
        if known {
            let sources: BTreeSet<SourceId> =
                self.peers.values().filter_map(Peer::source).collect();
            self.v4.import_again(&sources);
            self.v6.import_again(&sources);
        }
    }
}

fn chain(
    policies: &BTreeMap<String, Arc<crate::config::Policy>>,
    names: &[String],
    open: bool,
) -> Chain {
    // `Config::check` found every name.
    let policies = names.iter().filter_map(|name| policies.get(name).cloned());
    Chain::new(policies.collect(), open)
}

fn rules(
    policies: &BTreeMap<String, Arc<crate::config::Policy>>,
    advertisements: &[Arc<crate::config::Advertisement>],
    export: &Export,
) -> Rules {
    let named = |name: &String| advertisements.iter().find(|adv| adv.name == *name).cloned();
    Rules {
        chain: chain(policies, &export.policies, !export.ebgp),
        advertisements: export.advertisements.iter().filter_map(named).collect(),
    }
}

fn own_subnets<P: Martian>(config: &Config) -> Vec<P> {
    config
        .own_subnets
        .iter()
        .filter_map(|p| P::of(*p))
        .collect()
}

impl<P: Martian> FamilyRib<P> {
    /// Our own routes, whole.
    fn originate(&mut self, shared: &mut Shared, wanted: &[Originated]) {
        let wanted: BTreeMap<P, Vec<Arc<str>>> = wanted
            .iter()
            .filter_map(|route| {
                let names = route.advertisements.iter();
                let names = names.map(|name| Arc::from(name.as_str())).collect();
                Some((P::of(route.prefix)?, names))
            })
            .collect();
        let set = shared
            .attrs
            .intern(&Attributes::default(), &mut shared.hops);
        let old = std::mem::replace(&mut self.originated, wanted);
        for prefix in old.keys() {
            if !self.originated.contains_key(prefix) {
                self.withdraw_all(shared, SourceId::LOCAL, std::iter::once(*prefix));
            }
        }
        let wanted: Vec<P> = self.originated.keys().copied().collect();
        for prefix in wanted {
            let slot = self.table.enter(prefix);
            self.announce(shared, slot, SourceId::LOCAL, set, Ok(set));
            let known = old.get(&prefix);
            if known.is_some() && known != self.originated.get(&prefix) {
                self.touch_all(shared, slot);
            }
        }
        shared.attrs.release(set, &mut shared.hops);
    }
}
