//! Images that we and qemu-io change in turns: clean after each turn, and equal.

use std::sync::Arc;

use diskette_core::BlockReader;
use diskette_testkit::{Rng, Tool, qemu_img, qemu_io};

use crate::support::{Act, Bytes, Folder, SECRET, Step, expect_disk};

/// An image, and how it is made.
struct Kind {
    options: String,
    cluster: usize,
    /// Whether it begins with compressed data.
    compressed: bool,
    over_base: bool,
}

fn kind(options: &str, cluster: usize) -> Kind {
    Kind {
        options: options.to_owned(),
        cluster,
        compressed: false,
        over_base: false,
    }
}

const TURNS: usize = 5;
const STEPS: usize = 12;

fn take_turns(kinds: &[Kind]) {
    let (Some(qemu_img), Some(qemu_io)) = (qemu_img(), qemu_io()) else {
        return;
    };
    for (seed, kind) in (1..).zip(kinds) {
        eprintln!(
            "{} {} compressed: {}, over a base: {}",
            kind.options, kind.cluster, kind.compressed, kind.over_base
        );
        take_turns_with(kind, seed, &qemu_img, &qemu_io);
    }
}

fn take_turns_with(kind: &Kind, seed: u64, qemu_img: &Tool, qemu_io: &Tool) {
    let folder = Folder::new();
    let mut rng = Rng::new(seed);
    // Not of whole clusters.
    let size = (20 * kind.cluster).clamp(256 << 10, 6 << 20) + 512;
    let mut disk = create(kind, size, &folder, qemu_img);
    let below = kind.over_base.then(|| {
        let base = folder.get("base.raw");
        Arc::new(Bytes(base)) as Arc<dyn BlockReader>
    });
    // Version 2 has no way to hide what lies below.
    let discards = !(kind.over_base && kind.options.contains("0.10"));
    // And a discard by QEMU leaves what it likes in a raw data file.
    let raw = kind.options.contains("data_file_raw");
    for turn in 0..TURNS {
        let steps: Vec<Step> = (0..STEPS)
            .map(|_| Step::random(&mut rng, size, kind.cluster))
            .collect();
        let writer = folder
            .edit("disk.qcow2", below.clone())
            .expect("an image that can be changed");
        for step in &steps {
            step.run(&*writer).expect("files do not fail");
            step.model(&mut disk, kind.cluster, discards);
        }
        if turn % 2 == 0 {
            writer.flush().expect("files do not fail");
        }
        expect_disk(&*writer, &disk);
        drop(writer);
        folder.expect_sound(qemu_img, "disk.qcow2", &disk);

        let image = folder.described("disk.qcow2");
        let mut command = vec!["-d", "unmap", SECRET, "--image-opts"];
        let steps: Vec<Step> = (0..STEPS)
            .map(|_| Step::random(&mut rng, size, kind.cluster))
            .filter(|step| discards && !raw || step.act != Act::Discard)
            .collect();
        let told: Vec<String> = steps.iter().map(Step::told).collect();
        for text in &told {
            command.extend(["-c", text]);
        }
        command.push(&image);
        qemu_io.run_in(folder.path(), command);
        for step in &steps {
            step.model(&mut disk, kind.cluster, discards);
        }
        folder.expect_sound(qemu_img, "disk.qcow2", &disk);
    }
    if raw {
        let data = folder.get("disk.data");
        let differs = (0..size).find(|at| data.get(*at) != disk.get(*at));
        assert_eq!(
            differs, None,
            "the first byte of the data file that differs"
        );
    }
}

/// The image, and its disk.
fn create(kind: &Kind, size: usize, folder: &Folder, qemu_img: &Tool) -> Vec<u8> {
    let mut disk = vec![0; size];
    let options = format!("cluster_size={}{}", kind.cluster, kind.options);
    if kind.compressed {
        for (index, part) in disk.chunks_mut(5000).enumerate() {
            part.fill(u8::try_from(index % 7).expect("a byte"));
        }
        folder.put("source.raw", &disk);
        let to = ["-f", "raw", "-O", "qcow2", "source.raw", "disk.qcow2"];
        let args: Vec<&str> = ["convert", "-c", "-o", &options]
            .into_iter()
            .chain(to)
            .collect();
        qemu_img.run_in(folder.path(), args);
        return disk;
    }
    let size_text = size.to_string();
    let mut args = vec!["create", "-q", SECRET, "-f", "qcow2", "-o", &options];
    if kind.over_base {
        let base = vec![0x5a; 2 * size / 3 / 512 * 512];
        disk[..base.len()].copy_from_slice(&base);
        folder.put("base.raw", &base);
        args.extend(["-b", "base.raw", "-F", "raw"]);
    }
    args.extend(["disk.qcow2", &size_text]);
    qemu_img.run_in(folder.path(), args);
    disk
}

#[test]
fn every_width_of_refcounts_is_kept_in_turns() {
    take_turns(&[
        kind(",refcount_bits=1", 4096),
        kind(",refcount_bits=2", 4096),
        kind(",refcount_bits=4", 512),
        kind(",refcount_bits=8", 4096),
        kind(",refcount_bits=16", 512),
        kind(",refcount_bits=32", 4096),
        kind(",refcount_bits=64", 512),
        kind(",lazy_refcounts=on", 4096),
    ]);
}

#[test]
fn every_size_of_clusters_is_kept_in_turns() {
    let kinds: Vec<Kind> = (9..=21).map(|bits| kind("", 1 << bits)).collect();
    take_turns(&kinds);
}

#[test]
fn subclusters_are_kept_in_turns() {
    let over = |options, cluster| Kind {
        over_base: true,
        ..kind(options, cluster)
    };
    take_turns(&[
        kind(",extended_l2=on", 16 << 10),
        kind(",extended_l2=on", 64 << 10),
        over(",extended_l2=on", 16 << 10),
        over(",extended_l2=on", 128 << 10),
        over(",extended_l2=on,preallocation=metadata", 64 << 10),
    ]);
}

#[test]
fn overlays_are_kept_in_turns() {
    let over = |options, cluster| Kind {
        over_base: true,
        ..kind(options, cluster)
    };
    take_turns(&[
        over("", 64 << 10),
        over("", 512),
        over(",compat=0.10", 4096),
    ]);
}

#[test]
fn compressed_clusters_are_kept_in_turns() {
    let packed = |options, cluster| Kind {
        compressed: true,
        ..kind(options, cluster)
    };
    take_turns(&[
        packed("", 64 << 10),
        packed("", 4096),
        packed(",compression_type=zstd", 64 << 10),
        packed(",compat=0.10", 8192),
        packed(",extended_l2=on", 16 << 10),
        packed(",refcount_bits=2", 512),
    ]);
}

#[test]
fn encrypted_images_are_kept_in_turns() {
    const LUKS: &str = ",encrypt.format=luks,encrypt.key-secret=s0,encrypt.iter-time=10";
    let sealed = |options: &str, cluster| Kind {
        options: format!("{options}{LUKS}"),
        ..kind("", cluster)
    };
    take_turns(&[
        sealed("", 64 << 10),
        sealed(
            ",encrypt.cipher-alg=serpent-256,encrypt.cipher-mode=cbc,encrypt.ivgen-alg=essiv",
            512,
        ),
        sealed(",extended_l2=on", 16 << 10),
        sealed(",compat=0.10", 4096),
        sealed(",data_file=disk.data", 64 << 10),
        Kind {
            over_base: true,
            ..sealed("", 64 << 10)
        },
        Kind {
            over_base: true,
            ..sealed(",extended_l2=on", 32 << 10)
        },
    ]);
}

#[test]
fn data_files_are_kept_in_turns() {
    take_turns(&[
        kind(",data_file=disk.data", 64 << 10),
        kind(",data_file=disk.data", 4096),
        kind(",data_file=disk.data,extended_l2=on", 16 << 10),
        kind(",data_file=disk.data,data_file_raw=on", 64 << 10),
        kind(
            ",data_file=disk.data,data_file_raw=on,extended_l2=on",
            16 << 10,
        ),
    ]);
}

#[test]
fn preallocated_images_are_kept_in_turns() {
    take_turns(&[
        kind(",preallocation=metadata", 64 << 10),
        kind(",preallocation=falloc", 4096),
    ]);
}

#[test]
fn what_qemu_left_dirty_is_counted_anew_before_it_is_written() {
    let (Some(qemu_img), Some(qemu_io)) = (qemu_img(), qemu_io()) else {
        return;
    };
    let folder = Folder::new();
    let kind = kind(",lazy_refcounts=on", 64 << 10);
    let mut disk = create(&kind, 1 << 20, &folder, &qemu_img);
    let args = "-f,qcow2,-c,write -P 1 0 200k,-c,flush,-c,sigraise 9,disk.qcow2".split(',');
    let mut killed = qemu_io.command();
    let killed = killed.current_dir(folder.path()).args(args).output();
    assert!(!killed.expect("qemu-io was found").status.success());
    assert_eq!(folder.get("disk.qcow2")[79] & 1, 1, "it is marked as dirty");
    disk[..200 << 10].fill(1);

    let writer = folder
        .edit("disk.qcow2", None)
        .expect("an image that opens");
    expect_disk(&*writer, &disk);
    writer
        .write_at(&vec![2; 300 << 10], 100 << 10)
        .expect("files do not fail");
    writer.flush().expect("files do not fail");
    assert_eq!(folder.get("disk.qcow2")[79] & 1, 1, "refcounts are put off");
    disk[100 << 10..400 << 10].fill(2);
    drop(writer);
    assert_eq!(folder.get("disk.qcow2")[79] & 1, 0);
    folder.expect_sound(&qemu_img, "disk.qcow2", &disk);
}
