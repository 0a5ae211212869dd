//! What the benches share: nothing is kept in the repository, all images are made at start.
//!
//! ```sh
//! cargo bench -p diskette-benches
//! cargo bench -p diskette-benches --bench conversions -- zlib
//! ```
