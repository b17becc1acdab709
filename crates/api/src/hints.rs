//! The words of mistakes: what was probably meant, and what is not available yet.

use std::net::IpAddr;

use bgp::types::Prefix;

use crate::tree::Node;

/// What a user may know from the design or from other programs, and when it can be had. By the
/// schema's type and the field.
const LATER: &[(&str, &str, &str)] = &[
    (
        "FabricSpec",
        "nodeSubnets",
        "taking over subnets of another allocator is not available yet",
    ),
    (
        "PoolSpec",
        "masquerade",
        "masquerading is not available yet",
    ),
    (
        "PoolSpec",
        "namespaceSelector",
        "pools for some namespaces only are not available yet",
    ),
    (
        "PeerSpec",
        "interface",
        "peers without addresses (unnumbered) are not available yet; use address or addressFrom",
    ),
    (
        "PeerSpec",
        "listenRange",
        "peers out of a range of addresses are not available yet; use address or addressFrom",
    ),
    (
        "PeerSpec",
        "discover",
        "finding peers is not available yet; use address or addressFrom",
    ),
    (
        "BfdSpec",
        "echo",
        "the Echo function is asked for by echoMillis, such as `echoMillis: 50`",
    ),
    ("PeerSpec", "addPath", "ADD-PATH is not available yet"),
    (
        "AdvertisementSpec",
        "services",
        "announcing service addresses is not available yet; list them in prefixes",
    ),
    (
        "Metadata",
        "namespace",
        "the resources belong to the cluster as a whole",
    ),
    ("Metadata", "uid", KUBERNETES),
    ("Metadata", "resourceVersion", KUBERNETES),
    ("Metadata", "generation", KUBERNETES),
    ("Metadata", "creationTimestamp", KUBERNETES),
    ("Metadata", "managedFields", KUBERNETES),
    ("Document", "status", KUBERNETES),
    ("Topology", "Auto", "not available yet"),
    ("Purpose", "Services", "not available yet"),
    (
        "Encapsulation",
        "CrossSubnet",
        "not available yet; routes are plain",
    ),
    (
        "Encapsulation",
        "Always",
        "not available yet; routes are plain",
    ),
];

const KUBERNETES: &str = "the Kubernetes API server writes it, users do not";

/// Names from other programs and older habits. By the schema's type and the field.
const MEANT: &[(&str, &str, &str)] = &[
    ("PeerSpec", "holdTime", "timers: {holdSeconds: 90}"),
    ("PeerSpec", "holdSeconds", "timers: {holdSeconds: 90}"),
    (
        "PeerSpec",
        "keepaliveTime",
        "timers: {keepaliveSeconds: 30}",
    ),
    (
        "PeerSpec",
        "keepaliveSeconds",
        "timers: {keepaliveSeconds: 30}",
    ),
    (
        "PeerSpec",
        "connectRetrySeconds",
        "timers: {connectRetrySeconds: 5}",
    ),
    ("PeerSpec", "peerAddress", "address: 192.0.2.1"),
    ("PeerSpec", "neighbor", "address: 192.0.2.1"),
    ("PeerSpec", "peerASN", "remoteAsn: 65101"),
    ("PeerSpec", "peerAsn", "remoteAsn: 65101"),
    ("PeerSpec", "asn", "remoteAsn: 65101"),
    ("PeerSpec", "remoteAs", "remoteAsn: 65101"),
    ("PeerSpec", "prefixLimit", "maxPrefixes: {ipv4: 1000}"),
    ("PeerSpec", "ebgpMultihop", "ttl: 2"),
    ("PeerSpec", "multihop", "ttl: 2"),
    (
        "PeerSpec",
        "key",
        "password: {file: /etc/routeshare/tor.key}",
    ),
    (
        "PeerSpec",
        "keyFile",
        "password: {file: /etc/routeshare/tor.key}",
    ),
    (
        "PeerSpec",
        "passwordSecret",
        "password: {secret: {name: bgp-keys, key: tor}}",
    ),
    (
        "PeerSpec",
        "passwordFile",
        "password: {file: /etc/routeshare/tor.key}",
    ),
    (
        "PeerSpec",
        "md5",
        "password: {file: /etc/routeshare/tor.key}",
    ),
    ("PeerSpec", "gtsm", "ttlSecurity: {hops: 1}"),
    ("PeerSpec", "ttlSecurityHops", "ttlSecurity: {hops: 1}"),
    ("PeerSpec", "sourceAddress", "localAddress: 192.0.2.11"),
    ("PeerSpec", "updateSource", "localAddress: 192.0.2.11"),
    ("PeerSpec", "routeReflectorClient", "reflectorClient: true"),
    ("PeerSpec", "nextHopSelf", "nextHop: Self"),
    ("PeerSpec", "policies", "import: [NAME] and export: [NAME]"),
    ("FabricSpec", "asNumber", "asn: {value: 64512}"),
    ("FabricSpec", "holdSeconds", "timers: {holdSeconds: 90}"),
    ("FabricSpec", "holdTime", "timers: {holdSeconds: 90}"),
    ("PoolSpec", "cidr", "prefixes: [10.64.0.0/16]"),
    ("PoolSpec", "cidrs", "prefixes: [10.64.0.0/16]"),
    (
        "PoolSpec",
        "blockSize",
        "nodeSubnetLength: {ipv4: 24, ipv6: 64}",
    ),
    ("NodeSpec", "address", "addresses: [192.0.2.11]"),
    ("NodeSpec", "labels", "metadata: {labels: {rack: a}}"),
    ("NodeSpec", "rack", "metadata: {labels: {rack: a}}"),
    ("PrefixSpec", "ge", "minLength: 24"),
    ("PrefixSpec", "le", "maxLength: 24"),
    ("SetSpec", "localPref", "localPreference: 200"),
    ("SetSpec", "communities", "addCommunities: [\"65000:1\"]"),
];

fn later(schema: &str, name: &str) -> Option<&'static str> {
    LATER
        .iter()
        .find(|(of, field, _)| *of == schema && *field == name)
        .map(|(_, _, why)| *why)
}

/// What to say of a field that `schema` does not have, and the field that was probably meant.
pub(crate) fn unknown_field(schema: &str, field: &str, known: &[&str]) -> (String, Option<String>) {
    if let Some(why) = later(schema, field) {
        return (format!("{why}; remove this field"), None);
    }
    if let Some((_, _, meant)) = MEANT
        .iter()
        .find(|(of, name, _)| *of == schema && *name == field)
    {
        return (
            format!("there is no field `{field}` here; write `{meant}`"),
            None,
        );
    }
    match nearest(field, known) {
        Some(meant) => (
            format!("there is no field `{field}` here; did you mean `{meant}`?"),
            Some(meant.to_owned()),
        ),
        None => (
            format!("there is no field `{field}` here; allowed: {}", list(known)),
            None,
        ),
    }
}

/// What to say of a word that is none of those allowed.
pub(crate) fn unknown_variant(schema: &str, found: &str, known: &[&str]) -> String {
    let bare = found.trim_matches('`');
    if schema == "AsnSource" {
        return format!(
            "found {found}; allowed: a map with one of the fields {}, such as `{{value: 64512}}`",
            list(known)
        );
    }
    if let Some(why) = later(schema, bare) {
        return format!("found {found}: {why}; allowed now: {}", list(known));
    }
    match nearest(bare, known) {
        Some(meant) => format!(
            "found {found}; did you mean `{meant}`? Allowed: {}",
            list(known)
        ),
        None => format!("found {found}; allowed: {}", list(known)),
    }
}

/// What to say of a required field that is not there.
pub(crate) fn missing(field: &str) -> String {
    let what = match field {
        "asn" => "where AS numbers come from, such as `asn: {value: 64512}`",
        "prefixes" => "the address space, such as `prefixes: [10.64.0.0/16]`",
        "prefix" => "a prefix such as `prefix: 10.64.0.0/16`",
        "rules" => "the rules in order; `rules: []` rejects everything",
        "action" => "Accept, Reject or Continue",
        "nodeSelector" => {
            "which nodes are meant, such as `nodeSelector: {matchLabels: {role: reflector}}`"
        }
        "label" => "the node's label that is looked at, such as `label: rack`",
        "values" => "what the label's values stand for, such as `values: {a: …, b: …}`",
        "range" => "AS numbers to give out, such as `range: 4200000000-4200000999`",
        "count" => "how often, from 1 to 20",
        "name" => "what others call this resource",
        _ => return "is missing; it is required".into(),
    };
    format!("is missing; it is required: {what}")
}

/// What to say where a key may stand in the place of a map: what was found is not repeated.
pub(crate) fn instead_of_secret(schema: &str) -> Option<&'static str> {
    match schema {
        "PasswordSpec" => Some(
            "is no map, and not repeated here as it may be a key; allowed: a map with the field file \
             or secret, such as `{file: /etc/routeshare/tor.key}`; the key itself stands in no resource",
        ),
        "SecretKey" => Some(
            "is no map, and not repeated here as it may be a key; allowed: the name of a Secret and a key of its \
             data, such as `{name: bgp-keys, key: tor}`",
        ),
        "TcpAoSpec" | "TcpAoKey" => Some(
            "is no map, and not repeated here as it may be a key; write such as `tcpAo: {keys: [{sendId: 1, \
             receiveId: 1, file: /etc/routeshare/tor.key}]}`; the key itself stands in no resource",
        ),
        _ => None,
    }
}

/// What to write where a plain value stands in the place of a map.
pub(crate) fn instead_of_map(schema: &str) -> &'static str {
    match schema {
        "PrefixSpec" => ", such as `{prefix: 10.64.0.0/16, maxLength: 24}`",
        "Selector" => ", such as `{matchLabels: {rack: a}}`",
        "NodeSubnetLength" => ", such as `{ipv4: 24, ipv6: 64}`",
        "PrependSpec" => ", such as `{count: 2}`",
        "LengthSpec" => ", such as `{max: 3}`",
        "MaxPrefixes" => ", such as `{ipv4: 1000, ipv6: 1000}`",
        "TtlSecurity" => ", such as `{hops: 1}`",
        "Shutdown" => ", such as `{message: replacing the line card}`",
        _ => "",
    }
}

/// What to add where a value is right in another notation.
pub(crate) fn notation(node: &Node, allowed: &str) -> String {
    let bare = node.source.trim_matches(['"', '\'']);
    if allowed.contains("number") && bare != node.source && bare.parse::<u64>().is_ok() {
        return format!("; write {bare}, without quotes");
    }
    let parts = bare
        .split_once('.')
        .and_then(|(high, low)| Some((high.parse::<u16>().ok()?, low.parse::<u16>().ok()?)));
    match parts {
        Some((high, low)) if allowed.contains("AS number") => {
            format!("; {bare} is {}", u32::from(high) << 16 | u32::from(low))
        }
        _ => String::new(),
    }
}

/// The message of a value's own parser, with what was found if it does not say that itself.
pub(crate) fn value(node: &Node, message: &str) -> String {
    let text = node.source.trim_matches(['"', '\'']);
    if message.starts_with("invalid IP") {
        let family = if message.starts_with("invalid IPv4") {
            "an IPv4 address such as `192.0.2.11`"
        } else {
            "an IP address such as `192.0.2.11` or `2001:db8::11`"
        };
        let hint = if text.contains('/') {
            "; leave the `/length` away"
        } else {
            ""
        };
        return format!("found {}; allowed: {family}{hint}", node.describe());
    }
    if message.contains("is not a prefix") {
        return match prefix_meant(text) {
            Some(meant) if text.contains('/') => format!("{message}; did you mean `{meant}`?"),
            Some(meant) => format!("{message}; write it too, such as `{meant}`"),
            None => {
                format!("{message}; allowed: a prefix such as `10.64.0.0/16` or `fd00:64::/48`")
            }
        };
    }
    if message.contains("is not a community") {
        if text.parse::<bgp::types::LargeCommunity>().is_ok() {
            return format!("{message}; this is a large community: put it into largeCommunities");
        }
        if text.parse::<bgp::types::ExtendedCommunity>().is_ok() {
            return format!(
                "{message}; this is an extended community: put it into extendedCommunities"
            );
        }
    }
    match message.contains("found ") || message.contains('`') {
        true => message.to_owned(),
        false => format!("found {}: {message}", node.describe()),
    }
}

/// The prefix somebody meant who wrote an address of it, or no length.
fn prefix_meant(text: &str) -> Option<Prefix> {
    let (address, length) = text.split_once('/').unwrap_or((text, ""));
    let address: IpAddr = address.parse().ok()?;
    let (longest, usual) = if address.is_ipv4() {
        (32, 24)
    } else {
        (128, 64)
    };
    match length {
        "" if Prefix::new(address, usual).address() == address => Some(Prefix::new(address, usual)),
        "" => Some(Prefix::new(address, longest)),
        length => length
            .parse()
            .ok()
            .filter(|length| *length <= longest)
            .map(|length| Prefix::new(address, length)),
    }
}

/// `a, b, c`.
pub(crate) fn list<T: AsRef<str>>(words: &[T]) -> String {
    words
        .iter()
        .map(AsRef::as_ref)
        .collect::<Vec<_>>()
        .join(", ")
}

/// The word that differs least, if it differs little.
pub(crate) fn nearest<'a, T: AsRef<str>>(word: &str, known: &'a [T]) -> Option<&'a str> {
    let plain = |word: &str| word.to_lowercase().replace(['-', '_'], "");
    let allowed = (word.len() / 3).clamp(1, 3);
    known
        .iter()
        .map(|other| {
            (
                distance(&plain(word), &plain(other.as_ref())),
                other.as_ref(),
            )
        })
        .min()
        .filter(|(distance, _)| *distance <= allowed)
        .map(|(_, other)| other)
}

/// Letters to change, add, take away or swap with the next (optimal string alignment).
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows: Vec<Vec<usize>> = vec![(0..=b.len()).collect()];
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let change = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut best = change.min(rows[i - 1][j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            row.push(best);
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}
