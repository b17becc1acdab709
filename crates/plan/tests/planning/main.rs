//! What holds for every plan, by topic.

mod bfd;
mod masquerade;
mod numbers;
mod properties;
mod routes;
mod sessions;
mod topology;

use std::collections::BTreeMap;

use api::{Resources, SourceFile};
use plan::{Plan, Snapshot};

fn document(kind: &str, name: &str, labels: &str, spec: &str) -> String {
    format!(
        "apiVersion: routeshare.io/v1alpha1\nkind: {kind}\nmetadata: {{name: {name}, labels: {{{labels}}}}}\nspec: {spec}\n---\n"
    )
}

fn resources(documents: &[String]) -> Result<Resources, Vec<String>> {
    let files = documents.iter().map(|text| SourceFile {
        name: "a.yaml".into(),
        text: text.clone(),
    });
    match api::parse(&files.collect::<Vec<_>>()) {
        Ok(parsed) => Ok(parsed.resources),
        Err(mistakes) => Err(mistakes.iter().map(ToString::to_string).collect()),
    }
}

fn snapshot(documents: &[String]) -> Snapshot {
    Snapshot {
        resources: resources(documents).expect("the documents are right"),
        subnets: BTreeMap::new(),
        numbers: BTreeMap::new(),
    }
}

fn planned(documents: &[String]) -> Plan {
    plan::plan(&snapshot(documents))
}

fn fabric(spec: &str) -> String {
    document("Fabric", "fabric", "", spec)
}
