//! Long-lived graceful restart: what becomes of routes when a peer is away for longer than its
//! restart time. RFC 9494.
//!
//! ```text
//!  watcher ── helper ── subject ──────── far
//!                └───── spare ── detour ──┘      each an AS of its own
//! ```

use std::time::Duration;

use bgp::config::{Action, LongLived, Match, Policy, Rule, Set};
use bgp::engine::Restart;
use bgp::message::Message;
use bgp::query::{Refusal, RouteRow, View};
use bgp::types::{Asn, Community, Family, Prefix};

use crate::net::{Id, Link, Net};
use crate::world::{name, originated, own_prefix, seconds};

const MS: Duration = Duration::from_millis(1);

const WATCHER: Id = 0;
const HELPER: Id = 1;
const SUBJECT: Id = 2;
const FAR: Id = 3;
const SPARE: Id = 4;
const DETOUR: Id = 5;

/// How many routes of a family the helper has from the subject: its own, far's and the detour's.
const ALL: u64 = 3;
/// The restart time of all, by default.
const RESTART: u64 = 120;
/// How long the routes are to be kept after that.
const LONG: u64 = 600;

const TEN_MINUTES: LongLived = LongLived {
    stale_seconds: LONG as u32,
    at_most_seconds: None,
    tell_unaware: false,
};

/// Everything is known everywhere; `change` comes before the first configuration.
fn net(seed: u64, change: impl FnOnce(&mut Net)) -> Net {
    let mut net = Net::new(seed);
    for asn in 65000..65006 {
        net.speaker(asn);
    }
    net.peer(WATCHER, HELPER);
    net.peer(HELPER, SUBJECT);
    net.peer(HELPER, SPARE);
    net.peer(SUBJECT, FAR);
    net.peer(SPARE, DETOUR);
    net.peer(DETOUR, FAR);
    net.long_lived(TEN_MINUTES);
    // So that nobody but the helper keeps what the subject said.
    for (here, there) in [(SUBJECT, FAR), (FAR, SUBJECT)] {
        net.config_of(here, there).graceful_restart = None;
    }
    change(&mut net);
    net.begin();
    net.advance(seconds(20));
    net.assert_all_reachable();
    net
}

/// What a speaker has of a prefix from another one.
fn route(net: &Net, here: Id, from: Id, prefix: Prefix) -> Option<RouteRow> {
    let from = name(from);
    let mut rows = net.rows(here, View::All).into_iter();
    rows.find(|row| row.prefix == prefix && row.peer.as_deref() == Some(&*from))
}

/// From whom the best route to a prefix is.
fn best(net: &Net, here: Id, prefix: Prefix) -> Option<String> {
    let mut rows = net.rows(here, View::All).into_iter();
    let row = rows.find(|row| row.prefix == prefix && row.best)?;
    Some(row.peer?.to_string())
}

fn marked(row: &RouteRow) -> bool {
    row.attributes.communities.contains(&Community::LLGR_STALE)
}

/// Routes that the helper keeps from the subject, and those of them that are long-lived stale.
fn kept(net: &Net) -> [(u64, u64); 2] {
    let families = net.status(HELPER, SUBJECT).families;
    [0, 1].map(|family| (families[family].stale, families[family].long_lived_stale))
}

fn began(net: &Net) -> bool {
    let status = net.status(HELPER, SUBJECT).graceful_restart.unwrap();
    status.long_lived.unwrap().began
}

#[test]
fn after_the_restart_time_routes_are_the_last_choice_and_after_the_long_one_they_go() {
    let mut net = net(1, |_| {});
    let (own, behind) = (own_prefix(SUBJECT), own_prefix(FAR));
    net.kill(SUBJECT);
    net.advance(seconds(RESTART - 1));
    assert_eq!(kept(&net), [(ALL, 0); 2]);
    assert!(!began(&net));
    for prefix in behind {
        // Its other way is longer, and no better than a stale one yet.
        assert_eq!(best(&net, HELPER, prefix), Some(name(SUBJECT)));
        assert!(!marked(&route(&net, HELPER, SUBJECT, prefix).unwrap()));
    }

    net.advance(seconds(2));
    assert_eq!(kept(&net), [(ALL, ALL); 2]);
    assert!(began(&net));
    for prefix in behind {
        assert_eq!(best(&net, HELPER, prefix), Some(name(SPARE)));
        let lost = route(&net, HELPER, SUBJECT, prefix).unwrap();
        assert!(marked(&lost) && lost.stale && lost.long_lived_stale);
        let reason = lost.reason.unwrap().to_string();
        assert_eq!(reason, format!("long-lived stale (to {})", name(SPARE)));
    }
    for prefix in own {
        // The only way there is.
        assert_eq!(best(&net, HELPER, prefix), Some(name(SUBJECT)));
        assert!(net.forwards(HELPER, prefix));
        let told = route(&net, WATCHER, HELPER, prefix).unwrap();
        assert!(marked(&told) && told.best && !told.stale, "it is told so");
    }

    net.advance(seconds(LONG - 3));
    assert!(own.iter().all(|prefix| net.forwards(HELPER, *prefix)));
    net.advance(seconds(3));
    assert_eq!(kept(&net), [(0, 0); 2]);
    assert!(!began(&net));
    for prefix in own {
        assert!(!net.forwards(HELPER, prefix));
        assert_eq!(route(&net, WATCHER, HELPER, prefix), None);
    }
    assert!(behind.iter().all(|prefix| net.forwards(HELPER, *prefix)));
}

#[test]
fn a_peer_that_comes_back_late_costs_nobody_the_routes_that_only_it_has() {
    for seed in 0..5 {
        let mut net = net(seed, |_| {});
        let before = net.outcome();
        let legacy = net.legacy(SUBJECT);
        net.kill(SUBJECT);
        let end = net.time() + seconds(RESTART + 100 * (seed + 1));
        let mut back = false;
        while net.time() < end + seconds(60) {
            net.advance(MS * 50);
            for prefix in own_prefix(SUBJECT) {
                assert!(net.forwards(HELPER, prefix) && net.forwards(WATCHER, prefix));
            }
            if net.time() >= end && !std::mem::replace(&mut back, true) {
                net.start_again(SUBJECT, Some(legacy.clone()));
            }
        }
        assert_eq!(kept(&net), [(0, 0); 2]);
        for prefix in own_prefix(SUBJECT) {
            assert!(!marked(&route(&net, HELPER, SUBJECT, prefix).unwrap()));
            assert!(!marked(&route(&net, WATCHER, HELPER, prefix).unwrap()));
        }
        assert_eq!(net.outcome(), before);
        net.assert_all_reachable();
    }
}

#[test]
fn what_a_peer_that_comes_back_late_does_not_repeat_goes_at_its_end_of_rib() {
    let mut net = net(7, |_| {});
    let [gone, stays] = own_prefix(SUBJECT);
    let legacy = net.legacy(SUBJECT);
    net.kill(SUBJECT);
    net.advance(seconds(RESTART + 30));
    let since = net.time();
    net.speakers[SUBJECT].config.originate = vec![originated(stays)];
    net.start_again(SUBJECT, Some(legacy));
    while net.end_of_ribs(SUBJECT, HELPER).len() < 4 {
        assert!(net.forwards(HELPER, gone), "before its End-of-RIB");
        assert!(net.time() < since + seconds(150));
        net.advance(MS / 2);
    }
    net.advance(seconds(1));
    assert!(!net.forwards(HELPER, gone) && net.forwards(HELPER, stays));
    assert_eq!(kept(&net), [(0, 0); 2]);
}

#[test]
fn a_peer_that_has_not_gone_on_forwarding_loses_its_routes_when_it_comes_back_late() {
    let mut net = net(8, |_| {});
    net.kill(SUBJECT);
    net.advance(seconds(RESTART + 30));
    net.speakers[SUBJECT].fib.clear();
    // So that there is time to look between OPEN and the routes that follow it.
    let slow = Link {
        delay: MS * 100,
        ..Link::default()
    };
    net.link(HELPER, SUBJECT, slow);
    let legacy = Restart {
        preserved: vec![Family::Ipv6],
        ..net.legacy(SUBJECT)
    };
    net.start_again(SUBJECT, Some(legacy));
    let [lost, kept] = own_prefix(SUBJECT);
    let mut seen_without = false;
    for _ in 0..2000 {
        net.advance(MS * 10);
        assert!(net.forwards(HELPER, kept));
        seen_without |= !net.forwards(HELPER, lost);
    }
    assert!(seen_without);
    net.assert_all_reachable();
}

/// The subject is back, says nothing, and has a long restart time to wait for somebody.
fn back_and_silent(seed: u64) -> Net {
    let mut net = net(seed, |net| {
        net.config_of(SUBJECT, FAR).graceful_restart =
            net.config_of(SUBJECT, HELPER).graceful_restart;
        for (here, there) in [(SUBJECT, HELPER), (SUBJECT, FAR)] {
            let graceful = &mut net.config_of(here, there).graceful_restart;
            graceful.as_mut().unwrap().restart_seconds = 1000;
        }
        net.config_of(FAR, SUBJECT).graceful_restart = net.config_of(FAR, DETOUR).graceful_restart;
        for peer in [SUBJECT, DETOUR] {
            net.config_of(FAR, peer)
                .graceful_restart
                .as_mut()
                .unwrap()
                .long_lived = None;
        }
    });
    let legacy = net.legacy(SUBJECT);
    net.kill(SUBJECT);
    net.advance(seconds(1030));
    net.cut(SUBJECT, FAR);
    net.start_again(SUBJECT, Some(legacy));
    net.advance(seconds(20));
    assert_eq!(net.state(HELPER, SUBJECT), "Established");
    assert_eq!(kept(&net), [(ALL, ALL); 2]);
    net
}

#[test]
fn the_long_time_goes_on_until_the_peer_has_repeated_all() {
    let mut net = back_and_silent(9);
    // It began 50 s ago, and 20 s ago the peer came back.
    net.advance(seconds(LONG - 55));
    assert_eq!(kept(&net), [(ALL, ALL); 2]);
    net.advance(seconds(10));
    assert_eq!(kept(&net), [(0, 0); 2]);
    assert_eq!(net.state(HELPER, SUBJECT), "Established");
    assert!(!net.forwards(HELPER, own_prefix(SUBJECT)[0]));
    // Nothing is kept of a session that came so late to no end.
    net.kill(SUBJECT);
    net.advance(seconds(1));
    assert_eq!(kept(&net), [(0, 0); 2]);
    let status = net.status(HELPER, SUBJECT).graceful_restart.unwrap();
    assert_eq!(status.stale_until, None);
}

#[test]
fn who_goes_away_again_before_it_has_repeated_all_keeps_its_routes_for_the_rest_of_the_time() {
    let mut net = back_and_silent(10);
    net.kill(SUBJECT);
    net.advance(seconds(300));
    assert_eq!(kept(&net), [(ALL, ALL); 2]);
    assert!(net.forwards(HELPER, own_prefix(SUBJECT)[0]));
    net.advance(seconds(LONG - 300 - 55));
    assert!(net.forwards(HELPER, own_prefix(SUBJECT)[0]));
    net.advance(seconds(10));
    assert_eq!(kept(&net), [(0, 0); 2]);
    assert!(!net.forwards(HELPER, own_prefix(SUBJECT)[0]));
}

#[test]
fn routes_that_ask_not_to_be_kept_for_so_long_go_with_the_restart_time() {
    // Said by the sender, or by the helper's own import policy.
    for by_policy in [false, true] {
        let mut net = net(11, |net| {
            let no_llgr = Set::AddCommunity(Community::NO_LLGR);
            if by_policy {
                net.speakers[HELPER]
                    .config
                    .policies
                    .push(setting("mark", vec![no_llgr]));
                net.config_of(HELPER, SUBJECT).import = vec!["mark".into()];
            } else {
                net.speakers[SUBJECT].config.advertisements[0].set = vec![no_llgr];
            }
        });
        net.kill(SUBJECT);
        net.advance(seconds(RESTART - 1));
        assert!(net.forwards(HELPER, own_prefix(SUBJECT)[0]));
        net.advance(seconds(2));
        assert!(!net.forwards(HELPER, own_prefix(SUBJECT)[0]));
        assert_eq!(route(&net, HELPER, SUBJECT, own_prefix(SUBJECT)[0]), None);
        let others = if by_policy { 0 } else { ALL - 1 };
        assert_eq!(kept(&net), [(others, others); 2]);
    }
}

/// A policy that accepts everything and changes this.
fn setting(name: &str, set: Vec<Set>) -> Policy {
    Policy {
        name: name.into(),
        rules: vec![Rule {
            name: "all".into(),
            matches: Match::default(),
            action: Action::Accept,
            set,
        }],
    }
}

#[test]
fn who_does_not_know_what_that_means_is_not_told() {
    let mut net = net(12, |net| {
        let plain = net.config_of(WATCHER, HELPER).graceful_restart.as_mut();
        plain.unwrap().long_lived = None;
    });
    let own = own_prefix(SUBJECT)[0];
    net.kill(SUBJECT);
    net.advance(seconds(RESTART - 1));
    assert!(net.forwards(WATCHER, own));
    net.advance(seconds(2));
    assert!(net.forwards(HELPER, own) && !net.forwards(WATCHER, own));
    assert_eq!(route(&net, WATCHER, HELPER, own), None);
    let explained = net.speakers[HELPER].engine.explain(own);
    let export = explained
        .exports
        .iter()
        .find(|export| *export.peer == *name(WATCHER));
    let state = format!("{:?}", export.unwrap().state);
    assert!(state.contains("LongLivedStale"), "{state}");
    // What lies behind it goes another way and is told as ever.
    assert!(net.forwards(WATCHER, own_prefix(FAR)[0]));
}

#[test]
fn an_internal_peer_that_does_not_know_may_be_told_with_the_lowest_preference() {
    let mut net = net(13, |net| {
        let asn = Asn(65001);
        net.speakers[WATCHER].config.asn = asn;
        let config = net.config_of(WATCHER, HELPER);
        (config.local_asn, config.remote_asn) = (asn, asn);
        config.graceful_restart.as_mut().unwrap().long_lived = None;
        let config = net.config_of(HELPER, WATCHER);
        config.remote_asn = asn;
        config.next_hop = bgp::config::NextHopMode::Self_;
        let graceful = config.graceful_restart.as_mut().unwrap();
        graceful.long_lived.as_mut().unwrap().tell_unaware = true;
    });
    let own = own_prefix(SUBJECT)[0];
    let before = route(&net, WATCHER, HELPER, own).unwrap();
    assert_eq!(before.attributes.local_pref, Some(100));
    net.kill(SUBJECT);
    net.advance(seconds(RESTART + 1));
    let told = route(&net, WATCHER, HELPER, own).unwrap();
    assert_eq!(told.attributes.local_pref, Some(0));
    let communities = &told.attributes.communities;
    assert_eq!(*communities, [Community::LLGR_STALE, Community::NO_EXPORT]);
    assert!(net.forwards(WATCHER, own));

    // Without the option it is not told any more.
    net.reconfigure(HELPER, WATCHER, |peer| {
        let graceful = peer.graceful_restart.as_mut().unwrap();
        graceful.long_lived.as_mut().unwrap().tell_unaware = false;
    });
    net.advance(seconds(1));
    assert_eq!(net.state(HELPER, WATCHER), "Established");
    assert_eq!(net.status(HELPER, WATCHER).established_count, 1);
    assert_eq!(route(&net, WATCHER, HELPER, own), None);
}

#[test]
fn a_stale_route_heard_of_is_the_last_choice_too_and_no_policy_hides_it() {
    // The helper is told of stale routes by the spare, which keeps them of the detour; its own
    // policies take all communities away, in and out.
    let mut net = net(14, |net| {
        let clear = setting("clear", vec![Set::ClearCommunities]);
        net.speakers[HELPER].config.policies.push(clear);
        net.config_of(HELPER, SPARE).import = vec!["clear".into()];
        net.config_of(HELPER, WATCHER).export = vec!["clear".into()];
        net.config_of(FAR, DETOUR).graceful_restart = None;
        // The longer way is the better one, as long as nothing is stale.
        let longer = setting(
            "longer",
            vec![Set::Prepend {
                asn: Asn(65002),
                count: 10,
            }],
        );
        net.speakers[SUBJECT].config.policies.push(longer);
        net.config_of(SUBJECT, HELPER).export = vec!["longer".into()];
    });
    let behind = own_prefix(FAR)[0];
    let alone = own_prefix(DETOUR)[0];
    assert_eq!(best(&net, HELPER, behind), Some(name(SPARE)));
    net.cut(DETOUR, FAR);
    net.kill(DETOUR);
    net.advance(seconds(RESTART + 1));
    assert_eq!(best(&net, HELPER, behind), Some(name(SUBJECT)));
    let heard = route(&net, HELPER, SPARE, alone).unwrap();
    assert!(
        marked(&heard) && !heard.stale,
        "it is the spare that keeps it"
    );
    let told = route(&net, WATCHER, HELPER, alone).unwrap();
    assert!(marked(&told) && told.best);
}

#[test]
fn the_helper_may_keep_them_for_less_than_it_is_asked_for() {
    let mut net = net(15, |net| {
        let graceful = net.config_of(HELPER, SUBJECT).graceful_restart.as_mut();
        graceful
            .unwrap()
            .long_lived
            .as_mut()
            .unwrap()
            .at_most_seconds = Some(30);
    });
    let status = net.status(HELPER, SUBJECT).graceful_restart.unwrap();
    assert_eq!(status.long_lived.unwrap().peer_seconds, Some(LONG as u32));
    net.kill(SUBJECT);
    net.advance(seconds(RESTART + 29));
    assert!(net.forwards(HELPER, own_prefix(SUBJECT)[0]));
    net.advance(seconds(2));
    assert!(!net.forwards(HELPER, own_prefix(SUBJECT)[0]));
}

#[test]
fn both_sides_have_to_speak_of_it() {
    for helper in [false, true] {
        let mut net = net(16, |net| {
            let (here, there) = if helper {
                (HELPER, SUBJECT)
            } else {
                (SUBJECT, HELPER)
            };
            let graceful = net.config_of(here, there).graceful_restart.as_mut();
            graceful.unwrap().long_lived = None;
        });
        net.kill(SUBJECT);
        net.advance(seconds(RESTART - 1));
        assert!(net.forwards(HELPER, own_prefix(SUBJECT)[0]));
        net.advance(seconds(2));
        assert!(!net.forwards(HELPER, own_prefix(SUBJECT)[0]));
    }
}

#[test]
fn what_is_no_longer_configured_is_no_longer_kept() {
    for late in [false, true] {
        let mut net = net(17, |_| {});
        let own = own_prefix(SUBJECT)[0];
        net.kill(SUBJECT);
        net.advance(seconds(if late { RESTART + 10 } else { 10 }));
        net.reconfigure(HELPER, SUBJECT, |peer| {
            peer.graceful_restart.as_mut().unwrap().long_lived = None;
        });
        net.advance(seconds(1));
        assert_eq!(net.forwards(HELPER, own), !late);
        net.advance(seconds(RESTART));
        assert!(!net.forwards(HELPER, own));
    }
}

#[test]
fn a_changed_policy_leaves_the_mark_where_it_is() {
    let mut net = net(18, |net| {
        let prefer = setting("prefer", vec![Set::LocalPreference(500)]);
        net.speakers[HELPER].config.policies.push(prefer);
    });
    net.kill(SUBJECT);
    net.advance(seconds(RESTART + 1));
    net.reconfigure(HELPER, SUBJECT, |peer| peer.import = vec!["prefer".into()]);
    net.advance(seconds(1));
    let behind = route(&net, HELPER, SUBJECT, own_prefix(FAR)[0]).unwrap();
    assert!(marked(&behind) && behind.long_lived_stale && !behind.best);
    assert_eq!(behind.attributes.local_pref, Some(500));
    net.reconfigure(HELPER, SUBJECT, |peer| peer.import.clear());
    net.advance(seconds(1));
    let refused = route(&net, HELPER, SUBJECT, own_prefix(FAR)[0]).unwrap();
    let reason = refused.reason.unwrap().to_string();
    assert_eq!(reason, Refusal::NoImportPolicy.to_string());
    net.reconfigure(HELPER, SUBJECT, |peer| peer.import = vec!["prefer".into()]);
    net.advance(seconds(1));
    assert!(marked(
        &route(&net, HELPER, SUBJECT, own_prefix(FAR)[0]).unwrap()
    ));
    assert_eq!(kept(&net), [(ALL, ALL); 2]);
}

#[test]
fn open_says_it_only_where_it_is_configured_and_tells_the_truth() {
    let mut net = net(19, |_| {});
    let said = |net: &Net, from: Id, to: Id| {
        let opens = net.sent.iter().filter_map(|sent| match &sent.message {
            Message::Open(open) if (sent.from, sent.to) == (from, to) => Some(open),
            _ => None,
        });
        opens.last().unwrap().capabilities.long_lived.clone()
    };
    let first = said(&net, SUBJECT, HELPER).unwrap();
    assert_eq!(first.families.len(), 2);
    assert!(
        first
            .families
            .iter()
            .all(|it| it.seconds == LONG as u32 && !it.preserved)
    );
    assert_eq!(said(&net, SUBJECT, FAR), None);
    let legacy = Restart {
        preserved: vec![Family::Ipv6],
        ..net.legacy(SUBJECT)
    };
    net.kill(SUBJECT);
    net.start_again(SUBJECT, Some(legacy));
    net.advance(seconds(20));
    let back = said(&net, SUBJECT, HELPER).unwrap();
    assert!(back.of(Family::Ipv6).unwrap().preserved);
    assert!(!back.of(Family::Ipv4).unwrap().preserved);
}
