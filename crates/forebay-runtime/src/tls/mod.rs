//! TLS by rustls: certificates in force ([`context`]), one connection's state ([`session`]), what SCRAM binds to
//! ([`certificate`]), and connections that go on without the library, as they move between processes ([`carried`]).
//! No socket here: bytes go in and come out.

mod carried;
pub(crate) mod certificate;
pub(crate) mod context;
mod moving;
mod offers;
pub(crate) mod session;

pub(crate) use carried::FORMAT;
