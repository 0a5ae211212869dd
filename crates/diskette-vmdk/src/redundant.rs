//! The second copy of a hosted sparse extent's tables.

use diskette_core::{Limits, Result, SECTOR, StorageExt, Table};
use zerocopy::IntoBytes;
use zerocopy::little_endian::U32;

use crate::grains::{Grains, Tables};
use crate::header::Header;
use crate::remarks::Remarks;
use crate::sparse::SectorEntries;

/// Says so if the copies differ, where a look costs next to nothing: the tables of a disk of some gigabytes.
pub(crate) fn compare_if_cheap(
    grains: &Grains<SectorEntries>,
    header: &Header,
    limits: &Limits,
    remarks: &mut Remarks,
) {
    const CHEAP: u64 = 256 << 10;
    let cost = grains.table_count().saturating_mul(grains.table_len());
    if cost > CHEAP.min(limits.cache_bytes) {
        return;
    }
    if let Some(difference) = differences(grains, header).next() {
        remarks.warn(difference);
    }
}

/// Where the copies differ, one text for each table. Nothing where there is only one copy.
pub(crate) fn differences<'a>(
    grains: &'a Grains<SectorEntries>,
    header: &Header,
) -> impl Iterator<Item = String> + 'a {
    let at = header.redundant_directory;
    let directory_at = header.directory;
    // Rebuilt tables have no copies.
    let stored = matches!(grains.tables, Tables::Stored { .. });
    let copied = stored && at.is_some() && at != directory_at;
    let indices = copied.then(|| grains.table_indices());
    indices.into_iter().flatten().filter_map(move |index| {
        let entry_at = at?.checked_add(index.checked_mul(4)?)?;
        match same(grains, index, entry_at) {
            Ok(true) => None,
            Ok(false) => Some(format!("grain table {index} and its redundant copy differ")),
            Err(error) => Some(format!(
                "the redundant copy of grain table {index} cannot be read: {error}"
            )),
        }
    })
}

/// Whether the table `index` equals the copy that the redundant directory's entry at `entry_at` names. A table that
/// cannot be used equals any: that is told elsewhere.
fn same(grains: &Grains<SectorEntries>, index: u64, entry_at: u64) -> Result<bool> {
    let mut entry = U32::ZERO;
    grains.storage.read(entry.as_mut_bytes(), entry_at)?;
    let Ok(table) = grains.table(index) else {
        return Ok(true);
    };
    let Some(table) = table else {
        return Ok(entry.get() == 0);
    };
    if entry.get() == 0 {
        return Ok(false);
    }
    let copy = Table::<U32>::read(
        &*grains.storage,
        u64::from(entry.get()) * SECTOR,
        table.table.len(),
    )?;
    Ok(copy.entries() == table.table.entries())
}

/// The directory, with entries from the redundant one where its own lead nowhere.
pub(crate) fn repair(
    directory: Table<U32>,
    redundant: Option<Result<(Table<U32>, u64)>>,
    header: &Header,
    storage_size: u64,
    remarks: &mut Remarks,
) -> Table<U32> {
    let Some(Ok((redundant, _))) = redundant else {
        return directory;
    };
    let table_len = header.table_entries * 4; // at most 2 KiB
    let leads_nowhere = |entry: &U32| u64::from(entry.get()) * SECTOR + table_len > storage_size;
    if !directory.entries().iter().any(leads_nowhere) {
        return directory;
    }
    let mut entries = directory.entries().to_vec();
    for (index, (entry, second)) in entries.iter_mut().zip(redundant.entries()).enumerate() {
        if leads_nowhere(entry) && !leads_nowhere(second) {
            let value = entry.get();
            remarks.damaged(format!(
                "grain directory[{index}] is {value:#x}, beyond the file's end: the redundant copy is used"
            ));
            *entry = *second;
        }
    }
    Table::new(entries.as_bytes())
}
