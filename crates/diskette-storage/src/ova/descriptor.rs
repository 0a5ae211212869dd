//! The OVF descriptor: which disks there are, and in which files.

use std::collections::BTreeMap;

use diskette_core::{Error, Limits, Result};
use roxmltree::{Document, Node, ParsingOptions};

use super::{Compression, FORMAT, OvaDisk};

/// Elements, attributes and texts that a descriptor may have.
const MOST_NODES: u32 = 1 << 18;

/// The disks that the descriptor at `offset` lists. One without a file is to be made empty: it is no disk of the archive.
pub(super) fn disks(text: &str, offset: u64, limits: &Limits) -> Result<Vec<OvaDisk>> {
    let wrong = |field: &'static str, value: &str, why: String| {
        Error::malformed(FORMAT, field, offset, value, why)
    };
    let options = ParsingOptions {
        nodes_limit: MOST_NODES,
        ..ParsingOptions::default() // which knows no entities of the document's own
    };
    let document = Document::parse_with_options(text, options)
        .map_err(|error| wrong("descriptor", "", error.to_string()))?;
    let elements = |name| {
        let all = document.descendants();
        all.filter(move |node| node.tag_name().name() == name)
    };
    let files: BTreeMap<&str, Node<'_, '_>> = elements("File")
        .filter_map(|node| Some((attribute(&node, "id")?, node)))
        .collect();
    let mut disks = Vec::new();
    for disk in elements("Disk") {
        let Some(reference) = attribute(&disk, "fileRef") else {
            continue;
        };
        let Some(file) = files.get(reference.strip_prefix("ovf:/file/").unwrap_or(reference))
        else {
            return Err(wrong(
                "Disk.fileRef",
                reference,
                "no File has this id".to_owned(),
            ));
        };
        limits.allow_parts(disks.len() as u64 + 1)?;
        disks.push(OvaDisk {
            index: disks.len(),
            id: attribute(&disk, "diskId").unwrap_or_default().to_owned(),
            file: attribute(file, "href").unwrap_or_default().to_owned(),
            capacity: capacity(&disk),
            compression: compression(file),
            chunked: attribute(file, "chunkSize").is_some(),
            has_parent: attribute(&disk, "parentRef").is_some_and(|parent| !parent.is_empty()),
            offset,
        });
    }
    Ok(disks)
}

fn compression(file: &Node<'_, '_>) -> Compression {
    match attribute(file, "compression") {
        None | Some("" | "identity") => Compression::None,
        Some("gzip") => Compression::Gzip,
        Some(other) => Compression::Other(other.to_owned()),
    }
}

/// Bytes of the disk; `None` where that is no plain number (`${size}`).
fn capacity(disk: &Node<'_, '_>) -> Option<u64> {
    let count: u64 = attribute(disk, "capacity")?.trim().parse().ok()?;
    let unit = attribute(disk, "capacityAllocationUnits").map_or(Some(1), unit)?;
    count.checked_mul(unit)
}

/// An attribute by its local name: writers differ in their prefixes.
fn attribute<'a>(node: &Node<'a, '_>, name: &str) -> Option<&'a str> {
    let mut all = node.attributes();
    all.find(|attribute| attribute.name() == name)
        .map(|attribute| attribute.value())
}

/// "byte", "byte * 2^30" and the old names "GigaBytes" (DSP0243, Annex C).
fn unit(text: &str) -> Option<u64> {
    let text = text.trim();
    match text {
        "" | "byte" => return Some(1),
        "KiloBytes" => return Some(1 << 10),
        "MegaBytes" => return Some(1 << 20),
        "GigaBytes" => return Some(1 << 30),
        _ => {}
    }
    let rest = text.strip_prefix("byte")?.trim_start();
    let power = rest.strip_prefix('*')?.trim_start().strip_prefix("2^")?;
    1_u64.checked_shl(power.trim().parse().ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_those_of_old_and_new_descriptors() {
        assert_eq!(unit("byte"), Some(1));
        assert_eq!(unit("byte * 2^30"), Some(1 << 30));
        assert_eq!(unit("byte*2^20"), Some(1 << 20));
        assert_eq!(unit("MegaBytes"), Some(1 << 20));
        assert_eq!(unit("byte * 2^64"), None);
        assert_eq!(unit("furlong"), None);
    }

    #[test]
    fn a_descriptor_that_blows_up_is_refused() {
        let bomb = r#"<!DOCTYPE a [<!ENTITY b "bbbb"><!ENTITY c "&b;&b;">]><a>&c;</a>"#;
        assert!(disks(bomb, 0, &Limits::default()).is_err());
        let deep = "<a>".repeat(1 << 18);
        assert!(disks(&deep, 0, &Limits::default()).is_err());
        let deep = format!("{}{}", "<a>".repeat(1 << 16), "</a>".repeat(1 << 16));
        let _ = disks(&deep, 0, &Limits::default());
    }
}
