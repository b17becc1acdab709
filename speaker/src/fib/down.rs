//! Next hops that no packets can go to: the daemon says so before the routes that had them change
//! one by one, and they leave their groups at once.
//!
//! A group of A and B becomes the group of B, and not the group of A and B with A left out: routes
//! that come to want B stay where they are, and when A is back it gets the routes that want it
//! again, in a new group, and no others.

use std::collections::HashMap;
use std::net::IpAddr;

use bgp::engine::NextHopSet;

use super::driver::Driver;
use super::groups::without;

/// Sets that were told before one of their next hops was known to be down may still be on their way.
#[derive(Debug, Default)]
pub(super) struct Downs {
    /// Next hops, and the newest such set of each.
    last_sets: HashMap<IpAddr, u32>,
}

impl Downs {
    /// What a set has become (its next hops and backups) by what has gone down since it was told;
    /// `None`: it is as it was.
    pub(super) fn left(&self, set: &NextHopSet) -> Option<(Vec<IpAddr>, Vec<IpAddr>)> {
        if self.last_sets.is_empty() {
            return None;
        }
        let down = |hop: &&IpAddr| {
            let last = self.last_sets.get(*hop);
            last.is_some_and(|last| !is_newer(set.id, *last))
        };
        let all = set.hops.iter().chain(&set.backups);
        let down: Vec<IpAddr> = all.filter(down).copied().collect();
        without((&set.hops, &set.backups), &down)
    }

    /// No such set is on its way any more.
    pub(super) fn handed_over(&mut self, last_set: u32) {
        self.last_sets.retain(|_, last| is_newer(*last, last_set));
    }
}

/// Numbers of sets go round.
fn is_newer(set: u32, than: u32) -> bool {
    set != than && set.wrapping_sub(than) < 1 << 31
}

impl Driver {
    /// Takes next hops out of groups, when the daemon has said so.
    pub(super) fn take_hops_down(&mut self) {
        let downs = self.queue.take_down();
        if downs.is_empty() {
            return;
        }
        for down in downs {
            tracing::debug!(next_hops = ?down.hops, "down");
            let each = down.hops.iter().map(|hop| (*hop, down.last_set));
            self.down.last_sets.extend(each);
            for hop in self.groups.take_out(&down.hops) {
                self.hops.release(hop);
            }
        }
        self.last_set = None;
        self.repair_objects();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hop(number: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, number])
    }

    #[test]
    fn a_set_told_before_loses_what_went_down_and_a_later_one_has_it_again() {
        let mut downs = Downs::default();
        let left = |downs: &Downs, id| {
            let set = NextHopSet {
                id,
                hops: vec![hop(1), hop(2)],
                backups: Vec::new(),
            };
            downs.left(&set).map_or(set.hops, |(hops, _)| hops)
        };
        downs.last_sets.insert(hop(1), 2);
        assert_eq!(left(&downs, u32::MAX), [hop(2)], "numbers go round");
        assert_eq!(left(&downs, 2), [hop(2)]);
        assert_eq!(left(&downs, 3), [hop(1), hop(2)]);
        downs.last_sets.insert(hop(2), 3);
        assert_eq!(left(&downs, 3), [hop(1)], "the other one is back");
        assert_eq!(left(&downs, 1), [hop(1), hop(2)], "nothing else is left");
        downs.handed_over(2);
        assert_eq!(left(&downs, 1), [hop(1)]);
        downs.handed_over(3);
        assert!(downs.last_sets.is_empty());
    }

    #[test]
    fn what_a_set_becomes_when_next_hops_are_down() {
        let [a, b, c] = [hop(1), hop(2), hop(3)];
        let left =
            |hops: &[IpAddr], backups: &[IpAddr], down: &[IpAddr]| without((hops, backups), down);
        assert_eq!(left(&[a, b], &[], &[a]), Some((vec![b], vec![])));
        assert_eq!(left(&[a, b], &[c], &[a]), Some((vec![b], vec![c])));
        assert_eq!(left(&[a], &[c], &[a]), Some((vec![c], vec![])));
        assert_eq!(left(&[a], &[c], &[c]), Some((vec![a], vec![])));
        assert_eq!(left(&[a], &[c], &[a, c]), None);
        assert_eq!(left(&[a], &[c], &[b]), None);
    }
}
