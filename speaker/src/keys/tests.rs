use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use super::*;

fn at(path: &Path) -> KeySource {
    KeySource::File(path.to_str().unwrap().to_owned())
}

fn no_vault() -> Vault {
    Vault::new("/nowhere".into())
}

/// A key of these octets.
pub(crate) fn key(octets: &str) -> Arc<Key> {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("key");
    fs::write(&file, octets).unwrap();
    look_at(&no_vault(), &at(&file), None).key.unwrap()
}

/// Writes a file that only its owner can read, and looks at it.
fn looked(directory: &Path, octets: &[u8], last: Option<&KeyFile>) -> KeyFile {
    let file = directory.join("key");
    fs::write(&file, octets).unwrap();
    fs::set_permissions(&file, Permissions::from_mode(0o600)).unwrap();
    look_at(&no_vault(), &at(&file), last)
}

fn reason(state: &KeyFile) -> String {
    state.key.as_ref().unwrap_err().to_string()
}

#[test]
fn one_newline_at_the_end_does_not_count_and_everything_else_does() {
    let directory = tempfile::tempdir().unwrap();
    let read = |octets: &[u8]| looked(directory.path(), octets, None).key.unwrap();
    let plain = read(b"secret");
    assert!(plain.is_same(&read(b"secret\n")));
    for other in [
        &b"secret\n\n"[..],
        b"secret ",
        b" secret",
        b"Secret",
        b"secre",
        b"secret\r\n",
        b"secret\0",
    ] {
        assert!(!plain.is_same(&read(other)), "{other:?}");
    }
}

#[test]
fn a_key_has_1_to_80_octets() {
    let directory = tempfile::tempdir().unwrap();
    let look = |octets: &[u8]| looked(directory.path(), octets, None);
    look(&[b'x'; 80]).key.unwrap();
    look(&[&[b'x'; 80][..], b"\n"].concat()).key.unwrap();
    for long in [81, 82, 5000] {
        let reason = reason(&look(&vec![b'x'; long]));
        assert!(reason.contains("more than 80 octets"), "{reason}");
    }
    for empty in [&b""[..], b"\n"] {
        let reason = reason(&look(empty));
        assert!(reason.contains("it is empty"), "{reason}");
    }
}

#[test]
fn what_is_no_file_is_not_read_and_named() {
    let directory = tempfile::tempdir().unwrap();
    let pipe = directory.path().join("pipe");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
    for (path, expected) in [
        (directory.path(), "is no file"),
        (pipe.as_path(), "is no file"),
        (&directory.path().join("nobody"), "No such file"),
    ] {
        let reason = reason(&look_at(&no_vault(), &at(path), None));
        let path = path.to_str().unwrap();
        assert!(
            reason.contains(path) && reason.contains(expected),
            "{reason}"
        );
    }
}

#[test]
fn a_file_written_again_with_the_same_octets_has_the_key_it_had() {
    let directory = tempfile::tempdir().unwrap();
    let first = looked(directory.path(), b"secret", None);
    let again = looked(directory.path(), b"secret\n", Some(&first));
    let (one, two) = (first.key.as_ref().unwrap(), again.key.as_ref().unwrap());
    assert!(Arc::ptr_eq(one, two));
    assert_eq!(first.since, again.since);
    // One second of a clock, and the length, are not enough to tell two keys apart.
    let other = looked(directory.path(), b"tercse", Some(&again));
    assert!(!other.key.unwrap().is_same(two));
}

#[test]
fn a_file_that_looks_the_same_is_not_read_again() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("key");
    let old = SystemTime::now() - Duration::from_secs(60);
    fs::write(&file, "secret").unwrap();
    File::options()
        .write(true)
        .open(&file)
        .and_then(|file| file.set_modified(old))
        .unwrap();
    let name = at(&file);
    let first = look_at(&no_vault(), &name, None);
    assert!(first.looks.is_some());
    // What was noted is believed, so nothing is opened.
    let mut last = first.clone();
    last.key = Err(Arc::new(KeyError::Empty {
        file: "as noted".into(),
    }));
    assert!(look_at(&no_vault(), &name, Some(&last)).key.is_err());
}

#[test]
fn a_key_that_everybody_can_read_is_used_and_told() {
    let directory = tempfile::tempdir().unwrap();
    let state = looked(directory.path(), b"secret", None);
    assert!(!state.is_exposed);
    let file = directory.path().join("key");
    fs::set_permissions(&file, Permissions::from_mode(0o644)).unwrap();
    let state = look_at(&no_vault(), &at(&file), Some(&state));
    assert!(state.is_exposed);
    assert!(state.key.is_ok());
}

#[test]
fn nothing_prints_a_key() {
    let directory = tempfile::tempdir().unwrap();
    let state = looked(directory.path(), b"hunter2", None);
    let text = format!("{state:?} {:?}", state.key.as_ref().unwrap());
    assert!(!text.contains("hunter2"), "{text}");
    assert!(!text.contains("104, 117, 110"), "{text}");
    let long = "hunter2".repeat(20);
    let state = looked(directory.path(), long.as_bytes(), None);
    let text = format!("{state:?} {}", reason(&state));
    assert!(!text.contains("hunter2"), "{text}");
}

#[tokio::test]
async fn a_change_is_heard_of_and_so_is_a_file_that_is_gone() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("key");
    let file = at(&path);
    let mut ring = KeyRing::start(no_vault().into());
    ring.want([file.clone()].into());
    ring.changed().await;
    assert!(ring.now()[&file].key.is_err());
    for octets in ["first", "second"] {
        let new = directory.path().join("new");
        fs::write(&new, octets).unwrap();
        fs::rename(&new, &path).unwrap();
        ring.changed().await;
        assert!(
            ring.now()[&file]
                .key
                .as_ref()
                .unwrap()
                .is_same(&key(octets))
        );
    }
    fs::remove_file(&path).unwrap();
    ring.changed().await;
    assert!(ring.now()[&file].key.is_err());
    ring.want(BTreeSet::new());
    ring.changed().await;
    assert!(ring.now().is_empty());
}
