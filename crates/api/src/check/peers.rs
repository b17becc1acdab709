//! Peers: who has the session, with whom, and whether anything can come over it.

use std::collections::BTreeMap;
use std::net::IpAddr;

use bgp::types::{Asn, Family};

use super::{
    Findings, bfd_echo, bfd_key, holds, long_lived_without_restart, missing, protection,
    selects_nodes, several, timers, unusable_address,
};
use crate::parse::{Document, Item, Loaded};
use crate::{
    AsNumber, AsnSource, FromNode, LimitActionSpec, LocalAddress, NoValue, NodeSpec, NodeText,
    PeerSpec, SetNextHop, TimersSpec,
};

pub(super) fn check(loaded: &Loaded, findings: &mut Findings<'_>) {
    let fabric = loaded.fabrics.first().map(|it| it.spec());
    let fabric_timers = fabric.map(|it| it.timers).unwrap_or_default();
    let fabric_graceful = fabric.map(|it| it.graceful_restart).unwrap_or_default();
    for peer in &loaded.peers {
        other_side(peer, findings);
        policies_of(peer, loaded, findings);
        families(peer, findings);
        limits(peer, findings);
        protection::check(peer, findings);
        own_timers(peer, fabric_timers, findings);
        let graceful = peer.spec().graceful_restart;
        long_lived_without_restart(&peer.document, graceful, fabric_graceful, findings);
        if let Some(shutdown) = &peer.spec().shutdown
            && shutdown.message.len() > 255
        {
            findings.mistake(
                &peer.document,
                "spec.shutdown.message",
                format!(
                    "has {} octets; allowed: at most 255 (RFC 9003)",
                    shutdown.message.len()
                ),
            );
        }
        bfd_echo(&peer.document, peer.spec().bfd.as_ref(), findings);
        bfd_key(&peer.document, peer.spec().bfd.as_ref(), findings);
        selects_nodes(
            &peer.document,
            "spec.nodeSelector",
            &peer.spec().node_selector,
            "no node has this session",
            loaded,
            findings,
        );
        on_nodes(peer, loaded, findings);
        closed(peer, loaded, findings);
        client(peer, loaded, findings);
        same_number(peer, loaded, findings);
    }
    same_address(loaded, findings);
}

fn selected<'a>(
    peer: &'a Item<PeerSpec>,
    loaded: &'a Loaded,
) -> impl Iterator<Item = &'a Item<NodeSpec>> {
    let selector = &peer.spec().node_selector;
    loaded
        .nodes
        .iter()
        .filter(|node| selector.selects(&node.resource.metadata))
}

/// The other side's address on a node; `None` when there is none.
fn address_on(peer: &PeerSpec, node: &Item<NodeSpec>) -> Option<IpAddr> {
    let from = peer.address_from.as_ref();
    let metadata = &node.resource.metadata;
    peer.address.or_else(|| from?.get(metadata).ok())
}

/// The AS number that the other side has to have on a node; `None` when there is none.
fn remote_on(peer: &PeerSpec, node: &Item<NodeSpec>) -> Option<AsNumber> {
    let from = peer.remote_asn_from.as_ref();
    let metadata = &node.resource.metadata;
    peer.remote_asn.or_else(|| from?.get(metadata).ok())
}

/// Exactly one way to find the address, exactly one to find the AS number.
fn other_side(peer: &Item<PeerSpec>, findings: &mut Findings<'_>) {
    let (spec, document) = (peer.spec(), &peer.document);
    either(
        document,
        ("address", spec.address.is_some()),
        ("addressFrom", spec.address_from.is_some()),
        "the other side's address",
        findings,
    );
    either(
        document,
        ("remoteAsn", spec.remote_asn.is_some()),
        ("remoteAsnFrom", spec.remote_asn_from.is_some()),
        "the other side's AS number",
        findings,
    );
    let values = spec.address_from.iter().flat_map(FromNode::listed);
    let values = values.map(|(key, address)| (format!("spec.addressFrom.values.{key}"), address));
    let one = spec
        .address
        .iter()
        .map(|address| ("spec.address".to_owned(), address));
    for (field, address) in one.chain(values) {
        if let Some(why) = unusable_address(*address) {
            findings.mistake(document, &field, format!("found {address}; {why}"));
        }
        if let Some(LocalAddress::Address(local)) = spec.local_address
            && local.is_ipv4() != address.is_ipv4()
        {
            findings.mistake(
                document,
                "spec.localAddress",
                format!("found {local}, of another family than the peer's address {address}"),
            );
        }
    }
    where_to_look(
        document,
        "addressFrom",
        spec.address_from.as_ref(),
        findings,
    );
    where_to_look(
        document,
        "remoteAsnFrom",
        spec.remote_asn_from.as_ref(),
        findings,
    );
}

/// One label or one annotation, and values only for a label.
fn where_to_look<T>(
    document: &Document,
    field: &str,
    from: Option<&FromNode<T>>,
    findings: &mut Findings<'_>,
) {
    let Some(from) = from else { return };
    let at = |name: &str| format!("spec.{field}{name}");
    match (&from.label, &from.annotation) {
        (None, None) => findings.mistake(
            document,
            &at(""),
            "does not say where to look; write the name of a label of the nodes, such as `label: rack`, \
             or of an annotation",
        ),
        (Some(_), Some(_)) => findings.mistake(
            document,
            &at(".annotation"),
            "says a second time where to look, beside label; remove one of the two",
        ),
        (None, Some(_)) if from.values.is_some() => findings.mistake(
            document,
            &at(".values"),
            "is for a label; an annotation holds the value itself: remove this field",
        ),
        _ if from.values.as_ref().is_some_and(BTreeMap::is_empty) => findings.mistake(
            document,
            &at(".values"),
            "is empty; allowed: a value for each value of the label, or leave it out where the label \
             holds the value itself",
        ),
        _ => {}
    }
}

fn either(
    document: &Document,
    (one, has_one): (&str, bool),
    (other, has_other): (&str, bool),
    what: &str,
    findings: &mut Findings<'_>,
) {
    match (has_one, has_other) {
        (false, false) => findings.mistake(
            document,
            "spec",
            format!(
                "does not say {what}; write {one}, or {other} to find it by a label of the node"
            ),
        ),
        (true, true) => findings.mistake(
            document,
            &format!("spec.{other}"),
            format!("says {what} a second time, beside {one}; remove one of the two"),
        ),
        _ => {}
    }
}

fn policies_of(peer: &Item<PeerSpec>, loaded: &Loaded, findings: &mut Findings<'_>) {
    let names: Vec<&str> = loaded.policies.iter().map(Item::name).collect();
    let lists = [
        ("import", &peer.spec().import),
        ("export", &peer.spec().export),
    ];
    for (list, policies) in lists {
        for (index, name) in policies.iter().enumerate() {
            let field = format!("spec.{list}[{index}]");
            let is_there = loaded
                .named
                .contains(&("RoutePolicy".to_owned(), name.clone()));
            if !is_there && !loaded.unnamed {
                findings.mistake(&peer.document, &field, missing("RoutePolicy", name, &names));
            }
            if policies[..index].contains(name) {
                findings.mistake(
                    &peer.document,
                    &field,
                    format!("`{name}` is in the list already; a policy is asked once"),
                );
            }
        }
    }
    for (index, name) in peer.spec().import.iter().enumerate() {
        let Some(policy) = loaded.policies.iter().find(|policy| policy.name() == name) else {
            continue;
        };
        let field = format!("spec.import[{index}]");
        for (number, rule) in policy.spec().rules.iter().enumerate() {
            let place = format!("{}, spec.rules[{number}]", policy.document.place());
            if rule.set.next_hop == Some(SetNextHop::Self_) {
                findings.mistake(
                    &peer.document,
                    &field,
                    format!(
                        "`{name}` ({place}) sets the next hop to Self, which is for export only"
                    ),
                );
            }
            if !rule.matches.advertisements.is_empty() {
                findings.warning(
                    &peer.document,
                    &field,
                    format!(
                        "`{name}` ({place}) matches advertisements, which only our own routes have; this \
                         rule never matches a received route"
                    ),
                );
            }
        }
    }
}

fn families(peer: &Item<PeerSpec>, findings: &mut Findings<'_>) {
    let (spec, document) = (peer.spec(), &peer.document);
    if spec.families.is_empty() {
        findings.mistake(
            document,
            "spec.families",
            "found an empty list; allowed: IPv4, IPv6 or both",
        );
        return;
    }
    for (index, family) in spec.families.iter().enumerate() {
        if spec.families[..index].contains(family) {
            findings.mistake(
                document,
                &format!("spec.families[{index}]"),
                format!("`{family}` is in the list already"),
            );
        }
    }
    let ipv4 = spec.families.contains(&Family::Ipv4);
    let from = spec.address_from.iter().flat_map(FromNode::listed);
    let from = from.map(|(_, address)| address);
    let over_ipv6 = spec.address.iter().chain(from).any(IpAddr::is_ipv6);
    if spec.extended_next_hop && !ipv4 {
        findings.warning(
            document,
            "spec.extendedNextHop",
            "has no effect: it is about IPv4 routes, and spec.families has no IPv4",
        );
    }
    if ipv4 && over_ipv6 && !spec.extended_next_hop {
        findings.warning(
            document,
            if document.has("spec.families") { "spec.families" } else { "spec" },
            "IPv4 routes over an IPv6 session need `extendedNextHop: true` (RFC 8950) on both sides, or \
             none are exchanged; set it, or write `families: [IPv6]`",
        );
    }
}

fn limits(peer: &Item<PeerSpec>, findings: &mut Findings<'_>) {
    let (spec, document) = (peer.spec(), &peer.document);
    let Some(limits) = &spec.max_prefixes else {
        return;
    };
    if limits.ipv4.is_none() && limits.ipv6.is_none() {
        findings.mistake(
            document,
            "spec.maxPrefixes",
            "has no limit; write ipv4, ipv6 or both, such as `{ipv4: 1000}`",
        );
    }
    let given = [
        ("ipv4", Family::Ipv4, limits.ipv4),
        ("ipv6", Family::Ipv6, limits.ipv6),
    ];
    for (field, family, limit) in given {
        if limit.is_some() && !spec.families.contains(&family) {
            findings.warning(
                document,
                &format!("spec.maxPrefixes.{field}"),
                format!("has no effect: spec.families has no {family}"),
            );
        }
    }
    if limits.action == LimitActionSpec::Warn && document.has("spec.maxPrefixes.restartSeconds") {
        findings.warning(
            document,
            "spec.maxPrefixes.restartSeconds",
            "has no effect: with action Warn the session is not dropped",
        );
    }
}

fn own_timers(peer: &Item<PeerSpec>, fabric: TimersSpec, findings: &mut Findings<'_>) {
    timers(&peer.document, peer.spec().timers, fabric, findings);
}

/// What is wrong on the nodes that have the session.
fn on_nodes(peer: &Item<PeerSpec>, loaded: &Loaded, findings: &mut Findings<'_>) {
    let (spec, document) = (peer.spec(), &peer.document);
    let mut without: BTreeMap<(&str, String), Vec<&str>> = BTreeMap::new();
    for node in selected(peer, loaded) {
        let metadata = &node.resource.metadata;
        let address = spec.address_from.as_ref().map(|it| it.get(metadata).err());
        let asn = spec
            .remote_asn_from
            .as_ref()
            .map(|it| it.get(metadata).err());
        for (field, why) in [("addressFrom", address), ("remoteAsnFrom", asn)] {
            let why = match why.flatten() {
                Some(NoValue::Absent { kind, name }) => format!("finds no {kind} `{name}` on"),
                Some(NoValue::Unlisted { label, .. }) => {
                    format!("has no value for the label `{label}` of")
                }
                Some(NoValue::Wrong {
                    kind,
                    name,
                    found,
                    why,
                }) => {
                    format!("finds {kind} `{name}` `{found}`, which {why}, on")
                }
                // Told already.
                None | Some(NoValue::Nowhere) => continue,
            };
            without.entry((field, why)).or_default().push(node.name());
        }
        let own = &node.spec().addresses;
        if let Some(address) = address_on(spec, node).filter(|address| own.contains(address)) {
            findings.mistake(
                document,
                if spec.address.is_some() {
                    "spec.address"
                } else {
                    "spec.addressFrom"
                },
                format!(
                    "{address} is an address of {} ({}) itself, which this Peer selects; narrow \
                     spec.nodeSelector so that it leaves this node out",
                    node.document.resource,
                    node.document.place()
                ),
            );
        }
        local_address(document, spec.local_address, node, findings);
    }
    for ((field, why), nodes) in without {
        findings.warning(
            document,
            &format!("spec.{field}"),
            format!(
                "{why} {}, so there is no session on {}",
                several(nodes.iter()),
                if nodes.len() == 1 {
                    "this node"
                } else {
                    "these nodes"
                }
            ),
        );
    }
}

fn local_address(
    document: &Document,
    local: Option<LocalAddress>,
    node: &Item<NodeSpec>,
    findings: &mut Findings<'_>,
) {
    let own = &node.spec().addresses;
    let fits = match local {
        None => true,
        Some(LocalAddress::Address(address)) => own.is_empty() || own.contains(&address),
        Some(LocalAddress::Within(prefix)) => {
            own.iter()
                .filter(|address| holds(prefix, **address))
                .count()
                == 1
        }
    };
    if fits {
        return;
    }
    let (Some(local), has) = (local, several(own.iter())) else {
        return;
    };
    let message = match local {
        LocalAddress::Address(address) => format!(
            "{address} is no address of {} ({}), which this Peer selects and which has {has}; allowed: a \
             prefix such as 192.0.2.0/24 that holds one address of each node",
            node.document.resource,
            node.document.place()
        ),
        LocalAddress::Within(prefix) => format!(
            "{prefix} must hold exactly one address of {} ({}), which this Peer selects and which has {has}",
            node.document.resource,
            node.document.place()
        ),
    };
    findings.mistake(document, "spec.localAddress", message);
}

/// eBGP without policies exchanges nothing: allowed, but hardly meant.
fn closed(peer: &Item<PeerSpec>, loaded: &Loaded, findings: &mut Findings<'_>) {
    let (spec, document) = (peer.spec(), &peer.document);
    if !is_ebgp_somewhere(peer, loaded) {
        return;
    }
    let lists = [
        (&spec.import, "import", "accepts no route from this peer"),
        (&spec.export, "export", "tells this peer no route"),
    ];
    for (policies, field, effect) in lists {
        if policies.is_empty() {
            let field = format!("spec.{field}");
            findings.warning(
                document,
                if document.has(&field) { &field } else { "spec" },
                format!(
                    "without {field} an eBGP session {effect} (RFC 8212); name a RoutePolicy that accepts \
                     what is needed"
                ),
            );
        }
    }
}

/// Routes are reflected within one AS.
fn client(peer: &Item<PeerSpec>, loaded: &Loaded, findings: &mut Findings<'_>) {
    let spec = peer.spec();
    if !spec.reflector_client {
        return;
    }
    let fabric = loaded.fabrics.first().map(|it| &it.spec().asn);
    let of_all = match (fabric, spec.remote_asn) {
        (Some(AsnSource::Value(own)), Some(remote)) => Some((own.get(), remote.get())),
        _ => None,
    };
    let of_nodes = selected(peer, loaded)
        .filter_map(|node| Some((number_of(node, loaded)?, remote_on(spec, node)?.get())));
    let external = of_all.into_iter().filter(|_| loaded.nodes.is_empty());
    if let Some((own, remote)) = external.chain(of_nodes).find(|(own, remote)| own != remote) {
        findings.mistake(
            &peer.document,
            "spec.reflectorClient",
            format!(
                "needs a peer of our own AS (iBGP), but ours is {own} and the other side's {remote}; \
                 remove one of the two"
            ),
        );
    }
}

/// Nodes of one AS number refuse each other's routes when an eBGP peer passes them on.
fn same_number(peer: &Item<PeerSpec>, loaded: &Loaded, findings: &mut Findings<'_>) {
    let spec = peer.spec();
    if spec.allow_own_as.get() > 0 || spec.import.is_empty() || !is_ebgp_somewhere(peer, loaded) {
        return;
    }
    let mut by_number: BTreeMap<Asn, Vec<&str>> = BTreeMap::new();
    let with_session = selected(peer, loaded).filter(|node| address_on(spec, node).is_some());
    for node in with_session {
        if let Some(asn) = number_of(node, loaded) {
            by_number.entry(asn).or_default().push(node.name());
        }
    }
    if let Some((asn, nodes)) = by_number.into_iter().find(|(_, nodes)| nodes.len() > 1) {
        findings.warning(
            &peer.document,
            "spec",
            format!(
                "{} have one AS number, {asn}, and will refuse each other's routes that come back over this \
                 eBGP peer (AS loop); write `allowOwnAs: 1`, or give every node its own number (Fabric \
                 spec.asn.perNode)",
                several(nodes.iter())
            ),
        );
    }
}

/// A node's AS number, where it can be known without the controller.
fn number_of(node: &Item<NodeSpec>, loaded: &Loaded) -> Option<Asn> {
    let own = node.spec().asn.map(|asn| asn.get());
    own.or_else(|| match &loaded.fabrics.first()?.spec().asn {
        AsnSource::Value(asn) => Some(asn.get()),
        AsnSource::PerNode(_) => None,
        AsnSource::PerRack(per_rack) => {
            let rack = node.resource.metadata.labels.get(&per_rack.label)?;
            match per_rack.is_in_label() {
                true => AsNumber::read(rack).ok().map(AsNumber::get),
                false => per_rack.values.get(rack).map(|asn| asn.get()),
            }
        }
    })
}

fn is_ebgp_somewhere(peer: &Item<PeerSpec>, loaded: &Loaded) -> bool {
    let spec = peer.spec();
    let Some(fabric) = loaded.fabrics.first() else {
        return false;
    };
    let mut nodes = selected(peer, loaded).peekable();
    if nodes.peek().is_none() {
        // Nodes come from elsewhere: with one number for all it can still be known.
        return match (&fabric.spec().asn, spec.remote_asn) {
            (AsnSource::Value(own), Some(remote)) => *own != remote,
            _ => true,
        };
    }
    nodes.any(|node| {
        remote_on(spec, node).is_some_and(|remote| number_of(node, loaded) != Some(remote.get()))
    })
}

/// Two sessions with one address on one node cannot be told apart.
fn same_address(loaded: &Loaded, findings: &mut Findings<'_>) {
    for (index, peer) in loaded.peers.iter().enumerate() {
        for other in &loaded.peers[..index] {
            let clash = selected(peer, loaded)
                .filter(|node| other.spec().node_selector.selects(&node.resource.metadata))
                .find_map(|node| {
                    let address = address_on(peer.spec(), node)?;
                    (Some(address) == address_on(other.spec(), node)).then_some((node, address))
                });
            if let Some((node, address)) = clash {
                findings.mistake(
                    &peer.document,
                    if peer.spec().address.is_some() { "spec.address" } else { "spec.addressFrom" },
                    format!(
                        "on node `{}` this is {address}, and so it is for {} ({}); a node has one session \
                         with an address: narrow the spec.nodeSelector of one of them",
                        node.name(),
                        other.document.resource,
                        other.document.place()
                    ),
                );
            }
        }
    }
}
