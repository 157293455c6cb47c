//! DEALLOCATE and DISCARD ALL take statements away where they are executed: with the Query, or with their portal, not before.

use std::sync::Arc;

use forebay_pgwire::frontend::{BindHead, Execute};

use crate::frame::At;
use crate::request::{Forwarding, Stop};
use crate::session::expect::{Does, Naming};
use crate::statements::{Presence, Statement};

/// DEALLOCATEs that are bound and not executed, of which it is known what they do.
const DEALLOCATES_MAX: usize = 256;

/// Bytes of a portal's name of which note is taken.
const PORTAL_BYTES_MAX: usize = 1024;

impl Forwarding<'_> {
    /// A DEALLOCATE is bound: what it does is done where its portal is executed.
    #[cold]
    pub(crate) fn note_deallocate(&mut self, at: At<'_>, statement: &Arc<Statement>) {
        let portal = BindHead::decode(at.body()).map_or(&b""[..], |bind| bind.portal);
        let bound = &mut self.server.bound_deallocates;
        if bound.len() >= DEALLOCATES_MAX || portal.len() > PORTAL_BYTES_MAX {
            // Of this one it won't be known.
            self.server.is_close_needed = true;
            return;
        }
        bound.push((portal.into(), statement.clone()));
    }

    /// A portal is closed: what was to be done with it is not.
    #[cold]
    pub(crate) fn forget_portal(&mut self, portal: &[u8]) {
        self.server.bound_deallocates.retain(|(name, _)| **name != *portal);
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
        let statement = bound[found].1.clone();
        let naming = self.takes(&statement)?;
        self.server.bound_deallocates.swap_remove(found);
        Ok(Some(naming))
    }

    /// What a DEALLOCATE or DISCARD ALL that a client has prepared does when it is run.
    #[cold]
    pub(crate) fn takes(&mut self, statement: &Statement) -> Result<Box<Naming>, Stop> {
        let Some(needs) = statement.needs() else {
            self.await_all()?;
            return Ok(self.take_all());
        };
        let (name, segment) = (statement.needs_name(), self.server.segment);
        let presence = self.server.statements.find(needs, segment);
        if presence == Presence::Unconfirmed {
            return Err(Stop::Hold);
        }
        let is_meant = self.client.statements.as_ref().is_some_and(|names| names.means(name, needs.name()));
        let changes = if is_meant { vec![self.change(name, None, segment)] } else { Vec::new() };
        // Of one that is not there nothing is to come back if this fails, as it will.
        let taken = if presence == Presence::Present { vec![needs.clone()] } else { Vec::new() };
        taken.iter().for_each(|needs| self.server.statements.close_sent(needs, segment));
        Ok(Box::new(Naming::of(Does::Takes, changes, taken)))
    }

    /// Waits until it is known what there is to be taken away by a text that takes all.
    #[cold]
    pub(crate) fn await_all(&mut self) -> Result<(), Stop> {
        let segment = self.server.segment;
        let is_unknown = self.client.statements.as_ref().is_some_and(|names| names.is_unconfirmed(segment));
        let is_unknown = is_unknown || self.server.statements.is_unconfirmed(segment);
        // What it does would not be undone with a hand-over that fails.
        if is_unknown || self.server.hand_over.is_some() { Err(Stop::Hold) } else { Ok(()) }
    }

    /// All of the client's names and all statements of its server are about to be taken away.
    #[cold]
    pub(crate) fn take_all(&mut self) -> Box<Naming> {
        let segment = self.server.segment;
        let changes = self.client.statements.as_mut().map_or_else(Vec::new, |names| names.take_all(segment));
        let statements = self.server.statements.close_all_sent(segment);
        Box::new(Naming::of(Does::TakesAll, changes, statements))
    }
}
