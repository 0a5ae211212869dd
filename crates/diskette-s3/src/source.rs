//! An object that is read.

use std::fmt;
use std::io;

use diskette_core::{Result, Run, RunKind, Storage};
use diskette_http::{BLOCK, Blocks, Fetch};
use object_store::{GetOptions, GetRange, ObjectMeta, ObjectStore};

use crate::object::{Object, open, told};

/// An object that can be read anywhere. It must stay the one that it was when it was opened.
pub struct S3Storage {
    remote: Remote,
    blocks: Blocks,
}

/// The object, as it was at the beginning.
struct Remote {
    object: Object,
    size: u64,
    etag: Option<String>,
    modified: String,
}

impl S3Storage {
    /// The object at `address`.
    pub fn open(address: &str) -> Result<Self> {
        let object = open(address)?;
        let failed = |source| Object::failed(address, "open", source);
        let head = GetOptions {
            head: true,
            ..GetOptions::default()
        };
        let asked = object.store.get_opts(&object.key, head);
        let found = object.runtime.block_on(asked);
        let found = found.map_err(|error| failed(told(error)))?.meta;
        let remote = Remote {
            size: found.size,
            etag: found.e_tag,
            modified: found.last_modified.to_rfc2822(),
            object,
        };
        let first = match remote.size {
            0 => Vec::new(),
            size => remote.fetch(0, size.min(BLOCK)).map_err(failed)?,
        };
        Ok(Self {
            blocks: Blocks::new(first),
            remote,
        })
    }
}

impl Remote {
    fn is_that_of(&self, found: &ObjectMeta) -> bool {
        found.size == self.size
            && found.e_tag == self.etag
            && found.last_modified.to_rfc2822() == self.modified
    }
}

impl Fetch for Remote {
    fn size(&self) -> u64 {
        self.size
    }

    fn fetch(&self, start: u64, end: u64) -> io::Result<Vec<u8>> {
        let options = GetOptions {
            if_match: self.etag.clone(),
            range: Some(GetRange::Bounded(start..end)),
            ..GetOptions::default()
        };
        let Object {
            store,
            key,
            runtime,
            ..
        } = &self.object;
        let found = runtime.block_on(store.get_opts(key, options));
        let found = match found {
            Err(object_store::Error::Precondition { .. }) => return Err(changed()),
            found => found.map_err(told)?,
        };
        if !self.is_that_of(&found.meta) {
            return Err(changed());
        }
        let bytes = runtime.block_on(found.bytes()).map_err(told)?;
        match bytes.len() as u64 == end - start {
            true => Ok(bytes.into()),
            false => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
}

fn changed() -> io::Error {
    io::Error::other("the object is not the one that it was at the beginning")
}

impl Storage for S3Storage {
    fn name(&self) -> &str {
        &self.remote.object.address
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.remote.size)
    }

    fn allocated(&self) -> io::Result<u64> {
        self.size()
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.blocks.read(&self.remote, buf, offset)
    }

    fn run_at(&self, offset: u64) -> io::Result<Run> {
        Ok(Run {
            len: self.remote.size.saturating_sub(offset).max(1),
            kind: RunKind::Data,
        })
    }

    fn as_bytes(&self) -> Option<&[u8]> {
        None
    }
}

impl fmt::Debug for S3Storage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("S3Storage")
            .field("name", &self.remote.object.address)
            .field("size", &self.remote.size)
            .finish_non_exhaustive()
    }
}
