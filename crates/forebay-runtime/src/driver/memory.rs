//! Memory from the system and from the allocator, by address: what buffers are made of.

use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};
use std::io;
use std::ptr::NonNull;

/// Memory mapped from the system: page-aligned, zeroed, untouched pages cost nothing.
pub(crate) struct Mapping {
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: a mapping belongs to the process, not to a thread.
unsafe impl Send for Mapping {}

impl Mapping {
    pub(crate) fn new(len: usize) -> io::Result<Mapping> {
        let prot = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: an anonymous mapping at an address of the kernel's choice touches nothing that exists.
        let at = unsafe { libc::mmap(std::ptr::null_mut(), len, prot, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, 0) };
        if at == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        // A child that forks must not share pages that the kernel writes to behind our back.
        // SAFETY: the range was just mapped.
        unsafe { libc::madvise(at, len, libc::MADV_DONTFORK) };
        let start = NonNull::new(at.cast()).ok_or_else(|| io::Error::other("mapped at address zero"))?;
        Ok(Mapping { start, len })
    }

    pub(crate) fn at(&self, offset: usize) -> NonNull<u8> {
        assert!(offset < self.len);
        // SAFETY: within the mapping, as asserted.
        unsafe { self.start.add(offset) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: mapped by `new` and unmapped once. Users of its addresses are dropped before it.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.len) };
    }
}

fn layout(capacity: u32) -> Layout {
    Layout::from_size_align(capacity.max(1) as usize, 16).expect("4 GB at most, alignment a power of two")
}

/// Memory for `capacity` bytes, to be given back with [`free`].
pub(super) fn allocate(capacity: u32) -> NonNull<u8> {
    let layout = layout(capacity);
    // SAFETY: the layout's size is not zero.
    let memory = unsafe { alloc(layout) };
    let Some(memory) = NonNull::new(memory) else { handle_alloc_error(layout) };
    memory
}

/// Gives memory back.
pub(super) fn free(memory: NonNull<u8>, capacity: u32) {
    // SAFETY: `memory` came from `allocate` with this capacity, and its entry is gone.
    unsafe { dealloc(memory.as_ptr(), layout(capacity)) };
}

/// Gives freed memory back to the system, where the allocator is one that keeps it.
pub(super) fn trim() {
    #[cfg(target_env = "gnu")]
    // SAFETY: takes the allocator's own locks and touches what is free.
    unsafe {
        libc::malloc_trim(0);
    }
}
