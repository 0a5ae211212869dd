//! Disks written in place, held against a disk in memory; and images of any bytes written in place.

use std::sync::Arc;

use arbitrary::{Arbitrary, Unstructured};
use diskette::core::{
    BlockReader, BlockReaderExt, BlockWriter, Error, Extent, ExtentKind, Format, HostOffset,
    NewImage, NoParts, OpenOptions, Storage, StorageMut,
};
use diskette::storage::MemoryStorage;
use diskette_convert::{ConvertOptions, convert};

use crate::options;

/// An image to be made, and what is done to it.
#[derive(Arbitrary, Debug)]
struct Input {
    flavour: u8,
    /// Sectors of the disk.
    sectors: u16,
    /// What the disk holds at first: sectors, and their byte.
    content: Vec<(u16, u8)>,
    acts: Vec<Act>,
}

#[derive(Arbitrary, Clone, Copy, Debug)]
enum Act {
    Write {
        sector: u16,
        count: u8,
        byte: u8,
    },
    /// Not by sectors.
    WriteAt {
        at: u32,
        len: u16,
        byte: u8,
    },
    Zero {
        sector: u16,
        count: u16,
    },
    Discard {
        sector: u16,
        count: u16,
    },
    Resize {
        sectors: u16,
    },
    Flush,
    Reopen,
}

/// Makes an image as the input says, does to it and to a disk in memory what it says, and finds both equal and the image
/// clean whenever it is opened again.
pub fn edits(data: &[u8]) {
    let Ok(input) = Input::arbitrary_take_rest(Unstructured::new(data)) else {
        return;
    };
    let (format, what) = flavour(input.flavour);
    let format = diskette::registry().get(format).expect("a known format");
    let mut disk = vec![0; (usize::from(input.sectors) % MOST_SECTORS + 1) * 512];
    for (sector, byte) in &input.content {
        let at = usize::from(*sector) * 512 % disk.len();
        disk[at..at + 512].fill(*byte);
    }
    let image = made(format, &what, &disk);
    let mut writer = edit(format, &image);
    for act in input.acts.iter().take(MOST_ACTS) {
        if matches!(act, Act::Reopen) {
            drop(writer);
            expect_equal(format, &image, &disk);
            writer = edit(format, &image);
        } else {
            run(*act, &*writer, &mut disk);
        }
    }
    writer.close().expect("memory does not fail");
    drop(writer);
    expect_equal(format, &image, &disk);
}

/// Opens the bytes as an image to be written, and writes. There may be errors: an image whose refcounts say that
/// terabytes are taken is written after them, so the disk under it is a small one.
pub fn edit_any(data: &[u8]) {
    let Some((first, bytes)) = data.split_first() else {
        return;
    };
    let names = ["qcow2", "vdi", "vpc", "vmdk", "vhdx", "raw"];
    let name = names[usize::from(*first) % names.len()];
    let format = diskette::registry().get(name).expect("a known format");
    let Some(writable) = format.writable() else {
        return;
    };
    let storage: Arc<dyn StorageMut> = Arc::new(MemoryStorage::new(bytes.to_vec()).at_most(FULL));
    let Ok(writer) = writable.edit(Arc::clone(&storage), None, &options().context()) else {
        return;
    };
    let size = writer.size();
    let small = size <= 64 << 20;
    for at in [0, size / 2, size.saturating_sub(512)] {
        if writer.write_at(&[0x5a; 512], at).is_err() {
            continue;
        }
        let read = writer.read_vec(at, 512);
        assert!(
            read.is_ok_and(|read| read == [0x5a; 512]),
            "what was written is read"
        );
    }
    let _ = writer.write_zeros(size / 4, 4096.min(size / 4));
    let _ = writer.discard(0, size.min(1 << 20));
    if small {
        let _ = writer.resize(size + 512);
    }
    let _ = writer.close();
}

/// The format, and what the new image is to be.
fn flavour(flavour: u8) -> (&'static str, NewImage) {
    let new = NewImage::new(0);
    let cluster = 1_u32 << (9 + flavour / 32 % 4);
    let qcow2 = || {
        new.clone()
            .with_option("cluster_size", &cluster.to_string())
    };
    match flavour % 12 {
        0 => ("qcow2", qcow2()),
        1 => ("qcow2", qcow2().with_option("refcount_bits", "1")),
        2 => ("qcow2", qcow2().with_option("refcount_bits", "64")),
        3 => ("qcow2", qcow2().compressed()),
        4 => ("qcow2", qcow2().with_option("compat", "0.10")),
        5 => ("qcow2", qcow2().with_option("lazy_refcounts", "on")),
        6 => (
            "qcow2",
            new.with_option("cluster_size", "16384")
                .with_option("extended_l2", "on"),
        ),
        7 => ("vdi", new),
        8 => ("vpc", new.with_option("force_size", "on")),
        9 => (
            "vpc",
            new.with_option("force_size", "on")
                .with_option("subformat", "fixed"),
        ),
        10 => ("vmdk", new),
        _ => ("vhdx", new.with_option("block_size", "1048576")),
    }
}

fn made(format: &dyn Format, what: &NewImage, disk: &[u8]) -> Arc<MemoryStorage> {
    let mut what = what.clone();
    what.size = disk.len() as u64;
    let to = Arc::new(MemoryStorage::new(Vec::new()));
    let writable = format.writable().expect("a format that is written");
    let target = writable
        .create(Arc::clone(&to) as Arc<dyn StorageMut>, &NoParts, &what)
        .expect("a new image of a sound size");
    convert(&Bytes(disk.to_vec()), target, &ConvertOptions::default()).expect("a disk in memory");
    to
}

fn edit(format: &dyn Format, image: &Arc<MemoryStorage>) -> Box<dyn BlockWriter> {
    let writable = format.writable().expect("a format that is written");
    let storage = Arc::clone(image) as Arc<dyn StorageMut>;
    let options = OpenOptions::default();
    let opened = writable.edit(storage, None, &options.context());
    opened.expect("an image of our own")
}

fn run(act: Act, writer: &dyn BlockWriter, disk: &mut Vec<u8>) {
    let len = disk.len();
    let sectors = |sector: u16, count: u16| {
        let start = usize::from(sector) * 512 % len;
        start..(start + usize::from(count % 512) * 512).min(len)
    };
    match act {
        Act::Write {
            sector,
            count,
            byte,
        } => {
            let range = sectors(sector, u16::from(count));
            let bytes = vec![byte; range.len()];
            writer
                .write_at(&bytes, range.start as u64)
                .expect("a write");
            disk[range].fill(byte);
        }
        Act::WriteAt {
            at,
            len: count,
            byte,
        } => {
            let start = usize::try_from(at).unwrap_or(0) % len;
            let range = start..(start + usize::from(count % 4096)).min(len);
            let bytes = vec![byte; range.len()];
            writer
                .write_at(&bytes, range.start as u64)
                .expect("a write");
            disk[range].fill(byte);
        }
        Act::Zero { sector, count } => {
            let range = sectors(sector, count);
            let done = writer.write_zeros(range.start as u64, range.len() as u64);
            done.expect("zeros");
            disk[range].fill(0);
        }
        Act::Discard { sector, count } => {
            let range = sectors(sector, count);
            let done = writer.discard(range.start as u64, range.len() as u64);
            done.expect("a discard");
            // Each sector is what it was, or zeros.
            let found = writer
                .read_vec(range.start as u64, range.len())
                .expect("a disk");
            let both = disk[range].chunks_mut(512).zip(found.chunks(512));
            for (before, after) in both {
                if before != after {
                    assert!(after.iter().all(|byte| *byte == 0), "neither kept nor zero");
                    before.fill(0);
                }
            }
        }
        Act::Resize { sectors } => {
            let size = (usize::from(sectors) % MOST_SECTORS + 1) * 512;
            match writer.resize(size as u64) {
                Ok(()) => disk.resize(size, 0),
                Err(Error::Unsupported { .. } | Error::InvalidOption { .. }) => {}
                Err(error) => panic!("cannot resize to {size}: {error}"),
            }
        }
        Act::Flush => writer.flush().expect("memory does not fail"),
        Act::Reopen => {}
    }
    let start = disk.len().saturating_sub(512);
    let tail = writer
        .read_vec(start as u64, disk.len() - start)
        .expect("a disk");
    assert!(tail == disk[start..], "the disk's end has changed");
}

/// That the image, opened anew, holds the disk, and that a check finds nothing.
fn expect_equal(format: &dyn Format, image: &Arc<MemoryStorage>, disk: &[u8]) {
    let storage = Arc::clone(image) as Arc<dyn Storage>;
    let options = OpenOptions::default();
    let opened = format
        .open(Arc::clone(&storage), &options.context())
        .expect("an image of our own");
    let found = opened
        .reader
        .read_vec(0, disk.len())
        .expect("an image of our own");
    assert!(found == disk, "the disk has changed");
    if let Some(checkable) = format.checkable() {
        let report = checkable
            .check(storage, &options.context())
            .expect("an image of our own");
        let bad = (report.corruptions, report.check_errors);
        assert_eq!(bad, (0, 0), "{:#?}", report.findings);
    }
}

/// A disk in memory.
#[derive(Debug)]
struct Bytes(Vec<u8>);

impl BlockReader for Bytes {
    fn size(&self) -> u64 {
        self.0.len() as u64
    }

    fn extent_at(&self, _offset: u64) -> diskette::core::Result<Extent> {
        let data = ExtentKind::Data(HostOffset::new(0));
        Ok(Extent::new(0, self.size(), data))
    }

    fn read_extent(
        &self,
        _extent: &Extent,
        buf: &mut [u8],
        offset: u64,
    ) -> diskette::core::Result<()> {
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        buf.copy_from_slice(&self.0[start..start + buf.len()]);
        Ok(())
    }
}

/// Inputs that do something with each format.
pub fn seeds() -> Vec<(String, Vec<u8>)> {
    let seed = |flavour: u8| {
        let mut rng = diskette_testkit::Rng::new(u64::from(flavour));
        let mut bytes = vec![0; 400];
        rng.fill(&mut bytes);
        bytes[0] = flavour;
        (format!("flavour-{flavour}"), bytes)
    };
    (0..48).map(seed).collect()
}

const MOST_SECTORS: usize = 4096;
const MOST_ACTS: usize = 40;
/// Bytes of the disk under an image of any bytes.
const FULL: usize = 64 << 20;
