//! The clock by which grace times are counted.

use std::time::Instant;

use ipam::Millis;

/// Begins at the wall clock's time and goes on by the monotonic clock: a wall clock that is set while
/// the controller runs frees nothing early, and holds nothing back. What was counted in an earlier run
/// is moved to this clock by [`rebased`](crate::store::rebased).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    wall: Millis,
    at: Instant,
}

impl Clock {
    /// A clock that says `wall` now.
    pub(crate) fn start(wall: Millis) -> Clock {
        Clock {
            wall,
            at: Instant::now(),
        }
    }

    /// What it says now.
    pub(crate) fn now(&self) -> Millis {
        self.after(Instant::now())
    }

    fn after(&self, instant: Instant) -> Millis {
        let passed = instant.saturating_duration_since(self.at).as_millis();
        let passed = u64::try_from(passed).unwrap_or(u64::MAX);
        self.wall.saturating_add(passed)
    }
}
