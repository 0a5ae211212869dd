//! The region tables, and the ranges of the file that are taken by other things than blocks.

use std::collections::BTreeSet;
use std::ops::Range;

use diskette_core::{Error, Result, Storage, StorageExt, StorageMut};
use uuid::Uuid;
use zerocopy::little_endian::U32;
use zerocopy::{FromBytes, IntoBytes};

use crate::checksum;
use crate::header::{LogRegion, field};
use crate::spec::{
    ALIGNMENT, BAT_REGION, FORMAT, HEADER_SECTION_LEN, MAX_TABLE_ENTRIES, METADATA_REGION,
    REGION_REQUIRED, REGION_TABLE_LEN, REGION_TABLE_OFFSETS, REGION_TABLE_SIGNATURE,
    RegionTableEntry, RegionTableHeader,
};

/// The file's regions.
#[derive(Clone, Debug)]
pub(crate) struct Regions {
    /// The block allocation table.
    pub bat: Region,
    /// The metadata.
    pub metadata: Region,
    /// Regions that we need not know.
    unknown: Vec<Region>,
    /// Whether the first table is damaged.
    pub first_damaged: bool,
}

/// A range of the file, aligned to 1 MiB.
#[derive(Clone, Debug)]
pub(crate) struct Region {
    /// What it is, for messages.
    name: String,
    /// Host offset.
    pub offset: u64,
    /// Bytes.
    pub len: u64,
    /// Where its entry lies.
    entry_at: u64,
}

impl Regions {
    /// The regions, by the first sound table.
    pub(crate) fn read(storage: &dyn Storage) -> Result<Self> {
        for (index, offset) in REGION_TABLE_OFFSETS.into_iter().enumerate() {
            if let Some(bytes) = sound_table(storage, offset)? {
                return Self::parse(&bytes, offset, index > 0);
            }
        }
        let at = REGION_TABLE_OFFSETS[0];
        let mut checksum = U32::ZERO;
        storage.read_padded(checksum.as_mut_bytes(), at + 4)?;
        Err(
            field("RegionTableHeader.Checksum", at + 4, checksum).malformed(
                "not the table's, or its signature is wrong; and the second table is no better",
            ),
        )
    }

    /// Writes a damaged table anew from its sound copy. Whether there was one to be written.
    pub(crate) fn restore(file: &dyn StorageMut) -> Result<bool> {
        let [first_at, second_at] = REGION_TABLE_OFFSETS;
        let first = sound_table(file, first_at)?;
        let second = sound_table(file, second_at)?;
        let (at, table) = match (first, second) {
            (Some(table), None) => (second_at, table),
            (None, Some(table)) => (first_at, table),
            (Some(_), Some(_)) | (None, None) => return Ok(false),
        };
        file.write_at(&table, at)
            .and_then(|()| file.sync())
            .map_err(|source| file.failed("write", at, table.len() as u64, source))?;
        Ok(true)
    }

    fn parse(bytes: &[u8], at: u64, first_damaged: bool) -> Result<Self> {
        let missing = |what: &str| {
            Error::malformed(
                FORMAT,
                format!("region table: {what}"),
                at,
                "",
                "no such entry",
            )
        };
        let (mut bat, mut metadata, mut unknown) = (None, None, Vec::new());
        let mut seen = BTreeSet::new();
        for (index, entry) in entries(bytes, at)?.iter().enumerate() {
            let entry_at = at + 16 + 32 * index as u64;
            let guid = Uuid::from_bytes_le(entry.guid);
            if !seen.insert(guid) {
                return Err(Error::malformed(
                    FORMAT,
                    format!("RegionTableEntry[{index}].Guid"),
                    entry_at,
                    guid.to_string().as_str(),
                    "there is an entry of this region already",
                ));
            }
            let region = Region::parse(entry, index, entry_at, guid)?;
            match guid {
                BAT_REGION => bat = Some(region),
                METADATA_REGION => metadata = Some(region),
                _ if entry.required.get() & REGION_REQUIRED != 0 => {
                    return Err(Error::unsupported(FORMAT, format!("required {region}")));
                }
                _ => unknown.push(region),
            }
        }
        Ok(Self {
            bat: bat.ok_or_else(|| missing("BAT"))?,
            metadata: metadata.ok_or_else(|| missing("metadata"))?,
            unknown,
            first_damaged,
        })
    }
}

/// Whether only the first table is sound.
pub(crate) fn second_is_damaged(storage: &dyn Storage) -> Result<bool> {
    let [first, second] = REGION_TABLE_OFFSETS;
    Ok(sound_table(storage, second)?.is_none() && sound_table(storage, first)?.is_some())
}

/// The table at `offset`, if its signature and its checksum are right.
fn sound_table(storage: &dyn Storage, offset: u64) -> Result<Option<Vec<u8>>> {
    let mut bytes = vec![0; REGION_TABLE_LEN];
    storage.read_padded(&mut bytes, offset)?;
    let sound =
        bytes.starts_with(&REGION_TABLE_SIGNATURE) && checksum::is_sound([bytes.as_slice()]);
    Ok(sound.then_some(bytes))
}

fn entries(bytes: &[u8], at: u64) -> Result<&[RegionTableEntry]> {
    let truncated = || field("RegionTableHeader.EntryCount", at + 8, 0_u64).malformed("cut off");
    let (header, behind) = RegionTableHeader::ref_from_prefix(bytes).map_err(|_cut| truncated())?;
    let count = field("RegionTableHeader.EntryCount", at + 8, header.entry_count)
        .within(0..=MAX_TABLE_ENTRIES)?;
    let count = usize::try_from(count).unwrap_or(usize::MAX);
    let (entries, _) = <[RegionTableEntry]>::ref_from_prefix_with_elems(behind, count)
        .map_err(|_cut| truncated())?;
    Ok(entries)
}

impl Region {
    fn parse(entry: &RegionTableEntry, index: usize, at: u64, guid: Uuid) -> Result<Self> {
        let name = match guid {
            BAT_REGION => "BAT region".to_owned(),
            METADATA_REGION => "metadata region".to_owned(),
            _ => format!("region {guid}"),
        };
        let len = field(
            format!("RegionTableEntry[{index}].Length"),
            at + 24,
            entry.length,
        )
        .aligned_to(ALIGNMENT)?;
        let offset = || {
            field(
                format!("RegionTableEntry[{index}].FileOffset"),
                at + 16,
                entry.file_offset,
            )
        };
        offset().aligned_to(ALIGNMENT)?;
        let offset = offset().within(HEADER_SECTION_LEN..=u64::MAX - len)?;
        Ok(Self {
            name,
            offset,
            len,
            entry_at: at,
        })
    }

    /// That the region lies in a file of `size` bytes.
    pub(crate) fn check_within(&self, size: u64) -> Result<()> {
        let name = format!("RegionTableEntry.FileOffset of the {self}");
        field(name, self.entry_at + 16, self.offset).followed_by(self.len, size)?;
        Ok(())
    }

    fn range(&self) -> Range<u64> {
        self.offset..self.offset + self.len // Checked when it was parsed.
    }
}

impl std::fmt::Display for Region {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.name)
    }
}

/// Ranges of the file that no block may overlap: the header section, the log, the regions.
#[derive(Clone, Debug)]
pub(crate) struct Taken {
    /// In order; they do not overlap.
    ranges: Vec<Range<u64>>,
}

impl Taken {
    /// The ranges that header and region table name. They must not overlap.
    pub(crate) fn new(log: &LogRegion, regions: &Regions) -> Result<Self> {
        let mut named = vec![
            (0..HEADER_SECTION_LEN, "the header section"),
            (log.offset..log.offset + log.len, "the log"), // Checked in the header.
        ];
        let all = [&regions.bat, &regions.metadata];
        for region in all.into_iter().chain(&regions.unknown) {
            named.push((region.range(), region.name.as_str()));
        }
        named.retain(|(range, _)| !range.is_empty());
        named.sort_by_key(|(range, _)| range.start);
        for pair in named.windows(2) {
            let [(below, below_name), (above, above_name)] = pair else {
                continue;
            };
            if below.end > above.start {
                let name = format!("offset of {above_name}");
                let why = format!("it overlaps {below_name}");
                return Err(field(name, REGION_TABLE_OFFSETS[0], above.start).malformed(why));
            }
        }
        let ranges = named.into_iter().map(|(range, _)| range).collect();
        Ok(Self { ranges })
    }

    /// All of them, in order.
    pub(crate) fn ranges(&self) -> &[Range<u64>] {
        &self.ranges
    }

    /// Whether any of `range` is taken.
    pub(crate) fn overlaps(&self, range: &Range<u64>) -> bool {
        let next = self
            .ranges
            .partition_point(|taken| taken.end <= range.start);
        self.ranges
            .get(next)
            .is_some_and(|taken| taken.start < range.end)
    }
}
