//! Waiting for a condition, never for a time.

use std::fmt;
use std::time::{Duration, Instant};

/// Between two looks at a condition.
const POLL: Duration = Duration::from_millis(50);

/// A condition that did not come true in time.
#[derive(Debug)]
pub struct TimedOut {
    /// What was waited for.
    pub what: String,
    /// How long.
    pub waited: Duration,
    /// What was there instead at the last look.
    pub seen: String,
}

impl fmt::Display for TimedOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "waited {:.1} s for {}; seen instead: {}",
            self.waited.as_secs_f64(),
            self.what,
            self.seen
        )
    }
}

impl std::error::Error for TimedOut {}

/// Looks until `check` gives a value, and gives that value.
///
/// # Errors
///
/// [`TimedOut`] with the last error of `check` when `deadline` has passed; it is looked at least once.
pub fn try_wait_for<T>(
    what: &str,
    deadline: Duration,
    mut check: impl FnMut() -> anyhow::Result<T>,
) -> Result<T, TimedOut> {
    let start = Instant::now();
    loop {
        let seen = match check() {
            Ok(value) => return Ok(value),
            Err(seen) => seen,
        };
        let waited = start.elapsed();
        if waited >= deadline {
            return Err(TimedOut {
                what: what.to_owned(),
                waited,
                seen: format!("{seen:#}"),
            });
        }
        std::thread::sleep(POLL);
    }
}

/// Looks until `check` gives a value, and gives that value.
///
/// # Panics
///
/// When `deadline` has passed, with what was seen instead.
#[track_caller]
pub fn wait_for<T>(what: &str, deadline: Duration, check: impl FnMut() -> anyhow::Result<T>) -> T {
    match try_wait_for(what, deadline, check) {
        Ok(value) => value,
        Err(timed_out) => panic!("{timed_out}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_value_is_given_once_the_condition_holds() {
        let mut looks = 0;
        let value = wait_for("the third look", Duration::from_secs(5), || {
            looks += 1;
            anyhow::ensure!(looks == 3, "look {looks}");
            Ok(looks)
        });
        assert_eq!(value, 3);
    }

    #[test]
    fn what_was_seen_instead_is_told() {
        let error = try_wait_for("rain", Duration::ZERO, || -> anyhow::Result<()> {
            anyhow::bail!("sunshine")
        })
        .unwrap_err();
        assert!(
            error
                .to_string()
                .ends_with("for rain; seen instead: sunshine")
        );
    }
}
