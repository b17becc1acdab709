//! Packets from pod to pod.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use lab::{Namespace, wait_for};
use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::RcvBufForce;

use super::machines::{Machines, POD_1, POD_2};
use crate::host::SOON;

/// How many packets a flow has in a second: two families, so 2,000 in each direction.
pub(super) const PACKETS_PER_SECOND: u32 = 1000;
const PORT: u16 = 9000;
/// Of a receiver, in octets: some thousands of packets, as the kernel counts them.
const RECEIVE_BUFFER: usize = 8 << 20;

/// Packets between the pods, both ways and by both families.
pub(super) struct Traffic {
    ended: AtomicBool,
    flows: Vec<Flow>,
}

/// Packets of one family in one direction.
pub(super) struct Flow {
    sender: UdpSocket,
    receiver: UdpSocket,
    sent: AtomicU32,
    /// Packets that our own kernel would not take, and why.
    unsent: Mutex<Vec<(u32, String)>>,
}

/// What became of a flow.
#[derive(Clone, Debug)]
pub(super) struct Outcome {
    /// When the first one was sent, as `ip -ts monitor` tells time.
    pub(super) began: String,
    pub(super) sent: u32,
    pub(super) lost: u32,
    /// The numbers of the first ones that were lost: when it happened, in thousandths of a second.
    pub(super) first_lost: Vec<u32>,
    /// The first ones that our own kernel would not take, and why; they count as lost.
    pub(super) unsent: Vec<(u32, String)>,
    /// The longest time between two arrivals.
    pub(super) longest_gap: Duration,
}

impl Traffic {
    pub(super) fn new(machines: &Machines) -> Traffic {
        let [one, two] = &machines.pods;
        let mut flows = Vec::new();
        for family in 0..2 {
            for (from, here, to, there) in [(one, POD_1, two, POD_2), (two, POD_2, one, POD_1)] {
                flows.push(Flow {
                    sender: socket(from, here[family], 0),
                    receiver: socket(to, there[family], PORT),
                    sent: AtomicU32::new(0),
                    unsent: Mutex::default(),
                });
            }
        }
        Traffic {
            ended: AtomicBool::new(false),
            flows,
        }
    }

    /// Flows while `work` is done, then tells what arrived.
    pub(super) fn during(&self, work: impl FnOnce()) -> Vec<Outcome> {
        let began = time_of_day();
        std::thread::scope(|scope| {
            let running = self.flows.iter().map(|flow| {
                let sending = scope.spawn(|| self.send(flow));
                (flow, sending, scope.spawn(|| self.receive(flow)))
            });
            let running: Vec<_> = running.collect();
            // Also when the work fails: the threads have to come to an end.
            let done = catch_unwind(AssertUnwindSafe(work));
            self.ended.store(true, Ordering::Relaxed);
            let outcomes = running.into_iter().map(|(flow, sending, receiving)| {
                sending.join().unwrap();
                let sent = flow.sent.load(Ordering::Relaxed);
                let (arrived, longest_gap) = receiving.join().unwrap();
                let lost = (0..sent).filter(|number| !arrived.contains(number));
                Outcome {
                    began: began.clone(),
                    sent,
                    lost: sent - u32::try_from(arrived.len()).unwrap(),
                    first_lost: lost.take(10).collect(),
                    unsent: std::mem::take(&mut *flow.unsent.lock().unwrap()),
                    longest_gap,
                }
            });
            let outcomes = outcomes.collect();
            match done {
                Ok(()) => outcomes,
                Err(panic) => resume_unwind(panic),
            }
        })
    }

    /// At a steady rate, until the end.
    fn send(&self, flow: &Flow) {
        let to = flow.receiver.local_addr().unwrap();
        let begin = Instant::now();
        let mut number: u32 = 0;
        while !self.ended.load(Ordering::Relaxed) {
            let due = begin + Duration::from_secs(1) * number / PACKETS_PER_SECOND;
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            // One that cannot be sent will be missed like any other.
            if let Err(error) = flow.sender.send_to(&number.to_be_bytes(), to) {
                let mut unsent = flow.unsent.lock().unwrap();
                if unsent.len() < 10 {
                    unsent.push((number, error.to_string()));
                }
            }
            number += 1;
            flow.sent.store(number, Ordering::Relaxed);
        }
    }

    /// Until nothing comes any more after the end: their numbers, and the longest gap.
    fn receive(&self, flow: &Flow) -> (BTreeSet<u32>, Duration) {
        let (mut arrived, mut longest_gap) = (BTreeSet::new(), Duration::ZERO);
        let mut last: Option<Instant> = None;
        let mut packet = [0; 4];
        loop {
            match flow.receiver.recv(&mut packet) {
                Ok(4) => {
                    arrived.insert(u32::from_be_bytes(packet));
                    let now = Instant::now();
                    longest_gap = longest_gap.max(last.map_or(Duration::ZERO, |last| now - last));
                    last = Some(now);
                }
                Err(_) if self.ended.load(Ordering::Relaxed) => break,
                Ok(_) | Err(_) => {}
            }
        }
        (arrived, longest_gap)
    }

    /// Waits until so many more packets are on their way in each flow.
    pub(super) fn packets(&self, more: u32) {
        let sent = |flow: &Flow| flow.sent.load(Ordering::Relaxed);
        let until: Vec<u32> = self.flows.iter().map(|flow| sent(flow) + more).collect();
        wait_for("packets to be sent", SOON, || {
            let enough = self
                .flows
                .iter()
                .zip(&until)
                .all(|(flow, until)| sent(flow) >= *until);
            anyhow::ensure!(enough, "not all of {until:?}");
            Ok(())
        });
    }
}

/// Hours to milliseconds, in UTC.
fn time_of_day() -> String {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let (seconds, millis) = (since.as_secs(), since.subsec_millis());
    let [hours, minutes] = [seconds / 3600 % 24, seconds / 60 % 60];
    format!("{hours:02}:{minutes:02}:{:02}.{millis:03}", seconds % 60)
}

fn socket(on: &Namespace, address: &str, port: u16) -> UdpSocket {
    let address: IpAddr = address.parse().unwrap();
    // A program that is being started beside us holds the last round's sockets for a moment.
    let socket = wait_for("the port to be free", SOON, || {
        Ok(on.within(|| UdpSocket::bind(SocketAddr::new(address, port)))??)
    });
    // A reader that a busy machine does not let run for a second must not lose what has arrived.
    setsockopt(&socket, RcvBufForce, &RECEIVE_BUFFER).unwrap();
    let quiet = Duration::from_millis(500);
    socket.set_read_timeout(Some(quiet)).unwrap();
    socket
}
