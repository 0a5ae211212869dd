//! Options: the same as qemu-img's, in words and in numbers.

use diskette_core::{BackingImage, NewImage, NoParts};
use diskette_testkit::qemu_img;

use crate::driver::{Folder, format};

fn told(what: &NewImage) -> String {
    let settled = format().settled_options(what).unwrap();
    let words: Vec<_> = settled.iter().map(|(n, v)| format!("{n}={v}")).collect();
    words.join(" ")
}

fn with(size: u64, options: &str) -> NewImage {
    let pairs = options.split(',').filter_map(|pair| pair.split_once('='));
    pairs.fold(NewImage::new(size), |what, (name, value)| {
        what.with_option(name, value)
    })
}

#[test]
fn settled_options_are_told_as_qemu_img_tells_them() {
    let Some(qemu_img) = qemu_img() else {
        return;
    };
    let folder = Folder::new();
    folder.put("base.raw", &[0; 4096]);
    for options in [
        "",
        "compat=0.10",
        "compat=v3",
        "cluster_size=512",
        "cluster_size=2M,extended_l2=on",
        "compression_type=zstd,lazy_refcounts=on,refcount_bits=1",
        "preallocation=metadata,compat=1.1",
        "preallocation=off",
        "backing_file=base.raw,backing_fmt=raw",
        "compat=1.1,backing_fmt=raw,refcount_bits=64,backing_file=base.raw",
    ] {
        let mut args = vec!["create", "-f", "qcow2"];
        if !options.is_empty() {
            args.extend(["-o", options]);
        }
        args.extend(["disk.qcow2", "1000001"]);
        let line = qemu_img.run_in(folder.path(), args);
        let expected = line.trim().split_once("fmt=qcow2 ").unwrap().1;
        assert_eq!(told(&with(1_000_001, options)), expected, "{options}");
    }
}

#[test]
fn a_backing_image_may_stand_among_the_options_or_beside_them() {
    let backing = BackingImage::new("base", "vmdk");
    let beside = NewImage::new(512).with_backing(backing);
    let among = with(512, "backing_file=base,backing_fmt=vmdk");
    assert_eq!(told(&beside), told(&among));
    let twice = beside.with_option("backing_file", "other");
    assert!(format().settled_options(&twice).is_err());
}

#[test]
fn what_cannot_be_is_refused_by_the_name_of_the_option() {
    for (options, message) in [
        (
            "cluster_size=1000",
            "option cluster_size: not a power of two between 512 and 2048k",
        ),
        (
            "cluster_size=4M",
            "option cluster_size: not a power of two between 512 and 2048k",
        ),
        (
            "cluster_size=0",
            "option cluster_size: not a power of two between 512 and 2048k",
        ),
        (
            "refcount_bits=0",
            "option refcount_bits: not a power of two between 1 and 64",
        ),
        (
            "refcount_bits=3",
            "option refcount_bits: not a power of two between 1 and 64",
        ),
        (
            "refcount_bits=128",
            "option refcount_bits: not a power of two between 1 and 64",
        ),
        (
            "refcount_bits=1,compat=0.10",
            "option refcount_bits: needs compat=1.1",
        ),
        (
            "lazy_refcounts=on,compat=v2",
            "option lazy_refcounts: needs compat=1.1",
        ),
        (
            "extended_l2=on,compat=v2",
            "option extended_l2: needs compat=1.1",
        ),
        (
            "extended_l2=on,cluster_size=8k",
            "option extended_l2: needs clusters of at least 16384 bytes",
        ),
        (
            "compression_type=zstd,compat=v2",
            "option compression_type: needs compat=1.1",
        ),
        (
            "compression_type=lzma",
            "option compression_type: neither zlib nor zstd",
        ),
        (
            "compression_level=10",
            "option compression_level: no level of this compression_type",
        ),
        (
            "compression_type=zstd,compression_level=23",
            "option compression_level: no level of this compression_type",
        ),
        (
            "compression_window=64k",
            "option compression_window: neither 4k nor 32k",
        ),
        (
            "compression_type=zstd,compression_window=4k",
            "option compression_window: only for zlib",
        ),
        ("compat=v4", "option compat: none of 0.10, v2, 1.1 and v3"),
        (
            "preallocation=some",
            "option preallocation: none of off, metadata, falloc and full",
        ),
        (
            "backing_file=base",
            "option backing_file: needs backing_fmt",
        ),
        ("backing_fmt=raw", "option backing_fmt: needs backing_file"),
        (
            "backing_file=base,backing_fmt=raw,preallocation=full",
            "option preallocation: an overlay can only be preallocated with extended_l2=on",
        ),
        ("data_file=", "option data_file: empty"),
        ("data_file_raw=on", "option data_file_raw: needs data_file"),
        (
            "data_file=data,compat=0.10",
            "option data_file: needs compat=1.1",
        ),
        (
            "data_file=data,data_file_raw=on,backing_file=base,backing_fmt=raw",
            "option data_file_raw: not over a backing file",
        ),
        (
            "encrypt.format=aes",
            "option encrypt.format: the old AES is read, but not made: take luks",
        ),
        (
            "encrypt.cipher-alg=aes-128",
            "option encrypt.cipher-alg: needs encrypt.format=luks",
        ),
        (
            "encrypt.format=luks,preallocation=metadata",
            "option preallocation: what is not written of an encrypted image reads as noise",
        ),
        ("nonsense=1", "option nonsense: no such option"),
    ] {
        let error = format()
            .settled_options(&with(1 << 20, options))
            .unwrap_err();
        assert_eq!(error.to_string(), format!("qcow2: {message}"), "{options}");
    }
    let packed = with(1 << 20, "preallocation=metadata").compressed();
    assert!(format().settled_options(&packed).is_err());
    let name = "x".repeat(500);
    let long = with(
        512,
        &format!("cluster_size=512,backing_file={name},backing_fmt=raw"),
    );
    let memory = std::sync::Arc::new(diskette_storage::MemoryStorage::default());
    assert!(format().create(memory, &NoParts, &long).is_err());
}

#[test]
fn the_largest_disk_depends_on_the_size_of_a_cluster() {
    for (cluster_size, most) in [("512", 128_u64 << 30), ("64k", 2 << 50), ("2M", 2 << 60)] {
        let options = format!("cluster_size={cluster_size}");
        assert!(format().settled_options(&with(most, &options)).is_ok());
        assert!(format().settled_options(&with(most + 1, &options)).is_err());
    }
    assert!(format().settled_options(&with(u64::MAX, "")).is_err());
}

#[test]
fn measures_are_those_of_qemu_img() {
    let Some(qemu_img) = qemu_img() else {
        return;
    };
    let sizes: [u64; 12] = [
        0,
        1,
        512,
        1000,
        65536,
        65537,
        7_000_000,
        1 << 29,
        (1 << 29) + 1,
        10 << 30,
        1 << 40,
        100 << 30,
    ];
    for options in [
        "compat=1.1",
        "compat=0.10",
        "cluster_size=512",
        "cluster_size=4k,refcount_bits=1",
        "cluster_size=2M",
        "extended_l2=on",
        "refcount_bits=64",
        "cluster_size=1M,extended_l2=on",
        "preallocation=metadata",
        "preallocation=falloc",
        "preallocation=full",
        "compression_type=zstd",
        "backing_file=none,backing_fmt=raw",
    ] {
        for size in sizes {
            let what = with(size, options);
            if format().settled_options(&what).is_err() {
                continue;
            }
            let size = size.to_string();
            let told = qemu_img.run([
                "measure",
                "--output=json",
                "-O",
                "qcow2",
                "-o",
                options,
                "--size",
                &size,
            ]);
            let measure = format().measure(&what, 0).unwrap();
            let found = [measure.required, measure.fully_allocated];
            assert_eq!(found.map(Some), numbers(&told), "{options} {size}");
        }
    }
}

#[test]
fn measures_of_what_holds_data_are_those_of_qemu_img() {
    let Some(qemu_img) = qemu_img() else {
        return;
    };
    let folder = Folder::new();
    let file = std::fs::File::create(folder.path().join("disk.raw")).unwrap();
    file.set_len(10 << 20).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &[1; 4096], 5 << 20).unwrap();
    for options in [
        "compat=1.1",
        "cluster_size=4k",
        "cluster_size=2M",
        "preallocation=metadata",
        "preallocation=full",
        "backing_file=none,backing_fmt=raw",
    ] {
        let what = with(10 << 20, options);
        let granule = format().granule_size(&what).unwrap();
        let told = qemu_img.run_in(
            folder.path(),
            [
                "measure",
                "--output=json",
                "-O",
                "qcow2",
                "-o",
                options,
                "-f",
                "raw",
                "disk.raw",
            ],
        );
        let measure = format().measure(&what, granule.max(4096)).unwrap();
        let found = [measure.required, measure.fully_allocated];
        assert_eq!(found.map(Some), numbers(&told), "{options}");
    }
}

fn numbers(json: &str) -> [Option<u64>; 2] {
    ["\"required\":", "\"fully-allocated\":"].map(|key| {
        let rest = json.split_once(key)?.1.trim_start();
        let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
        digits.parse().ok()
    })
}
