//! An image with all that must be sound before a block can be found: headers, log, regions, metadata.

use std::sync::Arc;

use diskette_core::{Error, Identity, ImageInfo, OpenContext, Result, Storage, StorageExt};

use crate::header::Header;
use crate::locator::data_write_guid;
use crate::log;
use crate::map::{Geometry, Map};
use crate::metadata::Metadata;
use crate::region::{Regions, Taken};
use crate::spec::FORMAT;

/// The kind of identity that all images of a chain have in common.
pub(crate) const DISK_ID: &str = "VirtualDiskId";

/// An image, but for a look at its BAT.
#[derive(Debug)]
pub(crate) struct Image {
    pub header: Header,
    pub metadata: Metadata,
    pub map: Map,
    /// What is odd.
    pub warnings: Vec<String>,
}

impl Image {
    pub(crate) fn open(storage: Arc<dyn Storage>, cx: &OpenContext<'_>) -> Result<Self> {
        let mut warnings = Vec::new();
        let header = Header::read(&*storage)?;
        let storage = with_log(storage, &header, cx, &mut warnings)?;

        let regions = Regions::read(&*storage)?;
        if regions.first_damaged {
            warnings.push("the first region table is damaged: the second is used".to_owned());
        }
        let size = storage.total_size()?;
        for region in [&regions.bat, &regions.metadata] {
            match region.check_within(size) {
                Err(error) if cx.salvage => warnings.push(error.to_string()),
                checked => checked?,
            }
        }
        let taken = Taken::new(&header.log, &regions)?;
        let metadata = Metadata::read(&*storage, &regions.metadata, cx.limits)?;
        if metadata.logical_sector_size != diskette_core::SECTOR {
            warnings.push(format!(
                "logical sectors have {} bytes: partition tables count in them",
                metadata.logical_sector_size
            ));
        }
        let geometry = Geometry::new(&metadata);
        let map = Map::new(
            storage,
            geometry,
            &regions.bat,
            taken,
            cx.limits,
            cx.salvage,
        )?;
        Ok(Self {
            header,
            metadata,
            map,
            warnings,
        })
    }

    /// What is known of the image.
    pub(crate) fn info(&self) -> ImageInfo {
        let mut info = ImageInfo::new(FORMAT, self.metadata.disk_size);
        info.granule_size = Some(self.metadata.block_size);
        info.dirty = self.header.log.guid.is_some();
        info.identity = vec![
            data_write_guid(&self.header.data_write_guid),
            self.metadata.sector_identity(),
            Identity {
                kind: DISK_ID,
                value: self.metadata.disk_id.to_string(),
            },
        ];
        info.warnings.clone_from(&self.warnings);
        info
    }
}

/// The file as it is once its log has been applied.
fn with_log(
    storage: Arc<dyn Storage>,
    header: &Header,
    cx: &OpenContext<'_>,
    warnings: &mut Vec<String>,
) -> Result<Arc<dyn Storage>> {
    let Some(guid) = header.log.guid else {
        return Ok(storage);
    };
    let below = Arc::clone(&storage);
    match log::replay(storage, &header.log, guid, cx.limits, cx.salvage) {
        Ok(replayed) => {
            warnings.push(format!(
                "the image was not closed; log entries replayed in memory: {}",
                replayed.entry_count
            ));
            Ok(Arc::new(replayed.overlay))
        }
        Err(error @ Error::Malformed { .. }) if cx.salvage => {
            warnings.push(format!("the log is not replayed: {error}"));
            Ok(below)
        }
        Err(error) => Err(error),
    }
}
