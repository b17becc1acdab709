//! Load from one network namespace to another: as many bytes as pass (iperf3), and one byte there and back.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow};
use lab::{Namespace, try_wait_for};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use serde_json::Value;

const PORT: u16 = 5201;

/// What one connection of iperf3 carried.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Throughput {
    /// As the receiver counted them.
    pub(crate) gbit: f64,
    /// CPU seconds that sender and receiver took for a GiB, with what the kernel did for them in their time.
    pub(crate) cpu_per_gib: f64,
}

/// One TCP connection for so many seconds, with sender and receiver on a core each.
///
/// # Errors
///
/// When iperf3 does not run, or nothing comes through.
pub(crate) fn throughput(
    from: &Namespace,
    to: &Namespace,
    address: IpAddr,
    seconds: u32,
) -> Result<Throughput> {
    let mut server = to.command("iperf3");
    server.args(["--server", "--one-off", "--affinity", "1", "--port"]);
    server.arg(PORT.to_string());
    let log = tempfile::NamedTempFile::new()?;
    let mut server = to.start("iperf3", server, log.path())?;
    try_wait_for("iperf3 to listen", Duration::from_secs(5), || {
        server.check()?;
        let listening = to.run(&format!(
            "ss --no-header --listening --tcp --numeric sport = :{PORT}"
        ))?;
        anyhow::ensure!(!listening.is_empty(), "nobody listens");
        Ok(())
    })?;
    let mut client = from.command("iperf3");
    client.args(["--json", "--affinity", "0", "--port"]);
    client.arg(PORT.to_string());
    client.args(["--client", &address.to_string(), "--time"]);
    client.arg(seconds.to_string());
    let text = lab::output(&mut client)?;
    server.wait_for_end()?;
    let said: Value = serde_json::from_str(&text)?;
    let end = &said["end"];
    let number = |value: &Value, what: &str| {
        value
            .as_f64()
            .with_context(|| format!("iperf3 says no {what}: {end}"))
    };
    let bytes = number(&end["sum_received"]["bytes"], "bytes")?;
    let took = number(&end["sum_received"]["seconds"], "seconds")?;
    let cpu = &end["cpu_utilization_percent"];
    let percent = number(&cpu["host_total"], "CPU")? + number(&cpu["remote_total"], "CPU")?;
    Ok(Throughput {
        gbit: bytes * 8.0 / took / 1e9,
        cpu_per_gib: percent / 100.0 * took / (bytes / f64::from(1 << 30)),
    })
}

/// One byte there and back over a TCP connection, one after the other for this long, with both ends on a core
/// each: the microseconds of each round trip.
///
/// # Errors
///
/// When there is no connection.
pub(crate) fn round_trips(
    from: &Namespace,
    to: &Namespace,
    address: IpAddr,
    time: Duration,
) -> Result<Vec<f64>> {
    std::thread::scope(|scope| {
        let (listening, ready) = mpsc::channel();
        let server = scope.spawn(move || to.within(|| echo(address, &listening)));
        ready.recv().context("nobody listens")?;
        let client = scope.spawn(move || from.within(|| ask((address, PORT).into(), time)));
        let times = client
            .join()
            .map_err(|_| anyhow!("a thread panicked"))???;
        server
            .join()
            .map_err(|_| anyhow!("a thread panicked"))???;
        Ok(times)
    })
}

/// Gives one connection its bytes back.
fn echo(address: IpAddr, listening: &mpsc::Sender<()>) -> Result<()> {
    stay_on(1);
    let listener = TcpListener::bind((address, PORT))?;
    listening.send(())?;
    let (mut stream, _) = listener.accept()?;
    stream.set_nodelay(true)?;
    let mut byte = [0];
    while stream.read(&mut byte)? == 1 {
        stream.write_all(&byte)?;
    }
    Ok(())
}

fn ask(address: SocketAddr, time: Duration) -> Result<Vec<f64>> {
    stay_on(0);
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(5))?;
    stream.set_nodelay(true)?;
    let mut times = Vec::with_capacity(200_000);
    let mut byte = [7];
    let begun = Instant::now();
    while begun.elapsed() < time {
        let sent = Instant::now();
        stream.write_all(&byte)?;
        stream.read_exact(&mut byte)?;
        times.push(sent.elapsed().as_secs_f64() * 1e6);
    }
    // Until both ends are warm.
    Ok(times.split_off(times.len() / 10))
}

/// Keeps the calling thread on one core, where there are two.
fn stay_on(core: usize) {
    let mut set = CpuSet::new();
    if set.set(core).is_ok() {
        // Refused where there is no such core: then it runs anywhere.
        let _ = sched_setaffinity(Pid::from_raw(0), &set);
    }
}
