//! Messages of a client that holds no server: answered here, dropped, or the beginning of a request that gets one.

use forebay_pgwire::frame;
use forebay_pgwire::frontend::tag;
use forebay_pgwire::write;
use forebay_spec::{Report, Severity, errors};

use crate::checkout::Checkout;
use crate::cluster::replay::Replaying;
use crate::frame::At;
use crate::io::Io;
use crate::leave::encode;
use crate::session::client::{ClientKey, Extent, Refusal};
use crate::session::{Body, IDLE};
use crate::worker::Worker;

/// What became of a message of a client without a server.
pub(crate) enum Alone {
    /// This many bytes are dealt with.
    Took(usize),
    /// It has a server, or an answer: the message is looked at again.
    GoOn,
    /// It must wait, or has left.
    Stop,
}

impl<I: Io> Worker<I> {
    /// Deals with the next of a client that holds no server: a message, or the rest of one.
    pub(crate) fn pump_alone(&mut self, io: &mut I, key: ClientKey, data: &[u8], at: usize) -> Alone {
        let client = &mut self.clients[key];
        if client.body_left > 0 {
            let n = (data.len() - at).min(client.body_left as usize);
            client.body_left -= n as u32;
            return Alone::Took(n);
        }
        match frame::head(&data[at..], self.tables.config.limits.message_bytes_max) {
            Ok(Some(_)) if client.replaying == Replaying::Runs && client.refusal.is_some() => {
                Alone::Took(client.abandon_replay(&data[at..]))
            }
            Ok(Some(head)) => self.without_server(io, key, At::new(data, at, head)),
            Ok(None) => Alone::Stop,
            Err(error) => {
                self.framing_fault(io, key, error);
                Alone::Stop
            }
        }
    }

    /// A message of a client that holds no server.
    fn without_server(&mut self, io: &mut I, key: ClientKey, frame: At<'_>) -> Alone {
        let client = &mut self.clients[key];
        match frame.head.tag {
            tag::TERMINATE => {
                self.client_leaves(io, key);
                return Alone::Stop;
            }
            tag::SYNC => {
                let mut out = std::mem::take(&mut self.scratch);
                if !std::mem::take(&mut client.is_skipping)
                    && let Some(refusal) = client.refusal.take()
                {
                    encode(&mut out, &refusal.report, Severity::Error, &self.stats);
                }
                write::ready_for_query(&mut out, IDLE);
                self.send_to_client(io, key, &out);
                out.clear();
                self.scratch = out;
            }
            // As PostgreSQL: after an error in a copy, the rest of the data is still on its way.
            tag::FLUSH | tag::COPY_DATA | tag::COPY_DONE | tag::COPY_FAIL => {}
            _ if client.is_skipping => {}
            tag::QUERY if client.usage.is_extended_only && client.refusal.is_none() => {
                return self.refuse_request(io, key, frame, &errors::simple_query_refused());
            }
            tag::QUERY | tag::PARSE | tag::BIND | tag::DESCRIBE | tag::EXECUTE | tag::CLOSE | tag::FUNCTION_CALL => {
                if !frame.is_whole() && frame.head.bytes <= self.tables.config.limits.wait_bytes_max {
                    // It costs nobody a server before it is all there.
                    return Alone::Stop;
                }
                client.request_at = self.now;
                if client.unsent > self.tables.config.limits.relay_bytes_max as usize {
                    // It does not read its replies: it gets no more before it has.
                    return Alone::Stop;
                }
                if let Some(refusal) = client.refusal.take() {
                    let alone = self.refuse_request(io, key, frame, &refusal.report);
                    if refusal.extent == Extent::AllKept
                        && let Some(client) = self.clients.get_mut(key)
                    {
                        client.refusal = Some(refusal);
                    }
                    return alone;
                }
                if client.is_split {
                    self.route(key, frame);
                }
                return match self.checkout(io, key) {
                    Checkout::Leased => Alone::GoOn,
                    Checkout::Queued => Alone::Stop,
                    Checkout::Refused(report) => {
                        let report = self.worded(*report);
                        let client = &mut self.clients[key];
                        if client.replaying == Replaying::Runs {
                            client.refuse(Refusal { report, extent: Extent::NextRequest });
                            return Alone::GoOn;
                        }
                        self.refuse_request(io, key, frame, &report)
                    }
                };
            }
            other => {
                self.stats.protocol_errors.add(1);
                let report = errors::unexpected_message(char::from(other).escape_default(), "in a session");
                self.refuse_and_close(io, key, report);
                return Alone::Stop;
            }
        }
        self.drop_message(key, frame)
    }

    fn drop_message(&mut self, key: ClientKey, frame: At<'_>) -> Alone {
        let Some(client) = self.clients.get_mut(key) else { return Alone::Stop };
        let there = frame.there();
        client.body_left = frame.head.bytes - there as u32;
        client.body = Body::Drop;
        Alone::Took(there)
    }

    /// Answers a request that gets no server: as PostgreSQL answers one that fails, so that the session goes on.
    #[cold]
    fn refuse_request(&mut self, io: &mut I, key: ClientKey, frame: At<'_>, report: &Report) -> Alone {
        let mut out = Vec::new();
        encode(&mut out, report, Severity::Error, &self.stats);
        let client = &mut self.clients[key];
        if frame.head.tag == tag::QUERY
            && let Some(names) = &mut client.statements
        {
            // A Query drops the unnamed statement, whatever becomes of it.
            names.clear_unnamed();
        }
        if matches!(frame.head.tag, tag::QUERY | tag::FUNCTION_CALL) {
            write::ready_for_query(&mut out, IDLE);
        } else {
            client.is_skipping = true;
        }
        self.send_to_client(io, key, &out);
        self.drop_message(key, frame)
    }
}
