//! What is wrong between fields and between resources, though each is right in itself.
//!
//! Works on whatever could be read, so that all mistakes are told at once; what a document that could
//! not be read may have held is never called missing.

mod fabric;
mod keys;
mod nodes;
mod peers;
mod policies;
mod pools;
mod protection;
mod shadow;
mod topology;

use std::collections::BTreeMap;
use std::net::IpAddr;

use bgp::types::Prefix;

use crate::parse::{Document, Item, Loaded};
use crate::{
    BfdSpec, GracefulRestartSpec, Metadata, Mistake, Operator, Selector, TimersSpec, hints,
};

/// Where the checks write: what is wrong, and what probably is.
pub(crate) struct Findings<'a> {
    mistakes: Vec<Mistake>,
    warnings: &'a mut Vec<Mistake>,
    only_in_kubernetes: &'a mut Vec<Mistake>,
}

impl Findings<'_> {
    fn mistake(&mut self, document: &Document, field: &str, message: impl Into<String>) {
        self.mistakes.push(document.mistake(field, message));
    }

    fn warning(&mut self, document: &Document, field: &str, message: impl Into<String>) {
        self.warnings.push(document.mistake(field, message));
    }

    fn only_in_kubernetes(&mut self, document: &Document, field: &str, message: String) {
        self.only_in_kubernetes
            .push(document.mistake(field, message));
    }
}

/// Every check. Besides mistakes: what is probably one, and what is one where resources do not come
/// from Kubernetes.
pub(crate) fn all(
    loaded: &mut Loaded,
    warnings: &mut Vec<Mistake>,
    only_in_kubernetes: &mut Vec<Mistake>,
) {
    let mut findings = Findings {
        mistakes: Vec::new(),
        warnings,
        only_in_kubernetes,
    };
    duplicates(&loaded.pools, &mut findings);
    duplicates(&loaded.nodes, &mut findings);
    duplicates(&loaded.peers, &mut findings);
    duplicates(&loaded.policies, &mut findings);
    duplicates(&loaded.advertisements, &mut findings);
    fabric::check(loaded, &mut findings);
    pools::check(loaded, &mut findings);
    nodes::check(loaded, &mut findings);
    peers::check(loaded, &mut findings);
    policies::check(loaded, &mut findings);
    loaded.mistakes.append(&mut findings.mistakes);
}

fn duplicates<S>(items: &[Item<S>], findings: &mut Findings<'_>) {
    let mut first: BTreeMap<&str, &Document> = BTreeMap::new();
    for item in items {
        match first.get(item.name()) {
            Some(other) => findings.mistake(
                &item.document,
                "metadata.name",
                format!(
                    "there is a {} already, at {}; give one of them another name or remove it",
                    item.document.resource,
                    other.place()
                ),
            ),
            None => drop(first.insert(item.name(), &item.document)),
        }
    }
}

/// A selector's own mistakes.
fn selector(document: &Document, field: &str, selector: &Selector, findings: &mut Findings<'_>) {
    for (index, expression) in selector.match_expressions.iter().enumerate() {
        let at = format!("{field}.matchExpressions[{index}].values");
        match (expression.operator, expression.values.is_empty()) {
            (Operator::In | Operator::NotIn, true) => findings.mistake(
                document,
                &at,
                "is empty; In and NotIn need at least one value",
            ),
            (Operator::Exists | Operator::DoesNotExist, false) => findings.mistake(
                document,
                &at,
                "Exists and DoesNotExist look only at the label's name; remove the values",
            ),
            _ => {}
        }
    }
}

/// Warns of a selector of nodes that selects none, and of names that no node has.
fn selects_nodes(
    document: &Document,
    field: &str,
    selector: &Selector,
    consequence: &str,
    loaded: &Loaded,
    findings: &mut Findings<'_>,
) {
    self::selector(document, field, selector, findings);
    // Without a single node written down they come from elsewhere, or all are mistaken.
    if loaded.nodes.is_empty() || loaded.unnamed {
        return;
    }
    let names: Vec<&str> = loaded.nodes.iter().map(Item::name).collect();
    for (index, name) in selector.names.iter().enumerate() {
        if !loaded.named.contains(&("Node".to_owned(), name.clone())) {
            findings.warning(
                document,
                &format!("{field}.names[{index}]"),
                missing("Node", name, &names),
            );
        }
    }
    if !loaded
        .nodes
        .iter()
        .any(|node| selector.selects(&node.resource.metadata))
    {
        let labels = labels(loaded.nodes.iter().map(|node| &node.resource.metadata));
        findings.warning(
            document,
            field,
            format!("selects no node, so {consequence}; the nodes have {labels}"),
        );
    }
}

/// ``there is no RoutePolicy `x`; did you mean `y`?``
fn missing(kind: &str, name: &str, known: &[&str]) -> String {
    match (hints::nearest(name, known), known) {
        (Some(meant), _) => format!("there is no {kind} `{name}`; did you mean `{meant}`?"),
        (None, []) => {
            format!("there is no {kind} `{name}`, and no other one; write it, or remove the name")
        }
        (None, [only]) => format!("there is no {kind} `{name}`; there is `{only}`"),
        (None, _) => format!(
            "there is no {kind} `{name}`; there are {}",
            several(known.iter())
        ),
    }
}

/// All labels of some things: ``the labels `rack=a` and `rack=b` ``.
fn labels<'a>(all: impl Iterator<Item = &'a Metadata>) -> String {
    let pairs: std::collections::BTreeSet<String> = all
        .flat_map(|metadata| {
            metadata
                .labels
                .iter()
                .map(|(key, value)| format!("{key}={value}"))
        })
        .collect();
    match pairs.is_empty() {
        true => "no labels".into(),
        false => format!("the labels {}", several(pairs.iter())),
    }
}

/// `` `a`, `b` and `c` ``; at most ten, then how many more.
fn several<T: std::fmt::Display>(items: impl Iterator<Item = T>) -> String {
    let mut items: Vec<String> = items.map(|item| format!("`{item}`")).collect();
    if items.len() > 10 {
        let more = items.len() - 9;
        items.truncate(9);
        items.push(format!("{more} more"));
    }
    match items.as_slice() {
        [] => "none".into(),
        [one] => one.clone(),
        [first @ .., last] => format!("{} and {last}", first.join(", ")),
    }
}

/// Echo packets go over one hop (RFC 5883 §3).
fn bfd_echo(document: &Document, bfd: Option<&BfdSpec>, findings: &mut Findings<'_>) {
    if let Some(bfd) = bfd
        && bfd.echo_millis.is_some()
        && bfd.multihop == Some(true)
    {
        findings.mistake(
            document,
            "spec.bfd.echoMillis",
            "not together with multihop: Echo packets go over one hop; remove one of the two",
        );
    }
}

fn bfd_key(document: &Document, bfd: Option<&BfdSpec>, findings: &mut Findings<'_>) {
    if let Some(authentication) = bfd.and_then(|it| it.authentication.as_ref()) {
        let place = keys::Place {
            at: "spec.bfd.authentication",
            file: ("keyFile", authentication.key_file.as_deref()),
            secret: ("keySecret", authentication.key_secret.as_ref()),
        };
        keys::check(document, &place, findings);
    }
}

fn timers(document: &Document, own: TimersSpec, fabric: TimersSpec, findings: &mut Findings<'_>) {
    let hold = own
        .hold_seconds
        .or(fabric.hold_seconds)
        .map_or(90, |it| it.get());
    let Some(keepalive) = own.keepalive_seconds.map(|it| it.get()) else {
        return;
    };
    if hold == 0 {
        return;
    }
    let field = "spec.timers.keepaliveSeconds";
    if keepalive >= hold {
        findings.mistake(
            document,
            field,
            format!(
                "found {keepalive}, with a hold time of {hold} s the session would expire before the \
                 next KEEPALIVE; allowed: at most a third of the hold time, {} s",
                hold / 3
            ),
        );
    } else if keepalive > hold / 3 {
        findings.warning(
            document,
            field,
            format!(
                "{keepalive} s is more than a third of the hold time of {hold} s; {} s will be used",
                hold / 3
            ),
        );
    }
}

/// Long-lived graceful restart begins where the other one ends. RFC 9494 §3.1.
fn long_lived_without_restart(
    document: &Document,
    own: GracefulRestartSpec,
    fabric: GracefulRestartSpec,
    findings: &mut Findings<'_>,
) {
    let enabled = own.enabled.or(fabric.enabled).unwrap_or(true);
    if own.long_lived.says_on() == Some(true) && !enabled {
        findings.mistake(
            document,
            "spec.gracefulRestart.longLived",
            "needs graceful restart, which is off (`enabled: false`); remove one of the two",
        );
    }
}

/// Why no router can have this address, if none can.
pub(crate) fn unusable_address(address: IpAddr) -> Option<&'static str> {
    match address {
        _ if address.is_unspecified() => Some("it is the unspecified address"),
        _ if address.is_multicast() => Some("it is a multicast address"),
        IpAddr::V4(v4) if v4.is_broadcast() => Some("it is the broadcast address"),
        IpAddr::V4(v4) if v4.octets()[0] == 0 || v4.octets()[0] >= 240 => {
            Some("it is in a range that is not for hosts")
        }
        IpAddr::V6(v6) if v6.is_unicast_link_local() => {
            Some("it is link-local; sessions over link-local addresses are not available yet")
        }
        IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => {
            Some("it is an IPv4 address in IPv6 notation; write the IPv4 address")
        }
        _ => None,
    }
}

/// Why nobody may announce this prefix or give addresses out of it, if nobody may.
fn unusable_prefix(prefix: Prefix) -> Option<&'static str> {
    const RANGES: [(&str, &str); 8] = [
        ("0.0.0.0/8", "`this network` (RFC 791)"),
        ("127.0.0.0/8", "the loopback addresses"),
        ("169.254.0.0/16", "the link-local addresses"),
        ("224.0.0.0/3", "the multicast and reserved addresses"),
        ("::/127", "the unspecified and loopback addresses"),
        ("::ffff:0:0/96", "IPv4 in IPv6 notation"),
        ("fe80::/10", "the link-local addresses"),
        ("ff00::/8", "the multicast addresses"),
    ];
    RANGES.iter().find_map(|(range, what)| {
        let range: Prefix = range.parse().ok()?;
        range.contains(prefix).then_some(*what)
    })
}

fn overlap(a: Prefix, b: Prefix) -> bool {
    a.contains(b) || b.contains(a)
}

fn holds(prefix: Prefix, address: IpAddr) -> bool {
    prefix.contains(Prefix::new(address, 128))
}
