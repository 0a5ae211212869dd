//! Images that are changed in place, held against a disk in memory.

use std::sync::{Arc, LazyLock};

use diskette_core::{
    BackingImage, BlockReader, BlockReaderExt, BlockWriter, CheckReport, Extent, ExtentKind,
    Format, HostOffset, Limits, MIB, NewImage, NoParts, NoReferences, OpenContext, Options, Result,
    Secrets, Storage, StorageMut,
};
use diskette_qcow2::Qcow2;
use diskette_storage::MemoryStorage;
use diskette_testkit::failing::What;
use diskette_testkit::recording::RecordingStorage;
use diskette_testkit::{FailingStorage, Failure, How, Rng, qemu_img};
use proptest::prelude::*;

use crate::driver::{Folder, format, image_of, mixed_disk, write_to};

/// Little room for tables, so that they are written now and then.
static LIMITS: LazyLock<Limits> = LazyLock::new(|| {
    let mut limits = Limits::default();
    limits.cache_bytes = 64 << 10;
    limits
});

static OPTIONS: Options = Options::new();

static SECRETS: LazyLock<Secrets> = LazyLock::new(Secrets::default);

fn context() -> OpenContext<'static> {
    OpenContext {
        files: &NoReferences,
        limits: &LIMITS,
        options: &OPTIONS,
        secrets: &SECRETS,
        salvage: false,
        metadata_only: false,
    }
}

/// A disk in memory.
#[derive(Debug)]
struct Bytes(Vec<u8>);

impl BlockReader for Bytes {
    fn size(&self) -> u64 {
        self.0.len() as u64
    }

    fn extent_at(&self, _offset: u64) -> Result<Extent> {
        let data = ExtentKind::Data(HostOffset::new(0));
        Ok(Extent::new(0, self.size(), data))
    }

    fn read_extent(&self, _extent: &Extent, buf: &mut [u8], offset: u64) -> Result<()> {
        let start = usize::try_from(offset).unwrap();
        buf.copy_from_slice(&self.0[start..start + buf.len()]);
        Ok(())
    }
}

/// An image to begin with, and the disk that a guest sees in it.
#[derive(Clone)]
struct Start {
    image: Vec<u8>,
    below: Option<Arc<dyn BlockReader>>,
    disk: Vec<u8>,
}

fn start(options: &str, compress: bool, below: bool, size: usize) -> Start {
    let mut what = NewImage::new(size as u64);
    for (name, value) in options.split(',').filter_map(|pair| pair.split_once('=')) {
        what = what.with_option(name, value);
    }
    what.compress = compress;
    let own = mixed_disk(size, 6000, size as u64);
    let is_hole = |offset: u64| offset / 100_000 % 2 == 1;
    let mut disk = own.clone();
    let base = if below {
        what = what.with_backing(BackingImage::new("base.raw", "raw"));
        vec![0x55; 2 * size / 3]
    } else {
        Vec::new()
    };
    let memory = Arc::new(MemoryStorage::default());
    let chunk = {
        let to = Arc::new(MemoryStorage::default());
        format()
            .create(to, &NoParts, &what)
            .unwrap()
            .packer()
            .chunk_size()
    };
    let to = Arc::clone(&memory) as Arc<dyn StorageMut>;
    write_to(to, &what, &own, is_hole).unwrap();
    for (offset, byte) in disk.iter_mut().enumerate() {
        let start = offset as u64 / u64::from(chunk) * u64::from(chunk);
        if is_hole(start) {
            *byte = base.get(offset).copied().unwrap_or(0);
        }
    }
    Start {
        image: memory.to_vec(),
        below: below.then(|| Arc::new(Bytes(base)) as Arc<dyn BlockReader>),
        disk,
    }
}

fn edit(image: Arc<dyn StorageMut>, below: Option<Arc<dyn BlockReader>>) -> Box<dyn BlockWriter> {
    format().edit(image, below, &context()).unwrap()
}

fn check(image: Vec<u8>) -> CheckReport {
    let storage = Arc::new(MemoryStorage::new(image)) as Arc<dyn Storage>;
    let checkable = Qcow2.checkable().unwrap();
    checkable.check(storage, &context()).unwrap()
}

fn expect_clean(image: Vec<u8>) {
    let report = check(image);
    let found = (report.corruptions, report.leaks, report.check_errors);
    assert_eq!(found, (0, 0, 0), "{:#?}", report.findings);
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Write(u64),
    Zeros,
    Flush,
    Read,
    Reopen,
}

/// A step, where (of a million parts of the disk), and how long.
type Act = (Step, u64, usize);

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let step = prop_oneof![
        5 => any::<u64>().prop_map(Step::Write),
        3 => Just(Step::Zeros),
        1 => Just(Step::Flush),
        2 => Just(Step::Read),
        1 => Just(Step::Reopen),
    ];
    let len = prop_oneof![
        1_usize..3000,
        1_usize..20_000,
        Just(4096_usize),
        1_usize..300_000
    ];
    let act = (step, 0_u64..1_000_000, len);
    proptest::collection::vec(act, 1..40)
}

/// Aligns some of the ranges: whole clusters are a case of their own.
fn range_of(act: Act, size: usize) -> std::ops::Range<usize> {
    let (_, part, len) = act;
    let at = usize::try_from(part).unwrap() * size / 1_000_000;
    let at = match part % 3 {
        0 => at / 65536 * 65536,
        1 => at / 512 * 512,
        _ => at,
    };
    let len = if part % 5 == 0 {
        len.next_multiple_of(4096)
    } else {
        len
    };
    at..(at + len).min(size)
}

fn run(start: &Start, acts: &[Act]) {
    let storage = Arc::new(MemoryStorage::new(start.image.clone()));
    let open = || {
        edit(
            Arc::clone(&storage) as Arc<dyn StorageMut>,
            start.below.clone(),
        )
    };
    let mut disk = start.disk.clone();
    let mut writer = open();
    for act in acts {
        let range = range_of(*act, disk.len());
        let offset = range.start as u64;
        match act.0 {
            Step::Write(seed) => {
                Rng::new(seed).fill(&mut disk[range.clone()]);
                writer.write_at(&disk[range], offset).unwrap();
            }
            Step::Zeros => {
                writer.write_zeros(offset, range.len() as u64).unwrap();
                disk[range].fill(0);
            }
            Step::Flush => writer.flush().unwrap(),
            Step::Read => {
                let read = writer.read_vec(offset, range.len()).unwrap();
                assert!(read == disk[range], "at {offset}");
            }
            Step::Reopen => {
                drop(writer);
                expect_clean(storage.to_vec());
                writer = open();
            }
        }
    }
    let extents: Result<Vec<_>> = writer.extents().collect();
    assert_eq!(
        extents
            .unwrap()
            .iter()
            .map(|extent| extent.len)
            .sum::<u64>(),
        disk.len() as u64
    );
    writer.flush().unwrap();
    assert!(writer.read_vec(0, disk.len()).unwrap() == disk);
    drop(writer);
    expect_clean(storage.to_vec());
    assert!(open().read_vec(0, disk.len()).unwrap() == disk);
    assert_eq!(storage.size().unwrap() % 512, 0);
}

macro_rules! models {
    ($($name:ident: $options:expr, $compress:expr, $below:expr, $size:expr;)*) => {
        $(
            #[test]
            fn $name() {
                let start = start($options, $compress, $below, $size);
                expect_clean(start.image.clone());
                proptest!(ProptestConfig::with_cases(16), |(acts in acts())| run(&start, &acts));
            }
        )*
    };
}

models! {
    a_plain_image_reads_as_it_was_written: "compat=1.1", false, false, 1_500_000 / 512 * 512;
    a_compressed_image_reads_as_it_was_written: "cluster_size=4k", true, false, 1_000_448;
    a_zstd_image_reads_as_it_was_written: "compression_type=zstd", true, false, 1_000_448;
    an_overlay_reads_as_it_was_written: "cluster_size=16k", false, true, 1_000_448;
    a_compressed_overlay_reads_as_it_was_written: "cluster_size=4k", true, true, 500_224;
    an_image_of_version_2_reads_as_it_was_written: "compat=0.10,cluster_size=8k", true, false, 600_064;
    an_overlay_of_version_2_reads_as_it_was_written: "compat=0.10,cluster_size=8k", false, true, 600_064;
    subclusters_read_as_they_were_written: "extended_l2=on,cluster_size=32k", false, false, 1_000_448;
    subclusters_over_a_base_read_as_they_were_written: "extended_l2=on,cluster_size=64k", true, true, 1_500_160;
    preallocated_subclusters_read_as_they_were_written: "extended_l2=on,cluster_size=64k,preallocation=metadata", false, true, 1_000_448;
    a_refcount_table_grows_as_the_image_does: "cluster_size=512,refcount_bits=64", false, false, 1_200_128;
    refcounts_of_one_bit_are_enough: "cluster_size=1k,refcount_bits=1", true, false, 400_384;
}

#[test]
fn the_refcount_table_grows_more_than_once() {
    let what = NewImage::new(9 * MIB)
        .with_option("cluster_size", "512")
        .with_option("refcount_bits", "64");
    let storage = Arc::new(MemoryStorage::new(image_of(&what, &[])));
    let before = storage.to_vec()[48..60].to_vec();
    let writer = edit(Arc::clone(&storage) as Arc<dyn StorageMut>, None);
    let disk = mixed_disk(9 << 20, 512, 3);
    for (index, part) in disk.chunks(64 << 10).enumerate() {
        writer.write_at(part, index as u64 * (64 << 10)).unwrap();
    }
    writer.flush().unwrap();
    assert!(writer.read_vec(0, disk.len()).unwrap() == disk);
    assert_ne!(storage.to_vec()[48..60], before);
    expect_clean(storage.to_vec());
    if let Some(qemu_img) = qemu_img() {
        let folder = Folder::new();
        folder.put("disk.qcow2", &storage.to_vec());
        folder.put("disk.raw", &disk);
        folder.expect_sound(&qemu_img, "disk.qcow2", "disk.raw");
    }
}

/// Some writes and zeros.
fn scribble(writer: &dyn BlockWriter, disk: &mut [u8], seed: u64, count: usize) -> Result<()> {
    let mut rng = Rng::new(seed);
    for _ in 0..count {
        let offset = rng.index_below(disk.len() - 1);
        let len = (1 + rng.index_below(90_000)).min(disk.len() - offset);
        let range = &mut disk[offset..offset + len];
        if rng.below(3) == 0 {
            writer.write_zeros(offset as u64, len as u64)?;
            range.fill(0);
        } else {
            rng.fill(range);
            writer.write_at(range, offset as u64)?;
        }
    }
    Ok(())
}

#[test]
fn qemu_img_finds_changed_images_sound() {
    let Some(qemu_img) = qemu_img() else {
        return;
    };
    let folder = Folder::new();
    for (number, (options, compress, below)) in [
        ("compat=1.1", true, false),
        ("compat=0.10", false, true),
        ("extended_l2=on", false, true),
        ("extended_l2=on,compression_type=zstd", true, false),
        ("cluster_size=512,refcount_bits=1", false, true),
        ("cluster_size=2M,refcount_bits=8", true, false),
    ]
    .into_iter()
    .enumerate()
    {
        let mut start = start(options, compress, below, 3_000_320);
        let storage = Arc::new(MemoryStorage::new(start.image.clone()));
        let to = Arc::clone(&storage) as Arc<dyn StorageMut>;
        let writer = edit(to, start.below.clone());
        scribble(&*writer, &mut start.disk, number as u64, 30).unwrap();
        writer.flush().unwrap();
        if let Some(below) = &start.below {
            let len = usize::try_from(below.size()).unwrap();
            folder.put("base.raw", &below.read_vec(0, len).unwrap());
        }
        folder.put("disk.qcow2", &storage.to_vec());
        folder.put("disk.raw", &start.disk);
        eprintln!("{options}, compressed: {compress}");
        folder.expect_sound(&qemu_img, "disk.qcow2", "disk.raw");
    }
}

#[test]
fn snapshots_keep_what_they_had() {
    let Some(qemu_img) = qemu_img() else {
        return;
    };
    let folder = Folder::new();
    for (options, compress) in [
        ("cluster_size=4k", false),
        ("compat=0.10", true),
        ("extended_l2=on", true),
    ] {
        let mut start = start(options, compress, false, 1_000_448);
        folder.put("disk.qcow2", &start.image);
        folder.put("before.raw", &start.disk);
        qemu_img.run_in(folder.path(), ["snapshot", "-c", "before", "disk.qcow2"]);

        let storage = Arc::new(MemoryStorage::new(folder.get("disk.qcow2")));
        let writer = edit(Arc::clone(&storage) as Arc<dyn StorageMut>, None);
        scribble(&*writer, &mut start.disk, 7, 20).unwrap();
        writer.flush().unwrap();
        folder.put("disk.qcow2", &storage.to_vec());
        folder.put("after.raw", &start.disk);
        folder.expect_sound(&qemu_img, "disk.qcow2", "after.raw");
        qemu_img.run_in(
            folder.path(),
            [
                "convert",
                "-l",
                "before",
                "-O",
                "raw",
                "disk.qcow2",
                "old.raw",
            ],
        );
        assert!(
            folder.get("old.raw") == folder.get("before.raw"),
            "{options}"
        );
        qemu_img.run_in(folder.path(), ["snapshot", "-d", "before", "disk.qcow2"]);
        folder.expect_sound(&qemu_img, "disk.qcow2", "after.raw");
    }
}

#[test]
fn a_bitmap_that_is_not_kept_up_is_no_longer_trusted() {
    let mut image = image_of(&NewImage::new(MIB), &[]);
    image[88..96].copy_from_slice(&[0x80, 0, 0, 0, 0, 0, 0, 0]);
    let storage = Arc::new(MemoryStorage::new(image));
    let writer = edit(Arc::clone(&storage) as Arc<dyn StorageMut>, None);
    assert_eq!(storage.to_vec()[88], 0x80);
    writer.write_at(&[1], 0).unwrap();
    assert_eq!(storage.to_vec()[88], 0);
}

#[test]
fn what_must_not_be_written_is_refused_with_a_reason() {
    let refused = |change: &dyn Fn(&mut Vec<u8>), options: &str| {
        let mut image = start(options, false, options.contains("backing"), 65536).image;
        change(&mut image);
        let storage = Arc::new(MemoryStorage::new(image));
        let done = format().edit(storage, None, &context());
        done.map(|_| ()).unwrap_err().to_string()
    };
    let feature = |bit: u8| move |image: &mut Vec<u8>| image[79] |= bit;
    assert!(refused(&feature(2), "").contains("corrupt"));
    assert!(refused(&feature(4), "").contains("data file"));
    assert!(refused(&|image: &mut Vec<u8>| image[40..48].fill(0), "").contains("L1 table"));
    assert!(refused(&|image: &mut Vec<u8>| image[48..56].fill(0), "").contains("refcount table"));

    let overlay = start("cluster_size=4k", false, true, 65536).image;
    let storage = Arc::new(MemoryStorage::new(overlay));
    let done = format().edit(storage, None, &context());
    assert!(
        done.map(|_| ())
            .unwrap_err()
            .to_string()
            .contains("without the image below")
    );
}

#[test]
fn an_image_that_says_a_table_is_free_is_not_written() {
    // All refcounts are zero: the first free cluster is one of a table.
    let mut image = image_of(&NewImage::new(MIB), &[]);
    image[0x2_0000..0x3_0000].fill(0);
    let storage = Arc::new(MemoryStorage::new(image.clone()));
    let writer = edit(Arc::clone(&storage) as Arc<dyn StorageMut>, None);
    let error = writer.write_at(&[1], 0).unwrap_err().to_string();
    assert!(error.contains("holds a table"), "{error}");
    drop(writer);
    assert!(storage.to_vec() == image);
}

#[test]
fn entries_that_lead_into_tables_are_not_followed() {
    let disk = mixed_disk(1 << 20, 4096, 2);
    let image = image_of(&NewImage::new(MIB), &disk);
    let l2 = usize::try_from(u64::from_be_bytes(image[40..48].try_into().unwrap())).unwrap();
    let l2 = u64::from_be_bytes(image[l2..l2 + 8].try_into().unwrap()) & !(1 << 63);
    let l2 = usize::try_from(l2).unwrap();
    for entry in [
        1 << 63,
        1 << 63 | l2 as u64,
        1 << 63 | 1 << 40,
        1 << 63 | 0x200,
        1 << 62 | l2 as u64,
    ] {
        let mut image = image.clone();
        image[l2..l2 + 8].copy_from_slice(&u64::to_be_bytes(entry));
        let storage = Arc::new(MemoryStorage::new(image.clone()));
        let writer = edit(Arc::clone(&storage) as Arc<dyn StorageMut>, None);
        let done = writer.write_at(&[1], 0);
        assert_eq!(done.is_ok(), entry == 1 << 63, "{entry:#x}: {done:?}");
    }
}

#[test]
fn a_storage_that_fails_leaves_an_image_without_corruption() {
    let start = start("cluster_size=4k", true, false, 400_384);
    let run = |failure| {
        let storage = FailingStorage::new(RecordingStorage::new(start.image.clone()), failure);
        let storage = Arc::new(storage);
        let opened = format().edit(
            Arc::clone(&storage) as Arc<dyn StorageMut>,
            None,
            &context(),
        );
        let done = opened.and_then(|writer| {
            scribble(&*writer, &mut start.disk.clone(), 11, 4)?;
            writer.flush()
        });
        (done, storage)
    };
    let (done, storage) = run(Failure::never());
    done.unwrap();
    for after in (0..storage.operations()).step_by(3) {
        for failure in [
            Failure::new(What::Everything, after),
            Failure::new(What::Everything, after).once(),
            Failure::new(What::Everything, after).with(How::Half),
        ] {
            let (done, storage) = run(failure);
            assert!(done.is_err());
            if failure.how == How::Error {
                let report = check(storage.inner().bytes());
                assert_eq!(report.corruptions, 0, "{failure:?}: {:#?}", report.findings);
            }
        }
    }
}

#[test]
fn a_crash_loses_nothing_that_was_flushed_and_corrupts_nothing() {
    for (options, compress) in [
        ("cluster_size=512,refcount_bits=64", false),
        ("extended_l2=on,cluster_size=16k", true),
    ] {
        let start = start(options, compress, false, 300_032);
        let storage = Arc::new(RecordingStorage::new(start.image.clone()));
        let mut disk = start.disk.clone();
        let writer = edit(Arc::clone(&storage) as Arc<dyn StorageMut>, None);
        scribble(&*writer, &mut disk, 1, 6).unwrap();
        writer.flush().unwrap();
        let flushed = storage.operations().len();
        // What is written now must not touch what was flushed: the first half of the disk.
        let half = disk.len() / 2 / 65536 * 65536;
        for index in 0..40_u64 {
            let offset = half as u64 + index * 2000;
            writer.write_at(&[7; 3000], offset).unwrap();
        }
        writer.flush().unwrap();
        drop(writer);
        let total = storage.operations().len();
        let mut rng = Rng::new(5);
        for count in (0..total).step_by(total / 60 + 1) {
            let image = storage.bytes_after_crash(count, &mut rng);
            let report = check(image.clone());
            assert_eq!(
                report.corruptions, 0,
                "after {count} operations: {:#?}",
                report.findings
            );
            if count >= flushed {
                let image = Arc::new(MemoryStorage::new(image));
                let reader = edit(image, None);
                assert!(
                    reader.read_vec(0, half).unwrap() == disk[..half],
                    "after {count}"
                );
            }
        }
    }
}

#[test]
fn threads_may_write_at_once() {
    let storage = Arc::new(MemoryStorage::new(image_of(&NewImage::new(8 * MIB), &[])));
    let writer = edit(Arc::clone(&storage) as Arc<dyn StorageMut>, None);
    std::thread::scope(|scope| {
        for thread in 0..8_u8 {
            let writer = &writer;
            scope.spawn(move || {
                for part in 0..16_u64 {
                    let offset = u64::from(thread) * MIB + part * 65536;
                    writer.write_at(&[thread + 1; 65536], offset).unwrap();
                }
            });
        }
    });
    writer.flush().unwrap();
    for thread in 0..8_u8 {
        let read = writer.read_vec(u64::from(thread) * MIB, 1 << 20).unwrap();
        assert!(read.iter().all(|byte| *byte == thread + 1));
    }
    expect_clean(storage.to_vec());
}
