//! LISTEN and NOTIFY: clients of a pool hear notifications through one connection, the pool's listener.
//!
//! | when | what |
//! |---|---|
//! | a client that listens is about to do what its channels matter to | [`before`]: they are set on its server first |
//! | a transaction that may have listened is over | [`takeover`]: the listener takes its channels over from its server |
//! | the listener hears something | [`ear`]: each worker passes it on to its clients, between their transactions |
//! | a client that listens has notified | [`own`]: its ReadyForQuery waits for what it is to hear of that itself |
//! | a worker's clients want other channels, the listener is lost or too old | [`listener`] |
//!
//! Which channels a client listens to is never taken from a statement's text: its server says so once the transaction
//! is over. Nothing is lost or heard twice while a channel changes hands, because all sessions of a database hear its
//! notifications in one order: the listener, once it listens, sends a notification of its own on a channel that both
//! listen to ([`CUT`]). What the server says before it is the client's, and what the listener says behind it.
//!
//! The listener belongs to one worker, whose clients were the first of the pool to listen; workers tell each other
//! ([`Told`]), in order. It is no server of the pool, and takes no permit of it.

pub mod before;
pub mod ear;
pub mod listener;
pub mod own;
pub mod takeover;

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use rustc_hash::FxHashMap;

use crate::pool::PoolId;
use crate::session::client::ClientKey;
use crate::worker::PoolName;

/// A channel's name, as servers write it.
pub type Channel = Arc<[u8]>;

/// The channel of cuts: every listener listens to it, and every server whose channels are being taken over.
pub(crate) const CUT: &str = "fb_cut";

/// Channels that one listener listens to; who wants more keeps its server.
const LISTENER_CHANNELS_MAX: usize = 100_000;
/// The listener must have taken a client's channels over by then; else the client keeps its server.
pub(crate) const TAKEOVER_MAX: Duration = Duration::from_secs(10);
/// A client that listens waits this long for what it has itself notified.
pub(crate) const OWN_MAX: Duration = Duration::from_millis(250);
/// A new listener has this long to come to where the old one is; then it takes the place as it is.
const RELIEF_MAX: Duration = Duration::from_secs(5);
/// A listener that has said nothing for so long is asked whether it is there.
const CHECK_AFTER: Duration = Duration::from_secs(30);

/// Names a cut or a question: random, so that no other session's can be taken for it. Bytes, for a number would align
/// every server's session to its own 16, and make the table of them look at as many to see whether one is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Mark([u8; 16]);

impl Mark {
    pub(crate) fn new(random: [u8; 16]) -> Mark {
        Mark(random)
    }

    /// As the payload of a notification.
    pub(crate) fn text(self) -> String {
        format!("{:032x}", u128::from_be_bytes(self.0))
    }

    /// The mark of such a payload.
    pub(crate) fn read(payload: &[u8]) -> Option<Mark> {
        let text = std::str::from_utf8(payload).ok().filter(|text| text.len() == 32)?;
        u128::from_str_radix(text, 16).ok().map(|number| Mark(number.to_be_bytes()))
    }
}

/// What workers tell each other of listening. The names are those of pools.
#[derive(Debug)]
pub enum Told {
    /// To the owner: the sender's clients listen to these; the listener is to make this cut when it does too.
    Subscribe(PoolName, Vec<Channel>, Mark),
    /// To the owner: none of the sender's clients does any more.
    Unsubscribe(PoolName, Vec<Channel>),
    /// To the owner: say so when all that was committed by now has been heard.
    Ask(PoolName, Mark),
    /// From the owner: a whole NotificationResponse, of this channel.
    Heard(PoolName, Channel, Arc<[u8]>),
    /// From the owner: the listener is at this cut.
    Cut(PoolName, Mark),
    /// From the owner: all that was committed before that [`Told::Ask`] has been told.
    Passed(PoolName, Mark),
    /// From the owner: it takes no more channels.
    Refused(PoolName, Mark),
    /// From the owner: the listener is lost, or could not be opened. All that it heard for the receiver has ended.
    Lost(PoolName, Arc<str>),
}

/// A worker's part in listening.
#[derive(Default)]
pub(crate) struct Listening {
    /// What its clients listen to, by pool.
    ears: FxHashMap<PoolId, ear::Ear>,
    /// The listeners that it owns.
    listeners: FxHashMap<PoolId, listener::Listener>,
    /// Whose takeovers and questions are under way.
    marks: FxHashMap<Mark, ClientKey>,
    /// What it tells itself.
    pub(crate) to_self: VecDeque<Told>,
}

/// A client's part in listening.
#[derive(Default)]
pub struct Listens {
    /// Channels that the listener hears for it.
    taken: BTreeSet<Channel>,
    /// Notifications that wait until it is between transactions.
    pending: VecDeque<(Channel, Arc<[u8]>)>,
    pending_bytes: usize,
    /// The takeover under way.
    takeover: Option<takeover::Takeover>,
}

impl Listens {
    /// How many channels it listens to, through the listener.
    pub(crate) fn len(&self) -> usize {
        self.taken.len()
    }

    /// Channels that it listens to no more: what waits of them is dropped, as PostgreSQL does.
    fn remove(&mut self, channels: &[Channel]) {
        for channel in channels {
            self.taken.remove(channel);
        }
        let (pending, bytes) = (&mut self.pending, &mut self.pending_bytes);
        pending.retain(|(channel, message)| {
            let is_kept = !channels.contains(channel);
            *bytes -= if is_kept { 0 } else { message.len() };
            is_kept
        });
    }

    /// Writes all that waits.
    pub(crate) fn drain_into(&mut self, out: &mut Vec<u8>) {
        self.pending.drain(..).for_each(|(_, message)| out.extend_from_slice(&message));
        self.pending_bytes = 0;
    }
}

/// A server's part in listening.
#[derive(Debug, Default)]
pub struct OnServer {
    /// The channels that its client has elsewhere are set on it: what it says of them is the whole truth.
    pub(crate) is_restored: bool,
    /// They could not be set.
    pub(crate) is_refused: bool,
    /// Its client's transaction may have ended listening to something.
    pub(crate) is_removing: bool,
    /// Its client's transaction may have notified.
    pub(crate) notifies: bool,
    /// Whose what it notifies is has been noted.
    pub(crate) is_notifier_known: bool,
    /// Its client's ReadyForQuery waits for the listener's word.
    pub(crate) awaits: Option<Mark>,
    /// The answer to what it listens to, as it comes in.
    pub(crate) channels: Vec<Channel>,
}

/// A channel's name as a statement has it.
fn quote(sql: &mut String, name: &str) {
    sql.push('"');
    for c in name.chars() {
        sql.push(c);
        if c == '"' {
            sql.push(c);
        }
    }
    sql.push('"');
}

/// A statement for each of the channels. Names that are not UTF-8 are left out: nobody is given such a channel.
fn each<'c>(sql: &mut String, verb: &str, channels: impl IntoIterator<Item = &'c Channel>) {
    for channel in channels {
        if let Ok(name) = std::str::from_utf8(channel) {
            sql.push_str(verb);
            quote(sql, name);
            sql.push(';');
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A channel's name is the client's text: it must not end the statement.
    #[test]
    fn a_channel_is_quoted_whatever_its_name() {
        let mut sql = String::new();
        each(&mut sql, "LISTEN ", &[Channel::from(&b"a\"; DROP"[..]), Channel::from(&b"\xff"[..])]);
        assert_eq!(sql, "LISTEN \"a\"\"; DROP\";");
    }

    #[test]
    fn a_mark_is_told_by_its_payload() {
        let (one, other) = (Mark::new([1; 16]), Mark::new([2; 16]));
        assert_eq!(Mark::read(one.text().as_bytes()), Some(one));
        assert_ne!(Mark::read(other.text().as_bytes()), Some(one));
        assert_eq!(Mark::read(b"anything"), None);
    }
}
