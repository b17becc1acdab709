//! Many containers under one name, two with one address, and resolvers that do not help.

use std::collections::BTreeSet;

use super::*;

/// More than fit into 512 octets, and fewer than fit into 1232.
const MANY: usize = 20;

#[test]
fn a_name_of_many_containers_is_answered_in_part_and_in_full() {
    let lab = Lab::new().unwrap();
    let (machine, world) = (lab.machine("n1").unwrap(), lab.machine("world").unwrap());
    let site = Site::new(&lab, &machine, &world);
    let all: Vec<Host> = (0..MANY)
        .map(|number| site.container("front", &format!("web{number}"), &["web"]))
        .collect();
    let expected: BTreeSet<String> = all.iter().map(|it| it.address(1).to_owned()).collect();
    let asks = &all[0];
    let found = |line: &str| -> anyhow::Result<BTreeSet<String>> {
        let answer = asks.dig(&format!("+short @{IPV4} AAAA web {line}"))?;
        Ok(answer.lines().map(str::to_owned).collect())
    };
    wait_for("all of them", SOON, || {
        let found = found("+bufsize=1232 +ignore")?;
        ensure!(found == expected, "{found:?}");
        Ok(())
    });
    // What does not fit is said to be missing, and is there over TCP, which dig then asks over by itself.
    let part = asks
        .dig(&format!("@{IPV4} AAAA web +noedns +ignore"))
        .unwrap();
    let flags = part.lines().find(|line| line.contains("flags:")).unwrap();
    assert!(flags.contains(" tc"), "{part}");
    assert!(found("+noedns +ignore").unwrap().len() < MANY);
    assert_eq!(found("+noedns").unwrap(), expected);
    assert_eq!(found("+tcp").unwrap(), expected);
    assert_eq!(asks.lookup("ahostsv6", "web").unwrap().len(), MANY);
    // However it is written, and as it is written.
    let answer = asks
        .dig(&format!("@{IPV4} AAAA wEb +bufsize=1232"))
        .unwrap();
    let as_written = answer.lines().filter(|line| line.starts_with("wEb."));
    assert_eq!(as_written.count(), MANY, "{answer}");

    // Each is first as often as any other for who asks for both families, as the C library does.
    let first = |family: &str| {
        let answer = asks
            .dig(&format!("+short @{IPV4} {family} web +tcp"))
            .unwrap();
        answer.lines().next().unwrap().to_owned()
    };
    let firsts: BTreeSet<[String; 2]> = (0..MANY).map(|_| [first("A"), first("AAAA")]).collect();
    assert_eq!(firsts.len(), MANY);
}

/// One bridge is ours, the other somebody else's: the host has one of them in its routes, and containers of
/// both have the same addresses.
#[test]
fn who_asks_from_the_address_of_two_containers_is_told_of_neither_network() {
    let lab = Lab::new().unwrap();
    let (machine, world) = (lab.machine("n1").unwrap(), lab.machine("world").unwrap());
    let site = Site::new(&lab, &machine, &world);
    machine
        .ip(["link add br-else type bridge", "link set br-else up"])
        .unwrap();
    for (network, bridge) in [("blue", "br-blue"), ("green", "br-else")] {
        let plugin = json!({
            "mode": "bridge",
            "bridge": bridge,
            "ipam": {"subnets": [{"subnet": "10.5.0.0/24"}]},
        });
        let plugin = site.cni.plugin(plugin);
        site.cni.network(network, &[plugin]).unwrap();
    }
    let blue = site.container("blue", "one", &[]);
    let beside = site.container("blue", "two", &[]);
    wait_for_answer(&blue, "@10.5.0.1 two", beside.address(0));
    let green = lab.container("other").unwrap();
    let result = attach(&site.cni, &green, "green", "eth0", "three", &[]);
    assert_eq!(
        result["ips"][0]["address"],
        blue.result["ips"][0]["address"]
    );
    for name in [
        "two",
        "three",
        "two.blue.pods.internal",
        "three.green.pods.internal",
    ] {
        wait_for("nobody's name", SOON, || {
            let answer = blue.dig(&format!("@10.5.0.1 {name}"))?;
            ensure!(status(&answer) == "NXDOMAIN", "{answer}");
            Ok(())
        });
    }
    // Who is the only one with its address is told of its own network alone.
    assert_eq!(
        beside.dig("+short @10.5.0.1 one").unwrap().trim(),
        blue.address(0)
    );
    let answer = beside.dig("@10.5.0.1 three.green.pods.internal").unwrap();
    assert_eq!(status(&answer), "NXDOMAIN", "{answer}");
    site.cni.del("green", &green).unwrap();
    wait_for_answer(&blue, "@10.5.0.1 two", beside.address(0));
}

/// As on a host that runs its resolver in a container, which asks ours for what it does not know.
#[test]
fn a_question_that_comes_round_in_a_circle_ends() {
    let lab = Lab::new().unwrap();
    let (machine, world) = (lab.machine("n1").unwrap(), lab.machine("world").unwrap());
    let site = Site::new(&lab, &machine, &world);
    let web = site.container("front", "web", &[]);
    let resolver = site.container("front", "resolver", &[]);
    let program = packages::DNSMASQ.find().unwrap();
    let mut command = resolver.container.namespace().command(program);
    command.args([
        "--keep-in-foreground",
        "--no-resolv",
        "--no-hosts",
        "--conf-file=/dev/null",
        "--pid-file=",
        "--user=root",
        &format!("--server={IPV4}"),
        "--host-record=inside.example,203.0.113.8",
    ]);
    let log = lab.directory().join("circle.log");
    let namespace = resolver.container.namespace();
    let _circle = namespace.start("dnsmasq", command, &log).unwrap();
    let told = RESOURCES.replace("192.0.2.53", resolver.address(0));
    replace(&lab.directory().join("resources/all.yaml"), &told);
    wait_for_answer(&web, &format!("@{IPV4} inside.example"), "203.0.113.8");
    let answer = web.dig(&format!("@{IPV4} outside.example")).unwrap();
    assert_eq!(status(&answer), "REFUSED", "{answer}");
    wait_for_answer(&web, &format!("@{IPV4} resolver"), resolver.address(0));
}
