//! Every file of `examples/bad` is told exactly what stands beside it.
//!
//! After a change of words: `BLESS=1 cargo test -p api --test bad_examples` writes them anew, and the
//! difference is read like any other.

#![expect(clippy::unwrap_used, reason = "a test that fails says where")]

use std::fs;
use std::path::{Path, PathBuf};

use api::{SourceFile, parse};

fn bad_examples() -> Vec<PathBuf> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/bad");
    let files = fs::read_dir(&directory)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let mut files: Vec<PathBuf> = files
        .filter(|path| path.extension().is_some_and(|it| it == "yaml"))
        .collect();
    files.sort();
    files
}

/// What an operator is shown.
fn told(path: &Path) -> String {
    let name = path.file_name().unwrap().to_str().unwrap().to_owned();
    let text = fs::read_to_string(path).unwrap();
    let lines: Vec<String> = match parse(&[SourceFile { name, text }]) {
        Ok(parsed) => parsed
            .warnings
            .iter()
            .map(|it| format!("warning: {it}"))
            .collect(),
        Err(mistakes) => mistakes.iter().map(|it| format!("error: {it}")).collect(),
    };
    lines.iter().map(|line| format!("{line}\n")).collect()
}

#[test]
fn every_bad_example_is_told_what_stands_beside_it() {
    let files = bad_examples();
    assert!(files.len() > 30, "only {} bad examples", files.len());
    let mut different = Vec::new();
    for path in files {
        let beside = path.with_extension("txt");
        let found = told(&path);
        if std::env::var_os("BLESS").is_some() {
            fs::write(&beside, &found).unwrap();
        }
        let expected = fs::read_to_string(&beside).unwrap_or_default();
        if found != expected {
            different.push(format!(
                "{}:\n{found}instead of\n{expected}",
                path.display()
            ));
        }
        assert!(
            !found.is_empty(),
            "nothing is wrong with {}",
            path.display()
        );
    }
    assert!(different.is_empty(), "{}", different.join("\n"));
}
