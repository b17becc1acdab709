//! What is wanted → the table `inet routeshare`.
//!
//! ```text
//! chain forward      TCP segments that open a connection → clamp
//! chain clamp        from or to a pod: the MSS is lowered to what fits the path, both ways
//! chain prerouting   from a pod's interface, with an address that is not behind it: dropped
//! chain postrouting  from masquerade4, not to direct4, not in exempt4: masquerade; the same for IPv6
//! ```
//!
//! The chain `postrouting` is there only where something is masqueraded: with it the kernel tracks every
//! connection that it forwards.

use std::net::IpAddr;

use bgp::types::{Family, Prefix};
use kernel::nft::set::prefix;
use kernel::nft::{
    Base, Chain, Comparison, Element, Expression, Field, Header, Hook, Meta, Register, Rule, Set,
    Table, Verdict,
};
use plan::Masquerade;

use super::Wanted;

/// The table's name.
pub(super) const NAME: &str = "routeshare";

/// The chain that looks at pods' addresses.
pub(super) const SOURCES: &str = "prerouting";

const TCP: u8 = 6;
const SYN: u8 = 2;
const RST: u8 = 4;
/// `raw`, `mangle` and `srcnat`, as `nft` calls them.
const RAW: i32 = -300;
const MANGLE: i32 = -150;
const SOURCE_NAT: i32 = 100;

/// The table as it is to be; `None`: none.
pub(super) fn table(wanted: &Wanted) -> Option<Table> {
    wanted.on.then(|| {
        let mut table = Table::default();
        sources(&mut table);
        clamp(wanted, &mut table);
        if let Some(masquerade) = &wanted.masquerade {
            masquerading(masquerade, wanted, &mut table);
        }
        table
    })
}

/// A pod sends with its own addresses, and with those that the host has a route for out of its interface: what
/// others conclude from an address (policies, logs, names) is so. The kernel's own reverse path filter knows no
/// IPv6, and is loose on all interfaces once it is on `all`.
fn sources(table: &mut Table) {
    let group = Expression::Meta {
        key: Meta::InputGroup,
        to: FIRST,
    };
    let steps = [
        group,
        Expression::Compare {
            register: FIRST,
            how: Comparison::Equal,
            value: cni::INTERFACE_GROUP.to_ne_bytes().into(),
        },
        Expression::ReversePath { to: FIRST },
        equals(0),
        Expression::Counter,
        Expression::Verdict(Verdict::Drop),
    ];
    let base = Base {
        hook: Hook::PreRouting,
        priority: RAW,
        nat: false,
    };
    let comment = "no address of this pod";
    chain(table, SOURCES, Some(base), vec![rule(steps, comment)]);
}

fn clamp(wanted: &Wanted, table: &mut Table) {
    let mut rules = Vec::new();
    for family in Family::ALL {
        let pods = of(family).named("pods");
        let set = ranges(family, wanted.subnets.iter().copied());
        table.sets.insert(pods.clone(), set);
        for (side, comment) in [
            (of(family).source, "what a pod may be sent"),
            (of(family).destination, "what a pod may send"),
        ] {
            let lower = [
                is_in(&pods, false),
                Expression::PathMss { to: FIRST },
                Expression::ToNetworkOrder { register: FIRST },
                Expression::LowerMss { from: FIRST },
            ];
            let load = [of(family).load(side, FIRST)];
            let all = of(family).is_it().into_iter().chain(load).chain(lower);
            rules.push(rule(all, comment));
        }
    }
    let opens = [
        Expression::Payload {
            header: Header::Transport,
            offset: 13,
            length: 1,
            to: FIRST,
        },
        Expression::Mask {
            register: FIRST,
            mask: vec![SYN | RST],
        },
        equals(SYN),
        Expression::Verdict(Verdict::Jump("clamp".into())),
    ];
    let forward = rule(is(Meta::Layer4, TCP).into_iter().chain(opens), "");
    let base = Base {
        hook: Hook::Forward,
        priority: MANGLE,
        nat: false,
    };
    chain(table, "clamp", None, rules);
    chain(table, "forward", Some(base), vec![forward]);
}

fn masquerading(masquerade: &Masquerade, wanted: &Wanted, table: &mut Table) {
    let pools = &masquerade.pools;
    let sources = || pools.iter().flat_map(|pool| pool.subnets.iter().copied());
    let peers = wanted.peers.iter().map(|peer| Prefix::new(*peer, 128));
    let direct: Vec<Prefix> = masquerade.direct.iter().copied().chain(peers).collect();
    let mut rules = Vec::new();
    for family in Family::ALL {
        let part = of(family);
        let mut pairs = Set::new(&[part.field, part.field], true);
        for pool in pools {
            for subnet in pool.subnets.iter().filter(|it| it.family() == family) {
                let exempt = pool.exempt.iter().filter(|it| it.family() == family);
                let element = |to: &Prefix| Element::of([range(*subnet), range(*to)]);
                pairs.elements.extend(exempt.map(element));
            }
        }
        let (from, to, not) = (
            part.named("masquerade"),
            part.named("direct"),
            part.named("exempt"),
        );
        let steps = [
            part.load(part.source, FIRST),
            is_in(&from, false),
            part.load(part.destination, FIRST),
            is_in(&to, true),
            part.load(part.source, FIRST),
            part.load(part.destination, Register::behind(part.length)),
            is_in(&not, true),
            // Two pods that open connections from one port to one place at one moment do not collide.
            Expression::Masquerade { fully_random: true },
        ];
        rules.push(rule(
            part.is_it().into_iter().chain(steps),
            "what leaves the cluster",
        ));
        table.sets.insert(from, ranges(family, sources()));
        table
            .sets
            .insert(to, ranges(family, direct.iter().copied()));
        table.sets.insert(not, pairs);
    }
    let base = Base {
        hook: Hook::PostRouting,
        priority: SOURCE_NAT,
        nat: true,
    };
    chain(table, "postrouting", Some(base), rules);
}

const FIRST: Register = Register::FIRST;

/// Where a family's header has what, and how its sets are named.
struct Part {
    digit: char,
    protocol: u8,
    field: Field,
    length: u32,
    source: u32,
    destination: u32,
}

fn of(family: Family) -> Part {
    match family {
        Family::Ipv4 => Part {
            digit: '4',
            protocol: libc::AF_INET as u8,
            field: Field::Ipv4,
            length: 4,
            source: 12,
            destination: 16,
        },
        Family::Ipv6 => Part {
            digit: '6',
            protocol: libc::AF_INET6 as u8,
            field: Field::Ipv6,
            length: 16,
            source: 8,
            destination: 24,
        },
    }
}

impl Part {
    fn named(&self, name: &str) -> String {
        format!("{name}{}", self.digit)
    }

    fn is_it(&self) -> [Expression; 2] {
        is(Meta::Protocol, self.protocol)
    }

    fn load(&self, offset: u32, to: Register) -> Expression {
        Expression::Payload {
            header: Header::Network,
            offset,
            length: self.length,
            to,
        }
    }
}

fn is(key: Meta, value: u8) -> [Expression; 2] {
    [Expression::Meta { key, to: FIRST }, equals(value)]
}

fn equals(value: u8) -> Expression {
    Expression::Compare {
        register: FIRST,
        how: Comparison::Equal,
        value: vec![value],
    }
}

fn is_in(set: &str, inverted: bool) -> Expression {
    Expression::Lookup {
        set: set.to_owned(),
        register: FIRST,
        inverted,
    }
}

fn rule(expressions: impl IntoIterator<Item = Expression>, comment: &str) -> Rule {
    Rule {
        expressions: expressions.into_iter().collect(),
        comment: comment.to_owned(),
    }
}

fn chain(table: &mut Table, name: &str, base: Option<Base>, rules: Vec<Rule>) {
    table.chains.insert(name.to_owned(), Chain { base, rules });
}

fn ranges(family: Family, prefixes: impl Iterator<Item = Prefix>) -> Set {
    let mut set = Set::new(&[of(family).field], true);
    set.insert_ranges(prefixes.filter(|it| it.family() == family).map(range));
    set
}

fn range(of: Prefix) -> (Vec<u8>, Vec<u8>) {
    let address: IpAddr = of.address();
    prefix(address, of.length())
}
