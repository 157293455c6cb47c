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

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use forebay_core::command::{Command, CommandId};
use forebay_core::event::{Event, Field, Level};
use forebay_core::ids::WorkerId;
use forebay_core::moving::{Arrival, Damaged, State, examine};
use forebay_core::worker::{Message, Shared};

use crate::driver::Handover;
use crate::hub::{Hub, Mail};
use crate::place::Place;
use crate::socket::{receive_with, send_with};

/// Descriptors of one batch; the kernel takes 253.
const FDS_MAX: usize = 64;
/// Bytes of a batch beyond which nothing is added to it.
const BATCH_BYTES: usize = 1 << 20;
/// Bytes of one group that are believed: what a client may have waiting, many times over.
const GROUP_BYTES_MAX: usize = 1 << 30;
/// How long the other side may be silent in the middle of a batch.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the old process may take to end once its socket has.
const END_TIMEOUT: Duration = Duration::from_millis(if cfg!(test) { 50 } else { 2000 });
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

fn shut(socket: RawFd) {
    // SAFETY: no pointers. One that is shut by the other side is no less so for us.
    unsafe { libc::shutdown(socket, libc::SHUT_RDWR) };
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
        let unsent = |at: usize| parcel.connections.get(at).map_or(0, |connection| connection.unsent().len() as u64);
        for length in [parcel.state.len() as u64, unsent(0), unsent(1)] {
            head.extend_from_slice(&length.to_le_bytes());
        }
    }
    let sent = send_with(socket, &head, &fds)?;
    write_all(socket, &head[sent..])?;
    for parcel in batch {
        write_all(socket, &parcel.state)?;
        for connection in &parcel.connections {
            write_all(socket, connection.unsent())?;
        }
    }
    let mut taken = vec![0; batch.len()];
    answer(socket, &mut taken)?;
    Ok(taken)
}

/// Reads the other process's answer. If there is none, there can't be one any more when this returns.
fn answer(socket: RawFd, words: &mut [u8]) -> io::Result<()> {
    read_exact(socket, words).or_else(|error| {
        shut(socket);
        // What it said before that can still be read.
        read_exact(socket, words).map_err(|_| error)
    })
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
    crate::engine::spawn("forebay-succeed".to_owned(), move || {
        receive(&hub, &shared, &socket, &old, settles);
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
    let mut count = [0; 4];
    read_exact(socket, &mut count)?;
    let count = u32::from_le_bytes(count) as usize;
    if count > FDS_MAX {
        return Err(damaged());
    }
    let mut heads = vec![[0_u8; 25]; count];
    for head in &mut heads {
        read_exact(socket, head)?;
    }
    let (mut batch, mut taken, mut fds) = (Vec::new(), Vec::new(), fds.into_iter());
    for [connections, lengths @ ..] in heads {
        let mut parts = Vec::new();
        for length in lengths.as_chunks::<8>().0 {
            parts.push(read_part(socket, u64::from_le_bytes(*length))?);
        }
        let (state, unsent) = (State::new(parts.remove(0)), parts);
        let own: Vec<Handover> = fds
            .by_ref()
            .take(usize::from(connections))
            .zip(unsent)
            .map(|(fd, unsent)| Handover::plain(fd, unsent))
            .collect();
        // Fewer descriptors than were sent have come where this process may have no more (MSG_CTRUNC).
        let is_whole = examine(&state).is_ok_and(|count| count == own.len());
        taken.push(u8::from(is_whole));
        batch.push((state, own));
    }
    match write_all(socket, &taken) {
        Ok(()) => {}
        // Killed before it could hear it: nobody else has them.
        Err(_) if old.has_ended() => {}
        Err(error) => return Err(error),
    }
    let ours = batch.into_iter().zip(taken).filter(|(_, taken)| *taken == 1).map(|(group, _)| group);
    Ok(Taken::Groups(ours.collect()))
}

fn read_part(socket: RawFd, length: u64) -> io::Result<Vec<u8>> {
    let length = usize::try_from(length).ok().filter(|length| *length <= GROUP_BYTES_MAX).ok_or_else(damaged)?;
    let mut part = vec![0; length];
    read_exact(socket, &mut part)?;
    Ok(part)
}

fn damaged() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "the other process says what nobody understands")
}

/// The process at the other end of a socket.
struct Pid(OwnedFd);

impl Pid {
    fn behind(socket: RawFd) -> io::Result<Pid> {
        let pid = crate::socket::peer_pid(socket)?;
        // SAFETY: no pointers.
        let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) } as libc::c_int;
        crate::socket::check(fd)?;
        // SAFETY: just created, owned by nobody else.
        Ok(Pid(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Whether it ends, now or shortly.
    fn has_ended(&self) -> bool {
        let mut poll = libc::pollfd { fd: self.0.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one entry, which lives over the call.
        unsafe { libc::poll(&raw mut poll, 1, END_TIMEOUT.as_millis() as libc::c_int) > 0 }
    }
}

fn set_timeout(socket: &OwnedFd) -> io::Result<()> {
    let timeout = libc::timeval { tv_sec: ANSWER_TIMEOUT.as_secs() as libc::time_t, tv_usec: 0 };
    let length = size_of::<libc::timeval>() as libc::socklen_t;
    for option in [libc::SO_RCVTIMEO, libc::SO_SNDTIMEO] {
        let value = (&raw const timeout).cast();
        // SAFETY: `timeout` lives over the call and its size is given.
        crate::socket::check(unsafe { libc::setsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, option, value, length) })?;
    }
    Ok(())
}

fn write_all(socket: RawFd, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        let sent = send_with(socket, bytes, &[])?;
        bytes = &bytes[sent..];
    }
    Ok(())
}

fn read_exact(socket: RawFd, mut bytes: &mut [u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match receive_with(socket, bytes, &mut Vec::new())? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            got => bytes = &mut bytes[got..],
        }
    }
    Ok(())
}

fn event(hub: &Hub, level: Level, name: &'static str, fields: Vec<(&'static str, Field)>) {
    hub.outbox.event(Event { level, name, code: None, worker: WorkerId(0), fields });
}

#[cfg(test)]
mod tests;
