use super::rig::{Rig, nth, prefix};
use crate::attributes::Attributes;
use crate::engine::{Command, CommandError};
use crate::query::{Cursor, Destinations, RouteQuery, View};
use crate::types::{Asn, Community, Family, Prefix};

fn query(view: View, destinations: Destinations) -> RouteQuery {
    RouteQuery {
        view,
        destinations,
        family: None,
    }
}

fn received(peer: &str) -> View {
    View::Received { peer: peer.into() }
}

/// All pages of an answer.
fn prefixes(rig: &Rig, query: &RouteQuery, limit: usize) -> Vec<Prefix> {
    let mut found = Vec::new();
    let mut after: Option<Cursor> = None;
    loop {
        let page = rig.engine.routes(query, after, limit).unwrap();
        found.extend(page.routes.iter().map(|row| row.prefix));
        match page.next {
            Some(next) => after = Some(next),
            None => return found,
        }
    }
}

#[test]
fn a_path_that_is_down_ends_the_session_at_once_and_says_why_to_both_sides() {
    let mut rig = Rig::with_peers(2);
    let attributes = rig.own("p2");
    rig.announce("p2", &[nth(1)], &attributes);
    let address = rig.script("p2").address;
    rig.engine.path_down(rig.now, address, "BFD: silence");
    rig.run();
    assert_eq!(rig.best(nth(1)), None);
    let heard = rig.script("p2").notification.clone().unwrap();
    assert_eq!((heard.code, heard.subcode), (6, 10), "RFC 9384");
    let (_, error) = rig.status("p2").last_error.unwrap();
    assert!(error.contains("BFD: silence"), "{error}");
    assert_eq!(rig.status("p3").state, "Established");
    // Neither a session that is down nor a stranger has anything to lose.
    rig.engine.path_down(rig.now, address, "again");
    let stranger = [198, 51, 100, 1].into();
    rig.engine.path_down(rig.now, stranger, "BFD: silence");
    rig.run();
    assert_eq!(rig.status("p3").state, "Established");
}

#[test]
fn counts_follow_what_is_received_accepted_best_and_advertised() {
    let mut rig = Rig::with_peers(2);
    let two = rig.own("p2");
    let three = Attributes {
        as_path: [65003, 65010].map(Asn).into_iter().collect(),
        ..rig.own("p3")
    };
    let looped = Attributes {
        as_path: [65003, 65000].map(Asn).into_iter().collect(),
        ..rig.own("p3")
    };
    rig.announce("p2", &[nth(1), nth(2)], &two);
    rig.announce("p3", &[nth(1), nth(3)], &three);
    rig.announce("p3", &[nth(4)], &looped);
    let counts = |rig: &Rig, name: &str| {
        let family = rig.status(name).families[0].clone();
        (
            family.received,
            family.accepted,
            family.best,
            family.advertised,
            family.pending,
        )
    };
    assert_eq!(counts(&rig, "p2"), (2, 2, 2, 1, 0));
    assert_eq!(counts(&rig, "p3"), (3, 2, 1, 2, 0));
    rig.withdraw("p2", &[nth(1)]);
    assert_eq!(counts(&rig, "p2"), (1, 1, 1, 2, 0));
    assert_eq!(counts(&rig, "p3"), (3, 2, 2, 1, 0));
    let status = rig.engine.status();
    assert_eq!(status.best[&Family::Ipv4], 3);
    assert_eq!(status.paths[&Family::Ipv4], 4);
    assert_eq!(status.established, 2);
}

#[test]
fn views_show_their_table_page_by_page_in_order() {
    let mut rig = Rig::with_peers(2);
    let (two, three) = (rig.own("p2"), rig.own("p3"));
    let all: Vec<Prefix> = (0..500).map(nth).collect();
    let shuffled: Vec<Prefix> = (0..500).map(|n| nth(n * 7 % 500)).collect();
    rig.announce("p2", &shuffled, &two);
    rig.announce("p3", &all[..10], &three);
    let everything = |view: View| query(view, Destinations::All);
    for limit in [1, 7, 1000] {
        assert_eq!(prefixes(&rig, &everything(View::Best), limit), all);
        assert_eq!(prefixes(&rig, &everything(View::All), limit).len(), 510);
        assert_eq!(
            prefixes(&rig, &everything(received("p3")), limit),
            all[..10]
        );
        let advertised = View::Advertised {
            peer: "192.0.2.3".into(),
        };
        assert_eq!(prefixes(&rig, &everything(advertised), limit), all);
    }
    let within = |destinations| prefixes(&rig, &query(View::Best, destinations), 100);
    assert_eq!(within(Destinations::Exact(nth(3))), [nth(3)]);
    assert_eq!(
        within(Destinations::Longer(prefix("16.0.0.0/22"))),
        all[..4]
    );
    assert_eq!(
        within(Destinations::LongestMatch(prefix("16.0.3.7/32"))),
        [nth(3)]
    );
    assert_eq!(within(Destinations::LongestMatch(prefix("99.0.0.0/8"))), []);
    let unknown = rig.engine.routes(&everything(received("nobody")), None, 1);
    assert!(unknown.unwrap_err().to_string().contains("p2, p3"));
}

#[test]
fn a_page_is_of_one_family_and_has_each_set_of_attributes_once() {
    let mut rig = Rig::with_peers(2);
    let (two, three) = (rig.own("p2"), rig.own("p3"));
    let even: Vec<Prefix> = (0..50).map(|n| nth(n * 2)).collect();
    let odd: Vec<Prefix> = (0..50).map(|n| nth(n * 2 + 1)).collect();
    rig.announce("p2", &even, &two);
    rig.announce("p3", &odd, &three);
    let own = crate::config::Originated {
        prefix: prefix("2001:db8:7::/48"),
        advertisements: vec!["pods".into()],
    };
    rig.config.originate = vec![own];
    rig.config.advertisements = vec![crate::config::Advertisement {
        name: "pods".into(),
        peers: Vec::new(),
        set: Vec::new(),
    }];
    rig.configure();
    let everything = query(View::Best, Destinations::All);
    let first = rig.engine.routes(&everything, None, 1000).unwrap();
    assert_eq!((first.routes.len(), first.sets.len()), (100, 2));
    assert_eq!(first.origins.len(), 2);
    let second = rig.engine.routes(&everything, first.next, 1000).unwrap();
    assert_eq!(second.next, None);
    let [own] = &second.rows()[..] else {
        panic!("{second:?}")
    };
    assert_eq!(
        (own.prefix, own.peer.as_deref()),
        (prefix("2001:db8:7::/48"), None)
    );
    assert_eq!(own.advertisements, ["pods"]);
    for row in first.rows() {
        let (peer, attributes) = match even.contains(&row.prefix) {
            true => ("p2", &two),
            false => ("p3", &three),
        };
        assert_eq!(
            (row.peer.as_deref(), &*row.attributes),
            (Some(peer), attributes)
        );
    }
}

#[test]
fn a_page_is_full_when_its_attributes_are_many() {
    let mut rig = Rig::with_peers(2);
    let all: Vec<Prefix> = (0..1200).map(nth).collect();
    for (peer, every) in [("p2", 1), ("p3", 2)] {
        let own = rig.own(peer);
        for (number, prefix) in (0..).zip(&all).step_by(every) {
            let communities = (0..900).map(|n| Community(number * 1000 + n));
            let attributes = Attributes {
                communities: communities.collect(),
                ..own.clone()
            };
            rig.say(peer, &[*prefix], &attributes);
        }
    }
    rig.run();
    for (view, count) in [(View::Best, 1200), (View::All, 1800), (received("p3"), 600)] {
        let query = query(view, Destinations::All);
        let (mut found, mut pages, mut after) = (Vec::new(), 0, None);
        loop {
            let page = rig.engine.routes(&query, after, 10_000).unwrap();
            let octets = page.sets.clone().into_bytes().len();
            assert!(octets < (1 << 20) + 8192, "{octets} octets in a page");
            found.extend(page.rows().iter().map(|row| row.prefix));
            pages += 1;
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        assert_eq!(found.len(), count);
        assert!(found.is_sorted() && pages > 2, "{pages} pages");
        let single = RouteQuery {
            destinations: Destinations::Exact(all[2]),
            ..query
        };
        let page = rig.engine.routes(&single, None, 1).unwrap();
        assert!(!page.routes.is_empty() && page.next.is_none());
    }
}

#[test]
fn a_best_route_changes_are_watched_only_when_asked_for() {
    let mut rig = Rig::with_peers(1);
    let attributes = rig.own("p2");
    rig.announce("p2", &[nth(1)], &attributes);
    rig.engine.watch_routes(true);
    rig.say("p2", &[nth(2)], &attributes);
    let change = std::iter::from_fn(|| rig.engine.poll_output()).find_map(|output| match output {
        crate::engine::Output::BestChanged(change) => Some(change),
        _ => None,
    });
    let change = change.unwrap();
    assert_eq!(change.prefix, nth(2));
    assert_eq!(change.best.unwrap().peer.as_deref(), Some("p2"));
}

#[test]
fn commands_name_the_peers_there_are() {
    let mut rig = Rig::with_peers(2);
    let reset = |peer: &str| Command::Reset {
        peer: peer.into(),
        message: "maintenance".into(),
    };
    let error = rig.engine.command(rig.now, reset("p9")).unwrap_err();
    assert_eq!(
        error.to_string(),
        "no peer has the name or address `p9`; the peers are: p2, p3"
    );
    rig.engine.command(rig.now, reset("p2")).unwrap();
    rig.run();
    let notification = rig.script("p2").notification.clone().unwrap();
    assert!(
        notification.to_string().contains("maintenance"),
        "{notification}"
    );
    let soft = Command::SoftReset { peer: "p2".into() };
    let error = rig.engine.command(rig.now, soft).unwrap_err();
    assert!(matches!(error, CommandError::NotEstablished { .. }));
    let soft = Command::SoftReset { peer: "p3".into() };
    rig.engine.command(rig.now, soft).unwrap();
    rig.run();
    assert_eq!(
        rig.script("p3").refreshes.len(),
        6,
        "asked, and answered, for two families"
    );
    let shutdown = Command::Shutdown {
        peer: "p3".into(),
        message: String::new(),
    };
    rig.engine.command(rig.now, shutdown).unwrap();
    assert_eq!(
        rig.engine.command(rig.now, reset("p3")).unwrap(),
        "The session with p3 stays shut down."
    );
}

/// Found by the fuzzer.
#[test]
fn a_command_that_is_refused_leaves_the_timers_in_order() {
    let mut rig = Rig::with_peers(1);
    rig.disconnect("p2");
    let command = Command::SoftReset { peer: "p2".into() };
    let refused = rig.engine.command(rig.now, command);
    assert!(matches!(refused, Err(CommandError::NotEstablished { .. })));
    assert!(rig.engine.poll_timeout().is_some());
}
