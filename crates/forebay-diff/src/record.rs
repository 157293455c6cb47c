//! What a long run leaves behind, written as it goes, so that a run that is killed has lost a minute: a file of the pairs
//! that programs have covered, and a file of figures, one line for each minute.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde::Serialize;

use crate::program::Program;

/// Figures are written this often.
const WRITTEN_EVERY: Duration = Duration::from_secs(60);

/// Programs by number of steps are counted in classes of so many.
const STEPS_OF_CLASS: usize = 10;

/// What programs ran since the last line. The keys are numbers of clients, least numbers of steps, levels, and sizes of
/// pools; the values are programs.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Tally {
    programs: u64,
    steps: u64,
    clients: BTreeMap<usize, u64>,
    lengths: BTreeMap<usize, u64>,
    levels: BTreeMap<String, u64>,
    /// Those whose clients spoke TLS, and those whose clients were superusers.
    tls: u64,
    superuser: u64,
    pools: BTreeMap<usize, u64>,
    /// By what they are called.
    divergences: BTreeMap<String, u64>,
}

/// A line of the file of figures.
#[derive(Serialize)]
struct Line<'a> {
    label: &'a str,
    /// Since 1970.
    at_s: u64,
    seconds: f64,
    #[serde(flatten)]
    tally: &'a Tally,
}

/// Both files, each if it is wanted.
pub(crate) struct Record {
    label: String,
    pairs: Option<File>,
    figures: Option<File>,
    tally: Tally,
    since: Instant,
}

impl Record {
    /// Opens what is wanted; what is there already stays.
    pub(crate) fn open(label: &str, pairs: Option<&Path>, figures: Option<&Path>) -> io::Result<Record> {
        let open = |path: &Path| OpenOptions::new().create(true).append(true).open(path);
        Ok(Record {
            label: label.to_owned(),
            pairs: pairs.map(open).transpose()?,
            figures: figures.map(open).transpose()?,
            tally: Tally::default(),
            since: Instant::now(),
        })
    }

    /// A program was run through a pool of `pool` servers; `covered`: lines for pairs that none has covered before.
    pub(crate) fn note(
        &mut self,
        program: &Program,
        pool: usize,
        divergence: Option<&str>,
        covered: &[String],
    ) -> io::Result<()> {
        let tally = &mut self.tally;
        tally.programs += 1;
        tally.steps += program.steps.len() as u64;
        *tally.clients.entry(program.clients.len()).or_default() += 1;
        *tally.lengths.entry(program.steps.len() / STEPS_OF_CLASS * STEPS_OF_CLASS).or_default() += 1;
        *tally.levels.entry(program.level.clone()).or_default() += 1;
        tally.tls += u64::from(program.tls);
        tally.superuser += u64::from(program.superuser);
        *tally.pools.entry(pool).or_default() += 1;
        if let Some(divergence) = divergence {
            *tally.divergences.entry(divergence.to_owned()).or_default() += 1;
        }
        if let Some(file) = self.pairs.as_mut().filter(|_| !covered.is_empty()) {
            // One write, so that a kill leaves whole lines.
            file.write_all((covered.join("\n") + "\n").as_bytes())?;
        }
        if self.since.elapsed() >= WRITTEN_EVERY { self.write() } else { Ok(()) }
    }

    /// Writes the figures of the programs since the last line, if there were any.
    pub(crate) fn write(&mut self) -> io::Result<()> {
        let seconds = self.since.elapsed().as_secs_f64();
        let tally = std::mem::take(&mut self.tally);
        self.since = Instant::now();
        let Some(file) = self.figures.as_mut().filter(|_| tally.programs > 0) else { return Ok(()) };
        let at_s = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let line = Line { label: &self.label, at_s, seconds, tally: &tally };
        file.write_all((serde_json::to_string(&line)? + "\n").as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A run that goes on where another ended adds to its files.
    #[test]
    fn a_record_is_added_to() {
        let folder = std::env::temp_dir().join(format!("forebay-diff-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let (pairs, figures) = (folder.join("pairs"), folder.join("figures"));
        let program = Program { level: "safe".to_owned(), pool: 1, clients: vec![Vec::new(); 3], ..Program::default() };
        for covered in ["one", "two"] {
            let mut record = Record::open("a run", Some(&pairs), Some(&figures)).unwrap();
            record.note(&program, 2, Some("kind"), &[covered.to_owned()]).unwrap();
            record.write().unwrap();
        }
        let (pairs, figures) = (std::fs::read_to_string(pairs).unwrap(), std::fs::read_to_string(figures).unwrap());
        std::fs::remove_dir_all(folder).unwrap();
        assert_eq!(pairs, "one\ntwo\n");
        let lines: Vec<serde_json::Value> = figures.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines.len(), 2);
        assert_eq!((&lines[1]["clients"]["3"], &lines[1]["divergences"]["kind"]), (&1.into(), &1.into()));
    }
}
