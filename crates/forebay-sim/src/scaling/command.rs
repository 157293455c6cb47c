//! `forebay-sim scaling`: every case with every number of workers, beside one queue.

use std::fmt::Write;

use super::report::{Row, json_line, table};
use super::{Case, Plan, Service, US, ideal, play};

/// What may be asked for.
pub const USAGE: &str = "usage: forebay-sim scaling [--workers 1,2,4] [--cases even,half,few,light] [--clients N] [--servers N] \
[--seconds S] [--warm-up-seconds S] [--seed N] [--service exponential|constant] [--service-us N] [--think-us N] \
[--link-us N] [--message-us N] [--input-us N] [--turn-us N] [--json FILE]";

/// Numbers of workers that are played if none are named.
const WORKERS: [usize; 7] = [1, 2, 4, 8, 16, 32, 64];

/// What is to be played.
#[derive(Clone, Debug)]
struct Order {
    /// Its case and its number of workers are replaced by each of the following in turn.
    plan: Plan,
    workers: Vec<usize>,
    cases: Vec<Case>,
    json: Option<String>,
}

/// Plays what the words ask for, prints a table for each case, and writes JSON lines if they are asked for.
pub fn run(words: impl Iterator<Item = String>) -> Result<(), String> {
    let order = parse(words)?;
    let mut lines = String::new();
    println!("{}", described(&order.plan));
    for case in &order.cases {
        let one_queue = ideal::play(&Plan { case: *case, workers: 1, ..order.plan.clone() });
        let mut rows = vec![Row { workers: None, figures: one_queue }];
        for workers in &order.workers {
            let plan = Plan { case: *case, workers: *workers, ..order.plan.clone() };
            rows.push(Row { workers: Some(*workers), figures: play(&plan) });
        }
        for row in &rows {
            let _ = writeln!(lines, "{}", json_line(*case, &order.plan, row));
        }
        println!("\n{}", table(*case, &rows));
    }
    match order.json {
        Some(path) => std::fs::write(&path, lines).map_err(|error| format!("{path}: {error}")),
        None => Ok(()),
    }
}

fn described(plan: &Plan) -> String {
    let service = match plan.service {
        Service::Exponential => "exponential",
        Service::Constant => "constant",
    };
    format!(
        "{} clients, {} servers, service {} µs ({service}), pause {} µs, link {} µs, message {} µs, input {} µs, turn {} µs, \
         {} s after {} s, seed {}",
        plan.clients,
        plan.servers,
        plan.service_ns / US,
        plan.think_ns / US,
        plan.link_ns / US,
        plan.message_ns / US,
        plan.input_ns / US,
        plan.turn_ns / US,
        (plan.until_ns - plan.from_ns) as f64 / 1e9,
        plan.from_ns as f64 / 1e9,
        plan.seed
    )
}

fn parse(mut words: impl Iterator<Item = String>) -> Result<Order, String> {
    let plan = Plan::new(Case::Even, 1);
    let (mut warm_up, mut seconds) = (plan.from_ns, plan.until_ns - plan.from_ns);
    let mut order = Order { plan, workers: WORKERS.to_vec(), cases: Case::ALL.to_vec(), json: None };
    while let Some(word) = words.next() {
        let value = words.next().ok_or_else(|| format!("{word} needs a value"))?;
        let plan = &mut order.plan;
        match word.as_str() {
            "--workers" => order.workers = value.split(',').map(count).collect::<Result<_, _>>()?,
            "--cases" => order.cases = value.split(',').map(case).collect::<Result<_, _>>()?,
            "--clients" => plan.clients = count(&value)?,
            "--servers" => plan.servers = count(&value)?,
            "--seconds" => seconds = nanoseconds(&value)?,
            "--warm-up-seconds" => warm_up = nanoseconds(&value)?,
            "--seed" => plan.seed = number(&value)?,
            "--service" => {
                plan.service = match value.as_str() {
                    "exponential" => Service::Exponential,
                    "constant" => Service::Constant,
                    _ => return Err(format!("{value} is neither exponential nor constant")),
                };
            }
            "--service-us" => plan.service_ns = number(&value)? * US,
            "--think-us" => plan.think_ns = number(&value)? * US,
            "--link-us" => plan.link_ns = number(&value)? * US,
            "--message-us" => plan.message_ns = number(&value)? * US,
            "--input-us" => plan.input_ns = number(&value)? * US,
            "--turn-us" => plan.turn_ns = number(&value)? * US,
            "--json" => order.json = Some(value),
            _ => return Err(format!("{word} is not known")),
        }
    }
    (order.plan.from_ns, order.plan.until_ns) = (warm_up, warm_up + seconds);
    Ok(order)
}

fn case(name: &str) -> Result<Case, String> {
    Case::ALL.into_iter().find(|case| case.name() == name).ok_or_else(|| format!("{name} is no case"))
}

fn number(text: &str) -> Result<u64, String> {
    text.parse().ok().filter(|n| *n <= 1_000_000_000).ok_or_else(|| format!("{text} is not a number up to 10⁹"))
}

/// A number of clients, servers or workers.
fn count(text: &str) -> Result<usize, String> {
    text.parse()
        .ok()
        .filter(|n| (1..=60_000).contains(n))
        .ok_or_else(|| format!("{text} is not a number of 1 to 60000"))
}

fn nanoseconds(text: &str) -> Result<u64, String> {
    let seconds: Option<f64> = text.parse().ok();
    let known = seconds.filter(|s| (0.001..=3600.0).contains(s));
    known.map(|s| (s * 1e9) as u64).ok_or_else(|| format!("{text} is not a number of seconds from 0.001 to 3600"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A misread option gives figures of something else.
    #[test]
    fn options_are_read_or_refused() {
        let read = |text: &str| parse(text.split_whitespace().map(str::to_owned));
        let order =
            read("--workers 1,64 --cases few --servers 8 --seconds 0.25 --service constant").expect("it is sound");
        assert_eq!((order.workers, order.cases), (vec![1, 64], vec![Case::Few]));
        assert_eq!((order.plan.servers, order.plan.service), (8, Service::Constant));
        assert_eq!(order.plan.until_ns - order.plan.from_ns, 250_000_000);
        for wrong in ["--workers 0", "--workers 1,,2", "--cases odd", "--seconds 0", "--seed", "--speed 3", "--seed -1"]
        {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }
}
