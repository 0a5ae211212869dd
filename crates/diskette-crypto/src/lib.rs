//! Encrypted disk images: the ciphers of sectors, LUKS1 headers with their key slots, and QCOW2's old AES.
//!
//! | what | |
//! | --- | --- |
//! | ciphers | AES and Serpent and Twofish, each with keys of 128, 192 and 256 bits |
//! | modes | XTS and CBC, with the IVs plain, plain64 and ESSIV |
//! | hashes | SHA-1, SHA-2 (224 to 512), RIPEMD-160 |
//! | LUKS version 1 | read, made, its key slots changed |
//! | LUKS version 2, detached headers | no |
//!
//! ```text
//!  passphrase ─ PBKDF2 ─► slot's key ─► stripes deciphered ─ merged ─► master key ─► SectorCipher
//! ```
//!
//! Primitives are RustCrypto's. Keys are overwritten when they are no longer needed, and compared in a time that does
//! not depend on what they are. Where bytes are random (master key, salts, UUID) two images made alike differ; nothing
//! else does.

#![forbid(unsafe_code)]

mod algorithm;
mod asked;
mod hash;
pub mod luks;
mod sector;
mod split;
mod storage;
mod suite;

pub use asked::SecretOption;
pub use hash::Hash;
pub use sector::SectorCipher;
pub use storage::EncryptedStorage;
pub use suite::{Iv, Mode, Suite};

pub use algorithm::Algorithm;

/// The cipher of QCOW2's old encryption (`crypt_method` 1): AES-128 in CBC, with the first 16 bytes of the passphrase as
/// the key. Sectors are numbered by their guest offset. Nothing tells a wrong passphrase from a right one.
#[must_use]
pub fn legacy_aes(passphrase: &[u8]) -> SectorCipher {
    let mut key = zeroize::Zeroizing::new([0; 16]);
    for (to, from) in key.iter_mut().zip(passphrase) {
        *to = *from;
    }
    Suite::LEGACY_AES.cipher(&*key)
}
