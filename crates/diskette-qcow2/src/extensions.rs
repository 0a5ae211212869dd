//! Header extensions: records of a type, a length and data, between the header and the backing file's name.

use diskette_core::{Result, Storage, StorageExt};
use zerocopy::FromBytes;

use crate::header::{HeaderV3, field};
use crate::spec;

/// The extensions that are known. Others are passed over.
#[derive(Clone, Debug, Default)]
pub(crate) struct Extensions {
    pub backing_format: Option<String>,
    pub feature_names: FeatureNames,
    /// With its own host offset. Looked at only where the feature bit says that the bitmaps count.
    pub bitmaps: Option<(u64, spec::BitmapsExtension)>,
    /// With its own host offset. Looked at only where the image is encrypted with LUKS.
    pub encryption: Option<(u64, spec::EncryptionExtension)>,
    pub data_file_name: Option<String>,
    /// What is odd, but no obstacle.
    pub warnings: Vec<String>,
}

/// The names that an image gives to features.
#[derive(Clone, Debug, Default)]
pub(crate) struct FeatureNames(Vec<spec::FeatureName>);

impl FeatureNames {
    /// The name of an incompatible feature bit.
    pub(crate) fn of_incompatible(&self, bit: u8) -> Option<String> {
        let known = |feature: &&spec::FeatureName| feature.word == 0 && feature.bit == bit;
        let name = self.0.iter().find(known)?.name;
        let text = name.split(|byte| *byte == 0).next().unwrap_or_default();
        (!text.is_empty()).then(|| String::from_utf8_lossy(text).into_owned())
    }
}

impl Extensions {
    /// Reads all records up to the end mark, the backing file's name, or the end of the first cluster.
    pub(crate) fn read(
        header: &spec::Header,
        v3: &HeaderV3,
        cluster_size: u64,
        storage: &dyn Storage,
    ) -> Result<Self> {
        let start = u64::from(v3.header_len);
        let end = match header.backing_file_offset.get() {
            0 => cluster_size,
            offset => offset.min(cluster_size),
        };
        // At most a cluster. Zeros behind the file's end are an end mark.
        let mut area = vec![0; usize::try_from(end.saturating_sub(start)).unwrap_or(0)];
        storage.read_padded(&mut area, start)?;

        let mut found = Self::default();
        let mut rest = area.as_slice();
        while !rest.is_empty() {
            let at = end - rest.len() as u64;
            let record = record(rest, at)?;
            if record.kind == spec::EXTENSION_END {
                break;
            }
            found.take(record.kind, record.data, at + 8, header, v3)?;
            rest = record.behind;
        }
        Ok(found)
    }

    fn take(
        &mut self,
        kind: u32,
        data: &[u8],
        at: u64,
        header: &spec::Header,
        v3: &HeaderV3,
    ) -> Result<()> {
        match kind {
            spec::EXTENSION_BACKING_FORMAT => {
                field("backing format's length", at - 4, data.len() as u64)
                    .within(0..=spec::BACKING_FORMAT_LEN_MAX.into())?;
                self.backing_format = text(data);
            }
            spec::EXTENSION_FEATURE_NAMES => {
                let (names, _) = <[spec::FeatureName]>::ref_from_prefix(data).unwrap_or_default();
                self.feature_names = FeatureNames(names.to_vec());
            }
            spec::EXTENSION_DATA_FILE => self.data_file_name = text(data),
            spec::EXTENSION_BITMAPS if v3.features.bitmaps() => {
                match spec::BitmapsExtension::read_from_bytes(data) {
                    Ok(extension) => self.bitmaps = Some((at, extension)),
                    Err(_) => self.warnings.push(format!(
                        "bitmaps extension of {} bytes, not 24: ignored",
                        data.len()
                    )),
                }
            }
            spec::EXTENSION_BITMAPS => self
                .warnings
                .push("bitmaps are not in step with the data: ignored".into()),
            spec::EXTENSION_ENCRYPTION if header.crypt_method == spec::CRYPT_LUKS => {
                let Ok(extension) = spec::EncryptionExtension::read_from_bytes(data) else {
                    let claim = field(
                        "encryption header extension's length",
                        at - 4,
                        data.len() as u64,
                    );
                    return Err(claim.malformed("not 16"));
                };
                self.encryption = Some((at, extension));
            }
            _ => {} // Compatible by definition.
        }
        Ok(())
    }
}

/// Extensions as they lie in a header: kind, and data.
pub(crate) type Records = Vec<(u32, Vec<u8>)>;

/// All records of an area that begins at host offset `at`, with their data, and how many bytes lie behind them and the end
/// mark.
pub(crate) fn records(area: &[u8], at: u64) -> Result<(Records, usize)> {
    let mut rest = area;
    let mut found = Vec::new();
    while !rest.is_empty() {
        let record = record(rest, at + (area.len() - rest.len()) as u64)?;
        rest = record.behind;
        if record.kind == spec::EXTENSION_END {
            break;
        }
        found.push((record.kind, record.data.to_vec()));
    }
    Ok((found, rest.len()))
}

/// One extension.
struct Record<'a> {
    kind: u32,
    data: &'a [u8],
    /// What follows it.
    behind: &'a [u8],
}

/// The record that `rest` begins with, at host offset `at`.
fn record(rest: &[u8], at: u64) -> Result<Record<'_>> {
    let Ok((head, behind)) = spec::ExtensionHeader::ref_from_prefix(rest) else {
        let left = rest.len() as u64;
        let claim = field("space behind the last header extension", at, left);
        return Err(claim.malformed("too short for another one"));
    };
    let claim = field("header extension's length", at + 4, head.len);
    let len = usize::try_from(claim.within(0..=behind.len() as u64)?).unwrap_or(behind.len());
    let padded = len.next_multiple_of(8).min(behind.len());
    Ok(Record {
        kind: head.kind.get(),
        data: &behind[..len],
        behind: &behind[padded..],
    })
}

/// Text, or nothing where it is empty.
fn text(data: &[u8]) -> Option<String> {
    (!data.is_empty()).then(|| String::from_utf8_lossy(data).into_owned())
}
