//! `cargo xtask crds`: the CustomResourceDefinitions in `deploy/crds`, made of the Rust types.

use std::path::PathBuf;

use anyhow::{Context as _, bail};
use clap::Args;
use crd::Kind;

use crate::cargo::root;

/// Write the CustomResourceDefinitions to deploy/crds
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Write nothing; fail if a file is not what would be written
    #[arg(long)]
    check: bool,
}

/// The first line of every file.
const MADE: &str = "# Made by `cargo xtask crds`; change crates/api or crates/crd instead.\n";

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    match arguments.check {
        true => check(),
        false => write(),
    }
}

/// Fails if a definition is not as the types say.
pub(crate) fn check() -> anyhow::Result<()> {
    let mut different = Vec::new();
    for (path, text) in files()? {
        let found = std::fs::read_to_string(&path).unwrap_or_default();
        if found != text {
            different.push(path.display().to_string());
        }
    }
    if !different.is_empty() {
        bail!(
            "{} not as crates/api and crates/crd say: run `cargo xtask crds`, look at the difference, and \
             commit it",
            different.join(", ")
        );
    }
    Ok(())
}

fn write() -> anyhow::Result<()> {
    for (path, text) in files()? {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)
                .with_context(|| format!("cannot make {}", folder.display()))?;
        }
        std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        println!("{}", path.display());
    }
    Ok(())
}

/// Every file and what belongs into it.
fn files() -> anyhow::Result<Vec<(PathBuf, String)>> {
    let folder = root().join("deploy/crds");
    let file = |kind: Kind| {
        let definition = kind.custom_resource_definition()?;
        let options = serde_saphyr::ser_options! {
            prefer_block_scalars: false,
        };
        let yaml = serde_saphyr::to_string_with_options(&definition, options)
            .with_context(|| format!("cannot write the definition of {kind} as YAML"))?;
        let text = format!(
            "# Made by `cargo xtask crds`; change crates/api or crates/crd instead.\n{yaml}"
        );
        Ok((folder.join(format!("{}.yaml", kind.plural())), text))
    };
    let mut files: Vec<(PathBuf, String)> = crd::KINDS
        .into_iter()
        .map(file)
        .collect::<anyhow::Result<_>>()?;
    // Helm reads nothing outside of the chart.
    let chart = root().join("deploy/helm/routeshare/files/crds");
    let copies = files.iter().filter_map(|(path, text)| {
        let name = path.file_name()?;
        Some((chart.join(name), text.clone()))
    });
    let copies: Vec<_> = copies.collect();
    files.extend(copies);
    let names: String = crd::KINDS
        .map(|kind| format!("- {}.yaml\n", kind.plural()))
        .concat();
    let text = format!(
        "{MADE}apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\nresources:\n{names}"
    );
    // Without `.yaml`: `kubectl apply -f deploy/crds` would take it for a manifest.
    files.push((folder.join("Kustomization"), text));
    Ok(files)
}
