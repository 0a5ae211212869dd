//! How large an image will be, before there is one. Compression is not foreseen.

use diskette_core::{BitmapInfo, Measure, round_up};

use super::options::{Preallocation, Settings, Version};
use super::refcounts::refcount_clusters;
use crate::spec;

/// The size of an image with these settings if `data` bytes of whole clusters hold data.
///
/// `bitmaps` are those that the source has, if it can have any.
pub(super) fn measure(settings: &Settings, data: u64, bitmaps: Option<&[BitmapInfo]>) -> Measure {
    let geometry = settings.geometry;
    let cluster_size = geometry.cluster_size();
    // At most 2^61 by the check of the disk's size.
    let disk = geometry.clusters(settings.size) * cluster_size;
    let l2_tables = geometry.l1_entries(settings.size);
    let l1_entries = round_up(l2_tables, cluster_size / 8).unwrap_or(l2_tables);
    let luks = settings
        .luks
        .map_or(0, |luks| geometry.clusters(luks.header_len()));
    let tables = cluster_size + (luks + l2_tables) * cluster_size + l1_entries * 8;
    let refcounts = refcount_clusters(geometry, (tables + disk) / cluster_size);
    let metadata = tables + refcounts.total() * cluster_size;
    Measure {
        required: metadata + taken(settings, data).min(disk),
        fully_allocated: metadata + disk,
        bitmaps: bitmaps
            .filter(|_| settings.version == Version::V3)
            .map(|bitmaps| bitmaps_size(settings, bitmaps)),
    }
}

/// Bytes of the bitmaps' data, tables and directory.
fn bitmaps_size(settings: &Settings, bitmaps: &[BitmapInfo]) -> u64 {
    let clusters = |bytes: u64| bytes.div_ceil(settings.geometry.cluster_size());
    let (mut taken, mut directory) = (0_u64, 0_u64);
    for bitmap in bitmaps {
        let bits = settings.size.div_ceil(bitmap.granularity.max(1));
        let data = clusters(bits.div_ceil(8));
        taken = taken.saturating_add(data + clusters(data * 8));
        let entry = size_of::<spec::BitmapEntry>() + bitmap.name.len();
        directory = directory.saturating_add(entry.next_multiple_of(8) as u64);
    }
    let taken = taken.saturating_add(clusters(directory));
    taken.saturating_mul(settings.geometry.cluster_size())
}

/// Bytes of guest data that will have a place.
fn taken(settings: &Settings, data: u64) -> u64 {
    let all = match settings.preallocation {
        Preallocation::Off | Preallocation::Metadata => false,
        Preallocation::Reserved | Preallocation::Full => true,
    };
    // What of a source hides its backing image is not known yet: all of it may.
    if all || settings.backing.is_some() && data > 0 {
        u64::MAX
    } else {
        data
    }
}
