//! Large files that are mostly zeros, as small inputs.

/// Bytes of a page.
const PAGE: usize = 4096;
/// Pages of a file, at most.
const MOST_PAGES: usize = 4096;

/// A page's number stands before its bytes.
const NUMBERED: usize = PAGE + 2;

/// The file in `data`: pages, each behind its number in two bytes; all else is zeros. Numbers are counted round, and what is
/// left of a page is taken for it.
pub fn spread(data: &[u8]) -> Vec<u8> {
    let mut file = Vec::new();
    for piece in data.chunks(NUMBERED) {
        let Some((number, bytes)) = piece.split_first_chunk::<2>() else {
            break;
        };
        let at = usize::from(u16::from_le_bytes(*number)) % MOST_PAGES * PAGE;
        if file.len() < at + PAGE {
            file.resize(at + PAGE, 0);
        }
        file[at..at + bytes.len()].copy_from_slice(bytes);
    }
    file
}

/// An input for this file, whose last page is one of it.
pub fn squeeze(file: &[u8]) -> Vec<u8> {
    let mut input = Vec::new();
    let last = file.len().div_ceil(PAGE).saturating_sub(1);
    for (number, page) in (0_u16..).zip(file.chunks(PAGE)) {
        if usize::from(number) == last || page.iter().any(|byte| *byte != 0) {
            input.extend_from_slice(&number.to_le_bytes());
            input.extend_from_slice(page);
            input.resize(input.len().next_multiple_of(NUMBERED), 0);
        }
    }
    input
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_squeezed_is_spread_again() {
        let mut file = vec![0; 9 * PAGE];
        file[3 * PAGE + 17] = 1;
        let input = squeeze(&file);
        assert_eq!(input.len(), 2 * NUMBERED);
        assert_eq!(spread(&input), file);
    }
}
