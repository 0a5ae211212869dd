//! A format of one's own beside the built-in ones: QED, QEMU's simple predecessor of today's QCOW2, for reading.
//!
//! ```sh
//! qemu-img create -f qed disk.qed 1G
//! cargo run -p diskette-examples --example seventh_format -- disk.qed
//! ```
//!
//! It has the rooms that every format of the house has: `spec`, `header`, map and reader. What it needs of other files
//! (its backing image) it only names.

use std::sync::Arc;

use diskette::core::{
    BlockReader, BlockReaderExt, CheckableFormat, Ends, Error, Extent, ExtentKind, Field, Format,
    HostOffset, ImageInfo, Match, OpenContext, Opened, Reference, Result, Role, SnapshotFormat,
    Storage, StorageExt, Table, TableCache, WritableFormat, parse_size, round_down,
};
use zerocopy::FromBytes;
use zerocopy::little_endian::U64;

/// The bytes, as the format's specification draws them.
mod spec {
    use zerocopy::little_endian::{U32, U64};
    use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};

    #[derive(Clone, Copy, Debug, FromBytes, Immutable, KnownLayout, Unaligned)]
    #[repr(C)]
    pub(crate) struct Header {
        pub(crate) magic: [u8; 4],
        pub(crate) cluster_size: U32,
        /// In clusters, of the L1 table and of each L2 table.
        pub(crate) table_size: U32,
        /// In clusters.
        pub(crate) header_size: U32,
        pub(crate) features: U64,
        pub(crate) compat_features: U64,
        pub(crate) autoclear_features: U64,
        pub(crate) l1_table_offset: U64,
        pub(crate) image_size: U64,
        pub(crate) backing_filename_offset: U32,
        pub(crate) backing_filename_size: U32,
    }

    pub(crate) const MAGIC: [u8; 4] = *b"QED\0";
    pub(crate) const F_BACKING_FILE: u64 = 1;
    pub(crate) const F_NEED_CHECK: u64 = 1 << 1;
    /// The backing image is raw, whatever it looks like.
    pub(crate) const F_BACKING_FORMAT_NO_PROBE: u64 = 1 << 2;
    /// An L2 entry that reads as zeros.
    pub(crate) const ZERO_CLUSTER: u64 = 1;
}

const FORMAT: &str = "qed";

/// The format: one value of it stands in the registry.
#[derive(Debug)]
struct Qed;

impl Format for Qed {
    fn name(&self) -> &'static str {
        FORMAT
    }

    fn probe(&self, ends: &Ends<'_>) -> Match {
        if ends.head.starts_with(&spec::MAGIC) {
            Match::Sure
        } else {
            Match::No
        }
    }

    fn open(&self, storage: Arc<dyn Storage>, cx: &OpenContext<'_>) -> Result<Opened> {
        let header = Header::read(&*storage)?;
        cx.limits.allow_table("qed: L1 table", header.table_len)?;
        let l1 = read_table(&*storage, header.l1_offset, header.table_len)?;

        let mut info = ImageInfo::new(FORMAT, header.size);
        info.granule_size = Some(header.cluster_size);
        info.dirty = header.dirty;
        let backing = header.backing.clone();
        let l2 = TableCache::new(cx.limits.cache_bytes, header.table_len);
        let reader = Reader {
            storage,
            header,
            l1,
            l2,
        };
        Ok(Opened {
            reader: Box::new(reader),
            info,
            backing,
        })
    }

    fn writable(&self) -> Option<&dyn WritableFormat> {
        None
    }

    fn checkable(&self) -> Option<&dyn CheckableFormat> {
        None
    }

    fn repairable(&self) -> Option<&dyn diskette::core::RepairableFormat> {
        None
    }

    fn snapshots(&self) -> Option<&dyn SnapshotFormat> {
        None
    }

    fn overlays(&self) -> Option<&dyn diskette::core::OverlayFormat> {
        None
    }

    fn amendable(&self) -> Option<&dyn diskette::core::AmendableFormat> {
        None
    }

    fn bitmaps(&self) -> Option<&dyn diskette::core::BitmapFormat> {
        None
    }
}

/// A header that has been shown sound. All sizes in bytes.
#[derive(Clone, Debug)]
struct Header {
    size: u64,
    cluster_size: u64,
    table_len: u64,
    l1_offset: u64,
    dirty: bool,
    backing: Option<Reference>,
}

impl Header {
    fn read(storage: &dyn Storage) -> Result<Self> {
        let bytes = storage.read_vec(size_of::<spec::Header>(), 0)?;
        let Ok((raw, _)) = spec::Header::read_from_prefix(&bytes) else {
            return Err(Error::malformed(
                FORMAT,
                "header",
                0,
                bytes.len() as u64,
                "too short",
            ));
        };
        let field = |name: &'static str, offset, value| Field::new(FORMAT, name, offset, value);
        if raw.magic != spec::MAGIC {
            let magic = u64::from(u32::from_be_bytes(raw.magic));
            return Err(field("header.magic", 0, magic).malformed("not \"QED\\0\""));
        }
        let cluster_size = field("header.cluster_size", 4, raw.cluster_size.into())
            .power_of_two_in(4096..=64 << 20)?;
        let table_clusters =
            field("header.table_size", 8, raw.table_size.into()).power_of_two_in(1..=16)?;
        let table_len = table_clusters * cluster_size; // at most 1 GiB, by the checks above
        let unknown = raw.features.get()
            & !(spec::F_BACKING_FILE | spec::F_NEED_CHECK | spec::F_BACKING_FORMAT_NO_PROBE);
        if unknown != 0 {
            return Err(Error::unsupported(
                FORMAT,
                format!("feature bits {unknown:#x}"),
            ));
        }
        let l1_offset = field("header.l1_table_offset", 40, raw.l1_table_offset.get());
        l1_offset.clone().aligned_to(cluster_size)?;
        let l1_offset = l1_offset.followed_by(table_len, storage.total_size()?)?;
        // Both tables count 8-byte entries; the product is at most 2^26 · 2^27 · 2^27, which no u64 holds: saturate.
        let entries = table_len / 8;
        let most = entries.saturating_mul(entries).saturating_mul(cluster_size);
        let size = field("header.image_size", 48, raw.image_size.get()).within(0..=most)?;

        let backing = if raw.features.get() & spec::F_BACKING_FILE == 0 {
            None
        } else {
            Some(read_backing(storage, &raw)?)
        };
        let dirty = raw.features.get() & spec::F_NEED_CHECK != 0;
        Ok(Self {
            size,
            cluster_size,
            table_len,
            l1_offset,
            dirty,
            backing,
        })
    }
}

/// The reference to the backing image: a name, and perhaps that it is raw. QED knows no other formats' names.
fn read_backing(storage: &dyn Storage, raw: &spec::Header) -> Result<Reference> {
    let len = Field::new(
        FORMAT,
        "header.backing_filename_size",
        60,
        raw.backing_filename_size,
    )
    .within(1..=1023)?;
    let offset = u64::from(raw.backing_filename_offset.get());
    let name = storage.read_vec(usize::try_from(len).unwrap_or(0), offset)?;
    let Ok(name) = String::from_utf8(name) else {
        return Err(Error::malformed(
            FORMAT,
            "backing filename",
            offset,
            len,
            "not UTF-8",
        ));
    };
    let reference = Reference::new(Role::Backing, name);
    let is_raw = raw.features.get() & spec::F_BACKING_FORMAT_NO_PROBE != 0;
    Ok(if is_raw {
        reference.with_format("raw")
    } else {
        reference
    })
}

fn read_table(storage: &dyn Storage, offset: u64, len: u64) -> Result<Table<U64>> {
    Table::read(
        storage,
        offset,
        usize::try_from(len / 8).unwrap_or(usize::MAX),
    )
}

/// The disk.
#[derive(Debug)]
struct Reader {
    storage: Arc<dyn Storage>,
    header: Header,
    l1: Table<U64>,
    l2: TableCache<U64>,
}

impl Reader {
    /// The entry for the cluster that holds guest `offset`.
    fn l2_entry(&self, offset: u64) -> Result<u64> {
        let Header {
            cluster_size,
            table_len,
            ..
        } = self.header;
        let cluster = offset / cluster_size;
        let l1_index = usize::try_from(cluster / (table_len / 8)).unwrap_or(usize::MAX);
        let table = self.l1.get(l1_index).map_or(0, U64::get);
        if table == 0 {
            return Ok(0);
        }
        let at = self.header.l1_offset + l1_index as u64 * 8;
        Field::new(FORMAT, format!("l1_entry[{l1_index}]"), at, table)
            .followed_by(table_len, self.storage.total_size()?)?;
        let l2 = self
            .l2
            .get_or_read(table, || read_table(&*self.storage, table, table_len))?;
        let l2_index = usize::try_from(cluster % (table_len / 8)).unwrap_or(usize::MAX);
        Ok(l2.get(l2_index).map_or(0, U64::get))
    }
}

impl BlockReader for Reader {
    fn size(&self) -> u64 {
        self.header.size
    }

    fn extent_at(&self, offset: u64) -> Result<Extent> {
        let size = self.header.size;
        if offset >= size {
            return Err(Error::OutOfRange {
                offset,
                len: 1,
                size,
            });
        }
        let start = round_down(offset, self.header.cluster_size);
        let kind = match self.l2_entry(offset)? {
            0 => ExtentKind::Hole(None),
            spec::ZERO_CLUSTER => ExtentKind::Zero(None),
            at => ExtentKind::Data(HostOffset::new(at)),
        };
        Ok(Extent::new(
            start,
            self.header.cluster_size.min(size - start),
            kind,
        ))
    }

    fn read_extent(&self, extent: &Extent, buf: &mut [u8], offset: u64) -> Result<()> {
        match extent.kind {
            ExtentKind::Data(at) => self
                .storage
                .read(buf, at.plus(offset - extent.offset).offset),
            _ => {
                buf.fill(0);
                Ok(())
            }
        }
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut words = std::env::args().skip(1);
    let path = words.next().ok_or("usage: seventh_format IMAGE [OFFSET]")?;
    let offset = words.next().and_then(|text| parse_size(&text)).unwrap_or(0);

    // The built-in formats, and ours.
    let mut formats = diskette::registry().formats().to_vec();
    formats.insert(0, &Qed);
    let registry = diskette::core::Registry::new(formats);

    let options = diskette::safe_options();
    let storage = Arc::new(diskette::storage::FileStorage::open(&path)?);
    let disk = registry.open_chain(storage, &options)?;
    println!("{path}: {}, {} bytes", disk.top().info.format, disk.size());
    for extent in disk.extents_from(offset) {
        let Extent { offset, len, kind } = extent?;
        println!("{offset:#14x} {len:#14x} {kind:?}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use diskette::core::OpenOptions;
    use diskette::storage::MemoryStorage;

    /// A disk of 16 KiB in clusters of 4 KiB: data, zeros, nothing, data.
    fn image() -> Vec<u8> {
        let mut bytes = vec![0; 5 * 4096];
        let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
        put(0, b"QED\0");
        put(4, &4096_u32.to_le_bytes());
        put(8, &1_u32.to_le_bytes());
        put(12, &1_u32.to_le_bytes());
        put(40, &4096_u64.to_le_bytes());
        put(48, &16384_u64.to_le_bytes());
        put(4096, &8192_u64.to_le_bytes());
        put(8192, &12288_u64.to_le_bytes());
        put(8192 + 8, &1_u64.to_le_bytes());
        put(8192 + 24, &16384_u64.to_le_bytes());
        bytes[12288..16384].fill(b'a');
        bytes[16384..].fill(b'b');
        bytes
    }

    #[test]
    fn a_format_of_ones_own_is_read_like_any_other() {
        let storage = Arc::new(MemoryStorage::new(image()));
        let disk = Qed
            .open(storage, &OpenOptions::default().context())
            .unwrap()
            .reader;
        let bytes = disk.read_vec(0, 16384).unwrap();
        assert_eq!(
            [bytes[0], bytes[4096], bytes[8192], bytes[16383]],
            [b'a', 0, 0, b'b']
        );
        assert_eq!(disk.extents().count(), 4);
    }

    #[test]
    fn a_lie_in_its_header_is_told() {
        let mut bytes = image();
        bytes[40] = 1;
        let storage = Arc::new(MemoryStorage::new(bytes));
        let error = Qed
            .open(storage, &OpenOptions::default().context())
            .unwrap_err();
        assert_eq!(
            error.to_string(),
            "qed: header.l1_table_offset at 0x28 is 0x1001, not a multiple of 4096"
        );
    }
}
