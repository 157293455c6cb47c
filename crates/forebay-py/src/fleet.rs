//! What a node tells of its fleet, as Python has it.

use forebay_runtime::{BudgetTold, FleetTold};
use pyo3::prelude::*;

/// See `FleetFigures` in `_engine.pyi`.
#[derive(FromPyObject)]
pub(crate) struct PyFleetFigures {
    #[pyo3(item)]
    until_us: u64,
    #[pyo3(item)]
    looked_us: u64,
    #[pyo3(item)]
    here: u64,
    #[pyo3(item)]
    absent: u64,
    #[pyo3(item)]
    registrations: u64,
    #[pyo3(item)]
    failures: u64,
    #[pyo3(item)]
    written: u64,
    #[pyo3(item)]
    refused: u64,
    #[pyo3(item)]
    primaries: Vec<(String, String, u32)>,
    #[pyo3(item)]
    budgets: Vec<PyBudgetFigures>,
}

#[derive(FromPyObject)]
struct PyBudgetFigures {
    #[pyo3(item)]
    database: String,
    #[pyo3(item)]
    total: u64,
    #[pyo3(item)]
    lent: [u64; 3],
    #[pyo3(item)]
    kept: u64,
    #[pyo3(item)]
    wanted: u64,
    #[pyo3(item)]
    open: u64,
    #[pyo3(item)]
    changes: u64,
}

impl PyFleetFigures {
    pub(crate) fn read(self) -> FleetTold {
        let budget = |one: PyBudgetFigures| {
            let PyBudgetFigures { database, total, lent, kept, wanted, open, changes } = one;
            BudgetTold { database, total, lent, kept, wanted, open, changes }
        };
        FleetTold {
            until_us: self.until_us,
            looked_us: self.looked_us,
            here: self.here,
            absent: self.absent,
            registrations: self.registrations,
            failures: self.failures,
            written: self.written,
            refused: self.refused,
            primaries: self.primaries,
            budgets: self.budgets.into_iter().map(budget).collect(),
        }
    }
}
