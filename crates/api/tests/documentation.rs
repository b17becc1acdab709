//! docs/resources.md keeps up with the schema.

use api::{SourceFile, parse};

const PAGE: &str = include_str!("../../../docs/resources.md");

#[test]
fn the_yaml_of_the_documentation_is_right() {
    let blocks = PAGE
        .split("```yaml\n")
        .skip(1)
        .map(|rest| rest.split("```").next().unwrap());
    let text = blocks.collect::<Vec<_>>().join("---\n");
    let file = SourceFile {
        name: "docs/resources.md".into(),
        text,
    };
    match parse(&[file]) {
        Ok(parsed) => assert_eq!(parsed.resources.policies.len(), 2),
        Err(mistakes) => panic!("{mistakes:#?}"),
    }
}

/// The fields of the schema at every place that has some, as the messages list them.
#[test]
fn every_field_is_documented() {
    let places = [
        ("Fabric", "{zzzzzz: 0}"),
        ("Fabric", "{asn: {zzzzzz: 0}}"),
        ("Fabric", "{asn: {perRack: {zzzzzz: 0}}}"),
        ("Fabric", "{reflectors: {zzzzzz: 0}}"),
        ("Fabric", "{timers: {zzzzzz: 0}}"),
        ("Fabric", "{gracefulRestart: {zzzzzz: 0}}"),
        ("Fabric", "{bfd: {zzzzzz: 0}}"),
        ("Fabric", "{gracefulRestart: {longLived: {zzzzzz: 0}}}"),
        ("Fabric", "{decision: {zzzzzz: 0}}"),
        ("Fabric", "{kernel: {zzzzzz: 0}}"),
        ("Fabric", "{pods: {zzzzzz: 0}}"),
        ("Fabric", "{pods: {names: {zzzzzz: 0}}}"),
        ("Pool", "{zzzzzz: 0}"),
        ("Pool", "{nodeSelector: {zzzzzz: 0}}"),
        ("Pool", "{nodeSelector: {matchExpressions: [{zzzzzz: 0}]}}"),
        ("Pool", "{nodeSubnetLength: {zzzzzz: 0}}"),
        ("Node", "{zzzzzz: 0}"),
        ("Peer", "{zzzzzz: 0}"),
        ("Peer", "{addressFrom: {zzzzzz: 0}}"),
        ("Peer", "{ttlSecurity: {zzzzzz: 0}}"),
        ("Peer", "{password: {zzzzzz: 0}}"),
        ("Peer", "{password: {secret: {zzzzzz: 0}}}"),
        ("Peer", "{tcpAo: {zzzzzz: 0}}"),
        ("Peer", "{tcpAo: {keys: [{zzzzzz: 0}]}}"),
        ("Peer", "{shutdown: {zzzzzz: 0}}"),
        ("Peer", "{maxPrefixes: {zzzzzz: 0}}"),
        ("Peer", "{bfd: {zzzzzz: 0}}"),
        ("Peer", "{bfd: {authentication: {zzzzzz: 0}}}"),
        ("RoutePolicy", "{zzzzzz: 0}"),
        ("RoutePolicy", "{rules: [{zzzzzz: 0}]}"),
        ("RoutePolicy", "{rules: [{match: {zzzzzz: 0}}]}"),
        (
            "RoutePolicy",
            "{rules: [{match: {prefixes: [{zzzzzz: 0}]}}]}",
        ),
        (
            "RoutePolicy",
            "{rules: [{match: {asPathLength: {zzzzzz: 0}}}]}",
        ),
        ("RoutePolicy", "{rules: [{set: {zzzzzz: 0}}]}"),
        ("RoutePolicy", "{rules: [{set: {prepend: {zzzzzz: 0}}}]}"),
        ("Advertisement", "{zzzzzz: 0}"),
        ("Advertisement", "{nodeSubnets: {zzzzzz: 0}}"),
    ];
    for (kind, spec) in places {
        let text = format!(
            "apiVersion: routeshare.io/v1alpha1\nkind: {kind}\nmetadata: {{name: x}}\nspec: {spec}\n"
        );
        let name = "a.yaml".to_owned();
        let mistakes = parse(&[SourceFile { name, text }]).unwrap_err();
        let unknown = mistakes
            .iter()
            .find(|it| it.message.starts_with("there is no field `zzzzzz`"));
        let unknown = unknown.unwrap_or_else(|| panic!("{kind} {spec}: {mistakes:#?}"));
        let (_, fields) = unknown.message.split_once("allowed: ").unwrap();
        for field in fields.split(", ") {
            let written = [
                format!("`{field}"),
                format!("{field}:"),
                format!(".{field}`"),
            ];
            assert!(
                written.iter().any(|written| PAGE.contains(written)),
                "docs/resources.md says nothing of {kind} {spec}: {field}"
            );
        }
    }
}
