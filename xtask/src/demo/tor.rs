//! What runs on the ToR routers: our own speaker, BIRD or FRR, as `docs/peering.md` configures them.

use std::fs;
use std::path::Path;

use clap::ValueEnum;
use lab::bird::Bird;
use lab::frr::Frr;
use lab::{Daemon, Namespace};

use super::programs::{Programs, replace};
use super::topology::{NEWCOMER, Rack, SPINE_ASN};

/// What the ToR routers are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kind {
    /// Our own speaker, standalone
    #[default]
    Routeshare,
    /// BIRD 2
    Bird,
    /// FRR
    Frr,
}

impl Kind {
    /// What the picture calls it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Kind::Routeshare => "routeshare",
            Kind::Bird => "BIRD",
            Kind::Frr => "FRR",
        }
    }
}

/// Starts the router of a rack and lets it run on.
pub(crate) fn start(
    kind: Kind,
    rack: Rack,
    machine: &Namespace,
    programs: &Programs,
) -> anyhow::Result<()> {
    let directory = programs.directory();
    match kind {
        Kind::Routeshare => {
            let resources = programs.copy_example(&format!("tor/{}", rack.tor()))?;
            if rack.name == NEWCOMER.rack().name {
                expect_newcomer(&resources.join("tor.yaml"))?;
            }
            programs.standalone(machine, &rack.tor(), &resources)
        }
        Kind::Bird => {
            let bird = Bird::start(machine, directory, &rack.tor(), &bird(rack))?;
            Daemon::leave_running(bird.into_daemon());
            Ok(())
        }
        Kind::Frr => {
            let frr = Frr::start(machine, directory, &rack.tor(), &frr(rack))?;
            frr.into_daemons()
                .into_iter()
                .for_each(Daemon::leave_running);
            Ok(())
        }
    }
}

/// The router waits for the node that will come, as a provisioned port does; BIRD and FRR take any
/// node of their network.
fn expect_newcomer(file: &Path) -> anyhow::Result<()> {
    let mut text = fs::read_to_string(file)?;
    text += &format!(
        "---\napiVersion: routeshare.io/v1alpha1\nkind: Peer\nmetadata: {{name: {}, labels: {{role: \
         node}}}}\nspec: {{address: {}, remoteAsn: {}, passive: true, import: [subnets], export: \
         [subnets]}}\n",
        NEWCOMER.name,
        NEWCOMER.addresses().0,
        NEWCOMER.rack().node_asn
    );
    replace(file, &text)
}

fn bird(rack: Rack) -> String {
    let (gateway4, gateway6) = rack.gateway();
    let ((up4, up6), (spine4, _)) = rack.uplink();
    let network = format!(
        "{}/24",
        gateway4.to_string().trim_end_matches('1').to_owned() + "0"
    );
    let (asn, nodes) = (rack.tor_asn, rack.node_asn);
    format!(
        "\
router id {gateway4};
log stderr all;
protocol device {{ scan time 2; }}
protocol kernel kernel4 {{ ipv4 {{ export all; }}; merge paths on limit 64; }}
protocol kernel kernel6 {{ ipv6 {{ export all; }}; merge paths on limit 64; }}
protocol direct {{ ipv4; ipv6; }}

filter subnets_4 {{ if net ~ [ 10.64.0.0/16{{24,24}} ] then accept; reject; }}
filter subnets_6 {{ if net ~ [ fd00:64::/48{{64,64}} ] then accept; reject; }}

template bgp session {{
    local as {asn};
    direct;
    hold time 9;
    connect retry time 1; connect delay time 1; error wait time 1, 5;
}}
protocol bgp nodes from session {{
    local {gateway4} as {asn};
    neighbor range {network} as {nodes};
    ipv4 {{ import filter subnets_4; export filter subnets_4; import limit 32 action restart; next hop self; }};
    ipv6 {{ import filter subnets_6; export filter subnets_6; import limit 32 action restart; next hop address {gateway6}; }};
}}
protocol bgp spine from session {{
    local {up4} as {asn};
    neighbor {spine4} as {SPINE_ASN};
    ipv4 {{ import filter subnets_4; export filter subnets_4; next hop self; }};
    ipv6 {{ import filter subnets_6; export filter subnets_6; next hop address {up6}; }};
}}
"
    )
}

fn frr(rack: Rack) -> String {
    let (gateway4, gateway6) = rack.gateway();
    let ((_, up6), (spine4, _)) = rack.uplink();
    let network = format!(
        "{}/24",
        gateway4.to_string().trim_end_matches('1').to_owned() + "0"
    );
    let (asn, nodes) = (rack.tor_asn, rack.node_asn);
    format!(
        "\
log stdout
router bgp {asn}
 bgp router-id {gateway4}
 bgp bestpath as-path multipath-relax
 timers bgp 3 9
 neighbor NODES peer-group
 neighbor NODES remote-as {nodes}
 bgp listen range {network} peer-group NODES
 bgp listen limit 64
 neighbor {spine4} remote-as {SPINE_ASN}
 neighbor {spine4} timers connect 1
 address-family ipv4 unicast
  neighbor NODES route-map SUBNETS-4 in
  neighbor NODES route-map SUBNETS-4 out
  neighbor NODES maximum-prefix 32
  neighbor {spine4} route-map SUBNETS-4 in
  neighbor {spine4} route-map SUBNETS-4 out
  maximum-paths 64
 exit-address-family
 address-family ipv6 unicast
  neighbor NODES activate
  neighbor NODES route-map SUBNETS-6 in
  neighbor NODES route-map TO-NODES-6 out
  neighbor NODES maximum-prefix 32
  neighbor {spine4} activate
  neighbor {spine4} route-map SUBNETS-6 in
  neighbor {spine4} route-map TO-SPINE-6 out
  maximum-paths 64
 exit-address-family
!
ip prefix-list SUBNETS-4 seq 5 permit 10.64.0.0/16 ge 24 le 24
ipv6 prefix-list SUBNETS-6 seq 5 permit fd00:64::/48 ge 64 le 64
route-map SUBNETS-4 permit 10
 match ip address prefix-list SUBNETS-4
route-map SUBNETS-6 permit 10
 match ipv6 address prefix-list SUBNETS-6
route-map TO-NODES-6 permit 10
 match ipv6 address prefix-list SUBNETS-6
 set ipv6 next-hop global {gateway6}
route-map TO-SPINE-6 permit 10
 match ipv6 address prefix-list SUBNETS-6
 set ipv6 next-hop global {up6}
"
    )
}
