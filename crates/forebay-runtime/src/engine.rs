//! The engine: threads, started and stopped together.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use forebay_core::command::{Command, CommandId};
use forebay_core::config::{EngineConfig, IoDriver};
use forebay_core::ids::{QuestionId, WorkerId};
use forebay_core::question::Answer;
use forebay_core::stats::WorkerStats;
use forebay_core::tables::{ConfigError, Tables};
use forebay_core::worker::{Legacy, Shared, Worker};

use crate::clock::Clock;
use crate::driver::Driver;
use crate::driver::backend::Backend;
use crate::driver::epoll::Epoll;
use crate::driver::uring::Uring;
use crate::estate::Estate;
use crate::hub::{Hub, Mail};
use crate::listen::{ListenError, Listener, Listeners, UnixFile};
use crate::metrics::MetricsServer;
use crate::outbox::Outbox;
use crate::place::Place;
use crate::resolve::Host;
use crate::succession::{NOBODYS, Sending};
use crate::tls::context::{Contexts, TlsError};

/// Most workers of an engine.
const WORKERS_MAX: usize = 256;

/// The driver in use, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DriverChoice {
    /// `io_uring` or `epoll`.
    pub name: &'static str,
    /// Why not io_uring, where it was not refused by the configuration.
    pub reason: Option<String>,
}

/// Why an engine did not start. Nothing is left behind.
#[derive(Debug)]
pub enum StartError {
    /// An address could not be bound.
    Listen(ListenError),
    /// The metrics address could not be bound.
    Metrics(ListenError),
    /// A TLS file could not be used.
    Tls(TlsError),
    /// The configuration can't be prepared.
    Config(ConfigError),
    /// io_uring was demanded and can't be had.
    Driver(io::Error),
    /// The system refused a thread or a descriptor.
    System(io::Error),
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StartError::Listen(e) => write!(f, "cannot listen on {}: {}", e.address, e.cause),
            StartError::Metrics(e) => write!(f, "cannot serve metrics on {}: {}", e.address, e.cause),
            StartError::Tls(e) => e.fmt(f),
            StartError::Config(e) => e.fmt(f),
            StartError::Driver(e) => write!(f, "io_uring cannot be used: {e}; set engine.io to \"auto\" or \"epoll\""),
            StartError::System(e) => write!(f, "the system refuses what the engine needs: {e}"),
        }
    }
}

impl std::error::Error for StartError {}

/// Why a reload changed nothing.
#[derive(Debug)]
pub enum ReloadError {
    /// These settings are read at start only, and differ.
    NeedsRestart(Vec<&'static str>),
    /// A TLS file could not be used.
    Tls(TlsError),
    /// The configuration can't be prepared.
    Config(ConfigError),
}

impl fmt::Display for ReloadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ReloadError::NeedsRestart(names) => write!(f, "needs a restart: {}", names.join(", ")),
            ReloadError::Tls(e) => e.fmt(f),
            ReloadError::Config(e) => e.fmt(f),
        }
    }
}

impl std::error::Error for ReloadError {}

/// A running engine. Dropping it stops it.
pub struct Engine {
    pub(crate) hub: Arc<Hub>,
    driver: DriverChoice,
    listeners: Vec<String>,
    /// Their descriptors, which the workers own.
    sockets: Vec<RawFd>,
    metrics: Option<MetricsServer>,
    /// The configuration in force, for the next reload; held over a reload, so that two do not mix.
    tables: Mutex<Arc<Tables>>,
    /// How many orders were given; held while one is sent, so that all workers get all of them in one sequence.
    commands: Mutex<u64>,
    threads: Vec<JoinHandle<()>>,
    // Dropped after the threads have ended: see `stop`.
    unix: Mutex<Option<UnixFile>>,
    pub(crate) shared: Arc<Shared>,
}

impl Engine {
    /// Binds every address, loads every file, then starts the threads. All or nothing.
    pub fn start(config: EngineConfig) -> Result<Engine, StartError> {
        Engine::start_on(config, &[])
    }

    /// The same on sockets that a service manager has bound, in place of those that the configuration names.
    pub fn start_on(config: EngineConfig, inherited: &[RawFd]) -> Result<Engine, StartError> {
        Engine::begin(config, inherited, None)
    }

    /// The same in the place of another process: on its sockets, and with its clock, its names and its numbers. Its
    /// connections come when [`Engine::take_over`] is called.
    pub fn succeed(config: EngineConfig, before: Estate) -> Result<Engine, StartError> {
        let sockets = before.sockets.clone();
        Engine::begin(config, &sockets, Some(before))
    }

    fn begin(config: EngineConfig, inherited: &[RawFd], before: Option<Estate>) -> Result<Engine, StartError> {
        crate::open_files::raise_limit();
        if !config.engine.core_dumps {
            crate::dumpable::hide_memory();
        }
        let driver = choose_driver(&config)?;
        let is_uring = driver.name == Uring::NAME;
        let workers = worker_count(config.engine.workers);
        let tls = Contexts::load(&config).map_err(StartError::Tls)?;
        let (buffers, size) = (config.engine.buffers, config.engine.buffer_size);
        let tables = Tables::build(config, None, &mut crate::random::fill).map_err(StartError::Config)?;
        let tables = Arc::new(tables);
        let config = &tables.config;
        let bound = match &before {
            Some(_) => Listeners::succeed(inherited, &config.tcp, workers, !is_uring),
            None if inherited.is_empty() => Listeners::bind(&config.listen, &config.tcp, workers, !is_uring),
            None => Listeners::adopt(inherited, &config.tcp, workers, !is_uring),
        }
        .map_err(StartError::Listen)?;
        let sockets = bound.by_worker.iter().flatten().map(|listener| listener.fd.as_raw_fd()).collect();
        let clock = before.as_ref().map(|before| Clock::of(before.clock));
        let hub = Hub::start(workers, tls, config.auth.ask_timeout, clock).map_err(StartError::System)?;
        hub.set_tcp(config.tcp);
        hub.resolver.set_options(config.dns);
        if before.is_some() {
            hub.place.set(Place::Coming);
        }
        let hub = Arc::new(hub);
        let metrics = match &config.metrics {
            None => None,
            Some(m) => {
                let listening = before.as_ref().and_then(|before| before.metrics).map(owned).transpose();
                let listening = listening.map_err(StartError::System)?;
                Some(MetricsServer::start(&m.address, &hub, &tables, listening).map_err(StartError::Metrics)?)
            }
        };
        let mut engine = Engine {
            hub,
            driver,
            listeners: bound.addresses,
            sockets,
            metrics,
            tables: Mutex::new(tables.clone()),
            commands: Mutex::new(0),
            threads: Vec::new(),
            unix: Mutex::new(bound.unix),
            shared: Arc::new(Shared::new(0)),
        };
        let mut random = [0; 8];
        crate::random::fill(&mut random);
        let shared = Arc::new(match &before {
            Some(before) => Shared::succeeding(workers, &before.legacy),
            None => Shared::with_names_of(workers, u64::from_ne_bytes(random)),
        });
        engine.shared = shared.clone();
        for (database, user, count) in before.iter().flat_map(|before| &before.held) {
            shared.expect_servers(&database.as_str().into(), &user.as_str().into(), *count);
        }
        let orders: Arc<[Command]> = before.map_or_else(Vec::new, |before| before.orders).into();
        orders.iter().for_each(|order| engine.metrics.iter().for_each(|metrics| metrics.heard(order)));
        let part = Part { tables, shared, buffers, size, orders };
        let started = if is_uring {
            engine.start_workers::<Uring>(bound.by_worker, &part)
        } else {
            engine.start_workers::<Epoll>(bound.by_worker, &part)
        };
        // An engine that is dropped stops those that did start.
        started.map_err(StartError::System)?;
        Ok(engine)
    }

    fn start_workers<B: Backend + 'static>(&mut self, listeners: Vec<Vec<Listener>>, part: &Part) -> io::Result<()> {
        let files = u32::try_from(crate::open_files::limit()).unwrap_or(u32::MAX);
        part.shared.crowd.set_files_max(files);
        let (ready, started) = channel();
        let count = listeners.len();
        for (i, listeners) in listeners.into_iter().enumerate() {
            let (hub, part, ready) = (self.hub.clone(), part.clone(), ready.clone());
            let id = WorkerId(i as u16);
            let thread =
                spawn(format!("forebay-work-{i}"), move || run_worker::<B>(hub, id, listeners, &part, &ready))?;
            self.threads.push(thread);
        }
        for _ in 0..count {
            started.recv().map_err(|_| io::Error::other("a worker ended at its start"))??;
        }
        Ok(())
    }

    /// Where clients connect: addresses with ports, and the path of the Unix socket.
    pub fn listeners(&self) -> &[String] {
        &self.listeners
    }

    /// Where metrics are served.
    pub fn metrics_address(&self) -> Option<SocketAddr> {
        self.metrics.as_ref().map(MetricsServer::address)
    }

    /// The driver in use.
    pub fn driver(&self) -> &DriverChoice {
        &self.driver
    }

    /// How this process stands to the place that it listens at.
    pub fn place(&self) -> Place {
        self.hub.place.get()
    }

    /// How many workers there are.
    pub fn workers(&self) -> u16 {
        self.hub.mailboxes.len() as u16
    }

    /// The names of servers, how many are looked up at the moment, and how many wait for that.
    pub fn hosts(&self) -> (Vec<Host>, usize, usize) {
        self.hub.resolver.hosts()
    }

    /// What each worker counts.
    pub fn stats(&self) -> &[Arc<WorkerStats>] {
        &self.hub.stats
    }

    /// Events, questions and replies for Python.
    pub fn outbox(&self) -> &Arc<Outbox> {
        &self.hub.outbox
    }

    /// Puts another configuration in force: everything is loaded and prepared first, and nothing changes if
    /// anything of it fails. Blocks for as long as new passwords take to be derived; never called on a loop.
    pub fn reload(&self, config: EngineConfig) -> Result<(), ReloadError> {
        let mut tables = self.tables.lock().unwrap_or_else(PoisonError::into_inner);
        let names = crate::restart::needs_restart(&tables.config, &config);
        if !names.is_empty() {
            return Err(ReloadError::NeedsRestart(names));
        }
        let tls = Contexts::load(&config).map_err(ReloadError::Tls)?;
        let (ask_timeout, tcp, dns) = (config.auth.ask_timeout, config.tcp, config.dns);
        let next = Tables::build(config, Some(&tables), &mut crate::random::fill).map_err(ReloadError::Config)?;
        let next = Arc::new(next);
        self.hub.set_tls(tls);
        self.hub.set_ask_timeout_us(ask_timeout);
        self.hub.set_tcp(tcp);
        self.hub.resolver.set_options(dns);
        self.command(None, &Command::Reload(next.clone()));
        *tables = next;
        Ok(())
    }

    /// Says on /readyz that load balancers are to send nobody here, or takes it back. Clients are served all the same.
    pub fn set_leaving(&self, is_leaving: bool) {
        self.metrics.iter().for_each(|metrics| metrics.set_leaving(is_leaving));
    }

    /// Sends an order to one worker, or to all: then each of them replies with the same id.
    pub fn command(&self, worker: Option<WorkerId>, command: &Command) -> CommandId {
        let mut commands = self.commands.lock().unwrap_or_else(PoisonError::into_inner);
        let id = CommandId(*commands);
        *commands += 1;
        if let Some(metrics) = &self.metrics {
            metrics.heard(command);
        }
        if matches!(command, Command::Drain | Command::Cut | Command::Close) {
            self.hub.stop_receiving();
        }
        for i in 0..self.workers() {
            if worker.is_none_or(|w| w.0 == i) {
                self.hub.post(WorkerId(i), Mail::Command(id, command.clone()));
            }
        }
        id
    }

    /// Answers a question of a worker's.
    pub fn answer(&self, worker: WorkerId, id: QuestionId, answer: Answer) {
        self.hub.post(worker, Mail::Answer(id, answer));
    }

    /// What a process needs to begin in the place of this one.
    pub fn estate(&self) -> Estate {
        let last_id = self.hub.stats.iter().map(|stats| stats.last_id.get()).max().unwrap_or_default();
        let legacy = Legacy {
            prefix: self.shared.registry.prefix().into(),
            last_statement: self.shared.registry.last_id(),
            last_id: last_id.max(self.shared.first_id),
        };
        let metrics = self.metrics.as_ref().map(MetricsServer::fd);
        let (sockets, clock) = (self.sockets.clone(), self.hub.clock.origin());
        Estate { sockets, metrics, clock, legacy, held: Vec::new(), orders: Vec::new() }
    }

    /// Passes connections on to the process at the other end of `socket`, from [`Command::HandOn`] on.
    pub fn hand_over(&self, socket: RawFd) -> io::Result<()> {
        let sender = crate::succession::start_sending(self.hub.clone(), owned(socket)?)?;
        self.hub.place.set(Place::Giving);
        self.hub.start_handing(sender);
        Ok(())
    }

    /// All has moved that can: the other process gets the place. Returns whether it has it; if not, this one goes on. Waits
    /// for its answer; never called on a loop.
    pub fn give_place(&self) -> bool {
        let is_given = self.hub.give_place();
        if let Some(metrics) = self.metrics.as_ref().filter(|_| is_given) {
            metrics.leave();
        }
        is_given
    }

    /// Tells the other process how many servers this one still has: database, user, count.
    pub fn tell_held(&self, held: Vec<(String, String, u32)>) {
        self.hub.tell_held(held);
    }

    /// All has been passed on: the other process is told so.
    pub fn end_hand_over(&self) {
        if let Some(sender) = self.hub.stop_handing() {
            // A thread that has failed has given everything back.
            let _ = sender.send(Sending::End);
        }
    }

    /// Takes connections from the process at the other end of `socket`.
    pub fn take_over(&self, socket: RawFd) -> io::Result<()> {
        let starter = self.metrics.as_ref().map(MetricsServer::starter);
        let settles = move || starter.into_iter().for_each(|start| start());
        crate::succession::start_receiving(self.hub.clone(), self.shared.clone(), owned(socket)?, settles)
    }

    /// The answer to a question takes longer than usual: the worker waits for it anew.
    pub fn extend(&self, worker: WorkerId, id: QuestionId) {
        self.hub.post(worker, Mail::Patience(id));
    }

    /// Closes everything and waits for the threads to end.
    pub fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        self.hub.stop_receiving();
        for i in 0..self.workers() {
            self.hub.post(WorkerId(i), Mail::Stop);
        }
        for thread in self.threads.drain(..) {
            // A worker that panicked outside of an input has said so on standard error.
            let _ = thread.join();
        }
        drop(self.metrics.take());
        let file = self.unix.lock().unwrap_or_else(PoisonError::into_inner).take();
        match self.hub.place.get() {
            Place::Ours => drop(file),
            _ => file.into_iter().for_each(UnixFile::leave),
        }
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.end();
    }
}

/// A descriptor of the caller's, as one of our own.
fn owned(fd: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: the descriptor is open over the call, or it fails; the copy is ours.
    unsafe { BorrowedFd::borrow_raw(fd) }.try_clone_to_owned()
}

/// What each worker starts with.
#[derive(Clone)]
struct Part {
    tables: Arc<Tables>,
    shared: Arc<Shared>,
    buffers: u32,
    size: u32,
    /// In force before anybody is served.
    orders: Arc<[Command]>,
}

fn run_worker<B: Backend>(
    hub: Arc<Hub>,
    id: WorkerId,
    listeners: Vec<Listener>,
    part: &Part,
    ready: &Sender<io::Result<()>>,
) {
    let stats = hub.stats[usize::from(id.0)].clone();
    // Built on its own thread: the kernel ties a ring to the thread that submits to it.
    let mut driver = match Driver::<B>::open(hub, id, listeners, part.buffers, part.size) {
        Ok(driver) => driver,
        Err(error) => {
            // The starter waits for it, or has given up for another worker's error.
            let _ = ready.send(Err(error));
            return;
        }
    };
    let mut worker = Worker::<Driver<B>>::new(id, part.tables.clone(), part.shared.clone(), stats);
    for order in &*part.orders {
        worker.command(&mut driver, NOBODYS, order.clone());
    }
    let _ = ready.send(Ok(()));
    driver.run(&mut worker);
}

fn choose_driver(config: &EngineConfig) -> Result<DriverChoice, StartError> {
    let epoll = |reason| DriverChoice { name: Epoll::NAME, reason };
    let probe = || Uring::probe(config.engine.buffers, config.engine.buffer_size);
    match config.engine.io {
        IoDriver::Epoll => Ok(epoll(None)),
        IoDriver::Uring => {
            probe().map_err(StartError::Driver)?;
            Ok(DriverChoice { name: Uring::NAME, reason: None })
        }
        IoDriver::Auto => Ok(match probe() {
            Ok(()) => DriverChoice { name: Uring::NAME, reason: None },
            Err(error) => epoll(Some(format!("io_uring cannot be used: {error}"))),
        }),
    }
}

fn worker_count(configured: u16) -> u16 {
    let count = match configured {
        0 => std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
        n => usize::from(n),
    };
    count.min(WORKERS_MAX) as u16
}

/// A thread of the engine's: named, and with every signal blocked, as those belong to Python's main thread.
pub(crate) fn spawn(name: String, run: impl FnOnce() + Send + 'static) -> io::Result<JoinHandle<()>> {
    // SAFETY: sigset_t is plain integers; the calls write and read the two sets, which live over them. The mask of
    // the calling thread is put back before this returns, and the new thread inherits the blocked one.
    unsafe {
        let mut all: libc::sigset_t = std::mem::zeroed();
        let mut before: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&raw mut all);
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const all, &raw mut before);
        let thread = std::thread::Builder::new().name(name).spawn(run);
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const before, std::ptr::null_mut());
        thread
    }
}
