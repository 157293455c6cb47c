//! Setting up a ring, and finding out whether this kernel's will do.

use std::io;

use io_uring::{IoUring, Probe, opcode};

/// Operations that may be queued before they must be submitted.
const SUBMISSIONS: u32 = 2048;
/// Completions that the kernel keeps without the slow path for more.
const COMPLETIONS: u32 = 16 * 1024;

/// A ring for the calling thread.
pub(super) fn build() -> io::Result<IoUring> {
    let full = IoUring::builder()
        .setup_single_issuer()
        .setup_defer_taskrun()
        .setup_coop_taskrun()
        .setup_submit_all()
        .setup_cqsize(COMPLETIONS)
        .dontfork()
        .build(SUBMISSIONS);
    match full {
        // Flags that this kernel does not know; it can do without.
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
            IoUring::builder().setup_cqsize(COMPLETIONS).dontfork().build(SUBMISSIONS)
        }
        other => other,
    }
}

/// Whether the kernel knows all that the driver relies on.
pub(super) fn check(ring: &IoUring) -> io::Result<()> {
    let mut probe = Probe::new();
    ring.submitter().register_probe(&mut probe)?;
    let needed = [
        opcode::RecvMulti::CODE,
        opcode::AcceptMulti::CODE,
        opcode::Send::CODE,
        opcode::SendMsg::CODE,
        opcode::Connect::CODE,
        opcode::AsyncCancel2::CODE,
        opcode::Close::CODE,
    ];
    let parameters = ring.params();
    let has_features = parameters.is_feature_ext_arg()
        && parameters.is_feature_nodrop()
        && parameters.is_feature_submit_stable()
        && parameters.is_feature_skip_cqe_on_success();
    if has_features && needed.into_iter().all(|code| probe.is_supported(code)) {
        return Ok(());
    }
    Err(io::Error::new(io::ErrorKind::Unsupported, "this kernel's io_uring is too old (6.0 or newer is needed)"))
}
