//! A snapshot table with entries that are too short or too long, written anew.

use diskette_core::{Result, StorageExt};
use zerocopy::big_endian::{U32, U64};
use zerocopy::{FromBytes, IntoBytes};

use super::Mender;
use crate::header::field;
use crate::spec;

impl Mender<'_> {
    /// The table as it should be, if it is otherwise: version 3 asks for the disk's size in each entry, and nobody
    /// reads more than so much extra data.
    pub(super) fn mended_snapshot_table(&self) -> Result<Option<(Vec<u8>, u64)>> {
        if self.header.snapshot_count == 0 {
            return Ok(None);
        }
        let mut table = Vec::new();
        let mut at = self.header.snapshots_offset;
        let mut changes = 0;
        for _ in 0..self.header.snapshot_count {
            table.resize(table.len().next_multiple_of(8), 0);
            let (entry, len, changed) = self.mended_entry(at)?;
            table.extend(entry);
            changes += u64::from(changed);
            at = at.saturating_add(len.next_multiple_of(8));
            if table.len() as u64 > spec::SNAPSHOT_TABLE_LEN_MAX {
                let claim = field("header.nb_snapshots", 60, self.header.snapshot_count);
                return Err(claim.malformed("a snapshot table of more than 64 MiB"));
            }
        }
        Ok((changes > 0).then_some((table, changes)))
    }

    /// The entry at a host offset as it should be; how long it is now; whether that is a change.
    fn mended_entry(&self, at: u64) -> Result<(Vec<u8>, u64, bool)> {
        const FIXED: u64 = size_of::<spec::SnapshotEntry>() as u64;
        let file_size = self.storage.total_size()?;
        field("snapshot's offset", 64, at).followed_by(FIXED, file_size)?;
        let bytes = self
            .storage
            .read_vec(size_of::<spec::SnapshotEntry>(), at)?;
        let Ok(mut raw) = spec::SnapshotEntry::read_from_bytes(&bytes) else {
            return Err(field("snapshot", at, 0_u32).malformed("too short"));
        };
        let claim = field("snapshot.extra_data_size", at + 36, raw.extra_len);
        let extra_len = claim.within(0..=spec::SNAPSHOT_TABLE_LEN_MAX)?;
        let text_len = u64::from(raw.id_len.get()) + u64::from(raw.name_len.get());
        let len = FIXED + extra_len + text_len;
        field("snapshot's offset", 64, at).followed_by(len, file_size)?;

        let extra_at = at + FIXED;
        let kept = extra_len.min(spec::SNAPSHOT_EXTRA_LEN_MAX.into());
        let mut extra = self
            .storage
            .read_vec(usize::try_from(kept).unwrap_or(0), extra_at)?;
        if self.header.version >= 3 && extra.len() < EXTRA_NEEDED {
            extra = self.whole_extra(&raw, &extra);
        }
        let changed = extra.len() as u64 != extra_len;
        raw.extra_len = U32::new(u32::try_from(extra.len()).unwrap_or(0));
        let text = self
            .storage
            .read_vec(usize::try_from(text_len).unwrap_or(0), extra_at + extra_len)?;
        Ok(([raw.as_bytes(), &extra, &text].concat(), len, changed))
    }

    /// Extra data that says what readers take for granted where it is absent.
    fn whole_extra(&self, raw: &spec::SnapshotEntry, extra: &[u8]) -> Vec<u8> {
        let mut whole = spec::SnapshotExtra {
            vm_state_size: U64::new(raw.vm_state_size.get().into()),
            disk_size: U64::new(self.header.size),
            icount: U64::MAX_VALUE,
        };
        if let Some(size) = extra.first_chunk::<8>() {
            whole.vm_state_size = U64::from_bytes(*size);
        }
        whole.as_bytes().to_vec()
    }
}

/// Extra data up to the disk's size.
const EXTRA_NEEDED: usize = 16;
