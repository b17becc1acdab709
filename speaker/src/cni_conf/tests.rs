//! The files: when they are written, what is in them, and what is left alone.

use std::fs;
use std::path::PathBuf;

use ::cni::node::NodeFile;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;

struct Host {
    directory: TempDir,
    files: Files,
}

impl Host {
    fn new() -> Host {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("net.d")).unwrap();
        let files = Files::new(Settings {
            conf_dir: Some(directory.path().join("net.d")),
            data_dir: directory.path().join("cni"),
        });
        Host { directory, files }
    }

    fn conflist(&self) -> PathBuf {
        self.directory.path().join("net.d/10-routeshare.conflist")
    }

    fn read(&self) -> Value {
        serde_json::from_slice(&fs::read(self.conflist()).unwrap()).unwrap()
    }

    fn node_file(&self) -> NodeFile {
        NodeFile::read(&self.directory.path().join("cni/node.json")).unwrap()
    }

    /// What is there, none of it half written.
    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.directory.path().join("net.d")).unwrap();
        let mut names: Vec<String> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }
}

fn wanted(ready: bool) -> Wanted {
    Wanted {
        subnets: vec![subnet(&plan::Subnet::new(
            "10.64.0.0/24".parse().unwrap(),
            "pods",
            plan::Purpose::Pods,
        ))],
        mtu: Some(1450),
        cooldown_seconds: 60,
        names: None,
        ready,
        ..Wanted::default()
    }
}

fn types(configuration: &Value) -> Vec<&str> {
    let plugins = configuration["plugins"].as_array().unwrap();
    plugins
        .iter()
        .map(|plugin| plugin["type"].as_str().unwrap())
        .collect()
}

#[test]
fn the_configuration_is_written_when_pods_may_start_and_not_before() {
    let host = Host::new();
    assert_eq!(host.files.put_right(&wanted(false)), Found::default());
    assert_eq!(host.node_file().subnets, wanted(false).subnets);
    assert!(host.names().is_empty());
    let found = host.files.put_right(&wanted(true));
    assert_eq!((found.stands, found.problems), (true, Vec::new()));
    assert_eq!(host.names(), ["10-routeshare.conflist"]);
    let written = host.read();
    assert_eq!(types(&written), ["routeshare-cni"]);
    let data_dir = host.directory.path().join("cni").display().to_string();
    assert_eq!(written["plugins"][0]["dataDir"], json!(data_dir));
}

#[test]
fn what_is_there_stays_and_is_kept_right_also_when_pods_may_not_start() {
    let host = Host::new();
    host.files.put_right(&wanted(true));
    let changed = Wanted {
        chained: vec!["portmap".into(), "tuning".into()],
        sysctls: [("net.core.somaxconn".to_owned(), "8".to_owned())].into(),
        subnets: Vec::new(),
        ..wanted(false)
    };
    assert!(host.files.put_right(&changed).stands);
    let written = host.read();
    assert_eq!(types(&written), ["routeshare-cni", "portmap", "tuning"]);
    assert_eq!(written["plugins"][2]["sysctl"]["net.core.somaxconn"], "8");
    fs::write(host.conflist(), "{").unwrap();
    assert!(host.files.put_right(&changed).stands);
    assert_eq!(host.read(), written);
    fs::remove_file(host.conflist()).unwrap();
    assert!(!host.files.put_right(&changed).stands);
    assert!(host.names().is_empty());
}

#[test]
fn a_subnet_that_drains_is_told_with_what_is_reserved_in_it() {
    let host = Host::new();
    let given = plan::Subnet {
        reserved: vec!["10.64.0.8/30".parse().unwrap()],
        draining: true,
        ..plan::Subnet::new("10.64.0.0/24".parse().unwrap(), "pods", plan::Purpose::Pods)
    };
    let drained = Wanted {
        subnets: vec![subnet(&given)],
        ..wanted(false)
    };
    host.files.put_right(&drained);
    let file = host.node_file();
    assert_eq!(file.subnets[0].state, State::Draining);
    assert_eq!(file.subnets[0].reserved, ["10.64.0.8/30".parse().unwrap()]);
    assert_eq!(file.active().count(), 0);
}

#[test]
fn what_others_put_behind_our_plugins_stays_and_what_is_not_chained_any_more_goes() {
    let host = Host::new();
    let chained = Wanted {
        chained: vec!["bandwidth".into()],
        ..wanted(true)
    };
    host.files.put_right(&chained);
    let mut mesh = host.read();
    let plugins = mesh["plugins"].as_array_mut().unwrap();
    plugins.push(json!({"type": "istio-cni", "log_level": "info"}));
    fs::write(host.conflist(), mesh.to_string()).unwrap();
    host.files.put_right(&chained);
    assert_eq!(host.read(), mesh, "nothing to be done");
    host.files.put_right(&wanted(true));
    assert_eq!(types(&host.read()), ["routeshare-cni", "istio-cni"]);
}

#[test]
fn files_of_others_are_left_alone_and_one_that_comes_first_is_named() {
    let host = Host::new();
    let other = host.conflist().with_file_name("05-other.conf");
    fs::write(&other, "{}").unwrap();
    fs::write(host.conflist().with_file_name("05-notes.txt"), "").unwrap();
    fs::write(host.conflist().with_file_name("87-bridge.conflist"), "{}").unwrap();
    let found = host.files.put_right(&wanted(true));
    let [(reason, message)] = &found.problems[..] else {
        panic!("{found:?}");
    };
    assert_eq!(*reason, "CniConfigurationShadowed");
    assert!(message.contains("05-other.conf"), "{message}");
    assert_eq!(host.names().len(), 4);
    assert_eq!(fs::read(other).unwrap(), b"{}");
}

#[test]
fn a_directory_that_is_missing_is_a_problem_until_it_is_there() {
    let host = Host::new();
    fs::remove_dir(host.directory.path().join("net.d")).unwrap();
    for ready in [false, true] {
        let found = host.files.put_right(&wanted(ready));
        let (reason, message) = &found.problems[0];
        assert_eq!((*reason, found.stands), ("CniConfiguration", false));
        assert!(message.contains("--cni-conf-dir"), "{message}");
    }
    fs::create_dir(host.directory.path().join("net.d")).unwrap();
    let found = host.files.put_right(&wanted(true));
    assert_eq!((found.stands, found.problems), (true, Vec::new()));
}

#[test]
fn an_mtu_that_is_not_known_any_more_stays_and_a_node_file_that_is_damaged_is_replaced() {
    let host = Host::new();
    let unknown = Wanted {
        mtu: None,
        ..wanted(false)
    };
    host.files.put_right(&unknown);
    assert_eq!(host.node_file().mtu, 1500);
    host.files.put_right(&wanted(false));
    host.files.put_right(&unknown);
    assert_eq!(host.node_file().mtu, 1450);
    let path = host.directory.path().join("cni/node.json");
    fs::write(&path, "half of").unwrap();
    host.files.put_right(&wanted(false));
    assert_eq!(host.node_file().mtu, 1450);
}

#[test]
fn without_a_node_file_nothing_is_promised() {
    let host = Host::new();
    fs::write(host.directory.path().join("cni"), "in the way").unwrap();
    let found = host.files.put_right(&wanted(true));
    assert_eq!((found.problems[0].0, found.stands), ("CniNodeFile", false));
    assert!(host.names().is_empty());
}
