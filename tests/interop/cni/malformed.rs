//! What no runtime should say: each is answered with the specification's code and words for a person, and
//! changes nothing.

use lab::Lab;
use lab::cni::{CniNode, Container, Invoked, PLUGIN};
use serde_json::{Value, json};

use super::scene::{configuration, node, nothing_is_left, on_host};

/// ADD of `container`, with some variables replaced; an empty one is not set.
fn add(
    node: &CniNode<'_>,
    container: &Container,
    replaced: &[(&str, &str)],
    input: &[u8],
) -> Invoked {
    let path = container.path().display().to_string();
    let mut variables = vec![
        ("CNI_COMMAND", "ADD"),
        ("CNI_CONTAINERID", "c1"),
        ("CNI_NETNS", path.as_str()),
        ("CNI_IFNAME", "eth0"),
    ];
    for (name, value) in replaced {
        variables.retain(|(other, _)| other != name);
        if !value.is_empty() {
            variables.push((name, value));
        }
    }
    node.invoke(PLUGIN, &variables, input).unwrap()
}

#[test]
fn an_environment_that_cannot_be_is_refused_with_code_4() {
    let lab = Lab::new().unwrap();
    let machine = lab.machine("node").unwrap();
    let node = node(&lab, &machine);
    let container = lab.container("c1").unwrap();
    let input = configuration(&node, "1.1.0").to_string();
    let long = "i".repeat(16);
    for (name, value) in [
        ("CNI_COMMAND", ""),
        ("CNI_COMMAND", "add"),
        ("CNI_COMMAND", "REMOVE"),
        ("CNI_CONTAINERID", ""),
        ("CNI_CONTAINERID", "../../etc/passwd"),
        ("CNI_CONTAINERID", "c1\nc2"),
        ("CNI_CONTAINERID", "-c1"),
        ("CNI_NETNS", ""),
        ("CNI_IFNAME", ""),
        ("CNI_IFNAME", &long),
        ("CNI_IFNAME", "a/b"),
        ("CNI_IFNAME", "a b"),
        ("CNI_IFNAME", "a:b"),
        ("CNI_IFNAME", "."),
        ("CNI_IFNAME", ".."),
        ("CNI_ARGS", "no-value"),
        ("CNI_ARGS", "IP=no-address"),
    ] {
        let said = add(&node, &container, &[(name, value)], input.as_bytes());
        let error = said.error().unwrap();
        assert_eq!(error.code, 4, "{name}={value:?}: {error}");
        assert!(error.msg.contains(name), "{error}");
        assert_eq!(error.version, "1.1.0");
        assert_eq!(said.stderr, "");
    }
    nothing_is_left(&node);
}

#[test]
fn input_that_cannot_be_read_or_be_meant_has_the_code_for_it() {
    let lab = Lab::new().unwrap();
    let machine = lab.machine("node").unwrap();
    let node = node(&lab, &machine);
    let container = lab.container("c1").unwrap();
    let full = configuration(&node, "1.1.0");
    let with = |more: Value| {
        let mut all = full.clone();
        let (all_fields, more) = (all.as_object_mut().unwrap(), more);
        all_fields.extend(more.as_object().unwrap().clone());
        all.to_string().into_bytes()
    };
    let deep = [vec![b'['; 200_000], vec![b']'; 200_000]].concat();
    let cases: Vec<(&str, Vec<u8>, u64)> = vec![
        ("nothing", Vec::new(), 6),
        (
            "half of it",
            b"{\"cniVersion\": \"1.1.0\", \"na".to_vec(),
            6,
        ),
        ("no UTF-8", b"{\"name\": \"\xff\xfe\"}".to_vec(), 6),
        ("a deep one", deep, 6),
        ("two", b"{} {}".to_vec(), 6),
        ("a list", b"[]".to_vec(), 7),
        ("a later version", with(json!({"cniVersion": "2.0.0"})), 1),
        ("no version", with(json!({"cniVersion": "newest"})), 1),
        ("no name", with(json!({"name": ""})), 7),
        ("a name that is a path", with(json!({"name": "../pods"})), 7),
        ("an unknown mode", with(json!({"mode": "vxlan"})), 7),
        ("endless input", vec![b' '; (16 << 20) + 1], 6),
        ("an unknown field", with(json!({"modus": "routed"})), 2),
        (
            "another IPAM",
            with(json!({"ipam": {"type": "host-local"}})),
            2,
        ),
        ("an MTU of no interface", with(json!({"mtu": "large"})), 7),
        ("a negative MTU", with(json!({"mtu": -1})), 7),
        (
            "an address that is none",
            with(json!({"runtimeConfig": {"ips": ["10.0.0"]}})),
            7,
        ),
        (
            "a data directory that is a file",
            with(json!({"dataDir": "/dev/null"})),
            11,
        ),
    ];
    for (what, input, code) in cases {
        let said = add(&node, &container, &[], &input);
        let error = said
            .error()
            .unwrap_or_else(|error| panic!("{what}: {error:#}"));
        assert_eq!(error.code, code, "{what}: {error}");
        assert!(error.msg.len() > 10, "{what}: {error}");
        assert_eq!(said.stderr, "", "{what}");
    }
    nothing_is_left(&node);
}

#[test]
fn a_namespace_that_is_none_is_refused() {
    let lab = Lab::new().unwrap();
    let machine = lab.machine("node").unwrap();
    let node = node(&lab, &machine);
    let container = lab.container("c1").unwrap();
    let input = configuration(&node, "1.1.0").to_string();
    // With an error in each, for what is not there the specification's.
    for (path, code, words) in [
        (
            "/run/netns/there-is-none",
            Some(3),
            "there is no network namespace",
        ),
        ("/etc/passwd", Some(3), "is no network namespace"),
        ("/run", None, ""),
        ("/proc/self/ns/mnt", None, ""),
        // The machine's own: its eth0 would be ours to remove.
        ("/proc/self/ns/net", None, "of the host itself"),
    ] {
        let said = add(&node, &container, &[("CNI_NETNS", path)], input.as_bytes());
        let error = said
            .error()
            .unwrap_or_else(|error| panic!("{path}: {error:#}"));
        assert!(
            error.msg.contains(path) && error.msg.contains(words),
            "{error}"
        );
        if let Some(code) = code {
            assert_eq!(error.code, code, "{error}");
        }
    }
    nothing_is_left(&node);
}

#[test]
fn del_is_content_with_almost_anything() {
    let lab = Lab::new().unwrap();
    let machine = lab.machine("node").unwrap();
    let node = node(&lab, &machine);
    let configuration = configuration(&node, "1.1.0");
    let mut broken = configuration.clone();
    broken["mode"] = "vxlan".into();
    broken["unknown"] = 7.into();
    broken["prevResult"] = json!({"cniVersion": "1.1.0", "ips": "none"});
    for (netns, configuration) in [
        (true, &configuration),
        (true, &broken),
        (false, &configuration),
        (false, &broken),
    ] {
        let container = lab.container("c1").unwrap();
        let input = configuration.to_string();
        let first = node.ours("ADD", &container, &self::configuration(&node, "1.1.0"));
        first.unwrap().result().unwrap();
        assert!(!on_host(&machine).is_empty());
        let path = container.path().display().to_string();
        let mut variables = vec![
            ("CNI_COMMAND", "DEL"),
            ("CNI_CONTAINERID", container.namespace().name()),
            ("CNI_IFNAME", "eth0"),
        ];
        variables.extend(netns.then_some(("CNI_NETNS", &*path)));
        let said = node.invoke(PLUGIN, &variables, input.as_bytes()).unwrap();
        assert_eq!((said.code, &*said.stdout), (Some(0), ""), "{said:?}");
        nothing_is_left(&node);
    }
    // And with a container that is gone.
    let container = lab.container("c2").unwrap();
    let added = node.ours("ADD", &container, &configuration).unwrap();
    added.result().unwrap();
    let (name, path) = (
        container.namespace().name().to_owned(),
        container.path().display().to_string(),
    );
    drop(container);
    let variables = [
        ("CNI_COMMAND", "DEL"),
        ("CNI_CONTAINERID", &*name),
        ("CNI_NETNS", &*path),
        ("CNI_IFNAME", "eth0"),
    ];
    let input = configuration.to_string();
    let said = node.invoke(PLUGIN, &variables, input.as_bytes()).unwrap();
    said.result().unwrap();
    nothing_is_left(&node);
}
