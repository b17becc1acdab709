//! The engine's answers → the gRPC contract.

use std::net::IpAddr;
use std::sync::Arc;

use bgp::config::{LimitAction, PrefixLimits};
use bgp::engine::{NextHopState, RouteChange};
use bgp::query::{
    Candidate, Explanation, Export, ExportState, FamilyStatus, MessageCounts, Outcome, PolicyTrace,
    RouteRow, Withheld,
};
use plan::wire::routes::{attributes, kernel_word, source};
use proto::speaker::v1 as pb;

use crate::clock::{wall_ms, wall_ms_or_0};
use crate::daemon::{WatchedPeer, now};
use crate::fib::{KernelState, RouteState};

pub(super) fn peer((peer, bfd, key): WatchedPeer) -> pb::Peer {
    let seconds = |time: Option<std::time::Duration>| {
        time.map_or(0, |time| u32::try_from(time.as_secs()).unwrap_or(u32::MAX))
    };
    let (last_error_ms, last_error) = peer
        .last_error
        .map_or((0, String::new()), |(at, text)| (wall_ms(at), text));
    pb::Peer {
        name: peer.name,
        address: peer.address.to_string(),
        port: u32::from(peer.port),
        local_address: text(peer.local_address),
        remote_asn: peer.remote_asn.0,
        local_asn: peer.local_asn.0,
        remote_router_id: text(peer.remote_router_id),
        state: peer.state.to_owned(),
        since_ms: wall_ms_or_0(peer.since),
        hold_seconds: seconds(peer.hold),
        keepalive_seconds: seconds(peer.keepalive),
        families: peer.families.iter().map(family).collect(),
        capabilities_sent: peer.capabilities_sent,
        capabilities_received: peer.capabilities_received,
        sent: Some(counts(peer.sent)),
        received: Some(counts(peer.received)),
        established_count: peer.established_count,
        last_error,
        last_error_ms,
        description: peer.description,
        faults: peer
            .faults
            .iter()
            .map(|(fault, count)| (fault.to_string(), *count))
            .collect(),
        passive: peer.passive,
        reflector_client: peer.reflector_client,
        shutdown: peer.shutdown,
        import_policies: peer.import,
        export_policies: peer.export,
        last_fault: peer.last_fault.unwrap_or_default(),
        retry_at_ms: wall_ms_or_0(peer.retry_at),
        max_prefixes: peer.max_prefixes.map(prefix_limits),
        over_limit: peer.over_limit,
        ttl_security: peer.ttl_security.map(Into::into),
        bfd,
        key,
        graceful_restart: peer.graceful_restart.map(|it| pb::GracefulRestart {
            restart_seconds: it.restart_seconds.into(),
            peer_seconds: it.peer_seconds.map(Into::into),
            notification: it.notification,
            peer_restarted: it.peer_restarted,
            stale_until_ms: wall_ms_or_0(it.stale_until),
            long_lived: it.long_lived.map(|it| pb::LongLived {
                stale_seconds: it.stale_seconds,
                peer_seconds: it.peer_seconds,
                began: it.began,
            }),
        }),
    }
}

fn prefix_limits(limits: PrefixLimits) -> proto::controller::v1::PrefixLimits {
    proto::controller::v1::PrefixLimits {
        ipv4: limits.ipv4,
        ipv6: limits.ipv6,
        warn_at_percent: limits.warn_at_percent.into(),
        action: match limits.action {
            LimitAction::Drop => "Drop".to_owned(),
            LimitAction::Warn => "Warn".to_owned(),
        },
        restart_seconds: limits.restart_seconds,
    }
}

fn family(family: &FamilyStatus) -> pb::FamilyState {
    pb::FamilyState {
        family: family.family.to_string(),
        negotiated: family.negotiated,
        received: family.received,
        accepted: family.accepted,
        best: family.best,
        advertised: family.advertised,
        pending: family.pending,
        end_of_rib_received: family.end_of_rib_received,
        end_of_rib_sent: family.end_of_rib_sent,
        extended_next_hop: family.extended_next_hop,
        stale: family.stale,
        graceful_restart: family.graceful_restart,
        long_lived_stale: family.long_lived_stale,
    }
}

fn counts(counts: MessageCounts) -> pb::MessageCounts {
    pb::MessageCounts {
        open: counts.open,
        update: counts.update,
        notification: counts.notification,
        keepalive: counts.keepalive,
        route_refresh: counts.route_refresh,
        bytes: counts.bytes,
    }
}

/// `kernel` is known for best routes only.
pub(super) fn route(row: RouteRow, kernel: Option<RouteState>) -> pb::Route {
    pb::Route {
        prefix: row.prefix.to_string(),
        peer: row.peer.map_or(String::new(), |peer| peer.to_string()),
        source: source(row.source).to_owned(),
        attributes: Some(attributes(&row.attributes)),
        best: row.best,
        multipath: row.multipath,
        backup: row.backup,
        stale: row.stale,
        stale_until_ms: wall_ms_or_0(row.stale_until),
        long_lived_stale: row.long_lived_stale,
        reason: text(row.reason),
        since_ms: wall_ms_or_0(row.since),
        kernel: kernel.map_or(String::new(), |state| {
            kernel_word(kernel_route(state)).to_owned()
        }),
        advertisements: row.advertisements,
    }
}

pub(super) fn route_change(change: RouteChange, missed: bool) -> pb::RouteChange {
    let gone = || pb::Route {
        prefix: change.prefix.to_string(),
        ..pb::Route::default()
    };
    pb::RouteChange {
        withdrawn: change.best.is_none(),
        route: Some(change.best.map_or_else(gone, |row| route(row, None))),
        at_ms: wall_ms(now()),
        missed,
    }
}

/// `kernel` is absent when the kernel's side has not started.
pub(super) fn explanation(from: Explanation, kernel: Option<KernelState>) -> pb::Explanation {
    pb::Explanation {
        prefix: from.prefix.to_string(),
        summary: summary(&from, kernel.as_ref()),
        kernel: Some(kernel_state(&from, kernel)),
        covering: text(from.covering),
        candidates: from.candidates.into_iter().map(candidate).collect(),
        advertised: from.exports.into_iter().map(export).collect(),
    }
}

/// The answer in sentences, one a line, the one that decides first.
fn summary(from: &Explanation, kernel: Option<&KernelState>) -> String {
    let mut lines = vec![deciding_line(from)];
    let best = from
        .candidates
        .iter()
        .any(|candidate| candidate.outcome == Outcome::Best);
    if best {
        lines.push(kernel_line(from, kernel));
        let to = |state: fn(&ExportState) -> bool| {
            from.exports
                .iter()
                .filter(|export| state(&export.state))
                .count()
        };
        let told = to(|state| *state == ExportState::Advertised);
        let pending = to(|state| *state == ExportState::Pending);
        let mut line = format!("Advertised to {told} of {} peers", from.exports.len());
        if pending > 0 {
            line.push_str(&format!(", {pending} more are about to be told"));
        }
        lines.push(line + ".");
    } else if let Some(covering) = from.covering {
        lines.push(format!("Packets follow the route for {covering}."));
    }
    lines.join("\n")
}

fn deciding_line(from: &Explanation) -> String {
    let by = |peer: &Option<Arc<str>>| peer.as_deref().unwrap_or("this node").to_owned();
    let best = from
        .candidates
        .iter()
        .find(|candidate| candidate.outcome == Outcome::Best);
    if let Some(best) = best {
        let equal = from
            .candidates
            .iter()
            .filter(|other| other.outcome == Outcome::Multipath)
            .count();
        let with = if equal > 0 {
            format!(", together with {equal} equal")
        } else {
            String::new()
        };
        let others = match from.candidates.len() - 1 - equal {
            0 => String::new(),
            1 => "; one other candidate".to_owned(),
            others => format!("; {others} other candidates"),
        };
        let stale = match (best.route.stale, best.route.long_lived_stale) {
            (_, true) => " (long-lived stale: the last choice, its peer is away for long)",
            (true, false) => " (stale: kept from a session that was lost)",
            (false, false) => "",
        };
        return format!(
            "the best route is from {}{stale}{with}{others}.",
            by(&best.route.peer)
        );
    }
    let reasons: Vec<String> = from
        .candidates
        .iter()
        .map(|candidate| {
            let reason = text(candidate.route.reason.as_ref());
            format!("{}: {reason}", by(&candidate.route.peer))
        })
        .collect();
    if reasons.is_empty() {
        let down: Vec<&str> = from
            .exports
            .iter()
            .filter(|export| export.state == ExportState::NotAdvertised(Withheld::SessionDown))
            .map(|export| &*export.peer)
            .collect();
        match down.as_slice() {
            [] => "nobody has announced it to this node.".to_owned(),
            down => format!(
                "nobody has announced it to this node; sessions that are down: {} (see `bgpctl \
                 show peers`).",
                down.join(", ")
            ),
        }
    } else {
        format!(
            "received, but no route can be used ({}).",
            reasons.join("; ")
        )
    }
}

fn kernel_line(from: &Explanation, kernel: Option<&KernelState>) -> String {
    if from.fib_pending {
        return "The kernel is about to be told.".to_owned();
    }
    let Some(kernel) = kernel else {
        return "The kernel's side has not started.".to_owned();
    };
    let what = match kernel.state {
        RouteState::Installed => "The kernel has it",
        RouteState::Pending => "It waits to be written to the kernel",
        RouteState::Refused => "The kernel refuses it",
        RouteState::Foreign => "Another program's route has its place in the kernel",
        RouteState::NotInstalled => "It is not for the kernel",
    };
    if kernel.text.is_empty() {
        format!("{what}.")
    } else {
        format!("{what}: {}.", kernel.text)
    }
}

fn kernel_state(from: &Explanation, kernel: Option<KernelState>) -> pb::KernelState {
    let Some(kernel) = kernel else {
        return pb::KernelState {
            state: kernel_word(kernel_route(RouteState::NotInstalled)).to_owned(),
            text: "the kernel's side has not started".to_owned(),
            ..pb::KernelState::default()
        };
    };
    let state = if from.fib_pending {
        RouteState::Pending
    } else {
        kernel.state
    };
    pb::KernelState {
        state: kernel_word(kernel_route(state)).to_owned(),
        text: kernel.text,
        next_hops: kernel.next_hops,
        table: kernel.kernel.table,
        protocol: u32::from(kernel.kernel.protocol),
        metric: kernel.kernel.metric,
    }
}

/// What became of a route in the kernel, for the contract.
pub(super) fn kernel_route(state: RouteState) -> pb::KernelRoute {
    match state {
        RouteState::Installed => pb::KernelRoute::Installed,
        RouteState::Pending => pb::KernelRoute::Pending,
        RouteState::Refused => pb::KernelRoute::Refused,
        RouteState::Foreign => pb::KernelRoute::Foreign,
        RouteState::NotInstalled => pb::KernelRoute::NotInstalled,
    }
}

fn candidate(from: Candidate) -> pb::Candidate {
    let (outcome, lost_to, step) = match &from.outcome {
        Outcome::Best => ("best", String::new(), String::new()),
        Outcome::Multipath => ("multipath", String::new(), String::new()),
        Outcome::Lost { step, to } => (
            "lost",
            to.as_deref().unwrap_or("local").to_owned(),
            step.to_string(),
        ),
        Outcome::Refused(
            bgp::query::Refusal::NextHopUnresolved
            | bgp::query::Refusal::NextHopNotConnected
            | bgp::query::Refusal::SessionDown,
        ) => ("unusable", String::new(), String::new()),
        Outcome::Refused(_) => ("refused", String::new(), String::new()),
    };
    let reason = text(from.route.reason.as_ref());
    pb::Candidate {
        accepted: from.accepted.as_deref().map(attributes),
        outcome: outcome.to_owned(),
        lost_to,
        step,
        import: from.import.map(trace),
        reason,
        next_hop: from
            .next_hop
            .map(|(address, state)| next_hop_state(address, state)),
        route: Some(route(from.route, None)),
    }
}

fn next_hop_state(address: IpAddr, state: Option<NextHopState>) -> pb::NextHopState {
    let resolved = state.is_some();
    let (via, interface, metric) = state.map_or_else(Default::default, |state| {
        (text(state.via), state.interface, state.metric)
    });
    pb::NextHopState {
        address: address.to_string(),
        resolved,
        via,
        interface,
        metric,
    }
}

fn export(from: Export) -> pb::AdvertisedTo {
    let (state, reason) = match from.state {
        ExportState::Advertised => ("advertised", String::new()),
        ExportState::Pending => ("pending", String::new()),
        ExportState::NotAdvertised(why) => ("not advertised", why.to_string()),
    };
    pb::AdvertisedTo {
        peer: from.peer.to_string(),
        state: state.to_owned(),
        reason,
        export: from.policy.map(trace),
        attributes: from.attributes.as_deref().map(attributes),
    }
}

fn trace(from: PolicyTrace) -> pb::PolicyTrace {
    pb::PolicyTrace {
        text: from.to_string(),
        verdict: if from.accepted { "Accept" } else { "Reject" }.to_owned(),
        policy: from.policy.unwrap_or_default(),
        rule: from.rule.unwrap_or_default(),
    }
}

fn text<T: ToString>(value: Option<T>) -> String {
    value.map_or(String::new(), |value| value.to_string())
}
