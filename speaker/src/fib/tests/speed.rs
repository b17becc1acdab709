//! What the thread adds to the kernel's own time. `cargo test --release -p routeshare-speaker
//! million -- --ignored --nocapture`; the kernel's floor is what `cargo run --release -p kernel
//! --example floor` says.

use std::time::{Duration, Instant};

use super::lab::*;

#[test]
#[ignore = "a measurement: takes half a minute and means something only in a release build"]
fn a_million_routes() {
    in_namespace(|lab| {
        for (what, hops) in [
            ("install", &[A][..]),
            ("nothing changes", &[A]),
            ("to two next hops", &[A, B]),
            ("remove", &[]),
        ] {
            let changes = lab.many(1_000_000, hops);
            let (start, cpu) = (Instant::now(), cpu());
            lab.apply_all(changes);
            lab.summary();
            let took = start.elapsed();
            let cpu = super::speed::cpu() - cpu;
            eprintln!("{what:<20}{took:>10.3?}, {cpu:.3?} of CPU in all threads");
            if what == "nothing changes" {
                let start = Instant::now();
                lab.fib().sweep();
                lab.summary(); // begun
                lab.stop();
                eprintln!("list and compare    {:>10.3?}", start.elapsed());
                let start = Instant::now();
                lab.restart();
                assert_eq!(lab.summary().stale, 1_000_000);
                eprintln!("adopt               {:>10.3?}", start.elapsed());
            }
            let installed = lab.summary().installed + lab.summary().stale;
            assert_eq!(installed, if hops.is_empty() { 0 } else { 1_000_000 });
        }
    });
}

fn cpu() -> Duration {
    let usage = nix::sys::resource::getrusage(nix::sys::resource::UsageWho::RUSAGE_SELF);
    let usage = usage.expect("the kernel counts");
    let duration = |time: nix::sys::time::TimeVal| {
        Duration::new(time.tv_sec() as u64, time.tv_usec() as u32 * 1000)
    };
    duration(usage.user_time()) + duration(usage.system_time())
}
