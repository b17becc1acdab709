//! A speaker that is killed while it works.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use lab::bird::Bird;
use lab::{Lab, Namespace, wait_for};

use crate::each_daemon::{NODE, cabled, host};
use crate::host::SOON;

/// Prefixes of BIRD's configuration, by number.
fn prefix(number: usize) -> String {
    match number % 2 {
        0 => format!("10.{}.{}.0/24", 128 + number / 256, number % 256),
        _ => format!("fd00:77:{number:x}::/64"),
    }
}

fn config(announced: impl Iterator<Item = usize>) -> String {
    let (ipv4, ipv6): (Vec<_>, Vec<_>) = announced.partition(|number| number % 2 == 0);
    let mut text = format!(
        "router id 10.1.0.1;\nprotocol device {{}}\n\
         protocol bgp node {{ local as 65101; neighbor {NODE} as 65201; connect delay time 1;\n\
         error wait time 1, 1; ipv4 {{ import all; export where source = RTS_STATIC; }};\n\
         ipv6 {{ import all; export where source = RTS_STATIC; }}; }}\n"
    );
    for (family, numbers) in [("ipv4", ipv4), ("ipv6", ipv6)] {
        writeln!(text, "protocol static {{ {family};").unwrap();
        for number in numbers {
            writeln!(text, "route {} blackhole;", prefix(number)).unwrap();
        }
        text.push_str("}\n");
    }
    text
}

/// Prefixes of all routes with our protocol number but those of our own subnets.
fn learned(node: &Namespace) -> anyhow::Result<BTreeSet<String>> {
    let text = node.run("ip route show proto 149")? + &node.run("ip -6 route show proto 149")?;
    let routes = text.lines().filter(|line| line.starts_with(['1', 'f']));
    Ok(routes
        .filter_map(|line| line.split(' ').next().map(str::to_owned))
        .collect())
}

#[test]
fn kills_while_routes_come_and_go_end_in_exactly_the_routes_that_are_announced() {
    const ALL: usize = 16_000;
    let lab = Lab::new().unwrap();
    let (tor, node) = cabled(&lab);
    let bird = Bird::start(&tor, lab.directory(), "tor", &config(0..ALL)).unwrap();
    let mut speaker = host().start(&lab, &node);
    for round in 1..=4 {
        // In the midst of the installation, each time a little later.
        wait_for("some routes", SOON, || {
            let routes = learned(&node)?.len();
            anyhow::ensure!(routes >= round * ALL / 8, "{routes}");
            Ok(())
        });
        speaker.kill().unwrap();
        let left = learned(&node).unwrap().len();
        assert!(left >= round * ALL / 8, "{left} in round {round}");
        // Meanwhile others come and go.
        let announced = (0..ALL).filter(|number| number % (round + 2) != 0);
        bird.configure(&config(announced)).unwrap();
        speaker.start_again().unwrap();
    }
    let announced: BTreeSet<String> = (0..ALL)
        .filter(|number| number % 6 != 0)
        .map(prefix)
        .collect();
    wait_for("exactly what is announced", SOON, || {
        let there = learned(&node)?;
        anyhow::ensure!(
            there == announced,
            "{} too many, {} missing",
            there.difference(&announced).count(),
            announced.difference(&there).count()
        );
        Ok(())
    });
    // One way out for each family, and nothing left over of those before.
    let hops = node.run("ip nexthop show proto 149").unwrap();
    assert_eq!(
        hops.lines().count(),
        4,
        "a member and a group for each family:\n{hops}"
    );
}
