//! The proof that the checkers can fail: each known bug is planted, and has to be found.
//!
//! Run with `cargo test -p forebay-sim --features planted-bugs --test planted -- --nocapture` to see the table.

use forebay_sim::{Options, bug_names, run};

/// Seeds played for each bug, to say in how many it shows.
const SEEDS: u64 = 40;

/// A bug that does not show in so many seeds is not found. The rarest, a statement shared over other settings, takes 632.
const SEEDS_MAX: u64 = 700;

/// Where the search begins for bugs that show in one of hundreds of seeds, so that it does not take minutes.
const FIRST: [(&str, u64); 2] = [("cut-ignored", 1600), ("unseen-pin-kept", 320)];

/// What a bug did.
struct Finding {
    name: &'static str,
    played: u64,
    found: u64,
    first: String,
}

fn look_for(name: &'static str) -> Finding {
    let mut finding = Finding { name, played: 0, found: 0, first: String::new() };
    let is_moving = name.starts_with("moved-");
    let options = Options { bug: Some(name), is_moving, ..Options::default() };
    let first = FIRST.iter().find(|(of, _)| *of == name).map_or(0, |(_, first)| *first);
    while finding.played < SEEDS || (finding.found == 0 && finding.played < SEEDS_MAX) {
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
    let handles: Vec<_> = bug_names().into_iter().map(|name| std::thread::spawn(move || look_for(name))).collect();
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
