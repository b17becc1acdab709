//! A table as the kernel has it.

use crate::list::{Listing, Progress};
use crate::message::{DUMP, Message, Requests, attributes};
use crate::socket::NetlinkError;

use super::set::Listed;
use super::{
    Base, Expression, GENERIC, Generation, Hook, LIST_ELEMENT, Nft, NftError, Rule, Set, Table,
    find, find_name, find_number, kind,
};

/// How often it is listed again when somebody changes something meanwhile.
const TRIES: usize = 20;

impl Nft {
    /// The table of this name, `None` when there is none, and the state of nftables in which it was
    /// so.
    ///
    /// # Errors
    ///
    /// Those of the socket; [`NftError::Changed`] when others change something all the time.
    pub fn list(&mut self, table: &str) -> Result<(Option<Table>, Generation), NftError> {
        for _ in 0..TRIES {
            let before = self.generation()?;
            match self.table(table) {
                Ok(found) if self.generation()? == before => return Ok((found, before)),
                // A set that is gone since: another try tells.
                Ok(_) => {}
                Err(error) if self.generation()? == before => return Err(error),
                Err(_) => {}
            }
        }
        Err(NftError::Changed)
    }

    /// The state of nftables.
    fn generation(&mut self) -> Result<Generation, NftError> {
        let mut found = None;
        self.ask(
            |it| {
                it.begin_nft(kind::GET_GENERATION, 0);
                it.end();
            },
            |message| {
                if message.kind == kind::NEW_GENERATION {
                    found = find_number(message.body, GENERIC, 1);
                }
            },
        )?;
        let found = found.ok_or(NetlinkError::Overrun)?;
        Ok(Generation(found))
    }

    fn ask(
        &mut self,
        request: impl FnOnce(&mut Requests),
        answer: impl FnMut(Message<'_>),
    ) -> Result<(), NetlinkError> {
        let mut requests = Requests::new();
        request(&mut requests);
        let mut failures = Vec::new();
        self.netlink
            .exchange(&mut requests, &mut failures, answer)?;
        match failures.pop() {
            None => Ok(()),
            Some(failure) => Err(NetlinkError::List {
                what: "nftables",
                failure,
            }),
        }
    }

    fn table(&mut self, name: &str) -> Result<Option<Table>, NftError> {
        let mut flags = None;
        let found = self.ask(
            |it| {
                it.begin_nft(kind::GET_TABLE, 0);
                it.name(1, name);
                it.end();
            },
            |message| {
                if message.kind == kind::NEW_TABLE {
                    flags = Some(find_number(message.body, GENERIC, 2).unwrap_or(0));
                }
            },
        );
        match found {
            Err(NetlinkError::List { failure, .. }) if failure.errno == libc::ENOENT => {
                return Ok(None);
            }
            other => other?,
        }
        let mut table = Table {
            strange: flags != Some(0), // dormant, or owned by a process
            ..Table::default()
        };
        self.sets(name, &mut table)?;
        self.chains(name, &mut table)?;
        self.rules(name, &mut table)?;
        Ok(Some(table))
    }

    fn sets(&mut self, name: &str, table: &mut Table) -> Result<(), NetlinkError> {
        let sets = self.all("sets", kind::GET_SET, (name, None), |message| {
            (message.kind == kind::NEW_SET).then(|| {
                let set = Set::decode(message.body, GENERIC);
                (find_name(message.body, GENERIC, 2), set)
            })
        })?;
        for (set_name, set) in sets {
            let (Some(set_name), Some(mut set)) = (set_name, set) else {
                table.strange = true;
                continue;
            };
            let place = (name, Some(set_name.as_str()));
            let listed = self.all("elements of a set", kind::GET_ELEMENTS, place, |message| {
                let elements = find(message.body, GENERIC, 3)?;
                let elements = attributes(elements, 0).filter(|(kind, _)| *kind == LIST_ELEMENT);
                Some(
                    elements
                        .map(|(_, it)| Listed::decode(it))
                        .collect::<Vec<_>>(),
                )
            })?;
            let listed: Option<Vec<Listed>> = listed.into_iter().flatten().collect();
            table.strange |= listed.is_none();
            table.strange |= !set.set_listed(listed.unwrap_or_default());
            table.sets.insert(set_name, set);
        }
        Ok(())
    }

    fn chains(&mut self, name: &str, table: &mut Table) -> Result<(), NetlinkError> {
        let chains = self.all("chains", kind::GET_CHAIN, (name, None), |message| {
            (message.kind == kind::NEW_CHAIN).then(|| {
                let base = find(message.body, GENERIC, 4).map(|_| base(message.body));
                (find_name(message.body, GENERIC, 3), base)
            })
        })?;
        for (chain, base) in chains {
            table.strange |= chain.is_none() || base == Some(None);
            let base = base.flatten();
            let chain = chain.unwrap_or_default();
            table.chains.entry(chain).or_default().base = base;
        }
        Ok(())
    }

    fn rules(&mut self, name: &str, table: &mut Table) -> Result<(), NetlinkError> {
        let rules = self.all("rules", kind::GET_RULE, (name, None), |message| {
            (message.kind == kind::NEW_RULE).then(|| {
                let chain = find_name(message.body, GENERIC, 2).unwrap_or_default();
                (chain, rule(message.body))
            })
        })?;
        for (chain, rule) in rules {
            table.chains.entry(chain).or_default().rules.push(rule);
        }
        Ok(())
    }

    /// Everything of a kind in a table (or a set of it), in the kernel's order. Older kernels list
    /// that of all tables, whatever they are asked for.
    fn all<T>(
        &mut self,
        what: &'static str,
        kind: u16,
        (table, set): (&str, Option<&str>),
        read: impl Fn(Message<'_>) -> Option<T>,
    ) -> Result<Vec<T>, NetlinkError> {
        let mut found = Vec::new();
        let mut listing = Listing::start(&mut self.netlink, what, |it| {
            it.begin_nft(kind, DUMP);
            it.name(1, table);
            if let Some(set) = set {
                it.name(2, set);
            }
            it.end();
        })?;
        let is_of_table = |message: &Message<'_>| {
            find_name(message.body, GENERIC, 1).is_some_and(|name| name == table)
        };
        let mut each = |message: Message<'_>| {
            if is_of_table(&message) {
                found.extend(read(message));
            }
        };
        while listing.step(&mut self.netlink, &mut each)? == Progress::More {}
        Ok(found)
    }
}

/// `None` when it is one that is not known here.
fn base(body: &[u8]) -> Option<Base> {
    let hook = find(body, GENERIC, 4)?;
    let accepts = find_number(body, GENERIC, 5)? == 1;
    let kind = find_name(body, GENERIC, 7)?;
    let nat = kind == "nat";
    (accepts && (nat || kind == "filter")).then_some(())?;
    Some(Base {
        hook: match find_number(hook, 0, 1)? {
            0 => Hook::PreRouting,
            2 => Hook::Forward,
            4 => Hook::PostRouting,
            _ => return None,
        },
        priority: find_number(hook, 0, 2)? as i32,
        nat,
    })
}

fn rule(body: &[u8]) -> Rule {
    let expressions = find(body, GENERIC, 4).unwrap_or(&[]);
    let expressions = attributes(expressions, 0).map(|(_, it)| Expression::decode(it));
    let comment = find(body, GENERIC, 7).and_then(|texts| match texts {
        // The number of a comment, its length, and a text with a NUL.
        [0, length, text @ ..] if usize::from(*length) == text.len() => {
            Some(crate::message::text(text))
        }
        _ => None,
    });
    Rule {
        expressions: expressions.collect(),
        comment: comment.unwrap_or_default(),
    }
}
