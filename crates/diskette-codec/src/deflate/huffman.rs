//! Prefix codes: how long each symbol's code is, and the codes themselves.

/// Fills `lengths` with the lengths of a complete prefix code, of at most `longest` bits, that is short where `counts` are
/// high. Symbols that do not occur get none, but two at least have a code: some readers take no less.
pub(super) fn code_lengths(counts: &[u32], longest: usize, lengths: &mut [u8]) {
    let mut leaves: Vec<(u32, u16)> = Vec::with_capacity(counts.len());
    for (symbol, count) in (0_u16..).zip(counts) {
        if *count > 0 {
            leaves.push((*count, symbol));
        }
    }
    let spare = (0_u16..).zip(counts).filter(|(_, count)| **count == 0);
    for (symbol, _) in spare.take(2_usize.saturating_sub(leaves.len())) {
        leaves.push((1, symbol));
    }
    leaves.sort_unstable();
    let mut of_length = lengths_of_tree(&leaves);
    limit(&mut of_length, longest);
    lengths.fill(0);
    // The rarest symbols have the longest codes.
    let mut symbols = leaves.iter();
    for length in (1..=15_u8).rev() {
        let count = of_length[usize::from(length)];
        for (_, symbol) in symbols.by_ref().take(count) {
            lengths[usize::from(*symbol)] = length;
        }
    }
}

/// How many codes there are of each length in the best tree for leaves in ascending order.
fn lengths_of_tree(leaves: &[(u32, u16)]) -> [usize; DEEPEST] {
    let inner_count = leaves.len() - 1;
    // Inner nodes come into being in ascending order, so that both are queues. A node's parent comes after it.
    let mut weights = Vec::with_capacity(inner_count);
    let mut leaf_parents = vec![0; leaves.len()];
    let mut inner_parents = vec![0; inner_count];
    let (mut leaf, mut inner) = (0, 0);
    for parent in 0..inner_count {
        let mut weight = 0;
        for _ in 0..2 {
            let leaf_is_next = match (leaves.get(leaf), weights.get(inner)) {
                (Some((count, _)), Some(weight)) => count <= weight,
                (next, _) => next.is_some(),
            };
            if leaf_is_next {
                weight += leaves[leaf].0;
                leaf_parents[leaf] = parent;
                leaf += 1;
            } else {
                weight += weights[inner];
                inner_parents[inner] = parent;
                inner += 1;
            }
        }
        weights.push(weight);
    }
    let mut depths = vec![0; inner_count];
    for node in (0..inner_count.saturating_sub(1)).rev() {
        depths[node] = depths[inner_parents[node]] + 1;
    }
    let mut of_length = [0; DEEPEST];
    for parent in leaf_parents {
        // Counts are below 2^32, so that no leaf is deeper than 46: their sums grow as Fibonacci's numbers at least.
        of_length[(depths[parent] + 1).min(DEEPEST - 1)] += 1;
    }
    of_length
}

/// Deeper than any tree.
const DEEPEST: usize = 48;

/// Shortens the codes that are too long, and makes others longer until all are one complete code again.
fn limit(of_length: &mut [usize; DEEPEST], longest: usize) {
    let too_long: usize = of_length[longest + 1..].iter().sum();
    if too_long == 0 {
        return;
    }
    of_length[longest + 1..].fill(0);
    of_length[longest] += too_long;
    let used = |of_length: &[usize; DEEPEST]| -> usize {
        let lengths = of_length[..=longest].iter().enumerate();
        lengths
            .map(|(length, count)| count << (longest - length))
            .sum()
    };
    // One code of the longest becomes the brother of a shorter one, which thereby gets one bit more.
    for _ in 0..used(of_length) - (1 << longest) {
        let Some(shorter) = (1..longest).rev().find(|length| of_length[*length] > 0) else {
            return;
        };
        of_length[shorter] -= 1;
        of_length[shorter + 1] += 2;
        of_length[longest] -= 1;
    }
}

/// The codes of symbols with these lengths, their first bit lowest.
pub(super) fn codes(lengths: &[u8], codes: &mut [u16]) {
    let mut next = [0_u16; 16];
    for length in lengths {
        next[usize::from(*length)] += 1;
    }
    next[0] = 0;
    let mut code = 0;
    for count in &mut next[1..] {
        code <<= 1;
        let first = code;
        code += *count;
        *count = first;
    }
    for (length, code) in lengths.iter().zip(codes) {
        let next = &mut next[usize::from(*length)];
        *code = match length {
            0 => 0,
            _ => next.reverse_bits() >> (16 - length),
        };
        *next = next.wrapping_add(1);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn lengths(counts: &[u32], longest: usize) -> Vec<u8> {
        let mut lengths = vec![9; counts.len()];
        code_lengths(counts, longest, &mut lengths);
        lengths
    }

    #[test]
    fn frequent_symbols_have_short_codes() {
        assert_eq!(lengths(&[5, 0, 1, 1, 2], 15), [1, 0, 3, 3, 2]);
        assert_eq!(lengths(&[0, 0, 7, 0], 15), [1, 0, 1, 0]);
        assert_eq!(lengths(&[0, 0, 0], 15), [1, 1, 0]);
    }

    #[test]
    fn codes_are_those_of_the_specification() {
        // RFC 1951, 3.2.2.
        let lengths = [3, 3, 3, 3, 3, 2, 4, 4];
        let mut found = [0; 8];
        codes(&lengths, &mut found);
        let forward: Vec<u16> = found
            .iter()
            .zip(lengths)
            .map(|(code, length)| code.reverse_bits() >> (16 - length))
            .collect();
        assert_eq!(
            forward,
            [0b010, 0b011, 0b100, 0b101, 0b110, 0b00, 0b1110, 0b1111]
        );
    }

    proptest! {
        #[test]
        fn every_code_is_complete_and_within_its_limit(
            counts in proptest::collection::vec(prop_oneof![Just(0_u32), 1..9_u32, 1..60_000_u32], 2..286),
            deep in any::<bool>(), limit in 9..16_usize,
        ) {
            let mut counts = counts;
            if deep {
                let (mut one, mut two) = (1, 1);
                for count in counts.iter_mut().take(23) {
                    *count = one;
                    (one, two) = (two, one + two);
                }
            }
            let lengths = lengths(&counts, limit);
            let sum: u32 = lengths.iter().filter(|length| **length > 0).map(|length| 1 << (15 - length)).sum();
            prop_assert_eq!(sum, 1 << 15);
            for (length, count) in lengths.iter().zip(&counts) {
                prop_assert!(usize::from(*length) <= limit);
                prop_assert!(*length > 0 || *count == 0);
            }
        }
    }
}
