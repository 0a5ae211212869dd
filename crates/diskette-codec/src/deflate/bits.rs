//! Bits, the lowest of a byte first, as deflate wants them.

/// Appends bits to a buffer that is long enough: what does not fit is lost, and shows in [`len`](Self::len).
#[derive(Debug)]
pub(super) struct BitWriter<'a> {
    out: &'a mut [u8],
    /// Whole bytes that were written.
    len: usize,
    /// Bits that wait for their byte to be full.
    waiting: u64,
    /// How many: fewer than 8 between calls.
    count: u32,
}

impl<'a> BitWriter<'a> {
    pub(super) const fn new(out: &'a mut [u8]) -> Self {
        Self {
            out,
            len: 0,
            waiting: 0,
            count: 0,
        }
    }

    /// The number of bits so far.
    pub(super) const fn bits(&self) -> u64 {
        self.len as u64 * 8 + self.count as u64
    }

    /// Adds the lowest `count` bits of `bits`, at most 56; the others are zero.
    #[inline]
    pub(super) fn add(&mut self, bits: u64, count: u32) {
        self.waiting |= bits << self.count;
        self.count += count;
        // All eight bytes at once; those that are not full yet are written again.
        if let Some(room) = self.out.get_mut(self.len..)
            && let Some(room) = room.first_chunk_mut::<8>()
        {
            *room = self.waiting.to_le_bytes();
        }
        self.len += (self.count / 8) as usize;
        self.waiting >>= self.count & !7;
        self.count %= 8;
    }

    /// Goes on at a whole byte.
    pub(super) fn align(&mut self) {
        let missing = self.count.wrapping_neg() % 8;
        self.add(0, missing);
    }

    /// Whole bytes, where the bits so far end at one.
    pub(super) fn bytes(&mut self, bytes: &[u8]) {
        let room = self.out.get_mut(self.len..).unwrap_or_default();
        if let Some(room) = room.get_mut(..bytes.len()) {
            room.copy_from_slice(bytes);
        }
        self.len += bytes.len();
    }

    /// Ends with a whole byte, and gives their number.
    pub(super) fn finish(mut self) -> usize {
        self.align();
        self.len
    }
}

/// Bytes that a buffer must have behind those that are wanted of it.
pub(super) const SLACK: usize = 8;
