//! Every input that is kept: the corpus, and what once found a mistake.

// Clippy's exception is for the bodies of tests, not for what they call.
#![allow(clippy::unwrap_used)]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::{fs, io};

use bgp_fuzz::{TARGETS, Target};

fn inputs(kind: &str, target: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join(kind)
        .join(target);
    let read = match fs::read_dir(&folder) {
        // No folder: nothing was found, or kept, for this target.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Vec::new(),
        read => read.unwrap_or_else(|e| panic!("{}: {e}", folder.display())),
    };
    let mut files: Vec<PathBuf> = read.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

#[track_caller]
fn replay(kind: &str, name: &str, target: Target) -> usize {
    let files = inputs(kind, name);
    for file in &files {
        let data = fs::read(file).unwrap();
        let outcome = catch_unwind(AssertUnwindSafe(|| target(&data)));
        assert!(
            outcome.is_ok(),
            "{}: see above; again by: cargo xtask fuzz --target {name} --replay {}",
            file.display(),
            file.display()
        );
    }
    files.len()
}

#[test]
fn what_once_found_a_mistake_finds_none() {
    for (name, target) in TARGETS {
        replay("found", name, target);
    }
}

#[test]
fn nothing_in_the_corpus_finds_a_mistake() {
    for (name, target) in TARGETS {
        let count = replay("corpus", name, target);
        assert!(count >= 20, "the corpus of {name} has {count} inputs");
    }
}

/// The fuzzer looks for inputs with care; these are only many, and need no fuzzer.
#[test]
fn inputs_without_any_thought_find_no_mistake() {
    for (name, target) in TARGETS {
        let (count, longest) = match name {
            "decision" => (300, 600),
            _ => (10_000, 300),
        };
        let mut state = 0x5EED_u64;
        let mut next = || {
            // SplitMix64
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = state;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            z ^ (z >> 31)
        };
        for number in 0..count {
            let length = next() % longest;
            let data: Vec<u8> = (0..length).map(|_| (next() >> 32) as u8).collect();
            let outcome = catch_unwind(AssertUnwindSafe(|| target(&data)));
            assert!(outcome.is_ok(), "{name}, input {number}: {data:02x?}");
        }
    }
}
