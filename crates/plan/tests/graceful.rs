//! Graceful restart of a session: what the Peer says, then the Fabric, then the defaults.

#![expect(clippy::unwrap_used, reason = "a test that fails says where")]

use std::collections::BTreeMap;

use api::SourceFile;
use bgp::config::{GracefulRestart, LongLived};
use plan::Snapshot;

/// What the session of AS 65201 with a router of `asn` is planned to do.
fn planned(fabric: &str, peer: &str, asn: u32) -> Option<GracefulRestart> {
    let text = format!(
        "apiVersion: routeshare.io/v1alpha1\nkind: Fabric\nmetadata: {{name: fabric}}\n\
         spec: {{asn: {{value: 65201}}, gracefulRestart: {fabric}}}\n---\n\
         apiVersion: routeshare.io/v1alpha1\nkind: Node\nmetadata: {{name: a}}\n\
         spec: {{addresses: [192.0.2.11]}}\n---\n\
         apiVersion: routeshare.io/v1alpha1\nkind: Peer\nmetadata: {{name: tor}}\n\
         spec: {{address: 192.0.2.1, remoteAsn: {asn}, gracefulRestart: {peer}}}\n"
    );
    let name = "a.yaml".to_owned();
    let parsed = api::parse(&[SourceFile { name, text }]).unwrap();
    let plan = plan::plan(&Snapshot {
        resources: parsed.resources,
        subnets: BTreeMap::new(),
        numbers: BTreeMap::new(),
    });
    plan.configs["a"].bgp.peers[0].graceful_restart
}

fn long_lived(fabric: &str, peer: &str, asn: u32) -> Option<LongLived> {
    planned(fabric, peer, asn).unwrap().long_lived
}

#[test]
fn it_is_on_and_the_long_lived_one_is_off() {
    assert_eq!(planned("{}", "{}", 65101), Some(GracefulRestart::default()));
    assert_eq!(planned("{enabled: false}", "{}", 65101), None);
    assert!(planned("{enabled: false}", "{enabled: true}", 65101).is_some());
}

#[test]
fn a_time_turns_the_long_lived_one_on_and_the_peer_has_the_last_word() {
    let fabric = "{longLived: {staleSeconds: 3600, atMostSeconds: 60}}";
    let an_hour = LongLived {
        stale_seconds: 3600,
        at_most_seconds: Some(60),
        tell_unaware: false,
    };
    assert_eq!(long_lived(fabric, "{}", 65101), Some(an_hour));
    let off = "{longLived: {enabled: false}}";
    assert_eq!(long_lived(fabric, off, 65101), None);
    let shorter = long_lived(fabric, "{longLived: {staleSeconds: 9}}", 65101);
    assert_eq!(shorter.unwrap().stale_seconds, 9);
    let a_day = long_lived("{}", "{longLived: {enabled: true}}", 65101);
    assert_eq!(a_day.unwrap().stale_seconds, 86_400);
    let by_peer = long_lived(
        "{longLived: {enabled: false}}",
        "{longLived: {staleSeconds: 9}}",
        1,
    );
    assert_eq!(by_peer.unwrap().stale_seconds, 9);
}

#[test]
fn only_internal_peers_that_do_not_know_are_told() {
    let fabric = "{longLived: {staleSeconds: 9, unawarePeers: LastChoice}}";
    for (asn, told) in [(65201, true), (65101, false)] {
        assert_eq!(long_lived(fabric, "{}", asn).unwrap().tell_unaware, told);
    }
    let withheld = "{longLived: {unawarePeers: Withhold}}";
    assert!(!long_lived(fabric, withheld, 65201).unwrap().tell_unaware);
}
