//! Sectors enciphered and deciphered.

use std::fmt;

use diskette_core::{Result, SECTOR, Storage, StorageExt};

use crate::algorithm::{Block, BlockCipher};
use crate::suite::{Iv, Mode, Suite};

/// Enciphers and deciphers sectors of 512 bytes, each by its number.
pub struct SectorCipher {
    suite: Suite,
    data: Box<dyn BlockCipher>,
    /// XTS's second key.
    tweak: Option<Box<dyn BlockCipher>>,
    /// ESSIV's key.
    essiv: Option<Box<dyn BlockCipher>>,
}

impl SectorCipher {
    /// `key` has the suite's length of key; ESSIV's hash has been found to fit.
    pub(crate) fn new(suite: &Suite, key: &[u8]) -> Self {
        let algorithm = suite.algorithm;
        let (data, tweak) = key.split_at(algorithm.key_len);
        let essiv = match (suite.iv, suite.essiv_algorithm()) {
            (Iv::Essiv(hash), Some(of_iv)) => Some(of_iv.keyed(&hash.digest(&[key]))),
            _ => None,
        };
        Self {
            suite: *suite,
            data: algorithm.keyed(data),
            tweak: (suite.mode == Mode::Xts).then(|| algorithm.keyed(tweak)),
            essiv,
        }
    }

    /// Enciphers whole sectors, the first of which has the number `first`. The last may be shorter, in whole blocks of
    /// 16 bytes.
    pub fn encrypt(&self, sectors: &mut [u8], first: u64) {
        for (number, sector) in (first..).zip(sectors.chunks_mut(SECTOR_LEN)) {
            let (blocks, rest) = sector.as_chunks_mut();
            debug_assert!(rest.is_empty(), "a sector is whole blocks");
            match &self.tweak {
                Some(tweak) => self.xts(blocks, &**tweak, number, |data, blocks| {
                    data.encrypt(blocks);
                }),
                None => self.encrypt_cbc(blocks, number),
            }
        }
    }

    /// Deciphers whole sectors: see [`encrypt`](Self::encrypt).
    pub fn decrypt(&self, sectors: &mut [u8], first: u64) {
        for (number, sector) in (first..).zip(sectors.chunks_mut(SECTOR_LEN)) {
            let (blocks, rest) = sector.as_chunks_mut();
            debug_assert!(rest.is_empty(), "a sector is whole blocks");
            match &self.tweak {
                Some(tweak) => self.xts(blocks, &**tweak, number, |data, blocks| {
                    data.decrypt(blocks);
                }),
                None => self.decrypt_cbc(blocks, number),
            }
        }
    }

    /// Fills `buf` with what is stored enciphered at host offset `at`. The sector that holds the byte at the offset
    /// `numbered` has that offset's number; it must lie as deep in its sector as `at` does. What is missing at the
    /// storage's end is taken for zeros, and deciphered.
    pub fn read(
        &self,
        storage: &dyn Storage,
        buf: &mut [u8],
        at: u64,
        numbered: u64,
    ) -> Result<()> {
        debug_assert_eq!(at % SECTOR, numbered % SECTOR);
        let within = usize::try_from(at % SECTOR).unwrap_or(0);
        let len = buf.len();
        if within == 0 && len.is_multiple_of(SECTOR_LEN) {
            storage.read_padded(buf, at)?;
            self.decrypt(buf, numbered / SECTOR);
            return Ok(());
        }
        let mut sectors = vec![0; (within + len).next_multiple_of(SECTOR_LEN)];
        storage.read_padded(&mut sectors, at - within as u64)?;
        self.decrypt(&mut sectors, numbered / SECTOR);
        buf.copy_from_slice(&sectors[within..within + len]);
        Ok(())
    }

    fn iv(&self, number: u64) -> Block {
        let number = match self.suite.iv {
            Iv::Plain => number & u64::from(u32::MAX),
            Iv::Plain64 | Iv::Essiv(_) => number,
        };
        let mut iv = u128::from(number).to_le_bytes();
        if let Some(essiv) = &self.essiv {
            essiv.encrypt(std::slice::from_mut(&mut iv));
        }
        iv
    }

    /// Each block is mixed with its tweak before and after (IEEE 1619, 5.3): the tweaks of a sector are the powers of
    /// two, in the field of 2^128 elements, of its enciphered IV.
    fn xts(
        &self,
        blocks: &mut [Block],
        tweak: &dyn BlockCipher,
        number: u64,
        run: impl Fn(&dyn BlockCipher, &mut [Block]),
    ) {
        let mut first = self.iv(number);
        tweak.encrypt(std::slice::from_mut(&mut first));
        let mut tweaks = [0; BLOCKS];
        let mut next = u128::from_le_bytes(first);
        for tweak in &mut tweaks {
            *tweak = next;
            let carried = if next >> 127 == 1 { 0x87 } else { 0 };
            next = next << 1 ^ carried;
        }
        let mix = |blocks: &mut [Block]| {
            for (block, tweak) in blocks.iter_mut().zip(&tweaks) {
                *block = (u128::from_le_bytes(*block) ^ tweak).to_le_bytes();
            }
        };
        mix(blocks);
        run(&*self.data, blocks);
        mix(blocks);
    }

    fn encrypt_cbc(&self, blocks: &mut [Block], number: u64) {
        let mut before = self.iv(number);
        for block in blocks {
            *block = xor(*block, before);
            self.data.encrypt(std::slice::from_mut(block));
            before = *block;
        }
    }

    fn decrypt_cbc(&self, blocks: &mut [Block], number: u64) {
        let mut before = [[0; 16]; BLOCKS];
        before[0] = self.iv(number);
        for (before, block) in before[1..].iter_mut().zip(&*blocks) {
            *before = *block;
        }
        self.data.decrypt(blocks);
        for (block, before) in blocks.iter_mut().zip(before) {
            *block = xor(*block, before);
        }
    }
}

/// Bytes of a sector.
pub(crate) const SECTOR_LEN: usize = 512;
/// Blocks of a sector.
const BLOCKS: usize = SECTOR_LEN / 16;

fn xor(left: Block, right: Block) -> Block {
    (u128::from_le_bytes(left) ^ u128::from_le_bytes(right)).to_le_bytes()
}

impl fmt::Debug for SectorCipher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SectorCipher").field(&self.suite).finish()
    }
}

#[cfg(test)]
mod tests {
    use diskette_storage::MemoryStorage;

    use super::*;
    use crate::legacy_aes;

    fn bytes(hexadecimal: &str) -> Vec<u8> {
        let digits: Vec<u32> = hexadecimal.chars().filter_map(|c| c.to_digit(16)).collect();
        digits
            .chunks(2)
            .map(|pair| u8::try_from(pair[0] * 16 + pair[1]).unwrap())
            .collect()
    }

    fn suite(name: &str, mode: &str, key_len: u64) -> Suite {
        Suite::of_luks(name, mode, key_len).unwrap()
    }

    /// IEEE 1619, appendix B: vectors 2 and 4 (the first 64 bytes), of 32-byte and 512-byte units.
    #[test]
    fn xts_is_as_its_standard_has_it() {
        let key = [[0x11; 16], [0x22; 16]].concat();
        let cipher = suite("aes", "xts-plain64", 32).cipher(&key);
        let mut data = [0x44; 32];
        cipher.encrypt(&mut data, 0x33_3333_3333);
        assert_eq!(
            data.to_vec(),
            bytes("c454185e6a16936e39334038acef838bfb186fff7480adc4289382ecd6d394f0")
        );

        let key = bytes("2718281828459045235360287471352631415926535897932384626433832795");
        let cipher = suite("aes", "xts-plain64", 32).cipher(&key);
        let mut data: Vec<u8> = (0..=255).chain(0..=255).collect();
        cipher.encrypt(&mut data, 0);
        assert_eq!(
            data[..64],
            bytes(
                "27a7479befa1d476489f308cd4cfa6e2a96e4bbe3208ff25287dd3819616e89c\
                 c78cf7f5e543445f8333d8fa7f56000005279fa5d8b5e4ad40e736ddb4d35412"
            )
        );
        cipher.decrypt(&mut data, 0);
        assert_eq!(data[..3], [0, 1, 2]);
    }

    /// Captured from qemu-img, and found again by an independent program.
    #[test]
    fn old_aes_is_as_qemu_has_it() {
        let cipher = legacy_aes(b"hunter2");
        let mut data = [0x41; 1024];
        cipher.encrypt(&mut data, 128);
        assert_eq!(data[..16], bytes("e94d554053c9dfcb626fc2173204e0a3"));
        assert_eq!(data[512..528], bytes("94f0fee846bf58d3925319e0745a4f7f"));
    }

    #[test]
    fn every_suite_finds_back_what_it_enciphered() {
        for name in ["aes", "serpent", "twofish"] {
            for mode in [
                "xts-plain64",
                "xts-plain",
                "cbc-plain64",
                "cbc-essiv:sha256",
            ] {
                for key_len in [16, 24, 32] {
                    let key_len = if mode.starts_with("xts") {
                        2 * key_len
                    } else {
                        key_len
                    };
                    let key: Vec<u8> = (0..key_len).map(|at| u8::try_from(at).unwrap()).collect();
                    let cipher = suite(name, mode, key_len).cipher(&key);
                    let plain: Vec<u8> = (0..=255).cycle().take(2048).collect();
                    let mut data = plain.clone();
                    cipher.encrypt(&mut data, 7);
                    assert_ne!(data[..512], data[512..1024]);
                    let storage = MemoryStorage::new(data.clone());
                    let mut part = vec![0; 600];
                    cipher
                        .read(&storage, &mut part, 700, 7 * 512 + 700)
                        .unwrap();
                    assert_eq!(part, plain[700..1300]);
                    cipher.decrypt(&mut data, 7);
                    assert!(data == plain, "{name} {mode} {key_len}");
                }
            }
        }
    }

    #[test]
    fn plain_forgets_what_plain64_keeps() {
        let key = [7; 32];
        let enciphered = |mode, number| {
            let mut data = [0; 16];
            suite("aes", mode, 32)
                .cipher(&key)
                .encrypt(&mut data, number);
            data
        };
        assert_eq!(
            enciphered("cbc-plain", 1),
            enciphered("cbc-plain", 1 << 32 | 1)
        );
        assert_ne!(
            enciphered("cbc-plain64", 1),
            enciphered("cbc-plain64", 1 << 32 | 1)
        );
        assert_eq!(enciphered("cbc-plain", 9), enciphered("cbc-plain64", 9));
    }
}
