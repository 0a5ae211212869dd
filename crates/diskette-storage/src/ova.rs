//! OVA: a tar file with an OVF descriptor and the disks that it describes. Nothing is unpacked: a disk is a part of the
//! file's own storage.
//!
//! Source: "Open Virtualization Format Specification" (DMTF DSP0243), 5 (package), 7.1 (references), 9.1 (disks).

mod archive;
mod descriptor;
mod machine;
mod manifest;
mod text;
mod write;

use std::collections::BTreeMap;
use std::sync::Arc;

use diskette_core::{
    Ends, Error, Limits, Reference, Resolver, Result, Role, Storage, StorageExt, StorageMut,
};

use crate::SubStorage;
use archive::Range;
pub use machine::Machine;
pub use manifest::{ManifestEntry, Verdict};
pub use write::{NewDisk, NewOva};

const FORMAT: &str = "ova";

/// An OVA that has been opened: what files it has, and what its descriptor says of the disks among them.
///
/// It is a [`Resolver`], too: what a disk's image refers to is a member of the same archive, or refused.
#[derive(Clone, Debug)]
pub struct Ova {
    storage: Arc<dyn Storage>,
    files: BTreeMap<String, Range>,
    descriptor: String,
    disks: Vec<OvaDisk>,
    limits: Limits,
}

/// A disk of an OVA, as the descriptor tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct OvaDisk {
    /// Its number, from 0.
    pub index: usize,
    /// Its identifier in the descriptor (`ovf:diskId`).
    pub id: String,
    /// The name of its file (`ovf:href`). Not to be trusted.
    pub file: String,
    /// Bytes of the disk.
    pub capacity: Option<u64>,
    /// How the file is compressed as a whole (`ovf:compression`).
    pub compression: Compression,
    /// Whether the file comes in chunks (`ovf:chunkSize`).
    chunked: bool,
    /// Whether it lies over another disk (`ovf:parentRef`).
    has_parent: bool,
    /// Where the descriptor lies that says so.
    offset: u64,
}

/// How a file of an OVA is compressed as a whole. Complete by nature.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    None,
    /// By gzip.
    Gzip,
    /// In another way, by the descriptor's word for it.
    Other(String),
}

impl Ova {
    /// Whether `storage` is an OVA: a tar file with a descriptor, which as a rule is the first member (DSP0243, 5.3).
    pub fn is_ova(storage: &dyn Storage, limits: &Limits) -> Result<bool> {
        let mut head = vec![0; Ends::HEAD];
        let len = storage.read_padded(&mut head, 0)?;
        let Some(first) = archive::first_name(&head[..len]) else {
            return Ok(false);
        };
        if has_ending(&first, "ovf") {
            return Ok(true);
        }
        // What else begins like a tar file is no OVA, whatever is wrong with it.
        let files = archive::members(storage, limits).unwrap_or_default();
        Ok(files.keys().any(|name| has_ending(name, "ovf")))
    }

    /// Whether a file that begins with `head` may be an OVA: it is a tar file.
    #[must_use]
    pub fn may_be_ova(head: &[u8]) -> bool {
        archive::first_name(head).is_some()
    }

    /// Opens an OVA.
    pub fn open(storage: Arc<dyn Storage>, limits: &Limits) -> Result<Self> {
        let files = archive::members(&*storage, limits)?;
        let mut descriptors = files.keys().filter(|name| has_ending(name, "ovf"));
        let Some(descriptor) = descriptors.next().cloned() else {
            let why = "no member is an OVF descriptor";
            return Err(Error::malformed(FORMAT, "archive", 0, storage.name(), why));
        };
        if let Some(second) = descriptors.next() {
            let feature = format!(
                "an archive with two descriptors (\"{}\", \"{}\")",
                descriptor.escape_debug(),
                second.escape_debug()
            );
            return Err(Error::unsupported(FORMAT, feature));
        }
        let mut ova = Self {
            storage,
            files,
            descriptor,
            disks: Vec::new(),
            limits: limits.clone(),
        };
        if let Some(range) = ova.range_of(&ova.descriptor) {
            let text = ova.text(&ova.descriptor, range)?;
            ova.disks = descriptor::disks(&text, range.offset, limits)?;
        }
        Ok(ova)
    }

    /// The archive's own name.
    #[must_use]
    pub fn name(&self) -> &str {
        self.storage.name()
    }

    /// The disks, in the descriptor's order.
    #[must_use]
    pub fn disks(&self) -> &[OvaDisk] {
        &self.disks
    }

    /// The disk that `which` names: by the name of its file, by its identifier, or by its number from 0.
    pub fn find(&self, which: &str) -> Result<&OvaDisk> {
        let mut disks = self.disks.iter();
        let named = disks.find(|disk| disk.file == which || disk.id == which);
        let found = named.or_else(|| self.disks.get(which.parse::<usize>().ok()?));
        found.ok_or_else(|| Error::NotFound {
            what: "disk in the OVA",
            name: which.to_owned(),
        })
    }

    /// The disk that `which` names, or the only one.
    pub fn choose(&self, which: Option<&str>) -> Result<&OvaDisk> {
        match (which, self.disks.as_slice()) {
            (Some(which), _) => self.find(which),
            (None, [only]) => Ok(only),
            (None, []) => Err(Error::NotFound {
                what: "disk in the OVA",
                name: self.name().to_owned(),
            }),
            (None, several) => Err(Error::SeveralDisks {
                storage: self.name().to_owned(),
                disks: several.iter().map(|disk| disk.file.clone()).collect(),
            }),
        }
    }

    /// The bytes of a disk's file, as they lie in the archive: compressed where the descriptor says so.
    pub fn storage_of(&self, disk: &OvaDisk) -> Result<Arc<dyn Storage>> {
        if disk.chunked {
            return Err(Error::unsupported(FORMAT, "a disk's file in chunks"));
        }
        if disk.has_parent {
            return Err(Error::unsupported(FORMAT, "a disk over a parent disk"));
        }
        if let Compression::Other(word) = &disk.compression {
            let feature = format!("a disk's file compressed by \"{}\"", word.escape_debug());
            return Err(Error::unsupported(FORMAT, feature));
        }
        let refused = |why: &'static str| Reference::new(Role::Part, &disk.file).refused(why);
        if let Some(why) = leads_out(&disk.file) {
            return Err(refused(why));
        }
        let Some(name) = self.member_of(&disk.file) else {
            let why = "the archive has no such file";
            return Err(Error::malformed(
                FORMAT,
                "File.href",
                disk.offset,
                disk.file.as_str(),
                why,
            ));
        };
        self.member(name)
    }

    /// Whether the archive bears this disk's file, and how many bytes it has.
    #[must_use]
    pub fn stored_len(&self, disk: &OvaDisk) -> Option<u64> {
        Some(self.range_of(self.member_of(&disk.file)?)?.size)
    }

    /// The bytes of the member that a storage of this archive's is named after, if it is one.
    #[must_use]
    pub fn len_of(&self, storage_name: &str) -> Option<u64> {
        Some(self.range_of(self.member_name(storage_name)?)?.size)
    }

    fn member(&self, name: &str) -> Result<Arc<dyn Storage>> {
        let range = self.range_of(name).ok_or_else(|| Error::NotFound {
            what: "file in the OVA",
            name: name.to_owned(),
        })?;
        let whole = Arc::clone(&self.storage);
        let name = format!("{}#{name}", self.name());
        let part = SubStorage::new(whole, range.offset, range.size, name)?;
        Ok(Arc::new(part))
    }

    /// The member that a descriptor means by `href`, a relative URI: taken as it is, or with its escapes resolved.
    fn member_of(&self, href: &str) -> Option<&str> {
        let href = href.strip_prefix("./").unwrap_or(href);
        let found = self.files.get_key_value(href);
        let found = found.or_else(|| self.files.get_key_value(&unescaped(href)?));
        found.map(|(name, _)| name.as_str())
    }

    fn range_of(&self, name: &str) -> Option<Range> {
        self.files.get(name).copied()
    }

    /// The member that a storage of this archive's is.
    fn member_name<'a>(&self, storage_name: &'a str) -> Option<&'a str> {
        storage_name.strip_prefix(self.name())?.strip_prefix('#')
    }

    fn text(&self, name: &str, range: Range) -> Result<String> {
        self.limits.allow_descriptor(range.size)?;
        let len = usize::try_from(range.size).unwrap_or(0);
        let bytes = self.storage.read_vec(len, range.offset)?;
        let text = String::from_utf8(bytes).ok();
        let text = text.map(|text| text.trim_start_matches('\u{feff}').to_owned());
        text.ok_or_else(|| {
            let name = name.escape_debug().to_string();
            Error::malformed(FORMAT, name, range.offset, range.size, "not UTF-8")
        })
    }
}

impl Resolver for Ova {
    /// The member of the archive that `reference` names, as seen from the member `from`; nothing else.
    fn open(&self, reference: &Reference, from: &dyn Storage) -> Result<Arc<dyn Storage>> {
        let Some(from) = self.member_name(from.name()) else {
            return Err(reference.refused("asked for by no file of the OVA"));
        };
        if let Some(why) = leads_out(&reference.target) {
            return Err(reference.refused(why));
        }
        let folder = from.rfind('/').map_or("", |at| &from[..=at]);
        let target = reference.target.replace('\\', "/");
        let target = target.strip_prefix("./").unwrap_or(&target);
        let name = format!("{folder}{target}");
        if self.range_of(&name).is_none() {
            return Err(reference.refused("no file of the OVA, and no other is opened from there"));
        }
        self.member(&name)
    }

    /// An archive is not changed.
    fn open_mut(&self, reference: &Reference, _from: &dyn Storage) -> Result<Arc<dyn StorageMut>> {
        Err(reference.refused("no file of an OVA is written"))
    }
}

/// Why a name cannot be that of a member.
fn leads_out(name: &str) -> Option<&'static str> {
    let mut parts = name.split(['/', '\\']);
    if name.is_empty() {
        return Some("the name is empty");
    }
    if name.starts_with(['/', '\\']) {
        return Some("an absolute path, and only files of the OVA are opened");
    }
    if parts
        .clone()
        .next()
        .is_some_and(|first| first.contains(':'))
    {
        return Some("a protocol name or a drive, and only files of the OVA are opened");
    }
    if parts.any(|part| part == "..") {
        return Some("a path with \"..\", and only files of the OVA are opened");
    }
    None
}

/// A URI's text with its `%20`s resolved; `None` where there are none, or wrong ones.
fn unescaped(text: &str) -> Option<String> {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let mut digit = || char::from(rest.next()?).to_digit(16);
        let number = digit()? * 16 + digit()?;
        bytes.push(u8::try_from(number).ok()?);
    }
    String::from_utf8(bytes).ok()
}

fn has_ending(name: &str, ending: &str) -> bool {
    let found = name.rsplit_once('.').map(|(_, found)| found);
    found.is_some_and(|found| found.eq_ignore_ascii_case(ending))
}

#[cfg(test)]
mod tests;
