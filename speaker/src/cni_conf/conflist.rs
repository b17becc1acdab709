//! The network configuration: our plugin, those that come after it, and what others have added.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::Wanted;

/// The network's name, by which the plugin keeps its leases.
pub(super) const NETWORK: &str = "routeshare";

/// Plugins that we write down, and so also those that we take out again.
const OURS: [&str; 4] = [::cni::PLUGIN, "portmap", "bandwidth", "tuning"];

/// What is to stand in the file that now says `found`. Plugins that others have put behind ours, as
/// service meshes do, stay.
///
/// Runtimes that know the list `cniVersions` (CNI specification 1.1) take the newest one they speak;
/// others take `cniVersion`.
pub(super) fn wanted(wanted: &Wanted, data_dir: &Path, found: Option<&Value>) -> Value {
    let mut own = json!({
        "type": ::cni::PLUGIN,
        "mode": "routed",
        "capabilities": {"ips": true, "mac": true, "aliases": true},
    });
    if data_dir != Path::new(::cni::DATA_DIR) {
        own["dataDir"] = json!(data_dir.display().to_string());
    }
    let chained = wanted.chained.iter().map(|name| chained(name, wanted));
    let others = found.and_then(|found| found["plugins"].as_array());
    let others = others.into_iter().flatten().filter(|plugin| {
        let kind = plugin["type"].as_str();
        kind.is_some_and(|kind| !OURS.contains(&kind))
    });
    let plugins: Vec<Value> = [own]
        .into_iter()
        .chain(chained)
        .chain(others.cloned())
        .collect();
    json!({
        "cniVersion": "1.0.0",
        "cniVersions": ["0.4.0", "1.0.0", "1.1.0"],
        "name": NETWORK,
        "plugins": plugins,
    })
}

fn chained(name: &str, wanted: &Wanted) -> Value {
    match name {
        // What comes from the node itself or from the pod itself has to come back the same way.
        "portmap" => {
            json!({"type": name, "capabilities": {"portMappings": true}, "snat": true})
        }
        "bandwidth" => json!({"type": name, "capabilities": {"bandwidth": true}}),
        "tuning" => {
            // Not the MAC address that the runtime asks for: our plugin gives it. Changed afterwards, by switching
            // the interface off and on, it would cost the container its permanent neighbours.
            let mut tuning = json!({"type": name});
            if !wanted.sysctls.is_empty() {
                let sysctls = wanted.sysctls.iter();
                let sysctls = sysctls.map(|(name, value)| (name.clone(), json!(value)));
                tuning["sysctl"] = Value::Object(sysctls.collect::<Map<_, _>>());
            }
            tuning
        }
        // A controller newer than us says so.
        name => json!({"type": name}),
    }
}
