//! Peer: how many prefixes the other side may send.

use serde::{Deserialize, Serialize};

use crate::values::Number;

/// How many prefixes the other side may send, before import policy. RFC 4486.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct MaxPrefixes {
    /// Of IPv4; any number when not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipv4: Option<Number<u32, 1, 4294967295>>,
    /// Of IPv6; any number when not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipv6: Option<Number<u32, 1, 4294967295>>,
    /// From which part of a limit on people are warned.
    #[serde(default = "three_quarters")]
    pub warn_at_percent: Number<u8, 1, 100>,
    /// What becomes of a session with more.
    #[serde(default)]
    pub action: LimitActionSpec,
    /// How long a dropped session stays down.
    #[serde(default)]
    pub restart_seconds: RestartSeconds,
}

/// What becomes of a session whose other side sends more prefixes than it may.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum LimitActionSpec {
    /// It is dropped.
    #[default]
    Drop,
    /// It goes on; people are warned.
    Warn,
}

/// How long a session that was dropped stays down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RestartSeconds {
    /// So many seconds.
    After(Number<u32, 1, 4294967295>),
    /// Until `bgpctl enable`; written `never`.
    Never,
}

impl Default for RestartSeconds {
    fn default() -> RestartSeconds {
        RestartSeconds::After(Number::new(300).expect("300 is in the range"))
    }
}

impl Serialize for RestartSeconds {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            RestartSeconds::After(seconds) => seconds.serialize(serializer),
            RestartSeconds::Never => serializer.serialize_str("never"),
        }
    }
}

impl<'de> Deserialize<'de> for RestartSeconds {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Seconds;

        impl serde::de::Visitor<'_> for Seconds {
            type Value = RestartSeconds;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a whole number of seconds from 1 to 4294967295, or `never`")
            }

            fn visit_u64<E: serde::de::Error>(self, number: u64) -> Result<RestartSeconds, E> {
                let invalid = || {
                    let found = serde::de::Unexpected::Unsigned(number);
                    E::invalid_value(found, &self)
                };
                let seconds = Number::new(number).ok_or_else(invalid)?;
                Ok(RestartSeconds::After(seconds))
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<RestartSeconds, E> {
                match text {
                    "never" => Ok(RestartSeconds::Never),
                    other => {
                        let found = serde::de::Unexpected::Str(other);
                        Err(E::invalid_value(found, &self))
                    }
                }
            }
        }

        deserializer.deserialize_any(Seconds)
    }
}

fn three_quarters() -> Number<u8, 1, 100> {
    Number::new(75).expect("75 is between 1 and 100")
}
