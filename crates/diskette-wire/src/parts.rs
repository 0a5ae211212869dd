//! Parts of a file, sent so that it is looked at before all of it is sent.

use crate::error::{Result, WireError};
use crate::range::number;

/// The parts in `body` of a file of `size` bytes, each with its offset. `text` lists them: `OFFSET-LENGTH`, by commas; they are
/// as long, together, as the body. At most 64 are taken.
pub fn parts<'a>(size: u64, text: &str, body: &'a [u8]) -> Result<Vec<(u64, &'a [u8])>> {
    let mut rest = body;
    let mut parts = Vec::new();
    for part in text.split(',').take(MOST) {
        let (offset, len) = part.split_once('-').ok_or(NO_PARTS)?;
        let (offset, len) = (
            number(offset).ok_or(NO_PARTS)?,
            number(len).ok_or(NO_PARTS)?,
        );
        if offset.checked_add(len).is_none_or(|end| end > size) {
            return Err(BEHIND);
        }
        let len = usize::try_from(len).map_err(|_| NO_PARTS)?;
        let (bytes, after) = rest.split_at_checked(len).ok_or(NO_PARTS)?;
        parts.push((offset, bytes));
        rest = after;
    }
    match rest.is_empty() {
        true => Ok(parts),
        false => Err(NO_PARTS),
    }
}

const MOST: usize = 64;
const NO_PARTS: WireError = WireError::Parts {
    why: "parts are OFFSET-LENGTH, as many bytes as the body has",
};
const BEHIND: WireError = WireError::Parts {
    why: "a part lies behind the file's end",
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_lie_within_the_file_and_make_up_the_body() {
        let found = parts(100, "0-2,98-2,7-0", b"abcd").unwrap();
        assert_eq!(found, [(0, &b"ab"[..]), (98, b"cd"), (7, b"")]);
        for wrong in ["", "0-3", "0-5", "0", "a-4", "+0-4", "0-2,0-2,0-2"] {
            assert_eq!(parts(100, wrong, b"abcd"), Err(NO_PARTS), "{wrong}");
        }
        for behind in ["97-4", "101-0", "18446744073709551615-4"] {
            assert_eq!(parts(100, behind, b"abcd"), Err(BEHIND), "{behind}");
        }
    }
}
