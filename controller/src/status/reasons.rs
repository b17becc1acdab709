//! Every reason that a condition or an event of ours can have. `docs/kubernetes.md` says what each
//! means and what to do; a test holds it to that.

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// Why a condition is as it is, or what an event tells.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub(crate) enum Reason {
            $($(#[$doc])* $name,)*
        }

        impl Reason {
            /// All of them.
            #[cfg(test)]
            pub(crate) const ALL: &[Reason] = &[$(Reason::$name,)*];

            /// The word that stands in the object.
            pub(crate) const fn as_str(self) -> &'static str {
                match self {
                    $(Reason::$name => stringify!($name),)*
                }
            }
        }
    };
}

reasons! {
    // Accepted.
    /// The object is right and in force.
    Valid,
    /// As `Valid`, with something in it that is probably not meant.
    ValidWithWarnings,
    /// This generation is refused; an older one stays in force.
    LastGoodInForce,
    /// Refused, and nothing of it is in force.
    Refused,

    // Programmed.
    /// Every node that the object concerns has it in force.
    AllNodes,
    /// It concerns no node.
    NoNodes,
    /// Some nodes do not have it in force yet.
    WaitingForNodes,
    /// Some nodes' speakers refuse the configuration it is in.
    RefusedByNodes,
    /// Nothing of the object is in force, so there is nothing to program.
    NotInForce,

    // Degraded.
    /// Nothing is wrong.
    AsDesired,
    /// `spec.shutdown` asks for sessions that are down.
    ShutDown,
    /// Sessions are not Established.
    SessionsDown,
    /// A key of the sessions is missing or cannot be used.
    NoKey,
    /// The other side sends more prefixes than allowed, or nearly so many.
    PrefixLimit,
    /// A node that the object selects has nothing of it.
    NotPlanned,
    /// What only the nodes can say was not said by all of them yet.
    NotReported,
    /// A node goes without a subnet because the pool has none left.
    PoolFull,
    /// Few subnets are left.
    PoolNearlyFull,
    /// Nodes keep subnets that the pool no longer has.
    SubnetsOutside,
    /// On some nodes no session carries the advertisement.
    NoPeers,
    /// Speakers have no connection to the controller.
    NodesNotConnected,
    /// What was given out cannot be written down, so nothing is given out.
    LedgerFailing,

    // Conditions of a NodeStatus.
    /// The speaker's stream is open.
    Connected,
    /// It is not, or never was.
    NotConnected,
    /// The newest configuration is in force.
    NewestInForce,
    /// The newest configuration is not in force yet.
    Waiting,
    /// The speaker refuses the newest configuration; the one before stays in force.
    ConfigurationRefused,
    /// The controller has no configuration for the node.
    NoConfiguration,
    /// The speaker or the controller has something to say about the node.
    Problems,

    // NetworkUnavailable of a Node.
    /// The node has its subnets in force and can serve.
    RouteshareReady,
    /// It cannot.
    RouteshareNotReady,

    // Events.
    /// A session was established.
    SessionUp,
    /// A session was lost.
    SessionDown,
    /// An object is in force again after it was refused.
    Accepted,
    /// A node goes without a subnet.
    NoSubnet,
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// `n1, n17 and 40 more`; at most ten are named.
pub(crate) fn listed<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    const NAMED: usize = 10;
    let mut names = names.into_iter();
    let named: Vec<&str> = names.by_ref().take(NAMED).collect();
    match names.count() {
        0 => match named.as_slice() {
            [] => String::new(),
            [one] => (*one).to_owned(),
            [first @ .., last] => format!("{} and {last}", first.join(", ")),
        },
        more => format!("{} and {more} more", named.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_is_in_the_documentation_and_nothing_else_is() {
        let text = include_str!("../../../docs/kubernetes.md");
        let section = text
            .split("\n## ")
            .find(|section| section.starts_with("Status and conditions"));
        let section = section.expect("the section on conditions");
        let rows = section.lines().filter_map(|line| {
            let word = line.strip_prefix("| `")?.split('`').next()?;
            word.chars().next()?.is_ascii_uppercase().then_some(word)
        });
        let mut documented: Vec<&str> = rows.collect();
        let mut reasons: Vec<&str> = Reason::ALL.iter().map(|it| it.as_str()).collect();
        documented.sort_unstable();
        documented.dedup();
        reasons.sort_unstable();
        assert_eq!(documented, reasons);
    }

    #[test]
    fn ten_names_are_said_and_the_others_counted() {
        assert_eq!(listed(["a"]), "a");
        assert_eq!(listed(["a", "b", "c"]), "a, b and c");
        let many: Vec<String> = (0..13).map(|n| format!("n{n}")).collect();
        let text = listed(many.iter().map(String::as_str));
        assert!(text.ends_with("n8, n9 and 3 more"), "{text}");
    }
}
