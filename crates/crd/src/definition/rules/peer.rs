//! Peer: as `api::check::peers` and `api::check::protection`.

use super::{Reason, Rule};

pub(super) const LONG_LIVED: &str = "!(has(self.enabled) && !self.enabled && has(self.longLived) && \
    (has(self.longLived.enabled) ? self.longLived.enabled : has(self.longLived.staleSeconds)))";
pub(super) const LONG_LIVED_MESSAGE: &str =
    "needs graceful restart, which is off (`enabled: false`); remove one of the two";
pub(super) const ECHO: &str = "!(has(self.echoMillis) && has(self.multihop) && self.multihop)";
pub(super) const ECHO_MESSAGE: &str =
    "not together with multihop: Echo packets go over one hop; remove one of the two";

/// As `api::check::unusable_address`.
const UNUSABLE_ADDRESS: &str = "!isIP(self) || !['0.0.0.0/8', '224.0.0.0/3', '::/128', 'fe80::/10', \
    'ff00::/8'].exists(r, cidr(r).containsIP(self))";
const UNUSABLE_ADDRESS_MESSAGE: &str = "no router can have this address: it is unspecified, multicast, \
    link-local or in a range that is not for hosts";

/// As `api::check::peers`: one place to look, and values only for a label.
const FROM_ONE: &str = "has(self.label) != has(self.annotation)";
const FROM_ONE_MESSAGE: &str = "says nowhere or twice where to look; write the name of a label of the \
    nodes, such as `label: rack`, or of an annotation";
const ANNOTATION: &str = "!(has(self.annotation) && has(self.values))";
const ANNOTATION_MESSAGE: &str =
    "is for a label; an annotation holds the value itself: remove this field";

const fn rule(
    at: &'static str,
    rule: &'static str,
    message: &'static str,
    field: &'static str,
    reason: Reason,
) -> Rule {
    Rule {
        at,
        rule,
        message,
        field,
        reason,
    }
}

pub(super) const RULES: &[Rule] = &[
    rule(
        "spec",
        "has(self.address) || has(self.addressFrom)",
        "does not say the other side's address; write address, or addressFrom to find it by a label of the \
         node",
        "",
        Reason::Required,
    ),
    rule(
        "spec",
        "!(has(self.address) && has(self.addressFrom))",
        "says the other side's address a second time, beside address; remove one of the two",
        ".addressFrom",
        Reason::Forbidden,
    ),
    rule(
        "spec",
        "has(self.remoteAsn) || has(self.remoteAsnFrom)",
        "does not say the other side's AS number; write remoteAsn, or remoteAsnFrom to find it by a label \
         of the node",
        "",
        Reason::Required,
    ),
    rule(
        "spec",
        "!(has(self.remoteAsn) && has(self.remoteAsnFrom))",
        "says the other side's AS number a second time, beside remoteAsn; remove one of the two",
        ".remoteAsnFrom",
        Reason::Forbidden,
    ),
    rule(
        "spec.address",
        UNUSABLE_ADDRESS,
        UNUSABLE_ADDRESS_MESSAGE,
        "",
        Reason::Invalid,
    ),
    rule(
        "spec.addressFrom.values{}",
        UNUSABLE_ADDRESS,
        UNUSABLE_ADDRESS_MESSAGE,
        "",
        Reason::Invalid,
    ),
    rule(
        "spec.addressFrom",
        FROM_ONE,
        FROM_ONE_MESSAGE,
        "",
        Reason::Required,
    ),
    rule(
        "spec.addressFrom",
        ANNOTATION,
        ANNOTATION_MESSAGE,
        ".values",
        Reason::Forbidden,
    ),
    rule(
        "spec.addressFrom.values",
        "size(self) > 0",
        "is empty; allowed: a value for each value of the label, or leave it out where the label holds the \
         value itself",
        "",
        Reason::Required,
    ),
    rule(
        "spec.remoteAsnFrom",
        FROM_ONE,
        FROM_ONE_MESSAGE,
        "",
        Reason::Required,
    ),
    rule(
        "spec.remoteAsnFrom",
        ANNOTATION,
        ANNOTATION_MESSAGE,
        ".values",
        Reason::Forbidden,
    ),
    rule(
        "spec.remoteAsnFrom.values",
        "size(self) > 0",
        "is empty; allowed: a value for each value of the label, or leave it out where the label holds the \
         value itself",
        "",
        Reason::Required,
    ),
    rule(
        "spec",
        "!has(self.localAddress) || !has(self.address) || !isIP(self.localAddress) || !isIP(self.address) || \
         ip(self.localAddress).family() == ip(self.address).family()",
        "is of another family than the peer's address",
        ".localAddress",
        Reason::Invalid,
    ),
    rule(
        "spec",
        "!has(self.localAddress) || !has(self.addressFrom) || !has(self.addressFrom.values) || \
         !isIP(self.localAddress) || \
         self.addressFrom.values.all(k, !isIP(self.addressFrom.values[k]) || \
         ip(self.localAddress).family() == ip(self.addressFrom.values[k]).family())",
        "is of another family than one of the peer's addresses",
        ".localAddress",
        Reason::Invalid,
    ),
    rule(
        "spec.maxPrefixes",
        "has(self.ipv4) || has(self.ipv6)",
        "has no limit; write ipv4, ipv6 or both, such as `{ipv4: 1000}`",
        "",
        Reason::Required,
    ),
    rule(
        "spec",
        "!(has(self.ttl) && has(self.ttlSecurity))",
        "stands beside ttlSecurity, with which everything is sent with TTL 255 and what comes from farther is \
         dropped; remove ttl, and say with ttlSecurity.hops how far the other side may be",
        ".ttl",
        Reason::Forbidden,
    ),
    rule(
        "spec",
        "!(has(self.tcpAo) && has(self.password))",
        "stands beside password; segments are signed with TCP-AO or with TCP MD5: remove one of the two",
        ".tcpAo",
        Reason::Forbidden,
    ),
    rule(
        "spec.tcpAo",
        "self.keys.all(k, self.keys.exists_one(o, o.sendId == k.sendId))",
        "two keys have one sendId; numbers tell the keys of a peer apart",
        ".keys",
        Reason::Duplicate,
    ),
    rule(
        "spec.tcpAo",
        "self.keys.all(k, self.keys.exists_one(o, o.receiveId == k.receiveId))",
        "two keys have one receiveId; numbers tell the keys of a peer apart",
        ".keys",
        Reason::Duplicate,
    ),
    rule(
        "spec.timers",
        "!has(self.keepaliveSeconds) || !has(self.holdSeconds) || self.holdSeconds == 0 || \
         self.keepaliveSeconds < self.holdSeconds",
        "the session would expire before the next KEEPALIVE; allowed: at most a third of the hold time",
        ".keepaliveSeconds",
        Reason::Invalid,
    ),
    rule(
        "spec.gracefulRestart",
        LONG_LIVED,
        LONG_LIVED_MESSAGE,
        ".longLived",
        Reason::Forbidden,
    ),
    rule(
        "spec.bfd",
        ECHO,
        ECHO_MESSAGE,
        ".echoMillis",
        Reason::Forbidden,
    ),
    rule(
        "spec.shutdown.message",
        "size(bytes(self)) <= 255",
        "is too long; allowed: at most 255 octets (RFC 9003)",
        "",
        Reason::Invalid,
    ),
];
