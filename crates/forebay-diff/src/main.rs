//! `forebay-diff`: the same programs direct and through forebay, compared step by step.
//!
//! `run` makes programs out of a seed, `replay` runs programs out of files, `show` prints a program. Servers are started
//! by tests/diff/run.py, which knows the databases that forebay has to be configured with.
#![forbid(unsafe_code)]

mod compare;
mod connection;
mod encode;
mod event;
mod feature;
mod generate;
mod grammar;
mod hunt;
mod lane;
mod options;
mod program;
mod record;
mod replay;
mod report;
mod run;
mod shrink;
mod stream;
mod trial;

use std::process::ExitCode;

use options::{Options, Verb};

fn main() -> ExitCode {
    let options = match Options::parse(std::env::args().skip(1)) {
        Ok(options) => options,
        Err(words) => {
            eprintln!("{words}\n{}", options::USAGE);
            return ExitCode::from(2);
        }
    };
    let done = match &options.verb {
        Verb::Run => hunt::hunt(&options),
        Verb::Replay(files) => replay::replay(&options, files),
        Verb::Show => hunt::show(&options),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("forebay-diff: {error}");
            ExitCode::from(2)
        }
    }
}
