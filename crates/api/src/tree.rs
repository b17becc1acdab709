//! YAML text → documents as trees that know the line of every value.
//!
//! serde-saphyr reads the YAML; everything after that looks at the tree, so that a mistake found
//! late (such as a policy that is named but missing) can still say where it was written.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::{Location, Spanned};

/// A value and where it was written.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    /// In the file, from 1; of the key where the value is a field's.
    pub(crate) line: u64,
    /// As written, for scalars.
    pub(crate) source: String,
    pub(crate) value: Value,
}

#[derive(Clone, Debug)]
pub(crate) enum Value {
    Null,
    Bool(bool),
    Unsigned(u64),
    Signed(i64),
    Float(f64),
    Text(String),
    List(Vec<Node>),
    Map(Vec<(String, Node)>),
    /// Was wrong, and has been told; everything passes over it.
    Removed,
}

impl Node {
    /// What stands here, in a few words.
    pub(crate) fn describe(&self) -> String {
        match &self.value {
            Value::Null | Value::Removed => "nothing".into(),
            Value::List(items) if items.is_empty() => "an empty list".into(),
            Value::List(_) => "a list".into(),
            Value::Map(_) => "a map".into(),
            _ if self.source.chars().count() > 80 => {
                format!("`{}…`", self.source.chars().take(80).collect::<String>())
            }
            _ => format!("`{}`", self.source),
        }
    }

    /// Where nothing was written.
    pub(crate) fn nothing() -> Node {
        Node {
            line: 0,
            source: String::new(),
            value: Value::Null,
        }
    }

    /// Makes every line 0: not known.
    pub(crate) fn forget_lines(&mut self) {
        self.line = 0;
        match &mut self.value {
            Value::List(items) => items.iter_mut().for_each(Node::forget_lines),
            Value::Map(entries) => entries.iter_mut().for_each(|(_, node)| node.forget_lines()),
            _ => {}
        }
    }

    /// The field of a map.
    pub(crate) fn get(&self, key: &str) -> Option<&Node> {
        match &self.value {
            Value::Map(entries) => entries
                .iter()
                .find(|(name, _)| name == key)
                .map(|(_, node)| node),
            _ => None,
        }
    }

    /// The value at a path.
    pub(crate) fn at(&self, path: &[Step]) -> Option<&Node> {
        path.iter()
            .try_fold(self, |node, step| match (step, &node.value) {
                (Step::Key(key), _) => node.get(key),
                (Step::Index(index), Value::List(items)) => items.get(*index),
                (Step::Index(_), _) => None,
            })
    }

    /// The same, to change it.
    pub(crate) fn at_mut(&mut self, path: &[Step]) -> Option<&mut Node> {
        path.iter()
            .try_fold(self, |node, step| match (step, &mut node.value) {
                (Step::Key(key), Value::Map(entries)) => entries
                    .iter_mut()
                    .find(|(name, _)| name == key)
                    .map(|(_, node)| node),
                (Step::Index(index), Value::List(items)) => items.get_mut(*index),
                _ => None,
            })
    }
}

/// One step on the way from a document's root to a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Key(String),
    Index(usize),
}

/// A path as people read it: `spec.rules[2].match.prefixes[0]`, `spec.values["a.b"]`.
pub(crate) fn show(path: &[Step]) -> String {
    let mut text = String::new();
    for step in path {
        match step {
            Step::Index(index) => text.push_str(&format!("[{index}]")),
            Step::Key(key) if key.contains(['.', '[', ']', '/', ' ']) => {
                text.push_str(&format!("[\"{key}\"]"));
            }
            Step::Key(key) if text.is_empty() => text.push_str(key),
            Step::Key(key) => text.push_str(&format!(".{key}")),
        }
    }
    text
}

/// A text that is not YAML.
pub(crate) struct Unreadable {
    /// In the file, from 1; 0 when not known.
    pub(crate) line: u64,
    pub(crate) message: String,
}

/// The documents of a file with their numbers, from 1; documents without content are not counted.
///
/// A document that is not YAML does not hide those after it: a line that begins with `---` always
/// begins a new one.
pub(crate) fn documents(text: &str) -> Vec<(usize, Result<Node, Unreadable>)> {
    let mut documents = Vec::new();
    for (before, piece) in pieces(text) {
        match serde_saphyr::from_multiple::<Spanned<Raw>>(piece) {
            Ok(roots) => {
                let reader = Reader { piece, before };
                documents.extend(roots.into_iter().map(|root| Ok(reader.node(root))));
            }
            Err(error) => documents.push(Err(Unreadable {
                line: error.location().map_or(0, |at| at.line() + before),
                message: in_plain_words(&error),
            })),
        }
    }
    documents
        .into_iter()
        .enumerate()
        .map(|(index, document)| (index + 1, document))
        .collect()
}

/// The text cut at document markers, each piece with the number of lines before it.
fn pieces(text: &str) -> Vec<(u64, &str)> {
    let mut pieces = Vec::new();
    let (mut start, mut start_line) = (0, 0);
    let mut offset = 0;
    for (line_number, line) in (0_u64..).zip(text.split_inclusive('\n')) {
        let begins = line.trim_end() == "---" || line.starts_with("--- ");
        // What stands before the first marker may be a directive, which belongs to the document.
        if begins
            && text[start..offset]
                .lines()
                .any(|line| !line.starts_with(['%', '#']) && !line.trim().is_empty())
        {
            pieces.push((start_line, &text[start..offset]));
            (start, start_line) = (offset, line_number);
        }
        offset += line.len();
    }
    pieces.push((start_line, &text[start..]));
    pieces
}

fn in_plain_words(error: &serde_saphyr::Error) -> String {
    let text = error.without_snippet().to_string();
    // The library's advice to programmers and its own line numbers (of the piece) help nobody here.
    let text = text.split(" at line ").next().unwrap_or_default();
    let text = text.split(", set ").next().unwrap_or_default();
    match text.strip_prefix("duplicate mapping key: ") {
        Some(key) => format!("`{key}` is there twice in one map; keep one of them"),
        None => format!("this is not YAML: {text}"),
    }
}

struct Reader<'a> {
    piece: &'a str,
    before: u64,
}

impl Reader<'_> {
    fn node(&self, spanned: Spanned<Raw>) -> Node {
        let at = spanned.referenced;
        let defined = spanned.defined;
        let value = match spanned.value {
            Raw::Null => Value::Null,
            Raw::Bool(it) => Value::Bool(it),
            Raw::Unsigned(it) => Value::Unsigned(it),
            Raw::Signed(it) => Value::Signed(it),
            Raw::Float(it) => Value::Float(it),
            Raw::Text(it) => Value::Text(it),
            Raw::List(items) => {
                Value::List(items.into_iter().map(|item| self.node(item)).collect())
            }
            Raw::Map(entries) => {
                let entries = entries.into_iter().map(|(key, value)| {
                    let mut node = self.node(value);
                    node.line = self.line(key.referenced);
                    (key.value, node)
                });
                Value::Map(entries.collect())
            }
        };
        Node {
            line: self.line(at),
            source: self.source(defined, &value),
            value,
        }
    }

    fn line(&self, at: Location) -> u64 {
        at.line() + self.before
    }

    /// What was written, so that `no` is not reported as `false`.
    fn source(&self, at: Location, value: &Value) -> String {
        let range = || {
            let start = usize::try_from(at.span().byte_offset()?).ok()?;
            let length = usize::try_from(at.span().byte_len()?).ok()?;
            self.piece.get(start..start.checked_add(length)?)
        };
        let written = range()
            .map(str::trim)
            .filter(|text| !text.is_empty() && !text.contains('\n'));
        match (written, value) {
            (_, Value::List(_) | Value::Map(_) | Value::Null | Value::Removed) => String::new(),
            (Some(text), _) => text.to_owned(),
            (None, Value::Bool(it)) => it.to_string(),
            (None, Value::Unsigned(it)) => it.to_string(),
            (None, Value::Signed(it)) => it.to_string(),
            (None, Value::Float(it)) => it.to_string(),
            (None, Value::Text(it)) => it.clone(),
        }
    }
}

enum Raw {
    Null,
    Bool(bool),
    Unsigned(u64),
    Signed(i64),
    Float(f64),
    Text(String),
    List(Vec<Spanned<Raw>>),
    Map(Vec<(Spanned<String>, Spanned<Raw>)>),
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Raw, D::Error> {
        struct Anything;

        impl<'de> Visitor<'de> for Anything {
            type Value = Raw;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("YAML")
            }

            fn visit_unit<E>(self) -> Result<Raw, E> {
                Ok(Raw::Null)
            }

            fn visit_none<E>(self) -> Result<Raw, E> {
                Ok(Raw::Null)
            }

            fn visit_bool<E>(self, it: bool) -> Result<Raw, E> {
                Ok(Raw::Bool(it))
            }

            fn visit_u64<E>(self, it: u64) -> Result<Raw, E> {
                Ok(Raw::Unsigned(it))
            }

            fn visit_i64<E>(self, it: i64) -> Result<Raw, E> {
                Ok(Raw::Signed(it))
            }

            fn visit_f64<E>(self, it: f64) -> Result<Raw, E> {
                Ok(Raw::Float(it))
            }

            fn visit_str<E>(self, it: &str) -> Result<Raw, E> {
                Ok(Raw::Text(it.to_owned()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Raw, A::Error> {
                let mut items = Vec::new();
                while let Some(item) = access.next_element()? {
                    items.push(item);
                }
                Ok(Raw::List(items))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Raw, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = access.next_entry()? {
                    entries.push(entry);
                }
                Ok(Raw::Map(entries))
            }
        }

        deserializer.deserialize_any(Anything)
    }
}
