//! Several files in one input.

use std::sync::Arc;

use diskette::core::{Reference, Resolver, Result, Storage, StorageMut};
use diskette::storage::MemoryStorage;

/// Files cut out of one input. Any name leads to one of them; which one, its letters decide.
#[derive(Debug)]
pub struct Files {
    /// Never empty.
    files: Vec<Arc<MemoryStorage>>,
}

impl Files {
    /// The files in `data`: the length of each but the last stands before it, in four bytes. At most four.
    pub fn of(data: &[u8]) -> Self {
        let mut files = Vec::new();
        let mut rest = data;
        while files.len() < MOST_FILES - 1 {
            let Some((len, behind)) = rest.split_first_chunk::<4>() else {
                break;
            };
            let len = usize::try_from(u32::from_le_bytes(*len)).unwrap_or(usize::MAX);
            let Some((file, behind)) = behind.split_at_checked(len) else {
                break;
            };
            files.push(file);
            rest = behind;
        }
        files.push(rest);
        let named = files.into_iter().enumerate();
        Self {
            files: named
                .map(|(number, bytes)| {
                    Arc::new(MemoryStorage::named(number.to_string(), bytes.to_vec()))
                })
                .collect(),
        }
    }

    /// The first file.
    pub fn first(&self) -> Arc<dyn Storage> {
        Arc::clone(&self.files[0]) as Arc<dyn Storage>
    }
}

impl Resolver for Files {
    fn open(&self, reference: &Reference, _from: &dyn Storage) -> Result<Arc<dyn Storage>> {
        let letters = reference.target.bytes().map(usize::from).sum::<usize>();
        let file = &self.files[letters % self.files.len()];
        Ok(Arc::clone(file) as Arc<dyn Storage>)
    }

    fn open_mut(&self, reference: &Reference, _from: &dyn Storage) -> Result<Arc<dyn StorageMut>> {
        Err(reference.refused("nothing is written here"))
    }
}

/// An input of these files.
pub fn framed(files: &[Vec<u8>]) -> Vec<u8> {
    let Some((last, others)) = files.split_last() else {
        return Vec::new();
    };
    let mut input = Vec::new();
    for file in others {
        let len = u32::try_from(file.len()).expect("a small file");
        input.extend(len.to_le_bytes());
        input.extend(file);
    }
    input.extend(last);
    input
}

const MOST_FILES: usize = 4;
