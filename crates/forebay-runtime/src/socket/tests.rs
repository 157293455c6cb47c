//! How sockets are set.

use std::net::{TcpListener, TcpStream};

use super::*;

/// All is left to the system.
const NOTHING: TcpOptions = TcpOptions {
    keepalive: false,
    keepalive_idle: 0,
    keepalive_interval: 0,
    keepalive_count: 0,
    user_timeout: 0,
    server_dead_after: 0,
    socket_buffer: 0,
    defer_accept: false,
};

fn option(fd: RawFd, level: libc::c_int, name: libc::c_int) -> libc::c_int {
    super::option(fd, level, name).expect("an option that exists")
}

/// A half-open client is found by these, and a firewall that forgets silent connections is kept awake by them.
#[test]
fn what_is_accepted_has_the_options_of_its_listener() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let options = TcpOptions {
        keepalive: true,
        keepalive_idle: 33_000_000,
        keepalive_interval: 4_500_000,
        keepalive_count: 3,
        user_timeout: 12_345_000,
        server_dead_after: 0,
        socket_buffer: 0,
        defer_accept: false,
    };
    tune_listener(listener.as_raw_fd(), &options).expect("options that the system takes");
    let _client = TcpStream::connect(listener.local_addr().expect("an address")).expect("it listens");
    let (accepted, _) = listener.accept().expect("a client");
    let fd = accepted.as_raw_fd();
    assert_eq!(option(fd, libc::SOL_SOCKET, libc::SO_KEEPALIVE), 1);
    let names = [libc::TCP_KEEPIDLE, libc::TCP_KEEPINTVL, libc::TCP_KEEPCNT, libc::TCP_USER_TIMEOUT];
    assert_eq!(names.map(|name| option(fd, libc::IPPROTO_TCP, name)), [33, 5, 3, 12_345]);
}

/// Whoever takes a setting back expects what there would be without it, not what there was before.
#[test]
fn what_is_taken_back_is_the_systems_again() {
    let plain = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let tuned = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let some = TcpOptions {
        keepalive: true,
        keepalive_idle: 33_000_000,
        keepalive_interval: 4_000_000,
        keepalive_count: 3,
        user_timeout: 12_345_000,
        server_dead_after: 0,
        socket_buffer: 50_000,
        defer_accept: true,
    };
    let names = [
        (libc::IPPROTO_TCP, libc::TCP_KEEPIDLE),
        (libc::IPPROTO_TCP, libc::TCP_KEEPINTVL),
        (libc::IPPROTO_TCP, libc::TCP_KEEPCNT),
        (libc::IPPROTO_TCP, libc::TCP_USER_TIMEOUT),
        (libc::IPPROTO_TCP, libc::TCP_DEFER_ACCEPT),
        (libc::SOL_SOCKET, libc::SO_KEEPALIVE),
        (libc::SOL_SOCKET, libc::SO_SNDBUF),
        (libc::SOL_SOCKET, libc::SO_RCVBUF),
        (libc::SOL_SOCKET, SO_BUF_LOCK),
    ];
    let of = |listener: &TcpListener| names.map(|(level, name)| option(listener.as_raw_fd(), level, name));
    tune_listener(tuned.as_raw_fd(), &some).expect("options that the system takes");
    assert!(of(&tuned).iter().zip(of(&plain)).all(|(tuned, plain)| *tuned != plain));
    tune_listener(tuned.as_raw_fd(), &NOTHING).expect("options that the system takes");
    assert_eq!(of(&tuned), of(&plain));
}

/// 0 leaves what the system has.
#[test]
fn what_is_not_said_is_the_systems() {
    let plain = stream(libc::AF_INET, false).expect("a socket");
    let tuned = stream(libc::AF_INET, false).expect("a socket");
    tune_tcp(tuned.as_raw_fd(), &NOTHING).expect("options that the system takes");
    for name in [libc::TCP_KEEPIDLE, libc::TCP_KEEPINTVL, libc::TCP_KEEPCNT, libc::TCP_USER_TIMEOUT] {
        let of = |fd: &OwnedFd| option(fd.as_raw_fd(), libc::IPPROTO_TCP, name);
        assert_eq!(of(&tuned), of(&plain));
    }
    assert_eq!(option(tuned.as_raw_fd(), libc::SOL_SOCKET, libc::SO_KEEPALIVE), 0);
}

/// The system doubles what it is told, for its own bookkeeping.
#[test]
fn buffers_are_as_large_as_they_shall_be() {
    let socket = stream(libc::AF_INET, false).expect("a socket");
    let options = TcpOptions { socket_buffer: 50_000, ..TcpOptions::default() };
    tune_tcp(socket.as_raw_fd(), &options).expect("options that the system takes");
    for name in [libc::SO_SNDBUF, libc::SO_RCVBUF] {
        assert_eq!(option(socket.as_raw_fd(), libc::SOL_SOCKET, name), 100_000);
    }
}
