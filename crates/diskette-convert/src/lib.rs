//! The parallel engine of diskette: convert, compare, digest, measure, bench.
//!
//! It knows no format. It reads a [`BlockReader`](diskette_core::BlockReader) and fills an
//! [`ImageWriter`](diskette_core::ImageWriter) or a [`BlockWriter`](diskette_core::BlockWriter):
//!
//! ```text
//!  extent_at ─► plan ─► tasks ─┬─► read ─► zeros? ─► pack ─┐      many threads
//!                              ├─► read ─► zeros? ─► pack ─┤
//!                              └─► read ─► zeros? ─► pack ─┤
//!                                                          ▼
//!                                                   place, store        in guest order, one thread at a time
//!                                                          ▼
//!                                                        finish
//! ```
//!
//! Memory is bounded by a few tasks a thread, whatever the disk's size, and what is written does not depend on the
//! number of threads.

#![forbid(unsafe_code)]

mod adapt;
mod balance;
mod bench;
mod compare;
mod control;
mod convert;
mod differences;
mod digest;
mod hashing;
mod measure;
mod one_pass;
mod pack;
mod passing;
mod pipeline;
mod plan;
mod slice;
mod target;
mod witness;
mod zeros;

pub use adapt::{Concat, TopLayer, UpperLayers};
pub use bench::{Load, Requests, bench};
pub use compare::{CompareError, CompareOptions, Comparison, Side, compare};
pub use control::{Control, Progress};
pub use convert::{ConvertOptions, convert, convert_into};
pub use differences::{DifferenceOptions, copy_differences};
pub use digest::{Digests, digest, hex};
pub use measure::data_len;
pub use one_pass::OnePass;
pub use passing::PassingDigests;
pub use slice::Slice;
pub use witness::{Pieces, Witness, pieces};
