//! VHDX files made by hand, by other tools, and by chance: what they read as, and what is said of those that do not.

#![expect(clippy::unwrap_used, reason = "a panic in a test is a failed test")]

mod check;
mod corpus;
mod edit;
mod log;
mod mangled;
mod oracle;
mod repair;
mod support;
mod variants;
mod write;
