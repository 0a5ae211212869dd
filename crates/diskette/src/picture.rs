//! The picture of a disk and of the files that hold it.

use std::fs;
use std::ops::Range;

use diskette_core::{BlockReaderExt, Chain, ExtentKind, Layer, Result};
use diskette_inspect::Picture;

/// The picture of a disk and of all files of its chain, in `cells` parts each. Walks the map, and reads no data.
///
/// A file that is no file of the host (a member of an OVA, what was unpacked) is drawn up to the last byte of data in it.
pub fn picture(chain: &Chain, cells: usize) -> Result<Picture> {
    picture_of_part(chain, cells, 0..u64::MAX, 0..u64::MAX)
}

/// The same, of a part of the disk, and of a part of each file: see [`Picture::part`].
pub fn picture_of_part(
    chain: &Chain,
    cells: usize,
    disk: Range<u64>,
    file: Range<u64>,
) -> Result<Picture> {
    let mut files: Vec<_> = chain.layers().iter().flat_map(files).collect();
    if files.iter().any(|(_, size)| *size == 0) {
        measure_unknown(chain, &mut files)?;
    }
    Picture::part(chain, &files, cells, disk, file)
}

/// Names and sizes of the files by whose numbers the chain calls them; 0 where the size is not known.
fn files(layer: &Layer) -> Vec<(String, u64)> {
    let files = layer.info.files.iter().map(|name| {
        let facts = fs::metadata(name).ok().filter(fs::Metadata::is_file);
        (name.clone(), facts.map_or(0, |facts| facts.len()))
    });
    let files: Vec<_> = files.collect();
    match files.is_empty() {
        true => vec![(String::new(), 0)],
        false => files,
    }
}

fn measure_unknown(chain: &Chain, files: &mut [(String, u64)]) -> Result<()> {
    let mut ends = vec![0; files.len()];
    for extent in chain.extents() {
        let extent = extent?;
        let (at, len) = match extent.kind {
            ExtentKind::Data(at) | ExtentKind::Encrypted(at) => (at, extent.len),
            ExtentKind::Compressed { at, len } => (at, len),
            ExtentKind::Unwritten(_) | ExtentKind::Zero(_) | ExtentKind::Hole(_) => continue,
        };
        if let Some(end) = ends.get_mut(usize::from(at.file)) {
            *end = at.offset.saturating_add(len).max(*end);
        }
    }
    let unknown = files.iter_mut().zip(ends);
    for ((_, size), end) in unknown.filter(|((_, size), _)| *size == 0) {
        *size = end;
    }
    Ok(())
}
