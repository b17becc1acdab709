//! Peer: a session template.

use std::net::IpAddr;

use bgp::types::{Family, Prefix};
use serde::{Deserialize, Serialize};

use crate::values::{AsNumber, Number, Port};
use crate::{FromNode, GracefulRestartSpec, MaxPrefixes, Selector, TimersSpec};

/// A session template: every node it selects has one session with the other side.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PeerSpec {
    /// Which nodes have the session; all when not given.
    #[serde(default)]
    pub node_selector: Selector,
    /// Free text for people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// The other side. Either this or `address_from`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<IpAddr>,
    /// The other side, by a label or an annotation of the node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address_from: Option<FromNode<IpAddr>>,
    /// The AS number the other side must have. Either this or `remote_asn_from`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remote_asn: Option<AsNumber>,
    /// The AS number the other side must have, by a label or an annotation of the node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remote_asn_from: Option<FromNode<AsNumber>>,
    /// Our side: one of the node's addresses, or a prefix that holds one of them. The kernel
    /// chooses when not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub local_address: Option<LocalAddress>,
    /// The TCP port of the other side.
    #[serde(default = "bgp_port")]
    pub port: Port,
    /// Wait for the other side to connect, never connect.
    #[serde(default)]
    pub passive: bool,
    /// Families offered; at least one.
    #[serde(default = "all_families")]
    #[cfg_attr(feature = "schema", schemars(with = "Vec<crate::schema::Family>"))]
    pub families: Vec<Family>,
    /// Offer IPv4 routes with IPv6 next hops. RFC 8950.
    #[serde(default)]
    pub extended_next_hop: bool,
    /// How many prefixes the other side may send; any number when not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_prefixes: Option<MaxPrefixes>,
    /// IP time to live of what we send: hops to the other side. 1 on eBGP and 255 on iBGP when not
    /// given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl: Option<Number<u8, 1, 255>>,
    /// Take nothing from farther away than the other side is (GTSM, RFC 5082); off when not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl_security: Option<TtlSecurity>,
    /// Sign every TCP segment with a key that the other side has too (TCP MD5, RFC 2385).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<PasswordSpec>,
    /// Sign every TCP segment with one of several keys that the other side has too (TCP-AO, RFC 5925).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tcp_ao: Option<TcpAoSpec>,
    /// Timers, where they are not what the Fabric says.
    #[serde(default)]
    pub timers: TimersSpec,
    /// Graceful restart, where it is not what the Fabric says.
    #[serde(default)]
    pub graceful_restart: GracefulRestartSpec,
    /// `RoutePolicy`s for routes received, in order. On eBGP none means: accept nothing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub import: Vec<String>,
    /// `RoutePolicy`s for routes sent, in order. On eBGP none means: send nothing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub export: Vec<String>,
    /// What NEXT_HOP says in routes sent.
    #[serde(default)]
    pub next_hop: NextHopSpec,
    /// How often our own AS may stand in a received AS_PATH.
    #[serde(default = "never")]
    pub allow_own_as: Number<u8, 0, 10>,
    /// The node is the other side's route reflector: it tells it the routes of its other internal
    /// peers, and them the other side's. Only on iBGP. RFC 4456.
    #[serde(default)]
    pub reflector_client: bool,
    /// Watch the path to the other side with BFD; as the Fabric says when not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bfd: Option<BfdSpec>,
    /// Administratively down.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shutdown: Option<Shutdown>,
}

/// Our side of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LocalAddress {
    /// This one; the node must have it.
    Address(IpAddr),
    /// The node's one address inside this prefix.
    Within(Prefix),
}

/// What NEXT_HOP says in routes sent. RFC 4271 §5.1.3.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum NextHopSpec {
    /// Ourselves towards eBGP and for routes of our own; unchanged towards iBGP.
    #[default]
    Auto,
    /// Ourselves, but for routes that the node reflects.
    #[serde(rename = "Self")]
    Self_,
    /// Never changed, except for routes of our own.
    Unchanged,
}

/// Where a key is. The key itself stands in no resource.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PasswordSpec {
    /// A file on the node that holds the key, 1 to 80 octets; an absolute path. One newline at its
    /// end does not count. Either this or `secret`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// A Secret that holds the key, 1 to 80 octets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<SecretKey>,
}

/// A key in a Kubernetes Secret of the controller's namespace, of type `routeshare.io/key`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SecretKey {
    /// The Secret's name.
    pub name: String,
    /// The key of its data. One newline at the end of what stands there does not count.
    pub key: String,
}

/// Keys for TCP-AO. RFC 5925.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TcpAoSpec {
    /// At least one. The other side is asked to use the first; all are accepted.
    pub keys: Vec<TcpAoKey>,
}

/// A key for TCP-AO, and its numbers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TcpAoKey {
    /// Its number in segments that we send: the other side's `receiveId`.
    pub send_id: Number<u8, 0, 255>,
    /// Its number in segments that the other side sends.
    pub receive_id: Number<u8, 0, 255>,
    /// How segments are signed.
    #[serde(default)]
    pub algorithm: TcpAoAlgorithm,
    /// A file on the node that holds the key, 1 to 80 octets; an absolute path. One newline at its
    /// end does not count. Either this or `secret`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// A Secret that holds the key, 1 to 80 octets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<SecretKey>,
}

/// How segments are signed with TCP-AO. RFC 5926.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum TcpAoAlgorithm {
    /// HMAC-SHA-1-96.
    #[default]
    HmacSha1,
    /// AES-128-CMAC-96.
    Aes128Cmac,
}

/// The generalised TTL security mechanism: both sides send with TTL 255, which no router on the way
/// lets through undiminished, and drop what has come over more hops than these. RFC 5082.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct TtlSecurity {
    /// How far away the other side is at most: 1 is on the same link.
    pub hops: Number<u8, 1, 254>,
}

impl Default for TtlSecurity {
    fn default() -> TtlSecurity {
        TtlSecurity {
            hops: Number::new(1).expect("1 is between 1 and 254"),
        }
    }
}

/// A BFD session beside the BGP session: when it fails, the BGP session goes down at once. What is
/// not given comes from the Fabric, and there from the defaults 300 ms, 300 ms, and 3. RFC 5880,
/// RFC 5882.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct BfdSpec {
    /// Whether there is one; `true` when not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,
    /// We send a packet this often while the session is up, or more slowly where the other side
    /// asks for that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_tx_millis: Option<Number<u16, 10, 60_000>>,
    /// The other side may send a packet this often.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_rx_millis: Option<Number<u16, 10, 60_000>>,
    /// How many packets in a row may be missed before the session is down.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub multiplier: Option<Number<u8, 1, 255>>,
    /// Over several hops (RFC 5883) or on one link (RFC 5881); as `ttl` or `ttl_security` says when
    /// not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub multihop: Option<bool>,
    /// Packets are authenticated; they are not when not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub authentication: Option<BfdAuthentication>,
    /// The Echo function: packets this often that the other side forwards back to us, and the other
    /// side may send as many; off when not given. Not over several hops.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub echo_millis: Option<Number<u16, 10, 60_000>>,
}

/// How BFD packets are authenticated. RFC 5880 §6.7.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BfdAuthentication {
    /// Which kind.
    pub kind: BfdAuthKind,
    /// The key's number, as both sides call it.
    #[serde(default = "first_key")]
    pub key_id: Number<u8, 0, 255>,
    /// A file on the node that holds the key, 1 to 20 octets; an absolute path. Either this or
    /// `key_secret`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_file: Option<String>,
    /// A Secret that holds the key, 1 to 20 octets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_secret: Option<SecretKey>,
}

/// Kinds of BFD authentication. RFC 5880 §6.7.4.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum BfdAuthKind {
    /// A packet may be repeated by somebody for a while.
    KeyedSha1,
    /// Every packet has a number of its own.
    MeticulousKeyedSha1,
}

/// Why a session is administratively down. RFC 9003.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Shutdown {
    /// Sent to the peer; at most 255 octets.
    #[serde(default)]
    pub message: String,
}

fn bgp_port() -> Port {
    Number::new(179).expect("179 is a port")
}

fn all_families() -> Vec<Family> {
    Family::ALL.to_vec()
}

fn first_key() -> Number<u8, 0, 255> {
    Number::new(1).expect("1 is between 0 and 255")
}

fn never() -> Number<u8, 0, 10> {
    Number::new(0).expect("0 is between 0 and 10")
}

impl std::fmt::Display for LocalAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            LocalAddress::Address(address) => address.fmt(f),
            LocalAddress::Within(prefix) => prefix.fmt(f),
        }
    }
}

impl std::str::FromStr for LocalAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<LocalAddress, String> {
        let allowed = "an IP address such as `192.0.2.11`, or a prefix such as `192.0.2.0/24` that \
                       holds one address of each node";
        if text.contains('/') {
            let prefix = text.parse::<Prefix>();
            prefix
                .map(LocalAddress::Within)
                .map_err(|error| format!("{error}; allowed: {allowed}"))
        } else {
            text.parse()
                .map(LocalAddress::Address)
                .map_err(|_| format!("found `{text}`; allowed: {allowed}"))
        }
    }
}

impl Serialize for LocalAddress {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for LocalAddress {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}
