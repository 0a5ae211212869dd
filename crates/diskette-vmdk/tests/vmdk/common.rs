//! Images in memory, opened.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use diskette_core::{
    BlockReaderExt, CheckReport, Format, OpenOptions, Opened, Reference, Resolver, Result, Storage,
    StorageMut,
};
use diskette_storage::{FileStorage, MemoryStorage};
use diskette_vmdk::Vmdk;

/// Opens whatever lies beside the file that names it.
#[derive(Debug)]
pub(crate) struct Beside;

impl Resolver for Beside {
    fn open(&self, reference: &Reference, from: &dyn Storage) -> Result<Arc<dyn Storage>> {
        let path = Path::new(from.name()).with_file_name(&reference.target);
        Ok(Arc::new(FileStorage::open(path)?))
    }

    fn open_mut(&self, reference: &Reference, _from: &dyn Storage) -> Result<Arc<dyn StorageMut>> {
        Err(reference.refused("nothing is written here"))
    }
}

impl Beside {
    pub(crate) fn options() -> OpenOptions {
        let mut options = OpenOptions::default();
        options.files = Arc::new(Self);
        options
    }
}

/// A folder of files in memory.
#[derive(Clone, Debug, Default)]
pub(crate) struct Files(BTreeMap<String, Arc<MemoryStorage>>);

impl Resolver for Files {
    fn open(&self, reference: &Reference, _from: &dyn Storage) -> Result<Arc<dyn Storage>> {
        match self.0.get(&reference.target) {
            Some(file) => Ok(file.clone()),
            None => Err(reference.refused("no such file")),
        }
    }

    fn open_mut(&self, reference: &Reference, _from: &dyn Storage) -> Result<Arc<dyn StorageMut>> {
        Err(reference.refused("nothing is written here"))
    }
}

impl Files {
    /// One file, "x.vmdk".
    pub(crate) fn one(bytes: Vec<u8>) -> Self {
        Self::default().with("x.vmdk", bytes)
    }

    /// A descriptor "x.vmdk" of this type and with these extents.
    pub(crate) fn described(create_type: &str, extents: &[&str]) -> Self {
        Self::one(diskette_testkit::vmdk::descriptor(create_type, extents))
    }

    pub(crate) fn with(mut self, name: &str, bytes: Vec<u8>) -> Self {
        self.0
            .insert(name.to_owned(), Arc::new(MemoryStorage::named(name, bytes)));
        self
    }

    pub(crate) fn storage(&self, name: &str) -> Arc<dyn Storage> {
        self.0[name].clone()
    }

    pub(crate) fn options(&self) -> OpenOptions {
        let mut options = OpenOptions::default();
        options.files = Arc::new(self.clone());
        options
    }

    pub(crate) fn open_with(&self, name: &str, options: &OpenOptions) -> Result<Opened> {
        Vmdk.open(self.storage(name), &options.context())
    }

    pub(crate) fn open(&self) -> Result<Opened> {
        self.open_with("x.vmdk", &self.options())
    }

    /// The whole disk.
    pub(crate) fn read(&self) -> Result<Vec<u8>> {
        read_whole(&self.open()?)
    }

    /// The whole disk, damage as zeros.
    pub(crate) fn salvage(&self) -> Result<Vec<u8>> {
        let mut options = self.options();
        options.salvage = true;
        read_whole(&self.open_with("x.vmdk", &options)?)
    }

    pub(crate) fn check(&self) -> Result<CheckReport> {
        let options = self.options();
        let checkable = Vmdk.checkable().expect("VMDK can be checked");
        checkable.check(self.storage("x.vmdk"), &options.context())
    }

    /// That the image is refused, at open or when it is read; gives the reason.
    #[track_caller]
    pub(crate) fn refusal(&self) -> String {
        match self.read() {
            Ok(_) => panic!("was not refused"),
            Err(error) => error.to_string(),
        }
    }

    /// That the disk reads as `expected`, and that the reader keeps its contract.
    #[track_caller]
    pub(crate) fn assert_reads(&self, expected: &[u8]) -> Opened {
        let opened = self.open().unwrap_or_else(|error| panic!("{error}"));
        diskette_testkit::check_reader_against(&*opened.reader, expected);
        opened
    }
}

fn read_whole(opened: &Opened) -> Result<Vec<u8>> {
    opened
        .reader
        .read_vec(0, usize::try_from(opened.reader.size()).unwrap_or(0))
}

/// `bytes`, with others from `offset` on.
pub(crate) fn patched(mut bytes: Vec<u8>, offset: usize, with: &[u8]) -> Vec<u8> {
    bytes[offset..offset + with.len()].copy_from_slice(with);
    bytes
}
