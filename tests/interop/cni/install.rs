//! `routeshare-cni install`: into place while the program that is there runs.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Stdio};

use lab::{output, program};

#[test]
fn the_plugin_is_replaced_while_it_runs_and_a_half_written_one_is_no_hindrance() {
    let directory = tempfile::tempdir().unwrap();
    let to = directory.path().join("opt/cni/bin");
    let install = || {
        let mut command = Command::new(program("routeshare-cni").unwrap());
        output(command.args(["install", "--to"]).arg(&to)).unwrap()
    };
    let installed = to.join("routeshare-cni");
    assert!(install().contains("installed"));
    assert!(install().contains("already"));
    // Another build of it, at work: it waits for its input.
    let mut other = fs::read(&installed).unwrap();
    other.push(0);
    fs::remove_file(&installed).unwrap();
    fs::write(&installed, other).unwrap();
    fs::set_permissions(&installed, fs::Permissions::from_mode(0o755)).unwrap();
    let mut running = Command::new(&installed)
        .env("CNI_COMMAND", "VERSION")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    // Of an installer that was killed.
    fs::write(to.join(".routeshare-cni.new"), "half").unwrap();
    assert!(install().contains("installed"));
    running
        .stdin
        .take()
        .unwrap()
        .write_all(br#"{"cniVersion": "1.1.0"}"#)
        .unwrap();
    let answer = running.wait_with_output().unwrap();
    assert!(answer.status.success(), "{answer:?}");
    let names: Vec<_> = fs::read_dir(&to).unwrap().collect();
    assert_eq!(names.len(), 1, "{names:?}");
    assert_eq!(
        fs::read(&installed).unwrap(),
        fs::read(program("routeshare-cni").unwrap()).unwrap()
    );
    let mode = fs::metadata(&installed).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o755);
}

#[test]
fn a_place_that_cannot_be_written_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("bin");
    fs::write(&file, "").unwrap();
    let mut command = Command::new(program("routeshare-cni").unwrap());
    let error = output(command.args(["install", "--to"]).arg(&file)).unwrap_err();
    let error = error.to_string();
    assert!(error.contains("cannot install"), "{error}");
    let mut command = Command::new(program("routeshare-cni").unwrap());
    let error = output(command.arg("install")).unwrap_err().to_string();
    assert!(error.contains("install --to DIR"), "{error}");
}
