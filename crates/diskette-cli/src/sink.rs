//! Where images go that are written from their first byte to their last: into a pipe, or into an object store.

use std::io::Write;
use std::path::Path;

#[cfg(feature = "s3")]
use diskette::S3Upload;
use diskette::core::Error;

use crate::failure::Failure;
use crate::pipes::{self, Pipe};

/// A target that takes bytes in order.
#[derive(Debug)]
pub(crate) struct Sink {
    /// For messages.
    pub(crate) name: String,
    to: To,
}

#[derive(Debug)]
enum To {
    Pipe(Pipe),
    #[cfg(feature = "s3")]
    Object(S3Upload),
}

/// Whether images are written here from their first byte to their last.
pub(crate) fn is_sink(path: &Path) -> bool {
    pipes::is_output(path) || is_object(path)
}

/// Whether this is the address of an object, which can be read when it is whole.
pub(crate) fn is_object(path: &Path) -> bool {
    #[cfg(feature = "s3")]
    return path.to_str().is_some_and(diskette::is_s3_address);
    #[cfg(not(feature = "s3"))]
    {
        let _ = path;
        false
    }
}

impl Sink {
    /// The sink of this name, for the image of a disk of `size` bytes.
    pub(crate) fn open(path: &Path, size: u64) -> Result<Self, Failure> {
        #[cfg(feature = "s3")]
        if let Some(address) = path.to_str().filter(|text| diskette::is_s3_address(text)) {
            return Ok(Self {
                name: address.to_owned(),
                to: To::Object(S3Upload::create(address, most_bytes(size))?),
            });
        }
        let _ = size;
        let pipe = pipes::output(path)?;
        Ok(Self {
            name: pipe.name.clone(),
            to: To::Pipe(pipe),
        })
    }

    /// What takes the bytes.
    pub(crate) fn writer(&self) -> Result<Box<dyn Write + Send>, Failure> {
        match &self.to {
            To::Pipe(pipe) => match pipe.file.try_clone() {
                Ok(file) => Ok(Box::new(file)),
                Err(source) => Err(Failure::from(Error::File {
                    op: "open",
                    path: self.name.clone(),
                    source,
                })),
            },
            #[cfg(feature = "s3")]
            To::Object(upload) => Ok(upload.writer()),
        }
    }

    /// All has been written.
    pub(crate) fn finish(self) -> Result<(), Failure> {
        match self.to {
            To::Pipe(_) => Ok(()),
            #[cfg(feature = "s3")]
            To::Object(upload) => Ok(upload.commit()?),
        }
    }
}

/// More than any image of a disk of `size` bytes has: tables are the sixteenth part of it at the most.
#[cfg(feature = "s3")]
fn most_bytes(size: u64) -> u64 {
    const LARGE_BLOCKS: u64 = 1 << 30;
    size.saturating_add(size / 16).saturating_add(LARGE_BLOCKS)
}
