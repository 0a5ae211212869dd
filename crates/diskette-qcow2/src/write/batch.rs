//! Small writes of neighbours, done together.

use diskette_core::{Result, StorageExt, StorageMut};

/// Gathers bytes while each piece follows the one before it.
#[derive(Debug)]
pub(super) struct Batch<'a> {
    storage: &'a dyn StorageMut,
    offset: u64,
    bytes: Vec<u8>,
}

impl<'a> Batch<'a> {
    pub(super) const fn new(storage: &'a dyn StorageMut) -> Self {
        Self {
            storage,
            offset: 0,
            bytes: Vec::new(),
        }
    }

    /// Adds bytes that belong at a host offset.
    pub(super) fn add(&mut self, offset: u64, bytes: &[u8]) -> Result<()> {
        let end = self.offset + self.bytes.len() as u64;
        if offset != end || self.bytes.len() >= LARGE {
            self.write()?;
            self.offset = offset;
        }
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }

    /// Adds zeros, which are written.
    pub(super) fn zeros(&mut self, offset: u64, len: u64) -> Result<()> {
        const ZEROS: [u8; 4096] = [0; 4096];
        let mut done = 0;
        while done < len {
            let part = (len - done).min(ZEROS.len() as u64);
            self.add(
                offset + done,
                &ZEROS[..usize::try_from(part).unwrap_or(ZEROS.len())],
            )?;
            done += part;
        }
        Ok(())
    }

    /// Writes what has been gathered.
    pub(super) fn write(&mut self) -> Result<()> {
        if self.bytes.is_empty() {
            return Ok(());
        }
        let len = self.bytes.len() as u64;
        self.storage
            .write_at(&self.bytes, self.offset)
            .map_err(|source| self.storage.failed("write", self.offset, len, source))?;
        self.offset += len;
        self.bytes.clear();
        Ok(())
    }
}

/// What has become as large as this is written.
const LARGE: usize = 1 << 20;
