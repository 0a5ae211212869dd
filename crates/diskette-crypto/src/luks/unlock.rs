//! From a passphrase to the master key.

use diskette_core::{Limits, Result, Storage, StorageExt};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use super::header::{Header, Slot, SlotKey};
use crate::sector::SectorCipher;
use crate::split::merge;

/// The key that the payload is enciphered with.
pub struct MasterKey {
    pub(super) bytes: Zeroizing<Vec<u8>>,
    /// The slot that held it.
    pub slot: usize,
}

impl std::fmt::Debug for MasterKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MasterKey")
            .field("slot", &self.slot)
            .finish_non_exhaustive()
    }
}

impl Header {
    /// The master key that a passphrase opens, if it opens any slot. `storage` has the header at the host offset `at`.
    ///
    /// What it costs is up to the image: iterations are counted against
    /// [`Limits::key_iterations`].
    pub fn unlock(
        &self,
        storage: &dyn Storage,
        at: u64,
        passphrase: &[u8],
        limits: &Limits,
    ) -> Result<Option<MasterKey>> {
        let mut iterations = 0;
        for (number, slot) in self.slots.iter().enumerate() {
            let Some(key) = &slot.key else {
                continue;
            };
            iterations += u64::from(key.iterations) + u64::from(self.digest_iterations);
            limits.allow_key_iterations(iterations)?;
            let bytes = self.open_slot(storage, at, slot, key, passphrase)?;
            if self.is_master_key(&bytes) {
                return Ok(Some(MasterKey {
                    bytes,
                    slot: number,
                }));
            }
        }
        Ok(None)
    }

    /// Whether a passphrase opens one slot.
    pub(super) fn opens(
        &self,
        storage: &dyn Storage,
        at: u64,
        number: usize,
        passphrase: &[u8],
        limits: &Limits,
    ) -> Result<bool> {
        let Some((slot, key)) = self
            .slots
            .get(number)
            .and_then(|slot| Some((slot, slot.key.as_ref()?)))
        else {
            return Ok(false);
        };
        limits
            .allow_key_iterations(u64::from(key.iterations) + u64::from(self.digest_iterations))?;
        let bytes = self.open_slot(storage, at, slot, key, passphrase)?;
        Ok(self.is_master_key(&bytes))
    }

    /// The cipher of the payload.
    #[must_use]
    pub fn cipher(&self, key: &MasterKey) -> SectorCipher {
        self.suite.cipher(&key.bytes)
    }

    /// What a passphrase makes of a slot: the master key, or nothing of use.
    fn open_slot(
        &self,
        storage: &dyn Storage,
        at: u64,
        slot: &Slot,
        key: &SlotKey,
        passphrase: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>> {
        let cipher = self.slot_cipher(passphrase, &key.salt, key.iterations);
        let mut material = Zeroizing::new(vec![0; self.material_len()]);
        storage.read(&mut material, at.saturating_add(slot.material_offset))?;
        cipher.decrypt(&mut material, 0);
        Ok(merge(&material, self.suite.key_len(), self.hash))
    }

    /// The cipher of a slot's material.
    pub(super) fn slot_cipher(
        &self,
        passphrase: &[u8],
        salt: &[u8],
        iterations: u32,
    ) -> SectorCipher {
        let mut key = Zeroizing::new(vec![0; self.suite.key_len()]);
        self.hash.derive(passphrase, salt, iterations, &mut key);
        self.suite.cipher(&key)
    }

    fn is_master_key(&self, bytes: &[u8]) -> bool {
        let digest = self.digest_of(bytes);
        digest.ct_eq(&self.digest).into()
    }

    pub(super) fn digest_of(&self, key: &[u8]) -> [u8; 20] {
        let mut digest = [0; 20];
        let salt = &self.digest_salt;
        self.hash
            .derive(key, salt, self.digest_iterations, &mut digest);
        digest
    }
}
