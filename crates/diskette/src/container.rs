//! Files that hold images: which disk of an OVA is meant, and what there is to choose from.

use std::path::Path;
use std::sync::Arc;

use diskette_core::{Error, FormatChoice, OpenOptions, Result, Storage};
use diskette_storage::{ManifestEntry, Ova, OvaDisk};

use crate::inspect::{FileReport, ImageReport};
use crate::open::file;

/// Where an image lies, and how it is to be opened.
#[derive(Debug)]
pub(crate) struct Source {
    /// The image's first bytes.
    pub(crate) storage: Arc<dyn Storage>,
    /// As the caller wants it; what an image in a container refers to is looked for in the container alone.
    pub(crate) options: OpenOptions,
    /// The container, if the image lies in one.
    pub(crate) ova: Option<Arc<Ova>>,
}

/// The image in the file at `path`: the file itself, or a disk in it where it is a container.
pub(crate) fn source(path: impl AsRef<Path>, options: &OpenOptions) -> Result<Source> {
    let file = file(path, options)?;
    let Some(ova) = ova(&file, options)? else {
        return plain(file, options);
    };
    let disk = ova.choose(options.disk.as_deref())?;
    if options.verify_manifest {
        ova.expect_as_in_manifest()?;
    }
    member(&ova, disk, options)
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
        image: member(&ova, disk, &options).and_then(|source| ImageReport::of(&source)),
    });
    Ok(Some(ContainerReport {
        format: "ova",
        file: FileReport::of(file.name(), None)?,
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
    let is_raw = matches!(&options.format, FormatChoice::Named(name) if name == "raw");
    if is_raw || !options.containers || !Ova::is_ova(&**file, &options.limits)? {
        return Ok(None);
    }
    let ova = Ova::open(Arc::clone(file), &options.limits)?;
    Ok(Some(Arc::new(ova)))
}

/// A file that is an image itself.
fn plain(file: Arc<dyn Storage>, options: &OpenOptions) -> Result<Source> {
    let missing = |what, name: &str| {
        let name = name.to_owned();
        Err(Error::NotFound { what, name })
    };
    if let Some(disk) = &options.disk {
        return missing("container of disks, of which one could be disk", disk);
    }
    if options.verify_manifest {
        return missing("manifest in a file that is no OVA:", file.name());
    }
    Ok(Source {
        storage: file,
        options: options.clone(),
        ova: None,
    })
}

fn member(ova: &Arc<Ova>, disk: &OvaDisk, options: &OpenOptions) -> Result<Source> {
    let storage = ova.storage_of(disk)?;
    let mut options = options.clone();
    options.files = Arc::clone(ova) as _;
    Ok(Source {
        storage,
        options,
        ova: Some(Arc::clone(ova)),
    })
}
