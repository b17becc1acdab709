//! A tree → a value of the schema, with every mistake in it instead of only the first.
//!
//! Deserialising stops at the first mistake. So what was wrong is remembered, cut out of the tree, and
//! the rest is read again, until nothing is wrong any more. What follows only from the cutting (a
//! required field that is now missing) is not told.

use std::fmt;

use serde::de::value::StrDeserializer;
use serde::de::{
    DeserializeOwned, DeserializeSeed, Deserializer, EnumAccess, Error, Expected, IntoDeserializer,
    MapAccess, SeqAccess, Unexpected, VariantAccess, Visitor,
};
use serde::forward_to_deserialize_any;

use crate::hints;
use crate::tree::{Node, Step, Value};

/// A mistake at a path below the decoded node.
#[derive(Debug)]
pub(crate) struct Fault {
    pub(crate) path: Vec<Step>,
    pub(crate) line: u64,
    pub(crate) message: String,
    kind: Kind,
}

#[derive(Debug, PartialEq)]
enum Kind {
    /// A field that the schema does not have; `instead` is the one probably meant.
    Unknown { instead: Option<String> },
    /// A required field is not there.
    Missing { field: &'static str },
    /// The message says what is allowed; what was found is still to be added.
    Allowed,
    /// The message of a value's own parser.
    Custom,
    /// The message is whole.
    Invalid,
}

/// No more than this is told of one document; a person starts at the top.
const MOST: usize = 50;

/// Reads `node` as a `T`; `None` when that is not possible. `path` is where the node is in its
/// document.
pub(crate) fn decode<T: DeserializeOwned>(node: &Node, path: &[Step]) -> (Option<T>, Vec<Fault>) {
    let mut node = node.clone();
    let mut faults: Vec<Fault> = Vec::new();
    // Fields whose absence is a consequence of a mistake that has been told.
    let mut told: Vec<Vec<Step>> = Vec::new();
    while faults.len() < MOST {
        let mut fault = match T::deserialize(&node) {
            Ok(value) => return (faults.is_empty().then_some(value), faults),
            Err(fault) => fault.on(&node),
        };
        let cut = fault.path.clone();
        match &fault.kind {
            Kind::Missing { field } => {
                fault.path.push(Step::Key((*field).to_owned()));
            }
            Kind::Unknown {
                instead: Some(instead),
            } => {
                let mut meant = cut.clone();
                meant.pop();
                meant.push(Step::Key(instead.clone()));
                told.push(meant);
            }
            _ => {}
        }
        let follows = match &fault.kind {
            Kind::Missing { .. } => told.contains(&fault.path),
            Kind::Unknown { .. } => false,
            // What is wrong with the whole when a part of it was cut out comes of the cutting.
            _ => told
                .iter()
                .any(|gone| gone.len() == cut.len() + 1 && gone.starts_with(&cut)),
        };
        let place = if cut.is_empty() {
            None
        } else {
            node.at_mut(&cut)
        };
        let whole = place.is_none();
        if let Some(place) = place {
            place.value = Value::Removed;
        }
        told.push(cut);
        if !follows {
            fault.path = path.iter().cloned().chain(fault.path).collect();
            faults.push(fault);
        }
        if whole {
            break;
        }
    }
    (None, faults)
}

impl Fault {
    fn new(kind: Kind, message: impl Into<String>) -> Fault {
        Fault {
            path: Vec::new(),
            line: 0,
            message: message.into(),
            kind,
        }
    }

    /// The fault is in `node` or below it: adds what only the node knows.
    fn on(mut self, node: &Node) -> Fault {
        if self.line == 0 {
            self.line = node.line;
        }
        match self.kind {
            Kind::Allowed => {
                let notation = hints::notation(node, &self.message);
                self.message = format!(
                    "found {}; allowed: {}{notation}",
                    node.describe(),
                    self.message
                );
                self.kind = Kind::Invalid;
            }
            Kind::Custom => {
                self.message = hints::value(node, &self.message);
                self.kind = Kind::Invalid;
            }
            _ => {}
        }
        self
    }

    fn under(mut self, step: Step) -> Fault {
        self.path.insert(0, step);
        self
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Fault {}

impl Error for Fault {
    fn custom<T: fmt::Display>(message: T) -> Fault {
        Fault::new(Kind::Custom, message.to_string())
    }

    fn invalid_type(_: Unexpected<'_>, expected: &dyn Expected) -> Fault {
        Fault::new(Kind::Allowed, expected.to_string())
    }

    fn invalid_value(_: Unexpected<'_>, expected: &dyn Expected) -> Fault {
        Fault::new(Kind::Allowed, expected.to_string())
    }

    fn missing_field(field: &'static str) -> Fault {
        Fault::new(Kind::Missing { field }, hints::missing(field))
    }
}

impl<'de> IntoDeserializer<'de, Fault> for &'de Node {
    type Deserializer = &'de Node;

    fn into_deserializer(self) -> &'de Node {
        self
    }
}

impl<'de> Deserializer<'de> for &'de Node {
    type Error = Fault;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match &self.value {
            Value::Null | Value::Removed => visitor.visit_unit(),
            Value::Bool(it) => visitor.visit_bool(*it),
            Value::Unsigned(it) => visitor.visit_u64(*it),
            Value::Signed(it) => visitor.visit_i64(*it),
            Value::Float(it) => visitor.visit_f64(*it),
            Value::Text(it) => visitor.visit_str(it),
            Value::List(items) => visitor.visit_seq(Items {
                items: items.iter().enumerate(),
            }),
            Value::Map(entries) => visitor.visit_map(Entries::new(entries)),
        }
        .map_err(|fault| fault.on(self))
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match &self.value {
            Value::Bool(it) => visitor.visit_bool(*it),
            _ => Err(Fault::new(Kind::Allowed, "`true` or `false`").on(self)),
        }
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        let read_as = match &self.value {
            Value::Text(text) => {
                return visitor
                    .visit_str(text)
                    .map_err(|fault: Fault| fault.on(self));
            }
            Value::Bool(_) => "true or false",
            Value::Unsigned(_) | Value::Signed(_) | Value::Float(_) => "a number",
            _ => return self.deserialize_any(visitor),
        };
        // A visitor that wants an address or a community says so better than we can.
        let quoted = format!(
            "text; YAML reads this as {read_as}: write \"{}\", in quotes",
            self.source
        );
        let allowed = visitor
            .visit_unit::<Fault>()
            .err()
            .map(|fault| fault.message);
        Err(match allowed {
            Some(allowed) if allowed != "a string" => Fault::new(Kind::Allowed, allowed),
            _ => Fault::new(Kind::Allowed, quoted),
        }
        .on(self))
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.deserialize_str(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match &self.value {
            // An empty field of a half-written file must not pass for one that was left out.
            Value::Null => Err(Fault::new(
                Kind::Invalid,
                "found nothing; give it a value, or remove the field",
            )
            .on(self)),
            Value::Removed => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Fault> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match &self.value {
            Value::List(items) => visitor.visit_seq(Items {
                items: items.iter().enumerate(),
            }),
            Value::Null => Err(Fault::new(
                Kind::Allowed,
                "a list such as `[a, b]`; remove the field for its default",
            )
            .on(self)),
            Value::Map(_) => {
                Err(Fault::new(Kind::Allowed, "a list; begin each of its items with `- `").on(self))
            }
            _ => Err(
                Fault::new(Kind::Allowed, format!("a list: write `[{}]`", self.source)).on(self),
            ),
        }
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match &self.value {
            Value::Map(entries) => visitor.visit_map(Entries::new(entries)),
            _ => Err(Fault::new(Kind::Allowed, "a map such as `{key: value}`").on(self)),
        }
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        let Value::Map(entries) = &self.value else {
            if let Some(message) = hints::instead_of_secret(name) {
                return Err(Fault::new(Kind::Invalid, message.to_owned()).on(self));
            }
            let example = hints::instead_of_map(name);
            let allowed = format!("a map with the fields {}{example}", hints::list(fields));
            return Err(Fault::new(Kind::Allowed, allowed).on(self));
        };
        let unknown = entries.iter().find(|(key, node)| {
            !fields.contains(&key.as_str()) && !matches!(node.value, Value::Removed)
        });
        if let Some((key, node)) = unknown {
            let (message, instead) = hints::unknown_field(name, key, fields);
            let fault = Fault::new(Kind::Unknown { instead }, message);
            return Err(fault.on(node).under(Step::Key(key.clone())));
        }
        visitor
            .visit_map(Entries::new(entries))
            .map_err(|fault| fault.on(self))
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        let refuse = |found: &str| {
            Fault::new(Kind::Invalid, hints::unknown_variant(name, found, variants)).on(self)
        };
        match &self.value {
            Value::Text(text) if variants.contains(&text.as_str()) => visitor
                .visit_enum(Variant {
                    name: text,
                    content: None,
                })
                .map_err(|fault| fault.on(self)),
            Value::Map(entries) => {
                let mut entries = entries
                    .iter()
                    .filter(|(_, node)| !matches!(node.value, Value::Removed));
                match (entries.next(), entries.next()) {
                    (Some((key, content)), None) if variants.contains(&key.as_str()) => visitor
                        .visit_enum(Variant {
                            name: key,
                            content: Some(content),
                        })
                        .map_err(|fault| fault.on(self)),
                    (Some((key, node)), None) => {
                        let (message, instead) = hints::unknown_field(name, key, variants);
                        let fault = Fault::new(Kind::Unknown { instead }, message);
                        Err(fault.on(node).under(Step::Key(key.clone())))
                    }
                    _ => Err(Fault::new(
                        Kind::Allowed,
                        format!(
                            "a map with exactly one of the fields {}",
                            hints::list(variants)
                        ),
                    )
                    .on(self)),
                }
            }
            Value::Text(text) => Err(refuse(&format!("`{text}`"))),
            _ => Err(refuse(&self.describe())),
        }
    }

    forward_to_deserialize_any! {
        i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char bytes byte_buf unit unit_struct tuple
        tuple_struct identifier ignored_any
    }
}

struct Items<'de> {
    items: std::iter::Enumerate<std::slice::Iter<'de, Node>>,
}

impl<'de> SeqAccess<'de> for Items<'de> {
    type Error = Fault;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, Fault> {
        let present = |(_, item): &(usize, &Node)| !matches!(item.value, Value::Removed);
        let Some((index, item)) = self.items.find(present) else {
            return Ok(None);
        };
        seed.deserialize(item)
            .map(Some)
            .map_err(|fault| fault.on(item).under(Step::Index(index)))
    }
}

struct Entries<'de> {
    entries: std::slice::Iter<'de, (String, Node)>,
    current: Option<(&'de str, &'de Node)>,
}

impl<'de> Entries<'de> {
    fn new(entries: &'de [(String, Node)]) -> Entries<'de> {
        Entries {
            entries: entries.iter(),
            current: None,
        }
    }
}

impl<'de> MapAccess<'de> for Entries<'de> {
    type Error = Fault;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Fault> {
        let present = |(_, node): &&(String, Node)| !matches!(node.value, Value::Removed);
        let Some((key, node)) = self.entries.find(present) else {
            return Ok(None);
        };
        self.current = Some((key, node));
        let key_deserializer: StrDeserializer<'_, Fault> = key.as_str().into_deserializer();
        seed.deserialize(key_deserializer)
            .map(Some)
            .map_err(|fault| fault.on(node).under(Step::Key(key.clone())))
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Fault> {
        let (key, node) = self
            .current
            .take()
            .ok_or_else(|| Fault::custom("a value was read before its key"))?;
        seed.deserialize(node)
            .map_err(|fault| fault.on(node).under(Step::Key(key.to_owned())))
    }
}

struct Variant<'de> {
    name: &'de str,
    content: Option<&'de Node>,
}

impl<'de> EnumAccess<'de> for Variant<'de> {
    type Error = Fault;
    type Variant = Variant<'de>;

    fn variant_seed<V: DeserializeSeed<'de>>(
        self,
        seed: V,
    ) -> Result<(V::Value, Variant<'de>), Fault> {
        let name: StrDeserializer<'_, Fault> = self.name.into_deserializer();
        Ok((seed.deserialize(name)?, self))
    }
}

impl<'de> VariantAccess<'de> for Variant<'de> {
    type Error = Fault;

    fn unit_variant(self) -> Result<(), Fault> {
        match self.content {
            None => Ok(()),
            Some(_) => Err(Fault::new(
                Kind::Invalid,
                format!("found a map; write only `{}`", self.name),
            )),
        }
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, Fault> {
        match self.content {
            Some(content) => seed
                .deserialize(content)
                .map_err(|fault| fault.on(content).under(Step::Key(self.name.to_owned()))),
            None => Err(Fault::new(
                Kind::Invalid,
                format!(
                    "found `{0}`, which needs a value: write `{{{0}: …}}`",
                    self.name
                ),
            )),
        }
    }

    fn tuple_variant<V: Visitor<'de>>(self, _: usize, _: V) -> Result<V::Value, Fault> {
        Err(Fault::custom("the schema has no such values"))
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        _: &'static [&'static str],
        _: V,
    ) -> Result<V::Value, Fault> {
        Err(Fault::custom("the schema has no such values"))
    }
}
