//! Programs out of files: regressions, and divergences that are looked into.

use std::io;
use std::path::PathBuf;

use crate::compare::Uses;
use crate::lane::Lane;
use crate::options::Options;
use crate::report::{Seed, transcript};
use crate::trial::{Servers, attempt};

/// Runs the program of each file at every level given. Returns whether none of them differed.
pub(crate) fn replay(options: &Options, files: &[PathBuf]) -> io::Result<bool> {
    Lane::create_roles(&options.sides)?;
    let mut lane = Lane::create(&options.sides, 0)?;
    lane.ask_for_sequences(&options.levels[0])?;
    let mut failed = 0;
    for file in files {
        let seed = Seed::read(file)?;
        for level in &options.levels {
            let mut program = seed.program.clone();
            program.level.clone_from(level);
            let mut servers = Servers::Fresh;
            for earlier in &seed.before {
                let mut earlier = earlier.clone();
                earlier.level.clone_from(level);
                attempt(&mut lane, &earlier, servers, &Uses::default())?;
                servers = Servers::Used;
            }
            let trial = attempt(&mut lane, &program, servers, &Uses::default())?;
            if let Some(difference) = &trial.difference {
                failed += 1;
                println!("{} (level {level:?}): {}", file.display(), difference.signature);
                println!("{}", transcript(&program, &trial));
            }
        }
    }
    println!("{} programs replayed, {failed} differ", files.len() * options.levels.len());
    Ok(failed == 0)
}
