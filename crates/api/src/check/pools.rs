//! Pools: address space that is usable, whole, and nobody else's.

use bgp::types::{Family, Prefix};

use super::{Findings, overlap, selects_nodes, unusable_prefix};
use crate::PoolSpec;
use crate::parse::{Item, Loaded};

pub(super) fn check(loaded: &Loaded, findings: &mut Findings<'_>) {
    // Prefixes looked at so far: where they are and whose.
    let mut seen: Vec<(Prefix, String)> = Vec::new();
    for pool in &loaded.pools {
        let document = &pool.document;
        if pool.spec().prefixes.is_empty() {
            findings.mistake(
                document,
                "spec.prefixes",
                "found an empty list; allowed: at least one prefix such as `10.64.0.0/16`",
            );
        }
        for (index, prefix) in pool.spec().prefixes.iter().enumerate() {
            let field = format!("spec.prefixes[{index}]");
            if let Some(what) = unusable_prefix(*prefix) {
                findings.mistake(
                    document,
                    &field,
                    format!("found {prefix}, which is in {what}; allowed: addresses for hosts"),
                );
            }
            for (other, place) in seen.iter().filter(|(other, _)| overlap(*prefix, *other)) {
                findings.mistake(
                    document,
                    &field,
                    format!(
                        "{prefix} overlaps {other} of {place}: an address could be given twice; make them \
                         disjoint"
                    ),
                );
            }
            seen.push((
                *prefix,
                format!("{} ({})", document.resource, document.place()),
            ));
        }
        lengths(pool, findings);
        reserved(pool, findings);
        exempt(pool, loaded, findings);
        selects_nodes(
            document,
            "spec.nodeSelector",
            &pool.spec().node_selector,
            "no node gets a subnet of it",
            loaded,
            findings,
        );
        enough(pool, loaded, findings);
    }
}

fn lengths(pool: &Item<PoolSpec>, findings: &mut Findings<'_>) {
    let document = &pool.document;
    for (family, field) in [(Family::Ipv4, "ipv4"), (Family::Ipv6, "ipv6")] {
        let field = format!("spec.nodeSubnetLength.{field}");
        let length = pool.spec().node_subnet_length.get(family);
        let mut prefixes = pool
            .spec()
            .prefixes
            .iter()
            .filter(|prefix| prefix.family() == family);
        if let Some(prefix) = prefixes.clone().find(|prefix| prefix.length() > length) {
            findings.mistake(
                document,
                &field,
                format!(
                    "a node's subnet of /{length} does not fit into {prefix}; allowed: {} to {}{}",
                    prefix.length(),
                    longest(family),
                    if document.has(&field) {
                        ""
                    } else {
                        " (this is the default)"
                    }
                ),
            );
        }
        if document.has(&field) && prefixes.next().is_none() {
            findings.warning(
                document,
                &field,
                format!("has no effect: none of spec.prefixes is {family}"),
            );
        }
    }
}

fn reserved(pool: &Item<PoolSpec>, findings: &mut Findings<'_>) {
    for (index, reserved) in pool.spec().reserved.iter().enumerate() {
        let field = format!("spec.reserved[{index}]");
        let prefixes = &pool.spec().prefixes;
        if prefixes.iter().any(|prefix| reserved.contains(*prefix)) {
            findings.mistake(
                &pool.document,
                &field,
                format!(
                    "{reserved} reserves a whole prefix of the pool; remove the prefix instead"
                ),
            );
        } else if !prefixes.iter().any(|prefix| prefix.contains(*reserved)) {
            findings.mistake(
                &pool.document,
                &field,
                format!(
                    "{reserved} is in none of the pool's prefixes; allowed: a part of {}",
                    super::several(prefixes.iter())
                ),
            );
        }
    }
}

/// Exemptions from masquerade that change nothing.
fn exempt(pool: &Item<PoolSpec>, loaded: &Loaded, findings: &mut Findings<'_>) {
    let Some(masquerade) = &pool.spec().masquerade else {
        return;
    };
    for (index, exempt) in masquerade.exempt.iter().enumerate() {
        let field = format!("spec.masquerade.exempt[{index}]");
        let family = exempt.family();
        let of_family = |prefix: &Prefix| prefix.family() == family;
        let holds = |prefix: &Prefix| prefix.contains(*exempt);
        let pods = (loaded.pools.iter()).find(|pool| pool.spec().prefixes.iter().any(holds));
        let earlier = masquerade.exempt[..index].iter().find(|it| holds(it));
        let why = if !pool.spec().prefixes.iter().any(of_family) {
            format!("none of spec.prefixes is {family}")
        } else if let Some(pods) = pods {
            let pool = &pods.document.resource;
            format!("{exempt} is in {pool}, and packets between pods keep their addresses anyway")
        } else if let Some(earlier) = earlier {
            format!("{exempt} is in {earlier}, which is exempt already")
        } else {
            continue;
        };
        findings.warning(&pool.document, &field, format!("has no effect: {why}"));
    }
}

/// Whether there is a subnet for every node.
fn enough(pool: &Item<PoolSpec>, loaded: &Loaded, findings: &mut Findings<'_>) {
    if loaded.adopts() {
        return; // nothing is given out of it
    }
    let selector = &pool.spec().node_selector;
    let nodes = loaded
        .nodes
        .iter()
        .filter(|node| selector.selects(&node.resource.metadata))
        .count();
    for family in Family::ALL {
        let length = pool.spec().node_subnet_length.get(family);
        let of_family = |prefixes: &[Prefix]| -> Vec<Prefix> {
            prefixes
                .iter()
                .copied()
                .filter(|prefix| prefix.family() == family)
                .collect()
        };
        let prefixes = of_family(&pool.spec().prefixes);
        if prefixes.is_empty() || prefixes.iter().any(|prefix| prefix.length() > length) {
            continue;
        }
        let count = |prefix: &Prefix| 1_u128 << length.saturating_sub(prefix.length()).min(127);
        let all: u128 = prefixes.iter().map(count).fold(0, u128::saturating_add);
        let without: u128 = of_family(&pool.spec().reserved)
            .iter()
            .map(count)
            .fold(0, u128::saturating_add);
        let free = all.saturating_sub(without);
        if free < nodes as u128 {
            findings.warning(
                &pool.document,
                "spec.prefixes",
                format!(
                    "{nodes} nodes are selected, but there are only {free} {family} subnets of /{length}; add \
                     a prefix, or make nodeSubnetLength longer"
                ),
            );
        }
    }
}

fn longest(family: Family) -> u8 {
    match family {
        Family::Ipv4 => 32,
        Family::Ipv6 => 128,
    }
}
