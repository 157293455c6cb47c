//! Rows that answer queries of our own.

use forebay_pgwire::backend::data_row;
use forebay_pgwire::frame::{HEAD_BYTES, Head};

use crate::reply::{Next, READ_BYTES_MAX, Relaying, Verdict};
use crate::session::expect::Own;

impl Relaying<'_> {
    /// A row of the answer to a query of our own.
    #[inline(never)]
    pub(crate) fn own_row(&mut self, own: Own, data: &[u8], head: Head) -> (Verdict, Option<Next>) {
        if !matches!(own, Own::Probe | Own::Stamp | Own::Catalogue | Own::Channels | Own::Anchor | Own::Outcome) {
            return (Verdict::Drop, None);
        }
        if head.bytes > READ_BYTES_MAX {
            return (Verdict::Drop, Some(Next::Violation("a row too long for what was asked")));
        }
        if data.len() < head.bytes as usize {
            return (Verdict::Drop, Some(Next::More));
        }
        let Ok(values) = data_row(&data[HEAD_BYTES..head.bytes as usize]) else {
            return (Verdict::Drop, Some(Next::Violation("a malformed DataRow")));
        };
        match (&mut self.server.probe, &mut self.server.reading) {
            _ if matches!(own, Own::Anchor | Own::Outcome) => {
                self.server.told_of_commit(own, &values.iter().collect::<Vec<_>>());
            }
            _ if own == Own::Channels => {
                self.server.listen.channels.extend(values.iter().flatten().next().map(Into::into))
            }
            (Some(probe), _) if own == Own::Probe => probe.row(values.iter()),
            (_, Some(reading)) if own == Own::Stamp => reading.stamp(values.iter().next().flatten()),
            (_, Some(reading)) => reading.row(&values.iter().collect::<Vec<_>>()),
            _ => {}
        }
        (Verdict::Drop, None)
    }
}
