//! Who reaches whom.

use std::time::Duration;

use lab::cni::Container;
use lab::wait_for;
use serde_json::Value;

/// The addresses of a result, without the length of their prefix.
pub(super) fn addresses(result: &Value) -> [String; 2] {
    [0, 1].map(|family| {
        let address = result["ips"][family]["address"].as_str().unwrap();
        address.split_once('/').unwrap().0.to_owned()
    })
}

/// An answer comes from each; `to` may have further arguments of ping before it.
#[track_caller]
pub(super) fn reaches(from: &Container, to: &[impl AsRef<str>]) {
    for address in to {
        let line = format!("ping -n -c 1 -W 1 {}", address.as_ref());
        wait_for(&line, Duration::from_secs(10), || from.run(&line));
    }
}

/// No answer comes from any.
#[track_caller]
pub(super) fn does_not_reach(from: &Container, to: &[impl AsRef<str>]) {
    for address in to {
        let line = format!("ping -n -c 3 -i 0.3 -W 1 {}", address.as_ref());
        let outcome = from.run(&line);
        assert!(outcome.is_err(), "{line} was answered: {outcome:?}");
    }
}
