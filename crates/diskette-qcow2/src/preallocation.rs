//! Whether clusters have their place in the file long before anything is written to them.

use diskette_core::{Limits, Result, Storage, StorageExt};

use crate::header::Header;
use crate::refcount::{Refcounts, refcount};

/// Whether an image uses many more clusters than the host holds bytes for: then its holes on the host are worth a look.
/// Where a tenth more clusters are in use (and two at least), as QEMU decides it.
pub(crate) fn is_sparse(storage: &dyn Storage, header: &Header, limits: &Limits) -> Result<bool> {
    let file_size = storage.total_size()?;
    let held = storage
        .allocated()
        .map_err(|source| storage.failed("size", 0, 0, source))?;
    let held = held / header.geometry.cluster_size();
    let enough = (held + held / 9).max(held + 2);
    let clusters = header.geometry.clusters(file_size);
    if clusters < enough {
        return Ok(false);
    }
    uses_at_least(storage, header, limits, enough, clusters)
}

/// Whether at least `enough` of the first `clusters` host clusters are in use.
fn uses_at_least(
    storage: &dyn Storage,
    header: &Header,
    limits: &Limits,
    enough: u64,
    clusters: u64,
) -> Result<bool> {
    let refcounts = Refcounts::open(storage, header, limits)?;
    let per_block = header.geometry.refcounts_per_block();
    let order = header.geometry.refcount_order();
    let mut used = 0;
    for index in 0..clusters.div_ceil(per_block) {
        let Some(block) = refcounts.block(storage, index)? else {
            continue;
        };
        for within in 0..per_block.min(clusters - index * per_block) {
            used += u64::from(refcount(block.entries(), within, order) != 0);
        }
        if used >= enough {
            return Ok(true);
        }
    }
    Ok(false)
}
