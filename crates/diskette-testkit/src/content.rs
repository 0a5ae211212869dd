//! What a guest wrote: the same bytes for the same seed, at any offset.

/// A disk's content by its seed: stretches of zeros, of text, of noise, and of all three mixed.
///
/// ```
/// use diskette_testkit::Content;
/// let whole = Content::new(7).bytes(100_000);
/// let mut part = [0; 100];
/// Content::new(7).read(&mut part, 70_001);
/// assert_eq!(part, whole[70_001..70_101]);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Content {
    seed: u64,
}

#[derive(Clone, Copy)]
enum Kind {
    Zeros,
    Text,
    Noise,
}

impl Content {
    /// The content of this seed.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self { seed }
    }

    /// Its first `len` bytes.
    #[must_use]
    pub fn bytes(self, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.read(&mut bytes, 0);
        bytes
    }

    /// Fills `buf` with the bytes from `offset` on.
    pub fn read(self, buf: &mut [u8], offset: u64) {
        let mut rest = buf;
        let mut at = offset;
        while !rest.is_empty() {
            let block = self.block(at / BLOCK as u64);
            let skip = usize::try_from(at % BLOCK as u64).unwrap_or(0);
            let len = (BLOCK - skip).min(rest.len());
            let (part, behind) = rest.split_at_mut(len);
            part.copy_from_slice(&block[skip..skip + len]);
            rest = behind;
            at += len as u64;
        }
    }

    fn block(self, index: u64) -> [u8; BLOCK] {
        let mut rng = Rng::new(self.seed ^ index.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let mut block = [0; BLOCK];
        match self.kind(index, &mut rng) {
            Kind::Zeros => {}
            Kind::Text => write_text(&mut block, &mut rng),
            Kind::Noise => rng.fill(&mut block),
        }
        block
    }

    /// A stretch is of one kind, or each of its blocks is of its own.
    fn kind(self, index: u64, rng: &mut Rng) -> Kind {
        let stretch = index / BLOCKS_OF_A_STRETCH;
        let mut choice = Rng::new(self.seed ^ !stretch).below(8);
        if choice >= 6 {
            choice = rng.below(6);
        }
        match choice {
            0..=2 => Kind::Zeros,
            3 | 4 => Kind::Text,
            _ => Kind::Noise,
        }
    }
}

/// Pseudo-random numbers, the same for the same seed (xorshift64*).
#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    /// The numbers of this seed.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        // One round of splitmix64: near seeds must not give near numbers, and the state must not be 0.
        let mixed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        Self((mixed ^ (mixed >> 31)) | 1)
    }

    /// The next number.
    pub const fn next_u64(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number below `end`, or 0 where that is 0.
    pub fn below(&mut self, end: u64) -> u64 {
        let wide = u128::from(self.next_u64()) * u128::from(end);
        u64::try_from(wide >> 64).unwrap_or(0)
    }

    /// The same, for what indexes memory.
    pub fn index_below(&mut self, end: usize) -> usize {
        usize::try_from(self.below(end as u64)).unwrap_or(0)
    }

    /// Fills `buf` with noise.
    pub fn fill(&mut self, buf: &mut [u8]) {
        for part in buf.chunks_mut(8) {
            let bytes = self.next_u64().to_le_bytes();
            part.copy_from_slice(&bytes[..part.len()]);
        }
    }
}

fn write_text(block: &mut [u8], rng: &mut Rng) {
    let mut at = 0;
    while at < block.len() {
        let word = WORDS[rng.index_below(WORDS.len())].as_bytes();
        let len = word.len().min(block.len() - at);
        block[at..at + len].copy_from_slice(&word[..len]);
        at += len;
        if let Some(byte) = block.get_mut(at) {
            *byte = if rng.below(12) == 0 { b'\n' } else { b' ' };
            at += 1;
        }
    }
}

const BLOCK: usize = 4096;
const BLOCKS_OF_A_STRETCH: u64 = 16;
const WORDS: [&str; 16] = [
    "disk", "image", "storage", "guest", "host", "offset", "sector", "granule", "cluster", "grain",
    "extent", "hole", "layer", "chain", "overlay", "base",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_content_has_zeros_text_and_noise() {
        let bytes = Content::new(1).bytes(4 << 20);
        let blocks: Vec<_> = bytes.chunks(BLOCK).collect();
        let zeros = blocks.iter().filter(|block| diskette_core::is_zero(block));
        let text = blocks.iter().filter(|block| {
            let first = WORDS.iter().any(|word| block.starts_with(word.as_bytes()));
            first && block.is_ascii()
        });
        let (zeros, text) = (zeros.count(), text.count());
        assert!(zeros > 200, "{zeros} of {} are zero", blocks.len());
        assert!(text > 100, "{text} of {} are text", blocks.len());
        assert!(zeros + text < blocks.len() - 100);
    }

    #[test]
    fn seeds_differ() {
        assert_ne!(
            Content::new(1).bytes(1 << 20),
            Content::new(2).bytes(1 << 20)
        );
    }
}
