//! Deflate's symbols: what stands for a literal, a length, a distance (RFC 1951, 3.2.5).

/// Literals, the end of a block, and lengths.
pub(super) const LITERALS: usize = 286;
/// Distances.
pub(super) const DISTANCES: usize = 30;
/// The end of a block.
pub(super) const END: usize = 256;

/// A symbol, and the bits that follow its code.
#[derive(Clone, Copy)]
pub(super) struct Symbol {
    pub(super) index: usize,
    pub(super) extra: u32,
    pub(super) extra_count: u32,
}

/// A literal, or a length with a distance.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Token(u32);

impl Token {
    #[inline]
    pub(super) const fn literal(byte: u8) -> Self {
        Self((byte as u32) << 16)
    }

    /// A copy of `len` bytes, 3 to 258, from `distance` bytes before, 1 to 32768.
    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "within these bounds")]
    pub(super) const fn copy(len: usize, distance: usize) -> Self {
        Self(((len - 3) as u32) << 16 | distance as u32)
    }

    /// The byte of a literal, or a copy's length less 3.
    #[inline]
    pub(super) const fn value(self) -> u32 {
        self.0 >> 16 & 0xff
    }

    /// 0 for a literal.
    #[inline]
    pub(super) const fn distance(self) -> u32 {
        self.0 & 0xffff
    }
}

/// The symbol of a length, given less 3.
pub(super) const fn length(value: u32) -> Symbol {
    let (index, extra_count) = match value {
        0..8 => (value, 0),
        255.. => (28, 0),
        _ => {
            let extra_count = value.ilog2() - 2;
            (4 * extra_count + (value >> extra_count), extra_count)
        }
    };
    let extra = match value {
        255.. => 0,
        _ => value & ((1 << extra_count) - 1),
    };
    Symbol {
        index: END + 1 + index as usize,
        extra,
        extra_count,
    }
}

/// The symbol of a distance, 1 to 32768.
#[inline]
pub(super) const fn distance(distance: u32) -> Symbol {
    let value = distance - 1;
    if value < 4 {
        return Symbol {
            index: value as usize,
            extra: 0,
            extra_count: 0,
        };
    }
    let extra_count = value.ilog2() - 1;
    Symbol {
        index: (2 * extra_count + (value >> extra_count)) as usize,
        extra: value & ((1 << extra_count) - 1),
        extra_count,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_and_distances_have_the_specifications_symbols() {
        let of_length = |len: u32| {
            let symbol = length(len - 3);
            (symbol.index, symbol.extra, symbol.extra_count)
        };
        assert_eq!(of_length(3), (257, 0, 0));
        assert_eq!(of_length(10), (264, 0, 0));
        assert_eq!(of_length(12), (265, 1, 1));
        assert_eq!(of_length(114), (279, 15, 4));
        assert_eq!(of_length(257), (284, 30, 5));
        assert_eq!(of_length(258), (285, 0, 0));
        let of_distance = |far: u32| {
            let symbol = distance(far);
            (symbol.index, symbol.extra, symbol.extra_count)
        };
        assert_eq!(of_distance(1), (0, 0, 0));
        assert_eq!(of_distance(4), (3, 0, 0));
        assert_eq!(of_distance(6), (4, 1, 1));
        assert_eq!(of_distance(4096), (23, 1023, 10));
        assert_eq!(of_distance(32768), (29, 8191, 13));
    }
}
