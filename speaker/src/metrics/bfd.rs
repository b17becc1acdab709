//! What `routeshare-bfd` told of its sessions.

use prometheus_client::registry::Registry;
use proto::bfd::v1::Session;

use super::{Labels, Reading, counter, gauge};

/// BFD sessions, by peer.
pub(super) fn sessions(registry: &mut Registry, reading: &Reading) {
    let sessions = &reading.bfd;
    let each = |value: fn(&Session) -> u64| {
        let rows = sessions.iter();
        rows.map(move |(peer, it)| (vec![("peer", peer.clone())], value(it)))
    };
    gauge(
        registry,
        "bfd_connected",
        "1 while routeshare-bfd tells how its sessions are",
        [(vec![], u64::from(reading.bfd_connected))],
    );
    let states = ["Up", "Init", "Down", "AdminDown", ""];
    gauge(
        registry,
        "bfd_sessions",
        "BFD sessions by state",
        states.map(|state| {
            let count = sessions.iter().filter(|(_, it)| it.state == state).count();
            let name = if state.is_empty() { "unknown" } else { state };
            (vec![("state", name.to_owned())], count as u64)
        }),
    );
    gauge(
        registry,
        "bfd_up",
        "1 while the BFD session is Up",
        each(|it| u64::from(it.state == "Up")),
    );
    counter(
        registry,
        "bfd_ups",
        "Times the BFD session came Up",
        each(|it| it.ups),
    );
    counter(
        registry,
        "bfd_downs",
        "Times the BFD session left Up, whatever the reason",
        each(|it| it.downs),
    );
    counter(
        registry,
        "bfd_packets",
        "BFD Control packets by direction",
        directed(sessions, |it| {
            [
                ("sent", it.sent),
                ("received", it.received),
                ("refused", it.discarded),
            ]
        }),
    );
    counter(
        registry,
        "bfd_late_packets",
        "BFD Control packets sent late, and those received after half the detection time",
        directed(sessions, |it| {
            [("sent", it.late_sent), ("received", it.late_received)]
        }),
    );
    gauge(
        registry,
        "bfd_detection_microseconds",
        "How long silence may last",
        each(|it| it.detection_micros),
    );
    gauge(
        registry,
        "bfd_longest_silence_microseconds",
        "The longest silence since the detection time was agreed on",
        each(|it| it.longest_silence_micros),
    );
}

/// Some counts of each session, with a direction each.
fn directed<const N: usize>(
    sessions: &[(String, Session)],
    counts: fn(&Session) -> [(&'static str, u64); N],
) -> impl Iterator<Item = (Labels, u64)> {
    sessions.iter().flat_map(move |(peer, it)| {
        counts(it).map(|(direction, count)| {
            let direction = ("direction", direction.to_owned());
            (vec![("peer", peer.clone()), direction], count)
        })
    })
}
