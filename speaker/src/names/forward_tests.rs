use tokio::task::JoinHandle;

use super::*;

/// A question for `name`, with an ID of its own.
fn question(name: &str) -> Vec<u8> {
    use domain::base::{MessageBuilder, Name, Rtype};
    let mut builder = MessageBuilder::new_vec();
    builder.header_mut().set_id(0x1234);
    let mut builder = builder.question();
    let name: Name<Vec<u8>> = Name::vec_from_str(name).unwrap();
    builder.push((name, Rtype::A)).unwrap();
    builder.finish()
}

/// A resolver that passes over the first `deaf` questions and answers the others with `code`; it ends with the
/// number of questions it was asked.
async fn resolver(
    deaf: usize,
    code: u8,
) -> (
    SocketAddr,
    JoinHandle<()>,
    tokio::sync::watch::Receiver<usize>,
) {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    let (asked, sees) = tokio::sync::watch::channel(0);
    let task = tokio::spawn(async move {
        let mut buffer = vec![0; 512];
        loop {
            let (length, from) = socket.recv_from(&mut buffer).await.unwrap();
            asked.send_modify(|asked| *asked += 1);
            if *asked.borrow() > deaf {
                buffer[2] |= 0x80;
                buffer[3] = buffer[3] & 0xF0 | code;
                socket.send_to(&buffer[..length], from).await.unwrap();
            }
        }
    });
    (address, task, sees)
}

/// Where nobody is.
async fn nobody() -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.local_addr().unwrap()
}

fn upstream() -> Upstream {
    Upstream::new(Forward::To(Vec::new()), Own::default())
}

const GOOD: u8 = 0;
const NO_NAME: u8 = 3;
const FAILURE: u8 = 2;
const REFUSED: u8 = 5;

/// The code of the reply.
async fn ask(upstream: &Upstream, resolvers: &[SocketAddr]) -> Result<u8, NoReply> {
    let bytes = question("outside.example");
    let query = message::read(&bytes).unwrap();
    let reply = upstream.ask_of(resolvers, &query, &bytes, false).await?;
    assert_eq!(message::id(&reply), 0x1234);
    Ok(reply[3] & 0x0F)
}

#[tokio::test]
async fn one_that_cannot_answer_leaves_it_to_the_next_and_is_taken_when_nobody_can() {
    for code in [FAILURE, REFUSED] {
        let (failing, _task, asked) = resolver(0, code).await;
        let (good, _other, _) = resolver(0, NO_NAME).await;
        assert_eq!(ask(&upstream(), &[failing, good]).await, Ok(NO_NAME));
        assert_eq!(ask(&upstream(), &[failing, nobody().await]).await, Ok(code));
        // Each is asked once: it will not know better a moment later.
        assert_eq!(*asked.borrow(), 2);
    }
    assert_eq!(ask(&upstream(), &[]).await, Err(NoReply::Nobody));
    assert_eq!(
        ask(&upstream(), &[nobody().await]).await,
        Err(NoReply::Late)
    );
}

#[tokio::test]
async fn one_lost_datagram_is_no_failure() {
    let (address, _task, asked) = resolver(1, GOOD).await;
    assert_eq!(ask(&upstream(), &[address]).await, Ok(GOOD));
    assert_eq!(*asked.borrow(), 2);
}

#[tokio::test]
async fn however_many_are_dead_one_that_is_alive_is_found() {
    let (alive, _task, asked) = resolver(0, GOOD).await;
    let mut resolvers = Vec::new();
    for _ in 0..3 {
        // They say nothing: each takes its time.
        let (deaf, task, _) = resolver(usize::MAX, GOOD).await;
        resolvers.push((deaf, task));
    }
    let mut resolvers: Vec<SocketAddr> = resolvers.iter().map(|(it, _)| *it).collect();
    resolvers.push(alive);
    let upstream = upstream();
    let mut tries = 0;
    while ask(&upstream, &resolvers).await.is_err() {
        tries += 1;
        assert!(tries < 4, "it is never asked");
    }
    // And then at once.
    assert_eq!(ask(&upstream, &resolvers).await, Ok(GOOD));
    assert_eq!(*asked.borrow(), 2);
}

#[test]
fn a_file_that_becomes_another_one_is_read_again() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("resolv.conf");
    let upstream = Upstream::new(Forward::File(path.clone()), Own::default());
    assert!(upstream.resolvers().is_empty());
    let expire = || {
        let mut read = upstream.read.lock().unwrap();
        let read = read.as_mut().unwrap();
        read.at -= LOOK;
    };
    for last in [3, 4] {
        // Of the same length, with the same time of change.
        fs::write(&path, format!("nameserver 10.0.0.{last}\n")).unwrap();
        let file = fs::File::options().write(true).open(&path).unwrap();
        file.set_modified(std::time::SystemTime::UNIX_EPOCH)
            .unwrap();
        expire();
        let expected = SocketAddr::from(([10, 0, 0, last], PORT));
        assert_eq!(upstream.resolvers(), [expected]);
        assert!(upstream.is_asked(expected.ip()));
    }
}

#[test]
fn the_hosts_resolvers_are_those_of_its_file() {
    let text = "# nameserver 9.9.9.9\nsearch a b\nnameserver 10.0.0.53\nnameserver\tfd00::53 # x\n\
                nameserver fe80::1%7\nnameserver nonsense\n nameserver 10.0.0.54\noptions ndots:2\n";
    let found: Vec<String> = resolvers(text).iter().map(ToString::to_string).collect();
    let expected = [
        "10.0.0.53:53",
        "[fd00::53]:53",
        "[fe80::1%7]:53",
        "10.0.0.54:53",
    ];
    assert_eq!(found, expected);
}

#[test]
fn nobody_asks_itself() {
    let own = Own::default();
    own.replace(["169.254.1.1".parse().unwrap()].into());
    let to = ["169.254.1.1", "10.0.0.53"].map(|it| it.parse().unwrap());
    let upstream = Upstream::new(Forward::To(to.to_vec()), own.clone());
    assert_eq!(upstream.resolvers(), ["10.0.0.53:53".parse().unwrap()]);

    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("resolv.conf");
    fs::write(&path, "nameserver 169.254.1.1\nnameserver 10.0.0.54\n").unwrap();
    let upstream = Upstream::new(Forward::File(path), own);
    assert_eq!(upstream.resolvers(), ["10.0.0.54:53".parse().unwrap()]);
}
