//! The thin service on top of diskette: uploads, catalog, overlays, launch.
//!
//! No code about image formats lives here: whatever looks inside of a disk is the library's. The service adds what a
//! network needs: who may do what, what has come so far, what there is, and what went wrong.
//!
//! ```text
//!  HTTP ─► origin ─► auth ─► api ─┬─► db      records and events, in one transaction
//!                                 ├─► store   blobs named by their content, on the host's disk
//!                                 └─► problem what is answered where it cannot be done
//! ```

#![forbid(unsafe_code)]

mod actions;
mod adopt;
mod api;
mod args;
mod auth;
mod base;
mod boot;
mod catalog;
mod client;
mod compat;
mod consoles;
mod db;
mod detect;
mod doctor;
mod events;
mod fault;
mod fetch;
mod ingest;
pub mod launch;
mod metrics;
mod nodes;
mod operations;
mod origin;
mod problem;
mod recover;
mod rewrite;
mod rights;
mod server;
mod settings;
mod size;
mod spool;
mod state;
mod store;
mod upload;
mod web;
mod work;

pub use args::run;
