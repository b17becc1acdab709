//! On the loopback interface, where no router takes anything off: a sender says how far it is.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use socket2::{Domain, SockRef, Type};

use super::*;

const LOOPBACKS: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::LOCALHOST),
    IpAddr::V6(Ipv6Addr::LOCALHOST),
];

const STRICT: Distance = Distance {
    ttl: 255,
    least: 255,
};

/// A listening socket guarded for these.
fn listener(ip: IpAddr, known: &[(IpAddr, Distance)]) -> Socket {
    let address = SocketAddr::new(ip, 0);
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None).unwrap();
    socket.bind(&address.into()).unwrap();
    guard(&socket, ip.is_ipv6(), &known.iter().copied().collect()).unwrap();
    socket.listen(8).unwrap();
    socket
}

/// Sends with this TTL from now on.
fn send_from(stream: &TcpStream, ip: IpAddr, ttl: u8) {
    let distance = Distance { ttl, least: 0 };
    distance.set(&SockRef::from(stream), ip).unwrap();
}

/// Connects with this TTL, if that is answered in a short time.
fn connect(listener: &Socket, ttl: u8, patience: Duration) -> std::io::Result<TcpStream> {
    let address = listener.local_addr().unwrap();
    let socket = Socket::new(address.domain(), Type::STREAM, None).unwrap();
    let ip = address.as_socket().unwrap().ip();
    Distance { ttl, least: 0 }.set(&socket, ip).unwrap();
    socket.connect_timeout(&address, patience)?;
    Ok(socket.into())
}

const PATIENCE: Duration = Duration::from_secs(5);
const SHORT: Duration = Duration::from_millis(300);

/// Segments that the kernel of this network namespace has dropped because of a minimum TTL.
fn dropped() -> u64 {
    let text = std::fs::read_to_string("/proc/self/net/netstat").unwrap();
    let rows: Vec<Vec<&str>> = (text.lines().filter(|line| line.starts_with("TcpExt:")))
        .map(|line| line.split_whitespace().collect())
        .collect();
    let at = rows[0]
        .iter()
        .position(|it| *it == "TCPMinTTLDrop")
        .unwrap();
    rows[1][at].parse().unwrap()
}

#[test]
fn who_is_too_far_gets_no_answer_and_who_is_near_does() {
    for ip in LOOPBACKS {
        let listener = listener(ip, &[(ip, STRICT)]);
        let far = connect(&listener, 254, SHORT).unwrap_err();
        assert_eq!(far.kind(), ErrorKind::TimedOut, "{ip}: {far}");
        connect(&listener, 255, PATIENCE).unwrap();
    }
}

#[test]
fn hops_are_counted_from_the_largest_ttl() {
    for ip in LOOPBACKS {
        let config = bgp_peer(Some(3));
        let listener = listener(ip, &[(ip, Distance::of(&config))]);
        connect(&listener, 252, SHORT).unwrap_err();
        connect(&listener, 253, PATIENCE).unwrap();
    }
    assert_eq!(Distance::of(&bgp_peer(None)).least, 0);
    assert_eq!(Distance::of(&bgp_peer(Some(1))).least, 255);
    assert_eq!(Distance::of(&bgp_peer(Some(254))).least, 2);
}

/// With TTL 255, and the rest as it comes.
fn bgp_peer(ttl_security: Option<u8>) -> PeerConfig {
    let asn = bgp::types::Asn(65001);
    PeerConfig {
        name: "peer".into(),
        description: String::new(),
        address: LOOPBACKS[0],
        port: 179,
        local_address: None,
        local_asn: asn,
        remote_asn: asn,
        passive: false,
        shutdown: None,
        ttl: 255,
        ttl_security,
        authentication: None,
        max_prefixes: None,
        families: vec![bgp::types::Family::Ipv4],
        extended_next_hop: false,
        timers: bgp::config::Timers::default(),
        import: Vec::new(),
        export: Vec::new(),
        next_hop: bgp::config::NextHopMode::Auto,
        allow_own_as: 0,
        reflector_client: false,
        graceful_restart: None,
    }
}

#[test]
fn other_peers_of_the_same_socket_may_be_as_far_as_they_like() {
    for ip in LOOPBACKS {
        // Many, so that every jump of the filter is made.
        let other = |n: u16| match ip {
            IpAddr::V4(_) => IpAddr::from([192, 0, 2, n as u8]),
            IpAddr::V6(_) => IpAddr::from([0x2001, 0xdb8, 0, n / 7, 0, n % 3, 0, n]),
        };
        let mut known: Vec<(IpAddr, Distance)> = (1..90).map(|n| (other(n), STRICT)).collect();
        let near = Distance { ttl: 1, least: 0 };
        known.push((ip, near));
        let listener = listener(ip, &known);
        connect(&listener, 1, PATIENCE).unwrap();
        // And the same with the one that connects in the middle of the filter.
        known.push((ip, STRICT));
        guard(&listener, ip.is_ipv6(), &known.into_iter().collect()).unwrap();
        connect(&listener, 1, SHORT).unwrap_err();
        connect(&listener, 255, PATIENCE).unwrap();
    }
}

#[test]
fn nothing_from_too_far_is_read_even_if_it_came_before_the_connection_was_accepted() {
    for ip in LOOPBACKS {
        let listener = listener(ip, &[(ip, STRICT)]);
        let mut client = connect(&listener, 255, PATIENCE).unwrap();
        send_from(&client, ip, 64);
        client.write_all(b"an OPEN from far away").unwrap();
        let (socket, _) = listener.accept().unwrap();
        STRICT.set_on_accepted(&socket, ip).unwrap();
        let mut stream = TcpStream::from(socket);
        stream.set_read_timeout(Some(SHORT)).unwrap();
        let mut buffer = [0; 64];
        let nothing = stream.read(&mut buffer).unwrap_err();
        assert_eq!(nothing.kind(), ErrorKind::WouldBlock, "{ip}");
        // The sender's kernel repeats it, from nearby now.
        send_from(&client, ip, 255);
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let count = stream.read(&mut buffer).unwrap();
        assert_eq!(&buffer[..count], b"an OPEN from far away", "{ip}");
    }
}

#[test]
fn a_connection_that_was_accepted_drops_what_comes_from_too_far_later() {
    for ip in LOOPBACKS {
        let listener = listener(ip, &[(ip, STRICT)]);
        let mut client = connect(&listener, 255, PATIENCE).unwrap();
        let (socket, _) = listener.accept().unwrap();
        STRICT.set_on_accepted(&socket, ip).unwrap();
        let before = dropped();
        send_from(&client, ip, 254);
        client.write_all(b"x").unwrap();
        let deadline = Instant::now() + PATIENCE;
        while dropped() == before {
            assert!(Instant::now() < deadline, "{ip}: nothing was dropped");
            std::thread::yield_now();
        }
    }
}

#[test]
fn what_we_open_takes_nothing_from_too_far_not_even_the_answer() {
    for ip in LOOPBACKS {
        let plain = |ttl| Distance { ttl, least: 0 };
        for (answer, fits) in [(255, true), (64, false)] {
            let listener = listener(ip, &[]);
            plain(answer).set(&listener, ip).unwrap();
            let address = listener.local_addr().unwrap();
            let socket = Socket::new(address.domain(), Type::STREAM, None).unwrap();
            STRICT.set(&socket, ip).unwrap();
            let patience = if fits { PATIENCE } else { SHORT };
            let outcome = socket.connect_timeout(&address, patience);
            assert_eq!(
                outcome.is_ok(),
                fits,
                "{ip} answers with {answer}: {outcome:?}"
            );
        }
    }
}

#[test]
fn a_filter_that_the_kernel_does_not_take_lets_nobody_in() {
    let ip = LOOPBACKS[0];
    let listener = listener(ip, &[]);
    let far = |n: u32| (IpAddr::from(Ipv4Addr::from_bits(0x0a00_0000 + n)), STRICT);
    let known = (0..1000).map(far).collect();
    guard(&listener, false, &known).unwrap_err();
    connect(&listener, 255, SHORT).unwrap_err();
    guard(&listener, false, &HashMap::new()).unwrap();
    connect(&listener, 1, PATIENCE).unwrap();
}
