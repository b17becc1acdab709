//! Every version of the specification, by `cnitool` where it can and by hand where it cannot.

use lab::Lab;
use serde_json::{Value, json};

use super::scene::{addresses, configuration, node, nothing_is_left, reaches, routed};

const ALL: [&str; 7] = [
    "0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0",
];

#[test]
fn version_names_all_that_are_answered() {
    let lab = Lab::new().unwrap();
    let machine = lab.machine("node").unwrap();
    let node = node(&lab, &machine);
    for version in ALL {
        let input = json!({"cniVersion": version}).to_string();
        let said = node.invoke(
            lab::cni::PLUGIN,
            &[("CNI_COMMAND", "VERSION")],
            input.as_bytes(),
        );
        let result = said.unwrap().result().unwrap();
        assert_eq!(result["supportedVersions"], json!(ALL), "{result}");
        assert_eq!(result["cniVersion"], version);
    }
}

#[test]
fn every_version_attaches_and_detaches_through_cnitool() {
    let lab = Lab::new().unwrap();
    let machine = lab.machine("node").unwrap();
    let node = node(&lab, &machine);
    let other = lab.container("other").unwrap();
    let others = addresses(&node.add("pods", &other).unwrap());
    let container = lab.container("c1").unwrap();
    for version in ALL {
        node.network_of_version(version, "versioned", &[routed(&node)])
            .unwrap();
        let result = node.add("versioned", &container).unwrap();
        assert_eq!(result["cniVersion"], version);
        reaches(&container, &others);
        let check = node.check("versioned", &container);
        match version {
            "0.1.0" | "0.2.0" | "0.3.0" | "0.3.1" => {
                // libcni refuses: CHECK is since 0.4.0.
                assert!(check.is_err(), "{version}");
            }
            _ => check.unwrap(),
        }
        node.status("versioned").unwrap();
        node.del("versioned", &container).unwrap();
        assert!(container.run("ip link show eth0").is_err(), "{version}");
        // Once more: a runtime that was told nothing asks again.
        node.del("versioned", &container).unwrap();
    }
    node.del("pods", &other).unwrap();
    nothing_is_left(&node);
}

#[test]
fn each_version_has_results_of_its_shape() {
    let lab = Lab::new().unwrap();
    let machine = lab.machine("node").unwrap();
    let node = node(&lab, &machine);
    let container = lab.container("c1").unwrap();
    let keys = |value: &Value| -> Vec<String> {
        let object = value.as_object().expect("an object");
        object.keys().cloned().collect()
    };
    for version in ALL {
        let configuration = configuration(&node, version);
        let added = node.ours("ADD", &container, &configuration).unwrap();
        assert_eq!(added.stderr, "", "{version}");
        let result = added.result().unwrap();
        assert_eq!(result["cniVersion"], version);
        match version {
            "0.1.0" | "0.2.0" => {
                assert_eq!(keys(&result), ["cniVersion", "dns", "ip4", "ip6"]);
                assert!(result["ip4"]["ip"].as_str().unwrap().ends_with("/32"));
                assert!(result["ip6"]["ip"].as_str().unwrap().ends_with("/128"));
                assert_eq!(result["ip4"]["gateway"], "169.254.1.1");
            }
            _ => {
                let versions: Vec<&Value> = result["ips"]
                    .as_array()
                    .unwrap()
                    .iter()
                    .map(|ip| &ip["version"])
                    .collect();
                let wanted = match version.starts_with('0') {
                    true => [json!("4"), json!("6")],
                    false => [Value::Null, Value::Null],
                };
                assert_eq!(versions, wanted.iter().collect::<Vec<_>>());
                for ip in result["ips"].as_array().unwrap() {
                    let place = ip["interface"].as_u64().unwrap() as usize;
                    let interface = &result["interfaces"][place];
                    assert_eq!(interface["name"], "eth0");
                    assert_eq!(interface["sandbox"], container.path().display().to_string());
                    let mtu = interface.get("mtu").is_some();
                    assert_eq!(mtu, version == "1.1.0", "{interface}");
                }
            }
        }
        let mut with_result = configuration.clone();
        with_result["prevResult"] = result;
        // What CHECK and DEL get back is in the shape of ADD's answer.
        let commands: &[&str] = match version {
            "0.1.0" | "0.2.0" | "0.3.0" | "0.3.1" => &["DEL"],
            _ => &["CHECK", "DEL"],
        };
        for command in commands {
            let done = node.ours(command, &container, &with_result).unwrap();
            assert_eq!((done.code, &*done.stdout), (Some(0), ""), "{done:?}");
            assert_eq!(done.stderr, "");
        }
    }
    nothing_is_left(&node);
}

#[test]
fn nothing_but_the_result_is_printed_whatever_the_environment_asks_for() {
    let lab = Lab::new().unwrap();
    let machine = lab.machine("node").unwrap();
    let node = node(&lab, &machine);
    let container = lab.container("c1").unwrap();
    let path = container.path().display().to_string();
    let input = configuration(&node, "1.1.0").to_string();
    let call = |command: &str| {
        let variables = [
            ("CNI_COMMAND", command),
            ("CNI_CONTAINERID", "c1"),
            ("CNI_NETNS", &path),
            ("CNI_IFNAME", "eth0"),
            ("RUST_LOG", "trace"),
            ("RUST_BACKTRACE", "full"),
            (
                "CNI_ARGS",
                "IgnoreUnknown=true;K8S_POD_NAMESPACE=a;K8S_POD_NAME=b",
            ),
        ];
        let said = node
            .invoke(lab::cni::PLUGIN, &variables, input.as_bytes())
            .unwrap();
        assert_eq!(said.code, Some(0), "{said:?}");
        said
    };
    let added = call("ADD");
    assert_eq!(added.stdout.trim().lines().count(), 1, "{added:?}");
    added.result().unwrap();
    for command in ["STATUS", "DEL"] {
        let said = call(command);
        assert_eq!((&*said.stdout, &*said.stderr), ("", ""), "{command}");
    }
    nothing_is_left(&node);
}
