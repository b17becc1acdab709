//! TCP MD5 (RFC 2385): with BIRD and FRR, with wrong and missing keys, and with keys that change.

use std::fs::{self, Permissions};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use lab::bird::Bird;
use lab::frr::Frr;
use lab::speaker::Speaker;
use lab::{Lab, Namespace, memory, wait_for};

use crate::each_daemon::{NODE, cabled, host};
use crate::host::{Host, Peer, SOON, number};

/// The ToR's and the node's addresses on their cable.
const CABLE: [(&str, &str); 2] = [("10.1.0.1", NODE), ("fd00:1::1", "fd00:1::11")];

/// A file for a key in the lab, that nobody else can read.
struct KeyFile(PathBuf);

impl KeyFile {
    fn new(lab: &Lab, name: &str) -> KeyFile {
        KeyFile(lab.directory().join(name))
    }

    /// As a careful person writes it: another file in the old one's place.
    fn write(&self, key: &str) {
        let new = self.0.with_extension("new");
        fs::write(&new, format!("{key}\n")).unwrap();
        fs::set_permissions(&new, Permissions::from_mode(0o600)).unwrap();
        fs::rename(new, &self.0).unwrap();
    }

    fn path(&self) -> &Path {
        &self.0
    }
}

/// The node's host, whose peer has a key in this file.
fn signed(tor: &'static str, key: &KeyFile, more: &str) -> Host {
    let more = format!("password: {{file: {}}}\n{more}", key.path().display());
    Host {
        peers: vec![Peer::new("tor", tor, 65101).with(Box::leak(more.into_boxed_str()))],
        ..host()
    }
}

fn family(node: &str) -> (&'static str, &'static str) {
    match node.contains(':') {
        true => ("ipv6", "fd00:77::/64"),
        false => ("ipv4", "10.77.0.0/24"),
    }
}

fn bird_config(node: &str, more: &str) -> String {
    let (family, route) = family(node);
    format!(
        "router id 10.1.0.1;\nprotocol device {{}}\nprotocol direct {{ ipv4; ipv6; }}\n\
         protocol static {{ {family}; route {route} blackhole; }}\n\
         protocol bgp node {{ local as 65101; neighbor {node} as 65201; hold time 9;\n\
         connect delay time 1; connect retry time 1; error wait time 1, 2; {more}\n\
         {family} {{ import all; export where source = RTS_STATIC; }}; }}\n"
    )
}

fn bird(machine: &Namespace, lab: &Lab, node: &str, more: &str) -> Bird {
    Bird::start(machine, lab.directory(), "tor", &bird_config(node, more)).unwrap()
}

fn frr(machine: &Namespace, lab: &Lab, node: &str, more: &str) -> Frr {
    let (family, route) = family(node);
    let config = format!(
        "router bgp 65101\n bgp router-id 10.1.0.1\n no bgp ebgp-requires-policy\n \
         no bgp default ipv4-unicast\n no bgp network import-check\n timers bgp 3 9\n \
         neighbor {node} remote-as 65201\n neighbor {node} timers connect 1\n{more}\
         address-family {family} unicast\n  neighbor {node} activate\n  network {route}\n \
         exit-address-family\n"
    );
    Frr::start(machine, lab.directory(), "tor", &config).unwrap()
}

/// Waits until something that goes wrong with the session is told, in these words.
#[track_caller]
fn wait_for_error(speaker: &Speaker<'_>, words: &str) {
    wait_for(&format!("`{words}` in show peers"), SOON, || {
        let peer = speaker.peer("tor")?;
        let error = peer["lastError"].as_str().unwrap_or_default();
        anyhow::ensure!(error.contains(words), "{peer}");
        anyhow::ensure!(peer["state"] != "Established", "{peer}");
        Ok(())
    });
}

#[track_caller]
fn wait_for_problem(speaker: &Speaker<'_>, reason: &str, words: &str) {
    wait_for(&format!("{reason}: {words}"), SOON, || {
        let status = speaker.bgpctl("show status -o json")?;
        let told = status.contains(reason) && status.contains(words);
        anyhow::ensure!(told, "{status}");
        Ok(())
    });
}

/// Nothing that a person or a program is shown has the key.
#[track_caller]
fn no_word_of(key: &str, lab: &Lab, speaker: &Speaker<'_>) {
    let told = [
        "show peers tor",
        "show peers tor -o json",
        "show peers -o wide",
        "show status -o json",
        "show config -o json",
    ];
    for line in told {
        let text = speaker.bgpctl(line).unwrap();
        assert!(!text.contains(key), "bgpctl {line}: {text}");
    }
    for file in ["n1/speaker.log", "n1/state/node-config"] {
        let text = fs::read(lab.directory().join(file)).unwrap();
        let text = String::from_utf8_lossy(&text);
        assert!(!text.contains(key), "{file}: {text}");
    }
}

#[test]
fn sessions_with_bird_come_up_whichever_side_connects() {
    for (tor_address, node_address) in CABLE {
        for (ours, theirs) in [("", "passive on;"), ("passive: true\n", "")] {
            let lab = Lab::new().unwrap();
            let (tor, node) = cabled(&lab);
            let theirs = format!("password \"correct horse\"; {theirs}");
            let _bird = bird(&tor, &lab, node_address, &theirs);
            let key = KeyFile::new(&lab, "tor.key");
            key.write("correct horse");
            let speaker = signed(tor_address, &key, ours).start(&lab, &node);
            speaker.wait_for_state("tor", "Established");
            speaker.wait_for_route(family(node_address).1);
            no_word_of("correct horse", &lab, &speaker);
        }
    }
}

#[test]
fn sessions_with_frr_come_up_whichever_side_connects() {
    for (tor_address, node_address) in CABLE {
        for (ours, passive) in [("", true), ("passive: true\n", false)] {
            let lab = Lab::new().unwrap();
            let (tor, node) = cabled(&lab);
            let mut theirs = format!(" neighbor {node_address} password correct-horse\n");
            if passive {
                theirs += &format!(" neighbor {node_address} passive\n");
            }
            let _frr = frr(&tor, &lab, node_address, &theirs);
            let key = KeyFile::new(&lab, "tor.key");
            key.write("correct-horse");
            let speaker = signed(tor_address, &key, ours).start(&lab, &node);
            speaker.wait_for_state("tor", "Established");
            speaker.wait_for_route(family(node_address).1);
        }
    }
}

#[test]
fn a_key_and_ttl_security_go_together() {
    for (tor_address, node_address) in CABLE {
        let lab = Lab::new().unwrap();
        let (tor, node) = cabled(&lab);
        let theirs = "password \"correct horse\"; ttl security on;";
        let _bird = bird(&tor, &lab, node_address, theirs);
        let key = KeyFile::new(&lab, "tor.key");
        key.write("correct horse");
        let host = signed(tor_address, &key, "ttlSecurity: {}\npassive: true\n");
        let speaker = host.start(&lab, &node);
        speaker.wait_for_state("tor", "Established");
    }
}

#[test]
fn a_wrong_key_or_none_at_the_other_side_keeps_the_session_down() {
    for (tor_address, node_address) in CABLE {
        let lab = Lab::new().unwrap();
        let (tor, node) = cabled(&lab);
        let bird = bird(&tor, &lab, node_address, "password \"battery\";");
        let key = KeyFile::new(&lab, "tor.key");
        key.write("correct horse");
        let speaker = signed(tor_address, &key, "").start(&lab, &node);
        wait_for_error(&speaker, "a wrong or missing key");
        bird.configure(&bird_config(node_address, "")).unwrap();
        wait_for("unsigned segments of BIRD to be dropped", SOON, || {
            let text = node.run("nstat -asz TcpExtTCPMD5NotFound")?;
            let count = text.split_whitespace().last().unwrap_or_default();
            anyhow::ensure!(count != "0" && text.contains("NotFound"), "{text}");
            Ok(())
        });
        let peer = speaker.peer("tor").unwrap();
        assert_eq!(number(&peer, "received.open"), 0, "{peer}");
        bird.configure(&bird_config(node_address, "password \"correct horse\";"))
            .unwrap();
        speaker.wait_for_state("tor", "Established");
    }
}

#[test]
fn without_a_usable_key_the_session_stays_down_and_says_why_until_there_is_one() {
    for passive in ["", "passive: true\n"] {
        let lab = Lab::new().unwrap();
        let (tor, node) = cabled(&lab);
        // The other side would be content without.
        let bird = bird(&tor, &lab, NODE, "");
        let key = KeyFile::new(&lab, "tor.key");
        let path = key.path().display().to_string();
        let speaker = signed("10.1.0.1", &key, passive).start(&lab, &node);
        wait_for_error(&speaker, &format!("cannot read the key in {path}"));
        wait_for_problem(&speaker, "NoKey", &path);
        let table = speaker.bgpctl("show peers").unwrap();
        assert!(table.contains("(no key)"), "{table}");
        key.write("");
        wait_for_error(&speaker, "it is empty");
        key.write(&"correct horse ".repeat(6));
        wait_for_error(&speaker, "more than 80 octets");
        no_word_of("correct horse", &lab, &speaker);
        let peer = speaker.peer("tor").unwrap();
        assert_eq!(number(&peer, "received.open"), 0, "{peer}");
        assert_eq!(number(&peer, "sent.open"), 0, "{peer}");

        bird.configure(&bird_config(NODE, "password \"correct horse\";"))
            .unwrap();
        key.write("correct horse");
        speaker.wait_for_state("tor", "Established");
        fs::set_permissions(key.path(), Permissions::from_mode(0o644)).unwrap();
        wait_for_problem(&speaker, "KeyExposed", &path);

        // What stands goes on without the file; it does not come back without.
        fs::remove_file(key.path()).unwrap();
        wait_for_problem(&speaker, "NoKey", "goes on with the key it had");
        let peer = speaker.peer("tor").unwrap();
        assert_eq!(number(&peer, "establishedCount"), 1, "{peer}");
        assert_eq!(peer["state"], "Established", "{peer}");
        speaker.bgpctl("reset tor").unwrap();
        wait_for_error(&speaker, "cannot read the key");
        key.write("correct horse");
        speaker.wait_for_state("tor", "Established");
    }
}

#[test]
fn a_key_changes_on_both_sides_under_a_session_that_stays() {
    for (there, here) in CABLE {
        let lab = Lab::new().unwrap();
        let (tor, node) = cabled(&lab);
        let [ours, theirs] = ["n1.key", "tor.key"].map(|name| {
            let key = KeyFile::new(&lab, name);
            key.write("correct horse");
            key
        });
        let host = signed(there, &ours, "");
        let peer = format!("password: {{file: {}}}\n", theirs.path().display());
        let other = Host {
            addresses: vec!["10.1.0.1", "fd00:1::1"],
            subnets: vec!["10.77.0.0/24", "fd00:77::/64"],
            peers: vec![Peer::new("node", here, 65201).with(Box::leak(peer.into_boxed_str()))],
            ..Host::new("tor", 65101)
        };
        let speaker = host.start(&lab, &node);
        let other = other.start(&lab, &tor);
        speaker.wait_for_state("tor", "Established");
        speaker.wait_for_route(family(here).1);
        for key in ["battery", "staple", "correct horse"] {
            let before = number(&speaker.peer("tor").unwrap(), "received.keepalive");
            ours.write(key);
            wait_for("our side to use the new key", SOON, || {
                let log = fs::read_to_string(lab.directory().join("n1/speaker.log"))?;
                let uses = log.matches("signed with the new key").count();
                let expected = match key {
                    "battery" => 1,
                    "staple" => 2,
                    _ => 3,
                };
                anyhow::ensure!(uses == expected, "{uses} changes");
                Ok(())
            });
            theirs.write(key);
            wait_for("two more KEEPALIVEs", SOON, || {
                let peer = speaker.peer("tor")?;
                let received = number(&peer, "received.keepalive");
                anyhow::ensure!(received >= before + 2, "{peer}");
                Ok(())
            });
        }
        for (speaker, name) in [(&speaker, "tor"), (&other, "node")] {
            let peer = speaker.peer(name).unwrap();
            assert_eq!(number(&peer, "establishedCount"), 1, "{peer}");
            assert_eq!(peer["state"], "Established", "{peer}");
        }
        // A key that only one side has ends it when the hold time is over, and not before.
        ours.write("nobody knows");
        wait_for_error(&speaker, "a wrong or missing key");
    }
}

#[test]
fn a_router_that_resets_its_session_for_a_new_key_is_back_at_once() {
    let lab = Lab::new().unwrap();
    let (tor, node) = cabled(&lab);
    let bird = bird(&tor, &lab, NODE, "password \"correct horse\";");
    let key = KeyFile::new(&lab, "tor.key");
    key.write("correct horse");
    let speaker = signed("10.1.0.1", &key, "").start(&lab, &node);
    speaker.wait_for_state("tor", "Established");
    key.write("battery");
    bird.configure(&bird_config(NODE, "password \"battery\";"))
        .unwrap();
    wait_for("the session to be up again", SOON, || {
        let peer = speaker.peer("tor")?;
        let up = peer["state"] == "Established" && number(&peer, "establishedCount") == 2;
        anyhow::ensure!(up, "{peer}");
        Ok(())
    });
    speaker.wait_for_route("10.77.0.0/24");
}

#[test]
fn tcp_ao_comes_up_where_the_kernel_has_it_and_is_refused_with_words_where_not() {
    let lab = Lab::new().unwrap();
    let (tor, node) = cabled(&lab);
    let key = KeyFile::new(&lab, "tor.key");
    key.write("correct horse");
    let side = |send: u8, receive: u8| {
        let file = key.path().display();
        let text =
            format!("tcpAo: {{keys: [{{sendId: {send}, receiveId: {receive}, file: {file}}}]}}\n");
        &*Box::leak(text.into_boxed_str())
    };
    let host = Host {
        peers: vec![Peer::new("tor", "10.1.0.1", 65101).with(side(1, 2))],
        ..host()
    };
    let other = Host {
        addresses: vec!["10.1.0.1"],
        peers: vec![Peer::new("node", NODE, 65201).with(side(2, 1))],
        ..Host::new("tor", 65101)
    };
    let speaker = host.start(&lab, &node);
    let _other = other.start(&lab, &tor);
    let socket = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    if kernel_has_tcp_ao(&socket) {
        speaker.wait_for_state("tor", "Established");
    } else {
        wait_for_error(&speaker, "this host's kernel has no TCP-AO");
        wait_for_problem(&speaker, "NoTcpAo", "peer tor");
        let peer = speaker.peer("tor").unwrap();
        assert_eq!(number(&peer, "sent.open"), 0, "{peer}");
    }
    no_word_of("correct horse", &lab, &speaker);
}

/// What `getsockopt(TCP_AO_INFO)` says of a socket without keys.
fn kernel_has_tcp_ao(socket: &std::net::TcpListener) -> bool {
    const TCP_AO_INFO: libc::c_int = 40;
    let mut info = [0_u64; 6];
    let mut length = size_of_val(&info) as libc::socklen_t;
    // SAFETY: the pointers are those of `info` and `length`, which live until the call is over.
    let outcome = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            TCP_AO_INFO,
            info.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    let error = std::io::Error::last_os_error();
    outcome == 0 || error.raw_os_error() == Some(libc::ENOENT)
}

#[test]
fn a_key_is_in_no_memory_that_a_core_dump_would_have() {
    let lab = Lab::new().unwrap();
    let (tor, node) = cabled(&lab);
    let first = "a key that is nowhere else";
    let second = "and another of that kind..";
    let bird = bird(&tor, &lab, NODE, &format!("password \"{first}\";"));
    let key = KeyFile::new(&lab, "tor.key");
    key.write(first);
    let speaker = signed("10.1.0.1", &key, "").start(&lab, &node);
    speaker.wait_for_state("tor", "Established");
    key.write(second);
    bird.configure(&bird_config(NODE, &format!("password \"{second}\";")))
        .unwrap();
    wait_for("the new key", SOON, || {
        let peer = speaker.peer("tor")?;
        anyhow::ensure!(number(&peer, "establishedCount") == 2, "{peer}");
        Ok(())
    });
    let process = speaker.id().unwrap();
    // `\n` follows in the file: a copy made by reading it some other way would have it too.
    let found = memory::find(process, &[first, second]).unwrap();
    assert!(found.looked > 1_000_000, "{found:?}");
    assert_eq!(found.dumped, []);
    assert_eq!(
        found.kept,
        [second],
        "the key in use, and not the one before"
    );
}
