//! Bytes there and back: order, half close, resets, refusals, buffers that run out.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::net::UnixStream;

use forebay_core::io::{ClosedBy, Io, Peer, Slice};

use super::harness::{PATIENCE, Role, Seen, Setup, World, pattern};
use crate::driver::backend::Backend;

fn connect<B: Backend + 'static>(world: &World<B>) -> TcpStream {
    let stream = TcpStream::connect(world.address).expect("the world listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    stream.set_write_timeout(Some(PATIENCE)).expect("a timeout");
    stream
}

fn exchange(stream: &mut (impl Read + Write), bytes: &[u8]) {
    stream.write_all(bytes).expect("written");
    let mut back = vec![0; bytes.len()];
    stream.read_exact(&mut back).expect("answered");
    assert!(back == bytes, "other bytes came back");
}

/// The very least: what a client says arrives, whole and in order.
fn bytes_come_back_in_order<B: Backend + 'static>() {
    for role in [Role::Echo, Role::Copy] {
        let world = World::<B>::new(role);
        let mut stream = connect(&world);
        for len in [1, 2, 100, 5000, 16 * 1024, 70_000] {
            exchange(&mut stream, &pattern(len));
        }
        let mut unix = UnixStream::connect(&world.unix).expect("a Unix socket too");
        unix.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        exchange(&mut unix, &pattern(5000));
    }
}

/// SHOW CLIENTS and the log name who connected.
fn peers_are_named<B: Backend + 'static>() {
    let world = World::<B>::new(Role::Echo);
    let stream = connect(&world);
    let port = stream.local_addr().expect("bound").port();
    let peer = world.wait(|seen| if let Seen::Accepted(_, peer) = seen { Some(peer.clone()) } else { None });
    assert_eq!(peer, Peer::Tcp("127.0.0.1".parse().expect("an address"), port));
    let _unix = UnixStream::connect(&world.unix).expect("a Unix socket too");
    let peer = world.wait(|seen| if let Seen::Accepted(_, peer) = seen { Some(peer.clone()) } else { None });
    // SAFETY: geteuid takes nothing and does not fail.
    assert_eq!(peer, Peer::Unix(Some(unsafe { libc::geteuid() })));
}

/// A client that says goodbye after its last request must still get the answer.
fn a_half_closed_client_gets_what_was_queued<B: Backend + 'static>() {
    let world = World::<B>::new(Role::Echo);
    let mut stream = connect(&world);
    let bytes = pattern(300_000);
    let mut writer = stream.try_clone().expect("a second handle");
    let sent = bytes.clone();
    let thread = std::thread::spawn(move || {
        writer.write_all(&sent).expect("written");
        writer.shutdown(Shutdown::Write).expect("half closed");
    });
    let mut back = Vec::new();
    stream.read_to_end(&mut back).expect("the end comes in order");
    thread.join().expect("written");
    assert!(back == bytes);
    assert_eq!(world.wait_closed(), ClosedBy::Peer);
}

/// A client that crashes is reported once, and its slot serves the next.
fn a_reset_is_reported_with_its_cause<B: Backend + 'static>() {
    let world = World::<B>::new(Role::Echo);
    let mut stream = connect(&world);
    exchange(&mut stream, b"hello");
    let linger = libc::linger { l_onoff: 1, l_linger: 0 };
    // SAFETY: the option's value lives over the call and its size is given.
    unsafe {
        use std::os::fd::AsRawFd;
        let size = size_of::<libc::linger>() as libc::socklen_t;
        libc::setsockopt(stream.as_raw_fd(), libc::SOL_SOCKET, libc::SO_LINGER, (&raw const linger).cast(), size);
    }
    drop(stream);
    assert!(matches!(world.wait_closed(), ClosedBy::Error(words) if words.contains("reset")));
    exchange(&mut connect(&world), b"next");
}

/// An error message must not be lost to the reset that a socket closed over unread bytes sends.
fn words_of_refusal_arrive_over_bytes_that_nobody_read<B: Backend + 'static>() {
    let world = World::<B>::new(Role::Refuse("go away"));
    for _ in 0..20 {
        let mut stream = connect(&world);
        stream.write_all(b"x").expect("written");
        world.wait(|seen| matches!(seen, Seen::Closed(..)).then_some(()));
        stream.write_all(&pattern(100_000)).expect("the other end still takes it");
        let mut words = String::new();
        stream.read_to_string(&mut words).expect("the end comes in order");
        assert_eq!(words, "go away");
    }
}

/// Connections by the thousand, opened and dropped at once: none is lost, no slot is left over.
fn a_storm_of_connections_passes<B: Backend + 'static>() {
    let world = World::<B>::new(Role::Echo);
    let address = world.address;
    let threads: Vec<_> = (0..4)
        .map(|_| {
            std::thread::spawn(move || {
                for i in 0..250 {
                    let mut stream = TcpStream::connect(address).expect("accepted");
                    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
                    if i % 5 != 0 {
                        exchange(&mut stream, b"hello");
                    }
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().expect("answered");
    }
    let mut closed = 0;
    world.wait(|seen| {
        closed += usize::from(matches!(seen, Seen::Closed(..)));
        (closed == 1000).then_some(())
    });
    exchange(&mut connect(&world), b"one more");
    assert!(world.on(0, |_, driver| driver.table.len()) <= 2);
}

/// What is said to hundreds of clients in one turn, in pieces, takes more operations than a ring has room for: each
/// client must get its own, or one reads what another was told.
fn each_of_many_is_told_its_own<B: Backend + 'static>() {
    let world = World::<B>::new(Role::Echo);
    let mut streams: Vec<_> = (0..600).map(|_| connect(&world)).collect();
    let mut conns = std::collections::HashMap::new();
    world.wait(|seen| {
        if let Seen::Accepted(conn, Peer::Tcp(_, port)) = seen {
            conns.insert(*port, *conn);
        }
        (conns.len() == 600).then_some(())
    });
    let said = |port: u16, round: u32| format!("{port:5} {round};");
    for _ in 0..5 {
        let conns = conns.clone();
        world.on(0, move |_, driver| {
            for round in 0..4 {
                conns
                    .iter()
                    .for_each(|(port, conn)| driver.send(*conn, &[Slice::Bytes(said(*port, round).as_bytes())]));
            }
        });
        for stream in &mut streams {
            let port = stream.local_addr().expect("bound").port();
            let expected: String = (0..4).map(|round| said(port, round)).collect();
            let mut bytes = vec![0; expected.len()];
            stream.read_exact(&mut bytes).expect("told");
            assert_eq!(String::from_utf8_lossy(&bytes), expected);
        }
    }
}

/// Requests that wait for a server hold their buffers; others must still be read.
fn held_buffers_do_not_starve_others<B: Backend + 'static>() {
    let world = World::<B>::with(Role::Hoard, Setup { buffers: 64, ..Setup::default() });
    let mut first = connect(&world);
    let mut second = connect(&world);
    for _ in 0..25 {
        exchange(&mut first, b"kept");
        exchange(&mut second, b"kept too");
    }
}

/// A bug met by one client costs that client.
fn a_panic_costs_one_connection<B: Backend + 'static>() {
    let world = World::<B>::new(Role::Fragile);
    let mut bystander = connect(&world);
    exchange(&mut bystander, b"before");
    for _ in 0..100 {
        let mut stream = connect(&world);
        stream.write_all(b"panic").expect("written");
        let mut rest = Vec::new();
        // An end or a reset: both are a closed connection.
        let _ = stream.read_to_end(&mut rest);
        assert!(rest.is_empty());
    }
    exchange(&mut bystander, b"after");
    let events = world.hub.outbox.take().events;
    assert_eq!(events.iter().filter(|(_, e)| e.name == "panic").count(), 100);
}

super::over_both!(
    bytes_come_back_in_order,
    peers_are_named,
    a_half_closed_client_gets_what_was_queued,
    a_reset_is_reported_with_its_cause,
    words_of_refusal_arrive_over_bytes_that_nobody_read,
    a_storm_of_connections_passes,
    each_of_many_is_told_its_own,
    held_buffers_do_not_starve_others,
    a_panic_costs_one_connection,
);
