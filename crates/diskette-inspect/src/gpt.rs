//! The GUID partition table ("UEFI Specification", 5.3), with its checksums.

use diskette_core::{BlockReader, Result};
use uuid::Uuid;
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};

use crate::contents::{Partition, PartitionTable, TableKind};
use crate::{bytes, names};

/// "GPT Header".
#[derive(Clone, Copy, Debug, FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Header {
    signature: [u8; 8],
    revision: U32,
    header_size: U32,
    header_crc32: U32,
    reserved: U32,
    my_lba: U64,
    alternate_lba: U64,
    first_usable_lba: U64,
    last_usable_lba: U64,
    disk_guid: [u8; 16],
    partition_entry_lba: U64,
    number_of_partition_entries: U32,
    size_of_partition_entry: U32,
    partition_entry_array_crc32: U32,
}
const _: () = assert!(size_of::<Header>() == 92);

/// "GPT Partition Entry".
#[derive(Clone, Copy, Debug, FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Entry {
    type_guid: [u8; 16],
    unique_guid: [u8; 16],
    starting_lba: U64,
    ending_lba: U64,
    attributes: U64,
    name: [u8; 72],
}
const _: () = assert!(size_of::<Entry>() == 128);

/// "Legacy BIOS Bootable".
const LEGACY_BOOTABLE: u64 = 1 << 2;

/// The table, by its first copy or else by its last; `None` where neither is sound.
pub(crate) fn read(
    disk: &dyn BlockReader,
    warnings: &mut Vec<String>,
) -> Result<Option<(PartitionTable, Vec<Partition>)>> {
    for sector_size in [512, 4096] {
        let backup_at = (disk.size() / sector_size).saturating_sub(1) * sector_size;
        let primary = Copy::read(disk, sector_size, sector_size)?;
        let backup = Copy::read(disk, backup_at, sector_size)?;
        let copy = match (primary, backup) {
            (Ok(primary), Ok(backup)) => {
                if primary.entries != backup.entries {
                    warnings.push("the two copies of the GPT differ: the first counts".to_owned());
                }
                primary
            }
            (Ok(primary), Err(why)) => {
                warnings.push(format!("the GPT's backup is unsound: {why}"));
                primary
            }
            (Err(why), Ok(backup)) => {
                warnings.push(format!(
                    "the first GPT is unsound ({why}): its backup counts"
                ));
                backup
            }
            (Err(_), Err(_)) => continue,
        };
        return Ok(Some(copy.table(disk, sector_size, warnings)));
    }
    Ok(None)
}

/// One of the two copies, shown sound by its checksums.
struct Copy {
    disk_guid: [u8; 16],
    entry_size: usize,
    entries: Vec<u8>,
}

impl Copy {
    /// The copy whose header lies at `offset`, or why it is none.
    fn read(disk: &dyn BlockReader, offset: u64, sector_size: u64) -> Result<Result<Self, String>> {
        let len = usize::try_from(sector_size).unwrap_or(512);
        let Some(sector) = bytes::read(disk, offset, len)? else {
            return Ok(Err("the disk ends before it".to_owned()));
        };
        let header = match sound_header(&sector) {
            Ok(header) => header,
            Err(why) => return Ok(Err(why)),
        };
        let (entry_size, count) = (
            header.size_of_partition_entry.get(),
            header.number_of_partition_entries.get(),
        );
        if !(128..=4096).contains(&entry_size) || !entry_size.is_power_of_two() || count > 1024 {
            return Ok(Err(format!("{count} entries of {entry_size} bytes")));
        }
        let entry_size = usize::try_from(entry_size).unwrap_or(128);
        let array_len = entry_size * usize::try_from(count).unwrap_or(0);
        let at = header.partition_entry_lba.get().checked_mul(sector_size);
        let Some(entries) = at
            .map(|at| bytes::read(disk, at, array_len))
            .transpose()?
            .flatten()
        else {
            return Ok(Err("its entries lie beyond the disk's end".to_owned()));
        };
        if crc32fast::hash(&entries) != header.partition_entry_array_crc32.get() {
            return Ok(Err("wrong checksum of its entries".to_owned()));
        }
        Ok(Ok(Self {
            disk_guid: header.disk_guid,
            entry_size,
            entries,
        }))
    }

    fn table(
        &self,
        disk: &dyn BlockReader,
        sector_size: u64,
        warnings: &mut Vec<String>,
    ) -> (PartitionTable, Vec<Partition>) {
        let table = PartitionTable {
            kind: TableKind::Gpt,
            id: guid(self.disk_guid),
            sector_size,
        };
        let mut partitions = Vec::new();
        for (number, bytes) in (1..).zip(self.entries.chunks_exact(self.entry_size)) {
            let Ok((entry, _)) = Entry::ref_from_prefix(bytes) else {
                continue;
            };
            if entry.type_guid == [0; 16] {
                continue;
            }
            match partition(number, entry, sector_size, disk.size()) {
                Some(partition) => partitions.push(partition),
                None => warnings.push(format!(
                    "partition {number} lies beyond the disk's end, or ends before it begins"
                )),
            }
        }
        (table, partitions)
    }
}

fn sound_header(sector: &[u8]) -> Result<Header, String> {
    let Ok((header, _)) = Header::read_from_prefix(sector) else {
        return Err("too short".to_owned());
    };
    if header.signature != *b"EFI PART" {
        return Err("no signature".to_owned());
    }
    let size = usize::try_from(header.header_size.get()).unwrap_or(usize::MAX);
    let Some(covered) = sector
        .get(..size)
        .filter(|covered| covered.len() >= size_of::<Header>())
    else {
        return Err(format!("a header of {size} bytes"));
    };
    let mut covered = covered.to_vec();
    covered[16..20].fill(0);
    if crc32fast::hash(&covered) != header.header_crc32.get() {
        return Err("wrong checksum of its header".to_owned());
    }
    Ok(header)
}

fn partition(number: u32, entry: &Entry, sector_size: u64, disk_size: u64) -> Option<Partition> {
    let start = entry.starting_lba.get().checked_mul(sector_size)?;
    let end = entry
        .ending_lba
        .get()
        .checked_add(1)?
        .checked_mul(sector_size)?;
    let len = end.checked_sub(start).filter(|_| end <= disk_size)?;
    let type_id = guid(entry.type_guid);
    Some(Partition {
        number,
        start,
        len,
        type_name: names::of_gpt_type(&type_id),
        type_id,
        name: bytes::utf16(&entry.name),
        uuid: Some(guid(entry.unique_guid)),
        bootable: entry.attributes.get() & LEGACY_BOOTABLE != 0,
        ..Partition::default()
    })
}

/// In upper case, as `sfdisk` prints it.
fn guid(bytes: [u8; 16]) -> String {
    format!("{:X}", Uuid::from_bytes_le(bytes).hyphenated())
}
