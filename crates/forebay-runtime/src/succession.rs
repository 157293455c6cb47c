//! Connections between two processes: a thread of each sits at one end of a Unix socket.
//!
//! | old process | new process |
//! |---|---|
//! | a batch of groups, with their descriptors | examines each: can it be read in? |
//! | | a byte for each, taken or not; gives to its workers what it has taken |
//! | gives back to its workers what was not taken, and closes its copies | |
//!
//! A group is the old process's until the answer is sent, and then the new one's. Both know which it is: an answer that
//! was sent is read, and once the old one has shut its end ([`answer`]) none can be sent. Where that is gone, its end is
//! made sure of first ([`Pid::has_ended`]).
//!
//! So it is with the place: to accept clients for good, and the files. When all has moved that can, the old one offers it,
//! and the new one accepts. If the channel breaks before that, and the old one lives, the new one lets go of what it has
//! and ends; behind it, the old one does.

mod channel;

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Instant;

use forebay_core::command::{Command, CommandId};
use forebay_core::event::{Event, Field, Level};
use forebay_core::ids::WorkerId;
use forebay_core::moving::{Arrival, Damaged, State, examine, schema};
use forebay_core::worker::{Message, Shared};

use zeroize::Zeroizing;

pub(crate) use self::channel::shut;
use self::channel::{ANSWER_TIMEOUT, Pid, answer, read_exact, set_timeout, write_all};
use crate::driver::Handover;
use crate::hub::{Hub, Mail};
use crate::place::Place;
use crate::socket::{receive_with, send_with};
use crate::tls::FORMAT;

/// Descriptors of one batch; the kernel takes 253.
const FDS_MAX: usize = 64;
/// Bytes of a batch beyond which nothing is added to it.
const BATCH_BYTES: usize = 1 << 20;
/// Bytes of one group that are believed: what a client may have waiting, many times over.
const GROUP_BYTES_MAX: usize = 1 << 30;
/// What stands before a connection's parts: whether it has TLS, the length of that, what is to be written: how many bytes of
/// core's that stands for, its length.
const CONNECTION_HEAD: usize = 17;
/// The order that workers are given where nobody waits for its reply.
pub(crate) const NOBODYS: CommandId = CommandId(u64::MAX);

const BATCH: u8 = b'G';
const END: u8 = b'E';
/// The place is offered, and accepted.
const PLACE: u8 = b'P';
const ACCEPTED: u8 = b'A';
const HELD: u8 = b'H';
/// Bytes of what is said of servers that are held.
const HELD_BYTES_MAX: u32 = 1 << 24;

/// What crosses consists of, as a number: groups, and what stands beside them. Who has another can't read it.
pub fn state_schema() -> u64 {
    schema() ^ u64::from(FORMAT).rotate_right(8)
}

/// A group that a worker hands on.
pub(crate) struct Parcel {
    pub(crate) worker: WorkerId,
    pub(crate) number: u64,
    pub(crate) state: State,
    pub(crate) connections: Vec<Handover>,
}

impl Parcel {
    /// To the worker that it came from, to go on there and to be tried again.
    pub(crate) fn give_back(self, hub: &Hub) {
        self.return_to_worker(hub, false);
    }

    /// The same, to go on there.
    fn give_back_refused(self, hub: &Hub) {
        self.return_to_worker(hub, true);
    }

    fn return_to_worker(self, hub: &Hub, is_refused: bool) {
        let Parcel { worker, number, state, connections } = self;
        let arrival = Arrival { state, connections, counted: Some(number), is_refused };
        hub.post(worker, Mail::Told(worker, Message::Group(Box::new(arrival))));
    }
}

/// What the sending thread is told.
pub(crate) enum Sending {
    Group(Parcel),
    /// How many servers there still are.
    Held(Vec<Held>),
    /// The place is the other's. The answer says whether that has accepted it.
    Place(Sender<bool>),
    End,
}

/// Servers of a pool: database, user, how many.
pub(crate) type Held = (String, String, u32);

/// Starts the thread that passes groups to the process at the other end of `socket`.
pub(crate) fn start_sending(hub: Arc<Hub>, socket: OwnedFd) -> io::Result<Sender<Sending>> {
    set_timeout(&socket)?;
    let (sender, parcels) = channel();
    crate::engine::spawn("forebay-succeed".to_owned(), move || send(&hub, &socket, &parcels))?;
    Ok(sender)
}

fn send(hub: &Hub, socket: &OwnedFd, parcels: &Receiver<Sending>) {
    let socket = socket.as_raw_fd();
    let mut passed = 0;
    while let Ok(first) = parcels.recv() {
        let mut next = Some(first);
        while let Some(sending) = next.take() {
            let done = match sending {
                Sending::Group(parcel) => {
                    let batch;
                    (batch, next) = fill_batch(parcel, parcels);
                    passed += batch.len() as u64;
                    pass(hub, socket, batch)
                }
                Sending::Held(held) => say_held(socket, &held),
                Sending::Place(answer) => give_place(socket).inspect(|()| {
                    hub.place.set(Place::Given);
                    // Who asked waits for it, or ends.
                    let _ = answer.send(true);
                }),
                Sending::End => {
                    // Whether it is heard or not: all has been passed on.
                    let _ = write_all(socket, &[END]);
                    return;
                }
            };
            if let Err(error) = done {
                if let Some(Sending::Group(parcel)) = next {
                    parcel.give_back(hub);
                }
                shut(socket);
                return fail(hub, parcels, passed, &error);
            }
        }
    }
}

/// A group and those behind it that are there by now; and what stands behind them.
fn fill_batch(first: Parcel, parcels: &Receiver<Sending>) -> (Vec<Parcel>, Option<Sending>) {
    let mut batch = vec![first];
    loop {
        let fds: usize = batch.iter().map(|parcel| parcel.connections.len()).sum();
        let bytes: usize = batch.iter().map(|parcel| parcel.state.len()).sum();
        if fds + 2 > FDS_MAX || bytes > BATCH_BYTES {
            return (batch, None);
        }
        match parcels.try_recv() {
            Ok(Sending::Group(parcel)) => batch.push(parcel),
            other => return (batch, other.ok()),
        }
    }
}

/// The other process has the place if it says so; and if it does not, it can't any more when this returns.
fn give_place(socket: RawFd) -> io::Result<()> {
    let mut word = [0];
    write_all(socket, &[PLACE])?;
    answer(socket, &mut word)?;
    if word[0] == ACCEPTED { Ok(()) } else { Err(damaged()) }
}

fn say_held(socket: RawFd, held: &[Held]) -> io::Result<()> {
    let text = serde_json::to_vec(held).map_err(io::Error::other)?;
    if text.len() > HELD_BYTES_MAX as usize {
        // What is not told counts for longer; that breaks nothing.
        return Ok(());
    }
    let mut out = vec![HELD];
    out.extend_from_slice(&(text.len() as u32).to_le_bytes());
    out.extend_from_slice(&text);
    write_all(socket, &out)
}

/// Passes a batch on; what is not taken, and all where that fails, goes back to its workers.
fn pass(hub: &Hub, socket: RawFd, batch: Vec<Parcel>) -> io::Result<()> {
    let taken = match offer(socket, &batch) {
        Ok(taken) => taken,
        Err(error) => {
            batch.into_iter().for_each(|parcel| parcel.give_back(hub));
            return Err(error);
        }
    };
    for (parcel, taken) in batch.into_iter().zip(taken) {
        if taken == 1 {
            hub.post(parcel.worker, Mail::Told(parcel.worker, Message::Arrived(parcel.number)));
        } else {
            event(hub, Level::Error, "group_refused", vec![("bytes", (parcel.state.len() as u64).into())]);
            parcel.give_back_refused(hub);
        }
    }
    Ok(())
}

fn offer(socket: RawFd, batch: &[Parcel]) -> io::Result<Vec<u8>> {
    let fds: Vec<RawFd> = batch.iter().flat_map(|parcel| parcel.connections.iter().map(Handover::fd)).collect();
    let mut head = vec![BATCH];
    head.extend_from_slice(&(batch.len() as u32).to_le_bytes());
    for parcel in batch {
        head.push(parcel.connections.len() as u8);
        head.extend_from_slice(&(parcel.state.len() as u64).to_le_bytes());
    }
    let sent = send_with(socket, &head, &fds)?;
    write_all(socket, &head[sent..])?;
    for parcel in batch {
        write_all(socket, &parcel.state)?;
        for connection in &parcel.connections {
            offer_connection(socket, connection)?;
        }
    }
    let mut taken = vec![0; batch.len()];
    answer(socket, &mut taken)?;
    Ok(taken)
}

/// What a connection has besides its descriptor.
fn offer_connection(socket: RawFd, connection: &Handover) -> io::Result<()> {
    let tls = connection.tls();
    let mut head = [0; CONNECTION_HEAD];
    head[0] = u8::from(tls.is_some());
    let tls = tls.unwrap_or_default();
    head[1..5].copy_from_slice(&(tls.len() as u32).to_le_bytes());
    head[5..9].copy_from_slice(&connection.unsent_plain().to_le_bytes());
    head[9..].copy_from_slice(&(connection.unsent().len() as u64).to_le_bytes());
    write_all(socket, &head)?;
    write_all(socket, &tls)?;
    write_all(socket, connection.unsent())
}

/// The other process is gone or broken: nothing moves any more, and all that has not gone stays here; where the place is
/// the other's, until its transaction ends.
fn fail(hub: &Hub, parcels: &Receiver<Sending>, passed: u64, error: &io::Error) {
    event(hub, Level::Error, "succession_failed", vec![("error", error.to_string().into()), ("groups", passed.into())]);
    hub.stop_handing();
    let is_given = hub.place.get() == Place::Given;
    if !is_given {
        hub.place.set(Place::Ours);
    }
    let order = if is_given { Command::Drain } else { Command::Stay };
    order_all(hub, &order);
    // Until the last worker has let go of its end of the channel.
    while let Ok(sending) = parcels.recv_timeout(ANSWER_TIMEOUT) {
        if let Sending::Group(parcel) = sending {
            parcel.give_back(hub);
        }
    }
}

fn order_all(hub: &Hub, order: &Command) {
    for worker in (0..hub.mailboxes.len()).map(|worker| WorkerId(worker as u16)) {
        hub.post(worker, Mail::Command(NOBODYS, order.clone()));
    }
}

/// Starts the thread that takes over what the process at the other end of `socket` passes on. `settles`: called when the place is ours.
pub(crate) fn start_receiving(
    hub: Arc<Hub>,
    shared: Arc<Shared>,
    socket: OwnedFd,
    settles: impl FnOnce() + Send + 'static,
) -> io::Result<()> {
    let old = Pid::behind(socket.as_raw_fd())?;
    let socket = Arc::new(socket);
    hub.start_receiving(socket.clone());
    crate::engine::spawn("forebay-succeed".to_owned(), move || {
        receive(&hub, &shared, &socket, &old, settles);
        hub.stop_receiving();
        // Servers that have not come are gone, or stay where nobody tells of them any more.
        expect_at_most(&hub, &shared, &[]);
    })?;
    Ok(())
}

/// The old process holds no more servers than these: whoever waits for room in a pool is told.
fn expect_at_most(hub: &Hub, shared: &Shared, held: &[Held]) {
    for pool in shared.expect_at_most(held) {
        for worker in (0..hub.mailboxes.len()).map(|worker| WorkerId(worker as u16)) {
            hub.post(worker, Mail::Told(worker, Message::PermitFree(pool.clone())));
        }
    }
}

fn receive(hub: &Hub, shared: &Shared, socket: &OwnedFd, old: &Pid, settles: impl FnOnce()) {
    let mut settles = Some(settles);
    let socket = socket.as_raw_fd();
    let (mut groups, mut connections, mut next) = (0_u64, 0_u64, 0_usize);
    let how = loop {
        match take(socket, old) {
            Ok(Taken::Place) => {
                if let Err(error) = write_all(socket, &[ACCEPTED]) {
                    break failure(&error);
                }
                hub.place.set(Place::Ours);
                settles.take().into_iter().for_each(|settles| settles());
            }
            Ok(Taken::Held(held)) => expect_at_most(hub, shared, &held),
            Ok(Taken::Groups(batch)) => {
                for (state, own) in batch {
                    groups += 1;
                    connections += own.len() as u64;
                    let worker = WorkerId((next % hub.mailboxes.len()) as u16);
                    next += 1;
                    let arrival = Arrival { state, connections: own, counted: None, is_refused: false };
                    hub.post(worker, Mail::Told(worker, Message::Group(Box::new(arrival))));
                }
            }
            Ok(Taken::End) => break "whole",
            Err(error) => break failure(&error),
        }
    };
    // It is over for the other side as well, which may sit there and wait.
    shut(socket);
    if hub.place.get() == Place::Coming {
        if old.has_ended() {
            hub.place.set(Place::Ours);
            settles.take().into_iter().for_each(|settles| settles());
        } else {
            hub.place.set(Place::Lost);
            order_all(hub, &Command::Drain);
        }
    }
    let fields = vec![("groups", groups.into()), ("connections", connections.into()), ("how", how.into())];
    event(hub, Level::Info, "taken_over", fields);
}

fn failure(error: &io::Error) -> &'static str {
    if error.kind() == io::ErrorKind::UnexpectedEof { "cut: the old process has ended" } else { "broken" }
}

/// What the old process has passed on.
enum Taken {
    /// Ours from here on: a state each, and its connections.
    Groups(Vec<(State, Vec<Handover>)>),
    /// How many servers it still has.
    Held(Vec<Held>),
    /// The place.
    Place,
    End,
}

fn take(socket: RawFd, old: &Pid) -> io::Result<Taken> {
    take_with(socket, old, examine)
}

/// `examine`: says how many connections a state speaks of.
fn take_with(socket: RawFd, old: &Pid, examine: impl Fn(&[u8]) -> Result<usize, Damaged>) -> io::Result<Taken> {
    let mut fds = Vec::new();
    let mut kind = [0];
    let got = receive_with(socket, &mut kind, &mut fds)?;
    match (got, kind[0]) {
        (0, _) => Err(io::ErrorKind::UnexpectedEof.into()),
        (_, END) => Ok(Taken::End),
        (_, PLACE) => Ok(Taken::Place),
        (_, HELD) => take_held(socket),
        (_, BATCH) => take_groups(socket, old, fds, examine),
        _ => Err(damaged()),
    }
}

fn take_held(socket: RawFd) -> io::Result<Taken> {
    let mut length = [0; 4];
    read_exact(socket, &mut length)?;
    let mut text = vec![0; u32::from_le_bytes(length).min(HELD_BYTES_MAX) as usize];
    read_exact(socket, &mut text)?;
    serde_json::from_slice(&text).map(Taken::Held).map_err(|_| damaged())
}

fn take_groups(
    socket: RawFd,
    old: &Pid,
    fds: Vec<OwnedFd>,
    examine: impl Fn(&[u8]) -> Result<usize, Damaged>,
) -> io::Result<Taken> {
    let began = Instant::now();
    let mut count = [0; 4];
    read_exact(socket, &mut count)?;
    let count = u32::from_le_bytes(count) as usize;
    if count > FDS_MAX {
        return Err(damaged());
    }
    let mut heads = vec![[0_u8; 9]; count];
    for head in &mut heads {
        read_exact(socket, head)?;
    }
    let (mut batch, mut taken, mut fds) = (Vec::new(), Vec::new(), fds.into_iter());
    for [connections, length @ ..] in heads {
        let mut state = read_part(socket, u64::from_le_bytes(length))?;
        let mut own = Vec::new();
        for _ in 0..connections {
            // All is read, whether it can be used or not: the next one follows.
            own.extend(take_connection(socket, fds.next())?);
        }
        let state = State::new(std::mem::take(&mut *state));
        // Fewer descriptors than were sent have come where this process may have no more (MSG_CTRUNC).
        let is_whole = own.len() == usize::from(connections) && examine(&state) == Ok(own.len());
        taken.push(u8::from(is_whole));
        batch.push((state, own));
    }
    match write_all(socket, &taken) {
        Ok(()) => {}
        // Killed before it could hear it: nobody else has them. Later than that it may have given up, and gone on itself.
        Err(_) if began.elapsed() < ANSWER_TIMEOUT / 2 && old.has_ended() => {}
        Err(error) => return Err(error),
    }
    let ours = batch.into_iter().zip(taken).filter(|(_, taken)| *taken == 1).map(|(group, _)| group);
    Ok(Taken::Groups(ours.collect()))
}

/// What [`offer_connection`] wrote. None: it can't be used.
fn take_connection(socket: RawFd, fd: Option<OwnedFd>) -> io::Result<Option<Handover>> {
    let mut head = [0; CONNECTION_HEAD];
    read_exact(socket, &mut head)?;
    let [has_tls, rest @ ..] = head;
    let (tls_length, rest) = rest.split_first_chunk().ok_or_else(damaged)?;
    let (unsent_plain, unsent_length) = rest.split_first_chunk().ok_or_else(damaged)?;
    let unsent_length = unsent_length.try_into().map_err(|_| damaged())?;
    let tls = read_part(socket, u32::from_le_bytes(*tls_length).into())?;
    let unsent = std::mem::take(&mut *read_part(socket, u64::from_le_bytes(unsent_length))?);
    let tls = (has_tls == 1).then_some(&tls[..]);
    let unsent_plain = u32::from_le_bytes(*unsent_plain);
    Ok(fd.and_then(|fd| Handover::arrived(fd, unsent, unsent_plain, tls)))
}

fn read_part(socket: RawFd, length: u64) -> io::Result<Zeroizing<Vec<u8>>> {
    let length = usize::try_from(length).ok().filter(|length| *length <= GROUP_BYTES_MAX).ok_or_else(damaged)?;
    let mut part = Zeroizing::new(vec![0; length]);
    read_exact(socket, &mut part)?;
    Ok(part)
}

fn damaged() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "the other process says what nobody understands")
}

fn event(hub: &Hub, level: Level, name: &'static str, fields: Vec<(&'static str, Field)>) {
    hub.outbox.event(Event { level, name, code: None, worker: WorkerId(0), fields });
}

#[cfg(test)]
mod tests;
