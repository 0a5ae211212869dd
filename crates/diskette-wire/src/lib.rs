//! What others send to the service beside images, read: names, headers of uploads, ranges, checksum files and their
//! signatures, catalogs of base images.
//!
//! Whoever sends it may be anybody. So all of it is here, apart from the server: text and bytes go in, values whose
//! existence is the proof come out. Nothing is opened, asked or kept. The fuzz target `service` calls all of it.
//!
//! ```
//! use diskette_wire::{label, tus};
//!
//! assert_eq!(label(" router 2 ")?, "router 2");
//! assert!(label("../etc/passwd").is_err());
//! let metadata = tus::metadata("filename cm91dGVyLnZtZGs=,strict")?;
//! assert_eq!(metadata[0], ("filename", "router.vmdk".to_owned()));
//! # Ok::<(), diskette_wire::WireError>(())
//! ```

#![forbid(unsafe_code)]

mod error;
mod import;
mod names;
mod parts;
mod range;
mod signature;
mod sums;

pub mod entry;
pub mod naming;
pub mod tags;
pub mod tus;

pub use error::{Result, WireError};
pub use import::{Import, Wanted};
pub use names::{label, name_of_file};
pub use parts::parts;
pub use range::Asked;
pub use signature::Signature;
pub use sums::digest_of;
