//! What the threads of one engine share.

use std::net::IpAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};

use forebay_core::command::{Command, CommandId};
use forebay_core::config::TcpOptions;
use forebay_core::ids::{ConnId, QuestionId, WorkerId};
use forebay_core::io::Peer;
use forebay_core::question::Answer;
use forebay_core::stats::WorkerStats;
use forebay_core::worker::Message;

use crate::clock::Clock;
use crate::cluster::Clusters;
use crate::derive::Deriver;
use crate::driver::Handover;
use crate::fleet::Fleet;
use crate::mailbox::Mailbox;
use crate::os_user::OsUsers;
use crate::outbox::Outbox;
use crate::place::SharedPlace;
use crate::resolve::{Found, News, Resolver};
use crate::succession::{Parcel, Sending, shut};
use crate::tls::context::Contexts;

/// What reaches a worker from another thread.
pub(crate) enum Mail {
    /// Another worker's message.
    Told(WorkerId, Message<Handover>),
    /// A client that this worker is to serve, accepted by another.
    Client(Handover, Peer),
    /// Python's order.
    Command(CommandId, Command),
    /// Python's answer, or a side thread's.
    Answer(QuestionId, Answer),
    /// Python is still at work for the answer.
    Patience(QuestionId),
    /// Addresses for a connect.
    Resolved(ConnId, Found),
    /// A name has other addresses.
    Readdressed(Arc<str>, Arc<[IpAddr]>),
    /// The end.
    Stop,
}

/// See the module's text.
pub(crate) struct Hub {
    pub(crate) clock: Clock,
    pub(crate) mailboxes: Arc<[Mailbox<Mail>]>,
    pub(crate) outbox: Arc<Outbox>,
    pub(crate) stats: Vec<Arc<WorkerStats>>,
    pub(crate) clusters: Arc<Clusters>,
    /// What the fleet's node tells, for the metrics.
    pub(crate) fleet: Arc<Fleet>,
    pub(crate) resolver: Resolver,
    pub(crate) deriver: Deriver,
    pub(crate) os_users: OsUsers,
    tls: Mutex<Arc<Contexts>>,
    tcp: Mutex<TcpOptions>,
    ask_timeout_us: AtomicU64,
    /// How this process stands to the place that it listens at.
    pub(crate) place: SharedPlace,
    /// The way to the process that succeeds this one.
    handing: Mutex<Option<Sender<Sending>>>,
    /// What comes from the process that this one succeeds.
    receiving: Mutex<Option<Arc<OwnedFd>>>,
}

impl Hub {
    /// Starts the side threads of an engine with `workers` workers.
    ///
    /// `clock`: that of the process that it succeeds.
    pub(crate) fn start(
        workers: u16,
        tls: Contexts,
        ask_timeout_us: u64,
        clock: Option<Clock>,
    ) -> std::io::Result<Hub> {
        let mailboxes: Arc<[Mailbox<Mail>]> = (0..workers).map(|_| Mailbox::new()).collect::<Result<_, _>>()?;
        let post = mailboxes.clone();
        let resolver = Resolver::start(move |news| match news {
            News::Found((worker, conn), found) => post[usize::from(worker.0)].post(Mail::Resolved(conn, found)),
            News::Changed(host, addresses) => {
                post.iter().for_each(|mailbox| mailbox.post(Mail::Readdressed(host.clone(), addresses.clone())));
            }
        })?;
        let post = mailboxes.clone();
        let deriver = Deriver::start(move |worker: WorkerId, id, answer| {
            post[usize::from(worker.0)].post(Mail::Answer(id, answer));
        })?;
        let post = mailboxes.clone();
        let os_users = OsUsers::start(move |worker: WorkerId, id, answer| {
            post[usize::from(worker.0)].post(Mail::Answer(id, answer));
        })?;
        Ok(Hub {
            clock: clock.unwrap_or_else(Clock::start),
            mailboxes,
            outbox: Arc::new(Outbox::new()?),
            stats: (0..workers).map(|_| Arc::default()).collect(),
            clusters: Arc::default(),
            fleet: Arc::default(),
            resolver,
            deriver,
            os_users,
            tls: Mutex::new(Arc::new(tls)),
            tcp: Mutex::default(),
            ask_timeout_us: AtomicU64::new(ask_timeout_us),
            place: SharedPlace::default(),
            handing: Mutex::default(),
            receiving: Mutex::default(),
        })
    }

    pub(crate) fn post(&self, worker: WorkerId, mail: Mail) {
        if let Some(mailbox) = self.mailboxes.get(usize::from(worker.0)) {
            mailbox.post(mail);
        }
    }

    /// A group that a worker hands on; back to it, if there is no process to take it.
    pub(crate) fn hand_on(&self, parcel: Parcel) {
        let handing = self.handing.lock().unwrap_or_else(PoisonError::into_inner);
        let left = match &*handing {
            Some(sender) => sender.send(Sending::Group(parcel)).err().map(|unsent| unsent.0),
            None => Some(Sending::Group(parcel)),
        };
        drop(handing);
        if let Some(Sending::Group(parcel)) = left {
            parcel.give_back(self);
        }
    }

    /// From here on groups go to the process at the end of this channel.
    pub(crate) fn start_handing(&self, sender: Sender<Sending>) {
        *self.handing.lock().unwrap_or_else(PoisonError::into_inner) = Some(sender);
    }

    /// How many servers there still are, for the process that succeeds this one.
    pub(crate) fn tell_held(&self, held: Vec<(String, String, u32)>) {
        if let Some(sender) = &*self.handing.lock().unwrap_or_else(PoisonError::into_inner) {
            // A thread that has failed has said so.
            let _ = sender.send(Sending::Held(held));
        }
    }

    /// Offers the place to the process that succeeds this one. Returns whether it has accepted it.
    pub(crate) fn give_place(&self) -> bool {
        let (answer, given) = channel();
        let handing = self.handing.lock().unwrap_or_else(PoisonError::into_inner);
        let is_asked = handing.as_ref().is_some_and(|sender| sender.send(Sending::Place(answer)).is_ok());
        drop(handing);
        // A thread that fails drops the question.
        is_asked && given.recv().unwrap_or(false)
    }

    /// From here on they stay.
    pub(crate) fn stop_handing(&self) -> Option<Sender<Sending>> {
        self.handing.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Groups come through this socket.
    pub(crate) fn start_receiving(&self, socket: Arc<OwnedFd>) {
        *self.receiving.lock().unwrap_or_else(PoisonError::into_inner) = Some(socket);
    }

    /// No more of them: who leaves takes over nothing. The other process goes on with what it has.
    pub(crate) fn stop_receiving(&self) {
        if let Some(socket) = self.receiving.lock().unwrap_or_else(PoisonError::into_inner).take() {
            shut(socket.as_raw_fd());
        }
    }

    /// Whether groups go nowhere any more.
    pub(crate) fn handing_is_over(&self) -> bool {
        self.handing.lock().unwrap_or_else(PoisonError::into_inner).is_none()
    }

    /// The certificates in force.
    pub(crate) fn tls(&self) -> Arc<Contexts> {
        self.tls.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Puts other certificates in force, for handshakes that begin from here on.
    pub(crate) fn set_tls(&self, mut contexts: Contexts) {
        let mut tls = self.tls.lock().unwrap_or_else(PoisonError::into_inner);
        contexts.keep(&tls);
        *tls = Arc::new(contexts);
    }

    /// How connections that begin now are kept.
    pub(crate) fn tcp(&self) -> TcpOptions {
        *self.tcp.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn set_tcp(&self, options: TcpOptions) {
        *self.tcp.lock().unwrap_or_else(PoisonError::into_inner) = options;
    }

    pub(crate) fn ask_timeout_us(&self) -> u64 {
        self.ask_timeout_us.load(Ordering::Relaxed)
    }

    pub(crate) fn set_ask_timeout_us(&self, us: u64) {
        self.ask_timeout_us.store(us, Ordering::Relaxed);
    }
}
