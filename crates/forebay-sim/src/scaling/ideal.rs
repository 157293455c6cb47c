//! One queue before all servers, first come, first served, in a pooler that costs no time.
//!
//! Exact for the requests of a [`Plan`]: a request that arrives takes the server that has been free for longest, or the
//! one that comes free next. A server is held from then until its answer is back, as by a worker.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::Plan;
use super::figures::{Figures, Tally};

/// Plays a plan with one queue.
pub fn play(plan: &Plan) -> Figures {
    let clients = plan.clients_in_all();
    let mut tally = Tally::new(plan);
    let mut requests = vec![0_u32; clients];
    // In order of arrival, which is the order of service.
    let mut arrivals: BinaryHeap<Reverse<(u64, usize)>> =
        (0..clients).map(|client| Reverse((plan.begins_at(client) + plan.link_ns, client))).collect();
    let mut free_at: BinaryHeap<Reverse<u64>> = (0..plan.servers).map(|_| Reverse(0)).collect();
    while let Some(Reverse((arrived, client))) = arrivals.pop() {
        if arrived >= plan.until_ns + plan.service_ns * 100 {
            break;
        }
        let request = requests[client];
        requests[client] += 1;
        let Some(Reverse(free)) = free_at.pop() else { break };
        let begins = arrived.max(free);
        let service = plan.service_of(client, request);
        let ends = begins + service + 2 * plan.link_ns;
        free_at.push(Reverse(ends));
        tally.waited(begins, begins - arrived);
        tally.served(begins + plan.link_ns, ends - plan.link_ns);
        let answered = ends + plan.link_ns;
        tally.answered(answered, client);
        let next = answered + plan.think_after(client, request) + plan.link_ns;
        arrivals.push(Reverse((next, client)));
    }
    tally.figures()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scaling::{Case, Service};

    /// A yardstick that is wrong accuses the workers, or acquits them. M/M/1 with a load of 0.7 waits 2.333 services.
    #[test]
    fn waits_are_those_of_queueing_theory() {
        let plan =
            Plan { clients: 1000, servers: 1, link_ns: 0, until_ns: 100_500_000_000, ..Plan::new(Case::Light, 1) };
        let figures = play(&plan);
        let mean = figures.wait_mean_us / 500.0;
        assert!((2.1..2.5).contains(&mean), "a mean wait of {mean} services");
        assert!((0.69..0.71).contains(&figures.busy), "servers busy for {} of the time", figures.busy);
    }

    /// With constant service and no pauses everything is known beforehand.
    #[test]
    fn constant_service_is_a_round_dance() {
        let plan = Plan { clients: 100, servers: 10, service: Service::Constant, ..Plan::new(Case::Even, 1) };
        let figures = play(&plan);
        // 10 servers, each held for 520 µs.
        assert!((figures.rate - 19_230.0).abs() < 50.0, "{} a second", figures.rate);
        // 100 clients go round in 5,200 µs, of which 540 are not spent in the queue.
        assert!((figures.wait_us[0] - 4_660.0).abs() < 600.0, "{:?}", figures.wait_us);
        assert!(figures.per_client.jain > 0.999);
    }
}
