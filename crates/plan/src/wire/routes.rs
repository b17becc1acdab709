//! Routes in the gRPC contract (`proto/routeshare/speaker/v1/speaker.proto`): attributes in words,
//! and pages by columns, there and back.

use std::net::IpAddr;

use bgp::attributes::Attributes;
use bgp::codec::Nlri;
use bgp::config::{Origin, Source};
use bgp::query::{AttributeSets, PackedSet, PageRoute, RoutePage};
use bgp::types::{Family, Prefix};
use proto::speaker::v1 as pb;

const BEST: u32 = 1;
const MULTIPATH: u32 = 2;
const STALE: u32 = 4;
const BACKUP: u32 = 8;
const LONG_LIVED_STALE: u32 = 16;

/// Attributes in the words of `show`.
pub fn attributes(from: &Attributes) -> pb::Attributes {
    let origin = match from.origin {
        Origin::Igp => "igp",
        Origin::Egp => "egp",
        Origin::Incomplete => "incomplete",
    };
    pb::Attributes {
        origin: origin.to_owned(),
        as_path: from.as_path.to_string(),
        next_hop: text(from.next_hop.map(|hop| hop.address)),
        next_hop_link_local: text(from.next_hop.and_then(|hop| hop.link_local)),
        med: from.med,
        local_preference: from.local_pref,
        atomic_aggregate: from.atomic_aggregate,
        aggregator: from
            .aggregator
            .map_or(String::new(), |(asn, id)| format!("{asn} {id}")),
        communities: words(&from.communities),
        large_communities: words(&from.large_communities),
        extended_communities: words(&from.extended_communities),
        originator_id: text(from.originator_id),
        cluster_list: words(&from.cluster_list),
        unknown: from
            .unknown
            .iter()
            .map(|unknown| pb::UnknownAttribute {
                flags: u32::from(unknown.flags),
                r#type: u32::from(unknown.kind),
                value: unknown.value.to_vec(),
            })
            .collect(),
    }
}

/// Whose a route is, in the words of the contract.
pub fn source(source: Source) -> &'static str {
    match source {
        Source::Local => "Local",
        Source::Ebgp => "Ebgp",
        Source::Ibgp => "Ibgp",
    }
}

/// A page by columns. `began_ms` is the page's beginning of time by the wall clock; `kernel` has a
/// value for each route, or none at all.
pub fn compact(page: RoutePage, began_ms: i64, kernel: Vec<pb::KernelRoute>) -> pb::CompactRoutes {
    let routes = &page.routes;
    let first = routes.first().map(|route| route.prefix.family());
    let mut prefixes = Vec::with_capacity(routes.len() * 5);
    for route in routes {
        let (length, octets) = (route.prefix.length(), octets_of(route.prefix));
        prefixes.push(length);
        prefixes.extend_from_slice(&octets[..usize::from(length.div_ceil(8))]);
    }
    let origins = page.origins.iter().map(|origin| pb::RouteOrigin {
        peer: origin.peer.as_deref().unwrap_or_default().to_owned(),
        source: source(origin.source).to_owned(),
        stale_until_ms: match (origin.stale_until, page.began) {
            (Some(until), Some(began)) => {
                let after = until.saturating_duration_since(began);
                began_ms.saturating_add(i64::try_from(after.as_millis()).unwrap_or(i64::MAX))
            }
            _ => 0,
        },
    });
    let remarks = page.remarks.iter().map(|remark| pb::RouteRemark {
        route: remark.route,
        reason: text(remark.reason.as_ref()),
        advertisements: remark.advertisements.clone(),
    });
    pb::CompactRoutes {
        family: text(first),
        prefixes,
        set: routes.iter().map(|route| route.set).collect(),
        origin: routes.iter().map(|route| route.origin.into()).collect(),
        since: routes.iter().map(|route| route.since).collect(),
        flags: routes.iter().map(flags).collect(),
        kernel: kernel.into_iter().map(i32::from).collect(),
        began_ms,
        origins: origins.collect(),
        remarks: remarks.collect(),
        sets: page.sets.into_bytes(),
    }
}

fn flags(route: &PageRoute) -> u32 {
    let flag = |set, flag| if set { flag } else { 0 };
    flag(route.best, BEST)
        | flag(route.multipath, MULTIPATH)
        | flag(route.stale, STALE)
        | flag(route.backup, BACKUP)
        | flag(route.long_lived_stale, LONG_LIVED_STALE)
}

/// The address, in the first 4 or all 16 octets.
fn octets_of(prefix: Prefix) -> [u8; 16] {
    match prefix.address() {
        IpAddr::V4(address) => {
            let mut octets = [0; 16];
            octets[..4].copy_from_slice(&address.octets());
            octets
        }
        IpAddr::V6(address) => address.octets(),
    }
}

/// A page by columns does not fit together: its sender has a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a page of routes whose {0}")]
pub struct BadPage(&'static str);

/// A page by columns, found to fit together.
#[derive(Debug)]
pub struct CompactPage {
    page: pb::CompactRoutes,
    family: Family,
    sets: AttributeSets,
}

/// One route of it.
#[derive(Clone, Copy, Debug)]
pub struct CompactRoute<'a> {
    /// The destination.
    pub prefix: Prefix,
    /// Its attributes.
    pub set: PackedSet<'a>,
    /// Which of the page's sets that is, from 0.
    pub set_number: u32,
    /// The peer's name; empty when local.
    pub peer: &'a str,
    /// Local, Ebgp, Ibgp.
    pub source: &'a str,
    /// When it came or changed last.
    pub since_ms: i64,
    /// It is the best route.
    pub best: bool,
    /// It is used together with the best route.
    pub multipath: bool,
    /// It is kept from a session that was lost.
    pub stale: bool,
    /// Until when, if it is; else 0.
    pub stale_until_ms: i64,
    /// It is kept for longer than its peer's restart time, and is the last choice.
    pub long_lived_stale: bool,
    /// Its next hop is kept ready for when the best one's is lost.
    pub backup: bool,
    /// What the kernel has.
    pub kernel: pb::KernelRoute,
    /// Why it is not used; empty when it is.
    pub reason: &'a str,
    /// For local ones: the advertisements that ask for it.
    pub advertisements: &'a [String],
}

impl CompactPage {
    /// Looks a page over.
    ///
    /// # Errors
    ///
    /// When its parts contradict one another.
    pub fn new(mut page: pb::CompactRoutes) -> Result<CompactPage, BadPage> {
        let family = match page.family.as_str() {
            "IPv6" => Family::Ipv6,
            "IPv4" => Family::Ipv4,
            "" if page.prefixes.is_empty() => Family::Ipv4, // no route at all
            _ => return Err(BadPage("family is neither IPv4 nor IPv6")),
        };
        let prefixes = Nlri::new(family, &page.prefixes);
        let routes = prefixes
            .map_err(|_| BadPage("prefixes are malformed"))?
            .iter()
            .count();
        let columns = [&page.set, &page.origin, &page.since, &page.flags];
        let kernel = page.kernel.len();
        if columns.iter().any(|column| column.len() != routes) || ![0, routes].contains(&kernel) {
            return Err(BadPage("columns differ in length"));
        }
        let sets = AttributeSets::read(std::mem::take(&mut page.sets));
        let sets = sets.ok_or(BadPage("attributes are malformed"))?;
        let within = |column: &[u32], len: usize| column.iter().all(|it| (*it as usize) < len);
        if !within(&page.set, sets.len()) || !within(&page.origin, page.origins.len()) {
            return Err(BadPage("columns point to nothing"));
        }
        Ok(CompactPage { page, family, sets })
    }

    /// How many routes there are.
    pub fn len(&self) -> usize {
        self.page.set.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.page.set.is_empty()
    }

    /// How many sets of attributes they have.
    pub fn sets(&self) -> usize {
        self.sets.len()
    }

    /// The routes, in order.
    pub fn routes(&self) -> impl Iterator<Item = CompactRoute<'_>> {
        let page = &self.page;
        let prefixes = Nlri::new(self.family, &page.prefixes);
        let prefixes = prefixes
            .ok()
            .into_iter()
            .flat_map(|prefixes| prefixes.iter());
        let mut remarks = page.remarks.iter().peekable();
        prefixes.enumerate().filter_map(move |(at, prefix)| {
            let origin = &page.origins[page.origin[at] as usize];
            let remark = remarks.next_if(|remark| remark.route as usize == at);
            let flags = page.flags[at];
            let kernel = page.kernel.get(at).copied().unwrap_or_default();
            Some(CompactRoute {
                prefix,
                set: self.sets.get(page.set[at])?,
                set_number: page.set[at],
                peer: &origin.peer,
                source: &origin.source,
                since_ms: page.began_ms + i64::from(page.since[at]) * 1000,
                best: flags & BEST != 0,
                multipath: flags & MULTIPATH != 0,
                stale: flags & STALE != 0,
                stale_until_ms: match flags & STALE {
                    0 => 0,
                    _ => origin.stale_until_ms,
                },
                long_lived_stale: flags & LONG_LIVED_STALE != 0,
                backup: flags & BACKUP != 0,
                kernel: kernel.try_into().unwrap_or_default(),
                reason: remark.map_or("", |remark| &remark.reason),
                advertisements: remark.map_or(&[], |remark| &remark.advertisements),
            })
        })
    }
}

/// The word of `Route.kernel`; empty where nothing is known.
pub fn kernel_word(kernel: pb::KernelRoute) -> &'static str {
    match kernel {
        pb::KernelRoute::Unspecified => "",
        pb::KernelRoute::Installed => "Installed",
        pb::KernelRoute::Pending => "Pending",
        pb::KernelRoute::Refused => "Refused",
        pb::KernelRoute::NotInstalled => "NotInstalled",
        pb::KernelRoute::Foreign => "Foreign",
    }
}

fn text<T: ToString>(value: Option<T>) -> String {
    value.map_or(String::new(), |value| value.to_string())
}

fn words<T: ToString>(values: &[T]) -> Vec<String> {
    values.iter().map(ToString::to_string).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bgp::query::{PageOrigin, Reason, Refusal, Remark};
    use bgp::types::Asn;

    use super::*;

    fn page(prefixes: &[&str]) -> RoutePage {
        let known = Attributes {
            as_path: [Asn(65001), Asn(4_200_000_000)].into_iter().collect(),
            next_hop: Some(IpAddr::from([192, 0, 2, 1]).into()),
            med: Some(7),
            ..Attributes::default()
        };
        let sets = [Attributes::default(), known];
        RoutePage {
            routes: prefixes
                .iter()
                .enumerate()
                .map(|(at, prefix)| PageRoute {
                    prefix: prefix.parse().unwrap(),
                    set: at as u32 % 2,
                    origin: at as u16 % 2,
                    since: at as u32,
                    best: at == 0,
                    multipath: at == 1,
                    stale: at == 2,
                    long_lived_stale: at == 2,
                    backup: at == 2,
                })
                .collect(),
            origins: vec![
                PageOrigin {
                    peer: None,
                    source: Source::Local,
                    stale_until: None,
                },
                PageOrigin {
                    peer: Some(Arc::from("tor")),
                    source: Source::Ebgp,
                    stale_until: None,
                },
            ],
            sets: sets.iter().collect(),
            remarks: vec![Remark {
                route: 2,
                reason: Some(Reason::Refused(Refusal::OwnAs)),
                advertisements: vec!["pods".into()],
            }],
            began: None,
            next: None,
        }
    }

    #[test]
    fn a_page_by_columns_says_what_the_page_said() {
        for prefixes in [
            ["0.0.0.0/0", "10.128.0.0/9", "192.0.2.1/32"],
            ["::/0", "2001:db8::/29", "2001:db8::1/128"],
        ] {
            let page = page(&prefixes);
            let kernel = vec![pb::KernelRoute::Installed; 3];
            let read = CompactPage::new(compact(page.clone(), 1_000, kernel)).unwrap();
            assert_eq!((read.len(), read.is_empty()), (3, false));
            let rows = page.rows();
            for (at, (route, row)) in read.routes().zip(&rows).enumerate() {
                assert_eq!(route.prefix, row.prefix);
                assert_eq!(route.set.decode(), *row.attributes);
                assert_eq!(route.peer, row.peer.as_deref().unwrap_or_default());
                assert_eq!(route.source, source(row.source));
                assert_eq!(route.since_ms, 1_000 + 1_000 * at as i64);
                let is = [route.best, route.multipath, route.stale, route.backup];
                assert_eq!(is, [row.best, row.multipath, row.stale, row.backup]);
                assert_eq!(route.kernel, pb::KernelRoute::Installed);
                assert_eq!(route.reason, text(row.reason.as_ref()));
                assert_eq!(route.advertisements, row.advertisements);
            }
        }
        let none = CompactPage::new(compact(RoutePage::default(), 0, Vec::new())).unwrap();
        assert_eq!(none.routes().count(), 0);
    }

    #[test]
    fn a_page_that_contradicts_itself_is_refused() {
        let good = || compact(page(&["10.0.0.0/8", "11.0.0.0/8"]), 0, Vec::new());
        type Spoil = fn(&mut pb::CompactRoutes);
        let bad: [(Spoil, &str); 8] = [
            (|page| page.family = "IPX".into(), "family"),
            (|page| page.prefixes[0] = 33, "prefixes"),
            (|page| page.prefixes.truncate(1), "prefixes"),
            (|page| page.since.truncate(1), "length"),
            (|page| page.kernel.push(1), "length"),
            (|page| page.sets.truncate(3), "attributes"),
            (|page| page.set[1] = 2, "nothing"),
            (|page| page.origins.clear(), "nothing"),
        ];
        for (spoil, why) in bad {
            let mut page = good();
            spoil(&mut page);
            let error = CompactPage::new(page).unwrap_err();
            assert!(error.to_string().contains(why), "{error}: {why}");
        }
    }
}
