//! Rules: by which table a packet is routed (`linux/fib_rules.h`).

use std::net::IpAddr;

use crate::message::{
    CREATE, DUMP, EXCLUSIVE, Message, Requests, address, address_family, attributes, u32_at,
};

pub(crate) const NEW: u16 = libc::RTM_NEWRULE;
const DELETE: u16 = libc::RTM_DELRULE;
const GET: u16 = libc::RTM_GETRULE;

/// Bytes of `struct fib_rule_hdr`: family, length of destination and of source, TOS, table, two reserved,
/// action, flags (4).
const BODY: usize = 12;
/// `FR_ACT_TO_TBL`.
const TO_TABLE: u8 = 1;
const FRA_SRC: u16 = 2;
const FRA_PRIORITY: u16 = 6;
const FRA_TABLE: u16 = 15;
const FRA_PROTOCOL: u16 = 21;

/// What is sent with this address goes by this table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SourceRule {
    /// The source address of packets.
    pub source: IpAddr,
    /// The table by which they are routed.
    pub table: u32,
    /// Among the rules; the lowest comes first.
    pub priority: u32,
    /// Who made it, as in `/etc/iproute2/rt_protos`.
    pub protocol: u8,
}

impl SourceRule {
    /// `None` for rules that look at anything but one source address.
    pub(crate) fn read(message: Message<'_>) -> Option<SourceRule> {
        let body: &[u8; BODY] = message.body.get(..BODY)?.try_into().ok()?;
        let (mut source, mut table, mut priority, mut protocol) = (None, u32::from(body[4]), 0, 0);
        for (kind, value) in attributes(message.body, BODY) {
            match kind {
                FRA_SRC => source = address(value),
                FRA_TABLE => table = u32_at(value, 0)?,
                FRA_PRIORITY => priority = u32_at(value, 0)?,
                FRA_PROTOCOL => protocol = *value.first()?,
                _ => {}
            }
        }
        let source = source?;
        let whole = body[2] == length(source) && body[1] == 0 && body[3] == 0;
        (whole && body[7] == TO_TABLE).then_some(SourceRule {
            source,
            table,
            priority,
            protocol,
        })
    }
}

impl Requests {
    /// A new rule. Fails with `EEXIST` when it is there.
    pub fn add_source_rule(&mut self, rule: &SourceRule) {
        self.write_rule(NEW, CREATE | EXCLUSIVE, rule);
    }

    /// Takes a rule away. Fails with `ENOENT` when it is not there.
    pub fn remove_source_rule(&mut self, rule: &SourceRule) {
        self.write_rule(DELETE, 0, rule);
    }

    fn write_rule(&mut self, kind: u16, flags: u16, rule: &SourceRule) {
        self.begin(kind, flags);
        self.body(&[
            address_family(rule.source),
            0,
            length(rule.source),
            0,
            u8::try_from(rule.table).unwrap_or(libc::RT_TABLE_UNSPEC),
            0,
            0,
            TO_TABLE,
            0,
            0,
            0,
            0,
        ]);
        self.attribute_address(FRA_SRC, rule.source);
        self.attribute_u32(FRA_PRIORITY, rule.priority);
        self.attribute_u32(FRA_TABLE, rule.table);
        self.attribute(FRA_PROTOCOL, &[rule.protocol]);
        self.end();
    }

    pub(crate) fn list_rules(&mut self, family: u8) {
        self.begin(GET, DUMP);
        let mut body = [0; BODY];
        body[0] = family;
        self.body(&body);
        self.end();
    }
}

fn length(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(_) => 32,
        IpAddr::V6(_) => 128,
    }
}
