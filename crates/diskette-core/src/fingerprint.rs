//! Ids of new images: made from what the image holds, so that the same disk gives the same image.

use std::sync::atomic::{AtomicU64, Ordering};

use twox_hash::XxHash3_128;
use uuid::{Builder, Uuid};

use crate::{Error, Options, Packed, Packer, Result, Skipped, is_zero};

/// What tells the content of one disk from that of others. Holes and zeros leave no trace in it.
///
/// It is no proof against malice: nobody is to rely on it where a digest is due.
#[derive(Debug, Default)]
pub struct Fingerprint {
    low: AtomicU64,
    high: AtomicU64,
}

impl Fingerprint {
    /// Takes in a chunk of the disk. Threads may do so in any order: the sum stays the same.
    pub fn add(&self, offset: u64, data: &[u8]) {
        let (low, high) = halves(XxHash3_128::oneshot_with_seed(offset, data));
        self.low.fetch_add(low, Ordering::Relaxed);
        self.high.fetch_add(high, Ordering::Relaxed);
    }

    /// An id that follows from the content, the disk's size, and what it is to name.
    fn id(&self, size: u64, purpose: &str) -> Uuid {
        let mut bytes = Vec::new();
        for word in [&self.low, &self.high] {
            bytes.extend_from_slice(&word.load(Ordering::Relaxed).to_le_bytes());
        }
        bytes.extend_from_slice(purpose.as_bytes());
        custom(XxHash3_128::oneshot_with_seed(size, &bytes))
    }
}

/// How a new image gets an id. Complete by nature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NewId {
    /// From its content: the same disk gives the same id.
    Derived,
    /// By chance: no two images have the same.
    Random,
    /// This one.
    Given(Uuid),
}

impl NewId {
    /// What an option says: a UUID, `random`, or `derived`, which is what it is where it is not given.
    pub fn option(options: &Options, format: &'static str, name: &str) -> Result<Self> {
        let wrong = || Error::invalid_option(format, name, "none of derived, random and a UUID");
        match options.text(name) {
            None | Some("derived") => Ok(Self::Derived),
            Some("random") => Ok(Self::Random),
            Some(text) => match Uuid::parse_str(text) {
                // Programs take the null UUID for none.
                Ok(uuid) if !uuid.is_nil() => Ok(Self::Given(uuid)),
                Ok(_) | Err(_) => Err(wrong()),
            },
        }
    }

    /// The id of an image with this content, as a disk of `size` bytes.
    pub fn settle(self, content: &Fingerprint, size: u64, purpose: &str) -> Uuid {
        match self {
            Self::Derived => content.id(size, purpose),
            Self::Random => Uuid::new_v4(),
            Self::Given(uuid) => uuid,
        }
    }

    /// An id that goes with the first: as random as that one is, but never given.
    pub fn settle_another(self, content: &Fingerprint, size: u64, purpose: &str) -> Uuid {
        let how = match self {
            Self::Random => Self::Random,
            Self::Derived | Self::Given(_) => Self::Derived,
        };
        how.settle(content, size, purpose)
    }

    /// The id that follows another one, for images that change it with their content.
    #[must_use]
    pub fn after(before: Uuid) -> Uuid {
        custom(XxHash3_128::oneshot(before.as_bytes()))
    }
}

/// Stores chunks as they are, and takes their fingerprint.
#[derive(Debug)]
pub struct PlainPacker {
    content: Fingerprint,
    chunk_size: u32,
}

impl Default for PlainPacker {
    /// With chunks that suit a processor's cache.
    fn default() -> Self {
        Self::with_chunks(64 << 10)
    }
}

impl PlainPacker {
    /// With chunks of this many bytes, a power of two: overlays take whole blocks, so that none is in two images.
    #[must_use]
    pub fn with_chunks(chunk_size: u32) -> Self {
        Self {
            content: Fingerprint::default(),
            chunk_size,
        }
    }

    /// The fingerprint of what was packed.
    #[must_use]
    pub const fn content(&self) -> &Fingerprint {
        &self.content
    }
}

impl Packer for PlainPacker {
    fn chunk_size(&self) -> u32 {
        self.chunk_size
    }

    fn skipped(&self) -> Skipped {
        Skipped::AllZeros
    }

    fn pack(&self, offset: u64, data: &[u8], _out: &mut Vec<u8>) -> Result<Packed> {
        if is_zero(data) {
            return Ok(Packed::Zero);
        }
        self.content.add(offset, data);
        Ok(Packed::Plain)
    }
}

/// A UUID of version 8: made by a rule of one's own.
fn custom(hash: u128) -> Uuid {
    Builder::from_custom_bytes(hash.to_be_bytes()).into_uuid()
}

#[expect(clippy::cast_possible_truncation, reason = "each half has 64 bits")]
const fn halves(hash: u128) -> (u64, u64) {
    (hash as u64, (hash >> 64) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn derived(chunks: &[(u64, &[u8])]) -> Uuid {
        let packer = PlainPacker::default();
        for (offset, chunk) in chunks {
            packer.pack(*offset, chunk, &mut Vec::new()).unwrap();
        }
        NewId::Derived.settle(packer.content(), 4096, "test")
    }

    #[test]
    fn an_id_follows_from_the_content_alone() {
        let (a, b, zeros) = ([1; 512], [2; 512], [0; 512]);
        let one = derived(&[(0, &a), (512, &b)]);
        assert_eq!(one, derived(&[(512, &b), (1024, &zeros), (0, &a)]));
        assert_ne!(one, derived(&[(0, &b), (512, &a)]));
        assert_ne!(one, derived(&[(0, &a)]));
        assert_eq!(one.get_version_num(), 8);
    }

    #[test]
    fn the_size_and_the_purpose_count() {
        let content = Fingerprint::default();
        let id = |size, purpose| NewId::Derived.settle(&content, size, purpose);
        assert_ne!(id(1, "a"), id(2, "a"));
        assert_ne!(id(1, "a"), id(1, "b"));
    }

    #[test]
    fn an_id_can_be_chosen() {
        let option = |text: &str| {
            let options = [("uuid", text)].into_iter().collect();
            NewId::option(&options, "test", "uuid")
        };
        let content = Fingerprint::default();
        let text = "6f9619ff-8b86-d011-b42d-00cf4fc964ff";
        let given = option(text).unwrap();
        assert_eq!(given.settle(&content, 0, "").to_string(), text);
        assert_ne!(given.settle_another(&content, 0, "").to_string(), text);
        let random = option("random").unwrap();
        assert_ne!(
            random.settle(&content, 0, ""),
            random.settle(&content, 0, "")
        );
        assert_eq!(option("derived").unwrap(), NewId::Derived);
        for wrong in ["", "1", "00000000-0000-0000-0000-000000000000"] {
            let error = option(wrong).unwrap_err().to_string();
            assert_eq!(
                error,
                "test: option uuid: none of derived, random and a UUID"
            );
        }
    }
}
