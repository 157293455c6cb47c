//! One program on both sides, and what differs.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::compare::{Difference, Uses, first_difference};
use crate::lane::Lane;
use crate::program::Program;
use crate::run::{Run, run_direct, run_pooled};

/// What came of a program.
#[derive(Clone, Debug)]
pub(crate) struct Trial {
    /// What PostgreSQL told.
    pub(crate) direct: Run,
    /// What forebay told.
    pub(crate) pooled: Run,
    /// The pool it ran through.
    pub(crate) pool: usize,
    /// Where they differ first.
    pub(crate) difference: Option<Difference>,
}

/// Whether forebay's servers may have served programs before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Servers {
    /// As the last program left them.
    Used,
    /// Opened anew.
    Fresh,
}

/// Words that no other run has had, in this process.
static RUNS: AtomicU64 = AtomicU64::new(0);

/// Runs a program on both sides and compares.
pub(crate) fn attempt(lane: &mut Lane, program: &Program, servers: Servers, uses: &Uses) -> io::Result<Trial> {
    let unique = unique();
    if servers == Servers::Fresh {
        lane.forget_spare();
    }
    let direct = run_direct(lane, program, &unique)?;
    let pool = direct.pool(program.pool);
    if servers == Servers::Fresh {
        lane.reconnect(&program.level, pool)?;
    }
    let pooled = run_pooled(lane, program, pool, &unique, &direct)?;
    let difference = first_difference(program, &direct, &pooled, uses);
    Ok(Trial { direct, pooled, pool, difference })
}

/// Whether PostgreSQL itself tells the same when it is asked again.
pub(crate) fn is_steady(lane: &mut Lane, program: &Program, direct: &Run) -> io::Result<bool> {
    lane.forget_spare();
    let again = run_direct(lane, program, &unique())?;
    Ok(first_difference(program, direct, &again, &Uses::default()).is_none())
}

fn unique() -> String {
    format!("{:06x}", RUNS.fetch_add(1, Ordering::Relaxed))
}
