//! Host bytes behind a cipher.

use std::io;
use std::sync::{Arc, PoisonError, RwLock};

use diskette_core::{Result, Run, RunKind, SECTOR, Storage, StorageMut};

use crate::SectorCipher;
use crate::sector::SECTOR_LEN;

/// A storage whose bytes are enciphered on their way in, and deciphered on their way out. Sectors are numbered by their
/// host offsets, counted from `start`.
///
/// Whole sectors are written as they come, by any number of threads. Of a sector that is written in part the rest is read
/// before, and nobody else reads or writes meanwhile: what is not written stays as it is for all who look.
#[derive(Debug)]
pub struct EncryptedStorage {
    storage: Arc<dyn StorageMut>,
    cipher: Arc<SectorCipher>,
    start: u64,
    /// Held by all who read or write; alone, by who writes a part of a sector.
    parts: RwLock<()>,
}

impl EncryptedStorage {
    /// `storage` behind `cipher`. Offsets stay those of `storage`; its sector 0 begins at `start`, a multiple of 512.
    #[must_use]
    pub fn new(storage: Arc<dyn StorageMut>, cipher: Arc<SectorCipher>, start: u64) -> Self {
        debug_assert!(start.is_multiple_of(SECTOR));
        Self {
            storage,
            cipher,
            start,
            parts: RwLock::new(()),
        }
    }

    /// Fills `buf` with what lies from `offset` on. What is missing at the storage's end is taken for zeros, and deciphered.
    pub fn read_deciphered(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        let _held = self.parts.read().unwrap_or_else(PoisonError::into_inner);
        self.decipher(buf, offset)
    }

    /// Bytes that are written and zeros that are enciphered pass through a buffer of this size.
    const BUFFER: usize = 256 << 10;

    /// Writes whole sectors.
    fn write_sectors(&self, sectors: &[u8], offset: u64) -> io::Result<()> {
        let mut buffer = Vec::with_capacity(sectors.len().min(Self::BUFFER));
        for (at, part) in (offset..)
            .step_by(Self::BUFFER)
            .zip(sectors.chunks(Self::BUFFER))
        {
            buffer.clear();
            buffer.extend_from_slice(part);
            self.cipher.encrypt(&mut buffer, self.number(at));
            self.storage.write_at(&buffer, at)?;
        }
        Ok(())
    }

    /// Writes a part of one sector, and its rest as it is.
    fn write_part(&self, part: &[u8], offset: u64) -> io::Result<()> {
        let within = usize::try_from(offset % SECTOR).unwrap_or(0);
        let start = offset - within as u64;
        let mut sector = [0; SECTOR_LEN];
        if start < self.storage.size()? {
            self.decipher(&mut sector, start)
                .map_err(io::Error::other)?;
        }
        sector[within..within + part.len()].copy_from_slice(part);
        self.write_sectors(&sector, start)
    }

    fn decipher(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        let numbered = offset.saturating_sub(self.start);
        self.cipher.read(&*self.storage, buf, offset, numbered)
    }

    const fn number(&self, offset: u64) -> u64 {
        offset.saturating_sub(self.start) / SECTOR
    }
}

impl Storage for EncryptedStorage {
    fn name(&self) -> &str {
        self.storage.name()
    }

    fn size(&self) -> io::Result<u64> {
        self.storage.size()
    }

    fn allocated(&self) -> io::Result<u64> {
        self.storage.allocated()
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let end = offset.checked_add(buf.len() as u64);
        if end.is_none_or(|end| self.storage.size().is_ok_and(|size| end > size)) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.read_deciphered(buf, offset).map_err(io::Error::other)
    }

    fn run_at(&self, offset: u64) -> io::Result<Run> {
        // A hole of the host does not read as zeros here.
        let len = self.storage.size()?.saturating_sub(offset);
        Ok(Run {
            len,
            kind: RunKind::Data,
        })
    }

    fn as_bytes(&self) -> Option<&[u8]> {
        None
    }
}

impl StorageMut for EncryptedStorage {
    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        let mut rest = buf;
        let mut at = offset;
        while !rest.is_empty() {
            let within = usize::try_from(at % SECTOR).unwrap_or(0);
            let len = if within == 0 && rest.len() >= SECTOR_LEN {
                rest.len() - rest.len() % SECTOR_LEN
            } else {
                rest.len().min(SECTOR_LEN - within)
            };
            let (part, behind) = rest.split_at(len);
            if len.is_multiple_of(SECTOR_LEN) {
                let _held = self.parts.read().unwrap_or_else(PoisonError::into_inner);
                self.write_sectors(part, at)?;
            } else {
                let _alone = self.parts.write().unwrap_or_else(PoisonError::into_inner);
                self.write_part(part, at)?;
            }
            rest = behind;
            at += len as u64;
        }
        Ok(())
    }

    fn write_zeros(&self, offset: u64, len: u64) -> io::Result<()> {
        let zeros = vec![0; usize::try_from(len).unwrap_or(usize::MAX).min(Self::BUFFER)];
        let mut done = 0;
        while done < len {
            let part = (len - done).min(zeros.len() as u64);
            self.write_at(&zeros[..usize::try_from(part).unwrap_or(0)], offset + done)?;
            done += part;
        }
        Ok(())
    }

    fn allocate(&self, offset: u64, len: u64) -> io::Result<()> {
        self.storage.allocate(offset, len)
    }

    fn set_size(&self, size: u64) -> io::Result<()> {
        self.storage.set_size(size)
    }

    fn sync(&self) -> io::Result<()> {
        self.storage.sync()
    }
}

#[cfg(test)]
mod tests {
    use diskette_core::StorageExt;
    use diskette_storage::MemoryStorage;

    use super::*;
    use crate::legacy_aes;

    #[test]
    fn what_is_written_anywhere_is_read_back() {
        let memory = Arc::new(MemoryStorage::new(vec![0; 1024]));
        let cipher = Arc::new(legacy_aes(b"key"));
        let storage = EncryptedStorage::new(Arc::clone(&memory) as _, cipher, 512);
        let bytes: Vec<u8> = (0..=255).cycle().take(5000).collect();
        storage.write_at(&bytes, 700).unwrap();
        let mut found = vec![0; 4900];
        storage.read_at(&mut found, 750).unwrap();
        assert_eq!(found, bytes[50..4950]);
        storage.write_zeros(1000, 2000).unwrap();
        storage.read(&mut found, 750).unwrap();
        assert_eq!(found[..250], bytes[50..300]);
        assert!(found[250..2250].iter().all(|byte| *byte == 0));
        assert_eq!(found[2250..], bytes[2300..4950]);
        assert_ne!(memory.to_vec()[1024..1536], [0; 512]);
        assert!(
            storage
                .read_at(&mut [0; 2], memory.size().unwrap() - 1)
                .is_err()
        );
    }
}
