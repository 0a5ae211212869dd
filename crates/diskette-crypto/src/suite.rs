//! Cipher, mode and IV, by the names that LUKS headers and qemu-img have for them.

use diskette_core::{Error, Result};

use crate::algorithm::Family;
use crate::{Algorithm, Hash, SectorCipher};

/// How sectors are enciphered. Complete by nature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Suite {
    /// The block cipher.
    pub algorithm: Algorithm,
    /// How blocks follow one another in a sector.
    pub mode: Mode,
    /// How sectors differ from one another.
    pub iv: Iv,
}

/// How the blocks of a sector are enciphered. Complete by nature: these are what there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// "xts": two keys, and a tweak that differs from block to block (IEEE 1619).
    Xts,
    /// "cbc": each block is mixed with the one before it.
    Cbc,
}

/// What a sector's number becomes. Complete by nature: these are what there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Iv {
    /// "plain": the lower 32 bits of the number.
    Plain,
    /// "plain64": the number.
    Plain64,
    /// "essiv": the number, enciphered with a hash of the key.
    Essiv(Hash),
}

impl Suite {
    /// What qemu-img takes where it is told nothing.
    pub const DEFAULT: Self = Self {
        algorithm: Algorithm {
            family: Family::Aes,
            key_len: 32,
        },
        mode: Mode::Xts,
        iv: Iv::Plain64,
    };

    pub(crate) const LEGACY_AES: Self = Self {
        algorithm: Algorithm {
            family: Family::Aes,
            key_len: 16,
        },
        mode: Mode::Cbc,
        iv: Iv::Plain64,
    };

    /// What a LUKS header names: "aes", "xts-plain64", and the bytes of its key.
    pub fn of_luks(cipher_name: &str, cipher_mode: &str, key_len: u64) -> Result<Self> {
        let unsupported = || {
            let bits = key_len.saturating_mul(8);
            Error::unsupported(
                "luks",
                format!(
                    "the cipher {}-{} with a key of {bits} bits",
                    cipher_name.escape_debug(),
                    cipher_mode.escape_debug()
                ),
            )
        };
        let (mode, iv) = cipher_mode.split_once('-').ok_or_else(unsupported)?;
        let mode = Mode::named(mode).ok_or_else(unsupported)?;
        let (iv, hash) = match iv.split_once(':') {
            Some((iv, hash)) => (iv, Some(hash)),
            None => (iv, None),
        };
        let iv = Iv::named(iv, hash).ok_or_else(unsupported)?;
        let keys = mode.keys() as u64;
        let key_len = key_len.is_multiple_of(keys).then_some(key_len / keys);
        let key_len = key_len.and_then(|len| usize::try_from(len).ok());
        let algorithm = key_len.and_then(|len| Algorithm::new(cipher_name, len));
        let suite = Self {
            algorithm: algorithm.ok_or_else(unsupported)?,
            mode,
            iv,
        };
        if suite.essiv_algorithm().is_none() {
            return Err(unsupported());
        }
        Ok(suite)
    }

    /// Its mode and IV, as a LUKS header has them: "xts-plain64".
    #[must_use]
    pub fn luks_mode(&self) -> String {
        match self.iv {
            Iv::Plain | Iv::Plain64 => format!("{}-{}", self.mode.name(), self.iv.name()),
            Iv::Essiv(hash) => format!("{}-essiv:{}", self.mode.name(), hash.name()),
        }
    }

    /// Bytes of the master key.
    #[must_use]
    pub const fn key_len(&self) -> usize {
        self.algorithm.key_len * self.mode.keys()
    }

    /// The cipher with a key of [`key_len`](Self::key_len) bytes.
    pub(crate) fn cipher(&self, key: &[u8]) -> SectorCipher {
        SectorCipher::new(self, key)
    }

    /// The cipher by which ESSIV makes IVs: the hash is its key. `None` where the hash has no fitting length.
    pub(crate) fn essiv_algorithm(&self) -> Option<Algorithm> {
        match self.iv {
            Iv::Plain | Iv::Plain64 => Some(self.algorithm),
            Iv::Essiv(hash) => Algorithm::new(self.algorithm.family(), hash.digest_len()),
        }
    }
}

impl Mode {
    /// The mode of this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        let mut all = [Self::Xts, Self::Cbc].into_iter();
        all.find(|mode| mode.name() == name)
    }

    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Xts => "xts",
            Self::Cbc => "cbc",
        }
    }

    /// How many keys it takes.
    pub(crate) const fn keys(self) -> usize {
        match self {
            Self::Xts => 2,
            Self::Cbc => 1,
        }
    }
}

impl Iv {
    /// The IV of this name; the hash is ESSIV's.
    #[must_use]
    pub fn named(name: &str, hash: Option<&str>) -> Option<Self> {
        match (name, hash) {
            ("plain", None) => Some(Self::Plain),
            ("plain64", None) => Some(Self::Plain64),
            ("essiv", Some(hash)) => Hash::named(hash).map(Self::Essiv),
            _ => None,
        }
    }

    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Plain64 => "plain64",
            Self::Essiv(_) => "essiv",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suites_have_the_names_of_luks() {
        for (name, mode, key_len) in [
            ("aes", "xts-plain64", 64),
            ("aes", "xts-plain", 32),
            ("serpent", "cbc-plain64", 24),
            ("twofish", "cbc-essiv:sha256", 32),
        ] {
            let suite = Suite::of_luks(name, mode, key_len).unwrap();
            assert_eq!(suite.algorithm.family(), name);
            assert_eq!(suite.luks_mode(), mode);
            assert_eq!(suite.key_len() as u64, key_len);
        }
    }

    #[test]
    fn what_is_not_supported_is_told_by_its_name() {
        for (name, mode, key_len) in [
            ("cast5", "cbc-plain64", 16),
            ("aes", "ctr-plain64", 32),
            ("aes", "xts-plain64", 33),
            ("aes", "cbc-essiv:sha1", 32),
            ("aes", "ecb", 32),
            ("aes", "cbc-essiv", 32),
        ] {
            let error = Suite::of_luks(name, mode, key_len).unwrap_err();
            let bits = key_len * 8;
            assert_eq!(
                error.to_string(),
                format!(
                    "luks: the cipher {name}-{mode} with a key of {bits} bits is not supported"
                )
            );
        }
    }
}
