//! What a new image is to be: the options by their names, and what follows from them.

use std::time::{SystemTime, UNIX_EPOCH};

use diskette_core::{
    BackingImage, Error, GIB, MIB, NewId, NewImage, OptionSpec, Options, Result, SECTOR, round_up,
};

use uuid::Uuid;

use super::geometry::Geometry;
use crate::FORMAT;
use crate::footer::UNIQUE_ID;

/// The options, as qemu-img names them, and three of our own.
pub(super) const OPTIONS: &[OptionSpec] = &[
    OptionSpec::new(
        "azure",
        "on|off",
        "off",
        "what Azure takes: a fixed disk of whole MiB, the size rounded up",
    ),
    OptionSpec::new(
        "force_size",
        "on|off",
        "off",
        "the size as it was asked for, not rounded up to a geometry's",
    ),
    OptionSpec::new("size", "size", "", "bytes of the disk"),
    OptionSpec::new(
        "subformat",
        "dynamic|fixed",
        "dynamic",
        "blocks that are made when they are needed, or all of the disk from the start",
    ),
    OptionSpec::new(
        "timestamp",
        "seconds|now",
        "946684800",
        "when the image was made, in seconds since 1970; at least 946684800",
    ),
    OptionSpec::new(
        "uuid",
        "UUID|random|derived",
        "derived",
        "the image's UUID; derived from its content, or random",
    ),
];

/// What a new image will be. Every combination that exists is a sound one.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    /// The disk's size as it is told: what was asked for, but that Azure's is rounded.
    told_size: u64,
    /// Whole sectors, as many as the creator's readers will find.
    pub(super) size: u64,
    pub(super) geometry: Geometry,
    pub(super) creator: Creator,
    pub(super) subformat: Subformat,
    pub(super) parent: Option<Parent>,
    /// Seconds since 2000.
    pub(super) timestamp: u32,
    pub(super) uuid: NewId,
}

/// The program that a footer names. Readers go by it to find the disk's size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Creator {
    pub(super) application: [u8; 4],
    pub(super) version: u32,
}

impl Creator {
    /// QEMU: the geometry tells the size.
    const QEMU: Self = Self {
        application: *b"qemu",
        version: 0x0005_0003,
    };
    /// QEMU with `force_size`: the number tells it.
    const QEMU_FORCED: Self = Self {
        application: *b"qem2",
        version: 0x0005_0003,
    };
    /// Windows: the number tells it, in the eyes of all readers.
    const WINDOWS: Self = Self {
        application: *b"win ",
        version: 0x000a_0000,
    };
}

/// `subformat`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Subformat {
    Dynamic,
    Fixed,
}

/// The image below.
#[derive(Clone, Debug)]
pub(super) struct Parent {
    pub(super) unique_id: Uuid,
    /// From the image's folder, in Windows's way.
    pub(super) path: String,
}

impl Parent {
    fn new(backing: &BackingImage) -> Result<Self> {
        const LONGEST: usize = 4096;
        if backing.format != FORMAT {
            let feature = "making an image over a backing file of another format";
            return Err(Error::unsupported(FORMAT, feature));
        }
        let Some(Ok(unique_id)) = backing.identity(UNIQUE_ID).map(Uuid::parse_str) else {
            let why = "its UUID is not known, for it was not opened";
            return Err(invalid("backing_file", why));
        };
        let path = backing.windows_path().filter(|path| path.len() <= LONGEST);
        let path = path.ok_or_else(|| {
            let why = "not a relative path that Windows can have";
            invalid("backing_file", why)
        })?;
        Ok(Self { unique_id, path })
    }
}

impl Settings {
    /// What `what` asks for, if there can be such an image.
    pub(super) fn new(what: &NewImage) -> Result<Self> {
        let options = &what.options;
        options.expect_only(FORMAT, OPTIONS)?;
        if what.compress {
            return Err(Error::unsupported(FORMAT, "compression"));
        }
        let asked_size = match options.size(FORMAT, "size")? {
            Some(size) if what.size == 0 => size,
            Some(_) | None => what.size,
        };
        let azure = options.flag(FORMAT, "azure")?.unwrap_or(false);
        let forced = options.flag(FORMAT, "force_size")?;
        let unit = if azure { MIB } else { SECTOR };
        let size = allowed(round_up(asked_size, unit))?;
        let parent = what.backing.as_ref().map(Parent::new).transpose()?;
        let exact = azure || parent.is_some();
        let (size, geometry, creator) = match forced {
            Some(false) if azure => return Err(invalid("force_size", "azure needs it")),
            // QEMU reads no overlays: Windows does.
            _ if exact => (size, Geometry::below(size / SECTOR), Creator::WINDOWS),
            Some(true) => (size, Geometry::LARGEST, Creator::QEMU_FORCED),
            Some(false) | None => by_geometry(size)?,
        };
        Ok(Self {
            told_size: if azure { size } else { asked_size },
            size,
            geometry,
            creator,
            subformat: match (subformat(options, azure)?, &parent) {
                (Subformat::Fixed, Some(_)) => {
                    return Err(invalid("subformat", "not fixed over a backing file"));
                }
                (subformat, _) => subformat,
            },
            parent,
            timestamp: timestamp(options)?,
            uuid: NewId::option(options, FORMAT, "uuid")?,
        })
    }

    /// The options in the order and the words in which `qemu-img create` tells them.
    pub(super) fn told(&self, options: &Options) -> Vec<(&'static str, String)> {
        let mut told = vec![("size", self.told_size.to_string())];
        for name in ["subformat", "force_size", "azure", "timestamp", "uuid"] {
            told.extend(options.text(name).map(|text| (name, text.to_owned())));
        }
        told
    }
}

fn invalid(option: &str, why: &'static str) -> Error {
    Error::invalid_option(FORMAT, option, why)
}

/// The format ends at 2040 GiB.
fn allowed(size: Option<u64>) -> Result<u64> {
    size.filter(|size| *size <= 2040 * GIB)
        .ok_or_else(|| invalid("size", "more than 2040 GiB"))
}

/// QEMU rounds a disk up to what a geometry can tell; where none can, the number tells it.
fn by_geometry(size: u64) -> Result<(u64, Geometry, Creator)> {
    let geometry = Geometry::above(size / SECTOR);
    let size = match geometry {
        Geometry::LARGEST => size,
        _ => allowed(Some(geometry.sectors() * SECTOR))?,
    };
    Ok((size, geometry, Creator::QEMU))
}

fn subformat(options: &Options, azure: bool) -> Result<Subformat> {
    match options.text("subformat") {
        None if azure => Ok(Subformat::Fixed),
        Some("dynamic") if azure => Err(invalid("subformat", "azure needs a fixed disk")),
        None | Some("dynamic") => Ok(Subformat::Dynamic),
        Some("fixed") => Ok(Subformat::Fixed),
        Some(_) => Err(invalid("subformat", "neither dynamic nor fixed")),
    }
}

/// In the format's own count.
fn timestamp(options: &Options) -> Result<u32> {
    /// 2000-01-01T00:00:00Z.
    const EPOCH: u64 = 946_684_800;
    let seconds = match options.text("timestamp") {
        None => EPOCH,
        Some("now") => SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(EPOCH, |since| since.as_secs()),
        Some(_) => options.number(FORMAT, "timestamp")?.unwrap_or(EPOCH),
    };
    let seconds = seconds.checked_sub(EPOCH).map(u32::try_from);
    match seconds {
        Some(Ok(seconds)) => Ok(seconds),
        Some(Err(_)) | None => Err(invalid("timestamp", "not within 2000 and 2136")),
    }
}
