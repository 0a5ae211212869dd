//! The content's id in a descriptor, changed where it stands: as many digits as it had, so that no other byte moves.

use diskette_core::{Error, Limits, NewId, Result, Storage, StorageExt, StorageMut};
use uuid::Uuid;

use crate::FORMAT;
use crate::descriptor::{Access, NO_PARENT};
use crate::image::Image;

/// Where the id stands, and what it is.
#[derive(Debug)]
pub(super) struct ContentIdPlace {
    /// Host offset of its first digit.
    at: u64,
    digits: usize,
    value: u32,
    /// Host offset of the last 8 digits of VMware's longer id, if it ends in the other one.
    long_at: Option<u64>,
}

impl ContentIdPlace {
    /// Finds it in the image's descriptor, which must allow writing.
    pub(super) fn find(storage: &dyn Storage, image: &Image, limits: &Limits) -> Result<Self> {
        let descriptor = &image.descriptor;
        let embedded = image
            .headers
            .first()
            .and_then(|(_, header)| header.descriptor);
        let (at, len) = match embedded {
            Some((at, len)) if at == descriptor.at => (at, len),
            _ => (descriptor.at, storage.total_size()? - descriptor.at),
        };
        limits.allow_descriptor(len)?;
        let text = storage.read_vec(usize::try_from(len).unwrap_or(usize::MAX), at)?;
        let value = descriptor.required_cid()?;
        let mut place = None;
        let mut long_at = None;
        for line in Lines::of(&text) {
            if line.is_key(b"changeTrackPath") {
                let feature = "writing into an image whose changes are tracked";
                return Err(Error::unsupported(FORMAT, feature));
            }
            let (start, digits) = line.hexadecimal();
            if line.is_key(b"CID") && place.is_none() {
                place = Some((at + start as u64, digits));
            }
            let low = format!("{value:08x}");
            if line.is_key(b"ddb.longContentID")
                && digits == 32
                && text[start + 24..][..8].eq_ignore_ascii_case(low.as_bytes())
            {
                long_at = Some(at + start as u64 + 24);
            }
        }
        let is_embedded = embedded.is_some();
        let mut extents = descriptor.extents.iter();
        if !is_embedded && extents.any(|extent| extent.access != Access::Write) {
            let feature = "writing into an extent that may only be read";
            return Err(Error::unsupported(FORMAT, feature));
        }
        match place {
            Some((at, digits)) if (1..=8).contains(&digits) => Ok(Self {
                at,
                digits,
                value,
                long_at,
            }),
            _ => Err(descriptor.missing("CID")),
        }
    }

    /// Writes another id.
    pub(super) fn change(&self, storage: &dyn StorageMut) -> Result<()> {
        let next = self.next();
        let text = format!("{next:08x}");
        write(storage, &text.as_bytes()[8 - self.digits..], self.at)?;
        match self.long_at {
            Some(at) => write(storage, text.as_bytes(), at),
            None => Ok(()),
        }
    }

    /// An id of no more digits that follows from the one that was.
    fn next(&self) -> u32 {
        /// What VMware gives to images that nobody has written to.
        const NEVER_WRITTEN: u32 = 0xffff_fffe;
        let mask = u32::MAX >> (32 - 4 * self.digits.min(8));
        let before = Uuid::from_fields(self.value, 0, 0, b"vmdk CID");
        let made = NewId::after(before).as_fields().0 & mask;
        let used = |id| [self.value, NO_PARENT, NEVER_WRITTEN].contains(&id);
        let mut free = (0..=mask).map(|step| made.wrapping_add(step) & mask);
        free.find(|id| !used(*id)).unwrap_or(made)
    }
}

fn write(storage: &dyn StorageMut, bytes: &[u8], at: u64) -> Result<()> {
    storage
        .write_at(bytes, at)
        .map_err(|source| storage.failed("write", at, bytes.len() as u64, source))
}

/// A line of a descriptor.
struct Line<'a> {
    /// Where it begins.
    at: usize,
    bytes: &'a [u8],
}

/// The lines of a descriptor, up to the first NUL.
struct Lines<'a> {
    rest: &'a [u8],
    at: usize,
}

impl<'a> Lines<'a> {
    fn of(text: &'a [u8]) -> Self {
        let rest = text.split(|byte| *byte == 0).next().unwrap_or_default();
        Self { rest, at: 0 }
    }
}

impl<'a> Iterator for Lines<'a> {
    type Item = Line<'a>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let end = self.rest.iter().position(|byte| *byte == b'\n');
        let (bytes, rest) = self
            .rest
            .split_at(end.map_or(self.rest.len(), |end| end + 1));
        let at = self.at;
        self.at += bytes.len();
        self.rest = rest;
        Some(Line { at, bytes })
    }
}

impl Line<'_> {
    /// Whether it gives this key a value.
    fn is_key(&self, key: &[u8]) -> bool {
        let equals = self.bytes.iter().position(|byte| *byte == b'=');
        equals.is_some_and(|end| self.bytes[..end].trim_ascii().eq_ignore_ascii_case(key))
    }

    /// The hexadecimal digits of its value: where in the text they begin, and how many there are.
    fn hexadecimal(&self) -> (usize, usize) {
        let equals = self.bytes.iter().position(|byte| *byte == b'=');
        let start = equals.map_or(self.bytes.len(), |equals| equals + 1);
        let blank = |byte: &&u8| matches!(byte, b' ' | b'\t' | b'"');
        let start = start + self.bytes[start..].iter().take_while(blank).count();
        let prefix = if self.bytes[start..].starts_with(b"0x") {
            2
        } else {
            0
        };
        let start = start + prefix;
        let digits = self.bytes[start..].iter();
        let count = digits.take_while(|byte| byte.is_ascii_hexdigit()).count();
        (self.at + start, count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(value: u32, digits: usize) -> ContentIdPlace {
        ContentIdPlace {
            at: 0,
            digits,
            value,
            long_at: None,
        }
    }

    #[test]
    fn the_next_id_is_another_one_of_as_many_digits() {
        for (value, digits) in [(0, 1), (0xf, 1), (0x1234, 4), (0xffff_fffe, 8), (1, 8)] {
            let next = place(value, digits).next();
            assert_ne!(next, value);
            assert!(u64::from(next) < 1 << (4 * digits), "{next:x}");
            assert!(next < 0xffff_fffe);
        }
    }

    #[test]
    fn digits_are_found_in_lines_of_all_ways_of_writing() {
        let text = b"# x\r\n CID = 0x12AB \nparentCID=ffffffff\ncid=\"7\"";
        let lines: Vec<_> = Lines::of(text).collect();
        let found = lines
            .iter()
            .filter(|line| line.is_key(b"CID"))
            .map(Line::hexadecimal);
        let found: Vec<_> = found
            .map(|(start, count)| &text[start..start + count])
            .collect();
        assert_eq!(found, [&b"12AB"[..], b"7"]);
    }
}
