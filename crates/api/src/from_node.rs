//! Values that a node's labels and annotations give.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::check::unusable_address;
use crate::values::AsNumber;
use crate::{Metadata, ParseError};

/// A value that each node says for itself, or that one of its labels stands for:
/// `{label: rack, values: {a: 10.1.0.1, b: 10.2.0.1}}`, `{label: tor-address}` or
/// `{annotation: example.com/tor-address}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FromNode<T> {
    /// The node's label that is looked at. Either this or `annotation`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// The node's annotation that holds the value, for what a label cannot hold, such as an IPv6
    /// address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub annotation: Option<String>,
    /// What the label's values stand for; when not given, the label holds the value itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub values: Option<BTreeMap<String, T>>,
}

/// What may stand in a label or an annotation.
pub trait NodeText: Copy {
    /// What the text says.
    ///
    /// # Errors
    ///
    /// What is wrong with it, and what is allowed, in words.
    fn read(text: &str) -> Result<Self, String>;
}

impl NodeText for IpAddr {
    fn read(text: &str) -> Result<IpAddr, String> {
        let address: IpAddr = text.parse().map_err(|_| {
            "is no IP address; allowed: such as 192.0.2.1, or in an annotation 2001:db8::1"
                .to_owned()
        })?;
        match unusable_address(address) {
            Some(why) => Err(format!("is no address of a router: {why}")),
            None => Ok(address),
        }
    }
}

impl NodeText for AsNumber {
    fn read(text: &str) -> Result<AsNumber, String> {
        let number = text.parse().map_err(|error: ParseError| error.allowed());
        number.map_err(|allowed| format!("is no AS number; allowed: {allowed}"))
    }
}

/// Why a node has no value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NoValue<'a> {
    /// Neither label nor annotation is named, or both are.
    Nowhere,
    /// The node does not have what is looked at.
    Absent {
        /// `label` or `annotation`.
        kind: &'static str,
        /// Its name.
        name: &'a str,
    },
    /// The label's value is none of those listed.
    Unlisted {
        /// The label.
        label: &'a str,
        /// Its value on the node.
        found: String,
        /// Those listed.
        listed: Vec<&'a str>,
    },
    /// The text is no such value.
    Wrong {
        /// `label` or `annotation`.
        kind: &'static str,
        /// Its name.
        name: &'a str,
        /// As it stands there.
        found: String,
        /// What is wrong with it.
        why: String,
    },
}

impl fmt::Display for NoValue<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NoValue::Nowhere => f.write_str("it names neither a label nor an annotation"),
            NoValue::Absent { kind, name } => write!(f, "the node has no {kind} `{name}`"),
            NoValue::Unlisted {
                label,
                found,
                listed,
            } => {
                let listed: Vec<String> = listed.iter().map(|name| format!("`{name}`")).collect();
                let listed = match listed.as_slice() {
                    [] => "nothing".into(),
                    [one] => one.clone(),
                    [first @ .., last] => format!("{} and {last}", first.join(", ")),
                };
                write!(
                    f,
                    "its values have nothing for {label} `{found}`; they list {listed}"
                )
            }
            NoValue::Wrong {
                kind,
                name,
                found,
                why,
            } => write!(f, "the node's {kind} `{name}` is `{found}`, which {why}"),
        }
    }
}

impl<T: NodeText> FromNode<T> {
    /// What a node with this metadata gives.
    ///
    /// # Errors
    ///
    /// Why it gives nothing.
    pub fn get<'a>(&'a self, node: &Metadata) -> Result<T, NoValue<'a>> {
        let (kind, name, texts) = match (&self.label, &self.annotation) {
            (Some(label), None) => ("label", label, &node.labels),
            (None, Some(annotation)) => ("annotation", annotation, &node.annotations),
            _ => return Err(NoValue::Nowhere),
        };
        let found = texts.get(name).ok_or(NoValue::Absent { kind, name })?;
        match &self.values {
            Some(values) => values.get(found).copied().ok_or_else(|| NoValue::Unlisted {
                label: name,
                found: found.clone(),
                listed: values.keys().map(String::as_str).collect(),
            }),
            None => T::read(found).map_err(|why| NoValue::Wrong {
                kind,
                name,
                found: found.clone(),
                why,
            }),
        }
    }

    /// The values written down.
    pub fn listed(&self) -> impl Iterator<Item = (&String, &T)> {
        self.values.iter().flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(label: &str, annotation: &str) -> Metadata {
        Metadata {
            name: "n1".into(),
            labels: BTreeMap::from([("rack".to_owned(), label.to_owned())]),
            annotations: BTreeMap::from([("tor".to_owned(), annotation.to_owned())]),
        }
    }

    fn of_label<T>() -> FromNode<T> {
        FromNode {
            label: Some("rack".into()),
            annotation: None,
            values: None,
        }
    }

    fn of_annotation<T>() -> FromNode<T> {
        FromNode {
            label: None,
            annotation: Some("tor".into()),
            values: None,
        }
    }

    #[test]
    fn a_label_without_values_holds_the_value_itself() {
        let asn: FromNode<AsNumber> = of_label();
        assert_eq!(
            asn.get(&node("65101", "")),
            Ok(AsNumber::new(65101).unwrap())
        );
        let address: FromNode<IpAddr> = of_label();
        let expected: IpAddr = [192, 0, 2, 1].into();
        assert_eq!(address.get(&node("192.0.2.1", "")), Ok(expected));
    }

    #[test]
    fn an_annotation_holds_what_a_label_cannot() {
        let address: FromNode<IpAddr> = of_annotation();
        let expected: IpAddr = "2001:db8::1".parse().unwrap();
        assert_eq!(address.get(&node("a", "2001:db8::1")), Ok(expected));
    }

    #[test]
    fn what_is_wrong_is_told_with_the_name_and_the_text() {
        let address: FromNode<IpAddr> = of_label();
        let error = address.get(&node("rack-7", "")).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the node's label `rack` is `rack-7`, which is no IP address; allowed: such as 192.0.2.1, or \
             in an annotation 2001:db8::1"
        );
        let error = address.get(&node("0.0.0.0", "")).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the node's label `rack` is `0.0.0.0`, which is no address of a router: it is the \
             unspecified address"
        );
        let asn: FromNode<AsNumber> = of_annotation();
        let error = asn.get(&node("a", "65535")).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the node's annotation `tor` is `65535`, which is no AS number; allowed: 1 to 4294967294, as \
             one number, except the reserved 23456 and 65535"
        );
        let error = asn.get(&Metadata::default()).unwrap_err();
        assert_eq!(error.to_string(), "the node has no annotation `tor`");
        let listed = FromNode {
            values: Some(BTreeMap::from([(
                "a".to_owned(),
                IpAddr::from([192, 0, 2, 1]),
            )])),
            ..of_label()
        };
        let error = listed.get(&node("b", "")).unwrap_err();
        assert_eq!(
            error.to_string(),
            "its values have nothing for rack `b`; they list `a`"
        );
    }
}
