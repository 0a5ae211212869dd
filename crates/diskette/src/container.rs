//! Files that hold images: which disk of an OVA is meant, and what there is to choose from; files that are compressed.

use std::path::Path;
use std::sync::Arc;

use diskette_core::{Error, FormatChoice, NoReferences, OpenOptions, Result, Storage};
use diskette_storage::{ManifestEntry, Ova, OvaDisk, Packing, Unpacker, spool};

use crate::inspect::{FileReport, ImageReport};
use crate::open::{file, is_remote};

/// Where an image lies, and how it is to be opened.
#[derive(Debug)]
pub(crate) struct Source {
    /// The image's first bytes.
    pub(crate) storage: Arc<dyn Storage>,
    /// As the caller wants it; what an image in a container refers to is looked for in the container alone.
    pub(crate) options: OpenOptions,
    /// The container, if the image lies in one.
    pub(crate) ova: Option<Arc<Ova>>,
    /// How the image's file is compressed as a whole, if it is.
    pub(crate) packing: Option<Packing>,
}

/// The image in the file at `path`: the file itself, a disk in it where it is a container, what it unpacks to where it is
/// compressed.
pub(crate) fn source(path: impl AsRef<Path>, options: &OpenOptions) -> Result<Source> {
    let source = packed_source(path, options)?.unpacked()?;
    if source.ova.is_none() {
        refuse_what_only_containers_have(&source)?;
    }
    Ok(source)
}

/// How often something compressed may lie in another.
pub(crate) const MOST_PACKED: usize = 3;

/// The same, but that what is compressed stays so.
pub(crate) fn packed_source(path: impl AsRef<Path>, options: &OpenOptions) -> Result<Source> {
    let mut source = Source {
        storage: file(path, options)?,
        options: options.clone(),
        ova: None,
        packing: None,
    };
    if is_remote(source.storage.name()) {
        // What lies on a server leads to no file of ours.
        source.options.files = Arc::new(NoReferences);
    }
    source.entered()
}

impl Source {
    /// The disk that is meant, where this is an OVA.
    pub(crate) fn entered(self) -> Result<Self> {
        let Some(ova) = ova(&self.storage, &self.options)? else {
            return Ok(self);
        };
        let disk = ova.choose(self.options.disk.as_deref())?;
        if self.options.verify_manifest {
            ova.expect_as_in_manifest()?;
        }
        let inner = member(&ova, disk, &self.options)?;
        Ok(Self {
            packing: self.packing,
            ..inner
        })
    }

    /// What it unpacks to, in a spool, where it is compressed: a compressed OVA may have a disk that is compressed again.
    pub(crate) fn unpacked(mut self) -> Result<Self> {
        for _ in 0..MOST_PACKED {
            let Some(packing) = self.packed()? else {
                break;
            };
            let limits = &self.options.limits;
            let mut stream = Unpacker::new(Arc::clone(&self.storage), packing, limits)?;
            self.storage = spool(&mut stream, limits)?;
            self.packing = Some(packing);
            if self.ova.is_none() {
                self = self.entered()?;
            }
        }
        Ok(self)
    }

    /// How the storage is compressed, if it is to be unpacked.
    pub(crate) fn packed(&self) -> Result<Option<Packing>> {
        match self.options.containers && !is_named_raw(&self.options) {
            true => Packing::of_storage(&*self.storage),
            false => Ok(None),
        }
    }
}

/// What is known of a container and of the disks in it.
#[derive(Debug)]
#[non_exhaustive]
pub struct ContainerReport {
    /// The container's format: "ova".
    pub format: &'static str,
    /// The file that it is.
    pub file: FileReport,
    /// Its disks, in its own order.
    pub disks: Vec<DiskReport>,
    /// What its manifest says of its files, if [`OpenOptions::verify_manifest`] asked for it.
    pub manifest: Option<Vec<ManifestEntry>>,
}

/// What is known of a disk in a container.
#[derive(Debug)]
#[non_exhaustive]
pub struct DiskReport {
    /// What the container says of it.
    pub disk: OvaDisk,
    /// Bytes that its file has in the container, if it is there.
    pub stored_len: Option<u64>,
    /// What its image says of itself, or why it cannot be had.
    pub image: Result<ImageReport>,
}

/// The disks that the file at `path` holds; `None` where it is no container, but an image. Of their images the metadata
/// are looked at, no more.
pub fn inspect_container(
    path: impl AsRef<Path>,
    options: &OpenOptions,
) -> Result<Option<ContainerReport>> {
    let mut options = options.clone();
    options.metadata_only = true;
    let file = file(path, &options)?;
    let Some(ova) = ova(&file, &options)? else {
        return Ok(None);
    };
    let disks = ova.disks().iter();
    let disks = disks.map(|disk| DiskReport {
        disk: disk.clone(),
        stored_len: ova.stored_len(disk),
        image: disk_source(&ova, disk, &options).and_then(|source| ImageReport::of(&source)),
    });
    Ok(Some(ContainerReport {
        format: "ova",
        file: FileReport::of_opened(&*file)?,
        disks: disks.collect(),
        manifest: match options.verify_manifest {
            true => Some(ova.verify()?),
            false => None,
        },
    }))
}

/// Whether the file at `path` holds disks, and is no image itself.
pub fn is_container(path: impl AsRef<Path>, options: &OpenOptions) -> Result<bool> {
    Ok(ova(&file(path, options)?, options)?.is_some())
}

/// The OVA that `file` is. One whose format is named raw is none: its guest may have written it.
fn ova(file: &Arc<dyn Storage>, options: &OpenOptions) -> Result<Option<Arc<Ova>>> {
    if is_named_raw(options) || !options.containers || !Ova::is_ova(&**file, &options.limits)? {
        return Ok(None);
    }
    let ova = Ova::open(Arc::clone(file), &options.limits)?;
    Ok(Some(Arc::new(ova)))
}

/// A file that is said to be a raw image is what it is: its guest may have made it look like anything.
pub(crate) fn is_named_raw(options: &OpenOptions) -> bool {
    matches!(&options.format, FormatChoice::Named(name) if name == "raw")
}

pub(crate) fn refuse_what_only_containers_have(source: &Source) -> Result<()> {
    let missing = |what, name: &str| {
        let name = name.to_owned();
        Err(Error::NotFound { what, name })
    };
    if let Some(disk) = &source.options.disk {
        return missing("container of disks, of which one could be disk", disk);
    }
    if source.options.verify_manifest {
        return missing("manifest in a file that is no OVA:", source.storage.name());
    }
    Ok(())
}

/// A disk of an OVA, unpacked where its file is compressed.
fn disk_source(ova: &Arc<Ova>, disk: &OvaDisk, options: &OpenOptions) -> Result<Source> {
    member(ova, disk, options)?.unpacked()
}

fn member(ova: &Arc<Ova>, disk: &OvaDisk, options: &OpenOptions) -> Result<Source> {
    let storage = ova.storage_of(disk)?;
    let mut options = options.clone();
    options.files = Arc::clone(ova) as _;
    Ok(Source {
        storage,
        options,
        ova: Some(Arc::clone(ova)),
        packing: None,
    })
}
