//! What a witness sees of a conversion, held against the disk itself.

#![allow(clippy::unwrap_used, reason = "a test may")]

mod fake;

use diskette_convert::{Control, ConvertOptions, Pieces, Witness, convert, pieces};
use diskette_core::{BlockReader, BlockReaderExt};
use fake::{Disk, Image, KIB, MIB};
use sha2::{Digest, Sha256};

fn disk(last: u64) -> Disk {
    Disk::default()
        .data(3 * MIB + 512)
        .hole(MIB)
        .compressed(2 * MIB, 5)
        .zeros(100)
        .data_of_zeros(3 * MIB)
        .data(KIB)
        .hole(30 * MIB)
        .data(last)
        .hole(70 * KIB)
}

fn seen(disk: &Disk, chunk: u32, threads: usize) -> (Option<[u8; 32]>, Pieces) {
    let witness = Witness::new();
    let mut options = ConvertOptions::default();
    options.control.threads = Some(threads);
    options.witness = Some(&witness);
    convert(disk, Box::new(Image::new(chunk)), &options).unwrap();
    let sha256 = witness.sha256(disk.size(), &options.control).unwrap();
    (sha256, witness.pieces())
}

fn found(disk: &Disk, threads: usize) -> Pieces {
    let mut control = Control::default();
    control.threads = Some(threads);
    pieces(disk, &control).unwrap()
}

#[test]
fn a_witness_knows_the_disk_whatever_the_chunks_and_the_threads() {
    let disk = disk(7);
    let size = usize::try_from(disk.size()).unwrap();
    let bytes = disk.read_vec(0, size).unwrap();
    for (chunk, threads) in [(64 << 10, 1), (64 << 10, 3), (2 << 20, 2), (8 << 20, 2)] {
        let (sha256, pieces) = seen(&disk, chunk, threads);
        assert_eq!(sha256, Some(Sha256::digest(&bytes).into()), "{chunk}");
        assert_eq!(pieces, found(&disk, threads), "{chunk}");
    }
}

#[test]
fn one_byte_more_of_data_is_another_disk() {
    assert_ne!(found(&disk(7), 1), found(&disk(8), 1));
    let moved = Disk::default().hole(64 * KIB).data(KIB).hole(MIB);
    let other = Disk::default().data(KIB).hole(MIB + 64 * KIB);
    assert_ne!(found(&moved, 1), found(&other, 1));
}

#[test]
fn what_is_zero_counts_for_nothing_however_it_is_kept() {
    let hole = Disk::default().hole(5 * MIB).data(KIB);
    let stored = Disk::default().hole(MIB).data_of_zeros(4 * MIB).data(KIB);
    assert_eq!(found(&hole, 2), found(&stored, 2));
    assert_eq!(found(&Disk::default().hole(16 << 40), 1), Pieces::default());
}

#[test]
fn a_witness_of_smaller_chunks_is_refused() {
    let witness = Witness::new();
    let mut options = ConvertOptions::default();
    options.witness = Some(&witness);
    let image = Box::new(Image::new(4 << 10));
    assert!(convert(&disk(1), image, &options).is_err());
}

#[test]
fn who_cancels_does_not_wait_until_all_zeros_are_hashed() {
    let cancel = std::sync::atomic::AtomicBool::new(true);
    let mut control = Control::default();
    control.cancel = Some(&cancel);
    let witness = Witness::new();
    let size = 1 << 50;
    assert!(matches!(
        witness.sha256(size, &control),
        Err(diskette_core::Error::Cancelled)
    ));
}

#[test]
fn data_behind_a_hole_is_converted_while_its_zeros_are_hashed() {
    let disk = Disk::default().data(MIB).hole(1 << 50).data(MIB);
    let witness = Witness::new();
    let mut options = ConvertOptions::default();
    options.witness = Some(&witness);
    convert(&disk, Box::new(Image::new(2 << 20)), &options).unwrap();
    assert_eq!(witness.pieces(), found(&disk, 2));
    // Nobody waits for a petabyte of zeros.
    let cancel = std::sync::atomic::AtomicBool::new(true);
    let mut control = Control::default();
    control.cancel = Some(&cancel);
    assert!(matches!(
        witness.sha256(disk.size(), &control),
        Err(diskette_core::Error::Cancelled)
    ));
}
