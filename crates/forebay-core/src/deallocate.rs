//! DEALLOCATE by the extended protocol: it takes a statement away where its portal is executed, not before.

use std::sync::Arc;

use forebay_pgwire::frontend::{BindHead, Execute};
use forebay_sql::shape::{StatementShape, Verb};

use crate::frame::At;
use crate::request::{Forwarding, Stop};
use crate::session::expect::Naming;
use crate::statements::Statement;

/// DEALLOCATEs that are bound and not executed, of which it is known what they do.
const DEALLOCATES_MAX: usize = 256;

/// A DEALLOCATE of another statement that was prepared by the extended protocol.
#[inline]
pub(crate) fn is_deallocate(statement: &Statement) -> bool {
    statement.needs().is_some()
        && matches!(&*statement.shape().statements, [StatementShape { verb: Verb::Deallocate, .. }])
}

impl Forwarding<'_> {
    /// A DEALLOCATE is bound: what it does is done where its portal is executed.
    #[cold]
    pub(crate) fn note_deallocate(&mut self, at: At<'_>, statement: &Arc<Statement>) {
        let bound = &mut self.server.bound_deallocates;
        if bound.len() >= DEALLOCATES_MAX {
            bound.remove(0);
        }
        let portal = BindHead::decode(at.body()).map_or(&b""[..], |bind| bind.portal);
        bound.push((portal.into(), statement.clone()));
    }

    /// What an Execute does to names and statements, where a DEALLOCATE may be bound.
    #[cold]
    pub(crate) fn deallocates(&mut self, at: At<'_>) -> Result<Option<Box<Naming>>, Stop> {
        if !at.is_whole() {
            return Err(Stop::More);
        }
        // What can't be read is for the server to refuse.
        let Ok(Execute { portal, .. }) = Execute::decode(at.body()) else { return Ok(None) };
        let bound = &mut self.server.bound_deallocates;
        let Some(found) = bound.iter().position(|(name, _)| **name == *portal) else { return Ok(None) };
        let (_, statement) = bound.swap_remove(found);
        let Some(needs) = statement.needs().cloned() else { return Ok(None) };
        let (name, segment) = (statement.needs_name(), self.server.segment);
        let is_meant = self.client.statements.as_ref().is_some_and(|names| names.means(name, needs.name()));
        let change = is_meant.then(|| self.change(name, None, segment));
        self.server.statements.close_sent(&needs, segment);
        Ok(Some(Box::new(Naming { change, makes: false, statement: needs })))
    }
}
