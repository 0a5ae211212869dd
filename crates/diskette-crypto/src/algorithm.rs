//! Block ciphers by their names and keys.

use cipher::array::Array;
use cipher::consts::U16;
use cipher::{BlockCipherDecrypt, BlockCipherEncrypt, KeyInit};

/// A block cipher with the length of its key. Complete by nature: these are what there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Algorithm {
    pub(crate) family: Family,
    /// 16, 24 or 32.
    pub(crate) key_len: usize,
}

/// Ciphers of blocks of 16 bytes, with keys of 16, 24 or 32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    Aes,
    Serpent,
    Twofish,
}

/// A block.
pub(crate) type Block = [u8; 16];

/// A block cipher with its key.
pub(crate) trait BlockCipher: Send + Sync {
    fn encrypt(&self, blocks: &mut [Block]);
    fn decrypt(&self, blocks: &mut [Block]);
}

impl Algorithm {
    /// The cipher of this name as a LUKS header has it ("aes"), with keys of `key_len` bytes.
    #[must_use]
    pub fn new(family: &str, key_len: usize) -> Option<Self> {
        let family = Family::ALL
            .into_iter()
            .find(|known| known.name() == family)?;
        matches!(key_len, 16 | 24 | 32).then_some(Self { family, key_len })
    }

    /// The cipher of this name as qemu-img has it: "aes-256".
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        let (family, bits) = name.split_once('-')?;
        let key_len = match bits {
            "128" => 16,
            "192" => 24,
            "256" => 32,
            _ => return None,
        };
        Self::new(family, key_len)
    }

    /// Its name as a LUKS header has it.
    #[must_use]
    pub const fn family(&self) -> &'static str {
        self.family.name()
    }

    /// Its name as qemu-img has it.
    #[must_use]
    pub fn name(&self) -> String {
        format!("{}-{}", self.family.name(), self.key_len * 8)
    }

    /// The cipher with a key, which must be of the right length.
    pub(crate) fn keyed(&self, key: &[u8]) -> Box<dyn BlockCipher> {
        debug_assert_eq!(key.len(), self.key_len);
        match (self.family, self.key_len) {
            (Family::Aes, 16) => keyed::<aes::Aes128>(key),
            (Family::Aes, 24) => keyed::<aes::Aes192>(key),
            (Family::Aes, _) => keyed::<aes::Aes256>(key),
            (Family::Serpent, _) => keyed::<serpent::Serpent>(key),
            (Family::Twofish, _) => keyed::<twofish::Twofish>(key),
        }
    }
}

impl Family {
    const ALL: [Self; 3] = [Self::Aes, Self::Serpent, Self::Twofish];

    const fn name(self) -> &'static str {
        match self {
            Self::Aes => "aes",
            Self::Serpent => "serpent",
            Self::Twofish => "twofish",
        }
    }
}

struct Keyed<C>(C);

fn keyed<C>(key: &[u8]) -> Box<dyn BlockCipher>
where
    C: KeyInit + BlockCipherEncrypt<BlockSize = U16> + BlockCipherDecrypt + Send + Sync + 'static,
{
    match C::new_from_slice(key) {
        Ok(cipher) => Box::new(Keyed(cipher)),
        Err(_) => unreachable!("an algorithm has a length of key that its cipher takes"),
    }
}

impl<C> BlockCipher for Keyed<C>
where
    C: BlockCipherEncrypt<BlockSize = U16> + BlockCipherDecrypt + Send + Sync,
{
    fn encrypt(&self, blocks: &mut [Block]) {
        self.0
            .encrypt_blocks(Array::cast_slice_from_core_mut(blocks));
    }

    fn decrypt(&self, blocks: &mut [Block]) {
        self.0
            .decrypt_blocks(Array::cast_slice_from_core_mut(blocks));
    }
}
