use std::net::Ipv4Addr;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::distance::Distance;
use super::*;

const US: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// As towards a directly connected eBGP peer.
const NEAR: Terms = Terms {
    distance: Distance { ttl: 1, least: 0 },
    signing: Signing::Plain,
};

/// A transport that knows `known` and listens nowhere.
fn knowing(known: &[IpAddr]) -> Transport {
    let mut transport = Transport::new();
    transport.listen(&[], known.iter().map(|ip| (*ip, NEAR)).collect());
    transport
}

/// A transport that listens on a free port of the loopback address and knows `known`.
async fn listening(known: &[IpAddr]) -> (Transport, SocketAddr) {
    let free = std::net::TcpListener::bind((US, 0)).unwrap();
    let address = free.local_addr().unwrap();
    drop(free);
    let mut transport = Transport::new();
    transport.listen(&[address], known.iter().map(|ip| (*ip, NEAR)).collect());
    (transport, address)
}

/// Connects as soon as somebody listens.
async fn dial(address: SocketAddr) -> TcpStream {
    loop {
        match TcpStream::connect(address).await {
            Ok(stream) => return stream,
            Err(_) => tokio::task::yield_now().await,
        }
    }
}

/// A connection of ours to `listener`, as the engine would ask for it.
async fn connected(listener: &TcpListener) -> (Transport, ConnId, TcpStream) {
    let mut transport = knowing(&[US]);
    let conn = ConnId(7);
    transport.connect(conn, listener.local_addr().unwrap(), Some(US));
    let (peer, _) = listener.accept().await.unwrap();
    assert!(matches!(
        transport.next().await,
        Event::Connected {
            conn: ConnId(7),
            ..
        }
    ));
    (transport, conn, peer)
}

async fn listener() -> TcpListener {
    TcpListener::bind((US, 0)).await.unwrap()
}

#[tokio::test]
async fn a_configured_address_is_accepted_with_the_peers_ttl() {
    let (mut transport, address) = listening(&[US]).await;
    let client = dial(address).await;
    let Event::Accepted {
        conn,
        local,
        remote,
    } = transport.next().await
    else {
        panic!("not accepted")
    };
    assert_eq!(remote, client.local_addr().unwrap());
    assert_eq!(local.address, address.ip());
    assert!(conn.0 >= ACCEPTED);
}

#[tokio::test]
async fn five_hundred_connections_from_unknown_addresses_are_counted_and_leave_nothing() {
    let (mut transport, address) = listening(&["192.0.2.1".parse().unwrap()]).await;
    for _ in 0..500 {
        let mut stream = dial(address).await;
        let _ = stream.write_all(b"GET / HTTP/1.1\r\n\r\n").await;
        // Either a reset or an end, never bytes.
        assert!(matches!(stream.read(&mut [0]).await, Ok(0) | Err(_)));
    }
    assert_eq!(transport.refusals().count_unknown(), 500);
    assert!(transport.connections.is_empty());
    // A peer still gets in.
    transport.listen(&[address], [(US, NEAR)].into());
    let _client = dial(address).await;
    assert!(matches!(transport.next().await, Event::Accepted { .. }));
}

#[tokio::test]
async fn a_peer_cannot_hold_more_than_a_few_connections() {
    let (mut transport, address) = listening(&[US]).await;
    let mut clients = Vec::new();
    for _ in 0..ACCEPTED_PER_ADDRESS {
        clients.push(dial(address).await);
        assert!(matches!(transport.next().await, Event::Accepted { .. }));
    }
    let mut extra = dial(address).await;
    let end = tokio::select! {
        end = extra.read_u8() => end,
        event = transport.next() => panic!("{event:?}"),
    };
    assert!(end.is_err());
    assert_eq!(transport.refusals().count_too_many(), 1);
}

#[tokio::test]
async fn reading_waits_until_the_buffer_is_given_back() {
    let listener = listener().await;
    let (mut transport, conn, mut peer) = connected(&listener).await;
    peer.write_all(b"hello").await.unwrap();
    let Event::Received { data, .. } = transport.next().await else {
        panic!("nothing received")
    };
    assert_eq!(&data[..], b"hello");
    peer.write_all(b" world").await.unwrap();
    peer.shutdown().await.unwrap();
    let mut rest = data;
    let _ = rest.split_to(4); // a message of four bytes; one byte is the start of the next
    transport.give_back(conn, rest);
    let mut data = BytesMut::new();
    while data.len() < b"o world".len() {
        let Event::Received { data: more, .. } = transport.next().await else {
            panic!("ended")
        };
        data = more.clone();
        transport.give_back(conn, more);
    }
    assert_eq!(&data[..], b"o world");
    assert!(matches!(
        transport.next().await,
        Event::Closed { error: None, .. }
    ));
}

#[tokio::test]
async fn a_peer_that_does_not_read_costs_one_buffer() {
    let listener = listener().await;
    let (mut transport, conn, mut peer) = connected(&listener).await;
    let mut pulled = 0;
    // Endless to send: after the socket's buffers are full, nothing more is pulled.
    transport.want_to_send(conn);
    let stuck = Duration::from_millis(200);
    loop {
        transport.flush(|_, buf| {
            buf.resize(64 * 1024, 0);
            pulled += 1;
            true
        });
        match tokio::time::timeout(stuck, transport.next()).await {
            Ok(event) => assert!(matches!(event, Event::Sent)),
            Err(_) => break,
        }
    }
    assert!(!transport.flush(|_, _| panic!("pulled although the last buffer is not sent")));
    // It goes on where it stopped once the peer reads.
    let mut read = 0;
    let mut chunk = vec![0; 64 * 1024];
    while read < pulled * 64 * 1024 {
        read += peer.read(&mut chunk).await.unwrap();
    }
    assert!(matches!(transport.next().await, Event::Sent));
}

#[tokio::test]
async fn closing_sends_what_is_pending_even_if_the_peer_has_sent_more() {
    let listener = listener().await;
    let (mut transport, conn, mut peer) = connected(&listener).await;
    transport.want_to_send(conn);
    transport.flush(|_, buf| {
        buf.extend_from_slice(b"update");
        false
    });
    peer.write_all(b"unread bytes that would reset the connection")
        .await
        .unwrap();
    transport.close(conn, BytesMut::from(&b" notification"[..]));
    let mut text = String::new();
    peer.read_to_string(&mut text).await.unwrap();
    assert_eq!(text, "update notification");
    drop(peer);
    transport.stop().await;
}

#[tokio::test]
async fn stopping_does_not_wait_for_ever_for_a_peer_that_does_not_read() {
    let listener = listener().await;
    let (mut transport, conn, _peer) = connected(&listener).await;
    transport.close(conn, BytesMut::from(&vec![0; 32 << 20][..]));
    tokio::time::timeout(DRAIN * 3, transport.stop())
        .await
        .expect("the deadline ends it");
}

#[tokio::test]
async fn a_refused_connection_says_so_and_a_closed_attempt_says_nothing() {
    let free = listener().await;
    let address = free.local_addr().unwrap();
    drop(free);
    let mut transport = knowing(&[US, "192.0.2.1".parse().unwrap()]);
    transport.connect(ConnId(1), address, None);
    let Event::ConnectFailed {
        conn: ConnId(1),
        error,
    } = transport.next().await
    else {
        panic!("connected to nobody")
    };
    assert!(
        error.contains("refused") && error.contains(&address.to_string()),
        "{error}"
    );
    // TEST-NET-1 answers nobody; the attempt is given up by closing it.
    transport.connect(ConnId(2), "192.0.2.1:179".parse().unwrap(), Some(US));
    transport.close(ConnId(2), BytesMut::new());
    assert!(transport.connections.is_empty());
}

#[tokio::test]
async fn a_source_address_that_is_not_ours_is_named() {
    let mut transport = knowing(&[US]);
    let foreign = "192.0.2.77".parse().unwrap();
    transport.connect(ConnId(1), "127.0.0.1:1".parse().unwrap(), Some(foreign));
    let Event::ConnectFailed { error, .. } = transport.next().await else {
        panic!("connected")
    };
    assert!(error.contains("192.0.2.77"), "{error}");
}

#[tokio::test]
async fn a_port_in_use_is_a_problem_and_connecting_still_works() {
    let taken = listener().await;
    let address = taken.local_addr().unwrap();
    let mut transport = Transport::new();
    transport.listen(&[address], [(US, NEAR)].into());
    assert!(matches!(transport.next().await, Event::Problems));
    let message = transport.problems().next().unwrap().message.clone();
    assert!(message.contains(&address.port().to_string()), "{message}");
    transport.connect(ConnId(3), address, None);
    assert!(matches!(
        transport.next().await,
        Event::Connected {
            conn: ConnId(3),
            ..
        }
    ));
    // Listening elsewhere, the problem is over.
    transport.listen(&[], Known::new());
    assert_eq!(transport.problems().count(), 0);
}

#[tokio::test]
async fn every_connection_gets_its_turn_to_send() {
    let listener = listener().await;
    let mut transport = knowing(&[US]);
    let mut peers = Vec::new();
    for number in 0..40 {
        transport.connect(ConnId(number), listener.local_addr().unwrap(), None);
        peers.push(listener.accept().await.unwrap());
        assert!(matches!(transport.next().await, Event::Connected { .. }));
        transport.want_to_send(ConnId(number));
    }
    let mut served = BTreeSet::new();
    for _ in 0..3 {
        transport.flush(|conn, buf| {
            buf.extend_from_slice(b"x");
            served.insert(conn);
            true
        });
    }
    assert_eq!(served.len(), 40);
}

#[tokio::test]
async fn who_is_no_peer_any_more_is_not_connected_to() {
    let listener = listener().await;
    let mut transport = knowing(&[]);
    transport.connect(ConnId(1), listener.local_addr().unwrap(), None);
    let Event::ConnectFailed { error, .. } = transport.next().await else {
        panic!("connected")
    };
    assert!(error.contains("no peer's address"), "{error}");
}

#[tokio::test]
async fn a_connection_from_before_its_peer_was_asked_for_more_is_reset() {
    let (mut transport, address) = listening(&[US]).await;
    let strict = Terms {
        distance: Distance {
            ttl: 255,
            least: 255,
        },
        ..NEAR
    };
    let mut early = dial(address).await;
    assert!(matches!(transport.next().await, Event::Accepted { .. }));
    // The kernel makes connections on its own: this one waits while its peer's configuration changes.
    let waiting = std::net::TcpStream::connect(address).unwrap();
    transport.listen(&[address], [(US, strict)].into());
    waiting.set_nonblocking(true).unwrap();
    let mut waiting = TcpStream::from_std(waiting).unwrap();
    let end = tokio::select! {
        end = waiting.read_u8() => end,
        event = transport.next() => panic!("{event:?}"),
    };
    assert!(end.is_err(), "{end:?}");
    // What the engine has already is the engine's to close.
    early.write_all(b"hello").await.unwrap();
    assert!(matches!(transport.next().await, Event::Received { .. }));
}
