//! Deflate with a narrow window, in one go.
//!
//! Readers of QCOW2 may keep a window of 4 KiB. The encoders that are fast know 32 KiB alone (libdeflate); those that can
//! do with less find no copies of three bytes, of which such a window has many, or search without a bound. So here is one
//! made for it: all its tables lie in the first-level cache.

mod bits;
mod block;
mod huffman;
mod matches;
mod symbols;

use bits::{BitWriter, SLACK};
use block::{Counts, write_block};
use matches::{Match, Matcher};
use symbols::Token;

/// How hard to look.
#[derive(Clone, Copy)]
struct Effort {
    /// Candidates to be compared.
    depth: usize,
    /// A match of this many bytes is long enough.
    nice: usize,
    /// Whether the next positions are tried before a match is taken, and how many.
    lazy: usize,
}

impl Effort {
    const fn of(level: u8) -> Self {
        let (depth, nice, lazy) = match level {
            0..=1 => (2, 16, 0),
            2 => (6, 32, 0),
            3 => (4, 24, 1),
            4 => (6, 32, 1),
            5 => (8, 48, 1),
            6 => (12, 64, 1),
            7 => (24, 128, 1),
            8 => (64, 258, 2),
            _ => (400, 258, 2),
        };
        Self { depth, nice, lazy }
    }
}

/// Compresses chunks to raw deflate streams.
pub(crate) struct Deflater {
    effort: Effort,
    matcher: Matcher,
    tokens: Vec<Token>,
}

impl Deflater {
    /// `level` 1 to 9, `window_bits` 9 to 15.
    pub(crate) fn new(level: u8, window_bits: u8) -> Self {
        Self {
            effort: Effort::of(level),
            matcher: Matcher::new(window_bits),
            tokens: Vec::new(),
        }
    }

    /// Appends to `out` the stream that `src` makes. `false`, and `out` as it was, if that is longer than `limit` bytes.
    pub(crate) fn encode(&mut self, src: &[u8], out: &mut Vec<u8>, limit: usize) -> bool {
        let start = out.len();
        // A stream is never longer than that: stored blocks add some bytes to every few kilobytes.
        let longest = src.len().saturating_add(src.len() / 8 + 64);
        out.resize(
            start.saturating_add(limit.min(longest).saturating_add(SLACK)),
            0,
        );
        let len = self.encode_into(src, &mut out[start..], limit);
        out.truncate(start + len.unwrap_or(0));
        len.is_some()
    }

    fn encode_into(&mut self, src: &[u8], out: &mut [u8], limit: usize) -> Option<usize> {
        self.matcher.reset();
        let mut stream = Stream::new(src, BitWriter::new(out), &mut self.tokens);
        let mut at = 0;
        while at < src.len() {
            at = match self.effort.lazy {
                0 => greedy(&mut self.matcher, self.effort, &mut stream, at),
                _ => lazy(&mut self.matcher, self.effort, &mut stream, at),
            };
            if stream.bits.bits() / 8 > limit as u64 {
                return None;
            }
        }
        let len = stream.finish();
        (len <= limit).then_some(len)
    }
}

/// Takes the match at `at`, or a literal, and gives the position behind.
fn greedy(matcher: &mut Matcher, effort: Effort, stream: &mut Stream<'_>, at: usize) -> usize {
    let found = matcher.find(stream.src, at, 2, effort.depth, effort.nice);
    if found.len == 0 || is_poor(found) {
        stream.literal(at);
        return at + 1;
    }
    stream.copy(found);
    matcher.skip(stream.src, at + 1, found.len - 1);
    at + found.len
}

/// The same, but a match gives way to a better one that begins a little later.
fn lazy(matcher: &mut Matcher, effort: Effort, stream: &mut Stream<'_>, at: usize) -> usize {
    let mut at = at;
    let mut found = matcher.find(stream.src, at, 2, effort.depth, effort.nice);
    if found.len == 0 || is_poor(found) {
        stream.literal(at);
        return at + 1;
    }
    // Positions that are remembered already, from `at` on.
    let mut known = 1;
    while found.len < effort.nice && known <= effort.lazy {
        let depth = (effort.depth >> known).max(1);
        let next = matcher.find(stream.src, at + known, found.len - 1, depth, effort.nice);
        known += 1;
        if next.len > 0 && is_better(next, found, known - 1) {
            for _ in 1..known {
                stream.literal(at);
                at += 1;
            }
            found = next;
            known = 1;
        }
    }
    stream.copy(found);
    matcher.skip(stream.src, at + known, found.len.saturating_sub(known));
    at + found.len
}

/// Whether three literals are likely to be shorter.
const fn is_poor(found: Match) -> bool {
    found.len == 3 && found.distance > 2048
}

/// Whether a match is worth the literals before it. A byte more counts as much as a distance of 16th the size.
fn is_better(next: Match, found: Match, ahead: usize) -> bool {
    let score = |found: Match| {
        4 * i64::try_from(found.len).unwrap_or(0) - i64::from(found.distance.ilog2())
    };
    score(next) - score(found) > if ahead == 1 { 2 } else { 6 }
}

/// A stream in the making: tokens that wait for their block to be whole.
struct Stream<'a> {
    src: &'a [u8],
    bits: BitWriter<'a>,
    tokens: &'a mut Vec<Token>,
    /// Where the bytes of `tokens` begin and end.
    start: usize,
    end: usize,
    /// The tokens that will be one block, and their bytes' end.
    block: Counts,
    block_tokens: usize,
    block_end: usize,
    block_entropy: u64,
    /// The tokens behind, which will join it or not.
    segment: Counts,
}

/// Tokens after which a new block may begin.
const SEGMENT: usize = 1024;
/// Tokens of the longest block, roughly.
const MOST_TOKENS: usize = 1 << 15;
/// What a block's header costs, in 256ths of a bit.
const HEADER_COST: u64 = 400 * 256;

impl<'a> Stream<'a> {
    fn new(src: &'a [u8], bits: BitWriter<'a>, tokens: &'a mut Vec<Token>) -> Self {
        tokens.clear();
        Self {
            src,
            bits,
            tokens,
            start: 0,
            end: 0,
            block: Counts::NONE,
            block_tokens: 0,
            block_end: 0,
            block_entropy: 0,
            segment: Counts::NONE,
        }
    }

    #[inline]
    fn literal(&mut self, at: usize) {
        let byte = self.src[at];
        self.segment.literal(byte);
        self.add(Token::literal(byte), 1);
    }

    #[inline]
    fn copy(&mut self, found: Match) {
        let token = Token::copy(found.len, found.distance);
        self.segment.copy(token);
        self.add(token, found.len);
    }

    #[inline]
    fn add(&mut self, token: Token, len: usize) {
        self.tokens.push(token);
        self.end += len;
        if self.tokens.len() - self.block_tokens >= SEGMENT {
            self.end_segment();
        }
    }

    /// Adds the segment to the block, after the block has been written if it is better off alone.
    fn end_segment(&mut self) {
        if self.block_tokens > 0 {
            let apart = self.block_entropy + self.segment.entropy() + HEADER_COST;
            let together = self.block.entropy_with(&self.segment);
            if apart < together || self.block_tokens >= MOST_TOKENS {
                self.write(false);
            }
        }
        self.block.add(&self.segment);
        self.segment = Counts::NONE;
        self.block_entropy = self.block.entropy();
        self.block_tokens = self.tokens.len();
        self.block_end = self.end;
    }

    fn write(&mut self, last: bool) {
        write_block(
            &mut self.bits,
            &self.tokens[..self.block_tokens],
            &self.block,
            &self.src[self.start..self.block_end],
            last,
        );
        self.tokens.drain(..self.block_tokens);
        self.start = self.block_end;
        self.block_tokens = 0;
        self.block = Counts::NONE;
    }

    fn finish(mut self) -> usize {
        self.end_segment();
        self.write(true);
        self.bits.finish()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn encoded(deflater: &mut Deflater, data: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        assert!(deflater.encode(data, &mut out, usize::MAX));
        out
    }

    fn inflated(stream: &[u8], window_bits: u8, len: usize) -> Vec<u8> {
        let mut inflater = flate2::Decompress::new_with_window_bits(false, window_bits);
        let mut out = Vec::with_capacity(len + 1);
        let done = inflater.decompress_vec(stream, &mut out, flate2::FlushDecompress::Finish);
        assert_eq!(done.unwrap(), flate2::Status::StreamEnd);
        assert_eq!(inflater.total_in(), stream.len() as u64);
        out
    }

    fn noise(seed: u64, len: usize) -> impl Iterator<Item = u8> {
        let mut state = seed | 1;
        let next = move || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_be_bytes()[2]
        };
        std::iter::repeat_with(next).take(len)
    }

    #[test]
    fn a_stream_does_not_depend_on_what_was_compressed_before() {
        let text: Vec<u8> = noise(7, 90_000).map(|byte| byte % 7).collect();
        for level in 1..=9 {
            let mut fresh = Deflater::new(level, 12);
            let mut used = Deflater::new(level, 12);
            encoded(&mut used, &text[5000..80_000]);
            let mut out = Vec::new();
            assert!(!used.encode(&text, &mut out, 1000));
            assert_eq!(encoded(&mut fresh, &text), encoded(&mut used, &text));
        }
    }

    #[test]
    fn chunks_of_megabytes_and_all_kinds_of_blocks_come_back() {
        let data: Vec<u8> = noise(1, 200_000)
            .chain(std::iter::repeat_n(0, 300_000))
            .chain(noise(2, 200_000).map(|byte| byte & 3))
            .chain(noise(3, 100))
            .chain(noise(4, 300_000).map(|byte| byte / 5))
            .collect();
        for level in [1, 3, 6, 9] {
            for window_bits in [9, 12, 14, 15] {
                let stream = encoded(&mut Deflater::new(level, window_bits), &data);
                assert!(stream.len() < 600_000, "{}", stream.len());
                assert!(inflated(&stream, 15, data.len()) == data);
            }
        }
    }

    #[test]
    fn noise_is_stored() {
        let data: Vec<u8> = noise(5, 65536).collect();
        let stream = encoded(&mut Deflater::new(6, 12), &data);
        assert!((65536..65560).contains(&stream.len()), "{}", stream.len());
        assert!(inflated(&stream, 12, data.len()) == data);
    }

    proptest! {
        #[test]
        fn whatever_is_deflated_is_inflated(
            seeds in proptest::collection::vec((any::<u64>(), 1..3000_usize, 1..=255_u8, 1..4_usize), 0..12),
            level in 1..=9_u8,
        ) {
            let parts = seeds.iter().flat_map(|(seed, len, bound, times)| {
                let part: Vec<u8> = noise(*seed, *len).map(|byte| byte % bound).collect();
                part.repeat(*times)
            });
            let data: Vec<u8> = parts.collect();
            let stream = encoded(&mut Deflater::new(level, 12), &data);
            prop_assert_eq!(inflated(&stream, 12, data.len()), data);
        }
    }
}
