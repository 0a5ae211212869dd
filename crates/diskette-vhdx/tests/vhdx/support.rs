//! What the tests of this crate share.

use std::collections::HashMap;
use std::sync::Arc;

use diskette_core::{
    BlockReader, BlockReaderExt, Chain, Error, Format, FormatChoice, OpenOptions, Reference,
    Registry, Resolver, Result, Storage, StorageMut,
};
use diskette_storage::MemoryStorage;
use diskette_vhdx::Vhdx;

pub(crate) fn registry() -> Registry {
    static FORMATS: [&dyn Format; 1] = [&Vhdx];
    Registry::new(FORMATS.to_vec())
}

/// Files in memory, by their names.
#[derive(Debug, Default)]
pub(crate) struct Folder(pub(crate) HashMap<String, Vec<u8>>);

impl Resolver for Folder {
    fn open(&self, reference: &Reference, _from: &dyn Storage) -> Result<Arc<dyn Storage>> {
        let name = reference.target.trim_start_matches(".\\");
        let bytes = self
            .0
            .get(name)
            .ok_or_else(|| reference.refused("no such file"))?;
        Ok(Arc::new(MemoryStorage::named(name, bytes.clone())))
    }

    fn open_mut(&self, reference: &Reference, _from: &dyn Storage) -> Result<Arc<dyn StorageMut>> {
        Err(reference.refused("nothing is written here"))
    }
}

pub(crate) fn open(bytes: Vec<u8>) -> Result<Chain> {
    open_in(bytes, Folder::default())
}

pub(crate) fn open_in(bytes: Vec<u8>, files: Folder) -> Result<Chain> {
    let mut options = OpenOptions::default();
    options.format = FormatChoice::Named("vhdx".to_owned());
    options.files = Arc::new(files);
    registry().open_chain(Arc::new(MemoryStorage::new(bytes)), &options)
}

/// Opens what may be damaged, losses taken for zeros.
pub(crate) fn salvage(bytes: Vec<u8>) -> Result<Chain> {
    let mut options = OpenOptions::default();
    options.salvage = true;
    registry().open_chain(Arc::new(MemoryStorage::new(bytes)), &options)
}

/// The disk in runs of equal sectors: `41*2048 00*8`.
pub(crate) fn sectors(disk: &dyn BlockReader) -> String {
    let mut runs: Vec<(String, u64)> = Vec::new();
    for offset in (0..disk.size()).step_by(1 << 20) {
        let len = usize::try_from((disk.size() - offset).min(1 << 20)).unwrap();
        for sector in disk.read_vec(offset, len).unwrap().chunks(512) {
            let name = match sector.iter().all(|byte| *byte == sector[0]) {
                true => format!("{:02x}", sector[0]),
                false => "mix".to_owned(),
            };
            match runs.last_mut() {
                Some((last, count)) if *last == name => *count += 1,
                _ => runs.push((name, 1)),
            }
        }
    }
    let runs: Vec<_> = runs
        .iter()
        .map(|(name, count)| format!("{name}*{count}"))
        .collect();
    runs.join(" ")
}

/// What an image reads as, or why it does not.
pub(crate) fn reads(bytes: Vec<u8>) -> String {
    match open(bytes) {
        Ok(chain) => sectors(&chain),
        Err(error) => error.to_string(),
    }
}

/// Whether the image itself is found fault with.
pub(crate) fn is_refused(bytes: Vec<u8>) -> bool {
    matches!(
        open(bytes),
        Err(Error::Malformed { .. } | Error::Unsupported { .. })
    )
}
