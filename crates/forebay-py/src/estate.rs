//! What a process leaves to its successor, for Python to pass on.

use forebay_core::command::Command;
use forebay_runtime::{Estate, Legacy};
use pyo3::prelude::*;

/// Sockets that it listens at, the metrics server's, its clock; the names and numbers of statements, clients and servers.
#[derive(FromPyObject, IntoPyObject)]
pub(crate) struct PyEstate {
    #[pyo3(item)]
    sockets: Vec<i32>,
    #[pyo3(item)]
    metrics: Option<i32>,
    #[pyo3(item)]
    clock: u64,
    #[pyo3(item)]
    prefix: String,
    #[pyo3(item)]
    last_statement: u64,
    #[pyo3(item)]
    last_id: u64,
    #[pyo3(item)]
    held: Vec<(String, String, u32)>,
    /// Names of databases; "*": all.
    #[pyo3(item)]
    paused: Vec<String>,
    #[pyo3(item)]
    disabled: Vec<String>,
}

impl PyEstate {
    pub(crate) fn of(estate: Estate) -> PyEstate {
        // What is paused is told by the workers.
        let Estate { sockets, metrics, clock, legacy, held, orders: _ } = estate;
        let Legacy { prefix, last_statement, last_id } = legacy;
        let prefix = String::from_utf8_lossy(&prefix).into_owned();
        let (paused, disabled) = (Vec::new(), Vec::new());
        PyEstate { sockets, metrics, clock, prefix, last_statement, last_id, held, paused, disabled }
    }

    pub(crate) fn read(self) -> Estate {
        let PyEstate { sockets, metrics, clock, prefix, last_statement, last_id, held, paused, disabled } = self;
        let legacy = Legacy { prefix: prefix.into_bytes().into(), last_statement, last_id };
        let pause = |name: String| Command::Pause((name != "*").then(|| name.into()));
        let disable = |name: String| Command::Disable(name.into());
        let orders = paused.into_iter().map(pause).chain(disabled.into_iter().map(disable)).collect();
        Estate { sockets, metrics, clock, legacy, held, orders }
    }
}
