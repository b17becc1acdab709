//! GoBGP, which installs no routes.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::Context as _;
use lab::Namespace;
use lab::gobgp::Gobgp;
use serde_json::Value;

use super::{Route, Sessions, Tor};

/// GoBGP as a ToR.
pub(crate) struct GobgpTor {
    gobgp: Gobgp,
}

impl Tor for GobgpTor {
    fn start(
        machine: &Namespace,
        directory: &Path,
        sessions: &Sessions,
    ) -> anyhow::Result<GobgpTor> {
        Ok(GobgpTor {
            gobgp: Gobgp::start(machine, directory, machine.name(), &config(sessions))?,
        })
    }

    fn route(&self, prefix: &str) -> anyhow::Result<Route> {
        let text = self
            .gobgp
            .ask(&format!("global rib {prefix} {} -j", family(prefix)))?;
        // {"PREFIX": [PATH, …]}, the best path first; no JSON at all when there is none.
        let answer: Value =
            serde_json::from_str(&text).with_context(|| format!("no route: {text}"))?;
        let attributes = answer[prefix][0]["attrs"]
            .as_array()
            .with_context(|| format!("no route: {text}"))?;
        let attribute = |kind: u64| {
            attributes
                .iter()
                .find(|attribute| attribute["type"] == kind)
        };
        let list = |kind: u64, field: &str| -> Vec<Value> {
            let list = attribute(kind).and_then(|attribute| attribute[field].as_array());
            list.cloned().unwrap_or_default()
        };
        let segments = list(2, "as_paths");
        let numbers = segments
            .iter()
            .flat_map(|segment| segment["asns"].as_array());
        let numbers: Vec<String> = numbers.flatten().map(Value::to_string).collect();
        let next_hop = attribute(14).or_else(|| attribute(3));
        Ok(Route {
            as_path: numbers.join(" "),
            next_hop: next_hop
                .and_then(|attribute| attribute["nexthop"].as_str())
                .unwrap_or_default()
                .to_owned(),
            communities: list(8, "communities")
                .iter()
                .filter_map(Value::as_u64)
                .map(|number| format!("{}:{}", number >> 16, number & 0xffff))
                .collect(),
            large: list(32, "value")
                .iter()
                .map(|one| format!("{}:{}:{}", one["ASN"], one["LocalData1"], one["LocalData2"]))
                .collect(),
            extended: list(16, "value")
                .iter()
                .filter(|one| one["subtype"] == 2)
                .map(|one| format!("rt:{}", one["value"].as_str().unwrap_or_default()))
                .collect(),
        })
    }

    fn announce(&mut self, prefix: &str) -> anyhow::Result<()> {
        let next_hop = if prefix.contains(':') {
            "fd00:1::1"
        } else {
            "10.1.0.1"
        };
        let family = family(prefix);
        let line = format!(
            "global rib add {prefix} nexthop {next_hop} community 65101:7 \
             large-community 65101:7:7 rt 65101:7 {family}"
        );
        self.gobgp.ask(&line).map(drop)
    }

    fn withdraw(&mut self, prefix: &str) -> anyhow::Result<()> {
        let line = format!("global rib del {prefix} {}", family(prefix));
        self.gobgp.ask(&line).map(drop)
    }

    // Its `reset` idles for thirty seconds, its `disable` keeps the text to itself, and its
    // `shutdown` comes back after five seconds.
    fn reset(&self, node: &str) -> anyhow::Result<()> {
        self.shut_down(node, "reset")
    }

    fn refresh(&self, _node: &str) -> anyhow::Result<()> {
        anyhow::bail!("GoBGP asks nobody: it keeps what it received")
    }

    fn shut_down(&self, node: &str, text: &str) -> anyhow::Result<()> {
        let line = format!("neighbor {node} shutdown --reason {text}");
        self.gobgp.ask(&line).map(drop)
    }

    fn enable(&self, _node: &str) -> anyhow::Result<()> {
        Ok(())
    }

    fn last_words(&self, _node: &str) -> anyhow::Result<String> {
        Ok(self.gobgp.log_tail())
    }
}

fn family(prefix: &str) -> &'static str {
    if prefix.contains(':') {
        "-a ipv6"
    } else {
        "-a ipv4"
    }
}

fn config(sessions: &Sessions) -> String {
    let mut text = format!(
        "[global.config]\nas = {}\nrouter-id = \"{}\"\nport = 179\n",
        sessions.asn, sessions.router_id
    );
    for (node, asn) in &sessions.nodes {
        write!(
            text,
            "[[neighbors]]\n\
             [neighbors.config]\nneighbor-address = \"{node}\"\npeer-as = {asn}\n\
             [neighbors.timers.config]\nhold-time = 9\nkeepalive-interval = 3\n\
             connect-retry = 1\nidle-hold-time-after-reset = 1\n"
        )
        .unwrap();
        for family in ["ipv4-unicast", "ipv6-unicast"] {
            write!(
                text,
                "[[neighbors.afi-safis]]\n[neighbors.afi-safis.config]\n\
                 afi-safi-name = \"{family}\"\n"
            )
            .unwrap();
        }
    }
    text
}
