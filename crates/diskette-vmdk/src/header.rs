//! The header of a hosted sparse extent, checked: after it nothing is checked twice.

use diskette_core::{Error, Field, Limits, Result, SECTOR, Storage, StorageExt};
use zerocopy::FromBytes;
use zerocopy::little_endian::{U32, U64};

use crate::{FORMAT, spec};

/// What the header of a hosted sparse extent says. All offsets and sizes are in bytes.
#[derive(Clone, Debug)]
pub(crate) struct Header {
    /// Bytes of the disk.
    pub size: u64,
    /// Bytes of a grain: a power of two, at most 1 MiB.
    pub grain_size: u64,
    /// Entries of a grain table: a power of two, at most 512.
    pub table_entries: u64,
    /// The embedded descriptor: where, and how long.
    pub descriptor: Option<(u64, u64)>,
    /// Where the grain directory lies; `None` if a footer tells it.
    pub directory: Option<u64>,
    /// The redundant grain directory.
    pub redundant_directory: Option<u64>,
    /// Where grains may begin.
    pub overhead: u64,
    /// Whether grains are compressed, with markers.
    pub compressed: bool,
    /// The version by which it was written.
    pub version: u32,
    /// Whether an entry of 1 is a grain of zeros for all readers.
    pub zeroed_grain: bool,
    /// Whether the extent was not closed.
    pub unclean: bool,
    /// Where the header itself lies: more than 0 for a footer.
    at: u64,
}

impl Header {
    /// The header at host offset `at` of `storage`.
    pub(crate) fn read(storage: &dyn Storage, at: u64, limits: &Limits) -> Result<Self> {
        let bytes = read_struct_bytes(storage, at, "header")?;
        let raw = spec::HostedHeader::ref_from_bytes(&bytes)
            .map_err(|_| Error::malformed(FORMAT, "header", at, 0, "cut short").truncated())?;
        let header = Self::parse(raw, at, limits)?;
        let size = storage.total_size()?;
        if header.overhead > size {
            let name = format!("{}.overHead", header.name());
            let overhead = Field::new(
                FORMAT,
                name,
                header.host_offset(64),
                header.overhead / SECTOR,
            );
            let why = format!("its sectors reach beyond the file's end at {size:#x}");
            return Err(overhead.malformed(why).truncated());
        }
        Ok(header)
    }

    /// The header in an image's first bytes.
    pub(crate) fn parse_head(head: &[u8], limits: &Limits) -> Result<Self> {
        let (raw, _) = spec::HostedHeader::ref_from_prefix(head).map_err(|_| {
            Error::malformed(FORMAT, "header", 0, head.len() as u64, "cut short").truncated()
        })?;
        Self::parse(raw, 0, limits)
    }

    fn parse(raw: &spec::HostedHeader, at: u64, limits: &Limits) -> Result<Self> {
        let name = if at == 0 { "header" } else { "footer" };
        let field = |field: &str, offset: u64, value: U64| {
            Checked::new(name, field, at + offset, value.get())
        };
        let short = |field: &str, offset: u64, value: U32| {
            Field::new(FORMAT, format!("{name}.{field}"), at + offset, value.get())
        };

        if raw.magic != spec::HOSTED_MAGIC {
            let magic = String::from_utf8_lossy(&raw.magic);
            let why = "not \"KDMV\"";
            return Err(Error::malformed(
                FORMAT,
                format!("{name}.magicNumber"),
                at,
                &*magic,
                why,
            ));
        }
        short("version", 4, raw.version).within(0..=spec::HOSTED_VERSION_MAX)?;
        let compressed = compression(raw, name, at)?;
        if raw.flags.get() & spec::flags::NEWLINES != 0 && raw.newlines != spec::NEWLINES {
            let found = U32::from_bytes(raw.newlines).get();
            let newlines = Field::new(FORMAT, format!("{name}.singleEndLineChar"), at + 73, found);
            return Err(newlines.malformed("changed: the file was transferred as text"));
        }

        let size = field("capacity", 12, raw.capacity).of_sectors()?;
        let grain_sectors = field("grainSize", 20, raw.grain_size)
            .0
            .power_of_two_in(1..=2048)?;
        let grain_size = grain_sectors * SECTOR; // at most 1 MiB, by the check above
        limits.allow_granule("grain's bytes", grain_size)?;
        let table_entries = short("numGTEsPerGT", 44, raw.gtes_per_gt).power_of_two_in(1..=512)?;
        let descriptor_offset =
            field("descriptorOffset", 28, raw.descriptor_offset).of_sectors()?;
        let descriptor_sectors = field("descriptorSize", 36, raw.descriptor_size).of_sectors()?;
        let descriptor = (descriptor_offset != 0).then_some((
            descriptor_offset,
            match descriptor_sectors {
                0 => spec::DESCRIPTOR_SECTORS * SECTOR,
                len => len,
            },
        ));
        let directory = match raw.gd_offset.get() {
            spec::GD_AT_END => None,
            _ => Some(field("gdOffset", 56, raw.gd_offset).of_sectors()?),
        };
        let redundant = raw.flags.get() & spec::flags::REDUNDANT != 0 && raw.rgd_offset.get() != 0;
        let redundant_directory = if redundant {
            Some(field("rgdOffset", 48, raw.rgd_offset).of_sectors()?)
        } else {
            None
        };
        Ok(Self {
            size,
            grain_size,
            table_entries,
            descriptor,
            directory,
            redundant_directory,
            overhead: field("overHead", 64, raw.overhead).of_sectors()?,
            compressed,
            version: raw.version.get(),
            zeroed_grain: raw.flags.get() & spec::flags::ZEROED_GRAIN != 0,
            unclean: raw.unclean_shutdown != 0,
            at,
        })
    }

    /// Host offset of a field, by its place in the header.
    pub(crate) const fn host_offset(&self, offset: u64) -> u64 {
        self.at.saturating_add(offset)
    }

    /// "header" or "footer".
    pub(crate) const fn name(&self) -> &'static str {
        if self.at == 0 { "header" } else { "footer" }
    }
}

/// Whether grains are compressed. What no writer is known to make, and readers understand in different ways, is refused.
fn compression(raw: &spec::HostedHeader, name: &str, at: u64) -> Result<bool> {
    let bits = raw.flags.get();
    let flags = || Field::new(FORMAT, format!("{name}.flags"), at + 8, bits);
    let known = spec::flags::COMPRESSED | spec::flags::MARKERS;
    let unknown = bits & spec::flags::INCOMPATIBLE & !known;
    if unknown != 0 {
        return Err(flags().malformed(format!("with unknown incompatible bits {unknown:#x}")));
    }
    let algorithm = raw.compress_algorithm.get();
    let algorithm_field = || {
        Field::new(
            FORMAT,
            format!("{name}.compressAlgorithm"),
            at + 77,
            algorithm,
        )
    };
    let compressed = bits & spec::flags::COMPRESSED != 0;
    let markers = bits & spec::flags::MARKERS != 0;
    match (algorithm, compressed, markers) {
        (spec::COMPRESSION_NONE, false, false) => Ok(false),
        (spec::COMPRESSION_DEFLATE, true, true) => Ok(true),
        (spec::COMPRESSION_DEFLATE, true, false) => {
            let feature = "compressed grains without markers (flags bit 17 clear)";
            Err(Error::unsupported(FORMAT, feature))
        }
        (_, false, true) => Err(flags().malformed("markers without compressed grains")),
        (spec::COMPRESSION_NONE | spec::COMPRESSION_DEFLATE, ..) => {
            let why = format!("at odds with {name}.flags {bits:#x}");
            Err(algorithm_field().malformed(why))
        }
        _ => Err(algorithm_field().malformed("neither 0 (none) nor 1 (deflate)")),
    }
}

/// A number of sectors that an image claims.
struct Checked(Field);

impl Checked {
    fn new(structure: &str, field: &str, offset: u64, value: u64) -> Self {
        Self(Field::new(
            FORMAT,
            format!("{structure}.{field}"),
            offset,
            value,
        ))
    }

    /// It in bytes, no more than a file can have.
    fn of_sectors(self) -> Result<u64> {
        let sectors = self.0.within(0..=MOST_SECTORS)?;
        Ok(sectors * SECTOR) // below 2^63, by the check above
    }
}

/// Sectors of 2^63 bytes, less one.
pub(crate) const MOST_SECTORS: u64 = (1 << 54) - 1;

/// The 512 bytes of the structure `name` at `at`.
pub(crate) fn read_struct_bytes(
    storage: &dyn Storage,
    at: u64,
    name: &'static str,
) -> Result<[u8; 512]> {
    let size = storage.total_size()?;
    Field::new(FORMAT, format!("{name}'s offset"), at, at).followed_by(SECTOR, size)?;
    let mut bytes = [0; 512];
    storage.read(&mut bytes, at)?;
    Ok(bytes)
}
