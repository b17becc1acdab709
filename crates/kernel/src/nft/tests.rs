//! Without the kernel: what is encoded is decoded the same, and which steps follow from what. With it:
//! `tests/interop/host_side`.

use proptest::prelude::*;

use super::set::{interface, prefix};
use super::table::{Step, plan};
use super::*;

fn all_expressions() -> Vec<Expression> {
    let register = Register::behind(4);
    let verdicts = [
        Verdict::Accept,
        Verdict::Drop,
        Verdict::Return,
        Verdict::Jump("clamp".into()),
    ];
    let others = [
        Expression::Meta {
            key: Meta::OutputInterface,
            to: Register::FIRST,
        },
        Expression::Meta {
            key: Meta::InputGroup,
            to: Register::FIRST,
        },
        Expression::Payload {
            header: Header::Network,
            offset: 12,
            length: 4,
            to: register,
        },
        Expression::Mask {
            register,
            mask: vec![6],
        },
        Expression::Compare {
            register,
            how: Comparison::NotEqual,
            value: vec![2],
        },
        Expression::Lookup {
            set: "direct4".into(),
            register,
            inverted: true,
        },
        Expression::PathMss { to: register },
        Expression::ReversePath { to: register },
        Expression::ToNetworkOrder { register },
        Expression::LowerMss { from: register },
        Expression::Masquerade { fully_random: true },
        Expression::Masquerade {
            fully_random: false,
        },
        Expression::Counter,
        Expression::Reject,
    ];
    others
        .into_iter()
        .chain(verdicts.map(Expression::Verdict))
        .collect()
}

#[test]
fn an_expression_is_read_back_as_it_was_written() {
    for expression in all_expressions() {
        let mut requests = Requests::new();
        expression.encode(&mut requests);
        let element = find(&requests.bytes, 0, LIST_ELEMENT).expect("an element");
        assert_eq!(Expression::decode(element), expression);
    }
}

#[test]
fn registers_have_the_numbers_that_the_kernel_lists() {
    let behind = |bytes| format!("{:?}", Register::behind(bytes));
    assert_eq!(Register::FIRST, Register::behind(0));
    assert_eq!(behind(4), "Register(9)");
    assert_eq!(behind(16), "Register(2)");
    assert_eq!(behind(20), "Register(13)");
}

fn table() -> Table {
    let mut pods = Set::new(&[Field::Ipv4], true);
    let address = |text: &str| prefix(text.parse().expect("an address"), 24);
    pods.insert_ranges([address("10.64.1.0"), address("10.64.3.0")]);
    let mut table = Table::default();
    table.sets.insert("pods4".into(), pods);
    let rules = vec![Rule {
        expressions: all_expressions(),
        comment: "everything".into(),
    }];
    table
        .chains
        .insert("all".into(), Chain { base: None, rules });
    table
}

#[test]
fn a_table_as_wanted_needs_nothing_and_a_strange_one_is_written_anew() {
    let wanted = table();
    assert_eq!(plan(Some(&wanted), Some(&wanted)), []);
    assert_eq!(plan(None, None), []);
    assert_eq!(plan(None, Some(&wanted)), [Step::Remove]);
    assert_eq!(plan(Some(&wanted), None), [Step::Replace]);
    let mut strange = wanted.clone();
    strange.strange = true;
    let mut other_rule = wanted.clone();
    let chain = other_rule.chains.get_mut("all").expect("the chain");
    chain.rules[0].expressions.pop();
    let mut other_set = wanted.clone();
    other_set
        .sets
        .insert("more".into(), Set::new(&[Field::Ipv6], true));
    for actual in [strange, other_rule, other_set] {
        assert_eq!(plan(Some(&wanted), Some(&actual)), [Step::Replace]);
    }
}

#[test]
fn a_set_that_differs_costs_its_difference() {
    let actual = table();
    let mut wanted = table();
    let pods = wanted.sets.get_mut("pods4").expect("the set");
    pods.insert_ranges([prefix([10, 64, 2, 0].into(), 24)]);
    let ranges = |parts: &[([u8; 4], [u8; 4])]| -> Vec<Element> {
        let parts = parts.iter();
        parts
            .map(|(first, last)| Element::of([(first.to_vec(), last.to_vec())]))
            .collect()
    };
    let expected = Step::Elements {
        set: "pods4".into(),
        remove: ranges(&[
            ([10, 64, 1, 0], [10, 64, 1, 255]),
            ([10, 64, 3, 0], [10, 64, 3, 255]),
        ]),
        add: ranges(&[([10, 64, 1, 0], [10, 64, 3, 255])]),
    };
    assert_eq!(plan(Some(&wanted), Some(&actual)), [expected]);
}

/// As the kernel would list what was encoded.
fn listed(set: &Set) -> Vec<set::Listed> {
    let mut requests = Requests::new();
    for element in &set.elements {
        set.encode_element(&mut requests, element);
    }
    let elements = message::attributes(&requests.bytes, 0);
    let listed = elements.map(|(_, it)| set::Listed::decode(it).expect("an element"));
    listed.collect()
}

fn read_back(set: &Set, reverse: bool) -> Set {
    let mut elements = listed(set);
    if reverse {
        elements.reverse();
    }
    let mut found = Set::new(&set.fields, set.ranges);
    assert!(found.set_listed(elements));
    found
}

#[test]
fn interfaces_and_pairs_are_read_back() {
    let mut names = Set::new(&[Field::Interface], false);
    names.elements.insert(Element::interface("br-a"));
    let mut pairs = Set::new(&[Field::Interface, Field::Interface], false);
    let pair = Element::of([interface("br-a"), interface("br-b")]);
    pairs.elements.insert(pair);
    let mut ranges = Set::new(&[Field::Ipv6, Field::Ipv4], true);
    let six = prefix("fd00::".parse().expect("an address"), 8);
    let pair = Element::of([six, prefix([192, 0, 2, 0].into(), 25)]);
    ranges.elements.insert(pair);
    for set in [names, pairs, ranges] {
        assert_eq!(read_back(&set, false), set);
    }
}

proptest! {
    #[test]
    fn ranges_are_read_back_in_any_order(
        given in proptest::collection::vec((0_u8.., 0_u8.., 0_u8..), 0..12),
        reverse: bool,
    ) {
        let mut set = Set::new(&[Field::Ipv4], true);
        set.insert_ranges(given.into_iter().map(|(a, b, long)| {
            prefix([255, 255, a, b].into(), 16 + long % 17)
        }));
        assert_eq!(read_back(&set, reverse), set);
    }

    #[test]
    fn no_bytes_disturb_the_reading(bytes in proptest::collection::vec(0u8.., 0..200)) {
        let _ = Expression::decode(&bytes);
        let _ = Set::decode(&bytes, 4);
        let _ = set::Listed::decode(&bytes);
    }
}
