//! Wall-clock times of the engine's instants, for people.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// Milliseconds since the Unix epoch of an instant, by the wall clock as it is now: if that was set
/// in between, ages stay right.
pub(crate) fn wall_ms(at: Instant) -> i64 {
    convert(at, crate::daemon::now(), SystemTime::now())
}

/// As [`wall_ms`]; 0 when there is none.
pub(crate) fn wall_ms_or_0(at: Option<Instant>) -> i64 {
    at.map_or(0, wall_ms)
}

fn convert(at: Instant, now: Instant, wall: SystemTime) -> i64 {
    let wall = match now.checked_duration_since(at) {
        Some(ago) => wall.checked_sub(ago),
        None => wall.checked_add(at - now),
    };
    let since_epoch = wall.and_then(|wall| wall.duration_since(UNIX_EPOCH).ok());
    since_epoch.map_or(0, |since| {
        i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn an_instant_ago_and_an_instant_ahead_are_told_from_now() {
        let now = Instant::now() + Duration::from_secs(100);
        let wall = UNIX_EPOCH + Duration::from_secs(1_000);
        let second = Duration::from_secs(1);
        assert_eq!(convert(now - second, now, wall), 999_000);
        assert_eq!(convert(now + second, now, wall), 1_001_000);
    }
}
