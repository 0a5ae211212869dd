//! The disk: the payload, deciphered.

use std::sync::Arc;

use diskette_core::{
    BlockReader, Error, Extent, ExtentKind, HostOffset, ImageInfo, OpenContext, Opened, Result,
    SECTOR, Storage, StorageExt, check_range, round_up,
};
use diskette_crypto::SectorCipher;
use diskette_crypto::luks::Header;

use crate::{FORMAT, SECRET};

pub(crate) fn open(storage: Arc<dyn Storage>, cx: &OpenContext<'_>) -> Result<Opened> {
    let header = Header::read(&*storage, 0, storage.total_size()?)?;
    let cipher = match cx.metadata_only {
        true => None,
        false => Some(Arc::new(unlocked(&*storage, &header, cx)?)),
    };
    let reader = Reader {
        size: disk_size(&*storage, &header)?,
        start: header.payload_offset,
        storage,
        cipher,
    };
    let mut info = ImageInfo::new(FORMAT, reader.size);
    info.encrypted = true;
    info.details = Some(header.details(None));
    Ok(Opened {
        reader: Box::new(reader),
        info,
        backing: None,
    })
}

/// The payload's cipher, by the secret that the context names.
pub(crate) fn unlocked(
    storage: &dyn Storage,
    header: &Header,
    cx: &OpenContext<'_>,
) -> Result<SectorCipher> {
    let passphrase = SECRET.of_context(cx)?;
    let key = header.unlock(storage, 0, passphrase, cx.limits)?;
    let key = key.ok_or_else(|| SECRET.wrong())?;
    Ok(header.cipher(&key))
}

/// What follows the header, in whole sectors. The header lies within the file.
pub(crate) fn disk_size(storage: &dyn Storage, header: &Header) -> Result<u64> {
    let len = storage.total_size()?.saturating_sub(header.payload_offset);
    round_up(len, SECTOR).ok_or_else(|| Error::unsupported(FORMAT, "a size of 2^64 bytes"))
}

/// A LUKS image, for reading.
#[derive(Debug)]
pub(crate) struct Reader {
    storage: Arc<dyn Storage>,
    size: u64,
    /// Where the payload begins.
    start: u64,
    /// `None` where the image was opened for its metadata alone.
    cipher: Option<Arc<SectorCipher>>,
}

impl BlockReader for Reader {
    fn size(&self) -> u64 {
        self.size
    }

    fn extent_at(&self, offset: u64) -> Result<Extent> {
        check_range(self.size, offset, 1)?;
        // Where the host has a hole, the cipher makes noise of its zeros.
        let kind = ExtentKind::Encrypted(HostOffset::new(self.start));
        Ok(Extent::new(0, self.size, kind))
    }

    fn read_extent(&self, _extent: &Extent, buf: &mut [u8], offset: u64) -> Result<()> {
        let Some(cipher) = &self.cipher else {
            let feature = "reading a disk that was opened for its metadata alone";
            return Err(Error::unsupported(FORMAT, feature));
        };
        let at = self.start.saturating_add(offset);
        cipher.read(&*self.storage, buf, at, offset)
    }
}
