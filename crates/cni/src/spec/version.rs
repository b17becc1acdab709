//! Versions of the specification.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{Code, Error};

/// A version that we answer. Later ones are greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Version {
    /// Results as `ip4` and `ip6`.
    V0_1_0,
    /// The same, with VERSION.
    V0_2_0,
    /// Lists of interfaces and addresses; chains of plugins.
    V0_3_0,
    /// The same.
    V0_3_1,
    /// CHECK.
    V0_4_0,
    /// Addresses without their family.
    V1_0_0,
    /// STATUS and GC.
    V1_1_0,
}

impl Version {
    /// All of them, in order.
    pub const ALL: [Version; 7] = [
        Version::V0_1_0,
        Version::V0_2_0,
        Version::V0_3_0,
        Version::V0_3_1,
        Version::V0_4_0,
        Version::V1_0_0,
        Version::V1_1_0,
    ];

    /// The newest one.
    pub const NEWEST: Version = Version::V1_1_0;

    /// As it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            Version::V0_1_0 => "0.1.0",
            Version::V0_2_0 => "0.2.0",
            Version::V0_3_0 => "0.3.0",
            Version::V0_3_1 => "0.3.1",
            Version::V0_4_0 => "0.4.0",
            Version::V1_0_0 => "1.0.0",
            Version::V1_1_0 => "1.1.0",
        }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Version {
    type Err = Error;

    /// # Errors
    ///
    /// [`Code::IncompatibleVersion`] for any other.
    fn from_str(text: &str) -> Result<Version, Error> {
        Version::ALL
            .into_iter()
            .find(|version| version.as_str() == text)
            .ok_or_else(|| {
                let known = Version::ALL.map(Version::as_str).join(", ");
                Error::new(
                    Code::IncompatibleVersion,
                    format!("cniVersion {text:?} of the network configuration is not supported"),
                )
                .details(format!("supported are {known}"))
            })
    }
}

impl Serialize for Version {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for Version {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Version, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse()
            .map_err(|error: Error| serde::de::Error::custom(error.message))
    }
}
