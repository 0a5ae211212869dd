//! Files damaged by chance: no panic, no hang, no memory beyond the limits.

use std::sync::LazyLock;

use diskette_core::{BlockReaderExt, Format, Limits, Storage};
use diskette_qcow2::Qcow2 as Format_;
use diskette_storage::MemoryStorage;
use diskette_testkit::qcow2::{Cluster, Qcow2, Snapshot};
use diskette_testkit::walk;
use diskette_testkit::{FailingStorage, Failure, What};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::sync::Arc;

use crate::support::{memory, options, registry};

static IMAGES: LazyLock<[Vec<u8>; 3]> = LazyLock::new(|| [plain(), extended(), small()]);

fn plain() -> Vec<u8> {
    let mut image = Qcow2::v3(1 << 20);
    image.cluster_bits = 12;
    image.extensions = vec![(0xe279_2aca, b"raw".to_vec()), (0x2385_2875, vec![0; 24])];
    image.backing = Some("base".into());
    image.autoclear = 1;
    image.snapshots = vec![Snapshot {
        id: "1".into(),
        name: "one".into(),
        disk_size: 1 << 20,
        clusters: BTreeMap::from([(5, Cluster::Data(vec![3; 4096]))]),
    }];
    image
        .cluster(0, Cluster::Data(vec![1; 4096]))
        .cluster(1, Cluster::Zero)
        .cluster(2, Cluster::ZeroAllocated(vec![2; 4096]))
        .cluster(7, Cluster::Compressed(vec![0x4b, 0x04, 0x00, 0xff, 0xff]))
        .build()
        .bytes
}

fn extended() -> Vec<u8> {
    let mut image = Qcow2::v3(1 << 20).cluster_bits(14);
    image.extended_l2 = true;
    let entry = Cluster::Subclusters {
        allocated: 0xf0,
        zero: 0xf00,
        data: Some(vec![1; 1 << 14]),
    };
    image.cluster(1, entry).build().bytes
}

fn small() -> Vec<u8> {
    let mut image = Qcow2::v2(100_000).cluster_bits(9);
    for index in (0..190).step_by(3) {
        image = image.cluster(index, Cluster::Data(vec![1; 512]));
    }
    image.build().bytes
}

fn look(bytes: Vec<u8>, salvage: bool, metadata_only: bool) {
    let mut options = options();
    options.limits = Limits::default();
    options.limits.table_bytes = 4 << 20;
    options.limits.cache_bytes = 1 << 20;
    options.salvage = salvage;
    options.metadata_only = metadata_only;
    let storage = memory(bytes);
    let checkable = Format_.checkable().unwrap();
    let _ = checkable.check(Arc::clone(&storage), &options.context());
    for snapshot in [None, Some("1".to_owned())] {
        options.snapshot = snapshot;
        let Ok(opened) = registry().open(Arc::clone(&storage), &options) else {
            continue;
        };
        let _ = walk(&*opened.reader);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(debug_assertions) { 300 } else { 10_000 }))]

    #[test]
    fn a_damaged_file_is_read_or_refused(
        which in 0..3_usize,
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<bool>(), any::<u64>(), 0..4_u32), 1..6),
        salvage: bool,
        metadata_only: bool,
        cut in prop::option::weighted(0.1, any::<prop::sample::Index>()),
    ) {
        let mut bytes = IMAGES[which].clone();
        for (at, in_header, value, width) in changes {
            let area = if in_header { 160 } else { bytes.len() };
            let width = 1 << width;
            let at = at.index(area - 8) & !(width - 1);
            bytes[at..at + width].copy_from_slice(&value.to_be_bytes()[8 - width..]);
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        look(bytes, salvage, metadata_only);
    }
}

#[test]
fn each_byte_of_the_header_may_be_anything() {
    for image in &*IMAGES {
        for at in 0..200 {
            for value in [0, 1, 2, 0x7f, 0x80, 0xff] {
                let mut bytes = image.clone();
                bytes[at] = value;
                look(bytes, false, at % 2 == 0);
            }
        }
    }
}

#[test]
fn a_storage_that_fails_gives_errors() {
    for image in &*IMAGES {
        for after in 0.. {
            let inner = MemoryStorage::new(image.clone());
            let storage: Arc<dyn Storage> =
                Arc::new(FailingStorage::new(inner, Failure::new(What::Reads, after)));
            let options = options();
            let _ = Format_
                .checkable()
                .unwrap()
                .check(Arc::clone(&storage), &options.context());
            let Ok(opened) = Format_.open(storage, &options.context()) else {
                continue;
            };
            let size = usize::try_from(opened.reader.size()).unwrap();
            if opened.reader.read_vec(0, size.min(7 * 4096)).is_ok() {
                break;
            }
        }
    }
}
