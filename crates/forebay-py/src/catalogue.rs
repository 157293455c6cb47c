//! What a database's own objects may do, for people and for tests.

use forebay_sql::catalogue::{Builder, Catalogue};
use forebay_sql::lexer::Backslash;
use forebay_sql::route::route;
use forebay_sql::shorten;
use pyo3::prelude::*;

/// A catalogue made from the rows of `Catalogue.QUERY`.
#[pyclass(name = "Catalogue", module = "forebay._engine", frozen)]
pub(crate) struct PyCatalogue(Catalogue);

#[pymethods]
impl PyCatalogue {
    #[classattr]
    const QUERY: &str = Catalogue::QUERY;

    #[classattr]
    const STAMP: &str = Catalogue::STAMP;

    #[new]
    fn new(py: Python<'_>, rows: Vec<Vec<Option<String>>>) -> PyCatalogue {
        PyCatalogue(py.detach(|| {
            let mut builder = Builder::new();
            for row in rows {
                let columns: Vec<Option<&[u8]>> = row.iter().map(|one| one.as_deref().map(str::as_bytes)).collect();
                builder.row(&columns);
            }
            builder.finish()
        }))
    }

    /// Names of the traces that a text may leave.
    fn judge(&self, text: &str) -> Vec<&'static str> {
        self.0.judge(&shorten::parse(text.as_bytes(), Backslash::Plain)).names().collect()
    }

    /// Whether a replica may be asked, and why or why not.
    fn route(&self, text: &str) -> (bool, &'static str) {
        let shape = shorten::parse(text.as_bytes(), Backslash::Plain);
        let reason = route(&shape, self.0.judge(&shape));
        (reason.allows_replica(), reason.text())
    }

    /// What makes it so, but for the text itself.
    fn why(&self, text: &str) -> Vec<String> {
        self.0.why(&shorten::parse(text.as_bytes(), Backslash::Plain))
    }

    /// Names of the traces of a value of a type, by the type's number.
    fn judge_type(&self, oid: u32) -> Vec<&'static str> {
        self.0.judge_type(oid).names().collect()
    }

    /// Custom settings that bodies of functions set or ask for.
    #[getter]
    fn settings_named(&self) -> Vec<&str> {
        self.0.settings_named().iter().map(|name| &**name).collect()
    }

    /// Whether currval or lastval is asked for anywhere.
    #[getter]
    fn reads_sequences(&self) -> bool {
        self.0.reads_sequences()
    }
}
