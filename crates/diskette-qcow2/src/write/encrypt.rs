//! The encryption of a new image: a LUKS header in clusters of its own, and data that are enciphered where they are
//! written, for a sector's number is its host offset.

use std::sync::Arc;

use diskette_core::{NewImage, Result, StorageExt, StorageMut};
use diskette_crypto::EncryptedStorage;
use diskette_crypto::luks::NewLuks;

use super::host::HostSpace;
use super::options::Settings;
use crate::encryption::SECRET;

/// Where a new image's LUKS header lies. Complete by nature.
#[derive(Clone, Copy, Debug)]
pub(super) struct LuksPlace {
    pub(super) offset: u64,
    pub(super) len: u64,
}

/// The header of a new image, not yet written.
pub(super) struct NewEncryption {
    luks: NewLuks,
    bytes: Vec<u8>,
    cipher: Arc<diskette_crypto::SectorCipher>,
}

impl NewEncryption {
    /// What `settings` ask for, with the secret that `what` has; `None` where nothing is to be enciphered.
    pub(super) fn new(settings: &Settings, what: &NewImage) -> Result<Option<Self>> {
        let Some(luks) = settings.luks else {
            return Ok(None);
        };
        let passphrase = SECRET.of(&what.options, &what.secrets)?;
        let (bytes, header, key) = luks.create(passphrase)?;
        Ok(Some(Self {
            luks,
            bytes,
            cipher: Arc::new(header.cipher(&key)),
        }))
    }

    /// Writes the header into the next clusters, and gives its place, and the storage for data: `payload` behind the cipher.
    pub(super) fn write(
        self,
        storage: &Arc<dyn StorageMut>,
        payload: &Arc<dyn StorageMut>,
        host: &mut HostSpace,
        settings: &Settings,
    ) -> Result<(LuksPlace, Arc<dyn StorageMut>)> {
        let len = self.luks.header_len();
        let offset = host.clusters(settings.geometry.clusters(len))?;
        let bytes = self.bytes.len() as u64;
        storage
            .write_at(&self.bytes, offset)
            .map_err(|source| storage.failed("write", offset, bytes, source))?;
        let data = EncryptedStorage::new(Arc::clone(payload), self.cipher, 0);
        Ok((LuksPlace { offset, len }, Arc::new(data)))
    }
}
