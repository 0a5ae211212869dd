//! OVA: a tar file with an OVF descriptor and the disks that it describes. Nothing is unpacked: a disk is a part of the
//! file's own storage.
//!
//! Source: "Open Virtualization Format Specification" (DMTF DSP0243), 5 (package), 7.1 (references), 9.1 (disks).

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use diskette_core::{Error, Limits, Result, Storage, StorageExt};
use roxmltree::{Document, Node};
use sha1::Sha1;
use sha2::{Digest, Sha256, Sha512};

use crate::SubStorage;
use crate::cursor::Cursor;

const FORMAT: &str = "ova";

/// An OVA that has been opened: what files it has, and what its descriptor says of the disks among them.
#[derive(Debug)]
pub struct Ova {
    storage: Arc<dyn Storage>,
    files: BTreeMap<String, Range>,
    disks: Vec<OvaDisk>,
}

/// Where a file lies in the archive.
#[derive(Clone, Copy, Debug)]
struct Range {
    offset: u64,
    size: u64,
}

/// A disk of an OVA.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct OvaDisk {
    /// Its identifier in the descriptor (`ovf:diskId`).
    pub id: String,
    /// The name of its file in the archive.
    pub file: String,
    /// Bytes of that file.
    pub size: u64,
    /// Bytes of the disk, as the descriptor says.
    pub capacity: Option<u64>,
}

/// What the manifest says of a file, and what is true. Complete by nature.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ManifestEntry {
    /// The file has the digest that the manifest says.
    Right {
        /// The file's name.
        file: String,
    },
    /// It has not.
    Wrong {
        /// The file's name.
        file: String,
        /// The digest in the manifest.
        expected: String,
        /// The file's.
        found: String,
    },
    /// The archive has no such file.
    Missing {
        /// The file's name.
        file: String,
    },
}

impl Ova {
    /// Whether a file that begins with `head` is an OVA: a tar file whose first member is a descriptor (DSP0243, 5.3).
    #[must_use]
    pub fn is_ova(head: &[u8]) -> bool {
        let name = head.get(..100).unwrap_or_default();
        let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
        head.get(257..262) == Some(b"ustar") && name.to_ascii_lowercase().ends_with(b".ovf")
    }

    /// Opens an OVA.
    pub fn open(storage: Arc<dyn Storage>, limits: &Limits) -> Result<Self> {
        let files = members(&*storage, limits)?;
        let descriptor = files.iter().find(|(name, _)| has_ending(name, "ovf"));
        let Some((name, range)) = descriptor else {
            return Err(Error::malformed(
                FORMAT,
                "archive",
                0,
                storage.name(),
                "no member is an OVF descriptor",
            ));
        };
        let text = text(&*storage, name, *range, limits)?;
        let disks = disks(&text, &files, range.offset)?;
        Ok(Self {
            storage,
            files,
            disks,
        })
    }

    /// The disks, in the descriptor's order.
    #[must_use]
    pub fn disks(&self) -> &[OvaDisk] {
        &self.disks
    }

    /// The disk that `which` names: by the name of its file, by its identifier, or by its number from 0.
    pub fn find(&self, which: &str) -> Result<&OvaDisk> {
        let named = self
            .disks
            .iter()
            .find(|disk| disk.file == which || disk.id == which);
        let found = named.or_else(|| self.disks.get(which.parse::<usize>().ok()?));
        found.ok_or_else(|| Error::NotFound {
            what: "disk in the OVA",
            name: which.to_owned(),
        })
    }

    /// The bytes of a disk's image.
    pub fn storage_of(&self, disk: &OvaDisk) -> Result<Arc<dyn Storage>> {
        let range = self.files.get(&disk.file);
        let range = range.ok_or_else(|| Error::NotFound {
            what: "file in the OVA",
            name: disk.file.clone(),
        })?;
        let name = format!("{}#{}", self.storage.name(), disk.file);
        Ok(Arc::new(SubStorage::new(
            Arc::clone(&self.storage),
            range.offset,
            range.size,
            name,
        )?))
    }

    /// Holds the files against the manifest's digests; `None` where there is no manifest. Reads all of them.
    pub fn verify(&self, limits: &Limits) -> Result<Option<Vec<ManifestEntry>>> {
        let Some((name, range)) = self.files.iter().find(|(name, _)| has_ending(name, "mf")) else {
            return Ok(None);
        };
        let text = text(&*self.storage, name, *range, limits)?;
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
        lines
            .map(|line| self.verify_line(line, range.offset))
            .collect::<Result<_>>()
            .map(Some)
    }

    /// A line is `SHA256(name)= digest` (DSP0243, 6.3).
    fn verify_line(&self, line: &str, offset: u64) -> Result<ManifestEntry> {
        let parts = line.split_once('(').and_then(|(algorithm, rest)| {
            let (file, digest) = rest.rsplit_once(')')?;
            Some((
                algorithm.trim(),
                file,
                digest.trim_start().strip_prefix('=')?.trim(),
            ))
        });
        let Some((algorithm, file, expected)) = parts else {
            return Err(Error::malformed(
                FORMAT,
                "manifest",
                offset,
                line,
                "not ALGORITHM(file)= digest",
            ));
        };
        let file = file.to_owned();
        let Some(range) = self.files.get(&file) else {
            return Ok(ManifestEntry::Missing { file });
        };
        let found = match algorithm.to_ascii_uppercase().as_str() {
            "SHA1" => self.digest::<Sha1>(*range)?,
            "SHA256" => self.digest::<Sha256>(*range)?,
            "SHA512" => self.digest::<Sha512>(*range)?,
            _ => {
                return Err(Error::unsupported(
                    FORMAT,
                    format!("a manifest with {}", algorithm.escape_debug()),
                ));
            }
        };
        if found.eq_ignore_ascii_case(expected) {
            return Ok(ManifestEntry::Right { file });
        }
        Ok(ManifestEntry::Wrong {
            file,
            expected: expected.to_owned(),
            found,
        })
    }

    fn digest<D: Digest>(&self, range: Range) -> Result<String> {
        const PIECE: u64 = 256 << 10;
        let mut digest = D::new();
        let mut at = range.offset;
        let end = range.offset + range.size; // within the archive: it was found there
        while at < end {
            let len = usize::try_from((end - at).min(PIECE)).unwrap_or(0);
            digest.update(self.storage.read_vec(len, at)?);
            at += len as u64;
        }
        Ok(digest
            .finalize()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect())
    }
}

/// The members of the archive, by name.
fn members(storage: &dyn Storage, limits: &Limits) -> Result<BTreeMap<String, Range>> {
    let failed = |source: io::Error| storage.failed("read the archive's members in", 0, 0, source);
    let mut archive = tar::Archive::new(Cursor::new(storage).map_err(failed)?);
    let size = storage.total_size()?;
    let mut files = BTreeMap::new();
    for member in archive.entries_with_seek().map_err(failed)? {
        let member = member.map_err(failed)?;
        let offset = member.raw_file_position();
        if !member.header().entry_type().is_file() {
            continue;
        }
        limits.allow_parts(files.len() as u64 + 1)?;
        let name = member
            .path()
            .map_err(failed)?
            .to_string_lossy()
            .into_owned();
        let len = member.size();
        if offset.checked_add(len).is_none_or(|end| end > size) {
            let why = format!(
                "\"{}\" reaches beyond the file's end at {size:#x}",
                name.escape_debug()
            );
            return Err(Error::malformed(FORMAT, "member.size", offset, len, why));
        }
        files.insert(name, Range { offset, size: len });
    }
    Ok(files)
}

fn text(storage: &dyn Storage, name: &str, range: Range, limits: &Limits) -> Result<String> {
    limits.allow_descriptor(range.size)?;
    let bytes = storage.read_vec(usize::try_from(range.size).unwrap_or(0), range.offset)?;
    String::from_utf8(bytes).map_err(|_| {
        Error::malformed(
            FORMAT,
            name.to_owned(),
            range.offset,
            range.size,
            "not UTF-8",
        )
    })
}

/// The disks that the descriptor lists, with their files.
fn disks(text: &str, files: &BTreeMap<String, Range>, offset: u64) -> Result<Vec<OvaDisk>> {
    let wrong = |field: &'static str, value: &str, why: String| {
        Error::malformed(FORMAT, field, offset, value, why)
    };
    let document =
        Document::parse(text).map_err(|error| wrong("descriptor", "", error.to_string()))?;
    let elements = |name| {
        document
            .descendants()
            .filter(move |node| node.tag_name().name() == name)
    };
    let references: BTreeMap<&str, Node<'_, '_>> = elements("File")
        .filter_map(|node| Some((attribute(&node, "id")?, node)))
        .collect();
    let mut disks = Vec::new();
    for disk in elements("Disk") {
        let id = attribute(&disk, "diskId").unwrap_or_default();
        let Some(reference) = attribute(&disk, "fileRef") else {
            continue;
        }; // An empty disk, to be made.
        let Some(file) = references.get(reference) else {
            return Err(wrong(
                "Disk.fileRef",
                reference,
                "no File has this id".to_owned(),
            ));
        };
        for (name, what) in [
            ("compression", "a compressed disk file"),
            ("chunkSize", "a disk file in chunks"),
        ] {
            if attribute(file, name).is_some_and(|value| value != "identity") {
                return Err(Error::unsupported(FORMAT, what));
            }
        }
        let href = attribute(file, "href").unwrap_or_default();
        let Some(range) = files.get(href) else {
            return Err(wrong(
                "File.href",
                href,
                "the archive has no such file".to_owned(),
            ));
        };
        let capacity = attribute(&disk, "capacity").and_then(|text| text.parse().ok());
        let unit = attribute(&disk, "capacityAllocationUnits").map_or(Some(1), unit);
        let capacity = capacity
            .zip(unit)
            .and_then(|(count, unit): (u64, u64)| count.checked_mul(unit));
        disks.push(OvaDisk {
            id: id.to_owned(),
            file: href.to_owned(),
            size: range.size,
            capacity,
        });
    }
    Ok(disks)
}

/// An attribute by its local name: writers differ in their prefixes.
fn attribute<'a>(node: &Node<'a, '_>, name: &str) -> Option<&'a str> {
    node.attributes()
        .find(|attribute| attribute.name() == name)
        .map(|attribute| attribute.value())
}

/// "byte", "byte * 2^30" and the old names "GigaBytes" (DSP0243, Annex C).
fn unit(text: &str) -> Option<u64> {
    let text = text.trim();
    match text {
        "byte" => return Some(1),
        "KiloBytes" => return Some(1 << 10),
        "MegaBytes" => return Some(1 << 20),
        "GigaBytes" => return Some(1 << 30),
        _ => {}
    }
    let power = text
        .strip_prefix("byte")?
        .trim_start()
        .strip_prefix('*')?
        .trim_start()
        .strip_prefix("2^")?;
    1_u64.checked_shl(power.trim().parse().ok()?)
}

fn has_ending(name: &str, ending: &str) -> bool {
    name.rsplit_once('.')
        .is_some_and(|(_, found)| found.eq_ignore_ascii_case(ending))
}

#[cfg(test)]
mod tests {
    use diskette_core::Error;

    use super::*;
    use crate::MemoryStorage;

    const DESCRIPTOR: &str = r#"<?xml version="1.0"?>
<Envelope xmlns="http://schemas.dmtf.org/ovf/envelope/1" xmlns:ovf="http://schemas.dmtf.org/ovf/envelope/1">
  <References>
    <File ovf:href="disk-1.vmdk" ovf:id="file1" ovf:size="5"/>
    <File ovf:href="data.vmdk" ovf:id="file2"/>
  </References>
  <DiskSection>
    <Disk ovf:diskId="vmdisk1" ovf:fileRef="file1" ovf:capacity="8" ovf:capacityAllocationUnits="byte * 2^30"/>
    <Disk ovf:diskId="empty" ovf:capacity="1"/>
    <Disk ovf:diskId="vmdisk2" ovf:fileRef="file2" ovf:capacity="4096"/>
  </DiskSection>
</Envelope>"#;

    fn archive(members: &[(&str, &[u8])]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (name, bytes) in members {
            let mut header = tar::Header::new_ustar();
            header.set_size(bytes.len() as u64);
            header.set_mode(0o644);
            builder.append_data(&mut header, name, *bytes).unwrap();
        }
        builder.into_inner().unwrap()
    }

    fn ova(bytes: Vec<u8>) -> Result<Ova> {
        Ova::open(
            Arc::new(MemoryStorage::named("vm.ova", bytes)),
            &Limits::default(),
        )
    }

    fn sound() -> Vec<u8> {
        let manifest = format!(
            "SHA256(vm.ovf)= {}\nSHA1(disk-1.vmdk)= aaf4c61ddcc5e8a2dabede0f3b482cd9aea9434d\n\
             SHA256(data.vmdk)= 00\nSHA256(lost.vmdk)= 00\n",
            Sha256::digest(DESCRIPTOR)
                .iter()
                .map(|byte| format!("{byte:02x}"))
                .collect::<String>()
        );
        archive(&[
            ("vm.ovf", DESCRIPTOR.as_bytes()),
            ("vm.mf", manifest.as_bytes()),
            ("disk-1.vmdk", b"hello"),
            ("data.vmdk", b"data"),
        ])
    }

    #[test]
    fn disks_are_those_of_the_descriptor_that_have_files() {
        let bytes = sound();
        assert!(Ova::is_ova(&bytes));
        assert!(!Ova::is_ova(&archive(&[("readme", b"")])));
        let ova = ova(bytes).unwrap();
        let told: Vec<_> = ova
            .disks()
            .iter()
            .map(|disk| {
                (
                    disk.id.as_str(),
                    disk.file.as_str(),
                    disk.size,
                    disk.capacity,
                )
            })
            .collect();
        assert_eq!(
            told,
            [
                ("vmdisk1", "disk-1.vmdk", 5, Some(8 << 30)),
                ("vmdisk2", "data.vmdk", 4, Some(4096))
            ]
        );
    }

    #[test]
    fn a_disk_is_found_by_file_identifier_or_number() {
        let ova = ova(sound()).unwrap();
        for which in ["data.vmdk", "vmdisk2", "1"] {
            let storage = ova.storage_of(ova.find(which).unwrap()).unwrap();
            assert_eq!(storage.read_vec(4, 0).unwrap(), b"data");
            assert_eq!(storage.name(), "vm.ova#data.vmdk");
        }
        assert!(matches!(ova.find("2"), Err(Error::NotFound { .. })));
    }

    #[test]
    fn the_manifest_is_held_against_the_files() {
        let entries = ova(sound())
            .unwrap()
            .verify(&Limits::default())
            .unwrap()
            .unwrap();
        assert!(matches!(&entries[0], ManifestEntry::Right { file } if file == "vm.ovf"));
        assert!(matches!(&entries[1], ManifestEntry::Right { file } if file == "disk-1.vmdk"));
        assert!(matches!(&entries[2], ManifestEntry::Wrong { file, .. } if file == "data.vmdk"));
        assert!(matches!(&entries[3], ManifestEntry::Missing { file } if file == "lost.vmdk"));
    }

    #[test]
    fn an_archive_that_lies_is_refused() {
        assert!(ova(archive(&[("readme", b"")])).is_err());
        assert!(ova(archive(&[("vm.ovf", b"<Envelope")])).is_err());
        assert!(
            ova(archive(&[("vm.ovf", DESCRIPTOR.as_bytes())]))
                .unwrap_err()
                .to_string()
                .contains("disk-1.vmdk")
        );
        let bytes = sound();
        for len in (0..bytes.len()).step_by(97) {
            let _ = ova(bytes[..len].to_vec());
        }
        for at in 0..512 {
            let mut bytes = sound();
            bytes[at] ^= 0xff;
            let _ = ova(bytes);
        }
    }
}
