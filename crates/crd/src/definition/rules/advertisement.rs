//! Advertisement: as `api::check::policies`.

use super::{Reason, Rule, policy, pool};

pub(super) const RULES: &[Rule] = &[
    Rule {
        at: "spec",
        rule: "has(self.nodeSubnets) || has(self.prefixes) && size(self.prefixes) > 0",
        message: "announces nothing; write `nodeSubnets: {}` for the nodes' own subnets, or prefixes",
        field: "",
        reason: Reason::Required,
    },
    Rule {
        at: "spec.prefixes[]",
        rule: pool::UNUSABLE,
        message: "is in a range that is not for hosts (this network, loopback, link-local, multicast, \
                  reserved) and must not be announced",
        field: "",
        reason: Reason::Invalid,
    },
    Rule {
        at: "spec.prefixes[]",
        rule: pool::MAPPED,
        message: "is IPv4 in IPv6 notation and must not be announced",
        field: "",
        reason: Reason::Invalid,
    },
    Rule {
        at: "spec.set",
        rule: policy::MED,
        message: policy::MED_MESSAGE,
        field: ".removeMed",
        reason: Reason::Forbidden,
    },
    Rule {
        at: "spec.set",
        rule: policy::COMMUNITIES,
        message: policy::COMMUNITIES_MESSAGE,
        field: ".addCommunities",
        reason: Reason::Invalid,
    },
];
