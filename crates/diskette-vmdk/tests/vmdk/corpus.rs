//! Real images by many writers, and the content that each must yield.

use std::path::Path;
use std::sync::Arc;

use diskette_core::{
    BlockReader, Format, OpenOptions, Opened, Reference, Resolver, Result, Storage,
};
use diskette_storage::FileStorage;
use diskette_testkit::corpus::{self, Entry, Expect};
use diskette_vmdk::Vmdk;

/// Opens whatever lies beside the file that names it: the corpus is ours.
#[derive(Debug)]
struct Beside;

impl Resolver for Beside {
    fn open(&self, reference: &Reference, from: &dyn Storage) -> Result<Arc<dyn Storage>> {
        let path = Path::new(from.name()).with_file_name(&reference.target);
        Ok(Arc::new(FileStorage::open(path)?))
    }
}

fn open(path: &Path) -> Result<Opened> {
    let mut options = OpenOptions::default();
    options.files = Arc::new(Beside);
    Vmdk.open(Arc::new(FileStorage::open(path)?), &options.context())
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
