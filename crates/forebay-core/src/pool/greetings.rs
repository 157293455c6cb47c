//! What servers report at a login, by the parameters that a client asks for.
//!
//! A worker keeps them as messages. What one has heard from a server is there for all: else the first client that comes
//! to another worker would wait for a server to come free, only to learn the same.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use forebay_pgwire::write;
use rustc_hash::FxHashMap;

use crate::parameters::Image;
use crate::pool::endpoints::Place;

/// Greetings kept for one pool; more than these are rarely in use, and forgotten ones are asked again.
const GREETINGS_MAX: usize = 256;

/// What a client is told at its login, as far as it is the same for all that want the same.
#[derive(Clone)]
pub struct Greeting {
    /// Kept, so that its address names no other image meanwhile.
    wanted: Rc<Image>,
    /// The values.
    pub reported: Rc<Image>,
    /// The same as ParameterStatus messages.
    pub bytes: Rc<[u8]>,
}

/// One worker's.
#[derive(Default)]
pub struct Greetings {
    known: FxHashMap<*const Image, Greeting>,
}

impl Greetings {
    /// What servers report to a client that wants `wanted`, if that is known.
    pub fn get(&self, wanted: &Rc<Image>) -> Option<Greeting> {
        let greeting = self.known.get(&Rc::as_ptr(wanted))?;
        debug_assert!(Rc::ptr_eq(&greeting.wanted, wanted));
        Some(greeting.clone())
    }

    /// Keeps what a server reports with `wanted` set.
    pub fn keep(&mut self, wanted: Rc<Image>, reported: Rc<Image>) {
        if self.known.len() >= GREETINGS_MAX {
            self.known.clear();
        }
        let mut bytes = Vec::new();
        for (name, value) in reported.iter() {
            write::parameter_status(&mut bytes, &**name, &**value);
        }
        self.known.insert(Rc::as_ptr(&wanted), Greeting { wanted, reported, bytes: bytes.into() });
    }

    /// Forgets all: the endpoints have changed.
    pub fn clear(&mut self) {
        self.known.clear();
    }
}

/// Names and values.
pub type Values = BTreeMap<Arc<str>, Arc<str>>;

/// What all workers have heard from servers.
#[derive(Debug, Default)]
pub struct Heard(Mutex<ByPlace>);

#[derive(Debug, Default)]
struct ByPlace {
    /// The pool's first endpoint, and how its servers are opened there, as those saw it who heard it.
    place: Option<Arc<Place>>,
    /// What was reported, by what was set.
    reported: FxHashMap<Values, Values>,
}

impl Heard {
    /// What a server of a pool with this first endpoint reports with `wanted` set, if one has told it.
    pub fn get(&self, place: &Arc<Place>, wanted: &Image) -> Option<Values> {
        let kept = self.kept();
        if kept.place.as_ref() != Some(place) {
            return None;
        }
        kept.reported.get(&wanted.values()).cloned()
    }

    /// Keeps what one reports; whether that was not known.
    pub fn keep(&self, place: &Arc<Place>, wanted: &Image, reported: &Image) -> bool {
        let mut kept = self.kept();
        if kept.place.as_ref() != Some(place) {
            *kept = ByPlace { place: Some(place.clone()), ..ByPlace::default() };
        }
        if kept.reported.len() >= GREETINGS_MAX {
            kept.reported.clear();
        }
        kept.reported.insert(wanted.values(), reported.values()).is_none()
    }

    fn kept(&self) -> MutexGuard<'_, ByPlace> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
