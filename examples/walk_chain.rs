//! Lists the images that make up a disk, and how much of it each of them holds.
//!
//! ```sh
//! cargo run -p diskette-examples --example walk_chain -- testdata/qcow2/overlay.qcow2
//! ```

use diskette::core::{BlockReader, ExtentKind};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let path = std::env::args().nth(1).ok_or("usage: walk_chain IMAGE")?;
    let disk = diskette::open(&path)?;

    let mut held = vec![0; disk.layers().len()];
    let mut at = 0;
    while at < disk.size() {
        // The layer that has the last word about this run.
        let (depth, extent) = disk.find(at)?;
        let run = extent.clip(at, disk.size());
        if !matches!(run.kind, ExtentKind::Hole(_)) {
            held[depth] += run.len;
        }
        at = run.end();
    }
    for (depth, (layer, held)) in disk.layers().iter().zip(held).enumerate() {
        let name = layer.info.files.first().map_or("", String::as_str);
        println!(
            "{depth}: {name}: {}, {} bytes, shows {held}",
            layer.info.format,
            layer.reader.size()
        );
    }
    Ok(())
}
