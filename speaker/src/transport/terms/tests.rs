//! TCP MD5 on the loopback interface: what is signed comes through, nothing else does.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::time::Duration;

use bgp::config::AoAlgorithm;
use socket2::{Domain, SockRef, Type};

use super::*;
use crate::keys::tests::key;
use crate::transport::{Event, Transport};

const LOOPBACKS: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::LOCALHOST),
    IpAddr::V6(Ipv6Addr::LOCALHOST),
];
const PATIENCE: Duration = Duration::from_secs(5);
const SHORT: Duration = Duration::from_millis(300);

fn terms(signing: Signing) -> Terms {
    Terms {
        distance: Distance { ttl: 64, least: 0 },
        signing,
    }
}

fn with(octets: &str) -> Terms {
    terms(Signing::Md5(key(octets)))
}

/// A transport that listens on a free port and knows one peer, the loopback address.
async fn listening(ip: IpAddr, terms: Terms) -> (Transport, SocketAddr) {
    let free = std::net::TcpListener::bind((ip, 0)).unwrap();
    let address = free.local_addr().unwrap();
    drop(free);
    let mut transport = Transport::new();
    transport.listen(&[address], [(ip, terms)].into());
    // It listens once somebody could connect.
    while std::net::TcpListener::bind(address).is_ok() {
        tokio::task::yield_now().await;
    }
    (transport, address)
}

/// Connects with a key, if that is answered in a short time.
fn connect(to: SocketAddr, octets: Option<&str>, patience: Duration) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, None).unwrap();
    if let Some(octets) = octets {
        md5::sign(&key(octets), &socket, to.ip()).unwrap();
    }
    socket.connect_timeout(&to.into(), patience)?;
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    Ok(socket.into())
}

#[tokio::test]
async fn only_who_has_the_key_gets_an_answer() {
    for ip in LOOPBACKS {
        let (mut transport, address) = listening(ip, with("secret")).await;
        for wrong in [None, Some("guessed"), Some("secre")] {
            let error = connect(address, wrong, SHORT).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::TimedOut, "{ip} {wrong:?}");
        }
        let mut client = connect(address, Some("secret"), PATIENCE).unwrap();
        let Event::Accepted { conn, .. } = transport.next().await else {
            panic!("not accepted")
        };
        client.write_all(b"hello").unwrap();
        let Event::Received { data, .. } = transport.next().await else {
            panic!("nothing received")
        };
        assert_eq!(&data[..], b"hello", "{ip}");
        transport.close(conn, bytes::BytesMut::from(&b"signed"[..]));
        let read = tokio::task::spawn_blocking(move || {
            let mut answer = [0; 6];
            client.read_exact(&mut answer).map(|()| answer)
        });
        assert_eq!(&read.await.unwrap().unwrap(), b"signed");
    }
}

#[tokio::test]
async fn what_we_open_is_signed() {
    for ip in LOOPBACKS {
        let listener = Socket::new(
            Domain::for_address(SocketAddr::new(ip, 0)),
            Type::STREAM,
            None,
        )
        .unwrap();
        listener.bind(&SocketAddr::new(ip, 0).into()).unwrap();
        md5::sign(&key("secret"), &listener, ip).unwrap();
        listener.listen(8).unwrap();
        let address = listener.local_addr().unwrap().as_socket().unwrap();
        let mut transport = Transport::new();
        transport.listen(&[], [(ip, with("secret"))].into());
        transport.connect(bgp::types::ConnId(1), address, None);
        assert!(matches!(transport.next().await, Event::Connected { .. }));
    }
}

#[tokio::test]
async fn a_key_changes_under_a_connection_that_stands() {
    for ip in LOOPBACKS {
        let (mut transport, address) = listening(ip, with("first")).await;
        let mut client = connect(address, Some("first"), PATIENCE).unwrap();
        assert!(matches!(transport.next().await, Event::Accepted { .. }));
        let mut send = async |text: &[u8], transport: &mut Transport| {
            client.write_all(text).unwrap();
            let received = tokio::time::timeout(SHORT, transport.next()).await.ok()?;
            let Event::Received { conn, data } = received else {
                panic!("{received:?}")
            };
            let text = data.to_vec();
            transport.give_back(conn, bytes::BytesMut::new());
            Some((text, SockRef::from(&client).try_clone().unwrap()))
        };
        let (text, socket) = send(b"a", &mut transport).await.unwrap();
        assert_eq!(text, b"a");
        // Ours changes first: the client's segments are dropped until it changes too.
        transport.listen(&[address], [(ip, with("second"))].into());
        // (That takes a moment, in which some may still come.)
        while send(b"b", &mut transport).await.is_some() {}
        md5::sign(&key("second"), &socket, ip).unwrap();
        let received = tokio::time::timeout(PATIENCE, transport.next()).await;
        let Ok(Event::Received { data, .. }) = received else {
            panic!("{received:?}")
        };
        assert_eq!(&data[..], b"b", "{ip}");
        // The next connection has the new key from the start.
        connect(address, Some("first"), SHORT).unwrap_err();
        connect(address, Some("second"), PATIENCE).unwrap();
    }
}

#[tokio::test]
async fn without_the_key_nobody_is_let_in_and_nothing_is_opened() {
    for signing in [
        Signing::NotYet,
        Signing::Missing("/etc/key is empty".into()),
    ] {
        let ip = LOOPBACKS[0];
        let (mut transport, address) = listening(ip, terms(signing.clone())).await;
        let mut client = connect(address, None, PATIENCE).unwrap();
        // Reset, or not accepted at all: no byte in either direction.
        let refused = tokio::task::spawn_blocking(move || client.read(&mut [0]).unwrap_err());
        let error = tokio::select! {
            error = refused => error.unwrap(),
            event = transport.next() => panic!("{event:?}"),
        };
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
        assert_eq!(transport.refusals().count_no_key(), 1);
        transport.connect(bgp::types::ConnId(1), address, None);
        if signing == Signing::NotYet {
            // It waits until somebody has looked.
            let missing = terms(Signing::Missing("/etc/key is empty".into()));
            transport.listen(&[address], [(ip, missing)].into());
        }
        let Event::ConnectFailed { error, .. } = transport.next().await else {
            panic!("connected")
        };
        assert!(error.ends_with("key: /etc/key is empty"), "{error}");
    }
}

#[tokio::test]
async fn a_key_that_is_lost_lets_nobody_in_and_one_that_is_asked_for_no_more_everybody() {
    let ip = LOOPBACKS[0];
    let (mut transport, address) = listening(ip, with("secret")).await;
    let mut client = connect(address, Some("secret"), PATIENCE).unwrap();
    assert!(matches!(transport.next().await, Event::Accepted { .. }));
    let missing = terms(Signing::Missing("/etc/key is empty".into()));
    transport.listen(&[address], [(ip, missing)].into());
    // The connection that is there goes on.
    client.write_all(b"x").unwrap();
    assert!(matches!(transport.next().await, Event::Received { .. }));
    // Unsigned segments get no answer, and signed ones get no connection.
    connect(address, None, SHORT).unwrap_err();
    let mut late = connect(address, Some("secret"), PATIENCE).unwrap();
    let refused = tokio::task::spawn_blocking(move || late.read(&mut [0]).unwrap_err());
    tokio::select! {
        _ = refused => {}
        event = transport.next() => panic!("{event:?}"),
    }
    transport.listen(&[address], [(ip, terms(Signing::Plain))].into());
    let dialled = tokio::task::spawn_blocking(move || connect(address, None, PATIENCE));
    assert!(matches!(transport.next().await, Event::Accepted { .. }));
    dialled.await.unwrap().unwrap();
}

/// A key with its numbers as we have them, and as the other side does.
fn both_ways(id: u8, octets: &str) -> [AoKey; 2] {
    let ours = AoKey {
        send_id: id,
        receive_id: id + 100,
        algorithm: match id % 2 {
            0 => AoAlgorithm::Aes128Cmac,
            _ => AoAlgorithm::HmacSha1,
        },
        key: key(octets),
    };
    let theirs = AoKey {
        send_id: ours.receive_id,
        receive_id: ours.send_id,
        ..ours.clone()
    };
    [ours, theirs]
}

fn with_all(keys: &[&AoKey]) -> Terms {
    terms(Signing::Ao(keys.iter().map(|key| (*key).clone()).collect()))
}

fn connect_ao(to: SocketAddr, keys: &[AoKey], patience: Duration) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, None).unwrap();
    ao::sign(keys, &socket, to.ip(), true).unwrap();
    socket.connect_timeout(&to.into(), patience)?;
    Ok(socket.into())
}

/// What comes of text that is sent.
async fn arrives(client: &mut TcpStream, text: &[u8], transport: &mut Transport) {
    client.write_all(text).unwrap();
    let received = tokio::time::timeout(PATIENCE, transport.next()).await;
    let Ok(Event::Received { conn, data }) = received else {
        panic!("{received:?}")
    };
    assert_eq!(&data[..], text);
    transport.give_back(conn, bytes::BytesMut::new());
}

#[tokio::test]
async fn tcp_ao_is_refused_by_a_kernel_without_it() {
    let [ours, _] = both_ways(1, "secret");
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    let outcome = ao::sign(&[ours], &socket, LOOPBACKS[0], true);
    match ao::is_available() {
        true => outcome.unwrap(),
        false => {
            let error = outcome.unwrap_err();
            assert_eq!(error.raw_os_error(), Some(nix::libc::ENOPROTOOPT));
        }
    }
}

#[tokio::test]
async fn keys_of_tcp_ao_come_and_go_under_a_connection_that_stands() {
    if !ao::is_available() {
        // What is to be seen of such a kernel is the test above, and one in the lab.
        eprintln!("this kernel has no TCP-AO");
        return;
    }
    for ip in LOOPBACKS {
        let [first, their_first] = both_ways(1, "first");
        let [second, their_second] = both_ways(2, "second");
        let (mut transport, address) = listening(ip, with_all(&[&first])).await;
        connect(address, None, SHORT).unwrap_err();
        let [_, wrong] = both_ways(1, "guessed");
        connect_ao(address, &[wrong], SHORT).unwrap_err();
        connect_ao(address, std::slice::from_ref(&their_second), SHORT).unwrap_err();
        let mut client = connect_ao(address, std::slice::from_ref(&their_first), PATIENCE).unwrap();
        assert!(matches!(transport.next().await, Event::Accepted { .. }));
        arrives(&mut client, b"with the first key", &mut transport).await;

        // Our side has the second one too, and prefers it; the client has not heard of it.
        transport.listen(&[address], [(ip, with_all(&[&second, &first]))].into());
        arrives(&mut client, b"still", &mut transport).await;
        // Now it has, and is asked to use it.
        let mut used = vec![their_first.clone()];
        let both = [their_second.clone(), their_first.clone()];
        ao::change(&mut used, &both, &client, ip).unwrap();
        their_second.request(&client).unwrap();
        arrives(&mut client, b"with either", &mut transport).await;
        arrives(&mut client, b"and again", &mut transport).await;

        // The first is no more: on our side it goes once nothing is signed with it.
        transport.listen(&[address], [(ip, with_all(&[&second]))].into());
        while !used.is_empty() && used.contains(&their_first) {
            arrives(&mut client, b".", &mut transport).await;
            let only = std::slice::from_ref(&their_second);
            ao::change(&mut used, only, &client, ip).unwrap();
        }
        let taken_off = std::time::Instant::now() + RETRY * 2;
        while std::time::Instant::now() < taken_off {
            arrives(&mut client, b"with the second key", &mut transport).await;
        }
        // Whoever comes now has to have the second.
        connect_ao(address, std::slice::from_ref(&their_first), SHORT).unwrap_err();
        connect_ao(address, &[their_second], PATIENCE).unwrap();
    }
}

#[tokio::test]
async fn a_peer_may_change_from_one_kind_of_key_to_another() {
    let ip = LOOPBACKS[0];
    let (mut transport, address) = listening(ip, with("secret")).await;
    connect(address, Some("secret"), PATIENCE).unwrap();
    assert!(matches!(transport.next().await, Event::Accepted { .. }));
    let [ours, theirs] = both_ways(1, "secret");
    transport.listen(&[address], [(ip, with_all(&[&ours]))].into());
    if !ao::is_available() {
        // The listening socket stays, and says whom it cannot let in.
        let event = transport.next().await;
        assert!(matches!(event, Event::Problems | Event::Closed { .. }));
        while transport.problems().next().is_none() {
            transport.next().await;
        }
        let problem = transport.problems().next().unwrap().message.clone();
        assert!(
            problem.contains("127.0.0.1 cannot be accepted"),
            "{problem}"
        );
        return;
    }
    let dial = move || connect_ao(address, &[theirs], PATIENCE);
    let dialled = tokio::task::spawn_blocking(dial);
    while !matches!(transport.next().await, Event::Accepted { .. }) {}
    dialled.await.unwrap().unwrap();
    transport.listen(&[address], [(ip, with("secret"))].into());
    let dial = move || connect(address, Some("secret"), PATIENCE);
    let dialled = tokio::task::spawn_blocking(dial);
    while !matches!(transport.next().await, Event::Accepted { .. }) {}
    dialled.await.unwrap().unwrap();
}
