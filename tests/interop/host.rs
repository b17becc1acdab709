//! Our own side: a machine with a speaker, and the resources it is started with.

use std::fmt::Write as _;
use std::time::Duration;

use lab::speaker::Speaker;
use lab::{Lab, Namespace, wait_for};
use serde_json::Value;

/// Long enough for anything that comes true at all.
pub(crate) const SOON: Duration = Duration::from_secs(30);

/// The resources of one host. What is not said has the defaults of [`Host::new`].
#[derive(Clone, Debug)]
pub(crate) struct Host {
    pub(crate) name: &'static str,
    pub(crate) asn: u32,
    pub(crate) addresses: Vec<&'static str>,
    pub(crate) subnets: Vec<&'static str>,
    pub(crate) peers: Vec<Peer>,
    /// Rules of the policy that every peer's routes pass.
    pub(crate) import: String,
    /// Rules of the policy that every route to a peer passes.
    pub(crate) export: String,
    /// `spec` of the Advertisement.
    pub(crate) advertisement: String,
    /// More of the Fabric's `spec`.
    pub(crate) fabric: String,
}

/// One session of a host.
#[derive(Clone, Debug)]
pub(crate) struct Peer {
    pub(crate) name: &'static str,
    pub(crate) address: &'static str,
    pub(crate) asn: u32,
    /// More of the Peer's `spec`, such as `passive: true`.
    pub(crate) more: &'static str,
}

impl Peer {
    pub(crate) fn new(name: &'static str, address: &'static str, asn: u32) -> Peer {
        Peer {
            name,
            address,
            asn,
            more: "",
        }
    }

    pub(crate) fn with(mut self, more: &'static str) -> Peer {
        self.more = more;
        self
    }
}

impl Host {
    /// A host that accepts everything, announces its subnets, and passes nothing on.
    pub(crate) fn new(name: &'static str, asn: u32) -> Host {
        Host {
            name,
            asn,
            addresses: Vec::new(),
            subnets: Vec::new(),
            peers: Vec::new(),
            import: "    - {name: everything, action: Accept}\n".into(),
            export: "    - {name: our own, match: {sources: [Local]}, action: Accept}\n".into(),
            advertisement: "{nodeSubnets: {}}".into(),
            fabric: String::new(),
        }
    }

    /// The resources, as a file has them.
    pub(crate) fn yaml(&self) -> String {
        let quoted = |list: &[&str]| format!("{list:?}");
        let mut text = format!(
            "apiVersion: routeshare.io/v1alpha1\n\
             kind: Fabric\n\
             metadata: {{name: fabric}}\n\
             spec:\n  asn: {{value: {asn}}}\n  \
             timers: {{holdSeconds: 9, keepaliveSeconds: 3, connectRetrySeconds: 1}}\n{fabric}\
             ---\n\
             apiVersion: routeshare.io/v1alpha1\n\
             kind: Node\n\
             metadata: {{name: {name}}}\n\
             spec: {{addresses: {addresses}, subnets: {subnets}}}\n\
             ---\n\
             apiVersion: routeshare.io/v1alpha1\n\
             kind: Advertisement\n\
             metadata: {{name: own}}\n\
             spec: {advertisement}\n",
            asn = self.asn,
            fabric = self.fabric,
            name = self.name,
            addresses = quoted(&self.addresses),
            subnets = quoted(&self.subnets),
            advertisement = self.advertisement,
        );
        for (name, rules) in [("in", &self.import), ("out", &self.export)] {
            write!(
                text,
                "---\napiVersion: routeshare.io/v1alpha1\nkind: RoutePolicy\n\
                 metadata: {{name: {name}}}\nspec:\n  rules:\n{rules}"
            )
            .unwrap();
        }
        for peer in &self.peers {
            write!(
                text,
                "---\napiVersion: routeshare.io/v1alpha1\nkind: Peer\nmetadata: {{name: {name}}}\n\
                 spec:\n  address: \"{address}\"\n  remoteAsn: {asn}\n  import: [in]\n  \
                 export: [out]\n{more}",
                name = peer.name,
                address = peer.address,
                asn = peer.asn,
                more = peer
                    .more
                    .lines()
                    .map(|line| format!("  {line}\n"))
                    .collect::<String>(),
            )
            .unwrap();
        }
        text
    }

    /// Starts its speaker on a machine.
    pub(crate) fn start<'a>(&self, lab: &Lab, machine: &'a Namespace) -> Speaker<'a> {
        Speaker::start(machine, lab.directory(), self.name, &self.yaml()).unwrap()
    }
}

/// Waits until the kernel's route for a prefix (`ip -4` or `-6 route show`) is as asked, and gives it.
#[track_caller]
pub(crate) fn wait_for_kernel(
    machine: &Namespace,
    prefix: &str,
    what: &str,
    right: impl Fn(&str) -> bool,
) -> String {
    wait_for(
        &format!("the kernel's route for {prefix} to be {what}"),
        SOON,
        || {
            let route = kernel_route(machine, prefix)?;
            anyhow::ensure!(right(&route), "{route:?}");
            Ok(route)
        },
    )
}

/// What `ip route show` prints for a prefix, in all tables' main one; empty when there is none.
pub(crate) fn kernel_route(machine: &Namespace, prefix: &str) -> anyhow::Result<String> {
    let family = if prefix.contains(':') { "-6" } else { "-4" };
    machine.run(&format!("ip {family} -d route show {prefix}"))
}

/// A number of `show peers NAME`, by its path such as `received.update`.
pub(crate) fn number(peer: &Value, path: &str) -> u64 {
    path.split('.')
        .fold(peer, |value, key| &value[key])
        .as_u64()
        .unwrap_or(0)
}
