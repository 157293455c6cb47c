//! The engine for Python: start, reload, orders, answers, counters, stop.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, RwLock, RwLockReadGuard};

use forebay_core::auth::Credential;
use forebay_core::command::Command;
use forebay_core::config::EngineConfig;
use forebay_core::ids::{QuestionId, WorkerId};
use forebay_core::question::Answer;
use forebay_core::stats::WorkerStats;
use forebay_runtime::{Engine, Host, Outbox, ReloadError, StartError, fill_random};
use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::prelude::*;

use crate::batch::PyBatch;
use crate::cluster::PyCluster;
use crate::counters;
use crate::estate::PyEstate;
use crate::fleet::PyFleetFigures;

pyo3::create_exception!(forebay._engine, EngineError, pyo3::exceptions::PyException);

/// A running engine: threads that serve clients without ever calling Python.
#[pyclass(frozen, name = "Engine", module = "forebay._engine")]
pub(crate) struct PyEngine {
    // `None` once it is stopped. Readers are all calls but `stop`; none of them keeps it for long.
    engine: RwLock<Option<Engine>>,
    // Outlive the engine, so that its last words can be fetched.
    outbox: Arc<Outbox>,
    stats: Vec<Arc<WorkerStats>>,
    listeners: Vec<String>,
    metrics_address: Option<String>,
    driver: &'static str,
    driver_reason: Option<String>,
    workers: u16,
    // Of verifiers that are derived from what Python tells.
    scram_iterations: AtomicU32,
}

#[pymethods]
impl PyEngine {
    #[new]
    #[pyo3(signature = (config, inherited = Vec::new()))]
    fn start(py: Python<'_>, config: &[u8], inherited: Vec<i32>) -> PyResult<PyEngine> {
        let config = read_config(config)?;
        let scram_iterations = AtomicU32::new(config.auth.access.iterations());
        let engine = py.detach(|| Engine::start_on(config, &inherited)).map_err(|error| start_error(&error))?;
        Ok(PyEngine::of(engine, scram_iterations))
    }

    #[staticmethod]
    fn succeed(py: Python<'_>, config: &[u8], estate: PyEstate) -> PyResult<PyEngine> {
        let config = read_config(config)?;
        let estate = estate.read();
        let scram_iterations = AtomicU32::new(config.auth.access.iterations());
        let engine = py.detach(|| Engine::succeed(config, estate)).map_err(|error| start_error(&error))?;
        Ok(PyEngine::of(engine, scram_iterations))
    }

    fn estate(&self) -> PyResult<PyEstate> {
        match &*self.read() {
            Some(engine) => Ok(PyEstate::of(engine.estate())),
            None => Err(stopped()),
        }
    }

    fn hand_over(&self, py: Python<'_>, socket: i32) -> PyResult<()> {
        py.detach(|| self.running(|engine| engine.hand_over(socket)))
    }

    fn tell_held(&self, py: Python<'_>, held: Vec<(String, String, u32)>) -> PyResult<()> {
        py.detach(|| {
            self.running(|engine| {
                engine.tell_held(held);
                Ok(())
            })
        })
    }

    fn give_place(&self, py: Python<'_>) -> bool {
        py.detach(|| self.read().as_ref().is_some_and(Engine::give_place))
    }

    /// How this process stands to the place that it listens at.
    #[getter]
    fn place(&self) -> &'static str {
        self.read().as_ref().map_or("lost", |engine| engine.place().name())
    }

    fn end_hand_over(&self, py: Python<'_>) -> PyResult<()> {
        py.detach(|| {
            self.running(|engine| {
                engine.end_hand_over();
                Ok(())
            })
        })
    }

    fn take_over(&self, py: Python<'_>, socket: i32) -> PyResult<()> {
        py.detach(|| self.running(|engine| engine.take_over(socket)))
    }

    fn reload(&self, py: Python<'_>, config: &[u8]) -> PyResult<()> {
        let config = read_config(config)?;
        let iterations = config.auth.access.iterations();
        py.detach(|| match &*self.read() {
            Some(engine) => {
                engine.reload(config).map_err(|error| reload_error(&error))?;
                self.scram_iterations.store(iterations, Ordering::Relaxed);
                Ok(())
            }
            None => Err(stopped()),
        })
    }

    fn set_leaving(&self, py: Python<'_>, is_leaving: bool) -> PyResult<()> {
        py.detach(|| {
            self.running(|engine| {
                engine.set_leaving(is_leaving);
                Ok(())
            })
        })
    }

    fn fileno(&self) -> i32 {
        self.outbox.fd()
    }

    fn log_fileno(&self) -> i32 {
        self.outbox.log_fd()
    }

    fn take(&self, py: Python<'_>) -> PyBatch {
        py.detach(|| PyBatch::from(self.outbox.take()))
    }

    #[pyo3(signature = (kind, argument = None))]
    fn command(&self, py: Python<'_>, kind: &str, argument: Option<Argument>) -> PyResult<(u64, u16)> {
        let command = command(kind, argument)?;
        py.detach(|| match &*self.read() {
            Some(engine) => Ok((engine.command(None, &command).0, self.workers)),
            None => Err(stopped()),
        })
    }

    fn set_roles(&self, py: Python<'_>, database: &str, cluster: &PyCluster) -> PyResult<(u64, u16)> {
        let (found, replayed) = cluster.found();
        py.detach(|| match &*self.read() {
            Some(engine) => {
                engine.watch(database, cluster.watched());
                let command = Command::Roles(database.into(), found.into(), replayed.since(engine.clock_origin()));
                Ok((engine.command(None, &command).0, self.workers))
            }
            None => Err(stopped()),
        })
    }

    fn share(&self, py: Python<'_>, database: &str, servers: u32, until_us: u64, after: u32) -> PyResult<(u64, u16)> {
        py.detach(|| match &*self.read() {
            Some(engine) => Ok((engine.share(database, servers, until_us, after).0, self.workers)),
            None => Err(stopped()),
        })
    }

    fn tell_fleet(&self, py: Python<'_>, figures: PyFleetFigures) {
        let told = figures.read();
        py.detach(|| {
            if let Some(engine) = &*self.read() {
                engine.tell_fleet(told);
            }
        });
    }

    fn servers_of(&self, database: &str) -> PyResult<u32> {
        match &*self.read() {
            Some(engine) => Ok(engine.servers_of(database)),
            None => Err(stopped()),
        }
    }

    #[pyo3(signature = (worker, question, secret))]
    fn answer_secret(&self, py: Python<'_>, worker: u16, question: u64, secret: Option<&str>) -> PyResult<()> {
        let iterations = self.scram_iterations.load(Ordering::Relaxed);
        let credential = py
            .detach(|| secret.map(|text| Credential::prepare(text, iterations, &mut fill_random)).transpose())
            .map_err(|error| PyValueError::new_err(error.to_string()))?;
        self.answer(py, worker, question, Answer::Secret(credential));
        Ok(())
    }

    fn answer_verdict(&self, py: Python<'_>, worker: u16, question: u64, is_right: bool) {
        self.answer(py, worker, question, Answer::Verdict(is_right));
    }

    fn answer_console(&self, py: Python<'_>, worker: u16, question: u64, messages: &[u8]) {
        self.answer(py, worker, question, Answer::Console(messages.into()));
    }

    fn tell_console(&self, py: Python<'_>, worker: u16, question: u64, messages: &[u8]) {
        self.answer(py, worker, question, Answer::ConsolePart(messages.into()));
    }

    fn extend_question(&self, py: Python<'_>, worker: u16, question: u64) {
        py.detach(|| {
            if let Some(engine) = &*self.read() {
                engine.extend(WorkerId(worker), QuestionId(question));
            }
        });
    }

    fn answer_failed(&self, py: Python<'_>, worker: u16, question: u64, because: &str) {
        self.answer(py, worker, question, Answer::Failed(because.into()));
    }

    fn stats(&self, py: Python<'_>) -> String {
        py.detach(|| counters::to_json(&self.stats))
    }

    /// Names of servers; how many are looked up, and how many wait for that.
    fn hosts(&self, py: Python<'_>) -> (Vec<HostRow>, usize, usize) {
        py.detach(|| match &*self.read() {
            Some(engine) => {
                let (hosts, under_way, waiting) = engine.hosts();
                let words = |host: Host| {
                    let addresses = host.addresses.iter().map(ToString::to_string).collect();
                    (host.name.to_string(), host.ttl.as_secs(), addresses)
                };
                (hosts.into_iter().map(words).collect(), under_way, waiting)
            }
            None => (Vec::new(), 0, 0),
        })
    }

    /// Whether a replica has refused a text that was taken for a reading one.
    fn was_refused(&self, py: Python<'_>, endpoint: &str, dbname: &str, text: &str) -> bool {
        py.detach(|| self.read().as_ref().is_some_and(|engine| engine.was_refused(endpoint, dbname, text.as_bytes())))
    }

    fn worker_stats(&self, py: Python<'_>) -> String {
        py.detach(|| counters::workers_to_json(&self.stats))
    }

    fn stop(&self, py: Python<'_>) {
        py.detach(|| {
            let engine = self.engine.write().unwrap_or_else(std::sync::PoisonError::into_inner).take();
            if let Some(engine) = engine {
                engine.stop();
            }
        });
    }

    #[getter]
    fn listeners(&self) -> Vec<String> {
        self.listeners.clone()
    }

    #[getter]
    fn metrics_address(&self) -> Option<String> {
        self.metrics_address.clone()
    }

    #[getter]
    fn driver(&self) -> &'static str {
        self.driver
    }

    #[getter]
    fn driver_reason(&self) -> Option<String> {
        self.driver_reason.clone()
    }

    #[getter]
    fn workers(&self) -> u16 {
        self.workers
    }
}

impl PyEngine {
    fn of(engine: Engine, scram_iterations: AtomicU32) -> PyEngine {
        PyEngine {
            outbox: engine.outbox().clone(),
            stats: engine.stats().to_vec(),
            listeners: engine.listeners().to_vec(),
            metrics_address: engine.metrics_address().map(|address| address.to_string()),
            driver: engine.driver().name,
            driver_reason: engine.driver().reason.clone(),
            workers: engine.workers(),
            scram_iterations,
            engine: RwLock::new(Some(engine)),
        }
    }

    fn running(&self, act: impl FnOnce(&Engine) -> std::io::Result<()>) -> PyResult<()> {
        match &*self.read() {
            Some(engine) => act(engine).map_err(|error| failure("system", &error.to_string())),
            None => Err(stopped()),
        }
    }

    fn read(&self) -> RwLockReadGuard<'_, Option<Engine>> {
        self.engine.read().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// An answer for an engine that was stopped meanwhile has nobody left to read it.
    fn answer(&self, py: Python<'_>, worker: u16, question: u64, answer: Answer) {
        py.detach(|| {
            if let Some(engine) = &*self.read() {
                engine.answer(WorkerId(worker), QuestionId(question), answer);
            }
        });
    }
}

/// Name, seconds until it is looked up again, addresses.
type HostRow = (String, u64, Vec<String>);

/// What a command is about.
#[derive(FromPyObject)]
enum Argument {
    Number(u64),
    Name(String),
}

fn command(kind: &str, argument: Option<Argument>) -> PyResult<Command> {
    let database = |argument: Option<Argument>| match argument {
        None => Ok(None),
        Some(Argument::Name(name)) => Ok(Some(name.into())),
        Some(Argument::Number(_)) => Err(PyValueError::new_err("the argument is a database's name")),
    };
    match (kind, argument) {
        ("pause", argument) => database(argument).map(Command::Pause),
        ("resume", argument) => database(argument).map(Command::Resume),
        ("unpause", argument) => database(argument).map(Command::Unpause),
        ("reconnect", argument) => database(argument).map(Command::Reconnect),
        ("wait_close", argument) => database(argument).map(Command::WaitClose),
        ("disable", Some(Argument::Name(name))) => Ok(Command::Disable(name.into())),
        ("enable", Some(Argument::Name(name))) => Ok(Command::Enable(name.into())),
        ("close", None) => Ok(Command::Close),
        ("shed", None) => Ok(Command::Shed),
        ("kill", Some(Argument::Name(name))) => Ok(Command::Kill(name.into())),
        ("kill_client", Some(Argument::Number(id))) => Ok(Command::KillClient(id)),
        ("drain", None) => Ok(Command::Drain),
        ("cut", None) => Ok(Command::Cut),
        ("hand_on", None) => Ok(Command::HandOn),
        ("let_go", None) => Ok(Command::LetGo),
        ("stay", None) => Ok(Command::Stay),
        ("snapshot", None) => Ok(Command::Snapshot),
        ("sockets", None) => Ok(Command::Sockets),
        ("suspend", None) => Ok(Command::Suspend),
        ("drop_unflushed", None) => Ok(Command::DropUnflushed),
        _ => Err(PyValueError::new_err(format!("\"{kind}\" is no command, or its argument is of another type"))),
    }
}

fn read_config(json: &[u8]) -> PyResult<EngineConfig> {
    // serde_json quotes what it could not read, and a secret might stand there: only the place is told.
    serde_json::from_slice(json).map_err(|error| {
        let place = format!("line {}, column {}", error.line(), error.column());
        failure("config", &format!("the resolved configuration can't be read at {place}"))
    })
}

fn start_error(error: &StartError) -> PyErr {
    let kind = match error {
        StartError::Listen(e) | StartError::Metrics(e) if e.cause.kind() == std::io::ErrorKind::AddrInUse => {
            "address_in_use"
        }
        StartError::Listen(_) | StartError::Metrics(_) => "address",
        StartError::Driver(_) => "io",
        StartError::System(_) => "system",
        _ => "config",
    };
    failure(kind, &error.to_string())
}

fn reload_error(error: &ReloadError) -> PyErr {
    failure("config", &error.to_string())
}

fn failure(kind: &str, message: &str) -> PyErr {
    EngineError::new_err((message.to_owned(), kind.to_owned()))
}

fn stopped() -> PyErr {
    PyRuntimeError::new_err("the engine is stopped")
}
