//! Fabric: exactly one, and what it says fits the nodes.

use super::{Findings, bfd_echo, bfd_key, long_lived_without_restart, several, timers, topology};
use crate::parse::{Item, Loaded};
use crate::{
    AsNumber, AsnSource, ChainedPlugin, FabricSpec, GracefulRestartSpec, Mistake, NamesSpec,
    NodeText, TimersSpec,
};

/// Numbers in use by others, from `/etc/iproute2/rt_protos` and the kernel's headers.
const PROTOCOLS: [(u8, &str); 17] = [
    (8, "gated"),
    (9, "the kernel (router advertisements)"),
    (10, "mrt"),
    (11, "zebra"),
    (12, "BIRD"),
    (13, "dnrouted"),
    (14, "xorp"),
    (15, "ntk"),
    (16, "DHCP clients"),
    (17, "mrouted"),
    (18, "keepalived"),
    (42, "babeld"),
    (150, "the routes to pods of our own CNI plugin"),
    (186, "FRR's bgpd"),
    (187, "FRR's isisd"),
    (188, "FRR's ospfd"),
    (192, "FRR's eigrpd"),
];

pub(super) fn check(loaded: &Loaded, findings: &mut Findings<'_>) {
    let named = loaded.named.iter().any(|(kind, _)| kind == "Fabric");
    if loaded.fabrics.is_empty() && !named && !loaded.unnamed {
        findings.mistakes.push(Mistake {
            message: "no Fabric; exactly one document of kind Fabric is needed, at least \
                      `spec: {asn: {value: 64512}}`"
                .into(),
            ..Mistake::default()
        });
    }
    let [first, others @ ..] = loaded.fabrics.as_slice() else {
        return;
    };
    for other in others {
        findings.mistake(
            &other.document,
            "",
            format!(
                "there is a Fabric already, {} at {}; exactly one is needed: remove one of them",
                first.document.resource,
                first.document.place()
            ),
        );
    }
    numbers(first, loaded, findings);
    kernel(first, findings);
    pods(first, findings);
    timers(
        &first.document,
        first.spec().timers,
        TimersSpec::default(),
        findings,
    );
    bfd_echo(&first.document, first.spec().bfd.as_ref(), findings);
    bfd_key(&first.document, first.spec().bfd.as_ref(), findings);
    let graceful = first.spec().graceful_restart;
    long_lived_without_restart(
        &first.document,
        graceful,
        GracefulRestartSpec::default(),
        findings,
    );
    topology::check(first, loaded, findings);
}

fn kernel(fabric: &Item<FabricSpec>, findings: &mut Findings<'_>) {
    let kernel = fabric.spec().kernel;
    let protocol = kernel.protocol.get();
    if let Some((_, owner)) = PROTOCOLS.iter().find(|(number, _)| *number == protocol) {
        findings.mistake(
            &fabric.document,
            "spec.kernel.protocol",
            format!(
                "found {protocol}, the number of {owner}, whose routes would be taken for ours and \
                 removed; allowed: a number of our own, such as 149"
            ),
        );
    }
    if kernel.table.get() == 255 {
        findings.mistake(
            &fabric.document,
            "spec.kernel.table",
            "found 255, the kernel's table of local addresses; allowed: 254 (main) or another table",
        );
    }
}

/// Plugins are chained once, and what `tuning` sets is what it can set.
fn pods(fabric: &Item<FabricSpec>, findings: &mut Findings<'_>) {
    let pods = &fabric.spec().pods;
    for (at, plugin) in pods.chained.iter().enumerate() {
        if pods.chained[..at].contains(plugin) {
            let message = format!("`{}` is chained twice; remove one of them", plugin.name());
            findings.mistake(
                &fabric.document,
                &format!("spec.pods.chained[{at}]"),
                message,
            );
        }
    }
    if !pods.sysctls.is_empty() && !pods.chained.contains(&ChainedPlugin::Tuning) {
        findings.mistake(
            &fabric.document,
            "spec.pods.sysctls",
            "nobody sets them: that is what the plugin tuning does; write `chained: [tuning]` too",
        );
    }
    for key in pods.sysctls.keys().filter(|key| !is_of_network(key)) {
        let message = format!(
            "`{key}` is not a sysctl of a network namespace; allowed: names that begin with `net.`, such as \
             `net.core.somaxconn`"
        );
        findings.mistake(&fabric.document, "spec.pods.sysctls", message);
    }
    if let Some(spec) = &pods.names {
        names(fabric, spec, findings);
    }
}

/// What answers there can be.
fn names(fabric: &Item<FabricSpec>, names: &NamesSpec, findings: &mut Findings<'_>) {
    if !is_domain(&names.domain) {
        let message = format!(
            "`{}` is no domain for names of containers; allowed: labels of small letters, digits and - with \
             dots between them, of {LONGEST_DOMAIN} characters at most, such as `pods.internal`",
            names.domain
        );
        findings.mistake(&fabric.document, "spec.pods.names.domain", message);
    }
    let forward = names.forward.as_deref().unwrap_or_default();
    for (at, resolver) in forward.iter().enumerate() {
        let place = format!("spec.pods.names.forward[{at}]");
        if forward[..at].contains(resolver) {
            let message = format!("`{resolver}` is there twice; remove one of them");
            findings.mistake(&fabric.document, &place, message);
        }
        if resolver.is_unspecified() {
            let message =
                format!("`{resolver}` is nobody's address; allowed: the address of a resolver");
            findings.mistake(&fabric.document, &place, message);
        }
    }
    if forward.len() > MOST_RESOLVERS {
        let message = format!("found {}; allowed: {MOST_RESOLVERS} at most", forward.len());
        findings.mistake(&fabric.document, "spec.pods.names.forward", message);
    }
}

/// A network's and a container's name stand before it, and 253 is the end.
const LONGEST_DOMAIN: usize = 120;
const MOST_RESOLVERS: usize = 8;

fn is_domain(domain: &str) -> bool {
    let letters = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    domain.len() <= LONGEST_DOMAIN
        && domain.split('.').all(|label| {
            (1..=63).contains(&label.len())
                && label.chars().all(letters)
                && !label.starts_with('-')
                && !label.ends_with('-')
        })
}

/// What `tuning` sets; it refuses others, and names that lead out of that directory.
fn is_of_network(sysctl: &str) -> bool {
    let letters = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '/');
    sysctl.starts_with("net.") && sysctl.chars().all(letters) && !sysctl.contains("..")
}

/// Every node has an AS number, and numbers are where they belong.
fn numbers(fabric: &Item<FabricSpec>, loaded: &Loaded, findings: &mut Findings<'_>) {
    let place = fabric.document.place();
    match &fabric.spec().asn {
        AsnSource::Value(_) => {}
        AsnSource::PerNode(per_node) => {
            let range = per_node.range;
            let nodes = loaded.nodes.len() as u64;
            if nodes > range.size() {
                findings.mistake(
                    &fabric.document,
                    "spec.asn.perNode.range",
                    format!(
                        "{range} holds {} AS numbers, but there are {nodes} nodes",
                        range.size()
                    ),
                );
            }
            for node in &loaded.nodes {
                let Some(asn) = node.spec().asn.filter(|asn| !range.contains(asn.get())) else {
                    continue;
                };
                findings.mistake(
                    &node.document,
                    "spec.asn",
                    format!(
                        "found {asn}, outside the range {range} of the Fabric ({place}, \
                         spec.asn.perNode.range); allowed: a number of the range, or leave it out"
                    ),
                );
            }
        }
        AsnSource::PerRack(per_rack) => {
            for node in loaded.nodes.iter().filter(|node| node.spec().asn.is_none()) {
                let label = &per_rack.label;
                let rack = node.resource.metadata.labels.get(label);
                match rack {
                    None => findings.warning(
                        &node.document,
                        "metadata.labels",
                        format!(
                            "there is no label `{label}`, by which the Fabric ({place}, spec.asn.perRack) \
                             finds the AS number; the node stays without configuration until it has the \
                             label or says spec.asn"
                        ),
                    ),
                    Some(rack) if per_rack.is_in_label() => {
                        if let Err(why) = AsNumber::read(rack) {
                            findings.warning(
                                &node.document,
                                &format!("metadata.labels.{label}"),
                                format!(
                                    "found `{rack}`, in which the Fabric ({place}, spec.asn.perRack, without \
                                     values and range) looks for the AS number, and it {why}; the node stays \
                                     without configuration"
                                ),
                            );
                        }
                    }
                    Some(rack) if per_rack.range.is_none() && !per_rack.values.contains_key(rack) => {
                        findings.warning(
                            &node.document,
                            &format!("metadata.labels.{label}"),
                            format!(
                                "found `{rack}`, for which the Fabric ({place}, spec.asn.perRack.values) \
                                 has no AS number; it lists {}; the node stays without configuration",
                                several(per_rack.values.keys())
                            ),
                        );
                    }
                    Some(_) => {}
                }
            }
        }
    }
}
