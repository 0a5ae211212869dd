//! What is asked of an image that comes in, and of one that is to be fetched.

use serde::{Deserialize, Serialize};
#[cfg(feature = "schema")]
use utoipa::ToSchema;

use crate::names::name_of_file;
use crate::signature::Signature;

/// What is asked of an image that comes in.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(ToSchema))]
#[serde(default)]
pub struct Wanted {
    /// The SHA-256 of the bytes that are sent.
    pub sha256: Option<String>,
    /// The SHA-512 of the bytes that are sent.
    pub sha512: Option<String>,
    /// The format, where the content is not to be asked: `raw` for a disk whose guest may have written anything.
    pub format: Option<String>,
    /// Which disk of an archive.
    pub disk: Option<String>,
    /// Whether the stored image is compressed.
    pub compress: bool,
    /// Whether internal snapshots of a QCOW2 image are left out. They are kept otherwise, where the image is stored as it came.
    pub drop_snapshots: bool,
    /// Whether a name that lies about the content is an error.
    pub strict: bool,
    /// Whether a name that is taken is to stand for this image from now on.
    pub overwrite: bool,
    /// Whether what is compressed as a whole is unpacked: `auto` (the default) or `none`.
    pub decompress: Option<String>,
}

/// An image to be fetched.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(ToSchema))]
#[serde(default)]
pub struct Import {
    /// Its address.
    pub url: String,
    /// Other addresses of the same bytes, asked when the first does not deliver. A digest is needed then.
    pub mirrors: Vec<String>,
    /// A checksum file of the publisher's.
    pub checksum_url: Option<String>,
    /// The file's name in it, where that is not the end of the address.
    pub checksum_name: Option<String>,
    /// Who has signed the checksum file.
    pub checksum_signature: Option<Signature>,
    /// A label; from the address, if it is not said.
    pub name: Option<String>,
    /// What is to be known about the image.
    pub description: Option<String>,
    /// Words by which it is found.
    pub tags: Vec<String>,
    /// Most bytes to be fetched: below the setting `max_upload`.
    pub max_bytes: Option<u64>,
    /// The rest of what is asked.
    #[serde(flatten)]
    pub wanted: Wanted,
}

impl Import {
    /// Whether anything says what the bytes are to be.
    #[must_use]
    pub const fn has_digest(&self) -> bool {
        self.wanted.sha256.is_some() || self.wanted.sha512.is_some() || self.checksum_url.is_some()
    }

    /// All addresses, in the order in which they are asked.
    pub fn addresses(&self) -> impl Iterator<Item = &String> {
        std::iter::once(&self.url).chain(&self.mirrors)
    }

    /// The last part of the address.
    #[must_use]
    pub fn file_name(&self) -> String {
        let path = self.url.split(['?', '#']).next().unwrap_or_default();
        path.rsplit('/').next().unwrap_or_default().to_owned()
    }

    /// What the image is to be called, which may be no label.
    #[must_use]
    pub fn label(&self) -> String {
        self.name
            .clone()
            .unwrap_or_else(|| name_of_file(&self.file_name()))
    }
}
