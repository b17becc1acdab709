//! JSON schemas of the values that are not plain text or numbers (feature `schema`).
//!
//! A schema says the type, the range, and a `format` that names the notation. What a reader of the
//! schema does with a format it does not know is its own affair; `crd` turns each into a rule.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

use crate::values::{AnyCommunity, AsNumber, AsnRange, Number};
use crate::{AsnSource, HoldTime, LocalAddress, PerNode, PerRack, RestartSeconds, SetNextHop};

impl<T, const MIN: u64, const MAX: u64> JsonSchema for Number<T, MIN, MAX> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        format!("Number{MIN}to{MAX}").into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "integer", "format": "int64", "minimum": MIN, "maximum": MAX})
    }
}

/// The schema of a type that is written in a notation of its own.
macro_rules! notation {
    ($($type:ty = $name:literal, $schema:tt;)*) => {$(
        impl JsonSchema for $type {
            fn inline_schema() -> bool {
                true
            }

            fn schema_name() -> Cow<'static, str> {
                $name.into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!($schema)
            }
        }
    )*};
}

notation! {
    AsNumber = "AsNumber", {"type": "integer", "format": "as-number", "minimum": 1, "maximum": 4294967294_u32};
    HoldTime = "HoldTime", {"type": "integer", "format": "hold-time", "minimum": 0, "maximum": 65535};
    AsnRange = "AsnRange", {"type": "string", "format": "as-range", "maxLength": 32};
    LocalAddress = "LocalAddress", {"type": "string", "format": "ip-or-prefix", "maxLength": 49};
    SetNextHop = "SetNextHop", {"type": "string", "format": "ip-or-self", "maxLength": 45};
    AnyCommunity = "AnyCommunity", {"type": "string", "format": "any-community", "maxLength": 48};
    RestartSeconds = "RestartSeconds", {"type": ["integer", "string"], "format": "seconds-or-never"};
    Prefix = "Prefix", {"type": "string", "format": "prefix", "maxLength": 49};
    Community = "Community", {"type": "string", "format": "community", "maxLength": 32};
    LargeCommunity = "LargeCommunity", {"type": "string", "format": "large-community", "maxLength": 32};
    ExtendedCommunity = "ExtendedCommunity", {"type": "string", "format": "extended-community", "maxLength": 32};
    Family = "Family", {"type": "string", "enum": ["IPv4", "IPv6"]};
}

/// Stands for [`bgp::types::Prefix`].
pub(crate) struct Prefix;
/// Stands for [`bgp::types::Community`].
pub(crate) struct Community;
/// Stands for [`bgp::types::LargeCommunity`].
pub(crate) struct LargeCommunity;
/// Stands for [`bgp::types::ExtendedCommunity`].
pub(crate) struct ExtendedCommunity;
/// Stands for [`bgp::types::Family`].
pub(crate) struct Family;

impl JsonSchema for AsnSource {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "AsnSource".into()
    }

    // One of three fields; said so by a count, because structural schemas have no alternatives.
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let described = |mut schema: Schema, description: &str| {
            schema.insert("description".to_owned(), description.into());
            schema
        };
        let value = described(
            generator.subschema_for::<AsNumber>(),
            "All nodes have this one.",
        );
        let per_rack = described(
            generator.subschema_for::<PerRack>(),
            "Nodes with an equal label have an equal number.",
        );
        let per_node = described(
            generator.subschema_for::<PerNode>(),
            "Every node has its own, given out by the controller.",
        );
        json_schema!({
            "type": "object",
            "format": "exactly-one",
            "properties": {"value": value, "perRack": per_rack, "perNode": per_node},
        })
    }
}
