//! The topologies that generate sessions: one AS, names of their own, and reflectors that are there.

use super::{Findings, selects_nodes};
use crate::parse::{Item, Loaded};
use crate::{AsnSource, FabricSpec, ReflectorsSpec, Topology};

/// What a topology calls what it generates (`crates/plan/src/topology.rs`).
struct Generated {
    topology: &'static str,
    /// How names of sessions begin.
    sessions: &'static [&'static str],
    policies: [&'static str; 2],
    advertisement: &'static str,
}

const MESH: Generated = Generated {
    topology: "Mesh",
    sessions: &["mesh-"],
    policies: ["mesh-import", "mesh-export"],
    advertisement: "mesh",
};

const REFLECTORS: Generated = Generated {
    topology: "Reflectors",
    sessions: &["reflector-", "client-"],
    policies: ["reflectors-import", "reflectors-export"],
    advertisement: "reflectors",
};

pub(super) fn check(fabric: &Item<FabricSpec>, loaded: &Loaded, findings: &mut Findings<'_>) {
    let generated = match fabric.spec().topology {
        Topology::ToR => None,
        Topology::Mesh => Some(MESH),
        Topology::Reflectors => Some(REFLECTORS),
    };
    match (&fabric.spec().reflectors, fabric.spec().topology) {
        (Some(reflectors), Topology::Reflectors) => {
            self::reflectors(fabric, reflectors, loaded, findings);
        }
        (None, Topology::Reflectors) => findings.mistake(
            &fabric.document,
            "spec.topology",
            "found `Reflectors`, but which nodes reflect is not said; write such as `reflectors: \
             {nodeSelector: {matchLabels: {role: reflector}}}`",
        ),
        (Some(_), _) => findings.mistake(
            &fabric.document,
            "spec.reflectors",
            "is for the topology Reflectors; write `topology: Reflectors`, or remove it. (A Peer whose \
             other side is a client has `reflectorClient: true`)",
        ),
        (None, _) => {}
    }
    if let Some(generated) = generated {
        one_number(fabric, generated.topology, loaded, findings);
        names(&generated, loaded, findings);
    }
}

/// At least one reflector, better two, and not everybody.
fn reflectors(
    fabric: &Item<FabricSpec>,
    reflectors: &ReflectorsSpec,
    loaded: &Loaded,
    findings: &mut Findings<'_>,
) {
    let (document, field) = (&fabric.document, "spec.reflectors.nodeSelector");
    if reflectors.cluster_id.is_some_and(|id| id.is_unspecified()) {
        findings.mistake(
            document,
            "spec.reflectors.clusterId",
            "found `0.0.0.0`; allowed: any other IPv4 address, or leave it out",
        );
    }
    if reflectors.node_selector.is_everything() {
        findings.mistake(
            document,
            field,
            "selects every node, and where all are reflectors there is nobody to reflect to; name some \
             of them, such as `{matchLabels: {role: reflector}}`, or write `topology: Mesh`",
        );
        return;
    }
    let consequence = "no node hears of another's subnets";
    selects_nodes(
        document,
        field,
        &reflectors.node_selector,
        consequence,
        loaded,
        findings,
    );
    let selected = |node: &&Item<crate::NodeSpec>| {
        let metadata = &node.resource.metadata;
        reflectors.node_selector.selects(metadata)
    };
    let mut selected = loaded.nodes.iter().filter(selected);
    if let (Some(only), None) = (selected.next(), selected.next()) {
        findings.warning(
            document,
            field,
            format!(
                "selects one node, `{}`: while it is away no node hears of changes, and without graceful \
                 restart they lose each other's routes; select two or more",
                only.name()
            ),
        );
    }
}

/// Generated sessions are iBGP.
fn one_number(
    fabric: &Item<FabricSpec>,
    topology: &str,
    loaded: &Loaded,
    findings: &mut Findings<'_>,
) {
    let AsnSource::Value(asn) = fabric.spec().asn else {
        findings.mistake(
            &fabric.document,
            "spec.topology",
            format!(
                "found `{topology}`, which is iBGP and needs one AS number for all nodes; allowed: \
                 {topology} with `asn: {{value: 64512}}`, or ToR with numbers per rack or per node"
            ),
        );
        return;
    };
    for node in &loaded.nodes {
        if let Some(own) = node.spec().asn.filter(|own| *own != asn) {
            findings.mistake(
                &node.document,
                "spec.asn",
                format!(
                    "found {own}; in the topology {topology} all nodes have the Fabric's AS number \
                     {asn}: leave it out"
                ),
            );
        }
    }
}

/// Generated names are the topology's own.
fn names(generated: &Generated, loaded: &Loaded, findings: &mut Findings<'_>) {
    let taken = |name: &str| {
        format!(
            "`{name}` is a name that the topology {} gives to what it generates; choose another",
            generated.topology
        )
    };
    for peer in &loaded.peers {
        if generated
            .sessions
            .iter()
            .any(|prefix| peer.name().starts_with(prefix))
        {
            findings.mistake(&peer.document, "metadata.name", taken(peer.name()));
        }
    }
    for policy in &loaded.policies {
        if generated.policies.contains(&policy.name()) {
            findings.mistake(&policy.document, "metadata.name", taken(policy.name()));
        }
    }
    for advertisement in &loaded.advertisements {
        if advertisement.name() == generated.advertisement {
            let name = advertisement.name();
            findings.mistake(&advertisement.document, "metadata.name", taken(name));
        }
    }
}
