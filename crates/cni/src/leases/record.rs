//! The lines of the log: a checksum of eight hexadecimal digits, a space, and a JSON object.

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::Lease;

/// The form of the file. Another number for every change that an older build cannot read.
pub(super) const VERSION: u32 = 1;

/// One line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum Record {
    /// The first line of a log, and only the first.
    Format(Format),
    /// What follows happened in this boot of the machine.
    Boot(Boot),
    /// A container has these addresses from now on; if it had others, these instead.
    Lease(Lease),
    /// A container's lease is over.
    Free(Free),
    /// In a log that was written anew: addresses that were freed not long ago.
    Cooling(Cooling),
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Format {
    /// Always [`Format::NAME`].
    pub(super) name: String,
    pub(super) version: u32,
}

impl Format {
    pub(super) const NAME: &str = "routeshare leases";

    pub(super) fn ours() -> Format {
        Format {
            name: Format::NAME.to_owned(),
            version: VERSION,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Boot {
    pub(super) id: String,
    #[serde(with = "timestamp")]
    pub(super) at: Timestamp,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Free {
    pub(super) network: String,
    pub(super) container: String,
    pub(super) ifname: String,
    #[serde(with = "timestamp")]
    pub(super) at: Timestamp,
    /// Milliseconds since the boot.
    pub(super) uptime_ms: u64,
}

/// An address that was freed, and who had it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Cooling {
    pub(super) address: IpNetwork,
    pub(super) of_node: bool,
    pub(super) network: String,
    pub(super) container: String,
    pub(super) ifname: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) name: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) namespace: Option<String>,
    #[serde(with = "timestamp")]
    pub(super) at: Timestamp,
    /// Milliseconds since the boot; 0 when it was before.
    pub(super) uptime_ms: u64,
    /// As it was when the address was given.
    pub(super) cooldown_seconds: u64,
}

impl Cooling {
    pub(super) fn ip(&self) -> IpAddr {
        self.address.ip()
    }
}

/// Why a line is none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// It is not as it was written.
    Damaged,
    /// It is as it was written, by a build that knows more than this one.
    Unknown(String),
}

impl Record {
    /// Appends the line, its end included.
    pub(super) fn write(&self, lines: &mut Vec<u8>) {
        // None of the types can fail to become JSON: no maps, no foreign types.
        let json = serde_json::to_string(self).expect("records are plain data");
        let sum = crc32fast::hash(json.as_bytes());
        lines.extend_from_slice(format!("{sum:08x} {json}\n").as_bytes());
    }

    /// A line without its end.
    pub(super) fn read(line: &[u8]) -> Result<Record, Fault> {
        let (sum, json) = line.split_at_checked(9).ok_or(Fault::Damaged)?;
        if sum != format!("{:08x} ", crc32fast::hash(json)).as_bytes() {
            return Err(Fault::Damaged);
        }
        serde_json::from_slice(json).map_err(|error| Fault::Unknown(error.to_string()))
    }
}

/// Times as people read them.
pub(super) mod timestamp {
    use jiff::Timestamp;
    use serde::de::{Deserialize as _, Deserializer, Error as _};
    use serde::ser::Serializer;

    pub(in super::super) fn serialize<S: Serializer>(
        time: &Timestamp,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_str(time)
    }

    pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Timestamp, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(D::Error::custom)
    }
}
