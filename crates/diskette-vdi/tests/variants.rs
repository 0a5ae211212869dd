//! Images made by hand, and what a guest must read from them.
#![expect(clippy::unwrap_used, reason = "a panic is a failed test")]

use std::sync::Arc;

use diskette_core::{
    BlockReader, BlockReaderExt, CheckableFormat, Error, Extent, ExtentKind, Format, OpenOptions,
    Opened, Reference, Registry, Resolver, Result, Storage, StorageMut,
};
use diskette_storage::MemoryStorage;
use diskette_testkit::vdi::{FREE, Vdi as Image, ZERO};
use diskette_vdi::Vdi;

const MIB: usize = 1 << 20;

/// What is done with an image that was made.
trait Made {
    fn open(&self) -> Result<Opened>;
    fn runs(&self) -> Vec<(u8, usize)>;
    fn refusal(&self) -> String;
}

impl Made for Image {
    fn open(&self) -> Result<Opened> {
        open(self.build())
    }

    fn runs(&self) -> Vec<(u8, usize)> {
        runs(&*self.open().unwrap().reader)
    }

    fn refusal(&self) -> String {
        self.open().unwrap_err().to_string()
    }
}

fn open(bytes: Vec<u8>) -> Result<Opened> {
    Vdi.open(
        Arc::new(MemoryStorage::new(bytes)),
        &OpenOptions::default().context(),
    )
}

/// The guest's bytes as runs of one byte, in sectors.
fn runs(disk: &dyn BlockReader) -> Vec<(u8, usize)> {
    let bytes = disk
        .read_vec(0, usize::try_from(disk.size()).unwrap())
        .unwrap();
    bytes
        .chunk_by(|a, b| a == b)
        .map(|run| (run[0], run.len() / 512))
        .collect()
}

fn order() -> Image {
    Image::new(
        4 * MIB,
        &[2, FREE, 0, 1],
        &[(0, 0x43), (1, 0x44), (2, 0x41)],
    )
}

fn zero() -> Image {
    Image::new(4 * MIB, &[0, ZERO, FREE, 1], &[(0, 0x41), (1, 0x44)])
}

fn sparse() -> Image {
    Image::new(4 * MIB, &[0, FREE, 1, FREE], &[(0, 0x41), (1, 0x43)])
}

#[test]
fn blocks_lie_in_any_order() {
    assert_eq!(
        order().runs(),
        [(0x41, 2048), (0, 2048), (0x43, 2048), (0x44, 2048)]
    );
}

#[test]
fn free_and_zero_blocks_read_as_zeros_wherever_map_and_data_lie() {
    let expected = [(0x41, 2048), (0, 4096), (0x44, 2048)];
    assert_eq!(zero().runs(), expected);
    assert_eq!(
        Image {
            map_offset: MIB,
            data_offset: Some(2 * MIB),
            ..zero()
        }
        .runs(),
        expected
    );
    assert_eq!(
        Image {
            header_size: 0x180,
            ..zero()
        }
        .runs(),
        expected
    );
    assert_eq!(
        Image {
            map_offset: 520,
            data_offset: Some(1024),
            ..zero()
        }
        .runs(),
        expected
    );
    assert_eq!(
        Image {
            data_offset: Some(1032),
            ..zero()
        }
        .runs(),
        expected
    );
}

#[test]
fn blocks_have_any_size_that_is_a_power_of_two() {
    let large = Image {
        disk: 8 << 20,
        block_size: 2 * MIB,
        ..sparse()
    };
    assert_eq!(
        large.runs(),
        [(0x41, 4096), (0, 4096), (0x43, 4096), (0, 4096)]
    );
    let small = Image {
        disk: 16384,
        block_size: 4096,
        ..sparse()
    };
    assert_eq!(small.runs(), [(0x41, 8), (0, 8), (0x43, 8), (0, 8)]);
}

#[test]
fn extra_bytes_before_a_block_are_no_data() {
    let image = Image {
        extra: 512,
        ..sparse()
    };
    assert_eq!(
        image.runs(),
        [(0x41, 2048), (0, 2048), (0x43, 2048), (0, 2048)]
    );
}

#[test]
fn the_oldest_header_is_read() {
    let image = Image {
        version: 2,
        ..sparse()
    };
    assert_eq!(
        image.runs(),
        [(0x41, 2048), (0, 2048), (0x43, 2048), (0, 2048)]
    );
}

#[test]
fn flags_a_longer_header_and_more_blocks_than_the_disk_needs_do_not_matter() {
    let expected = [(0x41, 2048), (0, 2048), (0x43, 2048), (0, 2048)];
    for image in [
        Image {
            flags: 1,
            ..sparse()
        },
        Image {
            header_size: 0x1a0,
            ..sparse()
        },
        Image {
            map: vec![0, FREE, 1, FREE, FREE, FREE],
            ..sparse()
        },
    ] {
        assert_eq!(image.runs(), expected);
    }
}

#[test]
fn a_disk_of_no_bytes_is_empty() {
    let image = Image::new(0, &[], &[]);
    assert_eq!(image.runs(), []);
}

#[test]
fn a_file_cut_short_is_an_error_on_the_block_that_is_missing() {
    let mut bytes = order().build();
    bytes.truncate(bytes.len() - MIB);
    let disk = open(bytes).unwrap().reader;
    assert_eq!(disk.read_vec(2 << 20, 512).unwrap(), [0x43; 512]);
    let error = disk.read_vec(0, 512).unwrap_err().to_string();
    assert!(error.starts_with("vdi: map[0] at 0x200 is 0x2"), "{error}");
}

#[test]
fn a_static_image_is_read_through_its_map() {
    let image = Image {
        image_type: 2,
        ..Image::new(
            4 * MIB,
            &[0, 1, 2, 3],
            &[(0, 0x41), (1, 0), (2, 0), (3, 0x44)],
        )
    };
    assert_eq!(image.runs(), [(0x41, 2048), (0, 4096), (0x44, 2048)]);
}

#[test]
fn a_size_that_is_no_multiple_of_a_sector_is_rounded_up() {
    let image = Image::new(
        3 * MIB + 777,
        &[0, 1, 2, 3],
        &[(0, 0x41), (1, 0), (2, 0), (3, 0x44)],
    );
    assert_eq!(image.runs(), [(0x41, 2048), (0, 4096), (0x44, 2)]);
    assert_eq!(image.open().unwrap().info.warnings.len(), 1);
}

#[test]
fn neighbours_in_disk_and_file_are_one_extent() {
    let image = Image::new(4 * MIB, &[0, 1, FREE, ZERO], &[(0, 1), (1, 2)]);
    let extents: Vec<_> = image
        .open()
        .unwrap()
        .reader
        .extents()
        .map(|extent| extent.unwrap())
        .collect();
    assert_eq!(extents.len(), 2);
    assert!(matches!(
        extents[0],
        Extent {
            offset: 0,
            len: 0x20_0000,
            kind: ExtentKind::Data(_)
        }
    ));
    assert_eq!(extents[1], Extent::zero(2 << 20, 2 << 20));
}

#[test]
fn a_header_that_lies_is_refused_by_field_offset_and_value() {
    let told = |image: Image, text: &str| assert_eq!(image.refusal(), text);
    told(
        Image {
            version: 0x10000,
            ..sparse()
        },
        "vdi: header version 1.0 is not supported",
    );
    told(
        Image {
            image_type: 9,
            ..sparse()
        },
        "vdi: header.image_type at 0x4c is 0x9, not within 1 to 4",
    );
    told(
        Image {
            sector_size: 4096,
            ..sparse()
        },
        "vdi: header.sector_size at 0x168 is 0x1000, not 0x200",
    );
    told(
        Image {
            disk: 8 << 20,
            ..sparse()
        },
        "vdi: header.block_count at 0x180 is 0x4, too few blocks for a disk of 8388608 bytes",
    );
    told(
        Image {
            block_count: Some(0x1fff_ff80),
            data_offset: Some(1024),
            ..sparse()
        },
        "vdi: header.map_offset at 0x154 is 0x200, its 2147483136 bytes reach beyond the file's end at 0x200400",
    );
    told(
        Image {
            block_count: Some(0x1fff_ff81),
            data_offset: Some(1024),
            ..sparse()
        },
        "vdi: header.map_offset at 0x154 is 0x200, its 2147483140 bytes reach beyond the file's end at 0x200400",
    );
    told(
        Image {
            header_size: 0x17c,
            ..sparse()
        },
        "vdi: header.header_size at 0x48 is 0x17c, not within 384 to 4294967295",
    );
    told(
        Image {
            block_size: 256,
            disk: 512,
            ..sparse()
        },
        "vdi: header.block_size at 0x178 is 0x100, not within 512 to 268435456",
    );
    told(
        Image {
            disk: u64::MAX,
            ..sparse()
        },
        "vdi: header.disk_size at 0x170 is 0xffffffffffffffff, not within 0 to 9223372036854775807",
    );
    told(
        Image {
            map: Vec::new(),
            blocks: Vec::new(),
            disk: 1,
            ..sparse()
        },
        "vdi: header.block_count at 0x180 is 0x0, too few blocks for a disk of 1 bytes",
    );
    told(
        Image {
            data_offset: Some(520),
            ..sparse()
        },
        "vdi: header.data_offset at 0x158 is 0x208, before the map's end at 0x210",
    );
    told(
        Image {
            block_size: 3 * 512,
            ..sparse()
        },
        "vdi: header.block_size at 0x178 is 0x600, not a power of two",
    );
    told(
        Image {
            extra: 3,
            ..sparse()
        },
        "vdi: header.block_extra at 0x17c is 0x3, not a power of two",
    );
    assert!(open(order().build()[..511].to_vec()).is_err());
}

#[test]
fn a_differencing_image_without_a_parent_is_refused() {
    let image = Image {
        image_type: 4,
        ..Image::new(4 * MIB, &[FREE, ZERO, 0, FREE], &[(0, 0x63)])
    };
    assert!(image.refusal().contains("names no parent"));
}

#[test]
fn a_block_beyond_the_end_of_the_file_is_an_error_where_it_is_read() {
    let beyond = Image::new(4 * MIB, &[0, 7, FREE, FREE], &[(0, 0x41)]);
    let disk = beyond.open().unwrap().reader;
    assert_eq!(disk.read_vec(0, MIB).unwrap(), [0x41; MIB]);
    let error = disk.read_vec(MIB as u64, 512).unwrap_err().to_string();
    assert!(
        error.starts_with("vdi: map[1] at 0x204 is 0x7, its block at 0x700400 reaches beyond"),
        "{error}"
    );

    let mut options = OpenOptions::default();
    options.salvage = true;
    let disk = Vdi
        .open(
            Arc::new(MemoryStorage::new(beyond.build())),
            &options.context(),
        )
        .unwrap()
        .reader;
    assert_eq!(disk.read_vec(MIB as u64, 512).unwrap(), [0; 512]);
}

/// Opens the one file that it has, whatever the reference says.
#[derive(Debug)]
struct Only(Arc<MemoryStorage>);

impl Resolver for Only {
    fn open(&self, _reference: &Reference, _from: &dyn Storage) -> Result<Arc<dyn Storage>> {
        Ok(Arc::<MemoryStorage>::clone(&self.0))
    }

    fn open_mut(&self, reference: &Reference, _from: &dyn Storage) -> Result<Arc<dyn StorageMut>> {
        Err(reference.refused("nothing is written here"))
    }
}

fn open_over(base: &Image, uuids: [u8; 4]) -> Result<diskette_core::Chain> {
    let diff = Image::new(4 * MIB, &[FREE, ZERO, 0, FREE], &[(0, 0x63)]);
    let diff = Image {
        image_type: 4,
        uuids,
        ..diff
    };
    let mut options = OpenOptions::default();
    options.probe_backing = true;
    options.files = Arc::new(Only(Arc::new(MemoryStorage::named("base", base.build()))));
    Registry::new(vec![&Vdi]).open_chain(
        Arc::new(MemoryStorage::named("diff", diff.build())),
        &options,
    )
}

#[test]
fn a_differencing_image_shows_its_parent_where_it_is_free() {
    let base = Image::new(
        4 * MIB,
        &[0, 1, 2, FREE],
        &[(0, 0x41), (1, 0x42), (2, 0x43)],
    );
    let chain = open_over(&base, [9, 8, 1, 2]).unwrap();
    assert_eq!(
        runs(&chain),
        [(0x41, 2048), (0, 2048), (0x63, 2048), (0, 2048)]
    );
}

#[test]
fn a_parent_that_has_changed_is_refused() {
    let base = Image::new(
        4 * MIB,
        &[0, 1, 2, FREE],
        &[(0, 0x41), (1, 0x42), (2, 0x43)],
    );
    let error = open_over(&base, [9, 8, 1, 7]).unwrap_err();
    assert!(
        matches!(
            error,
            Error::WrongBacking {
                what: "modification UUID",
                ..
            }
        ),
        "{error}"
    );
}

#[test]
fn a_check_finds_shared_blocks_blocks_too_far_and_a_wrong_count() {
    let check = |image: Image| {
        let storage = Arc::new(MemoryStorage::new(image.build()));
        Vdi.check(storage, &OpenOptions::default().context())
            .unwrap()
            .corruptions
    };
    assert_eq!(check(order()), 0);
    assert_eq!(
        check(Image {
            allocated: Some(2),
            ..Image::new(4 * MIB, &[0, 0, FREE, FREE], &[(0, 0x41)])
        }),
        1
    );
    assert_eq!(
        check(Image {
            allocated: Some(3),
            ..Image::new(4 * MIB, &[0, FREE, FREE, FREE], &[(0, 0x41)])
        }),
        1
    );
    assert_eq!(
        check(Image::new(4 * MIB, &[0, 7, FREE, FREE], &[(0, 0x41)])),
        1
    );
}

#[test]
fn no_byte_of_the_header_can_make_it_panic() {
    let sound = Image {
        disk: 16384,
        block_size: 4096,
        ..sparse()
    }
    .build();
    for at in 64..528 {
        for value in [0, 1, 0x7f, 0x80, 0xff] {
            let mut bytes = sound.clone();
            bytes[at] = value;
            let Ok(image) = open(bytes) else { continue };
            let len = usize::try_from(image.reader.size().min(1 << 20)).unwrap();
            let _ = image.reader.read_vec(0, len);
        }
    }
    for len in 0..sound.len() {
        if let Ok(image) = open(sound[..len].to_vec()) {
            let _ = image.reader.read_vec(0, 16384);
        }
    }
}
