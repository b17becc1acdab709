//! What a runtime is told when something cannot be done.

use serde::Serialize;
use serde_json::json;

use super::Version;

/// Why something cannot be done, as a runtime reads it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}{}{details}", if .details.is_empty() { "" } else { ": " })]
pub struct Error {
    /// What kind of error it is.
    pub code: Code,
    /// What was attempted, on what, and why it failed.
    pub message: String,
    /// What to do about it; may be empty.
    pub details: String,
}

/// What kind of error it is. Those below 100 are the specification's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Code {
    /// `cniVersion` is one that we do not answer.
    IncompatibleVersion = 1,
    /// A field of the network configuration that we do not know; the message has name and value.
    UnsupportedField = 2,
    /// The container is unknown or does not exist: the runtime need not clean up.
    UnknownContainer = 3,
    /// `CNI_COMMAND`, `CNI_CONTAINERID`, … is missing or wrong; the message names it.
    InvalidEnvironment = 4,
    /// Standard input, or a file, cannot be read or written.
    Io = 5,
    /// Something is no JSON, or not of the right shape.
    Decoding = 6,
    /// The network configuration says what cannot be.
    InvalidConfig = 7,
    /// It may succeed when it is tried again.
    TryAgainLater = 11,
    /// STATUS: no ADD can be served.
    NotAvailable = 50,
    /// STATUS: no ADD can be served, and containers there are may not reach everything.
    NotAvailableLimited = 51,
    /// No address is free.
    NoAddress = 100,
    /// The kernel refused something.
    Kernel = 101,
    /// CHECK: something is not as ADD left it.
    Differs = 102,
}

impl Error {
    /// An error without advice.
    pub fn new(code: Code, message: impl Into<String>) -> Error {
        Error {
            code,
            message: message.into(),
            details: String::new(),
        }
    }

    /// Adds what to do about it.
    #[must_use]
    pub fn details(mut self, details: impl Into<String>) -> Error {
        self.details = details.into();
        self
    }

    /// As the specification wants it on standard output.
    pub fn to_json(&self, version: Version) -> String {
        let mut object = json!({
            "cniVersion": version,
            "code": self.code,
            "msg": self.message,
        });
        if !self.details.is_empty() {
            object["details"] = self.details.as_str().into();
        }
        object.to_string()
    }
}

impl Serialize for Code {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u32(*self as u32)
    }
}
