//! Which authorities there are, and what is to be done about them. Pure: the time is an argument.
//!
//! ```text
//!   made ──► published (in everybody's bundle) ──► in use ──► old (still in the bundle) ──► gone
//! ```
//!
//! Speakers read the bundle out of a volume that kubelet brings up to date within a minute or two. So an
//! authority signs nothing before it has been in the bundle for a while, and stays there for a while
//! after it has signed the last.

use std::time::Duration;

use ipam::Millis;

/// How long things last.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// An authority.
    pub(crate) authority: Duration,
    /// A certificate of a controller.
    pub(crate) certificate: Duration,
    /// How long an authority is published before it is used, and after.
    pub(crate) publish: Duration,
}

/// An authority: its certificate and key (PEM), and until when it is good.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Authority {
    pub(crate) certificate: String,
    pub(crate) key: String,
    pub(crate) not_after: Millis,
}

/// All there are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Authorities {
    /// Counts up with every change.
    pub(crate) generation: u64,
    /// Signs certificates.
    pub(crate) current: Authority,
    /// Will, from `published` and a while on.
    pub(crate) next: Option<Authority>,
    /// Since when `next` is in everybody's bundle.
    pub(crate) published: Option<Millis>,
    /// Certificates of those that signed before (PEM), and until when they are in the bundle.
    pub(crate) old: String,
    pub(crate) old_until: Millis,
    /// Somebody asks for another one.
    pub(crate) asked: bool,
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Make the next authority.
    Make,
    /// The bundle has the next one in it: say since when.
    Publish,
    /// The next one signs from now on.
    Use,
    /// The old ones are in no bundle any more.
    Forget,
}

impl Authorities {
    /// The first one is used at once: nobody knows another.
    pub(crate) fn first(authority: Authority) -> Authorities {
        Authorities {
            generation: 1,
            current: authority,
            next: None,
            published: None,
            old: String::new(),
            old_until: 0,
            asked: false,
        }
    }

    /// What everybody is to trust.
    pub(crate) fn bundle(&self) -> String {
        let next = self.next.iter().map(|next| next.certificate.as_str());
        let all = [self.current.certificate.as_str()].into_iter();
        all.chain(next).chain([self.old.as_str()]).collect()
    }

    /// What is to be done now, if anything.
    pub(crate) fn step(&self, now: Millis, limits: &Limits) -> Option<Step> {
        let at = |step| self.due(step, limits).is_some_and(|due| due <= now);
        [Step::Forget, Step::Publish, Step::Use, Step::Make]
            .into_iter()
            .find(|step| at(*step))
    }

    /// When there will be something to do.
    pub(crate) fn next_step(&self, limits: &Limits) -> Option<Millis> {
        [Step::Forget, Step::Publish, Step::Use, Step::Make]
            .into_iter()
            .filter_map(|step| self.due(step, limits))
            .min()
    }

    fn due(&self, step: Step, limits: &Limits) -> Option<Millis> {
        let current = &self.current;
        match step {
            Step::Forget => (!self.old.is_empty()).then_some(self.old_until),
            Step::Publish => (self.next.is_some() && self.published.is_none()).then_some(0),
            // Who trusts only one that has ended trusts nobody anyway.
            Step::Use => self
                .published
                .filter(|_| self.next.is_some())
                .map(|since| (since + millis(limits.publish)).min(current.not_after)),
            Step::Make if self.next.is_some() => None,
            Step::Make if self.asked => Some(0),
            // A third of its life is left for the change.
            Step::Make => {
                let life = millis(limits.authority);
                Some(current.not_after.saturating_sub(life / 3))
            }
        }
    }

    /// As somebody sees it who has known it as it is since `since`, by his own clock: what waits, waits
    /// from then on. The clocks of two controllers need not agree.
    pub(crate) fn known_since(&self, since: Millis, limits: &Limits) -> Authorities {
        Authorities {
            published: self.published.map(|_| since),
            old_until: since.saturating_add(millis(limits.publish)),
            ..self.clone()
        }
    }

    /// What there is after a step; `make` makes an authority.
    pub(crate) fn after<E>(
        &self,
        step: Step,
        now: Millis,
        limits: &Limits,
        make: impl FnOnce() -> Result<Authority, E>,
    ) -> Result<Authorities, E> {
        let mut after = self.clone();
        after.generation += 1;
        match step {
            Step::Make => {
                after.next = Some(make()?);
                after.published = None;
                after.asked = false;
            }
            Step::Publish => after.published = Some(now),
            Step::Use => {
                if let Some(next) = after.next.take() {
                    let before = std::mem::replace(&mut after.current, next);
                    after.old.push_str(&before.certificate);
                    after.old_until = now + millis(limits.publish);
                }
                after.published = None;
            }
            Step::Forget => after.old.clear(),
        }
        Ok(after)
    }
}

/// In milliseconds.
pub(crate) fn millis(duration: Duration) -> Millis {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority")
            .field("not_after", &self.not_after)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    const DAY: u64 = 24 * 3600 * 1000;
    const MINUTE: u64 = 60 * 1000;

    fn limits() -> Limits {
        Limits {
            authority: Duration::from_millis(300 * DAY),
            certificate: Duration::from_millis(DAY),
            publish: Duration::from_millis(10 * MINUTE),
        }
    }

    fn authority(name: &str, made: Millis) -> Authority {
        Authority {
            certificate: format!("{name}\n"),
            key: String::new(),
            not_after: made + 300 * DAY,
        }
    }

    /// Takes every step that is due.
    fn settle(mut all: Authorities, now: Millis, name: &str) -> (Authorities, Vec<Step>) {
        let mut steps = Vec::new();
        while let Some(step) = all.step(now, &limits()) {
            steps.push(step);
            let make = || Ok::<_, Infallible>(authority(name, now));
            all = all.after(step, now, &limits(), make).unwrap();
            assert!(steps.len() < 10, "{steps:?}");
        }
        (all, steps)
    }

    #[test]
    fn another_authority_is_published_before_it_is_used_and_the_old_one_for_as_long_after() {
        let (all, steps) = settle(Authorities::first(authority("a", 0)), 199 * DAY, "b");
        assert_eq!(steps, []);
        assert_eq!(all.next_step(&limits()), Some(200 * DAY));
        let begun = 200 * DAY;
        let (all, steps) = settle(all, begun, "b");
        assert_eq!(steps, [Step::Make, Step::Publish]);
        assert_eq!(
            (all.bundle().as_str(), all.current.certificate.as_str()),
            ("a\nb\n", "a\n")
        );
        let (all, steps) = settle(all, begun + 10 * MINUTE - 1, "c");
        assert_eq!(steps, []);
        assert_eq!(all.next_step(&limits()), Some(begun + 10 * MINUTE));
        let (all, steps) = settle(all, begun + 10 * MINUTE, "c");
        assert_eq!(steps, [Step::Use]);
        assert_eq!(
            (all.bundle().as_str(), all.current.certificate.as_str()),
            ("b\na\n", "b\n")
        );
        let (all, steps) = settle(all, begun + 20 * MINUTE, "c");
        assert_eq!(steps, [Step::Forget]);
        assert_eq!(all.bundle(), "b\n");
        assert_eq!(all.generation, 5);
    }

    #[test]
    fn who_asks_gets_one_other_authority_and_no_more() {
        let first = Authorities {
            asked: true,
            ..Authorities::first(authority("a", 0))
        };
        let (all, steps) = settle(first, DAY, "b");
        assert_eq!(steps, [Step::Make, Step::Publish]);
        let again = Authorities { asked: true, ..all };
        let (all, steps) = settle(again, DAY + MINUTE, "c");
        assert_eq!((steps, all.bundle().as_str()), (vec![], "a\nb\n"));
    }

    #[test]
    fn a_controller_whose_clock_is_fast_waits_as_long_as_the_others() {
        let first = Authorities {
            asked: true,
            ..Authorities::first(authority("a", 0))
        };
        let (published, _) = settle(first, DAY, "b");
        // It sees what another one has published just now; its clock says that this was a day ago.
        let fast = 2 * DAY;
        let seen = published.known_since(fast, &limits());
        assert_eq!(seen.step(fast, &limits()), None);
        assert_eq!(seen.next_step(&limits()), Some(fast + 10 * MINUTE));
        let (used, steps) = settle(seen, fast + 10 * MINUTE, "c");
        assert_eq!(steps, [Step::Use]);
        let later = fast + DAY;
        let seen = used.known_since(later, &limits());
        assert_eq!(seen.step(later, &limits()), None, "the old one stays");
        assert_eq!(
            seen.step(later + 10 * MINUTE, &limits()),
            Some(Step::Forget)
        );
    }

    #[test]
    fn one_that_has_ended_is_replaced_without_waiting() {
        let (all, steps) = settle(Authorities::first(authority("a", 0)), 400 * DAY, "b");
        assert_eq!(steps, [Step::Make, Step::Publish, Step::Use]);
        assert_eq!(all.current.certificate, "b\n");
    }
}
