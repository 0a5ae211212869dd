//! The log, as it is written: each entry holds the sectors of one change, and is all that a replay needs.
//!
//! An entry is written when those of the one before are in their places, on stable storage. So its tail is itself; and the one
//! before stays whole until the new one is, for there is always a valid entry while the header names the log.

use std::sync::Arc;

use diskette_core::{Error, Result, StorageExt, StorageMut};
use uuid::Uuid;
use zerocopy::IntoBytes;

use crate::checksum;
use crate::header::{HeaderPair, LogRegion};
use crate::spec::{
    DATA_DESCRIPTOR_SIGNATURE, DATA_SECTOR_SIGNATURE, FORMAT, LOG_ENTRY_SIGNATURE, LOG_SECTOR,
    LogDescriptor, LogEntryHeader,
};

/// The ring, and where the next entry goes.
#[derive(Debug)]
pub(super) struct Journal {
    storage: Arc<dyn StorageMut>,
    offset: u64,
    /// Sectors of the ring.
    sector_count: usize,
    /// What entries bear, once there is one that the header leads to.
    guid: Option<Uuid>,
    sequence_number: u64,
    next: usize,
}

impl Journal {
    /// The log of an image, which is empty.
    pub(super) fn new(storage: Arc<dyn StorageMut>, region: &LogRegion) -> Result<Self> {
        let sector_count = region.len / LOG_SECTOR as u64;
        if sector_count == 0 {
            return Err(Error::unsupported(
                FORMAT,
                "writing into an image without a log",
            ));
        }
        Ok(Self {
            storage,
            offset: region.offset,
            sector_count: usize::try_from(sector_count).unwrap_or(usize::MAX),
            guid: None,
            sequence_number: 0,
            next: 0,
        })
    }

    /// How many sectors one entry holds at the most: two of them fit into the ring, and descriptors into the first sector.
    pub(super) fn most_sectors(&self) -> usize {
        const FIRST: usize =
            (LOG_SECTOR - size_of::<LogEntryHeader>()) / size_of::<LogDescriptor>();
        FIRST.min(self.sector_count / 2 - 1)
    }

    /// Notes some sectors of the file in the log, on stable storage, and puts them into their places. All that was written before
    /// is on stable storage but for the sectors of the entry before.
    pub(super) fn write(
        &mut self,
        headers: &mut HeaderPair,
        sectors: &[(u64, Vec<u8>)],
    ) -> Result<()> {
        self.sync()?;
        let guid = self.guid.unwrap_or_else(Uuid::new_v4);
        self.sequence_number += 1;
        let entry = self.entry(guid, sectors)?;
        self.put(&entry)?;
        self.sync()?;
        if self.guid.is_none() {
            headers.advance(&*self.storage, |header| {
                header.log_guid = guid.to_bytes_le();
            })?;
            self.guid = Some(guid);
        }
        for (at, bytes) in sectors {
            self.write_at(bytes, *at)?;
        }
        Ok(())
    }

    /// Empties the log, whose sectors are all in their places, on stable storage.
    pub(super) fn close(&mut self, headers: &mut HeaderPair) -> Result<()> {
        if self.guid.take().is_none() {
            return Ok(());
        }
        for _ in 0..2 {
            headers.advance(&*self.storage, |header| header.log_guid = [0; 16])?;
        }
        Ok(())
    }

    fn entry(&self, guid: Uuid, sectors: &[(u64, Vec<u8>)]) -> Result<Vec<u8>> {
        let number = self.sequence_number;
        let len = LOG_SECTOR * (1 + sectors.len());
        let file_size = self.storage.total_size()?;
        let header = LogEntryHeader {
            signature: LOG_ENTRY_SIGNATURE,
            checksum: 0.into(),
            entry_length: small(len).into(),
            tail: small(self.next * LOG_SECTOR).into(),
            sequence_number: number.into(),
            descriptor_count: small(sectors.len()).into(),
            reserved: 0.into(),
            log_guid: guid.to_bytes_le(),
            flushed_file_offset: file_size.into(),
            last_file_offset: file_size.into(),
        };
        let mut entry = header.as_bytes().to_vec();
        let mut data = Vec::with_capacity(len);
        for (at, bytes) in sectors {
            let (leading, rest) = split::<8>(bytes);
            let (body, trailing) = rest.split_at(rest.len().saturating_sub(4));
            let descriptor = LogDescriptor {
                signature: DATA_DESCRIPTOR_SIGNATURE,
                trailing_bytes: split::<4>(trailing).0,
                leading_bytes: leading,
                file_offset: (*at).into(),
                sequence_number: number.into(),
            };
            entry.extend_from_slice(descriptor.as_bytes());
            data.extend_from_slice(&DATA_SECTOR_SIGNATURE);
            let halves = number.to_le_bytes();
            data.extend_from_slice(&halves[4..]);
            data.extend_from_slice(body);
            data.extend_from_slice(&halves[..4]);
        }
        entry.resize(LOG_SECTOR, 0);
        entry.append(&mut data);
        checksum::seal(&mut entry);
        Ok(entry)
    }

    /// Writes an entry at its place in the ring, whose end it may cross.
    fn put(&mut self, entry: &[u8]) -> Result<()> {
        let left = (self.sector_count - self.next) * LOG_SECTOR;
        let (head, tail) = entry.split_at(left.min(entry.len()));
        self.write_at(head, self.offset + (self.next * LOG_SECTOR) as u64)?;
        if !tail.is_empty() {
            self.write_at(tail, self.offset)?;
        }
        self.next = (self.next + entry.len() / LOG_SECTOR) % self.sector_count;
        Ok(())
    }

    fn write_at(&self, bytes: &[u8], at: u64) -> Result<()> {
        self.storage
            .write_at(bytes, at)
            .map_err(|source| self.storage.failed("write", at, bytes.len() as u64, source))
    }

    fn sync(&self) -> Result<()> {
        self.storage
            .sync()
            .map_err(|source| self.storage.failed("sync", 0, 0, source))
    }
}

/// The first bytes, and the rest. A sector has more.
fn split<const N: usize>(bytes: &[u8]) -> ([u8; N], &[u8]) {
    match bytes.split_first_chunk::<N>() {
        Some((first, rest)) => (*first, rest),
        None => ([0; N], bytes),
    }
}

/// What is bounded by the log's length, which has 32 bits.
fn small(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}
