//! By which interfaces of ours are known: to DEL by their name, to GC and CHECK by their note.

use std::fmt;

use kernel::Mac;

/// The other end of every container's veth on the host: nothing is addressed to it but packets for its
/// host, and each is alone on its link, so that all may have the same address. One that never changes
/// lets a container's neighbour entry be right even when it is moved to another host.
pub(crate) const HOST_MAC: Mac = Mac([0x02, 0x72, 0x73, 0x00, 0x00, 0x01]);

/// The longest note on an interface, in bytes (`IFALIASZ` less the NUL).
const LONGEST: usize = 255;
const FIRST_WORD: &str = "routeshare";
const LETTERS: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";

/// The note on an interface of ours, on the host and in the container (`alias` in `ip link`):
/// `routeshare NETWORK CONTAINER IFNAME`. None of these has blanks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mark<'a> {
    pub(crate) network: &'a str,
    pub(crate) container: &'a str,
    pub(crate) ifname: &'a str,
}

impl<'a> Mark<'a> {
    /// `None`: the interface is not ours.
    pub(crate) fn read(alias: &'a str) -> Option<Mark<'a>> {
        let mut words = alias.split(' ');
        if words.next() != Some(FIRST_WORD) {
            return None;
        }
        let mark = Mark {
            network: words.next()?,
            container: words.next()?,
            ifname: words.next()?,
        };
        words.next().is_none().then_some(mark)
    }

    /// Whether it fits on an interface.
    pub(crate) fn fits(&self) -> bool {
        self.to_string().len() <= LONGEST
    }
}

impl fmt::Display for Mark<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Mark {
            network,
            container,
            ifname,
        } = self;
        write!(f, "{FIRST_WORD} {network} {container} {ifname}")
    }
}

/// What the host's end of a container's interface is called: the same one whatever the network's
/// configuration says by now, and whatever its namespace. 15 letters, 64 bits of them by chance.
pub(crate) fn host_name(container: &str, ifname: &str) -> String {
    let mut hash = hash(&["host", container, ifname]);
    let mut name = String::from("rs");
    for _ in 0..13 {
        name.push(LETTERS[(hash % 32) as usize].into());
        hash /= 32;
    }
    name
}

/// The MAC address of a container's interface when the runtime wants no other.
pub(crate) fn container_mac(container: &str, ifname: &str) -> Mac {
    let [a, b, c, d, e, ..] = hash(&["mac", container, ifname]).to_be_bytes();
    Mac([0x02, a, b, c, d, e])
}

/// The MAC address of the host's end where it is a port of a bridge, beside others.
pub(crate) fn port_mac(container: &str, ifname: &str) -> Mac {
    let [a, b, c, d, e, ..] = hash(&["port", container, ifname]).to_be_bytes();
    Mac([0x02, a, b, c, d, e])
}

/// What a bridge is called whose network has too long a name.
pub(crate) fn bridge_name(network: &str) -> String {
    format!("br-{}", &host_name(network, "bridge")[2..14])
}

/// FNV-1a of 64 bits, mixed at the end: never to be changed, names on hosts are made of it.
fn hash(words: &[&str]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for word in words {
        for byte in word.bytes().chain([0]) {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
    hash ^= hash >> 33;
    hash = hash.wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash ^ (hash >> 33)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_read_back_and_others_notes_are_not_taken_for_one() {
        let mark = Mark {
            network: "pods",
            container: "c1",
            ifname: "eth0",
        };
        assert_eq!(Mark::read(&mark.to_string()), Some(mark));
        for alias in [
            "",
            "routeshare",
            "routeshare pods c1",
            "x pods c1 eth0",
            "routeshare a b c d",
        ] {
            assert_eq!(Mark::read(alias), None, "{alias:?}");
        }
    }

    #[test]
    fn names_of_host_ends_never_change_and_differ() {
        assert_eq!(host_name("c1", "eth0"), "rsoqthte7rwzsfi");
        let mut names: Vec<String> = (0..50_000)
            .map(|n| host_name(&format!("c{n}"), "eth0"))
            .collect();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), 50_000);
        assert!(names.iter().all(|name| name.len() == 15));
        assert_ne!(host_name("ab", "c"), host_name("a", "bc"));
        assert_eq!(container_mac("c1", "eth0").0[0], 2);
    }
}
