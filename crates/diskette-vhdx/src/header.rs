//! The file identifier and the two headers: from bytes to the header that counts.

use diskette_core::{Error, Field, Result, Storage, StorageExt, StorageMut};
use uuid::Uuid;
use zerocopy::little_endian::U32;
use zerocopy::{FromBytes, IntoBytes};

use crate::checksum;
use crate::spec::{
    ALIGNMENT, FILE_SIGNATURE, FORMAT, HEADER_LEN, HEADER_OFFSETS, HEADER_SECTION_LEN,
    HEADER_SIGNATURE, Header as RawHeader,
};

/// What the current header says.
#[derive(Clone, Debug)]
pub(crate) struct Header {
    /// What tells the guest's data from any other state of them.
    pub data_write_guid: Uuid,
    /// Where the log is.
    pub log: LogRegion,
}

/// The file's log, which is a ring.
#[derive(Clone, Debug)]
pub(crate) struct LogRegion {
    /// Entries that bear it count. `None`: the log is empty.
    pub guid: Option<Uuid>,
    /// Host offset; a multiple of 1 MiB.
    pub offset: u64,
    /// Bytes; a multiple of 1 MiB.
    pub len: u64,
    /// Where the header lies that says so.
    pub header_at: u64,
}

/// A number of an image that is still to be checked.
pub(crate) fn field(name: impl Into<String>, offset: u64, value: impl Into<u64>) -> Field {
    Field::new(FORMAT, name.into(), offset, value)
}

impl Header {
    /// The file's current header.
    pub(crate) fn read(storage: &dyn Storage) -> Result<Self> {
        check_signature(storage)?;
        let (offset, raw) = current(storage)?;
        Self::parse(&raw, offset)
    }

    fn parse(raw: &RawHeader, at: u64) -> Result<Self> {
        // An older header of a version that we know says nothing about the file any more.
        let version = raw.version.get();
        if version != 1 {
            return Err(Error::unsupported(FORMAT, format!("version {version}")));
        }
        let guid = Uuid::from_bytes_le(raw.log_guid);
        let guid = (!guid.is_nil()).then_some(guid);
        let log_version = raw.log_version.get();
        if guid.is_some() && log_version != 0 {
            return Err(Error::unsupported(
                FORMAT,
                format!("log version {log_version}"),
            ));
        }
        let len = field("Header.LogLength", at + 68, raw.log_length).aligned_to(ALIGNMENT)?;
        let log_offset = || field("Header.LogOffset", at + 72, raw.log_offset);
        let offset = log_offset().aligned_to(ALIGNMENT)?;
        if len > 0 {
            log_offset().within(HEADER_SECTION_LEN..=u64::MAX - len)?;
        } else if guid.is_some() {
            return Err(
                field("Header.LogLength", at + 68, 0_u64).malformed("but the log is not empty")
            );
        }
        Ok(Self {
            data_write_guid: Uuid::from_bytes_le(raw.data_write_guid),
            log: LogRegion {
                guid,
                offset,
                len,
                header_at: at,
            },
        })
    }
}

/// Both headers, to be written by turns.
#[derive(Debug)]
pub(crate) struct HeaderPair {
    current: Box<[u8; HEADER_LEN]>,
    /// Where the current one lies.
    at: u64,
}

impl HeaderPair {
    /// The file's headers, of which at least one is sound.
    pub(crate) fn read(storage: &dyn Storage) -> Result<Self> {
        const ROOM: u64 = 16;
        let (at, header) = current(storage)?;
        field("Header.SequenceNumber", at + 8, header.sequence_number)
            .within(0..=u64::MAX - ROOM)?;
        let mut bytes = Box::new([0; HEADER_LEN]);
        storage.read_padded(&mut *bytes, at)?;
        Ok(Self { current: bytes, at })
    }

    /// Changes the current header, writes it over the other one, and makes that the current one. Returns when it is on
    /// stable storage.
    pub(crate) fn advance(
        &mut self,
        file: &dyn StorageMut,
        change: impl FnOnce(&mut RawHeader),
    ) -> Result<()> {
        let Ok((header, _)) = RawHeader::mut_from_prefix(&mut *self.current) else {
            return Ok(()); // It is longer than that.
        };
        let number = header.sequence_number.get();
        let next = number.checked_add(1).ok_or_else(|| {
            field("Header.SequenceNumber", self.at + 8, number).malformed("there is none after it")
        })?;
        header.sequence_number = next.into();
        change(header);
        checksum::seal(&mut *self.current);
        let [first, second] = HEADER_OFFSETS;
        self.at = if self.at == first { second } else { first };
        file.write_at(&*self.current, self.at)
            .and_then(|()| file.sync())
            .map_err(|source| file.failed("write", self.at, HEADER_LEN as u64, source))
    }
}

fn check_signature(storage: &dyn Storage) -> Result<()> {
    let mut signature = [0; 8];
    storage.read_padded(&mut signature, 0)?;
    if signature == FILE_SIGNATURE {
        return Ok(());
    }
    Err(Error::malformed(
        FORMAT,
        "FileTypeIdentifier.Signature",
        0,
        String::from_utf8_lossy(&signature).as_ref(),
        "not \"vhdxfile\"",
    ))
}

/// Whether both headers have their signature and their checksum.
pub(crate) fn both_are_sound(storage: &dyn Storage) -> Result<bool> {
    let [first, second] = HEADER_OFFSETS;
    Ok(valid_at(storage, first)?.is_some() && valid_at(storage, second)?.is_some())
}

/// The header that counts, and where it lies.
fn current(storage: &dyn Storage) -> Result<(u64, RawHeader)> {
    let [first_at, second_at] = HEADER_OFFSETS;
    let first = valid_at(storage, first_at)?;
    let second = valid_at(storage, second_at)?;
    match (first, second) {
        (Some(first), Some(second)) => {
            let (one, other) = (first.sequence_number.get(), second.sequence_number.get());
            // disk2vhd writes the same header twice.
            if one == other && !same(&first, &second) {
                return Err(field("Header.SequenceNumber", first_at + 8, one)
                    .malformed("that of both headers, and they differ"));
            }
            Ok(if other > one {
                (second_at, second)
            } else {
                (first_at, first)
            })
        }
        (Some(first), None) => Ok((first_at, first)),
        (None, Some(second)) => Ok((second_at, second)),
        (None, None) => Err(neither_is_sound(storage)?),
    }
}

fn neither_is_sound(storage: &dyn Storage) -> Result<Error> {
    let at = HEADER_OFFSETS[0] + 4;
    let mut checksum = U32::ZERO;
    storage.read_padded(checksum.as_mut_bytes(), at)?;
    Ok(field("Header.Checksum", at, checksum).malformed(
        "not the header's, or its signature is wrong; and the second header is no better",
    ))
}

/// The header at `offset`, if its signature and its checksum are right.
fn valid_at(storage: &dyn Storage, offset: u64) -> Result<Option<RawHeader>> {
    let mut bytes = [0; HEADER_LEN];
    storage.read_padded(&mut bytes, offset)?;
    let raw = RawHeader::read_from_prefix(&bytes).ok().map(|(raw, _)| raw);
    Ok(raw
        .filter(|raw| raw.signature == HEADER_SIGNATURE && checksum::is_sound([bytes.as_slice()])))
}

fn same(one: &RawHeader, other: &RawHeader) -> bool {
    one.as_bytes() == other.as_bytes()
}
