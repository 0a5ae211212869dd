//! What a new image is to be.

use diskette_core::{
    BackingImage, Error, MIB, NewId, NewImage, OptionSpec, Options, Result, SECTOR, round_up,
};
use uuid::Uuid;

use crate::FORMAT;
use crate::header::{IMAGE_UUID, MODIFICATION_UUID};

/// The options, as qemu-img names them, and one of our own.
pub(super) const OPTIONS: &[OptionSpec] = &[
    OptionSpec {
        name: "size",
        takes: "size",
        default: "",
        help: "bytes of the disk",
    },
    OptionSpec {
        name: "static",
        takes: "on|off",
        default: "off",
        help: "give every block its place from the start",
    },
    OptionSpec {
        name: "uuid",
        takes: "UUID|random|derived",
        default: "derived",
        help: "the image's UUID; derived from its content, or random, for VirtualBox takes no two alike",
    },
];

/// Every known writer's.
pub(super) const BLOCK_SIZE: u64 = MIB;
/// Map and data begin at multiples of this, as VirtualBox has it.
const ALIGNMENT: u64 = MIB;
/// QEMU reads no more.
const BLOCKS_MAX: u64 = 0x1fff_ff80;

/// What a new image will be.
#[derive(Clone, Copy, Debug)]
pub(super) struct Settings {
    /// The disk's size as it was asked for.
    asked_size: u64,
    /// Whole sectors.
    pub(super) size: u64,
    pub(super) is_static: bool,
    pub(super) parent: Option<Parent>,
    pub(super) uuid: NewId,
}

/// The image below, which is known by its UUIDs alone.
#[derive(Clone, Copy, Debug)]
pub(super) struct Parent {
    pub(super) image: Uuid,
    pub(super) modification: Uuid,
}

impl Parent {
    fn new(backing: &BackingImage) -> Result<Self> {
        if backing.format != FORMAT {
            let feature = "making an image over a backing file of another format";
            return Err(Error::unsupported(FORMAT, feature));
        }
        let uuid = |kind| {
            let known = backing.identity(kind).map(Uuid::parse_str);
            let Some(Ok(uuid)) = known else {
                let why = "its UUIDs are not known, for it was not opened";
                return Err(Error::invalid_option(FORMAT, "backing_file", why));
            };
            Ok(uuid)
        };
        Ok(Self {
            image: uuid(IMAGE_UUID)?,
            modification: uuid(MODIFICATION_UUID)?,
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
        let size = round_up(asked_size, SECTOR).filter(|size| *size <= BLOCKS_MAX * BLOCK_SIZE);
        let size = size.ok_or_else(|| {
            let why = format!("more than {} bytes", BLOCKS_MAX * BLOCK_SIZE);
            Error::invalid_option(FORMAT, "size", why)
        })?;
        let is_static = options.flag(FORMAT, "static")?.unwrap_or(false);
        if is_static && what.backing.is_some() {
            return Err(Error::invalid_option(
                FORMAT,
                "static",
                "not over a backing file",
            ));
        }
        Ok(Self {
            asked_size,
            size,
            is_static,
            parent: what.backing.as_ref().map(Parent::new).transpose()?,
            uuid: NewId::option(options, FORMAT, "uuid")?,
        })
    }

    /// The options in the order and the words in which `qemu-img create` tells them.
    pub(super) fn told(&self, options: &Options) -> Vec<(&'static str, String)> {
        let is_static = if self.is_static { "on" } else { "off" };
        let mut told = vec![
            ("size", self.asked_size.to_string()),
            ("static", is_static.to_owned()),
        ];
        told.extend(options.text("uuid").map(|text| ("uuid", text.to_owned())));
        told
    }

    /// Entries of the map.
    pub(super) const fn block_count(&self) -> u64 {
        self.size.div_ceil(BLOCK_SIZE)
    }

    /// Where the map lies.
    pub(super) const fn map_offset(&self) -> u64 {
        ALIGNMENT
    }

    /// Where the first block lies: below 4 GiB, by the number of blocks.
    pub(super) const fn data_offset(&self) -> u64 {
        let map_end = self.map_offset() + 4 * self.block_count();
        map_end.next_multiple_of(ALIGNMENT)
    }
}
