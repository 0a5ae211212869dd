//! What an image says of itself, in qemu-img's words.

use diskette_codec::Codec;
use diskette_core::{Details, ImageInfo, Limits, Storage, Value};
use diskette_crypto::luks::Header as LuksHeader;

use crate::bitmaps::Bitmap;
use crate::header::{Encryption, Header};
use crate::snapshot::Snapshots;
use crate::{FORMAT, bitmaps};

/// All that is known of an image without a look at its map. `files` are the names of its files.
pub(crate) fn of(
    storage: &dyn Storage,
    header: &Header,
    snapshots: &Snapshots,
    files: Vec<String>,
    limits: &Limits,
) -> ImageInfo {
    let mut info = ImageInfo::new(FORMAT, header.size);
    info.granule_size = Some(header.geometry.cluster_size());
    info.encrypted = header.encryption != Encryption::None;
    info.dirty = header.features.dirty();
    info.files = files;
    let list = snapshots.list.iter();
    info.snapshots = list.map(|snapshot| snapshot.info.clone()).collect();
    info.warnings.clone_from(&header.warnings);
    if header.features.corrupt() {
        let warning = "the image is marked as corrupt";
        info.warnings.push(warning.into());
    }
    let bitmaps = match listed_bitmaps(storage, header, limits) {
        Ok(bitmaps) => bitmaps,
        Err(error) => {
            info.warnings.push(format!("bitmaps ignored: {error}"));
            Vec::new()
        }
    };
    if header.version >= 3 {
        info.bitmaps = Some(bitmaps.iter().map(Bitmap::info).collect());
    }
    info.details = Some(details(storage, header, &bitmaps, &mut info.warnings));
    info
}

/// What only QCOW2 knows. What cannot be read is left out, with a warning: it is no obstacle to the data.
fn details(
    storage: &dyn Storage,
    header: &Header,
    bitmaps: &[Bitmap],
    warnings: &mut Vec<String>,
) -> Details {
    let features = header.features;
    let new = header.version >= 3;
    let mut details: Details = vec![
        ("compat", if new { "1.1" } else { "0.10" }.into()),
        ("compression-type", compression_type(header.codec).into()),
    ];
    if new {
        details.push(("lazy-refcounts", features.lazy_refcounts().into()));
        if !bitmaps.is_empty() {
            details.push(("bitmaps", bitmaps::details(bitmaps)));
        }
    }
    let refcount_bits = u64::from(header.geometry.refcount_bits());
    details.push(("refcount-bits", refcount_bits.into()));
    match encryption(storage, header.encryption) {
        Ok(Some(encryption)) => details.push(("encrypt", encryption)),
        Ok(None) => {}
        Err(error) => warnings.push(error.to_string()),
    }
    if let (true, Some(name)) = (features.data_file(), &header.extensions.data_file_name) {
        details.push(("data-file", name.clone().into()));
    }
    if features.data_file() {
        details.push(("data-file-raw", features.data_file_raw().into()));
    }
    if new {
        details.push(("corrupt", features.corrupt().into()));
        details.push(("extended-l2", header.geometry.extended_l2().into()));
    }
    details
}

const fn compression_type(codec: Codec) -> &'static str {
    match codec {
        Codec::Deflate | Codec::Zlib => "zlib",
        Codec::Zstd => "zstd",
    }
}

fn listed_bitmaps(
    storage: &dyn Storage,
    header: &Header,
    limits: &Limits,
) -> diskette_core::Result<Vec<Bitmap>> {
    match bitmaps::directory(header, limits)? {
        Some(directory) => bitmaps::list(storage, directory, header.geometry),
        None => Ok(Vec::new()),
    }
}

fn encryption(
    storage: &dyn Storage,
    encryption: Encryption,
) -> diskette_core::Result<Option<Value>> {
    Ok(match encryption {
        Encryption::None => None,
        Encryption::Aes => Some(Value::Map(vec![("format", "aes".into())])),
        Encryption::Luks { offset, len } => {
            let header = LuksHeader::read(storage, offset, len)?;
            Some(Value::Map(header.details(Some("luks"))))
        }
    })
}
