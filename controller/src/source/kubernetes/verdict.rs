//! What is thought of an object that a user wrote; the status writer tells it to the user.

use std::collections::BTreeMap;
use std::sync::Arc;

use api::Mistake;
use crd::{Kind, WrittenStatus};

use super::object::Object;

/// Kind and name.
pub(crate) type Key = (Kind, String);

/// Of every object there is.
pub(crate) type Verdicts = Arc<BTreeMap<Key, Verdict>>;

/// What is thought of one generation of one object.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Verdict {
    /// Tells it from another object of the same name.
    pub(crate) uid: String,
    /// Which generation this is about.
    pub(crate) generation: i64,
    /// What the object's status says at the moment.
    pub(crate) status: WrittenStatus,
    /// What is thought of it.
    pub(crate) outcome: Outcome,
}

/// Whether an object is in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It is.
    Accepted {
        /// What is allowed but probably not meant.
        warnings: Vec<String>,
    },
    /// It is not, as it is now.
    Refused {
        /// Why not, and what to do.
        reasons: Vec<String>,
        /// The generation that stays in force in its place; none when there never was a good one.
        in_force: Option<i64>,
    },
}

impl Verdict {
    pub(super) fn new(object: &Object, outcome: Outcome) -> Verdict {
        Verdict {
            uid: object.uid.clone(),
            generation: object.generation,
            status: object.status.clone(),
            outcome,
        }
    }
}

/// What `api` calls an object: `Peer/tor`.
pub(super) fn name((kind, name): &Key) -> String {
    format!("{kind}/{name}")
}

/// The mistakes of one object, without its name.
pub(super) fn about(mistakes: &[Mistake], name: &str) -> Vec<String> {
    let own = mistakes.iter().filter(|mistake| mistake.file == name);
    own.map(|mistake| match mistake.field.as_str() {
        "" => mistake.message.clone(),
        field => format!("{field}: {}", mistake.message),
    })
    .collect()
}
