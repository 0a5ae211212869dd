//! How large an image will be, before there is one. Compression is not foreseen.

use diskette_core::{Measure, round_up};

use super::options::{Preallocation, Settings, Version};
use super::refcounts::refcount_clusters;

/// The size of an image with these settings if `data` bytes of whole clusters hold data.
pub(super) fn measure(settings: &Settings, data: u64) -> Measure {
    let geometry = settings.geometry;
    let cluster_size = geometry.cluster_size();
    // At most 2^61 by the check of the disk's size.
    let disk = geometry.clusters(settings.size) * cluster_size;
    let l2_tables = geometry.l1_entries(settings.size);
    let l1_entries = round_up(l2_tables, cluster_size / 8).unwrap_or(l2_tables);
    let tables = cluster_size + l2_tables * cluster_size + l1_entries * 8;
    let refcounts = refcount_clusters(geometry, (tables + disk) / cluster_size);
    let metadata = tables + refcounts.total() * cluster_size;
    Measure {
        required: metadata + taken(settings, data).min(disk),
        fully_allocated: metadata + disk,
        bitmaps: (settings.version == Version::V3).then_some(0),
    }
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
