//! Images written in place: held against a disk in memory, by turns with QEMU, and cut off at every write.
#![allow(clippy::unwrap_used, reason = "a panic is a failed test")]

use std::sync::Arc;

use diskette_core::{CheckReport, Format, NewImage, NoParts, OpenOptions, Repair, StorageMut};
use diskette_storage::MemoryStorage;
use diskette_testkit::editing::{Subject, cut_off, live};
use diskette_testkit::vpc::Vpc as Builder;
use diskette_vpc::Vpc;

const KIB: usize = 1 << 10;
const BLOCK: usize = 8 * KIB;
const SIZE: usize = 9 * BLOCK + 1024;

/// An image of small blocks, and its disk.
struct Image {
    bytes: Vec<u8>,
    disk: Vec<u8>,
    below: Option<Vec<u8>>,
}

impl Image {
    /// Blocks 1 and 5 are whole, of block 3 some sectors are there.
    fn new(change: impl FnOnce(&mut Builder)) -> Self {
        let mut builder = Builder::new(SIZE);
        builder.block_size = BLOCK;
        change(&mut builder);
        let builder = builder
            .filled(5, 5)
            .filled(1, 1)
            .sectors(3, &[(0, 3), (4, 4), (5, 4), (15, 3)]);
        let below = builder.parent_id.map(|_| vec![9; 6 * BLOCK + 512]);
        let mut disk = below.clone().unwrap_or_default();
        disk.resize(SIZE, 0);
        for (block, sectors) in &builder.blocks {
            for (sector, fill) in sectors {
                disk[block * BLOCK + sector * 512..][..512].fill(*fill);
            }
        }
        // What is left of other days where a block has no sector.
        let mut bytes = builder.build();
        let entry = bytes[1536 + 12..][..4].try_into().unwrap();
        let at = 512 * usize::try_from(u32::from_be_bytes(entry)).unwrap();
        bytes[at + 512 + 512..][..1000].fill(0xee);
        Self { bytes, disk, below }
    }

    fn subject(&self) -> Subject<'_> {
        Subject {
            format: &Vpc,
            image: &self.bytes,
            disk: &self.disk,
            below: self.below.as_deref(),
            granule: BLOCK,
            most: 0,
            may_leak: false,
        }
    }
}

fn kinds() -> Vec<Image> {
    vec![
        Image::new(|_| {}),
        Image::new(|image| image.order = vec![5, 1, 3]),
        Image::new(|image| {
            image.footer.application = *b"tap\0";
            image.footer.version = 1;
            image.reversed = true;
            image.batmap = Some(false);
        }),
        Image::new(|image| {
            image.parent_id = Some(7);
            image.locators = vec![(*b"W2ru", r".\parent.vhd".to_owned())];
        }),
        Image::new(|image| image.front = false),
        Image::new(|image| image.rear = 511),
        Image::new(|image| image.rear = 0),
    ]
}

#[test]
fn every_kind_of_image_is_what_the_model_is() {
    let mut acts = 0;
    for (seed, image) in (1..).zip(kinds()) {
        acts += live(&image.subject(), seed, 4, 150, None);
    }
    eprintln!("{acts} acts");
}

#[test]
fn images_are_changed_by_turns_with_qemu() {
    let folder = tempfile::tempdir().unwrap();
    for (seed, subformat) in [(1, "dynamic"), (2, "fixed")] {
        let size = 9 << 20;
        let storage = Arc::new(MemoryStorage::default());
        let what = NewImage::new(size as u64)
            .with_option("subformat", subformat)
            .with_option("force_size", "on");
        let to = Arc::clone(&storage) as Arc<dyn StorageMut>;
        let writer = Vpc.writable().unwrap().create(to, &NoParts, &what);
        writer.unwrap().finish().unwrap();
        let subject = Subject {
            format: &Vpc,
            image: &storage.to_vec(),
            disk: &vec![0; size],
            below: None,
            granule: 2 << 20,
            most: 0,
            may_leak: false,
        };
        live(&subject, seed, 5, 30, Some((folder.path(), "disk.vhd")));
    }
}

#[test]
fn writes_that_are_cut_off_leak_at_the_most() {
    let mut points = 0;
    for (seed, image) in (1..).zip(kinds()) {
        for turn in 0..2 {
            points += cut_off(&image.subject(), seed + 10 * turn, 70);
        }
    }
    eprintln!("{points} crash points");
}

fn check(image: &[u8]) -> (u64, u64) {
    let storage = Arc::new(MemoryStorage::new(image.to_vec()));
    let report = Vpc.checkable().unwrap();
    let report = report.check(storage, &OpenOptions::default().context());
    let report = report.unwrap();
    (report.corruptions, report.leaks)
}

fn repaired(image: &[u8], what: Repair) -> (CheckReport, Vec<u8>) {
    let storage = Arc::new(MemoryStorage::new(image.to_vec()));
    let to = Arc::clone(&storage) as Arc<dyn StorageMut>;
    let options = OpenOptions::default();
    let format = Vpc.repairable().unwrap();
    let report = format.repair(to, what, &options.context()).unwrap();
    (report, storage.to_vec())
}

#[test]
fn what_is_lost_is_found_and_cut_off() {
    let sound = Image::new(|_| {}).bytes;
    assert_eq!(check(&sound), (0, 0));
    let end = sound.len() - 512;
    let stride = BLOCK + 512;
    let mut leaking = sound[..end].to_vec();
    leaking.resize(end + 2 * stride, 0xee);
    leaking.extend(&sound[end..]);
    assert_eq!(check(&leaking), (0, 2));
    let (report, mended) = repaired(&leaking, Repair::Leaks);
    assert_eq!((report.leaks, report.leaks_fixed), (0, 2));
    assert_eq!(mended, sound);
    // A block to which nothing leads any more, amid the others: it will be used again.
    let mut gap = sound;
    gap[1536 + 4..][..4].fill(0xff);
    assert_eq!(check(&gap), (0, 1));
}

#[test]
fn a_missing_copy_of_the_footer_is_written_from_the_other() {
    let sound = Image::new(|_| {}).bytes;
    let end = sound.len() - 512;
    for hole in [0..512, end..end + 512] {
        let mut damaged = sound.clone();
        damaged[hole].fill(0);
        assert_eq!(repaired(&damaged, Repair::Leaks).1, damaged);
        let (report, mended) = repaired(&damaged, Repair::All);
        assert_eq!(report.corruptions_fixed, 1);
        assert_eq!(mended, sound);
    }
}

#[test]
fn a_batmap_that_lies_is_found() {
    let image = |full: u8| {
        let image = Image::new(|image| image.batmap = Some(false));
        let mut bytes = image.bytes;
        let header = 1536 + 512;
        assert_eq!(bytes[header..][..8], *b"tdbatmap");
        let at = u64::from_be_bytes(bytes[header + 8..][..8].try_into().unwrap());
        bytes[usize::try_from(at).unwrap()] = full;
        bytes
    };
    // Blocks 1 and 5 are whole.
    assert_eq!(check(&image(0b0100_0100)), (0, 0));
    assert_eq!(check(&image(0b0111_0100)), (2, 0));
}

#[test]
fn blocks_that_overlap_are_not_written() {
    let mut image = Image::new(|_| {}).bytes;
    image.copy_within(1536 + 4..1536 + 8, 1536 + 8);
    assert_eq!(check(&image).0, 1);
    let storage = Arc::new(MemoryStorage::new(image)) as Arc<dyn StorageMut>;
    let options = OpenOptions::default();
    let writer = Vpc
        .writable()
        .unwrap()
        .edit(storage, None, &options.context());
    let said = writer.map(|_| ()).unwrap_err().to_string();
    assert!(
        said.ends_with("a block that overlaps that of bat[1]"),
        "{said}"
    );
}
