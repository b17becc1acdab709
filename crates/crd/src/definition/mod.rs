//! CustomResourceDefinitions, made of the types: what `cargo xtask crds` writes to `deploy/crds`.
//!
//! In reading order: `structural` turns the schema of a type into one that Kubernetes takes;
//! `bounds` says how long lists and texts may be, which keeps the cost of the rules in budget;
//! `notations` are the rules of single values, such as prefixes; `rules` those between the fields of
//! one object; `columns` is what `kubectl get` shows.

mod bounds;
mod columns;
mod notations;
mod rules;
mod structural;

use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde_json::{Value, json};

use crate::names::{CATEGORY, GROUP, VERSION};
use crate::{Kind, NodeState, NodeSubnetsSpec, WrittenStatus};

/// Why a definition cannot be made; names the place in the schema.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{kind}: {place}: {problem}")]
pub struct DefinitionError {
    kind: Kind,
    place: String,
    problem: String,
}

impl Kind {
    /// Its CustomResourceDefinition, with keys in alphabetical order.
    ///
    /// # Errors
    ///
    /// When a type has something that Kubernetes cannot say, when a list or text has no bound, or when
    /// a rule is about a field that is not there: all are mistakes of ours, found by the tests.
    pub fn custom_resource_definition(self) -> Result<Value, DefinitionError> {
        let fail = |(place, problem)| DefinitionError {
            kind: self,
            place,
            problem,
        };
        let mut schema = self.schema();
        structural::make(&mut schema, "").map_err(fail)?;
        notations::apply(&mut schema, "").map_err(fail)?;
        rules::apply(self, &mut schema).map_err(fail)?;
        bounds::apply(self, &mut schema, "").map_err(fail)?;
        let mut version = json!({
            "name": VERSION,
            "served": true,
            "storage": true,
            "schema": {"openAPIV3Schema": schema},
            "additionalPrinterColumns": columns::of(self),
        });
        if self.has_status_subresource() {
            version["subresources"] = json!({"status": {}});
        }
        let mut definition = json!({
            "apiVersion": "apiextensions.k8s.io/v1",
            "kind": "CustomResourceDefinition",
            "metadata": {"name": self.definition()},
            "spec": {
                "group": GROUP,
                "names": {
                    "kind": self.name(),
                    "listKind": format!("{}List", self.name()),
                    "plural": self.plural(),
                    "singular": self.singular(),
                    "shortNames": self.short_names(),
                    "categories": [CATEGORY],
                },
                "scope": "Cluster",
                "versions": [version],
            },
        });
        definition.sort_all_objects();
        Ok(definition)
    }

    /// The schema of a whole object, as `schemars` has it.
    fn schema(self) -> Value {
        let (description, spec, status) = match self {
            Kind::Fabric => (
                "The cluster's BGP as a whole; there is exactly one.",
                Some(of::<api::FabricSpec>()),
                Some(of::<WrittenStatus>()),
            ),
            Kind::Pool => (
                "Address space that nodes get subnets out of.",
                Some(of::<api::PoolSpec>()),
                Some(of::<WrittenStatus>()),
            ),
            Kind::Peer => (
                "A session template: every node it selects has one session with the other side.",
                Some(of::<api::PeerSpec>()),
                Some(of::<WrittenStatus>()),
            ),
            Kind::RoutePolicy => (
                "Rules for routes received or sent, in order. The first rule that matches and does not \
                 continue decides; a route that none decides is rejected.",
                Some(of::<api::RoutePolicySpec>()),
                Some(of::<WrittenStatus>()),
            ),
            Kind::Advertisement => (
                "What is announced to whom with which attributes. The peers' export policies still decide.",
                Some(of::<api::AdvertisementSpec>()),
                Some(of::<WrittenStatus>()),
            ),
            Kind::NodeSubnets => (
                "The subnets of one node, whose name it has. Written by the controller, from its ledger.",
                Some(of::<NodeSubnetsSpec>()),
                None,
            ),
            Kind::NodeStatus => (
                "How one node fares, whose name it has. Written by the controller, from what the node's \
                 speaker reports.",
                None,
                Some(of::<NodeState>()),
            ),
        };
        let mut properties = json!({
            "apiVersion": {"type": "string"},
            "kind": {"type": "string"},
            "metadata": {"type": "object"},
        });
        let mut required = Vec::new();
        if let Some(spec) = spec {
            properties["spec"] = spec;
            required.push("spec");
        }
        if let Some(status) = status {
            properties["status"] = status;
        }
        let mut schema = json!({
            "type": "object",
            "description": description,
            "properties": properties,
        });
        if !required.is_empty() {
            schema["required"] = json!(required);
        }
        schema
    }

    /// Whether its status is written by requests of its own, apart from the rest.
    fn has_status_subresource(self) -> bool {
        crate::WRITTEN_BY_USERS.contains(&self)
    }
}

fn of<T: JsonSchema>() -> Value {
    let settings =
        SchemaSettings::draft2020_12().with(|settings| settings.inline_subschemas = true);
    settings
        .into_generator()
        .into_root_schema_for::<T>()
        .to_value()
}

/// A place in a schema and what is wrong there.
type Problem = (String, String);

/// The children of a schema, with their places: properties by their name, items as `[]`, values of a
/// map as `{}`.
fn children<'a>(schema: &'a mut Value, place: &str) -> Vec<(String, &'a mut Value)> {
    let mut found = Vec::new();
    let Some(fields) = schema.as_object_mut() else {
        return found;
    };
    for (key, value) in fields {
        match key.as_str() {
            "properties" => {
                for (name, property) in value.as_object_mut().into_iter().flatten() {
                    let place = match place {
                        "" => name.clone(),
                        place => format!("{place}.{name}"),
                    };
                    found.push((place, property));
                }
            }
            "items" => found.push((format!("{place}[]"), value)),
            "additionalProperties" if value.is_object() => {
                found.push((format!("{place}{{}}"), value))
            }
            _ => {}
        }
    }
    found
}

/// The schema at a place.
fn at<'a>(schema: &'a mut Value, place: &str) -> Option<&'a mut Value> {
    if place.is_empty() {
        return Some(schema);
    }
    let mut schema = schema;
    for step in place.split('.') {
        let name = step.split(['[', '{']).next()?;
        schema = schema.get_mut("properties")?.get_mut(name)?;
        let mut rest = &step[name.len()..];
        while !rest.is_empty() {
            let (key, tail) = match rest.strip_prefix("[]") {
                Some(tail) => ("items", tail),
                None => ("additionalProperties", rest.strip_prefix("{}")?),
            };
            schema = schema.get_mut(key)?;
            rest = tail;
        }
    }
    Some(schema)
}

/// Adds a rule to a schema.
fn add_rule(schema: &mut Value, rule: Value) {
    let rules = &mut schema["x-kubernetes-validations"];
    match rules.as_array_mut() {
        Some(rules) => rules.push(rule),
        None => *rules = json!([rule]),
    }
}

#[cfg(test)]
mod tests;
