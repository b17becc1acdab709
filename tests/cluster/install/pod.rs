//! A container of a workload's pod, run by hand as kubelet and a container runtime would run it: the
//! manifest's own arguments and environment, its user and its capabilities, a root file system that
//! cannot be written, and of the host's /etc, /opt, /run and /var/lib only what it mounts. (No seccomp profile:
//! that comes with a runtime.)

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use lab::{Daemon, Lab, Namespace, program};
use serde_json::Value;

/// What kubelet puts into `/run/secrets`, `/etc/routeshare` and so on: paths and contents.
pub(super) type Files<'a> = &'a [(&'a str, &'a str)];

/// Runs `template`'s only container on a machine. `variables` are what kubelet knows beside the
/// manifest: addresses of Services, and fields of the pod by their paths (`status.podIP`).
pub(super) fn run(
    lab: &Lab,
    machine: &Namespace,
    pod: &str,
    template: &Value,
    variables: &[(&str, &str)],
    files: Files<'_>,
) -> Daemon {
    let spec = &template["spec"];
    let container = &spec["containers"][0];
    assert_eq!(spec["containers"].as_array().unwrap().len(), 1, "{spec}");
    let command = command(lab, machine, pod, (spec, container), variables, files);
    let log = lab.directory().join(format!("{pod}.log"));
    machine.start(pod, command, &log).unwrap()
}

/// What a container of the pod sees of the host at `path`.
pub(super) fn on_host(lab: &Lab, pod: &str, path: &str) -> PathBuf {
    let within = path.trim_start_matches('/');
    lab.directory().join(pod).join("host").join(within)
}

/// A container of a pod's spec, that ends by itself or not.
pub(super) fn command(
    lab: &Lab,
    machine: &Namespace,
    pod: &str,
    (spec, container): (&Value, &Value),
    variables: &[(&str, &str)],
    files: Files<'_>,
) -> Command {
    let environment = environment(container, &variables.iter().copied().collect());
    let image = container["image"].as_str().unwrap();
    let of_image = image.rsplit('/').next().unwrap().split(':').next().unwrap();
    let mut said = list(&container["command"]);
    let name = said.next().unwrap_or(of_image).trim_start_matches('/');
    let arguments: Vec<String> = said
        .chain(list(&container["args"]))
        .map(|argument| expand(argument, &environment))
        .collect();
    let stage = lab.directory().join(pod);
    let mut script = String::from(
        "for hidden in /etc /opt /run /var/lib; do mount -t tmpfs none $hidden; done\n",
    );
    for directory in list_of(&container["volumeMounts"], "mountPath") {
        // The kernel's /var/run is /run.
        let directory = directory.replace("/var/run/", "/run/");
        writeln!(script, "mkdir -p -m 0777 {directory}").unwrap();
    }
    for (mount, path) in host_paths(spec, container) {
        // The kernel's settings are those of the machine; directories are the test's own.
        let source = match path.starts_with("/proc/") {
            true => PathBuf::from(path),
            false => on_host(lab, pod, path),
        };
        fs::create_dir_all(&source).unwrap();
        writeln!(script, "mount --bind {} {mount}", source.display()).unwrap();
    }
    for (index, (path, content)) in files.iter().enumerate() {
        fs::create_dir_all(&stage).unwrap();
        let staged = stage.join(index.to_string());
        fs::write(&staged, content).unwrap();
        let path = path.replace("/var/run/", "/run/");
        let directory = Path::new(&path).parent().unwrap().display();
        writeln!(
            script,
            "mkdir -p {directory}; cp {} {path}; chmod 0644 {path}",
            staged.display()
        )
        .unwrap();
    }
    let user = &spec["securityContext"]["runAsUser"];
    let added: String = list(&container["securityContext"]["capabilities"]["add"])
        .map(|name| format!(",+{}", name.to_lowercase()))
        .collect();
    writeln!(
        script,
        "mount -o remount,bind,ro /\n\
         exec setpriv --reuid {user} --regid {user} --clear-groups --inh-caps=-all \
         --bounding-set=-all{added} --no-new-privs \"$@\""
    )
    .unwrap();
    let mut command = machine.command("unshare");
    command
        .args([
            "--mount",
            "--propagation",
            "private",
            "sh",
            "-ec",
            &script,
            "sh",
        ])
        .arg(program(name).unwrap())
        .args(arguments)
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .envs(environment);
    command
}

/// Where a container mounts which directories of the host; those below `/run` are in memory there, too.
fn host_paths<'a>(spec: &'a Value, container: &'a Value) -> Vec<(&'a str, &'a str)> {
    let mounts = container["volumeMounts"].as_array().into_iter().flatten();
    let found = mounts.filter_map(|mount| {
        let mut volumes = spec["volumes"].as_array()?.iter();
        let volume = volumes.find(|volume| volume["name"] == mount["name"])?;
        Some((
            mount["mountPath"].as_str()?,
            volume["hostPath"]["path"].as_str()?,
        ))
    });
    found
        .filter(|(_, path)| !path.starts_with("/run"))
        .collect()
}

/// What an HTTP probe of the manifest is answered: the status line and the text.
pub(super) fn probe(machine: &Namespace, probe: &Value) -> anyhow::Result<String> {
    let get = &probe["httpGet"];
    assert_eq!(get["host"], "127.0.0.1", "{probe}");
    let port = u16::try_from(get["port"].as_u64().unwrap()).unwrap();
    http(machine, port, get["path"].as_str().unwrap())
}

pub(super) fn http(machine: &Namespace, port: u16, path: &str) -> anyhow::Result<String> {
    machine.entrance()?.http_get(port, path)
}

fn environment(container: &Value, known: &BTreeMap<&str, &str>) -> BTreeMap<String, String> {
    let upper = |name: &&str| {
        name.chars()
            .all(|c| c.is_ascii_uppercase() || c == '_' || c.is_ascii_digit())
    };
    let mut all: BTreeMap<String, String> = known
        .iter()
        .filter(|(name, _)| upper(name))
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect();
    for variable in container["env"].as_array().into_iter().flatten() {
        let field = variable["valueFrom"]["fieldRef"]["fieldPath"].as_str();
        let value = match field {
            Some(path) => known[path],
            None => variable["value"].as_str().unwrap(),
        };
        all.insert(
            variable["name"].as_str().unwrap().to_owned(),
            value.to_owned(),
        );
    }
    all
}

/// `$(NAME)` as kubelet replaces it; what it does not know stays.
fn expand(text: &str, environment: &BTreeMap<String, String>) -> String {
    environment
        .iter()
        .fold(text.to_owned(), |text, (name, value)| {
            text.replace(&format!("$({name})"), value)
        })
}

fn list(value: &Value) -> impl Iterator<Item = &str> {
    value
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
}

fn list_of<'a>(value: &'a Value, field: &'a str) -> impl Iterator<Item = &'a str> {
    value
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(move |it| it[field].as_str())
}
