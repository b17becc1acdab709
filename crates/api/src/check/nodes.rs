//! Nodes: addresses, identifiers and subnets that nobody else has.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use bgp::types::Prefix;

use super::{Findings, holds, overlap, unusable_address, unusable_prefix};
use crate::NodeSpec;
use crate::parse::{Document, Item, Loaded};

pub(super) fn check(loaded: &Loaded, findings: &mut Findings<'_>) {
    let mut addresses: BTreeMap<IpAddr, &Document> = BTreeMap::new();
    let mut identifiers: BTreeMap<Ipv4Addr, &Item<NodeSpec>> = BTreeMap::new();
    let mut subnets: Vec<Static<'_>> = Vec::new();
    for node in &loaded.nodes {
        let document = &node.document;
        for (index, address) in node.spec().addresses.iter().enumerate() {
            let field = format!("spec.addresses[{index}]");
            if let Some(why) = unusable_address(*address) {
                findings.mistake(document, &field, format!("found {address}; {why}"));
            }
            if let Some(other) = addresses.insert(*address, document) {
                findings.mistake(
                    document,
                    &field,
                    format!(
                        "{address} is an address of {} ({}) already",
                        other.resource,
                        other.place()
                    ),
                );
            }
            in_pool(document, &field, *address, loaded, findings);
        }
        identifier(node, &mut identifiers, findings);
        for (index, subnet) in node.spec().subnets.iter().enumerate() {
            let field = format!("spec.subnets[{index}]");
            if let Some(what) = unusable_prefix(*subnet) {
                findings.mistake(
                    document,
                    &field,
                    format!("found {subnet}, which is in {what}; allowed: addresses for hosts"),
                );
            }
            subnets.push(Static {
                prefix: *subnet,
                place: subnets.len(),
                field: field.clone(),
                document,
            });
            if !loaded.adopts() {
                static_in_pool(document, &field, *subnet, loaded, findings);
            }
        }
    }
    disjoint(subnets, findings);
}

/// A subnet that a node says.
struct Static<'a> {
    prefix: Prefix,
    /// Counts all of them in the order in which they were written.
    place: usize,
    field: String,
    document: &'a Document,
}

/// No two overlap. In the order of prefixes, as there may be thousands: what overlaps one lies in it.
fn disjoint(mut subnets: Vec<Static<'_>>, findings: &mut Findings<'_>) {
    subnets.sort_by_key(|subnet| (subnet.prefix, subnet.place));
    // Those that the next one may lie in, each in the one before.
    let mut around: Vec<&Static<'_>> = Vec::new();
    for subnet in &subnets {
        while around
            .pop_if(|outer| !overlap(outer.prefix, subnet.prefix))
            .is_some()
        {}
        for outer in &around {
            let (earlier, later) = match outer.place < subnet.place {
                true => (*outer, subnet),
                false => (subnet, *outer),
            };
            findings.mistake(
                later.document,
                &later.field,
                format!(
                    "{} overlaps {} of {} ({})",
                    later.prefix,
                    earlier.prefix,
                    earlier.document.resource,
                    earlier.document.place()
                ),
            );
        }
        around.push(subnet);
    }
}

/// A static subnet must not be given to another node too.
fn static_in_pool(
    document: &Document,
    field: &str,
    subnet: Prefix,
    loaded: &Loaded,
    findings: &mut Findings<'_>,
) {
    for pool in &loaded.pools {
        let Some(prefix) = pool
            .spec()
            .prefixes
            .iter()
            .find(|prefix| overlap(**prefix, subnet))
        else {
            continue;
        };
        if !pool
            .spec()
            .reserved
            .iter()
            .any(|reserved| reserved.contains(subnet))
        {
            findings.mistake(
                document,
                field,
                format!(
                    "{subnet} overlaps {prefix} of {} ({}), which could give it to another node; add it to \
                     the Pool's spec.reserved",
                    pool.document.resource,
                    pool.document.place()
                ),
            );
        }
    }
}

/// A node's own address must not be given to a container.
fn in_pool(
    document: &Document,
    field: &str,
    address: IpAddr,
    loaded: &Loaded,
    findings: &mut Findings<'_>,
) {
    for pool in &loaded.pools {
        let spec = pool.spec();
        let Some(prefix) = spec.prefixes.iter().find(|prefix| holds(**prefix, address)) else {
            continue;
        };
        if !spec
            .reserved
            .iter()
            .any(|reserved| holds(*reserved, address))
        {
            findings.mistake(
                document,
                field,
                format!(
                    "{address} is in {prefix} of {} ({}), which could give it to a container; add the \
                     nodes' own network to the Pool's spec.reserved",
                    pool.document.resource,
                    pool.document.place()
                ),
            );
        }
    }
}

fn identifier<'a>(
    node: &'a Item<NodeSpec>,
    identifiers: &mut BTreeMap<Ipv4Addr, &'a Item<NodeSpec>>,
    findings: &mut Findings<'_>,
) {
    let spec = node.spec();
    let first = spec.addresses.iter().find_map(|address| match address {
        IpAddr::V4(address) => Some(*address),
        IpAddr::V6(_) => None,
    });
    let Some(identifier) = spec.router_id.or(first) else {
        return;
    };
    let document = &node.document;
    if identifier.is_unspecified() {
        findings.mistake(
            document,
            "spec.routerId",
            "found `0.0.0.0`; allowed: any other IPv4 address, or leave it out",
        );
    }
    if let Some(other) = identifiers.insert(identifier, node) {
        // Two nodes with one address have been told of that already.
        if spec.router_id.is_some() || other.spec().router_id.is_some() {
            findings.mistake(
                document,
                "spec.routerId",
                format!(
                    "{identifier} is the router id of {} ({}) already; sessions between the two would be \
                     refused",
                    other.document.resource,
                    other.document.place()
                ),
            );
        }
    }
}
