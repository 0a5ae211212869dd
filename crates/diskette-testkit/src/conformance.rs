//! What every reader and every chain owes its callers, as one suite.
//!
//! Disks of up to [`WHOLE`] bytes are looked at whole; of larger ones the beginning, the end, and places around the
//! edges of extents and between them. Places are pseudo-random, and the same each time.

use std::thread;

use diskette_core::{BlockReader, BlockReaderExt, Error, Extent, is_zero};

use crate::Rng;

/// Checks a reader against itself. Panics where it breaks the contract of [`BlockReader`].
pub fn check_reader(reader: &dyn BlockReader) {
    check_end(reader);
    if reader.size() == 0 {
        return;
    }
    let extents = check_tiles(reader);
    for window in windows(reader, &extents) {
        check_odd_reads(reader, &window, 1, SAMPLES);
        check_threads(reader, &window);
    }
    let mut rng = Rng::new(2);
    for extent in sample(&extents, &mut rng) {
        check_extent(reader, extent, &mut rng);
    }
}

/// Checks a reader against itself, and against the bytes that it must yield.
pub fn check_reader_against(reader: &dyn BlockReader, expected: &[u8]) {
    check_reader_against_fn(reader, expected.len() as u64, |buf, offset| {
        let start = usize::try_from(offset).expect("what is in memory has such offsets");
        buf.copy_from_slice(&expected[start..start + buf.len()]);
    });
}

/// Checks a reader against itself, against the size it must have, and against the bytes that it must yield: `expected`
/// fills a buffer with the bytes from an offset on. Disks of up to [`COMPARED`] bytes are compared whole.
pub fn check_reader_against_fn(
    reader: &dyn BlockReader,
    size: u64,
    expected: impl Fn(&mut [u8], u64),
) {
    assert_eq!(reader.size(), size, "the disk's size");
    check_reader(reader);
    let compare = |start: u64, len: u64| {
        let found = read(reader, start, len);
        let mut wanted = vec![0; found.len()];
        expected(&mut wanted, start);
        assert_same(&found, &wanted, start, "what must be there");
    };
    if size <= COMPARED {
        let mut at = 0;
        while at < size {
            let len = (size - at).min(MIB);
            compare(at, len);
            at += len;
        }
    } else {
        for window in windows(reader, &check_tiles(reader)) {
            compare(window.start, window.bytes.len() as u64);
        }
    }
}

/// Disks of up to this size are read whole by [`check_reader`].
pub const WHOLE: u64 = 8 << 20;
/// Disks of up to this size are compared whole by [`check_reader_against_fn`].
pub const COMPARED: u64 = 256 << 20;

/// A part of the disk, read in one go.
struct Window {
    start: u64,
    bytes: Vec<u8>,
}

/// That extents follow one another without gap or overlap up to the end, and are the same from wherever they are
/// asked. Gives them, though not all where there are very many.
fn check_tiles(reader: &dyn BlockReader) -> Vec<Extent> {
    let size = reader.size();
    let mut extents = Vec::new();
    let mut next = 0;
    while next < size && extents.len() < MOST_EXTENTS {
        let extent = extent_holding(reader, next);
        assert_eq!(
            extent.offset, next,
            "{extent:?} does not begin where the one before it ends"
        );
        next = extent.end();
        extents.push(extent);
    }
    for extent in sample(&extents, &mut Rng::new(3)) {
        for at in [extent.offset + extent.len / 2, extent.end() - 1] {
            assert_agree(&extent, &extent_holding(reader, at), at);
        }
    }
    if next < size {
        let mut rng = Rng::new(4);
        for _ in 0..SAMPLES {
            extents.push(extent_holding(reader, rng.below(size)));
        }
        extents.push(extent_holding(reader, size - 1));
    }
    extents
}

/// The extent at `at`, shown to be one.
fn extent_holding(reader: &dyn BlockReader, at: u64) -> Extent {
    let extent = reader
        .extent_at(at)
        .unwrap_or_else(|error| panic!("no extent at {at:#x}: {error}"));
    assert!(extent.len > 0, "the extent at {at:#x} is empty");
    assert!(
        extent.offset <= at && at < extent.end(),
        "{extent:?} does not hold {at:#x}"
    );
    assert!(
        extent
            .offset
            .checked_add(extent.len)
            .is_some_and(|end| end <= reader.size()),
        "{extent:?} reaches beyond the disk's end at {:#x}",
        reader.size()
    );
    extent
}

fn assert_agree(one: &Extent, other: &Extent, at: u64) {
    assert_eq!(
        one.clip(at, at + 1),
        other.clip(at, at + 1),
        "{one:?} and {other:?} say different things of {at:#x}"
    );
}

/// That an extent reads as its kind says, and in parts as in whole.
fn check_extent(reader: &dyn BlockReader, extent: Extent, rng: &mut Rng) {
    let start = extent.offset + rng.below(extent.len.saturating_sub(MIB));
    let extent_part = extent.clip(start, start + MIB);
    let whole = read(reader, start, extent_part.len);
    if extent.kind.reads_as_zeros() {
        assert!(is_zero(&whole), "{extent:?} does not read as zeros");
    }
    for _ in 0..8 {
        let from = rng.index_below(whole.len());
        let to = from + 1 + rng.index_below(whole.len() - from);
        let (first, behind) = (start + from as u64, start + to as u64);
        for part in [extent, extent.clip(first, behind)] {
            let mut found = vec![0xa5; to - from];
            reader
                .read_extent(&part, &mut found, first)
                .unwrap_or_else(|error| panic!("cannot read {first:#x} in {part:?}: {error}"));
            assert_same(&found, &whole[from..to], first, "the extent as a whole");
        }
    }
}

/// That reads at odd offsets and of odd lengths agree with a read of the whole.
fn check_odd_reads(reader: &dyn BlockReader, window: &Window, seed: u64, rounds: usize) {
    let mut rng = Rng::new(seed);
    for round in 0..rounds {
        let from = rng.index_below(window.bytes.len());
        let most = if round % 4 == 0 { usize::MAX } else { 5000 };
        let to = from + 1 + rng.index_below((window.bytes.len() - from).min(most));
        let at = window.start + from as u64;
        let found = read(reader, at, (to - from) as u64);
        assert_same(&found, &window.bytes[from..to], at, "a read of the whole");
    }
}

/// That eight threads at once read what one reads.
fn check_threads(reader: &dyn BlockReader, window: &Window) {
    thread::scope(|scope| {
        for seed in 0..8 {
            scope.spawn(move || check_odd_reads(reader, window, 100 + seed, SAMPLES / 4));
        }
    });
}

/// That the end is the end.
fn check_end(reader: &dyn BlockReader) {
    let size = reader.size();
    for (offset, len) in [(size, 1), (size.saturating_sub(1), 2), (u64::MAX, 1)] {
        let found = reader.read_at(&mut [0; 2][..len], offset);
        assert!(
            matches!(found, Err(Error::OutOfRange { .. })),
            "a read of {len} bytes at {offset:#x} of {size:#x} gave {found:?}"
        );
    }
    for offset in [size, size.saturating_add(1), u64::MAX] {
        let found = reader.extent_at(offset);
        assert!(
            matches!(found, Err(Error::OutOfRange { .. })),
            "the extent at {offset:#x} of {size:#x} gave {found:?}"
        );
    }
    let empty = reader.read_at(&mut [], size);
    assert!(empty.is_ok(), "an empty read at the end gave {empty:?}");
}

/// The parts of the disk that are looked at.
fn windows(reader: &dyn BlockReader, extents: &[Extent]) -> Vec<Window> {
    let size = reader.size();
    let window = |start: u64, len: u64| Window {
        start,
        bytes: read(reader, start, len.min(size - start)),
    };
    if size <= WHOLE {
        return vec![window(0, size)];
    }
    let mut rng = Rng::new(5);
    let mut starts = vec![0, size - MIB];
    for _ in 0..3 {
        starts.push(rng.below(size - MIB));
        let edge = extents[rng.index_below(extents.len())].end();
        starts.push(edge.saturating_sub(MIB / 2).min(size - MIB));
    }
    starts.into_iter().map(|start| window(start, MIB)).collect()
}

/// Some of the extents: the first, the last, and others between them.
fn sample(extents: &[Extent], rng: &mut Rng) -> Vec<Extent> {
    if extents.len() <= SAMPLES {
        return extents.to_vec();
    }
    let some = (0..SAMPLES).map(|_| extents[rng.index_below(extents.len())]);
    let ends = [extents[0], extents[extents.len() - 1]];
    some.chain(ends).collect()
}

fn read(reader: &dyn BlockReader, offset: u64, len: u64) -> Vec<u8> {
    let len = usize::try_from(len).expect("no more than a window is read at once");
    // What a reader leaves untouched must not look like zeros.
    let mut bytes = vec![0xa5; len];
    reader
        .read_at(&mut bytes, offset)
        .unwrap_or_else(|error| panic!("cannot read {len} bytes at {offset:#x}: {error}"));
    bytes
}

fn assert_same(found: &[u8], wanted: &[u8], offset: u64, what: &str) {
    if found == wanted {
        return;
    }
    let differ = found
        .iter()
        .zip(wanted)
        .position(|(one, other)| one != other);
    if let Some(at) = differ {
        panic!(
            "byte {:#x} is {:#04x} in a read of {:#x} bytes at {offset:#x}, and {:#04x} in {what}",
            offset + at as u64,
            found[at],
            found.len(),
            wanted[at],
        );
    }
}

const MIB: u64 = 1 << 20;
const SAMPLES: usize = 64;
const MOST_EXTENTS: usize = 1 << 16;

#[cfg(test)]
mod tests;
