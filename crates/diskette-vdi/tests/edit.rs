//! Images written in place: held against a disk in memory, by turns with QEMU, and cut off at every write.
#![allow(clippy::unwrap_used, reason = "a panic is a failed test")]

use std::sync::Arc;

use diskette_core::{BlockReaderExt, Format, OpenOptions, Repair, StorageMut};
use diskette_storage::MemoryStorage;
use diskette_testkit::RecordingStorage;
use diskette_testkit::editing::{Subject, cut_off, live};
use diskette_testkit::vdi::{FREE, Vdi as Builder, ZERO};
use diskette_vdi::Vdi;

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;

/// An image of small blocks, and its disk over one of 5s.
struct Image {
    image: Vec<u8>,
    disk: Vec<u8>,
    below: Option<Vec<u8>>,
    block: usize,
    most: usize,
}

impl Image {
    fn new(change: impl FnOnce(&mut Builder)) -> Self {
        let block = 4 * KIB;
        let map = [
            2, FREE, 0, ZERO, 1, FREE, FREE, FREE, FREE, FREE, FREE, FREE,
        ];
        let mut builder = Builder::new(11 * block + 1024, &map, &[(0, 3), (1, 5), (2, 1)]);
        builder.block_size = block;
        builder.data_offset = Some(4096);
        change(&mut builder);
        let differs = builder.image_type == 4;
        let size = 11 * block + 1024;
        let below = differs.then(|| vec![9; 7 * block + 512]);
        let mut disk = below.clone().unwrap_or_default();
        disk.resize(size, 0);
        for (index, entry) in builder.map.iter().enumerate() {
            let fill = builder.blocks.iter().find(|(at, _)| *at == *entry as usize);
            let fill = fill.map_or(0, |(_, fill)| *fill);
            let end = ((index + 1) * block).min(size);
            if *entry != FREE {
                disk[index * block..end].fill(fill);
            }
        }
        let room = (builder
            .data_offset
            .unwrap_or(0)
            .saturating_sub(builder.map_offset))
            / 4;
        let grows = builder.image_type != 2 && builder.version != 2;
        Self {
            image: builder.build(),
            disk,
            below,
            block,
            most: if grows { room.min(20) * block } else { 0 },
        }
    }

    fn subject(&self) -> Subject<'_> {
        Subject {
            format: &Vdi,
            image: &self.image,
            disk: &self.disk,
            below: self.below.as_deref(),
            granule: self.block,
            most: self.most,
            may_leak: false,
        }
    }
}

fn dynamic() -> Image {
    Image::new(|_| {})
}

fn with_extra() -> Image {
    Image::new(|image| image.extra = 512)
}

fn old() -> Image {
    Image::new(|image| {
        image.version = 2;
        image.data_offset = None;
    })
}

fn differencing() -> Image {
    Image::new(|image| {
        image.image_type = 4;
        image.uuids = [1, 2, 3, 4];
    })
}

fn fixed() -> Image {
    Image::new(|image| {
        image.image_type = 2;
        image.map = (0..12).collect();
        image.blocks = (0..12).map(|position| (position, 7)).collect();
    })
}

#[test]
fn every_kind_of_image_is_what_the_model_is() {
    let mut acts = 0;
    for (seed, image) in (1..).zip([dynamic(), with_extra(), old(), differencing(), fixed()]) {
        acts += live(&image.subject(), seed, 5, 200, None);
    }
    eprintln!("{acts} acts");
}

#[test]
fn images_are_changed_by_turns_with_qemu() {
    let folder = tempfile::tempdir().unwrap();
    for (seed, static_) in [(1, false), (2, true)] {
        let map: Vec<u32> = if static_ {
            (0..6).collect()
        } else {
            vec![FREE; 6]
        };
        let blocks: Vec<_> = (0..if static_ { 6 } else { 0 }).map(|at| (at, 0)).collect();
        let mut builder = Builder::new(5 * MIB + 1024, &map, &blocks);
        builder.image_type = if static_ { 2 } else { 1 };
        let image = builder.build();
        let disk = vec![0; 5 * MIB + 1024];
        let subject = Subject {
            format: &Vdi,
            image: &image,
            disk: &disk,
            below: None,
            granule: MIB,
            most: 0,
            may_leak: false,
        };
        live(&subject, seed, 6, 40, Some((folder.path(), "disk.vdi")));
    }
}

#[test]
fn writes_that_are_cut_off_leak_at_the_most() {
    let mut points = 0;
    for (seed, image) in (1..).zip([dynamic(), with_extra(), old(), differencing(), fixed()]) {
        for turn in 0..3 {
            points += cut_off(&image.subject(), seed + 10 * turn, 60);
        }
    }
    eprintln!("{points} crash points");
}

#[test]
fn blocks_that_are_given_up_leave_no_gap() {
    let image = dynamic();
    let storage = Arc::new(RecordingStorage::new(image.image.clone()));
    let to = Arc::clone(&storage) as Arc<dyn StorageMut>;
    let options = OpenOptions::default();
    let writer = Vdi.writable().unwrap().edit(to, None, &options.context());
    let writer = writer.unwrap();
    // The block of the guest's that lies first in the file; another, which lies last, takes its place.
    writer.write_zeros(2 * 4096, 4096).unwrap();
    writer.flush().unwrap();
    let bytes = storage.bytes();
    assert_eq!(bytes.len(), 4096 + 2 * 4096);
    assert_eq!(bytes[388], 2, "blocks by the header");
    assert_eq!(writer.read_vec(0, 1).unwrap(), [1]);
    assert_eq!(writer.read_vec(2 * 4096, 4096).unwrap(), [0; 4096]);
}

#[test]
fn what_is_lost_and_a_wrong_count_are_mended() {
    let repaired = |image: &[u8], what| {
        let storage = Arc::new(MemoryStorage::new(image.to_vec()));
        let to = Arc::clone(&storage) as Arc<dyn StorageMut>;
        let options = OpenOptions::default();
        let report = Vdi
            .repairable()
            .unwrap()
            .repair(to, what, &options.context());
        (report.unwrap(), storage.to_vec())
    };
    let image = dynamic();
    let check = |image: &[u8]| {
        let storage = Arc::new(MemoryStorage::new(image.to_vec()));
        let report = Vdi.checkable().unwrap();
        let report = report.check(storage, &OpenOptions::default().context());
        let report = report.unwrap();
        (report.corruptions, report.leaks)
    };
    // Two blocks behind the last one that is used, and a count that knows of one.
    let mut leaking = image.image.clone();
    leaking.resize(leaking.len() + 2 * 4096, 0xee);
    leaking[388] = 4;
    assert_eq!(check(&leaking), (0, 2));
    let (report, mended) = repaired(&leaking, Repair::Leaks);
    assert_eq!((report.leaks, report.leaks_fixed), (0, 2));
    assert_eq!(mended, image.image);

    let mut wrong = image.image.clone();
    wrong[388] = 2;
    assert_eq!(check(&wrong), (1, 0));
    assert_eq!(repaired(&wrong, Repair::Leaks).1, wrong);
    let (report, mended) = repaired(&wrong, Repair::All);
    assert_eq!((report.corruptions, report.corruptions_fixed), (0, 1));
    assert_eq!(mended, image.image);
}

#[test]
fn a_map_that_lies_is_not_written_by() {
    let refused = |image: Image| {
        let storage = Arc::new(MemoryStorage::new(image.image)) as Arc<dyn StorageMut>;
        let options = OpenOptions::default();
        let writer = Vdi
            .writable()
            .unwrap()
            .edit(storage, None, &options.context());
        writer.map(|_| ()).unwrap_err().to_string()
    };
    let two = Image::new(|image| image.map[1] = 0);
    assert_eq!(
        refused(two),
        "vdi: map[2] at 0x208 is 0x0, block 0 of the file is used by block 2 too"
    );
    let few = Image::new(|image| image.allocated = Some(1));
    assert_eq!(
        refused(few),
        "vdi: header.allocated_count at 0x184 is 0x1, but the map leads to block 2"
    );
    let orphan = differencing();
    assert_eq!(
        refused(orphan),
        "vdi: writing into a differencing image whose parent is not at hand is not supported"
    );
}
