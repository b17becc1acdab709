//! Which version of which object is in force: the newest that fits with all the others. Pure.
//!
//! - Everything as it is now, if that is right.
//! - Else objects that are wrong as they are now stay as they were when they were right last, or out
//!   when they never were. Where two cannot both be right, the one that changed is wrong.
//! - Where what is wrong is not what changed (a policy was deleted that a peer still names, a pool has
//!   grown over the addresses of nodes), the last good state is changed one object at a time, and what
//!   makes it wrong is left as it was.
//! - A deleted object that is still needed stays in force, and so does one that was deleted with its
//!   kind: whoever deletes a CustomResourceDefinition deletes every object of it, and that must not
//!   take the network down.
//!
//! Nodes are not written by people: one that is wrong stays as it was too, but one that is gone is gone
//! (its subnets wait for the grace time).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use api::{Mistake, Parsed, SourceFile};
use crd::Kind;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde::{Deserialize, Serialize};

use super::object::Object;
use super::verdict::{self, Key, Outcome};

/// Mistakes told of one change; a pool that is wrong may be wrong on every node.
const TELL_MOST: usize = 5;

/// A node as a resource, or what of it cannot be read.
pub(super) type NodeSeen = Result<Arc<api::Node>, Vec<String>>;

/// An object as it was when it was right last.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Good {
    pub(super) uid: String,
    pub(super) generation: i64,
    pub(super) created: Option<Time>,
    pub(super) text: String,
    /// It was deleted together with its kind, and stays in force until there is one of its name again.
    #[serde(default)]
    pub(super) held: bool,
}

/// What is there.
pub(super) struct Seen<'a> {
    pub(super) objects: BTreeMap<Key, &'a Object>,
    pub(super) nodes: BTreeMap<&'a str, &'a NodeSeen>,
}

/// What is in force, and why what is there is not.
pub(super) struct Judged {
    /// What is in force; or, while nothing can be, why.
    pub(super) parsed: Result<Parsed, Vec<String>>,
    /// The versions in force of objects.
    pub(super) good: BTreeMap<Key, Good>,
    /// The versions in force of nodes.
    pub(super) good_nodes: BTreeMap<String, Arc<api::Node>>,
    /// Nodes of which another version is in force than the newest.
    pub(super) refused_nodes: BTreeSet<String>,
    /// What is thought of each object there is.
    pub(super) outcomes: BTreeMap<Key, Outcome>,
    /// What is wrong with nodes: name and reason.
    pub(super) problems: Vec<(String, String)>,
    /// One line for everything that is not as it was asked for.
    pub(super) refused: Vec<String>,
}

/// Judges what is there. `good` and `nodes` were in force before; a node that is not in `nodes` though
/// `all_known` is not set counts as right before: a leader that has just begun knows only of nodes that
/// were not.
pub(super) fn judge(
    seen: &Seen<'_>,
    good: &BTreeMap<Key, Good>,
    nodes: &BTreeMap<String, Arc<api::Node>>,
    all_known: bool,
) -> Judged {
    let (items, extra) = items(seen, good, nodes, all_known);
    let mut trial = Trial {
        items: &items,
        choices: BTreeMap::new(),
        reasons: BTreeMap::new(),
    };
    trial.begin();
    let parsed = trial.settle();
    conclude(seen, good, nodes, trial, parsed, &extra)
}

/// Something that may be in force in one of two versions.
struct Item<'a> {
    id: Id,
    /// As it is now; none when it is gone.
    new: Option<Content<'a>>,
    /// As it was when it was right last; none when it never was.
    old: Option<Content<'a>>,
    created: Option<&'a Time>,
    /// It stays as it was whatever else is so, for this reason.
    stays: Option<Vec<String>>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Id {
    Object(Key),
    Node(String),
}

#[derive(Clone, Copy, PartialEq)]
enum Content<'a> {
    Text(&'a str),
    Node(&'a Arc<api::Node>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Choice {
    New,
    Old,
    Neither,
}

impl Item<'_> {
    fn has_changed(&self) -> bool {
        self.new != self.old
    }

    fn is_node(&self) -> bool {
        matches!(self.id, Id::Node(_))
    }

    /// In which order changes are tried: what is named before what names it, and the other way round
    /// when they go.
    fn rank(&self) -> (bool, usize) {
        let order = [
            Kind::Fabric,
            Kind::Pool,
            Kind::Advertisement,
            Kind::RoutePolicy,
            Kind::Peer,
        ];
        let place = match &self.id {
            Id::Object((kind, _)) => order.iter().position(|other| other == kind),
            Id::Node(_) => None,
        };
        let place = place.unwrap_or(order.len());
        match self.new {
            Some(_) => (false, place),
            None => (true, order.len() - place),
        }
    }
}

/// Everything that can be in force, by the file name that `api` knows it by; and the Fabrics that cannot
/// because there is an older one.
fn items<'a>(
    seen: &'a Seen<'a>,
    good: &'a BTreeMap<Key, Good>,
    nodes: &'a BTreeMap<String, Arc<api::Node>>,
    all_known: bool,
) -> (BTreeMap<String, Item<'a>>, BTreeMap<Key, Key>) {
    let fabrics = seen.objects.iter().filter(|(key, _)| key.0 == Kind::Fabric);
    let oldest = fabrics.min_by_key(|(key, object)| (object.created.clone(), (*key).clone()));
    let oldest = oldest.map(|(key, _)| key);
    let mut extra = BTreeMap::new();
    let mut items = BTreeMap::new();
    for key in seen.objects.keys().chain(good.keys()) {
        let (now, before) = (seen.objects.get(key), good.get(key));
        if let (Kind::Fabric, Some(oldest)) = (key.0, oldest)
            && key != oldest
        {
            if now.is_some() {
                extra.insert(key.clone(), oldest.clone());
            }
            continue; // one that is gone makes room for the one that is there
        }
        let held = now.is_none() && before.is_some_and(|good| good.held);
        let item = Item {
            id: Id::Object(key.clone()),
            new: now.map(|object| Content::Text(&object.text)),
            old: before.map(|good| Content::Text(&good.text)),
            created: now
                .and_then(|object| object.created.as_ref())
                .or_else(|| before.and_then(|good| good.created.as_ref())),
            stays: held.then(|| {
                vec![format!(
                    "it was deleted together with the CustomResourceDefinition {}",
                    key.0.definition()
                )]
            }),
        };
        items.insert(verdict::name(key), item);
    }
    for (name, node) in &seen.nodes {
        let new = node.as_ref().ok().map(Content::Node);
        let known = nodes.get(*name).map(Content::Node);
        let item = Item {
            id: Id::Node((*name).to_owned()),
            new,
            old: known.or(if all_known { None } else { new }),
            created: None,
            stays: node.as_ref().err().cloned(),
        };
        items.insert(format!("Node/{name}"), item);
    }
    (items, extra)
}

/// A choice of versions, on its way to one that is right.
struct Trial<'a> {
    items: &'a BTreeMap<String, Item<'a>>,
    /// Of what is not as it is now.
    choices: BTreeMap<&'a str, Choice>,
    /// Why it is not.
    reasons: BTreeMap<&'a str, Vec<String>>,
}

impl<'a> Trial<'a> {
    /// Everything as it is now but for what has to stay.
    fn begin(&mut self) {
        self.choices.clear();
        self.reasons.clear();
        for (name, item) in self.items {
            if let Some(reasons) = &item.stays {
                self.refuse(name, reasons.clone());
            }
        }
    }

    fn refuse(&mut self, name: &'a str, reasons: Vec<String>) {
        self.choices.insert(name, Choice::Old);
        self.reasons.insert(name, reasons);
    }

    fn settle(&mut self) -> Result<Parsed, Vec<Mistake>> {
        loop {
            let mistakes = match self.parse() {
                Ok(parsed) => return Ok(parsed),
                Err(mistakes) => mistakes,
            };
            if !self.back_down(&mistakes) {
                break;
            }
        }
        let own = std::mem::take(&mut self.reasons);
        self.begin();
        let settled = self.one_by_one();
        if settled.is_err() {
            self.reasons.extend(own); // what is wrong in itself is more than that nothing is right
        }
        settled
    }

    /// Leaves as it was what is wrong as it is now. Whether there was any.
    fn back_down(&mut self, mistakes: &[Mistake]) -> bool {
        let wrong: BTreeSet<&str> = mistakes.iter().map(|m| m.file.as_str()).collect();
        let mut any = false;
        for name in wrong {
            let Some((name, item)) = self.items.get_key_value(name) else {
                continue;
            };
            if item.has_changed() && !self.choices.contains_key(name.as_str()) {
                self.refuse(name, verdict::about(mistakes, name));
                any = true;
            }
        }
        any
    }

    /// From the last good state, one change at a time.
    fn one_by_one(&mut self) -> Result<Parsed, Vec<Mistake>> {
        let items = self.items;
        let mut waiting: Vec<&'a str> = Vec::new();
        for (name, item) in items {
            if item.has_changed() && item.stays.is_none() {
                self.choices.insert(name, Choice::Old);
                if !item.is_node() {
                    waiting.push(name);
                }
            }
        }
        waiting.sort_by_key(|name| items[*name].rank());
        let mut parsed = self.whatever_is_right()?;
        // Nodes are many, and do not depend on one another: all of them at once.
        if let Some(with_nodes) = self.with_nodes() {
            parsed = with_nodes;
        }
        loop {
            let before = waiting.len();
            waiting.retain(|name| {
                let was = self.choices.remove(name);
                match self.parse() {
                    Ok(better) => {
                        parsed = better;
                        self.reasons.remove(name);
                        false
                    }
                    Err(mistakes) => {
                        self.choices.insert(name, was.unwrap_or(Choice::Old));
                        self.reasons.insert(name, with_it(&mistakes, name));
                        true
                    }
                }
            });
            if waiting.is_empty() || waiting.len() == before {
                return Ok(parsed);
            }
        }
    }

    /// The last good state without what is not right in it any more (for a newer controller, or because
    /// nodes have changed).
    fn whatever_is_right(&mut self) -> Result<Parsed, Vec<Mistake>> {
        loop {
            let mistakes = match self.parse() {
                Ok(parsed) => return Ok(parsed),
                Err(mistakes) => mistakes,
            };
            let mut any = false;
            for mistake in &mistakes {
                let Some((name, _)) = self.items.get_key_value(&mistake.file) else {
                    continue;
                };
                if self.choices.get(name.as_str()) != Some(&Choice::Neither) {
                    self.choices.insert(name, Choice::Neither);
                    self.reasons.insert(name, verdict::about(&mistakes, name));
                    any = true;
                }
            }
            if !any {
                return Err(mistakes);
            }
        }
    }

    /// With every node as it is now that is right so.
    fn with_nodes(&mut self) -> Option<Parsed> {
        let before = self.choices.clone();
        let items = self.items;
        self.choices
            .retain(|name, choice| !items[*name].is_node() || *choice == Choice::Neither);
        for (name, item) in items {
            if let (true, Some(reasons)) = (item.is_node(), &item.stays) {
                self.refuse(name, reasons.clone());
            }
        }
        loop {
            match self.parse() {
                Ok(parsed) => return Some(parsed),
                Err(mistakes) if self.back_down(&mistakes) => {}
                Err(_) => {
                    self.choices = before;
                    return None;
                }
            }
        }
    }

    fn parse(&self) -> Result<Parsed, Vec<Mistake>> {
        let mut chosen: Vec<(bool, Option<&Time>, &str, Content<'_>)> = Vec::new();
        for (name, item) in self.items {
            let choice = self.choices.get(name.as_str()).copied();
            let content = match choice.unwrap_or(Choice::New) {
                Choice::New => item.new,
                Choice::Old => item.old,
                Choice::Neither => None,
            };
            if let Some(content) = content {
                let is_new = item.old != Some(content);
                chosen.push((is_new, item.created, name, content));
            }
        }
        // Of two that cannot both be right the later one is told so: let that be the newcomer.
        chosen.sort_by_key(|(is_new, created, name, _)| (*is_new, *created, *name));
        let mut files = Vec::new();
        let mut nodes = Vec::new();
        for (_, _, name, content) in chosen {
            match content {
                Content::Text(text) => files.push(SourceFile {
                    name: name.to_owned(),
                    text: text.to_owned(),
                }),
                Content::Node(node) => nodes.push(node.as_ref().clone()),
            }
        }
        api::parse_objects(&files, nodes)
    }
}

/// Why a change cannot be made: what would be wrong with it, there or elsewhere.
fn with_it(mistakes: &[Mistake], name: &str) -> Vec<String> {
    let mut reasons = verdict::about(mistakes, name);
    let elsewhere = mistakes.iter().filter(|mistake| mistake.file != name);
    reasons.extend(elsewhere.map(|mistake| {
        let place = [mistake.resource.as_str(), mistake.field.as_str()];
        let place: Vec<&str> = place.into_iter().filter(|p| !p.is_empty()).collect();
        match place.is_empty() {
            true => mistake.message.clone(),
            false => format!("{}: {}", place.join(", "), mistake.message),
        }
    }));
    if reasons.len() > TELL_MOST {
        let more = reasons.len() - TELL_MOST;
        reasons.truncate(TELL_MOST);
        reasons.push(format!("and {more} more"));
    }
    reasons
}

fn conclude(
    seen: &Seen<'_>,
    good: &BTreeMap<Key, Good>,
    nodes: &BTreeMap<String, Arc<api::Node>>,
    trial: Trial<'_>,
    parsed: Result<Parsed, Vec<Mistake>>,
    extra: &BTreeMap<Key, Key>,
) -> Judged {
    let mut judged = Judged {
        parsed: Err(Vec::new()),
        good: BTreeMap::new(),
        good_nodes: BTreeMap::new(),
        refused_nodes: BTreeSet::new(),
        outcomes: BTreeMap::new(),
        problems: Vec::new(),
        refused: Vec::new(),
    };
    let nothing = parsed.as_ref().err().map(|mistakes| with_it(mistakes, ""));
    for (name, item) in trial.items {
        let choice = trial.choices.get(name.as_str()).copied();
        let choice = choice.unwrap_or(Choice::New);
        let reasons = trial
            .reasons
            .get(name.as_str())
            .cloned()
            .unwrap_or_default();
        match &item.id {
            Id::Object(key) => judged.object(seen, good, key, choice, reasons, nothing.as_ref()),
            Id::Node(node) => judged.node(seen, nodes, node, choice, reasons),
        }
    }
    for (key, oldest) in extra {
        let reason = format!(
            "there is a Fabric already, `{}`, which is older and in force; exactly one is needed: remove \
             one of them",
            oldest.1
        );
        judged
            .refused
            .push(format!("{} `{}`: {reason}", key.0, key.1));
        let outcome = Outcome::Refused {
            reasons: vec![reason],
            in_force: None,
        };
        judged.outcomes.insert(key.clone(), outcome);
    }
    if let Ok(parsed) = &parsed {
        for (key, outcome) in &mut judged.outcomes {
            if let Outcome::Accepted { warnings } = outcome {
                *warnings = verdict::about(&parsed.warnings, &verdict::name(key));
            }
        }
    }
    judged.parsed = parsed.map_err(|_| nothing.unwrap_or_default());
    judged
}

impl Judged {
    fn object(
        &mut self,
        seen: &Seen<'_>,
        good: &BTreeMap<Key, Good>,
        key: &Key,
        choice: Choice,
        reasons: Vec<String>,
        nothing: Option<&Vec<String>>,
    ) {
        let (now, before) = (seen.objects.get(key), good.get(key));
        let in_force = match choice {
            Choice::New => now.map(|object| Good {
                uid: object.uid.clone(),
                generation: object.generation,
                created: object.created.clone(),
                text: object.text.clone(),
                held: false,
            }),
            Choice::Old => before.cloned(),
            Choice::Neither => None,
        };
        let refused = choice != Choice::New || nothing.is_some();
        if refused {
            let reasons = match (reasons.is_empty(), nothing) {
                (true, Some(nothing)) => nothing.clone(),
                _ => reasons,
            };
            let (kind, name) = key;
            let stays = match (&in_force, now) {
                (Some(good), Some(_)) => {
                    format!("; its generation {} stays in force", good.generation)
                }
                (Some(_), None) => "; it stays in force though it is deleted".to_owned(),
                (None, _) => String::new(),
            };
            if !reasons.is_empty() {
                self.refused
                    .push(format!("{kind} `{name}`: {}{stays}", reasons.join("; ")));
            }
            let outcome = Outcome::Refused {
                reasons,
                in_force: in_force
                    .as_ref()
                    .filter(|_| nothing.is_none())
                    .map(|good| good.generation),
            };
            if now.is_some() {
                self.outcomes.insert(key.clone(), outcome);
            }
        } else if now.is_some() {
            let outcome = Outcome::Accepted {
                warnings: Vec::new(),
            };
            self.outcomes.insert(key.clone(), outcome);
        }
        // What was right with a Fabric is right again when there is one.
        let keeps = match (nothing, before) {
            (Some(_), before) => before.cloned(),
            (None, _) => in_force,
        };
        if let Some(keeps) = keeps {
            self.good.insert(key.clone(), keeps);
        }
    }

    fn node(
        &mut self,
        seen: &Seen<'_>,
        nodes: &BTreeMap<String, Arc<api::Node>>,
        name: &str,
        choice: Choice,
        reasons: Vec<String>,
    ) {
        let new = seen.nodes.get(name).and_then(|node| node.as_ref().ok());
        let in_force = match choice {
            Choice::New => new,
            Choice::Old => nodes.get(name),
            Choice::Neither => None,
        };
        if choice != Choice::New {
            let stays = match in_force {
                Some(_) => "it stays as it was",
                None => "it has no configuration",
            };
            let reasons = reasons.into_iter();
            self.problems
                .extend(reasons.map(|reason| (name.to_owned(), format!("{reason}; {stays}"))));
            self.refused_nodes.insert(name.to_owned());
        }
        if let Some(in_force) = in_force {
            self.good_nodes
                .insert(name.to_owned(), Arc::clone(in_force));
        }
    }
}

#[cfg(test)]
mod tests;
