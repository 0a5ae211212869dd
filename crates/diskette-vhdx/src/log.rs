//! The log: a ring of entries, each of which changes sectors of the file outside of the header section.
//!
//! A file that was not closed has changes in its log that are not in their places yet. [`replay`] finds the active
//! sequence of entries and lays their changes over the file, in memory; the file stays as it is.
//!
//! ```text
//! ring:   |  entry 7  |  entry 8     |  entry 9  |  stale, torn or never written  |
//!            tail of 9 ──────────────► head
//! entry:  | header, descriptors | more descriptors | data sector | data sector |     sectors of 4 KiB
//! ```

use std::sync::Arc;

use diskette_core::{Error, Limits, Result, Storage, StorageExt};
use uuid::Uuid;
use zerocopy::FromBytes;
use zerocopy::little_endian::U64;

use crate::checksum;
use crate::header::{LogRegion, field};
use crate::overlay::{Overlay, SECTOR_LEN};
use crate::spec::{
    DATA_DESCRIPTOR_SIGNATURE, DATA_SECTOR_SIGNATURE, FORMAT, LOG_ENTRY_SIGNATURE, LOG_SECTOR,
    LogDataSector, LogDescriptor, LogEntryHeader, MAX_FILE_SIZE, REGION_TABLE_OFFSETS,
    ZERO_DESCRIPTOR_SIGNATURE,
};

/// What reading the log has come to.
#[derive(Debug)]
pub(crate) struct Replayed {
    /// The file as it is once the log has been applied.
    pub overlay: Overlay,
    /// Entries that were applied.
    pub entry_count: usize,
}

/// The file with the log's changes laid over it. The log is not empty.
pub(crate) fn replay(
    storage: Arc<dyn Storage>,
    region: &LogRegion,
    guid: Uuid,
    limits: &Limits,
    salvage: bool,
) -> Result<Replayed> {
    let ring = Ring::read(&*storage, region, guid, limits)?;
    let Some(sequence) = ring.active_sequence()? else {
        return Err(Error::malformed(
            FORMAT,
            "Header.LogGuid",
            region.header_at + 48,
            guid.to_string().as_str(),
            "but the log holds no valid sequence of entries of this GUID",
        ));
    };
    let size = storage.total_size()?;
    if let Some(head) = sequence.last()
        && head.flushed_file_offset > size
        && !salvage
    {
        let at = ring.host_offset(head.slot, 48);
        return Err(field(
            "LogEntryHeader.FlushedFileOffset",
            at,
            head.flushed_file_offset,
        )
        .malformed(format!(
            "but the file ends at {size:#x}: it has been cut off"
        )));
    }
    let mut overlay = Overlay::new(storage, size);
    for entry in &sequence {
        ring.apply(entry, &mut overlay, limits)?;
    }
    limits.keep(overlay.memory())?;
    Ok(Replayed {
        overlay,
        entry_count: sequence.len(),
    })
}

/// The log, in memory.
struct Ring {
    bytes: Vec<u8>,
    guid: Uuid,
    /// Where it lies in the file.
    offset: u64,
}

/// An entry that has been found sound.
#[derive(Clone, Copy, Debug)]
struct Entry {
    /// Its first sector.
    slot: usize,
    sector_count: usize,
    /// The sector of the oldest entry that it needs.
    tail: usize,
    sequence_number: u64,
    descriptor_count: usize,
    flushed_file_offset: u64,
    last_file_offset: u64,
}

/// What a descriptor does to the file.
enum Change<'a> {
    Zeros {
        offset: u64,
        len: u64,
    },
    Sector {
        offset: u64,
        descriptor: &'a LogDescriptor,
        data: &'a LogDataSector,
    },
}

impl Ring {
    fn read(
        storage: &dyn Storage,
        region: &LogRegion,
        guid: Uuid,
        limits: &Limits,
    ) -> Result<Self> {
        field("Header.LogOffset", region.header_at + 72, region.offset)
            .followed_by(region.len, storage.total_size()?)?;
        limits.allow_table("log's bytes", region.len)?;
        let len = usize::try_from(region.len).unwrap_or(usize::MAX);
        Ok(Self {
            bytes: storage.read_vec(len, region.offset)?,
            guid,
            offset: region.offset,
        })
    }

    /// The entries that are to be applied, in order: from the one that the newest entry names as its tail up to the
    /// newest.
    fn active_sequence(&self) -> Result<Option<Vec<Entry>>> {
        let entries = self.entries()?;
        let next = |entry: &Entry| {
            let behind = entries[(entry.slot + entry.sector_count) % entries.len()]?;
            (entry.sequence_number.checked_add(1) == Some(behind.sequence_number)).then_some(behind)
        };

        // For each sector, the last of the entries that follow one another from there on. Numbers rise, so that going
        // through them from the greatest on finds each follower done.
        let mut by_number: Vec<Entry> = entries.iter().copied().flatten().collect();
        by_number.sort_by_key(|entry| std::cmp::Reverse(entry.sequence_number));
        let mut heads = vec![None; entries.len()];
        for entry in &by_number {
            heads[entry.slot] = match next(entry) {
                Some(behind) => heads[behind.slot],
                None => Some(entry.slot),
            };
        }

        // A run is valid if its head's tail lies in it: if the run from there on ends in this head.
        let is_head = |entry: &&Entry| heads[entry.tail] == Some(entry.slot);
        let Some(head) = by_number.iter().find(is_head) else {
            return Ok(None);
        };
        let first = entries[head.tail];
        Ok(Some(
            std::iter::successors(first, |entry| next(entry)).collect(),
        ))
    }

    /// For each sector, the sound entry that begins there.
    fn entries(&self) -> Result<Vec<Option<Entry>>> {
        // Sound entries do not overlap, so that no honest log comes near this.
        const MOST_ROUNDS: u64 = 8;
        let most = (self.bytes.len() as u64).saturating_mul(MOST_ROUNDS);
        let mut summed = 0;
        let mut entries = vec![None; self.sector_count()];
        for (slot, found) in entries.iter_mut().enumerate() {
            let Some(entry) = self.claimed_entry(slot) else {
                continue;
            };
            summed += (entry.sector_count * LOG_SECTOR) as u64;
            if summed > most {
                return Err(Error::LimitExceeded {
                    what: "bytes of log entries to be verified",
                    wanted: summed,
                    limit: most,
                });
            }
            let sound = checksum::is_sound(self.sectors(&entry)) && self.changes_are_sound(&entry);
            *found = sound.then_some(entry);
        }
        Ok(entries)
    }

    /// What calls itself an entry of this log at `slot`, with numbers that are possible.
    fn claimed_entry(&self, slot: usize) -> Option<Entry> {
        let (raw, _) = LogEntryHeader::ref_from_prefix(self.sector(slot)).ok()?;
        if raw.signature != LOG_ENTRY_SIGNATURE || Uuid::from_bytes_le(raw.log_guid) != self.guid {
            return None;
        }
        let sectors = |bytes: u32| {
            let bytes = usize::try_from(bytes).ok()?;
            bytes
                .is_multiple_of(LOG_SECTOR)
                .then_some(bytes / LOG_SECTOR)
        };
        let entry = Entry {
            slot,
            sector_count: sectors(raw.entry_length.get())?,
            tail: sectors(raw.tail.get())?,
            sequence_number: raw.sequence_number.get(),
            descriptor_count: usize::try_from(raw.descriptor_count.get()).ok()?,
            flushed_file_offset: raw.flushed_file_offset.get(),
            last_file_offset: raw.last_file_offset.get(),
        };
        let possible = (1..=self.sector_count()).contains(&entry.sector_count)
            && entry.tail < self.sector_count()
            && entry.sequence_number > 0
            && entry.descriptor_sectors() <= entry.sector_count;
        possible.then_some(entry)
    }

    fn changes_are_sound(&self, entry: &Entry) -> bool {
        self.changes(entry).all(|change| change.is_some())
    }

    /// The entry's changes, in order; `None` for what is no sound descriptor, or has no sound data sector.
    fn changes<'a>(&'a self, entry: &'a Entry) -> impl Iterator<Item = Option<Change<'a>>> {
        let mut next_data = entry.descriptor_sectors();
        (0..entry.descriptor_count).map(move |index| {
            let at = size_of::<LogEntryHeader>() + index * size_of::<LogDescriptor>();
            let sector = self.sector(entry.slot + at / LOG_SECTOR);
            let (descriptor, _) =
                LogDescriptor::ref_from_prefix(&sector[at % LOG_SECTOR..]).ok()?;
            let offset = descriptor.file_offset.get();
            if descriptor.sequence_number.get() != entry.sequence_number
                || !offset.is_multiple_of(SECTOR_LEN)
            {
                return None;
            }
            match descriptor.signature {
                ZERO_DESCRIPTOR_SIGNATURE => {
                    let len = U64::from_bytes(descriptor.leading_bytes).get();
                    len.is_multiple_of(SECTOR_LEN)
                        .then_some(Change::Zeros { offset, len })
                }
                DATA_DESCRIPTOR_SIGNATURE if next_data < entry.sector_count => {
                    let data =
                        LogDataSector::ref_from_bytes(self.sector(entry.slot + next_data)).ok()?;
                    next_data += 1;
                    let number = u64::from(data.sequence_high.get()) << 32
                        | u64::from(data.sequence_low.get());
                    let sound =
                        data.signature == DATA_SECTOR_SIGNATURE && number == entry.sequence_number;
                    sound.then_some(Change::Sector {
                        offset,
                        descriptor,
                        data,
                    })
                }
                _ => None,
            }
        })
    }

    fn apply(&self, entry: &Entry, overlay: &mut Overlay, limits: &Limits) -> Result<()> {
        for (index, change) in self.changes(entry).flatten().enumerate() {
            let (offset, len) = match change {
                Change::Zeros { offset, len } => (offset, len),
                Change::Sector { offset, .. } => (offset, SECTOR_LEN),
            };
            self.check_target(entry, index, offset, len)?;
            match change {
                Change::Zeros { .. } => overlay.put_zeros(offset, len),
                Change::Sector {
                    descriptor, data, ..
                } => overlay.put_sector(offset, whole_sector(descriptor, data)),
            }
            limits.allow_table("log's changes in memory", overlay.memory())?;
        }
        let at = self.host_offset(entry.slot, 56);
        let last = field("LogEntryHeader.LastFileOffset", at, entry.last_file_offset)
            .within(0..=MAX_FILE_SIZE)?;
        overlay.grow_to(last);
        Ok(())
    }

    /// The log changes neither the headers nor itself, and the file stays of a possible length.
    fn check_target(&self, entry: &Entry, index: usize, offset: u64, len: u64) -> Result<()> {
        let target = || {
            let at = size_of::<LogEntryHeader>() + index * size_of::<LogDescriptor>();
            let name = format!(
                "LogDescriptor[{index}].FileOffset of entry {}",
                entry.sequence_number
            );
            field(name, self.host_offset(entry.slot, at + 16), offset)
        };
        target().within(REGION_TABLE_OFFSETS[0]..=MAX_FILE_SIZE)?;
        match offset.checked_add(len) {
            Some(end) if end > MAX_FILE_SIZE => Err(target().malformed("its end lies too far out")),
            Some(end) if end > self.offset && offset < self.offset + self.bytes.len() as u64 => {
                Err(target().malformed("it lies in the log itself"))
            }
            Some(_) => Ok(()),
            None => Err(target().malformed("its end lies too far out")),
        }
    }

    fn sector_count(&self) -> usize {
        self.bytes.len() / LOG_SECTOR
    }

    /// A sector, counted on around the ring.
    fn sector(&self, index: usize) -> &[u8] {
        let start = index % self.sector_count() * LOG_SECTOR;
        &self.bytes[start..start + LOG_SECTOR]
    }

    fn sectors(&self, entry: &Entry) -> impl Iterator<Item = &[u8]> {
        (entry.slot..entry.slot + entry.sector_count).map(|index| self.sector(index))
    }

    /// Where the byte `within` of an entry that begins at `slot` lies in the file.
    fn host_offset(&self, slot: usize, within: usize) -> u64 {
        self.offset + ((slot * LOG_SECTOR + within) % self.bytes.len()) as u64
    }
}

impl Entry {
    /// Sectors that header and descriptors take.
    fn descriptor_sectors(&self) -> usize {
        self.descriptor_count
            .saturating_mul(size_of::<LogDescriptor>())
            .saturating_add(size_of::<LogEntryHeader>())
            .div_ceil(LOG_SECTOR)
    }
}

fn whole_sector(descriptor: &LogDescriptor, data: &LogDataSector) -> Vec<u8> {
    [
        descriptor.leading_bytes.as_slice(),
        data.data.as_slice(),
        descriptor.trailing_bytes.as_slice(),
    ]
    .concat()
}
