//! All resources together, and what the kinds share: names, labels, selectors.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{AdvertisementSpec, FabricSpec, NodeSpec, PeerSpec, PoolSpec, RoutePolicySpec};

/// Everything a user wrote, checked: one of each name, references hold, nothing overlaps.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Resources {
    /// The one Fabric.
    pub fabric: Fabric,
    /// By name.
    pub pools: BTreeMap<String, Pool>,
    /// By name.
    pub nodes: BTreeMap<String, Node>,
    /// By name.
    pub peers: BTreeMap<String, Peer>,
    /// By name.
    pub policies: BTreeMap<String, RoutePolicy>,
    /// By name.
    pub advertisements: BTreeMap<String, Advertisement>,
}

/// One resource: its name and labels, and what its kind says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Resource<S> {
    /// Name and labels.
    pub metadata: Metadata,
    /// What its kind says.
    pub spec: S,
}

/// The cluster's BGP as a whole.
pub type Fabric = Resource<FabricSpec>;
/// Address space that nodes get subnets out of.
pub type Pool = Resource<PoolSpec>;
/// A machine that runs a speaker.
pub type Node = Resource<NodeSpec>;
/// A session template.
pub type Peer = Resource<PeerSpec>;
/// Rules for routes received or sent.
pub type RoutePolicy = Resource<RoutePolicySpec>;
/// What is announced to whom.
pub type Advertisement = Resource<AdvertisementSpec>;

/// Name and labels of a resource.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Metadata {
    /// Unique within the kind; lower-case letters, digits, `-` and `.`, at most 253 of them.
    #[serde(deserialize_with = "crate::names::name")]
    pub name: String,
    /// What selectors look at.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Notes for people and other programs; not looked at.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

/// Which nodes or peers are meant. Everything that is given must hold; nothing given means all.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Selector {
    /// One of these names.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub names: Vec<String>,
    /// All of these labels, with these values.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub match_labels: BTreeMap<String, String>,
    /// All of these.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub match_expressions: Vec<Expression>,
}

/// A condition on one label, as in Kubernetes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Expression {
    /// The label.
    pub key: String,
    /// How its value is compared.
    pub operator: Operator,
    /// What with: at least one for `In` and `NotIn`, none for the others.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub values: Vec<String>,
}

/// How a label is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum Operator {
    /// The value is one of those given.
    In,
    /// The label is missing or its value is none of those given.
    NotIn,
    /// The label is there.
    Exists,
    /// The label is not there.
    DoesNotExist,
}

impl Selector {
    /// Whether a thing of this name with these labels is meant.
    pub fn selects(&self, metadata: &Metadata) -> bool {
        let labels = &metadata.labels;
        (self.names.is_empty() || self.names.contains(&metadata.name))
            && self
                .match_labels
                .iter()
                .all(|(key, value)| labels.get(key) == Some(value))
            && self
                .match_expressions
                .iter()
                .all(|expression| expression.holds(labels))
    }

    /// Whether nothing is given, so that everything is meant.
    pub fn is_everything(&self) -> bool {
        *self == Selector::default()
    }
}

impl Expression {
    fn holds(&self, labels: &BTreeMap<String, String>) -> bool {
        let value = labels.get(&self.key);
        match self.operator {
            Operator::In => value.is_some_and(|value| self.values.contains(value)),
            Operator::NotIn => !value.is_some_and(|value| self.values.contains(value)),
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
        }
    }
}
