use super::*;
use diskette_core::{ExtentKind, HostOffset, Result};

/// What a reader does wrong.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    None,
    Gap,
    Overlap,
    Beyond,
    EndIsNoError,
    ZerosAreNot,
    PartsDiffer,
    KindByOffset,
}

/// Data and zeros by turns, 1000 bytes each.
#[derive(Debug)]
struct Image {
    bytes: Vec<u8>,
    fault: Fault,
}

impl Image {
    fn new(fault: Fault) -> Self {
        let mut bytes: Vec<u8> = (1..=250_u8).cycle().take(5500).collect();
        for zeros in bytes.chunks_mut(1000).skip(1).step_by(2) {
            zeros.fill(0);
        }
        Self { bytes, fault }
    }
}

impl BlockReader for Image {
    fn size(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn extent_at(&self, offset: u64) -> Result<Extent> {
        if offset >= self.size() && self.fault != Fault::EndIsNoError {
            return Err(Error::OutOfRange {
                offset,
                len: 1,
                size: self.size(),
            });
        }
        let start = offset / 1000 * 1000;
        let len = 1000.min(self.size().saturating_sub(start));
        let data = ExtentKind::Data(HostOffset::new(start));
        let zeros = start / 1000 % 2 == 1;
        let kind = if zeros { ExtentKind::Zero(None) } else { data };
        let extent = Extent::new(start, len, kind);
        Ok(match self.fault {
            Fault::Gap if start == 2000 => extent.clip(2001, u64::MAX),
            Fault::Overlap if start == 2000 => Extent::new(1999, 1001, kind),
            Fault::Beyond if start == 5000 => Extent::new(5000, 501, kind),
            Fault::KindByOffset if offset % 1000 == 999 => Extent::hole(start, len),
            _ => extent,
        })
    }

    fn read_extent(&self, extent: &Extent, buf: &mut [u8], offset: u64) -> Result<()> {
        let start = usize::try_from(offset).unwrap();
        buf.copy_from_slice(&self.bytes[start..start + buf.len()]);
        if self.fault == Fault::ZerosAreNot && extent.kind.reads_as_zeros() {
            buf.fill(1);
        }
        if self.fault == Fault::PartsDiffer && !extent.offset.is_multiple_of(1000) {
            buf.fill(3);
        }
        Ok(())
    }
}

fn is_found(fault: Fault) -> bool {
    std::panic::catch_unwind(|| check_reader(&Image::new(fault))).is_err()
}

#[test]
fn a_good_reader_passes() {
    let image = Image::new(Fault::None);
    check_reader_against(&image, &image.bytes);
}

#[test]
fn each_fault_is_found() {
    for fault in [
        Fault::Gap,
        Fault::Overlap,
        Fault::Beyond,
        Fault::EndIsNoError,
        Fault::ZerosAreNot,
        Fault::PartsDiffer,
        Fault::KindByOffset,
    ] {
        assert!(is_found(fault), "{fault:?}");
    }
}

#[test]
fn an_empty_disk_passes() {
    let image = Image {
        bytes: Vec::new(),
        fault: Fault::None,
    };
    check_reader_against(&image, &[]);
}

#[test]
#[should_panic(expected = "byte 0x5 is 0x06")]
fn wrong_content_is_found() {
    let image = Image::new(Fault::None);
    let mut expected = image.bytes.clone();
    expected[5] = 0;
    check_reader_against(&image, &expected);
}
