//! What is measured at an endpoint, and how it stands by that.

use crate::time::Instant;

/// A doubling of an answer's time is one; no single answer counts as further from the mean of all endpoints than this.
const FURTHEST: f64 = 5.0;
/// Microseconds that do not count: below, it is noise that differs.
const FLOOR_US: u64 = 100;

/// What a worker has measured at an endpoint since its last look.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Window {
    pub(super) answers: u32,
    pub(super) sum: f64,
    pub(super) squares: f64,
    /// Answers, whether or not they tell how fast it is.
    pub(super) heard: u32,
    /// Servers lost in a request, and errors by which a server says that it is ill.
    pub(super) faults: u32,
    /// The client of the first of them, and whether there were others.
    pub(super) faults_of: u64,
    pub(super) is_of_several: bool,
    /// Requests that have waited for an answer for much longer than others do.
    pub overdue: u32,
}

impl Window {
    /// One in which nothing but these was seen.
    pub fn with_overdue(overdue: u32) -> Window {
        Window { overdue, ..Window::default() }
    }

    /// How many answers came.
    pub fn heard(&self) -> u32 {
        self.heard
    }

    /// Notes an answer that does not tell how fast the endpoint is.
    pub fn spoke(&mut self) {
        self.heard += 1;
    }

    /// Notes that a request of a client has failed by the server's fault.
    pub fn failed(&mut self, client: u64) {
        if self.faults == 0 {
            self.faults_of = client;
        }
        self.is_of_several |= self.faults_of != client;
        self.faults += 1;
    }

    /// Notes the time to an answer's first byte. `mean`: of all endpoints, as far as it is known.
    pub fn answered(&mut self, us: u64, mean: Option<f64>) {
        let doublings = doublings(us);
        let doublings = mean.map_or(doublings, |mean| doublings.clamp(mean - FURTHEST, mean + FURTHEST));
        self.heard += 1;
        self.answers += 1;
        self.sum += doublings;
        self.squares += doublings * doublings;
    }
}

/// The logarithm of a time to the base of 2.
pub(super) fn doublings(us: u64) -> f64 {
    ((us + FLOOR_US) as f64).log2()
}

/// Microseconds of a logarithm.
pub(super) fn micros(doublings: f64) -> f64 {
    (doublings.exp2() - FLOOR_US as f64).max(0.0)
}

/// Why an endpoint gets no requests, or few.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// Its answers take so many times as long as those of the others.
    Slow(u32),
    /// So many servers were lost in requests, or said that they are ill.
    Faults(u32),
    /// It has answered nothing for a while, and others have.
    Silent,
}

impl Why {
    /// What metrics call each.
    pub const NAMES: [&'static str; 3] = ["slow", "faults", "silent"];

    /// Its place among these.
    pub fn index(self) -> usize {
        match self {
            Why::Slow(_) => 0,
            Why::Faults(_) => 1,
            Why::Silent => 2,
        }
    }

    /// For people; completes "it …".
    pub fn reason(self) -> String {
        match self {
            Why::Slow(times) => format!("answers {times} times as slowly as the others"),
            Why::Faults(count) => format!("has failed {count} requests within seconds, and the others have not"),
            Why::Silent => "answers nothing, and the others do".into(),
        }
    }
}

/// Whether an endpoint gets requests; the table is in the module's head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Since when; 0: as long as it is known.
    Serving(Instant),
    /// When it is tried, and why it is out.
    Ejected(Instant, Why),
    /// When the trial has failed.
    Tried(Instant, Why),
    /// Since when.
    HalfOpen(Instant, Why),
}

impl Standing {
    /// Whether it gets no requests.
    pub fn is_out(self) -> bool {
        matches!(self, Standing::Ejected(..) | Standing::Tried(..))
    }

    /// Why it gets none, or few, for people.
    pub fn words(self) -> Option<String> {
        match self {
            Standing::Serving(_) => None,
            Standing::Ejected(_, why) | Standing::Tried(_, why) => Some(format!("it {}", why.reason())),
            Standing::HalfOpen(_, why) => Some(format!("on trial: it {}", why.reason())),
        }
    }
}
