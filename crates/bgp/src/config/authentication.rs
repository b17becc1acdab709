//! How a session's TCP segments are signed.

use serde::Serialize;

use super::{ConfigError, unique};

/// How TCP segments of a session are signed, with keys that both sides have.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum Authentication {
    /// TCP MD5. RFC 2385.
    Md5 {
        /// Where the key is, on the node. The key itself is in no configuration.
        key_file: String,
    },
    /// TCP-AO. RFC 5925.
    Ao {
        /// At least one, the preferred one first; no two have a number in common.
        keys: Vec<AoKey>,
    },
}

impl Authentication {
    /// Where the keys are, on the node.
    pub fn key_files(&self) -> Vec<&str> {
        match self {
            Authentication::Md5 { key_file } => vec![key_file],
            Authentication::Ao { keys } => keys.iter().map(|key| key.key_file.as_str()).collect(),
        }
    }

    /// `by`: whose it is.
    pub(super) fn check(&self, by: &str) -> Result<(), ConfigError> {
        let files = self.key_files();
        let value = |field, found: &str, allowed| ConfigError::Value {
            field: format!("{field} of {by}"),
            found: found.to_owned(),
            allowed,
        };
        if files.is_empty() {
            return Err(value("the list of keys", "empty", "at least one key"));
        }
        if !files.iter().all(|file| file.starts_with('/')) {
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
    /// Where the key is, on the node.
    pub key_file: String,
}

/// How segments are signed with TCP-AO. RFC 5926.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum AoAlgorithm {
    /// HMAC-SHA-1-96.
    HmacSha1,
    /// AES-128-CMAC-96.
    Aes128Cmac,
}
