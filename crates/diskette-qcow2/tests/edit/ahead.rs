//! Places given ahead, and overlays made ready for another image below: compressed, and with zeros that hide.

use std::sync::Arc;

use diskette_core::{
    BlockReaderExt, BlockWriter, Extent, ExtentKind, Format, NewImage, Preallocation, Result,
    StorageMut,
};
use diskette_qcow2::Qcow2;
use diskette_storage::MemoryStorage;
use diskette_testkit::{RecordingStorage, Rng, qemu_img};

use crate::driver::image_of;
use crate::support::{Below, Bytes, Folder, Step, check, context, edit, expect_clean, expect_disk};

const CLUSTER: usize = 4096;

fn new_image(size: usize, options: &str) -> NewImage {
    let mut what = NewImage::new(size as u64);
    for (name, value) in options.split(',').filter_map(|pair| pair.split_once('=')) {
        what = what.with_option(name, value);
    }
    what
}

fn edit_overlay(
    image: Arc<dyn StorageMut>,
    below: Below,
    compress: bool,
) -> Result<Box<dyn BlockWriter>> {
    let overlays = Qcow2.overlays().expect("QCOW2 has overlays");
    overlays.edit_overlay(image, below, compress, &context())
}

#[test]
fn what_is_preallocated_reads_as_zeros_and_stays_where_it_is_written() {
    let old = 112 << 10;
    let new = 400 << 10;
    for options in [
        "cluster_size=4k",
        "cluster_size=4k,compat=0.10",
        "cluster_size=512,refcount_bits=1",
        "cluster_size=16k,extended_l2=on",
        "cluster_size=4k,lazy_refcounts=on",
    ] {
        for how in [
            Preallocation::Metadata,
            Preallocation::Reserved,
            Preallocation::Full,
        ] {
            let mut disk = vec![0x33; old];
            let what = new_image(old, options);
            let image = Arc::new(MemoryStorage::new(image_of(&what, &disk)));
            let to = || Arc::clone(&image) as Arc<dyn StorageMut>;
            let writer = edit(to(), None).expect("an image that opens");
            // What is given up here is used again below.
            writer.discard(0, 64 << 10).expect("memory does not fail");
            disk[..64 << 10].fill(0);
            writer.resize(new as u64).expect("memory does not fail");
            disk.resize(new, 0);
            let at = old as u64;
            let done = writer.preallocate(at, new as u64 - at, how);
            done.expect("memory does not fail");
            expect_disk(&*writer, &disk);
            let before = kinds(&*writer);
            assert!(writer.preallocate(at, new as u64 - at + 1, how).is_err());
            if !options.contains("extended") || how == Preallocation::Full {
                let is_placed = |extent: &Extent| matches!(extent.kind, ExtentKind::Data(_));
                let placed = before.iter().filter(|extent| extent.offset >= at);
                assert!(
                    placed.clone().count() > 0 && placed.clone().all(is_placed),
                    "{options}"
                );
                let zeros = vec![1; 512];
                for offset in (at..new as u64).step_by(5000 / 512 * 512) {
                    writer
                        .write_at(&zeros, offset)
                        .expect("memory does not fail");
                    let offset = usize::try_from(offset).expect("an offset in memory");
                    disk[offset..offset + 512].fill(1);
                }
                assert_eq!(kinds(&*writer), before, "{options}");
            }
            drop(writer);
            expect_clean(image.to_vec());
            expect_disk(&*edit(to(), None).expect("an image that opens"), &disk);
        }
    }
}

fn kinds(writer: &dyn BlockWriter) -> Vec<Extent> {
    let mut all: Vec<Extent> = Vec::new();
    for extent in writer.extents() {
        let extent = extent.expect("a map that can be read");
        match all.last_mut() {
            Some(last) if last.kind == extent.kind => last.len += extent.len,
            _ => all.push(extent),
        }
    }
    all
}

#[test]
fn what_is_preallocated_over_a_base_does_not_show_it_nor_hide_it() {
    let base = vec![0x77; 300 << 10];
    let what = new_image(100 << 10, "cluster_size=4k")
        .with_backing(diskette_core::BackingImage::new("base.raw", "raw"));
    let image = Arc::new(MemoryStorage::new(image_of(&what, &[])));
    let below = || Some(Arc::new(Bytes(base.clone())) as Arc<dyn diskette_core::BlockReader>);
    let writer = edit(Arc::clone(&image) as Arc<dyn StorageMut>, below()).expect("it opens");
    writer.resize(400 << 10).expect("memory does not fail");
    let all = writer.preallocate(0, 400 << 10, Preallocation::Metadata);
    all.expect("memory does not fail");
    let mut disk = vec![0; 400 << 10];
    disk[..100 << 10].fill(0x77);
    expect_disk(&*writer, &disk);
    drop(writer);
    expect_clean(image.to_vec());
}

#[test]
fn zeros_hide_what_will_lie_below_an_image_that_has_nothing_below() {
    for (options, data) in [
        ("cluster_size=4k", false),
        ("cluster_size=4k,compat=0.10", true),
    ] {
        let what = new_image(64 << 10, options);
        let image = Arc::new(MemoryStorage::new(image_of(&what, &[])));
        let to = || Arc::clone(&image) as Arc<dyn StorageMut>;
        let writer = edit_overlay(to(), None, false).expect("an image that opens");
        writer
            .write_zeros(8 << 10, 16 << 10)
            .expect("memory does not fail");
        drop(writer);
        expect_clean(image.to_vec());
        let reader = Qcow2
            .open(to(), &context())
            .expect("an image that opens")
            .reader;
        for at in (0..64 << 10).step_by(CLUSTER) {
            let extent = reader.extent_at(at).expect("a map that can be read");
            let expected = match ((8 << 10..24 << 10).contains(&at), data) {
                (false, _) => matches!(extent.kind, ExtentKind::Hole(_)),
                (true, false) => matches!(extent.kind, ExtentKind::Zero(_)),
                (true, true) => matches!(extent.kind, ExtentKind::Data(_)),
            };
            assert!(expected, "{options}: {extent:?}");
        }
    }
}

/// Random writes by a writer that compresses, and the disk that they make.
fn write_compressed(writer: &dyn BlockWriter, disk: &mut [u8], discards: bool, rng: &mut Rng) {
    for _ in 0..40 {
        let mut step = Step::random(rng, disk.len(), CLUSTER);
        if rng.below(3) > 0 {
            step.start = step.start / CLUSTER * CLUSTER;
            let len = step.len.next_multiple_of(CLUSTER);
            step.len = len.min(disk.len() - step.start);
        }
        step.run(writer).expect("memory does not fail");
        step.model(disk, CLUSTER, discards);
        if rng.below(8) == 0 {
            writer.flush().expect("memory does not fail");
        }
    }
}

#[test]
fn what_is_compressed_in_place_is_read_by_all_and_leaks_at_the_most_when_cut_off() {
    let qemu_img = qemu_img();
    let mut points = 0;
    for (seed, options) in (1..).zip([
        "cluster_size=4k",
        "cluster_size=4k,compression_type=zstd",
        "cluster_size=4k,refcount_bits=1",
        "cluster_size=4k,refcount_bits=2",
        "cluster_size=4k,compat=0.10",
    ]) {
        let mut rng = Rng::new(seed);
        let mut disk = vec![0; (200 << 10) + 512];
        let image = image_of(&new_image(disk.len(), options), &[]);
        let recording = Arc::new(RecordingStorage::new(image));
        let to = Arc::clone(&recording) as Arc<dyn StorageMut>;
        let writer = edit_overlay(to, None, true).expect("an image that opens");
        // Version 2 has no way to hide what lies below.
        let discards = !options.contains("0.10");
        write_compressed(&*writer, &mut disk, discards, &mut rng);
        expect_disk(&*writer, &disk);
        let packed = writer.extents().any(|extent| {
            let extent = extent.expect("a map that can be read");
            matches!(extent.kind, ExtentKind::Compressed { .. })
        });
        assert!(packed, "{options}");
        writer.close().expect("memory does not fail");
        drop(writer);
        expect_clean(recording.bytes());
        let total = recording.operations().len();
        for count in 0..=total {
            for image in [
                recording.bytes_after(count),
                recording.bytes_after_crash(count, &mut rng),
            ] {
                let report = check(image);
                let found = (report.corruptions, report.check_errors);
                assert_eq!(found, (0, 0), "{options} {count}: {:#?}", report.findings);
                points += 1;
            }
        }
        if let Some(qemu_img) = &qemu_img {
            let folder = Folder::new();
            folder.put("disk.qcow2", &recording.bytes());
            folder.expect_sound(qemu_img, "disk.qcow2", &disk);
        }
        let read = edit(Arc::clone(&recording) as Arc<dyn StorageMut>, None);
        let read = read.expect("an image that opens").read_vec(0, disk.len());
        assert!(read.expect("a disk that can be read") == disk);
    }
    eprintln!("{points} crash points");
}
