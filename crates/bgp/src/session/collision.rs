//! Which of two connections to the same peer stays. RFC 4271 §6.8, RFC 6286 §2.3.

use crate::types::{Asn, RouterId};

use super::fsm::{Fsm, Side, State};

/// A speaker, as far as a collision depends on it; the higher one wins.
pub(super) type Identity = (RouterId, Asn);

/// Of the connection on which an acceptable OPEN arrived just now and the session's other one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Survivor {
    This,
    Other,
    /// No OPEN has arrived on the other one yet: too early to tell.
    Both,
}

/// An acceptable OPEN arrived on `this`; `other` is the session's other connection.
///
/// An Established connection always stays. Otherwise that one stays which was opened by the side
/// with the higher BGP Identifier (with equal ones: the higher AS number), so that both sides close
/// the same one. A side that opened both has given up the earlier one.
pub(super) fn resolve(this: &Fsm, other: &Fsm, ours: Identity, theirs: Identity) -> Survivor {
    let this_stays = match other.state {
        State::Idle | State::Connect | State::Active | State::OpenSent => return Survivor::Both,
        State::Established => false,
        State::OpenConfirm if this.opened_by == other.opened_by => this.opened >= other.opened,
        State::OpenConfirm => {
            let winner = if ours > theirs {
                Side::Ours
            } else {
                Side::Theirs
            };
            this.opened_by == winner
        }
    };
    if this_stays {
        Survivor::This
    } else {
        Survivor::Other
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::time::{Duration, Instant};

    use super::*;

    const LOW: Identity = (RouterId(Ipv4Addr::new(10, 0, 0, 1)), Asn(65002));
    const HIGH: Identity = (RouterId(Ipv4Addr::new(10, 0, 0, 2)), Asn(65001));

    fn connection(state: State, opened_by: Side, opened: Instant) -> Fsm {
        Fsm {
            state,
            opened_by,
            opened: Some(opened),
            ..Fsm::new()
        }
    }

    #[test]
    fn both_sides_keep_the_connection_of_the_higher_identifier() {
        let now = Instant::now();
        let ours = connection(State::OpenSent, Side::Ours, now);
        let theirs = connection(State::OpenConfirm, Side::Theirs, now);
        assert_eq!(resolve(&ours, &theirs, HIGH, LOW), Survivor::This);
        assert_eq!(resolve(&ours, &theirs, LOW, HIGH), Survivor::Other);
        let ours = connection(State::OpenConfirm, Side::Ours, now);
        let theirs = connection(State::OpenSent, Side::Theirs, now);
        assert_eq!(resolve(&theirs, &ours, HIGH, LOW), Survivor::Other);
        assert_eq!(resolve(&theirs, &ours, LOW, HIGH), Survivor::This);
    }

    #[test]
    fn with_one_identifier_in_two_ases_the_higher_as_number_wins() {
        let now = Instant::now();
        let ours = connection(State::OpenSent, Side::Ours, now);
        let theirs = connection(State::OpenConfirm, Side::Theirs, now);
        let twin = (LOW.0, Asn(65003));
        assert_eq!(resolve(&ours, &theirs, LOW, twin), Survivor::Other);
        assert_eq!(resolve(&ours, &theirs, twin, LOW), Survivor::This);
    }

    #[test]
    fn an_established_connection_stays() {
        let now = Instant::now();
        let ours = connection(State::OpenSent, Side::Ours, now);
        let theirs = connection(State::Established, Side::Theirs, now);
        assert_eq!(resolve(&ours, &theirs, HIGH, LOW), Survivor::Other);
    }

    #[test]
    fn of_two_connections_of_one_side_the_later_stays() {
        let now = Instant::now();
        let earlier = connection(State::OpenConfirm, Side::Theirs, now);
        let later = connection(State::OpenSent, Side::Theirs, now + Duration::from_secs(1));
        assert_eq!(resolve(&later, &earlier, HIGH, LOW), Survivor::This);
    }

    #[test]
    fn nothing_is_decided_before_both_opens_are_there() {
        let now = Instant::now();
        let this = connection(State::OpenSent, Side::Ours, now);
        for state in [State::Connect, State::Active, State::OpenSent] {
            let other = connection(state, Side::Theirs, now);
            assert_eq!(resolve(&this, &other, HIGH, LOW), Survivor::Both);
        }
    }
}
