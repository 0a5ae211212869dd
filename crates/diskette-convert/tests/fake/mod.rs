//! Disks and images that exist for these tests alone.
#![allow(dead_code, reason = "each test file uses a part")]
#![allow(unreachable_pub, clippy::unwrap_used, reason = "it is a part of tests")]

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, Mutex};

use diskette_core::{
    BlockReader, BlockReaderExt, BlockWriter, Error, Extent, ExtentKind, HostOffset, ImageWriter,
    Packed, Packer, Preallocation, Result, Run, Skipped, SnapshotWriter, Storage, StorageMut,
};

pub const KIB: u64 = 1 << 10;
pub const MIB: u64 = 1 << 20;

/// A disk made of extents. Data is made up from its host offset, so that 16 TiB of it cost nothing.
#[derive(Debug, Default)]
pub struct Disk {
    pub extents: Vec<Extent>,
    /// Reads that touch this guest offset fail.
    pub broken_at: Option<u64>,
    /// Reads that touch this guest offset panic.
    pub panics_at: Option<u64>,
    pub lookups: AtomicUsize,
    pub reads: AtomicUsize,
    pub bytes_read: AtomicU64,
}

impl Disk {
    /// Puts an extent behind those that are there.
    #[must_use]
    pub fn then(mut self, len: u64, kind: ExtentKind) -> Self {
        self.extents.push(Extent::new(self.size(), len, kind));
        self
    }

    #[must_use]
    pub fn data(self, len: u64) -> Self {
        let at = HostOffset::new(self.size() + 1);
        self.then(len, ExtentKind::Data(at))
    }

    /// Data that is zero, as is found out only when it is read.
    #[must_use]
    pub fn data_of_zeros(self, len: u64) -> Self {
        self.then(len, ExtentKind::Data(HostOffset { file: 1, offset: 0 }))
    }

    #[must_use]
    pub fn compressed(self, granule: u64, count: u64) -> Self {
        (0..count).fold(self, |disk, _| {
            let at = HostOffset::new(disk.size());
            disk.then(granule, ExtentKind::Compressed { at, len: 1 })
        })
    }

    #[must_use]
    pub fn hole(self, len: u64) -> Self {
        self.then(len, ExtentKind::Hole(None))
    }

    #[must_use]
    pub fn zeros(self, len: u64) -> Self {
        self.then(len, ExtentKind::Zero(None))
    }

    pub fn to_vec(&self) -> Vec<u8> {
        self.read_vec(0, usize::try_from(self.size()).unwrap())
            .unwrap()
    }
}

impl BlockReader for Disk {
    fn size(&self) -> u64 {
        self.extents.last().map_or(0, Extent::end)
    }

    fn extent_at(&self, offset: u64) -> Result<Extent> {
        self.lookups.fetch_add(1, Ordering::Relaxed);
        let index = self
            .extents
            .partition_point(|extent| extent.end() <= offset);
        self.extents.get(index).copied().ok_or(Error::OutOfRange {
            offset,
            len: 1,
            size: self.size(),
        })
    }

    fn read_extent(&self, extent: &Extent, buf: &mut [u8], offset: u64) -> Result<()> {
        let whole = self.extent_at(offset)?;
        let end = offset + buf.len() as u64;
        assert!(extent.offset <= offset && end <= extent.end(), "within");
        assert!(whole.end() >= extent.end(), "no part of one extent");
        assert_eq!(
            whole
                .kind
                .advanced(extent.offset.saturating_sub(whole.offset)),
            extent.kind
        );
        let touches = |at: &u64| (offset..end).contains(at);
        if self.broken_at.as_ref().is_some_and(touches) {
            return Err(Error::Io {
                storage: "broken disk".to_owned(),
                op: "read",
                offset,
                len: buf.len() as u64,
                source: io::ErrorKind::Other.into(),
            });
        }
        assert!(!self.panics_at.as_ref().is_some_and(touches), "bad block");
        self.reads.fetch_add(1, Ordering::Relaxed);
        self.bytes_read
            .fetch_add(buf.len() as u64, Ordering::Relaxed);
        let dull = extent.kind.reads_as_zeros()
            || matches!(extent.kind, ExtentKind::Data(HostOffset { file: 1, .. }));
        match dull {
            true => buf.fill(0),
            false => fill(buf, offset),
        }
        Ok(())
    }
}

/// What a disk has at an offset. Never zero.
pub fn byte_at(offset: u64) -> u8 {
    let mut byte = [0];
    fill(&mut byte, offset);
    byte[0]
}

fn fill(buf: &mut [u8], offset: u64) {
    static PATTERN: LazyLock<Vec<u8>> = LazyLock::new(|| {
        (0..PERIOD)
            .map(|at| at.wrapping_mul(0x9e37_79b1).to_be_bytes()[0] | 1)
            .collect()
    });
    // A prime, so that no shift by a power of two goes unnoticed.
    const PERIOD: u32 = 65_521;
    let mut at = usize::try_from(offset % u64::from(PERIOD)).unwrap();
    let mut rest = buf;
    while !rest.is_empty() {
        let len = rest.len().min(PATTERN.len() - at);
        let (part, behind) = rest.split_at_mut(len);
        part.copy_from_slice(&PATTERN[at..at + len]);
        rest = behind;
        at = 0;
    }
}

/// Host bytes in memory, that may fail.
#[derive(Debug, Default)]
pub struct Memory {
    pub bytes: Mutex<BTreeMap<u64, Vec<u8>>>,
    /// The write with this number fails.
    pub fails_at: Option<usize>,
    pub writes: AtomicUsize,
}

impl Memory {
    /// What a reader finds from `offset` on, before which nothing was written.
    pub fn read(&self, offset: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        for (at, written) in &*self.bytes.lock().unwrap() {
            let at = usize::try_from(at.checked_sub(offset).unwrap()).unwrap();
            let end = len.min(at + written.len());
            if at < end {
                bytes[at..end].copy_from_slice(&written[..end - at]);
            }
        }
        bytes
    }
}

impl Storage for Memory {
    fn name(&self) -> &str {
        "memory"
    }

    fn size(&self) -> io::Result<u64> {
        unreachable!("nobody asks")
    }

    fn allocated(&self) -> io::Result<u64> {
        unreachable!("nobody asks")
    }

    fn read_at(&self, _buf: &mut [u8], _offset: u64) -> io::Result<()> {
        unreachable!("nobody reads what is being written")
    }

    fn run_at(&self, _offset: u64) -> io::Result<Run> {
        unreachable!("nobody asks")
    }

    fn as_bytes(&self) -> Option<&[u8]> {
        None
    }
}

impl StorageMut for Memory {
    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        let number = self.writes.fetch_add(1, Ordering::Relaxed);
        if self.fails_at == Some(number) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let before = self.bytes.lock().unwrap().insert(offset, buf.to_vec());
        assert!(before.is_none(), "{offset:#x} was written twice");
        Ok(())
    }

    fn write_zeros(&self, _offset: u64, _len: u64) -> io::Result<()> {
        unreachable!("a new image reads as zeros")
    }

    fn allocate(&self, _offset: u64, _len: u64) -> io::Result<()> {
        Ok(())
    }

    fn set_size(&self, _size: u64) -> io::Result<()> {
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }
}

/// What was told to an [`Image`].
pub type Placed = Vec<(u64, Packed, u64, Option<u64>)>;

/// An image that puts one chunk behind the other.
#[derive(Debug)]
pub struct Image {
    pub storage: Arc<Memory>,
    pub packer: Arc<Halver>,
    pub placed: Arc<Mutex<Placed>>,
    pub next: u64,
    pub finished: Arc<AtomicUsize>,
}

impl Image {
    pub fn new(chunk_size: u32) -> Self {
        Self {
            storage: Arc::default(),
            packer: Arc::new(Halver {
                chunk_size,
                compresses: false,
            }),
            placed: Arc::default(),
            next: 0x1000,
            finished: Arc::default(),
        }
    }

    #[must_use]
    pub fn compressing(self) -> Self {
        let chunk_size = self.packer.chunk_size;
        Self {
            packer: Arc::new(Halver {
                chunk_size,
                compresses: true,
            }),
            ..self
        }
    }

    #[must_use]
    pub fn failing_at(self, write: usize) -> Self {
        let storage = Memory {
            fails_at: Some(write),
            ..Memory::default()
        };
        Self {
            storage: Arc::new(storage),
            ..self
        }
    }
}

impl ImageWriter for Image {
    fn packer(&self) -> Arc<dyn Packer> {
        self.packer.clone()
    }

    fn storage(&self) -> Arc<dyn StorageMut> {
        self.storage.clone()
    }

    fn place(&mut self, offset: u64, packed: Packed, len: u64) -> Result<Option<u64>> {
        let host = (packed != Packed::Zero).then_some(self.next);
        if host.is_some() {
            self.next += len;
        }
        let mut placed = self.placed.lock().unwrap();
        assert!(placed.last().is_none_or(|last| last.0 < offset), "in order");
        placed.push((offset, packed, len, host));
        Ok(host)
    }

    fn finish(self: Box<Self>) -> Result<()> {
        self.finished.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}

/// "Compresses" a chunk by leaving out every second byte, if its first byte is even.
#[derive(Debug)]
pub struct Halver {
    pub chunk_size: u32,
    pub compresses: bool,
}

impl Packer for Halver {
    fn chunk_size(&self) -> u32 {
        self.chunk_size
    }

    fn skipped(&self) -> Skipped {
        Skipped::AllZeros
    }

    fn pack(&self, _offset: u64, data: &[u8], out: &mut Vec<u8>) -> Result<Packed> {
        assert!(out.is_empty(), "a clean buffer");
        assert!(data.len() <= self.chunk_size as usize);
        if diskette_core::is_zero(data) {
            return Ok(Packed::Zero);
        }
        if !self.compresses || data[0] & 2 == 0 {
            return Ok(Packed::Plain);
        }
        out.extend(data.iter().step_by(2));
        Ok(Packed::Compressed)
    }
}

/// A disk that can be written anywhere.
#[derive(Debug)]
pub struct Writable {
    pub bytes: Mutex<Vec<u8>>,
    pub calls: Mutex<Vec<(&'static str, u64, u64)>>,
}

impl Writable {
    pub fn new(bytes: Vec<u8>) -> Self {
        Self {
            bytes: Mutex::new(bytes),
            calls: Mutex::default(),
        }
    }

    fn change(&self, call: &'static str, offset: u64, len: u64, from: impl Fn(usize) -> u8) {
        self.calls.lock().unwrap().push((call, offset, len));
        let start = usize::try_from(offset).unwrap();
        let len = usize::try_from(len).unwrap();
        let mut bytes = self.bytes.lock().unwrap();
        for (index, byte) in bytes[start..start + len].iter_mut().enumerate() {
            *byte = from(index);
        }
    }
}

impl BlockReader for Writable {
    fn size(&self) -> u64 {
        self.bytes.lock().unwrap().len() as u64
    }

    fn extent_at(&self, _offset: u64) -> Result<Extent> {
        unreachable!("nobody asks")
    }

    fn read_extent(&self, _extent: &Extent, _buf: &mut [u8], _offset: u64) -> Result<()> {
        unreachable!("nobody reads what is being written")
    }
}

impl BlockWriter for Writable {
    fn write_at(&self, buf: &[u8], offset: u64) -> Result<()> {
        self.change("data", offset, buf.len() as u64, |index| buf[index]);
        Ok(())
    }

    fn write_zeros(&self, offset: u64, len: u64) -> Result<()> {
        self.change("zeros", offset, len, |_| 0);
        Ok(())
    }

    fn discard(&self, _offset: u64, _len: u64) -> Result<()> {
        unreachable!("a conversion gives nothing back")
    }

    fn resize(&self, _size: u64) -> Result<()> {
        unreachable!("a conversion keeps the disk's size")
    }

    fn preallocate(&self, _offset: u64, _len: u64, _how: Preallocation) -> Result<()> {
        unreachable!("a conversion places what it writes")
    }

    fn snapshots(&self) -> Option<&dyn SnapshotWriter> {
        None
    }

    fn flush(&self) -> Result<()> {
        Ok(())
    }

    fn close(&self) -> Result<()> {
        self.flush()
    }
}
