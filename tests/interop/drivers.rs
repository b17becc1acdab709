//! Drivers that a test needs and this kernel may lack.

use std::io::Write as _;

use lab::{Lab, second_kernel};

/// Whether the test that calls this can be run here: links of this kind can be made. If not, it is run under the
/// second kernel, or, where there is none, not at all. That is said where nobody can overlook it: tests that pass
/// print nothing otherwise.
#[track_caller]
pub(super) fn there(kind: &str) -> bool {
    if has(kind) {
        return true;
    }
    assert!(
        !second_kernel::inside(),
        "the second kernel has no {kind} either"
    );
    let test = std::thread::current().name().unwrap_or_default().to_owned();
    let say = |what: &str| {
        let mut stderr = std::io::stderr();
        writeln!(
            stderr,
            "{test}: this kernel has no driver for {kind}: {what}"
        )
        .unwrap();
    };
    if !lab::packages::missing(&second_kernel::TOOLS).is_empty() {
        let names = second_kernel::TOOLS.map(|tool| tool.package).join(" ");
        say(&format!(
            "NOT TESTED; apt-get install {names} would let it run under another one"
        ));
        return false;
    }
    let driver = if kind == "vlan" { "8021q" } else { kind };
    second_kernel::test(&test, driver).unwrap();
    say("tested under User-Mode Linux");
    false
}

/// Whether links of this kind can be made here.
pub(super) fn has(kind: &str) -> bool {
    let lab = Lab::new().unwrap();
    let machine = lab.machine("driver").unwrap();
    machine
        .ip(["link add parent0 type veth peer name parent1"])
        .unwrap();
    let id = if kind == "vlan" { " id 7" } else { "" };
    let line = format!("link add link parent0 name tried type {kind}{id}");
    machine.ip([line.as_str()]).is_ok()
}
