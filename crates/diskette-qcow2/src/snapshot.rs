//! Internal snapshots: the table that lists them.

use diskette_core::{Error, Limits, Result, SnapshotInfo, Storage, StorageExt};
use zerocopy::FromBytes;

use crate::header::{Header, L1Location, field, table_offset};
use crate::spec;

/// One snapshot.
#[derive(Clone, Debug)]
pub(crate) struct Snapshot {
    pub info: SnapshotInfo,
    pub l1_offset: u64,
    pub l1_size: u32,
    /// Bytes of extra data.
    pub extra_len: u32,
    /// Host offset of the entry.
    pub at: u64,
    /// The whole entry, with what is not known of it.
    pub bytes: Vec<u8>,
}

/// The snapshot table.
#[derive(Clone, Debug, Default)]
pub(crate) struct Snapshots {
    pub list: Vec<Snapshot>,
    /// Bytes of the table, from its first entry to the end of the last one.
    pub table_len: u64,
}

impl Snapshots {
    /// Reads the whole table.
    pub(crate) fn read(storage: &dyn Storage, header: &Header, limits: &Limits) -> Result<Self> {
        limits.allow_snapshots(header.snapshot_count.into())?;
        let file_size = storage.total_size()?;
        let mut found = Self::default();
        for index in 0..header.snapshot_count {
            let start = found.table_len.next_multiple_of(8); // at most 64 MiB
            let at = header.snapshots_offset + start; // below 2^63, by the header's check
            let (snapshot, len) = read_entry(storage, header, index, at, file_size)?;
            found.table_len = start + len;
            if found.table_len > spec::SNAPSHOT_TABLE_LEN_MAX {
                let claim = field("header.nb_snapshots", 60, header.snapshot_count);
                return Err(claim.malformed("a snapshot table of more than 64 MiB"));
            }
            limits.allow_table("qcow2: snapshot table's bytes", found.table_len)?;
            found.list.push(snapshot);
        }
        Ok(found)
    }

    /// The snapshot with this id, or else the first of this name.
    pub(crate) fn find(&self, wanted: &str) -> Result<&Snapshot> {
        let by_id = self.list.iter().find(|snapshot| snapshot.info.id == wanted);
        let by_name = || {
            self.list
                .iter()
                .find(|snapshot| snapshot.info.name == wanted)
        };
        by_id.or_else(by_name).ok_or_else(|| Error::NotFound {
            what: "snapshot",
            name: wanted.to_owned(),
        })
    }
}

impl Snapshot {
    /// The snapshot's own L1 table.
    pub(crate) fn l1(&self, header: &Header, limits: &Limits) -> Result<L1Location> {
        let claim = field("snapshot.l1_size", self.at + 8, self.l1_size);
        let entries = claim.within(0..=spec::L1_TABLE_LEN_MAX / 8)?;
        limits.allow_table("qcow2: L1 table's bytes", entries * 8)?;
        let claim = field("snapshot.l1_table_offset", self.at, self.l1_offset);
        Ok(L1Location {
            offset: table_offset(&claim, entries * 8, header.geometry)?,
            entries,
            claim,
        })
    }
}

/// The entry at host offset `at`, and its length.
fn read_entry(
    storage: &dyn Storage,
    header: &Header,
    index: u32,
    at: u64,
    file_size: u64,
) -> Result<(Snapshot, u64)> {
    const FIXED: usize = size_of::<spec::SnapshotEntry>();
    field(format!("snapshot[{index}]'s offset"), 64, at).followed_by(FIXED as u64, file_size)?;
    let bytes = storage.read_vec(FIXED, at)?;
    let Ok(raw) = spec::SnapshotEntry::read_from_bytes(&bytes) else {
        return Err(field("snapshot", at, 0_u32).malformed("too short"));
    };
    let extra_len = field("snapshot.extra_data_size", at + 36, raw.extra_len)
        .within(0..=spec::SNAPSHOT_EXTRA_LEN_MAX.into())?;
    // All three have 16 bits, or passed the check above.
    let id_len = usize::from(raw.id_len.get());
    let name_len = usize::from(raw.name_len.get());
    let behind = extra_len + (id_len + name_len) as u64;
    field(format!("snapshot[{index}]'s offset"), 64, at)
        .followed_by(FIXED as u64 + behind, file_size)?;
    // At most 129 KiB.
    let whole = storage.read_vec(FIXED + usize::try_from(behind).unwrap_or(0), at)?;
    let (extra, text) = whole[FIXED..].split_at(usize::try_from(extra_len).unwrap_or(0));
    let (id, name) = text.split_at(id_len);
    let snapshot = Snapshot {
        info: info(&raw, extra, id, name, header.size),
        l1_offset: raw.l1_table_offset.get(),
        l1_size: raw.l1_size.get(),
        extra_len: raw.extra_len.get(),
        at,
        bytes: whole.clone(),
    };
    Ok((snapshot, FIXED as u64 + behind))
}

fn info(
    raw: &spec::SnapshotEntry,
    extra: &[u8],
    id: &[u8],
    name: &[u8],
    disk_size: u64,
) -> SnapshotInfo {
    // What the extra data does not reach is absent.
    let mut whole = [0; size_of::<spec::SnapshotExtra>()];
    let known = extra.len().min(whole.len());
    whole[..known].copy_from_slice(&extra[..known]);
    let fields: spec::SnapshotExtra = zerocopy::transmute!(whole);

    let mut info = SnapshotInfo::default();
    info.id = String::from_utf8_lossy(id).into_owned();
    info.name = String::from_utf8_lossy(name).into_owned();
    info.disk_size = if extra.len() >= 16 {
        fields.disk_size.get()
    } else {
        disk_size
    };
    info.vm_state_size = if extra.len() >= 8 {
        fields.vm_state_size.get()
    } else {
        raw.vm_state_size.get().into()
    };
    info.date_seconds = raw.date_seconds.get();
    info.date_nanoseconds = raw.date_nanoseconds.get();
    info.vm_clock_nanoseconds = raw.vm_clock_nanoseconds.get();
    info.icount = Some(fields.icount.get()).filter(|count| extra.len() >= 24 && *count != u64::MAX);
    info
}
