//! What one container may ask of the resolver, so that a hostile one costs only itself.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Questions a second from one address, and how many at once after a quiet time.
const RATE: f64 = 500.0;
const BURST: f64 = 1000.0;
/// Questions from one address that others are asked at the same time, and from all.
const FORWARDED: usize = 64;
const FORWARDED_IN_ALL: usize = 512;
/// Connections from one address, and from all.
const CONNECTIONS: usize = 8;
const CONNECTIONS_IN_ALL: usize = 256;
/// Addresses that have asked for nothing for so long are forgotten.
const QUIET: Duration = Duration::from_secs(10);
/// How many addresses are remembered before those are looked for.
const MANY: usize = 1024;

/// Who asks. Only addresses of containers of this node have an account of their own: those of the rest
/// of the world are too many.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Account {
    Container(IpAddr),
    Host,
    Strangers,
}

/// Something of which there is only so much.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Good {
    Forwarded,
    Connection,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Limits(Arc<Mutex<Accounts>>);

#[derive(Debug, Default)]
struct Accounts {
    each: HashMap<Account, Use>,
    forwarded: usize,
    connections: usize,
}

#[derive(Debug)]
struct Use {
    /// Questions it may ask now.
    left: f64,
    at: Instant,
    forwarded: usize,
    connections: usize,
}

/// Gives back what was taken when it is dropped.
#[derive(Debug)]
pub(crate) struct Taken {
    limits: Limits,
    account: Account,
    good: Good,
}

impl Limits {
    /// Whether the next question is looked at.
    pub(crate) fn may_ask(&self, account: Account, now: Instant) -> bool {
        let mut accounts = self.lock();
        let its = accounts.of(account, now);
        let passed = now.saturating_duration_since(its.at).as_secs_f64();
        its.left = (its.left + passed * RATE).min(BURST);
        its.at = now;
        let may = its.left >= 1.0;
        if may {
            its.left -= 1.0;
        }
        may
    }

    /// Takes one of a good; `None` when there is none left for this account, or for anybody.
    pub(crate) fn take(&self, account: Account, good: Good, now: Instant) -> Option<Taken> {
        let mut accounts = self.lock();
        let (own, all) = match good {
            Good::Forwarded => (FORWARDED, FORWARDED_IN_ALL),
            Good::Connection => (CONNECTIONS, CONNECTIONS_IN_ALL),
        };
        if *accounts.all(good) >= all || *accounts.of(account, now).used(good) >= own {
            return None;
        }
        *accounts.all(good) += 1;
        *accounts.of(account, now).used(good) += 1;
        Some(Taken {
            limits: self.clone(),
            account,
            good,
        })
    }

    fn lock(&self) -> MutexGuard<'_, Accounts> {
        // Every change is complete in itself.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Accounts {
    fn of(&mut self, account: Account, now: Instant) -> &mut Use {
        if self.each.len() >= MANY && !self.each.contains_key(&account) {
            self.each.retain(|_, its| {
                let quiet = now.saturating_duration_since(its.at) >= QUIET;
                !quiet || its.forwarded > 0 || its.connections > 0
            });
        }
        self.each.entry(account).or_insert(Use {
            left: BURST,
            at: now,
            forwarded: 0,
            connections: 0,
        })
    }

    fn all(&mut self, good: Good) -> &mut usize {
        match good {
            Good::Forwarded => &mut self.forwarded,
            Good::Connection => &mut self.connections,
        }
    }
}

impl Use {
    fn used(&mut self, good: Good) -> &mut usize {
        match good {
            Good::Forwarded => &mut self.forwarded,
            Good::Connection => &mut self.connections,
        }
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        let mut accounts = self.limits.lock();
        *accounts.all(self.good) -= 1;
        if let Some(its) = accounts.each.get_mut(&self.account) {
            *its.used(self.good) -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: Account = Account::Container(IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 2)));
    const OTHER: Account = Account::Container(IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 3)));

    #[test]
    fn who_asks_too_much_takes_nothing_from_others() {
        let limits = Limits::default();
        let start = Instant::now();
        let asked = (0..10_000).filter(|_| limits.may_ask(ONE, start)).count();
        assert_eq!(asked, BURST as usize);
        assert!(limits.may_ask(OTHER, start));
        let later = start + Duration::from_secs(1);
        let asked = (0..10_000).filter(|_| limits.may_ask(ONE, later)).count();
        assert_eq!(asked, RATE as usize);
    }

    #[test]
    fn what_is_taken_is_given_back() {
        let limits = Limits::default();
        let now = Instant::now();
        let take = |account| limits.take(account, Good::Connection, now);
        let taken: Vec<Taken> = std::iter::from_fn(|| take(ONE)).collect();
        assert_eq!(taken.len(), CONNECTIONS);
        assert!(take(OTHER).is_some());
        assert!(limits.take(ONE, Good::Forwarded, now).is_some());
        drop(taken);
        assert!(take(ONE).is_some());
        assert_eq!(limits.lock().connections, 0);
        assert_eq!(limits.lock().forwarded, 0);
    }

    #[test]
    fn all_together_take_no_more_than_there_is() {
        let limits = Limits::default();
        let now = Instant::now();
        let accounts = (0..=255).map(|it| Account::Container(IpAddr::from([10, 0, 0, it])));
        let taken: Vec<Taken> = accounts
            .flat_map(|account| std::iter::repeat_n(account, FORWARDED))
            .filter_map(|account| limits.take(account, Good::Forwarded, now))
            .collect();
        assert_eq!(taken.len(), FORWARDED_IN_ALL);
    }

    #[test]
    fn those_that_are_quiet_are_forgotten() {
        let limits = Limits::default();
        let start = Instant::now();
        let account = |it: usize| Account::Container(IpAddr::V6((it as u128).into()));
        for number in 0..MANY {
            limits.may_ask(account(number), start);
        }
        let held = limits.take(account(7), Good::Forwarded, start);
        limits.may_ask(account(MANY), start + QUIET);
        assert_eq!(limits.lock().each.len(), 2);
        drop(held);
    }
}
