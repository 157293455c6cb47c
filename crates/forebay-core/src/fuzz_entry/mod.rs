//! Entry points of the fuzz targets, shared with the property tests: each takes any bytes, must not panic in the code
//! that it calls, and asserts what that code promises.

#[cfg(test)]
mod cancels;
mod choices;
mod conversation;
#[cfg(test)]
mod crowd;
#[cfg(test)]
mod deposed;
#[cfg(test)]
mod forgotten;
mod login;
pub mod memory;
#[cfg(test)]
pub(crate) mod scene;
#[cfg(test)]
mod suspended;
#[cfg(test)]
mod turns;

pub use conversation::worker;
pub use login::{client_login, server_login};

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    /// Bytes that often are small, as the choices are that the entry points read.
    fn choices(bytes_max: usize) -> impl Strategy<Value = Vec<u8>> {
        vec(prop_oneof![3 => 0..32_u8, 1 => any::<u8>()], 0..bytes_max)
    }

    proptest! {
        /// A panic here is one that a hostile client could cause.
        #[test]
        fn a_worker_outlives_any_conversation(data in choices(400)) {
            super::worker(&data);
        }

        /// A login that passes without the secret lets anybody in.
        #[test]
        fn no_messages_pass_a_login_without_the_secret(data in choices(200)) {
            super::client_login(&data);
        }

        /// A server that is let in without the secret could be anybody's.
        #[test]
        fn no_server_passes_without_the_secret(data in choices(200)) {
            super::server_login(&data);
        }
    }
}
