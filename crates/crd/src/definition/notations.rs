//! The rules of single values: what `api` calls a `format` and Kubernetes does not know.

use serde_json::{Value, json};

use super::{Problem, add_rule, children};

/// A rule of a format, and what it allows.
const NOTATIONS: [(&str, &str, &str); 12] = [
    (
        "ip",
        "isIP(self)",
        "allowed: an IP address such as `192.0.2.1` or `2001:db8::1`",
    ),
    (
        "ipv4",
        "isIP(self) && ip(self).family() == 4",
        "allowed: four numbers in IPv4 notation, such as `10.0.0.1`",
    ),
    (
        "prefix",
        PREFIX,
        "allowed: a prefix such as `10.64.0.0/16` or `2001:db8::/32`, with no bits set behind its length",
    ),
    (
        "ip-or-prefix",
        "isIP(self) || isCIDR(self) && cidr(self) == cidr(self).masked()",
        "allowed: an IP address such as `192.0.2.11`, or a prefix such as `192.0.2.0/24` that holds one \
         address of each node",
    ),
    (
        "ip-or-self",
        "self == 'Self' || isIP(self)",
        "allowed: `Self`, or an IP address",
    ),
    (
        "as-number",
        "self != 23456 && self != 65535",
        "allowed: an AS number from 1 to 4294967294, except the reserved 23456 and 65535",
    ),
    (
        "as-range",
        "self.matches('^ *[0-9]{1,10} *- *[0-9]{1,10} *$') && [self.split('-').map(n, int(n.trim()))].all(r, \
         0 < r[0] && r[0] <= r[1] && r[1] < 4294967295 && (r[1] < 23456 || 23456 < r[0]) && (r[1] < 65535 \
         || 65535 < r[0]))",
        "allowed: two AS numbers, the lower one first, such as `4200000000-4200000999` or `64512-65534`; \
         the reserved 23456 and 65535 must not lie between them",
    ),
    (
        "hold-time",
        "self == 0 || self >= 3",
        "allowed: 0 (the session never expires) or 3 to 65535 seconds",
    ),
    (
        "community",
        STANDARD,
        "allowed: a community such as `65000:1` (two numbers below 65536) or a name such as `no-export`",
    ),
    (
        "large-community",
        LARGE,
        "allowed: a large community such as `65000:1:2` (three numbers below 4294967296)",
    ),
    (
        "extended-community",
        EXTENDED,
        "allowed: an extended community such as `rt:65000:1`, `so:65000:1`, `rt:192.0.2.1:1`, or `0x` and \
         16 hexadecimal digits",
    ),
    (
        "seconds-or-never",
        "type(self) == int ? 1 <= int(self) && int(self) <= 4294967295 : string(self) == 'never'",
        "allowed: a whole number of seconds from 1 to 4294967295, or `never`",
    ),
];

/// Bits behind the length are seen by masking; IPv4 in IPv6 notation, which a filter of what nobody
/// may announce names, is no CIDR for Kubernetes.
const PREFIX: &str = "isCIDR(self) ? cidr(self) == cidr(self).masked() : \
    self.matches('^::[fF]{4}:[0-9a-fA-F:.]+/(9[6-9]|1[01][0-9]|12[0-8])$')";
const STANDARD: &str = "self in ['no-export', 'no-advertise', 'no-export-subconfed', 'graceful-shutdown', \
    'blackhole', 'llgr-stale', 'no-llgr'] || self.matches('^[0-9]{1,5}:[0-9]{1,5}$') && \
    self.split(':').all(n, int(n) <= 65535)";
const LARGE: &str = "self.matches('^[0-9]{1,10}(:[0-9]{1,10}){2}$') && \
    self.split(':').all(n, int(n) <= 4294967295)";
const EXTENDED: &str = "self.matches('^(0x[0-9a-fA-F]{16}|(rt|so):([0-9]{1,10}L?|[0-9]{1,3}(\\\\.[0-9]{1,3}){3}):[0-9]{1,10})$')";

/// Letters of an IPv6 address that ends in IPv4 notation.
const LONGEST_ADDRESS: u64 = 45;

pub(super) fn apply(schema: &mut Value, place: &str) -> Result<(), Problem> {
    if let Some(format) = schema
        .get("format")
        .and_then(Value::as_str)
        .map(str::to_owned)
    {
        match format.as_str() {
            // Kubernetes checks these itself.
            "int64" | "date-time" => {}
            "exactly-one" => {
                take(schema, "format");
                exactly_one(schema);
            }
            "any-community" => {
                take(schema, "format");
                let rule = format!("({STANDARD}) || {LARGE} || {EXTENDED}");
                let message = "allowed: a community such as `65000:1` or `no-export`, a large community such \
                               as `65000:1:2`, an extended community such as `rt:65000:1`";
                add_rule(schema, json!({"rule": rule, "message": message}));
            }
            format => {
                let known = NOTATIONS.iter().find(|(name, _, _)| *name == format);
                let Some((_, rule, message)) = known else {
                    return Err((
                        place.to_owned(),
                        format!("no rule for the format `{format}`"),
                    ));
                };
                let number = schema.get("type") == Some(&json!("integer"));
                match number {
                    true => schema["format"] = "int64".into(),
                    false => take(schema, "format"),
                }
                if format == "ip" {
                    schema["maxLength"] = LONGEST_ADDRESS.into();
                }
                add_rule(schema, json!({"rule": rule, "message": message}));
            }
        }
    }
    for (place, child) in children(schema, place) {
        apply(child, &place)?;
    }
    Ok(())
}

fn take(schema: &mut Value, key: &str) {
    if let Some(fields) = schema.as_object_mut() {
        fields.remove(key);
    }
}

fn exactly_one(schema: &mut Value) {
    let mut names: Vec<String> = schema["properties"]
        .as_object()
        .into_iter()
        .flat_map(|properties| properties.keys().cloned())
        .collect();
    names.sort();
    let has: Vec<String> = names
        .iter()
        .map(|name| format!("has(self.{name})"))
        .collect();
    let rule = format!("[{}].exists_one(it, it)", has.join(", "));
    let message = format!("allowed: exactly one of the fields {}", names.join(", "));
    add_rule(schema, json!({"rule": rule, "message": message}));
}
