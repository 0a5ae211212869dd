//! Images that differ in one thing, and what each must read as.

use std::collections::BTreeMap;

use crate::support::{Folder, is_refused, open, open_in, reads, salvage, sectors};
use diskette_core::{BlockReaderExt, ExtentKind};
use diskette_testkit::check_reader;
use diskette_testkit::vhdx::{Block, Header, M, Vhdx, guid_text};

const SIZE: u64 = 8 * M;
const A: &str = "41*2048 00*14336";

fn a() -> Vhdx {
    Vhdx::new(SIZE).filled(0, 0x41)
}

fn ad() -> Vhdx {
    a().filled(3, 0x44)
}

#[test]
fn blocks_that_are_not_present_read_as_zeros() {
    assert_eq!(reads(ad().build()), "41*2048 00*4096 44*2048 00*8192");
}

#[test]
fn undefined_zero_and_unmapped_blocks_read_as_zeros_whatever_their_offset() {
    let image = (1..6).fold(a(), |image, block| {
        let state = [1, 2, 3, 0, 5][usize::try_from(block).unwrap() - 1];
        image.block(block, Block::Entry(state, 0))
    });
    assert_eq!(reads(image.build()), A);
    let image = (1..5).fold(a(), |image, block| {
        image.block(
            block,
            Block::Entry([1, 2, 3, 0][usize::try_from(block).unwrap() - 1], 4),
        )
    });
    assert_eq!(reads(image.build()), A);
}

#[test]
fn a_block_of_an_unknown_state_is_refused_by_its_entry() {
    let image = a().block(1, Block::Entry(4, 0)).build();
    assert_eq!(
        reads(image),
        "vhdx: BAT[1] at 0x300008 is 0x4, no state of a payload block"
    );
}

#[test]
fn a_partially_present_block_without_a_parent_is_refused() {
    let image = a().block(1, Block::Entry(7, 5)).build();
    assert!(reads(image).contains("a disk that has no parent"));
}

#[test]
fn blocks_have_any_size_and_sectors_two() {
    let mut image = Vhdx::new(64 * M);
    image.block_size = 32 * M;
    assert_eq!(reads(image.filled(1, 0x42).build()), "00*65536 42*65536");

    let mut image = a().filled(7, 0x44);
    image.logical_sector_size = 4096;
    image.physical_sector_size = 4096;
    let chain = open(image.build()).unwrap();
    assert_eq!(sectors(&chain), "41*2048 00*12288 44*2048");
    assert_eq!(chain.top().info.warnings.len(), 1);

    let mut image = a().filled(7, 0x44);
    image.physical_sector_size = 4096;
    assert_eq!(reads(image.build()), "41*2048 00*12288 44*2048");
}

#[test]
fn regions_need_not_be_marked_as_required() {
    let mut image = a();
    image.required = 0;
    assert_eq!(reads(image.build()), A);
}

#[test]
fn one_sound_region_table_is_enough() {
    for tables in [[false, true], [true, false]] {
        let mut image = a();
        image.region_tables = tables;
        assert_eq!(reads(image.build()), A);
    }
    let mut image = a();
    image.region_tables = [false, false];
    assert!(reads(image.build()).starts_with("vhdx: RegionTableHeader.Checksum at 0x30004"));
}

#[test]
fn unknown_regions_are_refused_if_they_are_required() {
    let mut image = a();
    image.regions = vec![([0xab; 16], 64 * M, 1 << 20, 0)];
    assert_eq!(reads(image.build()), A);
    image.regions[0].3 = 1;
    assert_eq!(
        reads(image.build()),
        "vhdx: required region abababab-abab-abab-abab-abababababab is not supported"
    );
}

#[test]
fn unknown_metadata_items_are_refused_if_they_are_required() {
    let mut image = a();
    image.items = vec![([0xab; 16], vec![8; 8], 1)];
    assert_eq!(reads(image.build()), A);
    image.items[0].2 = 4;
    assert_eq!(
        reads(image.build()),
        "vhdx: required metadata item abababab-abab-abab-abab-abababababab is not supported"
    );
}

#[test]
fn one_sound_header_is_enough() {
    let damaged = || Some(vec![0; 4096]);
    for headers in [[None, damaged()], [damaged(), None]] {
        let mut image = a();
        image.headers = headers;
        assert_eq!(reads(image.build()), A);
    }
    let mut image = a();
    image.headers = [damaged(), damaged()];
    assert!(reads(image.build()).starts_with("vhdx: Header.Checksum at 0x10004 is 0x0"));
}

#[test]
fn headers_of_one_number_must_be_the_same() {
    let mut image = a();
    image.sequence_numbers = [5, 5];
    assert_eq!(reads(image.build()), A);
    let header = |byte| {
        let header = Header {
            sequence_number: 5,
            data_write_guid: [byte; 16],
            ..Header::default()
        };
        Some(header.bytes())
    };
    image.headers = [header(3), header(4)];
    assert!(reads(image.build()).starts_with("vhdx: Header.SequenceNumber at 0x10008 is 0x5"));
}

#[test]
fn a_newer_header_of_an_unknown_version_counts() {
    let mut image = a();
    let header = Header {
        sequence_number: 9,
        version: 2,
        ..Header::default()
    };
    image.headers[0] = Some(header.bytes());
    assert_eq!(reads(image.build()), "vhdx: version 2 is not supported");
}

#[test]
fn the_version_of_an_empty_log_does_not_matter() {
    let mut image = a();
    let mut header = Header {
        sequence_number: 9,
        log_version: 1,
        ..Header::default()
    };
    image.headers[0] = Some(header.bytes());
    assert_eq!(reads(image.build()), A);
    header.log_guid = [7; 16];
    image.headers[0] = Some(header.bytes());
    assert_eq!(reads(image.build()), "vhdx: log version 1 is not supported");
}

#[test]
fn a_fixed_disk_is_one_extent() {
    let mut image = (0..4).fold(Vhdx::new(4 * M), |image, block| {
        image.filled(
            block,
            [0x41, 0x42, 0x43, 0x44][usize::try_from(block).unwrap()],
        )
    });
    image.flags = 1;
    let chain = open(image.build()).unwrap();
    assert_eq!(sectors(&chain), "41*2048 42*2048 43*2048 44*2048");
    let extent = diskette_core::BlockReader::extent_at(&chain, M).unwrap();
    assert_eq!((extent.offset, extent.len), (M, 3 * M));
    assert!(matches!(extent.kind, ExtentKind::Data(at) if at.offset == 5 * M));
}

#[test]
fn blocks_that_overlap_anything_are_refused() {
    let with = |offset| reads(a().block(1, Block::Entry(6, offset)).build());
    assert_eq!(
        with(4),
        "vhdx: BAT[1] at 0x300008 is 0x400006, its block overlaps another"
    );
    assert!(with(0).ends_with("its block lies in the header section"));
    assert!(with(1).ends_with("its block overlaps the log or a region"));
    assert!(with(2).ends_with("its block overlaps the log or a region"));
    assert!(with(400).ends_with("its block reaches beyond the file's end at 0x500000"));
}

#[test]
fn salvage_takes_blocks_past_the_end_for_zeros() {
    let image = ad().block(1, Block::Entry(6, 400)).build();
    let chain = salvage(image).unwrap();
    assert_eq!(sectors(&chain), "41*2048 00*4096 44*2048 00*8192");
    assert!(chain.top().info.warnings[0].starts_with("vhdx: BAT[1]"));

    let mut cut = ad().build();
    cut.truncate(5 << 20);
    assert!(is_refused(cut.clone()));
    assert_eq!(sectors(&salvage(cut).unwrap()), A);
}

#[test]
fn a_last_block_may_end_with_the_disk() {
    let mut image = Vhdx::new(SIZE + 512)
        .filled(0, 0x41)
        .filled(8, 0x49)
        .build();
    assert_eq!(reads(image.clone()), "41*2048 00*14336 49*1");
    image.truncate((5 << 20) + 512);
    assert_eq!(reads(image.clone()), "41*2048 00*14336 49*1");
    image.truncate((5 << 20) + 511);
    assert!(is_refused(image));
}

#[test]
fn impossible_sizes_are_refused() {
    for block_size in [3 * M, M / 2, 512 * M] {
        let mut image = Vhdx::new(SIZE);
        image.block_size = block_size;
        assert!(reads(image.build()).contains("FileParameters.BlockSize"));
    }
    let mut image = Vhdx::new(65 << 40);
    image.block_size = 256 * M;
    assert!(reads(image.build()).contains("VirtualDiskSize"));
    let mut image = a();
    image.size += 100;
    assert!(reads(image.build()).contains("not a multiple of 512"));
    let mut image = a();
    image.logical_sector_size = 1024;
    assert!(reads(image.build()).contains("neither 512 nor 4096"));
}

#[test]
fn a_disk_of_no_bytes_is_empty() {
    let chain = open(Vhdx::new(0).build()).unwrap();
    assert_eq!(diskette_core::BlockReader::size(&chain), 0);
    assert_eq!(chain.extents().count(), 0);
}

#[test]
fn entries_of_sector_bitmaps_stand_between_those_of_blocks_in_dynamic_disks_too() {
    // Blocks of 256 MiB: 16 to a chunk, so that block 16 stands at 17. A stray entry at 16 means nothing.
    let mut image = Vhdx::new(5 << 30);
    image.block_size = 256 * M;
    image.bat = vec![(16, 0x400_0006), (17, (4 << 20) | 6)];
    image.patches = vec![(4 * M, vec![b'Z'; 1 << 20]), (260 * M - 1, vec![0])];
    let chain = open(image.build()).unwrap();
    let found: Vec<_> = chain
        .extents()
        .map(|extent| extent.unwrap())
        .map(|extent| {
            (
                extent.offset >> 20,
                extent.len >> 20,
                extent.kind.reads_as_zeros(),
            )
        })
        .collect();
    assert_eq!(
        found,
        [(0, 4096, true), (4096, 256, false), (4352, 768, true)]
    );
    assert_eq!(chain.read_vec((4 << 30) - 1, 3).unwrap(), [0, b'Z', b'Z']);
    assert_eq!(chain.read_vec((4 << 30) + M - 1, 2).unwrap(), [b'Z', 0]);
}

#[test]
fn a_bat_that_is_too_short_for_its_disk_is_refused() {
    let mut image = Vhdx::new(SIZE);
    image.patches = vec![(
        2 * M + (64 << 10) + 8,
        (256_u64 << 30).to_le_bytes().to_vec(),
    )];
    assert!(reads(image.build()).contains("the BAT of this disk has"));
}

fn child(parent: &[(&str, &str)]) -> Vhdx {
    let partial = [(0, vec![b'a'; 512]), (9, vec![b'b'; 512])];
    let mut child = Vhdx::new(SIZE)
        .block(0, Block::Partial(BTreeMap::from(partial)))
        .filled(1, 0x63)
        .block(2, Block::Entry(2, 0))
        .block(3, Block::Entry(0, 0))
        .block(4, Block::Entry(1, 0));
    let pairs = parent
        .iter()
        .map(|(key, value)| ((*key).into(), (*value).into()));
    child.parent = Some(pairs.collect());
    child
}

fn folder(parent: Vhdx) -> Folder {
    Folder([("ok.vhdx".to_owned(), parent.build())].into())
}

fn link() -> String {
    format!("{{{}}}", guid_text(&[0xd0; 16]).to_ascii_uppercase())
}

const CHILD: &str = "61*1 41*8 62*1 41*2038 63*2048 00*2048 44*2048 00*8192";

#[test]
fn a_child_shows_its_parent_where_it_has_nothing_of_its_own() {
    let link = link();
    let child = child(&[
        ("parent_linkage", link.as_str()),
        ("relative_path", ".\\ok.vhdx"),
        ("absolute_win32_path", "\\\\?\\C:\\vm\\other.vhdx"),
    ]);
    let chain = open_in(child.build(), folder(ad())).unwrap();
    assert_eq!(sectors(&chain), CHILD);
    check_reader(&chain);
    check_reader(&*chain.layers()[0].reader);
    let kinds: Vec<_> = chain.layers()[0]
        .reader
        .extents()
        .take(4)
        .map(|extent| extent.unwrap())
        .map(|extent| (extent.len / 512, matches!(extent.kind, ExtentKind::Data(_))))
        .collect();
    assert_eq!(kinds, [(1, true), (8, false), (1, true), (2038, false)]);
}

#[test]
fn a_parent_of_a_longer_path_is_looked_for_beside_the_child() {
    let link = link();
    for path in ["volume_path", "absolute_win32_path"] {
        let child = child(&[
            ("parent_linkage", link.as_str()),
            (path, "\\\\?\\C:\\vm\\ok.vhdx"),
        ]);
        let chain = open_in(child.build(), folder(ad())).unwrap();
        assert_eq!(sectors(&chain), CHILD);
    }
}

#[test]
fn a_parent_that_was_changed_is_refused() {
    let child = child(&[
        ("parent_linkage", "{01234567-89ab-cdef-0123-456789abcdef}"),
        ("relative_path", "ok.vhdx"),
    ]);
    let error = open_in(child.build(), folder(ad())).unwrap_err();
    assert_eq!(
        error.to_string(),
        "vhdx: the backing image's DataWriteGuid is d0d0d0d0-d0d0-d0d0-d0d0-d0d0d0d0d0d0, but the overlay was made \
         over 01234567-89ab-cdef-0123-456789abcdef"
    );
}

#[test]
fn a_second_linkage_will_do_while_a_merge_runs() {
    let link = link();
    let child = child(&[
        ("parent_linkage", "{01234567-89ab-cdef-0123-456789abcdef}"),
        ("parent_linkage2", link.as_str()),
        ("relative_path", "ok.vhdx"),
    ]);
    let chain = open_in(child.build(), folder(ad())).unwrap();
    assert_eq!(sectors(&chain), CHILD);
}

#[test]
fn a_parent_of_other_logical_sectors_is_refused() {
    let link = link();
    let child = child(&[
        ("parent_linkage", link.as_str()),
        ("relative_path", "ok.vhdx"),
    ]);
    let mut parent = ad();
    parent.logical_sector_size = 4096;
    let error = open_in(child.build(), folder(parent)).unwrap_err();
    assert!(error.to_string().contains("logical sector size is 4096"));
}

#[test]
fn a_locator_without_a_linkage_or_a_path_is_refused() {
    let link = link();
    assert!(reads(child(&[("relative_path", "ok.vhdx")]).build()).contains("parent_linkage"));
    assert!(reads(child(&[("parent_linkage", link.as_str())]).build()).contains("relative_path"));
    let twice = [("parent_linkage", link.as_str()), ("parent_linkage", "")];
    assert!(reads(child(&twice).build()).contains("already"));
}

#[test]
fn a_partially_present_block_without_its_bitmap_is_refused() {
    let link = link();
    let mut child = child(&[
        ("parent_linkage", link.as_str()),
        ("relative_path", "ok.vhdx"),
    ]);
    child.bat = vec![(4096, 0)];
    assert!(reads(child.build()).contains("BAT[4096] at 0x308000 is 0x0, no sector bitmap block"));
}

#[test]
fn a_child_longer_than_its_parent_ends_in_zeros() {
    let link = link();
    let mut child = child(&[
        ("parent_linkage", link.as_str()),
        ("relative_path", "ok.vhdx"),
    ]);
    child.size = 10 * M;
    let mut parent = ad();
    parent.size = 4 * M;
    let chain = open_in(child.build(), folder(parent)).unwrap();
    assert_eq!(
        sectors(&chain),
        "61*1 41*8 62*1 41*2038 63*2048 00*2048 44*2048 00*12288"
    );
}

#[test]
fn bitmaps_of_4096_byte_sectors_and_later_chunks_are_found() {
    let link = link();
    let mut child = Vhdx::new(40 << 30);
    child.logical_sector_size = 4096;
    child.block_size = 256 * M; // 128 blocks of 256 MiB to a chunk of 32 GiB.
    let pairs = [
        ("parent_linkage", link.as_str()),
        ("relative_path", "ok.vhdx"),
    ];
    child.parent = Some(pairs.map(|(key, value)| (key.into(), value.into())).into());
    let sectors = [(0, vec![1; 4096]), (65535, vec![2; 4096])];
    let child = child.block(130, Block::Partial(BTreeMap::from(sectors)));
    let mut parent = Vhdx::new(40 << 30);
    parent.logical_sector_size = 4096;
    parent.block_size = 256 * M;
    let chain = open_in(child.build(), folder(parent)).unwrap();
    let start = 130 * 256 * M;
    let at = |offset| chain.read_vec(offset, 1).unwrap()[0];
    assert_eq!(at(start - 1), 0);
    assert_eq!((at(start), at(start + 4095), at(start + 4096)), (1, 1, 0));
    let end = start + 256 * M;
    assert_eq!(
        (at(end - 4097), at(end - 4096), at(end - 1), at(end)),
        (0, 2, 2, 0)
    );
}
