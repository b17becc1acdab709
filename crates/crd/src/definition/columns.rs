//! What `kubectl get` shows.

use serde_json::{Value, json};

use crate::Kind;

pub(super) fn of(kind: Kind) -> Value {
    let mut columns = match kind {
        Kind::Fabric => vec![
            column(
                "ASN",
                "integer",
                ".spec.asn.value",
                "All nodes' AS number, where they have one.",
            ),
            column(
                "Topology",
                "string",
                ".spec.topology",
                "Who peers with whom.",
            ),
            column("Nodes", "integer", ".status.nodes", "How many there are."),
            column(
                "Connected",
                "integer",
                ".status.connected",
                "On how many the speaker is connected.",
            ),
        ],
        Kind::Pool => vec![
            column("Prefixes", "string", ".spec.prefixes", "The address space."),
            column(
                "IPv4",
                "integer",
                ".spec.nodeSubnetLength.ipv4",
                "Length of a node's IPv4 subnet.",
            ),
            column(
                "IPv6",
                "integer",
                ".spec.nodeSubnetLength.ipv6",
                "Length of a node's IPv6 subnet.",
            ),
            column(
                "Subnets",
                "integer",
                ".status.subnets.total",
                "How many it has.",
            ),
            column(
                "Used",
                "integer",
                ".status.subnets.used",
                "How many of them nodes hold.",
            ),
        ],
        Kind::Peer => vec![
            column("Address", "string", ".spec.address", "The other side."),
            column("Remote AS", "integer", ".spec.remoteAsn", "Its AS number."),
            column(
                "Sessions",
                "string",
                ".status.sessions",
                "Established, and all.",
            ),
        ],
        Kind::RoutePolicy => vec![],
        Kind::Advertisement => vec![column(
            "Prefixes",
            "string",
            ".spec.prefixes",
            "What is announced besides the nodes' subnets.",
        )],
        Kind::NodeSubnets => vec![
            column(
                "IPv4",
                "string",
                ".spec.subnets[?(@.family==\"IPv4\")].prefix",
                "The first IPv4 subnet.",
            ),
            column(
                "IPv6",
                "string",
                ".spec.subnets[?(@.family==\"IPv6\")].prefix",
                "The first IPv6 subnet.",
            ),
            column(
                "State",
                "string",
                ".spec.subnets[0].state",
                "Assigned, or Waiting after the node is gone.",
            ),
        ],
        Kind::NodeStatus => vec![
            condition("Connected", 0),
            condition("Programmed", 0),
            condition("Degraded", 0),
            column(
                "Sessions",
                "string",
                ".status.sessionsEstablished",
                "Established, and all.",
            ),
            wide(
                "Version",
                "integer",
                ".status.version.inForce",
                "Of the configuration in force.",
            ),
            wide(
                "Desired",
                "integer",
                ".status.version.desired",
                "Of the newest configuration.",
            ),
            wide("Software", "string", ".status.software", "The speaker's."),
        ],
    };
    if crate::WRITTEN_BY_USERS.contains(&kind) {
        columns.extend([
            condition("Accepted", 0),
            condition("Programmed", 0),
            condition("Degraded", 0),
            wide(
                "Reason",
                "string",
                ".status.conditions[?(@.type==\"Accepted\")].message",
                "Why it is not accepted.",
            ),
        ]);
    }
    columns.push(column(
        "Age",
        "date",
        ".metadata.creationTimestamp",
        "Since when it is there.",
    ));
    Value::Array(columns)
}

fn column(name: &str, kind: &str, path: &str, description: &str) -> Value {
    json!({"name": name, "type": kind, "jsonPath": path, "description": description})
}

/// A column of `-o wide`.
fn wide(name: &str, kind: &str, path: &str, description: &str) -> Value {
    let mut column = column(name, kind, path, description);
    column["priority"] = json!(1);
    column
}

fn condition(name: &str, priority: u8) -> Value {
    let path = format!(".status.conditions[?(@.type==\"{name}\")].status");
    let mut column = column(name, "string", &path, "Whether the condition holds.");
    if priority > 0 {
        column["priority"] = json!(priority);
    }
    column
}
