//! RoutePolicy: as `api::check::policies` and `api::check::shadow`. That a rule is hidden by an
//! earlier one is for the controller to find.

use super::{Reason, Rule};

pub(super) const MED: &str = "!(has(self.med) && has(self.removeMed) && self.removeMed)";
pub(super) const MED_MESSAGE: &str = "contradicts med in the same rule; remove one of the two";
pub(super) const COMMUNITIES: &str = "!has(self.addCommunities) || !has(self.removeCommunities) || \
    !self.addCommunities.exists(c, c in self.removeCommunities)";
pub(super) const COMMUNITIES_MESSAGE: &str =
    "one is in removeCommunities too; remove it from one of the two";

pub(super) const RULES: &[Rule] = &[
    Rule {
        at: "spec.rules[].match.prefixes[]",
        rule: "!isCIDR(self.prefix) || [cidr(self.prefix)].all(p, [has(self.minLength) ? self.minLength : \
               p.prefixLength()].all(min, [has(self.maxLength) ? self.maxLength : (has(self.minLength) ? \
               (p.ip().family() == 4 ? 32 : 128) : p.prefixLength())].all(max, p.prefixLength() <= min && \
               min <= max && max <= (p.ip().family() == 4 ? 32 : 128))))",
        message: "no prefix has such a length; allowed: minLength and maxLength from the length of prefix to 32 \
                  for IPv4 and 128 for IPv6, the lower one first",
        field: "",
        reason: Reason::Invalid,
    },
    Rule {
        at: "spec.rules[].match.asPathLength",
        rule: "has(self.min) || has(self.max)",
        message: "says neither min nor max; write one of them, or remove the field",
        field: "",
        reason: Reason::Required,
    },
    Rule {
        at: "spec.rules[].match.asPathLength",
        rule: "!has(self.min) || !has(self.max) || self.min <= self.max",
        message: "can never match: no length is at least min and at most max",
        field: "",
        reason: Reason::Invalid,
    },
    Rule {
        at: "spec.rules[].match",
        rule: "!(has(self.asPathLength) && has(self.asPathLength.max) && self.asPathLength.max == 0 && \
               (has(self.asPathContains) && size(self.asPathContains) > 0 || has(self.neighborAsns) && \
               size(self.neighborAsns) > 0 || has(self.originAsns) && size(self.originAsns) > 0))",
        message: "can never match: an AS_PATH without length has no AS in it",
        field: ".asPathLength",
        reason: Reason::Invalid,
    },
    Rule {
        at: "spec.rules[].match",
        rule: "!has(self.prefixes) || !has(self.families) || size(self.prefixes) == 0 || size(self.families) == 0 \
               || self.prefixes.exists(p, (p.prefix.contains(':') ? 'IPv6' : 'IPv4') in self.families)",
        message: "can never match: none of prefixes is of these families",
        field: ".families",
        reason: Reason::Invalid,
    },
    Rule {
        at: "spec.rules[].match",
        rule: "!has(self.advertisements) || !has(self.sources) || size(self.advertisements) == 0 || \
               size(self.sources) == 0 || 'Local' in self.sources",
        message: "can never match: only our own routes (source Local) come from an Advertisement",
        field: ".sources",
        reason: Reason::Invalid,
    },
    Rule {
        at: "spec.rules[].match",
        rule: "!has(self.peers) || !has(self.sources) || size(self.peers) == 0 || size(self.sources) == 0 || 'eBGP' \
               in self.sources || 'iBGP' in self.sources",
        message: "can never match: our own routes (source Local) come from no Peer",
        field: ".sources",
        reason: Reason::Invalid,
    },
    Rule {
        at: "spec.rules[].match",
        rule: "!(has(self.peers) && size(self.peers) > 0 && has(self.advertisements) && \
               size(self.advertisements) > 0)",
        message: "can never match: no route comes from a Peer and from an Advertisement",
        field: ".peers",
        reason: Reason::Invalid,
    },
    Rule {
        at: "spec.rules[].set",
        rule: MED,
        message: MED_MESSAGE,
        field: ".removeMed",
        reason: Reason::Forbidden,
    },
    Rule {
        at: "spec.rules[].set",
        rule: COMMUNITIES,
        message: COMMUNITIES_MESSAGE,
        field: ".addCommunities",
        reason: Reason::Invalid,
    },
    Rule {
        at: "spec",
        rule: "self.rules.all(r, !has(r.name) || self.rules.exists_one(o, has(o.name) && o.name == r.name))",
        message: "two rules have one name; `bgpctl explain` could not tell them apart",
        field: ".rules",
        reason: Reason::Duplicate,
    },
];
