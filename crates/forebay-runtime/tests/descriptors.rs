//! What happens when the process runs out of descriptors. In a process of its own, as the limit is the process'.

use std::net::TcpStream;
use std::time::{Duration, Instant};

use forebay_core::config::{EngineConfig, IoDriver};
use forebay_runtime::Engine;

/// Longest that the test waits for anything.
const PATIENCE: Duration = Duration::from_secs(20);

/// Sets the limit in force; the hard one stays.
fn limit_descriptors(count: u64) {
    // SAFETY: rlimit is plain integers, and lives over both calls.
    unsafe {
        let mut limit: libc::rlimit = std::mem::zeroed();
        assert_eq!(libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit), 0);
        limit.rlim_cur = count.min(limit.rlim_max);
        assert_eq!(libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit), 0);
    }
}

fn open_descriptors() -> u64 {
    std::fs::read_dir("/proc/self/fd").expect("procfs").count() as u64
}

fn processor_time() -> Duration {
    // SAFETY: rusage is plain integers, and lives over the call.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        libc::getrusage(libc::RUSAGE_SELF, &raw mut usage);
        usage
    };
    let micros = |t: libc::timeval| t.tv_sec as u64 * 1_000_000 + t.tv_usec as u64;
    Duration::from_micros(micros(usage.ru_utime) + micros(usage.ru_stime))
}

/// Runs into the limit, waits for the engine to say so, and counts what that costs.
fn run_out(io: IoDriver) {
    let mut config: EngineConfig = serde_json::from_str(include_str!("engine.json")).expect("a configuration");
    config.engine.io = io;
    config.engine.workers = 1;
    let engine = Engine::start(config).expect("it starts");
    let address = engine.listeners()[0].clone();
    // Room for eight connections; each takes a descriptor at both ends, so that accepting fails for some.
    let spare = std::fs::File::open("/dev/null").expect("a descriptor");
    limit_descriptors(open_descriptors() + 12);
    let mut clients = Vec::new();
    while let Ok(client) = TcpStream::connect(&address) {
        clients.push(client);
    }
    // Where accepting kept pace, both ends took the last descriptors together: one more end, and none for the other.
    drop(spare);
    clients.extend(TcpStream::connect(&address));
    let before = processor_time();
    let deadline = Instant::now() + PATIENCE;
    let mut backoffs = 0;
    while backoffs < 4 {
        let mut poll = libc::pollfd { fd: engine.outbox().fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one valid pollfd.
        unsafe { libc::poll(&raw mut poll, 1, 1000) };
        let events = engine.outbox().take().events;
        backoffs += events.iter().filter(|e| e.name == "accept_backoff").count();
        assert!(Instant::now() < deadline, "only {backoffs} events");
    }
    // Four pauses of 100 ms: a loop that spins would have used nearly as much.
    let used = processor_time() - before;
    assert!(used < Duration::from_millis(150), "{used:?} of processor time went by");
    limit_descriptors(u64::MAX);
    let before = engine.stats()[0].accepted.get();
    let client = TcpStream::connect(&address).expect("accepted again");
    while engine.stats()[0].accepted.get() <= before {
        assert!(Instant::now() < deadline, "nobody is accepted any more");
        std::thread::yield_now();
    }
    drop(client);
    engine.stop();
}

/// A pooler at its limit of descriptors must go on serving those it has, without burning a core.
#[test]
fn accepting_pauses_when_descriptors_run_out_and_goes_on_after() {
    run_out(IoDriver::Uring);
    run_out(IoDriver::Epoll);
}
