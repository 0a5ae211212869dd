//! The parent locator: where a differencing disk's parent is, and how it is known.

use diskette_core::{Error, Identity, Reference, Result, Role};
use uuid::Uuid;
use zerocopy::FromBytes;
use zerocopy::little_endian::U16;

use crate::header::field;
use crate::spec::{FORMAT, ParentLocatorEntry, ParentLocatorHeader, VHDX_PARENT_LOCATOR};

/// What a [`Reference`] to a parent, and every VHDX, is known by.
pub(crate) const DATA_WRITE_GUID: &str = "DataWriteGuid";

/// The parent of a differencing disk.
#[derive(Clone, Debug)]
pub(crate) struct Locator {
    /// The parent's file, as seen from the child's folder.
    path: String,
    /// Values of the parent's `DataWriteGuid` of which either will do.
    linkages: Vec<Uuid>,
}

impl Locator {
    /// Parses the item, which lies at host offset `at`.
    pub(crate) fn parse(bytes: &[u8], at: u64) -> Result<Self> {
        let pairs = Pairs::parse(bytes, at)?;
        let linkage = pairs.guid("parent_linkage")?.ok_or_else(|| {
            Error::malformed(FORMAT, "parent locator: parent_linkage", at, "", "missing")
        })?;
        let mut linkages = vec![linkage];
        // Stands beside the first while a merge runs.
        linkages.extend(pairs.guid("parent_linkage2")?.filter(|guid| !guid.is_nil()));
        Ok(Self {
            path: pairs.path()?,
            linkages,
        })
    }

    /// The parent, as the core's loop follows it.
    pub(crate) fn reference(&self) -> Reference {
        let reference = Reference::new(Role::Backing, self.path.as_str()).with_format(FORMAT);
        self.linkages.iter().fold(reference, |reference, guid| {
            reference.with_identity(data_write_guid(guid))
        })
    }
}

/// By this an image is known to its children.
pub(crate) fn data_write_guid(guid: &Uuid) -> Identity {
    Identity {
        kind: DATA_WRITE_GUID,
        value: guid.to_string(),
    }
}

/// Keys and values of the locator.
struct Pairs {
    pairs: Vec<(String, String)>,
    at: u64,
}

impl Pairs {
    fn parse(bytes: &[u8], at: u64) -> Result<Self> {
        let truncated = || field("ParentLocator", at, bytes.len() as u64).malformed("cut off");
        let (header, behind) =
            ParentLocatorHeader::ref_from_prefix(bytes).map_err(|_cut| truncated())?;
        let kind = Uuid::from_bytes_le(header.locator_type);
        if kind != VHDX_PARENT_LOCATOR {
            return Err(Error::unsupported(
                FORMAT,
                format!("parent locator of type {kind}"),
            ));
        }
        let count = usize::from(header.key_value_count.get());
        let (entries, _) = <[ParentLocatorEntry]>::ref_from_prefix_with_elems(behind, count)
            .map_err(|_cut| {
                field("ParentLocatorHeader.KeyValueCount", at + 18, count as u64)
                    .malformed("more entries than the item has room for")
            })?;
        let mut found = Self {
            pairs: Vec::new(),
            at,
        };
        let mut room = bytes.len();
        for (index, entry) in entries.iter().enumerate() {
            let name = |what| format!("ParentLocatorEntry[{index}].{what}");
            let entry_at = at + 20 + 12 * index as u64;
            let (offset, len) = (entry.key_offset.get(), entry.key_length.get());
            let key = text(bytes, offset, len)
                .map_err(|why| field(name("KeyOffset"), entry_at, offset).malformed(why))?;
            let (offset, len) = (entry.value_offset.get(), entry.value_length.get());
            let value = text(bytes, offset, len)
                .map_err(|why| field(name("ValueOffset"), entry_at + 4, offset).malformed(why))?;
            // Entries that share their text could make much of little.
            let taken = usize::from(entry.key_length.get()) + usize::from(entry.value_length.get());
            room = room.checked_sub(taken).ok_or_else(truncated)?;
            if found.pairs.iter().any(|(known, _)| *known == key) {
                return Err(Error::malformed(
                    FORMAT,
                    name("Key"),
                    entry_at,
                    key.as_str(),
                    "there is an entry of this key already",
                ));
            }
            found.pairs.push((key, value));
        }
        Ok(found)
    }

    fn get(&self, key: &str) -> Option<&str> {
        let found = self.pairs.iter().find(|(name, _)| name == key);
        found
            .map(|(_, value)| value.as_str())
            .filter(|value| !value.is_empty())
    }

    fn guid(&self, key: &str) -> Result<Option<Uuid>> {
        let Some(text) = self.get(key) else {
            return Ok(None);
        };
        match Uuid::try_parse(text) {
            Ok(guid) => Ok(Some(guid)),
            Err(_) => Err(Error::malformed(
                FORMAT,
                format!("parent locator: {key}"),
                self.at,
                text,
                "not a GUID",
            )),
        }
    }

    /// The relative path, with `/` between its parts; else the file's name alone, for volumes and drives are another machine's.
    fn path(&self) -> Result<String> {
        if let Some(path) = self.get("relative_path") {
            let path = path.replace('\\', "/");
            return Ok(path.strip_prefix("./").unwrap_or(&path).to_owned());
        }
        let elsewhere = self
            .get("volume_path")
            .or_else(|| self.get("absolute_win32_path"));
        let name = elsewhere.and_then(|path| path.rsplit(['\\', '/']).next());
        let Some(name) = name.filter(|name| !name.is_empty()) else {
            let what = "parent locator: relative_path";
            return Err(Error::malformed(
                FORMAT,
                what,
                self.at,
                "",
                "missing, as any other path is",
            ));
        };
        Ok(name.to_owned())
    }
}

/// UTF-16 text at `offset` of the item.
fn text(item: &[u8], offset: u32, len: u16) -> Result<String, &'static str> {
    let start = usize::try_from(offset).unwrap_or(usize::MAX);
    let bytes = start
        .checked_add(usize::from(len))
        .and_then(|end| item.get(start..end))
        .ok_or("it reaches beyond the item")?;
    if offset == 0 || !bytes.len().is_multiple_of(2) {
        return Err("no UTF-16 text lies there");
    }
    let units: Vec<u16> = <[U16]>::ref_from_bytes(bytes)
        .unwrap_or_default() // The length is even.
        .iter()
        .map(|unit| unit.get())
        .collect();
    String::from_utf16(&units).map_err(|_| "its text is not valid UTF-16")
}
