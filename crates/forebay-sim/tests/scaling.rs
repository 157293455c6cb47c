//! A thousand clients over twenty servers, with one worker and with many: what they wait, beside one queue for all.

use forebay_sim::scaling::figures::Figures;
use forebay_sim::scaling::{Case, Plan, ideal, play};

/// p99 and p99.9 of the wait, over p50.
const RATIOS_MAX: [f64; 2] = [1.15, 1.5];

/// Of the transactions a second that one queue does.
const RATE_MIN: f64 = 0.95;

const MS: u64 = 1_000_000;

/// Short, for a build that is not optimised.
fn plan(case: Case, workers: usize) -> Plan {
    Plan { from_ns: 200 * MS, until_ns: 600 * MS, ..Plan::new(case, workers) }
}

fn assert_waits_are_even(plan: &Plan) -> Figures {
    let (figures, one_queue) = (play(plan), ideal::play(plan));
    let [high, highest] = figures.ratios().expect("a thousand clients over twenty servers wait");
    assert!(high <= RATIOS_MAX[0] && highest <= RATIOS_MAX[1], "p99 and p99.9 over p50: {high}, {highest}: {plan:?}");
    assert!(figures.rate >= RATE_MIN * one_queue.rate, "{} tx/s, {} by one queue", figures.rate, one_queue.rate);
    figures
}

fn assert_nobody_starves(figures: &Figures) {
    let clients = figures.per_client;
    // One transaction is the grain of the count.
    assert!(clients.min >= 0.9 * clients.mean - 1.0, "{clients:?}");
    assert!(clients.max <= 1.1 * clients.mean + 1.0, "{clients:?}");
    let workers = figures.per_worker;
    assert!(workers.jain >= 0.995, "{workers:?}");
}

/// A queue in which some wait twice as long as others is a timeout for a few of a thousand users.
#[test]
fn a_thousand_clients_wait_equally_long_with_one_worker_and_with_eight() {
    for workers in [1, 8] {
        assert_nobody_starves(&assert_waits_are_even(&plan(Case::Even, workers)));
    }
}

/// Connections are not spread by load: one worker may have got half of them.
#[test]
fn clients_of_a_crowded_worker_wait_no_longer_than_others() {
    assert_nobody_starves(&assert_waits_are_even(&plan(Case::Half, 8)));
}

/// With more workers than servers most have none, and live on what others lend.
#[test]
fn no_worker_starves_where_there_are_more_workers_than_servers() {
    assert_nobody_starves(&assert_waits_are_even(&plan(Case::Even, 64)));
}

/// Where there are servers for all, a client that waits, or a server that moves, is a loss for nothing.
#[test]
fn few_clients_neither_wait_nor_move_servers() {
    let plan = plan(Case::Few, 8);
    let (figures, one_queue) = (play(&plan), ideal::play(&plan));
    assert!(figures.wait_us[2] <= 50.0, "p99.9 of the wait is {} µs", figures.wait_us[2]);
    assert!(figures.rate >= RATE_MIN * one_queue.rate, "{} tx/s, {} by one queue", figures.rate, one_queue.rate);
    assert!(figures.lent_share <= 0.01, "{} of the transactions on a server that was lent", figures.lent_share);
}

/// A server that idles at another worker while a client waits is what a global limit must not cost: no wait may be longer
/// than one queue's by more than the messages that it takes to fetch the server.
#[test]
fn an_idle_server_of_another_worker_is_fetched_at_once() {
    let plan = plan(Case::Light, 8);
    let (figures, one_queue) = (play(&plan), ideal::play(&plan));
    assert!(figures.messages.lend > 0);
    assert!(figures.rate >= 0.99 * one_queue.rate, "{} tx/s, {} by one queue", figures.rate, one_queue.rate);
    let longer_us = figures.wait_mean_us - one_queue.wait_mean_us;
    assert!(longer_us <= 60.0, "the mean wait is {longer_us} µs longer");
}

/// Servers that follow the oldest waiters from worker to worker in a herd have eight workers do no more than one can.
#[test]
fn workers_share_the_work_where_there_is_more_than_one_can_do() {
    let plan = |workers| Plan { service_ns: MS / 10, ..plan(Case::Even, workers) };
    let (one, eight, one_queue) = (play(&plan(1)), play(&plan(8)), ideal::play(&plan(1)));
    assert!(one.rate <= 0.65 * one_queue.rate, "one worker can do it all: {} tx/s", one.rate);
    assert!(eight.rate >= 0.85 * one_queue.rate, "{} tx/s, {} by one queue", eight.rate, one_queue.rate);
    assert!(eight.company <= 5.0, "{} of 20 servers at the worker of a request", eight.company);
}

/// The model's own honesty: a worker whose time costs nothing is one queue.
#[test]
fn one_worker_that_costs_nothing_is_one_queue() {
    let plan = Plan { input_ns: 0, turn_ns: 0, ..plan(Case::Even, 1) };
    let (figures, one_queue) = (play(&plan), ideal::play(&plan));
    assert!((figures.rate / one_queue.rate - 1.0).abs() < 0.002, "{} tx/s, {}", figures.rate, one_queue.rate);
    for (wait, other) in figures.wait_us.iter().zip(one_queue.wait_us) {
        assert!((wait / other - 1.0).abs() < 0.01, "{:?}, {:?}", figures.wait_us, one_queue.wait_us);
    }
}

/// A figure that cannot be had again cannot be looked into.
#[test]
fn a_plan_gives_the_same_figures_every_time() {
    let plan = |seed| Plan { seed, from_ns: 50 * MS, until_ns: 150 * MS, ..Plan::new(Case::Half, 4) };
    assert_eq!(play(&plan(1)), play(&plan(1)));
    assert_ne!(play(&plan(1)), play(&plan(2)));
}
