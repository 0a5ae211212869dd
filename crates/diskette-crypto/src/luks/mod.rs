//! LUKS version 1 ("LUKS On-Disk Format Specification", 1.2.3): a header, and eight slots, each of which holds the
//! master key enciphered with another passphrase.
//!
//! ```text
//!  header │ slot 0's material │ .. │ slot 7's material │ payload
//!  592 B  │ from sector 8 on, each at a multiple of 4 KiB │ (in QCOW2: nothing, the clusters lie elsewhere)
//! ```

mod amend;
mod create;
mod details;
mod header;
mod options;
mod spec;
mod unlock;

use diskette_core::{Error, Result};

pub use amend::{Amendment, KeySlots, slot_option_specs};
pub use create::{Iterations, NewLuks};
pub use header::{Header, Slot};
pub use options::option_specs;
pub use unlock::MasterKey;

/// Whether bytes begin with the signature and the version of a LUKS1 header.
#[must_use]
pub fn is_luks(head: &[u8]) -> bool {
    head.starts_with(&spec::MAGIC) && head.get(6..8) == Some(&[0, 1])
}

/// The name by which this format is known.
pub(crate) const FORMAT: &str = "luks";

/// Fills `bytes` with what nobody can foresee.
pub(crate) fn random(bytes: &mut [u8]) -> Result<()> {
    getrandom::fill(bytes).map_err(|error| Error::File {
        op: "take random bytes from",
        path: "the system".to_owned(),
        source: std::io::Error::other(error.to_string()),
    })
}
