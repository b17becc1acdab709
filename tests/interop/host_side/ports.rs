//! `hostPort` (portmap behind our plugin) on a node that masquerades: each side sees the other's own address where
//! it can, and connections do not get in each other's way.

use lab::cni::With;
use serde_json::json;

use super::site::{self, Machines, OUTSIDE, OUTSIDE6, PORTMAP, Site, WHO};

#[test]
fn a_host_port_leads_to_a_pod_that_masquerades_from_everywhere_and_itself() {
    let machines = Machines::new().unwrap();
    let site = Site::start(&machines, PORTMAP, site::MASQUERADE).unwrap();
    let cni = site.cni().unwrap();
    let pod = site.container("mapped").unwrap();
    let with = With {
        capabilities: json!({"portMappings": [
            {"hostPort": 8080, "containerPort": WHO, "protocol": "tcp"},
        ]}),
        ..With::default()
    };
    cni.add_with("routeshare", &pod, &with).unwrap();
    site::serve(pod.namespace()).unwrap();
    let (pod4, pod6) = site.pod_addresses();
    for (node, outside, neighbour, masqueraded) in [
        ("10.0.1.11", OUTSIDE, &pod4, "10.0.1.11"),
        ("fd00:1::11", OUTSIDE6, &pod6, "fd00:1::11"),
    ] {
        // Who asks is known to the pod, from outside and from a pod beside it.
        let others = site.others();
        let seen = site::ask_at(others, node, 8080, Some(outside)).unwrap();
        assert_eq!(seen, outside, "from outside at {node}");
        let seen = site::ask_at(site.pod(), node, 8080, None).unwrap();
        assert_eq!(&seen, neighbour, "from the pod beside it at {node}");
        // From the node, and from the pod itself, it has the answer at all.
        site::ask_at(site.node(), node, 8080, None).unwrap();
        site::ask_at(pod.namespace(), node, 8080, None).unwrap();
        // What it sends itself is masqueraded as ever.
        let seen = site::ask_at(pod.namespace(), outside, WHO, None).unwrap();
        assert_eq!(seen, masqueraded);
    }
    cni.check_with("routeshare", &pod, &with).unwrap();
    // Neither takes the other's rules away.
    site.node_run("nft delete table inet routeshare").unwrap();
    site.wait_for_host_side();
    let seen = site::ask_at(site.others(), "10.0.1.11", 8080, Some(OUTSIDE)).unwrap();
    assert_eq!(seen, OUTSIDE);
    cni.del_with("routeshare", &pod, &with).unwrap();
    assert!(site::ask_at(site.others(), "10.0.1.11", 8080, Some(OUTSIDE)).is_err());
    assert_eq!(site.seen_by(OUTSIDE).unwrap(), "10.0.1.11");
}
