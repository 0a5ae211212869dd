//! File systems, and what else fills a partition, by their signatures.

use diskette_core::{BlockReader, Result};
use uuid::Uuid;

use crate::bytes;

/// A file system, swap space, a member of a volume group, or an encrypted container.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct FileSystem {
    /// Its type, as `blkid` names it: "ext4", "vfat", "crypto_LUKS".
    pub kind: &'static str,
    /// Its label.
    pub label: Option<String>,
    /// Its identifier, as `blkid` prints it.
    pub uuid: Option<String>,
}

impl FileSystem {
    const fn new(kind: &'static str) -> Self {
        Self {
            kind,
            label: None,
            uuid: None,
        }
    }

    fn with(kind: &'static str, label: Option<String>, uuid: Option<String>) -> Self {
        Self { kind, label, uuid }
    }
}

/// How much of a volume is looked at. All signatures but btrfs's lie within the first 64 KiB.
const HEAD: u64 = 68 << 10;

/// The file system in the `len` bytes from `start` on.
pub(crate) fn at(disk: &dyn BlockReader, start: u64, len: u64) -> Result<Option<FileSystem>> {
    let there = disk.size().saturating_sub(start).min(len).min(HEAD);
    let Some(head) = bytes::read(disk, start, usize::try_from(there).unwrap_or(0))? else {
        return Ok(None);
    };
    let known = [
        luks, lvm, xfs, btrfs, ext, iso9660, swap, squashfs, f2fs, ntfs, exfat, fat,
    ];
    Ok(known.iter().find_map(|probe| probe(&head)))
}

/// Whether the disk is a CD with an El Torito boot record.
pub(crate) fn has_boot_catalog(disk: &dyn BlockReader) -> Result<bool> {
    let Some(record) = bytes::read(disk, 17 * 2048, 2048)? else {
        return Ok(false);
    };
    Ok(record.starts_with(b"\0CD001\x01EL TORITO SPECIFICATION"))
}

fn field(head: &[u8], offset: usize, len: usize) -> Option<&[u8]> {
    head.get(offset..offset.checked_add(len)?)
}

fn has(head: &[u8], offset: usize, signature: &[u8]) -> bool {
    field(head, offset, signature.len()) == Some(signature)
}

fn little_endian<const N: usize>(head: &[u8], offset: usize) -> Option<[u8; N]> {
    field(head, offset, N)?.try_into().ok()
}

fn u16_at(head: &[u8], offset: usize) -> Option<u16> {
    little_endian(head, offset).map(u16::from_le_bytes)
}

fn u32_at(head: &[u8], offset: usize) -> Option<u32> {
    little_endian(head, offset).map(u32::from_le_bytes)
}

fn text_at(head: &[u8], offset: usize, len: usize) -> Option<String> {
    bytes::text(field(head, offset, len)?)
}

/// A UUID in the order of its digits; `None` for the null one.
fn uuid_at(head: &[u8], offset: usize) -> Option<String> {
    let uuid = Uuid::from_slice(field(head, offset, 16)?).ok()?;
    (!uuid.is_nil()).then(|| uuid.hyphenated().to_string())
}

fn luks(head: &[u8]) -> Option<FileSystem> {
    if !has(head, 0, b"LUKS\xba\xbe") {
        return None;
    }
    let version_2 = field(head, 6, 2)? == [0, 2];
    let label = if version_2 {
        text_at(head, 24, 48)
    } else {
        None
    };
    Some(FileSystem::with(
        "crypto_LUKS",
        label,
        text_at(head, 168, 40),
    ))
}

/// The label stands in one of the first four sectors.
fn lvm(head: &[u8]) -> Option<FileSystem> {
    let label = (0..4)
        .map(|sector| sector * 512)
        .find(|at| has(head, *at, b"LABELONE") && has(head, at + 24, b"LVM2 001"))?;
    let id = text_at(head, label + 32, 32)?;
    let parts = [0..6, 6..10, 10..14, 14..18, 18..22, 22..26, 26..32];
    let parts: Option<Vec<_>> = parts.into_iter().map(|range| id.get(range)).collect();
    Some(FileSystem::with(
        "LVM2_member",
        None,
        parts.map(|parts| parts.join("-")),
    ))
}

fn xfs(head: &[u8]) -> Option<FileSystem> {
    has(head, 0, b"XFSB")
        .then(|| FileSystem::with("xfs", text_at(head, 108, 12), uuid_at(head, 32)))
}

fn btrfs(head: &[u8]) -> Option<FileSystem> {
    const AT: usize = 64 << 10;
    let there = has(head, AT + 64, b"_BHRfS_M");
    there.then(|| {
        FileSystem::with(
            "btrfs",
            text_at(head, AT + 299, 256),
            uuid_at(head, AT + 32),
        )
    })
}

/// ext2, ext3 or ext4, by the features that the others do not have.
fn ext(head: &[u8]) -> Option<FileSystem> {
    const AT: usize = 1024;
    const HAS_JOURNAL: u32 = 0x4;
    const EXT3_INCOMPATIBLE: u32 = 0x2 | 0x4 | 0x10; // file types, recovery, meta block groups
    const EXT3_READ_ONLY: u32 = 0x1 | 0x2 | 0x4; // sparse superblocks, large files, directories as trees
    if !has(head, AT + 56, &[0x53, 0xef]) {
        return None;
    }
    let [compatible, incompatible, read_only] =
        [92, 96, 100].map(|at| u32_at(head, AT + at).unwrap_or(0));
    let kind = if incompatible & !EXT3_INCOMPATIBLE != 0 || read_only & !EXT3_READ_ONLY != 0 {
        "ext4"
    } else if compatible & HAS_JOURNAL != 0 {
        "ext3"
    } else {
        "ext2"
    };
    Some(FileSystem::with(
        kind,
        text_at(head, AT + 120, 16),
        uuid_at(head, AT + 104),
    ))
}

/// Bytes at a disk's beginning by which [`is_iso`] tells.
pub const ISO_HEAD: usize = 34 << 10;

/// Whether a disk that begins with `head` holds an ISO 9660 file system: that of install media.
#[must_use]
pub fn is_iso(head: &[u8]) -> bool {
    iso9660(head).is_some()
}

fn iso9660(head: &[u8]) -> Option<FileSystem> {
    const AT: usize = 32 << 10;
    if !has(head, AT + 1, b"CD001") || !matches!(head.get(AT)?, 0 | 1 | 2 | 255) {
        return None;
    }
    let date = text_at(head, AT + 813, 16).filter(|date| date.bytes().any(|digit| digit != b'0'));
    let date = date.and_then(|date| {
        let parts = [0..4, 4..6, 6..8, 8..10, 10..12, 12..14, 14..16];
        let parts: Option<Vec<_>> = parts.into_iter().map(|range| date.get(range)).collect();
        parts.map(|parts| parts.join("-"))
    });
    Some(FileSystem::with(
        "iso9660",
        text_at(head, AT + 40, 32),
        date,
    ))
}

/// The signature ends the first page, whose size the machine chose.
fn swap(head: &[u8]) -> Option<FileSystem> {
    let at = [4096, 8192, 16384, 65536]
        .into_iter()
        .find(|page| has(head, page - 10, b"SWAPSPACE2"));
    at.map(|_| {
        FileSystem::with(
            "swap",
            text_at(head, 1024 + 28, 16),
            uuid_at(head, 1024 + 12),
        )
    })
}

fn squashfs(head: &[u8]) -> Option<FileSystem> {
    has(head, 0, b"hsqs").then_some(FileSystem::new("squashfs"))
}

fn f2fs(head: &[u8]) -> Option<FileSystem> {
    const AT: usize = 1024;
    let there = has(head, AT, &[0x10, 0x20, 0xf5, 0xf2]);
    there.then(|| {
        FileSystem::with(
            "f2fs",
            field(head, AT + 124, 1024).and_then(bytes::utf16),
            uuid_at(head, AT + 108),
        )
    })
}

fn ntfs(head: &[u8]) -> Option<FileSystem> {
    if !has(head, 3, b"NTFS    ") {
        return None;
    }
    let serial = little_endian(head, 72).map(u64::from_le_bytes)?;
    Some(FileSystem::with(
        "ntfs",
        None,
        Some(format!("{serial:016X}")),
    ))
}

fn exfat(head: &[u8]) -> Option<FileSystem> {
    if !has(head, 3, b"EXFAT   ") {
        return None;
    }
    Some(FileSystem::with(
        "exfat",
        None,
        Some(dashed(u32_at(head, 100)?)),
    ))
}

/// FAT has no signature that could be relied on: the text of its type, where it has one, and sound numbers.
fn fat(head: &[u8]) -> Option<FileSystem> {
    if !matches!(head.first()?, 0xeb | 0xe9) || !has(head, 510, &[0x55, 0xaa]) {
        return None;
    }
    let sector = u16_at(head, 11)?;
    let sound = sector.is_power_of_two()
        && (512..=4096).contains(&sector)
        && head.get(13)?.is_power_of_two();
    let reserved_and_tables = u16_at(head, 14)? > 0 && matches!(head.get(16)?, 1 | 2);
    if !sound || !reserved_and_tables {
        return None;
    }
    let (serial, label) = if has(head, 82, b"FAT32") {
        (67, 71)
    } else if has(head, 54, b"FAT1") || has(head, 54, b"FAT ") {
        (39, 43)
    } else {
        return None;
    };
    let label = text_at(head, label, 11).filter(|label| label != "NO NAME");
    Some(FileSystem::with(
        "vfat",
        label,
        Some(dashed(u32_at(head, serial)?)),
    ))
}

fn dashed(serial: u32) -> String {
    format!("{:04X}-{:04X}", serial >> 16, serial & 0xffff)
}
