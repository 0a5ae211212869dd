//! Snapshots that qemu-img takes and we change, and the other way round.

use std::sync::Arc;

use diskette_core::{BlockReaderExt, MIB, NewImage, NewSnapshot, StorageMut};
use diskette_storage::MemoryStorage;
use diskette_testkit::{Rng, qemu_img};

use crate::driver::image_of;
use crate::support::{Act, Folder, Step, edit, expect_clean, expect_disk};

/// Changes an image and the disk that it should hold.
fn scribble(folder: &Folder, disk: &mut [u8], rng: &mut Rng, cluster: usize) {
    let writer = folder.edit("disk.qcow2", None).expect("files do not fail");
    for _ in 0..10 {
        let step = Step::random(rng, disk.len(), cluster);
        step.run(&*writer).expect("files do not fail");
        step.model(disk, cluster, true);
    }
    writer.flush().expect("files do not fail");
}

#[test]
fn snapshots_pass_between_qemu_img_and_us() {
    let Some(qemu_img) = qemu_img() else {
        return;
    };
    for (seed, (options, cluster)) in (1..).zip([
        ("cluster_size=64k", 64 << 10),
        ("cluster_size=512,refcount_bits=64", 512),
        ("cluster_size=4k,compat=0.10", 4 << 10),
        ("cluster_size=16k,extended_l2=on", 16 << 10),
        ("cluster_size=4k,refcount_bits=8", 4 << 10),
    ]) {
        eprintln!("{options}");
        let folder = Folder::new();
        let create = [
            "create",
            "-q",
            "-f",
            "qcow2",
            "-o",
            options,
            "disk.qcow2",
            "1M",
        ];
        qemu_img.run_in(folder.path(), create);
        let mut disk = vec![0; 1 << 20];
        let mut rng = Rng::new(seed);
        let theirs = |option: &str, name: &str| {
            qemu_img.run_in(folder.path(), ["snapshot", option, name, "disk.qcow2"]);
        };
        let sound = |disk: &[u8]| folder.expect_sound(&qemu_img, "disk.qcow2", disk);

        scribble(&folder, &mut disk, &mut rng, cluster);
        theirs("-c", "theirs");
        let first = disk.clone();
        scribble(&folder, &mut disk, &mut rng, cluster);
        sound(&disk);

        let writer = folder.edit("disk.qcow2", None).unwrap();
        let snapshots = writer.snapshots().unwrap();
        let mut what = NewSnapshot::named("ours");
        what.date_seconds = 1_600_000_000;
        let made = snapshots.create(&what).unwrap();
        assert_eq!((made.id.as_str(), made.disk_size), ("2", MIB));
        let second = disk.clone();
        drop(writer);
        sound(&disk);
        let listed = qemu_img.run_in(folder.path(), ["snapshot", "-l", "disk.qcow2"]);
        assert!(
            listed.contains("ours") && listed.contains("2020-09-13"),
            "{listed}"
        );
        scribble(&folder, &mut disk, &mut rng, cluster);

        let writer = folder.edit("disk.qcow2", None).unwrap();
        let snapshots = writer.snapshots().unwrap();
        snapshots.apply("theirs").unwrap();
        expect_disk(&*writer, &first);
        writer.write_at(&[1; 700], 300).unwrap();
        drop(writer);
        let mut disk = first.clone();
        disk[300..1000].fill(1);
        sound(&disk);

        theirs("-a", "ours");
        sound(&second);
        let mut disk = second.clone();
        scribble(&folder, &mut disk, &mut rng, cluster);
        theirs("-d", "ours");
        sound(&disk);
        scribble(&folder, &mut disk, &mut rng, cluster);
        let writer = folder.edit("disk.qcow2", None).unwrap();
        let snapshots = writer.snapshots().unwrap();
        snapshots.delete("theirs").unwrap();
        assert!(snapshots.list().unwrap().is_empty());
        assert!(snapshots.delete("theirs").is_err());
        drop(writer);
        sound(&disk);
        scribble(&folder, &mut disk, &mut rng, cluster);
        sound(&disk);
    }
}

#[test]
fn the_state_of_a_machine_that_lies_behind_the_disk_is_kept() {
    // Where data behind the disk comes from here: the size in the header is cut down.
    let what = NewImage::new(128 << 10).with_option("cluster_size", "512");
    let mut image = image_of(&what, &vec![7; 128 << 10]);
    image[24..32].copy_from_slice(&(32_u64 << 10).to_be_bytes());
    let storage = Arc::new(MemoryStorage::new(image));
    let writer = edit(Arc::clone(&storage) as Arc<dyn StorageMut>, None).unwrap();
    let snapshots = writer.snapshots().unwrap();
    snapshots.create(&NewSnapshot::named("with state")).unwrap();
    writer.write_at(&vec![8; 32 << 10], 0).unwrap();
    snapshots.apply("1").unwrap();
    expect_disk(&*writer, &vec![7; 32 << 10]);
    // Neither a longer nor a shorter disk shows it, and the snapshot has it still.
    writer.resize(128 << 10).unwrap();
    let mut disk = vec![7; 32 << 10];
    disk.resize(128 << 10, 0);
    expect_disk(&*writer, &disk);
    writer.resize(512).unwrap();
    drop(writer);
    expect_clean(storage.to_vec());

    let writer = edit(Arc::clone(&storage) as Arc<dyn StorageMut>, None).unwrap();
    writer.snapshots().unwrap().apply("with state").unwrap();
    drop(writer);
    let mut image = storage.to_vec();
    image[24..32].copy_from_slice(&(128_u64 << 10).to_be_bytes());
    let storage = Arc::new(MemoryStorage::new(image));
    let writer = edit(Arc::clone(&storage) as Arc<dyn StorageMut>, None).unwrap();
    let kept = writer.read_vec(0, 128 << 10).unwrap();
    assert!(kept.iter().all(|byte| *byte == 7));
    writer.snapshots().unwrap().delete("1").unwrap();
    drop(writer);
    expect_clean(storage.to_vec());
}

#[test]
fn what_cannot_be_shared_is_refused_and_nothing_has_changed() {
    let what = NewImage::new(MIB).with_option("refcount_bits", "1");
    let image = image_of(&what, &vec![1; 1 << 20]);
    let storage = Arc::new(MemoryStorage::new(image));
    let writer = edit(Arc::clone(&storage) as Arc<dyn StorageMut>, None).unwrap();
    let snapshots = writer.snapshots().unwrap();
    let refused = snapshots.create(&NewSnapshot::named("one")).unwrap_err();
    assert!(
        refused.to_string().contains("than 1 bits can count"),
        "{refused}"
    );
    expect_disk(&*writer, &vec![1; 1 << 20]);
    drop(writer);
    expect_clean(storage.to_vec());
}

#[test]
fn a_disk_is_cut_where_a_cluster_goes_on_and_shows_nothing_old_when_it_grows() {
    for cluster_size in ["512", "64k", "2M"] {
        let what = NewImage::new(5 * MIB).with_option("cluster_size", cluster_size);
        let storage = Arc::new(MemoryStorage::new(image_of(&what, &[])));
        let writer = edit(Arc::clone(&storage) as Arc<dyn StorageMut>, None).unwrap();
        writer.write_at(&[3], 0).unwrap();
        writer.write_at(&vec![3; 5 << 20], 0).unwrap();
        let before = storage.to_vec().len();
        writer.resize(MIB + 512).unwrap();
        let mut disk = vec![3; (1 << 20) + 512];
        expect_disk(&*writer, &disk);
        assert!(writer.write_at(&[1], MIB + 512).is_err());
        assert!(storage.to_vec().len() < before);
        writer.resize(9 * MIB).unwrap();
        disk.resize(9 << 20, 0);
        expect_disk(&*writer, &disk);
        assert_eq!(writer.size(), 9 * MIB);
        assert!(writer.resize(9 * MIB + 1).is_err());
        assert!(writer.resize(!511).is_err());
        drop(writer);
        expect_clean(storage.to_vec());
    }
}

#[test]
fn a_disk_of_many_tables_has_its_list_of_them_moved() {
    // 64 refcounts in a block, 512 bytes of L1 in a cluster: a table longer than any block counts.
    let what = NewImage::new(MIB)
        .with_option("cluster_size", "512")
        .with_option("refcount_bits", "64");
    let storage = Arc::new(MemoryStorage::new(image_of(&what, &[])));
    let writer = edit(Arc::clone(&storage) as Arc<dyn StorageMut>, None).unwrap();
    let size = 2048 * MIB;
    writer.resize(size).unwrap();
    writer.write_at(&[5; 1000], size - 1000).unwrap();
    writer
        .snapshots()
        .unwrap()
        .create(&NewSnapshot::named("one"))
        .unwrap();
    writer.write_at(&[6; 1000], size - 1000).unwrap();
    writer.snapshots().unwrap().apply("one").unwrap();
    assert_eq!(writer.read_vec(size - 1000, 1000).unwrap(), [5; 1000]);
    drop(writer);
    expect_clean(storage.to_vec());
}

#[test]
fn a_data_file_grows_with_the_disk_and_has_no_snapshots() {
    let Some(qemu_img) = qemu_img() else {
        return;
    };
    for raw in ["off", "on"] {
        let folder = Folder::new();
        let options = format!("data_file=disk.data,data_file_raw={raw}");
        let create = [
            "create",
            "-q",
            "-f",
            "qcow2",
            "-o",
            &options,
            "disk.qcow2",
            "1M",
        ];
        qemu_img.run_in(folder.path(), create);
        let writer = folder.edit("disk.qcow2", None).unwrap();
        let mut disk = vec![9; 1 << 20];
        writer.write_at(&disk, 0).unwrap();
        writer.resize(3 * MIB).unwrap();
        disk.resize(3 << 20, 0);
        let step = Step {
            act: Act::Write(4),
            start: (2 << 20) + 512,
            len: 1024,
        };
        step.run(&*writer).unwrap();
        step.model(&mut disk, 65536, true);
        let created = writer
            .snapshots()
            .unwrap()
            .create(&NewSnapshot::named("one"));
        assert!(created.is_err());
        drop(writer);
        folder.expect_sound(&qemu_img, "disk.qcow2", &disk);
        let writer = folder.edit("disk.qcow2", None).unwrap();
        writer.resize(MIB / 2).unwrap();
        drop(writer);
        folder.expect_sound(&qemu_img, "disk.qcow2", &disk[..1 << 19]);
        assert_eq!(folder.get("disk.data").len(), 1 << 19);
    }
}
