//! Digests, held against those of the bytes themselves.

#![allow(clippy::unwrap_used, reason = "a test may")]

mod fake;

use diskette_convert::{Control, Digests, digest};
use diskette_core::{BlockReader, BlockReaderExt};
use fake::{Disk, KIB, MIB};
use sha2::{Digest, Sha256};

fn digests(disk: &dyn BlockReader) -> Digests {
    let mut found = Vec::new();
    for threads in [1, 2, 5] {
        let mut control = Control::default();
        control.threads = Some(threads);
        found.push(digest(disk, &control).unwrap());
    }
    assert!(found.windows(2).all(|pair| pair[0] == pair[1]));
    found[0]
}

#[test]
fn a_disk_of_all_kinds_of_extents_is_digested_as_its_bytes_are() {
    let disk = Disk::default()
        .data(9 * MIB + 512)
        .hole(MIB)
        .compressed(2 * MIB, 5)
        .zeros(100)
        .data_of_zeros(3 * MIB)
        .data(KIB)
        .hole(300 * MIB)
        .data(1);
    let bytes = disk
        .read_vec(0, usize::try_from(disk.size()).unwrap())
        .unwrap();
    let found = digests(&disk);
    assert_eq!(found.sha256[..], Sha256::digest(&bytes)[..]);
    assert_eq!(found.blake3, *blake3::hash(&bytes).as_bytes());
}

#[test]
fn an_empty_disk_has_the_digests_of_nothing() {
    let found = digests(&Disk::default());
    let sha256 = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    let blake3 = "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262";
    assert_eq!(found.sha256_hex().to_string(), sha256);
    assert_eq!(found.blake3_hex().to_string(), blake3);
}
