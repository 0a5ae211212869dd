//! Names of other files, as images bear them, and the one door to those files.

use std::fmt;
use std::sync::Arc;

use crate::{Error, Identity, Result, Storage, StorageMut};

/// A file's name, as an image bears it. Not to be trusted.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Reference {
    /// What the file is to the image.
    pub role: Role,
    /// The name, exactly as the image bears it.
    pub target: String,
    /// The format that the image says the file has.
    pub format: Option<String>,
    /// What the file must say of itself to be the right one. Of several values of one kind any will do.
    pub identity: Vec<Identity>,
    /// How the file can be known where none has the name: it bears one of these. Empty: the name alone counts.
    pub marks: Vec<Mark>,
}

/// Bytes at the beginning of a file that tell it from others whatever it is called: a signature, a UUID.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mark {
    /// Bytes and their offsets, all of which must be there.
    pub pieces: Vec<(usize, Vec<u8>)>,
}

impl Mark {
    /// Bytes of a file that are looked at.
    pub const HEAD: usize = 512;

    /// Whether a file that begins with `head` bears the mark.
    #[must_use]
    pub fn is_on(&self, head: &[u8]) -> bool {
        self.pieces.iter().all(|(offset, bytes)| {
            let there = head.get(*offset..).unwrap_or_default();
            there.starts_with(bytes)
        })
    }
}

impl Reference {
    /// A reference to `target`, of which no more is known.
    pub fn new(role: Role, target: impl Into<String>) -> Self {
        Self {
            role,
            target: target.into(),
            format: None,
            identity: Vec::new(),
            marks: Vec::new(),
        }
    }

    /// The same, with the format that the image says the file has.
    #[must_use]
    pub fn with_format(mut self, format: impl Into<String>) -> Self {
        self.format = Some(format.into());
        self
    }

    /// The same, with something that the file must say of itself.
    #[must_use]
    pub fn with_identity(mut self, identity: Identity) -> Self {
        self.identity.push(identity);
        self
    }

    /// The same, with a mark by which the file can be known.
    #[must_use]
    pub fn with_mark(mut self, mark: Mark) -> Self {
        self.marks.push(mark);
        self
    }

    /// The error that this reference is not followed because of `why`.
    #[must_use]
    pub fn refused(&self, why: impl Into<std::borrow::Cow<'static, str>>) -> Error {
        Error::Refused {
            role: self.role,
            target: self.target.clone(),
            why: why.into(),
        }
    }
}

/// What a file is to the image that names it. Complete by nature.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// The image below an overlay.
    Backing,
    /// One of several files that make up the image.
    Part,
    /// The file that holds a QCOW2 image's guest data.
    DataFile,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Backing => "backing file",
            Self::Part => "extent file",
            Self::DataFile => "data file",
        })
    }
}

/// The one door from an image to any other file: it decides about a reference, and opens the file, or refuses.
pub trait Resolver: fmt::Debug + Send + Sync {
    /// The file that `reference` names, as seen from the file `from` that bears it. Where there is none of the name, one
    /// that bears one of the reference's marks may be taken, if it could have been named.
    fn open(&self, reference: &Reference, from: &dyn Storage) -> Result<Arc<dyn Storage>>;

    /// The same, to be changed: a part of an image that is being written.
    fn open_mut(&self, reference: &Reference, from: &dyn Storage) -> Result<Arc<dyn StorageMut>>;
}

/// Refuses every reference. The library's default.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoReferences;

impl Resolver for NoReferences {
    fn open(&self, reference: &Reference, _from: &dyn Storage) -> Result<Arc<dyn Storage>> {
        Err(reference.refused("no reference to another file is allowed here"))
    }

    fn open_mut(&self, reference: &Reference, _from: &dyn Storage) -> Result<Arc<dyn StorageMut>> {
        Err(reference.refused("no reference to another file is allowed here"))
    }
}
