//! New headers, and the material of slots.

use std::time::{Duration, Instant};

use diskette_core::{Result, SECTOR};
use zerocopy::IntoBytes;
use zeroize::Zeroizing;

use super::header::{Header, Slot, SlotKey, padded};
use super::{MasterKey, random, spec};
use crate::split::split;
use crate::{Hash, Suite};

/// What a new header is to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct NewLuks {
    /// How the payload is enciphered.
    pub suite: Suite,
    /// By which keys are derived and stripes mixed.
    pub hash: Hash,
    /// How much it costs to try a passphrase.
    pub iterations: Iterations,
}

/// How often PBKDF2 goes over a passphrase. Complete by nature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Iterations {
    /// So often that it takes this long on this machine; an eighth of it for the master key's digest.
    Time(Duration),
    /// This often, for the master key's digest too.
    Fixed(u32),
}

impl Default for NewLuks {
    fn default() -> Self {
        Self {
            suite: Suite::DEFAULT,
            hash: Hash::Sha256,
            iterations: Iterations::Time(Duration::from_secs(2)),
        }
    }
}

impl NewLuks {
    /// Bytes of the header and of all slots' material: where the payload begins.
    #[must_use]
    pub const fn header_len(&self) -> u64 {
        let slots = spec::SLOTS as u64 * self.slot_sectors() as u64;
        (spec::ALIGN_SECTORS as u64 + slots) * SECTOR
    }

    /// A new header whose first slot a passphrase opens: its bytes, up to the end of that slot's material (what follows
    /// is free), and the master key.
    pub fn create(&self, passphrase: &[u8]) -> Result<(Vec<u8>, Header, MasterKey)> {
        let mut key = Zeroizing::new(vec![0; self.suite.key_len()]);
        random(&mut key)?;
        let mut header = self.header()?;
        header.digest = header.digest_of(&key);
        let key = MasterKey {
            bytes: key,
            slot: 0,
        };
        let (slot, material) = header.seal(&key, passphrase, self.iterations)?;
        header.slots[0].key = Some(slot);
        let mut bytes = header.to_raw().as_bytes().to_vec();
        // Sector 8.
        bytes.resize(
            usize::try_from(header.slots[0].material_offset).unwrap_or(0),
            0,
        );
        bytes.extend_from_slice(&material);
        Ok((bytes, header, key))
    }

    fn header(&self) -> Result<Header> {
        let mut digest_salt = [0; 32];
        random(&mut digest_salt)?;
        let mut uuid = [0; 16];
        random(&mut uuid)?;
        let slot_len = u64::from(self.slot_sectors()) * SECTOR;
        let first = u64::from(spec::ALIGN_SECTORS) * SECTOR;
        let digest_iterations = match self.iterations {
            Iterations::Time(time) => iterations_in(time / 8, self.hash, 20),
            Iterations::Fixed(count) => count.max(1),
        };
        Ok(Header {
            suite: self.suite,
            hash: self.hash,
            payload_offset: self.header_len(),
            digest_iterations,
            uuid: uuid::Builder::from_random_bytes(uuid)
                .into_uuid()
                .to_string(),
            digest: [0; 20],
            digest_salt,
            slots: std::array::from_fn(|number| Slot {
                key: None,
                material_offset: first + number as u64 * slot_len,
            }),
        })
    }

    /// Sectors from one slot's material to the next's.
    #[expect(
        clippy::cast_possible_truncation,
        reason = "a key has at most 64 bytes"
    )]
    const fn slot_sectors(&self) -> u32 {
        let len = self.suite.key_len() as u32 * spec::STRIPES;
        len.div_ceil(512).next_multiple_of(spec::ALIGN_SECTORS)
    }
}

impl Header {
    /// What a slot needs to hold the master key for a passphrase: its entry, and its material.
    pub(super) fn seal(
        &self,
        key: &MasterKey,
        passphrase: &[u8],
        iterations: Iterations,
    ) -> Result<(SlotKey, Zeroizing<Vec<u8>>)> {
        let mut salt = [0; 32];
        random(&mut salt)?;
        let iterations = match iterations {
            Iterations::Time(time) => iterations_in(time, self.hash, self.suite.key_len()),
            Iterations::Fixed(count) => count.max(1),
        };
        let cipher = self.slot_cipher(passphrase, &salt, iterations);
        let mut material = split(&key.bytes, spec::STRIPES as usize, self.hash)?;
        cipher.encrypt(&mut material, 0);
        Ok((SlotKey { iterations, salt }, material))
    }

    /// The header's bytes.
    pub(super) fn to_raw(&self) -> spec::Header {
        spec::Header {
            magic: spec::MAGIC,
            version: spec::VERSION.into(),
            cipher_name: padded(self.suite.algorithm.family()),
            cipher_mode: padded(&self.suite.luks_mode()),
            hash_spec: padded(self.hash.name()),
            payload_offset: sectors(self.payload_offset).into(),
            key_bytes: u32::try_from(self.suite.key_len())
                .unwrap_or(u32::MAX)
                .into(),
            mk_digest: self.digest,
            mk_digest_salt: self.digest_salt,
            mk_digest_iter: self.digest_iterations.into(),
            uuid: padded(&self.uuid),
            slots: std::array::from_fn(|number| self.slots[number].to_raw()),
        }
    }
}

impl Slot {
    pub(super) fn to_raw(&self) -> spec::Slot {
        let (active, iterations, salt) = match &self.key {
            Some(key) => (spec::ACTIVE, key.iterations, key.salt),
            None => (spec::INACTIVE, 0, [0; 32]),
        };
        spec::Slot {
            active: active.into(),
            iterations: iterations.into(),
            salt,
            key_material_offset: sectors(self.material_offset).into(),
            stripes: spec::STRIPES.into(),
        }
    }
}

/// A byte offset that was made of a number of sectors.
fn sectors(offset: u64) -> u32 {
    u32::try_from(offset / SECTOR).unwrap_or(u32::MAX)
}

/// How many iterations take so long here.
fn iterations_in(time: Duration, hash: Hash, key_len: usize) -> u32 {
    const LONG_ENOUGH: Duration = Duration::from_millis(50);
    let mut key = Zeroizing::new(vec![0; key_len]);
    let mut count = 2000;
    loop {
        let start = Instant::now();
        hash.derive(b"passphrase", &[0; 32], count, &mut key);
        let taken = start.elapsed();
        if taken >= LONG_ENOUGH || count >= 1 << 28 {
            let wanted = u128::from(count) * time.as_nanos() / taken.as_nanos().max(1);
            let wanted = u32::try_from(wanted).unwrap_or(u32::MAX);
            return wanted.max(spec::ITERATIONS_MIN);
        }
        count *= 2;
    }
}
