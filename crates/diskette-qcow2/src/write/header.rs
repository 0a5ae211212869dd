//! The first cluster of a new image: header, extensions, and the backing image's name.

use diskette_core::{Error, Result};
use zerocopy::IntoBytes;

use super::encrypt::LuksPlace;
use super::options::{Settings, Version};
use crate::FORMAT;
use crate::geometry::Geometry;
use crate::spec;

/// Where the tables of a new image lie. Complete by nature.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Places {
    pub(super) l1_table_offset: u64,
    pub(super) refcount_table_offset: u64,
    pub(super) refcount_table_clusters: u64,
    /// Of an encrypted image.
    pub(super) luks: Option<LuksPlace>,
}

/// The bytes of the first cluster, as far as they are not zero.
pub(super) fn header(settings: &Settings, places: Places) -> Result<Vec<u8>> {
    let mut bytes = fixed_len(settings.version);
    add_extensions(&mut bytes, settings, places.luks);
    let mut fixed = fixed_fields(settings, places)?;
    if let Some(backing) = &settings.backing {
        fixed.backing_file_offset = (bytes.len() as u64).into();
        fixed.backing_file_size = to_u32(backing.target.len() as u64)?.into();
        bytes.extend_from_slice(backing.target.as_bytes());
    }
    let version_3 = match settings.version {
        Version::V2 => Vec::new(),
        Version::V3 => features(settings).as_bytes().to_vec(),
    };
    let fixed = fixed.as_bytes().iter().chain(&version_3);
    for (to, from) in bytes.iter_mut().zip(fixed) {
        *to = *from;
    }
    if bytes.len() as u64 > settings.geometry.cluster_size() {
        let why = "too long for a header of one cluster; a larger cluster_size may help";
        return Err(Error::invalid_option(FORMAT, "backing_file", why));
    }
    Ok(bytes)
}

/// Room for the fields that all images have.
fn fixed_len(version: Version) -> Vec<u8> {
    let len = match version {
        Version::V2 => spec::HEADER_V2_LEN,
        Version::V3 => spec::HEADER_V3_FULL_LEN,
    };
    vec![0; len as usize]
}

fn fixed_fields(settings: &Settings, places: Places) -> Result<spec::Header> {
    let geometry = settings.geometry;
    Ok(spec::Header {
        magic: spec::MAGIC.into(),
        version: match settings.version {
            Version::V2 => 2.into(),
            Version::V3 => 3.into(),
        },
        cluster_bits: geometry.cluster_bits().into(),
        size: settings.size.into(),
        crypt_method: match places.luks {
            Some(_) => spec::CRYPT_LUKS.into(),
            None => spec::CRYPT_NONE.into(),
        },
        l1_size: to_u32(geometry.l1_entries(settings.size))?.into(),
        l1_table_offset: places.l1_table_offset.into(),
        refcount_table_offset: places.refcount_table_offset.into(),
        refcount_table_clusters: to_u32(places.refcount_table_clusters)?.into(),
        ..spec::Header::default()
    })
}

fn features(settings: &Settings) -> spec::HeaderV3 {
    let compression_type = settings.compression.number();
    let incompatible = [
        (
            compression_type != spec::COMPRESSION_DEFLATE,
            spec::INCOMPATIBLE_COMPRESSION_TYPE,
        ),
        (settings.data_file.is_some(), spec::INCOMPATIBLE_DATA_FILE),
        (
            settings.geometry.extended_l2(),
            spec::INCOMPATIBLE_EXTENDED_L2,
        ),
    ];
    spec::HeaderV3 {
        incompatible_features: bits(&incompatible).into(),
        compatible_features: bits(&[(settings.lazy_refcounts, spec::COMPATIBLE_LAZY_REFCOUNTS)])
            .into(),
        autoclear_features: bits(&[(
            matches!(&settings.data_file, Some(data_file) if data_file.is_raw),
            spec::AUTOCLEAR_DATA_FILE_RAW,
        )])
        .into(),
        refcount_order: settings.geometry.refcount_order().into(),
        header_length: spec::HEADER_V3_FULL_LEN.into(),
        compression_type,
        ..spec::HeaderV3::default()
    }
}

fn bits(flags: &[(bool, u64)]) -> u64 {
    let set = flags.iter().filter(|(set, _)| *set);
    set.fold(0, |bits, (_, bit)| bits | bit)
}

fn add_extensions(bytes: &mut Vec<u8>, settings: &Settings, luks: Option<LuksPlace>) {
    if let Some(backing) = &settings.backing {
        add_extension(
            bytes,
            spec::EXTENSION_BACKING_FORMAT,
            backing.format.as_bytes(),
        );
    }
    if let Some(data_file) = &settings.data_file {
        add_extension(bytes, spec::EXTENSION_DATA_FILE, data_file.name.as_bytes());
    }
    if let Some(LuksPlace { offset, len }) = luks {
        let extension = spec::EncryptionExtension {
            offset: offset.into(),
            len: len.into(),
        };
        add_extension(bytes, spec::EXTENSION_ENCRYPTION, extension.as_bytes());
    }
    if settings.version == Version::V3
        && let Some(names) = feature_names(settings.geometry)
    {
        add_extension(bytes, spec::EXTENSION_FEATURE_NAMES, &names);
    }
    add_extension(bytes, spec::EXTENSION_END, &[]);
}

fn add_extension(bytes: &mut Vec<u8>, kind: u32, data: &[u8]) {
    let header = spec::ExtensionHeader {
        kind: kind.into(),
        // A format's name, or the table of feature names.
        len: u32::try_from(data.len()).unwrap_or(u32::MAX).into(),
    };
    bytes.extend_from_slice(header.as_bytes());
    bytes.extend_from_slice(data);
    bytes.resize(bytes.len().next_multiple_of(8), 0);
}

/// The table of feature names in an image of version 3. As others do it: there is no room for it in a small header.
pub(crate) fn feature_names(geometry: Geometry) -> Option<Vec<u8>> {
    if geometry.cluster_size() <= 4096 {
        return None;
    }
    let mut table = Vec::new();
    for (word, bit, text) in spec::FEATURE_NAMES {
        let mut name = [0; 46];
        for (to, from) in name.iter_mut().zip(text.bytes()) {
            *to = from;
        }
        table.extend_from_slice(spec::FeatureName { word, bit, name }.as_bytes());
    }
    Some(table)
}

fn to_u32(number: u64) -> Result<u32> {
    u32::try_from(number).map_err(|_| Error::unsupported(FORMAT, "a table of so many entries"))
}
