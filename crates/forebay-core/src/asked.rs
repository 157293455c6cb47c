//! What a client asks for in its startup message.

use std::collections::BTreeMap;
use std::sync::Arc;

use forebay_pgwire::startup::{Replication, Startup, is_protocol_option, options, replication};
use forebay_spec::{Report, errors};

use crate::cluster::own_settings;
use crate::config::Arrivals;
use crate::io::Peer;
use crate::login::address;
use crate::replication::unreadable;

/// What a startup message asks for.
pub(crate) struct Asked {
    /// Who wants to be let in.
    pub(crate) user: Arc<str>,
    /// The name of a database here.
    pub(crate) database: Arc<str>,
    /// The protocol of replication, if not the common one.
    pub(crate) replication: Option<Replication>,
    /// Settings, by names in lower case.
    pub(crate) parameters: BTreeMap<Arc<str>, Arc<str>>,
}

impl Asked {
    /// Reads it, or says what can't be done.
    pub(crate) fn read(startup: Startup<'_>, arrivals: &Arrivals, peer: &Peer) -> Result<Asked, Box<Report>> {
        let text = |bytes: &[u8]| Arc::<str>::from(String::from_utf8_lossy(bytes));
        let user =
            startup.get("user").filter(|u| !u.is_empty()).map(text).ok_or_else(|| Box::new(errors::user_missing()))?;
        let database = startup.get("database").filter(|d| !d.is_empty()).map_or_else(|| user.clone(), text);
        let (mut parameters, mut asked_replication) = (BTreeMap::<Arc<str>, Arc<str>>::new(), None);
        for (name, value) in startup.parameters.iter() {
            match name {
                b"user" | b"database" => {}
                b"options" if arrivals.ignored_parameters.iter().any(|name| &**name == "options") => {}
                b"replication" => {
                    asked_replication = replication(value).map_err(|_| Box::new(unreadable(value)))?;
                }
                b"options" => {
                    let settings = options(value).map_err(|e| Box::new(errors::unsupported_startup_option(e)))?;
                    for (name, value) in settings {
                        parameters.insert(name.to_ascii_lowercase().into(), value.into());
                    }
                }
                name if is_protocol_option(name) => {}
                name => {
                    parameters.insert(text(&name.to_ascii_lowercase()), text(value));
                }
            }
        }
        parameters.retain(|name, _| !arrivals.ignored_parameters.contains(name));
        if let Some(report) = own_settings::refused_at_login(&parameters) {
            return Err(Box::new(report));
        }
        if arrivals.is_name_with_address {
            let name = parameters.get("application_name").map_or("app", |name| name);
            let place = match address(peer) {
                (path, 0) => path,
                (ip, port) => format!("{ip}:{port}"),
            };
            let name = format!("{name} - {place}").into();
            parameters.insert("application_name".into(), name);
        }
        Ok(Asked { user, database, replication: asked_replication, parameters })
    }
}
