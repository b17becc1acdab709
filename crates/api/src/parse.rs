//! Files → resources, or every mistake in them. Pure: the caller has read the files.

use std::collections::{BTreeMap, BTreeSet};

use serde::de::DeserializeOwned;

use crate::decode::{Fault, decode};
use crate::tree::{self, Node, Step, Value};
use crate::{
    API_VERSION, AdvertisementSpec, FabricSpec, Metadata, Mistake, NodeSpec, PeerSpec, PoolSpec,
    Resource, Resources, RoutePolicySpec, SubnetSource, check, hints,
};

/// A file as read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceFile {
    /// What mistakes call it; usually its path.
    pub name: String,
    /// What is in it: YAML, any number of documents.
    pub text: String,
}

/// Resources without mistakes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parsed {
    /// All of them.
    pub resources: Resources,
    /// What is allowed but probably not meant.
    pub warnings: Vec<Mistake>,
    /// What only Kubernetes can give: mistakes where the resources come from files.
    pub only_in_kubernetes: Vec<Mistake>,
}

/// [`parse`] where nobody reads from Kubernetes: what only that can give is a mistake.
///
/// # Errors
///
/// As [`parse`].
pub fn parse_without_kubernetes(files: &[SourceFile]) -> Result<Parsed, Vec<Mistake>> {
    let parsed = parse(files)?;
    match parsed.only_in_kubernetes.is_empty() {
        true => Ok(parsed),
        false => Err(parsed.only_in_kubernetes),
    }
}

/// Reads all files together. The order of files and documents does not matter.
///
/// # Errors
///
/// Every mistake of every file, in the order of files and lines. Nothing is half accepted: with one
/// mistake there are no resources.
pub fn parse(files: &[SourceFile]) -> Result<Parsed, Vec<Mistake>> {
    let mut loaded = Loaded::default();
    for file in files {
        loaded.read(file);
    }
    loaded.checked(files)
}

/// The same for objects that some API keeps: every one a file of its own whose lines mean nothing to
/// anybody, and nodes that need not be read from text because there may be thousands of them. The file
/// of a node's mistakes is `Node/NAME`.
///
/// Such nodes may say subnets that count only where the Fabric adopts them.
///
/// Where two of them cannot both be right, the later one is told so: of objects in the order of
/// `files`, of nodes in that of `nodes`.
///
/// # Errors
///
/// As [`parse`].
pub fn parse_objects(
    files: &[SourceFile],
    nodes: impl IntoIterator<Item = Resource<NodeSpec>>,
) -> Result<Parsed, Vec<Mistake>> {
    let mut loaded = Loaded {
        lineless: true,
        ..Loaded::default()
    };
    for file in files {
        loaded.read(file);
    }
    let adopts = loaded.adopts();
    for mut node in nodes {
        if !adopts {
            node.spec.subnets.clear();
        }
        loaded.node(node);
    }
    loaded.checked(files)
}

impl Loaded {
    fn checked(mut self, files: &[SourceFile]) -> Result<Parsed, Vec<Mistake>> {
        let mut warnings = Vec::new();
        let mut only_in_kubernetes = Vec::new();
        check::all(&mut self, &mut warnings, &mut only_in_kubernetes);
        let order: BTreeMap<&str, usize> = files
            .iter()
            .enumerate()
            .map(|(at, file)| (file.name.as_str(), at))
            .collect();
        let place = |mistake: &Mistake| (order.get(mistake.file.as_str()).copied(), mistake.line);
        warnings.sort_by_key(place);
        only_in_kubernetes.sort_by_key(place);
        self.mistakes.sort_by_key(place);
        let mut loaded = self;
        match loaded.fabrics.pop() {
            Some(fabric) if loaded.mistakes.is_empty() => Ok(Parsed {
                resources: Resources {
                    fabric: fabric.resource,
                    pools: by_name(loaded.pools),
                    nodes: by_name(loaded.nodes),
                    peers: by_name(loaded.peers),
                    policies: by_name(loaded.policies),
                    advertisements: by_name(loaded.advertisements),
                },
                warnings,
                only_in_kubernetes,
            }),
            _ => Err(loaded.mistakes),
        }
    }

    /// Whether the subnets of nodes are what these say.
    pub(crate) fn adopts(&self) -> bool {
        let fabric = self.fabrics.first();
        fabric.is_some_and(|fabric| fabric.spec().node_subnets == SubnetSource::Adopt)
    }

    /// Takes in a node that was not written as text.
    fn node(&mut self, node: Resource<NodeSpec>) {
        let name = &node.metadata.name;
        self.named.insert(("Node".to_owned(), name.clone()));
        let document = Document {
            file: format!("Node/{name}"),
            number: 0,
            resource: format!("Node `{name}`"),
            root: Node::nothing(),
        };
        self.nodes.push(Item {
            resource: node,
            document,
        });
    }
}

fn by_name<S>(items: Vec<Item<S>>) -> BTreeMap<String, Resource<S>> {
    items
        .into_iter()
        .map(|item| (item.resource.metadata.name.clone(), item.resource))
        .collect()
}

/// What the files hold, as far as it could be read, in their order.
#[derive(Default)]
pub(crate) struct Loaded {
    pub(crate) fabrics: Vec<Item<FabricSpec>>,
    pub(crate) pools: Vec<Item<PoolSpec>>,
    pub(crate) nodes: Vec<Item<NodeSpec>>,
    pub(crate) peers: Vec<Item<PeerSpec>>,
    pub(crate) policies: Vec<Item<RoutePolicySpec>>,
    pub(crate) advertisements: Vec<Item<AdvertisementSpec>>,
    /// Kind and name of every document that says them, right or wrong in the rest.
    pub(crate) named: BTreeSet<(String, String)>,
    /// Whether something could not even be named, so that nothing can be called missing.
    pub(crate) unnamed: bool,
    /// Whether lines and numbers of documents mean nothing.
    lineless: bool,
    pub(crate) mistakes: Vec<Mistake>,
}

/// A resource and where it was written.
pub(crate) struct Item<S> {
    pub(crate) resource: Resource<S>,
    pub(crate) document: Document,
}

impl<S> Item<S> {
    pub(crate) fn name(&self) -> &str {
        &self.resource.metadata.name
    }

    pub(crate) fn spec(&self) -> &S {
        &self.resource.spec
    }
}

/// Where a resource was written.
pub(crate) struct Document {
    pub(crate) file: String,
    pub(crate) number: usize,
    /// ``Peer `tor` ``, as far as it is known.
    pub(crate) resource: String,
    pub(crate) root: Node,
}

impl Document {
    /// `file:line` of its beginning; only the file where lines mean nothing.
    pub(crate) fn place(&self) -> String {
        match self.root.line {
            0 => self.file.clone(),
            line => format!("{}:{line}", self.file),
        }
    }

    /// Whether the user wrote something there.
    pub(crate) fn has(&self, field: &str) -> bool {
        self.root.at(&steps(field)).is_some()
    }

    /// A mistake in a field of this document, written `spec.rules[2].match`. The line is that of
    /// the field, or of the nearest thing around it that was written.
    pub(crate) fn mistake(&self, field: &str, message: impl Into<String>) -> Mistake {
        let path = steps(field);
        let nearest = (0..=path.len())
            .rev()
            .find_map(|length| self.root.at(&path[..length]));
        Mistake {
            file: self.file.clone(),
            line: nearest.map_or(self.root.line, |node| node.line),
            document: self.number,
            resource: self.resource.clone(),
            field: field.to_owned(),
            message: message.into(),
        }
    }

    fn fault(&self, fault: Fault) -> Mistake {
        Mistake {
            file: self.file.clone(),
            line: fault.line,
            document: self.number,
            resource: self.resource.clone(),
            field: tree::show(&fault.path),
            message: fault.message,
        }
    }
}

/// Reads what `tree::show` writes, except keys in quotes, which no check names.
fn steps(field: &str) -> Vec<Step> {
    let parts = field.split(['.', '[']).filter(|part| !part.is_empty());
    parts
        .map(
            |part| match part.strip_suffix(']').and_then(|index| index.parse().ok()) {
                Some(index) => Step::Index(index),
                None => Step::Key(part.to_owned()),
            },
        )
        .collect()
}

const KINDS: [&str; 6] = [
    "Fabric",
    "Pool",
    "Node",
    "Peer",
    "RoutePolicy",
    "Advertisement",
];

impl Loaded {
    fn read(&mut self, file: &SourceFile) {
        for (number, document) in tree::documents(&file.text) {
            let number = if self.lineless { 0 } else { number };
            match document {
                Ok(mut root) if self.lineless => {
                    root.forget_lines();
                    self.document(Document {
                        file: file.name.clone(),
                        number,
                        resource: String::new(),
                        root,
                    });
                }
                Ok(root) => self.document(Document {
                    file: file.name.clone(),
                    number,
                    resource: String::new(),
                    root,
                }),
                Err(unreadable) => {
                    self.unnamed = true;
                    self.mistakes.push(Mistake {
                        file: file.name.clone(),
                        line: unreadable.line,
                        document: number,
                        message: unreadable.message,
                        ..Mistake::default()
                    });
                }
            }
        }
    }

    fn document(&mut self, mut document: Document) {
        let Value::Map(entries) = &document.root.value else {
            self.unnamed = true;
            let message = format!(
                "found {}; allowed: a resource with the fields apiVersion, kind, metadata, spec",
                document.root.describe()
            );
            self.mistakes.push(document.mistake("", message));
            return;
        };
        let keys: Vec<String> = entries.iter().map(|(key, _)| key.clone()).collect();
        let text = |path: &[&str]| {
            let path: Vec<Step> = path
                .iter()
                .map(|key| Step::Key((*key).to_owned()))
                .collect();
            match document.root.at(&path).map(|node| &node.value) {
                Some(Value::Text(text)) => Some(text.clone()),
                _ => None,
            }
        };
        let kind = text(&["kind"]);
        let name = text(&["metadata", "name"]);
        let known = kind.clone().filter(|kind| KINDS.contains(&kind.as_str()));
        document.resource = match (&known, &name) {
            (Some(kind), Some(name)) => format!("{kind} `{name}`"),
            (Some(kind), None) => kind.clone(),
            (None, _) => String::new(),
        };
        match (&known, name) {
            (Some(kind), Some(name)) => drop(self.named.insert((kind.clone(), name))),
            _ => self.unnamed = true,
        }

        let fields = ["apiVersion", "kind", "metadata", "spec"];
        for key in keys.iter().filter(|key| !fields.contains(&key.as_str())) {
            let (message, _) = hints::unknown_field("Document", key, &fields);
            self.mistakes.push(document.mistake(key, message));
        }
        let allowed = format!("`apiVersion: {API_VERSION}`");
        match document.root.get("apiVersion") {
            Some(node) if matches!(&node.value, Value::Text(text) if text == API_VERSION) => {}
            Some(node) => {
                let message = format!("found {}; allowed: `{API_VERSION}`", node.describe());
                self.mistakes.push(document.mistake("apiVersion", message));
            }
            None => self
                .mistakes
                .push(document.mistake("apiVersion", format!("is missing; write {allowed}"))),
        }
        match (known, document.root.get("kind")) {
            (Some(kind), _) => self.of_kind(&kind, document),
            (None, Some(node)) => {
                let message = hints::unknown_variant("Document", &node.describe(), &KINDS);
                self.mistakes.push(document.mistake("kind", message));
            }
            (None, None) => {
                let message = format!("is missing; it is required: one of {}", KINDS.join(", "));
                self.mistakes.push(document.mistake("kind", message));
            }
        }
    }

    fn of_kind(&mut self, kind: &str, document: Document) {
        match kind {
            "Fabric" => keep(&mut self.fabrics, document, &mut self.mistakes),
            "Pool" => keep(&mut self.pools, document, &mut self.mistakes),
            "Node" => keep(&mut self.nodes, document, &mut self.mistakes),
            "Peer" => keep(&mut self.peers, document, &mut self.mistakes),
            "RoutePolicy" => keep(&mut self.policies, document, &mut self.mistakes),
            _ => keep(&mut self.advertisements, document, &mut self.mistakes),
        }
    }
}

fn keep<S: DeserializeOwned>(
    items: &mut Vec<Item<S>>,
    document: Document,
    mistakes: &mut Vec<Mistake>,
) {
    let metadata = part::<Metadata>(&document, "metadata", mistakes);
    let spec = part::<S>(&document, "spec", mistakes);
    if let (Some(metadata), Some(spec)) = (metadata, spec) {
        items.push(Item {
            resource: Resource { metadata, spec },
            document,
        });
    }
}

fn part<T: DeserializeOwned>(
    document: &Document,
    key: &str,
    mistakes: &mut Vec<Mistake>,
) -> Option<T> {
    let Some(node) = document.root.get(key) else {
        let message = match key {
            "metadata" => "is missing; write `metadata: {name: …}`",
            _ => "is missing; it is required",
        };
        mistakes.push(document.mistake(key, message));
        return None;
    };
    let (value, faults) = decode(node, &[Step::Key(key.to_owned())]);
    mistakes.extend(faults.into_iter().map(|fault| document.fault(fault)));
    value
}
