//! Files by Hyper-V, Windows, QEMU and others, with the guest's content that each must yield.

use std::fs;
use std::sync::Arc;

use diskette_core::{
    BlockReader, Ends, Format, Match, OpenOptions, Reference, Resolver, Result, Storage, StorageMut,
};
use diskette_storage::FileStorage;
use diskette_testkit::corpus::{Expect, entries, sha256};
use diskette_testkit::{check_reader, corpus};
use diskette_vhdx::Vhdx;

use crate::support::registry;

/// Opens files beside the one that names them.
#[derive(Debug)]
struct Beside;

impl Resolver for Beside {
    fn open(&self, reference: &Reference, from: &dyn Storage) -> Result<Arc<dyn Storage>> {
        let name = reference.target.trim_start_matches(".\\");
        let path = std::path::Path::new(from.name()).with_file_name(name);
        Ok(Arc::new(FileStorage::open(path)?))
    }

    fn open_mut(&self, reference: &Reference, _from: &dyn Storage) -> Result<Arc<dyn StorageMut>> {
        Err(reference.refused("nothing is written here"))
    }
}

#[test]
fn every_image_of_the_corpus_reads_as_it_must_and_keeps_its_bytes() {
    let Some(folder) = corpus() else { return };
    let all = entries(&folder);
    let ours: Vec<_> = all.iter().filter(|entry| entry.format == "vhdx").collect();
    assert!(ours.len() >= 6, "the corpus has lost its VHDX files");
    for entry in ours {
        let path = folder.join(&entry.file);
        let before = fs::read(&path).unwrap();
        assert_eq!(probe(&before), Match::Sure, "{}", entry.id);
        let mut options = OpenOptions::default();
        options.files = Arc::new(Beside);
        let chain = registry().open_chain(Arc::new(FileStorage::open(&path).unwrap()), &options);
        assert_eq!(entry.expect, Expect::Right, "{}", entry.id);
        let chain = chain.unwrap_or_else(|error| panic!("{}: {error}", entry.id));
        assert_eq!(Some(chain.size()), entry.virtual_size, "{}", entry.id);
        assert_eq!(
            Some(sha256(&chain).unwrap()),
            entry.sha256_guest,
            "{}",
            entry.id
        );
        assert_eq!(
            chain.layers().len(),
            1 + usize::from(entry.parent.is_some())
        );
        check_reader(&chain);
        assert_eq!(fs::read(&path).unwrap(), before, "{}", entry.id);
    }
}

#[test]
fn no_image_of_another_format_is_taken_for_a_vhdx() {
    let Some(folder) = corpus() else { return };
    for entry in entries(&folder) {
        if entry.format != "vhdx" {
            let bytes = fs::read(folder.join(&entry.file)).unwrap();
            assert_eq!(probe(&bytes), Match::No, "{}", entry.id);
        }
    }
}

fn probe(bytes: &[u8]) -> Match {
    Vhdx.probe(&Ends {
        head: &bytes[..bytes.len().min(Ends::HEAD)],
        tail: &bytes[bytes.len().saturating_sub(Ends::TAIL)..],
        size: bytes.len() as u64,
    })
}
