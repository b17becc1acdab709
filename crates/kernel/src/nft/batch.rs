//! Requests that are carried out together or not at all.

use crate::message::{ACK, APPEND, CREATE, EXCLUSIVE, Requests};

use super::{Base, Element, Expression, Generation, Rule, Set, kind};

/// Elements in one request: an attribute holds 64 KiB at most.
const ELEMENTS: usize = 256;
/// `NFT_CHAIN_BASE`-less: policy of base chains, `NF_ACCEPT`.
const ACCEPT: u32 = 1;
/// `NFTA_RULE_USERDATA` holds texts by number; 0 is a comment.
const COMMENT: u8 = 0;

/// A transaction to be.
#[derive(Debug, Default)]
pub struct Batch {
    requests: Vec<(Request, String)>,
    sets: u32,
}

/// A request's kind, flags and attributes.
#[derive(Debug)]
struct Request {
    kind: u16,
    flags: u16,
    attributes: Requests,
}

impl Batch {
    /// Of nothing.
    pub fn new() -> Batch {
        Batch::default()
    }

    /// Whether there is nothing to be done.
    pub fn is_empty(&self) -> bool {
        self.requests.is_empty()
    }

    /// How many requests there are, with those that begin and end it.
    pub(super) fn len(&self) -> usize {
        self.requests.len() + 2
    }

    /// A table; one that is there stays as it is.
    pub fn add_table(&mut self, table: &str) {
        self.push(kind::NEW_TABLE, CREATE, format!("table `{table}`"), |it| {
            it.name(1, table);
            it.number(2, 0); // flags
        });
    }

    /// A table; that it is there already is an error.
    pub fn add_new_table(&mut self, table: &str) {
        let what = format!("a new table `{table}`");
        self.push(kind::NEW_TABLE, CREATE | EXCLUSIVE, what, |it| {
            it.name(1, table);
            it.number(2, 0);
        });
    }

    /// Removes a table and all that is in it; that it is not there is an error.
    pub fn delete_table(&mut self, table: &str) {
        let what = format!("to remove table `{table}`");
        self.push(kind::DELETE_TABLE, 0, what, |it| it.name(1, table));
    }

    /// A set, empty.
    pub fn add_set(&mut self, table: &str, name: &str, set: &Set) {
        self.sets += 1;
        let id = self.sets;
        let what = format!("set `{name}` of table `{table}`");
        self.push(kind::NEW_SET, CREATE, what, |it| {
            it.name(1, table);
            it.name(2, name);
            set.encode(it, id);
        });
    }

    /// Elements of a set that is there or is added before. One that is there already is no error,
    /// but for ranges that overlap.
    pub fn add_elements<'a>(
        &mut self,
        table: &str,
        name: &str,
        set: &Set,
        elements: impl IntoIterator<Item = &'a Element>,
    ) {
        let what = format!("elements of set `{name}` of table `{table}`");
        self.elements(
            kind::NEW_ELEMENTS,
            CREATE,
            &what,
            (table, name),
            set,
            elements,
        );
    }

    /// Removes elements of a set; one that is not there is an error.
    pub fn delete_elements<'a>(
        &mut self,
        table: &str,
        name: &str,
        set: &Set,
        elements: impl IntoIterator<Item = &'a Element>,
    ) {
        let what = format!("to remove elements of set `{name}` of table `{table}`");
        self.elements(
            kind::DELETE_ELEMENTS,
            0,
            &what,
            (table, name),
            set,
            elements,
        );
    }

    fn elements<'a>(
        &mut self,
        kind: u16,
        flags: u16,
        what: &str,
        (table, name): (&str, &str),
        set: &Set,
        elements: impl IntoIterator<Item = &'a Element>,
    ) {
        let elements: Vec<&Element> = elements.into_iter().collect();
        for chunk in elements.chunks(ELEMENTS) {
            self.push(kind, flags, what.to_owned(), |it| {
                it.name(1, table);
                it.name(2, name);
                it.nft_nested(3, |it| {
                    for element in chunk {
                        set.encode_element(it, element);
                    }
                });
            });
        }
    }

    /// A chain, empty.
    pub fn add_chain(&mut self, table: &str, name: &str, base: Option<Base>) {
        let what = format!("chain `{name}` of table `{table}`");
        self.push(kind::NEW_CHAIN, CREATE, what, |it| {
            it.name(1, table);
            it.name(3, name);
            if let Some(base) = base {
                it.nft_nested(4, |it| {
                    it.number(1, base.hook as u32);
                    it.number(2, base.priority as u32);
                });
                it.number(5, ACCEPT);
                it.name(7, if base.nat { "nat" } else { "filter" });
            }
        });
    }

    /// A rule behind those of a chain.
    pub fn add_rule(&mut self, table: &str, chain: &str, rule: &Rule) {
        let what = format!("a rule of chain `{chain}` of table `{table}`");
        self.push(kind::NEW_RULE, CREATE | APPEND, what, |it| {
            it.name(1, table);
            it.name(2, chain);
            it.nft_nested(4, |it| {
                rule.expressions
                    .iter()
                    .for_each(|step| Expression::encode(step, it))
            });
            if !rule.comment.is_empty() {
                let text = rule.comment.as_bytes();
                let length = text.len() as u8 + 1;
                it.attribute(7, &[&[COMMENT, length], text, &[0]].concat());
            }
        });
    }

    fn push(&mut self, kind: u16, flags: u16, what: String, fill: impl FnOnce(&mut Requests)) {
        let mut attributes = Requests::new();
        fill(&mut attributes);
        let request = Request {
            kind,
            flags,
            attributes,
        };
        self.requests.push((request, what));
    }

    /// What the request at this place is about; the first one begins the batch.
    pub(super) fn what(&self, place: usize) -> String {
        let request = place.checked_sub(1).and_then(|at| self.requests.get(at));
        request.map_or_else(|| "the transaction".to_owned(), |(_, what)| what.clone())
    }

    /// All bytes. Only the last request is to be answered even if it is carried out.
    pub(super) fn encode(&self, since: Option<Generation>) -> Vec<u8> {
        let mut all = Requests::new();
        let frame = |all: &mut Requests, kind| {
            all.begin(kind, 0);
            all.body(&[0, 0, 0, 10]); // struct nfgenmsg; the subsystem in network order
        };
        frame(&mut all, kind::BATCH_BEGIN);
        if let Some(Generation(since)) = since {
            all.number(1, since); // NFNL_BATCH_GENID
        }
        all.end();
        for (at, (request, _)) in self.requests.iter().enumerate() {
            let last = at + 1 == self.requests.len();
            let flags = request.flags | if last { ACK } else { 0 };
            all.begin_nft(request.kind, flags);
            all.body(&request.attributes.bytes);
            all.end();
        }
        frame(&mut all, kind::BATCH_END);
        all.end();
        all.bytes
    }
}
