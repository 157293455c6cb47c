//! EXECUTE, DEALLOCATE and PREPARE by the extended protocol: which statement the name in their text means.
//!
//! PostgreSQL looks a name up where its statement is bound. So a text is sent with our name for what the client's means
//! when it is parsed, and again, as another statement, where that has changed by the time it is bound.

use std::sync::Arc;

use forebay_pgwire::backend::TransactionStatus;
use forebay_pgwire::rename;
use forebay_sql::shape::Verb;

use crate::frame::At;
use crate::named::Named;
use crate::query::TEXT_BYTES_MAX;
use crate::renamed::Places;
use crate::request::{Forwarding, Stop, not_ours};
use crate::session::expect::Ends;
use crate::statements::{Content, Lookup, Statement};

impl Forwarding<'_> {
    /// The statement of a Parse whose text executes or deallocates another by its name; `None`: it is none that is known here.
    pub(crate) fn naming_statement(
        &mut self,
        content: Content<'_>,
        is_named: bool,
    ) -> Result<Option<Arc<Statement>>, Stop> {
        if content.text.len() > TEXT_BYTES_MAX as usize {
            return Ok(None);
        }
        let has_names = self.client.statements.as_ref().is_some_and(|names| !names.is_empty());
        if !may_name_another(content.text) || !(has_names || self.may_name_ours(content.text)) {
            return Ok(None);
        }
        self.find_meant(content, None, is_named)
    }

    /// Whether a text may name what is ours.
    fn may_name_ours(&self, text: &[u8]) -> bool {
        let prefix = self.cache.prefix();
        let begins = memchr::memchr2_iter(b'f', b'F', text).map(|at| &text[at..]);
        begins.filter_map(|rest| rest.get(..prefix.len())).any(|part| part.eq_ignore_ascii_case(prefix))
    }

    /// The statement to bind where the client binds `statement`: mostly the same.
    #[inline]
    pub(crate) fn meant(&mut self, name: &[u8], statement: Arc<Statement>) -> Result<Arc<Statement>, Stop> {
        if !statement.may_name_another() {
            return Ok(statement);
        }
        self.meant_by_name(name, statement)
    }

    #[cold]
    fn meant_by_name(&mut self, name: &[u8], statement: Arc<Statement>) -> Result<Arc<Statement>, Stop> {
        let content = Content { text: statement.said(), ..statement.content() };
        let found = self.find_meant(content, statement.needs(), true)?;
        let Some(found) = found else { return Ok(statement) };
        // The next Bind finds it as it is.
        if let Some(names) = &mut self.client.statements {
            names.now_means(name, &found);
        }
        Ok(found)
    }

    /// A statement of `content` with the name in it replaced by that of what it means now; `None`: that is `before`, or
    /// nobody keeps account of it.
    fn find_meant(
        &mut self,
        content: Content<'_>,
        before: Option<&Arc<Statement>>,
        is_named: bool,
    ) -> Result<Option<Arc<Statement>>, Stop> {
        let shape = self.cache.shape(content.text, content.backslash);
        let Some(named) = Named::find(content.text, &shape, content.backslash) else { return Ok(None) };
        if named.verb == Verb::Prepare && self.is_ours(named.name.as_bytes()) {
            return Ok(Some(self.of_nobody(&named, content)));
        }
        if !matches!(named.verb, Verb::Execute | Verb::Deallocate) {
            return Ok(None);
        }
        if self.server.status == TransactionStatus::Failed {
            // What is on its way may end that transaction.
            return if self.server.owes_ready() { Err(Stop::Hold) } else { Ok(None) };
        }
        let names = self.client.statements.as_ref();
        match names.map_or(Lookup::Unknown, |names| names.find(named.name.as_bytes(), self.server.segment)) {
            Lookup::Unconfirmed => Err(Stop::Hold),
            Lookup::Known(needs) if before.is_some_and(|before| before.is(&needs)) => Ok(None),
            Lookup::Known(needs) => {
                let (text, moved) = (named.with(needs.name()), named.moved(needs.name()));
                let replaced = Content { text: &text, ..content };
                Ok(Some(self.cache.naming(replaced, is_named, (needs, &named.name), moved, content.text)))
            }
            // The server says that there is none, whatever is ours under this name.
            Lookup::Unknown if self.is_ours(named.name.as_bytes()) => Ok(Some(self.of_nobody(&named, content))),
            Lookup::Unknown => Ok(before.map(|_| self.cache.private(content))),
        }
    }

    /// A statement of `content` whose name, which is like ours, is replaced by one that nobody has.
    fn of_nobody(&mut self, named: &Named<'_>, content: Content<'_>) -> Arc<Statement> {
        let text = named.with(&not_ours(&named.name));
        self.cache.private(Content { text: &text, ..content })
    }

    /// A Bind of a statement that prepares another under a name that is taken: another is bound, of which the server says
    /// what is wrong with it. `None`: it is none.
    #[inline]
    pub(crate) fn bind_taken(
        &mut self,
        at: At<'_>,
        bound: &[u8],
        statement: &Statement,
    ) -> Result<Option<usize>, Stop> {
        match self.has_name_of(statement.shape()) {
            Some((existing, name)) => self.bind_of_taken(at, bound, statement, &existing, name),
            None => Ok(None),
        }
    }

    #[cold]
    fn bind_of_taken(
        &mut self,
        at: At<'_>,
        bound: &[u8],
        statement: &Statement,
        existing: &Arc<Statement>,
        name: &str,
    ) -> Result<Option<usize>, Stop> {
        let content = statement.content();
        let Some(named) = Named::find(content.text, statement.shape(), content.backslash) else { return Ok(None) };
        let existing = self.present_or_stand_in(existing, false)?;
        let text = named.with(existing.name());
        let places = Places::new(name.as_bytes(), named.moved(existing.name()), &text, &existing).taken();
        let renamed = self.cache.private(Content { text: &text, ..content });
        self.send_within(&renamed);
        self.bind_ends(at, Ends::Nothing);
        self.server.bound_places = Some(Box::new(places));
        self.server.bound_undescribed = None;
        self.rename(at, rename::bind, bound, renamed.name()).map(Some)
    }
}

/// Whether a text may be about another statement: EXECUTE and DEALLOCATE are, EXPLAIN and CREATE TABLE AS may be. By its
/// first letters, as this is asked of every Parse.
#[inline]
fn may_name_another(text: &[u8]) -> bool {
    let is_other = matches!(text, [b's' | b'S' | b'i' | b'I' | b'u' | b'U' | b'w' | b'W', ..]);
    let is_delete = matches!(text, [b'd' | b'D', b'e' | b'E', b'l' | b'L', ..]);
    !(is_other || is_delete)
}
