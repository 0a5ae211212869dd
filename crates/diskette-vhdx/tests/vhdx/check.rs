//! What a look at an image's consistency finds.

use std::sync::Arc;

use diskette_core::{CheckReport, Format, OpenOptions, Severity};
use diskette_storage::MemoryStorage;
use diskette_testkit::vhdx::{Block, LogEntry, M, Vhdx as Builder};
use diskette_vhdx::Vhdx;

fn check(image: &Builder) -> CheckReport {
    let storage = Arc::new(MemoryStorage::new(image.build()));
    let options = OpenOptions::default();
    let checkable = Vhdx.checkable().unwrap();
    checkable.check(storage, &options.context()).unwrap()
}

#[test]
fn a_sound_image_has_no_findings() {
    let image = Builder::new(8 * M).filled(0, 0x41).filled(3, 0x44);
    assert_eq!(check(&image), CheckReport::default());
}

#[test]
fn every_wrong_entry_of_the_bat_is_a_corruption() {
    let image = Builder::new(8 * M)
        .filled(0, 0x41)
        .block(1, Block::Entry(6, 400))
        .block(2, Block::Entry(6, 4))
        .block(3, Block::Entry(4, 0))
        .block(4, Block::Entry(6, 2));
    let report = check(&image);
    assert_eq!((report.corruptions, report.leaks), (4, 0));
    let texts: Vec<_> = report.findings.iter().map(|found| &*found.text).collect();
    assert_eq!(
        texts,
        [
            "vhdx: BAT[1] at 0x300008 is 0x19000006, its block reaches beyond the file's end at 0x500000",
            "vhdx: BAT[2] at 0x300010 is 0x400006, its block overlaps another",
            "vhdx: BAT[3] at 0x300018 is 0x4, no state of a payload block",
            "vhdx: BAT[4] at 0x300020 is 0x200006, its block overlaps the log or a region",
        ]
    );
}

#[test]
fn a_log_that_waits_to_be_replayed_is_told() {
    let mut image = Builder::new(8 * M).filled(0, 0x41);
    let entry = LogEntry {
        guid: [9; 16],
        sequence_number: 1,
        tail: 0,
        changes: Vec::new(),
        flushed: 5 * M,
        last: 5 * M,
    };
    image.log = Some(([9; 16], vec![(0, entry.bytes())]));
    let report = check(&image);
    assert_eq!(report.corruptions, 0);
    assert_eq!(report.findings[0].severity, Severity::Note);
}

#[test]
fn reserved_bits_are_told() {
    let image = Builder::new(8 * M).block(2, Block::Entry(2 | 8, 0));
    let report = check(&image);
    assert_eq!(report.findings[0].text, "BAT[2] has reserved bits set");
    assert_eq!(report.corruptions, 0);
}

#[test]
fn damaged_copies_are_told() {
    let mut image = Builder::new(8 * M).filled(0, 0x41);
    image.headers[0] = Some(vec![0; 4096]);
    image.region_tables = [true, false];
    let report = check(&image);
    assert_eq!((report.corruptions, report.leaks), (0, 0));
    let texts: Vec<_> = report.findings.iter().map(|found| &*found.text).collect();
    assert_eq!(
        texts,
        [
            "one of the headers is damaged: the other one counts",
            "the second region table is damaged",
        ]
    );
}
