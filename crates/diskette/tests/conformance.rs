//! Every image of `testdata`, and the chains they make, under the suite for readers.

use std::fs;

use diskette::core::BlockReader;
use diskette_testkit::corpus::sha256;
use diskette_testkit::golden::{images, testdata};
use diskette_testkit::{check_reader, check_reader_against, qemu_img};

#[test]
fn every_image_keeps_the_readers_contract() {
    for image in images() {
        let chain =
            diskette::open(&image).unwrap_or_else(|error| panic!("{}: {error}", image.display()));
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
        let convert = ["convert", "-O", "raw"].map(Into::into);
        qemu_img.run(convert.into_iter().chain([image.clone(), raw.clone()]));
        let chain =
            diskette::open(&image).unwrap_or_else(|error| panic!("{}: {error}", image.display()));
        check_reader_against(&chain, &fs::read(&raw).unwrap());
    }
}

#[test]
fn one_disk_is_the_same_in_every_format() {
    let content = |name: &str| {
        let chain = diskette::open(testdata().join(name));
        let chain = chain.unwrap_or_else(|error| panic!("{name}: {error}"));
        (chain.size(), sha256(&chain).unwrap())
    };
    let expected = content("vmdk/sparse.vmdk");
    for name in [
        "vmdk/split.vmdk",
        "vmdk/stream.vmdk",
        "vmdk/stream-qemu.vmdk",
    ] {
        assert_eq!(content(name), expected, "{name}");
    }
}
