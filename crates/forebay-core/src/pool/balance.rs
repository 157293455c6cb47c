//! How a pool's requests are shared among its endpoints: what the workers know of the answers of each, and what follows.
//!
//! An endpoint is compared with the others of its pool, never with a limit: where all are slow, none is at fault. What is
//! compared is the mean of the logarithms of the times to the first byte of an answer, so that one long query weighs little,
//! and an endpoint that is ten times as slow is as far from the others whatever is asked.
//!
//! | standing | requests |
//! |---|---|
//! | serving | its part; a growing one for a while after it has come back |
//! | ejected | none, and its servers are closed, until a trial is due |
//! | tried | none: a connection beside the pool asks it something cheap |
//! | half open | few, of the worker that has tried it, until they tell whether it is as good as the others |
//!
//! At most half of the endpoints are out at once, those included that cannot be reached or are half open: as soon as there are
//! more, ejections are lifted, and all of them where nobody else serves. A full server is not sick, and nothing here says that it is.
//!
//! The workers add what they have measured, and read what follows, ten times a second: not on a request's way.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::config::LoadBalance;
use crate::ids::WorkerId;
use crate::pool::endpoints::Place;
use crate::time::Instant;
use account::{Account, Doubt};
pub use standing::{Standing, Why, Window};
use standing::{doublings, micros};

mod account;
mod standing;

/// Time between two looks of a worker at a pool's endpoints.
pub(crate) const LOOK_EVERY: Duration = Duration::from_millis(100);

/// What a request costs the endpoint with the largest weight, where that is as good as any.
pub(crate) const COST: u64 = 1 << 16;
/// The same where it is half open.
const HALF_OPEN_COST: u64 = COST * 64;
/// The dearest that one becomes by being slow.
const DEAREST: f64 = 10.0;

/// Answers that the mean is made of, where there are many; where there are few, those of a few seconds.
const ANSWERS_MAX: f64 = 32.0;
/// Answers of an endpoint from which on it is judged.
const ANSWERS_MIN: f64 = 4.0;
/// Answers of one that is half open after which it serves again.
const ANSWERS_HALF_OPEN: f64 = 8.0;
/// Those after which it may be ejected again.
const ANSWERS_RELAPSE: f64 = 2.0;
/// Time in which an answer comes to weigh a third.
const FADES: Duration = Duration::from_secs(2);
/// By how much more an answer that has not come is overdue.
const OVERDUE_AFTER: f64 = 3.0;
/// How much slower than the best one may be at no cost.
const SLACK: f64 = 0.5;
/// By how much the cost of one that has become better falls in a second.
const FORGIVEN: f64 = 2.0;
/// Standard errors by which two means must differ.
const CERTAIN: f64 = 4.0;
/// One is never ejected for being slower by less.
const SLOWER_BY_US: f64 = 2_000.0;

/// Faults in a few seconds from which on an endpoint is at fault, and how many times those of the others.
const FAULTS: f64 = 5.0;
const FAULTS_OF_OTHERS: f64 = 4.0;
/// As many that are half open.
const FAULTS_HALF_OPEN: f64 = 2.5;
/// Requests that wait for long at an endpoint that answers nothing, while others do.
const OVERDUE: u32 = 2;
/// How long it has answered nothing then, and how recently another one has.
const SILENCE: Duration = Duration::from_secs(1);
/// It is asked something cheap then, and has this long to answer: what waits there may be long reports.
const ASKED_MAX: Duration = Duration::from_millis(1500);
/// One that has answered is not asked again for so long.
const TRUSTED: Duration = Duration::from_secs(10);

/// Pause before the first trial; each that fails doubles it.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// A trial has failed if nothing has come of it by then.
const TRIAL_MAX: Duration = Duration::from_secs(10);
/// One that few ask is taken to be well after this.
const HALF_OPEN_MAX: Duration = Duration::from_secs(5);
/// One that is ejected again within this time is left alone for longer.
const RELAPSE: Duration = Duration::from_secs(60);
/// The smallest part of one that has just come back.
const FIRST_PART: f64 = 0.1;

/// An endpoint of a pool, as a worker sees it.
#[derive(Clone, Debug)]
pub struct Seen {
    /// Which one.
    pub place: Arc<Place>,
    /// Servers can be opened there.
    pub is_well: bool,
    /// Its part of the requests, by what the configuration says.
    pub weight: u32,
    /// What was measured there.
    pub window: Window,
}

/// What the configuration says.
#[derive(Clone, Copy, Debug)]
pub struct Terms {
    /// By what requests are shared.
    pub by: LoadBalance,
    /// How many times as slow as the others one may be; 0: it does not matter.
    pub slower_than: u32,
    /// How long one that has come back has a smaller part.
    pub slow_start: Duration,
    /// Longest pause between two trials.
    pub pause_max: Duration,
}

/// What a worker makes of an endpoint until its next look.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Turn {
    /// See there.
    pub standing: Standing,
    /// What each request costs it: the one that has paid least is next.
    pub cost: u64,
    /// The mean of the answers of all, by which a single one is limited.
    pub mean: Option<f64>,
    /// After which a request without an answer is overdue.
    pub overdue_us: u64,
    /// It is to be asked whether it is still there.
    pub is_doubted: bool,
    /// It has no weight, and another one serves that has.
    pub is_spared: bool,
}

/// An endpoint that was ejected, or has come back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Which one.
    pub name: Arc<str>,
    /// Why it was ejected; `None`: it is readmitted.
    pub ejected: Option<Why>,
}

/// An endpoint, for SHOW.
#[derive(Clone, Debug, PartialEq)]
pub struct Told {
    /// Which one.
    pub place: Arc<Place>,
    /// See there.
    pub standing: Standing,
    /// Its part of the last answers, in hundredths.
    pub share: u32,
    /// Time to the first byte of an answer, as a rule.
    pub latency_us: Option<u64>,
    /// Answers since it is known.
    pub heard: u64,
    /// How often it was ejected, by [`Why::index`].
    pub ejections: [u64; Why::NAMES.len()],
}

/// What all workers know of a pool's endpoints.
#[derive(Debug, Default)]
pub struct Balance {
    accounts: Mutex<Vec<Account>>,
    /// A server in use is to leave so that another endpoint gets one: one at a time, of all workers.
    is_spreading: AtomicBool,
}

impl Balance {
    /// Adds what a worker has measured. Returns what it makes of each endpoint, and what has changed by that.
    pub fn look(&self, me: WorkerId, seen: &[Seen], terms: &Terms, now: Instant) -> (Vec<Turn>, Vec<Change>) {
        let mut accounts = self.accounts();
        accounts.retain(|account| seen.iter().any(|one| one.place == account.place));
        for one in seen {
            let at = accounts.iter().position(|account| account.place == one.place);
            let at = at.unwrap_or_else(|| {
                accounts.push(Account::new(one.place.clone(), now));
                accounts.len() - 1
            });
            accounts[at].add(me, one.window, now);
        }
        accounts.sort_by_key(|account| seen.iter().position(|one| one.place == account.place));
        let mut changes = Vec::new();
        for at in 0..accounts.len() {
            if let Some(ejected) = judge(&mut accounts, seen, at, terms, now) {
                if let Some(why) = ejected {
                    accounts[at].ejections[why.index()] += 1;
                }
                changes.push(Change { name: seen[at].place.name.clone(), ejected });
            }
        }
        while let Some(at) = to_lift(&accounts, seen) {
            accounts[at].lift(now);
            changes.push(Change { name: seen[at].place.name.clone(), ejected: None });
        }
        let turns = (0..accounts.len()).map(|at| turn(&mut accounts, seen, at, me, terms, now)).collect();
        (turns, changes)
    }

    /// Takes the trial of an endpoint that is ejected, if one is due: nobody else tries it meanwhile.
    pub fn claim(&self, me: WorkerId, place: &Place, now: Instant) -> bool {
        let mut accounts = self.accounts();
        let Some(account) = accounts.iter_mut().find(|account| *account.place == *place) else { return false };
        match account.standing {
            Standing::Ejected(until, why) if until <= now => {
                account.standing = Standing::Tried(now + TRIAL_MAX, why);
                account.tried_by = me;
                true
            }
            _ if account.doubt == Doubt::Due => {
                account.doubt = Doubt::Asked(now + ASKED_MAX);
                true
            }
            _ => false,
        }
    }

    /// Whether an endpoint is being tried.
    pub fn is_tried(&self, place: &Place) -> bool {
        let is_tried = |account: &Account| {
            matches!(account.standing, Standing::Tried(..)) || matches!(account.doubt, Doubt::Asked(_))
        };
        self.accounts().iter().any(|account| *account.place == *place && is_tried(account))
    }

    /// A trial has ended: it took so long to answer, or did not.
    pub fn tried(&self, place: &Place, took_us: Option<u64>, terms: &Terms, now: Instant) {
        let mut accounts = self.accounts();
        let Some(at) = accounts.iter().position(|account| *account.place == *place) else { return };
        if let Doubt::Asked(_) = accounts[at].doubt {
            // Any answer will do, and one that refuses us is not silent.
            accounts[at].doubt = Doubt::None(now + TRUSTED);
        }
        let Standing::Tried(_, why) = accounts[at].standing else { return };
        // What it is asked is as cheap as anything: who takes longer over that than others over real requests is not well.
        let limit = base(&accounts, at, 1.0).map(|base| accounts[base].mean(1.0).unwrap_or_default());
        let is_well = took_us.is_some_and(|us| {
            let far = f64::from(terms.slower_than.max(2)).log2();
            terms.slower_than == 0
                || limit.is_none_or(|limit| doublings(us) < limit + far || (us as f64) < SLOWER_BY_US)
        });
        if is_well {
            accounts[at].forget_answers();
            accounts[at].standing = Standing::HalfOpen(now, why);
        } else {
            accounts[at].eject(why, terms.pause_max, now);
        }
    }

    /// An endpoint that could not be reached can be again: its part grows from a small one.
    pub fn came_back(&self, place: &Place, now: Instant) {
        let mut accounts = self.accounts();
        let account = accounts.iter_mut().find(|account| *account.place == *place && account.is_serving());
        if let Some(account) = account {
            account.forget_answers();
            account.standing = Standing::Serving(now);
        }
    }

    /// Whether a server in use is to leave for another endpoint.
    pub fn is_spreading(&self) -> bool {
        self.is_spreading.load(Relaxed)
    }

    /// Has one leave, if none does.
    pub fn begin_spreading(&self) -> bool {
        !self.is_spreading.swap(true, Relaxed)
    }

    /// It is gone.
    pub fn end_spreading(&self) {
        self.is_spreading.store(false, Relaxed);
    }

    /// The endpoints, for SHOW.
    pub fn told(&self) -> Vec<Told> {
        let accounts = self.accounts();
        let all: f64 = accounts.iter().map(|account| account.answers).sum();
        let told = accounts.iter().map(|account| Told {
            place: account.place.clone(),
            standing: account.standing,
            share: if all < 1.0 { 0 } else { (account.answers / all * 100.0).round() as u32 },
            latency_us: account.mean(1.0).map(|mean| micros(mean) as u64),
            heard: account.heard,
            ejections: account.ejections,
        });
        told.collect()
    }

    fn accounts(&self) -> MutexGuard<'_, Vec<Account>> {
        self.accounts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The one that an endpoint is measured by: of the others that serve the middle one, the faster of two.
fn base(accounts: &[Account], at: usize, answers: f64) -> Option<usize> {
    let others = (0..accounts.len()).filter(|other| *other != at && accounts[*other].is_serving());
    let mut known: Vec<_> = others.filter_map(|other| Some((accounts[other].mean(answers)?, other))).collect();
    known.sort_by(|a, b| a.0.total_cmp(&b.0));
    known.get(known.len().saturating_sub(1) / 2).map(|(_, other)| *other)
}

/// Ejects and readmits. Returns what has changed: why it is out, or that it is not any more.
fn judge(accounts: &mut [Account], seen: &[Seen], at: usize, terms: &Terms, now: Instant) -> Option<Option<Why>> {
    match accounts[at].standing {
        Standing::Serving(_) => {
            let why = fault(accounts, at, terms, (FAULTS, now))?;
            let out = (0..accounts.len()).filter(|other| *other != at && is_out(accounts, seen, *other)).count();
            if (out + 1) * 2 > accounts.len() {
                return None;
            }
            accounts[at].eject(why, terms.pause_max, now);
            Some(Some(why))
        }
        Standing::Ejected(..) => None,
        Standing::Tried(until, why) => {
            if until <= now {
                accounts[at].eject(why, terms.pause_max, now);
            }
            None
        }
        Standing::HalfOpen(since, _) => {
            if let Some(why) =
                fault(accounts, at, terms, (FAULTS_HALF_OPEN, now)).or_else(|| relapse(accounts, at, terms))
            {
                accounts[at].eject(why, terms.pause_max, now);
                return Some(Some(why));
            }
            let is_doubted = accounts[at].overdue() >= OVERDUE && now.since(since) < HALF_OPEN_MAX + ASKED_MAX * 2;
            if accounts[at].weight < ANSWERS_HALF_OPEN && (is_doubted || now.since(since) < HALF_OPEN_MAX) {
                return None;
            }
            accounts[at].readmit(now);
            Some(None)
        }
    }
}

/// Whether an endpoint does not serve as it should.
fn is_out(accounts: &[Account], seen: &[Seen], at: usize) -> bool {
    !seen[at].is_well || !accounts[at].is_serving()
}

/// One whose ejection is lifted, where too many are out: what is known against it does less harm than that.
fn to_lift(accounts: &[Account], seen: &[Seen]) -> Option<usize> {
    let out = (0..accounts.len()).filter(|at| is_out(accounts, seen, *at)).count();
    if out * 2 <= accounts.len() {
        return None;
    }
    // One that cannot be reached makes no difference, unless there is no other.
    let ejected = |at: &usize| !accounts[*at].is_serving() && (seen[*at].is_well || out == accounts.len());
    (0..accounts.len()).filter(ejected).min_by_key(|at| {
        let harm = match accounts[*at].standing {
            Standing::Serving(_) | Standing::HalfOpen(..) => 0,
            Standing::Ejected(_, Why::Slow(_)) | Standing::Tried(_, Why::Slow(_)) => 1,
            Standing::Ejected(_, Why::Faults(_)) | Standing::Tried(_, Why::Faults(_)) => 2,
            Standing::Ejected(_, Why::Silent) | Standing::Tried(_, Why::Silent) => 3,
        };
        (!seen[*at].is_well, harm)
    })
}

/// What is wrong with an endpoint that is not with the others.
fn fault(accounts: &mut [Account], at: usize, terms: &Terms, (faults, now): (f64, Instant)) -> Option<Why> {
    if terms.slower_than > 0 && is_silent(accounts, at, now) {
        return Some(Why::Silent);
    }
    let account = &accounts[at];
    let others = || accounts.iter().enumerate().filter(|(other, _)| *other != at).map(|(_, account)| account);
    let of_others = others().map(|account| account.faults).fold(0.0, f64::max);
    if account.faults >= faults && account.is_of_several && account.faults > of_others * FAULTS_OF_OTHERS {
        return Some(Why::Faults(account.faults.round() as u32));
    }
    let base = base(accounts, at, ANSWERS_MIN)?;
    let (mean, usual) = (account.mean(ANSWERS_MIN)?, accounts[base].mean(ANSWERS_MIN)?);
    let certain = CERTAIN * (account.error() + accounts[base].error()).sqrt();
    let is_far = terms.slower_than > 0 && mean - usual >= f64::from(terms.slower_than).log2().max(certain);
    let is_slow = is_far && micros(mean) - micros(usual) >= SLOWER_BY_US;
    is_slow.then(|| Why::Slow((mean - usual).exp2().round() as u32))
}

/// Whether one answers nothing at all, not even what it is asked beside the pool: long reports alone are no silence.
fn is_silent(accounts: &mut [Account], at: usize, now: Instant) -> bool {
    let is_suspect = accounts[at].overdue() >= OVERDUE && now.since(accounts[at].answered_at) >= SILENCE;
    let is_silent = is_suspect
        && base(accounts, at, ANSWERS_MIN).is_some_and(|base| now.since(accounts[base].answered_at) < SILENCE);
    let account = &mut accounts[at];
    match account.doubt {
        Doubt::None(until) if is_silent && until <= now => account.doubt = Doubt::Due,
        Doubt::Due if !is_silent => account.doubt = Doubt::None(now),
        Doubt::Asked(until) if until <= now => {
            account.doubt = Doubt::None(now);
            return is_silent;
        }
        _ => {}
    }
    false
}

/// Whether one that is half open is as slow as it was. A few answers do: each costs a client dear, and being wrong costs a pause.
fn relapse(accounts: &[Account], at: usize, terms: &Terms) -> Option<Why> {
    let (base, mean) = (base(accounts, at, ANSWERS_MIN)?, accounts[at].mean(ANSWERS_RELAPSE)?);
    let usual = accounts[base].mean(ANSWERS_MIN)?;
    let is_far = terms.slower_than > 0 && mean - usual >= f64::from(terms.slower_than).log2();
    let is_slow = is_far && micros(mean) - micros(usual) >= SLOWER_BY_US;
    is_slow.then(|| Why::Slow((mean - usual).exp2().round() as u32))
}

/// What a worker makes of an endpoint.
fn turn(accounts: &mut [Account], seen: &[Seen], at: usize, me: WorkerId, terms: &Terms, now: Instant) -> Turn {
    let serving = (0..accounts.len()).filter(|one| !is_out(accounts, seen, *one));
    let heaviest = serving.map(|one| seen[one].weight).max().unwrap_or(0);
    let is_spared = seen[at].weight == 0 && heaviest > 0;
    // How many times its weight the heaviest one has.
    let lighter = f64::from(heaviest.max(1)) / f64::from(seen[at].weight.max(1));
    let known = accounts.iter().filter(|account| account.is_serving());
    let best = known.filter(|account| account.weight >= ANSWERS_MIN);
    let best = best.min_by(|a, b| (a.sum / a.weight).total_cmp(&(b.sum / b.weight)));
    let best = best.map(|best| (best.sum / best.weight, best.error()));
    let (answers, sum) = accounts.iter().fold((0.0, 0.0), |(n, sum), one| (n + one.weight, sum + one.sum));
    let of_all = (answers >= 1.0).then(|| sum / answers);
    let overdue_us = best.map_or(u64::MAX, |(mean, _)| (micros(mean + OVERDUE_AFTER) as u64).saturating_add(500_000));
    let account = &mut accounts[at];
    let mean = account.mean(1.0);
    let slower = match (mean, best) {
        (Some(mean), Some((best, error))) => (mean - best - SLACK - (account.error() + error).sqrt()).max(0.0),
        _ => 0.0,
    };
    // Its square: who is twice as slow as need be gets a quarter. Twice as many would still take as long.
    let fallen = account.dearer - FORGIVEN * account.elapsed_s;
    account.dearer = (slower * 2.0).min(DEAREST).max(fallen);
    let dearer = if terms.by == LoadBalance::Latency { account.dearer } else { 0.0 };
    let part = match account.standing {
        Standing::Serving(since) if since.0 > 0 && now.since(since) < terms.slow_start => {
            (now.since(since).as_secs_f64() / terms.slow_start.as_secs_f64()).max(FIRST_PART)
        }
        _ => 1.0,
    };
    let cost = match account.standing {
        Standing::HalfOpen(..) => (HALF_OPEN_COST as f64 * lighter) as u64,
        _ => (COST as f64 * dearer.exp2() / part * lighter) as u64,
    };
    // One is enough to find out.
    let standing = match account.standing {
        Standing::HalfOpen(since, why) if account.tried_by != me => Standing::Ejected(since, why),
        standing => standing,
    };
    let is_doubted = account.doubt == Doubt::Due;
    Turn { standing, cost: cost.max(1), mean: of_all, overdue_us, is_doubted, is_spared }
}

#[cfg(test)]
mod tests;
