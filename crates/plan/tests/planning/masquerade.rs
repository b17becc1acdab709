//! Whose packets are masqueraded.

use super::{document, fabric, planned};

#[test]
fn every_node_with_subnets_of_a_pool_that_says_so_masquerades_them_and_nothing_of_the_cluster() {
    let node = |name: &str, address: &str, subnet: &str| {
        let spec = format!("{{addresses: [{address}], subnets: [{subnet}]}}");
        document("Node", name, "", &spec)
    };
    let documents = [
        fabric("{asn: {value: 64512}, nodeSubnets: Adopt}"),
        document(
            "Pool",
            "hidden",
            "",
            "{prefixes: [10.64.0.0/16], masquerade: {exempt: [172.16.0.0/13, 172.24.0.0/13]}}",
        ),
        document("Pool", "plain", "", "{prefixes: [10.65.0.0/16]}"),
        node("n1", "192.0.2.0", "10.64.1.0/24"),
        node("n2", "192.0.2.1", "10.65.1.0/24"),
        node("n3", "2001:db8::3", "10.64.3.0/24"),
    ];
    let plan = planned(&documents);
    assert_eq!(plan.problems, []);
    let texts = |prefixes: &[bgp::types::Prefix]| -> Vec<String> {
        prefixes.iter().map(ToString::to_string).collect()
    };
    let first = plan.configs["n1"].masquerade.as_ref().unwrap();
    assert_eq!(first.pools.len(), 1);
    assert_eq!(first.pools[0].pool, "hidden");
    assert_eq!(texts(&first.pools[0].subnets), ["10.64.1.0/24"]);
    assert_eq!(texts(&first.pools[0].exempt), ["172.16.0.0/12"]);
    assert_eq!(
        texts(&first.direct),
        ["10.64.0.0/15", "192.0.2.0/31", "2001:db8::3/128"]
    );
    assert_eq!(plan.configs["n2"].masquerade, None);
    assert!(plan.configs["n3"].masquerade.is_some());
    let without: Vec<String> = documents
        .iter()
        .map(|text| text.replace("masquerade: {exempt: [172.16.0.0/13, 172.24.0.0/13]}", ""))
        .collect();
    let plan = planned(&without);
    assert!(
        plan.configs
            .values()
            .all(|config| config.masquerade.is_none())
    );
}

/// With thousands of nodes the difference between one configuration and all.
#[test]
fn a_node_in_a_network_that_every_pool_exempts_changes_no_other_node_s_configuration() {
    let pool = |name: &str, second: u8, exempt: &str| {
        let spec =
            format!("{{prefixes: [10.{second}.0.0/16], masquerade: {{exempt: [{exempt}]}}}}");
        document("Pool", name, "", &spec)
    };
    let node = |name: &str, address: &str, subnet: &str| {
        let spec = format!("{{addresses: [{address}], subnets: [{subnet}]}}");
        document("Node", name, "", &spec)
    };
    let mut documents = vec![
        fabric("{asn: {value: 64512}, nodeSubnets: Adopt}"),
        pool("a", 64, "10.0.0.0/15"),
        pool("b", 65, "10.0.0.0/16, 10.1.0.0/16"),
        node("n1", "10.1.0.11", "10.64.1.0/24"),
    ];
    let of_first = |documents: &[String]| planned(documents).configs["n1"].clone();
    let alone = of_first(&documents);
    let direct = |config: &plan::NodeConfig| config.masquerade.as_ref().unwrap().direct.to_vec();
    assert_eq!(direct(&alone), ["10.64.0.0/15".parse().unwrap()]);
    documents.push(node("n2", "10.1.0.12", "10.65.1.0/24"));
    assert_eq!(of_first(&documents), alone);
    // One that a Pool masquerades towards is told to all.
    documents.push(node("n3", "10.2.0.13", "10.65.2.0/24"));
    let with_third = of_first(&documents);
    assert!(direct(&with_third).contains(&"10.2.0.13/32".parse().unwrap()));
    assert_eq!(direct(&with_third).len(), 2);
}
