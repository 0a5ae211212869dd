//! A disk's partitions and file systems, put together.

use diskette_core::{BlockReader, Result};

use crate::{FileSystem, bytes, file_system, gpt, mbr};

/// What was found on a disk.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Contents {
    /// The partition table, if there is one.
    pub table: Option<PartitionTable>,
    /// Its partitions, by number.
    pub partitions: Vec<Partition>,
    /// A file system that begins with the disk itself. An ISO image may have one beside a partition table.
    pub file_system: Option<FileSystem>,
    /// By what the disk may be booted.
    pub boot: Boot,
    /// What is odd, one line each.
    pub warnings: Vec<String>,
}

/// A partition table.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PartitionTable {
    /// Which one.
    pub kind: TableKind,
    /// The disk's identifier: eight hexadecimal digits, or a GUID.
    pub id: String,
    /// Bytes of the sectors in which it counts.
    pub sector_size: u64,
}

/// Which partition table. Complete by nature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TableKind {
    /// The one in the first sector (MBR), with chains of logical partitions.
    Dos,
    /// GUID partition table.
    Gpt,
}

/// One partition. Offsets and sizes in bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Partition {
    /// Its number, as the kernel counts.
    pub number: u32,
    /// Where it begins.
    pub start: u64,
    /// How long it is.
    pub len: u64,
    /// Its type: two hexadecimal digits, or a GUID.
    pub type_id: String,
    /// What that type means, where it is widely used.
    pub type_name: Option<&'static str>,
    /// Its name in a GPT.
    pub name: Option<String>,
    /// Its GUID in a GPT.
    pub uuid: Option<String>,
    /// Whether it is marked as the one to boot from.
    pub bootable: bool,
    /// The file system in it.
    pub file_system: Option<FileSystem>,
}

/// By what a disk may be booted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Boot {
    /// There is code in the first sector.
    pub bios_code: bool,
    /// A partition is marked active, or holds GRUB's second stage.
    pub bios_partition: bool,
    /// There is an EFI system partition.
    pub esp: bool,
    /// It is a CD with a boot catalog.
    pub el_torito: bool,
}

impl TableKind {
    /// The name that `sfdisk` gives it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Dos => "dos",
            Self::Gpt => "gpt",
        }
    }
}

/// What is on `disk`: partition table, partitions, file systems, boot flags. Fails only where the disk cannot be read.
pub fn contents(disk: &dyn BlockReader) -> Result<Contents> {
    let mut found = Contents::default();
    let Some(first) = bytes::read(disk, 0, 512)? else {
        return Ok(found);
    };
    found.file_system = file_system::at(disk, 0, disk.size())?;
    // A boot sector of FAT or NTFS ends like an MBR, and has code and text where that has its entries.
    let volume = matches!(
        found.file_system.as_ref().map(|fs| fs.kind),
        Some("vfat" | "ntfs" | "exfat")
    );
    let table =
        mbr::Table::parse(&first).filter(|table| !volume || table.is_plausible(disk.size()));
    if let Some(table) = &table {
        found.boot.bios_code = first[..440].iter().any(|byte| *byte != 0);
        let protective = table.is_protective();
        let gpt = if protective {
            gpt::read(disk, &mut found.warnings)?
        } else {
            None
        };
        match gpt {
            Some((table, partitions)) => {
                found.table = Some(table);
                found.partitions = partitions;
            }
            None => {
                if protective {
                    found
                        .warnings
                        .push("a protective MBR, and no sound GPT behind it".to_owned());
                }
                mbr::read(disk, table, &mut found)?;
            }
        }
    }
    for partition in &mut found.partitions {
        partition.file_system = file_system::at(disk, partition.start, partition.len)?;
    }
    found.boot.bios_partition = found
        .partitions
        .iter()
        .any(|part| part.bootable || part.type_name == Some("BIOS boot"));
    found.boot.esp = found
        .partitions
        .iter()
        .any(|part| part.type_name == Some("EFI System"));
    found.boot.el_torito = file_system::has_boot_catalog(disk)?;
    Ok(found)
}
