//! Against the kernel, in a network namespace of their own: what is written is listed back the same,
//! `nft` (Debian package nftables) reads it as it was meant, and tables of others stay as they are.

#![expect(clippy::unwrap_used, reason = "a test that fails says where")]

use std::net::IpAddr;
use std::process::Command;
use std::thread;

use kernel::nft::set::{interface, prefix};
use kernel::nft::table::{Step, plan};
use kernel::nft::{
    Base, Batch, Chain, Comparison, Element, Expression, Field, Header, Hook, Meta, Register, Rule,
    Set, Table, Verdict,
};
use kernel::{Nft, NftError, NftMonitor};
use nix::sched::{CloneFlags, unshare};

const NAME: &str = "routeshare";

fn in_namespace(test: impl FnOnce() + Send + 'static) {
    let thread = thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET)
            .expect("this test makes a network namespace and therefore needs root");
        test();
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

/// Runs `nft` on the test's thread, and so in its namespace.
fn nft(line: &str) -> String {
    let output = Command::new("nft").arg(line).output();
    let output = output.expect("nft of the Debian package nftables");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "nft {line}: {error}");
    String::from_utf8(output.stdout).unwrap()
}

fn range(text: &str) -> (Vec<u8>, Vec<u8>) {
    let (address, length) = text.split_once('/').unwrap();
    prefix(address.parse().unwrap(), length.parse().unwrap())
}

fn ranges(field: Field, texts: &[&str]) -> Set {
    let mut set = Set::new(&[field], true);
    set.insert_ranges(texts.iter().map(|text| range(text)));
    set
}

fn load(offset: u32, length: u32, to: Register) -> Expression {
    Expression::Payload {
        header: Header::Network,
        offset,
        length,
        to,
    }
}

fn is(key: Meta, value: u8) -> [Expression; 2] {
    let register = Register::FIRST;
    let compare = Expression::Compare {
        register,
        how: Comparison::Equal,
        value: vec![value],
    };
    [Expression::Meta { key, to: register }, compare]
}

fn found(set: &str, inverted: bool) -> Expression {
    Expression::Lookup {
        set: set.into(),
        register: Register::FIRST,
        inverted,
    }
}

fn rule(expressions: impl IntoIterator<Item = Expression>, comment: &str) -> Rule {
    Rule {
        expressions: expressions.into_iter().collect(),
        comment: comment.into(),
    }
}

/// One of everything that is known.
fn everything() -> Table {
    let mut table = Table::default();
    let pods4 = ["10.64.0.0/16", "192.0.2.1/32", "255.0.0.0/8", "0.0.0.0/32"];
    let pods6 = ["fd00::/64", "2001:db8::1/128", "::/128"];
    table
        .sets
        .insert("pods4".into(), ranges(Field::Ipv4, &pods4));
    table
        .sets
        .insert("pods6".into(), ranges(Field::Ipv6, &pods6));
    let mut pairs4 = Set::new(&[Field::Ipv4, Field::Ipv4], true);
    for other in ["192.0.2.0/24", "198.51.100.7/32"] {
        let pair = Element::of([range("10.64.1.0/24"), range(other)]);
        pairs4.elements.insert(pair);
    }
    table.sets.insert("pairs4".into(), pairs4);
    let mut pairs6 = Set::new(&[Field::Ipv6, Field::Ipv6], true);
    let pair = Element::of([range("fd00::/64"), range("2001:db8::/32")]);
    pairs6.elements.insert(pair);
    table.sets.insert("pairs6".into(), pairs6);
    let mut names = Set::new(&[Field::Interface], false);
    names.elements.insert(Element::interface("br-a"));
    table.sets.insert("names".into(), names);
    let mut ways = Set::new(&[Field::Interface, Field::Interface], false);
    let way = Element::of([interface("br-a"), interface("br-b")]);
    ways.elements.insert(way);
    table.sets.insert("ways".into(), ways);

    let first = Register::FIRST;
    let four = is(Meta::Protocol, 2);
    let six = is(Meta::Protocol, 10);
    let postrouting = vec![
        rule(
            four.clone().into_iter().chain([
                load(12, 4, first),
                found("pods4", false),
                load(16, 4, first),
                found("pods4", true),
                load(12, 4, first),
                load(16, 4, Register::behind(4)),
                found("pairs4", true),
                Expression::Masquerade { fully_random: true },
            ]),
            "what leaves the cluster",
        ),
        rule(
            six.into_iter().chain([
                load(8, 16, first),
                load(24, 16, Register::behind(16)),
                found("pairs6", true),
                Expression::Masquerade {
                    fully_random: false,
                },
            ]),
            "",
        ),
    ];
    let syn = [
        Expression::Payload {
            header: Header::Transport,
            offset: 13,
            length: 1,
            to: first,
        },
        Expression::Mask {
            register: first,
            mask: vec![6],
        },
        Expression::Compare {
            register: first,
            how: Comparison::Equal,
            value: vec![2],
        },
    ];
    let ways = [
        Expression::Meta {
            key: Meta::InputInterface,
            to: first,
        },
        Expression::Meta {
            key: Meta::OutputInterface,
            to: Register::behind(16),
        },
        found("ways", true),
        Expression::Counter,
    ];
    let ends = |end: Expression| rule(ways.clone().into_iter().chain([end]), "");
    let forward = vec![
        rule(
            is(Meta::Layer4, 6)
                .into_iter()
                .chain(syn)
                .chain([Expression::Verdict(Verdict::Jump("clamp".into()))]),
            "",
        ),
        ends(Expression::Reject),
        ends(Expression::Verdict(Verdict::Drop)),
        ends(Expression::Verdict(Verdict::Accept)),
    ];
    let clamp = vec![
        rule(
            [
                Expression::PathMss { to: first },
                Expression::ToNetworkOrder { register: first },
                Expression::LowerMss { from: first },
            ],
            "",
        ),
        rule([Expression::Verdict(Verdict::Return)], ""),
    ];
    let base = |hook, priority, nat| {
        Some(Base {
            hook,
            priority,
            nat,
        })
    };
    let mut chain = |name: &str, base, rules| {
        table.chains.insert(name.into(), Chain { base, rules });
    };
    chain("forward", base(Hook::Forward, -150, false), forward);
    chain(
        "postrouting",
        base(Hook::PostRouting, 100, true),
        postrouting,
    );
    chain("clamp", None, clamp);
    table
}

/// Brings the table to what is wanted, and says in how many steps.
fn bring(socket: &mut Nft, wanted: &Table) -> Vec<Step> {
    let (there, since) = socket.list(NAME).unwrap();
    let steps = plan(Some(wanted), there.as_ref());
    socket
        .commit(&wanted.batch(NAME, &steps), Some(since))
        .unwrap();
    let (there, _) = socket.list(NAME).unwrap();
    assert_eq!(there.as_ref(), Some(wanted), "{}", nft("list ruleset"));
    steps
}

#[test]
fn what_is_written_is_listed_back_and_nft_reads_it_as_it_was_meant() {
    in_namespace(|| {
        let mut socket = Nft::open().unwrap();
        assert_eq!(socket.list(NAME).unwrap().0, None);
        let wanted = everything();
        assert_eq!(bring(&mut socket, &wanted), [Step::Replace]);
        assert_eq!(bring(&mut socket, &wanted), []);
        let text = nft("list table inet routeshare");
        for line in [
            "type nat hook postrouting priority srcnat; policy accept;",
            "type filter hook forward priority mangle; policy accept;",
            "ip saddr @pods4 ip daddr != @pods4 ip saddr . ip daddr != @pairs4 masquerade fully-random comment \
             \"what leaves the cluster\"",
            "ip6 saddr . ip6 daddr != @pairs6 masquerade",
            "tcp flags syn / syn,rst jump clamp",
            "iifname . oifname != @ways counter packets 0 bytes 0 reject with icmpx admin-prohibited",
            "tcp option maxseg size set rt mtu",
            "elements = { 0.0.0.0, 10.64.0.0/16,",
            "elements = { \"br-a\" }",
            "elements = { \"br-a\" . \"br-b\" }",
            "10.64.1.0/24 . 198.51.100.7",
        ] {
            assert!(text.contains(line), "no `{line}` in\n{text}");
        }
        let mut batch = Batch::new();
        batch.delete_table(NAME);
        socket.commit(&batch, None).unwrap();
        assert_eq!(socket.list(NAME).unwrap().0, None);
    });
}

#[test]
fn sets_change_by_their_difference_and_tables_of_others_stay() {
    in_namespace(|| {
        nft(
            "add table inet foreign { chain forward { type filter hook forward priority 0; policy drop; }; }",
        );
        let foreign = || nft("list table inet foreign");
        let before = foreign();
        let mut socket = Nft::open().unwrap();
        let mut wanted = everything();
        bring(&mut socket, &wanted);
        // Back and forth, with neighbours that become one and are parted again.
        for texts in [
            &["10.64.0.0/16", "10.65.0.0/16"][..],
            &["10.65.0.0/16"],
            &["10.64.0.0/17", "10.64.192.0/18", "0.0.0.0/0"],
            &["10.64.0.0/17", "10.64.192.0/18"],
            &[],
            &["255.255.255.255/32"],
        ] {
            let set = ranges(Field::Ipv4, texts);
            wanted.sets.insert("pods4".into(), set);
            let steps = bring(&mut socket, &wanted);
            assert!(matches!(steps[..], [Step::Elements { .. }]), "{steps:?}");
        }
        let pairs = wanted.sets.get_mut("pairs4").unwrap();
        pairs.elements.pop_first();
        let pair = Element::of([range("10.64.2.0/23"), range("0.0.0.0/0")]);
        pairs.elements.insert(pair);
        let ways = wanted.sets.get_mut("ways").unwrap();
        ways.elements.clear();
        assert_eq!(bring(&mut socket, &wanted).len(), 2);
        // Thousands of nodes, and one more.
        let many = |count: u32| {
            let each = (0..count).map(|number| {
                let address = IpAddr::from((0x0A00_0000 + 2 * number).to_be_bytes());
                prefix(address, 32)
            });
            let mut set = Set::new(&[Field::Ipv4], true);
            set.insert_ranges(each);
            set
        };
        wanted.sets.insert("pods4".into(), many(5000));
        bring(&mut socket, &wanted);
        wanted.sets.insert("pods4".into(), many(5001));
        bring(&mut socket, &wanted);
        // As many exemptions as a Pool can have, for as many subnets as a node hardly has; and one less.
        for (name, field) in [("pairs4", Field::Ipv4), ("pairs6", Field::Ipv6)] {
            let mut pairs = Set::new(&[field, field], true);
            for (subnet, exempt) in (0..16_u8).flat_map(|it| (0..=255_u8).map(move |to| (it, to))) {
                let texts = match field {
                    Field::Ipv4 => [
                        format!("10.64.{subnet}.0/24"),
                        format!("172.{exempt}.0.0/17"),
                    ],
                    _ => [
                        format!("fd00:{subnet}::/64"),
                        format!("2001:db8:{exempt}::/48"),
                    ],
                };
                pairs
                    .elements
                    .insert(Element::of(texts.each_ref().map(|it| range(it))));
            }
            wanted.sets.insert(name.into(), pairs);
            let began = std::time::Instant::now();
            bring(&mut socket, &wanted);
            let one = wanted.sets.get_mut(name).unwrap().elements.pop_last();
            assert!(one.is_some());
            let steps = bring(&mut socket, &wanted);
            assert!(matches!(steps[..], [Step::Elements { .. }]), "{steps:?}");
            eprintln!("4,096 pairs of {field:?}: {:?}", began.elapsed());
        }
        assert_eq!(foreign(), before);
    });
}

#[test]
fn what_others_change_in_the_table_is_heard_and_put_right() {
    in_namespace(|| {
        let mut socket = Nft::open().unwrap();
        let mut monitor = NftMonitor::open(&socket, &[NAME, "more"], 1 << 20).unwrap();
        let wanted = everything();
        bring(&mut socket, &wanted);
        assert_eq!(monitor.read().unwrap(), None, "our own change");
        nft("add table inet foreign");
        assert_eq!(monitor.read().unwrap(), None, "a table of others");
        nft("add table inet more");
        let heard = monitor.read().unwrap().unwrap();
        assert!(heard.tables.iter().eq(["more"]), "{:?}", heard.tables);
        nft("delete table inet more; add chain inet routeshare more");
        let heard = monitor.read().unwrap().unwrap();
        assert_eq!(heard.tables.len(), 2, "{:?}", heard.tables);
        for (change, repair) in [
            ("delete table inet routeshare", 0),
            ("flush ruleset", 0),
            ("flush chain inet routeshare clamp", 0),
            ("add rule inet routeshare forward counter accept", 0),
            ("add chain inet routeshare more", 0),
            ("add counter inet routeshare more", 2),
            (
                "insert rule inet routeshare clamp ip saddr 192.0.2.1 tcp dport 80 drop",
                0,
            ),
            ("add table inet routeshare { flags dormant; }", 0),
            ("add element inet routeshare names { \"br-z\" }", 1),
            ("flush set inet routeshare pods6", 1),
            ("delete element inet routeshare pods4 { 10.64.0.0/16 }", 1),
        ] {
            nft(change);
            let heard = monitor.read().unwrap().expect(change);
            let (_, name) = heard.process.expect(change);
            assert_eq!(name, "nft", "{change}");
            assert!(
                heard.tables.iter().eq([NAME]),
                "{change}: {:?}",
                heard.tables
            );
            let steps = bring(&mut socket, &wanted);
            match repair {
                0 => assert_eq!(steps, [Step::Replace], "{change}"),
                1 => assert!(
                    matches!(steps[..], [Step::Elements { .. }]),
                    "{change}: {steps:?}"
                ),
                _ => {}
            }
        }
    });
}

#[test]
fn a_transaction_is_refused_as_a_whole_and_says_which_part() {
    in_namespace(|| {
        let mut socket = Nft::open().unwrap();
        let wanted = everything();
        bring(&mut socket, &wanted);
        let mut batch = Batch::new();
        batch.delete_table(NAME);
        batch.add_table("other");
        let nowhere = Expression::Verdict(Verdict::Jump("nowhere".into()));
        batch.add_chain("other", "all", None);
        batch.add_rule("other", "all", &rule([nowhere], ""));
        batch.delete_table("missing");
        let error = socket.commit(&batch, None).unwrap_err().to_string();
        assert_eq!(
            error,
            "the kernel refuses a rule of chain `all` of table `other`: No such file or directory (os error 2); \
             nothing of the transaction was carried out"
        );
        assert_eq!(socket.list(NAME).unwrap().0, Some(wanted));
        assert_eq!(socket.list("other").unwrap().0, None);
        let mut batch = Batch::new();
        batch.add_new_table(NAME);
        let error = socket.commit(&batch, None).unwrap_err();
        assert!(error.to_string().contains("File exists"), "{error}");
    });
}

#[test]
fn nothing_is_done_when_somebody_was_faster() {
    in_namespace(|| {
        let mut socket = Nft::open().unwrap();
        let (_, since) = socket.list(NAME).unwrap();
        nft("add table inet routeshare");
        let wanted = everything();
        let batch = wanted.batch(NAME, &[Step::Replace]);
        let outcome = socket.commit(&batch, Some(since));
        assert!(matches!(outcome, Err(NftError::Changed)), "{outcome:?}");
        assert_eq!(socket.list(NAME).unwrap().0, Some(Table::default()));
        bring(&mut socket, &wanted);
    });
}
