//! What a resource may be called.

use serde::{Deserialize, Deserializer};

/// Reads a resource's name: a DNS subdomain as in Kubernetes (RFC 1123).
pub(crate) fn name<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let name = String::deserialize(deserializer)?;
    if is_name(&name) {
        return Ok(name);
    }
    Err(serde::de::Error::custom(format!(
        "found `{name}`; allowed: at most 253 lower-case letters, digits, `-` and `.`, beginning and \
         ending with a letter or digit, such as `rack-a`"
    )))
}

/// Whether this is a DNS subdomain as Kubernetes wants it.
pub(crate) fn is_name(name: &str) -> bool {
    let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let part = |part: &str| {
        !part.is_empty()
            && part.chars().all(inner)
            && !part.starts_with('-')
            && !part.ends_with('-')
    };
    name.len() <= 253 && name.split('.').all(part)
}
