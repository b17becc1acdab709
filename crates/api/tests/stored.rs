//! What an earlier version took is taken by this one.
//!
//! The files in `stored` are never changed: a release adds `VERSION-….yaml` with every field that there
//! is, and from then on such objects lie in people's clusters.

use std::path::Path;

use api::{SourceFile, parse};

#[test]
fn every_object_that_an_earlier_version_took_is_taken() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/stored");
    let mut files = 0;
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        let text = std::fs::read_to_string(&path).unwrap();
        if let Err(mistakes) = parse(&[SourceFile { name, text }]) {
            let mistakes: Vec<String> = mistakes.iter().map(ToString::to_string).collect();
            panic!("{}", mistakes.join("\n"));
        }
        files += 1;
    }
    assert!(files >= 3, "only {files} files");
}
