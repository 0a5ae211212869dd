use super::*;
use crate::{Content, qemu_img};
use std::fs;
use std::path::Path;

/// That qemu-img finds the image sound, and reads `expected`.
fn assert_reads(folder: &Path, name: &str, expected: &[u8]) {
    let Some(qemu_img) = qemu_img() else {
        return;
    };
    qemu_img.run_in(folder, ["check", "-q", "-f", "qcow2", name]);
    qemu_img.run_in(
        folder,
        ["convert", "-f", "qcow2", "-O", "raw", name, "out.raw"],
    );
    assert!(
        fs::read(folder.join("out.raw")).unwrap() == expected,
        "{name}"
    );
}

fn put(disk: &mut [u8], at: usize, bytes: &[u8]) {
    disk[at..at + bytes.len()].copy_from_slice(bytes);
}

#[test]
fn an_image_of_every_geometry_is_sound() {
    let folder = tempfile::tempdir().unwrap();
    for (cluster_bits, refcount_order) in [
        (9, 4),
        (9, 0),
        (9, 6),
        (12, 1),
        (12, 2),
        (12, 3),
        (16, 4),
        (16, 5),
        (21, 4),
    ] {
        let cluster_size = 1_usize << cluster_bits;
        let mut disk = vec![0; 40 * cluster_size + 512];
        let data = Content::new(1).bytes(cluster_size);
        let mut image = Qcow2::v3(disk.len() as u64)
            .cluster_bits(cluster_bits)
            .refcount_order(refcount_order);
        for index in [0, 1, 7, 40] {
            image = image.cluster(index as u64, Cluster::Data(data.clone()));
            let len = cluster_size.min(disk.len() - index * cluster_size);
            put(&mut disk, index * cluster_size, &data[..len]);
        }
        image = image
            .cluster(2, Cluster::Zero)
            .cluster(3, Cluster::ZeroAllocated(data));
        fs::write(folder.path().join("image.qcow2"), &image.build().bytes).unwrap();
        assert_reads(folder.path(), "image.qcow2", &disk);
    }
}

#[test]
fn streams_are_packed_and_straddle_clusters() {
    // A deflate stream of stored blocks: it needs no compressor, and is as long as it looks.
    let stored = |byte: u8, len: u16| {
        let mut stream = vec![1];
        stream.extend(len.to_le_bytes());
        stream.extend((!len).to_le_bytes());
        stream.extend(vec![byte; usize::from(len)]);
        stream
    };
    let folder = tempfile::tempdir().unwrap();
    for refcount_order in [0, 1, 4] {
        let mut image = Qcow2::v3(8 << 12)
            .cluster_bits(12)
            .refcount_order(refcount_order);
        let mut disk = vec![0; 8 << 12];
        for index in 0..6_u8 {
            image = image.cluster(
                u64::from(index),
                Cluster::Compressed(stored(index + 1, 4096)),
            );
            disk[usize::from(index) << 12..][..4096].fill(index + 1);
        }
        fs::write(folder.path().join("image.qcow2"), &image.build().bytes).unwrap();
        assert_reads(folder.path(), "image.qcow2", &disk);
    }
}

#[test]
fn subclusters_backing_data_file_and_snapshots_are_sound() {
    let folder = tempfile::tempdir().unwrap();
    let base = vec![0xbb; 1 << 20];
    fs::write(folder.path().join("base.raw"), &base).unwrap();

    let data = vec![0xdd; 1 << 16];
    let overlay = Qcow2::v3(1 << 20)
        .extended_l2()
        .backing("base.raw", "raw")
        .cluster(0, Cluster::Data(data.clone()))
        .cluster(
            1,
            Cluster::Subclusters {
                allocated: 0b0110,
                zero: 0b1000,
                data: Some(data.clone()),
            },
        )
        .cluster(2, Cluster::Zero)
        .cluster(
            3,
            Cluster::Subclusters {
                allocated: 0,
                zero: 1,
                data: None,
            },
        );
    let mut disk = base;
    put(&mut disk, 0, &data);
    put(&mut disk, 0x1_0800, &[0xdd; 0x1000]);
    put(&mut disk, 0x1_1800, &[0; 0x800]);
    put(&mut disk, 0x2_0000, &[0; 0x1_0000]);
    put(&mut disk, 0x3_0000, &[0; 0x800]);
    fs::write(folder.path().join("overlay.qcow2"), &overlay.build().bytes).unwrap();
    assert_reads(folder.path(), "overlay.qcow2", &disk);

    let outside = Qcow2::v3(1 << 18)
        .data_file("data.raw")
        .cluster(2, Cluster::Data(data.clone()))
        .build();
    fs::write(
        folder.path().join("data.raw"),
        outside.data_file.as_ref().unwrap(),
    )
    .unwrap();
    fs::write(folder.path().join("outside.qcow2"), &outside.bytes).unwrap();
    let mut disk = vec![0; 1 << 18];
    put(&mut disk, 0x2_0000, &data);
    assert_reads(folder.path(), "outside.qcow2", &disk);

    let older = Snapshot {
        id: "1".into(),
        name: "before".into(),
        disk_size: 1 << 20,
        clusters: [(0, Cluster::Data(vec![0xaa; 1 << 16]))].into(),
    };
    let image = Qcow2::v3(1 << 20).snapshot(older).build();
    fs::write(folder.path().join("snapshot.qcow2"), &image.bytes).unwrap();
    assert_reads(folder.path(), "snapshot.qcow2", &vec![0; 1 << 20]);

    let old = Qcow2::v2(1 << 20).cluster(0, Cluster::Data(data.clone()));
    fs::write(folder.path().join("v2.qcow2"), &old.build().bytes).unwrap();
    let mut disk = vec![0; 1 << 20];
    put(&mut disk, 0, &data);
    assert_reads(folder.path(), "v2.qcow2", &disk);
}

#[test]
fn an_entry_can_be_found_and_mangled() {
    let mut image = Qcow2::v3(1 << 30)
        .cluster(8193, Cluster::Data(vec![1]))
        .build();
    let at = image.l2_entry_at(8193);
    assert_eq!(at, image.l2_offsets[&1] + 8);
    assert_eq!(image.u64_at(at), 1 << 63 | 0x1_0000);
    image.put_u64(at, 7);
    assert_eq!(image.u64_at(at), 7);
}
