//! Images from other servers: which addresses may be asked, what is fetched from them, what their digests are to be.
//!
//! ```text
//!  Import ─► promise: checksum file, signature ─► run: address after address ─► transfer: parts, resumed ─► spool
//!                                                  ▲                                                        │
//!                                                  └──────────── another digest, or it broke off ───────────┘
//! ```

mod address;
mod client;
mod import;
mod promise;
mod run;
mod transfer;
mod watched;

pub(crate) use diskette_wire::Import;
pub(crate) use import::check;
pub(crate) use promise::{about, promised, small_text};
pub(crate) use run::{Got, begin, fetched, resume, resumed_spool};
