//! Comparisons, held against disks that are made for them.

#![allow(clippy::unwrap_used, reason = "a test may")]

mod fake;

use diskette_convert::{CompareError, CompareOptions, Comparison, Side, compare, data_len};
use diskette_core::BlockReader;
use fake::{Disk, KIB, MIB};

fn compared(left: &dyn BlockReader, right: &dyn BlockReader, strict: bool) -> Comparison {
    let mut found = Vec::new();
    for threads in [1, 2, 5] {
        let mut options = CompareOptions::default();
        options.strict = strict;
        options.control.threads = Some(threads);
        found.push(compare(left, right, &options).unwrap());
    }
    assert!(found.windows(2).all(|pair| pair[0] == pair[1]));
    found[0]
}

#[test]
fn disks_of_other_extents_but_the_same_bytes_are_identical() {
    let left = Disk::default().data(5 * MIB).hole(MIB).data_of_zeros(3000);
    let right = Disk::default()
        .compressed(2 * MIB, 2)
        .data(MIB)
        .data_of_zeros(MIB);
    assert_eq!(compared(&left, &right, false), Comparison::Identical);
    assert_eq!(compared(&right, &left, false), Comparison::Identical);
}

#[test]
fn the_first_sector_that_differs_is_told() {
    let left = Disk::default().data(9 * MIB);
    let right = Disk::default()
        .data(2 * MIB + 700)
        .zeros(100)
        .data(3 * MIB)
        .hole(MIB)
        .data(3 * MIB - 800);
    let found = compared(&left, &right, false);
    assert_eq!(found, Comparison::ContentDiffers(2 * MIB + 512));
}

#[test]
fn a_longer_disk_is_the_same_if_its_tail_is_zero() {
    let short = Disk::default().data(MIB);
    let long = Disk::default().data(MIB).data_of_zeros(KIB);
    assert_eq!(compared(&short, &long, false), Comparison::Identical);
    assert_eq!(compared(&long, &short, true), Comparison::SizesDiffer);
    let longer = Disk::default().data(MIB).hole(MIB).data(1);
    let found = compared(&longer, &short, false);
    assert_eq!(found, Comparison::ContentDiffers(2 * MIB));
}

#[test]
fn a_strict_comparison_looks_at_what_is_allocated() {
    let left = Disk::default().data(MIB).zeros(MIB);
    let right = Disk::default().data(MIB).hole(MIB);
    assert_eq!(compared(&left, &right, false), Comparison::Identical);
    let found = compared(&left, &right, true);
    assert_eq!(found, Comparison::AllocationDiffers(MIB));
    assert_eq!(compared(&left, &left, true), Comparison::Identical);
}

#[test]
fn the_disk_that_cannot_be_read_is_named() {
    let sound = Disk::default().data(9 * MIB);
    let broken = Disk {
        broken_at: Some(5 * MIB),
        ..Disk::default().data(9 * MIB)
    };
    let error = compare(&sound, &broken, &CompareOptions::default()).unwrap_err();
    let CompareError::Read { side, .. } = error else {
        panic!("{error}");
    };
    assert_eq!(side, Side::Right);
}

#[test]
fn a_difference_before_an_unreadable_place_is_told() {
    let left = Disk::default().data(4 * MIB).hole(5 * MIB);
    let right = Disk {
        broken_at: Some(8 * MIB),
        ..Disk::default().data(9 * MIB)
    };
    let found = compared(&left, &right, false);
    assert_eq!(found, Comparison::ContentDiffers(4 * MIB));
}

#[test]
fn huge_disks_of_nothing_are_compared_at_once() {
    let left = Disk::default().hole(1 << 60);
    let right = Disk::default().zeros(1 << 60);
    assert_eq!(compared(&left, &right, false), Comparison::Identical);
    assert_eq!(left.reads.into_inner(), 0);
}

#[test]
fn data_is_measured_in_whole_granules_counted_once() {
    let disk = Disk::default()
        .hole(100)
        .data(10)
        .hole(20 * KIB)
        .compressed(4 * KIB, 1)
        .zeros(64 * KIB)
        .data(70 * KIB);
    assert_eq!(data_len(&disk, 64 * KIB).unwrap(), 3 * 64 * KIB);
}
