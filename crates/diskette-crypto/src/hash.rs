//! Hashes by their names, and keys derived by them.

use hmac::{EagerHash, digest::Digest};
use ripemd::Ripemd160;
use sha1::Sha1;
use sha2::{Sha224, Sha256, Sha384, Sha512};
use zeroize::Zeroizing;

/// A hash that LUKS headers name. Complete by nature: these are what there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hash {
    /// "sha1".
    Sha1,
    /// "sha224".
    Sha224,
    /// "sha256".
    Sha256,
    /// "sha384".
    Sha384,
    /// "sha512".
    Sha512,
    /// "ripemd160".
    Ripemd160,
}

/// Calls a generic function with the hash's own type.
macro_rules! with_hash {
    ($hash:expr, $function:ident ( $($argument:expr),* )) => {
        match $hash {
            Hash::Sha1 => $function::<Sha1>($($argument),*),
            Hash::Sha224 => $function::<Sha224>($($argument),*),
            Hash::Sha256 => $function::<Sha256>($($argument),*),
            Hash::Sha384 => $function::<Sha384>($($argument),*),
            Hash::Sha512 => $function::<Sha512>($($argument),*),
            Hash::Ripemd160 => $function::<Ripemd160>($($argument),*),
        }
    };
}

impl Hash {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Sha1,
        Self::Sha224,
        Self::Sha256,
        Self::Sha384,
        Self::Sha512,
        Self::Ripemd160,
    ];

    /// The hash of this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|hash| hash.name() == name)
    }

    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sha1 => "sha1",
            Self::Sha224 => "sha224",
            Self::Sha256 => "sha256",
            Self::Sha384 => "sha384",
            Self::Sha512 => "sha512",
            Self::Ripemd160 => "ripemd160",
        }
    }

    /// Bytes of a digest.
    #[must_use]
    pub fn digest_len(self) -> usize {
        with_hash!(self, output_len())
    }

    /// The digest of several pieces, one after another.
    pub(crate) fn digest(self, pieces: &[&[u8]]) -> Zeroizing<Vec<u8>> {
        with_hash!(self, digest(pieces))
    }

    /// Fills `key` with what PBKDF2 with HMAC (RFC 8018) makes of a passphrase.
    pub(crate) fn derive(self, passphrase: &[u8], salt: &[u8], iterations: u32, key: &mut [u8]) {
        with_hash!(self, derive(passphrase, salt, iterations, key));
    }
}

fn output_len<D: Digest>() -> usize {
    <D as Digest>::output_size()
}

fn digest<D: Digest>(pieces: &[&[u8]]) -> Zeroizing<Vec<u8>> {
    let mut digest = D::new();
    for piece in pieces {
        digest.update(piece);
    }
    Zeroizing::new(digest.finalize().to_vec())
}

fn derive<D: EagerHash>(passphrase: &[u8], salt: &[u8], iterations: u32, key: &mut [u8]) {
    pbkdf2::pbkdf2_hmac::<D>(passphrase, salt, iterations, key);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn derived(hash: Hash, passphrase: &str, salt: &str, iterations: u32, len: usize) -> String {
        let mut key = vec![0; len];
        hash.derive(passphrase.as_bytes(), salt.as_bytes(), iterations, &mut key);
        key.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// RFC 6070, and the same inputs with SHA-256 and SHA-512.
    #[test]
    fn keys_are_derived_as_known() {
        assert_eq!(
            derived(Hash::Sha1, "password", "salt", 4096, 20),
            "4b007901b765489abead49d926f721d065a429c1"
        );
        assert_eq!(
            derived(
                Hash::Sha1,
                "passwordPASSWORDpassword",
                "saltSALTsaltSALTsaltSALTsaltSALTsalt",
                4096,
                25
            ),
            "3d2eec4fe41c849b80c8d83662c0e44a8b291a964cf2f07038"
        );
        assert_eq!(
            derived(Hash::Sha256, "password", "salt", 4096, 32),
            "c5e478d59288c841aa530db6845c4c8d962893a001ce4e11a4963873aa98134a"
        );
        assert_eq!(
            derived(Hash::Sha512, "password", "salt", 1, 64),
            "867f70cf1ade02cff3752599a3a53dc4af34c7a669815ae5d513554e1c8cf252\
             c02d470a285a0501bad999bfe943c08f050235d7d68b1da55e63f73b60a57fce"
        );
    }

    #[test]
    fn hashes_have_their_names_and_lengths() {
        for (name, len) in [
            ("sha1", 20),
            ("sha224", 28),
            ("sha512", 64),
            ("ripemd160", 20),
        ] {
            assert_eq!(Hash::named(name).unwrap().digest_len(), len);
        }
        assert_eq!(Hash::named("md5"), None);
    }
}
