//! LUKS images made and changed.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use diskette_core::{
    BlockReader, BlockWriter, Error, Extent, ExtentKind, HostOffset, ImageWriter, Measure,
    NewImage, NewParts, OpenContext, OptionSpec, Packed, Packer, Preallocation, Result, SECTOR,
    Skipped, SnapshotWriter, StorageExt, StorageMut, WritableFormat, check_range, round_up,
};
use diskette_crypto::EncryptedStorage;
use diskette_crypto::luks::{Header, NewLuks, option_specs};

use crate::reader::{disk_size, unlocked};
use crate::{FORMAT, Luks, SECRET};

const SIZE: OptionSpec = OptionSpec {
    name: "size",
    takes: "size",
    default: "",
    help: "the disk's size, where it is not given otherwise",
};

const OPTIONS: &[OptionSpec; 9] = &{
    let of_luks = option_specs(false);
    let mut all = [SIZE; 9];
    let mut at = 0;
    while at < of_luks.len() {
        all[at] = of_luks[at];
        at += 1;
    }
    all
};

impl WritableFormat for Luks {
    fn options(&self) -> &'static [OptionSpec] {
        OPTIONS
    }

    fn settled_options(&self, what: &NewImage) -> Result<Vec<(&'static str, String)>> {
        Plan::of(what)?;
        let size = what.options.size(FORMAT, "size")?.unwrap_or(what.size);
        let mut settled = vec![("size", size.to_string())];
        for name in TOLD {
            settled.extend(what.options.text(name).map(|text| (*name, text.to_owned())));
        }
        Ok(settled)
    }

    fn measure(&self, what: &NewImage, _data: u64) -> Result<Measure> {
        let plan = Plan::of(what)?;
        let size = plan.size.saturating_add(plan.luks.header_len());
        Ok(Measure {
            required: size,
            fully_allocated: size,
            bitmaps: None,
        })
    }

    fn granule_size(&self, _what: &NewImage) -> Result<u64> {
        Ok(SECTOR)
    }

    fn create(
        &self,
        to: Arc<dyn StorageMut>,
        _parts: &dyn NewParts,
        what: &NewImage,
    ) -> Result<Box<dyn ImageWriter>> {
        let plan = Plan::of(what)?;
        let passphrase = SECRET.of(&what.options, &what.secrets)?;
        let (bytes, header, key) = plan.luks.create(passphrase)?;
        let start = header.payload_offset;
        let size = start.saturating_add(plan.size);
        let failed = |op, len, source| to.failed(op, 0, len, source);
        to.set_size(0)
            .map_err(|source| failed("empty", 0, source))?;
        to.set_size(size)
            .map_err(|source| failed("grow", size, source))?;
        // What a device held before is no material.
        to.write_zeros(0, start)
            .map_err(|source| failed("zero", start, source))?;
        let cipher = Arc::new(header.cipher(&key));
        Ok(Box::new(Writer {
            payload: Arc::new(EncryptedStorage::new(Arc::clone(&to), cipher, start)),
            storage: to,
            header: bytes,
            start,
            size: plan.size,
        }))
    }

    fn edit(
        &self,
        image: Arc<dyn StorageMut>,
        _below: Option<Arc<dyn BlockReader>>,
        cx: &OpenContext<'_>,
    ) -> Result<Box<dyn BlockWriter>> {
        let header = Header::read(&*image, 0, image.total_size()?)?;
        let size = disk_size(&*image, &header)?;
        let cipher = Arc::new(unlocked(&*image, &header, cx)?);
        let start = header.payload_offset;
        Ok(Box::new(Editor {
            payload: EncryptedStorage::new(image, cipher, start),
            start,
            size: AtomicU64::new(size),
        }))
    }
}

/// The options that `qemu-img create` tells if they are given, in its order.
const TOLD: &[&str] = &[
    "key-secret",
    "cipher-alg",
    "cipher-mode",
    "ivgen-alg",
    "ivgen-hash-alg",
    "hash-alg",
    "iter-time",
    "iterations",
];

/// What is asked for, found sound.
struct Plan {
    size: u64,
    luks: NewLuks,
}

impl Plan {
    fn of(what: &NewImage) -> Result<Self> {
        what.options.expect_only(FORMAT, OPTIONS)?;
        if what.backing.is_some() {
            return Err(Error::unsupported(FORMAT, "a backing file"));
        }
        if what.compress {
            return Err(Error::unsupported(FORMAT, "compression"));
        }
        let luks = NewLuks::of_options(FORMAT, "", &what.options)?;
        let size = what.options.size(FORMAT, "size")?.unwrap_or(what.size);
        let most = i64::MAX as u64 - luks.header_len();
        let size = round_up(size, SECTOR).filter(|size| *size <= most);
        let size = size.ok_or_else(|| Error::invalid_option(FORMAT, "size", "too large"))?;
        Ok(Self { size, luks })
    }
}

/// A LUKS image in the making. Each chunk has its place; all of them are written, for what is not reads as noise.
#[derive(Debug)]
struct Writer {
    storage: Arc<dyn StorageMut>,
    payload: Arc<EncryptedStorage>,
    /// Written at last.
    header: Vec<u8>,
    start: u64,
    size: u64,
}

impl ImageWriter for Writer {
    fn packer(&self) -> Arc<dyn Packer> {
        Arc::new(AsItIs)
    }

    fn storage(&self) -> Arc<dyn StorageMut> {
        Arc::clone(&self.payload) as Arc<dyn StorageMut>
    }

    fn place(&mut self, offset: u64, packed: Packed, len: u64) -> Result<Option<u64>> {
        let size = self.size;
        if offset.checked_add(len).is_none_or(|end| end > size) {
            return Err(Error::OutOfRange { offset, len, size });
        }
        match packed {
            Packed::Plain => Ok(Some(self.start + offset)),
            Packed::Zero | Packed::Compressed => Err(Error::unsupported(
                FORMAT,
                "a chunk that is not written whole",
            )),
        }
    }

    fn finish(self: Box<Self>) -> Result<()> {
        let len = self.header.len() as u64;
        self.storage
            .write_at(&self.header, 0)
            .map_err(|source| self.storage.failed("write", 0, len, source))
    }
}

/// Packs nothing, and leaves out nothing.
#[derive(Debug)]
struct AsItIs;

impl Packer for AsItIs {
    fn chunk_size(&self) -> u32 {
        64 << 10
    }

    fn skipped(&self) -> Skipped {
        Skipped::Nothing
    }

    fn pack(&self, _offset: u64, _data: &[u8], _out: &mut Vec<u8>) -> Result<Packed> {
        Ok(Packed::Plain)
    }
}

/// A LUKS image that exists, written in place.
#[derive(Debug)]
struct Editor {
    payload: EncryptedStorage,
    start: u64,
    size: AtomicU64,
}

impl Editor {
    fn sync(&self) -> Result<()> {
        let storage = &self.payload;
        storage
            .sync()
            .map_err(|source| storage.failed("sync", 0, 0, source))
    }
}

impl BlockReader for Editor {
    fn size(&self) -> u64 {
        self.size.load(Ordering::Acquire)
    }

    fn extent_at(&self, offset: u64) -> Result<Extent> {
        check_range(self.size(), offset, 1)?;
        let kind = ExtentKind::Encrypted(HostOffset::new(self.start));
        Ok(Extent::new(0, self.size(), kind))
    }

    fn read_extent(&self, _extent: &Extent, buf: &mut [u8], offset: u64) -> Result<()> {
        check_range(self.size(), offset, buf.len() as u64)?;
        self.payload.read(buf, self.start + offset)
    }
}

impl BlockWriter for Editor {
    fn write_at(&self, buf: &[u8], offset: u64) -> Result<()> {
        let (storage, len) = (&self.payload, buf.len() as u64);
        check_range(self.size(), offset, len)?;
        storage
            .write_at(buf, self.start + offset)
            .map_err(|source| storage.failed("write", self.start + offset, len, source))
    }

    fn write_zeros(&self, offset: u64, len: u64) -> Result<()> {
        let storage = &self.payload;
        check_range(self.size(), offset, len)?;
        storage
            .write_zeros(self.start + offset, len)
            .map_err(|source| storage.failed("zero", self.start + offset, len, source))
    }

    fn discard(&self, offset: u64, len: u64) -> Result<()> {
        // What the host gives up would read as noise, and tell an onlooker that it is free.
        check_range(self.size(), offset, len)
    }

    fn resize(&self, size: u64) -> Result<()> {
        let (storage, old) = (&self.payload, self.size());
        let most = i64::MAX as u64 - self.start;
        if !size.is_multiple_of(SECTOR) || size > most {
            let why = "a disk that is not of whole sectors of 512 bytes, or too large for a file";
            return Err(Error::unsupported(FORMAT, why));
        }
        let end = self.start + size;
        if size > old {
            // Zeros that are not written would read as noise. The file grows with them.
            storage
                .write_zeros(self.start + old, size - old)
                .map_err(|source| storage.failed("zero", self.start + old, size - old, source))?;
        }
        storage
            .set_size(end)
            .map_err(|source| storage.failed("resize", end, 0, source))?;
        self.size.store(size, Ordering::Release);
        self.sync()
    }

    fn preallocate(&self, _offset: u64, _len: u64, _how: Preallocation) -> Result<()> {
        Err(Error::unsupported(FORMAT, "preallocation"))
    }

    fn snapshots(&self) -> Option<&dyn SnapshotWriter> {
        None
    }

    fn flush(&self) -> Result<()> {
        self.sync()
    }

    fn close(&self) -> Result<()> {
        self.flush()
    }
}
