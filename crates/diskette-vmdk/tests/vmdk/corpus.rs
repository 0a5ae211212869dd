//! Real images by many writers, and the content that each must yield.

use std::path::Path;
use std::sync::Arc;

use diskette_core::{BlockReader, Format, Opened, Result};
use diskette_storage::FileStorage;
use diskette_testkit::corpus::{self, Entry, Expect};
use diskette_vmdk::Vmdk;

use crate::common::Beside;
use crate::oracle::assert_told_alike;

fn open(path: &Path) -> Result<Opened> {
    Vmdk.open(
        Arc::new(FileStorage::open(path)?),
        &Beside::options().context(),
    )
}

#[test]
fn every_vmdk_of_the_corpus_has_its_size_and_content() {
    let Some(folder) = diskette_testkit::corpus() else {
        return;
    };
    let entries = corpus::entries(&folder);
    for entry in entries.iter().filter(|entry| entry.format == "vmdk") {
        let found = open(&folder.join(&entry.file)).and_then(|image| check(&*image.reader, entry));
        match (entry.expect, found) {
            (Expect::Refuse, found) => assert!(found.is_err(), "{} was not refused", entry.id),
            (Expect::Right, found) => found.unwrap_or_else(|error| panic!("{}: {error}", entry.id)),
            (Expect::RightOrRefuse, _) => {}
        }
    }
}

/// The size and the hash; of small disks, the conformance suite too.
fn check(reader: &dyn BlockReader, entry: &Entry) -> Result<()> {
    let hash = corpus::sha256(reader)?;
    assert_eq!(Some(reader.size()), entry.virtual_size, "{}", entry.id);
    assert_eq!(Some(hash), entry.sha256_guest, "{}", entry.id);
    if reader.size() <= 32 << 20 {
        diskette_testkit::check_reader(reader);
    }
    Ok(())
}

#[test]
fn every_vmdk_of_the_corpus_is_told_as_by_qemu_img() {
    let (Some(folder), Some(qemu_img)) = (diskette_testkit::corpus(), diskette_testkit::qemu_img())
    else {
        return;
    };
    let entries = corpus::entries(&folder);
    let right = |entry: &&Entry| entry.format == "vmdk" && entry.qemu_img == "right";
    for entry in entries.iter().filter(right) {
        assert_told_alike(&qemu_img, &folder.join(&entry.file));
    }
}
