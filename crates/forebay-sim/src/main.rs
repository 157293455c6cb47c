//! `make sim SEED=N`: plays seeds and says which of them break a rule. `make scaling`: measures many workers.

use std::process::ExitCode;

use forebay_sim::{Options, bug_names, cluster_bug_names, commit_bug_names, run, scaling};

const USAGE: &str =
    "usage: forebay-sim [--seed N | --seeds A..B] [--bug NAME] [--direct] [--moving] [--clusters [--commit-check on|off]]
                   [--verbose]
       forebay-sim scaling …";

struct Order {
    seeds: std::ops::Range<u64>,
    options: Options,
}

fn main() -> ExitCode {
    let mut words = std::env::args().skip(1).peekable();
    if words.next_if(|word| word == "scaling").is_some() {
        return measure(words);
    }
    let order = match parse(words) {
        Ok(order) => order,
        Err(words) => {
            eprintln!("{words}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    let (mut failed, mut played, mut client_us, mut events) = (0, 0, 0, 0);
    for seed in order.seeds {
        let report = run(seed, order.options);
        for line in &report.lines {
            println!("{line}");
        }
        played += 1;
        client_us += report.client_us;
        events += report.events;
        if let Some(words) = report.violation {
            failed += 1;
            println!("seed {seed}: {words}");
        } else if played == 1 {
            println!("seed {seed}: {} events, trace {:016x}", report.events, report.trace_hash);
        }
    }
    println!("{played} seeds, {failed} failed, {} simulated client-seconds, {events} events", client_us / 1_000_000);
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn measure(words: impl Iterator<Item = String>) -> ExitCode {
    match scaling::command::run(words) {
        Ok(()) => ExitCode::SUCCESS,
        Err(words) => {
            eprintln!("{words}\n{}", scaling::command::USAGE);
            ExitCode::from(2)
        }
    }
}

fn parse(mut words: impl Iterator<Item = String>) -> Result<Order, String> {
    let mut order = Order { seeds: 0..300, options: Options::default() };
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or_else(|| format!("{word} needs a value"));
        match word.as_str() {
            "--seed" => {
                let seed = number(&value()?)?;
                order.seeds = seed..seed + 1;
            }
            "--seeds" => {
                let text = value()?;
                let (first, end) = text.split_once("..").ok_or_else(|| format!("{text} is not a range A..B"))?;
                order.seeds = number(first)?..number(end)?;
            }
            "--bug" => {
                let name = value()?;
                let known = [bug_names(), cluster_bug_names(), commit_bug_names()].concat();
                let found = known.iter().find(|n| **n == name);
                order.options.bug =
                    Some(found.ok_or_else(|| format!("{name} is none of {known:?} (feature planted-bugs)"))?);
            }
            "--direct" => order.options.is_direct = true,
            "--clusters" => order.options.is_cluster = true,
            "--commit-check" => {
                let word = value()?;
                let is_known = word == "on" || word == "off";
                order.options.commit_check =
                    Some(is_known.then(|| word == "on").ok_or_else(|| format!("{word} is neither on nor off"))?);
            }
            "--moving" => order.options.is_moving = true,
            "--verbose" => order.options.is_verbose = true,
            _ => return Err(format!("{word} is not known")),
        }
    }
    Ok(order)
}

fn number(text: &str) -> Result<u64, String> {
    text.parse().map_err(|_| format!("{text} is not a number"))
}
