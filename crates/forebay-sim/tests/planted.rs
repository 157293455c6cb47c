//! The proof that the checkers can fail: each known bug is planted, and has to be found.
//!
//! `PLANTED_SEEDS=40 cargo test -p forebay-sim --features planted-bugs --test planted -- --nocapture` shows in how many of
//! so many seeds each is found; without it a bug is left at the first.

use forebay_sim::{Options, bug_names, run};

/// A bug that does not show in so many seeds is not found. The rarest, a statement shared over other settings, takes 632.
const SEEDS_MAX: u64 = 700;

/// Where the search begins for bugs that show in one of hundreds of seeds, so that it does not take minutes.
const FIRST: [(&str, u64); 4] = [
    ("cut-ignored", 1600),
    ("unseen-pin-kept", 320),
    ("statement-without-environment", 200),
    ("used-pool-forgotten", 230),
];

/// What a bug did.
struct Finding {
    name: &'static str,
    played: u64,
    found: u64,
    first: String,
}

/// Seeds played for each bug at least, to say in how many it shows.
fn seeds() -> u64 {
    std::env::var("PLANTED_SEEDS").map_or(1, |seeds| seeds.parse().expect("PLANTED_SEEDS is a number"))
}

fn look_for(name: &'static str, seeds: u64) -> Finding {
    let mut finding = Finding { name, played: 0, found: 0, first: String::new() };
    let is_moving = name.starts_with("moved-");
    let options = Options { bug: Some(name), is_moving, ..Options::default() };
    let first = FIRST.iter().find(|(of, _)| *of == name).map_or(0, |(_, first)| *first);
    while finding.played < seeds || (finding.found == 0 && finding.played < SEEDS_MAX) {
        let seed = first + finding.played;
        finding.played += 1;
        let Some(words) = run(seed, options).violation else { continue };
        if run(seed, Options { is_moving, ..Options::default() }).violation.is_some() {
            // It fails without the bug as well, and proves nothing.
            continue;
        }
        if finding.found == 0 {
            finding.first = format!("seed {seed}: {}", words.chars().take(110).collect::<String>());
        }
        finding.found += 1;
    }
    finding
}

/// If a bug is not found, its checker has gone blind, and the hundreds of green seeds say less than they seem to.
#[test]
fn every_planted_bug_is_found() {
    // Panics of core's own assertions are findings too; their messages would drown the table.
    std::panic::set_hook(Box::new(|_| {}));
    let seeds = seeds();
    let handles: Vec<_> =
        bug_names().into_iter().map(|name| std::thread::spawn(move || look_for(name, seeds))).collect();
    let findings: Vec<Finding> =
        handles.into_iter().map(|handle| handle.join().expect("a run does not panic")).collect();
    let _ = std::panic::take_hook();
    println!("| planted bug | seeds | found in | first |\n|---|---|---|---|");
    for Finding { name, played, found, first } in &findings {
        println!("| {name} | {played} | {found} | {first} |");
    }
    assert!(findings.len() >= 8);
    let missed: Vec<&str> = findings.iter().filter(|f| f.found == 0).map(|f| f.name).collect();
    assert!(missed.is_empty(), "not found in {SEEDS_MAX} seeds: {missed:?}");
}
