//! How fast the kernel takes routes, and how much of that our writer leaves.
//!
//! `cargo run --release -p kernel --example floor [-- ROUTES]`, as root. In a network namespace of
//! its own it writes ROUTES (1,000,000) IPv4 routes by nexthop id: by a bare loop that sends packed
//! messages and looks at nothing, by [`kernel::Requests`], and to groups of one and two. Then it
//! measures what a change of all of them costs.

use std::net::{IpAddr, Ipv4Addr};
use std::process::Command;
use std::time::{Duration, Instant};

use kernel::route::Owner;
use kernel::{Destination, Links, Netlink, Path, Requests, Target};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use nix::sched::{CloneFlags, unshare};
use nix::sys::resource::{UsageWho, getrusage};

const OWNER: Owner = Owner {
    table: 254,
    protocol: 149,
    metric: 512,
};
const BATCH: usize = 512;
const GATEWAYS: [(u32, &str, &str); 2] = [(1, "a0", "192.0.2.2"), (2, "a1", "198.51.100.2")];

fn main() {
    let routes: u32 = std::env::args()
        .nth(1)
        .map_or(1_000_000, |n| n.parse().expect("ROUTES is a number"));
    let mut netlink = namespace();
    let mut requests = Requests::new();
    for id in [1, 2] {
        add_gateway(&mut requests, id);
    }
    requests.add_group(OWNER.protocol, 11, &[1].into_iter().collect());
    requests.add_group(OWNER.protocol, 12, &[1, 2].into_iter().collect());
    carry_out(&mut netlink, &mut requests);

    for round in 1..=3 {
        println!("round {round}, {routes} IPv4 routes in batches of {BATCH}");
        report("bare loop, nexthop 1", routes, bare(routes));
        report("remove", routes, remove(&mut netlink, routes));
        report("nexthop 1", routes, add(&mut netlink, routes, 1));
        report("remove", routes, remove(&mut netlink, routes));
        report("group of 1", routes, add(&mut netlink, routes, 11));
        report("remove", routes, remove(&mut netlink, routes));
        report("group of 2", routes, add(&mut netlink, routes, 12));

        requests.replace_group(OWNER.protocol, 12, &[1].into_iter().collect());
        let took = measure(|| carry_out(&mut netlink, &mut requests));
        report("replace the group of all", routes, took);
        requests.replace_group(OWNER.protocol, 12, &[1, 2].into_iter().collect());
        carry_out(&mut netlink, &mut requests);
        requests.remove_next_hop(2);
        let took = measure(|| carry_out(&mut netlink, &mut requests));
        report("remove one of its two members", routes, took);

        let took = change(&mut netlink, routes, 12, 11);
        report("move all to another group", routes, took);
        add_gateway(&mut requests, 2);
        requests.replace_group(OWNER.protocol, 12, &[1, 2].into_iter().collect());
        carry_out(&mut netlink, &mut requests);
        report("remove", routes, remove(&mut netlink, routes));
    }
}

/// A fresh network namespace with two links, each with a subnet.
fn namespace() -> Netlink {
    unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace; this needs root");
    for line in [
        "link set lo up",
        "link add a0 type veth peer name b0",
        "link add a1 type veth peer name b1",
        "link set a0 up",
        "link set b0 up",
        "link set a1 up",
        "link set b1 up",
        "address add 192.0.2.1/24 dev a0",
        "address add 198.51.100.1/24 dev a1",
    ] {
        let status = Command::new("ip").args(line.split(' ')).status();
        assert!(
            status.expect("`ip` of iproute2 runs").success(),
            "ip {line}"
        );
    }
    Netlink::open(8 << 20).expect("a socket")
}

fn add_gateway(requests: &mut Requests, id: u32) {
    let (_, name, gateway) = GATEWAYS[id as usize - 1];
    let links = Links::open().and_then(|links| links.list());
    let links = links.expect("links");
    let link = links.iter().find(|link| link.name == name).expect("a link");
    let gateway: IpAddr = gateway.parse().expect("an address");
    let path = Path {
        gateway: Some(gateway),
        interface: link.index,
        on_link: false,
    };
    requests.add_path(OWNER.protocol, id, gateway, &path);
}

fn report(what: &str, routes: u32, took: Took) {
    let rate = f64::from(routes) / took.time.as_secs_f64();
    let Took { time, cpu } = took;
    println!("  {what:<34}{time:>10.3?} {cpu:>10.3?} of CPU {rate:>14.0} routes/s");
}

/// What a piece of work costs. On a busy machine only the CPU time means something.
#[derive(Clone, Copy)]
struct Took {
    time: Duration,
    cpu: Duration,
}

fn measure(work: impl FnOnce()) -> Took {
    let (start, before) = (Instant::now(), cpu());
    work();
    Took {
        time: start.elapsed(),
        cpu: cpu() - before,
    }
}

/// Of this process, in user space and in the kernel.
fn cpu() -> Duration {
    let usage = getrusage(UsageWho::RUSAGE_SELF).expect("the kernel counts");
    let duration = |time: nix::sys::time::TimeVal| {
        Duration::new(time.tv_sec() as u64, time.tv_usec() as u32 * 1000)
    };
    duration(usage.user_time()) + duration(usage.system_time())
}

fn destination(number: u32) -> Destination {
    Destination {
        address: Ipv4Addr::from(0x0B00_0000 + (number << 8)).into(),
        length: 24,
    }
}

fn carry_out(netlink: &mut Netlink, requests: &mut Requests) {
    let mut failures = Vec::new();
    netlink
        .carry_out(requests, &mut failures)
        .expect("the kernel answers");
    assert_eq!(failures, []);
}

fn in_batches(
    netlink: &mut Netlink,
    routes: u32,
    mut request: impl FnMut(&mut Requests, Destination),
) -> Took {
    let mut requests = Requests::new();
    measure(|| {
        for number in 0..routes {
            request(&mut requests, destination(number));
            if requests.len() == BATCH {
                carry_out(netlink, &mut requests);
            }
        }
        carry_out(netlink, &mut requests);
    })
}

fn add(netlink: &mut Netlink, routes: u32, id: u32) -> Took {
    in_batches(netlink, routes, |requests, destination| {
        requests.add_route(&OWNER, destination, Target::NextHop(id));
    })
}

fn remove(netlink: &mut Netlink, routes: u32) -> Took {
    in_batches(netlink, routes, |requests, destination| {
        requests.remove_route(&OWNER, destination, None);
    })
}

fn change(netlink: &mut Netlink, routes: u32, from: u32, to: u32) -> Took {
    let append = in_batches(netlink, routes, |requests, destination| {
        requests.append_route(&OWNER, destination, Target::NextHop(to));
    });
    let remove = in_batches(netlink, routes, |requests, destination| {
        requests.remove_route(&OWNER, destination, Some(Target::NextHop(from)));
    });
    Took {
        time: append.time + remove.time,
        cpu: append.cpu + remove.cpu,
    }
}

/// The least that can be done from user space: one packed buffer, patched and sent; answers are
/// not even asked for.
fn bare(routes: u32) -> Took {
    const MESSAGE: usize = 52;
    /// `RTM_NEWROUTE`, `NLM_F_REQUEST | NLM_F_CREATE | NLM_F_EXCL`
    const KIND: (u8, u16) = (24, 0x1 | 0x400 | 0x200);
    let mut socket = Socket::new(NETLINK_ROUTE).expect("a socket");
    socket.bind_auto().expect("bound");
    let mut message = [0; MESSAGE];
    message[0] = MESSAGE as u8;
    message[4] = KIND.0;
    message[6..8].copy_from_slice(&KIND.1.to_ne_bytes());
    // family, length of the destination, table, protocol, type
    (message[16], message[17], message[20]) = (2, 24, 254);
    (message[21], message[23]) = (OWNER.protocol, 1);
    // RTA_DST, RTA_PRIORITY, RTA_NH_ID
    for (at, kind) in [(28, 1), (36, 6), (44, 30)] {
        (message[at], message[at + 2]) = (8, kind);
    }
    message[40..44].copy_from_slice(&OWNER.metric.to_ne_bytes());
    message[48..52].copy_from_slice(&1u32.to_ne_bytes());
    let mut batch = message.repeat(BATCH);
    let kernel = SocketAddr::new(0, 0);
    measure(|| {
        let mut number = 0;
        while number < routes {
            let count = BATCH.min((routes - number) as usize);
            for slot in batch.chunks_exact_mut(MESSAGE).take(count) {
                slot[32..36].copy_from_slice(&(0x0B00_0000 + (number << 8)).to_be_bytes());
                number += 1;
            }
            socket
                .send_to(&batch[..count * MESSAGE], &kernel, 0)
                .expect("sent");
        }
    })
}
