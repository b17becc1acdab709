//! Times as people read them: ages in tables, clock times while watching, RFC 3339 for programs.

use jiff::Timestamp;
use jiff::tz::TimeZone;

/// How long ago something was, in two units at most: `12s`, `3m10s`, `5h02m`, `3d4h`.
///
/// `then` and `now` are milliseconds since the Unix epoch; a `then` of 0 means never, and gives `-`.
/// A time in the future (clocks differ between machines) counts as now.
pub(crate) fn age(then: i64, now: i64) -> String {
    if then == 0 {
        return "-".into();
    }
    let seconds = now.saturating_sub(then).max(0) / 1000;
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86400);
    match () {
        () if seconds < 60 => format!("{seconds}s"),
        () if minutes < 60 => format!("{minutes}m{:02}s", seconds % 60),
        () if hours < 24 => format!("{hours}h{:02}m", minutes % 60),
        () if days < 100 => format!("{days}d{}h", hours % 24),
        () => format!("{days}d"),
    }
}

/// How long until something is due, in the words of [`age`].
pub(crate) fn until(then: i64, now: i64) -> String {
    age(now.max(1), then.max(now))
}

/// Milliseconds since the Unix epoch.
pub(crate) fn now() -> i64 {
    Timestamp::now().as_millisecond()
}

/// RFC 3339 in UTC; `None` for 0, which means never, and for what no clock can show.
pub(crate) fn rfc3339(then: i64) -> Option<String> {
    if then == 0 {
        return None;
    }
    let time = Timestamp::from_millisecond(then).ok()?;
    Some(format!("{time:.3}"))
}

/// Whether [`rfc3339`] has something to say.
pub(crate) fn is_time(then: i64) -> bool {
    then != 0 && Timestamp::from_millisecond(then).is_ok()
}

/// The time of day here, to the millisecond.
pub(crate) fn clock(then: i64) -> String {
    Timestamp::from_millisecond(then).map_or_else(
        |_| "-".into(),
        |time| {
            let local = time.to_zoned(TimeZone::system());
            local.strftime("%H:%M:%S%.3f").to_string()
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_have_two_units_at_most() {
        let cases = [
            (0, "0s"),
            (59, "59s"),
            (60, "1m00s"),
            (3_600 + 125, "1h02m"),
            (86_400 * 3 + 3_600 * 4, "3d4h"),
            (86_400 * 120, "120d"),
        ];
        for (seconds, expected) in cases {
            assert_eq!(age(1_000, 1_000 + seconds * 1000), expected);
        }
    }

    #[test]
    fn never_and_the_future_have_no_age() {
        assert_eq!(age(0, 5_000), "-");
        assert_eq!(age(9_000, 5_000), "0s");
    }

    #[test]
    fn programs_get_rfc3339() {
        assert_eq!(
            rfc3339(1_000_000_000_123).as_deref(),
            Some("2001-09-09T01:46:40.123Z")
        );
        assert_eq!(rfc3339(0), None);
    }
}
