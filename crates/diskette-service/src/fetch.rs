//! Images from other servers: which addresses may be asked, what is fetched from them, what their digests are to be.
//!
//! ```text
//!  Import ─► promise: checksum file, signature ─► run: address after address ─► transfer: parts, resumed ─► spool
//!                                                  ▲                                                        │
//!                                                  └──────────── another digest, or it broke off ───────────┘
//! ```

mod address;
mod checksum;
mod client;
mod import;
mod promise;
mod run;
mod signature;
mod transfer;
mod watched;

pub(crate) use import::{Import, check};
pub(crate) use promise::{about, promised, small_text};
pub(crate) use run::{Got, begin, fetched, resume, resumed_spool};
pub(crate) use signature::Signature;
#[cfg(test)]
pub(crate) use signature::check_keys;
