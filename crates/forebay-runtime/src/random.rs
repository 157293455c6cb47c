//! Unpredictable bytes.

/// Fills with bytes of the cryptographic generator, which the operating system seeds.
pub fn fill(out: &mut [u8]) {
    // It fails only where the system has no source of entropy; going on with predictable keys would be worse.
    aws_lc_rs::rand::fill(out).expect("the system's random generator works");
}
