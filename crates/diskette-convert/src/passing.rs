//! The digest of a disk that is computed while it is converted: no second read.

use std::sync::{Mutex, PoisonError};

use diskette_core::Result;
use sha2::{Digest, Sha256};

use crate::Control;

/// The SHA-256 of each disk that was converted, of all bytes that the guest reads: what [`digest`](crate::digest()) gives,
/// too. Conversions that are handed one add to it at their end.
#[derive(Debug, Default)]
pub struct PassingDigests {
    done: Mutex<Vec<[u8; 32]>>,
}

impl PassingDigests {
    /// None yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the digests that were added so far, in the order of the conversions' ends.
    #[must_use]
    pub fn take(&self) -> Vec<[u8; 32]> {
        std::mem::take(&mut self.done.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn add(&self, digest: [u8; 32]) {
        let mut done = self.done.lock().unwrap_or_else(PoisonError::into_inner);
        done.push(digest);
    }
}

/// The digest of what has passed.
#[derive(Clone, Debug, Default)]
pub(crate) struct Passing {
    sha256: Sha256,
    /// Bytes of the disk so far.
    at: u64,
}

impl Passing {
    /// Bytes of the disk at `offset`, and zeros before them.
    pub(crate) fn add(&mut self, offset: u64, bytes: &[u8], control: &Control<'_>) -> Result<()> {
        self.zeros_up_to(offset, control)?;
        self.sha256.update(bytes);
        self.at = offset + bytes.len() as u64;
        Ok(())
    }

    /// The digest of a disk of `size` bytes.
    pub(crate) fn finish(mut self, size: u64, control: &Control<'_>) -> Result<[u8; 32]> {
        self.zeros_up_to(size, control)?;
        Ok(self.sha256.finalize().into())
    }

    /// There may be a hundred GiB of them: who cancels does not wait until all are hashed.
    fn zeros_up_to(&mut self, end: u64, control: &Control<'_>) -> Result<()> {
        static ZEROS: [u8; 1 << 20] = [0; 1 << 20];
        while self.at < end {
            control.check_cancelled()?;
            let len = (end - self.at).min(ZEROS.len() as u64);
            self.sha256.update(&ZEROS[..crate::pack::usize_of(len)]);
            self.at += len;
        }
        Ok(())
    }
}
