//! Instructions that a transaction costs in forebay-core: a figure that noise can't move.
//!
//! | called | does |
//! |---|---|
//! | `instructions count` | prints a line for each kind, `simple 2310`, or `not counted` where ptrace is not permitted |
//! | `instructions KIND COUNT` | runs COUNT transactions and ends, for a counter around it such as callgrind |
//!
//! To count, the program runs itself again and has the kernel stop that process behind every instruction
//! (ptrace, PTRACE_SINGLESTEP) between two marks. What stands around the transactions is taken off by a second run that
//! has fewer of them. Instructions of the kernel are not counted: here it is never called.

mod scene;

use std::io;
use std::process::{Child, Command};

use scene::{Kind, Scene};

/// What a run ends with that may not be traced.
const REFUSED: i32 = 77;
/// What is printed then.
const NOT_COUNTED: &str = "not counted";

/// Transactions of the shorter and the longer run.
const RUNS: [u32; 2] = [4, 36];

fn main() -> io::Result<()> {
    // cargo adds --bench.
    let words: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with("--")).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words[..] {
        ["count"] => count_all(),
        [kind, count] => run(kind, count, false),
        ["traced", kind, count] => run(kind, count, true),
        _ => Err(io::Error::other("usage: instructions count | instructions simple|prepared|extended|queued COUNT")),
    }
}

/// Runs so many transactions of a kind, between two marks if somebody counts.
fn run(kind: &str, count: &str, is_traced: bool) -> io::Result<()> {
    let found = Kind::ALL.into_iter().find(|(name, _)| *name == kind);
    let (_, kind) = found.ok_or_else(|| io::Error::other(format!("there is no kind {kind:?}")))?;
    let count: u32 = count.parse().map_err(io::Error::other)?;
    let mut scene = Scene::new(kind);
    if is_traced {
        // SAFETY: no memory is passed; from here on the parent is told of our signals.
        if unsafe { libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0) } == -1 {
            // Nobody would wake us.
            std::process::exit(REFUSED);
        }
        mark();
    }
    for _ in 0..count {
        scene.transaction();
    }
    if is_traced {
        mark();
    }
    Ok(())
}

/// Stops until whoever counts lets us go on.
fn mark() {
    // SAFETY: no memory is passed.
    unsafe { libc::raise(libc::SIGSTOP) };
}

fn count_all() -> io::Result<()> {
    for (name, _) in Kind::ALL {
        let [few, many] = RUNS;
        let (of_few, of_many) = (count(name, few)?, count(name, many)?);
        println!("{name} {}", (of_many - of_few) / u64::from(many - few));
    }
    Ok(())
}

/// Instructions between the marks of a run of its own.
fn count(kind: &str, transactions: u32) -> io::Result<u64> {
    let mut words = Command::new(std::env::current_exe()?);
    let mut child = words.args(["traced", kind, &transactions.to_string()]).spawn()?;
    let counted = steps(&child);
    if counted.is_err() {
        // It may have ended already.
        let _ = child.kill();
    }
    let ended = child.wait()?;
    let counted = counted?;
    if ended.success() { Ok(counted) } else { Err(io::Error::other(format!("{kind}: {ended}"))) }
}

fn steps(child: &Child) -> io::Result<u64> {
    let pid = child.id() as libc::pid_t;
    if stopped_by(pid)? != libc::SIGSTOP {
        return Err(io::Error::other("the run did not come to its first mark"));
    }
    let mut count = 0;
    loop {
        order(libc::PTRACE_SINGLESTEP, pid)?;
        match stopped_by(pid)? {
            libc::SIGTRAP => count += 1,
            libc::SIGSTOP => break,
            other => return Err(io::Error::other(format!("the run was stopped by signal {other}"))),
        }
    }
    order(libc::PTRACE_DETACH, pid)?;
    Ok(count)
}

fn order(request: libc::c_uint, pid: libc::pid_t) -> io::Result<()> {
    // SAFETY: both requests take no memory; the last argument is the signal to deliver, none.
    let done = unsafe { libc::ptrace(request, pid, 0, 0) };
    if done == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Waits until the traced process stops; the signal that stopped it.
fn stopped_by(pid: libc::pid_t) -> io::Result<i32> {
    let mut status = 0;
    // SAFETY: `status` outlives the call.
    if unsafe { libc::waitpid(pid, &raw mut status, 0) } == -1 {
        return Err(io::Error::last_os_error());
    }
    if libc::WIFSTOPPED(status) {
        return Ok(libc::WSTOPSIG(status));
    }
    if libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == REFUSED {
        println!("{NOT_COUNTED}");
        std::process::exit(0);
    }
    Err(io::Error::other("the run ended before its last mark"))
}
