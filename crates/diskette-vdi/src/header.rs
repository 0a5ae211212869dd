//! From the header's bytes to values that need no further check. All sizes in bytes.

use diskette_core::{
    Error, Field, Identity, Limits, MIB, Mark, Reference, Result, Role, Storage, StorageExt,
    round_up,
};
use uuid::Uuid;
use zerocopy::FromBytes;

use crate::{FORMAT, spec};

/// A header that has been shown sound.
#[derive(Clone, Debug)]
pub(crate) struct Header {
    pub kind: Kind,
    /// A multiple of 512.
    pub disk_size: u64,
    /// A power of two.
    pub block_size: u64,
    /// Before each block's data; at most a block.
    pub block_extra: u64,
    pub block_count: u64,
    /// What the header says; [`check`](crate::check) counts again.
    pub allocated_count: u64,
    pub allocated_count_offset: u64,
    pub map_offset: u64,
    pub data_offset: u64,
    pub image: Uuid,
    pub modification: Uuid,
    pub modification_offset: u64,
    pub parent: Option<Parent>,
    pub offsets: &'static FieldOffsets,
    pub warnings: Vec<String>,
}

/// What kind of image it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Dynamic,
    Static,
    /// Differencing, or undo: free blocks show the parent.
    Differencing,
}

/// The image below, known by its UUIDs alone.
#[derive(Clone, Debug)]
pub(crate) struct Parent {
    image: Uuid,
    /// Version 0.2 has none.
    modification: Option<Uuid>,
}

/// Where a version keeps the fields that both have. Version 0.2 has no offsets of its own: what is wrong with them lies in
/// the block count.
#[derive(Debug)]
pub(crate) struct FieldOffsets {
    map_offset: u64,
    data_offset: u64,
    pub disk_size: u64,
    pub block_count: u64,
    parent_uuid: u64,
}

static FIELDS_1_1: FieldOffsets = FieldOffsets {
    map_offset: 340,
    data_offset: 344,
    disk_size: 368,
    block_count: 384,
    parent_uuid: 424,
};
static FIELDS_0_2: FieldOffsets = FieldOffsets {
    map_offset: 364,
    data_offset: 364,
    disk_size: 352,
    block_count: 364,
    parent_uuid: 404,
};

/// The kind of [`Identity`] that tells one image from others.
pub(crate) const IMAGE_UUID: &str = "UUID";
/// The kind of [`Identity`] that changes with an image's contents.
pub(crate) const MODIFICATION_UUID: &str = "modification UUID";

impl Header {
    pub(crate) fn read(storage: &dyn Storage, limits: &Limits) -> Result<Self> {
        let mut bytes = [0; 512];
        let there = storage.read_padded(&mut bytes, 0)?;
        if there < bytes.len() {
            return Err(Error::malformed(
                FORMAT,
                "file's size",
                0,
                there as u64,
                "too short for a header",
            ));
        }
        let Ok((start, rest)) = spec::PreHeader::ref_from_prefix(&bytes) else {
            return Err(Error::malformed(
                FORMAT,
                "header",
                0,
                there as u64,
                "too short",
            ));
        };
        if start.signature != spec::SIGNATURE {
            let found = u64::from(u32::from_le_bytes(start.signature));
            return Err(field("header.signature", 64, found).malformed("not 0xbeda107f"));
        }
        match (
            start.version.get(),
            spec::Header11::ref_from_prefix(rest),
            spec::Header02::ref_from_prefix(rest),
        ) {
            (spec::VERSION_1_1, Ok((raw, _)), _) => Self::from_1_1(raw, storage, limits),
            (spec::VERSION_0_2, _, Ok((raw, _))) => Self::from_0_2(raw, storage, limits),
            (version, ..) => Err(Error::unsupported(
                FORMAT,
                format!("header version {}.{}", version >> 16, version & 0xffff),
            )),
        }
    }

    fn from_1_1(raw: &spec::Header11, storage: &dyn Storage, limits: &Limits) -> Result<Self> {
        field("header.header_size", 72, raw.header_size).within(0x180..=u64::from(u32::MAX))?;
        field("header.sector_size", 360, raw.sector_size).equal_to(512)?;
        let parent_image = uuid(raw.parent_uuid);
        let parent_modification = uuid(raw.parent_modification_uuid);
        let parent = parent_image.map(|image| Parent {
            image,
            modification: parent_modification,
        });
        let header = Self {
            kind: kind(raw.image_type.get(), 76)?,
            disk_size: raw.disk_size.get(),
            block_size: block_size(raw.block_size.get(), 376, limits)?,
            block_extra: raw.block_extra.get().into(),
            block_count: raw.block_count.get().into(),
            allocated_count: raw.allocated_count.get().into(),
            allocated_count_offset: 388,
            map_offset: field("header.map_offset", 340, raw.map_offset)
                .within(456..=u64::from(u32::MAX))?,
            data_offset: raw.data_offset.get().into(),
            image: Uuid::from_bytes_le(raw.image_uuid),
            modification: Uuid::from_bytes_le(raw.modification_uuid),
            modification_offset: 408,
            parent,
            offsets: &FIELDS_1_1,
            warnings: Vec::new(),
        };
        let extra = field("header.block_extra", 380, raw.block_extra);
        if header.block_extra != 0 {
            extra.power_of_two_in(1..=header.block_size)?;
        }
        header.checked(storage)
    }

    fn from_0_2(raw: &spec::Header02, storage: &dyn Storage, limits: &Limits) -> Result<Self> {
        const MAP_OFFSET: u64 = 420;
        let block_count = u64::from(raw.block_count.get());
        let header = Self {
            kind: kind(raw.image_type.get(), 72)?,
            disk_size: raw.disk_size.get(),
            block_size: block_size(raw.block_size.get(), 360, limits)?,
            block_extra: 0,
            block_count,
            allocated_count: raw.allocated_count.get().into(),
            allocated_count_offset: 368,
            map_offset: MAP_OFFSET,
            data_offset: MAP_OFFSET + 4 * block_count, // a 32-bit count: no overflow
            image: Uuid::from_bytes_le(raw.image_uuid),
            modification: Uuid::from_bytes_le(raw.modification_uuid),
            modification_offset: 388,
            parent: uuid(raw.parent_uuid).map(|image| Parent {
                image,
                modification: None,
            }),
            offsets: &FIELDS_0_2,
            warnings: Vec::new(),
        };
        header.checked(storage)
    }

    /// What is to be said of both versions: the map has room for the disk, lies within the file, and before the data.
    fn checked(mut self, storage: &dyn Storage) -> Result<Self> {
        let at = self.offsets;
        const SIZE_MAX: u64 = i64::MAX as u64;
        let size = field("header.disk_size", at.disk_size, self.disk_size).within(0..=SIZE_MAX)?;
        let rounded = round_up(size, 512).unwrap_or(SIZE_MAX);
        if rounded != size {
            self.warnings.push(format!(
                "disk size {size} is no multiple of 512: rounded up"
            ));
        }
        self.disk_size = rounded;

        let count = field("header.block_count", at.block_count, self.block_count);
        // At most 2^32 blocks of at most 2^28 bytes.
        if self.block_count * self.block_size < size {
            return Err(count.malformed(format!("too few blocks for a disk of {size} bytes")));
        }
        let map_len = 4 * self.block_count;
        let map_end = self.map_offset + map_len;
        field("header.map_offset", at.map_offset, self.map_offset)
            .followed_by(map_len, storage.total_size()?)?;
        let data_offset = field("header.data_offset", at.data_offset, self.data_offset);
        if self.data_offset < map_end {
            return Err(data_offset.malformed(format!("before the map's end at {map_end:#x}")));
        }
        if self.kind == Kind::Differencing && self.parent.is_none() {
            let why = "the image is differencing, and names no parent";
            return Err(Error::malformed(
                FORMAT,
                "header.parent_uuid",
                at.parent_uuid,
                0,
                why,
            ));
        }
        if self.kind != Kind::Differencing && self.parent.take().is_some() {
            let why = "the image names a parent, and is not differencing: nothing of it shows";
            self.warnings.push(why.to_owned());
        }
        Ok(self)
    }

    /// Bytes from one block to the next in the file.
    pub(crate) const fn stride(&self) -> u64 {
        self.block_size + self.block_extra // at most 2^29
    }

    /// How this image is known to its children.
    pub(crate) fn identity(&self) -> Vec<Identity> {
        vec![
            Identity {
                kind: IMAGE_UUID,
                value: self.image.to_string(),
            },
            Identity {
                kind: MODIFICATION_UUID,
                value: self.modification.to_string(),
            },
        ]
    }

    /// The image below: no path, only what it must say of itself. VirtualBox names the files of snapshots by their UUID,
    /// and others as the user likes.
    pub(crate) fn backing(&self) -> Option<Reference> {
        let parent = self.parent.as_ref()?;
        let mark = |version: u32, at: usize| Mark {
            pieces: vec![
                (spec::SIGNATURE_OFFSET, spec::SIGNATURE.to_vec()),
                (spec::VERSION_OFFSET, version.to_le_bytes().to_vec()),
                (at, parent.image.to_bytes_le().to_vec()),
            ],
        };
        let reference = Reference::new(Role::Backing, format!("{{{}}}.vdi", parent.image))
            .with_format(FORMAT)
            .with_mark(mark(spec::VERSION_1_1, spec::IMAGE_UUID_OFFSET_1_1))
            .with_mark(mark(spec::VERSION_0_2, spec::IMAGE_UUID_OFFSET_0_2))
            .with_identity(Identity {
                kind: IMAGE_UUID,
                value: parent.image.to_string(),
            });
        Some(match parent.modification {
            Some(uuid) => reference.with_identity(Identity {
                kind: MODIFICATION_UUID,
                value: uuid.to_string(),
            }),
            None => reference,
        })
    }
}

fn field(name: &'static str, offset: u64, value: impl Into<u64>) -> Field {
    Field::new(FORMAT, name, offset, value)
}

fn kind(image_type: u32, offset: u64) -> Result<Kind> {
    match image_type {
        spec::TYPE_DYNAMIC => Ok(Kind::Dynamic),
        spec::TYPE_STATIC => Ok(Kind::Static),
        3 | 4 => Ok(Kind::Differencing),
        other => Err(field("header.image_type", offset, other).malformed("not within 1 to 4")),
    }
}

fn block_size(bytes: u32, offset: u64, limits: &Limits) -> Result<u64> {
    let size = field("header.block_size", offset, bytes).power_of_two_in(512..=256 * MIB)?;
    limits.allow_granule("vdi: block's bytes", size)?;
    Ok(size)
}

/// `None` for the null UUID.
fn uuid(bytes: [u8; 16]) -> Option<Uuid> {
    Some(Uuid::from_bytes_le(bytes)).filter(|uuid| !uuid.is_nil())
}
