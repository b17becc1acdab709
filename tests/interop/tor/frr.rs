//! FRR.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::Context as _;
use lab::Namespace;
use lab::frr::Frr;
use serde_json::Value;

use super::{Route, Sessions, Tor};

/// FRR as a ToR; the kernel of its machine gets what it learns.
pub(crate) struct FrrTor {
    pub(crate) frr: Frr,
    asn: u32,
}

impl Tor for FrrTor {
    fn start(machine: &Namespace, directory: &Path, sessions: &Sessions) -> anyhow::Result<FrrTor> {
        Ok(FrrTor {
            frr: Frr::start(machine, directory, machine.name(), &config(sessions))?,
            asn: sessions.asn,
        })
    }

    fn route(&self, prefix: &str) -> anyhow::Result<Route> {
        let text = self.frr.ask(&format!(
            "show bgp {} unicast {prefix} json",
            family(prefix)
        ))?;
        let answer: Value = serde_json::from_str(&text)?;
        let paths = answer["paths"].as_array().cloned().unwrap_or_default();
        let best = paths
            .iter()
            .find(|path| path["bestpath"]["overall"] == true)
            .with_context(|| format!("no route: {text}"))?;
        let words = |field: &str| -> Vec<String> {
            let text = best[field]["string"].as_str().unwrap_or_default();
            text.split(' ')
                .filter(|word| !word.is_empty())
                .map(str::to_lowercase)
                .collect()
        };
        let next_hops = best["nexthops"].as_array().cloned().unwrap_or_default();
        let next_hop = next_hops.iter().find(|hop| hop["scope"] != "link-local");
        Ok(Route {
            // An empty one is called so.
            as_path: best["aspath"]["string"]
                .as_str()
                .filter(|path| *path != "Local")
                .unwrap_or_default()
                .to_owned(),
            next_hop: next_hop
                .and_then(|hop| hop["ip"].as_str())
                .unwrap_or_default()
                .to_owned(),
            communities: words("community"),
            large: words("largeCommunity"),
            extended: words("extendedCommunity"),
        })
    }

    fn announce(&mut self, prefix: &str) -> anyhow::Result<()> {
        self.network(prefix, "")
    }

    fn withdraw(&mut self, prefix: &str) -> anyhow::Result<()> {
        self.network(prefix, "no ")
    }

    fn reset(&self, node: &str) -> anyhow::Result<()> {
        self.frr.ask(&format!("clear bgp {node}")).map(drop)
    }

    fn refresh(&self, node: &str) -> anyhow::Result<()> {
        self.frr.ask(&format!("clear bgp {node} soft in")).map(drop)
    }

    fn shut_down(&self, node: &str, text: &str) -> anyhow::Result<()> {
        self.configure(&format!("neighbor {node} shutdown message {text}"))
    }

    fn enable(&self, node: &str) -> anyhow::Result<()> {
        self.configure(&format!("no neighbor {node} shutdown"))
    }

    fn last_words(&self, node: &str) -> anyhow::Result<String> {
        self.frr.ask(&format!("show bgp neighbors {node} json"))
    }
}

impl FrrTor {
    fn network(&self, prefix: &str, no: &str) -> anyhow::Result<()> {
        let router = format!("router bgp {}", self.asn);
        let family = format!("address-family {} unicast", family(prefix));
        let network = format!("{no}network {prefix} route-map marked");
        self.frr
            .tell(&["configure", &router, &family, &network])
            .map(drop)
    }

    /// A line of the router's configuration.
    fn configure(&self, line: &str) -> anyhow::Result<()> {
        let router = format!("router bgp {}", self.asn);
        self.frr.tell(&["configure", &router, line]).map(drop)
    }
}

fn family(prefix: &str) -> &'static str {
    if prefix.contains(':') { "ipv6" } else { "ipv4" }
}

fn config(sessions: &Sessions) -> String {
    let mut text = format!(
        "route-map marked permit 10\n\
         \x20set community 65101:7\n\
         \x20set large-community 65101:7:7\n\
         \x20set extcommunity rt 65101:7\n\
         exit\n\
         router bgp {}\n\
         \x20bgp router-id {}\n\
         \x20no bgp ebgp-requires-policy\n\
         \x20no bgp network import-check\n\
         \x20no bgp default ipv4-unicast\n\
         \x20timers bgp 3 9\n",
        sessions.asn, sessions.router_id
    );
    for (node, asn) in &sessions.nodes {
        write!(
            text,
            " neighbor {node} remote-as {asn}\n \
             neighbor {node} timers connect 1\n \
             neighbor {node} advertisement-interval 0\n"
        )
        .unwrap();
        if sessions.extended_next_hop {
            writeln!(text, " neighbor {node} capability extended-nexthop").unwrap();
        }
    }
    for family in ["ipv4", "ipv6"] {
        writeln!(text, " address-family {family} unicast").unwrap();
        for (node, _) in &sessions.nodes {
            writeln!(text, "  neighbor {node} activate").unwrap();
        }
        text.push_str(" exit-address-family\n");
    }
    text
}
