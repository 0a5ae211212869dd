//! A new grain table.

use zerocopy::IntoBytes;
use zerocopy::little_endian::U32;

use super::header::{GRAIN, TABLE_ENTRIES};

/// The table of 512 grains in a row.
#[derive(Clone, Debug)]
pub(super) struct Table([U32; 512]);

impl Default for Table {
    fn default() -> Self {
        Self([U32::ZERO; 512])
    }
}

impl Table {
    /// Sets the entry of the grain at an offset of the disk.
    pub(super) fn set(&mut self, offset: u64, entry: u32) {
        let number = usize::try_from(offset / GRAIN % TABLE_ENTRIES).ok();
        if let Some(place) = number.and_then(|number| self.0.get_mut(number)) {
            *place = entry.into();
        }
    }

    /// As it is stored.
    pub(super) fn bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }
}
