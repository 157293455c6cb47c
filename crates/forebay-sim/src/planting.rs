//! Bugs planted in core, by name.

#[cfg(feature = "planted-bugs")]
use forebay_core::planted::Bug;

#[cfg(feature = "planted-bugs")]
pub(crate) fn names() -> Vec<&'static str> {
    Bug::ALL.iter().map(|(name, _)| *name).collect()
}

#[cfg(feature = "planted-bugs")]
pub(crate) fn names_of_clusters() -> Vec<&'static str> {
    Bug::OF_CLUSTERS.iter().map(|(name, _)| *name).collect()
}

#[cfg(feature = "planted-bugs")]
pub(crate) fn names_of_commits() -> Vec<&'static str> {
    Bug::OF_COMMITS.iter().map(|(name, _)| *name).collect()
}

#[cfg(feature = "planted-bugs")]
pub(crate) fn plant(name: Option<&str>) {
    forebay_core::planted::plant(name.and_then(Bug::by_name));
}

#[cfg(not(feature = "planted-bugs"))]
pub(crate) fn names() -> Vec<&'static str> {
    Vec::new()
}

#[cfg(not(feature = "planted-bugs"))]
pub(crate) fn names_of_clusters() -> Vec<&'static str> {
    Vec::new()
}

#[cfg(not(feature = "planted-bugs"))]
pub(crate) fn names_of_commits() -> Vec<&'static str> {
    Vec::new()
}

#[cfg(not(feature = "planted-bugs"))]
pub(crate) fn plant(_name: Option<&str>) {}
