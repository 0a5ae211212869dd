//! Where clusters lie: what is given up is given back, and nobody reads another's bytes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use diskette_core::{BlockReaderExt, MIB, Storage, StorageMut};
use diskette_storage::MemoryStorage;
use diskette_testkit::qemu_img;

use crate::support::{Folder, edit, expect_clean, expect_disk};

/// An empty image of 16 MiB.
fn empty(folder: &Folder, options: &str) -> Option<Vec<u8>> {
    let args = [
        "create",
        "-q",
        "-f",
        "qcow2",
        "-o",
        options,
        "new.qcow2",
        "16M",
    ];
    qemu_img()?.run_in(folder.path(), args);
    Some(folder.get("new.qcow2"))
}

#[test]
fn clusters_that_are_given_up_are_used_again_and_punched_out_of_the_file() {
    let folder = Folder::new();
    if empty(&folder, "cluster_size=64k").is_none() {
        return;
    }
    let mut disk = vec![1; 16 << 20];
    let writer = folder.edit("new.qcow2", None).unwrap();
    writer.write_at(&disk, 0).unwrap();
    writer.flush().unwrap();
    let full = folder.file("new.qcow2").metadata().unwrap().len();
    let held = || {
        let storage = diskette_storage::FileStorage::open(folder.file("new.qcow2")).unwrap();
        storage.allocated().unwrap()
    };
    assert!(held() > 15 << 20);
    writer.discard(MIB + 7, 14 * MIB).unwrap();
    writer.flush().unwrap();
    disk[(1 << 20) + 65536..15 << 20].fill(0);
    expect_disk(&*writer, &disk);
    assert!(held() < 4 << 20, "{} are still held", held());
    writer.write_at(&vec![2; 13 << 20], MIB).unwrap();
    disk[1 << 20..14 << 20].fill(2);
    writer.flush().unwrap();
    assert_eq!(folder.file("new.qcow2").metadata().unwrap().len(), full);
    drop(writer);
    folder.expect_sound(&qemu_img().unwrap(), "new.qcow2", &disk);
}

#[test]
fn a_reader_never_sees_what_was_written_elsewhere() {
    let folder = Folder::new();
    let Some(image) = empty(&folder, "cluster_size=4k") else {
        return;
    };
    let storage = Arc::new(MemoryStorage::new(image));
    let writer = edit(Arc::clone(&storage) as Arc<dyn StorageMut>, None).unwrap();
    // One half is 1 or 0, the other 2 or 0, and clusters wander from one to the other.
    let half = 256 << 10;
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for (byte, base) in [(1_u8, 0), (2, half)] {
            let (writer, done) = (&writer, &done);
            scope.spawn(move || {
                for round in 0..150_u64 {
                    let offset = base + round * 7919 % 64 * 4096;
                    let len = 4096 * 8.min((base + half - offset) / 4096);
                    let bytes = vec![byte; usize::try_from(len).unwrap()];
                    writer.write_at(&bytes, offset).unwrap();
                    writer.discard(offset, len).unwrap();
                    if round % 4 == 0 {
                        writer.flush().unwrap();
                    }
                }
                done.store(true, Ordering::Release);
            });
            scope.spawn(move || {
                while !done.load(Ordering::Acquire) {
                    let len = usize::try_from(half).unwrap();
                    let read = writer.read_vec(base, len).unwrap();
                    assert!(read.iter().all(|found| [0, byte].contains(found)));
                }
            });
        }
    });
    writer.flush().unwrap();
    drop(writer);
    expect_clean(storage.to_vec());
}

#[test]
fn a_table_is_written_only_where_it_changed() {
    let folder = Folder::new();
    let Some(image) = empty(&folder, "cluster_size=2M") else {
        return;
    };
    let storage = Arc::new(diskette_testkit::RecordingStorage::new(image));
    let writer = edit(Arc::clone(&storage) as Arc<dyn StorageMut>, None).unwrap();
    writer.write_at(&[1; 512], 0).unwrap();
    writer.flush().unwrap();
    let before = storage.operations().len();
    writer.write_at(&[1; 512], 2 * MIB).unwrap();
    writer.flush().unwrap();
    let written: usize = storage.operations()[before..]
        .iter()
        .map(|operation| match operation {
            diskette_testkit::Operation::Write { bytes, .. } => bytes.len(),
            _ => 0,
        })
        .sum();
    assert!(written < (2 << 20) + 4096, "{written} bytes were written");
}
