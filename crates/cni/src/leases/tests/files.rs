//! The log and what may have become of it.

use std::fs;
use std::io::Write as _;

use super::*;

fn written() -> (Machine, Request) {
    let machine = Machine::new();
    let request = routed(&["10.64.0.0/24", "fd00:64::/64"]);
    for container in ["a", "b", "c"] {
        machine.add(container, &request).unwrap();
    }
    machine.del("b").unwrap();
    (machine, request)
}

fn error(machine: &Machine) -> String {
    let read = Snapshot::read(machine.path(), &machine.now).unwrap_err();
    let opened = Leases::open(machine.path(), "pods", machine.now.clone()).unwrap_err();
    assert_eq!(read.to_string(), opened.to_string());
    let path = machine.path().display().to_string();
    opened.to_string().replace(&path, "DIR")
}

#[test]
fn a_person_can_read_the_log() {
    let machine = Machine::new();
    machine.add("a", &routed(&["10.64.0.0/24"])).unwrap();
    machine.del("a").unwrap();
    let text = fs::read_to_string(machine.log()).unwrap();
    let lines: Vec<&str> = text.lines().map(|line| &line[9..]).collect();
    assert_eq!(
        lines,
        [
            r#"{"format":{"name":"routeshare leases","version":1}}"#,
            r#"{"boot":{"id":"boot-1","at":"2026-11-21T15:01:40Z"}}"#,
            concat!(
                r#"{"lease":{"network":"pods","addresses":["10.64.0.1/24"],"ofNode":true,"#,
                r#""owner":{"container":"a","ifname":"eth0","mode":"routed"},"#,
                r#""since":"2026-11-21T15:01:40Z","cooldownSeconds":60}}"#
            ),
            concat!(
                r#"{"free":{"network":"pods","container":"a","ifname":"eth0","#,
                r#""at":"2026-11-21T15:01:40Z","uptimeMs":1000000}}"#
            ),
        ]
    );
}

#[test]
fn a_line_that_was_not_written_to_its_end_is_cut_off() {
    let (machine, request) = written();
    let before = machine.snapshot();
    let whole = fs::read(machine.log()).unwrap();
    for unfinished in 1..60 {
        let mut bytes = whole.clone();
        bytes.extend_from_slice(&whole[whole.len() - 61..][..unfinished]);
        fs::write(machine.log(), &bytes).unwrap();
        assert_eq!(machine.snapshot(), before);
        drop(machine.open("pods"));
        assert_eq!(fs::read(machine.log()).unwrap(), whole);
    }
    assert_eq!(machine.add("d", &request).unwrap()[0], "10.64.0.4/24");
}

#[test]
fn a_log_cut_off_anywhere_by_a_power_failure_is_used_up_to_there() {
    let (mut machine, request) = written();
    let whole = fs::read(machine.log()).unwrap();
    let header = whole.iter().position(|byte| *byte == b'\n').unwrap() + 1;
    let header = header
        + whole[header..]
            .iter()
            .position(|byte| *byte == b'\n')
            .unwrap()
        + 1;
    machine.now = at("boot-2", 1_000_000);
    for length in (header..whole.len()).step_by(7) {
        for filling in [&b""[..], &[0; 700], b"\nx\n\xff\n"] {
            let mut bytes = whole[..length].to_vec();
            bytes.extend_from_slice(filling);
            fs::write(machine.log(), &bytes).unwrap();
            let seen = machine.snapshot();
            let leases = machine.open("pods");
            if filling.ends_with(b"\n") {
                let torn = fs::read(leases.torn().expect("the rest is set aside")).unwrap();
                assert!(torn.ends_with(&filling[1..]), "{length}");
            }
            drop(leases);
            assert_eq!(machine.snapshot(), seen);
            machine.add("d", &request).unwrap();
        }
    }
}

#[test]
fn a_damaged_line_within_a_boot_is_an_error_whatever_line_it_is() {
    let (machine, _) = written();
    let whole = fs::read(machine.log()).unwrap();
    let mut line = 1;
    for place in 0..whole.len() {
        let mut bytes = whole.clone();
        bytes[place] ^= 1;
        fs::write(machine.log(), &bytes).unwrap();
        let text = error(&machine);
        if line == 1 {
            assert!(text.contains("is no log of leases"), "{text}");
        } else if whole[place] != b'\n' {
            let where_it_is = format!("DIR/leases/log is damaged in line {line}: ");
            assert!(text.starts_with(&where_it_is), "{text}");
        }
        assert_eq!(
            fs::read(machine.log()).unwrap(),
            bytes,
            "it is left as it is"
        );
        // The end of the last line: that line was never finished.
        if place == whole.len() - 2 {
            break;
        }
        line += usize::from(whole[place] == b'\n');
    }
}

#[test]
fn a_damaged_line_of_an_earlier_boot_is_an_error_too_once_this_one_has_begun() {
    let (mut machine, request) = written();
    let earlier = fs::metadata(machine.log()).unwrap().len();
    machine.now = at("boot-2", 1_000_000);
    let given = machine.add("d", &request).unwrap();
    let whole = fs::read(machine.log()).unwrap();
    let text = String::from_utf8(whole.clone()).unwrap();
    let boots = text.lines().take(2).map(|line| line.len() + 1).sum();
    for place in (boots..earlier as usize).step_by(11) {
        let mut bytes = whole.clone();
        bytes[place] ^= 1;
        fs::write(machine.log(), &bytes).unwrap();
        let text = error(&machine);
        assert!(text.contains("is damaged in line "), "{text}");
        assert_eq!(fs::read(machine.log()).unwrap(), bytes, "left as it is");
    }
    // A power failure of this boot is no matter of the next one's.
    let mut bytes = whole;
    bytes[boots + 20] ^= 1;
    fs::write(machine.log(), &bytes).unwrap();
    machine.now = at("boot-3", 1_000_000);
    assert!(machine.snapshot().leases.is_empty());
    assert!(machine.open("pods").torn().is_some());
    assert_ne!(machine.add("e", &request).unwrap(), given);
}

#[test]
fn what_is_no_log_of_this_version_is_left_as_it_is() {
    let machine = Machine::new();
    drop(machine.open("pods"));
    let line = |json: &str| format!("{:08x} {json}\n", crc32fast::hash(json.as_bytes()));
    for (text, expected) in [
        (
            String::new(),
            "DIR/leases/log is no log of leases (it is empty)",
        ),
        (
            "{\"cniVersion\":\"1.1.0\"}\n".to_owned(),
            "is no log of leases (its first line is not that of one)",
        ),
        (
            line(r#"{"format":{"name":"wine leases","version":1}}"#),
            "is no log of leases (it says that it is \"wine leases\")",
        ),
        (
            line(r#"{"format":{"name":"routeshare leases","version":2,"more":true}}"#),
            "is of version 2, this build reads version 1",
        ),
        (
            line(r#"{"format":{"name":"routeshare leases","version":1}}"#)
                + &line(r#"{"boot":{"id":"boot-1","at":"2026-11-21T15:01:40Z","more":1}}"#),
            "line 2: unknown field `more`, expected `id` or `at` at line 1 column 57; did a newer \
             build write it?",
        ),
    ] {
        fs::write(machine.log(), &text).unwrap();
        let found = error(&machine);
        assert!(found.contains(expected), "{found}");
        assert_eq!(fs::read_to_string(machine.log()).unwrap(), text);
    }
}

#[test]
fn a_log_that_was_taken_away_is_no_empty_one() {
    let (machine, _) = written();
    fs::remove_file(machine.log()).unwrap();
    let text = error(&machine);
    assert!(
        text.starts_with("DIR/leases/log is missing beside its lock"),
        "{text}"
    );
    // With its directory it is: so says the message.
    fs::remove_dir_all(machine.path().join("leases")).unwrap();
    assert_eq!(machine.snapshot(), Snapshot::default());
    drop(machine.open("pods"));
}

#[test]
fn a_directory_of_somebody_else_is_not_taken() {
    let machine = Machine::new();
    let directory = machine.path().join("leases");
    fs::create_dir(&directory).unwrap();
    // An empty one that somebody has made is.
    drop(machine.open("pods"));
    fs::remove_dir_all(&directory).unwrap();
    fs::create_dir(&directory).unwrap();
    fs::write(directory.join("10.0.0.1"), "theirs").unwrap();
    let opened = Leases::open(machine.path(), "pods", machine.now.clone());
    let text = opened.unwrap_err().to_string();
    assert!(
        text.contains("a directory with other files and without a lock"),
        "{text}"
    );
}

#[test]
fn a_log_of_much_history_is_written_anew_and_says_the_same() {
    let (mut machine, request) = written();
    machine.add("old", &request).unwrap();
    machine.now = at("boot-2", 1_000_000);
    let most = (0..400).map(|number| {
        machine.pass(Duration::from_secs(1));
        let container = format!("c{number}");
        machine.add(&container, &request).unwrap();
        machine.del(&container).unwrap();
        fs::read_to_string(machine.log()).unwrap().lines().count()
    });
    let most = most.max().unwrap();
    assert!((300..400).contains(&most), "{most} lines at most");
    let snapshot = machine.snapshot();
    assert_eq!(snapshot.leases.len(), 3);
    assert!(snapshot.leases.iter().all(|lease| lease.earlier_boot));
    let cooling = snapshot
        .freed
        .iter()
        .filter(|freed| freed.is_cooling_down());
    assert_eq!(cooling.count(), 2 * 61);
    // What a process left that died while it wrote the log anew is in nobody's way.
    fs::write(machine.log().with_file_name("log.new"), "x").unwrap();
    let length = fs::metadata(machine.log()).unwrap().len();
    while fs::metadata(machine.log()).unwrap().len() >= length {
        machine.pass(Duration::from_secs(1));
        machine.add("more", &request).unwrap();
        machine.del("more").unwrap();
    }
    assert_eq!(machine.snapshot().leases.len(), 3);
}

#[test]
fn a_reader_sees_whole_lines_while_others_write() {
    let (machine, _) = written();
    let mut file = fs::File::options()
        .append(true)
        .open(machine.log())
        .unwrap();
    let before = machine.snapshot();
    file.write_all(b"0123").unwrap();
    assert_eq!(machine.snapshot(), before);
}
