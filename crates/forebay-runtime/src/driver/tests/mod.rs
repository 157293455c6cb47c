//! One suite over both back ends: each test below runs once with io_uring and once with epoll.

mod floor;
mod hand_over;
mod harness;
mod places;
mod relay;
mod secure;
mod streams;
mod timing;

/// Runs a test function over both drivers, under its own name in each.
macro_rules! over_both {
    ($($name:ident),+ $(,)?) => {
        mod over_uring { $(#[test] fn $name() { super::$name::<crate::driver::uring::Uring>(); })+ }
        mod over_epoll { $(#[test] fn $name() { super::$name::<crate::driver::epoll::Epoll>(); })+ }
    };
}
use over_both;
