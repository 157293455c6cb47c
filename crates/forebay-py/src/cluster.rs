//! A cluster's endpoints for Python, which asks them and tells here what they said.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use forebay_core::cluster::legacy::{Bequest, Legacy};
use forebay_core::cluster::progress::Replayed;
use forebay_core::cluster::roles::Found;
use forebay_core::cluster::{Cluster, Seen};
use forebay_runtime::Watched;
use pyo3::prelude::*;

/// See `Cluster` in `_engine.pyi`.
#[pyclass(frozen, name = "Cluster", module = "forebay._engine")]
pub(crate) struct PyCluster {
    cluster: Watched,
}

/// Whether it is in recovery, its timeline, whether that is certain, LSN, system.
type Said = (bool, u32, bool, u64, u64);

/// Endpoint, what it said, when it was asked, questions missed since, whether it is beyond the primary.
type BequestRow = (String, Option<Said>, u64, u32, bool);

/// System, where its primary was first, endpoints.
type LegacyRows = (Option<u64>, Option<(u64, u32, u64)>, Vec<BequestRow>);

/// Endpoint, standing, reason, timeline, LSN, lag.
type NodeRow = (String, &'static str, &'static str, Option<u32>, Option<u64>, Option<u64>);

#[pymethods]
impl PyCluster {
    #[new]
    fn new(endpoints: Vec<String>, misses_max: u32, lag_max: u64) -> PyCluster {
        let names = endpoints.into_iter().map(Into::into);
        PyCluster { cluster: Arc::new(Mutex::new(Cluster::new(names, misses_max, lag_max))) }
    }

    fn succeed(&self, before: &PyCluster) {
        // By a copy: the same one twice would wait for itself.
        let before = before.lock().clone();
        self.lock().succeed(&before);
    }

    fn memory(&self) -> Option<(u64, u32)> {
        self.lock().memory()
    }

    fn remember(&self, system: u64, floor: u32) {
        self.lock().remember(system, floor);
    }

    fn recall(&self, system: u64, timeline: u32) {
        self.lock().recall(system, timeline);
    }

    fn written(&self) -> Vec<(u64, u32)> {
        self.lock().written().to_vec()
    }

    fn legacy(&self) -> LegacyRows {
        let Legacy { system, beginning, endpoints } = self.lock().legacy();
        let said = |seen: Seen| (seen.is_in_recovery, seen.timeline, seen.is_certain, seen.lsn, seen.system);
        let row = |one: Bequest| (one.name.to_string(), one.seen.map(said), one.asked_us, one.misses, one.is_beyond);
        (system, beginning, endpoints.into_iter().map(row).collect())
    }

    fn inherit(&self, legacy: LegacyRows, since_us: u64) {
        let (system, beginning, rows) = legacy;
        let bequest = |(name, said, asked_us, misses, is_beyond): BequestRow| {
            let name = name.into();
            Bequest { name, seen: said.map(seen), asked_us, misses, is_beyond }
        };
        let endpoints = rows.into_iter().map(bequest).collect();
        self.lock().inherit(&Legacy { system, beginning, endpoints }, since_us);
    }

    fn name(&self, endpoints: Option<Vec<String>>) {
        self.lock().name(endpoints.map(|names| names.into_iter().map(Into::into).collect()));
    }

    fn trust_lease(&self, is_enough: bool) {
        self.lock().trust_lease(is_enough);
    }

    fn hold(&self, endpoint: &str, is_relieved: bool) -> bool {
        self.lock().hold(endpoint, is_relieved)
    }

    fn release(&self) {
        self.lock().release();
    }

    fn heard(&self, index: usize, said: Said, asked_us: u64) {
        let mut cluster = self.lock();
        if index < cluster.nodes().len() {
            cluster.heard(index, seen(said), asked_us);
        }
    }

    fn missed(&self, index: usize) {
        let mut cluster = self.lock();
        if index < cluster.nodes().len() {
            cluster.missed(index);
        }
    }

    fn confirm(&self, endpoint: &str, is_confirming: Option<bool>) {
        self.lock().confirm(endpoint, is_confirming);
    }

    fn expose(&self, index: usize, seconds: Option<u64>) {
        let mut cluster = self.lock();
        if index < cluster.nodes().len() {
            cluster.expose(index, seconds);
        }
    }

    fn delay(&self, index: usize, is_late: bool) {
        let mut cluster = self.lock();
        if index < cluster.nodes().len() {
            cluster.delay(index, is_late);
        }
    }

    fn decide(&self) -> bool {
        self.lock().decide()
    }

    fn is_behind(&self) -> bool {
        self.lock().is_behind()
    }

    fn nodes(&self) -> Vec<NodeRow> {
        let cluster = self.lock();
        let row = |node: &forebay_core::cluster::Node| {
            let (standing, seen) = (node.standing, node.seen);
            let (timeline, lsn) = (seen.map(|seen| seen.timeline), seen.map(|seen| seen.lsn));
            (node.name.to_string(), standing.name(), node.reason(), timeline, lsn, node.lag)
        };
        cluster.nodes().iter().map(row).collect()
    }
}

fn seen((is_in_recovery, timeline, is_certain, lsn, system): Said) -> Seen {
    Seen { is_in_recovery, timeline, is_certain, lsn, system }
}

impl PyCluster {
    /// It, for as long as Python holds it.
    pub(crate) fn watched(&self) -> &Watched {
        &self.cluster
    }

    /// The roles, as the workers want them, and how far the replicas are.
    pub(crate) fn found(&self) -> (Vec<Found>, Replayed) {
        let cluster = self.lock();
        let found =
            |node: &forebay_core::cluster::Node| Found { name: node.name.clone(), serves: node.standing.into() };
        (cluster.nodes().iter().map(found).collect(), cluster.replayed().clone())
    }

    fn lock(&self) -> MutexGuard<'_, Cluster> {
        self.cluster.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
