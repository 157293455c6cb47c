//! What is kept of an endpoint over all workers.

use std::sync::Arc;
use std::time::Duration;

use super::standing::{Standing, Why, Window};
use super::{ANSWERS_MAX, FADES, FIRST_PAUSE, RELAPSE};
use crate::ids::WorkerId;
use crate::pool::endpoints::Place;
use crate::time::Instant;

/// What a worker has said of requests that are overdue holds so long, unless it looks again.
const OVERDUE_HOLDS: Duration = Duration::from_millis(1500);

/// Whether an endpoint that has answered nothing for a while is still there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Doubt {
    /// Nobody doubts it before then.
    None(Instant),
    /// It is to be asked.
    Due,
    /// It is being asked: its answer is due by then.
    Asked(Instant),
}

#[derive(Debug)]
pub(super) struct Account {
    pub(super) place: Arc<Place>,
    pub(super) standing: Standing,
    /// When it was last added to, and how many seconds after the time before.
    pub(super) at: Instant,
    pub(super) elapsed_s: f64,
    pub(super) weight: f64,
    pub(super) sum: f64,
    pub(super) squares: f64,
    /// Answers and faults of the last seconds.
    pub(super) answers: f64,
    pub(super) faults: f64,
    /// The client of the first of them, and whether there were others.
    faults_of: u64,
    pub(super) is_of_several: bool,
    /// When it last answered anything, to whichever worker.
    pub(super) answered_at: Instant,
    /// Requests of each worker that are overdue, and when it said so.
    overdue: Vec<(WorkerId, u32, Instant)>,
    pub(super) doubt: Doubt,
    /// Doublings of its cost.
    pub(super) dearer: f64,
    /// Pause before its next trial.
    pub(super) pause: Duration,
    /// Who has tried it last.
    pub(super) tried_by: WorkerId,
    pub(super) readmitted: Option<Instant>,
    /// Answers, and ejections by [`Why::index`], since it is known.
    pub(super) heard: u64,
    pub(super) ejections: [u64; Why::NAMES.len()],
}

impl Account {
    pub(super) fn new(place: Arc<Place>, now: Instant) -> Account {
        Account {
            place,
            standing: Standing::Serving(Instant(0)),
            at: now,
            elapsed_s: 0.0,
            weight: 0.0,
            sum: 0.0,
            squares: 0.0,
            answers: 0.0,
            faults: 0.0,
            faults_of: 0,
            is_of_several: false,
            answered_at: now,
            overdue: Vec::new(),
            doubt: Doubt::None(Instant(0)),
            dearer: 0.0,
            pause: FIRST_PAUSE,
            tried_by: WorkerId(0),
            readmitted: None,
            heard: 0,
            ejections: [0; Why::NAMES.len()],
        }
    }

    pub(super) fn add(&mut self, me: WorkerId, window: Window, now: Instant) {
        self.elapsed_s = now.since(self.at).as_secs_f64();
        let fading = (-self.elapsed_s / FADES.as_secs_f64()).exp();
        let kept = if self.weight > 0.0 { fading.min(ANSWERS_MAX / self.weight) } else { 0.0 };
        self.at = now;
        self.weight = self.weight * kept + f64::from(window.answers);
        self.sum = self.sum * kept + window.sum;
        self.squares = self.squares * kept + window.squares;
        self.answers = self.answers * fading + f64::from(window.answers);
        self.heard += u64::from(window.heard);
        self.faults *= fading;
        if self.faults < 0.5 {
            (self.faults_of, self.is_of_several) = (window.faults_of, false);
        }
        if window.faults > 0 {
            self.faults += f64::from(window.faults);
            self.is_of_several |= window.is_of_several || window.faults_of != self.faults_of;
        }
        if window.heard > 0 {
            self.answered_at = now;
        }
        self.overdue.retain(|(worker, _, said)| *worker != me && now.since(*said) < OVERDUE_HOLDS);
        if window.overdue > 0 {
            self.overdue.push((me, window.overdue, now));
        }
    }

    /// Requests that are overdue, at all workers.
    pub(super) fn overdue(&self) -> u32 {
        self.overdue.iter().map(|(_, count, _)| count).sum()
    }

    pub(super) fn forget_answers(&mut self) {
        (self.weight, self.sum, self.squares, self.faults) = (0.0, 0.0, 0.0, 0.0);
        self.overdue.clear();
    }

    pub(super) fn mean(&self, answers: f64) -> Option<f64> {
        (self.weight >= answers).then(|| self.sum / self.weight)
    }

    /// The square of the standard error of the mean.
    pub(super) fn error(&self) -> f64 {
        let mean = self.sum / self.weight;
        (self.squares / self.weight - mean * mean).max(0.0) / self.weight
    }

    pub(super) fn is_serving(&self) -> bool {
        matches!(self.standing, Standing::Serving(_))
    }

    pub(super) fn eject(&mut self, why: Why, pause_max: Duration, now: Instant) {
        let is_relapse = self.readmitted.is_some_and(|at| now.since(at) < RELAPSE);
        let is_trial_lost = !self.is_serving();
        self.pause = if is_relapse || is_trial_lost { self.pause * 2 } else { FIRST_PAUSE };
        self.pause = self.pause.min(pause_max.max(FIRST_PAUSE));
        self.standing = Standing::Ejected(now + self.pause, why);
        self.doubt = Doubt::None(Instant(0));
        self.overdue.clear();
    }

    /// It serves for want of others. What is known against it stays.
    pub(super) fn lift(&mut self, now: Instant) {
        self.standing = Standing::Serving(Instant(0));
        self.readmitted = Some(now);
    }

    pub(super) fn readmit(&mut self, now: Instant) {
        self.standing = Standing::Serving(now);
        self.readmitted = Some(now);
        self.dearer = 0.0;
    }
}
