//! The descriptor: a text that names the image, its parent, and the extents of which the disk is made.
//!
//! Every line that starts like an extent is parsed, or is an error: to pass over one would move all that follow.

use std::borrow::Cow;

use diskette_core::{Error, Limits, Result, SECTOR, Storage, StorageExt};
use encoding_rs::{Encoding, UTF_8};

use crate::FORMAT;
use crate::header::MOST_SECTORS;

/// `parentCID` where there is no parent.
pub(crate) const NO_PARENT: u32 = u32::MAX;

/// What a descriptor says.
#[derive(Clone, Debug, Default)]
pub(crate) struct Descriptor {
    /// The content's id.
    pub cid: Option<u32>,
    /// The content's id that the parent had when this image was made over it.
    pub parent_cid: Option<u32>,
    /// Where it is from and how it is kept; advisory.
    pub create_type: Option<String>,
    /// The parent's name.
    pub parent_hint: Option<String>,
    /// The extents, in the order of the disk.
    pub extents: Vec<ExtentLine>,
    /// Whether it speaks of encryption.
    pub encrypted: bool,
    /// What is odd, but can be read.
    pub warnings: Vec<String>,
    /// Where it begins in its file.
    pub at: u64,
}

/// One line: a run of the disk, and what it is kept in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ExtentLine {
    /// Where the line begins in its file.
    pub at: u64,
    /// What a guest may do there.
    pub access: Access,
    /// Bytes of the disk.
    pub size: u64,
    /// In what it is kept.
    pub kind: LineKind,
    /// The word for that, as it stands in the line.
    pub word: String,
    /// The file's name; empty where there is none.
    pub name: String,
}

/// What a guest may do with an extent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// Read and write.
    Write,
    /// Read.
    Read,
    /// Nothing.
    None,
}

/// In what an extent is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LineKind {
    /// A file that holds it as it is, from this host offset on.
    Flat(u64),
    /// A hosted sparse extent, or COWD.
    Sparse,
    /// A seSparse extent.
    SeSparse,
    /// Nothing: zeros.
    Zero,
}

impl Descriptor {
    /// The descriptor that takes `len` bytes at host offset `at`.
    pub(crate) fn read(storage: &dyn Storage, at: u64, len: u64, limits: &Limits) -> Result<Self> {
        limits.allow_descriptor(len)?;
        let len = usize::try_from(len).unwrap_or(usize::MAX);
        let bytes = storage.read_vec(len, at)?;
        Self::parse(&bytes, at, limits)
    }

    /// The descriptor in `bytes`, which lie at host offset `at`.
    pub(crate) fn parse(bytes: &[u8], at: u64, limits: &Limits) -> Result<Self> {
        let bytes = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
        limits.keep(bytes.len() as u64)?;
        let mut descriptor = Self {
            at,
            ..Self::default()
        };
        let text = descriptor.decode(bytes)?;
        let mut line_at = at;
        for line in text.split_inclusive('\n') {
            descriptor.take_line(line.trim(), line_at)?;
            limits.allow_parts(descriptor.extents.len() as u64)?;
            line_at = line_at.saturating_add(line.len() as u64);
        }
        Ok(descriptor)
    }

    /// The content's id, which every descriptor must have.
    pub(crate) fn required_cid(&self) -> Result<u32> {
        self.cid.ok_or_else(|| self.missing("CID"))
    }

    /// The parent's, which every descriptor must have.
    pub(crate) fn required_parent_cid(&self) -> Result<u32> {
        self.parent_cid.ok_or_else(|| self.missing("parentCID"))
    }

    /// The error that the key `name` is missing.
    pub(crate) fn missing(&self, name: &'static str) -> Error {
        Error::malformed(FORMAT, format!("descriptor.{name}"), self.at, "", "missing")
    }

    fn decode<'a>(&mut self, bytes: &'a [u8]) -> Result<Cow<'a, str>> {
        let encoding = match encoding_label(bytes) {
            None => UTF_8,
            Some(label) => match Encoding::for_label(label) {
                Some(encoding) => encoding,
                None if bytes.is_ascii() => UTF_8,
                None => {
                    let label = String::from_utf8_lossy(label);
                    let why = "unknown, and the text is not ASCII";
                    return Err(Error::malformed(
                        FORMAT,
                        "descriptor.encoding",
                        self.at,
                        &*label,
                        why,
                    ));
                }
            },
        };
        let (text, _, damaged) = encoding.decode(bytes);
        if damaged {
            let name = encoding.name();
            self.warnings
                .push(format!("the descriptor is not valid {name}"));
        }
        Ok(text)
    }

    fn take_line(&mut self, line: &str, at: u64) -> Result<()> {
        const LONGEST: usize = 4096;
        if line.len() > LONGEST {
            return Err(Error::malformed(
                FORMAT,
                "descriptor's line",
                at,
                line,
                "longer than 4096 bytes",
            ));
        }
        if line.is_empty() || line.starts_with('#') {
            return Ok(());
        }
        if let Some(extent) = ExtentLine::parse(line, at)? {
            self.extents.push(extent);
            return Ok(());
        }
        match line.split_once('=') {
            Some((key, value)) => self.take_value(key.trim_end(), unquoted(value.trim()), at),
            None => {
                let shown = line.escape_debug();
                self.warnings.push(format!(
                    "line \"{shown}\" of the descriptor was not understood"
                ));
                Ok(())
            }
        }
    }

    /// Of a key that is given twice the first value counts.
    fn take_value(&mut self, key: &str, value: &str, at: u64) -> Result<()> {
        match key.to_ascii_lowercase().as_str() {
            "cid" if self.cid.is_none() => self.cid = Some(content_id("CID", value, at)?),
            "parentcid" if self.parent_cid.is_none() => {
                self.parent_cid = Some(content_id("parentCID", value, at)?);
            }
            "createtype" if self.create_type.is_none() => self.create_type = Some(value.to_owned()),
            "parentfilenamehint" if self.parent_hint.is_none() => {
                self.parent_hint = Some(value.to_owned());
            }
            lower if lower.starts_with("encryption") => self.encrypted = true,
            _ => {}
        }
        Ok(())
    }
}

impl ExtentLine {
    /// The extent that `line` describes: `ACCESS sectors TYPE ["name" [offset ...]]`. `None` if it is another line.
    fn parse(line: &str, at: u64) -> Result<Option<Self>> {
        let malformed = |why: &'static str| {
            Err(Error::malformed(
                FORMAT,
                "descriptor's extent",
                at,
                line,
                why,
            ))
        };
        let (word, rest) = next_word(line);
        let access = match word.to_ascii_uppercase().as_str() {
            "RW" => Access::Write,
            "RDONLY" => Access::Read,
            "NOACCESS" => Access::None,
            _ if looks_like_extent(rest) => return malformed("not with RW, RDONLY or NOACCESS"),
            _ => return Ok(None),
        };
        let (sectors, rest) = next_word(rest);
        let Some(size) = bytes_of_sectors(sectors) else {
            return malformed("without a sound number of sectors");
        };
        let (word, rest) = next_word(rest);
        let Some((name, rest)) = quoted_name(rest) else {
            return malformed("without an end of its name");
        };
        let (offset, _) = next_word(rest);
        let kind = match word.to_ascii_uppercase().as_str() {
            "ZERO" if name.is_none() && rest.is_empty() => LineKind::Zero,
            "ZERO" => return malformed("zeros, yet with a name"),
            "FLAT" | "VMFS" | "SPARSE" | "VMFSSPARSE" | "SESPARSE"
                if name.is_none_or(str::is_empty) =>
            {
                return malformed("without a name in quotes");
            }
            "VMFS" if offset.is_empty() => LineKind::Flat(0),
            "FLAT" | "VMFS" => match bytes_of_sectors(offset) {
                Some(offset) if offset.checked_add(size).is_some() => LineKind::Flat(offset),
                _ => return malformed("without a sound offset"),
            },
            "SPARSE" | "VMFSSPARSE" | "SESPARSE" if !rest.is_empty() => {
                return malformed("with something behind its name");
            }
            "SPARSE" | "VMFSSPARSE" => LineKind::Sparse,
            "SESPARSE" => LineKind::SeSparse,
            "VMFSRDM" | "VMFSRAW" => return Err(unsupported_type(word, " (a raw device)")),
            "" => return malformed("without a type"),
            _ => return Err(unsupported_type(word, "")),
        };
        let name = name.unwrap_or_default();
        if name.contains(char::REPLACEMENT_CHARACTER) {
            return malformed("with a name that is not in the descriptor's encoding");
        }
        Ok(Some(Self {
            at,
            access,
            size,
            kind,
            word: word.to_owned(),
            name: name.to_owned(),
        }))
    }

    /// The error that this line is wrong because of `why`.
    pub(crate) fn malformed(&self, why: impl Into<Cow<'static, str>>) -> Error {
        let sectors = self.size / SECTOR;
        Error::malformed(
            FORMAT,
            format!("sectors of extent \"{}\"", self.name.escape_debug()),
            self.at,
            sectors,
            why,
        )
    }
}

fn unsupported_type(word: &str, what: &str) -> Error {
    Error::unsupported(
        FORMAT,
        format!("an extent of type {}{what}", word.escape_debug()),
    )
}

/// Whether what follows the first word is that of an extent: a misspelt one must not be passed over.
fn looks_like_extent(rest: &str) -> bool {
    let (sectors, rest) = next_word(rest);
    let (word, _) = next_word(rest);
    let known = [
        "FLAT",
        "VMFS",
        "SPARSE",
        "VMFSSPARSE",
        "SESPARSE",
        "ZERO",
        "VMFSRDM",
        "VMFSRAW",
    ];
    sectors.parse::<i128>().is_ok() && known.iter().any(|known| word.eq_ignore_ascii_case(known))
}

/// A number of sectors, in bytes.
fn bytes_of_sectors(word: &str) -> Option<u64> {
    let sectors: u64 = word.parse().ok()?;
    (sectors <= MOST_SECTORS).then(|| sectors * SECTOR)
}

fn content_id(name: &'static str, value: &str, at: u64) -> Result<u32> {
    let digits = value.strip_prefix("0x").unwrap_or(value);
    u32::from_str_radix(digits, 16).map_err(|_| {
        Error::malformed(
            FORMAT,
            format!("descriptor.{name}"),
            at,
            value,
            "not a number of 8 hexadecimal digits",
        )
    })
}

/// The first word of `text`, and what follows the blanks behind it.
fn next_word(text: &str) -> (&str, &str) {
    let text = text.trim_start();
    let end = text.find(char::is_whitespace).unwrap_or(text.len());
    let (word, rest) = text.split_at(end);
    (word, rest.trim_start())
}

/// The name in quotes at the beginning of `text`, if there is one, and what follows it; `None` if it does not end.
fn quoted_name(text: &str) -> Option<(Option<&str>, &str)> {
    let Some(behind) = text.strip_prefix('"') else {
        return Some((None, text));
    };
    let (name, rest) = behind.split_once('"')?;
    Some((Some(name), rest.trim_start()))
}

fn unquoted(value: &str) -> &str {
    match value.strip_prefix('"') {
        Some(rest) => rest.split('"').next().unwrap_or_default(),
        None => value,
    }
}

/// The value of the key `encoding`, which is looked for before the text can be decoded.
fn encoding_label(bytes: &[u8]) -> Option<&[u8]> {
    const KEY: &[u8] = b"encoding";
    for line in bytes.split(|byte| *byte == b'\n') {
        let line = line.trim_ascii();
        let Some((key, rest)) = line.split_at_checked(KEY.len()) else {
            continue;
        };
        if key.eq_ignore_ascii_case(KEY)
            && let Some(value) = rest.trim_ascii_start().strip_prefix(b"=")
        {
            let quotes = |byte: &u8| *byte == b'"' || byte.is_ascii_whitespace();
            return value.split(quotes).find(|word| !word.is_empty());
        }
    }
    None
}
