//! Plants the bug that `FOREBAY_PLANT` names, so that the differential test can prove that it finds it.
//!
//! Builds that serve do not have this: the feature `planted-bugs` is off in every wheel.

use forebay_core::planted::{Bug, plant_everywhere};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

/// The environment variable that names a bug.
const VARIABLE: &str = "FOREBAY_PLANT";

/// Names of all bugs.
#[pyfunction]
pub(crate) fn planted_bugs() -> Vec<&'static str> {
    Bug::ALL.iter().chain(&Bug::OF_SESSIONS).map(|(name, _)| *name).collect()
}

/// Plants what the environment asks for, and says so: nobody may take such a process for one that serves.
pub(crate) fn plant_from_environment() -> PyResult<()> {
    let Ok(name) = std::env::var(VARIABLE) else { return Ok(()) };
    let bug = Bug::by_name(&name).ok_or_else(|| PyValueError::new_err(format!("{VARIABLE}: no bug {name:?}")))?;
    plant_everywhere(bug);
    eprintln!("forebay: planted {name}; this process must not serve");
    Ok(())
}
