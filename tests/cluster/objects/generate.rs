//! Objects that `api` calls right, made by chance out of the schemas in `deploy/crds`: a field that is
//! added is used here without further ado.

use api::SourceFile;
use crd::Kind;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{Rng as _, SeedableRng as _};
use serde_json::{Map, Value, json};

pub(super) struct Generator {
    pub(super) seed: u64,
    random: StdRng,
}

/// What generated objects refer to, and a Fabric for those that are none.
const AROUND: &str = "
{apiVersion: routeshare.io/v1alpha1, kind: Fabric, metadata: {name: fabric}, spec: {asn: {value: 64512}}}
---
{apiVersion: routeshare.io/v1alpha1, kind: Pool, metadata: {name: one}, spec: {prefixes: [100.64.0.0/24]}}
---
{apiVersion: routeshare.io/v1alpha1, kind: Peer, metadata: {name: one}, spec: {address: 198.51.100.1, remoteAsn: 1}}
---
{apiVersion: routeshare.io/v1alpha1, kind: RoutePolicy, metadata: {name: one}, spec: {rules: []}}
---
{apiVersion: routeshare.io/v1alpha1, kind: RoutePolicy, metadata: {name: two}, spec: {rules: []}}
---
{apiVersion: routeshare.io/v1alpha1, kind: Advertisement, metadata: {name: one}, spec: {nodeSubnets: {}}}
";

/// Texts by the end of the place they stand in; the first that fits.
const TEXTS: &[(&str, &[&str])] = &[
    ("spec.address", ADDRESSES),
    ("addressFrom.values{}", ADDRESSES),
    (
        "localAddress",
        &[
            "192.0.2.11",
            "2001:db8::11",
            "192.0.2.0/24",
            "2001:db8::/64",
        ],
    ),
    ("set.nextHop", &["Self", "192.0.2.7", "2001:db8::7"]),
    ("prefixes[]", PREFIXES),
    (".prefix", PREFIXES),
    ("reserved[]", PREFIXES),
    (
        ".range",
        &[
            "4200000000-4200000999",
            "64512-65534",
            "1 - 23455",
            "65536-4294967294",
        ],
    ),
    (
        "largeCommunities[]",
        &["0:0:0", "65000:1:2", "4294967295:4294967295:4294967295"],
    ),
    ("extendedCommunities[]", EXTENDED),
    ("match.communities[]", STANDARD),
    (
        "Communities[]",
        &[
            "65000:1",
            "no-export",
            "65000:1:2",
            "rt:65000:1",
            "so:192.0.2.1:7",
        ],
    ),
    ("import[]", &["one", "two"]),
    ("export[]", &["one", "two"]),
    ("advertisements[]", &["one"]),
    ("match.peers[]", &["one"]),
    ("pools[]", &["one"]),
    ("peerSelector.names[]", &["one"]),
    ("names.forward[]", ADDRESSES),
    ("names.domain", &["pods.internal", "a", "x--y.9"]),
    ("keyFile", &["/etc/routeshare/a.key", "/k"]),
    ("file", &["/etc/routeshare/a.key", "/k"]),
    ("ecret.name", &["bgp-keys", "a.b-c"]),
    ("ecret.key", &["tor", "_a.B-c"]),
    ("", &["a", "rack-b", "ä ö", "x.y/z"]),
];
const ADDRESSES: &[&str] = &[
    "192.0.2.1",
    "10.0.0.1",
    "127.0.0.1",
    "223.255.255.255",
    "2001:db8::1",
    "fd00::ffff",
    "::2",
];
const PREFIXES: &[&str] = &[
    "10.0.0.0/8",
    "10.64.0.0/16",
    "10.64.7.0/24",
    "192.0.2.1/32",
    "0.0.0.0/0",
    "::/0",
    "2001:db8::/32",
    "2001:db8:7::/64",
    "2001:db8::1/128",
    "::ffff:0.0.0.0/96",
    "fd00::/8",
    "224.0.0.0/4",
];
const STANDARD: &[&str] = &[
    "0:0",
    "65535:65535",
    "65000:1",
    "no-export",
    "no-advertise",
    "no-export-subconfed",
    "graceful-shutdown",
    "blackhole",
    "llgr-stale",
    "no-llgr",
];
const EXTENDED: &[&str] = &[
    "rt:65000:1",
    "so:65000:4294967295",
    "rt:4200000000:1",
    "rt:65000L:1",
    "rt:192.0.2.1:1",
    "0x0102030405060708",
];

impl Generator {
    pub(super) fn new() -> Generator {
        let seed = std::env::var("SEED")
            .ok()
            .and_then(|seed| seed.parse().ok());
        let seed = seed.unwrap_or_else(|| rand::rng().random());
        Generator {
            seed,
            random: StdRng::seed_from_u64(seed),
        }
    }

    /// An object of this kind that is right by itself and beside what it refers to.
    pub(super) fn right(&mut self, kind: Kind) -> Value {
        let definition = kind.custom_resource_definition().unwrap();
        let schema = &definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
        for _ in 0..10_000 {
            let object = json!({
                "apiVersion": api::API_VERSION,
                "kind": kind.name(),
                "metadata": {"name": "generated"},
                "spec": self.value(&schema["properties"]["spec"], "spec"),
            });
            let mut files: Vec<SourceFile> = AROUND
                .split("---")
                .filter(|text| kind != Kind::Fabric || !text.contains("kind: Fabric"))
                .map(|text| SourceFile {
                    name: String::new(),
                    text: text.to_owned(),
                })
                .collect();
            files.push(SourceFile {
                name: String::new(),
                text: object.to_string(),
            });
            if api::parse(&files).is_ok() {
                return object;
            }
        }
        panic!("seed {}: no {kind} out of 10,000 is right", self.seed);
    }

    fn value(&mut self, schema: &Value, place: &str) -> Value {
        if schema.get("x-kubernetes-int-or-string").is_some() {
            return match self.random.random_bool(0.5) {
                true => json!(self.random.random_range(1..=4_294_967_295_u64)),
                false => json!("never"),
            };
        }
        if let Some(allowed) = schema["enum"].as_array() {
            return allowed.choose(&mut self.random).unwrap().clone();
        }
        match schema["type"].as_str().unwrap() {
            "boolean" => json!(self.random.random_bool(0.5)),
            "integer" => {
                let bound = |key: &str| schema[key].as_u64().unwrap();
                let (min, max) = (bound("minimum"), bound("maximum"));
                match self.random.random_range(0..4) {
                    0 => json!(min),
                    1 => json!(max),
                    _ => json!(self.random.random_range(min..=max.min(min + 200))),
                }
            }
            "string" => {
                let found = TEXTS.iter().find(|(end, _)| place.ends_with(end));
                json!(found.unwrap().1.choose(&mut self.random).unwrap())
            }
            "array" => {
                let items = self.random.random_range(0..=2);
                let place = format!("{place}[]");
                (0..items)
                    .map(|_| self.value(&schema["items"], &place))
                    .collect()
            }
            "object" => self.object(schema, place),
            other => panic!("{place}: a {other}?"),
        }
    }

    fn object(&mut self, schema: &Value, place: &str) -> Value {
        let mut fields = Map::new();
        if let Some(values) = schema.get("additionalProperties") {
            for key in ["a", "rack-b"] {
                if self.random.random_bool(0.6) {
                    fields.insert(key.to_owned(), self.value(values, &format!("{place}{{}}")));
                }
            }
            return Value::Object(fields);
        }
        let required = schema["required"].as_array().cloned().unwrap_or_default();
        let properties = schema["properties"].as_object().unwrap();
        // Many small objects and a few large ones: a large one is seldom right.
        let often = *[0.1, 0.2, 0.3, 0.5].choose(&mut self.random).unwrap();
        for (name, property) in properties {
            if required.contains(&json!(name)) || self.random.random_bool(often) {
                fields.insert(
                    name.clone(),
                    self.value(property, &format!("{place}.{name}")),
                );
            }
        }
        Value::Object(fields)
    }
}
