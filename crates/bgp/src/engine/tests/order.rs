use proptest::prelude::*;

use super::rig::{Rig, nth};
use crate::attributes::Attributes;
use crate::config::Origin;
use crate::types::Asn;

/// One thing that one of four peers says of one of three prefixes.
#[derive(Clone, Debug)]
struct Said {
    peer: u8,
    prefix: u32,
    attributes: Option<(u32, bool, u32)>,
}

fn said() -> impl Strategy<Value = Said> {
    let attributes = proptest::option::weighted(0.8, (0_u32..3, any::<bool>(), 0_u32..3));
    (2_u8..6, 0_u32..3, attributes).prop_map(|(peer, prefix, attributes)| Said {
        peer,
        prefix,
        attributes,
    })
}

fn tell(rig: &mut Rig, said: &Said) {
    let name = format!("p{}", said.peer);
    let Some((longer, egp, med)) = said.attributes else {
        return rig.withdraw(&name, &[nth(said.prefix)]);
    };
    let own = rig.own(&name);
    let path = own.as_path.asns.iter().copied();
    // All of them come from two neighbour ASes, so that MEDs meet.
    let neighbor = Asn(64000 + u32::from(said.peer % 2));
    let attributes = Attributes {
        as_path: std::iter::once(neighbor)
            .chain(path)
            .chain((0..longer).map(|n| Asn(3000 + n)))
            .collect(),
        origin: if egp { Origin::Egp } else { Origin::Igp },
        med: Some(med),
        ..own
    };
    rig.announce(&name, &[nth(said.prefix)], &attributes);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Whatever was said on the way: the last word of every peer decides, in whichever order the
    /// last words came; and what peers have been told is what the tables say.
    #[test]
    fn the_outcome_depends_on_the_last_words_alone(
        history in proptest::collection::vec(said(), 0..40),
        seed: u64,
    ) {
        let mut one = Rig::with_peers(5);
        for said in &history {
            tell(&mut one, said);
        }
        let mut last: std::collections::BTreeMap<(u8, u32), &Said> = Default::default();
        for said in &history {
            last.insert((said.peer, said.prefix), said);
        }
        let mut words: Vec<&Said> = last.into_values().collect();
        let length = words.len().max(1);
        words.rotate_left(seed as usize % length);
        if seed % 2 == 0 {
            words.reverse();
        }
        let mut other = Rig::with_peers(5);
        for said in words {
            tell(&mut other, said);
        }
        prop_assert_eq!(&one.fib, &other.fib);
        for name in ["p2", "p3", "p4", "p5", "p6"] {
            let heard = other.script(name).heard.clone();
            prop_assert_eq!(&one.script(name).heard, &heard);
            prop_assert!(one.script(name).superfluous.is_empty());
        }
        for index in 0..3 {
            prop_assert_eq!(one.best(nth(index)), other.best(nth(index)));
        }
    }
}
