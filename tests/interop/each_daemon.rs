//! What has to work with every daemon: each of these is run against BIRD, FRR and GoBGP.

use lab::speaker::Speaker;
use lab::{Lab, Namespace, wait_for};
use serde_json::{Value, json};

use crate::host::{Host, Peer, SOON, number, wait_for_kernel};
use crate::tor::{BirdTor, FrrTor, GobgpTor, Route, Sessions, Tor};

/// The node's address on the cable to the ToR.
pub(crate) const NODE: &str = "10.1.0.11";
/// A prefix of each family that the ToR announces.
const FAR: [&str; 2] = ["10.77.0.0/24", "fd00:77::/64"];
/// The node's subnets.
const NEAR: [&str; 2] = ["10.64.1.0/24", "fd00:64:1::/64"];

/// A ToR and a node, with a cable between them.
pub(crate) fn cabled(lab: &Lab) -> (Namespace, Namespace) {
    let (tor, node) = (lab.machine("tor").unwrap(), lab.machine("node").unwrap());
    tor.cable(
        "eth0",
        &["10.1.0.1/24", "fd00:1::1/64"],
        &node,
        "eth0",
        &["10.1.0.11/24", "fd00:1::11/64"],
    )
    .unwrap();
    (tor, node)
}

/// The node of AS 65201 with a session to the ToR of AS 65101.
pub(crate) fn host() -> Host {
    Host {
        addresses: vec![NODE, "fd00:1::11"],
        subnets: NEAR.to_vec(),
        peers: vec![Peer::new("tor", "10.1.0.1", 65101)],
        ..Host::new("n1", 65201)
    }
}

/// What a test is given: both sides, and what our side was started with.
struct Pair<'a> {
    tor: &'a mut dyn Tor,
    speaker: Speaker<'a>,
    machine: &'a Namespace,
    host: Host,
}

impl Pair<'_> {
    /// Waits until the ToR has a route that is as asked.
    #[track_caller]
    fn tor_has(&self, prefix: &str, right: impl Fn(&Route) -> bool) -> Route {
        wait_for(&format!("the ToR's route for {prefix}"), SOON, || {
            let route = self.tor.route(prefix)?;
            anyhow::ensure!(right(&route), "{route:?}");
            Ok(route)
        })
    }

    /// Waits until the ToR has no route.
    #[track_caller]
    fn tor_lacks(&self, prefix: &str) {
        wait_for(
            &format!("the ToR to forget {prefix}"),
            SOON,
            || match self.tor.route(prefix) {
                Ok(route) => anyhow::bail!("{route:?}"),
                Err(error) if error.to_string().starts_with("no route") => Ok(()),
                Err(error) => Err(error),
            },
        );
    }

    /// Waits until the session is up for the `count`th time.
    #[track_caller]
    fn established(&self, count: u64) -> Value {
        wait_for(&format!("the session to be up, time {count}"), SOON, || {
            let peer = self.speaker.peer("tor")?;
            anyhow::ensure!(
                peer["state"] == "Established" && number(&peer, "establishedCount") == count,
                "{}, {} times so far; {}",
                peer["state"],
                peer["establishedCount"],
                peer["lastError"]
            );
            Ok(peer)
        })
    }

    fn edit(&mut self, change: impl FnOnce(&mut Host)) {
        change(&mut self.host);
        self.speaker.edit(&self.host.yaml()).unwrap();
    }
}

fn against<T: Tor>(test: fn(&mut Pair<'_>)) {
    between::<T>(&Sessions::new(65101, NODE, 65201), host(), test);
}

fn between<T: Tor>(sessions: &Sessions, host: Host, test: fn(&mut Pair<'_>)) {
    let lab = Lab::new().unwrap();
    let (tor, machine) = cabled(&lab);
    let mut router = T::start(&tor, lab.directory(), sessions).unwrap();
    let speaker = host.start(&lab, &machine);
    speaker.wait_for_state("tor", "Established");
    test(&mut Pair {
        tor: &mut router,
        speaker,
        machine: &machine,
        host,
    });
}

macro_rules! with {
    ($module:ident, $tor:ident: $($test:ident),* $(,)?) => {
        mod $module {
            $(#[test] fn $test() { super::against::<super::$tor>(super::$test); })*
        }
    };
}

macro_rules! with_each_daemon {
    ($($test:ident),* $(,)?) => {
        with!(bird, BirdTor: $($test),*);
        with!(frr, FrrTor: $($test),*);
        with!(gobgp, GobgpTor: $($test),*);
    };
}

with_each_daemon![
    both_families_go_both_ways_over_one_ipv4_session,
    a_withdrawn_route_is_gone_on_the_other_side,
    a_session_comes_back_after_either_side_has_reset_it,
    the_words_of_an_administrative_shutdown_are_seen_on_the_other_side,
    routes_are_sent_again_when_we_ask,
    an_edited_policy_changes_routes_and_not_the_session,
];

// GoBGP never asks: it keeps what it received.
with!(bird_that_asks, BirdTor: routes_are_sent_again_when_the_tor_asks);
with!(frr_that_asks, FrrTor: routes_are_sent_again_when_the_tor_asks);

fn both_families_go_both_ways_over_one_ipv4_session(pair: &mut Pair<'_>) {
    pair.edit(|host| {
        host.advertisement = "{nodeSubnets: {}, set: {addCommunities: \
            [\"65201:5\", \"65201:5:5\", \"rt:65201:5\"]}}"
            .into();
    });
    for (prefix, next_hop) in NEAR.into_iter().zip([NODE, "fd00:1::11"]) {
        let route = pair.tor_has(prefix, |route| !route.communities.is_empty());
        let wanted = Route {
            as_path: "65201".into(),
            next_hop: next_hop.into(),
            communities: vec!["65201:5".into()],
            large: vec!["65201:5:5".into()],
            extended: vec!["rt:65201:5".into()],
        };
        assert_eq!(route, wanted);
    }
    for (prefix, next_hop) in FAR.into_iter().zip(["10.1.0.1", "fd00:1::1"]) {
        pair.tor.announce(prefix).unwrap();
        let route = pair.speaker.wait_for_route(prefix);
        assert_eq!(route["asPath"], "65101", "{route}");
        assert_eq!(route["nextHop"], next_hop, "{route}");
        assert_eq!(route["communities"], json!(["65101:7"]), "{route}");
        assert_eq!(route["largeCommunities"], json!(["65101:7:7"]), "{route}");
        assert_eq!(
            route["extendedCommunities"],
            json!(["rt:65101:7"]),
            "{route}"
        );
        wait_for_kernel(pair.machine, prefix, "by the ToR", |route| {
            route.contains(&format!("via {next_hop} dev eth0")) && route.contains("proto 149")
        });
    }
    let peer = pair.speaker.peer("tor").unwrap();
    for family in peer["families"].as_array().unwrap() {
        assert_eq!(family["negotiated"], true, "{peer}");
        assert_eq!(family["accepted"], 1, "{peer}");
        assert_eq!(family["advertised"], 1, "{peer}");
    }
    // FRR sends us our own routes again; nothing else is wrong with what the three say.
    let faults: Vec<&String> = peer["faults"].as_object().unwrap().keys().collect();
    assert!(faults.iter().all(|fault| *fault == "own-as"), "{peer}");
}

fn a_withdrawn_route_is_gone_on_the_other_side(pair: &mut Pair<'_>) {
    for prefix in FAR {
        pair.tor.announce(prefix).unwrap();
        pair.speaker.wait_for_route(prefix);
        pair.tor.withdraw(prefix).unwrap();
        pair.speaker.wait_for_no_route(prefix);
        wait_for_kernel(pair.machine, prefix, "gone", str::is_empty);
    }
    for prefix in NEAR {
        pair.tor_has(prefix, |_| true);
    }
    pair.edit(|host| host.subnets.truncate(1));
    pair.tor_lacks(NEAR[1]);
    pair.tor_has(NEAR[0], |_| true);
    pair.edit(|host| host.subnets.clear());
    pair.tor_lacks(NEAR[0]);
    pair.established(1);
}

fn a_session_comes_back_after_either_side_has_reset_it(pair: &mut Pair<'_>) {
    pair.tor.announce(FAR[0]).unwrap();
    pair.speaker.wait_for_route(FAR[0]);
    pair.tor.reset(NODE).unwrap();
    let peer = pair.established(2);
    let error = peer["lastError"].as_str().unwrap();
    assert!(error.contains("Cease"), "{error}");
    pair.speaker.wait_for_route(FAR[0]);
    pair.tor_has(NEAR[0], |_| true);

    pair.speaker
        .bgpctl("reset tor --message spring-cleaning")
        .unwrap();
    pair.established(3);
    pair.speaker.wait_for_route(FAR[0]);
    pair.tor_has(NEAR[0], |_| true);
}

fn the_words_of_an_administrative_shutdown_are_seen_on_the_other_side(pair: &mut Pair<'_>) {
    pair.tor.shut_down(NODE, "moving-to-rack-7").unwrap();
    let what = "the ToR's words in `show peers`";
    wait_for(what, SOON, || {
        let peer = pair.speaker.peer("tor")?;
        let error = peer["lastError"].as_str().unwrap_or_default();
        anyhow::ensure!(error.contains("moving-to-rack-7"), "{peer}");
        anyhow::ensure!(error.contains("Administrative Shutdown"), "{peer}");
        Ok(())
    });
    pair.tor.enable(NODE).unwrap();
    pair.established(2);

    pair.speaker
        .bgpctl("shutdown tor --message node-is-drained")
        .unwrap();
    wait_for("our words at the ToR", SOON, || {
        let words = pair.tor.last_words(NODE)?;
        anyhow::ensure!(words.contains("node-is-drained"), "{words}");
        Ok(())
    });
    let peer = pair.speaker.peer("tor").unwrap();
    assert_eq!(peer["shutdown"], "node-is-drained", "{peer}");
    pair.tor_lacks(NEAR[0]);
    pair.speaker.bgpctl("enable tor").unwrap();
    pair.established(3);
    pair.tor_has(NEAR[0], |_| true);
}

fn routes_are_sent_again_when_the_tor_asks(pair: &mut Pair<'_>) {
    pair.tor_has(NEAR[0], |_| true);
    pair.tor_has(NEAR[1], |_| true);
    let before = pair.speaker.peer("tor").unwrap();
    pair.tor.refresh(NODE).unwrap();
    wait_for("our routes to be sent again", SOON, || {
        let peer = pair.speaker.peer("tor")?;
        let more = |path| number(&peer, path) - number(&before, path);
        anyhow::ensure!(more("received.routeRefresh") >= 1, "{peer}");
        anyhow::ensure!(more("sent.update") >= 1, "{peer}");
        Ok(())
    });
    pair.tor_has(NEAR[0], |_| true);
    pair.tor_has(NEAR[1], |_| true);
    pair.established(1);
}

fn routes_are_sent_again_when_we_ask(pair: &mut Pair<'_>) {
    for prefix in FAR {
        pair.tor.announce(prefix).unwrap();
        pair.speaker.wait_for_route(prefix);
    }
    let before = pair.speaker.peer("tor").unwrap();
    pair.speaker.bgpctl("reset tor --soft").unwrap();
    wait_for("the ToR's routes to be sent again", SOON, || {
        let peer = pair.speaker.peer("tor")?;
        let more = |path| number(&peer, path) - number(&before, path);
        anyhow::ensure!(more("sent.routeRefresh") >= 2, "{peer}");
        anyhow::ensure!(more("received.update") >= 2, "{peer}");
        Ok(())
    });
    for prefix in FAR {
        assert_eq!(pair.speaker.routes(prefix).unwrap().len(), 1);
    }
    pair.tor_has(NEAR[0], |_| true);
    pair.established(1);
}

fn an_edited_policy_changes_routes_and_not_the_session(pair: &mut Pair<'_>) {
    pair.tor.announce(FAR[0]).unwrap();
    pair.tor.announce(FAR[1]).unwrap();
    pair.speaker.wait_for_route(FAR[0]);
    pair.speaker.wait_for_route(FAR[1]);
    pair.edit(|host| {
        host.import = "    - {name: ipv4, match: {families: [IPv4]}, action: Accept, \
                       set: {localPreference: 300}}\n"
            .into();
        host.export = "    - {name: our own, match: {sources: [Local]}, action: Accept, \
                       set: {addCommunities: [\"65201:9\"], prepend: {count: 2}}}\n"
            .into();
    });
    pair.speaker.wait_for_no_route(FAR[1]);
    wait_for("the local preference", SOON, || {
        let routes = pair.speaker.routes(FAR[0])?;
        anyhow::ensure!(routes[0]["localPreference"] == 300, "{routes:?}");
        Ok(())
    });
    pair.tor_has(NEAR[0], |route| {
        route.communities == ["65201:9"] && route.as_path == "65201 65201 65201"
    });
    pair.edit(|host| host.import = Host::new("n1", 65201).import);
    pair.speaker.wait_for_route(FAR[1]);
    let peer = pair.established(1);
    assert_eq!(number(&peer, "sent.notification"), 0, "{peer}");
}

mod four_octet {
    //! Sessions between 4-octet AS numbers.

    use super::*;

    fn of<T: Tor>() {
        let sessions = Sessions::new(4_200_000_101, NODE, 4_200_000_201);
        let host = Host {
            asn: 4_200_000_201,
            peers: vec![Peer::new("tor", "10.1.0.1", 4_200_000_101)],
            ..host()
        };
        between::<T>(&sessions, host, |pair| {
            assert_eq!(pair.tor_has(NEAR[0], |_| true).as_path, "4200000201");
            pair.tor.announce(FAR[0]).unwrap();
            let route = pair.speaker.wait_for_route(FAR[0]);
            assert_eq!(route["asPath"], "4200000101");
        });
    }

    #[test]
    fn as_numbers_stand_in_paths_with_bird() {
        of::<BirdTor>();
    }

    #[test]
    fn as_numbers_stand_in_paths_with_frr() {
        of::<FrrTor>();
    }

    #[test]
    fn as_numbers_stand_in_paths_with_gobgp() {
        of::<GobgpTor>();
    }
}
