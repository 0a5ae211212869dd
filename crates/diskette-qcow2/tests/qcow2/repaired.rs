//! Repairs, held against `qemu-img check` on every kind of damage: what is repaired is clean by it, too, and the guest
//! reads the same as before.

use std::fs;
use std::sync::Arc;

use diskette_core::{CheckReport, Repair, Result};
use diskette_storage::FileStorageMut;
use serde_json::Value as Json;

use crate::support::{Bench, repair};

/// An image with two data clusters, an overlay of them in a snapshot, zeros and compressed clusters.
///
/// ```text
///  0x00000 header        0x10000 refcount table   0x20000 refcount block  0x30000 L1   0x40000 the snapshot's L2
///  0x50000, 0x60000 data 0x70000 the snapshot's L1   0x80000 snapshot table
/// ```
fn image(bench: &Bench, name: &str) {
    bench.img(&format!("create -q -f qcow2 {name} 1M"));
    bench.io(
        name,
        &[
            "write -P 1 0 64k",
            "write -P 2 64k 64k",
            "write -z 128k 64k",
        ],
    );
    bench.img(&format!("snapshot -c one {name}"));
    bench.io(name, &["write -P 3 64k 64k", "write -P 4 256k 64k"]);
}

fn repair_file(bench: &Bench, image: &str, what: Repair) -> Result<CheckReport> {
    repair(Arc::new(FileStorageMut::open(bench.path(image))?), what)
}

/// qemu-img's verdict: exit code and JSON.
fn qemu(bench: &Bench, words: &str, image: &str) -> (i32, Json) {
    let (code, text) = bench.try_img(&format!("check -f qcow2 --output=json {words} {image}"));
    (code, serde_json::from_str(&text).unwrap_or_default())
}

fn number(json: &Json, key: &str) -> u64 {
    json[key].as_u64().unwrap_or_default()
}

/// What the disk reads as by us; `None` where it cannot be read.
fn guest(bench: &Bench, image: &str) -> Option<Vec<u8>> {
    use diskette_core::BlockReaderExt;
    let chain = bench.try_open(image, &crate::support::options()).ok()?;
    chain.read_vec(0, 1 << 20).ok()
}

/// Damage: what it is, where, and the bytes put there.
type Damage = (&'static str, &'static [(usize, &'static [u8])]);

/// What a repair mends wholly, and qemu-img does with the same numbers.
const MENDED: &[Damage] = &[
    ("refcount too high", &[(0x2_000a, &[0, 7])]),
    ("refcount too low", &[(0x2_0008, &[0, 1])]),
    ("refcount zero", &[(0x2_000a, &[0, 0])]),
    ("refcounts all zero", &[(0x2_0000, &[0; 64])]),
    ("refcount of the header", &[(0x2_0000, &[0, 0])]),
    ("leak", &[(0x2_0022, &[0, 1]), (0x11_0000, &[0])]),
    ("no copied bit in L1", &[(0x3_0000, &[0])]),
    ("no copied bit in L2", &[(0x9_0008, &[0])]),
    ("copied bit on what is shared", &[(0x9_0000, &[0x80])]),
    ("shared data", &[(0x9_000d, &[5])]),
    ("data in the header", &[(0x9_000d, &[0])]),
    ("data in the refcount block", &[(0x9_000d, &[2])]),
    ("unaligned zeros", &[(0x9_000e, &[2, 1])]),
    ("refcount block missing", &[(0x1_0005, &[0])]),
    ("refcount blocks shared", &[(0x1_000d, &[2])]),
    ("refcount block in the L1 table", &[(0x1_0005, &[3])]),
    ("no refcount table", &[(48, &[0; 12])]),
    ("refcount table beyond the end", &[(52, &[0x10])]),
    ("snapshot without a disk size", &[(0x8_0024, &[0; 4])]),
    ("corrupt bit", &[(79, &[2])]),
    (
        "dirty bit and lost refcounts",
        &[(79, &[1]), (0x2_0014, &[0; 4])],
    ),
];

/// What a repair mends wholly, and `qemu-img check -r all` does not, or counts otherwise: it leaves reserved bits, gives up
/// on a damaged refcount table, leaves data where it shares a cluster with a table. Where it clears an autoclear bit that
/// it does not know, it loses all snapshots.
const MENDED_BEYOND_QEMU: &[Damage] = &[
    ("reserved bits in L1", &[(0x3_0000, &[0x81])]),
    ("reserved low bits in L1", &[(0x3_0007, &[1])]),
    ("reserved bits in the snapshot's L1", &[(0x7_0007, &[1])]),
    ("reserved bits in L2", &[(0x9_0000, &[1])]),
    ("reserved low bits in L2", &[(0x9_0007, &[2])]),
    ("data in the L1 table", &[(0x9_000d, &[3])]),
    ("data in its own L2 table", &[(0x9_000d, &[9])]),
    ("data in a snapshot's L2 table", &[(0x9_000d, &[4])]),
    ("data in the snapshot table", &[(0x9_000d, &[8])]),
    ("data in the refcount table", &[(0x9_000d, &[1])]),
    (
        "zeros beyond the end",
        &[(0x9_000b, &[1]), (0x9_000f, &[1])],
    ),
    ("refcount table entry reserved", &[(0x1_0007, &[1])]),
    ("refcount block unaligned", &[(0x1_0006, &[2])]),
    ("refcount block beyond the end", &[(0x1_0004, &[1])]),
    (
        "unknown autoclear bit",
        &[(88, &[0x80]), (0x2_000a, &[0, 7])],
    ),
];

/// What a repair leaves alone, for guest data could be lost by a guess.
const LEFT: &[Damage] = &[
    ("L2 table unaligned", &[(0x3_0006, &[2])]),
    ("L2 table beyond the end", &[(0x3_0004, &[1])]),
    ("data unaligned", &[(0x9_000e, &[2])]),
    ("data beyond the end", &[(0x9_000c, &[1])]),
    (
        "data beyond the end, refcounts gone",
        &[(0x9_000c, &[1]), (0x2_0000, &[0; 64])],
    ),
    ("L1 in the header", &[(40, &[0; 8])]),
    ("snapshot's L1 unaligned", &[(0x8_0006, &[2])]),
    ("snapshot's L1 too long", &[(0x8_0008, &[0, 0x50])]),
    ("snapshot table beyond the end", &[(68, &[1])]),
    ("compressed beyond the end", &[(0x9_0008, &[0x40, 0, 1])]),
];

#[test]
fn what_can_be_mended_is_clean_by_qemu_and_by_us_and_reads_the_same() {
    let Some(bench) = Bench::new() else { return };
    for (what, patches) in MENDED.iter().chain(MENDED_BEYOND_QEMU) {
        damaged(&bench, patches);
        let before = guest(&bench, "image");
        let report = repair_file(&bench, "image", Repair::All).unwrap();
        let ours = bench.check("image").unwrap();
        assert_eq!(
            (ours.corruptions, ours.leaks, ours.check_errors),
            (0, 0, 0),
            "{what}: {:#?}, after {report:#?}",
            ours.findings
        );
        let (code, verdict) = qemu(&bench, "", "image");
        assert_eq!(code, 0, "{what}: {verdict}");
        let after = guest(&bench, "image");
        assert!(before.is_none() || after == before, "{what}");
        assert!(after.is_some(), "{what}");
        // Qemu writes into it, and all is well still.
        bench.io("image", &["write -P 9 0 1M"]);
        assert_eq!(qemu(&bench, "", "image").0, 0, "{what}");
    }
}

fn damaged(bench: &Bench, patches: &[(usize, &[u8])]) {
    image(bench, "image");
    for (offset, bytes) in patches {
        bench.patch("image", *offset, bytes);
    }
}

#[test]
fn what_leads_nowhere_is_left_and_nothing_is_freed() {
    let Some(bench) = Bench::new() else { return };
    for (what, patches) in LEFT {
        for how in [Repair::Leaks, Repair::All] {
            damaged(&bench, patches);
            let before = guest(&bench, "image");
            let file = fs::read(bench.path("image")).unwrap();
            repair_file(&bench, "image", how).unwrap();
            let ours = bench.check("image").unwrap();
            assert!(ours.corruptions + ours.check_errors > 0, "{what}");
            assert!(guest(&bench, "image") == before, "{what}");
            // The damage undone by hand, all is there.
            let after = fs::read(bench.path("image")).unwrap();
            let clusters = file.chunks(1 << 16).zip(after.chunks(1 << 16));
            for (number, (before, after)) in clusters.enumerate().skip(5) {
                let is_data = [5, 6, 10, 11].contains(&number);
                assert!(!is_data || before == after, "{what}: cluster {number}");
            }
        }
    }
}

#[test]
fn a_repair_is_told_in_qemus_numbers() {
    let Some(bench) = Bench::new() else { return };
    for (what, patches) in MENDED {
        damaged(&bench, patches);
        fs::copy(bench.path("image"), bench.path("theirs")).unwrap();
        let ours = repair_file(&bench, "image", Repair::All).unwrap();
        let (code, theirs) = qemu(&bench, "-r all", "theirs");
        let found = (ours.corruptions_fixed, ours.leaks_fixed);
        let expected = (
            number(&theirs, "corruptions-fixed"),
            number(&theirs, "leaks-fixed"),
        );
        assert_eq!((found, 0), (expected, code), "{what}");
    }
}

#[test]
fn leaks_alone_are_freed_in_qemus_numbers() {
    let Some(bench) = Bench::new() else { return };
    let too_high: &[(usize, &[u8])] = &[(0x2_000a, &[0, 7])];
    let too_high_for_a_flag: &[(usize, &[u8])] = &[(0x2_0014, &[0, 2])];
    let leak: &[(usize, &[u8])] = &[(0x2_0022, &[0, 1]), (0x11_0000, &[0])];
    for patches in [too_high, too_high_for_a_flag, leak] {
        damaged(&bench, patches);
        fs::copy(bench.path("image"), bench.path("theirs")).unwrap();
        let ours = repair_file(&bench, "image", Repair::Leaks).unwrap();
        let (code, theirs) = qemu(&bench, "-r leaks", "theirs");
        let found = (ours.corruptions_fixed, ours.leaks_fixed, 0);
        let expected = (
            number(&theirs, "corruptions-fixed"),
            number(&theirs, "leaks-fixed"),
            code,
        );
        assert_eq!(found, expected, "{patches:x?}");
        assert_eq!(qemu(&bench, "", "image").0, 0);
    }
}

#[test]
fn subclusters_are_mended_where_nothing_is_guessed() {
    let Some(bench) = Bench::new() else { return };
    // Data at 0x50000, part of a cluster at 0x60000, zeros with a place at 0x70000.
    let patches: &[(&str, usize, &[u8], bool)] = &[
        ("stored and zero", 0x4_0008, &[0, 0, 0, 1], false),
        ("stored without a place", 0x4_003c, &[0, 0, 0, 1], false),
        ("unaligned data", 0x4_0006, &[2], false),
        ("unaligned zeros", 0x4_0026, &[2], true),
        ("zeros beyond the end", 0x4_0024, &[1], true),
        ("reserved bits", 0x4_0007, &[2], true),
        ("no copied bit", 0x4_0010, &[0], true),
    ];
    for (what, offset, bytes, is_mended) in patches {
        bench.img("create -q -f qcow2 -o extended_l2=on image 1M");
        bench.io(
            "image",
            &[
                "write -P 1 0 64k",
                "write -P 2 64k 2k",
                "write 128k 64k",
                "write -z 128k 64k",
            ],
        );
        bench.patch("image", *offset, bytes);
        let before = guest(&bench, "image");
        repair_file(&bench, "image", Repair::All).unwrap();
        let ours = bench.check("image").unwrap();
        assert_eq!(ours.corruptions == 0, *is_mended, "{what}: {ours:#?}");
        assert_eq!(qemu(&bench, "", "image").0 == 0, *is_mended, "{what}");
        assert!(
            before.is_none() || guest(&bench, "image") == before,
            "{what}"
        );
    }
}

#[test]
fn bitmaps_that_cannot_be_kept_are_given_up_and_sound_ones_stay() {
    let Some(bench) = Bench::new() else { return };
    for (patches, bitmaps) in [
        (&[(0x2_000a, &[0, 7][..])][..], 1),
        // The directory's offset, and the offset of the bitmap's table.
        (&[(504 + 8 + 16, &[1][..])], 0),
        (&[(0xb_0006, &[2][..])], 0),
    ] {
        bench.img("create -q -f qcow2 image 1M");
        bench.img("bitmap --add image b0");
        bench.io("image", &["write -P 1 0 64k", "write -P 1 512k 4k"]);
        for (offset, bytes) in patches {
            bench.patch("image", *offset, bytes);
        }
        let before = guest(&bench, "image");
        repair_file(&bench, "image", Repair::All).unwrap();
        let (code, verdict) = qemu(&bench, "", "image");
        assert_eq!(code, 0, "{patches:x?}: {verdict}");
        let info = bench.json("info --output=json image");
        let found = info["format-specific"]["data"]["bitmaps"].as_array();
        assert_eq!(found.map_or(0, Vec::len), bitmaps, "{patches:x?}");
        assert!(guest(&bench, "image") == before);
    }
}
