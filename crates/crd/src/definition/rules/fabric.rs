//! Fabric: as `api::check::fabric`.

use super::{Reason, Rule};

pub(super) const RULES: &[Rule] = &[
    Rule {
        at: "spec.asn.perRack",
        rule: "has(self.range) || has(self.values) && size(self.values) > 0",
        message: "says no number; allowed: `values: {a: 65101, b: 65102}`, or `range: 65100-65199` to have \
                  them given out, or both",
        field: "",
        reason: Reason::Required,
    },
    Rule {
        at: "spec",
        rule: "!has(self.topology) || self.topology != 'Mesh' || has(self.asn.value)",
        message: "found `Mesh`, which is iBGP and needs one AS number for all nodes; allowed: Mesh with `asn: \
                  {value: 64512}`, or ToR with numbers per rack or per node",
        field: ".topology",
        reason: Reason::Invalid,
    },
    Rule {
        at: "spec.kernel.protocol",
        rule: "!(self in [8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 42, 186, 187, 188, 192])",
        message: "is the number of another routing program, whose routes would be taken for ours and \
                  removed; allowed: a number of our own, such as 149",
        field: "",
        reason: Reason::Invalid,
    },
    Rule {
        at: "spec.kernel.table",
        rule: "self != 255",
        message: "found 255, the kernel's table of local addresses; allowed: 254 (main) or another table",
        field: "",
        reason: Reason::Invalid,
    },
    Rule {
        at: "spec.timers",
        rule: "!has(self.keepaliveSeconds) || (has(self.holdSeconds) ? self.holdSeconds == 0 || \
               self.keepaliveSeconds < self.holdSeconds : self.keepaliveSeconds < 90)",
        message: "the session would expire before the next KEEPALIVE; allowed: at most a third of the hold \
                  time (90 s when not given)",
        field: ".keepaliveSeconds",
        reason: Reason::Invalid,
    },
    Rule {
        at: "spec.gracefulRestart",
        rule: super::peer::LONG_LIVED,
        message: super::peer::LONG_LIVED_MESSAGE,
        field: ".longLived",
        reason: Reason::Forbidden,
    },
    Rule {
        at: "spec.bfd",
        rule: super::peer::ECHO,
        message: super::peer::ECHO_MESSAGE,
        field: ".echoMillis",
        reason: Reason::Forbidden,
    },
];
