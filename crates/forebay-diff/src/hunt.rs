//! Many programs in several lanes at a time, and what was found.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use std::{fs, io};

use crate::compare::{Allowance, Uses};
use crate::feature::{Cell, Coverage, Feature};
use crate::generate::generate;
use crate::lane::Lane;
use crate::options::Options;
use crate::program::{POOLS, Program};
use crate::record::Record;
use crate::report::{Seed, transcript};
use crate::shrink::{REPEATS, Shrinker, repeats};
use crate::trial::{Servers, Trial, attempt, is_steady};

/// What all lanes share.
struct Hunt<'a> {
    options: &'a Options,
    next: AtomicU64,
    is_over: AtomicBool,
    until: Option<Instant>,
    uses: Uses,
    totals: Mutex<Totals>,
}

struct Totals {
    coverage: Coverage,
    record: Record,
    programs: u64,
    steps: u64,
    clients: u64,
    found: BTreeMap<String, Found>,
}

impl Totals {
    /// What program `number` is made for: where what is covered is kept, what is not goes first.
    fn cell(&mut self, options: &Options, number: u64) -> Cell {
        if options.covered.is_some() { self.coverage.steered_cell(number) } else { self.coverage.cell(number) }
    }
}

/// Programs that ran last through each pool of a lane, the latest last: what they left behind may matter.
type History = BTreeMap<(String, usize), Vec<Program>>;

/// Of the pairs that are not covered so many are named at the end of a run that keeps them.
const MISSING_SHOWN: usize = 10;

/// Between two looks at whether a pause is over.
const PAUSE_LOOKS: Duration = Duration::from_secs(1);

/// Most programs before a divergence that are kept with it.
const HISTORY_MAX: usize = 4;

/// Divergences of one kind.
#[derive(Default)]
struct Found {
    count: u64,
    /// What is known about the first of them.
    words: String,
}

/// Runs programs until there are enough. Returns whether all were the same on both sides.
pub(crate) fn hunt(options: &Options) -> io::Result<bool> {
    Lane::create_roles(&options.sides)?;
    let since = Instant::now();
    let hunt = Hunt {
        options,
        next: AtomicU64::new(options.first),
        is_over: AtomicBool::new(false),
        until: options.seconds.map(|seconds| since + Duration::from_secs(seconds)),
        uses: Uses::default(),
        totals: Mutex::new(Totals {
            coverage: covered(options)?,
            record: Record::open(&options.label, options.covered.as_deref(), options.figures.as_deref())?,
            programs: 0,
            steps: 0,
            clients: 0,
            found: BTreeMap::new(),
        }),
    };
    let lanes =
        (0..options.lanes).map(|number| Lane::create(&options.sides, number)).collect::<io::Result<Vec<_>>>()?;
    for lane in &lanes {
        lane.ask_for_sequences(&options.levels[0])?;
    }
    let failures: Vec<io::Error> = std::thread::scope(|scope| {
        let threads: Vec<_> = lanes.into_iter().map(|lane| scope.spawn(|| hunt.work(lane))).collect();
        threads.into_iter().filter_map(|thread| thread.join().unwrap_or_else(|_| Err(panicked())).err()).collect()
    });
    hunt.print(since.elapsed())?;
    match failures.into_iter().next() {
        Some(error) => Err(error),
        None => Ok(hunt.totals.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).found.is_empty()),
    }
}

fn panicked() -> io::Error {
    io::Error::other("a lane panicked")
}

/// Prints the program that `--first` names.
pub(crate) fn show(options: &Options) -> io::Result<bool> {
    let cell = Coverage::new(&options.features, &options.levels, POOLS.len()).cell(options.first);
    let program = made(options, options.first, cell);
    println!("{}", serde_json::to_string_pretty(&program)?);
    Ok(true)
}

/// Program `number`, made for a cell.
fn made(options: &Options, number: u64, cell: Cell) -> Program {
    let seed = options.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ number;
    generate(seed, cell, &options.levels[cell.level], &options.features)
}

/// Pairs that earlier runs have covered. A line that is no pair of today's names is passed over.
fn covered(options: &Options) -> io::Result<Coverage> {
    let mut coverage = Coverage::new(&options.features, &options.levels, POOLS.len());
    let text = match options.covered.as_deref().map(fs::read_to_string) {
        None => return Ok(coverage),
        Some(Err(error)) if error.kind() == io::ErrorKind::NotFound => return Ok(coverage),
        Some(read) => read?,
    };
    for line in text.lines() {
        let words: Vec<_> = line.split(' ').collect();
        let &[first, second, level, pool] = words.as_slice() else { continue };
        let level = options.levels.iter().position(|name| name == level);
        let pool = POOLS.iter().position(|size| size.to_string() == pool);
        if let (Some(first), Some(second), Some(level), Some(pool)) =
            (Feature::named(first), Feature::named(second), level, pool)
        {
            coverage.cover(first, second, level, pool);
        }
    }
    Ok(coverage)
}

/// The fewest of the latest programs after which, on fresh servers, a program differs; all if it never does.
fn needed(lane: &mut Lane, history: &[Program], program: &Program, signature: &str) -> io::Result<Vec<Program>> {
    for from in (0..history.len()).rev() {
        let mut servers = Servers::Fresh;
        for earlier in &history[from..] {
            attempt(lane, earlier, servers, &Uses::default())?;
            servers = Servers::Used;
        }
        let trial = attempt(lane, program, servers, &Uses::default())?;
        if trial.difference.is_some_and(|difference| difference.signature == signature) {
            return Ok(history[from..].to_vec());
        }
    }
    Ok(history.to_vec())
}

impl Hunt<'_> {
    fn work(&self, mut lane: Lane) -> io::Result<()> {
        let mut history = History::new();
        while !self.is_over.load(Ordering::Relaxed) && self.until.is_none_or(|until| Instant::now() < until) {
            if self.options.pause.as_ref().is_some_and(|file| file.exists()) {
                std::thread::sleep(PAUSE_LOOKS);
                continue;
            }
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            if number >= self.options.first + self.options.programs {
                break;
            }
            let cell = self.totals.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).cell(self.options, number);
            let program = made(self.options, number, cell);
            let worked = self.one(&mut lane, number, &program, cell.level, &mut history);
            if let Err(error) = worked {
                self.is_over.store(true, Ordering::Relaxed);
                return Err(io::Error::other(format!("program {number}: {error}")));
            }
        }
        Ok(())
    }

    fn one(
        &self,
        lane: &mut Lane,
        number: u64,
        program: &Program,
        level: usize,
        history: &mut History,
    ) -> io::Result<()> {
        let trial = attempt(lane, program, Servers::Used, &self.uses)?;
        let before = history.entry((program.level.clone(), trial.pool)).or_default();
        let features: Vec<Feature> = program.steps.iter().map(|step| step.feature).collect();
        let pool = POOLS.iter().position(|size| *size == trial.pool).unwrap_or(0);
        let signature = trial.difference.as_ref().map(|difference| difference.signature.clone());
        let is_new = {
            let mut totals = self.totals.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            totals.programs += 1;
            totals.steps += program.steps.len() as u64;
            totals.clients += program.clients.len() as u64;
            let added = totals.coverage.note(&features, level, pool);
            let line = |(first, second)| format!("{first} {second} {} {}", program.level, trial.pool);
            let lines: Vec<_> = added.into_iter().map(line).collect();
            totals.record.note(program, trial.pool, signature.as_deref(), &lines)?;
            let found = signature.map(|signature| totals.found.entry(signature).or_default());
            let is_new = found.is_some_and(|found| {
                found.count += 1;
                found.count == 1
            });
            if totals.found.len() >= self.options.signatures_max {
                self.is_over.store(true, Ordering::Relaxed);
            }
            is_new
        };
        if is_new {
            self.keep(lane, number, program, trial, before)?;
            // Its servers are not those that the programs before had.
            before.clear();
        }
        before.push(program.clone());
        if before.len() > HISTORY_MAX {
            before.remove(0);
        }
        Ok(())
    }

    /// Runs a divergence again, makes it small, and writes it down.
    fn keep(
        &self,
        lane: &mut Lane,
        number: u64,
        program: &Program,
        trial: Trial,
        history: &[Program],
    ) -> io::Result<()> {
        let Some(first) = trial.difference.clone() else { return Ok(()) };
        let signature = first.signature;
        if !self.options.is_shrinking {
            return self.write_down(number, program, &trial, "not run again", Vec::new());
        }
        // What is found must not be lost with a run that ends while it is made small.
        self.write_down(number, program, &trial, "not run again yet", Vec::new())?;
        let is_steady = is_steady(lane, program, &trial.direct)?;
        let (count, again) = repeats(lane, program, &signature)?;
        let (program, trial) = match again {
            Some(again) if count == REPEATS => Shrinker::new(lane, program.clone(), again, &signature).shrink()?,
            _ => (program.clone(), trial),
        };
        let before = if count == 0 { needed(lane, history, &program, &signature)? } else { Vec::new() };
        let mut repeats = format!("{count} of {REPEATS} on fresh servers");
        if !is_steady {
            repeats.push_str(", PostgreSQL differs with itself");
        }
        self.write_down(number, &program, &trial, &repeats, before)
    }

    fn write_down(
        &self,
        number: u64,
        program: &Program,
        trial: &Trial,
        repeats: &str,
        before: Vec<Program>,
    ) -> io::Result<()> {
        let Some(difference) = trial.difference.clone() else { return Ok(()) };
        let seed = Seed {
            signature: difference.signature.clone(),
            origin: format!("seed {}, program {number}", self.options.seed),
            repeats: repeats.to_owned(),
            direct: difference.direct,
            pooled: difference.pooled,
            before,
            program: program.clone(),
        };
        let path = seed.write(&self.options.out, &transcript(program, trial))?;
        let words = format!(
            "program {number}, {repeats}, {} steps\n    direct  {}\n    pooled  {}\n    {}",
            program.steps.len(),
            seed.direct,
            seed.pooled,
            path.display()
        );
        println!("new: {}: {words}", seed.signature);
        let mut totals = self.totals.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        totals.found.entry(difference.signature).or_default().words = words;
        Ok(())
    }

    fn print(&self, spent: Duration) -> io::Result<()> {
        let mut totals = self.totals.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        totals.record.write()?;
        for (signature, found) in &totals.found {
            println!("{:>6} × {signature}: {}", found.count, found.words);
        }
        for allowance in Allowance::ALL {
            println!("allowed: {allowance:?}, used {} times", self.uses.count(allowance));
        }
        let shown = if self.options.covered.is_some() { MISSING_SHOWN } else { 0 };
        for cell in totals.coverage.missing().take(shown) {
            let level = &self.options.levels[cell.level];
            println!("not covered: {} {} {level} {}", cell.first, cell.second, POOLS[cell.pool]);
        }
        let (seen, all) = totals.coverage.count();
        let programs = totals.programs.max(1) as f64;
        println!(
            "{} programs, {} steps, {:.1} clients and {:.1} steps each, {seen} of {all} pairs, {} kinds of divergences \
             ({} in all), {:.1} programs/s",
            totals.programs,
            totals.steps,
            totals.clients as f64 / programs,
            totals.steps as f64 / programs,
            totals.found.len(),
            totals.found.values().map(|found| found.count).sum::<u64>(),
            programs / spent.as_secs_f64()
        );
        Ok(())
    }
}
