//! The rules between the fields of one object, in CEL. They say what `api`'s checks say, with the same
//! words; what needs a second object is for the controller to find, and becomes a condition.

mod advertisement;
mod fabric;
mod keys;
mod peer;
mod policy;
mod pool;

use serde_json::{Value, json};

use super::{Problem, add_rule, at};
use crate::Kind;

/// A rule about the schema at a place.
pub(super) struct Rule {
    /// Such as `spec.rules[].match`.
    at: &'static str,
    /// CEL; holds where the object is right.
    rule: &'static str,
    /// What to do where it does not.
    message: &'static str,
    /// The field below the place that the message is about, such as `.ttl`; empty for all of it.
    field: &'static str,
    reason: Reason,
}

/// What kind of mistake it is, in the words of the API server.
#[derive(Clone, Copy)]
pub(super) enum Reason {
    /// The value is not allowed.
    Invalid,
    /// The field may not stand there.
    Forbidden,
    /// A field is missing.
    Required,
    /// There is one already.
    Duplicate,
}

impl Reason {
    fn as_str(self) -> &'static str {
        match self {
            Reason::Invalid => "FieldValueInvalid",
            Reason::Forbidden => "FieldValueForbidden",
            Reason::Required => "FieldValueRequired",
            Reason::Duplicate => "FieldValueDuplicate",
        }
    }
}

pub(super) fn apply(kind: Kind, schema: &mut Value) -> Result<(), Problem> {
    let rules: &[&[Rule]] = match kind {
        Kind::Fabric => &[fabric::RULES],
        Kind::Pool => &[pool::RULES],
        Kind::Peer => &[peer::RULES],
        Kind::RoutePolicy => &[policy::RULES],
        Kind::Advertisement => &[advertisement::RULES],
        Kind::NodeSubnets | Kind::NodeStatus => &[],
    };
    for rule in rules.iter().copied().flatten() {
        add(rule.at, rule, schema)?;
    }
    keys::apply(kind, schema)?;
    let mut selectors = Vec::new();
    find_selectors(schema, "", &mut selectors);
    for place in selectors {
        for rule in SELECTOR {
            add(&place, rule, schema)?;
        }
    }
    let sets = match kind {
        Kind::Fabric => ["spec.pods.chained", "spec.pods.names.forward"].as_slice(),
        Kind::Peer => ["spec.import", "spec.export", "spec.families"].as_slice(),
        Kind::Advertisement => ["spec.prefixes"].as_slice(),
        _ => [].as_slice(),
    };
    for place in sets {
        // Checks that an item is there once.
        let list = at(schema, place).ok_or_else(|| gone(place))?;
        list["x-kubernetes-list-type"] = "set".into();
    }
    let filled = match kind {
        Kind::Pool => ["spec.prefixes"].as_slice(),
        Kind::Peer => ["spec.families", "spec.tcpAo.keys"].as_slice(),
        Kind::Advertisement => ["spec.nodeSubnets.pools"].as_slice(),
        _ => [].as_slice(),
    };
    for place in filled {
        let list = at(schema, place).ok_or_else(|| gone(place))?;
        list["minItems"] = 1.into();
    }
    Ok(())
}

fn add(place: &str, rule: &Rule, schema: &mut Value) -> Result<(), Problem> {
    let schema = at(schema, place).ok_or_else(|| gone(place))?;
    let mut json =
        json!({"rule": rule.rule, "message": rule.message, "reason": rule.reason.as_str()});
    if !rule.field.is_empty() {
        json["fieldPath"] = rule.field.into();
    }
    add_rule(schema, json);
    Ok(())
}

fn gone(place: &str) -> Problem {
    (
        place.to_owned(),
        "there is a rule about this field, but it is not there".into(),
    )
}

/// Every selector's expressions.
fn find_selectors(schema: &mut Value, place: &str, found: &mut Vec<String>) {
    for (place, child) in super::children(schema, place) {
        if place.ends_with("elector.matchExpressions[]") {
            found.push(place);
        } else {
            find_selectors(child, &place, found);
        }
    }
}

const SELECTOR: &[Rule] = &[
    Rule {
        at: "",
        rule: "!(self.operator in ['In', 'NotIn']) || has(self.values) && size(self.values) > 0",
        message: "is empty; In and NotIn need at least one value",
        field: ".values",
        reason: Reason::Required,
    },
    Rule {
        at: "",
        rule: "self.operator in ['In', 'NotIn'] || !has(self.values) || size(self.values) == 0",
        message: "Exists and DoesNotExist look only at the label's name; remove the values",
        field: ".values",
        reason: Reason::Forbidden,
    },
];
