//! Where a key is, as `api::check::keys`: in exactly one place, which can be one.
//!
//! These rules stand one level above the field they are about: what a rule is about is repeated by the
//! API server, and what stands in the place of a path or a name may be the key.

use serde_json::{Value, json};

use super::Reason;
use crate::Kind;
use crate::definition::{Problem, add_rule, at};

/// What has the two fields, and what they are called.
fn places(kind: Kind) -> &'static [(&'static str, &'static str, &'static str)] {
    const BFD: (&str, &str, &str) = ("spec.bfd.authentication", "keyFile", "keySecret");
    match kind {
        Kind::Fabric => &[BFD],
        Kind::Peer => &[
            ("spec.password", "file", "secret"),
            ("spec.tcpAo.keys[]", "file", "secret"),
            BFD,
        ],
        _ => &[],
    }
}

pub(super) fn apply(kind: Kind, schema: &mut Value) -> Result<(), Problem> {
    for (place, file, secret) in places(kind) {
        let rules = [
            (
                format!("has(self.{file}) || has(self.{secret})"),
                format!(
                    "says not where the key is; write {file}: /etc/routeshare/tor.key, or {secret}: {{name: \
                     bgp-keys, key: tor}}"
                ),
                String::new(),
                Reason::Required,
            ),
            (
                format!("!(has(self.{file}) && has(self.{secret}))"),
                format!("stands beside {file}; a key is in one place: remove one of the two"),
                format!(".{secret}"),
                Reason::Forbidden,
            ),
            (
                format!(
                    "!has(self.{file}) || self.{file}.startsWith('/') && !self.{file}.contains('\\n')"
                ),
                "is no absolute path, and not repeated here as it may be a key; allowed: a path such as \
                 `/etc/routeshare/tor.key`"
                    .to_owned(),
                format!(".{file}"),
                Reason::Invalid,
            ),
            (
                format!(
                    "!has(self.{secret}) || \
                     self.{secret}.name.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?([.][a-z0-9]([-a-z0-9]*[a-z0-9])?)*$')"
                ),
                "is no name of a Secret, and not repeated here as it may be a key; allowed: at most 253 \
                 lower-case letters, digits, `-` and `.`, beginning and ending with a letter or digit, such \
                 as `bgp-keys`"
                    .to_owned(),
                format!(".{secret}.name"),
                Reason::Invalid,
            ),
            (
                format!(
                    "!has(self.{secret}) || self.{secret}.key.matches('^[-._a-zA-Z0-9]+$') && \
                     self.{secret}.key != '.' && !self.{secret}.key.startsWith('..')"
                ),
                "is no key of a Secret's data, and not repeated here as it may be a key for peers; allowed: \
                 at most 253 letters, digits, `-`, `_` and `.`, such as `tor`"
                    .to_owned(),
                format!(".{secret}.key"),
                Reason::Invalid,
            ),
        ];
        let schema = at(schema, place).ok_or_else(|| super::gone(place))?;
        for (rule, message, field, reason) in rules {
            let mut json = json!({"rule": rule, "message": message, "reason": reason.as_str()});
            if !field.is_empty() {
                json["fieldPath"] = field.into();
            }
            add_rule(schema, json);
        }
    }
    Ok(())
}
