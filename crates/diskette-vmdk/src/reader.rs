//! The disk.

use std::sync::Arc;

use diskette_core::{
    BlockReader, Details, Error, Extent, ExtentKind, Identity, ImageInfo, OpenContext, Opened,
    Reference, Result, Role, Storage, StorageExt, Value,
};

use crate::FORMAT;
use crate::descriptor::NO_PARENT;
use crate::image::Image;
use crate::map::{Kept, Map, Part};
use crate::stream::StoredGrain;

pub(crate) fn open(storage: Arc<dyn Storage>, cx: &OpenContext<'_>) -> Result<Opened> {
    let image = Image::open(storage, cx)?;
    let cid = image.descriptor.required_cid()?;
    let mut info = ImageInfo::new(FORMAT, image.map.size());
    info.granule_size = common_grain_size(image.map.parts());
    info.compressed =
        !image.map.parts().is_empty() && image.map.parts().iter().all(Part::is_compressed);
    info.identity = vec![content_id(cid)];
    info.files = image
        .files
        .iter()
        .map(|file| file.name().to_owned())
        .collect();
    info.details = Some(details(&image)?);
    let backing = backing(&image, cx, &mut info.warnings)?;
    info.warnings.extend(image.remarks.warnings);
    info.warnings.extend(image.remarks.damage);
    let reader = Reader {
        map: image.map,
        files: image.files,
        salvage: cx.salvage,
    };
    Ok(Opened {
        reader: Box::new(reader),
        info,
        backing,
    })
}

/// The parent, if there is one.
fn backing(
    image: &Image,
    cx: &OpenContext<'_>,
    warnings: &mut Vec<String>,
) -> Result<Option<Reference>> {
    let descriptor = &image.descriptor;
    let parent_cid = descriptor.required_parent_cid()?;
    let hint = descriptor
        .parent_hint
        .as_deref()
        .filter(|hint| !hint.is_empty());
    match hint {
        Some(hint) if parent_cid == NO_PARENT => {
            let hint = hint.escape_debug();
            warnings.push(format!("parentFileNameHint \"{hint}\" without a parentCID: taken for a disk without a parent"));
            Ok(None)
        }
        Some(hint) => {
            let parent = Reference::new(Role::Backing, hint);
            Ok(Some(
                parent
                    .with_format(FORMAT)
                    .with_identity(content_id(parent_cid)),
            ))
        }
        None if parent_cid == NO_PARENT => Ok(None),
        // Its holes show nobody knows what: not even its own grains are worth much without them.
        None if !cx.salvage && !cx.metadata_only => Err(descriptor.missing("parentFileNameHint")),
        None => {
            warnings.push(format!(
                "parentCID is {parent_cid:08x}, but the parent is not named"
            ));
            Ok(None)
        }
    }
}

fn content_id(cid: u32) -> Identity {
    Identity {
        kind: "CID",
        value: format!("{cid:08x}"),
    }
}

/// Bytes of a grain, if all parts agree, as qemu-img sees it.
fn common_grain_size(parts: &[Part]) -> Option<u64> {
    let (first, others) = parts.split_first()?;
    let alike = |part: &Part| {
        part.grain_size() == first.grain_size() && part.is_compressed() == first.is_compressed()
    };
    first.grain_size().filter(|_| others.iter().all(alike))
}

/// What qemu-img shows as `format-specific`.
fn details(image: &Image) -> Result<Details> {
    let extents = image.map.parts().iter().map(|part| {
        let name = match part.kept {
            Kept::Zero => "",
            _ => image
                .files
                .get(usize::from(part.file))
                .map_or("", |file| file.name()),
        };
        let mut extent = Vec::new();
        if part.is_compressed() {
            extent.push(("compressed", Value::from(true)));
        }
        extent.push(("virtual-size", Value::from(part.size)));
        extent.push(("filename", Value::from(name)));
        if let Some(grain_size) = part.grain_size() {
            extent.push(("cluster-size", Value::from(grain_size)));
        }
        extent.push(("format", Value::from(part.word.as_str())));
        Value::Map(extent)
    });
    Ok(vec![
        (
            "cid",
            Value::from(u64::from(image.descriptor.required_cid()?)),
        ),
        (
            "parent-cid",
            Value::from(u64::from(image.descriptor.required_parent_cid()?)),
        ),
        ("create-type", Value::from(image.create_type.as_str())),
        ("extents", Value::List(extents.collect())),
    ])
}

#[derive(Debug)]
struct Reader {
    map: Map,
    files: Vec<Arc<dyn Storage>>,
    salvage: bool,
}

impl BlockReader for Reader {
    fn size(&self) -> u64 {
        self.map.size()
    }

    fn extent_at(&self, offset: u64) -> Result<Extent> {
        match self.map.part_at(offset) {
            Some(part) => part.extent_at(offset),
            None => Err(Error::OutOfRange {
                offset,
                len: 1,
                size: self.size(),
            }),
        }
    }

    fn read_extent(&self, extent: &Extent, buf: &mut [u8], offset: u64) -> Result<()> {
        match extent.kind {
            ExtentKind::Data(at) => {
                let at = at.plus(offset.saturating_sub(extent.offset));
                match self.files.get(usize::from(at.file)) {
                    Some(file) => file.read(buf, at.offset),
                    None => Err(self.foreign(offset, buf)),
                }
            }
            ExtentKind::Compressed { at, len } => {
                let result = self.read_compressed(at.offset, len, buf, offset);
                if self.salvage && matches!(result, Err(Error::Malformed { .. })) {
                    buf.fill(0);
                    return Ok(());
                }
                result
            }
            ExtentKind::Unwritten(_)
            | ExtentKind::Encrypted(_)
            | ExtentKind::Zero(_)
            | ExtentKind::Hole(_) => {
                buf.fill(0);
                Ok(())
            }
        }
    }
}

impl Reader {
    fn read_compressed(&self, at: u64, bound: u64, buf: &mut [u8], offset: u64) -> Result<()> {
        let Some(part) = self.map.part_at(offset) else {
            return Err(self.foreign(offset, buf));
        };
        let Kept::Sparse(grains) = &part.kept else {
            return Err(self.foreign(offset, buf));
        };
        let within_part = offset.saturating_sub(part.start);
        let within = within_part % grains.grain_size;
        let start = within_part - within;
        let grain = StoredGrain {
            at,
            bound,
            start,
            len: grains.size.saturating_sub(start).min(grains.grain_size),
        };
        grains.read_compressed(grain, buf, within)
    }

    /// The error for an extent that this reader never gave.
    fn foreign(&self, offset: u64, buf: &[u8]) -> Error {
        Error::OutOfRange {
            offset,
            len: buf.len() as u64,
            size: self.size(),
        }
    }
}
