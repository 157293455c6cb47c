//! Cancel requests that clients sent, and what each may have stopped: at most one thing that its client waited for.

use std::ops::RangeInclusive;

use crate::wire::Tag;

/// A cancel request that a client sent.
#[derive(Debug)]
struct Cancel {
    client: u32,
    is_forged: bool,
    /// What its client waited for when it reached the pooler: all that it may stop.
    aims: Option<Vec<Tag>>,
    /// Which ReadyForQuery its client waited for by then: those that it had got, and would get.
    readies: RangeInclusive<u64>,
    /// What it has stopped: one of these.
    hit: Option<Vec<Tag>>,
}

impl Cancel {
    fn aims_at(&self, hit: &[Tag]) -> bool {
        let is_aimed = |aims: &Vec<Tag>| aims.iter().any(|aim| hit.contains(aim));
        !self.is_forged && self.aims.as_ref().is_some_and(is_aimed)
    }
}

/// All that were sent, by number.
#[derive(Debug, Default)]
pub(crate) struct Cancels(Vec<Cancel>);

impl Cancels {
    /// A client sends one. Returns its number.
    pub(crate) fn sent(&mut self, client: usize, is_forged: bool) -> usize {
        self.0.push(Cancel { client: client as u32, is_forged, aims: None, readies: 0..=0, hit: None });
        self.0.len() - 1
    }

    /// Whether a client has sent one: it may meet what stands between two clients of a server.
    pub(crate) fn is_any(&self) -> bool {
        self.0.iter().any(|cancel| !cancel.is_forged)
    }

    /// The client that sent it.
    pub(crate) fn sender(&self, number: usize) -> usize {
        self.0[number].client as usize
    }

    /// It reached the pooler, while its client waits for replies to `tags`.
    pub(crate) fn arrived(&mut self, number: usize, tags: Vec<Tag>, readies: RangeInclusive<u64>) {
        // It may come in pieces; the last one is what the pooler can act on.
        let cancel = &mut self.0[number];
        (cancel.aims, cancel.readies) = (Some(tags), readies);
    }

    /// One stopped something that belongs to one of `tags`. False: none was sent for any.
    pub(crate) fn hit(&mut self, tags: &[Tag]) -> bool {
        self.assign(tags.to_vec(), &mut vec![false; self.0.len()])
    }

    /// Gives a hit to one that was sent for it; if all of those have hit something, one of them hands that on.
    fn assign(&mut self, hit: Vec<Tag>, is_tried: &mut [bool]) -> bool {
        for i in 0..self.0.len() {
            if is_tried[i] || !self.0[i].aims_at(&hit) {
                continue;
            }
            is_tried[i] = true;
            let is_free = match self.0[i].hit.clone() {
                None => true,
                Some(other) => self.assign(other, is_tried),
            };
            if is_free {
                self.0[i].hit = Some(hit);
                return true;
            }
        }
        false
    }

    /// Whether one of the client's own was sent for one of these requests, or since the last was answered.
    pub(crate) fn is_sent_for(&self, client: usize, tags: &[Tag], readies: u64) -> bool {
        let own = self.0.iter().filter(|c| !c.is_forged && c.client == client as u32);
        own.filter_map(|c| c.aims.as_ref().map(|aims| (c, aims)))
            .any(|(c, aims)| c.readies.contains(&readies) || aims.iter().any(|aim| tags.contains(aim)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two that are on their way at once may hit in either order, and each once.
    #[test]
    fn each_hits_once_whichever_came_first() {
        let tag = |request| Tag { client: 1, request };
        let mut cancels = Cancels::default();
        let (slow, fast) = (cancels.sent(1, false), cancels.sent(1, false));
        cancels.arrived(slow, vec![tag(6)], 1..=2);
        cancels.arrived(fast, vec![tag(6)], 1..=2);
        assert!(cancels.hit(&[tag(6)]));
        cancels.arrived(slow, vec![tag(7)], 2..=3);
        assert!(cancels.hit(&[tag(7)]), "the other one hit the request before");
        assert!(!cancels.hit(&[tag(7)]));
    }
}
