//! The text of a new image's descriptor, as qemu-img words it, and the names in it.

use std::fmt::Write;
use std::path::Path;

use diskette_core::{Error, Result, SECTOR};

use super::options::Settings;
use crate::{FORMAT, spec};

/// What a line says of one extent.
#[derive(Clone, Debug)]
pub(super) struct Line {
    /// Bytes of the disk.
    pub size: u64,
    /// The name of its file.
    pub name: String,
}

/// The descriptor of an image with these extents.
pub(super) fn descriptor(settings: &Settings, cid: u32, lines: &[Line]) -> String {
    let parent = settings.parent.as_ref();
    let hint = parent.map_or(String::new(), |parent| {
        format!("parentFileNameHint=\"{}\"\n", parent.name)
    });
    let extents = extent_lines(settings, lines);
    let heads = if settings.adapter == "ide" { 16 } else { 255 };
    // Without this line a reader may take its own code page.
    let encoding = match hint.is_ascii() && extents.is_ascii() {
        true => "",
        false => "encoding=\"UTF-8\"\n",
    };
    format!(
        "# Disk DescriptorFile\n\
         version=1\n\
         {encoding}CID={cid:08x}\n\
         parentCID={parent_cid:08x}\n\
         createType=\"{create_type}\"\n\
         {hint}\n\
         # Extent description\n\
         {extents}\n\
         # The Disk Data Base\n\
         #DDB\n\
         \n\
         ddb.virtualHWVersion = \"{hardware_version}\"\n\
         ddb.geometry.cylinders = \"{cylinders}\"\n\
         ddb.geometry.heads = \"{heads}\"\n\
         ddb.geometry.sectors = \"{SECTORS}\"\n\
         ddb.adapterType = \"{adapter}\"\n\
         ddb.toolsVersion = \"{tools_version}\"\n",
        parent_cid = settings.parent_cid(),
        create_type = settings.subformat.name(),
        hardware_version = settings.hardware_version,
        cylinders = settings.size / (SECTORS * heads * SECTOR),
        adapter = settings.adapter,
        tools_version = settings.tools_version,
    )
}

/// Sectors of a track.
const SECTORS: u64 = 63;

fn extent_lines(settings: &Settings, lines: &[Line]) -> String {
    let mut text = String::new();
    for Line { size, name } in lines {
        let sectors = size / SECTOR;
        // Writing to a string cannot fail.
        let _ = match settings.subformat.is_flat() {
            true => writeln!(text, "RW {sectors} FLAT \"{name}\" 0"),
            false => writeln!(text, "RW {sectors} SPARSE \"{name}\""),
        };
    }
    text
}

/// The descriptor as it is embedded: as many bytes as the header says that it has.
pub(super) fn embedded(text: &str) -> Result<Vec<u8>> {
    let mut bytes = text.as_bytes().to_vec();
    if bytes.len() > EMBEDDED_LEN {
        return Err(Error::unsupported(
            FORMAT,
            "a descriptor of more than 10 KiB",
        ));
    }
    bytes.resize(EMBEDDED_LEN, 0);
    Ok(bytes)
}

/// Bytes of an embedded descriptor.
const EMBEDDED_LEN: usize = 20 * 512;
const _: () = assert!(EMBEDDED_LEN as u64 == spec::DESCRIPTOR_SECTORS * SECTOR);

/// The name under which a descriptor that is embedded in the file knows that file. No reader goes by it.
pub(super) fn own_name(path: &str) -> String {
    match file_name(path) {
        Some(name) => name.to_owned(),
        None => "disk.vmdk".to_owned(),
    }
}

/// The name of a part of the image that has this path: with `suffix` before what follows the last dot.
pub(super) fn part_name(path: &str, suffix: &str) -> Result<String> {
    let Some(name) = file_name(path) else {
        let feature = format!("parts beside a file of the name {path:?}");
        return Err(Error::unsupported(FORMAT, feature));
    };
    let dot = name.rfind('.').unwrap_or(name.len());
    let (stem, extension) = name.split_at(dot);
    Ok(format!("{stem}{suffix}{extension}"))
}

/// The last part of a path, if it can stand between quotes.
fn file_name(path: &str) -> Option<&str> {
    let name = Path::new(path).file_name()?.to_str()?;
    let strange =
        |char: char| char.is_control() || matches!(char, '"' | char::REPLACEMENT_CHARACTER);
    (!name.chars().any(strange)).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_named_as_by_qemu_img() {
        let named = |path| part_name(path, "-s001").ok();
        assert_eq!(named("folder/disk.vmdk").as_deref(), Some("disk-s001.vmdk"));
        assert_eq!(named("fol.der/disk").as_deref(), Some("disk-s001"));
        assert_eq!(named("a.b.vmdk").as_deref(), Some("a.b-s001.vmdk"));
        assert_eq!(named("a\"b"), None);
        assert_eq!(named("a\nb"), None);
        assert_eq!(named(".."), None);
        assert_eq!(own_name("a/b\"c"), "disk.vmdk");
    }
}
