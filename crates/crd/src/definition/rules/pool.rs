//! Pool: as `api::check::pools`.

use super::{Reason, Rule};

/// Nobody may give addresses out of these, or announce them.
pub(super) const UNUSABLE: &str = "!isCIDR(self) || !['0.0.0.0/8', '127.0.0.0/8', '169.254.0.0/16', \
    '224.0.0.0/3', '::/127', 'fe80::/10', 'ff00::/8'].exists(r, cidr(r).containsCIDR(self))";
/// IPv4 in IPv6 notation.
pub(super) const MAPPED: &str = "isCIDR(self) || !self.startsWith('::')";

pub(super) const RULES: &[Rule] = &[
    Rule {
        at: "spec.prefixes[]",
        rule: UNUSABLE,
        message: "is in a range that is not for hosts (this network, loopback, link-local, multicast, \
                  reserved); allowed: addresses for hosts",
        field: "",
        reason: Reason::Invalid,
    },
    Rule {
        at: "spec.prefixes[]",
        rule: MAPPED,
        message: "is IPv4 in IPv6 notation; allowed: addresses for hosts",
        field: "",
        reason: Reason::Invalid,
    },
    Rule {
        at: "spec",
        rule: "[has(self.nodeSubnetLength) && has(self.nodeSubnetLength.ipv4) ? self.nodeSubnetLength.ipv4 : \
               24].all(length, self.prefixes.all(p, !isCIDR(p) || cidr(p).ip().family() != 4 || \
               cidr(p).prefixLength() <= length))",
        message: "a node's IPv4 subnet (/24 when not given) does not fit into one of the prefixes; allowed: \
                  the longest of their lengths, to 32",
        field: ".nodeSubnetLength",
        reason: Reason::Invalid,
    },
    Rule {
        at: "spec",
        rule: "[has(self.nodeSubnetLength) && has(self.nodeSubnetLength.ipv6) ? self.nodeSubnetLength.ipv6 : \
               64].all(length, self.prefixes.all(p, !isCIDR(p) || cidr(p).ip().family() != 6 || \
               cidr(p).prefixLength() <= length))",
        message: "a node's IPv6 subnet (/64 when not given) does not fit into one of the prefixes; allowed: \
                  the longest of their lengths, to 128",
        field: ".nodeSubnetLength",
        reason: Reason::Invalid,
    },
    Rule {
        at: "spec",
        rule: "self.prefixes.all(p, !isCIDR(p) || self.prefixes.exists_one(q, isCIDR(q) && \
               (cidr(p).containsCIDR(q) || cidr(q).containsCIDR(p))))",
        message: "two prefixes overlap: an address could be given twice; make them disjoint",
        field: ".prefixes",
        reason: Reason::Duplicate,
    },
    Rule {
        at: "spec",
        rule: "!has(self.reserved) || self.reserved.all(r, !isCIDR(r) || self.prefixes.exists(p, isCIDR(p) && \
               cidr(p).containsCIDR(r)))",
        message: "one is in none of the pool's prefixes; allowed: parts of them",
        field: ".reserved",
        reason: Reason::Invalid,
    },
    Rule {
        at: "spec",
        rule: "!has(self.reserved) || self.reserved.all(r, !isCIDR(r) || !self.prefixes.exists(p, isCIDR(p) && \
               cidr(r).containsCIDR(p)))",
        message: "one reserves a whole prefix of the pool; remove the prefix instead",
        field: ".reserved",
        reason: Reason::Invalid,
    },
];
