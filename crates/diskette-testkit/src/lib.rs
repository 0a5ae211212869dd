//! For tests alone: image builders, the conformance suite, storage that fails.
//!
//! What is here panics where something is wrong: a panic is a failed test, with a message that says what was found and
//! where.

#![forbid(unsafe_code)]

pub mod conformance;
pub mod content;
pub mod corpus;
pub mod editing;
pub mod failing;
pub mod golden;
pub mod qcow2;
pub mod recording;
pub mod s3;
pub mod tools;
pub mod vdi;
pub mod vhdx;
pub mod vmdk;
pub mod vpc;
mod walk;

pub use conformance::{check_reader, check_reader_against, check_reader_against_fn};
pub use content::{Content, Rng};
pub use failing::{FailingStorage, Failure, How, What};
pub use recording::{Operation, RecordingStorage};
pub use s3::S3Server;
pub use tools::{Tool, corpus, qemu_img, qemu_io};
pub use walk::walk;
