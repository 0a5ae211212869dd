//! Every combination of options gives an image that qemu-img finds sound and reads right, and that qemu-io can go on
//! writing to.

use std::sync::Arc;

use diskette_core::{BackingImage, KIB, MIB, NewImage, StorageMut};
use diskette_storage::MemoryStorage;
use diskette_testkit::{Rng, Tool, qemu_img, qemu_io};

use crate::driver::{Folder, image_of, mixed_disk, write_to};

/// Options, and whether to compress.
fn variants(cluster_size: u64) -> Vec<(bool, Vec<(&'static str, String)>)> {
    let mut all = Vec::new();
    for compress in [false, true] {
        for bits in ["1", "2", "4", "8", "16", "32", "64"] {
            all.push((compress, vec![("refcount_bits", bits.to_owned())]));
        }
        all.push((compress, vec![("compat", "0.10".to_owned())]));
        all.push((compress, vec![("lazy_refcounts", "on".to_owned())]));
        if cluster_size >= 16 * KIB {
            all.push((compress, vec![("extended_l2", "on".to_owned())]));
        }
    }
    let zstd = || ("compression_type", "zstd".to_owned());
    all.push((true, vec![zstd()]));
    all.push((true, vec![zstd(), ("compression_level", "-1".to_owned())]));
    all.push((true, vec![("compression_level", "1".to_owned())]));
    all.push((true, vec![("compression_window", "32k".to_owned())]));
    for mode in ["metadata", "falloc", "full"] {
        all.push((false, vec![("preallocation", mode.to_owned())]));
        if cluster_size >= 16 * KIB {
            let extended = ("extended_l2", "on".to_owned());
            all.push((false, vec![("preallocation", mode.to_owned()), extended]));
        }
    }
    for (_, options) in &mut all {
        options.push(("cluster_size", cluster_size.to_string()));
    }
    all
}

fn new_image(size: usize, compress: bool, options: &[(&'static str, String)]) -> NewImage {
    let mut what = NewImage::new(size as u64);
    what.compress = compress;
    for (name, value) in options {
        what = what.with_option(name, value);
    }
    what
}

/// Sizes that end on a cluster, within one, and within a chunk.
fn sizes(cluster_size: u64) -> [usize; 2] {
    let many = if cluster_size < 64 * KIB { 75 } else { 21 };
    let whole = usize::try_from((cluster_size * many).min(9 * MIB)).unwrap();
    [whole, whole - 1536]
}

fn test_cluster_size(cluster_size: u64) {
    let Some(qemu_img) = qemu_img() else {
        return;
    };
    let qemu_io = qemu_io();
    let folder = Folder::new();
    let grain = usize::try_from(cluster_size).unwrap().max(2048) / 2;
    let disks = sizes(cluster_size).map(|size| {
        let disk = mixed_disk(size, grain, cluster_size + size as u64);
        folder.put(&format!("{size}.raw"), &disk);
        disk
    });
    for (index, (compress, options)) in variants(cluster_size).iter().enumerate() {
        let disk = &disks[index % 2];
        eprintln!("{} bytes, compressed: {compress}, {options:?}", disk.len());
        let what = new_image(disk.len(), *compress, options);
        folder.put("disk.qcow2", &image_of(&what, disk));
        let raw = format!("{}.raw", disk.len());
        folder.expect_sound(&qemu_img, "disk.qcow2", &raw);
        if let (Some(qemu_io), true) = (&qemu_io, index % 3 != 0) {
            go_on_writing(&folder, &qemu_img, qemu_io, &raw, disk.len() as u64);
        }
    }
}

/// Writes at random to the image and to a copy of the disk.
fn go_on_writing(folder: &Folder, qemu_img: &Tool, qemu_io: &Tool, raw: &str, size: u64) {
    std::fs::copy(folder.path().join(raw), folder.path().join("copy.raw")).unwrap();
    let mut rng = Rng::new(size);
    let mut script = String::new();
    for pattern in 1..12 {
        let offset = rng.below(size / 512) * 512;
        let len = (1 + rng.below(200)) * 512;
        let len = len.min(size - offset);
        let command = match pattern % 3 {
            0 => format!("write -z {offset} {len}\n"),
            _ => format!("write -P {pattern} {offset} {len}\n"),
        };
        script.push_str(&command);
    }
    for (format, name) in [("qcow2", "disk.qcow2"), ("raw", "copy.raw")] {
        let mut command = qemu_io.command();
        command
            .current_dir(folder.path())
            .args(["-t", "unsafe", "-f", format, name]);
        command.stdin(std::process::Stdio::piped());
        command.stdout(std::process::Stdio::null());
        let mut child = command.spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        std::io::Write::write_all(&mut stdin, script.as_bytes()).unwrap();
        drop(stdin);
        assert!(child.wait().unwrap().success());
    }
    folder.expect_sound(qemu_img, "disk.qcow2", "copy.raw");
}

macro_rules! cluster_sizes {
    ($($name:ident: $size:expr,)*) => {
        $(
            #[test]
            fn $name() {
                test_cluster_size($size);
            }
        )*
    };
}

cluster_sizes! {
    images_with_clusters_of_512_bytes_are_sound: 512,
    images_with_clusters_of_1_kib_are_sound: KIB,
    images_with_clusters_of_2_kib_are_sound: 2 * KIB,
    images_with_clusters_of_4_kib_are_sound: 4 * KIB,
    images_with_clusters_of_8_kib_are_sound: 8 * KIB,
    images_with_clusters_of_16_kib_are_sound: 16 * KIB,
    images_with_clusters_of_32_kib_are_sound: 32 * KIB,
    images_with_clusters_of_64_kib_are_sound: 64 * KIB,
    images_with_clusters_of_128_kib_are_sound: 128 * KIB,
    images_with_clusters_of_256_kib_are_sound: 256 * KIB,
    images_with_clusters_of_512_kib_are_sound: 512 * KIB,
    images_with_clusters_of_1_mib_are_sound: MIB,
    images_with_clusters_of_2_mib_are_sound: 2 * MIB,
}

/// A base, and what an overlay has over it: its own chunks, zeros that hide the base, and holes that show it.
#[test]
fn overlays_show_what_they_leave_open_and_hide_what_they_zero() {
    let Some(qemu_img) = qemu_img() else {
        return;
    };
    let folder = Folder::new();
    let size = 2 * usize::try_from(MIB).unwrap() + 512;
    let base = vec![0xaa; 3 * size / 4];
    folder.put("base.raw", &base);
    let own = mixed_disk(size, 32 << 10, 5);
    let is_hole = |offset: u64| offset / (128 * KIB) % 3 == 1;

    let mut expected = own.clone();
    for offset in (0..size).filter(|offset| is_hole(*offset as u64)) {
        expected[offset] = base.get(offset).copied().unwrap_or(0);
    }
    folder.put("expected.raw", &expected);

    for options in [
        &[][..],
        &[("compat", "0.10")],
        &[("extended_l2", "on")],
        &[("extended_l2", "on"), ("preallocation", "metadata")],
        &[("cluster_size", "4k")],
        &[("cluster_size", "512"), ("refcount_bits", "1")],
    ] {
        for compress in [false, true] {
            let mut what =
                NewImage::new(size as u64).with_backing(BackingImage::new("base.raw", "raw"));
            for (name, value) in options {
                what = what.with_option(name, value);
            }
            what.compress = compress;
            if compress && what.options.text("preallocation").is_some() {
                continue;
            }
            eprintln!("compressed: {compress}, {options:?}");
            let memory = Arc::new(MemoryStorage::default());
            let to = Arc::clone(&memory) as Arc<dyn StorageMut>;
            write_to(to, &what, &own, is_hole).unwrap();
            folder.put("overlay.qcow2", &memory.to_vec());
            folder.expect_sound(&qemu_img, "overlay.qcow2", "expected.raw");
        }
    }
}
