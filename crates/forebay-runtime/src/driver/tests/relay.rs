//! Two connections joined: connects, back-pressure, refusals, and what the lent memory does meanwhile.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd;

use forebay_core::io::{ClosedBy, Endpoint};

use super::harness::{PATIENCE, Role, Seen, World, pattern};
use crate::driver::backend::Backend;

fn timed(stream: &TcpStream) {
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    stream.set_write_timeout(Some(PATIENCE)).expect("a timeout");
}

/// The path of a query: client, us, server, and back, for both kinds of server address.
fn a_relay_joins_two_connections<B: Backend + 'static>() {
    let echo = World::<B>::new(Role::Echo);
    let host = Endpoint::Tcp { host: "localhost".into(), port: echo.address.port() };
    for endpoint in [echo.endpoint(), host, Endpoint::Unix(echo.unix.as_str().into())] {
        let world = World::<B>::new(Role::Relay(endpoint, usize::MAX));
        let mut stream = TcpStream::connect(world.address).expect("accepted");
        timed(&stream);
        for len in [5, 3000, 40_000, 100] {
            let bytes = pattern(len);
            stream.write_all(&bytes).expect("written");
            let mut back = vec![0; len];
            stream.read_exact(&mut back).expect("answered");
            assert!(back == bytes);
        }
    }
}

/// A wide result for a client that reads slowly passes whole, and takes little memory here.
fn a_slow_reader_gets_everything_in_bounded_memory<B: Backend + 'static>() {
    const TOTAL: usize = 64 << 20;
    let server = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = server.local_addr().expect("bound").port();
    let endpoint = Endpoint::Tcp { host: "127.0.0.1".into(), port };
    let world = World::<B>::new(Role::Relay(endpoint, 256 * 1024));
    let mut stream = TcpStream::connect(world.address).expect("accepted");
    timed(&stream);
    stream.write_all(b"?").expect("asked");
    let piece = pattern(1 << 20);
    let sent = piece.clone();
    let thread = std::thread::spawn(move || {
        let (mut stream, _) = server.accept().expect("connected");
        timed(&stream);
        stream.read_exact(&mut [0]).expect("asked");
        for _ in 0..TOTAL >> 20 {
            stream.write_all(&sent).expect("written");
        }
    });
    let mut bystander = TcpStream::connect(world.address).expect("accepted meanwhile");
    bystander.write_all(b"x").expect("written meanwhile");
    let mut back = vec![0; 1 << 20];
    for _ in 0..TOTAL >> 20 {
        for part in back.chunks_mut(50_000) {
            stream.read_exact(part).expect("more");
        }
        assert!(back == piece);
    }
    thread.join().expect("all was taken");
    // The limit, and what was under way when it was reached: one read, or the buffers of one turn.
    let unsent = world.on(0, |consumer, _| consumer.unsent_max);
    assert!(unsent <= 256 * 1024 + 64 * 16 * 1024, "{unsent} bytes were queued");
}

/// Many clients that never read must leave the worker's buffers to those that do.
fn readers_that_stop_hold_up_nobody<B: Backend + 'static>() {
    let echo = World::<B>::new(Role::Echo);
    let mut stuck = Vec::new();
    for _ in 0..100 {
        let stream = TcpStream::connect(echo.address).expect("accepted");
        stream.set_nonblocking(true).expect("not blocking");
        // A small window: what comes back soon stays with the driver.
        crate::socket::set_option(stream.as_raw_fd(), libc::SOL_SOCKET, libc::SO_RCVBUF, 4096).expect("set");
        let bytes = pattern(64 * 1024);
        let mut total = 0;
        // Until both sockets and the driver hold all they take, or enough.
        while total < 1 << 20 {
            match (&stream).write(&bytes) {
                Ok(n) => total += n,
                Err(_) => break,
            }
        }
        stuck.push(stream);
    }
    let mut stream = TcpStream::connect(echo.address).expect("accepted");
    timed(&stream);
    for _ in 0..50 {
        stream.write_all(b"still there?").expect("written");
        let mut back = [0; 12];
        stream.read_exact(&mut back).expect("answered");
    }
}

/// The words that an operator reads when a server is down.
fn a_refused_connect_names_the_address<B: Backend + 'static>() {
    let port = TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("bound").port();
    let world = World::<B>::new(Role::Relay(Endpoint::Tcp { host: "127.0.0.1".into(), port }, usize::MAX));
    let _client = TcpStream::connect(world.address).expect("accepted");
    let ClosedBy::Error(words) = world.wait_closed() else { panic!("an error") };
    assert!(words.contains(&format!("127.0.0.1:{port}")) && words.contains("refused"), "{words}");
}

/// A typing error in the configuration must not look like a network problem.
fn an_unknown_name_is_reported<B: Backend + 'static>() {
    let endpoint = Endpoint::Tcp { host: "no-such-host.invalid".into(), port: 1 };
    let world = World::<B>::new(Role::Relay(endpoint, usize::MAX));
    let _client = TcpStream::connect(world.address).expect("accepted");
    let ClosedBy::Error(words) = world.wait_closed() else { panic!("an error") };
    assert!(words.contains("no-such-host.invalid") && words.contains("not resolved"), "{words}");
}

/// A path too long for a socket comes from a configuration, and must not take the worker down.
fn a_socket_path_that_cannot_be_is_reported<B: Backend + 'static>() {
    let world = World::<B>::new(Role::Relay(Endpoint::Unix("/x".repeat(100).as_str().into()), usize::MAX));
    let _client = TcpStream::connect(world.address).expect("accepted");
    world.wait(|seen| matches!(seen, Seen::Closed(_, ClosedBy::Error(_))).then_some(()));
}

super::over_both!(
    a_relay_joins_two_connections,
    a_slow_reader_gets_everything_in_bounded_memory,
    readers_that_stop_hold_up_nobody,
    a_refused_connect_names_the_address,
    an_unknown_name_is_reported,
    a_socket_path_that_cannot_be_is_reported,
);
