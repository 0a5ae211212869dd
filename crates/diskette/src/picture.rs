//! The picture of a disk and of the files that hold it.

use std::fs;

use diskette_core::{Chain, Layer, Result};
use diskette_inspect::Picture;

/// The picture of a disk and of all files of its chain, in `cells` parts each. Walks the map, and reads no data.
pub fn picture(chain: &Chain, cells: usize) -> Result<Picture> {
    let files: Vec<_> = chain.layers().iter().flat_map(files).collect();
    Picture::of(chain, &files, cells)
}

/// Names and sizes of the files by whose numbers the chain calls them. One that is gone, or was none, has no size.
fn files(layer: &Layer) -> Vec<(String, u64)> {
    let files = layer.info.files.iter().map(|name| {
        let size = fs::metadata(name).map_or(0, |facts| facts.len());
        (name.clone(), size)
    });
    let files: Vec<_> = files.collect();
    match files.is_empty() {
        true => vec![(String::new(), 0)],
        false => files,
    }
}
