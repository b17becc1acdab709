//! Where the resources come from: files, or a Kubernetes cluster. A source keeps the newest good set of resources in a
//! watch channel, and says why what is there now was refused.

pub(crate) mod files;
pub(crate) mod kubernetes;

use std::sync::Arc;

use api::{Resources, SourceFile};
use ipam::Millis;

/// What a source knows at the moment.
#[derive(Clone, Debug, Default)]
pub(crate) struct SourceState {
    /// The newest good set; none before there was one.
    pub(crate) in_force: Option<Arc<Loaded>>,
    /// Why what is there now was refused; empty when it is in force.
    pub(crate) refused: Vec<String>,
    /// How often something was refused.
    pub(crate) refusals: u64,
}

/// A good set of resources.
#[derive(Clone, Debug)]
pub(crate) struct Loaded {
    /// Parsed and checked.
    pub(crate) resources: Resources,
    /// What they were parsed from.
    pub(crate) files: Vec<SourceFile>,
    /// What is allowed but probably not meant.
    pub(crate) warnings: Vec<String>,
    /// What is wrong with single nodes (name, what) though the rest is in force.
    pub(crate) problems: Vec<(String, String)>,
    /// When they were read.
    pub(crate) at: Millis,
}
