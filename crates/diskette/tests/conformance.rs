//! Every image of `testdata`, and the chains they make, under the suite for readers.

use std::fs;
use std::path::Path;

use diskette::core::{BlockReader, Chain};
use diskette_testkit::corpus::sha256;
use diskette_testkit::golden::{images, testdata};
use diskette_testkit::{check_reader, check_reader_against, qemu_img};

#[test]
fn every_image_keeps_the_readers_contract() {
    for image in images() {
        let chain = open(&image);
        check_reader(&chain);
        for layer in chain.layers() {
            check_reader(&*layer.reader);
        }
    }
}

#[test]
fn every_image_reads_as_qemu_img_reads_it() {
    let Some(qemu_img) = qemu_img() else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let raw = folder.path().join("out.raw");
    for image in images() {
        let chain = open(&image);
        // The format is named: qemu-img takes a fixed VHD for a raw disk.
        let format = chain.top().info.format;
        let convert = ["convert", "-f", format, "-O", "raw"].map(Into::into);
        qemu_img.run(convert.into_iter().chain([image.clone(), raw.clone()]));
        check_reader_against(&chain, &fs::read(&raw).unwrap());
    }
}

#[test]
fn one_disk_is_the_same_in_every_format() {
    let content = |name: &str| {
        let chain = open(&testdata().join(name));
        (chain.size(), sha256(&chain).unwrap())
    };
    let expected = content("vmdk/sparse.vmdk");
    for name in [
        "vmdk/split.vmdk",
        "vmdk/stream.vmdk",
        "vmdk/stream-qemu.vmdk",
        "qcow2/base.qcow2",
        "qcow2/small-clusters.qcow2",
        "qcow2/v2.qcow2",
        "qcow2/v3.qcow2",
        "qcow2/zlib.qcow2",
        "qcow2/zstd.qcow2",
    ] {
        assert_eq!(content(name), expected, "{name}");
    }
}

#[test]
fn a_snapshot_shows_the_disk_as_it_was() {
    let expected = diskette::open(testdata().join("qcow2/v3.qcow2")).unwrap();
    let image = testdata().join("qcow2/snapshot.qcow2");
    for snapshot in ["1", "before"] {
        let mut options = diskette::safe_options();
        options.snapshot = Some(snapshot.to_owned());
        let chain = diskette::open_with(&image, &options).unwrap();
        assert_eq!(sha256(&chain).unwrap(), sha256(&expected).unwrap());
        check_reader(&chain);
    }
}

fn open(image: &Path) -> Chain {
    diskette::open(image).unwrap_or_else(|error| panic!("{}: {error}", image.display()))
}
