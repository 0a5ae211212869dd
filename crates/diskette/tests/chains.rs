//! Chains across formats: a disk of one format below an image of another, in a folder.
#![allow(clippy::unwrap_used, reason = "a panic is a failed test")]

use std::fs;
use std::path::Path;
use std::sync::Arc;

use diskette::core::{BlockReader, BlockReaderExt, Chain, Error, Result};
use diskette::storage::FolderResolver;
use diskette_testkit::qcow2::{Cluster, Qcow2};
use diskette_testkit::vhdx::{Block, guid_text};
use diskette_testkit::{check_reader, vdi, vhdx, vmdk, vpc};
use tempfile::TempDir;

const MIB: usize = 1 << 20;

/// Files by their names.
type Files = Vec<(&'static str, Vec<u8>)>;

/// The base of all chains here: 8 MiB, of which the first is A, the fourth D, and the others zeros.
fn bases() -> Files {
    let grains: Vec<_> = [0, 3]
        .into_iter()
        .flat_map(|mib| {
            (0..16).map(move |grain| (16 * mib + grain, 0x41 + u8::try_from(mib).unwrap()))
        })
        .collect();
    let sectors = |fill: u8| (0..2048).map(|sector| (sector, fill)).collect::<Vec<_>>();
    let fourth: Vec<_> = (2048..4096).map(|sector| (sector, 0x44)).collect();
    let vhd = vpc::Vpc::new(8 * MIB)
        .sectors(0, &sectors(0x41))
        .sectors(1, &fourth);
    let vdi = vdi::Vdi::new(
        8 * MIB,
        &[
            1,
            vdi::FREE,
            vdi::ZERO,
            0,
            vdi::FREE,
            vdi::FREE,
            vdi::FREE,
            vdi::FREE,
        ],
        &[(1, 0x41), (0, 0x44)],
    );
    let mut fixed = vec![0; 8 * MIB];
    fixed[..MIB].fill(0x41);
    fixed[3 * MIB..4 * MIB].fill(0x44);
    vec![
        ("vhdx", vhdx_base().build()),
        ("vpc", vhd.build()),
        ("vpc", vpc::fixed(fixed.clone(), &vpc::Footer::new(8 << 20))),
        ("vdi", vdi.build()),
        ("vmdk", vmdk::Hosted::new(16384, &grains).bytes()),
        ("vmdk", vmdk::Stream::new(16384, &grains).bytes()),
        ("raw", fixed),
    ]
}

fn vhdx_base() -> vhdx::Vhdx {
    vhdx::Vhdx::new(8 << 20).filled(0, 0x41).filled(3, 0x44)
}

/// A QCOW2 overlay of 8 MiB with a cluster of x at 512 KiB, and one of zeros at 3.5 MiB.
fn overlay(format: &str) -> Vec<u8> {
    Qcow2::v3(8 << 20)
        .backing("base", format)
        .cluster(8, Cluster::Data(vec![0x78; 65536]))
        .cluster(56, Cluster::Zero)
        .build()
        .bytes
}

/// What the overlay shows, in runs of 64 KiB.
const SHOWN: [(u8, usize); 7] = [
    (0x41, 8),
    (0x78, 1),
    (0x41, 7),
    (0, 32),
    (0x44, 8),
    (0, 1),
    (0x44, 7),
];

fn folder(files: &[(&str, Vec<u8>)]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, bytes) in files {
        fs::write(folder.path().join(name), bytes).unwrap();
    }
    folder
}

fn open(folder: &TempDir, name: &str) -> Result<Chain> {
    diskette::open(folder.path().join(name))
}

fn open_whatever_the_identity(folder: &TempDir, name: &str) -> Chain {
    let mut options = diskette::safe_options();
    options.ignore_identity = true;
    diskette::open_with(folder.path().join(name), &options).unwrap()
}

/// The disk in runs of one byte, in units of 64 KiB.
fn runs(chain: &Chain) -> Vec<(u8, usize)> {
    check_reader(chain);
    let bytes = chain
        .read_vec(0, usize::try_from(chain.size()).unwrap())
        .unwrap();
    let runs = bytes.chunk_by(|a, b| a == b);
    runs.map(|run| (run[0], run.len() / 65536)).collect()
}

fn formats(chain: &Chain) -> Vec<&'static str> {
    chain
        .layers()
        .iter()
        .map(|layer| layer.info.format)
        .collect()
}

#[test]
fn a_qcow2_overlay_lies_over_an_image_of_any_format() {
    for (format, base) in bases() {
        let folder = folder(&[("overlay", overlay(format)), ("base", base)]);
        let chain = open(&folder, "overlay").unwrap();
        assert_eq!(formats(&chain), ["qcow2", format]);
        assert_eq!(runs(&chain)[..7], SHOWN, "{format}");
    }
}

#[test]
fn a_qcow2_overlay_lies_over_a_chain_of_another_format() {
    let chains: Vec<(&str, Files)> = vec![
        (
            "vhdx",
            vec![
                ("base", vhdx_child(&link()).build()),
                ("parent.vhdx", vhdx_base().build()),
            ],
        ),
        (
            "vpc",
            vec![
                (
                    "base",
                    vpc::Vpc::new(8 * MIB).over(0x11, "parent.vhd").build(),
                ),
                ("parent.vhd", bases().remove(1).1),
            ],
        ),
        (
            "vdi",
            vec![
                ("base", vdi_child().build()),
                ("parent.vdi", bases().remove(3).1),
            ],
        ),
        ("vmdk", vmdk_link(0x1234_5678)),
    ];
    for (format, mut files) in chains {
        files.push(("overlay", overlay(format)));
        let folder = folder(&files);
        let chain = open(&folder, "overlay").unwrap();
        assert_eq!(formats(&chain), ["qcow2", format, format]);
        assert_eq!(runs(&chain)[..7], SHOWN, "{format}");
    }
}

#[test]
fn an_image_is_converted_and_digested_the_same_whatever_its_chain() {
    for (format, base) in bases() {
        let folder = folder(&[("overlay", overlay(format)), ("base", base)]);
        let chain = open(&folder, "overlay").unwrap();
        let flat = folder.path().join("flat.qcow2");
        diskette::Conversion::to("qcow2")
            .write(&chain, &flat)
            .unwrap();
        let copy = diskette::open(&flat).unwrap();
        assert_eq!(formats(&copy), ["qcow2"]);
        assert_eq!(runs(&copy), runs(&chain));
    }
}

/// A child that has nothing of its own.
fn vhdx_child(linkage: &str) -> vhdx::Vhdx {
    let mut child = vhdx::Vhdx::new(8 << 20).block(7, Block::Entry(2, 0));
    child.parent = Some(vec![
        ("parent_linkage".to_owned(), linkage.to_owned()),
        ("relative_path".to_owned(), r".\parent.vhdx".to_owned()),
    ]);
    child
}

fn link() -> String {
    format!("{{{}}}", guid_text(&vhdx_base().data_write_guid))
}

fn vdi_child() -> vdi::Vdi {
    let mut child = vdi::Vdi::new(8 * MIB, &[vdi::FREE; 8], &[]);
    (child.image_type, child.uuids) = (4, [3, 4, 1, 2]);
    child
}

fn vmdk_link(parent_id: u32) -> Files {
    let lines = ["RW 16384 SPARSE \"child-s001.vmdk\""];
    let hint = "parentFileNameHint=\"parent.vmdk\"\n";
    vec![
        (
            "base",
            vmdk::link("twoGbMaxExtentSparse", &lines, 0x9abc_def0, parent_id, hint),
        ),
        ("child-s001.vmdk", {
            let mut child = vmdk::Hosted::new(16384, &[]);
            child.descriptor = Vec::new();
            child.bytes()
        }),
        ("parent.vmdk", bases().remove(4).1),
    ]
}

fn is_wrong_backing(error: &Error, kind: &str) -> bool {
    matches!(error, Error::WrongBacking { what, .. } if *what == kind)
}

#[test]
fn a_parent_of_another_identity_is_refused_in_every_format_and_taken_when_it_is_wished() {
    let other = "{00000000-1111-2222-3333-444444444444}";
    let mut changed = bases().remove(3).1;
    changed[408] ^= 1;
    let chains: Vec<(&str, Files)> = vec![
        (
            "DataWriteGuid",
            vec![
                ("base", vhdx_child(other).build()),
                ("parent.vhdx", vhdx_base().build()),
            ],
        ),
        (
            "UUID",
            vec![
                (
                    "base",
                    vpc::Vpc::new(8 * MIB).over(0x12, "parent.vhd").build(),
                ),
                ("parent.vhd", bases().remove(1).1),
            ],
        ),
        (
            "modification UUID",
            vec![("base", vdi_child().build()), ("parent.vdi", changed)],
        ),
        ("CID", vmdk_link(0x1234_5679)),
    ];
    for (kind, files) in chains {
        let folder = folder(&files);
        let error = open(&folder, "base").unwrap_err();
        assert!(is_wrong_backing(&error, kind), "{kind}: {error}");
        let told = error.to_string();
        assert!(told.contains("the overlay was made over"), "{told}");
        let chain = open_whatever_the_identity(&folder, "base");
        assert_eq!(
            runs(&chain)[..3],
            [(0x41, 16), (0, 32), (0x44, 16)],
            "{kind}"
        );
    }
}

#[test]
fn a_parent_in_another_folder_is_refused_in_every_format() {
    let child = vhdx_child(&link());
    let mut above = child.clone();
    above.parent = Some(vec![
        ("parent_linkage".to_owned(), link()),
        ("relative_path".to_owned(), r"..\parent.vhdx".to_owned()),
    ]);
    let mut vhd = vpc::Vpc::new(8 * MIB).over(0x11, "x");
    vhd.locators[0].1 = r"..\parent.vhd".to_owned();
    let outer = folder(&[
        ("parent.vhdx", vhdx_base().build()),
        ("parent.vhd", bases().remove(1).1),
        ("parent.vdi", bases().remove(3).1),
    ]);
    fs::create_dir(outer.path().join("images")).unwrap();
    for (name, bytes) in [
        ("a.vhdx", above.build()),
        ("a.vhd", vhd.build()),
        ("a.vdi", vdi_child().build()),
    ] {
        let path = outer.path().join("images").join(name);
        fs::write(&path, bytes).unwrap();
        let error = diskette::open(&path).unwrap_err();
        assert!(matches!(error, Error::Refused { .. }), "{name}: {error}");
        let mut options = diskette::safe_options();
        let wider = FolderResolver::new().allow(outer.path()).unwrap();
        options.files = Arc::new(wider);
        let chain = diskette::open_with(&path, &options).unwrap();
        assert_eq!(chain.layers().len(), 2, "{name}");
        options.files = Arc::new(FolderResolver::trusting());
        let chain = diskette::open_with(&path, &options).unwrap();
        assert_eq!(chain.layers().len(), 2, "{name}");
    }
}

/// A VHDX whose second block is known to its log alone.
fn dirty() -> Vec<u8> {
    let guid = [0x0f; 16];
    let bat: Vec<u8> = [(4 << 20) | 6, (6 << 20) | 6, 0, (5 << 20) | 6_u64]
        .iter()
        .flat_map(|entry| entry.to_le_bytes())
        .collect();
    let entry = vhdx::LogEntry {
        guid,
        sequence_number: 5,
        tail: 0,
        changes: vec![(3 << 20, vhdx::Change::Sector(bat))],
        flushed: 7 << 20,
        last: 7 << 20,
    };
    let mut image = vhdx_base();
    image.log = Some((guid, vec![(0, entry.bytes())]));
    image.patches = vec![(6 << 20, vec![0x42; MIB])];
    image.build()
}

fn assert_dirty_content(path: &Path) {
    let chain = diskette::open(path).unwrap();
    assert_eq!(
        runs(&chain)[..4],
        [(0x41, 16), (0x42, 16), (0, 16), (0x44, 16)]
    );
}

#[test]
fn looking_at_an_image_with_a_log_does_not_change_it() {
    let folder = folder(&[("dirty.vhdx", dirty())]);
    let path = folder.path().join("dirty.vhdx");
    let options = diskette::safe_options();
    assert!(
        diskette::inspect(&path, options.clone())
            .unwrap()
            .info
            .dirty
    );
    assert!(fs::read(&path).unwrap() == dirty(), "after info");
    assert_dirty_content(&path);
    let (_, report) = diskette::check(&path, &options).unwrap();
    assert_eq!(report.corruptions, 0);
    let chain = diskette::open(&path).unwrap();
    let copy = folder.path().join("copy.raw");
    diskette::Conversion::to("raw")
        .write(&chain, &copy)
        .unwrap();
    assert!(
        fs::read(&path).unwrap() == dirty(),
        "after check and convert"
    );
    assert_eq!(runs(&diskette::open(&copy).unwrap()), runs(&chain));
}

#[test]
fn a_log_is_replayed_into_the_file_when_that_is_asked_for() {
    let folder = folder(&[("dirty.vhdx", dirty())]);
    let path = folder.path().join("dirty.vhdx");
    let options = diskette::safe_options();
    let what = diskette::core::Repair::All;
    let (format, report) = diskette::repair(&path, what, &options).unwrap();
    assert_eq!((format, report.corruptions_fixed), ("vhdx", 1));
    assert!(!diskette::inspect(&path, options).unwrap().info.dirty);
    assert_dirty_content(&path);
}
