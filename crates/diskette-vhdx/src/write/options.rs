//! What a new image is to be: the options by their names, and what follows from them.

use diskette_core::{
    BackingImage, Error, GIB, MIB, NewId, NewImage, OptionSpec, Options, Result, SECTOR, TIB,
    round_up,
};

use uuid::Uuid;

use crate::image::DISK_ID;
use crate::locator::DATA_WRITE_GUID;
use crate::metadata::SECTOR_SIZE;
use crate::spec::{FORMAT, MAX_DISK_SIZE};

/// The options, as qemu-img names them, and two of our own.
pub(super) const OPTIONS: &[OptionSpec] = &[
    OptionSpec::new(
        "block_size",
        "size",
        "0",
        "bytes of a block, a power of two from 1M to 256M; 0: by the disk's size",
    ),
    OptionSpec::new(
        "block_state_zero",
        "on|off",
        "on",
        "say of blocks without data that they are zero, not that they are absent",
    ),
    OptionSpec::new(
        "log_size",
        "size",
        "1048576",
        "bytes of the log, rounded up to 1M",
    ),
    OptionSpec::new(
        "logical_sector_size",
        "512|4096",
        "512",
        "the sectors that the guest sees; partition tables count in them",
    ),
    OptionSpec::new("size", "size", "", "bytes of the disk, at most 64T"),
    OptionSpec::new(
        "subformat",
        "dynamic|fixed",
        "dynamic",
        "blocks that are made when they are needed, or all of them from the start",
    ),
    OptionSpec::new(
        "uuid",
        "UUID|random|derived",
        "derived",
        "the disk's identification (page 83); derived from its content, or random",
    ),
];

/// What a new image will be. Every combination that exists is a sound one.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    /// The disk's size as it was asked for.
    asked_size: u64,
    /// Whole logical sectors.
    pub(super) size: u64,
    /// As it was asked for: 0 for one by the disk's size.
    asked_block_size: u64,
    /// A power of two from 1 to 256 MiB.
    pub(super) block_size: u64,
    /// Whole MiB.
    pub(super) log_size: u32,
    pub(super) logical_sector_size: u32,
    pub(super) fixed: bool,
    pub(super) parent: Option<Parent>,
    /// Whether blocks without data are said to be zero.
    pub(super) block_state_zero: bool,
    pub(super) uuid: NewId,
}

/// The image below.
#[derive(Clone, Debug)]
pub(super) struct Parent {
    pub(super) data_write_guid: Uuid,
    /// The same along a chain.
    pub(super) disk_id: Uuid,
    logical_sector_size: u32,
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
        let unknown = || {
            invalid(
                "backing_file",
                "its GUIDs are not known, for it was not opened",
            )
        };
        let guid = |kind| match backing.identity(kind).map(Uuid::parse_str) {
            Some(Ok(guid)) => Ok(guid),
            Some(Err(_)) | None => Err(unknown()),
        };
        let sector_size = backing
            .identity(SECTOR_SIZE)
            .and_then(|text| text.parse().ok());
        let path = backing.windows_path().filter(|path| path.len() <= LONGEST);
        Ok(Self {
            data_write_guid: guid(DATA_WRITE_GUID)?,
            disk_id: guid(DISK_ID)?,
            logical_sector_size: sector_size.ok_or_else(unknown)?,
            path: path.ok_or_else(|| {
                invalid("backing_file", "not a relative path that Windows can have")
            })?,
        })
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
        let parent = what.backing.as_ref().map(Parent::new).transpose()?;
        let logical_sector_size = logical_sector_size(options, parent.as_ref())?;
        let size = round_up(asked_size, logical_sector_size.into())
            .filter(|size| *size <= MAX_DISK_SIZE)
            .ok_or_else(|| invalid("size", "more than 64 TiB"))?;
        let asked_block_size = options.size(FORMAT, "block_size")?.unwrap_or(0);
        Ok(Self {
            asked_size,
            size,
            asked_block_size,
            block_size: match parent {
                Some(_) => overlays_block_size(asked_block_size)?,
                None => block_size(asked_block_size, size)?,
            },
            log_size: log_size(options)?,
            logical_sector_size,
            fixed: fixed(options, parent.is_some())?,
            parent,
            block_state_zero: options.flag(FORMAT, "block_state_zero")?.unwrap_or(true),
            uuid: NewId::option(options, FORMAT, "uuid")?,
        })
    }

    /// The options in the order and the words in which `qemu-img create` tells them.
    pub(super) fn told(&self, options: &Options) -> Vec<(&'static str, String)> {
        let mut told = vec![
            ("size", self.asked_size.to_string()),
            ("log_size", self.log_size.to_string()),
            ("block_size", self.asked_block_size.to_string()),
        ];
        for name in [
            "subformat",
            "block_state_zero",
            "logical_sector_size",
            "uuid",
        ] {
            told.extend(options.text(name).map(|text| (name, text.to_owned())));
        }
        told
    }
}

fn invalid(option: &str, why: &'static str) -> Error {
    Error::invalid_option(FORMAT, option, why)
}

/// The parent's, if there is one.
fn logical_sector_size(options: &Options, parent: Option<&Parent>) -> Result<u32> {
    let name = "logical_sector_size";
    let parents = parent.map(|parent| parent.logical_sector_size);
    let asked = match options.size(FORMAT, name)? {
        None => return Ok(parents.unwrap_or(512)),
        Some(SECTOR) => 512,
        Some(4096) => 4096,
        Some(_) => return Err(invalid(name, "neither 512 nor 4096")),
    };
    match parents {
        Some(parents) if parents != asked => Err(invalid(name, "not the backing file's")),
        Some(_) | None => Ok(asked),
    }
}

/// What is written of a block of an overlay has to be read whole first.
fn overlays_block_size(asked: u64) -> Result<u64> {
    const MOST: u64 = 2 * MIB;
    match asked {
        0 => Ok(MOST),
        1..=MOST => block_size(asked, 0),
        _ => Err(invalid("block_size", "more than 2M over a backing file")),
    }
}

/// qemu-img's choice where there is none, and its rounding.
fn block_size(asked: u64, disk_size: u64) -> Result<u64> {
    const MOST: u64 = 256 * MIB;
    let by_disk = match disk_size {
        size if size <= GIB => 8 * MIB,
        size if size <= 100 * GIB => 16 * MIB,
        size if size <= 32 * TIB => 32 * MIB,
        _ => 64 * MIB,
    };
    let size = match asked {
        0 => by_disk,
        MOST.. => MOST,
        _ => round_up(asked, MIB).unwrap_or(MOST),
    };
    match size.is_power_of_two() {
        true => Ok(size),
        false => Err(invalid("block_size", "not a power of two")),
    }
}

fn log_size(options: &Options) -> Result<u32> {
    let asked = options.size(FORMAT, "log_size")?.unwrap_or(MIB);
    let size = round_up(asked.max(MIB), MIB).and_then(|size| u32::try_from(size).ok());
    size.ok_or_else(|| invalid("log_size", "more than 4095 MiB"))
}

fn fixed(options: &Options, overlay: bool) -> Result<bool> {
    match options.text("subformat") {
        Some("fixed") if overlay => Err(invalid("subformat", "not fixed over a backing file")),
        None | Some("dynamic") => Ok(false),
        Some("fixed") => Ok(true),
        Some(_) => Err(invalid("subformat", "neither dynamic nor fixed")),
    }
}
