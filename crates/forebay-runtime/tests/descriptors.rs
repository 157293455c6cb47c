//! What happens when the process runs out of descriptors. In a process of its own, as the limit is the process'.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{SocketAddr, SocketAddrV4, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd};
use std::time::{Duration, Instant};

use forebay_core::config::{EngineConfig, IoDriver};
use forebay_runtime::Engine;

/// Longest that the test waits for anything.
const PATIENCE: Duration = Duration::from_secs(20);
/// Descriptors that the process may have open.
const DESCRIPTORS: u64 = 128;
/// Clients that come when there are descriptors for `SERVED` of them.
const CLIENTS: usize = 8;
const SERVED: usize = 3;
/// How long it is looked at without descriptors.
const LASTING: Duration = Duration::from_secs(3);

/// Lowers both limits. For good, and before the engine starts: it raises the one to the other, and the kernel notes
/// the one in force when an operation of io_uring is prepared, not when it opens something.
fn limit_descriptors() {
    let limit = libc::rlimit { rlim_cur: DESCRIPTORS, rlim_max: DESCRIPTORS };
    // SAFETY: `limit` lives over the call.
    assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) }, 0);
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

/// A socket that is not connected so far: this end's descriptor is taken before they run out.
fn unconnected() -> TcpStream {
    // SAFETY: no pointers; what comes back is checked, and owned by nobody else.
    unsafe {
        let fd = libc::socket(libc::AF_INET, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0);
        assert!(fd >= 0, "{}", std::io::Error::last_os_error());
        TcpStream::from_raw_fd(fd)
    }
}

fn connect(client: &TcpStream, to: SocketAddrV4) {
    // SAFETY: sockaddr_in is plain integers, for which all bits zero is a value.
    let mut address: libc::sockaddr_in = unsafe { std::mem::zeroed() };
    address.sin_family = libc::AF_INET as libc::sa_family_t;
    address.sin_port = to.port().to_be();
    address.sin_addr.s_addr = u32::from_ne_bytes(to.ip().octets());
    let len = size_of::<libc::sockaddr_in>() as libc::socklen_t;
    // SAFETY: pointer and length describe `address`, which lives over the call.
    let result = unsafe { libc::connect(client.as_raw_fd(), (&raw const address).cast(), len) };
    // Whether or not the engine accepts: the kernel does.
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
}

/// Asks for TLS. The engine accepts who has asked something, in that order.
fn ask(mut client: &TcpStream) {
    client.write_all(&[0, 0, 0, 8, 4, 210, 22, 47]).expect("written");
}

/// The answer shows that the engine serves this client.
fn assert_answered(mut client: &TcpStream) {
    client.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    let mut answer = [0];
    client.read_exact(&mut answer).expect("an answer");
    assert_eq!(answer, *b"N");
}

/// How often the engine says that accepting failed until `is_enough`, which must come about.
fn failures(engine: &Engine, is_enough: impl Fn(usize) -> bool) -> usize {
    let deadline = Instant::now() + PATIENCE;
    let mut seen = 0;
    while !is_enough(seen) {
        let mut poll = libc::pollfd { fd: engine.outbox().fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one valid pollfd.
        unsafe { libc::poll(&raw mut poll, 1, 100) };
        seen += engine.outbox().take().events.iter().filter(|(_, e)| e.name == "accept_backoff").count();
        assert!(Instant::now() < deadline, "only {seen} events");
    }
    seen
}

fn run_out(io: IoDriver) {
    let mut config: EngineConfig = serde_json::from_str(include_str!("engine.json")).expect("a configuration");
    config.engine.io = io;
    config.engine.workers = 1;
    config.limits.login_timeout = 10 * PATIENCE.as_micros() as u64;
    let engine = Engine::start(config).expect("it starts");
    let Ok(SocketAddr::V4(address)) = engine.listeners()[0].parse() else { panic!("{:?}", engine.listeners()) };
    let first = TcpStream::connect(address).expect("accepted");
    ask(&first);
    assert_answered(&first);

    let clients: Vec<TcpStream> = (0..CLIENTS).map(|_| unconnected()).collect();
    let mut filling: Vec<File> = std::iter::from_fn(|| File::open("/dev/null").ok()).collect();
    filling.truncate(filling.len() - SERVED);
    for client in &clients {
        connect(client, address);
        ask(client);
    }
    failures(&engine, |seen| seen > 0);
    let (began, used_before) = (Instant::now(), processor_time());
    let told = failures(&engine, |_| began.elapsed() >= LASTING);
    let (took, used) = (began.elapsed(), processor_time() - used_before);
    assert_eq!(told, 0, "once in ten seconds");
    assert!(used < took / 20, "{used:?} of processor time went by in {took:?}");

    ask(&first);
    assert_answered(&first);
    clients[..SERVED].iter().for_each(assert_answered);
    drop(filling);
    clients[SERVED..].iter().for_each(assert_answered);
    engine.stop();
}

/// A pooler at its limit of descriptors must go on serving those it has, without burning a core, and those who wait
/// as soon as it can.
#[test]
fn accepting_pauses_when_descriptors_run_out_and_goes_on_after() {
    limit_descriptors();
    run_out(IoDriver::Uring);
    run_out(IoDriver::Epoll);
}
