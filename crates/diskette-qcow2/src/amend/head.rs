//! What an image begins with (fields, extensions, the name of the image below), changed where it lies.
//!
//! ```text
//!  0 ── fields ── extensions ── end mark ── (free) ── name ── (free) ── end of the cluster
//! ```
//!
//! First come the bytes that nothing leads to yet, a new name above all; then what lies beyond the first sector; then the
//! first sector, whose fields make all of it count at once. Extensions stay where they are, as far as that can be: an
//! image that was cut off in between reads as before, or as it is to be.

use std::ops::Range;

use diskette_core::{BackingImage, Error, Limits, Result, StorageExt, StorageMut};
use zerocopy::big_endian::U64;
use zerocopy::{FromBytes, IntoBytes};

use crate::edit::{sync, write};
use crate::extensions::{Records, records};
use crate::header::Header;
use crate::{FORMAT, spec};

/// The first cluster of an image, to be changed.
pub(crate) struct Head<'a> {
    storage: &'a dyn StorageMut,
    cluster_len: usize,
    old: Vec<u8>,
    /// Where the old fields and extensions end, the end mark among them.
    old_end: usize,
    old_name: Range<usize>,
    /// The fields, as they are to be.
    fields: Vec<u8>,
    /// The extensions, as they are to be.
    records: Records,
    /// The name of the image below, as it is to be.
    name: Option<String>,
}

impl<'a> Head<'a> {
    pub(crate) fn read(storage: &'a dyn StorageMut, limits: &Limits) -> Result<Self> {
        let header = Header::read(storage, limits)?;
        let mut old = vec![0; header.geometry.cluster_len()];
        storage.read_padded(&mut old, 0)?;
        let raw = fixed(&old);
        let fields_len = match header.version {
            2 => spec::HEADER_V2_LEN,
            // The header has been shown sound: it lies within the cluster.
            _ => version_3(&old).header_length.get(),
        } as usize;
        let name_at = index(raw.backing_file_offset.get());
        let old_name = match header.backing_name {
            Some(_) => name_at..name_at + index(raw.backing_file_size.get().into()),
            None => 0..0,
        };
        let area_end = match name_at {
            0 => old.len(),
            offset => offset.min(old.len()),
        };
        let area = old.get(fields_len..area_end).unwrap_or_default();
        let (records, rest_len) = records(area, fields_len as u64)?;
        Ok(Self {
            storage,
            cluster_len: old.len(),
            old_end: area_end - rest_len,
            fields: old[..fields_len].to_vec(),
            old,
            old_name,
            records,
            name: header.backing_name,
        })
    }

    pub(crate) fn change_fields(&mut self, change: impl FnOnce(&mut spec::Header)) {
        let mut fields = fixed(&self.fields);
        change(&mut fields);
        self.fields[..size_of::<spec::Header>()].copy_from_slice(fields.as_bytes());
    }

    /// What version 3 adds. Bytes behind it that we know nothing of stay.
    pub(crate) fn change_version_3(&mut self, change: impl FnOnce(&mut spec::HeaderV3)) {
        let mut fields = version_3(&self.fields);
        change(&mut fields);
        let there = self.fields.len().min(spec::HEADER_V3_FULL_LEN as usize);
        let start = spec::HEADER_V2_LEN as usize;
        if let Some(place) = self.fields.get_mut(start..there) {
            place.copy_from_slice(&fields.as_bytes()[..there - start]);
        }
    }

    /// Gives the fields another length, and puts zeros where there were none.
    pub(crate) fn resize_fields(&mut self, len: u32) {
        self.fields.resize(len as usize, 0);
    }

    /// Where there is one of this kind and about this length it is changed where it lies.
    pub(crate) fn set_extension(&mut self, kind: u32, data: Vec<u8>) {
        let known = self.records.iter_mut().find(|(other, _)| *other == kind);
        match known {
            Some((_, old)) if old.len().div_ceil(8) == data.len().div_ceil(8) => *old = data,
            _ => self.add_extension(kind, data),
        }
    }

    pub(crate) fn add_extension(&mut self, kind: u32, data: Vec<u8>) {
        self.remove_extension(kind);
        self.records.push((kind, data));
    }

    /// Names another data file. Whether that takes another place for what stands behind the name.
    pub(super) fn set_data_file(&mut self, name: &str) -> bool {
        let kind = spec::EXTENSION_DATA_FILE;
        let data = name.as_bytes().to_vec();
        match self.records.iter_mut().find(|(other, _)| *other == kind) {
            Some((_, old)) => {
                let moves = old.len().div_ceil(8) != data.len().div_ceil(8);
                *old = data;
                moves
            }
            None => {
                self.records.push((kind, data));
                false
            }
        }
    }

    /// Takes an extension out, and gives its data.
    pub(super) fn take_extension(&mut self, kind: u32) -> Option<Vec<u8>> {
        let mut taken = self.records.extract_if(.., |(other, _)| *other == kind);
        taken.next().map(|(_, data)| data)
    }

    pub(crate) fn remove_extension(&mut self, kind: u32) {
        self.records.retain(|(other, _)| *other != kind);
    }

    /// Names another image below. The format's name stays where there is no image below any more: it does no harm, and
    /// without it all others would have to move.
    pub(crate) fn set_backing(&mut self, backing: Option<&BackingImage>) -> Result<()> {
        self.name = backing.map(|backing| backing.target.clone());
        let Some(backing) = backing else {
            return Ok(());
        };
        let (name, format) = (&backing.target, &backing.format);
        if name.is_empty() || name.len() > spec::BACKING_NAME_LEN_MAX as usize {
            return Err(too_long("backing_file"));
        }
        if format.len() > spec::BACKING_FORMAT_LEN_MAX as usize {
            return Err(too_long("backing_fmt"));
        }
        self.set_extension(spec::EXTENSION_BACKING_FORMAT, format.as_bytes().to_vec());
        Ok(())
    }

    /// Writes it, in the order that is told above.
    pub(crate) fn write(mut self) -> Result<()> {
        let end = self.fields.len() + self.extensions().len();
        let name = self.place_of_name(end)?;
        self.change_fields(|fields| {
            fields.backing_file_offset = (name.start as u64).into();
            // At most 1023.
            fields.backing_file_size = u32::try_from(name.len()).unwrap_or(0).into();
        });

        let old = std::mem::take(&mut self.old);
        let mut new = old.clone();
        new[..self.fields.len()].copy_from_slice(&self.fields);
        new[self.fields.len()..end].copy_from_slice(&self.extensions());
        new[name.clone()].copy_from_slice(self.name.as_deref().unwrap_or_default().as_bytes());

        let was_live = |at: usize| at < self.old_end || self.old_name.contains(&at);
        let is_live = |at: usize| at < end || name.contains(&at);
        let unseen = mixed(&old, &new, |at| !was_live(at));
        let but_first = mixed(&unseen, &new, |at| at >= FIRST_SECTOR);
        let tidy = mixed(&new, &vec![0; new.len()], |at| was_live(at) && !is_live(at));
        let steps = [&old, &unseen, &but_first, &new, &tidy];
        for step in steps.windows(2) {
            self.write_difference(step[0], step[1])?;
        }
        Ok(())
    }

    fn extensions(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let end_mark = (spec::EXTENSION_END, Vec::new());
        for (kind, data) in self.records.iter().chain([&end_mark]) {
            let header = spec::ExtensionHeader {
                kind: (*kind).into(),
                // At most a cluster.
                len: u32::try_from(data.len()).unwrap_or(u32::MAX).into(),
            };
            bytes.extend_from_slice(header.as_bytes());
            bytes.extend_from_slice(data);
            bytes.resize(bytes.len().next_multiple_of(8), 0);
        }
        bytes
    }

    /// Where the name is to lie, behind the extensions: best where neither the old name nor old extensions are.
    fn place_of_name(&self, end: usize) -> Result<Range<usize>> {
        if end > self.cluster_len {
            return Err(too_long("backing_file"));
        }
        let Some(name) = &self.name else {
            return Ok(0..0);
        };
        let is_same = self.old.get(self.old_name.clone()) == Some(name.as_bytes());
        if is_same && self.old_name.start >= end {
            return Ok(self.old_name.clone());
        }
        let behind = end.max(self.old_end);
        let places = [behind, behind.max(self.old_name.end), end];
        let overlaps =
            |start: usize| start < self.old_name.end && start + name.len() > self.old_name.start;
        let fits = |start: &usize| start + name.len() <= self.cluster_len;
        let place = places
            .iter()
            .position(|start| fits(start) && !overlaps(*start));
        let start = match place {
            Some(index) => places[index],
            None if fits(&end) => end,
            None => return Err(too_long("backing_file")),
        };
        Ok(start..start + name.len())
    }

    fn write_difference(&self, from: &[u8], to: &[u8]) -> Result<()> {
        let differs = |at: &usize| from[*at] != to[*at];
        let Some(first) = (0..to.len()).find(differs) else {
            return Ok(());
        };
        let last = (0..to.len()).rfind(differs).unwrap_or(first);
        write(self.storage, first as u64, &to[first..=last])?;
        sync(self.storage)
    }
}

/// Clears the autoclear bits of features that we do not know: what they tell of is no longer kept up.
pub(super) fn clear_unknown_autoclear_bits(
    storage: &dyn StorageMut,
    limits: &Limits,
) -> Result<()> {
    let autoclear = Header::read(storage, limits)?.features.autoclear;
    let known = autoclear & spec::AUTOCLEAR_KNOWN;
    if known == autoclear {
        return Ok(());
    }
    write(storage, AUTOCLEAR_FEATURES, U64::new(known).as_bytes())?;
    sync(storage)
}

/// Where the header has the autoclear features.
const AUTOCLEAR_FEATURES: u64 = 88;
/// What a disk writes whole, or not at all.
const FIRST_SECTOR: usize = 512;

/// `old`, with bytes of `new` where these are chosen.
fn mixed(old: &[u8], new: &[u8], chosen: impl Fn(usize) -> bool) -> Vec<u8> {
    let bytes = old.iter().zip(new).enumerate();
    let bytes = bytes.map(|(at, (old, new))| if chosen(at) { *new } else { *old });
    bytes.collect()
}

fn fixed(bytes: &[u8]) -> spec::Header {
    spec::Header::read_from_prefix(bytes).map_or_else(|_| spec::Header::default(), |(raw, _)| raw)
}

/// What version 3 adds, as far as it is there.
fn version_3(bytes: &[u8]) -> spec::HeaderV3 {
    let mut added = spec::HeaderV3::default();
    let there = bytes
        .get(spec::HEADER_V2_LEN as usize..)
        .unwrap_or_default();
    for (to, from) in added.as_mut_bytes().iter_mut().zip(there) {
        *to = *from;
    }
    added
}

fn index(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

fn too_long(option: &'static str) -> Error {
    let why = "too long for a header of one cluster, or empty";
    Error::invalid_option(FORMAT, option, why)
}
