//! From the header's bytes to values that need no further check.

use std::ops::Range;

use diskette_core::{Claim, Error, Field, Result, SECTOR, Storage, StorageExt};
use zerocopy::{FromBytes, FromZeros, IntoBytes};

use super::{FORMAT, spec};
use crate::{Hash, Suite};

/// A header that has been shown sound.
#[derive(Clone, Debug)]
pub struct Header {
    /// How the payload, and the slots' material, are enciphered.
    pub suite: Suite,
    /// By which keys are derived and stripes mixed.
    pub hash: Hash,
    /// Bytes from the header's beginning to the payload's; behind all material.
    pub payload_offset: u64,
    /// Iterations of the master key's digest.
    pub digest_iterations: u32,
    /// What tells this header from others: text.
    pub uuid: String,
    pub(super) digest: [u8; 20],
    pub(super) digest_salt: [u8; 32],
    pub(super) slots: [Slot; spec::SLOTS],
}

/// A key slot.
#[derive(Clone, Debug)]
pub struct Slot {
    /// What opens it; `None` where it holds no key.
    pub key: Option<SlotKey>,
    /// Bytes from the header's beginning to its material's.
    pub material_offset: u64,
}

/// How a slot's passphrase becomes its key. Complete by nature.
#[derive(Clone, Debug)]
pub struct SlotKey {
    /// Iterations of PBKDF2; not 0.
    pub iterations: u32,
    pub(super) salt: [u8; 32],
}

impl Header {
    /// The header at a host offset, of whose area `area_len` bytes belong to it and its material.
    pub fn read(storage: &dyn Storage, at: u64, area_len: u64) -> Result<Self> {
        let mut raw = spec::Header::new_zeroed();
        let len = size_of::<spec::Header>() as u64;
        let there = storage.read_padded(raw.as_mut_bytes(), at)? as u64;
        if there.min(area_len) < len {
            let claim = field("header's length", at, there.min(area_len));
            return Err(claim.malformed(format!("less than {len}")));
        }
        Self::parse(&raw, at, area_len)
    }

    /// Slots, the first of which is number 0.
    #[must_use]
    pub const fn slots(&self) -> &[Slot] {
        &self.slots
    }

    /// Bytes of a slot's material.
    pub(super) const fn material_len(&self) -> usize {
        self.suite.key_len() * spec::STRIPES as usize // at most 64 times 4000
    }

    fn parse(raw: &spec::Header, at: u64, area_len: u64) -> Result<Self> {
        if raw.magic != spec::MAGIC {
            let magic = String::from_utf8_lossy(&raw.magic);
            return Err(text_claim("magic", at, &magic, "not the signature of LUKS"));
        }
        if raw.version != spec::VERSION {
            let feature = format!("version {} (version at {:#x})", raw.version, at + 6);
            return Err(Error::unsupported(FORMAT, feature));
        }
        let cipher_name = text("cipher-name", at + 8, &raw.cipher_name)?;
        let cipher_mode = text("cipher-mode", at + 40, &raw.cipher_mode)?;
        let hash = text("hash-spec", at + 72, &raw.hash_spec)?;
        let suite = Suite::of_luks(cipher_name, cipher_mode, raw.key_bytes.get().into())?;
        let hash = Hash::named(hash).ok_or_else(|| {
            Error::unsupported(FORMAT, format!("the hash {}", hash.escape_debug()))
        })?;
        let digest_iterations = raw.mk_digest_iter.get();
        field("mk-digest-iter", at + 164, digest_iterations).within(1..=u32::MAX.into())?;
        let material_len = suite.key_len() as u64 * u64::from(spec::STRIPES);
        let payload_offset = u64::from(raw.payload_offset.get()) * SECTOR;
        let payload = field("payload-offset", at + 104, payload_offset);
        // The header itself is a sector and a part of another.
        payload
            .clone()
            .within(spec::HEADER_SECTORS_LEN..=area_len)?;

        let own = 0..spec::HEADER_SECTORS_LEN;
        let mut taken = vec![own];
        let mut slots = Vec::with_capacity(spec::SLOTS);
        for (number, raw) in raw.slots.iter().enumerate() {
            let at = at + spec::SLOTS_OFFSET + number as u64 * spec::SLOT_LEN;
            let slot = slot(raw, number, at)?;
            let material = slot.material_offset..slot.material_offset + material_len;
            let claim = field(
                format!("key-material-offset of slot {number}"),
                at + 40,
                slot.material_offset,
            );
            if taken.iter().any(|other| overlap(other, &material)) {
                return Err(
                    claim.malformed("the material overlaps the header's, or another slot's")
                );
            }
            claim.followed_by(material_len, payload_offset)?;
            taken.push(material);
            slots.push(slot);
        }
        let Ok(slots) = slots.try_into() else {
            unreachable!("as many slots as were read");
        };
        Ok(Self {
            suite,
            hash,
            payload_offset,
            digest_iterations,
            uuid: text("uuid", at + 168, &raw.uuid)?.to_owned(),
            digest: raw.mk_digest,
            digest_salt: raw.mk_digest_salt,
            slots,
        })
    }
}

fn slot(raw: &spec::Slot, number: usize, at: u64) -> Result<Slot> {
    let named = |name: &str| format!("{name} of slot {number}");
    field(named("stripes"), at + 44, raw.stripes).equal_to(spec::STRIPES.into())?;
    let key = match raw.active.get() {
        spec::INACTIVE => None,
        spec::ACTIVE => {
            field(named("iterations"), at + 4, raw.iterations).within(1..=u32::MAX.into())?;
            Some(SlotKey {
                iterations: raw.iterations.get(),
                salt: raw.salt,
            })
        }
        state => {
            let claim = field(named("active"), at, state);
            return Err(claim.malformed("neither 0xac71f3 nor 0xdead"));
        }
    };
    Ok(Slot {
        key,
        material_offset: u64::from(raw.key_material_offset.get()) * SECTOR,
    })
}

const fn overlap(left: &Range<u64>, right: &Range<u64>) -> bool {
    left.start < right.end && right.start < left.end
}

/// A text, which must end within its field.
fn text<'a>(name: &'static str, at: u64, padded: &'a [u8]) -> Result<&'a str> {
    let end = padded.iter().position(|byte| *byte == 0);
    let found = end.and_then(|end| str::from_utf8(padded.get(..end)?).ok());
    found.ok_or_else(|| {
        let shown = String::from_utf8_lossy(padded);
        text_claim(name, at, &shown, "no text that ends with a zero")
    })
}

fn text_claim(name: &'static str, at: u64, value: &str, why: &'static str) -> Error {
    Error::malformed(FORMAT, name, at, Claim::from(value), why)
}

fn field(name: impl Into<std::borrow::Cow<'static, str>>, at: u64, value: impl Into<u64>) -> Field {
    Field::new(FORMAT, name, at, value)
}

/// The bytes of a text, padded.
pub(super) fn padded<const N: usize>(text: &str) -> [u8; N] {
    let mut bytes = [0; N];
    for (to, from) in bytes.iter_mut().zip(text.bytes()) {
        *to = from;
    }
    bytes
}

/// The bytes of a header at a host offset, as they were stored.
pub(super) fn read_raw(storage: &dyn Storage, at: u64) -> Result<spec::Header> {
    let bytes = storage.read_vec(size_of::<spec::Header>(), at)?;
    let Ok(raw) = spec::Header::read_from_bytes(&bytes) else {
        unreachable!("as many bytes as were read");
    };
    Ok(raw)
}
