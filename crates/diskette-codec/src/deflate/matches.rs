//! Finds where bytes have occurred before, within the window.

/// Where the bytes at each position of the window occurred before, by their hashes.
///
/// Positions are kept modulo 64 Ki. What is too old, or never was, shows by its distance or by its bytes: every candidate
/// is compared.
pub(super) struct Matcher {
    /// The last position of each hash of four bytes.
    heads: Box<[u16; 1 << HEAD_BITS]>,
    /// For each position of the window, the one of the same hash before it.
    before: Box<[u16; MOST_WINDOW]>,
    /// The last position of each hash of three bytes.
    threes: Box<[u16; 1 << THREE_BITS]>,
    /// Bytes of the window less one: a power of two less one.
    mask: usize,
}

/// A match. A length of 0 is none.
#[derive(Clone, Copy, Default)]
pub(super) struct Match {
    pub(super) len: usize,
    pub(super) distance: usize,
}

const HEAD_BITS: u32 = 13;
const THREE_BITS: u32 = 12;
/// Bytes of the largest window.
const MOST_WINDOW: usize = 1 << 15;
/// Bytes of the longest match.
const LONGEST: usize = 258;

impl Matcher {
    pub(super) fn new(window_bits: u8) -> Self {
        Self {
            heads: Box::new([0; 1 << HEAD_BITS]),
            before: Box::new([0; MOST_WINDOW]),
            threes: Box::new([0; 1 << THREE_BITS]),
            mask: (1 << window_bits.clamp(8, 15)) - 1,
        }
    }

    /// Forgets all positions, so that what is found does not depend on what was compressed before.
    pub(super) fn reset(&mut self) {
        self.heads.fill(0);
        self.threes.fill(0);
        self.before[..=self.mask].fill(0);
    }

    /// Remembers a position, and finds the longest match there that is longer than `than`, looking at no more than `depth`
    /// candidates and content with `nice` bytes.
    #[inline]
    pub(super) fn find(
        &mut self,
        src: &[u8],
        at: usize,
        than: usize,
        depth: usize,
        nice: usize,
    ) -> Match {
        let Some(four) = four_at(src, at) else {
            return Match::default();
        };
        let (mut candidate, three) = self.insert(four, at);
        let mut best = Match::default();
        let mut best_len = than;
        if than < 3 {
            let distance = self.distance(at, three);
            let found = at.checked_sub(distance).and_then(|at| four_at(src, at));
            if distance > 0 && found.is_some_and(|found| (found ^ four) << 8 == 0) {
                best = Match { len: 3, distance };
            }
            best_len = 3;
        }
        // What a longer match must end with.
        let Some(mut tail) = four_at(src, at + best_len - 3) else {
            return best;
        };
        let mut nearest = 0;
        for _ in 0..depth {
            let distance = self.distance(at, candidate);
            if distance <= nearest || distance > at {
                break;
            }
            nearest = distance;
            let earlier = at - distance;
            if four_at(src, earlier + best_len - 3) == Some(tail)
                && four_at(src, earlier) == Some(four)
            {
                let len = common_len(src, earlier, at);
                if len > best_len {
                    best = Match { len, distance };
                    best_len = len;
                    if len >= nice {
                        break;
                    }
                    match four_at(src, at + len - 3) {
                        Some(longer) => tail = longer,
                        None => break,
                    }
                }
            }
            candidate = self.before[earlier & self.mask & (MOST_WINDOW - 1)];
        }
        best
    }

    /// Remembers positions.
    #[inline]
    pub(super) fn skip(&mut self, src: &[u8], at: usize, count: usize) {
        let rest = src.get(at..).unwrap_or_default();
        for (at, four) in (at..).zip(rest.windows(4)).take(count) {
            if let Some(four) = four.first_chunk() {
                self.insert(u32::from_le_bytes(*four), at);
            }
        }
    }

    /// Remembers a position by its four bytes, and gives the ones before it: of the same four, of the same three.
    #[inline]
    fn insert(&mut self, four: u32, at: usize) -> (u16, u16) {
        let position = position(at);
        let head = &mut self.heads[hash(four, HEAD_BITS)];
        let candidate = std::mem::replace(head, position);
        self.before[at & self.mask & (MOST_WINDOW - 1)] = candidate;
        let three = &mut self.threes[hash(four << 8, THREE_BITS)];
        (candidate, std::mem::replace(three, position))
    }

    /// How far before `at` a position lies; 0 if it is out of the window.
    #[inline]
    fn distance(&self, at: usize, position: u16) -> usize {
        let distance = usize::from(self::position(at).wrapping_sub(position));
        // A window of 4 KiB ends where its next byte would take the place of the first.
        if distance > self.mask { 0 } else { distance }
    }
}

/// What is remembered of a position.
#[inline]
#[expect(
    clippy::cast_possible_truncation,
    reason = "a window is shorter than 64 KiB"
)]
const fn position(at: usize) -> u16 {
    at as u16
}

#[inline]
fn hash(bytes: u32, bits: u32) -> usize {
    (bytes.wrapping_mul(0x9e37_79b1) >> (32 - bits)) as usize
}

#[inline]
fn four_at(src: &[u8], at: usize) -> Option<u32> {
    let bytes = src.get(at..)?.first_chunk::<4>()?;
    Some(u32::from_le_bytes(*bytes))
}

/// How many bytes at `earlier` and at `at` are the same, up to the longest match.
#[inline]
fn common_len(src: &[u8], earlier: usize, at: usize) -> usize {
    let most = LONGEST.min(src.len() - at);
    let (one, two) = (&src[earlier..earlier + most], &src[at..at + most]);
    let mut len = 0;
    while let (Some(one), Some(two)) = (
        one.get(len..).and_then(|rest| rest.first_chunk::<8>()),
        two.get(len..).and_then(|rest| rest.first_chunk::<8>()),
    ) {
        let differing = u64::from_le_bytes(*one) ^ u64::from_le_bytes(*two);
        if differing != 0 {
            return len + (differing.trailing_zeros() / 8) as usize;
        }
        len += 8;
    }
    let rest = one[len..].iter().zip(&two[len..]);
    len + rest.take_while(|(one, two)| one == two).count()
}
