//! The texts of routes that came by columns.

use std::fmt::Write as _;
use std::net::IpAddr;

use bgp::attributes::NextHop;
use bgp::types::Prefix;
use plan::wire::routes::{CompactPage, CompactRoute, attributes, kernel_word};
use proto::speaker::v1 as speaker;

use crate::view::{Attributes, Route};

/// Makes texts in memory that serves for one route after the other.
pub(super) struct Texts {
    /// Everything is wanted, not only what a plain table shows.
    in_full: bool,
    prefix: String,
    next_hop: (Option<NextHop>, String),
    as_path: String,
    /// All attributes of the present page's sets, as far as they were wanted.
    sets: Vec<Option<speaker::Attributes>>,
}

impl Texts {
    pub(super) fn new(in_full: bool) -> Texts {
        Texts {
            in_full,
            prefix: String::new(),
            next_hop: (None, String::new()),
            as_path: String::new(),
            sets: Vec::new(),
        }
    }

    /// Another page begins.
    pub(super) fn begin(&mut self, page: &CompactPage) {
        self.sets.clear();
        if self.in_full {
            self.sets.resize(page.sets(), None);
        }
    }

    /// A route of the present page.
    pub(super) fn route<'a>(&'a mut self, route: &CompactRoute<'a>) -> Route<'a> {
        self.prefix.clear();
        write_prefix(route.prefix, &mut self.prefix);
        let attributes = if self.in_full {
            let set = &mut self.sets[route.set_number as usize];
            let set = set.get_or_insert_with(|| attributes(&route.set.decode()));
            Attributes::from(&*set)
        } else {
            self.write_way(route);
            let next_hop = self.next_hop.1.as_str();
            Attributes {
                next_hop: (!next_hop.is_empty()).then_some(next_hop),
                as_path: &self.as_path,
                ..Attributes::default()
            }
        };
        let some = |text: &'a str| (!text.is_empty()).then_some(text);
        Route {
            prefix: &self.prefix,
            peer: some(route.peer),
            source: route.source,
            attributes,
            best: route.best,
            multipath: route.multipath,
            stale: route.stale,
            stale_until_ms: route.stale_until_ms,
            long_lived_stale: route.long_lived_stale,
            backup: route.backup,
            reason: some(route.reason),
            kernel: some(kernel_word(route.kernel)),
            advertisements: route.advertisements,
            since_ms: route.since_ms,
        }
    }

    fn write_way(&mut self, route: &CompactRoute<'_>) {
        let (known, text) = &mut self.next_hop;
        let next_hop = route.set.next_hop();
        if *known != next_hop {
            text.clear();
            if let Some(hop) = next_hop {
                let _ = write!(text, "{}", hop.address); // a String takes everything
            }
            *known = next_hop;
        }
        self.as_path.clear();
        for asn in route.set.as_path() {
            if !self.as_path.is_empty() {
                self.as_path.push(' ');
            }
            write_number(asn.0, &mut self.as_path);
        }
    }
}

/// As `Display` does it, which takes several times as long.
fn write_prefix(prefix: Prefix, out: &mut String) {
    match prefix.address() {
        IpAddr::V4(address) => {
            for (index, octet) in address.octets().into_iter().enumerate() {
                if index > 0 {
                    out.push('.');
                }
                write_number(octet.into(), out);
            }
        }
        IpAddr::V6(address) => {
            let _ = write!(out, "{address}"); // a String takes everything
        }
    }
    out.push('/');
    write_number(prefix.length().into(), out);
}

fn write_number(mut number: u32, out: &mut String) {
    let mut digits = [b'0'; 10];
    let mut first = digits.len();
    loop {
        first -= 1;
        digits[first] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    // Digits are UTF-8.
    out.push_str(str::from_utf8(&digits[first..]).unwrap_or_default());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_prefixes_read_as_display_writes_them() {
        for number in [0, 9, 10, 255, 65_000, u32::MAX] {
            let mut text = String::new();
            write_number(number, &mut text);
            assert_eq!(text, number.to_string());
        }
        for prefix in [
            "0.0.0.0/0",
            "10.200.3.0/24",
            "192.0.2.1/32",
            "2001:db8::/32",
        ] {
            let mut text = String::new();
            write_prefix(prefix.parse().unwrap(), &mut text);
            assert_eq!(text, prefix);
        }
    }
}
