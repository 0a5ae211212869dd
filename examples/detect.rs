//! Says of each file in a folder what it is: by its content, whatever its name.
//!
//! ```sh
//! cargo run -p diskette-examples --example detect -- testdata
//! ```

use std::fs;

use diskette::core::Result as DisketteResult;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = std::env::args().nth(1).unwrap_or_else(|| ".".to_owned());
    let mut paths: Vec<_> = fs::read_dir(folder)?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<_, _>>()?;
    paths.sort();
    for path in paths.into_iter().filter(|path| path.is_file()) {
        match describe(&path) {
            Ok(text) => println!("{}: {text}", path.display()),
            Err(error) => println!("{}: {error}", path.display()),
        }
    }
    Ok(())
}

fn describe(path: &std::path::Path) -> DisketteResult<String> {
    let image = diskette::open_image(path)?;
    let below = image.backing.map_or(String::new(), |backing| {
        format!(", over \"{}\"", backing.target.escape_debug())
    });
    Ok(format!(
        "{}, a disk of {} bytes{below}",
        image.info.format,
        image.reader.size()
    ))
}
