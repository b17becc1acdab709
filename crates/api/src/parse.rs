//! Files → resources, or every mistake in them. Pure: the caller has read the files.

use std::collections::BTreeMap;

use crate::{Mistake, Resources};

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
}

/// Reads all files together.
///
/// # Errors
///
/// Every mistake of every file, in the order of files and lines. Nothing is half accepted: with one
/// mistake there are no resources.
pub fn parse(files: &[SourceFile]) -> Result<Parsed, Vec<Mistake>> {
    let mut mistakes = Vec::new();
    let mut loaded = Loaded::default();
    for file in files {
        loaded.read(file, &mut mistakes);
    }
    let fabric = match loaded.fabric {
        Some(fabric) if mistakes.is_empty() => fabric,
        _ => {
            mistakes.push(Mistake {
                message: "no Fabric; exactly one document of kind Fabric is needed".into(),
                ..Mistake::default()
            });
            return Err(mistakes);
        }
    };
    Ok(Parsed {
        resources: Resources {
            fabric,
            pools: loaded.pools,
            nodes: loaded.nodes,
            peers: loaded.peers,
            policies: loaded.policies,
            advertisements: loaded.advertisements,
        },
        warnings: Vec::new(),
    })
}

#[derive(Default)]
struct Loaded {
    fabric: Option<crate::Fabric>,
    pools: BTreeMap<String, crate::Pool>,
    nodes: BTreeMap<String, crate::Node>,
    peers: BTreeMap<String, crate::Peer>,
    policies: BTreeMap<String, crate::RoutePolicy>,
    advertisements: BTreeMap<String, crate::Advertisement>,
}

#[derive(serde::Deserialize)]
#[serde(tag = "kind")]
enum Document {
    Fabric(crate::Fabric),
    Pool(crate::Pool),
    Node(crate::Node),
    Peer(crate::Peer),
    RoutePolicy(crate::RoutePolicy),
    Advertisement(crate::Advertisement),
}

impl Loaded {
    fn read(&mut self, file: &SourceFile, mistakes: &mut Vec<Mistake>) {
        let documents: Vec<Document> = match serde_saphyr::from_multiple(&file.text) {
            Ok(documents) => documents,
            Err(error) => {
                mistakes.push(Mistake {
                    file: file.name.clone(),
                    message: error.to_string(),
                    ..Mistake::default()
                });
                return;
            }
        };
        for document in documents {
            match document {
                Document::Fabric(it) => self.fabric = Some(it),
                Document::Pool(it) => drop(self.pools.insert(it.metadata.name.clone(), it)),
                Document::Node(it) => drop(self.nodes.insert(it.metadata.name.clone(), it)),
                Document::Peer(it) => drop(self.peers.insert(it.metadata.name.clone(), it)),
                Document::RoutePolicy(it) => {
                    drop(self.policies.insert(it.metadata.name.clone(), it));
                }
                Document::Advertisement(it) => {
                    drop(self.advertisements.insert(it.metadata.name.clone(), it));
                }
            }
        }
    }
}
