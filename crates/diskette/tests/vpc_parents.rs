//! Differencing images over parents of all kinds, in a folder; and what else the format's writers do.
#![expect(clippy::unwrap_used, reason = "a panic is a failed test")]

use std::fs;
use std::sync::Arc;

use diskette_core::{
    BlockReader, BlockReaderExt, Chain, Error, Format, OpenOptions, Opened, Registry, Result,
};
use diskette_raw::Raw;
use diskette_storage::{FileStorage, FolderResolver, MemoryStorage};
use diskette_testkit::check_reader;
use diskette_testkit::vpc::{ALL_ONES, Footer, Vpc as Image, fixed, seal};
use diskette_vpc::Vpc;
use tempfile::TempDir;

const MIB: usize = 1 << 20;
const DISK: usize = 8 * MIB;

fn dynamic() -> Image {
    Image::new(DISK).filled(0, 0x41).filled(3, 0x44)
}

/// Two sectors of block 0 and all of block 1.
fn child() -> Image {
    let mut child = Image::new(DISK)
        .sectors(0, &[(0, 0x61), (8, 0x62)])
        .filled(1, 0x63)
        .over(0x11, "base.vhd");
    child.footer.id = 0x22;
    child
}

const SHOWN: [(u8, usize); 7] = [
    (0x61, 1),
    (0x41, 7),
    (0x62, 1),
    (0x41, 4087),
    (0x63, 4096),
    (0, 4096),
    (0x44, 4096),
];

fn folder(files: &[(&str, Vec<u8>)]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, bytes) in files {
        fs::write(folder.path().join(name), bytes).unwrap();
    }
    folder
}

fn open_with(options: &OpenOptions, folder: &TempDir) -> Result<Chain> {
    let storage = FileStorage::open(folder.path().join("child.vhd")).unwrap();
    Registry::new(vec![&Vpc, &Raw]).open_chain(Arc::new(storage), options)
}

fn open_in(folder: &TempDir) -> Result<Chain> {
    let mut options = OpenOptions::default();
    options.files = Arc::new(FolderResolver::new());
    open_with(&options, folder)
}

/// The child over this parent.
fn open_over(child: &Image, base: Vec<u8>) -> Result<Chain> {
    open_in(&folder(&[("child.vhd", child.build()), ("base.vhd", base)]))
}

fn open(bytes: Vec<u8>) -> Result<Opened> {
    Vpc.open(
        Arc::new(MemoryStorage::new(bytes)),
        &OpenOptions::default().context(),
    )
}

/// The disk in runs of one byte, in sectors.
fn runs(disk: &dyn BlockReader) -> Vec<(u8, usize)> {
    check_reader(disk);
    let bytes = disk
        .read_vec(0, usize::try_from(disk.size()).unwrap())
        .unwrap();
    bytes
        .chunk_by(|a, b| a == b)
        .map(|run| (run[0], run.len() / 512))
        .collect()
}

#[test]
fn a_parent_may_be_dynamic_fixed_or_of_other_blocks() {
    let mut flat = vec![0; DISK];
    flat[..2 * MIB].fill(0x41);
    flat[6 * MIB..].fill(0x44);
    let mut small_blocks = Image::new(DISK);
    small_blocks.block_size = MIB / 2;
    let small_blocks = [0, 1, 2, 3]
        .iter()
        .fold(small_blocks, |image, block| image.filled(*block, 0x41));
    let small_blocks = [12, 13, 14, 15]
        .iter()
        .fold(small_blocks, |image, block| image.filled(*block, 0x44));
    for base in [
        dynamic().build(),
        fixed(flat, &Footer::new(DISK as u64)),
        small_blocks.build(),
    ] {
        assert_eq!(runs(&open_over(&child(), base).unwrap()), SHOWN);
    }
}

#[test]
fn past_the_end_of_a_shorter_parent_all_is_zeros() {
    let short = Image::new(2 * MIB).filled(0, 0x41).build();
    let chain = open_over(&child(), short).unwrap();
    assert_eq!(runs(&chain)[4..], [(0x63, 4096), (0, 8192)]);
}

#[test]
fn a_child_of_xenserver_without_a_uuid_lies_over_a_raw_disk() {
    let mut child = child();
    child.footer.application = *b"tap\0";
    child.parent_id = Some(0);
    let mut raw = vec![0; DISK];
    raw[..2 * MIB].fill(0x41);
    raw[6 * MIB..].fill(0x44);
    assert_eq!(runs(&open_over(&child, raw.clone()).unwrap()), SHOWN);
    child.footer.application = *b"win ";
    let error = open_over(&child, raw).unwrap_err().to_string();
    assert!(error.contains("null, in a differencing image"), "{error}");
}

#[test]
fn three_layers_are_a_chain() {
    let mut grandchild = Image::new(DISK)
        .sectors(2, &[(4095, 0x78)])
        .over(0x22, "middle.vhd");
    grandchild.footer.id = 0x33;
    let folder = folder(&[
        ("child.vhd", grandchild.build()),
        ("middle.vhd", child().build()),
        ("base.vhd", dynamic().build()),
    ]);
    let chain = open_in(&folder).unwrap();
    assert_eq!(chain.layers().len(), 3);
    let mut expected = SHOWN.to_vec();
    expected[5..].copy_from_slice(&[(0, 4095), (0x78, 1)]);
    expected.push((0x44, 4096));
    assert_eq!(runs(&chain), expected);
}

#[test]
fn any_sound_locator_will_do() {
    let texts = [
        ([*b"W2ku", *b"\0\0\0\0"], r"C:\vm\base.vhd"),
        ([*b"W2ku", *b"Wi2k"], r".\base.vhd"),
        ([*b"MacX", *b"Mac "], "file://./base.vhd"),
        ([*b"MacX", *b"Wi2r"], "file:///vm/base.vhd"),
    ];
    for ([code, other], path) in texts {
        let mut child = child();
        child.locators = vec![(other, "elsewhere".to_owned()), (code, path.to_owned())];
        assert_eq!(runs(&open_over(&child, dynamic().build()).unwrap()), SHOWN);
    }
}

#[test]
fn a_garbled_locator_gives_way_to_the_next() {
    let mut child = child();
    child
        .locators
        .push((*b"W2ku", r"D:\gone\base.vhd".to_owned()));
    let mut bytes = child.build();
    // An odd length is no UTF-16.
    bytes[512 + 576 + 11] -= 1;
    seal(&mut bytes[512..1536], 36);
    let both = folder(&[
        ("child.vhd", bytes.clone()),
        ("base.vhd", dynamic().build()),
    ]);
    assert_eq!(runs(&open_in(&both).unwrap()), SHOWN);
    bytes[512 + 576 + 24..][..4].copy_from_slice(b"Mac ");
    seal(&mut bytes[512..1536], 36);
    let error = open(bytes).unwrap_err().to_string();
    assert!(error.contains("not a path in its encoding"), "{error}");
}

#[test]
fn another_parent_is_refused_unless_its_identity_is_to_be_ignored() {
    let mut other = dynamic();
    other.footer.id = 0x12;
    let folder = folder(&[("child.vhd", child().build()), ("base.vhd", other.build())]);
    let error = open_in(&folder).unwrap_err();
    assert!(
        matches!(&error, Error::WrongBacking { what: "UUID", .. }),
        "{error}"
    );
    let mut options = OpenOptions::default();
    options.files = Arc::new(FolderResolver::new());
    options.ignore_identity = true;
    assert_eq!(runs(&open_with(&options, &folder).unwrap()), SHOWN);
}

#[test]
fn a_missing_parent_is_an_error_that_names_it() {
    let folder = folder(&[("child.vhd", child().build())]);
    let error = open_in(&folder).unwrap_err().to_string();
    assert!(error.contains("base.vhd"), "{error}");
}

#[test]
fn a_block_on_a_header_a_batmap_or_a_parents_name_is_refused() {
    let on = |image: &Image, sector: u32| {
        let mut bytes = image.build();
        bytes[1536 + 8..1536 + 12].copy_from_slice(&sector.to_be_bytes());
        open(bytes).unwrap_err().to_string()
    };
    let entry = |sector: u32| format!("vpc: bat[2] at 0x608 is {sector:#x}, a block that overlaps");
    let mut xen = dynamic();
    xen.batmap = Some(false);
    for (image, sector, what) in [
        (dynamic(), 0, "the footer's copy"),
        (dynamic(), 1, "the header"),
        (dynamic(), 3, "the table of blocks"),
        (xen.clone(), 4, "the batmap"),
        (xen, 5, "the batmap"),
        (child(), 4, "a parent's name"),
    ] {
        assert_eq!(on(&image, sector), format!("{} {what}", entry(sector)));
    }
}

#[test]
fn a_table_may_lie_behind_the_blocks() {
    let mut bytes = dynamic().build();
    let table = bytes[1536..2048].to_vec();
    let at = bytes.len() as u64 - 512;
    let footer = bytes.split_off(bytes.len() - 512);
    bytes.extend(table);
    bytes.extend(footer);
    bytes[512 + 16..512 + 24].copy_from_slice(&at.to_be_bytes());
    seal(&mut bytes[512..1536], 36);
    let image = open(bytes).unwrap();
    assert_eq!(
        runs(&*image.reader),
        [(0x41, 4096), (0, 8192), (0x44, 4096)]
    );
}

#[test]
fn what_was_taken_out_of_use_encrypted_or_suspended_is_told() {
    let mut encrypted = dynamic();
    encrypted.batmap = Some(true);
    let error = open(encrypted.build()).unwrap_err().to_string();
    assert!(error.contains("an encrypted disk"), "{error}");

    let mut bytes = dynamic().build();
    bytes[..8].copy_from_slice(b"v_poison");
    assert!(open(bytes).unwrap_err().to_string().contains("v_poison"));

    let mut suspended = dynamic();
    suspended.footer.saved_state = 1;
    let warnings = open(suspended.build()).unwrap().info.warnings;
    assert_eq!(
        warnings,
        ["the machine was suspended when the image was saved"]
    );
}

#[test]
fn footers_that_are_both_sound_must_say_the_same() {
    let mut bytes = dynamic().build();
    let mut other = dynamic().footer;
    (other.disk_type, other.data_offset, other.id) = (3, 512, 0x77);
    bytes[..512].copy_from_slice(&other.build());
    let error = open(bytes).unwrap_err().to_string();
    assert!(error.contains("both sound, and differ"), "{error}");
}

#[test]
fn old_tools_wrote_32_ones_into_a_fixed_images_data_offset() {
    let mut footer = Footer::new(DISK as u64);
    assert_eq!(footer.data_offset, ALL_ONES);
    footer.data_offset = 0xffff_ffff;
    let image = open(fixed(vec![0x41; DISK], &footer)).unwrap();
    assert_eq!(runs(&*image.reader), [(0x41, 16384)]);
}

#[test]
fn a_fixed_image_is_told_from_a_raw_disk_with_such_an_end() {
    let registry = Registry::new(vec![&Vpc, &Raw]);
    let name = |bytes: Vec<u8>| registry.probe(&MemoryStorage::new(bytes)).unwrap().name();
    let footer = Footer::new(DISK as u64);
    assert_eq!(name(fixed(vec![0; DISK], &footer)), "vpc");
    assert_eq!(name(fixed(vec![0; DISK + 512], &footer)), "raw");
    let by_geometry = Footer::new(10 << 20);
    // 301 cylinders, 4 heads, 17 sectors.
    assert_eq!(
        name(fixed(vec![0; 301 * 4 * 17 * 512], &by_geometry)),
        "vpc"
    );
}
