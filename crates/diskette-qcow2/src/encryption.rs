//! What deciphers an image's clusters. Only data clusters are enciphered: tables are not, nor are compressed clusters.

use std::sync::Arc;

use diskette_core::{Error, OpenContext, Result, SECTOR, Storage, StorageMut};
use diskette_crypto::luks::Header as LuksHeader;
use diskette_crypto::{EncryptedStorage, SecretOption, SectorCipher, legacy_aes};

use crate::FORMAT;
use crate::header::Encryption;

/// The option that names the passphrase.
pub(crate) const SECRET: SecretOption = SecretOption {
    format: FORMAT,
    name: "encrypt.key-secret",
};

/// The cipher of an image, and by which offsets it numbers sectors.
#[derive(Clone, Debug)]
pub(crate) struct ClusterCipher {
    cipher: Arc<SectorCipher>,
    numbers: Numbers,
}

/// What a sector's number is counted by.
#[derive(Clone, Copy, Debug)]
enum Numbers {
    /// The guest's offset: old AES.
    Guest,
    /// The offset in the file that holds the cluster: LUKS.
    Host,
}

impl ClusterCipher {
    /// The cipher of an image, by the secret that the context names; `None` where nothing is enciphered.
    pub(crate) fn open(
        storage: &dyn Storage,
        encryption: Encryption,
        cx: &OpenContext<'_>,
    ) -> Result<Option<Self>> {
        let (cipher, numbers) = match encryption {
            Encryption::None => return Ok(None),
            Encryption::Aes => (legacy_aes(SECRET.of_context(cx)?), Numbers::Guest),
            Encryption::Luks { offset, len } => (luks(storage, offset, len, cx)?, Numbers::Host),
        };
        Ok(Some(Self {
            cipher: Arc::new(cipher),
            numbers,
        }))
    }

    /// Reads what lies at a host offset of `file`, and at a guest offset of the disk.
    pub(crate) fn read(
        &self,
        file: &dyn Storage,
        buf: &mut [u8],
        host: u64,
        guest: u64,
    ) -> Result<()> {
        let numbered = match self.numbers {
            Numbers::Guest => guest,
            Numbers::Host => host,
        };
        self.cipher.read(file, buf, host, numbered)
    }

    /// Makes of the stored bytes of a cluster what has to be stored at another host offset, that the guest reads the same.
    pub(crate) fn move_stored(&self, bytes: &mut [u8], from: u64, to: u64) {
        match self.numbers {
            Numbers::Guest => {}
            Numbers::Host => {
                self.cipher.decrypt(bytes, from / SECTOR);
                self.cipher.encrypt(bytes, to / SECTOR);
            }
        }
    }

    /// The file that holds the clusters, with this cipher before it.
    pub(crate) fn before(self, file: Arc<dyn StorageMut>) -> Result<EncryptedStorage> {
        match self.numbers {
            Numbers::Host => Ok(EncryptedStorage::new(file, self.cipher, 0)),
            Numbers::Guest => Err(Error::unsupported(
                FORMAT,
                "writing into an image with the old AES encryption",
            )),
        }
    }
}

fn luks(
    storage: &dyn Storage,
    offset: u64,
    len: u64,
    cx: &OpenContext<'_>,
) -> Result<SectorCipher> {
    let header = LuksHeader::read(storage, offset, len)?;
    let key = header.unlock(storage, offset, SECRET.of_context(cx)?, cx.limits)?;
    let key = key.ok_or_else(|| SECRET.wrong())?;
    Ok(header.cipher(&key))
}
