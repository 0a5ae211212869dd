//! The check, held against `qemu-img check` on sound images and on damaged ones.

use diskette_core::{CheckReport, Severity};
use serde_json::{Value as Json, json};

use crate::support::Bench;

/// That our counts are those of `qemu-img check`.
pub(crate) fn same_check(bench: &Bench, image: &str) {
    let (code, text) = bench.try_img(&format!("check -f qcow2 --output=json {image}"));
    let mut expected: Json = serde_json::from_str(&text).unwrap_or_else(|_| {
        panic!("{image}: qemu-img check gave {code} and said {text}");
    });
    let expected = expected.as_object_mut().unwrap();
    expected.remove("filename");
    expected.remove("format");
    let report = bench.check(image).unwrap();
    assert_eq!(
        shown(&report),
        Json::Object(expected.clone()),
        "{image}: {:#?}",
        report.findings
    );
}

/// As `qemu-img check` shows it: what is 0 is left out.
fn shown(report: &CheckReport) -> Json {
    let mut shown = json!({ "check-errors": report.check_errors });
    for (key, value) in [
        ("image-end-offset", report.image_end_offset.unwrap()),
        ("corruptions", report.corruptions),
        ("leaks", report.leaks),
        ("total-clusters", report.total_granules),
        ("allocated-clusters", report.allocated_granules),
        ("fragmented-clusters", report.fragmented_granules),
        ("compressed-clusters", report.compressed_granules),
    ] {
        if value != 0 {
            shown[key] = value.into();
        }
    }
    shown
}

/// Two data clusters at 0x50000 and 0x60000, by an L2 table at 0x40000, an L1 table at 0x30000.
fn two_clusters(bench: &Bench, image: &str) {
    bench.img(&format!("create -q -f qcow2 {image} 1M"));
    bench.io(image, &["write -P 1 0 64k", "write -P 2 64k 64k"]);
}

#[test]
fn damage_is_counted_as_qemu_counts_it() {
    let Some(bench) = Bench::new() else { return };
    let patches: &[(&str, usize, &[u8])] = &[
        ("refcount too high", 0x2_000a, &[0, 2]),
        ("refcount too low", 0x2_000a, &[0, 0]),
        ("refcount of the header", 0x2_0000, &[0, 0]),
        ("reserved bits in L1", 0x3_0000, &[0x81]),
        ("reserved low bits in L1", 0x3_0007, &[1]),
        ("no copied bit in L1", 0x3_0000, &[0]),
        ("unaligned L2", 0x3_0006, &[2]),
        ("L2 beyond the end", 0x3_0004, &[1]),
        ("reserved bits in L2", 0x4_0000, &[0x81]),
        ("no copied bit in L2", 0x4_0000, &[0]),
        ("unaligned data", 0x4_0006, &[2]),
        ("unaligned zeros", 0x4_0006, &[2, 1]),
        ("data beyond the end", 0x4_0004, &[1]),
        ("data just beyond the end", 0x4_0005, &[7]),
        ("compressed", 0x4_0000, &[0x40]),
        ("compressed and copied", 0x4_0000, &[0xc0]),
        ("shared data", 0x4_000d, &[5]),
        ("data in the header", 0x4_0005, &[0, 0, 1]),
        ("data in the L1 table", 0x4_0005, &[3]),
        ("refcount table entry reserved", 0x1_0007, &[1]),
        ("refcount block unaligned", 0x1_0006, &[2]),
        ("refcount block beyond the end", 0x1_0004, &[1]),
        ("refcount block missing", 0x1_0005, &[0]),
        ("refcount blocks shared", 0x1_000d, &[2]),
        ("corrupt bit", 79, &[2]),
        ("leak", 0x2_000e, &[0, 1]),
    ];
    for (number, (what, offset, bytes)) in patches.iter().enumerate() {
        let image = format!("damaged-{number}");
        two_clusters(&bench, &image);
        bench.patch(&image, *offset, bytes);
        eprintln!("{what}");
        same_check(&bench, &image);
    }
}

#[test]
fn subclusters_that_contradict_are_corruptions() {
    let Some(bench) = Bench::new() else { return };
    let patches: &[(&str, usize, &[u8])] = &[
        ("stored and zero", 0x4_0008, &[0, 0, 0, 1, 0, 0, 0, 1]),
        (
            "stored without a place",
            0x4_0028,
            &[0, 0, 0, 0, 0, 0, 0, 1],
        ),
        ("compressed with a bitmap", 0x4_0000, &[0x40]),
        ("unaligned", 0x4_0006, &[2]),
        ("zero flag", 0x4_0007, &[1]),
    ];
    for (number, (what, offset, bytes)) in patches.iter().enumerate() {
        let image = format!("subclusters-{number}");
        bench.img(&format!("create -q -f qcow2 -o extended_l2=on {image} 1M"));
        bench.io(&image, &["write -P 1 0 64k", "write -P 2 64k 2k"]);
        bench.patch(&image, *offset, bytes);
        eprintln!("{what}");
        same_check(&bench, &image);
    }
}

#[test]
fn a_leak_beyond_the_file_is_not_seen_and_one_within_is() {
    let Some(bench) = Bench::new() else { return };
    two_clusters(&bench, "short");
    bench.patch("short", 0x2_0010, &[0, 1]);
    same_check(&bench, "short");
    two_clusters(&bench, "long");
    bench.patch("long", 0x2_0010, &[0, 1]);
    bench.patch("long", 589_823, &[0]);
    same_check(&bench, "long");
    let report = bench.check("long").unwrap();
    assert_eq!((report.leaks, report.corruptions), (1, 0));
    assert_eq!(report.image_end_offset, Some(589_824));
    let leak = &report.findings[0];
    assert_eq!(leak.severity, Severity::Leak);
    assert_eq!(leak.text, "Leaked cluster 8 refcount=1 reference=0");
}

#[test]
fn damage_to_snapshots_and_bitmaps_is_counted_as_qemu_counts_it() {
    let Some(bench) = Bench::new() else { return };
    let patches: &[(&str, usize, &[u8])] = &[
        ("snapshot's L1 unaligned", 0x8_0006, &[2]),
        ("snapshot's L1 shared", 0x8_0005, &[3]),
        ("snapshot's data", 0x4_0005, &[6]),
    ];
    for (number, (what, offset, bytes)) in patches.iter().enumerate() {
        let image = format!("snapshot-{number}");
        two_clusters(&bench, &image);
        bench.img(&format!("snapshot -c snapA {image}"));
        same_check(&bench, &image);
        bench.patch(&image, *offset, bytes);
        eprintln!("{what}");
        same_check(&bench, &image);
    }
    two_clusters(&bench, "bitmap");
    bench.img("bitmap --add bitmap b0");
    same_check(&bench, "bitmap");
    // Without the bit the bitmap does not count: its clusters leak.
    bench.patch("bitmap", 95, &[0]);
    same_check(&bench, "bitmap");
    assert!(bench.check("bitmap").unwrap().leaks > 0);
}

#[test]
fn fragments_are_counted_across_tables_as_qemu_counts_them() {
    let Some(bench) = Bench::new() else { return };
    bench.img("create -q -f qcow2 -o cluster_size=512 image 256k");
    for at in (0..512).rev().step_by(3) {
        bench.io("image", &[&format!("write -P 1 {} 512", at * 512)]);
    }
    same_check(&bench, "image");
    bench.img("snapshot -c one image");
    bench.io("image", &["write -P 9 10k 100k"]);
    same_check(&bench, "image");
}
