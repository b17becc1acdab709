//! A receiver that reads nothing for minutes, while everything changes.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::time::Duration;

use bgp::codec::encode_keepalive;
use bgp::types::{Prefix, Prefix4};
use bytes::BytesMut;

use crate::rig::{Rig, Who, announce, listen};

/// Counts what each thread, and so each test, has in use.
struct Counting;

thread_local! {
    static IN_USE: Cell<isize> = const { Cell::new(0) };
}

fn count(octets: isize) {
    // At the end of a thread there is nothing left to count.
    let _ = IN_USE.try_with(|in_use| in_use.set(in_use.get() + octets));
}

// SAFETY: every call is handed on to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        // SAFETY: as the caller promised.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(-(layout.size() as isize));
        // SAFETY: as the caller promised.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn in_use() -> isize {
    IN_USE.get()
}

const MIB: isize = 1024 * 1024;

/// A table of 50,000.
fn table() -> Vec<Prefix> {
    let prefix = |n: u32| Prefix4::new((0x1000_0000 + (n << 8)).into(), 24).into();
    (0..50_000).map(prefix).collect()
}

fn keepalive() -> BytesMut {
    let mut bytes = BytesMut::new();
    encode_keepalive(&mut bytes);
    bytes
}

/// Ten seconds, in which both peers say that they are alive.
fn ten_seconds(rig: &mut Rig) {
    rig.wait(Duration::from_secs(10));
    for who in Who::ALL {
        rig.say(who, &keepalive());
    }
}

#[test]
fn five_minutes_of_full_table_changes_cost_a_slow_receiver_nothing_but_their_last_state() {
    let mut rig = Rig::established_with_hold_time(90);
    let table = table();
    rig.say(Who::Mallory, &announce(Who::Mallory, 0, &table));
    let mut known = BTreeMap::new();
    listen(&rig.heard(Who::Alice), &mut known);
    assert_eq!(known.len(), table.len());

    rig.stop_reading(Who::Alice);
    let mut after = Vec::new();
    for change in 1..=30 {
        let path = announce(Who::Mallory, change, &table);
        rig.say(Who::Mallory, &path);
        ten_seconds(&mut rig);
        after.push(in_use());
    }
    assert_eq!(rig.state(Who::Alice), "Established");
    let growth = after[29] - after[0];
    assert!(
        growth < MIB,
        "{growth} octets more after 30 changes than after one"
    );

    rig.read_again(Who::Alice);
    let messages = rig.heard(Who::Alice);
    let octets: usize = messages.iter().map(crate::rig::size).sum();
    listen(&messages, &mut known);
    // MED is not handed on, so an external peer is told of changes that it cannot see; but once.
    assert_eq!(known, rig.advertised(Who::Alice));
    // What was ready for it when it stopped, and then each prefix once; not thirty tables.
    let one_table = 4 * table.len();
    assert!(octets < 5 * one_table / 2, "{octets} octets");
}

#[test]
fn a_receiver_that_reads_nothing_for_longer_loses_its_session() {
    let mut rig = Rig::established_with_hold_time(90);
    rig.stop_reading(Who::Alice);
    // RFC 9687: eight minutes from the first KEEPALIVE that was not taken, which is up to 30 s away.
    for _ in 0..48 {
        ten_seconds(&mut rig);
        assert_eq!(rig.state(Who::Alice), "Established");
    }
    for _ in 0..4 {
        ten_seconds(&mut rig);
    }
    assert_ne!(rig.state(Who::Alice), "Established");
    assert_eq!(rig.state(Who::Mallory), "Established");
    let peers = rig.engine.peers(rig.now);
    let alice = peers.iter().find(|peer| peer.name == "alice").unwrap();
    let (_, error) = alice.last_error.as_ref().unwrap();
    assert!(error.contains("Send Hold Timer Expired"), "{error}");
}
