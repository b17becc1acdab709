use proptest::prelude::*;

use super::*;

fn route(last_octet: u8) -> Candidate {
    Candidate {
        source: Source::Ebgp,
        local_pref: 100,
        path_length: 2,
        origin: 0,
        med: 0,
        long_lived_stale: false,
        neighbor_as: 65001,
        igp_metric: 0,
        incumbent: false,
        router_id: u32::from(last_octet),
        cluster_length: 0,
        peer_address: IpAddr::from([192, 0, 2, last_octet]),
    }
}

fn lost(step: Step, to: usize) -> Place {
    Place::Lost { step, to }
}

fn single() -> DecisionConfig {
    DecisionConfig {
        max_paths: 1,
        ..DecisionConfig::default()
    }
}

/// `better` beats `worse` by `step`, in whichever order they come.
fn assert_step(better: Candidate, worse: Candidate, config: &DecisionConfig, step: Step) {
    let one = decide(&[better, worse], config);
    assert_eq!(one.as_slice(), [Place::Best, lost(step, 0)], "{step}");
    let other = decide(&[worse, better], config);
    assert_eq!(other.as_slice(), [lost(step, 1), Place::Best], "{step}");
}

/// Each step decides when all before it are equal, although all after it say the opposite.
#[test]
fn each_step_decides_before_those_after_it() {
    type Change = fn(&mut Candidate);
    // What makes a route worse, step by step.
    let worse: [(Step, Change); 10] = [
        (Step::Local, |c| c.source = Source::Ebgp),
        (Step::LocalPreference, |c| c.local_pref = 50),
        (Step::AsPathLength, |c| c.path_length = 3),
        (Step::Origin, |c| c.origin = 2),
        (Step::Med, |c| c.med = 10),
        (Step::Ebgp, |c| c.source = Source::Ibgp),
        (Step::IgpMetric, |c| c.igp_metric = 5),
        (Step::RouterId, |c| c.router_id = 200),
        (Step::ClusterListLength, |c| c.cluster_length = 1),
        (Step::PeerAddress, |c| {
            c.peer_address = IpAddr::from([192, 0, 2, 200]);
        }),
    ];
    for (index, (step, change)) in worse.iter().enumerate() {
        let mut loser = route(1);
        let mut winner = route(1);
        if *step == Step::Local {
            winner.source = Source::Local;
        }
        change(&mut loser);
        for (later, change) in &worse[index + 1..] {
            // The kind of route is one value for two steps: a local one has no later step.
            if !(*step == Step::Local && *later == Step::Ebgp) {
                change(&mut winner);
            }
        }
        assert_step(winner, loser, &single(), *step);
    }
}

#[test]
fn med_is_compared_between_neighbour_ases_only_when_asked_for() {
    let low = Candidate { med: 5, ..route(9) };
    let high = Candidate {
        med: 10,
        neighbor_as: 65002,
        ..route(1)
    };
    assert_step(high, low, &single(), Step::RouterId);
    let always = DecisionConfig {
        always_compare_med: true,
        ..single()
    };
    assert_step(low, high, &always, Step::Med);
}

/// The example of every text about deterministic MED: a beats b by router id, b beats c by router
/// id, c beats a by MED.
#[test]
fn med_does_not_make_the_outcome_depend_on_order() {
    let a = Candidate {
        med: 20,
        ..route(1)
    };
    let b = Candidate {
        neighbor_as: 65002,
        ..route(2)
    };
    let c = Candidate {
        med: 10,
        ..route(3)
    };
    let best = |routes: &[Candidate]| {
        let places = decide(routes, &single());
        routes[places.iter().position(|p| *p == Place::Best).unwrap()]
    };
    for order in [
        [a, b, c],
        [a, c, b],
        [b, a, c],
        [b, c, a],
        [c, a, b],
        [c, b, a],
    ] {
        assert_eq!(best(&order), b);
    }
    assert_eq!(
        decide(&[a, b, c], &single()).as_slice(),
        [lost(Step::Med, 2), Place::Best, lost(Step::RouterId, 1)]
    );
}

#[test]
fn the_route_in_use_stays_when_router_ids_are_not_compared() {
    let older = Candidate {
        incumbent: true,
        ..route(9)
    };
    let config = DecisionConfig {
        compare_router_id: false,
        ..single()
    };
    assert_step(older, route(1), &config, Step::Oldest);
    assert_step(route(1), older, &single(), Step::RouterId);
}

#[test]
fn equal_routes_are_used_together_up_to_the_limit() {
    let routes: Vec<Candidate> = (1..=4).rev().map(route).collect();
    let config = DecisionConfig {
        max_paths: 3,
        ..DecisionConfig::default()
    };
    assert_eq!(
        decide(&routes, &config).as_slice(),
        [
            lost(Step::RouterId, 3),
            Place::Multipath,
            Place::Multipath,
            Place::Best
        ]
    );
}

#[test]
fn multipath_over_different_ases_is_a_choice() {
    let other = Candidate {
        neighbor_as: 65002,
        ..route(2)
    };
    let config = DecisionConfig::default();
    let places = decide(&[route(1), other], &config);
    assert_eq!(places.as_slice(), [Place::Best, Place::Multipath]);
    let config = DecisionConfig {
        multipath_different_as: false,
        ..config
    };
    let places = decide(&[route(1), other], &config);
    assert_eq!(places.as_slice(), [Place::Best, lost(Step::RouterId, 0)]);
}

#[test]
fn a_route_worse_than_one_of_its_own_as_is_not_used_together_with_another() {
    // 65002's second route is not comparable with the best by MED, but worse than 65002's first.
    let first = Candidate {
        neighbor_as: 65002,
        ..route(2)
    };
    let second = Candidate {
        neighbor_as: 65002,
        med: 7,
        ..route(3)
    };
    let places = decide(&[route(1), first, second], &DecisionConfig::default());
    assert_eq!(
        places.as_slice(),
        [Place::Best, Place::Multipath, lost(Step::Med, 1)]
    );
}

#[test]
fn a_local_route_is_used_alone() {
    let local = Candidate {
        source: Source::Local,
        ..route(1)
    };
    let places = decide(&[local, route(2)], &DecisionConfig::default());
    assert_eq!(places.as_slice(), [Place::Best, lost(Step::Local, 0)]);
}

prop_compose! {
    fn any_route()(
        source in prop_oneof![Just(Source::Ebgp), Just(Source::Ibgp)],
        local_pref in 99_u32..101,
        path_length in 1_u16..3,
        origin in 0_u8..2,
        med in 0_u32..3,
        neighbor_as in 65001_u32..65003,
        igp_metric in 0_u32..2,
        router_id in 1_u32..4,
        cluster_length in 0_u16..2,
    ) -> Candidate {
        Candidate {
            source, local_pref, path_length, origin, med, neighbor_as, igp_metric, router_id,
            cluster_length, ..route(1)
        }
    }
}

/// Candidates of different peers, and a permutation of them.
fn shuffled() -> impl Strategy<Value = (Vec<Candidate>, Vec<Candidate>)> {
    proptest::collection::vec(any_route(), 1..9)
        .prop_map(|mut routes| {
            for (index, route) in routes.iter_mut().enumerate() {
                route.peer_address = IpAddr::from([192, 0, 2, index as u8]);
            }
            routes
        })
        .prop_flat_map(|routes| (Just(routes.clone()), Just(routes).prop_shuffle()))
}

proptest! {
    #[test]
    fn neither_best_nor_multipath_depends_on_the_order_of_candidates(
        (one, other) in shuffled(),
        always_compare_med: bool,
        multipath_different_as: bool,
        max_paths in 1_u16..5,
    ) {
        let config = DecisionConfig {
            always_compare_med,
            multipath_different_as,
            max_paths,
            ..DecisionConfig::default()
        };
        let used = |routes: &[Candidate]| {
            let places = decide(routes, &config);
            let mut used: Vec<(bool, IpAddr)> = routes
                .iter()
                .zip(&places)
                .filter(|(_, place)| !matches!(place, Place::Lost { .. }))
                .map(|(route, place)| (*place == Place::Best, route.peer_address))
                .collect();
            used.sort_unstable();
            used
        };
        let used_one = used(&one);
        prop_assert_eq!(used_one.iter().filter(|(best, _)| *best).count(), 1);
        prop_assert_eq!(used_one, used(&other));
    }
}
