//! The table `inet routeshare-bridges` of nftables: which bridges of the host there are, what their networks say of
//! others, and whose packets leave the host under the host's own address.
//!
//! ```text
//! chain clamp        from or to a bridge: the MSS of a TCP connection is lowered to what fits the path
//! chain forward      bridges do not reach each other, unless each of both names the other one
//! chain postrouting  from a bridge that masquerades, by no bridge and to no pod: masquerade
//! ```
//!
//! The plugin writes it at each ADD; the speaker puts it back when it is taken away. What a bridge's network says is
//! in a note on the bridge, too (`alias` in `ip link`), so that both can. Pure.

use kernel::nft::set::interface;
use kernel::nft::{
    Base, Chain, Comparison, Element, Expression, Field, Header, Hook, Meta, Register, Rule, Set,
    Table, Verdict,
};

/// The table's name, of the family `inet`.
pub const TABLE: &str = "routeshare-bridges";
/// Host's ends of containers' interfaces begin so.
pub const HOST_END: &str = "rs";

/// The sets: all bridges; those that are internal; which bridge names which, and itself; those that masquerade.
const BRIDGES: &str = "bridges";
const INTERNAL: &str = "internal";
const CONNECTED: &str = "connected";
const MASQUERADE: &str = "masquerade";

/// The first word of the note on a bridge of ours; the network's name follows.
const NOTE: &str = "routeshare-bridge";

const FIRST: Register = Register::FIRST;
const TCP: u8 = 6;
const SYN: u8 = 2;
const RST: u8 = 4;
/// `mangle` and `srcnat`, as `nft` calls them.
const MANGLE: i32 = -150;
const SOURCE_NAT: i32 = 100;

/// What a bridge's network says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Says {
    /// The bridge's name.
    pub bridge: String,
    /// It reaches nothing but bridges that it is connected with.
    pub internal: bool,
    /// Bridges that it may reach, if they say so, too.
    pub connected: Vec<String>,
    /// What leaves the host does so with the host's address.
    pub masquerade: bool,
}

impl Says {
    /// The note on the bridge of `network`.
    pub fn note(&self, network: &str) -> String {
        let mut note = format!("{NOTE} {network}");
        if self.internal {
            note += " internal";
        }
        if self.masquerade {
            note += " masquerade";
        }
        if !self.connected.is_empty() {
            note += " connected=";
            note += &self.connected.join(",");
        }
        note
    }

    /// What the note `alias` on the link of this name says. `None`: it is no bridge of ours.
    pub fn read(bridge: &str, alias: &str) -> Option<Says> {
        let mut words = alias.strip_prefix(NOTE)?.strip_prefix(' ')?.split(' ');
        words.next()?; // the network
        let mut says = Says {
            bridge: bridge.to_owned(),
            ..Says::default()
        };
        for word in words {
            match (word, word.strip_prefix("connected=")) {
                (_, Some(names)) => says.connected = names.split(',').map(str::to_owned).collect(),
                ("internal", None) => says.internal = true,
                ("masquerade", None) => says.masquerade = true,
                _ => {} // of a newer plugin
            }
        }
        Some(says)
    }
}

/// The whole table, with what these say; what others said is taken from the one that is there.
pub fn desired(all: &[Says], actual: Option<&Table>) -> Table {
    let one = || Set::new(&[Field::Interface], false);
    let two = Set::new(&[Field::Interface, Field::Interface], false);
    let sets = [
        (BRIDGES, one()),
        (INTERNAL, one()),
        (CONNECTED, two),
        (MASQUERADE, one()),
    ];
    let mut table = Table {
        sets: sets.map(|(name, set)| (name.to_owned(), set)).into(),
        ..Table::default()
    };
    for (name, set) in &mut table.sets {
        let there = actual.and_then(|actual| actual.sets.get(name));
        if let Some(there) = there.filter(|there| there.is_like(set)) {
            set.elements.clone_from(&there.elements);
        }
    }
    for says in all {
        remove(&mut table, &says.bridge);
        let mut insert = |set: &str, element| {
            if let Some(set) = table.sets.get_mut(set) {
                set.elements.insert(element);
            }
        };
        let bridge = || Element::interface(&says.bridge);
        insert(BRIDGES, bridge());
        if says.internal {
            insert(INTERNAL, bridge());
        }
        if says.masquerade {
            insert(MASQUERADE, bridge());
        }
        for other in says.connected.iter().chain([&says.bridge]) {
            let names = [interface(&says.bridge), interface(other)];
            insert(CONNECTED, Element::of(names));
        }
    }
    chains(&mut table);
    table
}

/// The table without what a bridge's network says; `None` when no bridge is left.
pub fn without(actual: &Table, bridge: &str) -> Option<Table> {
    let mut table = desired(&[], Some(actual));
    remove(&mut table, bridge);
    chains(&mut table);
    let any = !table.sets[BRIDGES].elements.is_empty();
    any.then_some(table)
}

/// The table as it has to be written after somebody took it, its rules or bridges in it away; `None` when nothing
/// is lost. `noted`: what the notes on all bridges of the host say.
///
/// What the table has beside that is left alone: an ADD may be under way.
pub fn restored(noted: &[Says], actual: Option<&Table>) -> Option<Table> {
    let has_rules = |table: &&Table| table.chains.values().any(|it| !it.rules.is_empty());
    let actual = actual.filter(has_rules);
    let there = actual.and_then(|actual| actual.sets.get(BRIDGES));
    let is_lost = |says: &&Says| {
        let element = Element::interface(&says.bridge);
        there.is_none_or(|there| !there.elements.contains(&element))
    };
    let lost: Vec<Says> = noted.iter().filter(is_lost).cloned().collect();
    (!lost.is_empty()).then(|| desired(&lost, actual))
}

fn remove(table: &mut Table, bridge: &str) {
    let own = interface(bridge);
    for set in table.sets.values_mut() {
        let elements = &mut set.elements;
        elements.retain(|element| element.0.first() != Some(&own));
    }
}

/// The chains that go with what is in the sets.
fn chains(table: &mut Table) {
    let base = |hook, priority, nat| Base {
        hook,
        priority,
        nat,
    };
    let mut chains = vec![
        ("clamp", base(Hook::Forward, MANGLE, false), clamp()),
        ("forward", base(Hook::Forward, 0, false), forward()),
    ];
    // With it the kernel tracks every connection that it forwards.
    if !table.sets[MASQUERADE].elements.is_empty() {
        let base = base(Hook::PostRouting, SOURCE_NAT, true);
        chains.push(("postrouting", base, vec![masquerade()]));
    }
    let chains = chains.into_iter().map(|(name, base, rules)| {
        let base = Some(base);
        (name.to_owned(), Chain { base, rules })
    });
    table.chains = chains.collect();
}

fn load(key: Meta, bytes: u32) -> Expression {
    Expression::Meta {
        key,
        to: Register::behind(bytes),
    }
}

fn look_up(set: &str, inverted: bool) -> Expression {
    Expression::Lookup {
        set: set.into(),
        register: FIRST,
        inverted,
    }
}

fn compare(how: Comparison, value: &[u8]) -> Expression {
    Expression::Compare {
        register: FIRST,
        how,
        value: value.to_vec(),
    }
}

fn rule(expressions: Vec<Expression>, comment: &str) -> Rule {
    Rule {
        expressions,
        comment: comment.into(),
    }
}

const IN: Meta = Meta::InputInterface;
const OUT: Meta = Meta::OutputInterface;

fn clamp() -> Vec<Rule> {
    let sides = [
        (IN, "what a container may be sent"),
        (OUT, "what a container may send"),
    ];
    let rules = sides.map(|(side, comment)| {
        let expressions = vec![
            load(side, 0),
            look_up(BRIDGES, false),
            load(Meta::Layer4, 0),
            compare(Comparison::Equal, &[TCP]),
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
            compare(Comparison::Equal, &[SYN]),
            Expression::PathMss { to: FIRST },
            Expression::ToNetworkOrder { register: FIRST },
            Expression::LowerMss { from: FIRST },
        ];
        rule(expressions, comment)
    });
    rules.into()
}

fn forward() -> Vec<Rule> {
    let refuse = |mut matches: Vec<Expression>, comment: &str| {
        matches.extend([Expression::Counter, Expression::Reject]);
        rule(matches, comment)
    };
    let both = vec![
        load(IN, 0),
        load(OUT, 16),
        look_up(CONNECTED, false),
        load(OUT, 0),
        load(IN, 16),
        look_up(CONNECTED, false),
        Expression::Verdict(Verdict::Accept),
    ];
    let bridges = vec![
        load(IN, 0),
        look_up(BRIDGES, false),
        load(OUT, 0),
        look_up(BRIDGES, false),
    ];
    vec![
        rule(both, "within a bridge, or each names the other one"),
        refuse(
            vec![load(IN, 0), look_up(INTERNAL, false)],
            "out of an internal bridge",
        ),
        refuse(
            vec![load(OUT, 0), look_up(INTERNAL, false)],
            "into an internal bridge",
        ),
        refuse(bridges, "from bridge to bridge"),
    ]
}

/// Routed pods of the host and connected bridges know the way back.
fn masquerade() -> Rule {
    let expressions = vec![
        load(IN, 0),
        look_up(MASQUERADE, false),
        load(OUT, 0),
        look_up(BRIDGES, true),
        compare(Comparison::NotEqual, HOST_END.as_bytes()),
        // Two containers that open connections from one port to one place at one moment do not collide.
        Expression::Masquerade { fully_random: true },
    ];
    rule(expressions, "what leaves the host")
}

#[cfg(test)]
mod tests {
    use super::*;
    use kernel::nft::table::plan;

    fn says(bridge: &str, internal: bool, connected: &[&str]) -> Says {
        Says {
            bridge: bridge.into(),
            internal,
            connected: connected.iter().map(|it| (*it).to_owned()).collect(),
            masquerade: false,
        }
    }

    fn elements(table: &Table, set: &str) -> usize {
        table.sets[set].elements.len()
    }

    #[test]
    fn what_others_said_stays_and_what_a_bridge_says_replaces_what_it_said() {
        let red = desired(&[says("br-red", true, &["br-blue"])], None);
        let both = desired(&[says("br-blue", false, &["br-red", "br-x"])], Some(&red));
        assert_eq!(elements(&both, BRIDGES), 2);
        assert_eq!(elements(&both, INTERNAL), 1);
        // Each itself, and three that are named.
        assert_eq!(elements(&both, CONNECTED), 5);
        let less = desired(&[says("br-blue", false, &[])], Some(&both));
        assert_eq!(elements(&less, CONNECTED), 3);
        assert_eq!(without(&less, "br-blue"), Some(red.clone()));
        assert_eq!(without(&red, "br-red"), None);
    }

    #[test]
    fn a_table_that_somebody_changed_is_written_whole() {
        let all = [says("br-red", true, &[]), says("br-blue", false, &[])];
        let whole = desired(&all, None);
        let mut strange = whole.clone();
        strange.chains.clear();
        assert_eq!(desired(&all[1..], Some(&strange)), whole);
        assert_eq!(plan(Some(&whole), Some(&strange)).len(), 1);
    }

    #[test]
    fn connections_are_tracked_as_long_as_a_bridge_masquerades() {
        let tracks = |table: &Table| table.chains.contains_key("postrouting");
        let red = says("br-red", false, &[]);
        let plain = desired(std::slice::from_ref(&red), None);
        assert!(!tracks(&plain));
        let masquerades = Says {
            masquerade: true,
            ..says("br-blue", false, &[])
        };
        let both = desired(&[masquerades], Some(&plain));
        assert!(tracks(&both));
        assert_eq!(elements(&both, MASQUERADE), 1);
        assert_eq!(desired(&[red], Some(&both)), both);
        assert_eq!(without(&both, "br-blue"), Some(plain));
    }

    #[test]
    fn a_note_says_what_the_network_says() {
        for alias in ["", "routeshare blue c1 eth0", "routeshare-bridge"] {
            assert_eq!(Says::read("br-blue", alias), None, "{alias:?}");
        }
        let all = Says {
            masquerade: true,
            ..says("br-blue", true, &["br-red", "br-x"])
        };
        for says in [says("br-blue", false, &[]), all] {
            let note = says.note("blue");
            assert_eq!(Says::read("br-blue", &note), Some(says), "{note}");
        }
        let newer = Says::read("br-blue", "routeshare-bridge blue internal else=1");
        assert_eq!(newer, Some(says("br-blue", true, &[])));
    }

    #[test]
    fn only_what_is_lost_is_put_back() {
        let (red, blue) = (says("br-red", false, &[]), says("br-blue", true, &[]));
        let noted = [red.clone(), blue.clone()];
        let whole = desired(&noted, None);
        assert_eq!(restored(&[], None), None);
        assert_eq!(restored(&noted, Some(&whole)), None);
        assert_eq!(restored(&noted, None), Some(whole.clone()));
        let mut flushed = whole.clone();
        flushed.chains.values_mut().for_each(|it| it.rules.clear());
        assert_eq!(restored(&noted, Some(&flushed)), Some(whole.clone()));
        let one = desired(std::slice::from_ref(&red), None);
        assert_eq!(restored(&noted, Some(&one)), Some(whole.clone()));
        // A plugin that is about to make a bridge, or one of another version.
        let mut newer = whole.clone();
        newer.chains.insert("more".into(), Chain::default());
        assert_eq!(restored(&[red], Some(&newer)), None);
    }
}
