//! What a check finds.

use std::collections::BTreeMap;

use diskette_core::{CheckReport, Severity};
use diskette_testkit::vmdk::{Hosted, SeGrain, Stream, disk, se_sparse};

use crate::common::{Files, patched};

fn texts(report: &CheckReport, severity: Severity) -> Vec<&str> {
    let of_kind = report
        .findings
        .iter()
        .filter(|finding| finding.severity == severity);
    of_kind.map(|finding| finding.text.as_str()).collect()
}

#[track_caller]
fn assert_clean(files: &Files) {
    let report = files.check().unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(report, CheckReport::default());
}

/// Three grains at 0x10000, 0x20000 and 0x30000; the table lies at 0x3600, its copy at 0x2c00.
fn image() -> Vec<u8> {
    Hosted::new(10240, &[(0, 0x41), (3, 0x42), (79, 0x43)]).bytes()
}

#[test]
fn sound_images_are_clean() {
    assert_clean(&Files::one(image()));
    assert_clean(&Files::one(
        Stream::new(200_000, &[(0, 0x41), (1024, 0x42), (1500, 0x43)]).bytes(),
    ));
    let grains = BTreeMap::from([(0, SeGrain::Data(vec![0x41; 4096])), (5, SeGrain::Zero)]);
    let files = Files::described(
        "seSparse",
        &["RW 32768 SESPARSE \"s\"", "RW 8 FLAT \"a\" 0", "RW 8 ZERO"],
    );
    assert_clean(
        &files
            .with("s", se_sparse(32768, &grains))
            .with("a", disk(&[(0x41, 8)])),
    );
}

#[test]
fn a_grain_beyond_the_end_is_a_corruption() {
    let files = Files::one(patched(image(), 0x360c, &(1_u32 << 20).to_le_bytes()));
    let report = files.check().expect("the check goes on");
    assert_eq!(
        (report.corruptions, report.leaks, report.check_errors),
        (1, 0, 0)
    );
    assert!(
        texts(&report, Severity::Corruption)[0]
            .starts_with("vmdk: grain table 0[3] at 0x360c is 0x100000")
    );
    // And its copy differs.
    assert_eq!(
        texts(&report, Severity::Note),
        ["grain table 0 and its redundant copy differ"]
    );
}

#[test]
fn a_grain_that_two_entries_name_is_a_corruption() {
    let files = Files::one(patched(image(), 0x3604, &128_u32.to_le_bytes()));
    let report = files.check().expect("the check goes on");
    assert_eq!(
        texts(&report, Severity::Corruption),
        ["the grain or table at 0x10000 overlaps another"]
    );
}

#[test]
fn grains_that_overlap_are_a_corruption() {
    let files = Files::one(patched(image(), 0x3604, &129_u32.to_le_bytes()));
    let report = files.check().expect("the check goes on");
    // It overlaps both that at 0x10000 and that at 0x20000.
    let expected = [
        "the grain or table at 0x10200 overlaps another",
        "the grain or table at 0x20000 overlaps another",
    ];
    assert_eq!(texts(&report, Severity::Corruption), expected);
}

#[test]
fn a_table_that_two_entries_of_the_directory_name_is_a_corruption() {
    // Two tables, the first at 0x2c00.
    let mut image = Hosted::new(70_000, &[(0, 0x41)]);
    image.redundant = false;
    let bytes = image.bytes();
    let directory = usize::from(bytes[56]) * 512;
    let first = bytes[directory..directory + 4].to_vec();
    let report = Files::one(patched(bytes, directory + 4, &first))
        .check()
        .expect("the check goes on");
    assert_eq!(
        texts(&report, Severity::Corruption),
        ["grain directory[1] names the table at 0x2c00, as another entry does"]
    );
}

#[test]
fn a_marker_of_another_grain_is_a_corruption() {
    let mut stream = Stream::new(10240, &[(0, 0x41), (3, 0x42)]);
    stream.shift = 128;
    let report = Files::one(stream.bytes())
        .check()
        .expect("the check goes on");
    assert_eq!(report.corruptions, 2);
}

#[test]
fn an_unclean_shutdown_and_copies_that_differ_are_notes() {
    let image = patched(patched(image(), 72, &[1]), 0x2c00, &[0; 4]);
    let report = Files::one(image).check().expect("the check goes on");
    assert_eq!(report.corruptions, 0);
    assert_eq!(
        texts(&report, Severity::Note),
        [
            "x.vmdk was not closed properly",
            "grain table 0 and its redundant copy differ"
        ]
    );
}

#[test]
fn damage_that_a_reader_would_refuse_is_a_corruption() {
    let report = Files::one(patched(image(), 0x3400, &[0xff; 4]))
        .check()
        .expect("the check goes on");
    assert_eq!(
        texts(&report, Severity::Corruption),
        ["grain directory[0] is 0xffffffff, beyond the file's end: the redundant copy is used"]
    );
    let files = Files::described("vmfs", &["RW 16 VMFS \"a\""]).with("a", disk(&[(0x41, 8)]));
    assert_eq!(files.check().expect("the check goes on").corruptions, 1);
}

#[test]
fn a_stream_that_claims_a_huge_disk_and_copies_of_its_tables_is_looked_at_no_longer_than_it_is() {
    let mut stream = Stream::new(10240, &[(0, 0x41), (3, 0x42)]);
    stream.footer = false;
    let bytes = patched(stream.bytes(), 12, &(1_u64 << 40).to_le_bytes());
    let bytes = patched(bytes, 8, &0x3_0003_u32.to_le_bytes());
    let bytes = patched(bytes, 48, &21_u64.to_le_bytes());
    let report = Files::one(bytes).check().expect("the check goes on");
    assert!(report.findings.len() < 10, "{report:?}");
    assert!(report.corruptions > 0);
}
