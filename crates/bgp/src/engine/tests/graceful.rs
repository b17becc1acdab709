//! What becomes of routes when a session ends, by how it ends and by what the peer said of that.
//! (Whole restarts are in `tests/sim/graceful.rs`.)

use std::time::Duration;

use bytes::BytesMut;

use super::rig::{Rig, config, nth, peer};
use crate::codec::encode_notification;
use crate::config;
use crate::engine::{Command, Input};
use crate::message::{Cease, ForwardingState, GracefulRestart, Notification};
use crate::query::{Destinations, RouteQuery, View};
use crate::types::Family;

/// A peer that has said this of its restarts, and three routes of it.
fn with_peer(graceful: Option<GracefulRestart>) -> Rig {
    let mut peer = peer("p2", 65002, 2);
    peer.graceful_restart = Some(config::GracefulRestart::default());
    let mut rig = Rig::new(config(vec![peer]));
    rig.graceful = graceful;
    rig.establish("p2");
    let attributes = rig.own("p2");
    rig.announce("p2", &[nth(0), nth(1), nth(2)], &attributes);
    assert_eq!(rig.fib.len(), 3);
    rig
}

fn says(notification: bool, families: &[Family]) -> Option<GracefulRestart> {
    let entry = |family: &Family| ForwardingState {
        family: *family,
        preserved: true,
    };
    Some(GracefulRestart {
        restarting: false,
        notification,
        seconds: 60,
        families: families.iter().map(entry).collect(),
    })
}

/// The ways in which a session ends.
#[derive(Clone, Copy, Debug)]
enum End {
    Lost,
    Received(Cease),
    Malformed,
    PathDown,
    Reset,
    Shutdown,
}

const ENDS: [End; 9] = [
    End::Lost,
    End::Received(Cease::OutOfResources),
    End::Received(Cease::AdministrativeShutdown),
    End::Received(Cease::HardReset),
    End::Received(Cease::BfdDown),
    End::Malformed,
    End::PathDown,
    End::Reset,
    End::Shutdown,
];

fn end(rig: &mut Rig, how: End) {
    let conn = rig.script("p2").conn;
    let (peer, message) = ("p2".to_owned(), String::new());
    match how {
        End::Lost => {
            let error = None;
            rig.engine.handle(rig.now, Input::Closed { conn, error });
        }
        End::Received(cease) => {
            let mut bytes = BytesMut::new();
            encode_notification(&Notification::cease(cease, ""), &mut bytes);
            rig.engine.receive(rig.now, conn, &mut bytes);
        }
        End::Malformed => {
            let mut bytes = BytesMut::from(&[0; 19][..]);
            rig.engine.receive(rig.now, conn, &mut bytes);
        }
        End::PathDown => {
            let address = rig.script("p2").address;
            rig.engine.path_down(rig.now, address, "silence");
        }
        End::Reset => {
            let command = Command::Reset { peer, message };
            rig.engine.command(rig.now, command).unwrap();
        }
        End::Shutdown => {
            let command = Command::Shutdown { peer, message };
            rig.engine.command(rig.now, command).unwrap();
        }
    }
    rig.run();
    assert_ne!(rig.status("p2").state, "Established");
}

#[test]
fn routes_are_kept_as_the_end_of_the_session_and_the_peer_s_words_ask_for() {
    let both = Family::ALL;
    for how in ENDS {
        let hard = matches!(
            how,
            End::Received(Cease::HardReset | Cease::BfdDown) | End::PathDown | End::Shutdown
        );
        for (graceful, kept) in [
            (None, false),
            (says(false, &both), matches!(how, End::Lost)),
            (says(true, &both), !hard),
            // It keeps ours, and asks us to keep nothing, or nothing of this family.
            (says(true, &[]), false),
            (says(true, &[Family::Ipv6]), false),
        ] {
            let mut rig = with_peer(graceful.clone());
            end(&mut rig, how);
            let there = rig.fib.len() == 3;
            assert_eq!(there, kept, "{how:?}, peer says {graceful:?}");
            let status = rig.status("p2").families.remove(0);
            assert_eq!(status.stale, if kept { 3 } else { 0 });
            let query = RouteQuery {
                view: View::Received { peer: "p2".into() },
                destinations: Destinations::All,
                family: None,
            };
            let rows = rig.engine.routes(&query, None, 10).unwrap().rows();
            assert_eq!(rows.len() as u64, status.stale);
            assert!(rows.iter().all(|row| row.stale && row.best));
        }
    }
}

#[test]
fn routes_of_a_peer_that_is_away_go_when_it_forwards_no_more_and_those_of_one_that_is_here_stay() {
    let mut rig = with_peer(says(true, &Family::ALL));
    let address = rig.script("p2").address;
    let stranger = [198, 51, 100, 1].into();
    rig.engine.forwarding_down(rig.now, address);
    assert_eq!(rig.status("p2").state, "Established");
    end(&mut rig, End::Lost);
    rig.engine.forwarding_down(rig.now, stranger);
    rig.engine.path_down(
        rig.now,
        address,
        "BFD: shares the fate of its control plane",
    );
    rig.run();
    assert_eq!((rig.fib.len(), rig.status("p2").families[0].stale), (3, 3));
    rig.engine.forwarding_down(rig.now, address);
    rig.run();
    assert_eq!((rig.fib.len(), rig.status("p2").families[0].stale), (0, 0));
}

#[test]
fn a_shutdown_is_a_hard_reset_only_to_a_peer_that_would_not_understand_it_otherwise() {
    for (notification, subcode) in [
        (true, Cease::HardReset),
        (false, Cease::AdministrativeShutdown),
    ] {
        let mut rig = with_peer(says(notification, &Family::ALL));
        end(&mut rig, End::Shutdown);
        let heard = rig.script("p2").notification.clone().unwrap();
        assert_eq!(heard.subcode, subcode as u8, "{heard}");
    }
}

#[test]
fn routes_that_are_kept_are_told_to_be_stale_until_they_are_repeated() {
    let mut rig = with_peer(says(true, &Family::ALL));
    end(&mut rig, End::Lost);
    rig.wait(Duration::from_secs(2)); // a session that fell rests for a second
    rig.establish("p2");
    assert_eq!(rig.fib.len(), 3);
    assert_eq!(rig.status("p2").families[0].stale, 3);
    let attributes = rig.own("p2");
    rig.announce("p2", &[nth(1)], &attributes);
    assert_eq!(rig.status("p2").families[0].stale, 2);
    let stale = |rig: &Rig, prefix| rig.engine.explain(prefix).candidates[0].route.stale;
    assert!(stale(&rig, nth(0)) && !stale(&rig, nth(1)) && stale(&rig, nth(2)));
    rig.withdraw("p2", &[nth(2)]);
    assert_eq!(rig.status("p2").families[0].stale, 1);
    assert_eq!(rig.fib.len(), 2);
    rig.end_of_rib("p2");
    assert_eq!(rig.status("p2").families[0].stale, 0);
    assert_eq!(rig.fib.keys().copied().collect::<Vec<_>>(), [nth(1)]);
}
