//! Parts of a disk that may not be there.

use diskette_core::{BlockReader, BlockReaderExt, Result};

/// `len` bytes from `offset` on; `None` where the disk ends before.
pub(crate) fn read(disk: &dyn BlockReader, offset: u64, len: usize) -> Result<Option<Vec<u8>>> {
    match offset.checked_add(len as u64) {
        Some(end) if end <= disk.size() => disk.read_vec(offset, len).map(Some),
        _ => Ok(None),
    }
}

/// Text up to the first NUL, without blanks at its end; `None` where nothing is left.
pub(crate) fn text(bytes: &[u8]) -> Option<String> {
    let end = bytes
        .iter()
        .position(|byte| *byte == 0)
        .unwrap_or(bytes.len());
    let text = String::from_utf8_lossy(&bytes[..end]);
    let text = text.trim_end();
    (!text.is_empty()).then(|| text.to_owned())
}

/// UTF-16, little-endian, up to the first NUL.
pub(crate) fn utf16(bytes: &[u8]) -> Option<String> {
    let (pairs, _) = bytes.as_chunks::<2>();
    let units = pairs
        .iter()
        .map(|pair| u16::from_le_bytes(*pair))
        .take_while(|unit| *unit != 0);
    let text: String = char::decode_utf16(units)
        .map(|unit| unit.unwrap_or(char::REPLACEMENT_CHARACTER))
        .collect();
    (!text.is_empty()).then_some(text)
}
