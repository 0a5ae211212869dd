//! A log that is replayed into the file: what is there afterwards, and after a crash on the way.

use std::fs;
use std::sync::Arc;

use diskette_core::{CheckReport, OpenOptions, Repair, RepairableFormat, Result, StorageMut};
use diskette_storage::MemoryStorage;
use diskette_testkit::vhdx::{Change, Header, LogEntry, M, Vhdx as Builder};
use diskette_testkit::{Operation, RecordingStorage, Rng, qemu_img};
use diskette_vhdx::Vhdx;

use crate::log::{FIRST, dirty, first, second};
use crate::support::{is_refused, open, reads};

fn repair(image: Arc<dyn StorageMut>, what: Repair) -> Result<CheckReport> {
    Vhdx.repair(image, what, &OpenOptions::default().context())
}

/// All that is done to a file, and what it comes to.
fn repaired(bytes: Vec<u8>) -> Arc<RecordingStorage> {
    let storage = Arc::new(RecordingStorage::new(bytes));
    let report = repair(Arc::<RecordingStorage>::clone(&storage), Repair::All).unwrap();
    assert_eq!((report.corruptions, report.corruptions_fixed), (0, 1));
    storage
}

/// Changes of all kinds: sectors, zeros over data, zeros past the end, and a file that grows.
fn grown() -> Vec<u8> {
    let mut image = Builder::new(8 * M).filled(0, 0x41).filled(3, 0x44);
    let guid = [0x0f; 16];
    let bat: Vec<u8> = [(4 * M) | 6, (6 * M) | 6, 0, 0, (7 * M) | 6]
        .iter()
        .flat_map(|entry| entry.to_le_bytes())
        .collect();
    let entry = LogEntry {
        guid,
        sequence_number: 9,
        tail: 0,
        changes: vec![
            (3 * M, Change::Sector(bat)),
            (4 * M + 65536, Change::Zeros(65536)),
            (6 * M, Change::Zeros(M)),
            (7 * M, Change::Sector(vec![0x4a; 4096])),
        ],
        flushed: 6 * M,
        last: 8 * M,
    };
    image.log = Some((guid, vec![(0, entry.bytes())]));
    image.build()
}

const GROWN: &str = "41*128 00*128 41*1792 00*6144 4a*8 00*8184";

#[test]
fn the_logs_changes_are_in_the_file_afterwards_and_the_log_is_empty() {
    for (bytes, content) in [
        (dirty(vec![(0, first())]), FIRST),
        (
            dirty(vec![(0, first()), (8192, second())]),
            "41*2048 42*2048 00*2048 44*2048 00*6144 4a*2048",
        ),
        (grown(), GROWN),
    ] {
        assert_eq!(reads(bytes.clone()), content);
        let after = repaired(bytes).bytes();
        let chain = open(after.clone()).unwrap();
        assert!(!chain.top().info.dirty);
        assert_eq!(chain.top().info.warnings, [""; 0]);
        assert_eq!(reads(after), content);
    }
}

#[test]
fn a_crash_at_any_point_leaves_a_file_of_the_same_content() {
    for (bytes, content) in [(dirty(vec![(0, first())]), FIRST), (grown(), GROWN)] {
        let storage = repaired(bytes);
        let count = storage.operations().len();
        for done in 0..=count {
            assert_eq!(
                reads(storage.bytes_after(done)),
                content,
                "after {done} steps"
            );
            for seed in 0..8 {
                let left = storage.bytes_after_crash(done, &mut Rng::new(seed));
                assert_eq!(reads(left), content, "seed {seed}, after {done} steps");
            }
        }
    }
}

#[test]
fn a_crash_is_mended_by_another_repair() {
    let storage = repaired(grown());
    for done in 0..storage.operations().len() {
        let left = Arc::new(MemoryStorage::new(storage.bytes_after(done)));
        repair(Arc::<MemoryStorage>::clone(&left), Repair::All).unwrap();
        let chain = open(left.to_vec()).unwrap();
        assert!(!chain.top().info.dirty, "after {done} steps");
    }
}

#[test]
fn headers_are_written_one_after_the_other_and_the_file_is_known_to_have_changed() {
    let storage = repaired(dirty(vec![(0, first())]));
    let steps = storage.operations();
    let headers: Vec<u64> = steps
        .iter()
        .filter_map(|step| match step {
            Operation::Write { offset, .. } if *offset < 192 << 10 => Some(*offset),
            _ => None,
        })
        .collect();
    // The current header was the second one.
    assert_eq!(headers, [64 << 10, 128 << 10, 64 << 10]);
    for pair in steps.windows(2) {
        let is_header = |step: &Operation| matches!(step, Operation::Write { offset, .. } if *offset < 192 << 10);
        assert!(!is_header(&pair[0]) || pair[1] == Operation::Sync);
    }
    let bytes = storage.bytes();
    let guid = |at: usize| bytes[at..at + 16].to_vec();
    let (file_write, data_write) = (guid((64 << 10) + 16), guid((64 << 10) + 32));
    assert_ne!(file_write, [1; 16]);
    assert_eq!(data_write, [0xd0; 16], "what a guest sees is the same");
    assert_eq!(file_write, guid((128 << 10) + 16));
}

#[test]
fn what_has_no_log_is_left_as_it_is() {
    let storage = Arc::new(RecordingStorage::new(
        Builder::new(8 * M).filled(0, 1).build(),
    ));
    let report = repair(Arc::<RecordingStorage>::clone(&storage), Repair::All).unwrap();
    assert_eq!(report, CheckReport::default());
    assert_eq!(storage.operations(), []);
}

#[test]
fn a_log_stays_where_only_leaks_are_to_be_mended() {
    let storage = Arc::new(RecordingStorage::new(dirty(vec![(0, first())])));
    repair(Arc::<RecordingStorage>::clone(&storage), Repair::Leaks).unwrap();
    assert_eq!(storage.operations(), []);
}

#[test]
fn an_image_that_is_refused_is_not_written() {
    let mut exhausted = Builder::new(8 * M);
    let last = Header {
        sequence_number: u64::MAX - 1,
        log_guid: [0x0f; 16],
        ..Header::default()
    };
    exhausted.log = Some(([0x0f; 16], vec![(0, first())]));
    exhausted.headers = [Some(last.bytes()), None];
    exhausted.patches = vec![(8 * M, vec![0])];
    for image in [dirty(Vec::new()), exhausted.build()] {
        let storage = Arc::new(RecordingStorage::new(image));
        let mut options = OpenOptions::default();
        options.salvage = true;
        let image: Arc<dyn StorageMut> = Arc::<RecordingStorage>::clone(&storage);
        assert!(Vhdx.repair(image, Repair::All, &options.context()).is_err());
        assert_eq!(storage.operations(), []);
    }
}

#[test]
fn a_damaged_region_table_is_restored_from_its_copy() {
    for tables in [[false, true], [true, false]] {
        let mut image = Builder::new(8 * M).filled(0, 0x41);
        let sound = image.build();
        image.region_tables = tables;
        let storage = Arc::new(MemoryStorage::new(image.build()));
        let report = repair(Arc::<MemoryStorage>::clone(&storage), Repair::All).unwrap();
        assert_eq!(report.corruptions_fixed, 1);
        assert!(storage.to_vec() == sound, "{tables:?}");
    }
}

#[test]
fn qemu_reads_a_file_that_was_repaired_and_finds_nothing_wrong_with_it() {
    let Some(qemu_img) = qemu_img() else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let (image, raw) = (folder.path().join("a.vhdx"), folder.path().join("a.raw"));
    let (image, raw) = (image.to_str().unwrap(), raw.to_str().unwrap());
    let mut only_second = Builder::new(8 * M).filled(0, 0x41);
    only_second.region_tables = [false, true];
    for bytes in [
        dirty(vec![(0, first())]),
        dirty(vec![(0, first()), (8192, second())]),
        grown(),
        only_second.build(),
    ] {
        fs::write(image, &bytes).unwrap();
        // Without the repair it is beyond QEMU, as long as it may not write.
        let before = qemu_img.output(["convert", "-f", "vhdx", "-O", "raw", image, raw]);
        assert!(!before.status.success());

        let content = reads(bytes.clone());
        let after = repaired(bytes).bytes();
        fs::write(image, &after).unwrap();
        qemu_img.run(["check", "-q", image]);
        qemu_img.run(["convert", "-f", "vhdx", "-O", "raw", image, raw]);
        let expected = Builder::new(8 * M);
        assert_eq!(fs::metadata(raw).unwrap().len(), expected.size);
        assert_eq!(runs(&fs::read(raw).unwrap()), content);
        assert!(!is_refused(after));
    }
}

/// As the support's `sectors`, of bytes that another program has written.
fn runs(bytes: &[u8]) -> String {
    let mut runs: Vec<(u8, usize)> = Vec::new();
    for sector in bytes.chunks(512) {
        match runs.last_mut() {
            Some((byte, count)) if *byte == sector[0] => *count += 1,
            _ => runs.push((sector[0], 1)),
        }
    }
    let runs: Vec<_> = runs
        .iter()
        .map(|(byte, count)| format!("{byte:02x}*{count}"))
        .collect();
    runs.join(" ")
}
