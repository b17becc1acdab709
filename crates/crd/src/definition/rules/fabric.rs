//! Fabric: as `api::check::fabric`.

use super::{Reason, Rule};

pub(super) const RULES: &[Rule] = &[
    Rule {
        at: "spec",
        rule: "!has(self.topology) || !(self.topology in ['Mesh', 'Reflectors']) || has(self.asn.value)",
        message: "found `Mesh` or `Reflectors`, which are iBGP and need one AS number for all nodes; allowed: \
                  these with `asn: {value: 64512}`, or ToR with numbers per rack or per node",
        field: ".topology",
        reason: Reason::Invalid,
    },
    Rule {
        at: "spec",
        rule: "!has(self.topology) || self.topology != 'Reflectors' || has(self.reflectors)",
        message: "found `Reflectors`, but which nodes reflect is not said; write such as `reflectors: \
                  {nodeSelector: {matchLabels: {role: reflector}}}`",
        field: ".topology",
        reason: Reason::Required,
    },
    Rule {
        at: "spec",
        rule: "!has(self.reflectors) || has(self.topology) && self.topology == 'Reflectors'",
        message: "is for the topology Reflectors; write `topology: Reflectors`, or remove it",
        field: ".reflectors",
        reason: Reason::Forbidden,
    },
    Rule {
        at: "spec.reflectors.nodeSelector",
        rule: "has(self.names) && size(self.names) > 0 || has(self.matchLabels) && size(self.matchLabels) > 0 \
               || has(self.matchExpressions) && size(self.matchExpressions) > 0",
        message: "selects every node, and where all are reflectors there is nobody to reflect to; name some \
                  of them, such as `{matchLabels: {role: reflector}}`, or write `topology: Mesh`",
        field: "",
        reason: Reason::Invalid,
    },
    Rule {
        at: "spec.reflectors.clusterId",
        rule: "self != '0.0.0.0'",
        message: "found `0.0.0.0`; allowed: any other IPv4 address, or leave it out",
        field: "",
        reason: Reason::Invalid,
    },
    Rule {
        at: "spec.kernel.protocol",
        rule: "!(self in [8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 42, 150, 186, 187, 188, 192])",
        message: "is the number of another routing program or of the CNI plugin's routes to pods, which would \
                  be taken for ours and removed; allowed: a number of our own, such as 149",
        field: "",
        reason: Reason::Invalid,
    },
    Rule {
        at: "spec.pods",
        rule: "!has(self.sysctls) || size(self.sysctls) == 0 || has(self.chained) && 'tuning' in self.chained",
        message: "nobody sets them: that is what the plugin tuning does; write `chained: [tuning]` too",
        field: ".sysctls",
        reason: Reason::Required,
    },
    Rule {
        at: "spec.pods.names.domain",
        rule: "self.matches('^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\\\\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*$')",
        message: "is no domain for names of containers; allowed: labels of small letters, digits and - with \
                  dots between them, such as `pods.internal`",
        field: "",
        reason: Reason::Invalid,
    },
    Rule {
        at: "spec.pods.names.forward[]",
        rule: "!isIP(self) || !ip(self).isUnspecified()",
        message: "is nobody's address; allowed: the address of a resolver",
        field: "",
        reason: Reason::Invalid,
    },
    Rule {
        at: "spec.pods.sysctls",
        rule: "self.all(key, key.matches('^net(\\\\.[a-zA-Z0-9_/-]+)+$'))",
        message: "allowed: names that begin with `net.`, such as `net.core.somaxconn`",
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
