//! Values that cannot be wrong: each says what it allows when it meets something else.

use std::fmt;
use std::marker::PhantomData;
use std::str::FromStr;

use bgp::types::{Asn, Community, ExtendedCommunity, LargeCommunity};
use serde::de::{Error, Unexpected, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A whole number from `MIN` to `MAX`, kept as a `T`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Number<T, const MIN: u64, const MAX: u64>(T);

/// A TCP port.
pub type Port = Number<u16, 1, 65535>;

impl<T: Copy + TryFrom<u64>, const MIN: u64, const MAX: u64> Number<T, MIN, MAX> {
    /// The number, if it is in the range.
    pub fn new(number: u64) -> Option<Self> {
        if !(MIN..=MAX).contains(&number) {
            return None;
        }
        T::try_from(number).ok().map(Number)
    }

    /// The number.
    pub fn get(self) -> T {
        self.0
    }
}

impl<T: Serialize, const MIN: u64, const MAX: u64> Serialize for Number<T, MIN, MAX> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<'de, T: Copy + TryFrom<u64>, const MIN: u64, const MAX: u64> Deserialize<'de>
    for Number<T, MIN, MAX>
{
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct InRange<T, const MIN: u64, const MAX: u64>(PhantomData<T>);

        impl<T: Copy + TryFrom<u64>, const MIN: u64, const MAX: u64> Visitor<'_> for InRange<T, MIN, MAX> {
            type Value = Number<T, MIN, MAX>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "a whole number from {MIN} to {MAX}")
            }

            fn visit_u64<E: Error>(self, number: u64) -> Result<Self::Value, E> {
                Number::new(number)
                    .ok_or_else(|| E::invalid_value(Unexpected::Unsigned(number), &self))
            }

            fn visit_i64<E: Error>(self, number: i64) -> Result<Self::Value, E> {
                u64::try_from(number)
                    .ok()
                    .and_then(Number::new)
                    .ok_or_else(|| E::invalid_value(Unexpected::Signed(number), &self))
            }
        }

        deserializer.deserialize_u64(InRange(PhantomData))
    }
}

/// An AS number that a router may have: not 0, 23456 (AS_TRANS), 65535 or 4294967295.
/// RFC 6793, RFC 7300, RFC 7607.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct AsNumber(Asn);

impl AsNumber {
    /// The number, unless it is one of those no router may have.
    pub fn new(number: u32) -> Option<AsNumber> {
        (!matches!(number, 0 | 23456 | 65535 | u32::MAX)).then_some(AsNumber(Asn(number)))
    }

    /// The number.
    pub fn get(self) -> Asn {
        self.0
    }
}

impl FromStr for AsNumber {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<AsNumber, ParseError> {
        let number = text.parse().ok().and_then(AsNumber::new);
        number.ok_or_else(|| ParseError {
            found: text.to_owned(),
            allowed: "1 to 4294967294, as one number, except the reserved 23456 and 65535",
        })
    }
}

impl fmt::Display for AsNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl<'de> Deserialize<'de> for AsNumber {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<AsNumber, D::Error> {
        struct Usable;

        impl Visitor<'_> for Usable {
            type Value = AsNumber;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(
                    "an AS number from 1 to 4294967294, as one number, except the reserved 23456 and 65535",
                )
            }

            fn visit_u64<E: Error>(self, number: u64) -> Result<AsNumber, E> {
                u32::try_from(number)
                    .ok()
                    .and_then(AsNumber::new)
                    .ok_or_else(|| E::invalid_value(Unexpected::Unsigned(number), &self))
            }

            fn visit_i64<E: Error>(self, number: i64) -> Result<AsNumber, E> {
                u64::try_from(number)
                    .map_err(|_| E::invalid_value(Unexpected::Signed(number), &self))
                    .and_then(|number| self.visit_u64(number))
            }
        }

        deserializer.deserialize_u64(Usable)
    }
}

/// AS numbers from `first` to `last`, written `4200000000-4200000999`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AsnRange {
    /// The lowest.
    pub first: Asn,
    /// The highest; not below `first`.
    pub last: Asn,
}

impl AsnRange {
    /// Whether `asn` is in the range.
    pub fn contains(self, asn: Asn) -> bool {
        (self.first..=self.last).contains(&asn)
    }

    /// How many numbers the range holds.
    pub fn size(self) -> u64 {
        u64::from(self.last.0) - u64::from(self.first.0) + 1
    }
}

impl fmt::Display for AsnRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.first, self.last)
    }
}

/// Why a text is none of the values of this file; says what is allowed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("found `{found}`; allowed: {allowed}")]
pub struct ParseError {
    found: String,
    allowed: &'static str,
}

impl ParseError {
    /// What is allowed, in words.
    pub fn allowed(&self) -> &'static str {
        self.allowed
    }
}

impl FromStr for AsnRange {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<AsnRange, ParseError> {
        let number = |text: &str| AsNumber::new(text.trim().parse().ok()?);
        text.split_once('-')
            .and_then(|(first, last)| Some((number(first)?.get(), number(last)?.get())))
            .filter(|(first, last)| first <= last)
            // 23456 and 65535 must not be handed out from the middle of a range either.
            .filter(|(first, last)| {
                ![23456, 65535]
                    .iter()
                    .any(|n| (first.0..=last.0).contains(n))
            })
            .map(|(first, last)| AsnRange { first, last })
            .ok_or_else(|| ParseError {
                found: text.to_owned(),
                allowed: "two AS numbers, the lower one first, such as `4200000000-4200000999` or \
                          `64512-65534`; the reserved 23456 and 65535 must not lie between them",
            })
    }
}

/// A community of any kind; which one is seen from its form: `65000:1` or a well-known name
/// (standard), `65000:1:2` (large), `rt:65000:1` (extended).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum AnyCommunity {
    /// RFC 1997.
    Standard(Community),
    /// RFC 8092.
    Large(LargeCommunity),
    /// RFC 4360.
    Extended(ExtendedCommunity),
}

impl fmt::Display for AnyCommunity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AnyCommunity::Standard(community) => community.fmt(f),
            AnyCommunity::Large(community) => community.fmt(f),
            AnyCommunity::Extended(community) => community.fmt(f),
        }
    }
}

impl FromStr for AnyCommunity {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<AnyCommunity, ParseError> {
        text.parse()
            .map(AnyCommunity::Standard)
            .or_else(|_| text.parse().map(AnyCommunity::Large))
            .or_else(|_| text.parse().map(AnyCommunity::Extended))
            .map_err(|_| ParseError {
                found: text.to_owned(),
                allowed: "a community `65000:1` (two numbers below 65536) or a name such as \
                          `no-export`, a large community `65000:1:2`, an extended community \
                          `rt:65000:1` or `so:65000:1`",
            })
    }
}

/// Serialises as the text that `Display` writes and `FromStr` reads.
macro_rules! serde_as_text {
    ($($name:ty: $expecting:literal),*) => {$(
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Text;

                impl Visitor<'_> for Text {
                    type Value = $name;

                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str($expecting)
                    }

                    fn visit_str<E: Error>(self, text: &str) -> Result<$name, E> {
                        text.parse().map_err(E::custom)
                    }
                }

                deserializer.deserialize_str(Text)
            }
        }
    )*};
}

serde_as_text!(
    AsnRange: "a range of AS numbers such as `4200000000-4200000999`",
    AnyCommunity: "a community such as `65000:1`, `65000:1:2` or `rt:65000:1`"
);
