//! Bytes that any writer must produce, or that ours does on purpose.

use diskette_core::{NewImage, NoParts, Packed};
use diskette_testkit::qemu_img;

use crate::driver::{Folder, format, image_of, mixed_disk};

#[test]
fn an_image_without_data_is_what_qemu_img_creates() {
    let Some(qemu_img) = qemu_img() else {
        return;
    };
    let folder = Folder::new();
    for (options, size) in [
        ("compat=1.1", 1_u64 << 20),
        ("compat=0.10", 1 << 20),
        ("cluster_size=512", 1 << 20),
        ("cluster_size=2M", 1 << 30),
        ("cluster_size=4k", 100 << 30),
        (
            "extended_l2=on,compression_type=zstd,lazy_refcounts=on",
            5 << 30,
        ),
        ("refcount_bits=1", 512),
        ("refcount_bits=2", 512),
        ("refcount_bits=8", 512),
        ("refcount_bits=64", 1000),
        ("backing_file=base.raw,backing_fmt=raw", 1 << 20),
        ("backing_file=base.raw,backing_fmt=raw,compat=0.10", 1 << 20),
    ] {
        folder.put("base.raw", &[0; 512]);
        let number = size.to_string();
        let args = [
            "create", "-q", "-f", "qcow2", "-o", options, "theirs", &number,
        ];
        qemu_img.run_in(folder.path(), args);
        let mut what = NewImage::new(size);
        for (name, value) in options.split(',').filter_map(|pair| pair.split_once('=')) {
            what = what.with_option(name, value);
        }
        let ours = image_of(&what, &[]);
        let mut theirs = folder.get("theirs");
        theirs.resize(ours.len(), 0);
        let differs = (0..ours.len()).find(|at| ours[*at] != theirs[*at]);
        assert_eq!(differs, None, "{options}, {size} bytes");
    }
}

#[test]
fn a_disk_of_no_bytes_has_an_image() {
    let Some(qemu_img) = qemu_img() else {
        return;
    };
    let folder = Folder::new();
    folder.put("disk.qcow2", &image_of(&NewImage::new(0), &[]));
    folder.put("disk.raw", &[]);
    folder.expect_sound(&qemu_img, "disk.qcow2", "disk.raw");
}

#[test]
fn an_image_is_padded_to_a_whole_cluster() {
    let image = image_of(&NewImage::new(1 << 20), &[]);
    assert_eq!(image.len(), 4 << 16);
}

#[test]
fn streams_are_packed_back_to_back_across_clusters() {
    let what = NewImage::new(1 << 20)
        .compressed()
        .with_option("cluster_size", "4k");
    let memory = std::sync::Arc::new(diskette_storage::MemoryStorage::default());
    let mut writer = format().create(memory, &NoParts, &what).unwrap();
    let mut place = |cluster: u64, packed, len| writer.place(cluster * 4096, packed, len).unwrap();
    assert_eq!(place(0, Packed::Compressed, 3000), Some(4096));
    assert_eq!(place(1, Packed::Compressed, 3000), Some(4096 + 3000));
    assert_eq!(place(2, Packed::Compressed, 3000), Some(4096 + 6000));
    // A plain cluster leaves room for the streams that may come.
    let plain = place(3, Packed::Plain, 4096).unwrap();
    assert!(plain.is_multiple_of(4096) && plain > 4096 + 9000);
    assert_eq!(place(5, Packed::Compressed, 4000), Some(4096 + 9000));
}

#[test]
fn no_more_streams_share_a_cluster_than_a_refcount_can_count() {
    for (bits, expected) in [
        ("1", [4096, 8192, 12288, 16384]),
        ("2", [4096, 4106, 4116, 8192]),
    ] {
        let what = NewImage::new(1 << 20)
            .compressed()
            .with_option("cluster_size", "4k")
            .with_option("refcount_bits", bits);
        let memory = std::sync::Arc::new(diskette_storage::MemoryStorage::default());
        let mut writer = format().create(memory, &NoParts, &what).unwrap();
        let places = [0, 1, 2, 3].map(|cluster| {
            let place = writer.place(cluster * 4096, Packed::Compressed, 10);
            place.unwrap().unwrap()
        });
        assert_eq!(places, expected, "{bits} bits");
    }
}

#[test]
fn a_chunk_outside_of_the_disk_is_refused() {
    let memory = std::sync::Arc::new(diskette_storage::MemoryStorage::default());
    let mut writer = format()
        .create(memory, &NoParts, &NewImage::new(100_000))
        .unwrap();
    assert!(writer.place(0, Packed::Plain, 65536).is_ok());
    assert!(writer.place(65536, Packed::Plain, 65537).is_err());
    assert!(writer.place(131_072, Packed::Plain, 512).is_err());
    assert!(writer.place(512, Packed::Plain, 512).is_err());
    assert!(writer.place(65536, Packed::Compressed, 0).is_err());
}

#[test]
fn an_image_is_not_larger_than_that_of_qemu_img() {
    let Some(qemu_img) = qemu_img() else {
        return;
    };
    let folder = Folder::new();
    for seed in 0..2 {
        let disk = mixed_disk(8 << 20, 32 << 10, seed);
        folder.put("disk.raw", &disk);
        for cluster_size in ["4k", "64k", "2M"] {
            for compress in [false, true] {
                let option = format!("cluster_size={cluster_size}");
                let mut args = vec!["convert", "-f", "raw", "-O", "qcow2", "-o", &option];
                if compress {
                    args.push("-c");
                }
                args.extend(["disk.raw", "theirs"]);
                qemu_img.run_in(folder.path(), args);
                let mut what = NewImage::new(8 << 20).with_option("cluster_size", cluster_size);
                what.compress = compress;
                let ours = image_of(&what, &disk).len() as u64;
                let theirs = folder.get("theirs").len() as u64;
                // The streams themselves differ, and ours ends with a whole cluster.
                let most = theirs + theirs / 100 + (2 << 20);
                eprintln!("{option} compressed: {compress}: {ours} and {theirs}");
                assert!(ours <= most, "{option} {compress}: {ours} > {theirs}");
            }
        }
    }
}

#[test]
fn the_header_comes_last() {
    use diskette_testkit::recording::{Operation, RecordingStorage};
    let storage = std::sync::Arc::new(RecordingStorage::new(Vec::new()));
    let to = std::sync::Arc::clone(&storage) as std::sync::Arc<dyn diskette_core::StorageMut>;
    let disk = mixed_disk(1 << 20, 4096, 1);
    crate::driver::write_to(to, &NewImage::new(1 << 20), &disk, |_| false).unwrap();
    let operations = storage.operations();
    let header = operations.iter().position(
        |operation| matches!(operation, Operation::Write { offset, .. } if *offset < 65536),
    );
    assert_eq!(header, Some(operations.len() - 1));
}

#[test]
fn a_storage_that_fails_makes_an_error_and_no_image() {
    use diskette_testkit::{FailingStorage, Failure, How, RecordingStorage, failing::What};
    let disk = mixed_disk(1 << 20, 4096, 1);
    let what = NewImage::new(1 << 20)
        .compressed()
        .with_option("cluster_size", "4k");
    let run = |failure| {
        let storage = FailingStorage::new(RecordingStorage::new(Vec::new()), failure);
        let storage = std::sync::Arc::new(storage);
        let to = std::sync::Arc::clone(&storage) as std::sync::Arc<dyn diskette_core::StorageMut>;
        (
            crate::driver::write_to(to, &what, &disk, |_| false),
            storage,
        )
    };
    let (done, storage) = run(Failure::never());
    done.unwrap();
    for after in 0..storage.operations() {
        for how in [How::Error, How::Half] {
            let (done, storage) = run(Failure::new(What::Everything, after).with(how));
            assert!(done.is_err());
            let bytes = storage.inner().bytes();
            let magic = bytes.get(..4).unwrap_or_default();
            assert!(magic != b"QFI\xfb" || after + 1 == storage.operations());
        }
    }
}
