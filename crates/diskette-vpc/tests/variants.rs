//! Images made by hand, and what a guest must read from them.
#![expect(clippy::unwrap_used, reason = "a panic is a failed test")]
#![expect(clippy::cast_possible_truncation, reason = "the images are small")]

use std::collections::BTreeMap;
use std::sync::Arc;

use diskette_core::{
    BlockReader, BlockReaderExt, Chain, CheckableFormat, Error, Format, NoReferences, OpenOptions,
    Opened, Reference, Registry, Resolver, Result, Storage, StorageMut,
};
use diskette_storage::MemoryStorage;
use diskette_testkit::vpc::{Footer, Vpc as Image, seal};
use diskette_vpc::Vpc;

const MIB: usize = 1 << 20;
const DISK: usize = 8 * MIB;

fn image(size: usize, blocks: impl IntoIterator<Item = (usize, BTreeMap<usize, u8>)>) -> Image {
    Image {
        blocks: blocks.into_iter().collect(),
        ..Image::new(size)
    }
}

/// All sectors of a block.
fn full(fill: u8, block_size: usize) -> BTreeMap<usize, u8> {
    (0..block_size / 512).map(|sector| (sector, fill)).collect()
}

fn sectors(list: &[(usize, u8)]) -> BTreeMap<usize, u8> {
    list.iter().copied().collect()
}

fn dynamic() -> Image {
    image(DISK, [(0, full(0x41, 2 * MIB)), (3, full(0x44, 2 * MIB))])
}

fn one_block() -> Image {
    image(DISK, [(0, full(0x41, 2 * MIB))])
}

/// What is done with an image that was made.
trait Made {
    fn by(self, application: [u8; 4]) -> Self;
    fn open(&self) -> Result<Opened>;
    fn runs(&self) -> Vec<(u8, usize)>;
}

impl Made for Image {
    fn by(mut self, application: [u8; 4]) -> Self {
        self.footer.application = application;
        self
    }

    fn open(&self) -> Result<Opened> {
        open(self.build())
    }

    fn runs(&self) -> Vec<(u8, usize)> {
        runs(&*self.open().unwrap().reader)
    }
}

fn open(bytes: Vec<u8>) -> Result<Opened> {
    Vpc.open(
        Arc::new(MemoryStorage::new(bytes)),
        &OpenOptions::default().context(),
    )
}

/// The guest's bytes as runs of one byte, in sectors.
fn runs(disk: &dyn BlockReader) -> Vec<(u8, usize)> {
    let bytes = disk.read_vec(0, disk.size() as usize).unwrap();
    bytes
        .chunk_by(|a, b| a == b)
        .map(|run| (run[0], run.len() / 512))
        .collect()
}

/// The dynamic image with bytes of its footers changed.
fn with_footer(at: usize, value: &[u8], resealed: bool, both: bool) -> Vec<u8> {
    let mut bytes = dynamic().build();
    let mut footer = bytes[..512].to_vec();
    footer[at..at + value.len()].copy_from_slice(value);
    if resealed {
        seal(&mut footer, 64);
    }
    bytes[..512].copy_from_slice(&footer);
    if both {
        let rear = bytes.len() - 512;
        bytes[rear..].copy_from_slice(&footer);
    }
    bytes
}

/// The dynamic image with bytes of its header changed.
fn with_header(at: usize, value: &[u8], resealed: bool) -> Vec<u8> {
    let mut bytes = dynamic().build();
    bytes[512 + at..][..value.len()].copy_from_slice(value);
    if resealed {
        seal(&mut bytes[512..1536], 36);
    }
    bytes
}

fn with_entry(index: usize, sector: u32) -> Vec<u8> {
    let mut bytes = dynamic().build();
    bytes[1536 + 4 * index..][..4].copy_from_slice(&sector.to_be_bytes());
    bytes
}

fn fixed(data: usize, size: usize, footer_len: usize) -> Vec<u8> {
    let mut bytes = vec![0; data];
    bytes[..MIB].fill(0x41);
    bytes.extend(&Footer::new(size as u64).build()[..footer_len]);
    bytes
}

#[test]
fn blocks_lie_in_any_order() {
    assert_eq!(dynamic().runs(), [(0x41, 4096), (0, 8192), (0x44, 4096)]);
    let block = |fill| full(fill, 2 * MIB);
    let shuffled = Image {
        order: vec![3, 0, 1],
        ..image(DISK, [(0, block(0x41)), (1, block(0x42)), (3, block(0x44))])
    };
    assert_eq!(
        shuffled.runs(),
        [(0x41, 4096), (0x42, 4096), (0, 4096), (0x44, 4096)]
    );
}

#[test]
fn a_sector_counts_only_where_its_bit_is_set() {
    let bits = image(
        DISK,
        [(0, sectors(&[(0, 0x41), (1, 0x42), (9, 0x43), (4095, 0x44)]))],
    );
    let expected = [
        (0x41, 1),
        (0x42, 1),
        (0, 7),
        (0x43, 1),
        (0, 4085),
        (0x44, 1),
        (0, 12288),
    ];
    assert_eq!(bits.runs(), expected);
    assert_eq!(
        Image {
            bits: Some(0),
            ..one_block()
        }
        .runs(),
        [(0, 16384)]
    );
    let mut reversed = bits.by(*b"tap\0");
    reversed.footer.version = 1;
    reversed.reversed = true;
    assert_eq!(reversed.runs(), expected);
}

#[test]
fn blocks_have_any_size_that_is_a_power_of_two() {
    for block_size in [512, 4096, MIB / 2] {
        let size = if block_size == 512 { MIB } else { DISK };
        let last = size / block_size - 1;
        let blocks = [(0, full(0x41, block_size)), (last, full(0x44, block_size))];
        let image = Image {
            block_size,
            ..image(size, blocks)
        };
        let block = block_size / 512;
        assert_eq!(
            image.runs(),
            [(0x41, block), (0, size / 512 - 2 * block), (0x44, block)]
        );
    }
    let large = Image {
        block_size: 16 * MIB,
        ..image(32 * MIB, [(1, full(0x44, 16 * MIB))])
    };
    assert_eq!(large.runs(), [(0, 32768), (0x44, 32768)]);
}

#[test]
fn a_table_may_be_larger_than_the_disk_and_have_a_batmap_behind_it() {
    assert_eq!(
        Image {
            entries: Some(1000),
            ..one_block()
        }
        .runs(),
        [(0x41, 4096), (0, 12288)]
    );
    let blocks = [(0, full(0x41, 2 * MIB)), (1, sectors(&[(5, 0x42)]))];
    let xen = Image {
        batmap: Some(false),
        ..image(DISK, blocks).by(*b"tap\0")
    };
    assert_eq!(xen.runs(), [(0x41, 4096), (0, 5), (0x42, 1), (0, 12282)]);
}

#[test]
fn either_footer_is_enough() {
    let expected = [(0x41, 4096), (0, 12288)];
    for image in [
        Image {
            front: false,
            ..one_block()
        },
        Image {
            rear: 511,
            ..one_block()
        },
        Image {
            rear: 0,
            ..one_block()
        },
    ] {
        assert_eq!(image.runs(), expected);
    }
    let front_damaged = open(with_footer(64, &[0; 4], false, false)).unwrap();
    assert_eq!(
        runs(&*front_damaged.reader),
        [(0x41, 4096), (0, 8192), (0x44, 4096)]
    );
    assert_eq!(front_damaged.info.warnings.len(), 1);
}

#[test]
fn the_size_is_the_geometry_for_virtual_pc_and_qemu_alone() {
    let size = 10 * MIB + 51200;
    let size_of = |application: &[u8; 4]| {
        let image = image(size, [(0, full(0x41, 2 * MIB))]).by(*application);
        image.open().unwrap().reader.size()
    };
    for application in [b"vpc ", b"qemu"] {
        assert_eq!(size_of(application), 10_514_432);
    }
    for application in [
        b"qem2", b"win ", b"d2v\0", b"tap\0", b"CTXS", b"wa\0\0", b"vbox", b"vs  ",
    ] {
        assert_eq!(size_of(application), 10_536_960);
    }
    let by_option = |value: &str| {
        let mut options = OpenOptions::default();
        options.format_options.set("force_size_calc", value);
        let bytes = image(size, [(0, full(0x41, 2 * MIB))]).build();
        Vpc.open(Arc::new(MemoryStorage::new(bytes)), &options.context())
            .map(|image| image.reader.size())
    };
    assert_eq!(by_option("chs").unwrap(), 10_514_432);
    assert_eq!(by_option("current_size").unwrap(), 10_536_960);
    assert!(by_option("tracks").is_err());
}

#[test]
fn a_geometry_that_says_nothing_is_not_the_size() {
    for geometry in [[0xff, 0xff, 16, 255], [0, 0, 0, 0]] {
        let mut bytes = with_footer(56, &geometry, true, true);
        for at in [0, bytes.len() - 512] {
            bytes[at + 28..at + 32].copy_from_slice(b"vpc ");
            seal(&mut bytes[at..at + 512], 64);
        }
        assert_eq!(open(bytes).unwrap().reader.size(), DISK as u64);
    }
    let odd = open(with_footer(
        48,
        &(DISK as u64 - 100).to_be_bytes(),
        true,
        true,
    ))
    .unwrap();
    assert_eq!(runs(&*odd.reader), [(0x41, 4096), (0, 8192), (0x44, 4095)]);
}

#[test]
fn a_fixed_image_ends_with_its_footer_of_512_bytes_or_511() {
    for footer_len in [512, 511] {
        let bytes = fixed(DISK, DISK, footer_len);
        let registry = Registry::new(vec![&Vpc]);
        assert_eq!(
            registry
                .probe(&MemoryStorage::new(bytes.clone()))
                .unwrap()
                .name(),
            "vpc"
        );
        assert_eq!(
            runs(&*open(bytes).unwrap().reader),
            [(0x41, 2048), (0, 14336)]
        );
    }
    let error = open(fixed(MIB, DISK, 512)).unwrap_err().to_string();
    assert!(error.contains("the file is cut short"), "{error}");
    assert_eq!(
        open(fixed(9 * MIB, DISK, 512)).unwrap().info.warnings.len(),
        1
    );
}

#[test]
fn a_header_that_lies_is_refused_by_field_offset_and_value() {
    let told = |bytes: Vec<u8>, text: &str| assert_eq!(open(bytes).unwrap_err().to_string(), text);
    told(
        with_header(32, &(3_u32 << 20).to_be_bytes(), true),
        "vpc: header.block_size at 0x220 is 0x300000, not a power of two",
    );
    told(
        with_header(32, &[0; 4], true),
        "vpc: header.block_size at 0x220 is 0x0, not a power of two",
    );
    told(
        with_header(28, &2_u32.to_be_bytes(), true),
        "vpc: header.max_table_entries at 0x21c is 0x2, too few for the disk's 4 blocks",
    );
    told(
        with_header(28, &0x2000_0000_u32.to_be_bytes(), true),
        "vpc: header.table_offset at 0x210 is 0x600, its 2147483648 bytes reach beyond the file's end at 0x400e00",
    );
    told(
        with_header(24, &0x20000_u32.to_be_bytes(), true),
        "vpc: header.header_version at 0x218 is 0x20000, not 0x10000",
    );
    assert!(
        open(with_header(36, &[0; 4], false))
            .unwrap_err()
            .to_string()
            .contains("header.checksum at 0x224")
    );
    assert!(open(with_footer(60, &5_u32.to_be_bytes(), true, true)).is_err());
    assert!(open(with_footer(60, &2_u32.to_be_bytes(), true, true)).is_err());
    assert!(open(with_footer(48, &(1_u64 << 50).to_be_bytes(), true, true)).is_err());
    assert!(open(with_footer(48, &(1_u64 << 20).to_be_bytes(), true, false)).is_err());
}

#[test]
fn blocks_on_tables_or_on_one_another_are_refused() {
    let error = open(with_entry(1, 0)).unwrap_err().to_string();
    assert_eq!(
        error,
        "vpc: bat[1] at 0x604 is 0x0, a block that overlaps the footer's copy"
    );
    let error = open(with_entry(1, 4)).unwrap_err().to_string();
    assert_eq!(
        error,
        "vpc: bat[1] at 0x604 is 0x4, a block that overlaps that of bat[0]"
    );
}

#[test]
fn a_block_beyond_the_end_of_the_file_is_an_error_where_it_is_read() {
    let disk = open(with_entry(1, 1 << 20)).unwrap().reader;
    assert_eq!(disk.read_vec(0, 512).unwrap(), [0x41; 512]);
    assert_eq!(disk.read_vec(6 << 20, 512).unwrap(), [0x44; 512]);
    let error = disk.read_vec(2 << 20, 512).unwrap_err().to_string();
    assert!(
        error.starts_with("vpc: bat[1] at 0x604 is 0x100000, its block at 0x20000000 reaches"),
        "{error}"
    );
}

/// Opens the one file that it has if the reference bears its name.
#[derive(Debug)]
struct Only(Arc<MemoryStorage>);

impl Resolver for Only {
    fn open(&self, reference: &Reference, from: &dyn Storage) -> Result<Arc<dyn Storage>> {
        if reference.target == self.0.name() {
            return Ok(Arc::<MemoryStorage>::clone(&self.0));
        }
        NoReferences.open(reference, from)
    }

    fn open_mut(&self, reference: &Reference, _from: &dyn Storage) -> Result<Arc<dyn StorageMut>> {
        Err(reference.refused("nothing is written here"))
    }
}

fn child(locators: &[([u8; 4], &'static str)], parent_id: u8) -> Result<Chain> {
    let blocks = [
        (0, sectors(&[(0, 0x61), (8, 0x62)])),
        (1, full(0x63, 2 * MIB)),
    ];
    let child = Image {
        locators: locators
            .iter()
            .map(|(code, path)| (*code, (*path).to_owned()))
            .collect(),
        parent_id: Some(parent_id),
        ..image(DISK, blocks)
    };
    let mut options = OpenOptions::default();
    options.files = Arc::new(Only(Arc::new(MemoryStorage::named(
        "dyn.vhd",
        dynamic().build(),
    ))));
    Registry::new(vec![&Vpc]).open_chain(
        Arc::new(MemoryStorage::named("child.vhd", child.build())),
        &options,
    )
}

#[test]
fn a_differencing_image_shows_its_parent_sector_by_sector() {
    let expected = [
        (0x61, 1),
        (0x41, 7),
        (0x62, 1),
        (0x41, 4087),
        (0x63, 4096),
        (0, 4096),
        (0x44, 4096),
    ];
    let absolute = (*b"W2ku", r"C:\vm\dyn.vhd");
    let relative = (*b"W2ru", r".\dyn.vhd");
    assert_eq!(runs(&child(&[absolute, relative], 0x11).unwrap()), expected);
    assert_eq!(runs(&child(&[absolute], 0x11).unwrap()), expected);
}

#[test]
fn a_parent_that_is_another_one_or_is_not_there_is_refused() {
    let relative = (*b"W2ru", r".\dyn.vhd");
    let error = child(&[relative], 0x12).unwrap_err();
    assert!(
        matches!(error, Error::WrongBacking { what: "UUID", .. }),
        "{error}"
    );
    let error = child(&[(*b"W2ru", r"..\..\etc\passwd")], 0x11).unwrap_err();
    assert!(matches!(error, Error::Refused { .. }), "{error}");
    assert!(
        child(&[], 0x11)
            .unwrap_err()
            .to_string()
            .contains("names no parent")
    );
}

#[test]
fn a_check_counts_blocks_and_finds_those_that_overlap() {
    let check = |bytes: Vec<u8>| {
        Vpc.check(
            Arc::new(MemoryStorage::new(bytes)),
            &OpenOptions::default().context(),
        )
        .unwrap()
    };
    let clean = check(dynamic().build());
    assert_eq!(
        (
            clean.corruptions,
            clean.total_granules,
            clean.allocated_granules
        ),
        (0, 4, 2)
    );
    assert_eq!(check(with_entry(1, 4)).corruptions, 1);
    assert_eq!(check(with_entry(1, 1 << 20)).corruptions, 1);
}

#[test]
fn no_byte_of_the_tables_can_make_it_panic() {
    let image = Image {
        block_size: 4096,
        ..image(64 << 10, [(0, full(1, 4096)), (9, sectors(&[(3, 2)]))])
    };
    let sound = image.build();
    for at in (0..2048).chain(sound.len() - 512..sound.len()) {
        for value in [0, 1, 0x7f, 0x80, 0xff] {
            let mut bytes = sound.clone();
            bytes[at] = value;
            seal(&mut bytes[512..1536], 36);
            let Ok(image) = open(bytes) else { continue };
            let len = image.reader.size().min(1 << 20) as usize;
            let _ = image.reader.read_vec(0, len);
        }
    }
    for len in 0..sound.len() {
        if let Ok(image) = open(sound[..len].to_vec()) {
            let _ = image.reader.read_vec(0, 64 << 10);
        }
    }
}
