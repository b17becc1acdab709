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
        if read_sum(sum) != Some(crc32fast::hash(json)) {
            return Err(Fault::Damaged);
        }
        // Checked once for the whole line, not once for each of its texts.
        let record = match std::str::from_utf8(json) {
            Ok(json) => serde_json::from_str(json),
            Err(_) => serde_json::from_slice(json),
        };
        record.map_err(|error| Fault::Unknown(error.to_string()))
    }
}

/// Eight hexadecimal digits, as they are written, and a space.
fn read_sum(text: &[u8]) -> Option<u32> {
    let digits = text.strip_suffix(b" ")?;
    digits.iter().try_fold(0, |sum: u32, digit| {
        let value = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        Some(sum << 4 | u32::from(value))
    })
}

/// Times as people read them.
pub(super) mod timestamp {
    use std::fmt;

    use jiff::Timestamp;
    use serde::de::{Deserializer, Error, Visitor};
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
        deserializer.deserialize_str(Time)
    }

    struct Time;

    impl Visitor<'_> for Time {
        type Value = Timestamp;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a time as 2026-11-21T14:45:07Z")
        }

        fn visit_str<E: Error>(self, text: &str) -> Result<Timestamp, E> {
            as_written(text).map_or_else(|| text.parse().map_err(E::custom), Ok)
        }
    }

    /// A time in the one form that [`serialize`] gives it, `2026-11-21T14:45:07.25Z`, of which there is one in every
    /// line, with far less work than a parser of all forms has.
    pub(super) fn as_written(text: &str) -> Option<Timestamp> {
        let text = text.as_bytes();
        let digits = |from: usize, to: usize| {
            text.get(from..to)?
                .iter()
                .try_fold(0, |number: i64, digit| {
                    digit
                        .is_ascii_digit()
                        .then(|| number * 10 + i64::from(digit - b'0'))
                })
        };
        let is = |at: usize, sign: u8| text.get(at) == Some(&sign);
        let signs = [(4, b'-'), (7, b'-'), (10, b'T'), (13, b':'), (16, b':')];
        if !signs.into_iter().all(|(at, sign)| is(at, sign)) || text.last() != Some(&b'Z') {
            return None;
        }
        let (year, month, day) = (digits(0, 4)?, digits(5, 7)?, digits(8, 10)?);
        let (hour, minute, second) = (digits(11, 13)?, digits(14, 16)?, digits(17, 19)?);
        let end = text.len() - 1;
        let nanoseconds = match end {
            19 => 0,
            21..=29 if is(19, b'.') => digits(20, end)? * 10_i64.pow(29 - end as u32),
            _ => return None,
        };
        // A day that is none, or a leap second, is the other parser's to refuse or to understand.
        let date = jiff::civil::Date::new(
            year.try_into().ok()?,
            month.try_into().ok()?,
            day.try_into().ok()?,
        );
        if date.is_err() || hour > 23 || minute > 59 || second > 59 {
            return None;
        }
        let seconds = days(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second;
        Timestamp::new(seconds, nanoseconds.try_into().ok()?).ok()
    }

    /// Days since 1970-01-01, of years counted from March on, so that a leap day is a year's last.
    fn days(year: i64, month: i64, day: i64) -> i64 {
        let (year, month) = match month {
            3.. => (year, month - 3),
            _ => (year - 1, month + 9),
        };
        let leap_days = year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400);
        year * 365 + leap_days + (month * 153 + 2) / 5 + day - 719_469
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::timestamp::as_written;
    use super::*;

    proptest! {
        #[test]
        fn every_time_that_is_written_is_read_back(nanoseconds in -62_000_000_000_000_000_000_i128..250_000_000_000_000_000_000, cut in 0_u32..10) {
            let cut = 10_i128.pow(cut);
            let time = Timestamp::from_nanosecond(nanoseconds / cut * cut).unwrap();
            prop_assert_eq!(as_written(&time.to_string()), Some(time));
        }

        #[test]
        fn what_is_read_is_what_any_parser_reads(text in "[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\\.[0-9]{0,10})?Z") {
            if let Some(time) = as_written(&text) {
                prop_assert_eq!(text.parse::<Timestamp>().ok(), Some(time));
            }
        }
    }

    #[test]
    fn other_forms_are_no_times_as_written() {
        for text in [
            "",
            "Z",
            "2026-11-21T14:45:07",
            "2026-11-21T14:45:07+00:00",
            "2026-02-30T14:45:07Z",
            "2026-11-21T24:00:00Z",
            "2026-11-21 14:45:07Z",
            "2026-11-21T14:45:60Z",
            "2026-11-21T14:45:07.Z",
            "２026-11-21T14:45Z",
        ] {
            assert_eq!(as_written(text), None, "{text}");
        }
    }

    #[test]
    fn a_checksum_is_read_as_it_is_written() {
        assert_eq!(read_sum(b"0012abef "), Some(0x0012_abef));
        for text in [&b"0012ABEF "[..], b"0012abef", b"0012abeg ", b" 012abef "] {
            assert_eq!(read_sum(text), None);
        }
    }
}
