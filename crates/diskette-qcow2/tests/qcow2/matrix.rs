//! Images of every kind that qemu-img makes: content, map and metadata must be what qemu-img says.

use diskette_core::ExtentKind;
use diskette_testkit::{Content, check_reader_against};
use serde_json::Value as Json;

use crate::support::{Bench, json_of, map, options};

/// Content, map, info and check of an image, held against qemu-img's.
fn same_as_qemu(bench: &Bench, image: &str) {
    let chain = bench.open(image);
    check_reader_against(&chain, &bench.raw(image));
    same_map(bench, image);
    same_info(bench, image);
    crate::checked::same_check(bench, image);
}

fn same_map(bench: &Bench, image: &str) {
    let expected = bench.json(&format!("map -f qcow2 --output=json {image}"));
    assert_eq!(map(&bench.open(image)), expected, "{image}: map");
}

fn same_info(bench: &Bench, image: &str) {
    let expected = bench.json(&format!("info -f qcow2 --output=json {image}"));
    let mut options = options();
    options.metadata_only = true;
    options.probe_backing = true;
    let chain = bench.try_open(image, &options).unwrap();
    let (info, backing) = (&chain.top().info, &chain.top().backing);
    let details = diskette_core::Value::Map(info.details.clone().unwrap());
    assert_eq!(
        json_of(&details),
        expected["format-specific"]["data"],
        "{image}"
    );
    assert_eq!(expected["virtual-size"], info.size);
    assert_eq!(expected["cluster-size"], info.granule_size.unwrap());
    assert_eq!(expected["dirty-flag"], info.dirty);
    assert_eq!(expected["encrypted"] == true, info.encrypted);
    let text = |key: &str| expected[key].as_str().map(str::to_owned);
    let reference = backing.as_ref();
    assert_eq!(
        text("backing-filename"),
        reference.map(|backing| backing.target.clone())
    );
    assert_eq!(
        text("backing-filename-format"),
        reference.and_then(|backing| backing.format.clone())
    );
    assert_eq!(snapshots_of(&chain), expected["snapshots"], "{image}");
}

fn snapshots_of(chain: &diskette_core::Chain) -> Json {
    let list = &chain.top().info.snapshots;
    if list.is_empty() {
        return Json::Null;
    }
    let shown = list.iter().map(|snapshot| {
        let mut shown = serde_json::json!({
            "id": snapshot.id, "name": snapshot.name,
            "vm-state-size": snapshot.vm_state_size,
            "date-sec": snapshot.date_seconds, "date-nsec": snapshot.date_nanoseconds,
            "vm-clock-sec": snapshot.vm_clock_nanoseconds / 1_000_000_000,
            "vm-clock-nsec": snapshot.vm_clock_nanoseconds % 1_000_000_000,
        });
        if let Some(count) = snapshot.icount {
            shown["icount"] = count.into();
        }
        shown
    });
    shown.collect()
}

/// A raw disk with data, zeros, and data that does not compress.
fn source(bench: &Bench, name: &str, len: usize) {
    let mut bytes = Content::new(7).bytes(len);
    for (index, part) in bytes.chunks_mut(40_000).enumerate() {
        match index % 4 {
            1 => part.fill(0),
            2 => part.fill(u8::try_from(index % 251).unwrap()),
            _ => {}
        }
    }
    std::fs::write(bench.path(name), bytes).unwrap();
}

#[test]
fn every_cluster_size_version_and_codec_reads_as_qemu_reads_it() {
    let Some(bench) = Bench::new() else { return };
    source(&bench, "source", 3_000_320);
    for bits in 9..=21 {
        let size = 1 << bits;
        for (name, options) in [
            ("plain", String::new()),
            ("v2", "-o compat=0.10".into()),
            ("v2c", "-c -o compat=0.10".into()),
            ("zlib", "-c".into()),
            ("zstd", "-c -o compression_type=zstd".into()),
        ] {
            let image = format!("{name}-{bits}");
            bench.img(&format!(
                "convert -f raw -O qcow2 {options} -o cluster_size={size} source {image}"
            ));
            same_as_qemu(&bench, &image);
        }
    }
}

#[test]
fn every_width_of_refcounts_reads_and_checks() {
    let Some(bench) = Bench::new() else { return };
    source(&bench, "source", 600_000);
    for bits in [1, 2, 4, 8, 16, 32, 64] {
        for options in ["", "-c"] {
            let image = format!("refcount{options}-{bits}");
            bench.img(&format!(
                "convert -f raw -O qcow2 {options} -o refcount_bits={bits},cluster_size=4096 source {image}"
            ));
            same_as_qemu(&bench, &image);
        }
    }
}

#[test]
fn zero_clusters_with_and_without_a_place_are_told_apart() {
    let Some(bench) = Bench::new() else { return };
    bench.img("create -q -f qcow2 zero 1M");
    bench.io(
        "zero",
        &[
            "write -P 5 0 64k",
            "write -P 6 64k 64k",
            "write -z 0 64k",
            "write -z -u 64k 64k",
            "write -z 128k 64k",
            "write -P 7 256k 64k",
            "discard 256k 64k",
        ],
    );
    same_as_qemu(&bench, "zero");
}

#[test]
fn subclusters_are_extents_of_their_own() {
    let Some(bench) = Bench::new() else { return };
    for bits in [14, 16, 18, 21] {
        let image = format!("sub-{bits}");
        let size = 1 << bits;
        bench.img(&format!(
            "create -q -f qcow2 -o extended_l2=on,cluster_size={size} {image} 16M"
        ));
        bench.io(
            &image,
            &[
                "write -P 5 2k 4k",
                "write -z 8k 4k",
                "write -P 9 64k 64k",
                "write -z 66k 2k",
                "write -z 128k 64k",
                "write -P 1 4M 300k",
                "write -z 4100k 20k",
                "write -z -u 5M 1M",
                "write -c -P 3 8M 2M",
                "discard 4M 128k",
            ],
        );
        same_as_qemu(&bench, &image);
    }
}

#[test]
fn subclusters_over_a_backing_image_keep_their_space() {
    let Some(bench) = Bench::new() else { return };
    bench.img("create -q -f qcow2 base 2M");
    bench.io("base", &["write -P 0xaa 0 2M"]);
    bench.img("create -q -f qcow2 -o extended_l2=on -b base -F qcow2 over 4M");
    bench.io(
        "over",
        &["write -P 1 4k 512", "write -z 100k 4k", "write -P 2 3M 1k"],
    );
    same_as_qemu(&bench, "over");
    bench.img(
        "create -q -f qcow2 -o extended_l2=on,preallocation=metadata -b base -F qcow2 reserved 2M",
    );
    bench.io("reserved", &["write -P 1 4k 512"]);
    same_as_qemu(&bench, "reserved");
    let extent = bench.open("reserved").top().reader.extent_at(1 << 20);
    assert!(matches!(extent.unwrap().kind, ExtentKind::Hole(Some(_))));
}

#[test]
fn chains_over_longer_and_shorter_bases_read_as_qemu_reads_them() {
    let Some(bench) = Bench::new() else { return };
    bench.img("create -q -f qcow2 -o cluster_size=4k base 512K");
    bench.io("base", &["write -P 0xaa 0 300k", "write -c -P 1 400k 4k"]);
    bench.img("create -q -f qcow2 -o compat=0.10 -b base -F qcow2 middle 1M");
    bench.io("middle", &["write -P 2 128k 64k", "write -P 3 700k 64k"]);
    bench.img("create -q -f qcow2 -b middle -F qcow2 top 768K");
    bench.io("top", &["write -P 4 0 4k", "write -z 192k 64k"]);
    bench.img("create -q -f qcow2 -b top -F qcow2 longest 3M");
    for image in ["base", "middle", "top", "longest"] {
        same_as_qemu(&bench, image);
    }
}

#[test]
fn a_data_file_holds_each_cluster_at_its_own_offset() {
    let Some(bench) = Bench::new() else { return };
    for (image, options) in [
        ("plain", ""),
        ("raw", ",data_file_raw=on"),
        ("sub", ",extended_l2=on"),
    ] {
        bench.img(&format!(
            "create -q -f qcow2 -o data_file={image}.data{options} {image} 1M"
        ));
        bench.io(
            image,
            &[
                "write -P 3 0 64k",
                "write -P 4 128k 512",
                "write -z 256k 64k",
            ],
        );
        // A data file's name is relative to the process for QEMU, and to the image for us: both are the same here.
        same_as_qemu(&bench, image);
    }
    bench.io("plain", &["write -z 0 64k"]);
    same_as_qemu(&bench, "plain");
    let extent = bench.open("plain").top().reader.extent_at(128 << 10);
    assert!(matches!(extent.unwrap().kind, ExtentKind::Data(at) if at.file == 1));
}

#[test]
fn a_data_file_is_opened_by_the_resolver_or_not_at_all() {
    let Some(bench) = Bench::new() else { return };
    bench.img("create -q -f qcow2 -o data_file=d.data image 1M");
    let mut options = options();
    options.files = std::sync::Arc::new(diskette_core::NoReferences);
    let error = bench.try_open("image", &options).unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("refused data file \"d.data\""),
        "{error}"
    );
    options.metadata_only = true;
    let chain = bench.try_open("image", &options).unwrap();
    assert_eq!(chain.top().info.files.len(), 1, "it stays closed");
}

#[test]
fn preallocated_images_are_mapped_as_qemu_maps_them() {
    let Some(bench) = Bench::new() else { return };
    for mode in ["metadata", "falloc", "full"] {
        for cluster in ["64k", "4k", "2M"] {
            let image = format!("{mode}-{cluster}");
            bench.img(&format!(
                "create -q -f qcow2 -o preallocation={mode},cluster_size={cluster} {image} 8M"
            ));
            same_as_qemu(&bench, &image);
            bench.io(&image, &["write -P 1 1M 128k", "write -z 4M 64k"]);
            same_as_qemu(&bench, &image);
        }
    }
}

#[test]
fn snapshots_are_listed_and_read_by_id_or_name() {
    let Some(bench) = Bench::new() else { return };
    bench.img("create -q -f qcow2 -o cluster_size=4k image 1M");
    bench.io("image", &["write -P 1 0 128k"]);
    bench.img("snapshot -c first image");
    bench.io("image", &["write -P 2 64k 128k"]);
    bench.img("snapshot -c second image");
    bench.io("image", &["write -c -P 3 512k 4k", "write -z 0 8k"]);
    // Its name looks like the id of another: ids come first.
    bench.img("snapshot -c 1 image");
    bench.img("resize -q image 2M");
    bench.io("image", &["write -P 4 1M 1M"]);
    same_as_qemu(&bench, "image");
    for wanted in ["1", "2", "3", "first", "second"] {
        bench.img(&format!(
            "convert -f qcow2 -O raw -l {wanted} image snapshot.raw"
        ));
        let expected = std::fs::read(bench.path("snapshot.raw")).unwrap();
        let mut options = options();
        options.snapshot = Some(wanted.into());
        let chain = bench.try_open("image", &options).unwrap();
        check_reader_against(&chain, &expected);
    }
    let mut options = options();
    options.snapshot = Some("third".into());
    let error = bench.try_open("image", &options).unwrap_err();
    assert_eq!(error.to_string(), "no snapshot \"third\"");
}

#[test]
fn bitmaps_are_listed() {
    let Some(bench) = Bench::new() else { return };
    bench.img("create -q -f qcow2 image 1M");
    bench.img("bitmap --add image auto");
    bench.img("bitmap --add --disable -g 32k image quiet");
    bench.io("image", &["write -P 1 0 64k"]);
    same_as_qemu(&bench, "image");
}

#[test]
fn an_encrypted_image_shows_its_metadata_and_asks_for_its_secret() {
    let Some(bench) = Bench::new() else { return };
    let secret = "--object secret,id=s,data=hunter2";
    for (image, options) in [
        ("luks", "encrypt.format=luks,encrypt.iter-time=10"),
        ("aes", "encrypt.format=aes"),
        (
            "essiv",
            "encrypt.format=luks,encrypt.iter-time=10,encrypt.cipher-mode=cbc,encrypt.ivgen-alg=essiv,\
             encrypt.ivgen-hash-alg=sha256,encrypt.hash-alg=sha1,encrypt.cipher-alg=aes-128",
        ),
    ] {
        bench.img(&format!(
            "create -q -f qcow2 {secret} -o {options},encrypt.key-secret=s {image} 1M"
        ));
        same_info(&bench, image);
        let error = bench
            .try_open(image, &crate::support::options())
            .unwrap_err();
        assert!(
            error
                .to_string()
                .contains("option encrypt.key-secret: not given"),
            "{error}"
        );
        let report = bench.check(image).unwrap();
        assert_eq!((report.corruptions, report.leaks), (0, 0), "{image}");
    }
}

#[test]
fn odd_sizes_and_none_at_all_are_read() {
    let Some(bench) = Bench::new() else { return };
    for size in ["0", "512", "1000", "66048", "3G", "100T"] {
        let image = format!("size-{size}");
        bench.img(&format!("create -q -f qcow2 {image} {size}"));
        let chain = bench.open(&image);
        diskette_testkit::check_reader(&chain);
        same_info(&bench, &image);
        crate::checked::same_check(&bench, &image);
        if size != "0" {
            same_map(&bench, &image);
        }
    }
}

#[test]
fn a_dirty_image_is_read_and_said_to_be_dirty() {
    let Some(bench) = Bench::new() else { return };
    bench.img("create -q -f qcow2 -o lazy_refcounts=on image 1M");
    bench.io("image", &["write -P 1 0 64k"]);
    bench.patch("image", 72 + 7, &[1]);
    same_as_qemu(&bench, "image");
    assert!(bench.open("image").top().info.dirty);
}
