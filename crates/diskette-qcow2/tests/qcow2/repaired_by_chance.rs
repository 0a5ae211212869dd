//! Repairs of random damage to random images, cut off at random: nothing that could be read is lost.

use std::collections::BTreeMap;
use std::fs;
use std::sync::Arc;

use diskette_core::{BlockReaderExt, CheckReport, Repair, StorageMut};
use diskette_testkit::qcow2::{Built, Cluster, Qcow2, Snapshot};
use diskette_testkit::{RecordingStorage, Rng};

use crate::support::{Bench, check, memory, open_bytes, options, registry, repair};

/// A small image of any kind, with data in its disk and in a snapshot.
fn random_image(rng: &mut Rng) -> Built {
    let extended = rng.below(4) == 0;
    let version_2 = !extended && rng.below(4) == 0;
    let bits = if extended {
        14
    } else {
        9 + u32::try_from(rng.below(4)).unwrap()
    };
    let size = (40 + rng.below(100)) << bits;
    let mut image = if version_2 {
        Qcow2::v2(size)
    } else {
        Qcow2::v3(size)
    };
    image.cluster_bits = bits;
    image.extended_l2 = extended;
    if !version_2 {
        image.refcount_order = u32::try_from(rng.below(7)).unwrap();
    }
    image.clusters = random_clusters(rng, &image);
    for number in 0..rng.below(3) {
        image.snapshots.push(Snapshot {
            id: number.to_string(),
            name: format!("of {number}"),
            disk_size: size,
            clusters: random_clusters(rng, &image),
        });
    }
    image.build()
}

fn random_clusters(rng: &mut Rng, image: &Qcow2) -> BTreeMap<u64, Cluster> {
    let len = 1_usize << image.cluster_bits;
    let mut clusters = BTreeMap::new();
    for index in 0..image.size >> image.cluster_bits {
        let data = vec![1 + u8::try_from(index % 250).unwrap(); len];
        let cluster = match rng.below(8) {
            0..=2 => Cluster::Data(data),
            3 if image.version > 2 => Cluster::Zero,
            4 if image.version > 2 => Cluster::ZeroAllocated(data),
            5 => Cluster::Compressed(stored(&data)),
            6 if image.extended_l2 => Cluster::Subclusters {
                allocated: 0xf0f0,
                zero: 0x0f00,
                data: Some(data),
            },
            _ => continue,
        };
        clusters.insert(index, cluster);
    }
    clusters
}

/// A deflate stream of one stored block.
fn stored(data: &[u8]) -> Vec<u8> {
    let len = u16::try_from(data.len()).unwrap();
    let mut stream = vec![1];
    stream.extend(len.to_le_bytes());
    stream.extend((!len).to_le_bytes());
    stream.extend(data);
    stream
}

/// Damages an image in a few places: entries of tables, refcounts, the header.
fn damage(rng: &mut Rng, image: &mut Built) {
    let len = image.bytes.len() as u64;
    for _ in 0..=rng.below(3) {
        let table = match rng.below(8) {
            0 => 0,
            1 => image.l1_offset,
            2 | 3 => match image.l2_offsets.values().next() {
                Some(offset) => offset + 8 * rng.below(64),
                None => continue,
            },
            4 => image.refcount_table_offset,
            5 if image.snapshots_offset != 0 => image.snapshots_offset + 8 * rng.below(8),
            _ => image.refcount_block_offsets[0] + 8 * rng.below(16),
        };
        let at = table & !7;
        let at = if table == 0 {
            40 + 8 * rng.below(7)
        } else {
            at
        };
        let before = image.u64_at(at);
        let value = match rng.below(6) {
            0 => before ^ 1 << rng.below(64),
            1 => 0,
            2 => rng.below(len) & !511,
            3 => rng.below(len) & !511 | 1 << 63,
            4 => before ^ 1 << 63,
            _ => rng.next_u64(),
        };
        image.put_u64(at, value);
    }
    if rng.below(8) == 0 {
        image
            .bytes
            .truncate(usize::try_from(rng.below(len)).unwrap());
    }
}

/// What each cluster of the disk and of its snapshots reads as; `None` where it cannot be read.
fn contents(bytes: &[u8]) -> Vec<Option<Vec<u8>>> {
    let mut found = Vec::new();
    for snapshot in [None, Some("0"), Some("1")] {
        let mut options = options();
        options.snapshot = snapshot.map(str::to_owned);
        let Ok(opened) = registry().open(memory(bytes.to_vec()), &options) else {
            found.extend(std::iter::repeat_n(None, 300));
            continue;
        };
        let step = usize::try_from(opened.info.granule_size.unwrap_or(512)).unwrap();
        for index in 0..300 {
            let at = index * step as u64;
            let inside = at + step as u64 <= opened.reader.size();
            found.push(
                inside
                    .then(|| opened.reader.read_vec(at, step).ok())
                    .flatten(),
            );
        }
    }
    found
}

/// That all clusters that read as they did in the clean image still do so.
fn nothing_lost(
    what: &str,
    clean: &[Option<Vec<u8>>],
    before: &[Option<Vec<u8>>],
    after: &[Option<Vec<u8>>],
) {
    for (index, clean) in clean.iter().enumerate() {
        if clean.is_some() && before[index] == *clean {
            assert!(after[index] == *clean, "{what}: cluster {index} is lost");
        }
    }
}

fn is_clean(report: &CheckReport) -> bool {
    report.corruptions + report.leaks + report.check_errors == 0
}

/// Repairs a copy; `None` where that was refused.
fn repaired(bytes: &[u8], what: Repair) -> Option<RecordingStorage> {
    let storage = Arc::new(RecordingStorage::new(bytes.to_vec()));
    let outcome = repair(Arc::clone(&storage) as Arc<dyn StorageMut>, what);
    outcome.is_ok().then(|| Arc::into_inner(storage).unwrap())
}

#[test]
fn random_damage_is_mended_or_left_and_nothing_that_can_be_read_is_lost() {
    let cases = if cfg!(debug_assertions) { 300 } else { 20_000 };
    let (mut mended, mut left, mut refused) = (0, 0, 0);
    for seed in 0..cases {
        let rng = &mut Rng::new(seed);
        let mut image = random_image(rng);
        let clean = contents(&image.bytes);
        damage(rng, &mut image);
        let before = contents(&image.bytes);
        for what in [Repair::Leaks, Repair::All] {
            let Some(storage) = repaired(&image.bytes, what) else {
                refused += 1;
                continue;
            };
            let bytes = storage.bytes();
            let case = format!("seed {seed}, {what:?}");
            nothing_lost(&case, &clean, &before, &contents(&bytes));
            let report = check(memory(bytes)).unwrap();
            let counter = if is_clean(&report) {
                &mut mended
            } else {
                &mut left
            };
            *counter += 1;
        }
    }
    println!("{mended} repairs ended clean, {left} left damage, {refused} were refused");
    assert!(mended > cases / 2, "{mended} of {}", 2 * cases);
}

#[test]
fn a_repair_that_is_cut_off_leaves_an_image_no_worse() {
    let cases = if cfg!(debug_assertions) { 100 } else { 5_000 };
    let mut points = 0;
    for seed in 0..cases {
        let rng = &mut Rng::new(seed ^ 0xc0de);
        let mut image = random_image(rng);
        let clean = contents(&image.bytes);
        damage(rng, &mut image);
        let before = contents(&image.bytes);
        let Some(whole) = repaired(&image.bytes, Repair::All) else {
            continue;
        };
        let ends_clean = is_clean(&check(memory(whole.bytes())).unwrap());
        for count in 0..=whole.operations().len() {
            let case = format!("seed {seed}, {count} operations");
            let bytes = whole.bytes_after_crash(count, rng);
            nothing_lost(&case, &clean, &before, &contents(&bytes));
            // What a crash leaves can be repaired as well as before.
            let again = repaired(&bytes, Repair::All).unwrap();
            let report = check(memory(again.bytes())).unwrap();
            assert!(
                !ends_clean || is_clean(&report),
                "{case}: {:#?}",
                report.findings
            );
            nothing_lost(&case, &clean, &before, &contents(&again.bytes()));
            points += 1;
        }
    }
    println!("{points} crash points");
    assert!(points > cases);
}

#[test]
fn what_ends_clean_by_us_is_clean_by_qemu() {
    let Some(bench) = Bench::new() else { return };
    let cases = if cfg!(debug_assertions) { 60 } else { 1_000 };
    let mut clean = 0;
    for seed in 0..cases {
        let rng = &mut Rng::new(seed ^ 0xbeef);
        let mut image = random_image(rng);
        damage(rng, &mut image);
        let Some(storage) = repaired(&image.bytes, Repair::All) else {
            continue;
        };
        let bytes = storage.bytes();
        if !is_clean(&check(memory(bytes.clone())).unwrap()) || open_bytes(bytes.clone()).is_err() {
            continue;
        }
        fs::write(bench.path("image"), bytes).unwrap();
        let (code, text) = bench.try_img("check -f qcow2 image");
        assert_eq!(code, 0, "seed {seed}: {text}");
        clean += 1;
    }
    println!("{clean} of {cases} are clean by both");
}
