//! Prints a range of a disk's sectors, whatever the format of its image.
//!
//! ```sh
//! cargo run -p diskette-examples --example read_sectors -- testdata/router.qcow2 0 1
//! ```

use diskette::core::{BlockReader, BlockReaderExt, SECTOR};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [path, first, count] = words.as_slice() else {
        return Err("usage: read_sectors IMAGE FIRST COUNT".into());
    };
    let disk = diskette::open(path)?;
    let sectors = disk.size() / SECTOR;
    let first: u64 = first.parse()?;
    let count: u64 = count.parse()?;

    // One sector at a time; reads may begin anywhere and have any length.
    let mut sector = [0; 512];
    for number in first..first.saturating_add(count).min(sectors) {
        disk.read_at(&mut sector, number * SECTOR)?;
        for (line, bytes) in sector.chunks(16).enumerate() {
            let hex: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            let text: String = bytes
                .iter()
                .map(|byte| {
                    if byte.is_ascii_graphic() {
                        *byte as char
                    } else {
                        '.'
                    }
                })
                .collect();
            println!(
                "{:010x}  {}  {text}",
                number * SECTOR + line as u64 * 16,
                hex.join(" ")
            );
        }
    }
    Ok(())
}
