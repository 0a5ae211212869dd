//! Anti-forensic splitting (LUKS1, "AF splitter"): a key becomes so many bytes that a few of them, lost for good, lose
//! the key.
//!
//! ```text
//!  stripes 1 .. n-1 are random;  d = H(.. H(H(s1) xor s2) .. xor sn-1);  stripe n = d xor key
//! ```

use diskette_core::Result;
use zeroize::Zeroizing;

use crate::Hash;
use crate::luks::random;

/// Splits a key into `stripes` stripes of its own length.
pub(crate) fn split(key: &[u8], stripes: usize, hash: Hash) -> Result<Zeroizing<Vec<u8>>> {
    let mut material = Zeroizing::new(vec![0; key.len() * stripes]);
    let (mixed, last) = material.split_at_mut(key.len() * stripes.saturating_sub(1));
    random(mixed)?;
    let before = condensed(mixed, key.len(), hash);
    for ((to, before), key) in last.iter_mut().zip(before.iter()).zip(key) {
        *to = before ^ key;
    }
    Ok(material)
}

/// Finds back a key of `key_len` bytes from its stripes.
pub(crate) fn merge(material: &[u8], key_len: usize, hash: Hash) -> Zeroizing<Vec<u8>> {
    let (mixed, last) = material.split_at(material.len().saturating_sub(key_len));
    let mut key = condensed(mixed, key_len, hash);
    mix(&mut key, last);
    key
}

/// What all stripes but the last come to.
fn condensed(stripes: &[u8], key_len: usize, hash: Hash) -> Zeroizing<Vec<u8>> {
    let mut condensed = Zeroizing::new(vec![0; key_len]);
    for stripe in stripes.chunks(key_len.max(1)) {
        mix(&mut condensed, stripe);
        diffuse(&mut condensed, hash);
    }
    condensed
}

fn mix(into: &mut [u8], stripe: &[u8]) {
    for (to, from) in into.iter_mut().zip(stripe) {
        *to ^= from;
    }
}

/// Each piece of a digest's length becomes the digest of its number and of itself; the last is cut.
fn diffuse(bytes: &mut [u8], hash: Hash) {
    for (number, piece) in (0_u32..).zip(bytes.chunks_mut(hash.digest_len())) {
        let digest = hash.digest(&[&number.to_be_bytes(), piece]);
        let len = piece.len();
        piece.copy_from_slice(&digest[..len]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_split_key_is_found_back() {
        for hash in Hash::ALL {
            for key_len in [16, 24, 64] {
                let key: Vec<u8> = (100..).take(key_len).collect();
                let mut material = split(&key, 50, hash).unwrap();
                assert_eq!(*merge(&material, key_len, hash), key);
                material[3] ^= 1;
                assert_ne!(*merge(&material, key_len, hash), key, "one bit is lost");
            }
        }
    }

    /// Reckoned by hand: one stripe before the last.
    #[test]
    fn two_stripes_are_merged_by_one_digest() {
        let stripes = [[1; 40], [2; 40]].concat();
        let first = Hash::Sha256.digest(&[&[0, 0, 0, 0], &[1; 32]]);
        let second = Hash::Sha256.digest(&[&[0, 0, 0, 1], &[1; 8]]);
        let mut expected = [&first[..], &second[..8]].concat();
        mix(&mut expected, &[2; 40]);
        assert_eq!(*merge(&stripes, 40, Hash::Sha256), expected);
    }
}
