//! The bytes of a LUKS1 header. All numbers are big-endian; texts are padded with zeros.

use zerocopy::big_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// "partition header" ("phdr").
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct Header {
    /// [`MAGIC`].
    pub magic: [u8; 6],
    /// 1.
    pub version: U16,
    /// "aes" ...
    pub cipher_name: [u8; 32],
    /// "xts-plain64", "cbc-essiv:sha256" ...
    pub cipher_mode: [u8; 32],
    /// "sha256" ...
    pub hash_spec: [u8; 32],
    /// In sectors.
    pub payload_offset: U32,
    /// Bytes of the master key.
    pub key_bytes: U32,
    /// PBKDF2 of the master key, to tell a right one from a wrong one.
    pub mk_digest: [u8; 20],
    /// Its salt.
    pub mk_digest_salt: [u8; 32],
    /// Its iterations.
    pub mk_digest_iter: U32,
    /// Text.
    pub uuid: [u8; 40],
    /// "key slots".
    pub slots: [Slot; SLOTS],
}

/// "key slot".
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct Slot {
    /// [`ACTIVE`] or [`INACTIVE`].
    pub active: U32,
    /// Iterations of PBKDF2.
    pub iterations: U32,
    /// Salt of PBKDF2.
    pub salt: [u8; 32],
    /// In sectors.
    pub key_material_offset: U32,
    /// [`STRIPES`].
    pub stripes: U32,
}

/// The signature.
pub(crate) const MAGIC: [u8; 6] = *b"LUKS\xba\xbe";
/// The version.
pub(crate) const VERSION: u16 = 1;
/// Key slots of a header.
pub(crate) const SLOTS: usize = 8;
/// A slot that holds the master key.
pub(crate) const ACTIVE: u32 = 0x00ac_71f3;
/// A slot that does not.
pub(crate) const INACTIVE: u32 = 0x0000_dead;
/// Stripes of the split key.
pub(crate) const STRIPES: u32 = 4000;
/// The sector where the first slot's material begins; the others' begin at multiples of it.
pub(crate) const ALIGN_SECTORS: u32 = 8;
/// Fewest iterations.
pub(crate) const ITERATIONS_MIN: u32 = 1000;
/// The header's bytes, rounded up to whole sectors.
pub(crate) const HEADER_SECTORS_LEN: u64 = 1024;
/// Where the first slot lies within the header.
pub(crate) const SLOTS_OFFSET: u64 = 208;
/// Bytes of a slot.
pub(crate) const SLOT_LEN: u64 = 48;

const _: () = assert!(size_of::<Header>() == 592 && size_of::<Slot>() as u64 == SLOT_LEN);
const _: () = assert!(std::mem::offset_of!(Header, slots) as u64 == SLOTS_OFFSET);
