//! What a run comes to: rates, waits, messages, fairness.

use super::Plan;

/// The percentiles that are told, as shares.
pub const SHARES: [f64; 3] = [0.5, 0.99, 0.999];

/// How evenly something was handed out.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Fairness {
    /// The least that anybody got.
    pub min: f64,
    /// The mean.
    pub mean: f64,
    /// The most.
    pub max: f64,
    /// Jain's index: 1 when all got the same, 1/n when one of n got all.
    pub jain: f64,
}

impl Fairness {
    fn of(parts: &[f64]) -> Fairness {
        let (sum, squares) = parts.iter().fold((0.0, 0.0), |(sum, squares), x| (sum + x, squares + x * x));
        let n = parts.len() as f64;
        Fairness {
            min: parts.iter().copied().fold(f64::INFINITY, f64::min),
            mean: sum / n,
            max: parts.iter().copied().fold(0.0, f64::max),
            jain: if squares > 0.0 { sum * sum / (n * squares) } else { 0.0 },
        }
    }
}

/// Messages between workers about servers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Messages {
    /// Servers that went to another worker.
    pub lend: u64,
    /// A worker asked for one.
    pub want: u64,
    /// There was none any more.
    pub none_idle: u64,
    /// All others.
    pub other: u64,
}

impl Messages {
    /// Of any kind.
    pub fn all(self) -> u64 {
        self.lend + self.want + self.none_idle + self.other
    }
}

/// What a run came to.
#[derive(Clone, Debug, PartialEq)]
pub struct Figures {
    /// Clients.
    pub clients: usize,
    /// Transactions counted.
    pub transactions: u64,
    /// Transactions a second.
    pub rate: f64,
    /// Share of the time in which servers served, over all servers that the pool may have.
    pub busy: f64,
    /// Share of the time in which workers worked: the mean, and the busiest. 0 for one queue.
    pub worked: (f64, f64),
    /// From a request's arrival to its going out to a server, by [`SHARES`], in microseconds.
    pub wait_us: [f64; 3],
    /// The mean of the same.
    pub wait_mean_us: f64,
    /// Messages in the counted time.
    pub messages: Messages,
    /// Share of transactions that were the first on a server that had come from another worker.
    pub lent_share: f64,
    /// Servers that the worker of a request had when it sent it on, that one included: the mean. Where it is far above its
    /// fair part, the servers go from worker to worker in a herd.
    pub company: f64,
    /// Transactions of each client.
    pub per_client: Fairness,
    /// Transactions of a worker for each of its clients; workers without clients are left out.
    pub per_worker: Fairness,
}

impl Figures {
    /// p99 and p99.9 over p50; `None` where the median request did not wait for so much as a microsecond.
    pub fn ratios(&self) -> Option<[f64; 2]> {
        let [median, high, highest] = self.wait_us;
        (median >= 1.0).then(|| [high / median, highest / median])
    }
}

/// Counts while a plan is played.
pub(super) struct Tally<'p> {
    plan: &'p Plan,
    waits_ns: Vec<u64>,
    served_ns: u64,
    lent: u64,
    company: u64,
    worked_ns: Vec<u64>,
    per_client: Vec<u64>,
    messages: Messages,
}

impl<'p> Tally<'p> {
    pub(super) fn new(plan: &'p Plan) -> Tally<'p> {
        Tally {
            plan,
            waits_ns: Vec::new(),
            served_ns: 0,
            lent: 0,
            company: 0,
            worked_ns: vec![0; plan.workers],
            per_client: vec![0; plan.clients_in_all()],
            messages: Messages::default(),
        }
    }

    fn counts(&self, at: u64) -> bool {
        (self.plan.from_ns..self.plan.until_ns).contains(&at)
    }

    /// How much of a span is counted.
    fn part(&self, from: u64, until: u64) -> u64 {
        until.min(self.plan.until_ns).saturating_sub(from.max(self.plan.from_ns))
    }

    /// A request went to a server at `at`.
    pub(super) fn waited(&mut self, at: u64, wait_ns: u64) {
        if self.counts(at) {
            self.waits_ns.push(wait_ns);
        }
    }

    /// It is the first one there since the server came from another worker.
    pub(super) fn was_lent(&mut self, at: u64) {
        self.lent += u64::from(self.counts(at));
    }

    /// Its worker had so many servers.
    pub(super) fn had_company(&mut self, at: u64, servers: u32) {
        if self.counts(at) {
            self.company += u64::from(servers);
        }
    }

    /// A server was busy.
    pub(super) fn served(&mut self, from: u64, until: u64) {
        self.served_ns += self.part(from, until);
    }

    /// A worker was busy.
    pub(super) fn worked(&mut self, worker: usize, from: u64, until: u64) {
        self.worked_ns[worker] += self.part(from, until);
    }

    /// A client has its answer.
    pub(super) fn answered(&mut self, at: u64, client: usize) {
        self.per_client[client] += u64::from(self.counts(at));
    }

    /// A message went to another worker.
    pub(super) fn told(&mut self, at: u64, count: impl FnOnce(&mut Messages)) {
        if self.counts(at) {
            count(&mut self.messages);
        }
    }

    pub(super) fn figures(mut self) -> Figures {
        let span = self.plan.until_ns - self.plan.from_ns;
        let share = |ns: u64| ns as f64 / span as f64;
        self.waits_ns.sort_unstable();
        let waits = &self.waits_ns;
        let waited = waits.len().max(1) as f64;
        let transactions: u64 = self.per_client.iter().sum();
        let per_client: Vec<f64> = self.per_client.iter().map(|n| *n as f64).collect();
        let worked = self.worked_ns.iter().map(|ns| share(*ns));
        Figures {
            clients: per_client.len(),
            transactions,
            rate: transactions as f64 * 1e9 / span as f64,
            busy: share(self.served_ns) / self.plan.servers as f64,
            worked: (worked.clone().sum::<f64>() / self.plan.workers as f64, worked.fold(0.0, f64::max)),
            wait_us: SHARES.map(|share| percentile(waits, share) as f64 / 1e3),
            wait_mean_us: waits.iter().map(|ns| *ns as f64).sum::<f64>() / waited / 1e3,
            messages: self.messages,
            lent_share: self.lent as f64 / waited,
            company: self.company as f64 / waited,
            per_client: Fairness::of(&per_client),
            per_worker: Fairness::of(&self.by_worker()),
        }
    }

    fn by_worker(&self) -> Vec<f64> {
        let mut sums = vec![(0, 0_u64); self.plan.workers];
        for (client, count) in self.per_client.iter().enumerate() {
            let (clients, sum) = &mut sums[self.plan.worker_of(client)];
            *clients += 1;
            *sum += count;
        }
        sums.iter()
            .filter(|(clients, _)| *clients > 0)
            .map(|(clients, sum)| *sum as f64 / f64::from(*clients))
            .collect()
    }
}

/// The least value that at least this share of them does not exceed; 0 of none.
fn percentile(sorted: &[u64], share: f64) -> u64 {
    let rank = (sorted.len() as f64 * share).ceil() as usize;
    sorted.get(rank.max(1) - 1).copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The bounds are judged by these.
    #[test]
    fn percentiles_and_jains_index_are_those_of_the_books() {
        let sorted: Vec<u64> = (1..=1000).collect();
        assert_eq!(SHARES.map(|share| percentile(&sorted, share)), [500, 990, 999]);
        assert_eq!(percentile(&[], 0.5), 0);
        let one_has_all = Fairness::of(&[8.0, 0.0, 0.0, 0.0]);
        assert_eq!((one_has_all.min, one_has_all.mean, one_has_all.max, one_has_all.jain), (0.0, 2.0, 8.0, 0.25));
        assert_eq!(Fairness::of(&[3.0, 3.0]).jain, 1.0);
    }
}
