//! BIRD 2.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::Path;

use anyhow::Context as _;
use lab::Namespace;
use lab::bird::Bird;

use super::{Route, Sessions, Tor};

/// BIRD as a ToR; the kernel of its machine gets what it learns.
pub(crate) struct BirdTor {
    pub(crate) bird: Bird,
    sessions: Sessions,
    announced: BTreeSet<String>,
}

impl Tor for BirdTor {
    fn start(
        machine: &Namespace,
        directory: &Path,
        sessions: &Sessions,
    ) -> anyhow::Result<BirdTor> {
        let config = config(sessions, &BTreeSet::new());
        Ok(BirdTor {
            bird: Bird::start(machine, directory, machine.name(), &config)?,
            sessions: sessions.clone(),
            announced: BTreeSet::new(),
        })
    }

    fn route(&self, prefix: &str) -> anyhow::Result<Route> {
        let text = self.bird.ask(&format!("show route {prefix} primary all"));
        let text = match text {
            Err(error) if format!("{error:#}").contains("not found") => {
                anyhow::bail!("no route: {error:#}")
            }
            text => text?,
        };
        let field = |name: &str| {
            let mut lines = text.lines();
            let line = lines.find_map(|line| line.trim().strip_prefix(name))?;
            Some(line.trim_start_matches(':').trim().to_owned())
        };
        // (65101,7) (65101, 7, 7) (rt, 65101, 7)
        let communities = |name: &str| -> Vec<String> {
            let list = field(name).unwrap_or_default().replace([' ', '('], "");
            list.split_terminator(')')
                .map(|community| community.replace(',', ":"))
                .collect()
        };
        Ok(Route {
            as_path: field("BGP.as_path").with_context(|| format!("no route: {text}"))?,
            next_hop: field("BGP.next_hop").unwrap_or_default(),
            communities: communities("BGP.community"),
            large: communities("BGP.large_community"),
            extended: communities("BGP.ext_community"),
        })
    }

    fn announce(&mut self, prefix: &str) -> anyhow::Result<()> {
        self.announced.insert(prefix.to_owned());
        self.bird
            .configure(&config(&self.sessions, &self.announced))
    }

    fn withdraw(&mut self, prefix: &str) -> anyhow::Result<()> {
        self.announced.remove(prefix);
        self.bird
            .configure(&config(&self.sessions, &self.announced))
    }

    fn reset(&self, node: &str) -> anyhow::Result<()> {
        self.bird
            .tell(&format!("restart {}", self.protocol(node)))
            .map(drop)
    }

    fn refresh(&self, node: &str) -> anyhow::Result<()> {
        self.bird
            .tell(&format!("reload in {}", self.protocol(node)))
            .map(drop)
    }

    fn shut_down(&self, node: &str, text: &str) -> anyhow::Result<()> {
        let protocol = self.protocol(node);
        self.bird
            .tell(&format!("disable {protocol} \"{text}\""))
            .map(drop)
    }

    fn enable(&self, node: &str) -> anyhow::Result<()> {
        self.bird
            .tell(&format!("enable {}", self.protocol(node)))
            .map(drop)
    }

    fn last_words(&self, node: &str) -> anyhow::Result<String> {
        self.bird
            .ask(&format!("show protocols all {}", self.protocol(node)))
    }
}

impl BirdTor {
    /// The name of the session with a node.
    fn protocol(&self, node: &str) -> String {
        let mut nodes = self.sessions.nodes.iter();
        let index = nodes.position(|(address, _)| *address == node);
        format!("node{}", index.unwrap_or(usize::MAX))
    }
}

fn config(sessions: &Sessions, announced: &BTreeSet<String>) -> String {
    let mut text = format!(
        "router id {};\n\
         protocol device {{}}\n\
         protocol direct {{ ipv4; ipv6; }}\n\
         protocol kernel {{ ipv4 {{ export where source = RTS_BGP; }}; }}\n\
         protocol kernel {{ ipv6 {{ export where source = RTS_BGP; }}; }}\n",
        sessions.router_id
    );
    for (family, is_it) in [("ipv4", false), ("ipv6", true)] {
        writeln!(text, "protocol static announced{family} {{ {family};").unwrap();
        for prefix in announced
            .iter()
            .filter(|prefix| prefix.contains(':') == is_it)
        {
            writeln!(
                text,
                "  route {prefix} blackhole {{ bgp_community.add((65101,7)); \
                 bgp_large_community.add((65101,7,7)); bgp_ext_community.add((rt,65101,7)); }};"
            )
            .unwrap();
        }
        text.push_str("}\n");
    }
    let extended = if sessions.extended_next_hop {
        "extended next hop yes;"
    } else {
        ""
    };
    let channel = "import all; export where source ~ [ RTS_STATIC, RTS_BGP ];";
    for (index, (address, asn)) in sessions.nodes.iter().enumerate() {
        writeln!(
            text,
            "protocol bgp node{index} {{ local as {local}; neighbor {address} as {asn};\n  \
             hold time 9; connect retry time 1; connect delay time 1; error wait time 1, 2;\n  \
             enable extended messages yes;\n  \
             ipv4 {{ {extended} {channel} }};\n  \
             ipv6 {{ {channel} }};\n}}",
            local = sessions.asn,
        )
        .unwrap();
    }
    text
}
