//! Images that were not closed: what the log changes, and when it is not to be trusted.

use crate::support::{open, reads, salvage, sectors};
use diskette_testkit::vhdx::{Change, LogEntry, M, Vhdx};

const GUID: [u8; 16] = [0x0f; 16];
const RING: u32 = 1 << 20;

/// An entry that rewrites the first sector of the BAT.
struct Entry {
    number: u64,
    tail: u32,
    bat: [u64; 8],
    flushed: u64,
    last: u64,
}

impl Entry {
    fn new(number: u64, tail: u32, block1: u64) -> Self {
        Self {
            number,
            tail,
            bat: [(4 * M) | 6, block1, 0, (5 * M) | 6, 0, 0, 0, 0],
            flushed: 7,
            last: 7,
        }
    }

    fn with(mut self, index: usize, entry: u64) -> Self {
        self.bat[index] = entry;
        self
    }

    fn until(mut self, flushed: u64, last: u64) -> Self {
        (self.flushed, self.last) = (flushed, last);
        self
    }

    fn bytes(&self) -> Vec<u8> {
        let bat: Vec<u8> = self
            .bat
            .iter()
            .flat_map(|entry| entry.to_le_bytes())
            .collect();
        self.with_changes(vec![(3 * M, Change::Sector(bat))], GUID)
    }

    fn with_changes(&self, changes: Vec<(u64, Change)>, guid: [u8; 16]) -> Vec<u8> {
        let entry = LogEntry {
            guid,
            sequence_number: self.number,
            tail: self.tail,
            changes,
            flushed: self.flushed * M,
            last: self.last * M,
        };
        entry.bytes()
    }
}

/// Blocks 0 and 3 are in the BAT; B's at 6 MiB and J's at 7 MiB only in the log.
pub(crate) fn dirty(entries: Vec<(u64, Vec<u8>)>) -> Vec<u8> {
    let mut image = closed();
    image.log = Some((GUID, entries));
    image.patches = vec![(6 * M, vec![b'B'; 1 << 20]), (7 * M, vec![b'J'; 1 << 20])];
    image.build()
}

/// The same, without the blocks that the BAT does not know.
fn short(entries: Vec<(u64, Vec<u8>)>) -> Vec<u8> {
    let mut image = closed();
    image.log = Some((GUID, entries));
    image.build()
}

fn closed() -> Vhdx {
    Vhdx::new(8 * M).filled(0, 0x41).filled(3, 0x44)
}

const B6: u64 = (6 * M) | 6;
const B7: u64 = (7 * M) | 6;
pub(crate) const FIRST: &str = "41*2048 42*2048 00*2048 44*2048 00*8192";

pub(crate) fn first() -> Vec<u8> {
    Entry::new(7, 0, B6).bytes()
}

pub(crate) fn second() -> Vec<u8> {
    let entry = Entry::new(8, 0, B6).with(2, 2).with(7, B7);
    entry.until(8, 8).bytes()
}

#[test]
fn entries_are_applied_in_order() {
    assert_eq!(reads(dirty(vec![(0, first())])), FIRST);
    let both = vec![(0, first()), (8192, second())];
    assert_eq!(
        reads(dirty(both)),
        "41*2048 42*2048 00*2048 44*2048 00*6144 4a*2048"
    );
}

#[test]
fn a_replayed_image_is_told_to_be_dirty_and_its_bytes_stay() {
    let image = dirty(vec![(0, first())]);
    let chain = open(image).unwrap();
    assert!(chain.top().info.dirty);
    assert!(chain.top().info.warnings[0].contains("replayed in memory: 1"));
    assert!(!open(closed().build()).unwrap().top().info.dirty);
}

#[test]
fn an_entry_may_wrap_around_the_rings_end() {
    let at = RING - 4096;
    let entry = Entry::new(7, at, B6).bytes();
    let (head, tail) = entry.split_at(4096);
    let image = dirty(vec![(at.into(), head.to_vec()), (0, tail.to_vec())]);
    assert_eq!(reads(image), FIRST);
}

#[test]
fn a_run_may_wrap_around_the_rings_end() {
    let at = RING - 8192;
    let first = Entry::new(7, at, B6).bytes();
    let second = Entry::new(8, at, B6).with(7, B7).until(8, 8).bytes();
    let image = dirty(vec![(at.into(), first), (0, second)]);
    assert_eq!(
        reads(image),
        "41*2048 42*2048 00*2048 44*2048 00*6144 4a*2048"
    );
}

#[test]
fn a_torn_last_entry_does_not_count() {
    let mut torn = second();
    torn[5000] ^= 1;
    assert_eq!(reads(dirty(vec![(0, first()), (8192, torn)])), FIRST);
}

#[test]
fn a_run_whose_tail_was_overwritten_is_refused() {
    let entry = Entry::new(8, RING / 2, B6).until(7, 8).bytes();
    assert!(reads(dirty(vec![(0, entry)])).contains("no valid sequence"));
}

#[test]
fn of_two_runs_the_newer_one_counts() {
    let newer = Entry::new(20, 65536, B7).with(2, 0).until(8, 8).bytes();
    assert_eq!(
        reads(dirty(vec![(0, first()), (65536, newer)])),
        "41*2048 4a*2048 00*2048 44*2048 00*8192"
    );
}

#[test]
fn entries_before_the_tail_are_in_their_places_already() {
    // Were the first entry applied, block 2 would be where block 1 comes to lie.
    let first = Entry::new(7, 0, B6).with(2, B7).until(8, 8).bytes();
    let second = Entry::new(8, 8192, B7).until(8, 8).bytes();
    let image = dirty(vec![(0, first), (8192, second)]);
    assert_eq!(reads(image), "41*2048 4a*2048 00*2048 44*2048 00*8192");
}

#[test]
fn zeros_are_laid_over_the_file() {
    let entry = Entry::new(7, 0, 0).until(6, 6);
    let zeros = entry.with_changes(vec![(3 * M, Change::Zeros(4096))], GUID);
    assert_eq!(reads(short(vec![(0, zeros)])), "00*16384");
    let payload = entry.with_changes(vec![(4 * M + 4096, Change::Zeros(8192))], GUID);
    assert_eq!(
        reads(short(vec![(0, payload)])),
        "41*8 00*16 41*2024 00*4096 44*2048 00*8192"
    );
}

#[test]
fn an_entry_may_change_nothing() {
    let entry = Entry::new(7, 0, 0)
        .until(6, 6)
        .with_changes(Vec::new(), GUID);
    assert_eq!(
        reads(short(vec![(0, entry)])),
        "41*2048 00*4096 44*2048 00*8192"
    );
}

#[test]
fn an_entry_may_have_descriptors_in_several_sectors() {
    let mut changes: Vec<_> = (0..300)
        .map(|sector| (4 * M + sector * 4096, Change::Zeros(4096)))
        .collect();
    changes.truncate(200);
    changes.push((5 * M, Change::Sector(vec![0x55; 4096])));
    let entry = Entry::new(7, 0, 0).until(6, 6).with_changes(changes, GUID);
    assert_eq!(
        reads(short(vec![(0, entry)])),
        "00*1600 41*448 00*4096 55*8 44*2040 00*8192"
    );
}

#[test]
fn the_file_is_as_long_as_the_log_says() {
    let entry = Entry::new(7, 0, B6).until(6, 7).bytes();
    assert_eq!(
        reads(short(vec![(0, entry)])),
        "41*2048 00*4096 44*2048 00*8192"
    );
}

#[test]
fn a_log_without_a_valid_entry_is_refused_and_salvage_goes_on_without_it() {
    for entries in [
        vec![],
        vec![(0, Entry::new(7, 0, B6).with_changes(vec![], [7; 16]))],
    ] {
        let image = dirty(entries);
        assert!(reads(image.clone()).contains("no valid sequence"));
        let chain = salvage(image).unwrap();
        assert_eq!(sectors(&chain), "41*2048 00*4096 44*2048 00*8192");
        assert!(chain.top().info.dirty);
    }
}

#[test]
fn a_file_shorter_than_it_was_when_the_log_was_written_is_refused() {
    let entry = Entry::new(7, 0, B6).until(600, 600).bytes();
    assert!(reads(dirty(vec![(0, entry)])).contains("FlushedFileOffset"));
}

#[test]
fn a_log_that_changes_headers_or_itself_or_lies_far_out_is_refused() {
    for (offset, len) in [
        (64 << 10, 4096),
        (M, 4096),
        (512 << 10, M),
        (u64::MAX - 4095, 4096),
        (200 << 40, 4096),
        (4 * M, !4095),
    ] {
        let entry = Entry::new(7, 0, 0).until(6, 6);
        let bytes = entry.with_changes(vec![(offset, Change::Zeros(len))], GUID);
        let said = reads(short(vec![(0, bytes)]));
        assert!(
            said.contains("FileOffset of entry 7"),
            "{offset:#x}: {said}"
        );
    }
    let entry = Entry::new(7, 0, 0).until(6, u64::MAX / M);
    let bytes = entry.with_changes(vec![], GUID);
    assert!(reads(short(vec![(0, bytes)])).contains("LastFileOffset"));
}

#[test]
fn entries_that_overlap_without_end_are_not_all_verified() {
    // Each sector begins an entry as long as the whole ring.
    let entry = |at: u64| {
        let mut bytes = Entry::new(7, 0, 0).with_changes(vec![], GUID);
        bytes[8..12].copy_from_slice(&RING.to_le_bytes());
        (at * 4096, bytes)
    };
    let said = reads(short((0..256).map(entry).collect()));
    assert!(said.contains("log entries to be verified"), "{said}");
}
