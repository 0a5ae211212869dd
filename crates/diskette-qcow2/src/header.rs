//! From the header's bytes to values that need no further check.

use diskette_codec::Codec;
use diskette_core::{
    Error, Field, Limits, Reference, Result, Role, Storage, StorageExt, round_down,
};
use zerocopy::FromBytes;

use crate::extensions::{Extensions, FeatureNames};
use crate::geometry::Geometry;
use crate::{FORMAT, spec};

/// A header that has been shown sound, with its extensions.
#[derive(Clone, Debug)]
pub(crate) struct Header {
    /// 2 or 3.
    pub version: u32,
    pub geometry: Geometry,
    /// The disk's size: a multiple of 512.
    pub size: u64,
    pub encryption: Encryption,
    /// The active L1 table.
    pub l1: L1Location,
    pub refcount_table: RefcountTableLocation,
    pub snapshot_count: u32,
    pub snapshots_offset: u64,
    pub features: Features,
    pub codec: Codec,
    pub backing_name: Option<String>,
    pub extensions: Extensions,
    /// What is odd, but no obstacle.
    pub warnings: Vec<String>,
}

/// Where an L1 table lies: aligned to a cluster, not longer than any may be.
#[derive(Clone, Debug)]
pub(crate) struct L1Location {
    pub offset: u64,
    pub entries: u64,
    /// The field that says so.
    pub claim: Field,
}

/// Where the refcount table lies: aligned to a cluster, not longer than it may be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RefcountTableLocation {
    pub offset: u64,
    pub clusters: u32,
}

/// Whether guest data is encrypted, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Encryption {
    None,
    /// The old way, without a header.
    Aes,
    /// With a LUKS header of `len` bytes at a host offset that is aligned to a cluster.
    Luks {
        offset: u64,
        len: u64,
    },
}

/// The feature words. All incompatible bits are known ones.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Features {
    pub incompatible: u64,
    pub compatible: u64,
    pub autoclear: u64,
}

impl Features {
    pub(crate) const fn dirty(self) -> bool {
        self.incompatible & spec::INCOMPATIBLE_DIRTY != 0
    }

    pub(crate) const fn corrupt(self) -> bool {
        self.incompatible & spec::INCOMPATIBLE_CORRUPT != 0
    }

    pub(crate) const fn data_file(self) -> bool {
        self.incompatible & spec::INCOMPATIBLE_DATA_FILE != 0
    }

    pub(crate) const fn data_file_raw(self) -> bool {
        self.autoclear & spec::AUTOCLEAR_DATA_FILE_RAW != 0
    }

    pub(crate) const fn lazy_refcounts(self) -> bool {
        self.compatible & spec::COMPATIBLE_LAZY_REFCOUNTS != 0
    }

    pub(crate) const fn bitmaps(self) -> bool {
        self.autoclear & spec::AUTOCLEAR_BITMAPS != 0
    }
}

impl Header {
    /// The header of an image that is to be read or written.
    pub(crate) fn read(storage: &dyn Storage, limits: &Limits) -> Result<Self> {
        let header = Self::read_for_check(storage, limits)?;
        if header.refcount_table.clusters == 0 {
            let claim = field("header.refcount_table_clusters", 56, 0_u32);
            return Err(claim.malformed("the image has no refcount table"));
        }
        Ok(header)
    }

    /// The header of an image that may lack a refcount table.
    pub(crate) fn read_for_check(storage: &dyn Storage, limits: &Limits) -> Result<Self> {
        let mut bytes = [0; spec::HEADER_V3_FULL_LEN as usize];
        let there = storage.read_padded(&mut bytes, 0)?;
        let least = spec::HEADER_V2_LEN as usize;
        let (Ok((raw, rest)), true) = (spec::Header::ref_from_prefix(&bytes), there >= least)
        else {
            let claim = field("file's size", 0, there as u64);
            return Err(claim.malformed("too short for a header"));
        };
        field("header.magic", 0, raw.magic).equal_to(spec::MAGIC.into())?;
        let v3 = match (raw.version.get(), spec::HeaderV3::ref_from_prefix(rest)) {
            (2, _) => HeaderV3::of_version_2(),
            (3, Ok((v3, _))) => HeaderV3::parse(v3)?,
            (version, _) => {
                let feature = format!("version {version} (header.version at 0x4)");
                return Err(Error::unsupported(FORMAT, feature));
            }
        };
        Self::parse(raw, &v3, storage, limits)
    }

    fn parse(
        raw: &spec::Header,
        v3: &HeaderV3,
        storage: &dyn Storage,
        limits: &Limits,
    ) -> Result<Self> {
        let cluster_bits = cluster_bits(raw)?;
        let cluster_size = 1_u64 << cluster_bits;
        limits.allow_granule("qcow2: cluster's bytes", cluster_size)?;
        if raw.version == 3 {
            field("header.header_length", 100, v3.header_len)
                .within(spec::HEADER_V3_LEN.into()..=cluster_size)?;
        }
        let backing_name = backing_name(raw, cluster_size, storage)?;
        let extensions = Extensions::read(raw, v3, cluster_size, storage)?;
        refuse_unknown_features(v3.features, &extensions.feature_names)?;

        let geometry = geometry(cluster_bits, v3)?;
        let refcount_table = refcount_table(raw, geometry)?;
        snapshot_table(raw, geometry)?;
        let mut warnings = extensions.warnings.clone();
        let size = round_down(raw.size.get(), 512);
        if raw.size != size {
            warnings.push(format!(
                "disk size {} is no multiple of 512: rounded down",
                raw.size
            ));
        }
        Ok(Self {
            version: raw.version.get(),
            geometry,
            size,
            encryption: encryption(raw, &extensions, geometry)?,
            l1: active_l1(raw, geometry, limits)?,
            refcount_table,
            snapshot_count: raw.nb_snapshots.get(),
            snapshots_offset: raw.snapshots_offset.get(),
            features: v3.features,
            codec: codec(v3)?,
            backing_name,
            extensions,
            warnings,
        })
    }

    /// The image below, if this one names it.
    pub(crate) fn backing(&self) -> Option<Reference> {
        let reference = Reference::new(Role::Backing, self.backing_name.clone()?);
        Some(match &self.extensions.backing_format {
            Some(format) => reference.with_format(format),
            None => reference,
        })
    }
}

/// What version 3 adds to the header, with what stands for it in version 2.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HeaderV3 {
    pub features: Features,
    pub refcount_order: u32,
    pub header_len: u32,
    compression_type: u8,
}

impl HeaderV3 {
    const fn of_version_2() -> Self {
        Self {
            features: Features {
                incompatible: 0,
                compatible: 0,
                autoclear: 0,
            },
            refcount_order: spec::REFCOUNT_ORDER_DEFAULT,
            header_len: spec::HEADER_V2_LEN,
            compression_type: spec::COMPRESSION_DEFLATE,
        }
    }

    fn parse(raw: &spec::HeaderV3) -> Result<Self> {
        field("header.refcount_order", 96, raw.refcount_order)
            .within(0..=spec::REFCOUNT_ORDER_MAX.into())?;
        let header_len = raw.header_length.get();
        let compression_type = if header_len > spec::HEADER_V3_LEN {
            raw.compression_type
        } else {
            spec::COMPRESSION_DEFLATE
        };
        Ok(Self {
            features: Features {
                incompatible: raw.incompatible_features.get(),
                compatible: raw.compatible_features.get(),
                autoclear: raw.autoclear_features.get(),
            },
            refcount_order: raw.refcount_order.get(),
            header_len,
            compression_type,
        })
    }
}

pub(crate) fn field(
    name: impl Into<std::borrow::Cow<'static, str>>,
    offset: u64,
    value: impl Into<u64>,
) -> Field {
    Field::new(FORMAT, name, offset, value)
}

fn cluster_bits(raw: &spec::Header) -> Result<u32> {
    field("header.cluster_bits", 20, raw.cluster_bits)
        .within(spec::CLUSTER_BITS_MIN.into()..=spec::CLUSTER_BITS_MAX.into())?;
    Ok(raw.cluster_bits.get())
}

fn geometry(cluster_bits: u32, v3: &HeaderV3) -> Result<Geometry> {
    let extended_l2 = v3.features.incompatible & spec::INCOMPATIBLE_EXTENDED_L2 != 0;
    // Cluster bits and refcount order have passed their checks: only the two together can be unsound.
    Geometry::new(cluster_bits, extended_l2, v3.refcount_order).ok_or_else(|| {
        let least = spec::EXTENDED_L2_CLUSTER_BITS_MIN;
        field("header.cluster_bits", 20, cluster_bits)
            .malformed(format!("below {least}, with extended L2 entries"))
    })
}

fn codec(v3: &HeaderV3) -> Result<Codec> {
    let bit = v3.features.incompatible & spec::INCOMPATIBLE_COMPRESSION_TYPE != 0;
    let claim = field("header.compression_type", 104, v3.compression_type);
    match (v3.compression_type, bit) {
        (spec::COMPRESSION_DEFLATE, false) => Ok(Codec::Deflate),
        (spec::COMPRESSION_ZSTD, true) => Ok(Codec::Zstd),
        (spec::COMPRESSION_DEFLATE, true) => {
            Err(claim.malformed("but the incompatible feature \"compression type\" is set"))
        }
        (_, true) => Err(Error::unsupported(
            FORMAT,
            format!(
                "compression type {} (header.compression_type at 0x68)",
                v3.compression_type
            ),
        )),
        (_, false) => {
            Err(claim.malformed("but the incompatible feature \"compression type\" is not set"))
        }
    }
}

fn active_l1(raw: &spec::Header, geometry: Geometry, limits: &Limits) -> Result<L1Location> {
    let size = field("header.size", 24, raw.size).within(0..=i64::MAX as u64)?;
    let claim = field("header.l1_size", 36, raw.l1_size);
    let entries = claim.clone().within(0..=spec::L1_TABLE_LEN_MAX / 8)?;
    let needed = geometry.l1_entries(size);
    if entries < needed {
        return Err(claim.malformed(format!(
            "less than the {needed} entries that a disk of {size} bytes needs"
        )));
    }
    limits.allow_table("qcow2: L1 table's bytes", entries * 8)?;
    let claim = field("header.l1_table_offset", 40, raw.l1_table_offset);
    Ok(L1Location {
        offset: table_offset(&claim, entries * 8, geometry)?,
        entries,
        claim,
    })
}

fn refcount_table(raw: &spec::Header, geometry: Geometry) -> Result<RefcountTableLocation> {
    let clusters = raw.refcount_table_clusters;
    let most = spec::REFCOUNT_TABLE_LEN_MAX / geometry.cluster_size();
    field("header.refcount_table_clusters", 56, clusters).within(0..=most)?;
    let claim = field(
        "header.refcount_table_offset",
        48,
        raw.refcount_table_offset,
    );
    let len = u64::from(clusters.get()) * geometry.cluster_size();
    Ok(RefcountTableLocation {
        offset: table_offset(&claim, len, geometry)?,
        clusters: clusters.get(),
    })
}

fn snapshot_table(raw: &spec::Header, geometry: Geometry) -> Result<()> {
    field("header.nb_snapshots", 60, raw.nb_snapshots).within(0..=spec::SNAPSHOTS_MAX.into())?;
    let claim = field("header.snapshots_offset", 64, raw.snapshots_offset);
    table_offset(&claim, spec::SNAPSHOT_TABLE_LEN_MAX, geometry)?;
    Ok(())
}

/// The offset of a table: aligned, and with all of its bytes below 2^63.
pub(crate) fn table_offset(claim: &Field, len: u64, geometry: Geometry) -> Result<u64> {
    let offset = claim.clone().aligned_to(geometry.cluster_size())?;
    let most = (i64::MAX as u64).saturating_sub(len);
    claim.clone().within(0..=most)?;
    Ok(offset)
}

fn encryption(
    raw: &spec::Header,
    extensions: &Extensions,
    geometry: Geometry,
) -> Result<Encryption> {
    let claim = field("header.crypt_method", 32, raw.crypt_method);
    match (raw.crypt_method.get(), extensions.encryption) {
        (spec::CRYPT_NONE, _) => Ok(Encryption::None),
        (spec::CRYPT_AES, _) => Ok(Encryption::Aes),
        (spec::CRYPT_LUKS, Some((at, extension))) => {
            let claim = field("encryption header's offset", at, extension.offset);
            let len = extension.len.get();
            Ok(Encryption::Luks {
                offset: table_offset(&claim, len, geometry)?,
                len,
            })
        }
        (spec::CRYPT_LUKS, None) => Err(claim.malformed("but there is no encryption header")),
        _ => Err(claim.malformed("not within 0 to 2")),
    }
}

fn backing_name(
    raw: &spec::Header,
    cluster_size: u64,
    storage: &dyn Storage,
) -> Result<Option<String>> {
    let offset =
        field("header.backing_file_offset", 8, raw.backing_file_offset).within(0..=cluster_size)?;
    if offset == 0 {
        return Ok(None);
    }
    let most = (cluster_size - offset).min(spec::BACKING_NAME_LEN_MAX.into());
    let claim = field("header.backing_file_size", 16, raw.backing_file_size);
    let len = claim.clone().within(0..=most)?;
    if len == 0 {
        return Ok(None);
    }
    // At most 1023, see above.
    let mut name = vec![0; usize::try_from(len).unwrap_or(0)];
    if storage.read_padded(&mut name, offset)? < name.len() {
        return Err(claim
            .malformed("the name reaches beyond the file's end")
            .truncated());
    }
    Ok(Some(String::from_utf8_lossy(&name).into_owned()))
}

fn refuse_unknown_features(features: Features, names: &FeatureNames) -> Result<()> {
    let unknown = features.incompatible & !spec::INCOMPATIBLE_KNOWN;
    let bits: Vec<String> = (0..64)
        .filter(|bit| unknown >> bit & 1 != 0)
        .map(|bit| match names.of_incompatible(bit) {
            Some(name) => format!("\"{}\" (bit {bit})", name.escape_debug()),
            None => format!("bit {bit}"),
        })
        .collect();
    if bits.is_empty() {
        return Ok(());
    }
    Err(Error::unsupported(
        FORMAT,
        format!("incompatible feature {}", bits.join(", ")),
    ))
}
