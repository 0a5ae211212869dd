//! The members of a tar file, by name: where each lies. Nothing is unpacked.
//!
//! The `tar` crate reads single headers and pax records. The walk is our own: names and pax records are read into memory
//! no further than limits allow, and a sparse member, whose bytes do not lie in one piece, is refused.

use std::collections::BTreeMap;
use std::io;

use diskette_core::{Error, Limits, Result, SECTOR, Storage, StorageExt};
use tar::{EntryType, Header, PaxExtensions};

use super::FORMAT;

/// Where a member's bytes lie in the archive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Range {
    pub(super) offset: u64,
    pub(super) size: u64,
}

/// Bytes of a header, and of the unit to which members are filled up.
const BLOCK: usize = 512;

/// The name of the first member, if `head` begins with a tar header: its checksum must be right.
pub(super) fn first_name(head: &[u8]) -> Option<String> {
    let header = Header::from_byte_slice(head.get(..BLOCK)?);
    is_sound(header).then(|| name_of(&header.path_bytes()))
}

/// All regular files of the archive.
pub(super) fn members(storage: &dyn Storage, limits: &Limits) -> Result<BTreeMap<String, Range>> {
    let mut walk = Walk {
        storage,
        limits,
        size: storage.total_size()?,
        at: 0,
        headers: 0,
        described: Described::default(),
        members: BTreeMap::new(),
    };
    while walk.step()? {}
    Ok(walk.members)
}

struct Walk<'a> {
    storage: &'a dyn Storage,
    limits: &'a Limits,
    size: u64,
    at: u64,
    headers: u64,
    described: Described,
    members: BTreeMap<String, Range>,
}

/// What extension headers said of the member that follows them.
#[derive(Default)]
struct Described {
    name: Option<String>,
    size: Option<u64>,
}

impl Walk<'_> {
    /// Takes the header at hand; false at the archive's end.
    fn step(&mut self) -> Result<bool> {
        let mut block = [0; BLOCK];
        if self.at.saturating_add(SECTOR) > self.size {
            return Ok(false); // Some writers leave out the blocks of zeros at the end.
        }
        self.storage.read(&mut block, self.at)?;
        if block.iter().all(|byte| *byte == 0) {
            return Ok(false);
        }
        self.headers += 1;
        self.limits.allow_parts(self.headers)?;
        let header = Header::from_byte_slice(&block);
        if !is_sound(header) {
            return Err(self.wrong("header.chksum", 0, "not that of a tar header"));
        }
        let stored = header
            .entry_size()
            .map_err(|_| self.wrong("header.size", 0, "not a number"))?;
        match header.entry_type() {
            EntryType::GNULongName => {
                let bytes = self.extension(stored)?;
                self.described.name = Some(name_of(&bytes));
                self.pass(stored)?;
            }
            EntryType::XHeader => {
                let bytes = self.extension(stored)?;
                self.pax(&bytes)?;
                self.pass(stored)?;
            }
            EntryType::GNULongLink | EntryType::XGlobalHeader => {
                self.pass(stored)?;
            }
            EntryType::GNUSparse => return Err(Error::unsupported(FORMAT, "a sparse member")),
            kind => {
                let said = std::mem::take(&mut self.described);
                let name = said.name.unwrap_or_else(|| name_of(&header.path_bytes()));
                let size = said.size.unwrap_or(stored);
                let range = self.pass(size)?;
                if kind.is_file() || kind.is_contiguous() {
                    self.add(name, range)?;
                }
            }
        }
        Ok(true)
    }

    fn add(&mut self, name: String, range: Range) -> Result<()> {
        let shown = name.escape_debug().to_string();
        match self.members.insert(name, range) {
            None => Ok(()),
            Some(first) => Err(Error::malformed(
                FORMAT,
                "header.name",
                range.offset,
                shown.as_str(),
                format!("the member at {:#x} has this name too", first.offset),
            )),
        }
    }

    /// The bytes of an extension header.
    fn extension(&self, size: u64) -> Result<Vec<u8>> {
        self.limits.allow_descriptor(size)?;
        self.range(size)?;
        let len = usize::try_from(size).unwrap_or(usize::MAX);
        self.storage.read_vec(len, self.at + SECTOR)
    }

    fn pax(&mut self, bytes: &[u8]) -> Result<()> {
        for record in PaxExtensions::new(bytes) {
            let record = record.map_err(|_| self.wrong("pax header", 0, "not key=value"))?;
            match record.key_bytes() {
                b"path" => self.described.name = Some(name_of(record.value_bytes())),
                b"size" => {
                    let size = record.value().ok().and_then(|text| text.parse().ok());
                    let size = size.ok_or_else(|| self.wrong("pax size", 0, "not a number"))?;
                    self.described.size = Some(size);
                }
                key if key.starts_with(b"GNU.sparse.") => {
                    return Err(Error::unsupported(FORMAT, "a sparse member"));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Goes on behind a member of `size` bytes, and gives where it lies.
    fn pass(&mut self, size: u64) -> Result<Range> {
        let range = self.range(size)?;
        let blocks = size.div_ceil(SECTOR) * SECTOR; // within the file: at most a block more than it has
        self.at = range.offset + blocks;
        Ok(range)
    }

    /// The `size` bytes behind the header at hand, which must be there.
    fn range(&self, size: u64) -> Result<Range> {
        let offset = self.at + SECTOR;
        if offset.checked_add(size).is_none_or(|end| end > self.size) {
            let why = format!("reaches beyond the file's end at {:#x}", self.size);
            return Err(self.wrong("header.size", size, why).truncated());
        }
        Ok(Range { offset, size })
    }

    fn wrong(
        &self,
        field: &'static str,
        value: u64,
        why: impl Into<std::borrow::Cow<'static, str>>,
    ) -> Error {
        Error::malformed(FORMAT, field, self.at, value, why)
    }
}

/// Whether the checksum is right: the sum of all bytes, its own field taken for blanks.
fn is_sound(header: &Header) -> bool {
    const FIELD: std::ops::Range<usize> = 148..156;
    let told: io::Result<u32> = header.cksum();
    let bytes = header.as_bytes().iter().enumerate();
    let sum = bytes.fold(0, |sum, (at, byte)| {
        sum + u32::from(if FIELD.contains(&at) { b' ' } else { *byte })
    });
    told.is_ok_and(|told| told == sum)
}

/// A name without the zeros behind it, and without the `./` that some writers put in front.
fn name_of(bytes: &[u8]) -> String {
    let bytes = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
    let name = String::from_utf8_lossy(bytes);
    name.strip_prefix("./").unwrap_or(&name).to_owned()
}
