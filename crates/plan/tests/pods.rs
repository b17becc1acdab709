//! What a node is told of its pods: the Fabric's settings, and which subnets drain.

#![expect(clippy::unwrap_used, reason = "a test that fails says where")]

use std::collections::BTreeMap;

use api::SourceFile;
use plan::{NodeConfig, Plan, Purpose, Snapshot, Subnet};

const FABRIC: &str = "\
kind: Fabric
apiVersion: routeshare.io/v1alpha1
metadata: {name: fabric}
spec:
  asn: {value: 64512}
  pods: {mtu: 9000, chained: [tuning, portmap], sysctls: {net.core.somaxconn: '8'}}
---
kind: Node
apiVersion: routeshare.io/v1alpha1
metadata: {name: n1, labels: {rack: a}}
spec: {addresses: [192.0.2.1]}
---
";

/// A plan for node `n1`, to which 10.64.3.0/24 was given out of `pods`.
fn planned(pool: &str) -> Plan {
    let pool = match pool {
        "" => String::new(),
        spec => format!(
            "kind: Pool\napiVersion: routeshare.io/v1alpha1\nmetadata: {{name: pods}}\nspec: {spec}\n"
        ),
    };
    let file = SourceFile {
        name: "a.yaml".into(),
        text: format!("{FABRIC}{pool}"),
    };
    let given = Subnet::new("10.64.3.0/24".parse().unwrap(), "pods", Purpose::Pods);
    plan::plan(&Snapshot {
        resources: api::parse(&[file]).unwrap().resources,
        subnets: [("n1".to_owned(), vec![given])].into(),
        numbers: BTreeMap::new(),
    })
}

fn config(pool: &str) -> NodeConfig {
    planned(pool).configs["n1"].clone()
}

#[test]
fn a_node_is_told_what_the_fabric_says_of_pods() {
    let pods = config("{prefixes: [10.64.0.0/16]}").pods;
    assert_eq!((pods.mtu, pods.cooldown_seconds), (Some(9000), 60));
    assert_eq!(pods.chained, ["tuning", "portmap"]);
    assert_eq!(pods.sysctls["net.core.somaxconn"], "8");
}

#[test]
fn a_subnet_that_its_pool_would_not_give_any_more_drains() {
    let subnet = |pool: &str| config(pool).subnets[0].clone();
    assert!(!subnet("{prefixes: [10.64.0.0/16]}").draining);
    for pool in [
        "",
        "{prefixes: [10.65.0.0/16]}",
        "{prefixes: [10.64.0.0/16], reserved: [10.64.0.0/20]}",
        "{prefixes: [10.64.0.0/16], nodeSelector: {matchLabels: {rack: b}}}",
    ] {
        assert!(subnet(pool).draining, "{pool}");
        let problems = planned(pool).problems;
        let told = problems
            .iter()
            .find(|it| it.message.contains("10.64.3.0/24"));
        assert!(told.is_some(), "{pool}: {problems:?}");
    }
}

#[test]
fn a_reserved_part_of_a_subnet_is_told() {
    let subnet = config("{prefixes: [10.64.0.0/16], reserved: [10.64.3.8/30, 10.64.9.0/24]}");
    let subnet = &subnet.subnets[0];
    assert_eq!(subnet.reserved, ["10.64.3.8/30".parse().unwrap()]);
    assert!(!subnet.draining);
}
