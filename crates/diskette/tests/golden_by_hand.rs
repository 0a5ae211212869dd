//! What we say of images that no file of `testdata` stands for: built in a moment, held against golden files in
//! `tests/golden`. `DISKETTE_RENEW=1` renews them, as it does those of `testdata`.
#![allow(clippy::unwrap_used, reason = "a panic is a failed test")]

use std::fs;
use std::path::Path;

use diskette_testkit::golden::{check, describe};
use diskette_testkit::vdi::{FREE, Vdi, ZERO};
use diskette_testkit::vhdx::{Block, Change, LogEntry, M, Vhdx, guid_text};
use diskette_testkit::vpc::{Footer, Vpc, fixed};

const MIB: usize = 1 << 20;

#[test]
fn what_is_said_of_images_made_by_hand_is_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let images = [vdis(), vhds(), vhdxs()].concat();
    for (name, bytes) in &images {
        fs::write(folder.path().join(name), bytes).unwrap();
    }
    for (name, _) in &images {
        let chain = diskette::open(folder.path().join(name))
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        let golden = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("tests/golden")
            .join(name);
        check(&golden, &describe(&chain).unwrap());
    }
}

type Files = Vec<(&'static str, Vec<u8>)>;

fn vdis() -> Files {
    let base = Vdi::new(
        5 * MIB,
        &[1, FREE, ZERO, 0, 2],
        &[(0, 0x41), (1, 0x42), (2, 0x43)],
    );
    let mut child = Vdi::new(5 * MIB, &[FREE, 0, FREE, ZERO, FREE], &[(0, 0x61)]);
    (child.image_type, child.uuids) = (4, [3, 4, 1, 2]);
    let mut old = base.clone();
    (old.version, old.uuids) = (2, [5, 6, 0, 0]);
    vec![
        ("base.vdi", base.build()),
        ("child.vdi", child.build()),
        ("old.vdi", old.build()),
    ]
}

fn vhds() -> Files {
    let base = Vpc::new(8 * MIB)
        .filled(0, 0x41)
        .sectors(3, &[(0, 1), (1, 2), (9, 3), (4095, 4)]);
    let mut child = Vpc::new(8 * MIB)
        .sectors(0, &[(8, 0x61)])
        .over(0x11, "base.vhd");
    child.footer.id = 0x22;
    let mut xen = base.clone();
    (xen.batmap, xen.footer.application) = (Some(false), *b"tap\0");
    xen.front = false;
    vec![
        ("base.vhd", base.build()),
        ("child.vhd", child.build()),
        ("xen.vhd", xen.build()),
        ("whole.vhd", fixed(vec![0x41; MIB], &Footer::new(1 << 20))),
    ]
}

fn vhdxs() -> Files {
    let base = Vhdx::new(8 * M).filled(0, 0x41).filled(3, 0x44);
    let states = (1..=3).fold(base.clone(), |image, state| {
        image.block(3 + state, Block::Entry(state, 0))
    });
    let mut native = base.clone();
    (native.logical_sector_size, native.physical_sector_size) = (4096, 4096);
    let sectors = [(0, vec![0x61; 512]), (9, vec![0x62; 512])].into();
    let mut child = Vhdx::new(8 * M)
        .block(0, Block::Partial(sectors))
        .filled(1, 0x63);
    let linkage = format!("{{{}}}", guid_text(&base.data_write_guid));
    child.parent = Some(vec![
        ("parent_linkage".to_owned(), linkage),
        ("relative_path".to_owned(), r".\base.vhdx".to_owned()),
    ]);
    vec![
        ("base.vhdx", base.build()),
        ("states.vhdx", states.build()),
        ("native.vhdx", native.build()),
        ("child.vhdx", child.build()),
        ("dirty.vhdx", dirty(base)),
    ]
}

/// The base, with a block that only its log knows.
fn dirty(mut image: Vhdx) -> Vec<u8> {
    let guid = [0x0f; 16];
    let bat = [4 * M + 6, 6 * M + 6, 0, 5 * M + 6];
    let bat = bat.iter().flat_map(|entry| entry.to_le_bytes()).collect();
    let entry = LogEntry {
        guid,
        sequence_number: 5,
        tail: 0,
        changes: vec![(3 * M, Change::Sector(bat))],
        flushed: 7 * M,
        last: 7 * M,
    };
    image.log = Some((guid, vec![(0, entry.bytes())]));
    image.patches = vec![(6 * M, vec![0x42; MIB])];
    image.build()
}
