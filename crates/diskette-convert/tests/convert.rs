//! What the engine promises, held against disks and images that are made for it.

#![allow(clippy::unwrap_used, reason = "a test may")]

mod fake;

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use diskette_convert::{Concat, ConvertOptions, Progress, Slice, TopLayer, convert, convert_into};
use diskette_core::{BlockReader, BlockReaderExt, Chain, Error, Extent, ImageInfo, Opened, Packed};
use fake::{Disk, Image, KIB, MIB, Placed, Writable, byte_at};

const CHUNK: u32 = 64 << 10;
const C: u64 = CHUNK as u64;

fn with_threads(threads: usize) -> ConvertOptions<'static> {
    let mut options = ConvertOptions::default();
    options.control.threads = Some(threads);
    options
}

/// A bit of everything, at odd places.
fn mixed() -> Disk {
    let disk = Disk::default()
        .hole(3 * C)
        .data(10 * C + 512)
        .zeros(C)
        .data_of_zeros(5 * C)
        .compressed(C, 3)
        .hole(2 * C - 512)
        .compressed(2 * MIB, 2);
    (0..40)
        .fold(disk, |disk, _| disk.data(5 * KIB).hole(40 * KIB))
        .data(9 * MIB)
        .zeros(MIB)
        .data(700)
}

fn converted(disk: &Disk, image: Image, options: &ConvertOptions<'_>) -> (Placed, Vec<u8>) {
    let (placed, storage) = (image.placed.clone(), image.storage.clone());
    let finished = image.finished.clone();
    convert(disk, Box::new(image), options).unwrap();
    assert_eq!(finished.load(Ordering::Relaxed), 1);
    let placed = placed.lock().unwrap().clone();
    let end = placed.iter().filter_map(|it| Some(it.3? + it.2)).max();
    let bytes = storage.read(0, usize::try_from(end.unwrap_or(0)).unwrap());
    (placed, bytes)
}

#[test]
fn what_is_stored_is_what_the_disk_holds() {
    let disk = mixed();
    let (placed, bytes) = converted(&disk, Image::new(CHUNK), &with_threads(2));
    let mut stored = vec![0; usize::try_from(disk.size()).unwrap()];
    for (offset, _, len, host) in placed {
        let at = |number: u64| usize::try_from(number).unwrap();
        let host = at(host.unwrap());
        stored[at(offset)..at(offset + len)].copy_from_slice(&bytes[host..host + at(len)]);
    }
    assert!(stored == disk.to_vec());
}

#[test]
fn the_number_of_threads_changes_nothing() {
    let disk = mixed();
    for chunk_size in [512, CHUNK, 2 << 20, 32 << 20] {
        for compressing in [false, true] {
            let image = || match compressing {
                false => Image::new(chunk_size),
                true => Image::new(chunk_size).compressing(),
            };
            let alone = converted(&disk, image(), &with_threads(1));
            for threads in [2, 3, 16] {
                assert!(alone == converted(&disk, image(), &with_threads(threads)));
            }
            assert!(alone == converted(&disk, image(), &ConvertOptions::default()));
        }
    }
}

#[test]
fn a_compressed_granule_is_decoded_once() {
    let disk = Disk::default().compressed(2 * MIB, 3).compressed(C, 40);
    converted(&disk, Image::new(CHUNK), &with_threads(3));
    assert_eq!(disk.reads.load(Ordering::Relaxed), 43);
    assert_eq!(disk.bytes_read.load(Ordering::Relaxed), disk.size());
}

#[test]
fn holes_and_zeros_are_not_read_and_each_extent_is_looked_up_once() {
    let disk = Disk::default().hole(1 << 44).data(C).zeros(1 << 43).data(C);
    let (placed, _) = converted(&disk, Image::new(CHUNK), &with_threads(2));
    let chunks: Vec<_> = placed.iter().map(|it| it.0).collect();
    assert_eq!(chunks, [1 << 44, (1 << 44) + C + (1 << 43)]);
    assert_eq!(disk.bytes_read.load(Ordering::Relaxed), 2 * C);
    // Two more lookups are those of the disk itself, when it is read.
    assert_eq!(disk.lookups.load(Ordering::Relaxed), 4 + 2);
}

#[test]
fn chunks_that_turn_out_to_be_zero_are_left_out() {
    let disk = Disk::default().data_of_zeros(MIB);
    let (placed, _) = converted(&disk, Image::new(CHUNK), &with_threads(2));
    assert_eq!(placed, []);
}

#[test]
fn zeros_within_a_chunk_are_not_written() {
    let disk = Disk::default()
        .data(4 * KIB)
        .data_of_zeros(8 * KIB)
        .data(2 * KIB)
        .data_of_zeros(3 * KIB);
    let image = Image::new(CHUNK);
    let storage = image.storage.clone();
    let (placed, _) = converted(&disk, image, &with_threads(1));
    assert_eq!(placed, [(0, Packed::Plain, 17 * KIB, Some(0x1000))]);
    let written: Vec<_> = storage
        .bytes
        .lock()
        .unwrap()
        .iter()
        .map(|(at, bytes)| (*at, bytes.len()))
        .collect();
    assert_eq!(written, [(0x1000, 4096), (0x4000, 5120)]);
}

#[test]
fn all_is_written_where_no_zeros_are_to_be_left_out() {
    let disk = Disk::default().hole(MIB).zeros(C).data_of_zeros(C).data(C);
    let mut options = with_threads(2);
    options.sparse_size = 0;
    let (placed, bytes) = converted(&disk, Image::new(CHUNK), &options);
    assert_eq!(placed.len() as u64, disk.size() / C);
    assert!(placed.iter().all(|it| it.1 == Packed::Plain));
    assert!(bytes[0x1000..] == disk.to_vec());
}

#[test]
fn neighbours_are_written_by_one_call() {
    let disk = Disk::default().data(MIB);
    let image = Image::new(CHUNK);
    let storage = image.storage.clone();
    converted(&disk, image, &with_threads(1));
    assert_eq!(storage.writes.load(Ordering::Relaxed), 2);
}

#[test]
fn pieces_of_a_large_chunk_are_stored_at_its_place() {
    let disk = Disk::default()
        .hole(5 * MIB)
        .data(MIB)
        .hole(90 * MIB)
        .data(3);
    let (placed, bytes) = converted(&disk, Image::new(32 << 20), &with_threads(2));
    assert_eq!(
        placed,
        [
            (0, Packed::Plain, 32 * MIB, Some(0x1000)),
            (96 * MIB, Packed::Plain, 3, Some(0x1000 + 32 * MIB)),
        ]
    );
    let at = usize::try_from(0x1000 + 5 * MIB).unwrap();
    assert_eq!(bytes[at - 1], 0);
    assert_eq!(bytes[at], byte_at(5 * MIB));
}

#[test]
fn over_a_backing_image_zeros_are_told_and_holes_left_out() {
    let disk = Disk::default()
        .hole(C)
        .zeros(2 * C)
        .data_of_zeros(C)
        .data(C / 2)
        .hole(C / 2)
        .zeros(C / 2)
        .hole(C / 2)
        .zeros(4 * C);
    let mut options = with_threads(2);
    options.backing_size = Some(9 * C);
    let (placed, _) = converted(&disk, Image::new(CHUNK), &options);
    let told: Vec<_> = placed.iter().map(|it| (it.0 / C, it.1)).collect();
    let zero = |chunk| (chunk, Packed::Zero);
    assert_eq!(
        told,
        [
            zero(1),
            zero(2),
            zero(3),
            (4, Packed::Plain),
            zero(5),
            zero(6),
            zero(7),
            zero(8)
        ]
    );
}

#[test]
fn a_top_layer_alone_shows_what_lies_below_where_a_chunk_is_partly_a_hole() {
    let opened = |disk: Disk| Opened {
        info: ImageInfo::new("test", disk.size()),
        reader: Box::new(disk),
        backing: None,
    };
    let top = Disk::default().data(C / 2).hole(4 * C - C / 2);
    let mut chain = Chain::new(opened(top));
    chain.push(opened(Disk::default().data(2 * C))).unwrap();
    let layer = TopLayer::new(&chain);
    assert_eq!(
        layer.read_vec(0, 20).unwrap(),
        chain.read_vec(0, 20).unwrap()
    );

    let image = Image::new(CHUNK);
    let (placed, storage) = (image.placed.clone(), image.storage.clone());
    let mut options = with_threads(2);
    options.backing_size = Some(3 * C);
    convert(&layer, Box::new(image), &options).unwrap();
    // The layer below ends before the new backing image does: zeros are to hide the rest of that.
    let told: Vec<_> = placed
        .lock()
        .unwrap()
        .iter()
        .map(|it| (it.0, it.1))
        .collect();
    assert_eq!(told, [(0, Packed::Plain), (2 * C, Packed::Zero)]);
    assert!(storage.read(0x1000, CHUNK as usize) == chain.read_vec(0, CHUNK as usize).unwrap());
}

#[test]
fn the_first_error_in_guest_order_is_told_whatever_the_number_of_threads() {
    for threads in [1, 2, 8] {
        let disk = Disk {
            broken_at: Some(7 * MIB + 3),
            panics_at: Some(8 * MIB + 4096),
            ..Disk::default().data(20 * MIB)
        };
        let image = Image::new(CHUNK);
        let finished = image.finished.clone();
        let error = convert(&disk, Box::new(image), &with_threads(threads)).unwrap_err();
        assert!(matches!(error, Error::Io { op: "read", offset, .. } if offset == 7 * MIB));
        assert_eq!(finished.load(Ordering::Relaxed), 0);
    }
}

#[test]
fn a_panic_of_a_reader_is_an_error() {
    for threads in [1, 4] {
        let disk = Disk {
            panics_at: Some(MIB),
            ..Disk::default().data(20 * MIB)
        };
        let image = Box::new(Image::new(CHUNK));
        let error = convert(&disk, image, &with_threads(threads)).unwrap_err();
        assert_eq!(error.to_string(), "internal error: bad block");
    }
}

#[test]
fn each_write_may_fail() {
    for threads in [1, 2] {
        for write in [0, 1, 5, 19] {
            let disk = Disk::default().data(10 * MIB);
            let image = Image::new(CHUNK).failing_at(write);
            let finished = image.finished.clone();
            let error = convert(&disk, Box::new(image), &with_threads(threads)).unwrap_err();
            assert!(matches!(error, Error::Io { op: "write", .. }), "{error}");
            assert_eq!(finished.load(Ordering::Relaxed), 0);
        }
    }
}

#[test]
fn a_cancelled_conversion_ends() {
    let disk = Disk::default().data(20 * MIB);
    let cancel = AtomicBool::new(false);
    let progress = |progress: Progress| {
        if progress.done > 3 * MIB {
            cancel.store(true, Ordering::Relaxed);
        }
    };
    for threads in [1, 2] {
        cancel.store(false, Ordering::Relaxed);
        let mut options = with_threads(threads);
        options.control.cancel = Some(&cancel);
        options.control.progress = Some(&progress);
        let image = Image::new(CHUNK);
        let finished = image.finished.clone();
        let error = convert(&disk, Box::new(image), &options).unwrap_err();
        assert!(matches!(error, Error::Cancelled));
        assert_eq!(finished.load(Ordering::Relaxed), 0);
    }
}

#[test]
fn progress_counts_data_up_to_the_total() {
    let disk = mixed();
    let heard = Mutex::new(Vec::new());
    let listen = |progress: Progress| heard.lock().unwrap().push(progress);
    let mut options = with_threads(4);
    options.control.progress = Some(&listen);
    converted(&disk, Image::new(CHUNK), &options);
    let heard = heard.into_inner().unwrap();
    assert!(heard.is_sorted_by_key(|progress| progress.done));
    assert_eq!(heard[0].done, 0);
    assert_eq!(heard[heard.len() - 1].done, heard[0].total);
}

/// A disk that takes its time, and counts how many wait for it at once.
#[derive(Debug)]
struct Slow {
    disk: Disk,
    readers: AtomicUsize,
    most_readers: AtomicUsize,
}

impl BlockReader for Slow {
    fn size(&self) -> u64 {
        self.disk.size()
    }

    fn extent_at(&self, offset: u64) -> diskette_core::Result<Extent> {
        self.disk.extent_at(offset)
    }

    fn read_extent(
        &self,
        extent: &Extent,
        buf: &mut [u8],
        offset: u64,
    ) -> diskette_core::Result<()> {
        let readers = self.readers.fetch_add(1, Ordering::Relaxed) + 1;
        self.most_readers.fetch_max(readers, Ordering::Relaxed);
        std::thread::sleep(Duration::from_millis(10));
        self.readers.fetch_sub(1, Ordering::Relaxed);
        self.disk.read_extent(extent, buf, offset)
    }
}

#[test]
fn threads_come_to_help_where_reading_is_slow_and_no_more_than_asked_for() {
    let slow = Slow {
        disk: Disk::default().data(20 * MIB),
        readers: AtomicUsize::new(0),
        most_readers: AtomicUsize::new(0),
    };
    convert(&slow, Box::new(Image::new(CHUNK)), &with_threads(4)).unwrap();
    let most = slow.most_readers.into_inner();
    assert!((3..=4).contains(&most), "{most}");
}

#[test]
fn work_runs_ahead_by_a_few_tasks_only() {
    #[derive(Debug)]
    struct Watched(Disk, std::sync::Arc<fake::Memory>);
    impl BlockReader for Watched {
        fn size(&self) -> u64 {
            self.0.size()
        }
        fn extent_at(&self, offset: u64) -> diskette_core::Result<Extent> {
            self.0.extent_at(offset)
        }
        fn read_extent(
            &self,
            extent: &Extent,
            buf: &mut [u8],
            offset: u64,
        ) -> diskette_core::Result<()> {
            let written: usize = self.1.bytes.lock().unwrap().values().map(Vec::len).sum();
            // 6 tasks of 512 KiB are all that two threads have.
            assert!(
                offset <= written as u64 + 3 * MIB,
                "{offset:#x} {written:#x}"
            );
            self.0.read_extent(extent, buf, offset)
        }
    }
    let image = Image::new(CHUNK);
    let disk = Watched(Disk::default().data(40 * MIB), image.storage.clone());
    convert(&disk, Box::new(image), &with_threads(2)).unwrap();
}

#[test]
fn a_disk_that_is_there_is_overwritten_with_zeros_too() {
    let disk = mixed();
    let size = usize::try_from(disk.size()).unwrap();
    let target = Writable::new(vec![0xee; size + 100]);
    convert_into(&disk, &target, &with_threads(2)).unwrap();
    let bytes = target.bytes.into_inner().unwrap();
    assert!(bytes[..size] == disk.to_vec());
    assert_eq!(bytes[size..], [0xee; 100]);
}

#[test]
fn zeros_are_not_written_where_the_target_is_known_to_be_zero() {
    let disk = mixed();
    let target = Writable::new(vec![0; usize::try_from(disk.size()).unwrap()]);
    let mut options = with_threads(2);
    options.target_is_zero = true;
    convert_into(&disk, &target, &options).unwrap();
    assert!(
        target
            .calls
            .lock()
            .unwrap()
            .iter()
            .all(|call| call.0 == "data")
    );
    assert!(target.bytes.into_inner().unwrap() == disk.to_vec());
}

#[test]
fn a_target_that_is_too_small_is_refused_before_anything_is_written() {
    let target = Writable::new(vec![0xee; 100]);
    let error = convert_into(&Disk::default().data(101), &target, &with_threads(1)).unwrap_err();
    assert!(matches!(
        error,
        Error::OutOfRange {
            len: 101,
            size: 100,
            ..
        }
    ));
    assert_eq!(target.bytes.into_inner().unwrap(), [0xee; 100]);
}

#[test]
fn an_empty_disk_becomes_an_empty_image() {
    let (placed, _) = converted(&Disk::default(), Image::new(CHUNK), &with_threads(2));
    assert_eq!(placed, []);
}

#[test]
fn disks_one_after_another_read_like_one() {
    let (first, second) = (mixed(), Disk::default().data(700));
    let disks: [&dyn BlockReader; 3] = [&first, &second, &first];
    let all = Concat::new(disks).unwrap();
    let padded = |disk: &Disk| {
        let mut bytes = disk.to_vec();
        bytes.resize(bytes.len().next_multiple_of(512), 0);
        bytes
    };
    let expected = [padded(&first), padded(&second), padded(&first)].concat();
    assert_eq!(all.size(), expected.len() as u64);
    assert!(all.read_vec(0, expected.len()).unwrap() == expected);

    let target = Writable::new(vec![0xee; expected.len()]);
    convert_into(&all, &target, &with_threads(2)).unwrap();
    assert!(target.bytes.into_inner().unwrap() == expected);
}

#[test]
fn a_slice_of_a_disk_reads_like_its_bytes() {
    let disk = mixed();
    let bytes = disk.to_vec();
    let size = bytes.len() as u64;
    for (start, len) in [
        (0, size),
        (1, size - 1),
        (700, 3 * KIB),
        (size, 0),
        (MIB + 3, MIB),
    ] {
        let slice = Slice::new(&disk, start, len).unwrap();
        let range = usize::try_from(start).unwrap()..usize::try_from(start + len).unwrap();
        assert_eq!(slice.size(), len);
        assert!(slice.read_vec(0, range.len()).unwrap() == bytes[range.clone()]);
        let target = Writable::new(vec![0xee; range.len()]);
        convert_into(&slice, &target, &with_threads(2)).unwrap();
        assert!(target.bytes.into_inner().unwrap() == bytes[range]);
    }
    assert!(Slice::new(&disk, 1, size).is_err());
}
