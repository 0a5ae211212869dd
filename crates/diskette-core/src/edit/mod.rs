//! Images that are made of blocks, written anywhere and in any order.
//!
//! What formats of that kind have in common is here; what each says of its blocks is its [`BlockTable`]. Guest data are
//! written at once, entries of the table are changed in memory, and written when all that they lead to is on stable storage.
//! A crash may leave blocks to which nothing leads, but no entry that leads nowhere.
//!
//! ```text
//!  BlockEditor     one lock: shared by those who read, or overwrite what has its place; alone for those who change the table
//!    BlockTable    a format's own: entries, the order on the disk
//!      EditedTable   entries in memory: those that were read, and those that have changed
//!      Space         where new blocks get their place
//! ```

mod filling;
mod space;
mod table;
mod used;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

pub use self::space::{NewPlace, Space};
pub use self::table::{EditedTable, LinearTable};
pub use self::used::UsedUnits;

use self::filling::{Content, Filling};
use crate::reader::check_range;
use crate::{
    BlockReader, BlockReaderExt, BlockWriter, Error, Extent, ExtentKind, HostOffset, Preallocation,
    Result, SnapshotWriter, StorageExt, StorageMut,
};

/// What a format knows of the blocks of an image that is being changed. All changes stay in memory until they are stored.
pub trait BlockTable: std::fmt::Debug + Send + Sync {
    /// The format's name.
    fn format(&self) -> &'static str;

    /// Bytes of the disk.
    fn size(&self) -> u64;

    /// Bytes of a block: a power of two.
    fn block_size(&self) -> u64;

    /// What is said of a block, which the disk has.
    fn block(&self, index: u64) -> Result<Block>;

    /// The run of the block `index`, which is [`Block::Partial`], from `within` on that is all there or all absent: its
    /// length, and whether it is there.
    fn part(&self, index: u64, within: u64) -> Result<(u64, bool)>;

    /// What can be said instead of `block` where it is to be zeros, so that it takes no space. `None`: zeros are stored.
    fn zero(&self, block: Block) -> Option<Block>;

    /// Whether the host's space of a block that has its place may be given back when its bytes are no longer needed.
    fn gives_back(&self) -> bool;

    /// Notes in the image that it is being changed. Called once, before anything else is written.
    fn begin(&mut self) -> Result<()>;

    /// A place for one more block. Nothing leads to it yet.
    fn allocate(&mut self) -> Result<NewPlace>;

    /// Takes back a place to which nothing leads.
    fn release(&mut self, at: u64);

    /// Says something else of a block, whose place is given up if it had another.
    fn set(&mut self, index: u64, block: Block) -> Result<()>;

    /// Gives the disk another size, of which [`Error::Unsupported`] tells where it cannot be had. What is said of new blocks is
    /// that they are zero, or nothing.
    fn resize(&mut self, size: u64) -> Result<()>;

    /// How many entries, or the like, wait to be stored. 0: the disk has them all.
    fn waiting(&self) -> usize;

    /// Writes all that waits, in an order that loses nothing where it is cut off. Returns when it is on stable storage, and
    /// so is all that was written before.
    fn store(&mut self) -> Result<()>;

    /// Notes in the image that it is no longer being changed. All is stored.
    fn close(&mut self) -> Result<()>;
}

/// What an image says of a block. Complete by nature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Block {
    /// Nothing: what lies below shows.
    Hole,
    /// That it is zeros.
    Zero,
    /// That it is stored at this host offset.
    Stored(u64),
    /// That parts of it are stored, in a place for the whole block at this host offset. Of the others it says nothing.
    Partial(u64),
}

/// The disk of an image that is made of blocks, to be written anywhere.
///
/// [`BlockWriter::flush`] is what makes the changes last. Dropping it stores the table, too, but tells of no error.
#[derive(Debug)]
pub struct BlockEditor<T: BlockTable> {
    storage: Arc<dyn StorageMut>,
    /// What lies below.
    below: Option<Arc<dyn BlockReader>>,
    size: AtomicU64,
    block_size: u64,
    begun: AtomicBool,
    table: RwLock<T>,
}

impl<T: BlockTable> BlockEditor<T> {
    /// The disk whose blocks lie in `storage`, as `table` tells. `below` is what its holes show.
    pub fn new(
        storage: Arc<dyn StorageMut>,
        below: Option<Arc<dyn BlockReader>>,
        table: T,
    ) -> Self {
        Self {
            storage,
            below,
            size: AtomicU64::new(table.size()),
            block_size: table.block_size(),
            begun: AtomicBool::new(false),
            table: RwLock::new(table),
        }
    }

    // A panic elsewhere while the lock was held leaves a table that can be read: go on.
    fn look(&self) -> RwLockReadGuard<'_, T> {
        self.table.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self) -> RwLockWriteGuard<'_, T> {
        self.table.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn begin(&self) -> Result<()> {
        if self.begun.load(Ordering::Acquire) {
            return Ok(());
        }
        let mut table = self.change();
        if !self.begun.load(Ordering::Acquire) {
            table.begin()?;
            self.begun.store(true, Ordering::Release);
        }
        Ok(())
    }

    /// The parts of a range that lie in one block each.
    fn pieces(&self, offset: u64, len: u64) -> impl Iterator<Item = Piece> + use<T> {
        let block_size = self.block_size;
        let end = offset + len; // within the disk
        let mut at = offset;
        std::iter::from_fn(move || {
            let within = at % block_size;
            let piece = Piece {
                block: at / block_size,
                offset: at,
                within,
                len: (end - at).min(block_size - within),
            };
            at += piece.len;
            (piece.len > 0).then_some(piece)
        })
    }

    /// Whether a piece is all that the disk has of its block.
    fn is_whole(&self, piece: &Piece, size: u64) -> bool {
        piece.within == 0 && (piece.len == self.block_size || piece.offset + piece.len == size)
    }

    fn write_piece(&self, piece: &Piece, bytes: &[u8]) -> Result<()> {
        let table = self.look();
        if let Block::Stored(at) = table.block(piece.block)? {
            return self.write(bytes, at + piece.within);
        }
        drop(table);
        let mut table = self.change();
        // Another thread may have been faster.
        match table.block(piece.block)? {
            Block::Stored(at) => self.write(bytes, at + piece.within),
            block => self.fill(&mut table, piece, block, Content::Bytes(bytes)),
        }
    }

    fn zero_piece(&self, piece: &Piece) -> Result<()> {
        let table = self.look();
        let size = table.size();
        let block = table.block(piece.block)?;
        let is_whole = self.is_whole(piece, size);
        let zero = |table: &T, block| table.zero(block).filter(|_| is_whole);
        match (block, zero(&table, block)) {
            (Block::Zero, _) => return Ok(()),
            (Block::Hole, _) if !self.shows_below(piece.offset) => return Ok(()),
            (Block::Stored(at), None) => return self.write_zeros(at + piece.within, piece.len),
            _ => {}
        }
        drop(table);
        let mut table = self.change();
        let block = table.block(piece.block)?;
        match (block, zero(&table, block)) {
            (_, Some(zero)) => self.set(&mut table, piece.block, zero),
            (Block::Zero, None) => Ok(()),
            (Block::Stored(at), None) => self.write_zeros(at + piece.within, piece.len),
            (block, None) => self.fill(&mut table, piece, block, Content::Zeros),
        }
    }

    fn discard_piece(&self, piece: &Piece) -> Result<()> {
        let table = self.look();
        if !self.is_whole(piece, table.size()) || !table.gives_back() {
            return Ok(());
        }
        let block = table.block(piece.block)?;
        match (block, table.zero(block)) {
            (Block::Hole | Block::Zero, _) | (Block::Partial(_), None) => Ok(()),
            (Block::Stored(at), None) => self.write_zeros(at, piece.len),
            (Block::Stored(_) | Block::Partial(_), Some(zero)) => {
                drop(table);
                let mut table = self.change();
                match table.block(piece.block)? {
                    // Another thread was faster.
                    Block::Hole | Block::Zero => Ok(()),
                    Block::Stored(_) | Block::Partial(_) => self.set(&mut table, piece.block, zero),
                }
            }
        }
    }

    /// Gives a block that is not stored whole all of its bytes: these, and what it showed before.
    fn fill(&self, table: &mut T, piece: &Piece, block: Block, content: Content<'_>) -> Result<()> {
        let (place, is_new) = match block {
            Block::Partial(at) | Block::Stored(at) => (NewPlace { at, is_zero: false }, false),
            Block::Hole | Block::Zero => (table.allocate()?, true),
        };
        let filling = Filling {
            storage: &*self.storage,
            below: self.below.as_deref(),
            table,
            index: piece.block,
            block,
            place,
        };
        let filled = filling.fill(piece.within, piece.len, content);
        if let Err(error) = filled {
            if is_new {
                table.release(place.at);
            }
            return Err(error);
        }
        self.set(table, piece.block, Block::Stored(place.at))
    }

    fn set(&self, table: &mut T, index: u64, block: Block) -> Result<()> {
        /// Enough for large writes to be cheap; what is lost by a crash is bounded by flushes.
        const MOST_WAITING: usize = 256;
        table.set(index, block)?;
        if table.waiting() >= MOST_WAITING {
            table.store()?;
        }
        Ok(())
    }

    /// Whether a hole at `offset` could show anything but zeros.
    fn shows_below(&self, offset: u64) -> bool {
        let below = self.below.as_ref();
        below.is_some_and(|below| below.size() > offset)
    }

    fn write(&self, bytes: &[u8], at: u64) -> Result<()> {
        self.storage
            .write_at(bytes, at)
            .map_err(|source| self.storage.failed("write", at, bytes.len() as u64, source))
    }

    fn write_zeros(&self, at: u64, len: u64) -> Result<()> {
        self.storage
            .write_zeros(at, len)
            .map_err(|source| self.storage.failed("zero", at, len, source))
    }

    /// What is at `offset`, up to the end of its block.
    fn extent_in(&self, table: &T, offset: u64) -> Result<Extent> {
        let index = offset / self.block_size;
        let start = index * self.block_size; // within the disk
        let len = self.block_size.min(table.size() - start);
        let stored = |at| ExtentKind::Data(HostOffset::new(at));
        let hole = match table.block(index)? {
            Block::Zero => return Ok(Extent::zero(start, len)),
            Block::Stored(at) => return Ok(Extent::new(start, len, stored(at))),
            Block::Hole => Extent::hole(start, len),
            Block::Partial(at) => {
                let within = offset - start;
                let (run, is_there) = table.part(index, within)?;
                let run = run.min(len - within);
                if is_there {
                    return Ok(Extent::new(offset, run, stored(at + within)));
                }
                Extent::hole(offset, run)
            }
        };
        self.extent_below(hole, offset)
    }

    /// What shows through a hole. The files of what lies below follow the image's own.
    fn extent_below(&self, hole: Extent, offset: u64) -> Result<Extent> {
        let Some(below) = &self.below else {
            return Ok(hole);
        };
        let size = below.size();
        if offset >= size {
            return Ok(hole.clip(size, u64::MAX));
        }
        let extent = below.extent_at(offset)?.clip(hole.offset, hole.end());
        let kind = extent.kind.in_files(|file| file.saturating_add(1));
        Ok(Extent { kind, ..extent })
    }
}

/// A part of a range that lies in one block.
#[derive(Clone, Copy, Debug)]
struct Piece {
    block: u64,
    /// Guest offset.
    offset: u64,
    /// The same, from the block's beginning on.
    within: u64,
    len: u64,
}

impl<T: BlockTable> BlockReader for BlockEditor<T> {
    fn size(&self) -> u64 {
        self.size.load(Ordering::Acquire)
    }

    fn extent_at(&self, offset: u64) -> Result<Extent> {
        const MOST_JOINED: usize = 1024;
        let table = self.look();
        check_range(table.size(), offset, 1)?;
        let mut found = self.extent_in(&table, offset)?;
        for _ in 0..MOST_JOINED {
            if found.end() >= table.size() {
                break;
            }
            // What is wrong with a later block is told when it is asked for.
            match self.extent_in(&table, found.end()) {
                Ok(next) if found.continues_into(&next) => found.len += next.len,
                _ => break,
            }
        }
        Ok(found)
    }

    fn read_extent(&self, _extent: &Extent, buf: &mut [u8], offset: u64) -> Result<()> {
        // The table may have changed since the extent was asked for.
        let table = self.look();
        check_range(table.size(), offset, buf.len() as u64)?;
        let mut rest = buf;
        let mut at = offset;
        while !rest.is_empty() {
            let extent = self.extent_in(&table, at)?;
            let len = usize::try_from(extent.end() - at)
                .unwrap_or(usize::MAX)
                .min(rest.len());
            let (part, behind) = rest.split_at_mut(len);
            match (extent.kind, &self.below) {
                (ExtentKind::Data(host), _) if host.file == 0 => {
                    self.storage
                        .read(part, host.plus(at - extent.offset).offset)?;
                }
                (kind, Some(below)) if !kind.reads_as_zeros() => below.read_at(part, at)?,
                _ => part.fill(0),
            }
            rest = behind;
            at += len as u64;
        }
        Ok(())
    }
}

impl<T: BlockTable> BlockWriter for BlockEditor<T> {
    fn write_at(&self, buf: &[u8], offset: u64) -> Result<()> {
        check_range(self.size(), offset, buf.len() as u64)?;
        self.begin()?;
        let mut rest = buf;
        for piece in self.pieces(offset, buf.len() as u64) {
            // Within `buf`, whose length is a usize.
            let (part, behind) = rest.split_at(usize::try_from(piece.len).unwrap_or(rest.len()));
            self.write_piece(&piece, part)?;
            rest = behind;
        }
        Ok(())
    }

    fn write_zeros(&self, offset: u64, len: u64) -> Result<()> {
        check_range(self.size(), offset, len)?;
        self.begin()?;
        self.pieces(offset, len)
            .try_for_each(|piece| self.zero_piece(&piece))
    }

    fn discard(&self, offset: u64, len: u64) -> Result<()> {
        check_range(self.size(), offset, len)?;
        self.begin()?;
        self.pieces(offset, len)
            .try_for_each(|piece| self.discard_piece(&piece))
    }

    fn resize(&self, size: u64) -> Result<()> {
        let before = self.size();
        if size < before {
            let format = self.look().format();
            return Err(Error::unsupported(format, "a smaller disk"));
        }
        if size > before {
            self.begin()?;
            self.change().resize(size)?;
            // In memory alone: what is new is cleared before anybody can see it.
            let cleared = self.clear(before, size);
            self.size.store(size, Ordering::Release);
            cleared?;
        }
        self.flush()
    }

    fn preallocate(&self, _offset: u64, _len: u64, _how: Preallocation) -> Result<()> {
        Err(Error::unsupported(self.look().format(), "preallocation"))
    }

    fn snapshots(&self) -> Option<&dyn SnapshotWriter> {
        None
    }

    fn flush(&self) -> Result<()> {
        let mut table = self.change();
        if table.waiting() > 0 {
            return table.store();
        }
        self.storage
            .sync()
            .map_err(|source| self.storage.failed("sync", 0, 0, source))
    }

    fn close(&self) -> Result<()> {
        let mut table = self.change();
        if !self.begun.load(Ordering::Acquire) {
            return Ok(());
        }
        table.store()?;
        table.close()?;
        self.begun.store(false, Ordering::Release);
        Ok(())
    }
}

impl<T: BlockTable> BlockEditor<T> {
    /// Makes what a disk has more of now read as zeros: the rest of the block in which it ended, and what would show
    /// what lies below.
    fn clear(&self, before: u64, size: u64) -> Result<()> {
        let shown = self.below.as_ref().map_or(0, |below| below.size());
        let behind = before.next_multiple_of(self.block_size);
        let end = size.min(behind.max(shown));
        self.pieces(before, end.saturating_sub(before))
            .try_for_each(|piece| self.zero_piece(&piece))
    }
}

impl<T: BlockTable> Drop for BlockEditor<T> {
    fn drop(&mut self) {
        // Who wants to know whether it succeeded has flushed before.
        let _ = self.close();
    }
}
