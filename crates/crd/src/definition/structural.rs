//! The schema of a type → a structural schema: one type everywhere, nothing that is only an
//! alternative, no `null`, no defaults.
//!
//! Defaults are told in the description and not given to the API server: it would write them into
//! every object, and then nobody could tell what a user has written from what we thought best at the
//! time.

use serde_json::{Map, Value, json};

use super::{Problem, children};

/// What a structural schema of ours may consist of.
const KEYWORDS: [&str; 17] = [
    "type",
    "format",
    "description",
    "properties",
    "required",
    "additionalProperties",
    "items",
    "enum",
    "minimum",
    "maximum",
    "minLength",
    "maxLength",
    "minItems",
    "maxItems",
    "maxProperties",
    "x-kubernetes-list-type",
    "x-kubernetes-list-map-keys",
];

pub(super) fn make(schema: &mut Value, place: &str) -> Result<(), Problem> {
    let Some(fields) = schema.as_object_mut() else {
        return Err((place.to_owned(), format!("is no schema: {schema}")));
    };
    fields.remove("$schema");
    fields.remove("title");
    without_null(fields);
    enumeration(fields);
    one_of_one(fields);
    default(fields);
    description(fields);
    match fields.get("type").and_then(Value::as_str) {
        Some("object") if fields.get("additionalProperties") == Some(&Value::Bool(false)) => {
            // What is not listed is refused by strict requests and dropped from others.
            fields.remove("additionalProperties");
        }
        Some("array") if !fields.contains_key("x-kubernetes-list-type") => {
            fields.insert("x-kubernetes-list-type".into(), "atomic".into());
        }
        _ => {}
    }
    if fields.get("type") == Some(&json!(["integer", "string"])) {
        fields.remove("type");
        fields.insert("x-kubernetes-int-or-string".into(), true.into());
    } else if !fields.get("type").is_some_and(Value::is_string) {
        return Err((place.to_owned(), format!("has no single type: {fields:?}")));
    }
    let unknown = fields
        .keys()
        .find(|key| !KEYWORDS.contains(&key.as_str()) && *key != "x-kubernetes-int-or-string");
    if let Some(keyword) = unknown {
        return Err((
            place.to_owned(),
            format!("Kubernetes has no place for `{keyword}`"),
        ));
    }
    for (place, child) in children(schema, place) {
        make(child, &place)?;
    }
    Ok(())
}

/// A field is left out, and never null.
fn without_null(fields: &mut Map<String, Value>) {
    if let Some(types) = fields.get_mut("type").and_then(Value::as_array_mut) {
        types.retain(|it| it != "null");
        if let [one] = types.as_slice() {
            let one = one.clone();
            fields.insert("type".into(), one);
        }
    }
    for key in ["anyOf", "enum"] {
        if let Some(list) = fields.get_mut(key).and_then(Value::as_array_mut) {
            list.retain(|it| !it.is_null() && *it != json!({"type": "null"}));
        }
    }
    let alone = match fields
        .get("anyOf")
        .and_then(Value::as_array)
        .map(Vec::as_slice)
    {
        Some([one]) => one.clone(),
        _ => return,
    };
    fields.remove("anyOf");
    merge(fields, alone);
}

fn one_of_one(fields: &mut Map<String, Value>) {
    for key in ["allOf", "oneOf"] {
        let alone = match fields.get(key).and_then(Value::as_array).map(Vec::as_slice) {
            Some([one]) => one.clone(),
            _ => continue,
        };
        fields.remove(key);
        merge(fields, alone);
    }
}

/// What stands beside a schema says more than the schema.
fn merge(fields: &mut Map<String, Value>, other: Value) {
    if let Value::Object(other) = other {
        for (key, value) in other {
            fields.entry(key).or_insert(value);
        }
    }
    enumeration(fields);
}

/// Alternatives that are constants, each with a description, become one `enum`.
fn enumeration(fields: &mut Map<String, Value>) {
    let mut names = Vec::new();
    let mut texts = Vec::new();
    let Some(variants) = fields.get("oneOf").and_then(Value::as_array) else {
        return;
    };
    for variant in variants {
        let described = variant.get("description").and_then(Value::as_str);
        if let Some(constant) = variant.get("const").and_then(Value::as_str) {
            names.push(constant.to_owned());
            texts.extend(described.map(|text| format!("{constant}: {text}")));
        } else if let Some(list) = variant.get("enum").and_then(Value::as_array) {
            names.extend(list.iter().filter_map(Value::as_str).map(str::to_owned));
        } else {
            return;
        }
    }
    fields.remove("oneOf");
    fields.insert("type".into(), "string".into());
    fields.insert("enum".into(), json!(names));
    let before = fields.get("description").and_then(Value::as_str);
    let all: Vec<String> = before.map(str::to_owned).into_iter().chain(texts).collect();
    if !all.is_empty() {
        fields.insert("description".into(), all.join("\n\n").into());
    }
}

fn default(fields: &mut Map<String, Value>) {
    let told = match fields.remove("default") {
        Some(Value::String(text)) if !text.is_empty() => text,
        Some(it @ (Value::Number(_) | Value::Bool(_))) => it.to_string(),
        Some(Value::Array(items)) if !items.is_empty() => Value::Array(items).to_string(),
        _ => return,
    };
    let before = fields.get("description").and_then(Value::as_str);
    let before = before.map(|text| format!("{text}\n\n")).unwrap_or_default();
    let text = format!("{before}Default: {told}.");
    fields.insert("description".into(), text.into());
}

/// Lines become paragraphs.
fn description(fields: &mut Map<String, Value>) {
    if let Some(text) = fields.get("description").and_then(Value::as_str) {
        let paragraphs = text
            .split("\n\n")
            .map(|it| it.split_whitespace().collect::<Vec<_>>().join(" "));
        let text = as_written(&paragraphs.collect::<Vec<_>>().join("\n"));
        fields.insert("description".into(), text.into());
    }
}

/// Fields that the text names (`address_from`) as users write them (`addressFrom`).
fn as_written(text: &str) -> String {
    let mut written = String::new();
    for (index, part) in text.split('`').enumerate() {
        if index > 0 {
            written.push('`');
        }
        let name = part.chars().all(|c| c.is_ascii_lowercase() || c == '_');
        // Every second part stands between backquotes.
        if index % 2 == 0 || !name {
            written.push_str(part);
            continue;
        }
        let mut words = part.split('_');
        written.push_str(words.next().unwrap_or_default());
        for word in words {
            let (first, rest) = word.split_at(word.len().min(1));
            written.push_str(&first.to_ascii_uppercase());
            written.push_str(rest);
        }
    }
    written
}
