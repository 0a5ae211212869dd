//! Raw images made and changed.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use diskette_core::{
    BlockReader, BlockWriter, Error, Extent, ImageWriter, Measure, NewImage, NewParts, NoParts,
    OpenContext, OptionSpec, Packed, Packer, Preallocation, Rehearsal, Result, SECTOR,
    SequentialFormat, Skipped, SnapshotWriter, StorageExt, StorageMut, WritableFormat, check_range,
    round_up,
};

use crate::reader::{extent_at, read_extent};
use crate::{FORMAT, Raw};

const OPTIONS: &[OptionSpec] = &[
    OptionSpec {
        name: "preallocation",
        takes: "off|falloc|full",
        default: "off",
        help: "whether the host's space is reserved (falloc) or written with zeros (full) at once",
    },
    OptionSpec {
        name: "size",
        takes: "size",
        default: "",
        help: "the disk's size, where it is not given otherwise",
    },
];

impl WritableFormat for Raw {
    fn options(&self) -> &'static [OptionSpec] {
        OPTIONS
    }

    fn settled_options(&self, what: &NewImage) -> Result<Vec<(&'static str, String)>> {
        Plan::of(what)?;
        // As it was asked for: qemu-img rounds afterwards, and has no default to tell.
        let size = what.options.size(FORMAT, "size")?.unwrap_or(what.size);
        let mut settled = vec![("size", size.to_string())];
        if let Some(preallocation) = what.options.text("preallocation") {
            settled.push(("preallocation", preallocation.to_owned()));
        }
        Ok(settled)
    }

    fn measure(&self, what: &NewImage, _data: u64) -> Result<Measure> {
        let Plan { size, .. } = Plan::of(what)?;
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
        let Plan {
            size,
            preallocation,
        } = Plan::of(what)?;
        let failed = |op, source| to.failed(op, 0, size, source);
        to.set_size(0).map_err(|source| failed("empty", source))?;
        // A file has lost what it held, and grows by zeros; a device keeps its size, and shows what it held.
        let shows_what_it_held = to.total_size()? != 0;
        to.set_size(size).map_err(|source| failed("grow", source))?;
        if shows_what_it_held {
            to.write_zeros(0, size)
                .map_err(|source| failed("zero", source))?;
        }
        if let Some(how) = preallocation {
            preallocate(&*to, 0, size, how)?;
        }
        Ok(Box::new(Writer { storage: to, size }))
    }

    fn edit(
        &self,
        image: Arc<dyn StorageMut>,
        _below: Option<Arc<dyn BlockReader>>,
        _cx: &OpenContext<'_>,
    ) -> Result<Box<dyn BlockWriter>> {
        let size = round_up(image.total_size()?, SECTOR).unwrap_or(u64::MAX);
        Ok(Box::new(Editor {
            storage: image,
            size: AtomicU64::new(size),
        }))
    }
}

impl SequentialFormat for Raw {
    fn create_in_order(
        &self,
        to: Arc<dyn StorageMut>,
        what: &NewImage,
        _data: Option<&[Range<u64>]>,
    ) -> Result<Box<dyn ImageWriter>> {
        match Plan::of(what)?.preallocation {
            None => self.create(to, &NoParts, what),
            Some(_) => Err(Error::unsupported(FORMAT, "preallocation in a stream")),
        }
    }

    fn rehearse(
        &self,
        _what: &NewImage,
        _nowhere: Arc<dyn StorageMut>,
    ) -> Result<Option<Box<dyn Rehearsal>>> {
        Ok(None)
    }
}

/// What is asked for, found sound.
struct Plan {
    size: u64,
    /// When the host's space is taken, if at once.
    preallocation: Option<Preallocation>,
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
        let preallocation = match what.options.text("preallocation") {
            None | Some("off") => None,
            Some("falloc") => Some(Preallocation::Reserved),
            Some("full") => Some(Preallocation::Full),
            Some(_) => {
                return Err(Error::invalid_option(
                    FORMAT,
                    "preallocation",
                    "none of off, falloc and full",
                ));
            }
        };
        let size = what.options.size(FORMAT, "size")?.unwrap_or(what.size);
        let size = round_up(size, SECTOR).filter(|size| *size <= i64::MAX as u64);
        let size = size.ok_or_else(|| Error::invalid_option(FORMAT, "size", "too large"))?;
        Ok(Self {
            size,
            preallocation,
        })
    }
}

/// Takes the host's space for a range that reads as zeros.
fn preallocate(storage: &dyn StorageMut, offset: u64, len: u64, how: Preallocation) -> Result<()> {
    match how {
        Preallocation::Metadata => Err(Error::unsupported(FORMAT, "preallocation=metadata")),
        Preallocation::Reserved => storage
            .allocate(offset, len)
            .map_err(|source| storage.failed("allocate", offset, len, source)),
        Preallocation::Full => fill_with_zeros(storage, offset, len),
    }
}

fn fill_with_zeros(storage: &dyn StorageMut, offset: u64, len: u64) -> Result<()> {
    let zeros = vec![0; 1 << 20];
    let (mut at, end) = (offset, offset + len);
    while at < end {
        let part = usize::try_from(end - at)
            .unwrap_or(usize::MAX)
            .min(zeros.len());
        storage
            .write_at(&zeros[..part], at)
            .map_err(|source| storage.failed("write", at, part as u64, source))?;
        at += part as u64;
    }
    Ok(())
}

/// A raw image in the making. Each chunk lies where the guest sees it; zeros are there already.
#[derive(Debug)]
struct Writer {
    storage: Arc<dyn StorageMut>,
    size: u64,
}

impl ImageWriter for Writer {
    fn packer(&self) -> Arc<dyn Packer> {
        Arc::new(AsItIs)
    }

    fn storage(&self) -> Arc<dyn StorageMut> {
        Arc::clone(&self.storage)
    }

    fn place(&mut self, offset: u64, packed: Packed, len: u64) -> Result<Option<u64>> {
        let size = self.size;
        if offset.checked_add(len).is_none_or(|end| end > size) {
            return Err(Error::OutOfRange { offset, len, size });
        }
        Ok(match packed {
            Packed::Zero => None,
            Packed::Plain | Packed::Compressed => Some(offset),
        })
    }

    fn finish(self: Box<Self>) -> Result<()> {
        Ok(())
    }
}

/// Packs nothing: a chunk is stored as it is.
#[derive(Debug)]
struct AsItIs;

impl Packer for AsItIs {
    fn chunk_size(&self) -> u32 {
        64 << 10
    }

    fn skipped(&self) -> Skipped {
        Skipped::AllZeros
    }

    fn pack(&self, _offset: u64, data: &[u8], _out: &mut Vec<u8>) -> Result<Packed> {
        Ok(if diskette_core::is_zero(data) {
            Packed::Zero
        } else {
            Packed::Plain
        })
    }
}

/// A raw image that exists, written in place.
#[derive(Debug)]
struct Editor {
    storage: Arc<dyn StorageMut>,
    size: AtomicU64,
}

impl BlockReader for Editor {
    fn size(&self) -> u64 {
        self.size.load(Ordering::Acquire)
    }

    fn extent_at(&self, offset: u64) -> Result<Extent> {
        extent_at(&*self.storage, self.size(), offset)
    }

    fn read_extent(&self, extent: &Extent, buf: &mut [u8], offset: u64) -> Result<()> {
        read_extent(&*self.storage, extent, buf, offset)
    }
}

impl BlockWriter for Editor {
    fn write_at(&self, buf: &[u8], offset: u64) -> Result<()> {
        let len = buf.len() as u64;
        check_range(self.size(), offset, len)?;
        self.storage
            .write_at(buf, offset)
            .map_err(|source| self.storage.failed("write", offset, len, source))
    }

    fn write_zeros(&self, offset: u64, len: u64) -> Result<()> {
        check_range(self.size(), offset, len)?;
        self.storage
            .write_zeros(offset, len)
            .map_err(|source| self.storage.failed("zero", offset, len, source))
    }

    fn discard(&self, offset: u64, len: u64) -> Result<()> {
        self.write_zeros(offset, len)
    }

    fn resize(&self, size: u64) -> Result<()> {
        self.storage
            .set_size(size)
            .map_err(|source| self.storage.failed("resize", size, 0, source))?;
        self.size.store(size, Ordering::Release);
        self.flush()
    }

    /// Only what the host holds nothing for is zeros for certain, and takes space.
    fn preallocate(&self, offset: u64, len: u64, how: Preallocation) -> Result<()> {
        check_range(self.size(), offset, len)?;
        if how != Preallocation::Full {
            return preallocate(&*self.storage, offset, len, how);
        }
        let end = offset + len;
        let mut at = offset;
        while at < end {
            let extent = self.extent_at(at)?.clip(at, end);
            if extent.kind.reads_as_zeros() {
                preallocate(&*self.storage, at, extent.len, how)?;
            }
            at = extent.end();
        }
        Ok(())
    }

    fn snapshots(&self) -> Option<&dyn SnapshotWriter> {
        None
    }

    fn flush(&self) -> Result<()> {
        self.storage
            .sync()
            .map_err(|source| self.storage.failed("sync", 0, 0, source))
    }

    fn close(&self) -> Result<()> {
        self.flush()
    }
}

#[cfg(test)]
mod tests {
    use diskette_core::{BlockReaderExt, NoParts, OpenOptions};
    use diskette_storage::MemoryStorage;

    use super::*;

    fn create(what: &NewImage) -> Result<Vec<u8>> {
        let memory = Arc::new(MemoryStorage::new(vec![9; 4096]));
        let mut writer = Raw.create(memory.clone(), &NoParts, what)?;
        let at = writer.place(0, Packed::Plain, 512)?.unwrap();
        writer.storage().write_at(&[1; 512], at).unwrap();
        assert_eq!(writer.place(65536, Packed::Zero, 512)?, None);
        writer.finish()?;
        Ok(memory.to_vec())
    }

    #[test]
    fn a_new_image_is_zero_where_nothing_is_stored() {
        for preallocation in ["off", "falloc", "full"] {
            let bytes =
                create(&NewImage::new(65536 + 1000).with_option("preallocation", preallocation))
                    .unwrap();
            assert_eq!(bytes.len(), 65536 + 1024);
            assert!(bytes[..512].iter().all(|byte| *byte == 1));
            assert!(bytes[512..].iter().all(|byte| *byte == 0));
        }
    }

    #[test]
    fn what_raw_cannot_do_is_refused() {
        let refused = |what: NewImage| create(&what).unwrap_err().to_string();
        assert_eq!(
            refused(NewImage::new(1 << 20).compressed()),
            "raw: compression is not supported"
        );
        let metadata = NewImage::new(1 << 20).with_option("preallocation", "metadata");
        assert_eq!(
            refused(metadata),
            "raw: option preallocation: none of off, falloc and full"
        );
        assert_eq!(
            refused(NewImage::new(1).with_option("color", "red")),
            "raw: option color: no such option"
        );
        assert_eq!(
            refused(NewImage::new(u64::MAX)),
            "raw: option size: too large"
        );
    }

    #[test]
    fn an_image_that_exists_is_changed_in_place() {
        let memory = Arc::new(MemoryStorage::new(vec![9; 2048]));
        let editor = Raw
            .edit(memory.clone(), None, &OpenOptions::default().context())
            .unwrap();
        editor.write_at(&[1; 100], 1000).unwrap();
        editor.write_zeros(0, 512).unwrap();
        assert_eq!(editor.read_vec(0, 2048).unwrap(), memory.to_vec());
        let bytes = memory.to_vec();
        assert_eq!(
            (bytes[0], bytes[600], bytes[1050], bytes[2047]),
            (0, 9, 1, 9)
        );
        assert!(editor.write_at(&[0; 2], 2047).is_err());
        editor.resize(4096).unwrap();
        let full = Preallocation::Full;
        editor.preallocate(2048, 2048, full).unwrap();
        assert!(editor.preallocate(4096, 1, full).is_err());
        let metadata = Preallocation::Metadata;
        assert!(editor.preallocate(2048, 1, metadata).is_err());
        editor.write_at(&[3; 2], 4094).unwrap();
        assert_eq!((editor.size(), memory.to_vec().len()), (4096, 4096));
    }
}
