//! Internal snapshots, taken, gone back to, and given up.

use diskette_core::{Error, NewSnapshot, Result, SnapshotInfo, StorageExt};
use zerocopy::IntoBytes;
use zerocopy::big_endian::{U32, U64};

use super::cache::{sync, write};
use super::image::Image;
use crate::entry::L1Entry;
use crate::header::Header;
use crate::snapshot::{Snapshot, Snapshots};
use crate::{FORMAT, spec};

impl Image {
    /// The snapshots that the image has.
    pub(super) fn snapshots(&self) -> Result<Vec<SnapshotInfo>> {
        let (_, snapshots) = self.read_snapshots()?;
        let list = snapshots.list.into_iter();
        Ok(list.map(|snapshot| snapshot.info).collect())
    }

    /// Keeps the disk's present state. First the refcounts rise, then the table lists the snapshot: what was cut off between has
    /// leaked, and some clusters are copied that need not be.
    pub(super) fn create_snapshot(&mut self, what: &NewSnapshot) -> Result<SnapshotInfo> {
        let (_, snapshots) = self.read_snapshots()?;
        if self.files.data_file.is_some() {
            return Err(Error::unsupported(
                FORMAT,
                "a snapshot of an image with a data file",
            ));
        }
        let (info, l1_size) = self.info_of_new(what, &snapshots)?;
        let mut table: Vec<Vec<u8>> = bytes_of(snapshots.list.iter());
        self.prepare()?;
        self.wait_for_others();

        let l1 = self.l1.clone();
        self.use_tree(&l1)?;
        let l1_offset = self.allocate_table(8 * u64::from(l1_size))?;
        self.mark_shared()?;
        self.commit()?;
        if !l1.is_empty() {
            let shared: Vec<U64> = l1.iter().map(|entry| shared(*entry)).collect();
            write(&*self.files.storage, l1_offset, shared.as_bytes())?;
        }
        table.push(entry(&info, l1_offset, l1_size));
        self.write_snapshots(&table)?;
        Ok(info)
    }

    /// Makes the disk what it was when a snapshot was taken: all at once, by one write.
    pub(super) fn apply_snapshot(&mut self, name: &str) -> Result<()> {
        let (header, snapshots) = self.read_snapshots()?;
        let snapshot = snapshots.find(name)?;
        if header.extensions.bitmaps.is_some() {
            return Err(Error::unsupported(
                FORMAT,
                "going back to a snapshot of an image with bitmaps",
            ));
        }
        let size = snapshot.info.disk_size;
        let l1 = snapshot.l1(&header, &self.limits)?;
        self.prepare()?;
        self.wait_for_others();

        let needed = self.geometry.l1_entries(size);
        let l1 = self.read_l1(l1.offset, l1.entries, needed)?;
        let l1: Vec<U64> = l1.into_iter().map(shared).collect();
        self.use_tree(&l1)?;
        self.replace_l1(l1, size)?;
        self.mark_copied()?;
        self.commit()
    }

    /// Gives up a snapshot. First the table no longer lists it, then the refcounts fall.
    pub(super) fn delete_snapshot(&mut self, name: &str) -> Result<()> {
        let (header, snapshots) = self.read_snapshots()?;
        let gone = snapshots.find(name)?;
        let location = gone.l1(&header, &self.limits)?;
        let rest = snapshots.list.iter().filter(|other| other.at != gone.at);
        let rest = bytes_of(rest);
        self.prepare()?;
        self.wait_for_others();

        let l1 = self.read_l1(location.offset, location.entries, 0)?;
        self.write_snapshots(&rest)?;
        self.release_tree(&l1)?;
        self.release_table(location.offset, location.entries * 8);
        self.commit()?;
        self.mark_copied()?;
        self.commit()
    }

    /// Makes holes or data of all zero clusters of all snapshots, as of those of the disk. Each snapshot stays what it is,
    /// wherever that is cut off.
    pub(super) fn expand_zeros_of_snapshots(&mut self) -> Result<()> {
        let (header, snapshots) = self.read_snapshots()?;
        self.commit()?;
        for snapshot in &snapshots.list {
            let location = snapshot.l1(&header, &self.limits)?;
            let l1 = self.read_l1(location.offset, location.entries, 0)?;
            // Its marks may be old ones.
            let l1 = l1.into_iter().map(shared).collect();
            let own = std::mem::replace(&mut self.l1, l1);
            let own_offset = std::mem::replace(&mut self.l1_offset, location.offset);
            let expanded = self.expand_zeros().and_then(|()| self.commit());
            self.l1 = own;
            self.l1_offset = own_offset;
            self.l1_dirty = None;
            expanded?;
        }
        self.mark_copied()?;
        self.commit()
    }

    /// Puts another L1 table and another size in place of those that are, by one write, and gives up all that only the old
    /// one led to. What the new one leads to has been counted.
    pub(super) fn replace_l1(&mut self, l1: Vec<U64>, size: u64) -> Result<()> {
        let entries = to_u32(l1.len() as u64)?;
        let offset = self.allocate_table(8 * u64::from(entries))?;
        self.commit()?;
        let storage = self.storage();
        if !l1.is_empty() {
            write(&*storage, offset, l1.as_bytes())?;
        }
        sync(&*storage)?;
        // What lies between the size and the table's place stays: the method of encryption.
        let mut fields = storage.read_vec(24, SIZE_AND_L1_FIELDS)?;
        fields[..8].copy_from_slice(U64::new(size).as_bytes());
        fields[12..16].copy_from_slice(U32::new(entries).as_bytes());
        fields[16..].copy_from_slice(U64::new(offset).as_bytes());
        write(&*storage, SIZE_AND_L1_FIELDS, &fields)?;
        sync(&*storage)?;

        let old = std::mem::replace(&mut self.l1, l1);
        let old_offset = std::mem::replace(&mut self.l1_offset, offset);
        self.l1_dirty = None;
        self.size = size;
        self.release_tree(&old)?;
        self.release_table(old_offset, 8 * old.len() as u64);
        self.commit()
    }

    /// Writes the list of snapshots anew, and then the header that leads to it.
    fn write_snapshots(&mut self, entries: &[Vec<u8>]) -> Result<()> {
        let (old, old_list) = self.read_snapshots()?;
        let mut table = Vec::new();
        for entry in entries {
            table.resize(table.len().next_multiple_of(8), 0);
            table.extend_from_slice(entry);
        }
        if table.len() as u64 > spec::SNAPSHOT_TABLE_LEN_MAX {
            return Err(Error::unsupported(
                FORMAT,
                "a snapshot table of more than 64 MiB",
            ));
        }
        let offset = self.allocate_table(table.len() as u64)?;
        self.commit()?;
        let storage = self.storage();
        if !table.is_empty() {
            write(&*storage, offset, &table)?;
        }
        sync(&*storage)?;
        let count = U32::new(to_u32(entries.len() as u64)?);
        let fields = [count.as_bytes(), U64::new(offset).as_bytes()].concat();
        write(&*storage, SNAPSHOT_FIELDS, &fields)?;
        sync(&*storage)?;
        self.release_table(old.snapshots_offset, old_list.table_len);
        self.commit()
    }

    fn read_snapshots(&self) -> Result<(Header, Snapshots)> {
        let header = Header::read(&*self.files.storage, &self.limits)?;
        let snapshots = Snapshots::read(&*self.files.storage, &header, &self.limits)?;
        Ok((header, snapshots))
    }

    /// What a new snapshot will be called, and how many entries its L1 table has.
    fn info_of_new(&self, what: &NewSnapshot, others: &Snapshots) -> Result<(SnapshotInfo, u32)> {
        let most = usize::from(u16::MAX);
        if what.name.len() > most || others.list.len() >= spec::SNAPSHOTS_MAX as usize {
            return Err(Error::unsupported(
                FORMAT,
                "so many snapshots, or so long a name",
            ));
        }
        let ids = others
            .list
            .iter()
            .filter_map(|other| other.info.id.parse::<u64>().ok());
        let id = ids.max().unwrap_or(0).saturating_add(1);
        let mut info = SnapshotInfo::default();
        info.id = id.to_string();
        info.name.clone_from(&what.name);
        info.disk_size = self.size;
        info.date_seconds = what.date_seconds;
        info.date_nanoseconds = what.date_nanoseconds;
        info.vm_clock_nanoseconds = what.vm_clock_nanoseconds;
        info.icount = what.icount;
        Ok((info, to_u32(self.l1.len() as u64)?))
    }
}

/// Where the header tells of the disk's size, and right behind of the L1 table.
const SIZE_AND_L1_FIELDS: u64 = 24;
/// Where the header tells of the snapshots: how many, and where they are listed.
const SNAPSHOT_FIELDS: u64 = 60;

/// An L1 entry whose table has several users.
fn shared(entry: U64) -> U64 {
    let entry = L1Entry(entry.get());
    match entry.table_offset() {
        0 => entry.0.into(),
        offset => L1Entry::to_table(offset, false).0.into(),
    }
}

fn bytes_of<'a>(list: impl Iterator<Item = &'a Snapshot>) -> Vec<Vec<u8>> {
    list.map(|snapshot| snapshot.bytes.clone()).collect()
}

/// The entry of a snapshot in the table.
fn entry(info: &SnapshotInfo, l1_offset: u64, l1_size: u32) -> Vec<u8> {
    let extra = spec::SnapshotExtra {
        vm_state_size: info.vm_state_size.into(),
        disk_size: info.disk_size.into(),
        icount: info.icount.unwrap_or(u64::MAX).into(),
    };
    let fixed = spec::SnapshotEntry {
        l1_table_offset: l1_offset.into(),
        l1_size: l1_size.into(),
        // Both have been bounded.
        id_len: u16::try_from(info.id.len()).unwrap_or(0).into(),
        name_len: u16::try_from(info.name.len()).unwrap_or(0).into(),
        date_seconds: info.date_seconds.into(),
        date_nanoseconds: info.date_nanoseconds.into(),
        vm_clock_nanoseconds: info.vm_clock_nanoseconds.into(),
        vm_state_size: u32::try_from(info.vm_state_size).unwrap_or(0).into(),
        extra_len: u32::try_from(size_of::<spec::SnapshotExtra>())
            .unwrap_or(0)
            .into(),
    };
    [
        fixed.as_bytes(),
        extra.as_bytes(),
        info.id.as_bytes(),
        info.name.as_bytes(),
    ]
    .concat()
}

fn to_u32(number: u64) -> Result<u32> {
    u32::try_from(number).map_err(|_| Error::unsupported(FORMAT, "a table of so many entries"))
}
