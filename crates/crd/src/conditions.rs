//! Conditions: what the controller says of an object, in the form of Kubernetes.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

/// The object is right, and in force as it stands.
pub const ACCEPTED: &str = "Accepted";
/// The nodes have done what it says.
pub const PROGRAMMED: &str = "Programmed";
/// Something that it asks for does not work somewhere.
pub const DEGRADED: &str = "Degraded";
/// On a [`NodeStatus`](crate::NodeStatus): the node's speaker is connected to the controller.
pub const CONNECTED: &str = "Connected";

/// Longest message that Kubernetes takes.
const LONGEST_MESSAGE: usize = 32768;

/// Whether a condition holds, where that is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holds {
    /// It does.
    True,
    /// It does not.
    False,
    /// Nobody can say.
    Unknown,
}

impl Holds {
    /// As a condition's `status` says it.
    pub fn as_str(self) -> &'static str {
        match self {
            Holds::True => "True",
            Holds::False => "False",
            Holds::Unknown => "Unknown",
        }
    }
}

impl From<bool> for Holds {
    fn from(holds: bool) -> Holds {
        match holds {
            true => Holds::True,
            false => Holds::False,
        }
    }
}

/// Says a condition: replaces what was said of `kind`, and keeps the time of its last transition where
/// it holds as before. Returns whether anything changed but for the generation.
///
/// `reason` is one word in CamelCase; a message longer than Kubernetes takes is cut.
pub fn set(
    conditions: &mut Vec<Condition>,
    kind: &str,
    holds: Holds,
    reason: &str,
    message: &str,
    generation: Option<i64>,
    now: &Time,
) -> bool {
    let mut end = message.len().min(LONGEST_MESSAGE);
    while !message.is_char_boundary(end) {
        end -= 1;
    }
    let before = conditions.iter().position(|it| it.type_ == kind);
    let kept = before.map(|index| &conditions[index]);
    let same = kept.filter(|it| it.status == holds.as_str());
    let new = Condition {
        last_transition_time: same
            .map_or_else(|| now.clone(), |it| it.last_transition_time.clone()),
        message: message[..end].to_owned(),
        observed_generation: generation,
        reason: reason.to_owned(),
        status: holds.as_str().to_owned(),
        type_: kind.to_owned(),
    };
    let changed = same.is_none_or(|it| it.reason != new.reason || it.message != new.message);
    match before {
        Some(index) => conditions[index] = new,
        None => conditions.push(new),
    }
    changed
}

/// What was last said of `kind`.
pub fn get<'a>(conditions: &'a [Condition], kind: &str) -> Option<&'a Condition> {
    conditions.iter().find(|it| it.type_ == kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Time {
        crate::time(seconds * 1000).expect("a time of our days")
    }

    #[test]
    fn the_time_of_the_last_transition_moves_only_with_the_status() {
        let mut conditions = Vec::new();
        let mut say = |holds, message: &str, now| {
            set(
                &mut conditions,
                ACCEPTED,
                holds,
                "Valid",
                message,
                Some(1),
                &at(now),
            )
        };
        assert!(say(Holds::True, "", 1));
        assert!(!say(Holds::True, "", 2));
        assert!(say(Holds::True, "with a warning", 3));
        assert_eq!(
            get(&conditions, ACCEPTED).map(|it| &it.last_transition_time),
            Some(&at(1))
        );
        let changed = set(
            &mut conditions,
            ACCEPTED,
            Holds::False,
            "Invalid",
            "",
            Some(2),
            &at(4),
        );
        assert!(changed);
        assert_eq!(conditions.len(), 1);
        assert_eq!(conditions[0].last_transition_time, at(4));
        assert_eq!(conditions[0].observed_generation, Some(2));
    }

    #[test]
    fn a_message_is_cut_between_two_letters() {
        let mut conditions = Vec::new();
        let long = "ä".repeat(LONGEST_MESSAGE);
        set(
            &mut conditions,
            DEGRADED,
            Holds::Unknown,
            "Long",
            &long,
            None,
            &at(1),
        );
        assert_eq!(conditions[0].message.len(), LONGEST_MESSAGE);
    }
}
