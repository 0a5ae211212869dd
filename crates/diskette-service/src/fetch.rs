//! Images from other servers: which addresses may be asked, what is fetched from them, what their digests are to be.

mod address;
mod checksum;
mod client;
mod run;

pub(crate) use run::{Import, begin, check, resume};
