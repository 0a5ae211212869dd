//! Golden files: beside an image, in text, what we say of it and its map.
//!
//! The environment's `DISKETTE_RENEW=1` writes them anew.

use std::env;
use std::fmt::{self, Write};
use std::fs;
use std::path::{Path, PathBuf};

use diskette_core::{BlockReader, Chain, Extent, ExtentKind, HostOffset, ImageInfo, Result, Value};

/// The folder of images that come with the project.
#[must_use]
pub fn testdata() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata")
}

/// The images in the folder of images that have golden files, in order.
#[must_use]
pub fn images() -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![testdata()];
    while let Some(folder) = folders.pop() {
        let files = fs::read_dir(&folder)
            .unwrap_or_else(|error| panic!("cannot list {}: {error}", folder.display()));
        for file in files {
            let path = file.expect("a file that is listed").path();
            if path.is_dir() {
                folders.push(path);
            } else if path
                .extension()
                .is_some_and(|extension| extension == "golden")
            {
                found.push(path.with_extension(""));
            }
        }
    }
    found.sort();
    found
}

/// That what we say of an image is what its golden file says. Panics with the first line that differs.
pub fn check(image: &Path, said: &str) {
    let mut path = image.as_os_str().to_owned();
    path.push(".golden");
    if env::var_os("DISKETTE_RENEW").is_some_and(|renew| renew == "1") {
        fs::write(&path, said).unwrap_or_else(|error| panic!("cannot write {path:?}: {error}"));
        return;
    }
    let golden =
        fs::read_to_string(&path).unwrap_or_else(|error| panic!("cannot read {path:?}: {error}"));
    let mut lines = golden.lines();
    for (number, line) in (1..).zip(said.lines()) {
        assert_eq!(lines.next(), Some(line), "line {number} of {path:?}");
    }
    assert_eq!(lines.next(), None, "{path:?} says more");
}

/// What the layers of a chain say of themselves, and the chain's map.
pub fn describe(chain: &Chain) -> Result<String> {
    let mut text = String::new();
    for (depth, layer) in chain.layers().iter().enumerate() {
        say(&mut text, format_args!("layer {depth}"));
        describe_image(&mut text, &layer.info);
        if let Some(backing) = &layer.backing {
            let format = backing.format.as_deref().unwrap_or("not named");
            let target = &backing.target;
            say(&mut text, format_args!("  backing: {target} ({format})"));
        }
    }
    text.push_str("map\n");
    let mut at = 0;
    while at < chain.size() {
        let (depth, mut extent) = find(chain, at)?;
        // Neighbours are joined: how far a map is looked at in one go is not a thing to hold on to.
        while extent.end() < chain.size() {
            let (next_depth, next) = find(chain, extent.end())?;
            if next_depth != depth || !extent.continues_into(&next) {
                break;
            }
            extent.len += next.len;
        }
        let (start, end) = (extent.offset, extent.end());
        let kind = KindText(extent.kind);
        say(
            &mut text,
            format_args!("  {start:#010x} to {end:#010x} depth {depth}: {kind}"),
        );
        at = end;
    }
    Ok(text)
}

/// The extent at `offset`, and its layer's depth. Where the host has no bytes is not the image's affair: a copy of it has
/// its holes elsewhere, or none.
fn find(chain: &Chain, offset: u64) -> Result<(usize, Extent)> {
    let (depth, mut extent) = chain.find(offset)?;
    let is_raw = chain.layers()[depth].info.format == "raw";
    match extent.kind {
        ExtentKind::Unwritten(at) => extent.kind = ExtentKind::Data(at),
        ExtentKind::Zero(Some(at)) if is_raw => extent.kind = ExtentKind::Data(at),
        _ => {}
    }
    Ok((depth, extent))
}

fn describe_image(text: &mut String, info: &ImageInfo) {
    say(text, format_args!("  format: {}", info.format));
    say(text, format_args!("  size: {}", info.size));
    if let Some(size) = info.granule_size {
        say(text, format_args!("  granule size: {size}"));
    }
    for (is, word) in [
        (info.encrypted, "encrypted"),
        (info.compressed, "compressed"),
        (info.dirty, "dirty"),
    ] {
        if is {
            say(text, format_args!("  {word}"));
        }
    }
    for identity in &info.identity {
        say(
            text,
            format_args!("  {}: {}", identity.kind, identity.value),
        );
    }
    for file in &info.files {
        // Where the project lies is nobody's concern.
        let name = Path::new(file).file_name().unwrap_or_default();
        say(text, format_args!("  file: {}", name.display()));
    }
    for snapshot in &info.snapshots {
        let (id, name, size) = (&snapshot.id, &snapshot.name, snapshot.disk_size);
        say(text, format_args!("  snapshot {id}: {name}, size {size}"));
    }
    for (name, value) in info.details.iter().flatten() {
        let value = without_folders(&ValueText(value).to_string());
        say(text, format_args!("  {name}: {value}"));
    }
    for warning in &info.warnings {
        say(text, format_args!("  warning: {warning}"));
    }
}

/// The text with the folder of images taken out of it.
fn without_folders(text: &str) -> String {
    let folder = testdata().display().to_string();
    text.replace(&format!("{folder}/"), "")
}

fn say(text: &mut String, line: fmt::Arguments<'_>) {
    writeln!(text, "{line}").expect("memory can be written to");
}

struct ValueText<'a>(&'a Value);

impl fmt::Display for ValueText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Value::Bool(value) => write!(f, "{value}"),
            Value::Number(value) => write!(f, "{value}"),
            Value::Text(value) => write!(f, "{value:?}"),
            Value::List(values) => {
                let all: Vec<_> = values.iter().map(|value| Self(value).to_string()).collect();
                write!(f, "[{}]", all.join(", "))
            }
            Value::Map(values) => {
                let all = values.iter();
                let all: Vec<_> = all
                    .map(|(name, value)| format!("{name}: {}", ValueText(value)))
                    .collect();
                write!(f, "{{{}}}", all.join(", "))
            }
        }
    }
}

struct KindText(ExtentKind);

impl fmt::Display for KindText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (word, at) = match self.0 {
            ExtentKind::Data(at) => ("data", Some(at)),
            ExtentKind::Unwritten(at) => ("unwritten", Some(at)),
            ExtentKind::Encrypted(at) => ("encrypted", Some(at)),
            ExtentKind::Compressed { at, len } => {
                return write!(f, "compressed, {len} bytes at {}", OffsetText(at));
            }
            ExtentKind::Zero(at) => ("zero", at),
            ExtentKind::Hole(at) => ("hole", at),
        };
        match at {
            Some(at) => write!(f, "{word} at {}", OffsetText(at)),
            None => f.write_str(word),
        }
    }
}

struct OffsetText(HostOffset);

impl fmt::Display for OffsetText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            HostOffset { file: 0, offset } => write!(f, "{offset:#x}"),
            HostOffset { file, offset } => write!(f, "{offset:#x} of file {file}"),
        }
    }
}
