//! Where things lie in a new image.
//!
//! ```text
//!  dynamic:       footer's copy │ header │ BAT │                 bitmap, data │ bitmap, data │ footer
//!  differencing:  footer's copy │ header │ BAT │ parent's path │ bitmap, data │ bitmap, data │ footer
//!                                                                      ▲ at a multiple of 4096
//!  fixed:         data │ footer
//! ```

use diskette_core::MIB;

use super::options::{Settings, Subformat};

/// Bytes of a block's data: everybody's.
pub(super) const BLOCK_SIZE: u64 = 2 * MIB;
/// Bytes of a block's bitmap.
pub(super) const BITMAP_LEN: usize = 512;
/// Bytes of a footer.
pub(super) const FOOTER_LEN: u64 = 512;
/// Where the dynamic header lies: behind the footer's copy.
pub(super) const HEADER_OFFSET: u64 = FOOTER_LEN;
/// Where the block allocation table lies: behind the header.
pub(super) const BAT_OFFSET: u64 = HEADER_OFFSET + 1024;

/// Blocks begin at multiples of this, but for their bitmaps: hosts and guests write whole pages.
const ALIGNMENT: u64 = 4096;
/// Bytes from one block to the next.
const STRIDE: u64 = BLOCK_SIZE + ALIGNMENT;

/// Where things lie. All of it is bounded by the size that an image can have.
#[derive(Clone, Copy, Debug)]
pub(super) struct Layout {
    size: u64,
    subformat: Subformat,
    /// Bytes of the parent's path.
    path_len: u64,
}

impl Layout {
    pub(super) fn new(settings: &Settings) -> Self {
        let parent = settings.parent.as_ref();
        let units = parent.map_or(0, |parent| parent.path.encode_utf16().count());
        Self {
            size: settings.size,
            subformat: settings.subformat,
            path_len: 2 * units as u64,
        }
    }

    /// Blocks of the disk: entries of the BAT.
    pub(super) const fn block_count(&self) -> u64 {
        self.size.div_ceil(BLOCK_SIZE)
    }

    /// The BAT with its padding.
    pub(super) const fn bat_len(&self) -> u64 {
        (4 * self.block_count()).next_multiple_of(512)
    }

    /// Where the parent's path lies.
    pub(super) const fn path_offset(&self) -> u64 {
        BAT_OFFSET + self.bat_len()
    }

    /// Where blocks may begin, and without any of them the footer.
    const fn tables_end(&self) -> u64 {
        self.path_offset() + self.path_len.next_multiple_of(512)
    }

    /// Where the bitmap of the block lies that has so many before it.
    pub(super) const fn bitmap_offset(&self, place: u64) -> u64 {
        self.data_offset(place) - BITMAP_LEN as u64
    }

    /// Where the data of that block lie.
    pub(super) const fn data_offset(&self, place: u64) -> u64 {
        let first = self.tables_end() + BITMAP_LEN as u64;
        first.next_multiple_of(ALIGNMENT) + place * STRIDE
    }

    /// Where the footer lies behind so many blocks.
    pub(super) const fn footer_offset(&self, placed: u64) -> u64 {
        match (self.subformat, placed) {
            (Subformat::Fixed, _) => self.size,
            (Subformat::Dynamic, 0) => self.tables_end(),
            (Subformat::Dynamic, _) => self.data_offset(placed - 1) + BLOCK_SIZE,
        }
    }

    /// Bytes of a file with so many blocks.
    pub(super) const fn file_size(&self, placed: u64) -> u64 {
        self.footer_offset(placed) + FOOTER_LEN
    }
}
