//! Connections that move: between workers, under traffic; and ids that died.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;

use forebay_core::ids::ConnId;
use forebay_core::io::{Close, Io, Slice};

use super::harness::{Order, PATIENCE, Role, Seen, Setup, World, pattern};
use super::secure::{Files, client_config, secure};
use crate::driver::Handover;
use crate::driver::backend::Backend;

/// A server that is lent while its bytes are on their way: each byte is seen once, by one worker or the other.
fn nothing_is_lost_or_doubled_by_a_hand_over<B: Backend + 'static>() {
    let world = World::<B>::with(Role::Pass, Setup { workers: 2, ..Setup::default() });
    let mut stream = TcpStream::connect(world.address).expect("accepted");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    let mut writer = stream.try_clone().expect("a second handle");
    let bytes = pattern(40_000);
    for round in 1..50 {
        // Pieces of many sizes, so that they meet the hand-over at every point.
        let sent = bytes.clone();
        let thread = std::thread::spawn(move || {
            for piece in sent.chunks(round * 37) {
                writer.write_all(piece).expect("written");
            }
            writer
        });
        let mut back = vec![0; bytes.len()];
        stream.read_exact(&mut back).expect("answered");
        writer = thread.join().expect("written");
        assert!(back == bytes);
        // All is quiet, so that the last wish to move comes true.
        world.wait(|seen| (*seen == Seen::Detached).then_some(()));
    }
}

/// More comes at once than the kernel has buffers for: the receive that is to be stopped ends for want of one.
fn a_connection_moves_also_where_buffers_run_out<B: Backend + 'static>() {
    let world = World::<B>::with(Role::Pass, Setup { buffers: 16, buffer_size: 1024, ..Setup::default() });
    let mut stream = UnixStream::connect(&world.unix).expect("accepted");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    world.wait(|seen| matches!(seen, Seen::Accepted(..)).then_some(()));
    let bytes = pattern(40 * 1024);
    for round in 0..5 {
        let (mut writer, sent) = (stream.try_clone().expect("a second handle"), bytes.clone());
        // On the worker's own thread, so that all is there when it looks.
        world.on(0, move |_, _| writer.write_all(&sent).expect("written"));
        let mut back = vec![0; bytes.len()];
        stream.read_exact(&mut back).unwrap_or_else(|error| panic!("round {round}: {error}"));
        assert!(back == bytes, "round {round}");
    }
}

/// TLS, as it moves to another process: wherever records are cut, and however slowly the client takes what is sent.
fn nothing_is_lost_or_doubled_where_tls_moves<B: Backend + 'static>() {
    let files = Files::new();
    let setup = Setup { workers: 2, tls: files.contexts(&[]), ..Setup::default() };
    let world = World::<B>::with(Role::TlsPass, setup);
    let mut stream = secure(&world, client_config(&files, &[]));
    stream.sock.set_nodelay(true).expect("set");
    let bytes = pattern(300_000);
    for round in 1..20 {
        let mut back = vec![0; bytes.len()];
        let (mut sent, mut got) = (0, 0);
        while got < bytes.len() {
            // Some of what is echoed is left to wait, so that it moves as well.
            if sent < bytes.len() && sent - got < 120_000 {
                let end = bytes.len().min(sent + round * 1777);
                stream.write_all(&bytes[sent..end]).expect("written");
                sent = end;
            } else {
                got += stream.read(&mut back[got..]).unwrap_or_else(|error| {
                    panic!("round {round}, {got} of {sent} are back: {error}\n{}", queues(&stream.sock))
                });
            }
        }
        assert!(back == bytes, "round {round}");
        world.wait(|seen| (*seen == Seen::Detached).then_some(()));
    }
}

/// Where bytes of a connection wait, as the kernel tells of both of its ends: tx_queue and rx_queue.
fn queues(stream: &TcpStream) -> String {
    let port = stream.local_addr().map_or(0, |address| address.port());
    let all = std::fs::read_to_string("/proc/net/tcp").unwrap_or_default();
    let of_port = all.lines().filter(|line| line.contains(&format!(":{port:04X} ")));
    of_port.collect::<Vec<_>>().join("\n")
}

/// Half a record comes while the connection is being taken out. Core hears of nothing, and must not wait for ever.
fn half_a_record_keeps_no_connection_from_moving<B: Backend + 'static>() {
    let files = Files::new();
    let setup = Setup { tls: files.contexts(&[]), ..Setup::default() };
    let world = World::<B>::with(Role::TlsEcho { direct: false }, setup);
    let mut stream = secure(&world, client_config(&files, &[]));
    stream.sock.set_nodelay(true).expect("set");
    for _ in 0..5 {
        stream.write_all(b"ping").expect("written");
        stream.read_exact(&mut [0; 4]).expect("answered");
        let conn = world.wait(|seen| if let Seen::Accepted(conn, _) = seen { Some(*conn) } else { None });
        let mut record = Vec::new();
        stream.conn.writer().write_all(b"halves").expect("memory");
        stream.conn.write_tls(&mut record).expect("memory");
        let (first, second) = record.split_at(9);
        let (mut sock, half) = (stream.sock.try_clone().expect("a second handle"), first.to_vec());
        world.on(0, move |consumer, _| {
            sock.write_all(&half).expect("written");
            // At the beginning of the turn that has the half record.
            let detach: Order<B> = Box::new(move |_, driver| driver.detach(conn));
            consumer.orders.lock().expect("no panic before").push(detach);
        });
        world.wait(|seen| (*seen == Seen::Detached).then_some(()));
        stream.sock.write_all(second).expect("written");
        let mut back = [0; 6];
        stream.read_exact(&mut back).expect("answered");
        assert_eq!(&back, b"halves");
    }
}

/// Idle: what `lend` does most.
fn an_idle_connection_moves_back_and_forth<B: Backend + 'static>() {
    let world = World::<B>::with(Role::Pass, Setup { workers: 2, ..Setup::default() });
    let mut stream = TcpStream::connect(world.address).expect("accepted");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    for _ in 0..100 {
        stream.write_all(b"ping").expect("written");
        let mut back = [0; 4];
        stream.read_exact(&mut back).expect("answered");
        world.wait(|seen| (*seen == Seen::Detached).then_some(()));
    }
}

/// A Unix socket has one listener; its clients must not all fall to one worker.
fn clients_of_a_unix_socket_are_handed_round<B: Backend + 'static>() {
    let world = World::<B>::with(Role::Echo, Setup { workers: 2, ..Setup::default() });
    let streams: Vec<_> = (0..10).map(|_| UnixStream::connect(&world.unix).expect("accepted")).collect();
    for mut stream in &streams {
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        stream.write_all(b"x").expect("written");
        stream.read_exact(&mut [0]).expect("answered");
    }
    for worker in 0..2 {
        assert_eq!(world.on(worker, |consumer, _| consumer.received), 5);
    }
}

/// An output for a client that left must not reach the next one in its slot.
fn a_dead_id_reaches_nobody<B: Backend + 'static>() {
    let world = World::<B>::new(Role::Echo);
    let accepted = |seen: &Seen| if let Seen::Accepted(conn, _) = seen { Some(*conn) } else { None };
    let first = TcpStream::connect(world.address).expect("accepted");
    let old = world.wait(accepted);
    drop(first);
    world.wait_closed();
    // The slot comes free with the kernel's last completion, a turn or two later.
    let mut others = Vec::new();
    let (mut stream, new) = loop {
        let stream = TcpStream::connect(world.address).expect("accepted");
        let new: ConnId = world.wait(accepted);
        if new.slot == old.slot {
            break (stream, new);
        }
        others.push(stream);
        assert!(others.len() < 100, "the slot is never used again");
    };
    assert_ne!(old.generation, new.generation);
    world.on(0, move |_, driver| {
        driver.send(old, &[Slice::Bytes(b"for somebody else")]);
        driver.pause_read(old);
        driver.detach(old);
        driver.close(old, Close::Now);
    });
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    stream.write_all(b"mine").expect("written");
    let mut back = [0; 4];
    stream.read_exact(&mut back).expect("answered");
    assert_eq!(&back, b"mine");
}

/// As a server that has come from another process and is closed at once, while that still holds it too: what happens on it
/// is nobody's, and least of all that of who gets its slot next.
fn what_another_process_still_holds_is_of_nobody_here_once_closed<B: Backend + 'static>() {
    let world = World::<B>::new(Role::Echo);
    for _ in 0..20 {
        let (mut peer, ours) = UnixStream::pair().expect("a pair");
        let held = ours.try_clone().expect("a second handle");
        world.on(0, move |_, driver| {
            let conn = driver.adopt(Handover::plain(ours.into()));
            driver.close(conn, Close::Now);
        });
        peer.write_all(b"late").expect("somebody holds the other end");
        drop(peer);
        // The worker has looked at what happened since.
        for _ in 0..3 {
            world.on(0, |_, _| ());
        }
        let mut next = TcpStream::connect(world.address).expect("accepted");
        next.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        next.write_all(b"mine").expect("written");
        let mut back = [0; 4];
        next.read_exact(&mut back).expect("answered");
        assert_eq!(&back, b"mine");
        drop(held);
    }
}

/// A client of which nothing may be read for now; then it may.
fn a_paused_connection_is_read_when_it_is_resumed<B: Backend + 'static>() {
    let world = World::<B>::new(Role::Sink);
    let mut stream = TcpStream::connect(world.address).expect("accepted");
    // Else the client's system waits for acknowledgements that are slow to come.
    stream.set_nodelay(true).expect("set");
    let conn = world.wait(|seen| if let Seen::Accepted(conn, _) = seen { Some(*conn) } else { None });
    for round in 1..=20 {
        stream.write_all(&[7; 1000]).expect("written");
        world.on(0, move |_, driver| driver.resume_read(conn));
        let deadline = std::time::Instant::now() + PATIENCE;
        while world.on(0, |consumer, _| consumer.received) < round * 1000 {
            assert!(std::time::Instant::now() < deadline, "nothing was read");
        }
        world.on(0, move |_, driver| driver.pause_read(conn));
    }
    assert_eq!(world.on(0, |consumer, _| consumer.received), 20_000);
}

/// Pausing and resuming within a turn, again and again, must not lose the wish to read.
fn the_last_wish_counts<B: Backend + 'static>() {
    let world = World::<B>::new(Role::Echo);
    let mut stream = TcpStream::connect(world.address).expect("accepted");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    let conn = world.wait(|seen| if let Seen::Accepted(conn, _) = seen { Some(*conn) } else { None });
    for _ in 0..50 {
        world.on(0, move |_, driver| {
            for _ in 0..5 {
                driver.pause_read(conn);
                driver.resume_read(conn);
            }
        });
        stream.write_all(b"ping").expect("written");
        let mut back = [0; 4];
        stream.read_exact(&mut back).expect("answered");
    }
}

super::over_both!(
    nothing_is_lost_or_doubled_by_a_hand_over,
    a_connection_moves_also_where_buffers_run_out,
    nothing_is_lost_or_doubled_where_tls_moves,
    half_a_record_keeps_no_connection_from_moving,
    an_idle_connection_moves_back_and_forth,
    clients_of_a_unix_socket_are_handed_round,
    a_dead_id_reaches_nobody,
    what_another_process_still_holds_is_of_nobody_here_once_closed,
    a_paused_connection_is_read_when_it_is_resumed,
    the_last_wish_counts,
);
