//! Connections that last: they get a place among the registered files, and it must not outlive them.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;

use forebay_core::ids::ConnId;
use forebay_core::io::{Close, Io};

use super::harness::{PATIENCE, Role, Seen, Setup, World};
use crate::driver::backend::Backend;
use crate::driver::table::{Flags, NOWHERE};
use crate::driver::uring::Uring;

/// Round trips that are enough for a place.
const ROUNDS: u32 = 40;

fn connect<B: Backend + 'static>(world: &World<B>) -> (TcpStream, ConnId) {
    let stream = TcpStream::connect(world.address).expect("accepted");
    stream.set_nodelay(true).expect("set");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    let conn = world.wait(|seen| if let Seen::Accepted(conn, _) = seen { Some(*conn) } else { None });
    (stream, conn)
}

fn echo(mut stream: &TcpStream, rounds: u32) {
    for round in 0..rounds {
        let sent = round.to_be_bytes();
        stream.write_all(&sent).expect("written");
        let mut back = [0; 4];
        stream.read_exact(&mut back).expect("answered");
        assert_eq!(back, sent);
    }
}

fn assert_ended(mut stream: &TcpStream) {
    match stream.read(&mut [0]) {
        Ok(0) => {}
        Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
        other => panic!("no end: {other:?}"),
    }
}

/// The place, once the kernel has agreed to it.
fn place_of<B: Backend + 'static>(world: &World<B>, worker: usize, slot: u32) -> Option<u32> {
    world.on(worker, move |_, driver| {
        let conn = driver.table.conn(slot);
        conn.is(Flags::SEATED).then_some(conn.place)
    })
}

/// A pooled connection lasts; a health check's does not, and pays for nothing.
#[test]
fn a_connection_that_lasts_has_a_place_and_a_short_one_has_none() {
    let world = World::<Uring>::new(Role::Echo);
    let (lasting, lasting_id) = connect(&world);
    let (short, short_id) = connect(&world);
    echo(&lasting, ROUNDS);
    echo(&short, 3);
    assert!(place_of(&world, 0, lasting_id.slot).is_some(), "this kernel has registered files");
    assert_eq!(place_of(&world, 0, short_id.slot), None);
}

/// A place that is not emptied holds the socket open: the client of a closed connection would hang.
fn a_peer_sees_the_end_of_a_connection_that_lasted<B: Backend + 'static>() {
    let world = World::<B>::new(Role::Echo);
    for how in [Close::Now, Close::AfterSend, Close::Now] {
        let (stream, conn) = connect(&world);
        echo(&stream, ROUNDS);
        world.on(0, move |_, driver| driver.close(conn, how));
        assert_ended(&stream);
        drop(stream);
    }
}

/// The next connection in a place must not get what the one before was sent.
fn a_place_is_the_next_one_s_wholly<B: Backend + 'static>() {
    let world = World::<B>::new(Role::Echo);
    let mut streams = Vec::new();
    for _ in 0..20 {
        let (stream, conn) = connect(&world);
        echo(&stream, ROUNDS);
        let (other, _) = connect(&world);
        // Closed while its answer is on the way, and its place taken in the same turn or the next.
        (&stream).write_all(b"late").expect("written");
        world.on(0, move |_, driver| driver.close(conn, Close::Now));
        echo(&other, ROUNDS);
        streams.push(other);
    }
    streams.iter().for_each(|stream| echo(stream, 5));
}

/// A server that is lent: the worker that it leaves must not keep it open, and the next gives it a place of its own.
fn a_connection_that_lasted_moves_with_nothing_left_behind<B: Backend + 'static>() {
    let world = World::<B>::with(Role::Echo, Setup { workers: 2, ..Setup::default() });
    let (stream, mut conn) = connect(&world);
    let mut worker = (0..2)
        .find(|worker| world.on(*worker, move |_, driver| driver.table.open(conn).is_some()))
        .expect("one of them has it");
    for _ in 0..4 {
        echo(&stream, ROUNDS);
        world.on(worker, move |_, driver| driver.detach(conn));
        world.wait(|seen| (*seen == Seen::Detached).then_some(()));
        let left = conn.slot;
        assert_eq!(world.on(worker, move |_, driver| driver.table.conn(left).place), NOWHERE);
        worker = 1 - worker;
        conn = world.wait(|seen| if let Seen::Accepted(conn, _) = seen { Some(*conn) } else { None });
    }
    echo(&stream, ROUNDS);
    world.on(worker, move |_, driver| driver.close(conn, Close::Now));
    assert_ended(&stream);
}

/// Places run out, or the kernel has none: all goes on without.
#[test]
fn who_gets_no_place_is_served_as_well() {
    let world = World::<Uring>::new(Role::Echo);
    world.on(0, |_, driver| driver.back.forget_places());
    let (stream, conn) = connect(&world);
    echo(&stream, ROUNDS);
    assert_eq!(place_of(&world, 0, conn.slot), None);
    world.on(0, move |_, driver| driver.close(conn, Close::Now));
    assert_ended(&stream);
}

super::over_both!(
    a_peer_sees_the_end_of_a_connection_that_lasted,
    a_place_is_the_next_one_s_wholly,
    a_connection_that_lasted_moves_with_nothing_left_behind,
);
