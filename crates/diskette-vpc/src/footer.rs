//! The footer: the only thing all images have, at their end, and often a copy at the beginning.

use diskette_core::{Ends, Error, Field, Match, OpenContext, Result, SECTOR, Storage, StorageExt};
use uuid::Uuid;
use zerocopy::{FromBytes, IntoBytes};

use crate::{FORMAT, spec};

/// What an image says of itself, settled. Sizes in bytes.
#[derive(Clone, Debug)]
pub(crate) struct Footer {
    pub kind: Kind,
    /// A multiple of 512.
    pub disk_size: u64,
    pub unique_id: Uuid,
    /// Of a dynamic or differencing image: where its header lies.
    pub header_offset: u64,
    /// XenServer's first images count a bitmap's bits from the least significant.
    pub reversed_bits: bool,
    /// Made by XenServer, whose parents may be raw.
    pub by_xen: bool,
    pub warnings: Vec<String>,
    /// Its bytes.
    pub raw: spec::Footer,
    /// Whether the copy at the beginning is sound.
    pub has_front: bool,
    /// Where the one at the end lies, if it is sound.
    pub rear_offset: Option<u64>,
}

/// The kind of identity by which children know their parent.
pub(crate) const UNIQUE_ID: &str = "UUID";

/// What kind of image it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Fixed,
    Dynamic,
    Differencing,
}

/// How the disk's size is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SizeRule {
    /// By the program that made the image, as QEMU 10 does.
    ByCreator,
    Geometry,
    CurrentSize,
}

/// The option for opening that names one.
pub(crate) const FORCE_SIZE_CALC: &str = "force_size_calc";

/// A footer whose cookie, checksum, version and type are right, and where it was found.
struct Found {
    raw: spec::Footer,
    offset: u64,
}

pub(crate) fn probe(ends: &Ends<'_>) -> Match {
    if ends.head.starts_with(&spec::COOKIE) || ends.head.starts_with(&spec::POISON) {
        return Match::Sure;
    }
    let tail = |len: usize| {
        ends.tail
            .len()
            .checked_sub(len)
            .and_then(|start| sound(&ends.tail[start..]))
    };
    for len in [512, 511] {
        let Some(raw) = tail(len) else { continue };
        // The footer of a raw disk's guest would hardly know the length of the file around it.
        let data = ends.size - len as u64;
        let fixed = raw.disk_type.get() == spec::TYPE_FIXED;
        if !fixed || data == raw.current_size.get() || Some(data) == geometry_size(&raw) {
            return Match::Sure;
        }
    }
    Match::No
}

impl Footer {
    pub(crate) fn read(storage: &dyn Storage, cx: &OpenContext<'_>) -> Result<Self> {
        let rule = size_rule(cx)?;
        let file_size = storage.total_size()?;
        let mut front_bytes = [0; 512];
        storage.read_padded(&mut front_bytes, 0)?;
        if front_bytes.starts_with(&spec::POISON) {
            return Err(Error::unsupported(
                FORMAT,
                "an image that was taken out of use (its cookie is \"v_poison\")",
            ));
        }
        let front = sound(&front_bytes).map(|raw| Found { raw, offset: 0 });
        let rear = rear(storage, file_size)?;
        let mut warnings = Vec::new();
        let has_front = front.is_some();
        let rear_offset = rear.as_ref().map(|found| found.offset);
        let data_end = rear_offset.unwrap_or(file_size);
        let found = match (front, rear) {
            (Some(front), Some(rear)) => agreed(&front, rear)?,
            (Some(front), None) => {
                warnings.push(
                    "there is no sound footer at the end: the copy at the beginning counts"
                        .to_owned(),
                );
                front
            }
            (None, Some(rear)) => {
                if rear.raw.disk_type.get() != spec::TYPE_FIXED {
                    warnings.push(
                        "the footer's copy at the beginning is damaged: the one at the end counts"
                            .to_owned(),
                    );
                }
                rear
            }
            (None, None) => return Err(no_footer(&front_bytes)),
        };
        let settled = Self::settle(&found, rule, data_end, file_size, warnings)?;
        Ok(Self {
            has_front,
            rear_offset,
            ..settled
        })
    }

    fn settle(
        found: &Found,
        rule: SizeRule,
        data_end: u64,
        file_size: u64,
        warnings: Vec<String>,
    ) -> Result<Self> {
        let Found { raw, offset } = found;
        let field = |name, at: u64, value| Field::new(FORMAT, name, offset + at, value);
        let kind = match raw.disk_type.get() {
            spec::TYPE_FIXED => Kind::Fixed,
            spec::TYPE_DYNAMIC => Kind::Dynamic,
            _ => Kind::Differencing,
        };
        let by_xen = raw.creator_application == *b"tap\0";
        let mut footer = Self {
            kind,
            disk_size: disk_size(raw, rule),
            unique_id: Uuid::from_bytes(raw.unique_id),
            header_offset: 0,
            reversed_bits: by_xen && raw.creator_version.get() == 1,
            by_xen,
            warnings,
            raw: *raw,
            has_front: false,
            rear_offset: None,
        };
        let size = field("footer.current_size", 48, footer.disk_size);
        let data_offset = field("footer.data_offset", 16, raw.data_offset.get());
        if kind == Kind::Fixed {
            if !matches!(raw.data_offset.get(), u64::MAX | 0xffff_ffff) {
                return Err(data_offset.malformed("not all ones, in a fixed image"));
            }
            if footer.disk_size > data_end {
                let why = format!(
                    "more than the {data_end} bytes before the footer: the file is cut short"
                );
                return Err(size.malformed(why).truncated());
            }
            if footer.disk_size < data_end && *offset != 0 {
                footer.warnings.push(format!(
                    "{} bytes behind the disk's end are left out",
                    data_end - footer.disk_size
                ));
            }
        } else {
            const SECTORS_MAX: u64 = 0xff00_0000;
            size.within(0..=SECTORS_MAX * SECTOR)?;
            footer.header_offset = data_offset.clone().within(512..=i64::MAX as u64)?;
            data_offset.followed_by(size_of::<spec::DynamicHeader>() as u64, file_size)?;
        }
        if raw.saved_state == 1 {
            footer
                .warnings
                .push("the machine was suspended when the image was saved".to_owned());
        }
        Ok(footer)
    }
}

/// The footer at the file's end, of 512 bytes or of 511.
fn rear(storage: &dyn Storage, file_size: u64) -> Result<Option<Found>> {
    for len in [512_u64, 511] {
        let Some(offset) = file_size.checked_sub(len) else {
            continue;
        };
        let mut bytes = [0; 512];
        storage.read_padded(&mut bytes, offset)?;
        if let Some(raw) = sound(&bytes) {
            return Ok(Some(Found { raw, offset }));
        }
    }
    Ok(None)
}

/// The footer, if two sound ones say the same.
fn agreed(front: &Found, rear: Found) -> Result<Found> {
    let told = |raw: &spec::Footer| {
        (
            raw.current_size,
            raw.disk_type,
            raw.data_offset,
            raw.unique_id,
        )
    };
    if told(&front.raw) == told(&rear.raw) {
        return Ok(rear);
    }
    let why = "the footers at the beginning and at the end are both sound, and differ";
    let field = Field::new(
        FORMAT,
        "footer.current_size",
        rear.offset + 48,
        rear.raw.current_size.get(),
    );
    Err(field.malformed(why))
}

fn no_footer(front: &[u8; 512]) -> Error {
    let what = if front.starts_with(&spec::COOKIE) {
        "neither the footer at the end nor its copy at the beginning is sound"
    } else {
        "no footer, which would begin with \"conectix\""
    };
    let value = u64::from(u32::from_be_bytes([front[0], front[1], front[2], front[3]]));
    Error::malformed(FORMAT, "footer.cookie", 0, value, what)
}

/// The footer in these bytes, 512 or 511 of them, if cookie, checksum, version and type are right.
fn sound(bytes: &[u8]) -> Option<spec::Footer> {
    let mut whole = [0; 512];
    whole.get_mut(..bytes.len())?.copy_from_slice(bytes);
    let raw = spec::Footer::read_from_bytes(&whole).ok()?;
    let known_type = (spec::TYPE_FIXED..=spec::TYPE_DIFFERENCING).contains(&raw.disk_type.get());
    let sound = raw.cookie == spec::COOKIE
        && raw.version.get() == spec::VERSION
        && known_type
        && (raw.checksum.get() == checksum_of(&raw) || is_old_xen_sum(&raw));
    sound.then_some(raw)
}

/// The checksum that a footer must bear.
pub(crate) fn checksum_of(raw: &spec::Footer) -> u32 {
    checksum(
        spec::Footer {
            checksum: 0.into(),
            ..*raw
        }
        .as_bytes(),
    )
}

/// The first XenServer versions changed `hidden` without a new checksum.
fn is_old_xen_sum(raw: &spec::Footer) -> bool {
    raw.creator_application == *b"tap\0"
        && matches!(raw.creator_version.get(), 0x0000_0001 | 0x0001_0001)
        && raw.checksum.get() == checksum_of(&spec::Footer { hidden: 0, ..*raw })
}

/// One's complement of the sum of the bytes. The checksum field is zero in them.
pub(crate) fn checksum(bytes: &[u8]) -> u32 {
    !bytes
        .iter()
        .fold(0, |sum: u32, byte| sum.wrapping_add(u32::from(*byte)))
}

fn size_rule(cx: &OpenContext<'_>) -> Result<SizeRule> {
    match cx.options.text(FORCE_SIZE_CALC) {
        None => Ok(SizeRule::ByCreator),
        Some("chs") => Ok(SizeRule::Geometry),
        Some("current_size") => Ok(SizeRule::CurrentSize),
        Some(_) => Err(Error::invalid_option(
            FORMAT,
            FORCE_SIZE_CALC,
            "neither chs nor current_size",
        )),
    }
}

/// Virtual PC, and QEMU without `force_size`, mean the geometry; all others mean the number.
fn disk_size(raw: &spec::Footer, rule: SizeRule) -> u64 {
    let current = raw.current_size.get() / SECTOR * SECTOR;
    let by_geometry = match rule {
        SizeRule::ByCreator => matches!(&raw.creator_application, b"vpc " | b"qemu"),
        SizeRule::Geometry => true,
        SizeRule::CurrentSize => false,
    };
    geometry_size(raw)
        .filter(|_| by_geometry)
        .unwrap_or(current)
}

/// What the geometry can tell; `None` for the largest, which means 'too large for a geometry', and for none.
fn geometry_size(raw: &spec::Footer) -> Option<u64> {
    let (cylinders, heads, sectors) = (raw.cylinders.get(), raw.heads, raw.sectors_per_track);
    let total = u64::from(cylinders) * u64::from(heads) * u64::from(sectors) * SECTOR;
    (total != 0 && (cylinders, heads, sectors) != (65535, 16, 255)).then_some(total)
}
