//! As whom requests run (I11): every byte that a client is sent comes from a session of its own principal.
//!
//! | what | of the client's |
//! |---|---|
//! | the database and the user that the server was logged in to | by the configuration: what its database stands for, and its user, or the one that the database forces |
//! | SESSION AUTHORIZATION and ROLE in force | as its private session has them |
//!
//! That the bytes are those of its own requests is the mirror's to see ([`crate::client::mirror`]), `current_user` among
//! them.

use std::collections::BTreeSet;

use crate::net::LinkId;
use crate::server::session::Session;
use crate::server::settings::Settings;
use crate::wire::{Front, Tag};
use crate::world::World;

impl World {
    /// A server is about to carry out `message`.
    pub(crate) fn check_principal(&mut self, p: usize, message: &Front) {
        let Some((link, session)) = self.session_at_work(p) else { return };
        let tag = Tag::first_in(&message.encode().body);
        // What carries no tag is of the client whose tag came last, or stands between two: they share a principal.
        let Some(client) = tag.map(|tag| tag.client).or_else(|| self.checks.owner(link)) else { return };
        let (due, has) = (self.principal_of(client), &self.processes[p].logged_in_as);
        if *has != due {
            return self.checks.fail(format!("client {client} is {due:?}, and {message:?} of it is run as {has:?}"));
        }
        let Some(tag) = tag.filter(|tag| !self.checks.is_left_behind(tag)) else { return };
        let has = session.settings.principal();
        if let Some(due) = self.authorizations_of(client).filter(|due| !due.contains(&has)) {
            self.checks.fail(format!("{tag} is run with the authorization and role {has:?}, due is one of {due:?}"));
        }
    }

    /// The connection of a session that does what it is told.
    fn session_at_work(&self, p: usize) -> Option<(LinkId, &Session)> {
        let process = &self.processes[p];
        let session = process.session.as_ref().filter(|session| !session.is_skipping())?;
        Some((process.link, session))
    }

    /// Database and user that a client's servers are logged in to.
    fn principal_of(&self, client: u32) -> Option<(String, String)> {
        let who = &self.clients.get(client as usize)?.who;
        let database = self.scenario.config.databases.iter().find(|d| *d.name == who.database)?;
        let user = if self.is_direct { None } else { database.forced_user.as_deref() };
        let name = if self.is_direct { &*database.name } else { &*database.dbname };
        Some((name.to_owned(), user.unwrap_or(&who.user).to_owned()))
    }

    /// What of its own making may be in force. `None`: that can't be told.
    fn authorizations_of(&self, client: u32) -> Option<BTreeSet<(String, String)>> {
        let client = self.clients.get(client as usize)?;
        if client.who.is_owner { client.mirror.principals() } else { Some(BTreeSet::from([Settings::start()])) }
    }
}
