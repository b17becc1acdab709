//! `check FILE|DIR...`: resources, offline: every mistake at once, in the form compilers use.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use api::{Mistake, SourceFile};
use bgp::types::Asn;
use plan::Snapshot;
use serde::Serialize;

use crate::cli::Check;
use crate::error::Failure;
use crate::output::{BAD, GOOD, Output, SOON};

/// What was found, for programs.
#[derive(Serialize)]
struct Report {
    valid: bool,
    files: usize,
    mistakes: Vec<String>,
    warnings: Vec<String>,
}

/// Exit code 1 when there are mistakes; warnings alone are no reason.
pub(crate) fn run(arguments: &Check, output: &Output) -> Result<ExitCode, Failure> {
    let files = read(&arguments.paths)?;
    let (mistakes, warnings, counted) = match api::parse(&files) {
        Ok(parsed) => {
            let counted = count(&parsed.resources);
            let mut warnings: Vec<String> =
                parsed.warnings.iter().map(Mistake::to_string).collect();
            warnings.extend(problems(parsed.resources));
            (Vec::new(), warnings, counted)
        }
        Err(mistakes) => {
            let mistakes = mistakes.iter().map(Mistake::to_string).collect();
            (mistakes, Vec::new(), String::new())
        }
    };
    let report = Report {
        valid: mistakes.is_empty(),
        files: files.len(),
        mistakes,
        warnings,
    };
    let code = match report.valid {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    };
    if output.is_table() {
        print(&report, &counted, *output)?;
    } else {
        output.print_value(&report)?;
    }
    Ok(code)
}

fn print(report: &Report, counted: &str, output: Output) -> Result<(), Failure> {
    let mut writer = output.writer();
    for mistake in &report.mistakes {
        writeln!(writer, "{} {mistake}", output.paint(BAD, "error:"))?;
    }
    for warning in &report.warnings {
        writeln!(writer, "{} {warning}", output.paint(SOON, "warning:"))?;
    }
    let files = number(report.files, "file");
    match report.mistakes.len() {
        0 => writeln!(
            writer,
            "{} {files}: {counted}",
            output.paint(GOOD, "valid:")
        )?,
        mistakes => writeln!(
            writer,
            "{} {} in {files}; nothing of it would be taken over",
            output.paint(BAD, "refused:"),
            number(mistakes, "mistake")
        )?,
    }
    Ok(writer.flush()?)
}

/// `1 file`, `2 files`.
fn number(count: usize, thing: &str) -> String {
    match count {
        1 => format!("1 {thing}"),
        count => format!("{count} {thing}s"),
    }
}

fn count(resources: &api::Resources) -> String {
    let kinds = [
        number(resources.nodes.len(), "node"),
        number(resources.pools.len(), "pool"),
        number(resources.peers.len(), "peer"),
        format!(
            "{} {}",
            resources.policies.len(),
            if resources.policies.len() == 1 {
                "policy"
            } else {
                "policies"
            }
        ),
        number(resources.advertisements.len(), "advertisement"),
    ];
    kinds.join(", ")
}

/// What would keep a node from having its whole configuration. AS numbers that a controller would
/// give out are taken for given.
fn problems(resources: api::Resources) -> Vec<String> {
    let wanted = plan::wanted_numbers(&resources);
    let numbers: BTreeMap<String, Asn> = wanted
        .into_iter()
        .zip(0..)
        .map(|(wanted, index)| {
            let (first, last) = (wanted.range.first.0, wanted.range.last.0);
            (wanted.key, Asn(first.saturating_add(index).min(last)))
        })
        .collect();
    let plan = plan::plan(&Snapshot {
        resources,
        subnets: BTreeMap::new(),
        numbers,
    });
    plan.problems.iter().map(ToString::to_string).collect()
}

/// The files named, and the YAML files of the directories named: as the controller reads them.
fn read(paths: &[PathBuf]) -> Result<Vec<SourceFile>, Failure> {
    let mut files = Vec::new();
    for path in paths {
        let failure = |source| Failure::Read {
            path: path.clone(),
            source,
        };
        if !fs::metadata(path).map_err(failure)?.is_dir() {
            files.push(path.clone());
            continue;
        }
        let mut found = Vec::new();
        for entry in fs::read_dir(path).map_err(failure)? {
            let file = entry.map_err(failure)?.path();
            if is_resource_file(&file) {
                found.push(file);
            }
        }
        found.sort();
        files.extend(found);
    }
    files
        .into_iter()
        .map(|path| match fs::read_to_string(&path) {
            Ok(text) => Ok(SourceFile {
                name: path.display().to_string(),
                text,
            }),
            Err(source) => Err(Failure::Read { path, source }),
        })
        .collect()
}

/// Hidden files are editors' and half-written ones.
fn is_resource_file(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let yaml = path
        .extension()
        .is_some_and(|end| end == "yaml" || end == "yml");
    yaml && !name.starts_with('.') && path.is_file()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_means_its_yaml_files_in_order_without_hidden_ones() {
        let directory = tempfile::tempdir().unwrap();
        for name in [
            "b.yml",
            "a.yaml",
            ".a.yaml.swp",
            ".hidden.yaml",
            "README.md",
        ] {
            fs::write(directory.path().join(name), name).unwrap();
        }
        let files = read(&[directory.path().to_owned()]).unwrap();
        let texts: Vec<&str> = files.iter().map(|file| file.text.as_str()).collect();
        assert_eq!(texts, ["a.yaml", "b.yml"]);
    }

    #[test]
    fn a_missing_file_is_named() {
        let error = read(&["/no/such/file.yaml".into()]).unwrap_err();
        assert_eq!(error.to_string(), "cannot read /no/such/file.yaml");
    }

    #[test]
    fn things_are_counted_in_words() {
        assert_eq!(number(1, "node"), "1 node");
        assert_eq!(number(0, "node"), "0 nodes");
    }
}
