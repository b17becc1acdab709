//! What a container runtime does for a pod's network: it waits for the network configuration that the
//! speaker writes, and calls the plugins in it. <https://www.cni.dev/docs/spec/>

use std::fs;
use std::io::Write as _;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use lab::{Namespace, program, try_wait_for};
use serde_json::Value;

/// The runtime of one node.
pub(crate) struct Runtime<'a> {
    machine: &'a Namespace,
    configuration: Value,
}

/// Where a node's runtime looks for network configurations, as `/etc/cni/net.d`.
pub(crate) fn conf_dir(directory: &Path, node: &str) -> PathBuf {
    directory.join("cni").join(node).join("net.d")
}

/// Where its plugin and its speaker keep what they share, as `/var/lib/routeshare/cni`.
pub(crate) fn data_dir(directory: &Path, node: &str) -> PathBuf {
    directory.join("cni").join(node).join("data")
}

impl<'a> Runtime<'a> {
    /// Waits for the network configuration: from then on the node takes pods.
    pub(crate) fn wait(
        machine: &'a Namespace,
        directory: &Path,
        node: &str,
        patience: Duration,
        check: impl Fn() -> anyhow::Result<()>,
    ) -> anyhow::Result<Runtime<'a>> {
        let file = conf_dir(directory, node).join("10-routeshare.conflist");
        let what = format!("{node}'s speaker to write {}", file.display());
        let configuration = try_wait_for(&what, patience, || {
            check()?;
            Ok(serde_json::from_slice(&fs::read(&file)?)?)
        })?;
        Ok(Runtime {
            machine,
            configuration,
        })
    }

    /// Calls the plugin for a pod (ADD), and gives the addresses that the pod has then, and the resolv.conf
    /// that a runtime makes of the result for it.
    pub(crate) fn attach(
        &self,
        name: &str,
        pod: &Namespace,
    ) -> anyhow::Result<(Vec<IpAddr>, String)> {
        let plugins = self.configuration["plugins"].as_array();
        let [plugin] = plugins.map(Vec::as_slice).unwrap_or_default() else {
            bail!("the demo chains no plugins: {:#}", self.configuration);
        };
        // What a runtime hands over of a list.
        let mut input = plugin.clone();
        input["cniVersion"] = "1.1.0".into();
        input["name"] = self.configuration["name"].clone();
        let kind = plugin["type"].as_str().unwrap_or_default();
        let mut child = self
            .machine
            .command(program(kind)?)
            .env("CNI_COMMAND", "ADD")
            .env("CNI_CONTAINERID", name)
            .env("CNI_NETNS", pod.path())
            .env("CNI_IFNAME", "eth0")
            .env("CNI_PATH", program(kind)?.parent().unwrap_or("/".as_ref()))
            .env("CNI_ARGS", format!("IgnoreUnknown=1;K8S_POD_NAME={name}"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {kind}"))?;
        let mut stdin = child.stdin.take().context("it has no input")?;
        stdin.write_all(input.to_string().as_bytes())?;
        drop(stdin);
        let output = child.wait_with_output()?;
        let text = String::from_utf8_lossy(&output.stdout);
        ensure!(
            output.status.success(),
            "{kind} did not attach {name}: {text}{}",
            String::from_utf8_lossy(&output.stderr)
        );
        let result: Value = serde_json::from_str(&text)?;
        let ips = result["ips"].as_array().into_iter().flatten();
        let addresses = ips.map(|ip| {
            let address = ip["address"].as_str().unwrap_or_default();
            let (address, _) = address.split_once('/').unwrap_or_default();
            address.parse().with_context(|| format!("no address: {ip}"))
        });
        let words = |field: &str| {
            let list = result["dns"][field].as_array().into_iter().flatten();
            list.filter_map(|it| it.as_str().map(str::to_owned))
                .collect::<Vec<_>>()
        };
        let servers = words("nameservers").into_iter();
        let mut resolv_conf: String = servers.map(|it| format!("nameserver {it}\n")).collect();
        resolv_conf += &format!("search {}\n", words("search").join(" "));
        Ok((addresses.collect::<anyhow::Result<_>>()?, resolv_conf))
    }
}
