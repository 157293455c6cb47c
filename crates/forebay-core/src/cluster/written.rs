//! On which timeline each system was seen to write last.
//!
//! By system, not by endpoint: a server of another cluster that takes the place of one that has written makes nobody
//! forget what that one said.

/// Systems that are remembered. An account has one, and those of strangers.
const SYSTEMS_MAX: usize = 16;

/// Systems, and the highest timeline on which each was seen to write; the one that was seen last is last.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Written(Vec<(u64, u32)>);

impl Written {
    /// One was seen to write. Of too many, the one that was seen longest ago is forgotten; none of `kept` is.
    pub(super) fn note(&mut self, system: u64, timeline: u32, kept: [Option<u64>; 3]) {
        let before = self.highest(system);
        self.0.retain(|(of, _)| *of != system);
        self.0.push((system, timeline.max(before)));
        if self.0.len() > SYSTEMS_MAX
            && let Some(oldest) = self.0.iter().position(|(of, _)| !kept.contains(&Some(*of)))
        {
            self.0.remove(oldest);
        }
    }

    /// The highest timeline on which a system was seen to write; 0: none was.
    pub(super) fn highest(&self, system: u64) -> u32 {
        self.0.iter().find(|(of, _)| *of == system).map_or(0, |(_, timeline)| *timeline)
    }

    pub(super) fn all(&self) -> &[(u64, u32)] {
        &self.0
    }
}
