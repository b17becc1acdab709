//! What each daemon is told: sessions to some peers who connect to it, everything accepted,
//! everything sent on, everything put into the kernel (by those that can).

use std::fmt::Write as _;

use crate::daemons::{DAEMON_ASN, Peer, Ways};

/// BIRD 2 and 3.
pub(crate) fn bird(peers: &[Peer], ways: Ways) -> String {
    let merge = if several(ways) {
        "merge paths on; "
    } else {
        ""
    };
    let (protocol, bfd) = match ways {
        Ways::SeveralWithBfd => (
            "protocol bfd { interface \"link*\" { interval 100 ms; multiplier 3; }; }\n",
            "  bfd on;\n",
        ),
        _ => ("", ""),
    };
    let mut text = format!(
        "log stderr all;\n\
         router id 192.0.2.1;\n\
         protocol device {{}}\n{protocol}\
         protocol kernel k4 {{ {merge}ipv4 {{ import none; export all; }}; }}\n\
         protocol kernel k6 {{ {merge}ipv6 {{ import none; export all; }}; }}\n",
    );
    for (index, peer) in peers.iter().enumerate() {
        text += &format!(
            "protocol bgp p{index} {{\n  local as {DAEMON_ASN};\n  neighbor {} as {};\n  passive;\n{bfd}  \
             ipv4 {{ import all; export all; next hop self; }};\n  \
             ipv6 {{ import all; export all; next hop self; }};\n}}\n",
            peer.address, peer.asn
        );
    }
    text
}

fn several(ways: Ways) -> bool {
    matches!(ways, Ways::Several | Ways::SeveralWithBfd)
}

/// bgpd of FRR; zebra needs no configuration.
pub(crate) fn frr(peers: &[Peer], ways: Ways) -> String {
    let paths = if several(ways) { 8 } else { 1 };
    let mut text = format!(
        "log stdout errors\n\
         router bgp {DAEMON_ASN}\n \
         bgp router-id 192.0.2.1\n \
         no bgp ebgp-requires-policy\n \
         bgp bestpath as-path multipath-relax\n"
    );
    for Peer { asn, address } in peers {
        text += &format!(
            " neighbor {address} remote-as {asn}\n neighbor {address} passive\n neighbor {address} timers 60 180\n"
        );
    }
    for family in ["ipv4", "ipv6"] {
        let _ = writeln!(
            text,
            " address-family {family} unicast\n  maximum-paths {paths}"
        );
        for Peer { address, .. } in peers {
            let _ = writeln!(text, "  neighbor {address} activate");
        }
        text += " exit-address-family\n";
    }
    text
}

/// GoBGP, and RustyBGP, which reads the same. They install no routes.
pub(crate) fn gobgp(peers: &[Peer]) -> String {
    let mut text = format!(
        "[global.config]\n  as = {DAEMON_ASN}\n  router-id = \"192.0.2.1\"\n  port = 179\n"
    );
    for Peer { asn, address } in peers {
        text += &format!(
            "[[neighbors]]\n  \
             [neighbors.config]\n    neighbor-address = \"{address}\"\n    peer-as = {asn}\n  \
             [neighbors.transport.config]\n    passive-mode = true\n"
        );
        for family in ["ipv4-unicast", "ipv6-unicast"] {
            text += &format!(
                "  [[neighbors.afi-safis]]\n    [neighbors.afi-safis.config]\n      afi-safi-name = \"{family}\"\n"
            );
        }
    }
    text
}

/// OpenBGPD, whose Linux port installs no routes; `socket` is where its own control program asks.
pub(crate) fn openbgpd(peers: &[Peer], socket: &std::path::Path) -> String {
    let mut text = format!(
        "AS {DAEMON_ASN}\nrouter-id 192.0.2.1\nfib-update no\nsocket \"{}\"\n",
        socket.display()
    );
    for Peer { asn, address } in peers {
        text += &format!(
            "neighbor {address} {{\n  remote-as {asn}\n  passive\n  announce IPv4 unicast\n  announce IPv6 unicast\n}}\n"
        );
    }
    text + "allow from any\nallow to any\n"
}

/// This program, as files of resources.
pub(crate) fn routeshare(peers: &[Peer], ways: Ways) -> String {
    let paths = if several(ways) { 8 } else { 1 };
    let mut text = format!(
        "apiVersion: routeshare.io/v1alpha1\n\
         kind: Fabric\n\
         metadata: {{name: bench}}\n\
         spec:\n  asn: {{value: {DAEMON_ASN}}}\n  decision: {{maxPaths: {paths}, backupPaths: {}}}\n\
         ---\n\
         apiVersion: routeshare.io/v1alpha1\n\
         kind: Node\n\
         metadata: {{name: bench}}\n\
         spec: {{routerId: 192.0.2.1, addresses: [192.0.2.1]}}\n\
         ---\n\
         apiVersion: routeshare.io/v1alpha1\n\
         kind: RoutePolicy\n\
         metadata: {{name: all}}\n\
         spec:\n  rules:\n    - {{name: all, action: Accept}}\n",
        ways == Ways::Backup
    );
    let bfd = match ways {
        Ways::SeveralWithBfd => "  bfd: {minTxMillis: 100, minRxMillis: 100}\n",
        _ => "",
    };
    for (index, peer) in peers.iter().enumerate() {
        text += &format!(
            "---\n\
             apiVersion: routeshare.io/v1alpha1\n\
             kind: Peer\n\
             metadata: {{name: p{index}}}\n\
             spec:\n  address: {}\n  remoteAsn: {}\n  passive: true\n  import: [all]\n  export: [all]\n{bfd}",
            peer.address, peer.asn
        );
    }
    text
}
