//! Configuration texts to JSON, and passwords to verifiers.

use forebay_core::auth::access::Pattern;
use forebay_core::auth::scram::ScramVerifier;
use forebay_core::auth::{ITERATIONS_MAX, SALT_BYTES_MAX, Secret};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

/// forebay.toml to the JSON that forebay-config describes.
#[pyfunction]
pub(crate) fn parse_toml(text: &str) -> String {
    forebay_config::toml_to_json(text)
}

/// pgbouncer.ini to the same.
#[pyfunction]
pub(crate) fn parse_ini(text: &str) -> String {
    forebay_config::ini_to_json(text)
}

/// userlist.txt to the same.
#[pyfunction]
pub(crate) fn parse_userlist(text: &str) -> String {
    forebay_config::userlist_to_json(text)
}

/// Why a text is no regular expression that rules and maps may hold; `None`: it is one.
#[pyfunction]
#[pyo3(signature = (text, *, needs_group = false))]
pub(crate) fn check_pattern(text: &str, needs_group: bool) -> Option<String> {
    match Pattern::new(text) {
        Ok(pattern) if needs_group && !pattern.has_group() => {
            Some(String::from("it has no group, which \\1 stands for"))
        }
        Ok(_) => None,
        Err(cause) => Some(cause),
    }
}

/// The SCRAM-SHA-256 verifier of a password, as PostgreSQL stores it.
///
/// Raises ValueError for a salt or a number of iterations outside the limits of forebay-core.
#[pyfunction]
#[pyo3(signature = (password, *, salt, iterations = 4096))]
pub(crate) fn scram_verifier(py: Python<'_>, password: &str, salt: &[u8], iterations: u32) -> PyResult<String> {
    if salt.is_empty() || salt.len() > SALT_BYTES_MAX {
        return Err(PyValueError::new_err(format!("a salt has 1 to {SALT_BYTES_MAX} bytes")));
    }
    if iterations == 0 || iterations > ITERATIONS_MAX {
        return Err(PyValueError::new_err(format!("iterations are from 1 to {ITERATIONS_MAX}")));
    }
    let password = Secret::new(password);
    let verifier = py.detach(|| ScramVerifier::derive(&password, salt, iterations));
    Ok(verifier.to_secret().expose().to_owned())
}
