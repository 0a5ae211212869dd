//! The partition table in a disk's first sector, and the chain of logical partitions in an extended one.

use diskette_core::{BlockReader, Result, SECTOR};
use zerocopy::little_endian::U32;
use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};

use crate::contents::{Contents, Partition, PartitionTable, TableKind};
use crate::{bytes, names};

/// One of four entries from byte 446 on.
#[derive(Clone, Copy, Debug, FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Entry {
    /// 0x80: active.
    status: u8,
    _first_chs: [u8; 3],
    kind: u8,
    _last_chs: [u8; 3],
    /// In sectors.
    start: U32,
    /// In sectors.
    len: U32,
}
const _: () = assert!(size_of::<Entry>() == 16);

/// A sector that ends as an MBR does.
pub(crate) struct Table {
    id: u32,
    entries: [Entry; 4],
}

const EXTENDED: [u8; 3] = [0x05, 0x0f, 0x85];
const PROTECTIVE: u8 = 0xee;

impl Table {
    pub(crate) fn parse(sector: &[u8]) -> Option<Self> {
        if sector.get(510..512)? != [0x55, 0xaa] {
            return None;
        }
        let id = U32::read_from_bytes(sector.get(440..444)?).ok()?.get();
        let entries = <[Entry; 4]>::read_from_bytes(sector.get(446..510)?).ok()?;
        Some(Self { id, entries })
    }

    /// Whether it could be meant as a table: entries that are marked properly, at least one of them within the disk.
    pub(crate) fn is_plausible(&self, disk_size: u64) -> bool {
        let marked = self.entries.iter().all(|entry| entry.status & 0x7f == 0);
        marked
            && self
                .used()
                .any(|entry| entry.start.get() > 0 && entry.end() <= disk_size)
    }

    pub(crate) fn is_protective(&self) -> bool {
        self.used().any(|entry| entry.kind == PROTECTIVE)
    }

    fn used(&self) -> impl Iterator<Item = &Entry> {
        self.entries
            .iter()
            .filter(|entry| entry.kind != 0 && entry.len.get() != 0)
    }
}

impl Entry {
    fn start(&self) -> u64 {
        u64::from(self.start.get()) * SECTOR
    }

    fn len(&self) -> u64 {
        u64::from(self.len.get()) * SECTOR
    }

    fn end(&self) -> u64 {
        self.start() + self.len()
    }

    fn partition(&self, number: u32, from: u64) -> Partition {
        Partition {
            number,
            start: from + self.start(),
            len: self.len(),
            type_id: format!("{:x}", self.kind),
            type_name: names::of_dos_type(self.kind),
            bootable: self.status & 0x80 != 0,
            ..Partition::default()
        }
    }
}

/// Fills in table and partitions.
pub(crate) fn read(disk: &dyn BlockReader, table: &Table, found: &mut Contents) -> Result<()> {
    if table.used().next().is_none() {
        return Ok(()); // Boot code alone makes no table.
    }
    let id = format!("0x{:08x}", table.id);
    found.table = Some(PartitionTable {
        kind: TableKind::Dos,
        id,
        sector_size: SECTOR,
    });
    for (number, entry) in (1..).zip(&table.entries) {
        if entry.kind == 0 || entry.len.get() == 0 {
            continue;
        }
        if entry.end() > disk.size() {
            found
                .warnings
                .push(format!("partition {number} reaches beyond the disk's end"));
        }
        found.partitions.push(entry.partition(number, 0));
    }
    if let Some(extended) = table
        .entries
        .iter()
        .find(|entry| EXTENDED.contains(&entry.kind))
    {
        read_logical(disk, extended, found)?;
    }
    Ok(())
}

/// Follows the chain: each link names one partition, counted from itself, and the next link, counted from the extended
/// partition's beginning.
fn read_logical(disk: &dyn BlockReader, extended: &Entry, found: &mut Contents) -> Result<()> {
    const MOST: u32 = 128;
    let mut link = extended.start();
    for number in 5..5 + MOST {
        let Some(table) = bytes::read(disk, link, 512)?
            .as_deref()
            .and_then(Table::parse)
        else {
            found.warnings.push(format!(
                "the chain of logical partitions breaks at {link:#x}"
            ));
            return Ok(());
        };
        let [partition, next, ..] = table.entries;
        if partition.kind != 0 && partition.len.get() != 0 {
            found.partitions.push(partition.partition(number, link));
        }
        if next.kind == 0 || next.len.get() == 0 {
            return Ok(());
        }
        let behind = extended.start() + next.start();
        if behind <= link {
            found.warnings.push(format!(
                "the chain of logical partitions leads back at {link:#x}"
            ));
            return Ok(());
        }
        link = behind;
    }
    found
        .warnings
        .push(format!("more than {MOST} logical partitions"));
    Ok(())
}
