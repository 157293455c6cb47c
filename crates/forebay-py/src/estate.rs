//! What a process leaves to its successor, for Python to pass on.

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
}

impl PyEstate {
    pub(crate) fn of(estate: Estate) -> PyEstate {
        let Estate { sockets, metrics, clock, legacy, held } = estate;
        let Legacy { prefix, last_statement, last_id } = legacy;
        let prefix = String::from_utf8_lossy(&prefix).into_owned();
        PyEstate { sockets, metrics, clock, prefix, last_statement, last_id, held }
    }

    pub(crate) fn read(self) -> Estate {
        let PyEstate { sockets, metrics, clock, prefix, last_statement, last_id, held } = self;
        let legacy = Legacy { prefix: prefix.into_bytes().into(), last_statement, last_id };
        Estate { sockets, metrics, clock, legacy, held }
    }
}
