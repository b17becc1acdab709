//! Where a key is.

use std::fmt;
use std::str::FromStr;

use serde::{Serialize, Serializer};

/// Where a key is; the key itself is in no configuration. Written as an absolute path, or as
/// `secret:NAME/KEY`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum KeySource {
    /// In this file on the node; an absolute path.
    File(String),
    /// Under `key` in a Kubernetes Secret of the controller's namespace.
    Secret {
        /// The Secret's name.
        name: String,
        /// The key of its data.
        key: String,
    },
}

/// What a text says that is no [`KeySource`]. The text itself may be a key and is not repeated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("neither an absolute path nor `secret:NAME/KEY`")]
pub struct NoKeySource;

const SECRET: &str = "secret:";

impl FromStr for KeySource {
    type Err = NoKeySource;

    fn from_str(text: &str) -> Result<KeySource, NoKeySource> {
        if text.starts_with('/') {
            return Ok(KeySource::File(text.to_owned()));
        }
        let parts = text.strip_prefix(SECRET).and_then(|it| it.split_once('/'));
        match parts {
            Some((name, key)) if is_a_name(name) && is_a_name(key) => Ok(KeySource::Secret {
                name: name.to_owned(),
                key: key.to_owned(),
            }),
            _ => Err(NoKeySource),
        }
    }
}

/// What may be the name of a Secret or a key in it, and can be that of a file, too.
fn is_a_name(text: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
    !text.is_empty()
        && text.len() <= 253
        && !text.starts_with("..")
        && text != "."
        && text.chars().all(allowed)
}

impl fmt::Display for KeySource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            KeySource::File(path) => f.write_str(path),
            KeySource::Secret { name, key } => write!(f, "{SECRET}{name}/{key}"),
        }
    }
}

impl Serialize for KeySource {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_in_a_file_or_in_a_secret_and_nothing_else_is_a_place() {
        for text in [
            "/etc/routeshare/tor.key",
            "secret:bgp-keys/tor",
            "secret:a.b/K_1.x",
        ] {
            assert_eq!(text.parse::<KeySource>().unwrap().to_string(), text);
        }
        for text in [
            "",
            "hunter2",
            "tor.key",
            "secret:",
            "secret:a",
            "secret:a/",
            "secret:/b",
            "secret:a/b/c",
            "secret:../a",
            "secret:a/..",
            "secret:./a",
            "secret:a/b c",
        ] {
            assert_eq!(text.parse::<KeySource>(), Err(NoKeySource), "{text}");
        }
    }
}
