//! What can be told of images without reading their disks.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use std::sync::Arc;

use diskette_core::{
    Error, ImageInfo, OpenOptions, Opened, Reference, Result, SECTOR, Storage, StorageExt, round_up,
};
use diskette_storage::{Ova, Packing};

use crate::container::{Source, source};
use crate::open::is_remote;
use crate::registry;

/// What is known of one image and of the files that hold it.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct ImageReport {
    /// What the image says of itself.
    pub info: ImageInfo,
    /// The image below, as it is named.
    pub backing: Option<Reference>,
    /// The image's own files, in the order of [`ImageInfo::files`].
    pub files: Vec<FileReport>,
    /// How its file is compressed as a whole, if it is: "gzip".
    pub packing: Option<&'static str>,
}

/// What is known of one file.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct FileReport {
    /// Its name.
    pub name: String,
    /// Its bytes, rounded up to whole sectors.
    pub len: u64,
    /// Bytes that it takes on the host.
    pub allocated: u64,
    /// Whether it is a block device.
    pub is_device: bool,
}

impl ImageReport {
    /// The first file's name.
    #[must_use]
    pub fn name(&self) -> &str {
        self.files.first().map_or("", |file| &file.name)
    }

    /// Bytes that all files take on the host.
    #[must_use]
    pub fn allocated(&self) -> u64 {
        let all = self.files.iter().map(|file| file.allocated);
        all.fold(0, u64::saturating_add)
    }

    /// Where qemu-img would look for the image below: a relative name is taken from the folder of this image.
    #[must_use]
    pub fn full_backing_name(&self) -> Option<String> {
        let target = &self.backing.as_ref()?.target;
        let (before_slash, _) = target.split_once('/').unwrap_or((target, ""));
        if target.starts_with('/') || before_slash.contains(':') {
            return Some(target.clone());
        }
        let folder = self.name().rfind('/').map_or("", |at| &self.name()[..=at]);
        Some(format!("{folder}{target}"))
    }

    pub(crate) fn of(source: &Source) -> Result<Self> {
        let storage = Arc::clone(&source.storage);
        let Opened { info, backing, .. } = registry().open(storage, &source.options)?;
        Self::new(info, backing, source)
    }

    fn new(info: ImageInfo, backing: Option<Reference>, source: &Source) -> Result<Self> {
        let ova = source.ova.as_deref();
        let files = info
            .files
            .iter()
            .map(|name| match name == source.storage.name() {
                true if ova.is_none() => FileReport::of_opened(&*source.storage),
                _ => FileReport::of(name, ova),
            });
        let files = files.collect::<Result<_>>()?;
        Ok(Self {
            info,
            backing,
            files,
            packing: source.packing.map(Packing::name),
        })
    }
}

impl FileReport {
    /// The file that is open as `storage`: one of the host's, or on a server.
    pub(crate) fn of_opened(storage: &dyn Storage) -> Result<Self> {
        if !is_remote(storage.name()) {
            return Self::of(storage.name(), None);
        }
        let len = storage.total_size()?;
        Ok(Self {
            name: storage.name().to_owned(),
            len: round_up(len, SECTOR).unwrap_or(len),
            allocated: len,
            is_device: false,
        })
    }

    /// The file of this name: a member of `ova`, or one of the host's.
    pub(crate) fn of(name: &str, ova: Option<&Ova>) -> Result<Self> {
        if let Some(len) = ova.and_then(|ova| ova.len_of(name)) {
            return Ok(Self {
                name: name.to_owned(),
                len: round_up(len, SECTOR).unwrap_or(len),
                allocated: len,
                is_device: false,
            });
        }
        let facts = fs::metadata(name).map_err(|source| Error::File {
            op: "look at",
            path: name.to_owned(),
            source,
        })?;
        Ok(Self {
            name: name.to_owned(),
            len: round_up(facts.len(), SECTOR).unwrap_or(facts.len()),
            allocated: facts.blocks().saturating_mul(SECTOR),
            is_device: facts.file_type().is_block_device(),
        })
    }
}

/// What the image at `path` says of itself. Its backing image is named, and stays closed.
pub fn inspect(path: impl AsRef<Path>, mut options: OpenOptions) -> Result<ImageReport> {
    options.metadata_only = true;
    ImageReport::of(&source(path, &options)?)
}

/// What all images of a chain say of themselves, the upper ones first.
pub fn inspect_chain(path: impl AsRef<Path>, mut options: OpenOptions) -> Result<Vec<ImageReport>> {
    options.metadata_only = true;
    let source = source(path, &options)?;
    let chain = registry().open_chain(Arc::clone(&source.storage), &source.options)?;
    let layers = chain.layers().iter();
    layers
        .map(|layer| ImageReport::new(layer.info.clone(), layer.backing.clone(), &source))
        .collect()
}
