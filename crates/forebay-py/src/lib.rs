//! The extension module `forebay._engine`: conversions only, no decision.
//!
//! Every call that may block gives the interpreter lock away first. What crosses here is bytes, JSON and plain
//! tuples; the types are Python's (`python/forebay/_engine.pyi`).

mod batch;
mod catalogue;
mod classify;
mod cluster;
mod counters;
mod engine;
mod estate;
mod fleet;
#[cfg(feature = "planted-bugs")]
mod planting;
mod text;

use pyo3::prelude::*;

/// The version of the package, which stands in the workspace's Cargo.toml.
#[pyfunction]
fn version() -> &'static str {
    env!("CARGO_PKG_VERSION")
}

/// What the state that moves between processes consists of, as a number: who has another can't read it.
#[pyfunction]
fn state_schema() -> u64 {
    forebay_runtime::state_schema()
}

#[pymodule]
fn _engine(module: &Bound<'_, PyModule>) -> PyResult<()> {
    #[cfg(feature = "planted-bugs")]
    {
        planting::plant_from_environment()?;
        module.add_function(wrap_pyfunction!(planting::planted_bugs, module)?)?;
    }
    module.add_class::<engine::PyEngine>()?;
    module.add_class::<batch::PyBatch>()?;
    module.add_class::<catalogue::PyCatalogue>()?;
    module.add_class::<cluster::PyCluster>()?;
    module.add("EngineError", module.py().get_type::<engine::EngineError>())?;
    module.add_function(wrap_pyfunction!(version, module)?)?;
    module.add_function(wrap_pyfunction!(state_schema, module)?)?;
    module.add_function(wrap_pyfunction!(text::parse_toml, module)?)?;
    module.add_function(wrap_pyfunction!(text::parse_ini, module)?)?;
    module.add_function(wrap_pyfunction!(text::parse_userlist, module)?)?;
    module.add_function(wrap_pyfunction!(text::check_pattern, module)?)?;
    module.add_function(wrap_pyfunction!(classify::classify, module)?)?;
    module.add_function(wrap_pyfunction!(text::scram_verifier, module)?)
}
