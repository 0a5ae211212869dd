//! Where a differencing image says that its parent is.

use diskette_core::{Error, Result, Storage, StorageExt};

use crate::{FORMAT, spec};

/// The best path among the locators, with `/` between its parts: a relative one, else the last part of an absolute
/// one, which is looked for beside the image.
pub(crate) fn best(storage: &dyn Storage, raw: &spec::DynamicHeader) -> Result<Option<String>> {
    let find = |code: [u8; 4]| {
        raw.parent_locators
            .iter()
            .position(|locator| locator.platform_code == code)
    };
    let read = |index: usize| read(storage, index, &raw.parent_locators[index]);
    if let Some(index) = find(spec::LOCATOR_RELATIVE) {
        return Ok(Some(portable(&utf16(&read(index)?, index)?)));
    }
    if let Some(index) = find(spec::LOCATOR_ABSOLUTE) {
        return Ok(Some(beside(&utf16(&read(index)?, index)?)));
    }
    if let Some(index) = find(spec::LOCATOR_URL) {
        let bytes = read(index)?;
        let Ok(url) = std::str::from_utf8(&bytes) else {
            return Err(garbled(index));
        };
        let path = url.trim_end_matches('\0').trim_start_matches("file://");
        return Ok(Some(beside(path)));
    }
    Ok(None)
}

fn read(storage: &dyn Storage, index: usize, locator: &spec::ParentLocator) -> Result<Vec<u8>> {
    const LEN_MAX: u64 = 64 << 10;
    let name = |part| format!("header.parent_locators[{index}].{part}");
    let len = u64::from(locator.platform_data_length.get());
    let at = 512 + 576 + 24 * index as u64;
    diskette_core::Field::new(FORMAT, name("platform_data_length"), at + 8, len)
        .within(0..=LEN_MAX)?;
    let offset = diskette_core::Field::new(
        FORMAT,
        name("platform_data_offset"),
        at + 16,
        locator.platform_data_offset,
    );
    let offset = offset.followed_by(len, storage.total_size()?)?;
    storage.read_vec(usize::try_from(len).unwrap_or(0), offset)
}

fn utf16(bytes: &[u8], index: usize) -> Result<String> {
    let (pairs, odd) = bytes.as_chunks::<2>();
    let units = pairs.iter().map(|pair| u16::from_le_bytes(*pair));
    match char::decode_utf16(units).collect::<Result<String, _>>() {
        Ok(text) if odd.is_empty() => Ok(text.trim_end_matches('\0').to_owned()),
        _ => Err(garbled(index)),
    }
}

fn garbled(index: usize) -> Error {
    Error::malformed(
        FORMAT,
        format!("header.parent_locators[{index}]"),
        576,
        index as u64,
        "not a path in its encoding",
    )
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
