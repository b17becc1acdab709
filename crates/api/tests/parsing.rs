//! Files → resources: what holds for every input.

#![expect(clippy::unwrap_used, reason = "a test that fails says where")]

use api::{Parsed, SourceFile, parse};
use proptest::prelude::*;

const FABRIC: &str = "apiVersion: routeshare.io/v1alpha1\nkind: Fabric\nmetadata: {name: fabric}\nspec: {asn: {value: 64512}}\n";

fn file(name: &str, text: impl Into<String>) -> SourceFile {
    SourceFile {
        name: name.into(),
        text: text.into(),
    }
}

fn node(name: &str, spec: &str) -> String {
    format!(
        "apiVersion: routeshare.io/v1alpha1\nkind: Node\nmetadata: {{name: {name}}}\nspec: {spec}\n"
    )
}

fn told(files: &[SourceFile]) -> Vec<String> {
    parse(files)
        .unwrap_err()
        .iter()
        .map(ToString::to_string)
        .collect()
}

#[test]
fn all_mistakes_of_all_files_are_told_at_once() {
    let files = [
        file(
            "a.yaml",
            format!(
                "{FABRIC}---\n{}",
                node("n1", "{adresses: [], asn: 0, routerId: x}")
            ),
        ),
        file(
            "b.yaml",
            node(
                "n2",
                "{addresses: [192.0.2.1, nonsense, 192.0.2.2, more], asn: -1}",
            ),
        ),
    ];
    let told = told(&files);
    assert_eq!(told.len(), 6, "{told:#?}");
    for (line, part) in told.iter().zip([
        "a.yaml:9: document 2, Node `n1`, spec.adresses: ",
        "a.yaml:9: document 2, Node `n1`, spec.asn: ",
        "a.yaml:9: document 2, Node `n1`, spec.routerId: ",
        "b.yaml:4: document 1, Node `n2`, spec.addresses[1]: ",
        "b.yaml:4: document 1, Node `n2`, spec.addresses[3]: ",
        "b.yaml:4: document 1, Node `n2`, spec.asn: ",
    ]) {
        assert!(line.starts_with(part), "{line}");
    }
}

#[test]
fn what_follows_from_a_told_mistake_is_not_told_again() {
    let policy = "apiVersion: routeshare.io/v1alpha1\nkind: RoutePolicy\nmetadata: {name: p}\nspec: {rulez: []}\n";
    let told = told(&[file("a.yaml", format!("{FABRIC}---\n{policy}"))]);
    assert_eq!(told.len(), 1, "{told:#?}");
    assert!(
        told[0].ends_with("there is no field `rulez` here; did you mean `rules`?"),
        "{}",
        told[0]
    );
}

#[test]
fn a_document_that_cannot_be_read_does_not_make_others_miss_it() {
    let broken = "kind: RoutePolicy\nmetadata: {name: all\n";
    let peer = "apiVersion: routeshare.io/v1alpha1\nkind: Peer\nmetadata: {name: tor}\nspec: {address: 192.0.2.1, remoteAsn: 65101, import: [all], export: [all]}\n";
    let told = told(&[file("a.yaml", format!("{FABRIC}---\n{broken}---\n{peer}"))]);
    assert_eq!(told.len(), 1, "{told:#?}");
    assert!(told[0].starts_with("a.yaml:"), "{}", told[0]);
    assert!(told[0].contains("not YAML"), "{}", told[0]);
}

#[test]
fn a_resource_with_a_mistake_is_there_for_those_that_name_it() {
    let policy = "apiVersion: routeshare.io/v1alpha1\nkind: RoutePolicy\nmetadata: {name: all}\nspec: {rules: [{action: Perhaps}]}\n";
    let peer = "apiVersion: routeshare.io/v1alpha1\nkind: Peer\nmetadata: {name: tor}\nspec: {address: 192.0.2.1, remoteAsn: 65101, import: [all], export: [all]}\n";
    let told = told(&[file("a.yaml", format!("{FABRIC}---\n{policy}---\n{peer}"))]);
    assert_eq!(told.len(), 1, "{told:#?}");
    assert!(told[0].contains("found `Perhaps`"), "{}", told[0]);
}

#[test]
fn lines_are_those_of_the_file_in_every_document_of_it() {
    let text = format!(
        "# comment\n\n{FABRIC}---\n# comment\n---\n\n{}",
        node("n1", "{asn: 0}")
    );
    let line = text
        .lines()
        .position(|line| line.contains("asn: 0"))
        .unwrap()
        + 1;
    let told = told(&[file("a.yaml", text)]);
    assert!(
        told[0].starts_with(&format!("a.yaml:{line}: document 2, ")),
        "{}",
        told[0]
    );
}

#[test]
fn no_files_and_empty_files_are_refused() {
    for files in [
        vec![],
        vec![file("a.yaml", "")],
        vec![file("a.yaml", "---\n# nothing\n---\n")],
    ] {
        let told = told(&files);
        assert_eq!(told.len(), 1, "{told:#?}");
        assert!(told[0].starts_with("no Fabric; "), "{}", told[0]);
    }
}

#[test]
fn defaults_are_those_of_the_documentation() {
    let Parsed {
        resources,
        warnings,
        only_in_kubernetes,
    } = parse(&[file("a.yaml", FABRIC)]).unwrap();
    let fabric = resources.fabric.spec;
    assert_eq!((warnings, only_in_kubernetes), (vec![], vec![]));
    assert_eq!(fabric.listen_port.get(), 179);
    assert_eq!(fabric.subnet_grace_seconds.get(), 3600);
    assert_eq!(fabric.decision.max_paths.get(), 8);
    assert!(!fabric.decision.backup_paths);
    assert_eq!(fabric.kernel.table.get(), 254);
    assert_eq!(fabric.kernel.protocol.get(), 149);
    assert_eq!(fabric.kernel.metric.get(), 512);
}

#[test]
fn aliases_and_merges_of_yaml_are_understood() {
    let text = format!(
        "{FABRIC}---\n{}",
        node("n1", "{addresses: &a [192.0.2.1], subnets: []}")
    );
    assert!(parse(&[file("a.yaml", text)]).is_ok());
}

/// What is written by a program (an API server, say) reads like what a person wrote.
#[test]
fn resources_written_out_are_read_as_the_same_again() {
    fn written<S: serde::Serialize>(kind: &str, resource: &api::Resource<S>) -> String {
        let body = serde_saphyr::to_string(resource).unwrap();
        format!("apiVersion: routeshare.io/v1alpha1\nkind: {kind}\n{body}\n---\n")
    }
    let sets = [
        [
            include_str!("../../../examples/two-racks/fabric.yaml"),
            include_str!("../../../examples/two-racks/nodes.yaml"),
            include_str!("../../../examples/two-racks/peers.yaml"),
        ]
        .join("---\n"),
        include_str!("../../../examples/single-host/host.yaml").to_owned(),
        include_str!("../../../examples/mesh/cluster.yaml").to_owned(),
        include_str!("../../../examples/tor/spine/spine.yaml").to_owned(),
    ];
    for text in sets {
        let read = parse(&[file("a.yaml", text)]).unwrap().resources;
        let mut again = written("Fabric", &read.fabric);
        again.extend(read.pools.values().map(|it| written("Pool", it)));
        again.extend(read.nodes.values().map(|it| written("Node", it)));
        again.extend(read.peers.values().map(|it| written("Peer", it)));
        again.extend(read.policies.values().map(|it| written("RoutePolicy", it)));
        again.extend(
            read.advertisements
                .values()
                .map(|it| written("Advertisement", it)),
        );
        match parse(&[file("again.yaml", again.clone())]) {
            Ok(parsed) => assert_eq!(parsed.resources, read),
            Err(mistakes) => panic!("{mistakes:#?}\n{again}"),
        }
    }
}

/// What deep nesting and references to references make of a small file costs nothing.
#[test]
fn a_hostile_file_is_refused_quickly() {
    let deep = "[".repeat(100_000);
    let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..12 {
        let refs = vec![format!("*a{}", level - 1); 10].join(", ");
        bomb.push_str(&format!("a{level}: &a{level} [{refs}]\n"));
    }
    for text in [deep, bomb] {
        assert!(parse(&[file("a.yaml", text)]).is_err());
    }
}

proptest! {
    #[test]
    fn no_text_panics(text in "\\PC{0,200}") {
        let _ = parse(&[file("a.yaml", text)]);
    }

    /// A good file with some characters changed, as an editor saves it half-way.
    #[test]
    fn no_damaged_file_panics(at in 0_usize..2000, cut in 0_usize..60, put in "[-a-z:{}\\[\\], \n\"0-9&*!|>]{0,6}") {
        let text = include_str!("../../../examples/two-racks/peers.yaml");
        let mut text: Vec<char> = format!("{FABRIC}---\n{text}").chars().collect();
        let at = at.min(text.len());
        let end = (at + cut).min(text.len());
        text.splice(at..end, put.chars());
        let _ = parse(&[file("a.yaml", text.into_iter().collect::<String>())]);
    }

    #[test]
    fn the_order_of_files_does_not_matter(order in Just(vec![0, 1, 2, 3]).prop_shuffle()) {
        let files = [
            file("0", FABRIC),
            file("1", node("n1", "{addresses: [192.0.2.1]}")),
            file("2", node("n2", "{addresses: [192.0.2.2]}")),
            file("3", node("n3", "{addresses: [192.0.2.3]}")),
        ];
        let shuffled: Vec<SourceFile> = order.iter().map(|index| files[*index].clone()).collect();
        prop_assert_eq!(parse(&shuffled).unwrap(), parse(&files).unwrap());
    }
}

#[test]
fn keys_out_of_secrets_are_for_kubernetes_and_a_mistake_in_files() {
    let text = format!(
        "{FABRIC}---\napiVersion: routeshare.io/v1alpha1\nkind: Peer\nmetadata: {{name: tor}}\nspec:\n  \
         address: 192.0.2.1\n  remoteAsn: 64512\n  password: {{secret: {{name: bgp-keys, key: tor}}}}\n  bfd: \
         {{authentication: {{kind: KeyedSha1, keySecret: {{name: bgp-keys, key: bfd}}}}}}\n"
    );
    let files = [file("a.yaml", &text)];
    let parsed = parse(&files).unwrap();
    let password = parsed.resources.peers["tor"].spec.password.clone();
    assert_eq!(password.unwrap().secret.unwrap().key, "tor");
    let mistakes = api::parse_without_kubernetes(&files).unwrap_err();
    let fields: Vec<&str> = mistakes.iter().map(|it| it.field.as_str()).collect();
    assert_eq!(
        fields,
        ["spec.password.secret", "spec.bfd.authentication.keySecret"]
    );
    let told = mistakes[0].to_string();
    assert!(
        told.contains("these resources come from files; use file"),
        "{told}"
    );
}
