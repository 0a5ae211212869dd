//! Points at which writers of QCOW2 have gone wrong: each has its test.

use std::sync::Arc;

use diskette_core::{
    BlockReaderExt, BlockWriter, Format, MIB, NewSnapshot, OpenContext, Options, SnapshotWriter,
    Storage, StorageMut,
};
use diskette_qcow2::Qcow2;
use diskette_storage::MemoryStorage;
use diskette_testkit::{RecordingStorage, Rng, qemu_img};

use crate::driver::image_of;
use crate::support::{
    Bytes, Folder, SEALED, check, context, edit, expect_clean, expect_disk, new_image,
};

const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;
const COPIED: u64 = 1 << 63;

fn word(image: &[u8], at: u64) -> u64 {
    let at = usize::try_from(at).expect("an offset in memory");
    u64::from_be_bytes(image[at..at + 8].try_into().expect("eight bytes"))
}

fn put(image: &mut [u8], at: u64, word: u64) {
    let at = usize::try_from(at).expect("an offset in memory");
    image[at..at + 8].copy_from_slice(&word.to_be_bytes());
}

fn opened(image: &[u8]) -> (Arc<MemoryStorage>, Box<dyn BlockWriter>) {
    let storage = Arc::new(MemoryStorage::new(image.to_vec()));
    let writer = edit(Arc::clone(&storage) as Arc<dyn StorageMut>, None);
    (storage, writer.expect("an image that can be changed"))
}

fn snapshots(writer: &dyn BlockWriter) -> &dyn SnapshotWriter {
    writer.snapshots().expect("QCOW2 has snapshots")
}

/// The L1 table of the only snapshot, and its L2 tables.
fn snapshot_tables(image: &[u8]) -> (u64, Vec<u64>) {
    let l1 = word(image, word(image, 64));
    let l2 = word(image, l1) & OFFSET;
    (l1, vec![l2])
}

#[test]
fn stale_marks_in_a_foreign_snapshot_do_not_let_it_be_overwritten() {
    let size = 256 << 10;
    for options in ["cluster_size=4k", "cluster_size=16k,extended_l2=on"] {
        let first: Vec<u8> = (0..size)
            .map(|at| u8::try_from(at / 512 % 251).unwrap())
            .collect();
        let (storage, writer) = opened(&image_of(&new_image(size, options), &first));
        snapshots(&*writer)
            .create(&NewSnapshot::named("one"))
            .unwrap();
        // The disk gets a table of its own; what was not written stays shared.
        let mut second = first.clone();
        writer.write_at(&[0xaa; 5000], 70_000).unwrap();
        second[70_000..75_000].fill(0xaa);
        drop(writer);

        // Others leave marks of one user in the snapshot's tables, where there are two.
        let mut image = storage.to_vec();
        let (l1, l2s) = snapshot_tables(&image);
        let marked = word(&image, l1) | COPIED;
        put(&mut image, l1, marked);
        let entry_size = if options.contains("extended") { 16 } else { 8 };
        for at in (l2s[0]..l2s[0] + 4096).step_by(entry_size) {
            let entry = word(&image, at);
            if entry & OFFSET != 0 {
                put(&mut image, at, entry | COPIED);
            }
        }

        // Gone back to, the disk is written all over: neither the snapshot nor another one has changed.
        let (storage, writer) = opened(&image);
        let two = snapshots(&*writer).create(&NewSnapshot::named("two"));
        let two = two.unwrap().id;
        snapshots(&*writer).apply("one").unwrap();
        expect_disk(&*writer, &first);
        writer.write_at(&vec![0xbb; size], 0).unwrap();
        writer.flush().unwrap();
        snapshots(&*writer).apply("one").unwrap();
        expect_disk(&*writer, &first);
        snapshots(&*writer).delete("one").unwrap();
        writer.write_at(&vec![0xcc; size], 0).unwrap();
        snapshots(&*writer).apply(&two).unwrap();
        expect_disk(&*writer, &second);
        drop(writer);
        expect_clean(storage.to_vec());
    }
}

#[test]
fn a_bit_of_an_unknown_feature_is_cleared_by_who_writes_and_by_nobody_else() {
    const UNKNOWN: u64 = 1 << 40 | 1 << 63;
    let mut image = image_of(&new_image(1 << 20, "cluster_size=4k"), &vec![1; 1 << 20]);
    put(&mut image, 88, UNKNOWN);
    let read = Arc::new(MemoryStorage::new(image.clone()));
    let reader = Qcow2.open(Arc::clone(&read) as Arc<dyn Storage>, &context());
    reader.unwrap().reader.read_vec(0, 4096).unwrap();
    assert!(read.to_vec() == image);
    let (storage, writer) = opened(&image);
    writer.read_vec(0, 4096).unwrap();
    drop(writer);
    assert!(storage.to_vec() == image, "an editor that wrote nothing");

    type Act = (&'static str, fn(Arc<dyn StorageMut>));
    let acts: [Act; 9] = [
        ("write", |image| {
            edit(image, None).unwrap().write_at(&[2], 5).unwrap();
        }),
        ("zero", |image| {
            edit(image, None).unwrap().write_zeros(0, MIB).unwrap();
        }),
        ("discard", |image| {
            edit(image, None).unwrap().discard(0, MIB).unwrap();
        }),
        ("grow", |image| {
            edit(image, None).unwrap().resize(2 * MIB).unwrap();
        }),
        ("shrink", |image| {
            edit(image, None).unwrap().resize(512).unwrap();
        }),
        ("snapshot", |image| {
            let writer = edit(image, None).unwrap();
            let made = snapshots(&*writer).create(&NewSnapshot::named("one"));
            made.map(drop).unwrap();
        }),
        ("amend", |image| amend(image, "lazy_refcounts", "on")),
        ("width", |image| amend(image, "refcount_bits", "64")),
        ("rebase", |image| {
            let overlays = Qcow2.overlays().unwrap();
            let below = diskette_core::BackingImage::new("base.raw", "raw");
            overlays
                .set_backing(image, Some(&below), &context())
                .unwrap();
        }),
    ];
    for (name, act) in acts {
        let storage = Arc::new(RecordingStorage::new(image.clone()));
        act(Arc::clone(&storage) as Arc<dyn StorageMut>);
        assert_eq!(word(&storage.bytes(), 88), 0, "{name}");
        // Before anything else: whoever believes the bit must find nothing that has changed.
        let first = storage.bytes_after(1);
        assert_eq!(word(&first, 88), 0, "{name}");
        let rest = [&first[..88], &first[96..]].concat();
        assert!(rest == [&image[..88], &image[96..]].concat(), "{name}");
    }
}

fn amend(image: Arc<dyn StorageMut>, name: &str, value: &str) {
    let options: Options = [(name, value)].into_iter().collect();
    let amendable = Qcow2.amendable().expect("QCOW2 has options");
    let done = amendable.amend(image, &options, false, &context());
    done.expect("memory does not fail");
}

#[test]
fn the_bit_of_a_raw_data_file_is_kept_while_it_is_true_and_refused_where_it_cannot_be() {
    let Some(qemu_img) = qemu_img() else { return };
    let folder = Folder::new();
    let options = "data_file=disk.data,data_file_raw=on";
    let args = [
        "create",
        "-q",
        "-f",
        "qcow2",
        "-o",
        options,
        "disk.qcow2",
        "1M",
    ];
    qemu_img.run_in(folder.path(), args);
    let bits = || word(&folder.get("disk.qcow2"), 88);
    assert_eq!(bits(), 2);
    let writer = folder.edit("disk.qcow2", None).unwrap();
    let mut disk = vec![0; 1 << 20];
    writer.write_at(&[7; 100_000], 3000).unwrap();
    disk[3000..103_000].fill(7);
    writer.write_zeros(10_000, 50_000).unwrap();
    disk[10_000..60_000].fill(0);
    writer.discard(65_536, 131_072).unwrap();
    disk[65_536..196_608].fill(0);
    writer.resize(2 * MIB).unwrap();
    disk.resize(2 << 20, 0);
    writer.flush().unwrap();
    drop(writer);
    assert_eq!(bits(), 2);
    assert!(folder.get("disk.data") == disk, "the file is the disk");
    folder.expect_sound(&qemu_img, "disk.qcow2", &disk);

    // Its bit without a data file, or over an image below, tells of what cannot be.
    let mut lone = image_of(&new_image(1 << 20, ""), &[]);
    put(&mut lone, 88, 2);
    let said = |image: Vec<u8>, below| {
        let storage = Arc::new(MemoryStorage::new(image));
        edit(storage as Arc<dyn StorageMut>, below)
            .unwrap_err()
            .to_string()
    };
    assert!(said(lone, None).contains("a raw data file, but no data file"));
    let below = diskette_core::BackingImage::new("disk.raw", "raw");
    let storage = diskette_storage::FileStorageMut::open(folder.file("disk.qcow2")).unwrap();
    let overlays = Qcow2.overlays().unwrap();
    let refused = overlays.set_backing(Arc::new(storage), Some(&below), &context());
    let refused = refused.unwrap_err().to_string();
    assert!(
        refused.contains("an image below one with a raw data file"),
        "{refused}"
    );

    // It can be given up, and not be had again.
    let storage =
        || Arc::new(diskette_storage::FileStorageMut::open(folder.file("disk.qcow2")).unwrap());
    amend(storage(), "data_file_raw", "off");
    assert_eq!(bits(), 0);
    let on: Options = [("data_file_raw", "on")].into_iter().collect();
    let again = Qcow2
        .amendable()
        .unwrap()
        .amend(storage(), &on, false, &context());
    assert!(again.unwrap_err().to_string().contains("cannot be set"));
}

#[test]
fn a_disk_that_grows_over_a_longer_base_shows_zeros_there() {
    for options in [
        "cluster_size=4k",
        "cluster_size=64k,extended_l2=on",
        "cluster_size=4k,compat=0.10",
        &format!("cluster_size=4k{SEALED}"),
    ] {
        let size = 100 << 10;
        let what = new_image(size, options)
            .with_backing(diskette_core::BackingImage::new("base.raw", "raw"));
        let storage = Arc::new(MemoryStorage::new(image_of(&what, &[])));
        let base = || Some(Arc::new(Bytes(vec![0x77; 300 << 10])) as Arc<_>);
        let writer = edit(Arc::clone(&storage) as Arc<dyn StorageMut>, base()).unwrap();
        let mut disk = vec![0x77; size];
        expect_disk(&*writer, &disk);
        // Within the base, across its end, and once more.
        for longer in [size + 512, 250 << 10, 400 << 10, 500 << 10] {
            writer.resize(longer as u64).unwrap();
            disk.resize(longer, 0);
            expect_disk(&*writer, &disk);
        }
        drop(writer);
        let writer = edit(Arc::clone(&storage) as Arc<dyn StorageMut>, base()).unwrap();
        expect_disk(&*writer, &disk);
        drop(writer);
        expect_clean(storage.to_vec());
    }
}

#[test]
fn what_a_cut_has_taken_does_not_come_back_when_the_disk_grows() {
    for (options, compress) in [
        ("cluster_size=4k", false),
        ("cluster_size=4k", true),
        ("cluster_size=64k,extended_l2=on", false),
        ("cluster_size=4k,compat=0.10", false),
        (&format!("cluster_size=4k{SEALED}"), false),
    ] {
        for cut in [0, 512, 50_176, 65_536] {
            let size = 200 << 10;
            let mut what = new_image(size, options);
            what.compress = compress;
            let mut disk: Vec<u8> = (0..size)
                .map(|at| 1 + u8::try_from(at / 512 % 250).unwrap())
                .collect();
            let (storage, writer) = opened(&image_of(&what, &disk));
            writer.resize(cut as u64).unwrap();
            disk.truncate(cut);
            writer.resize(size as u64).unwrap();
            disk.resize(size, 0);
            expect_disk(&*writer, &disk);
            drop(writer);
            expect_clean(storage.to_vec());
            let (_, writer) = opened(&storage.to_vec());
            expect_disk(&*writer, &disk);
        }
    }
    // A snapshot keeps what the disk has lost.
    let size = 200 << 10;
    let disk = vec![9; size];
    let (storage, writer) = opened(&image_of(&new_image(size, "cluster_size=4k"), &disk));
    snapshots(&*writer)
        .create(&NewSnapshot::named("one"))
        .unwrap();
    writer.resize(4608).unwrap();
    writer.resize(size as u64).unwrap();
    assert!(
        writer
            .read_vec(4608, size - 4608)
            .unwrap()
            .iter()
            .all(|byte| *byte == 0)
    );
    snapshots(&*writer).apply("one").unwrap();
    expect_disk(&*writer, &disk);
    drop(writer);
    expect_clean(storage.to_vec());
}

#[test]
fn an_image_with_snapshots_becomes_one_of_version_2_wherever_that_is_cut_off() {
    let size = 100 << 10;
    for base in [None, Some(vec![0x77; size])] {
        let mut what = new_image(size, "cluster_size=4k");
        if base.is_some() {
            what = what.with_backing(diskette_core::BackingImage::new("base.raw", "raw"));
        }
        let below = || {
            base.clone()
                .map(|bytes| Arc::new(Bytes(bytes)) as Arc<dyn diskette_core::BlockReader>)
        };
        let storage = Arc::new(MemoryStorage::new(image_of(&what, &[])));
        let writer = edit(Arc::clone(&storage) as Arc<dyn StorageMut>, below()).unwrap();
        // Zero clusters that the disk shares with both snapshots, with one, and of each alone.
        writer.write_at(&vec![1; 80 << 10], 0).unwrap();
        writer.write_zeros(8192, 16_384).unwrap();
        let list = snapshots(&*writer);
        list.create(&NewSnapshot::named("one")).unwrap();
        let one = writer.read_vec(0, size).unwrap();
        writer.write_zeros(40_960, 8192).unwrap();
        writer.write_at(&[2; 4096], 8192).unwrap();
        list.create(&NewSnapshot::named("two")).unwrap();
        let two = writer.read_vec(0, size).unwrap();
        writer.write_zeros(0, 4096).unwrap();
        let disk = writer.read_vec(0, size).unwrap();
        drop(writer);
        let image = storage.to_vec();
        assert_eq!(image[7], 3);

        let storage = Arc::new(RecordingStorage::new(image));
        amend(
            Arc::clone(&storage) as Arc<dyn StorageMut>,
            "compat",
            "0.10",
        );
        let mut rng = Rng::new(5);
        let count = storage.operations().len();
        for done in 0..=count {
            for image in [
                storage.bytes_after(done),
                storage.bytes_after_crash(done, &mut rng),
            ] {
                let harmless = |text: &str| text.contains("OFLAG_COPIED");
                let severe = check(image.clone()).findings.into_iter().find(|finding| {
                    finding.severity != diskette_core::Severity::Leak && !harmless(&finding.text)
                });
                assert_eq!(
                    severe.map(|finding| finding.text),
                    None,
                    "{done} of {count}"
                );
                let storage = Arc::new(MemoryStorage::new(image));
                let writer = edit(storage as Arc<dyn StorageMut>, below()).unwrap();
                assert!(
                    writer.read_vec(0, size).unwrap() == disk,
                    "{done} of {count}"
                );
                for (id, kept) in [("1", &one), ("2", &two)] {
                    snapshots(&*writer).apply(id).unwrap();
                    assert!(
                        writer.read_vec(0, size).unwrap() == *kept,
                        "{id}: {done} of {count}"
                    );
                }
            }
        }
        let image = storage.bytes();
        assert_eq!(image[7], 2);
        expect_clean(image.clone());
        let Some(qemu_img) = qemu_img() else { continue };
        let folder = Folder::new();
        if let Some(base) = &base {
            folder.put("base.raw", base);
        }
        folder.put("disk.qcow2", &image);
        folder.expect_sound(&qemu_img, "disk.qcow2", &disk);
        for (name, kept) in [("one", &one), ("two", &two)] {
            qemu_img.run_in(folder.path(), ["snapshot", "-a", name, "disk.qcow2"]);
            folder.expect_sound(&qemu_img, "disk.qcow2", kept);
        }
    }
}

#[test]
fn snapshots_of_another_size_keep_an_image_from_version_2() {
    let (storage, writer) = opened(&image_of(&new_image(1 << 20, ""), &[]));
    snapshots(&*writer)
        .create(&NewSnapshot::named("one"))
        .unwrap();
    writer.resize(2 * MIB).unwrap();
    drop(writer);
    let options: Options = [("compat", "0.10")].into_iter().collect();
    let before = storage.to_vec();
    let done = Qcow2.amendable().unwrap().amend(
        Arc::clone(&storage) as Arc<dyn StorageMut>,
        &options,
        false,
        &context(),
    );
    let why = done.unwrap_err().to_string();
    assert!(
        why.contains("the image has snapshots of another size"),
        "{why}"
    );
    assert!(storage.to_vec() == before);
}

#[test]
fn another_data_file_is_named_at_once() {
    let Some(qemu_img) = qemu_img() else { return };
    let folder = Folder::new();
    let args = [
        "create",
        "-q",
        "-f",
        "qcow2",
        "-o",
        "data_file=disk.data",
        "disk.qcow2",
        "1M",
    ];
    qemu_img.run_in(folder.path(), args);
    let image = folder.get("disk.qcow2");
    let named = |image: Vec<u8>| {
        let storage = Arc::new(MemoryStorage::new(image)) as Arc<dyn Storage>;
        let cx = OpenContext {
            metadata_only: true,
            ..context()
        };
        format!("{:?}", Qcow2.open(storage, &cx).unwrap().info.details)
    };
    for name in ["else.data", "disk", "a-name-that-is-longer.data"] {
        let storage = Arc::new(RecordingStorage::new(image.clone()));
        amend(
            Arc::clone(&storage) as Arc<dyn StorageMut>,
            "data_file",
            name,
        );
        let (before, after) = (named(image.clone()), named(storage.bytes()));
        assert!(after.contains(&format!("\"{name}\"")), "{after}");
        let mut rng = Rng::new(3);
        for count in 0..=storage.operations().len() {
            for _ in 0..8 {
                let now = named(storage.bytes_after_crash(count, &mut rng));
                assert!(now == before || now == after, "{now}");
            }
        }
        folder.put("disk.qcow2", &storage.bytes());
        folder.put(name, &vec![0; 1 << 20]);
        folder.expect_sound(&qemu_img, "disk.qcow2", &vec![0; 1 << 20]);
    }
    let (storage, writer) = opened(&image_of(&new_image(512, ""), &[]));
    drop(writer);
    let options: Options = [("data_file", "x")].into_iter().collect();
    let amendable = Qcow2.amendable().unwrap();
    let refused = amendable.amend(storage, &options, false, &context());
    assert!(
        refused
            .unwrap_err()
            .to_string()
            .contains("only an image that has a data file")
    );
}
