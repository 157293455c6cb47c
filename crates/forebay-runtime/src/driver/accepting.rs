//! Clients come: they are accepted, and handed round where one worker accepts for all.
//!
//! The last few descriptors are kept for telling clients that there are none (53300): core lets go of who gets one, once it
//! has said what it wants. With none at all a listener rests, for longer from time to time until it succeeds again.

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

use forebay_core::event::Level;
use forebay_core::ids::WorkerId;
use forebay_core::io::{Io, Peer};

use super::backend::Backend;
use super::turn::words;
use super::{Driver, Handover, Timer};
use crate::hub::Mail;
use crate::inputs::Inputs;
use crate::listen::Listener;
use crate::socket;

/// The first rest of a listener after the process or the system ran out of descriptors or memory, and the longest.
const REST_MIN: Duration = Duration::from_millis(100);
const REST_MAX: Duration = Duration::from_secs(1);
/// How often that is told while it lasts.
const TOLD_EVERY: Duration = Duration::from_secs(10);
/// Of so many descriptors one is kept.
const KEPT_OF: u64 = 32;
/// The fewest and the most that are kept.
const KEPT: (u64, u64) = (4, 64);

/// The number of the first descriptor that is kept: the system gives the lowest that is free.
pub(super) fn first_kept() -> RawFd {
    let limit = crate::open_files::limit();
    let kept = (limit / KEPT_OF).clamp(KEPT.0, KEPT.1);
    RawFd::try_from(limit.saturating_sub(kept)).unwrap_or(RawFd::MAX)
}

impl<B: Backend> Driver<B> {
    pub(super) fn on_accepted<N: Inputs<Driver<B>>>(&mut self, inputs: &mut N, listener: u16, fd: i32) {
        // SAFETY: the kernel just made this descriptor for us.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        if self.is_stopping {
            return;
        }
        self.rest = Duration::ZERO;
        // A peer without a name has gone already.
        let Ok(peer) = socket::peer(fd.as_raw_fd()) else { return };
        let workers = self.hub.mailboxes.len() as u16;
        let is_shared = self.listener(listener).is_some_and(|l| l.is_for_all_workers);
        let handover = Handover::plain(fd);
        if is_shared && workers > 1 {
            let worker = WorkerId(self.next_worker);
            self.next_worker = (self.next_worker + 1) % workers;
            if worker != self.id {
                self.hub.post(worker, Mail::Client(handover, peer));
                return;
            }
        }
        self.welcome(inputs, handover, peer);
    }

    pub(super) fn welcome<N: Inputs<Driver<B>>>(&mut self, inputs: &mut N, handover: Handover, peer: Peer) {
        let id = self.adopt(handover);
        self.guard(inputs, Some(id), |inputs, io| inputs.accepted(io, id, peer));
    }

    fn listener(&self, index: u16) -> Option<&Listener> {
        self.listeners.get(usize::from(index)).and_then(Option::as_ref)
    }

    pub(super) fn on_accept_failed<N: Inputs<Driver<B>>>(&mut self, inputs: &mut N, listener: u16, errno: i32) {
        self.rest = (self.rest * 2).clamp(REST_MIN, REST_MAX);
        self.rests += 1;
        if self.rests_told_at.is_none_or(|told| self.now.since(told) >= TOLD_EVERY) {
            self.rests_told_at = Some(self.now);
            let rest_ms = self.rest.as_millis() as u64;
            let count = std::mem::take(&mut self.rests);
            let fields = vec![("error", words(errno).into()), ("pause_ms", rest_ms.into()), ("count", count.into())];
            self.event(Level::Warn, "accept_backoff", fields);
        }
        self.set_timer(self.rest, Timer::Accept(listener));
        if matches!(errno, libc::EMFILE | libc::ENFILE) {
            self.guard(inputs, None, |inputs, io| inputs.short_of_files(io));
        }
    }

    pub(super) fn accept_again(&mut self, listener: u16) {
        let fd = self.listener(listener).map(|l| l.fd.as_raw_fd());
        if let Some(fd) = fd.filter(|_| !self.is_accepting_suspended) {
            self.back.accept(listener, fd);
        }
    }

    /// Another process accepts from the same sockets; should it end, this one does again.
    pub(super) fn suspend_accepting(&mut self) {
        if !std::mem::replace(&mut self.is_accepting_suspended, true) {
            for (i, listener) in self.listeners.iter().enumerate().filter_map(|(i, l)| l.as_ref().map(|l| (i, l))) {
                self.back.refuse(i as u16, listener.fd.as_raw_fd());
            }
        }
    }

    pub(super) fn resume_accepting(&mut self) {
        if std::mem::take(&mut self.is_accepting_suspended) {
            for (i, listener) in self.listeners.iter().enumerate().filter_map(|(i, l)| l.as_ref().map(|l| (i, l))) {
                self.back.accept(i as u16, listener.fd.as_raw_fd());
            }
        }
    }

    pub(super) fn stop_accepting(&mut self, is_meant: impl Fn(&Listener) -> bool) {
        for (i, slot) in self.listeners.iter_mut().enumerate() {
            if let Some(listener) = slot.take_if(|listener| is_meant(listener)) {
                self.back.refuse(i as u16, listener.fd.as_raw_fd());
            }
        }
    }

    /// What is accepted from here on inherits the options in force.
    pub(super) fn tune_listeners(&self) {
        let options = self.hub.tcp();
        for listener in self.listeners.iter().flatten().filter(|listener| listener.is_tcp) {
            // An option that the system refuses leaves connections as they were before.
            let _ = crate::socket::tune_listener(listener.fd.as_raw_fd(), &options);
        }
    }
}
