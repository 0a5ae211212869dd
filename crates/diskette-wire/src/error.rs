//! Why something that was sent is not taken.

/// What the functions of this crate give.
pub type Result<T, E = WireError> = std::result::Result<T, E>;

/// Why something that was sent is not taken. Each variant says whose words they were.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WireError {
    /// The caller's name for an image.
    #[error("the name {why}")]
    Name {
        /// What is wrong with it.
        why: &'static str,
    },
    /// A header of the caller's request.
    #[error("{header} {why}")]
    Header {
        /// The header, as the protocol writes it.
        header: &'static str,
        /// What is wrong with it.
        why: &'static str,
    },
    /// Which parts of a file the caller has sent.
    #[error("{why}")]
    Parts {
        /// What is wrong with them.
        why: &'static str,
    },
    /// A catalog of base images, or one entry of it.
    #[error("{why}")]
    Catalog {
        /// What is wrong with it, and where.
        why: String,
    },
    /// A key that a catalog or a caller names.
    #[error("a key of the signature: {why}")]
    Key {
        /// What is wrong with it.
        why: String,
    },
    /// The signature of a publisher's checksum file.
    #[error("the checksum file: {why}")]
    Signature {
        /// Why it is not believed.
        why: String,
    },
}
