//! Bridges of one host do not reach each other, unless each of both names the other one in `connected`; internal
//! ones reach nothing else at all.
//!
//! A table of nftables, which all networks of the host have in common. It is put right at each ADD, before the
//! bridge gets a port: by what the network's own configuration says, and, if somebody took rules away, by the
//! notes on the other bridges, which say what theirs said.

use cni::spec::{Code, Error};
use kernel::Netlink;
use kernel::nft::set::interface;
use kernel::nft::table::plan;
use kernel::nft::{
    Base, Chain, Element, Expression, Field, Hook, Meta, Nft, NftError, Register, Rule, Set, Table,
    Verdict,
};

use crate::request::{Request, chain};

/// The table's name, of the family `inet`.
const TABLE: &str = "routeshare-bridges";
/// The sets: all bridges; those that are internal; which bridge names which, and itself.
const BRIDGES: &str = "bridges";
const INTERNAL: &str = "internal";
const CONNECTED: &str = "connected";
/// How often it is tried again when somebody changes nftables meanwhile.
const TRIES: usize = 50;

/// What a bridge's network says of others.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Says {
    /// The bridge's name.
    pub(super) bridge: String,
    pub(super) internal: bool,
    /// Bridges that it may reach, if they say so, too.
    pub(super) connected: Vec<String>,
}

impl Says {
    pub(super) fn of(request: &Request) -> Says {
        Says {
            bridge: super::name(request),
            internal: request.config.internal,
            connected: request.config.connected.clone(),
        }
    }
}

/// Makes the rules be there for the network's bridge, as its configuration wants them.
pub(super) fn arrange(request: &Request, host: &mut Netlink) -> Result<(), Error> {
    let attempt = || format!("keep the bridge {} apart from others", super::name(request));
    let ours = Says::of(request);
    let mut all = vec![ours.clone()];
    change(&attempt, |actual| {
        let wanted = desired(&all, actual);
        if plan(Some(&wanted), actual).is_empty() {
            return Ok(Some(wanted));
        }
        // A bridge that is new, or a table that somebody took away.
        all = super::noted(host)?;
        all.retain(|says| says.bridge != ours.bridge);
        all.push(ours.clone());
        Ok(Some(desired(&all, actual)))
    })
}

/// What is not as [`arrange`] left it.
pub(super) fn check(request: &Request) -> Result<Vec<String>, Error> {
    let attempt = || format!("list the table inet {TABLE}");
    let mut nft = Nft::open().map_err(|error| failed(&attempt(), &error.into()))?;
    let (actual, _) = nft
        .list(TABLE)
        .map_err(|error| failed(&attempt(), &error))?;
    let wanted = desired(&[Says::of(request)], actual.as_ref());
    Ok(match plan(Some(&wanted), actual.as_ref()).is_empty() {
        true => Vec::new(),
        false => vec![format!(
            "the table inet {TABLE} of nftables does not keep the bridge {} apart from others as configured \
             (the next ADD on its network puts it right)",
            super::name(request)
        )],
    })
}

/// Takes away what there is about a bridge that is gone.
pub(super) fn forget(bridge: &str) -> Result<(), Error> {
    let attempt = || format!("remove the bridge {bridge} from the table inet {TABLE}");
    change(&attempt, |actual| {
        let table = actual.map(|table| without(table.clone(), bridge));
        let any = |table: &Table| !table.sets[BRIDGES].elements.is_empty();
        let any = |table: &Table| table.sets.contains_key(BRIDGES) && any(table);
        Ok(table.filter(any))
    })
}

/// Makes the table be as `wanted` says of the one that is there.
fn change(
    attempt: &impl Fn() -> String,
    mut wanted: impl FnMut(Option<&Table>) -> Result<Option<Table>, Error>,
) -> Result<(), Error> {
    let failed = |error: NftError| failed(&attempt(), &error);
    let mut nft = Nft::open().map_err(|error| failed(error.into()))?;
    for _ in 0..TRIES {
        let (actual, since) = nft.list(TABLE).map_err(failed)?;
        let desired = wanted(actual.as_ref())?;
        let steps = plan(desired.as_ref(), actual.as_ref());
        if steps.is_empty() {
            return Ok(());
        }
        let batch = desired.unwrap_or_default().batch(TABLE, &steps);
        match nft.commit(&batch, Some(since)) {
            Err(NftError::Changed) => {}
            outcome => return outcome.map_err(failed),
        }
    }
    Err(failed(NftError::Changed))
}

/// The whole table, with what these say; what others said is taken from the one that is there.
fn desired(all: &[Says], actual: Option<&Table>) -> Table {
    let mut table = empty();
    for (name, set) in &mut table.sets {
        let there = actual.and_then(|actual| actual.sets.get(name));
        let there = there.filter(|there| there.is_like(set));
        set.elements = there
            .map(|there| there.elements.clone())
            .unwrap_or_default();
    }
    for says in all {
        table = without(table, &says.bridge);
        let mut insert = |set: &str, element| {
            if let Some(set) = table.sets.get_mut(set) {
                set.elements.insert(element);
            }
        };
        insert(BRIDGES, Element::interface(&says.bridge));
        if says.internal {
            insert(INTERNAL, Element::interface(&says.bridge));
        }
        for other in says.connected.iter().chain([&says.bridge]) {
            insert(
                CONNECTED,
                Element::of([interface(&says.bridge), interface(other)]),
            );
        }
    }
    table
}

/// Without what a bridge's own configuration says.
fn without(mut table: Table, bridge: &str) -> Table {
    let own = interface(bridge);
    for set in table.sets.values_mut() {
        set.elements
            .retain(|element| element.0.first() != Some(&own));
    }
    table
}

fn empty() -> Table {
    let load = |key, bytes| Expression::Meta {
        key,
        to: Register::behind(bytes),
    };
    let is_in = |set: &str| Expression::Lookup {
        set: set.into(),
        register: Register::FIRST,
        inverted: false,
    };
    let (from, to) = (Meta::InputInterface, Meta::OutputInterface);
    let rule = |expressions: Vec<Expression>, comment: &str| Rule {
        expressions,
        comment: comment.into(),
    };
    let refuse = |mut matches: Vec<Expression>, comment: &str| {
        matches.extend([Expression::Counter, Expression::Reject]);
        rule(matches, comment)
    };
    let rules = vec![
        rule(
            vec![
                load(from, 0),
                load(to, 16),
                is_in(CONNECTED),
                load(to, 0),
                load(from, 16),
                is_in(CONNECTED),
                Expression::Verdict(Verdict::Accept),
            ],
            "within a bridge, or each names the other one",
        ),
        refuse(
            vec![load(from, 0), is_in(INTERNAL)],
            "out of an internal bridge",
        ),
        refuse(
            vec![load(to, 0), is_in(INTERNAL)],
            "into an internal bridge",
        ),
        refuse(
            vec![load(from, 0), is_in(BRIDGES), load(to, 0), is_in(BRIDGES)],
            "from bridge to bridge",
        ),
    ];
    let forward = Chain {
        base: Some(Base {
            hook: Hook::Forward,
            priority: 0,
            nat: false,
        }),
        rules,
    };
    let one = || Set::new(&[Field::Interface], false);
    let two = Set::new(&[Field::Interface, Field::Interface], false);
    Table {
        sets: [(BRIDGES, one()), (INTERNAL, one()), (CONNECTED, two)]
            .map(|(name, set)| (name.to_owned(), set))
            .into(),
        chains: [("forward".to_owned(), forward)].into(),
        strange: false,
    }
}

fn failed(attempt: &str, error: &NftError) -> Error {
    let failed = Error::new(Code::Kernel, format!("cannot {attempt}: {}", chain(error)));
    match error {
        error if error.says_unsupported() => failed.details(
            "mode \"bridge\" needs nftables (CONFIG_NF_TABLES_INET, CONFIG_NFT_REJECT_INET): modprobe nf_tables",
        ),
        NftError::Changed => Error {
            code: Code::TryAgainLater,
            ..failed
        },
        _ => failed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn says(bridge: &str, internal: bool, connected: &[&str]) -> Says {
        Says {
            bridge: bridge.into(),
            internal,
            connected: connected.iter().map(|it| (*it).to_owned()).collect(),
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
        assert_eq!(without(less, "br-blue"), red);
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
}
