//! Setting up a ring, and finding out whether this kernel's will do.

use std::io;

use io_uring::{IoUring, Probe, opcode};

/// Operations that may be queued before they must be submitted, and completions that the kernel keeps without the slow
/// path for more. Few: each ring is gone through from end to end again and again, and competes for the caches.
const SUBMISSIONS: u32 = 256;
const COMPLETIONS: u32 = 4 * 1024;

/// A ring for the calling thread.
pub(super) fn build() -> io::Result<IoUring> {
    let modern = || {
        let mut builder = IoUring::builder();
        builder.setup_single_issuer().setup_defer_taskrun().setup_coop_taskrun().setup_submit_all();
        builder.setup_cqsize(COMPLETIONS).dontfork();
        builder
    };
    let plain = || IoUring::builder().setup_cqsize(COMPLETIONS).dontfork().build(SUBMISSIONS);
    // Flags that this kernel does not know: it can do without.
    let is_unknown = |error: &io::Error| error.raw_os_error() == Some(libc::EINVAL);
    let mut ring = modern().setup_no_sqarray().build(SUBMISSIONS);
    if ring.as_ref().is_err_and(is_unknown) {
        ring = modern().build(SUBMISSIONS);
    }
    if ring.as_ref().is_err_and(is_unknown) { plain() } else { ring }
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
