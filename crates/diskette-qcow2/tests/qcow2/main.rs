//! QCOW2 images made by hand, by qemu-img, and by chance: what they read as, and what is said of those that do not.

#![expect(clippy::unwrap_used, reason = "a panic in a test is a failed test")]

mod checked;
mod corpus;
mod damaged;
mod mangled;
mod matrix;
mod refused;
mod repaired;
mod repaired_by_chance;
mod support;
