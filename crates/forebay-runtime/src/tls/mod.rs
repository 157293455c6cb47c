//! TLS by rustls: certificates in force ([`context`]), one connection's state ([`session`]), and what SCRAM
//! binds to ([`certificate`]). No socket here: bytes go in and come out.

pub(crate) mod certificate;
pub(crate) mod context;
mod offers;
pub(crate) mod session;
