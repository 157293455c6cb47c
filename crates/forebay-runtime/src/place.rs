//! Who accepts clients for good, and whose the files are, in an online restart.

use std::sync::atomic::{AtomicU8, Ordering};

/// How this process stands to the place that it listens at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum Place {
    /// It has the place.
    #[default]
    Ours,
    /// It is to get it from another process.
    Coming,
    /// Another process serves there too, and is about to get it: should this one end, it is the other's.
    Giving,
    /// It is another process's.
    Given,
    /// It did not get it, and the other process goes on.
    Lost,
}

impl Place {
    const ALL: [Place; 5] = [Place::Ours, Place::Coming, Place::Giving, Place::Given, Place::Lost];

    /// In a word.
    pub fn name(self) -> &'static str {
        match self {
            Place::Ours => "ours",
            Place::Coming => "coming",
            Place::Giving => "giving",
            Place::Given => "given",
            Place::Lost => "lost",
        }
    }
}

/// The same, for several threads.
#[derive(Debug, Default)]
pub(crate) struct SharedPlace(AtomicU8);

impl SharedPlace {
    pub(crate) fn get(&self) -> Place {
        Place::ALL[usize::from(self.0.load(Ordering::SeqCst))]
    }

    pub(crate) fn set(&self, place: Place) {
        self.0.store(place as u8, Ordering::SeqCst);
    }
}
