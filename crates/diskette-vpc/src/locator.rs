//! Where a differencing image says that its parent is.

use diskette_core::{Error, Field, Result, Storage, StorageExt};

use crate::{FORMAT, spec};

/// The best path among the locators of the header at `header_offset`, with `/` between its parts: a relative one, else
/// the last part of an absolute one, which is looked for beside the image. One that is garbled gives way to the next.
pub(crate) fn best(
    storage: &dyn Storage,
    raw: &spec::DynamicHeader,
    header_offset: u64,
) -> Result<Option<String>> {
    let mut first_error = None;
    for code in [
        spec::LOCATOR_RELATIVE,
        spec::LOCATOR_ABSOLUTE,
        spec::LOCATOR_URL,
    ] {
        let locators = raw.parent_locators.iter().enumerate();
        for (index, locator) in locators.filter(|(_, locator)| locator.platform_code == code) {
            let at = header_offset + 576 + 24 * index as u64; // the header lies within the file
            let read = Entry { index, at }.read(storage, locator);
            match read.and_then(|bytes| path(code, &bytes, &Entry { index, at })) {
                Ok(path) if path.is_empty() => {}
                Ok(path) => return Ok(Some(path)),
                Err(error @ Error::Malformed { .. }) => first_error = first_error.or(Some(error)),
                Err(error) => return Err(error),
            }
        }
    }
    first_error.map_or(Ok(None), Err)
}

/// A locator's place, to complain about.
struct Entry {
    index: usize,
    at: u64,
}

impl Entry {
    fn read(&self, storage: &dyn Storage, locator: &spec::ParentLocator) -> Result<Vec<u8>> {
        const LEN_MAX: u64 = 64 << 10;
        let field = |part, at, value| {
            let name = format!("header.parent_locators[{}].{part}", self.index);
            Field::new(FORMAT, name, self.at + at, value)
        };
        let len = u64::from(locator.platform_data_length.get());
        field("platform_data_length", 8, len).within(0..=LEN_MAX)?;
        let offset = locator.platform_data_offset.get();
        field("platform_data_offset", 16, offset).followed_by(len, storage.total_size()?)?;
        storage.read_vec(usize::try_from(len).unwrap_or(0), offset)
    }

    fn garbled(&self) -> Error {
        Error::malformed(
            FORMAT,
            format!("header.parent_locators[{}]", self.index),
            self.at,
            self.index as u64,
            "not a path in its encoding",
        )
    }
}

fn path(code: [u8; 4], bytes: &[u8], entry: &Entry) -> Result<String> {
    match code {
        spec::LOCATOR_RELATIVE => utf16(bytes, entry).map(|path| portable(&path)),
        spec::LOCATOR_ABSOLUTE => utf16(bytes, entry).map(|path| beside(&path)),
        _ => {
            let url = std::str::from_utf8(bytes).map_err(|_| entry.garbled())?;
            let path = url.trim_end_matches('\0').trim_start_matches("file://");
            Ok(beside(path))
        }
    }
}

fn utf16(bytes: &[u8], entry: &Entry) -> Result<String> {
    let (pairs, odd) = bytes.as_chunks::<2>();
    let units = pairs.iter().map(|pair| u16::from_le_bytes(*pair));
    match char::decode_utf16(units).collect::<Result<String, _>>() {
        Ok(text) if odd.is_empty() => Ok(text.trim_end_matches('\0').to_owned()),
        _ => Err(entry.garbled()),
    }
}

/// `.\a\b.vhd` is `a/b.vhd`.
fn portable(path: &str) -> String {
    let path = path.replace('\\', "/");
    path.strip_prefix("./").unwrap_or(&path).to_owned()
}

/// The whole path where it is relative; else its last part.
fn beside(path: &str) -> String {
    let path = portable(path);
    let has_drive = path.as_bytes().get(1) == Some(&b':');
    if has_drive || path.starts_with('/') {
        return path
            .rsplit(['/', ':'])
            .next()
            .unwrap_or_default()
            .to_owned();
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_absolute_path_is_looked_for_beside_the_image() {
        assert_eq!(beside(r"C:\vm\base.vhd"), "base.vhd");
        assert_eq!(beside(r"\\server\share\base.vhd"), "base.vhd");
        assert_eq!(beside("/vm/base.vhd"), "base.vhd");
        assert_eq!(beside(r"C:base.vhd"), "base.vhd");
        assert_eq!(beside("./base.vhd"), "base.vhd");
        assert_eq!(portable(r".\sub\base.vhd"), "sub/base.vhd");
    }
}
