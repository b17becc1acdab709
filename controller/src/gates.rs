//! A place for everybody: how much of what is bounded one address may take.
//!
//! What anybody who reaches the port can ask for before it is known who he is (a TLS handshake, the review of
//! a token) is bounded for all together. Without a bound for each address a single client could take all of it.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{sleep, timeout};

/// One gate for each address.
pub(crate) struct Gates {
    /// So many of one address are inside at once.
    inside: usize,
    /// So many of one address wait.
    waiting: usize,
    gates: Mutex<HashMap<IpAddr, Arc<Gate>>>,
}

struct Gate {
    places: Arc<Semaphore>,
    waiting: AtomicUsize,
}

/// A place inside; free again when it is dropped.
pub(crate) struct Place(OwnedSemaphorePermit);

/// There was no place for this address in time.
#[derive(Debug, thiserror::Error)]
#[error("too many from {address} are waiting or were refused a moment ago")]
pub(crate) struct Crowded {
    address: IpAddr,
}

impl Gates {
    /// Gates that let `inside` of each address in at once, while `waiting` more of it wait.
    pub(crate) fn new(inside: usize, waiting: usize) -> Gates {
        Gates {
            inside,
            waiting,
            gates: Mutex::default(),
        }
    }

    /// Waits for a place for this address, for so long.
    ///
    /// # Errors
    ///
    /// [`Crowded`] when there is none in time, or too many of this address wait already.
    pub(crate) async fn enter(
        &self,
        address: IpAddr,
        patience: Duration,
    ) -> Result<Place, Crowded> {
        let address = whose(address);
        let crowded = |_| Crowded { address };
        let gate = self.gate(address);
        let _waiting = Waiting::new(&gate, self.waiting).ok_or(Crowded { address })?;
        let place = timeout(patience, Arc::clone(&gate.places).acquire_owned()).await;
        let place = place.map_err(crowded)?;
        place.map(Place).map_err(|_closed| Crowded { address })
    }

    fn gate(&self, address: IpAddr) -> Arc<Gate> {
        let mut gates = self.gates.lock().unwrap_or_else(PoisonError::into_inner);
        if gates.len() == gates.capacity() {
            gates.retain(|_, gate| {
                let is_empty = gate.places.available_permits() == self.inside;
                !is_empty || Arc::strong_count(gate) > 1
            });
        }
        let gate = gates.entry(address).or_insert_with(|| {
            Arc::new(Gate {
                places: Arc::new(Semaphore::new(self.inside)),
                waiting: AtomicUsize::new(0),
            })
        });
        Arc::clone(gate)
    }
}

impl Place {
    /// Nobody else has it for so long.
    pub(crate) fn keep(self, time: Duration) {
        tokio::spawn(async move {
            sleep(time).await;
            drop(self.0);
        });
    }
}

/// Counts one who waits, for as long as he does.
struct Waiting<'a>(&'a Gate);

impl Waiting<'_> {
    fn new(gate: &Gate, most: usize) -> Option<Waiting<'_>> {
        let before = gate.waiting.fetch_add(1, Ordering::Relaxed);
        let waiting = Waiting(gate); // counts down again also where there are too many
        (before < most).then_some(waiting)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Of IPv6 the network of 64 bits: whoever has one address has all of them.
fn whose(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let network = u128::from(address) & (u128::MAX << 64);
            IpAddr::V6(Ipv6Addr::from(network))
        }
        address @ IpAddr::V4(_) => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn one_address_never_takes_the_places_of_another() {
        let gates = Gates::new(2, 8);
        let one = address("192.0.2.1");
        let _inside = [
            gates.enter(one, SECOND).await.unwrap(),
            gates.enter(one, SECOND).await.unwrap(),
        ];
        let crowded = gates.enter(one, SECOND).await.err().unwrap();
        assert!(crowded.to_string().contains("192.0.2.1"), "{crowded}");
        // The same host, as a socket of both families sees it.
        let mapped = address("::ffff:192.0.2.1");
        assert!(gates.enter(mapped, SECOND).await.is_err());
        gates.enter(address("192.0.2.2"), SECOND).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_place_that_is_kept_is_free_later_and_one_that_is_dropped_at_once() {
        let gates = Gates::new(1, 8);
        let [one, same] = ["2001:db8::1", "2001:db8::2"].map(address);
        gates.enter(one, SECOND).await.unwrap().keep(5 * SECOND);
        assert!(gates.enter(same, 4 * SECOND).await.is_err());
        drop(gates.enter(same, 4 * SECOND).await.unwrap());
        gates.enter(one, Duration::ZERO).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn no_more_wait_than_may_and_who_is_gone_is_forgotten() {
        let gates = Arc::new(Gates::new(1, 2));
        let one = address("192.0.2.1");
        let inside = gates.enter(one, SECOND).await.unwrap();
        let wait = || {
            let gates = Arc::clone(&gates);
            tokio::spawn(async move { gates.enter(one, 60 * SECOND).await.is_ok() })
        };
        let waiting = [wait(), wait()];
        tokio::task::yield_now().await;
        let begun = tokio::time::Instant::now();
        assert!(gates.enter(one, 60 * SECOND).await.is_err());
        assert_eq!(begun.elapsed(), Duration::ZERO, "refused at once");
        drop(inside);
        for waits in waiting {
            assert!(waits.await.unwrap());
        }
        for last in 1..=200 {
            gates
                .enter(address(&format!("192.0.2.{last}")), SECOND)
                .await
                .unwrap();
        }
        let known = gates.gates.lock().unwrap().len();
        assert!(known < 50, "{known}");
    }
}
