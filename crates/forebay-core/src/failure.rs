//! Errors of servers on their way to the client: what they undo, and in which words the client hears of them.

use forebay_pgwire::backend::ErrorFields;
use forebay_pgwire::frame::Head;
use forebay_spec::Severity;

use crate::balance::is_ill;
use crate::cluster::replay::NOT_ANEW;
use crate::demoted::is_of_recovery;
use crate::leave::encode;
use crate::reply::{Next, READ_BYTES_MAX, Relaying, Verdict};
use crate::session::expect::{Expect, Own, Refusal};

impl Relaying<'_> {
    #[inline(never)]
    pub(crate) fn error(&mut self, head: Head, body: &[u8]) -> (Verdict, Option<Next>) {
        if head.bytes <= READ_BYTES_MAX {
            let Ok(fields) = ErrorFields::decode(body) else {
                return (Verdict::Drop, Some(Next::Violation("a malformed ErrorResponse")));
            };
            let is_own = matches!(self.server.expect.front(), Some(Expect::Own(_)) | None);
            if self.is_of_ensuring() {
                self.server.own_error = Some(words(fields));
                self.keep_ensure_error(body);
                self.skip_after_error();
                return (Verdict::Drop, None);
            }
            if self.is_for_client() && fields.is_fatal() && fields.sqlstate() == Some(b"08P01") {
                return (Verdict::Pass, Some(Next::ClientAtFault));
            }
            if !is_own && !fields.is_fatal() && self.is_replaying() {
                return (Verdict::Drop, Some(Next::Violation(NOT_ANEW)));
            }
            // After a FATAL error the connection ends, and what that means for the client is decided then.
            if is_own || fields.is_fatal() {
                if matches!(self.server.expect.front(), Some(Expect::Own(Own::Ensure | Own::Settings))) {
                    self.keep_ensure_error(body);
                }
                self.server.own_error = Some(words(fields));
                return (Verdict::Drop, None);
            }
            if self.tell_late(fields) {
                self.skip_after_error();
                return (Verdict::Drop, None);
            }
            let report = match self.server.expect.front() {
                Some(Expect::Refused(report)) => Some(&**report),
                Some(Expect::Query { refusal: Some(refusal), .. }) => match &**refusal {
                    Refusal::Instead(report) => Some(report),
                    Refusal::AsItIs => None,
                },
                _ => None,
            };
            if let Some(report) = report {
                encode(self.batch.owned(), report, Severity::Error, self.stats);
                self.skip_after_error();
                return (Verdict::Drop, None);
            }
            if matches!(self.server.expect.front(), Some(Expect::Outdated)) {
                self.say_outdated();
                self.skip_after_error();
                return (Verdict::Drop, None);
            }
            if let Some(next) = self.turns_away(fields) {
                self.skip_after_error();
                return (Verdict::Drop, Some(next));
            }
            if self.client.is_some() {
                let sqlstate = fields.sqlstate().unwrap_or_default();
                self.server.stats.stats.server_errors.count(sqlstate);
                self.server.measured.is_ill |= is_ill(sqlstate);
            }
            if self.tell_ensure_error(fields) || self.tell_renamed(fields) {
                self.skip_after_error();
                return (Verdict::Drop, None);
            }
            if is_of_recovery(fields) && self.is_for_client() {
                self.skip_after_error();
                return (Verdict::Drop, Some(Next::RecoveryMet(head.bytes as usize)));
            }
        }
        self.skip_after_error();
        (Verdict::Pass, None)
    }

    /// A request was cancelled for it took too long: that is said in its place.
    fn tell_late(&mut self, fields: ErrorFields<'_>) -> bool {
        let late = if fields.sqlstate() == Some(b"57014") { self.server.late.take() } else { None };
        let Some(report) = late else { return false };
        encode(self.batch.owned(), &report, Severity::Error, self.stats);
        self.server.stats.stats.count_refusal(report.code);
        true
    }

    /// Whether the error is of a Parse that a Query of the client needs, and that ends by a Sync of ours.
    fn is_of_ensuring(&self) -> bool {
        matches!(
            (self.server.expect.front(), self.server.expect.get(1)),
            (Some(Expect::Parse { relay: false, .. }), Some(Expect::Own(Own::Ensure)))
        )
    }

    fn skip_after_error(&mut self) {
        self.server.endings.anchor = None;
        self.server.restoring.doubt();
        if let (on @ Some(_), Some(client)) = (self.server.left.doubt_discard(), &mut self.client) {
            client.sequences_on = on;
        }
        if self.server.is_copying {
            self.server.is_copying = false;
            self.server.forget_syncs_before_copy_end();
        }
        if matches!(self.server.expect.front(), Some(Expect::Query { .. } | Expect::Function | Expect::Own(_)) | None) {
            return self.names_are_undone();
        }
        let mut names = self.client.as_mut().and_then(|c| c.statements.as_mut());
        let is_sync_sent = self.server.skip_to_sync(|change| {
            if let Some(names) = &mut names {
                names.undo(change);
            }
        });
        self.server.is_skipping = !is_sync_sent;
    }
}

/// SQLSTATE and message of an error.
pub(crate) fn words(fields: ErrorFields<'_>) -> (String, String) {
    let text = |bytes: Option<&[u8]>| String::from_utf8_lossy(bytes.unwrap_or_default()).into_owned();
    (text(fields.sqlstate()), text(fields.message()))
}
