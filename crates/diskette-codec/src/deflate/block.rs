//! Blocks: how often each symbol occurs, what that costs in bits, and the bits.

use super::bits::BitWriter;
use super::huffman::{code_lengths, codes};
use super::symbols::{DISTANCES, END, LITERALS, Symbol, Token, distance, length};

/// How often each symbol occurs.
#[derive(Clone)]
pub(super) struct Counts {
    literals: [u32; LITERALS],
    distances: [u32; DISTANCES],
}

impl Counts {
    pub(super) const NONE: Self = Self {
        literals: [0; LITERALS],
        distances: [0; DISTANCES],
    };

    #[inline]
    pub(super) fn literal(&mut self, byte: u8) {
        self.literals[usize::from(byte)] += 1;
    }

    #[inline]
    pub(super) fn copy(&mut self, token: Token) {
        self.literals[length(token.value()).index] += 1;
        self.distances[distance(token.distance()).index] += 1;
    }

    pub(super) fn add(&mut self, other: &Self) {
        let own = self.literals.iter_mut().chain(&mut self.distances);
        let others = other.literals.iter().chain(&other.distances);
        for (own, other) in own.zip(others) {
            *own += other;
        }
    }

    /// The bits that the best of codes would take for all symbols, without those that follow the codes; in 256ths.
    pub(super) fn entropy(&self) -> u64 {
        entropy(self.literals.iter().copied()) + entropy(self.distances.iter().copied())
    }

    /// The same for the symbols of both.
    pub(super) fn entropy_with(&self, other: &Self) -> u64 {
        let both = |(own, other): (&u32, &u32)| own + other;
        entropy(self.literals.iter().zip(&other.literals).map(both))
            + entropy(self.distances.iter().zip(&other.distances).map(both))
    }
}

fn entropy(counts: impl Iterator<Item = u32>) -> u64 {
    let mut total = 0;
    let mut sum = 0;
    for count in counts {
        total += count;
        sum += u64::from(count) * log2(count);
    }
    u64::from(total) * log2(total) - sum
}

/// The binary logarithm of a number, in 256ths. 0 for 0.
#[inline]
fn log2(number: u32) -> u64 {
    let Some(whole) = number.checked_ilog2() else {
        return 0;
    };
    let fraction = number << (31 - whole) >> 23 & 0xff;
    u64::from(whole) * 256 + u64::from(LOG2_FRACTION[fraction as usize])
}

/// The logarithms of 1 + n / 256, in 256ths.
const LOG2_FRACTION: [u8; 256] = {
    let mut logarithms = [0; 256];
    let mut number = 0;
    while number < 256 {
        // Squaring doubles the logarithm, and so brings its bits forth one after another.
        let mut power = (256 + number as u64) << 22;
        let mut bit = 0;
        let mut logarithm = 0;
        while bit < 8 {
            power = (power * power) >> 30;
            logarithm *= 2;
            if power >= 2 << 30 {
                logarithm += 1;
                power /= 2;
            }
            bit += 1;
        }
        logarithms[number] = logarithm;
        number += 1;
    }
    logarithms
};

/// Writes a block of tokens, and what they stand for, in the shortest of the three ways.
pub(super) fn write_block(
    bits: &mut BitWriter<'_>,
    tokens: &[Token],
    counts: &Counts,
    plain: &[u8],
    last: bool,
) {
    let mut counts = counts.clone();
    counts.literals[END] = 1;
    let own = Codes::best(&counts);
    let header = Header::of(&own);
    let own_cost = header.cost() + own.cost(&counts);
    let fixed_cost = Codes::FIXED.cost(&counts);
    if stored_cost(plain.len()) <= own_cost.min(fixed_cost) {
        return write_stored(bits, plain, last);
    }
    bits.add(last.into(), 1);
    if fixed_cost <= own_cost {
        bits.add(1, 2);
        return write_tokens(bits, tokens, &Codes::FIXED);
    }
    bits.add(2, 2);
    header.write(bits);
    write_tokens(bits, tokens, &own);
}

/// Bits of stored blocks, roughly.
fn stored_cost(len: usize) -> u64 {
    let blocks = len.div_ceil(STORED_MOST).max(1) as u64;
    len as u64 * 8 + blocks * 40
}

/// Bytes of the longest stored block.
const STORED_MOST: usize = 0xffff;

fn write_stored(bits: &mut BitWriter<'_>, plain: &[u8], last: bool) {
    let mut parts = plain.chunks(STORED_MOST).peekable();
    while let Some(part) = parts.next() {
        bits.add((last && parts.peek().is_none()).into(), 3);
        bits.align();
        let len = part.len() as u64;
        bits.add(len | (len ^ 0xffff) << 16, 32);
        bits.bytes(part);
    }
}

/// The lengths of a block's codes.
struct Codes {
    literals: [u8; LITERALS + 2],
    distances: [u8; DISTANCES + 2],
}

impl Codes {
    /// Those that a block can use without telling them.
    const FIXED: Self = {
        let mut literals = [8; LITERALS + 2];
        let mut symbol = 144;
        while symbol < 280 {
            literals[symbol] = if symbol < 256 { 9 } else { 7 };
            symbol += 1;
        }
        Self {
            literals,
            distances: [5; DISTANCES + 2],
        }
    };

    fn best(counts: &Counts) -> Self {
        let mut codes = Self {
            literals: [0; LITERALS + 2],
            distances: [0; DISTANCES + 2],
        };
        code_lengths(&counts.literals, 15, &mut codes.literals[..LITERALS]);
        code_lengths(&counts.distances, 15, &mut codes.distances[..DISTANCES]);
        codes
    }

    /// The bits of all symbols.
    fn cost(&self, counts: &Counts) -> u64 {
        let bits = |count: u32, length: u8, extra_count: usize| {
            u64::from(count) * (u64::from(length) + extra_count as u64)
        };
        let mut cost = 0;
        for (index, count) in counts.literals.iter().enumerate() {
            cost += bits(*count, self.literals[index], length_extra_count(index));
        }
        for (index, count) in counts.distances.iter().enumerate() {
            cost += bits(*count, self.distances[index], distance_extra_count(index));
        }
        cost
    }
}

/// How many bits follow the code of a literal or a length.
const fn length_extra_count(index: usize) -> usize {
    match index {
        265..285 => (index - 261) / 4,
        _ => 0,
    }
}

/// How many bits follow the code of a distance.
const fn distance_extra_count(index: usize) -> usize {
    (index / 2).saturating_sub(1)
}

/// How a block tells its codes: their lengths one after another, runs shortened, themselves in a code.
struct Header {
    literals: usize,
    distances: usize,
    /// A symbol of the lengths' alphabet, with what follows its code.
    steps: Vec<(u8, u8)>,
    lengths: [u8; 19],
    /// How many of `lengths` are told.
    told: usize,
}

impl Header {
    fn of(codes: &Codes) -> Self {
        let used = |lengths: &[u8], least: usize| {
            let used = lengths.iter().rposition(|length| *length > 0);
            used.map_or(0, |last| last + 1).max(least)
        };
        let literals = used(&codes.literals, END + 1);
        let distances = used(&codes.distances, 1);
        let all = [&codes.literals[..literals], &codes.distances[..distances]].concat();
        let steps = steps(&all);
        let mut counts = [0; 19];
        for (symbol, _) in &steps {
            counts[usize::from(*symbol)] += 1;
        }
        let mut lengths = [0; 19];
        code_lengths(&counts, 7, &mut lengths);
        let told = ORDER.iter().rposition(|symbol| lengths[*symbol] > 0);
        Self {
            literals,
            distances,
            steps,
            lengths,
            told: told.map_or(4, |last| (last + 1).max(4)),
        }
    }

    fn cost(&self) -> u64 {
        let step = |(symbol, _): &(u8, u8)| {
            u64::from(self.lengths[usize::from(*symbol)]) + u64::from(step_extra_count(*symbol))
        };
        14 + 3 * self.told as u64 + self.steps.iter().map(step).sum::<u64>()
    }

    fn write(&self, bits: &mut BitWriter<'_>) {
        bits.add(self.literals as u64 - 257, 5);
        bits.add(self.distances as u64 - 1, 5);
        bits.add(self.told as u64 - 4, 4);
        for symbol in &ORDER[..self.told] {
            bits.add(self.lengths[*symbol].into(), 3);
        }
        let mut found = [0; 19];
        codes(&self.lengths, &mut found);
        for (symbol, extra) in &self.steps {
            let index = usize::from(*symbol);
            bits.add(found[index].into(), self.lengths[index].into());
            bits.add((*extra).into(), step_extra_count(*symbol));
        }
    }
}

/// The order in which the lengths of the lengths' codes are told.
const ORDER: [usize; 19] = [
    16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15,
];

/// How many bits follow the code of a symbol of the lengths' alphabet.
const fn step_extra_count(symbol: u8) -> u32 {
    match symbol {
        16 => 2,
        17 => 3,
        18 => 7,
        _ => 0,
    }
}

/// Code lengths, with their runs shortened.
fn steps(lengths: &[u8]) -> Vec<(u8, u8)> {
    let mut steps = Vec::with_capacity(lengths.len());
    for run in lengths.chunk_by(|one, next| one == next) {
        let length = run[0];
        let mut left = run.len();
        if length > 0 {
            steps.push((length, 0));
            left -= 1;
        }
        while left >= 3 {
            let (symbol, least, most) = match (length, left) {
                (0, 11..) => (18, 11, 138),
                (0, _) => (17, 3, 10),
                _ => (16, 3, 6),
            };
            let part = left.min(most);
            steps.push((symbol, low_byte(part - least)));
            left -= part;
        }
        steps.extend(std::iter::repeat_n((length, 0), left));
    }
    steps
}

fn low_byte(number: usize) -> u8 {
    u8::try_from(number).unwrap_or(u8::MAX)
}

/// A code, and how many bits it has.
#[derive(Clone, Copy, Default)]
struct Code {
    bits: u32,
    count: u32,
}

fn write_tokens(bits: &mut BitWriter<'_>, tokens: &[Token], lengths: &Codes) {
    let mut literal_codes = [0; LITERALS + 2];
    let mut distance_codes = [0; DISTANCES + 2];
    codes(&lengths.literals, &mut literal_codes);
    codes(&lengths.distances, &mut distance_codes);
    let of = |codes: &[u16], lengths: &[u8], symbol: Symbol| {
        let count = u32::from(lengths[symbol.index]);
        Code {
            bits: u32::from(codes[symbol.index]) | symbol.extra << count,
            count: count + symbol.extra_count,
        }
    };
    let mut literals = [Code::default(); 256];
    let mut copies = [Code::default(); 256];
    for (value, (literal, copy)) in (0..).zip(literals.iter_mut().zip(&mut copies)) {
        let symbol = Symbol {
            index: value as usize,
            extra: 0,
            extra_count: 0,
        };
        *literal = of(&literal_codes, &lengths.literals, symbol);
        *copy = of(&literal_codes, &lengths.literals, length(value));
    }
    for token in tokens {
        if token.distance() == 0 {
            let code = literals[token.value() as usize];
            bits.add(code.bits.into(), code.count);
            continue;
        }
        let first = copies[token.value() as usize];
        let second = of(
            &distance_codes,
            &lengths.distances,
            distance(token.distance()),
        );
        let both = u64::from(first.bits) | u64::from(second.bits) << first.count;
        bits.add(both, first.count + second.count);
    }
    bits.add(literal_codes[END].into(), lengths.literals[END].into());
}
