//! How a session's TCP segments are signed.

use serde::Serialize;

use super::check::unique;
use super::{ConfigError, KeySource};

/// How TCP segments of a session are signed, with keys that both sides have.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum Authentication {
    /// TCP MD5. RFC 2385.
    Md5 {
        /// Where the key is. The key itself is in no configuration.
        key: KeySource,
    },
    /// TCP-AO. RFC 5925.
    Ao {
        /// At least one, the preferred one first; no two have a number in common.
        keys: Vec<AoKey>,
    },
}

impl Authentication {
    /// Where the keys are.
    pub fn keys(&self) -> Vec<&KeySource> {
        match self {
            Authentication::Md5 { key } => vec![key],
            Authentication::Ao { keys } => keys.iter().map(|key| &key.key).collect(),
        }
    }

    /// `by`: whose it is.
    pub(super) fn check(&self, by: &str) -> Result<(), ConfigError> {
        let keys = self.keys();
        let value = |field, found: &str, allowed| ConfigError::Value {
            field: format!("{field} of {by}"),
            found: found.to_owned(),
            allowed,
        };
        if keys.is_empty() {
            return Err(value("the list of keys", "empty", "at least one key"));
        }
        let is_relative =
            |key: &&KeySource| matches!(key, KeySource::File(path) if !path.starts_with('/'));
        if keys.iter().any(is_relative) {
            let allowed = "an absolute path";
            return Err(value("the key's file", "another", allowed));
        }
        if let Authentication::Ao { keys } = self {
            let ids = |what| format!("keys of {by} with one {what}");
            unique(&ids("send id"), keys.iter().map(|key| key.send_id))?;
            unique(&ids("receive id"), keys.iter().map(|key| key.receive_id))?;
        }
        Ok(())
    }
}

/// A key of TCP-AO.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct AoKey {
    /// What stands in segments that we sign with it.
    pub send_id: u8,
    /// What stands in segments that the peer signs with it.
    pub receive_id: u8,
    /// How segments are signed.
    pub algorithm: AoAlgorithm,
    /// Where the key is.
    pub key: KeySource,
}

/// How segments are signed with TCP-AO. RFC 5926.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum AoAlgorithm {
    /// HMAC-SHA-1-96.
    HmacSha1,
    /// AES-128-CMAC-96.
    Aes128Cmac,
}
