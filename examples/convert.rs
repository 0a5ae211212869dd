//! Converts any image into a QCOW2, with a progress bar.
//!
//! ```sh
//! cargo run --release -p diskette-examples --example convert -- testdata/router.qcow2 target/router.qcow2
//! ```

use diskette::Conversion;
use diskette::core::BlockReader;
use diskette::engine::{ConvertOptions, Progress};
use indicatif::ProgressBar;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut words = std::env::args().skip(1);
    let (Some(source), Some(target)) = (words.next(), words.next()) else {
        return Err("usage: convert SOURCE TARGET".into());
    };
    // Whatever the name says: the content tells the format.
    let disk = diskette::open(&source)?;
    println!(
        "{source}: {}, a disk of {} bytes",
        disk.top().info.format,
        disk.size()
    );

    let bar = ProgressBar::new(0);
    let tell = |Progress { done, total }: Progress| {
        bar.set_length(total);
        bar.set_position(done);
    };
    let mut engine = ConvertOptions::default();
    engine.control.progress = Some(&tell);
    Conversion::to("qcow2")
        .compressed()
        .with_engine(engine)
        .write(&disk, &target)?;
    bar.finish();
    println!("{target}: {} bytes", std::fs::metadata(&target)?.len());
    Ok(())
}
