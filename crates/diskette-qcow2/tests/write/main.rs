//! New images, held against what qemu-img says of them.

#![allow(clippy::unwrap_used, reason = "a test that panics has failed")]

mod driver;
mod edit;
mod layout;
mod matrix;
mod options;
