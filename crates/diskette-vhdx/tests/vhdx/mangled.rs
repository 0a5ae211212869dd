//! Files damaged by chance: no panic, no hang, no memory beyond the limits.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

use diskette_core::{BlockReaderExt, Format, FormatChoice, Limits, OpenOptions, Storage};
use diskette_storage::MemoryStorage;
use diskette_testkit::vhdx::{Block, Change, LogEntry, M, Vhdx as Builder, guid_text, seal};
use diskette_vhdx::Vhdx;
use proptest::prelude::*;

use crate::support::registry;

/// Where the interesting bytes lie: headers, region tables, log, metadata, BAT, a sector bitmap.
const PLACES: [(u64, u64); 7] = [
    (64 << 10, 80),
    (192 << 10, 96),
    (M, 4096 * 4),
    (2 * M, 32 * 8),
    (2 * M + (64 << 10), 512),
    (3 * M, 80),
    (3 * M + 4096 * 8, 8),
];

/// Checksums that are made right again, so that more than the checksum is tried.
const SEALED: [(u64, u64); 5] = [
    (64 << 10, 4096),
    (128 << 10, 4096),
    (192 << 10, 65536),
    (256 << 10, 65536),
    (M, 8192),
];

static DYNAMIC: LazyLock<Vec<u8>> = LazyLock::new(dynamic);
static DIFFERENCING: LazyLock<Vec<u8>> = LazyLock::new(differencing);

fn dynamic() -> Vec<u8> {
    let entry = LogEntry {
        guid: [9; 16],
        sequence_number: 7,
        tail: 0,
        changes: vec![
            (4 * M, Change::Sector(vec![1; 4096])),
            (4 * M + 8192, Change::Zeros(8192)),
        ],
        flushed: 5 * M,
        last: 6 * M,
    };
    let mut image = Builder::new(8 * M).filled(0, 0x41).filled(3, 0x44);
    image.log = Some(([9; 16], vec![(0, entry.bytes())]));
    image.build()
}

fn differencing() -> Vec<u8> {
    let sectors = [(0, vec![1; 512]), (9, vec![2; 512])];
    let mut image = Builder::new(8 * M).block(0, Block::Partial(BTreeMap::from(sectors)));
    image.parent = Some(vec![
        ("parent_linkage".into(), guid_text(&[7; 16])),
        ("relative_path".into(), "p.vhdx".into()),
    ]);
    image.build()
}

fn limits() -> Limits {
    let mut limits = Limits::default();
    limits.table_bytes = 4 << 20;
    limits.cache_bytes = 1 << 20;
    limits
}

/// Opens, walks and reads what there is, as far as it goes.
fn walk(bytes: Vec<u8>, salvage: bool) {
    let storage: Arc<dyn Storage> = Arc::new(MemoryStorage::new(bytes));
    let mut options = OpenOptions::default();
    options.format = FormatChoice::Named("vhdx".to_owned());
    options.limits = limits();
    options.salvage = salvage;
    let _ = Vhdx
        .checkable()
        .unwrap()
        .check(Arc::clone(&storage), &options.context());
    let Ok(image) = registry().open(storage, &options) else {
        return;
    };
    let mut buf = [0; 700];
    for extent in image.reader.extents().take(1000) {
        let Ok(extent) = extent else { break };
        assert!(extent.len > 0 && extent.end() <= image.reader.size());
        let len = extent.len.min(700);
        let part = &mut buf[..usize::try_from(len).unwrap()];
        let _ = image.reader.read_at(part, extent.end() - len);
    }
    let _ = image.reader.extent_at(image.reader.size().wrapping_sub(1));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(debug_assertions) { 200 } else { 10_000 }))]

    #[test]
    fn a_damaged_file_is_read_or_refused(
        is_differencing: bool,
        changes in prop::collection::vec((0..PLACES.len(), any::<u64>(), any::<u64>(), 0..4_u8), 1..5),
        sealed: bool,
        salvage: bool,
        cut in prop::option::weighted(0.1, 0..8 * M),
    ) {
        let mut bytes = if is_differencing { DIFFERENCING.clone() } else { DYNAMIC.clone() };
        for (place, at, value, width) in changes {
            let (start, len) = PLACES[place];
            let at = usize::try_from(start + at % len).unwrap();
            let width = 1 << width;
            bytes[at..at + width].copy_from_slice(&value.to_le_bytes()[..width]);
        }
        if sealed {
            for (start, len) in SEALED {
                let start = usize::try_from(start).unwrap();
                let len = usize::try_from(len).unwrap();
                seal(&mut bytes[start..start + len]);
            }
        }
        if let Some(cut) = cut {
            bytes.truncate(usize::try_from(cut).unwrap());
        }
        walk(bytes, salvage);
    }
}

#[test]
fn a_storage_that_fails_gives_errors() {
    use diskette_testkit::{FailingStorage, Failure, What};
    for image in [&DYNAMIC, &DIFFERENCING] {
        for after in 0.. {
            let inner = MemoryStorage::new(image.to_vec());
            let storage = Arc::new(FailingStorage::new(inner, Failure::new(What::Reads, after)));
            let options = OpenOptions::default();
            let Ok(opened) = Vhdx.open(storage, &options.context()) else {
                continue;
            };
            let read = opened.reader.read_vec(0, 8 << 20);
            if read.is_ok() {
                break;
            }
        }
    }
}
