//! One number for what a disk holds, whatever the format of its image.

use std::fmt::{self, Display};

use diskette_core::{BlockReader, Extent, ExtentKind, MIB, Result};
use sha2::{Digest, Sha256};

use crate::Control;
use crate::control::Meter;
use crate::pack::usize_of;
use crate::pipeline::{Stages, run};

/// The digests of all bytes that the guest reads, from the disk's first to its last. Complete by nature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Digests {
    /// SHA-256 ("FIPS 180-4"): what `sha256sum` prints of the raw image.
    pub sha256: [u8; 32],
    /// BLAKE3, without a key: what `b3sum` prints of the raw image.
    pub blake3: [u8; 32],
}

impl Digests {
    /// The SHA-256 in hexadecimal digits.
    #[must_use]
    pub fn sha256_hex(&self) -> impl Display + use<> {
        hex(self.sha256)
    }

    /// The BLAKE3 in hexadecimal digits.
    #[must_use]
    pub fn blake3_hex(&self) -> impl Display + use<> {
        hex(self.blake3)
    }
}

/// Digests all that `disk` holds. Data is read and inflated by many threads, and hashed in order; holes and zeros are
/// hashed without being read.
pub fn digest(disk: &dyn BlockReader, control: &Control<'_>) -> Result<Digests> {
    let hashing = Hashing {
        sha256: Sha256::new(),
        blake3: blake3::Hasher::new(),
        meter: Meter::new(control, || Ok(disk.size()))?,
    };
    let hashing = run(&Digesting { disk }, Walk::default(), hashing, control)?;
    Ok(Digests {
        sha256: hashing.sha256.finalize().into(),
        blake3: hashing.blake3.finalize().into(),
    })
}

/// Bytes of a run of data, as a rule: it ends behind the extent that reaches them.
const USUAL: u64 = MIB / 2;
/// Bytes of a run of data, at most.
const LONGEST: u64 = 4 * MIB;
/// Bytes of a run of zeros, at most: between two of them one may cancel.
const LONGEST_ZERO: u64 = 256 * MIB;

static ZEROS: [u8; 1 << 20] = [0; 1 << 20];

#[derive(Debug)]
struct Digesting<'a> {
    disk: &'a dyn BlockReader,
}

/// Where planning stands.
#[derive(Debug, Default)]
struct Walk {
    next: u64,
    /// The extent that holds `next`, if it has been looked up.
    found: Option<Extent>,
}

/// A run of the disk: zeros, if it has no extents.
#[derive(Debug, Default)]
struct Slot {
    len: u64,
    extents: Vec<Extent>,
    bytes: Vec<u8>,
}

struct Hashing<'a> {
    sha256: Sha256,
    blake3: blake3::Hasher,
    meter: Meter<'a>,
}

impl<'a> Stages for Digesting<'a> {
    type Plan = Walk;
    type Slot = Slot;
    type Settled = Hashing<'a>;

    fn plan(&self, walk: &mut Walk, slot: &mut Slot) -> Result<bool> {
        slot.len = 0;
        slot.extents.clear();
        while walk.next < self.disk.size() && slot.len < USUAL {
            let extent = self.rest_of_extent(walk)?;
            let zero = extent.kind.reads_as_zeros();
            if zero && !slot.extents.is_empty() {
                break;
            }
            let most = match zero {
                true => LONGEST_ZERO,
                false => LONGEST - slot.len,
            };
            let part = extent.clip(walk.next, walk.next.saturating_add(most));
            walk.next = part.end();
            slot.len += part.len;
            if zero {
                break;
            }
            slot.extents.push(part);
        }
        Ok(slot.len > 0)
    }

    fn work(&self, slot: &mut Slot) -> Result<()> {
        let Some(first) = slot.extents.first() else {
            return Ok(());
        };
        let start = first.offset;
        let len = usize_of(slot.len);
        if slot.bytes.len() < len {
            slot.bytes.resize(len, 0);
        }
        for extent in &slot.extents {
            let at = usize_of(extent.offset - start);
            let bytes = &mut slot.bytes[at..at + usize_of(extent.len)];
            self.disk.read_extent(extent, bytes, extent.offset)?;
        }
        Ok(())
    }

    fn settle(&self, hashing: &mut Hashing<'a>, slot: &mut Slot) -> Result<bool> {
        if slot.extents.is_empty() {
            hashing.zeros(slot.len);
        } else {
            hashing.data(&slot.bytes[..usize_of(slot.len)]);
        }
        hashing.meter.advance(slot.len);
        Ok(true)
    }
}

impl Digesting<'_> {
    /// What is left of the extent that holds the next byte; without compression, no more of it than is wanted.
    fn rest_of_extent(&self, walk: &mut Walk) -> Result<Extent> {
        let extent = match walk.found {
            Some(found) if walk.next < found.end() => found,
            _ => self.disk.extent_at(walk.next)?,
        };
        walk.found = Some(extent);
        let rest = extent.clip(walk.next, extent.end());
        Ok(match extent.kind {
            ExtentKind::Data(_) => rest.clip(walk.next, walk.next.saturating_add(USUAL)),
            _ => rest,
        })
    }
}

impl Hashing<'_> {
    fn data(&mut self, bytes: &[u8]) {
        self.sha256.update(bytes);
        self.blake3.update(bytes);
    }

    fn zeros(&mut self, mut len: u64) {
        while len > 0 {
            let part = len.min(ZEROS.len() as u64);
            self.data(&ZEROS[..usize_of(part)]);
            len -= part;
        }
    }
}

/// A digest in hexadecimal digits.
#[must_use]
pub fn hex(digest: [u8; 32]) -> impl Display + use<> {
    Hex(digest)
}

struct Hex([u8; 32]);

impl Display for Hex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}
