//! A block that gets all of its bytes: those that are written, and around them what it showed before.

use super::{Block, BlockTable, NewPlace};
use crate::{BlockReader, BlockReaderExt, Result, StorageExt, StorageMut};

/// What is written.
#[derive(Clone, Copy, Debug)]
pub(super) enum Content<'a> {
    Bytes(&'a [u8]),
    Zeros,
}

/// A block on its way to a place of its own.
#[derive(Debug)]
pub(super) struct Filling<'a, T> {
    pub(super) storage: &'a dyn StorageMut,
    pub(super) below: Option<&'a dyn BlockReader>,
    pub(super) table: &'a T,
    pub(super) index: u64,
    /// What was said of it.
    pub(super) block: Block,
    pub(super) place: NewPlace,
}

impl<T: BlockTable> Filling<'_, T> {
    /// Writes `len` bytes of `content` from `within` on, and around them what the block showed.
    pub(super) fn fill(&self, within: u64, len: u64, content: Content<'_>) -> Result<()> {
        self.keep(0, within)?;
        self.keep(within + len, self.table.block_size())?;
        match content {
            Content::Bytes(bytes) => self.write(within, bytes),
            Content::Zeros => self.clear(within, len),
        }
    }

    /// Puts what the block showed from `start` to `end` into its place, if it is not there.
    fn keep(&self, start: u64, end: u64) -> Result<()> {
        let mut at = start;
        while at < end {
            let (len, is_there) = match self.block {
                Block::Partial(_) => self.table.part(self.index, at)?,
                Block::Hole | Block::Zero => (end, false),
                Block::Stored(_) => (end, true),
            };
            let len = len.min(end - at);
            match (is_there, self.block) {
                (true, _) => {}
                (false, Block::Zero) => self.clear(at, len)?,
                (false, _) => self.copy_up(at, len)?,
            }
            at += len;
        }
        Ok(())
    }

    /// Copies what lies below into the block's place.
    fn copy_up(&self, within: u64, len: u64) -> Result<()> {
        const PIECE: u64 = 1 << 20;
        let start = self.index * self.table.block_size();
        let (mut at, end) = (start + within, start + within + len);
        let shown = self
            .table
            .size()
            .min(self.below.map_or(0, BlockReader::size));
        let mut bytes = Vec::new();
        while let Some(below) = self.below
            && at < end.min(shown)
        {
            let extent = below.extent_at(at)?.clip(at, end.min(shown));
            let zeros = extent.kind.reads_as_zeros();
            let len = if zeros {
                extent.len
            } else {
                extent.len.min(PIECE)
            };
            if zeros {
                self.clear(at - start, len)?;
            } else {
                bytes.resize(usize::try_from(len).unwrap_or(usize::MAX), 0);
                below.read_at(&mut bytes, at)?;
                self.write(at - start, &bytes)?;
            }
            at += len;
        }
        self.clear(at - start, end - at)
    }

    fn clear(&self, within: u64, len: u64) -> Result<()> {
        if len == 0 || self.place.is_zero {
            return Ok(());
        }
        let at = self.place.at + within;
        self.storage
            .write_zeros(at, len)
            .map_err(|source| self.storage.failed("zero", at, len, source))
    }

    fn write(&self, within: u64, bytes: &[u8]) -> Result<()> {
        let at = self.place.at + within;
        self.storage
            .write_at(bytes, at)
            .map_err(|source| self.storage.failed("write", at, bytes.len() as u64, source))
    }
}
