//! What we read, and what we write, held against a reader that is neither ours nor QEMU's: dissect.hypervisor, in Python.
//!
//! It knows sub-formats that QEMU refuses: differencing VHDX, logical sectors of 4096 bytes, a VHD's bitmaps.
#![allow(clippy::unwrap_used, reason = "a panic is a failed test")]

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::path::PathBuf;

use diskette::core::BlockReader;
use diskette_testkit::corpus::sha256;
use diskette_testkit::golden::testdata;
use diskette_testkit::qcow2::{Cluster, Qcow2};
use diskette_testkit::vhdx::{Block, guid_text};
use diskette_testkit::{Content, Tool, vdi, vhdx, vmdk, vpc};
use tempfile::TempDir;

const MIB: usize = 1 << 20;

/// Files by their names: the one to be read, and those that it needs.
type Files = Vec<(&'static str, Vec<u8>)>;
/// Images by their format.
type Paths = BTreeMap<&'static str, Vec<PathBuf>>;

#[test]
fn images_by_hand_read_as_dissect_reads_them() {
    let Some(python) = dissect() else { return };
    let folder = TempDir::new().unwrap();
    let mut paths = Paths::new();
    for (number, (format, files)) in images().into_iter().enumerate() {
        let folder = folder.path().join(number.to_string());
        fs::create_dir(&folder).unwrap();
        for (name, bytes) in &files {
            fs::write(folder.join(name), bytes).unwrap();
        }
        paths
            .entry(format)
            .or_default()
            .push(folder.join(files[0].0));
    }
    assert_same(&python, &paths);
}

#[test]
fn images_of_testdata_read_as_dissect_reads_them() {
    let Some(python) = dissect() else { return };
    // Those that it reads: no sparse VMDK that ends within a grain, no subclusters.
    let mut paths = Paths::new();
    for (format, name) in [
        ("qcow2", "base.qcow2"),
        ("qcow2", "small-clusters.qcow2"),
        ("qcow2", "v2.qcow2"),
        ("qcow2", "v3.qcow2"),
        ("qcow2", "zlib.qcow2"),
        ("vmdk", "flat.vmdk"),
        ("vmdk", "split-flat.vmdk"),
        ("vpc", "empty.vhd"),
        ("vpc", "fixed.vhd"),
        ("vdi", "empty.vdi"),
    ] {
        let path = testdata().join(format).join(name);
        paths.entry(format).or_default().push(path);
    }
    assert_same(&python, &paths);
}

#[test]
fn what_we_write_reads_as_dissect_reads_it() {
    let Some(python) = dissect() else { return };
    let folder = TempDir::new().unwrap();
    let source = folder.path().join("source.raw");
    fs::write(&source, Content::new(7).bytes(9 * MIB)).unwrap();
    let disk = diskette::open(&source).unwrap();
    let mut paths = Paths::new();
    for format in ["qcow2", "vdi", "vhdx", "vmdk", "vpc"] {
        let known = diskette::registry().get(format).unwrap();
        if known.writable().is_none() {
            continue;
        }
        let image = folder.path().join("image").with_extension(format);
        diskette::Conversion::to(format)
            .write(&disk, &image)
            .unwrap();
        paths.entry(format).or_default().push(image);
    }
    assert_same(&python, &paths);
}

#[test]
fn what_we_change_in_place_reads_as_dissect_reads_it() {
    let Some(python) = dissect() else { return };
    let folder = TempDir::new().unwrap();
    let source = folder.path().join("source.raw");
    fs::write(&source, Content::new(7).bytes(9 * MIB)).unwrap();
    let disk = diskette::open(&source).unwrap();
    let mut paths = Paths::new();
    for (format, name) in [("vdi", "a"), ("vhdx", "b"), ("vmdk", "c"), ("vpc", "d")] {
        let image = folder.path().join(name);
        diskette::Conversion::to(format)
            .write(&disk, &image)
            .unwrap();
        let writer = diskette::edit(&image, &diskette::safe_options()).unwrap();
        for number in 0..9 {
            let at = number * (1 << 20) + number * 1000;
            writer.write_at(&[0x5a; 300_000], at).unwrap();
            writer.write_zeros(at + 200_000, 50_000).unwrap();
        }
        writer.write_zeros(2 << 20, 4 << 20).unwrap();
        writer.close().unwrap();
        paths.entry(format).or_default().push(image);
    }
    assert_same(&python, &paths);
}

fn dissect() -> Option<Tool> {
    Tool::python_with("dissect.hypervisor")
}

/// That the images read to their ends as the other reader reads them.
fn assert_same(python: &Tool, images: &Paths) {
    let script = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/oracles/dissect_digest.py"
    );
    for (format, paths) in images {
        let args = [OsStr::new(script), OsStr::new(format)];
        let theirs = python.run(
            args.into_iter()
                .chain(paths.iter().map(|path| path.as_os_str())),
        );
        assert_eq!(theirs.lines().count(), paths.len());
        for (path, theirs) in paths.iter().zip(theirs.lines()) {
            let name = path.display();
            let chain = diskette::open(path).unwrap_or_else(|error| panic!("{name}: {error}"));
            assert_eq!(chain.top().info.format, *format);
            let ours = format!("{} {}", chain.size(), sha256(&chain).unwrap());
            assert_eq!(theirs, ours, "{name}");
        }
    }
}

fn images() -> Vec<(&'static str, Files)> {
    let mut found = Vec::new();
    let mut add = |format, bytes| found.push((format, vec![("image", bytes)]));
    for image in vdis() {
        add("vdi", image.build());
    }
    for image in vhds() {
        add("vpc", image.build());
    }
    add(
        "vpc",
        vpc::fixed(vec![0x41; 3 * MIB], &vpc::Footer::new(3 << 20)),
    );
    for image in vhdxs() {
        add("vhdx", image.build());
    }
    for image in qcow2s() {
        add("qcow2", image.build().bytes);
    }
    let grains = [(0, 0x41), (3, 0x42), (79, 0x43)];
    add("vmdk", vmdk::Hosted::new(10240, &grains).bytes());
    add("vmdk", vmdk::Stream::new(10240, &grains).bytes());
    found.push(("vhdx", differencing_vhdx()));
    found.push(("vmdk", cowd()));
    found.push(("vmdk", se_sparse()));
    found
}

fn vdis() -> Vec<vdi::Vdi> {
    let blocks = [(0, 0x43), (1, 0x44), (2, 0x41)];
    let dynamic = vdi::Vdi::new(5 * MIB, &[2, vdi::FREE, 0, vdi::ZERO, 1], &blocks);
    let mut large = dynamic.clone();
    (large.block_size, large.disk) = (2 * MIB, 10 << 20);
    let mut aligned = dynamic.clone();
    (aligned.map_offset, aligned.data_offset) = (MIB, Some(2 * MIB));
    vec![dynamic, large, aligned]
}

fn vhds() -> Vec<vpc::Vpc> {
    let dynamic = vpc::Vpc::new(8 * MIB).filled(0, 0x41).filled(3, 0x44);
    let bits = vpc::Vpc::new(8 * MIB).sectors(0, &[(0, 1), (1, 2), (9, 3), (4095, 4)]);
    let mut shuffled = dynamic.clone().filled(1, 0x42);
    shuffled.order = vec![3, 0, 1];
    let mut small = vpc::Vpc::new(8 * MIB);
    small.block_size = MIB / 2;
    vec![
        dynamic,
        bits,
        shuffled,
        small.filled(0, 0x41).filled(15, 0x44),
    ]
}

fn vhdxs() -> Vec<vhdx::Vhdx> {
    let dynamic = vhdx::Vhdx::new(8 << 20).filled(0, 0x41).filled(3, 0x44);
    let mut native = dynamic.clone().filled(7, 0x47);
    (native.logical_sector_size, native.physical_sector_size) = (4096, 4096);
    let states = (1..=3).fold(dynamic.clone(), |image, state| {
        image.block(3 + state, Block::Entry(state, 0))
    });
    let mut large = vhdx::Vhdx::new(64 << 20);
    large.block_size = 32 << 20;
    let mut fixed = (0..8).fold(vhdx::Vhdx::new(8 << 20), |image, block| {
        image.filled(block, 0x41)
    });
    fixed.flags = 1;
    vec![dynamic, native, states, large.filled(1, 0x42), fixed]
}

fn qcow2s() -> Vec<Qcow2> {
    let clusters = |image: Qcow2| {
        image
            .cluster(0, Cluster::Data(b"data".to_vec()))
            .cluster(2, Cluster::Zero)
            .cluster(3, Cluster::ZeroAllocated(vec![1]))
            .cluster(7, Cluster::Data(vec![7; 512]))
    };
    vec![
        clusters(Qcow2::v3(1 << 20)),
        clusters(Qcow2::v3(1 << 20).cluster_bits(12)),
        clusters(Qcow2::v3(64 << 10).cluster_bits(9)),
    ]
}

/// A child with a partially present block, a whole one, and one of zeros.
fn differencing_vhdx() -> Files {
    let parent = vhdx::Vhdx::new(8 << 20).filled(0, 0x41).filled(3, 0x44);
    let sectors: BTreeMap<u64, Vec<u8>> = [(0, vec![0x61; 512]), (9, vec![0x62; 512])].into();
    let mut child = vhdx::Vhdx::new(8 << 20)
        .block(0, Block::Partial(sectors))
        .filled(1, 0x63)
        .block(2, Block::Entry(2, 0));
    let linkage = format!("{{{}}}", guid_text(&parent.data_write_guid));
    child.parent = Some(vec![
        ("parent_linkage".to_owned(), linkage),
        ("relative_path".to_owned(), r".\parent.vhdx".to_owned()),
        (
            "absolute_win32_path".to_owned(),
            r"C:\vm\parent.vhdx".to_owned(),
        ),
    ]);
    vec![
        ("child.vhdx", child.build()),
        ("parent.vhdx", parent.build()),
    ]
}

fn cowd() -> Files {
    let grains = vmdk::filled(1, &[(0, 0x41), (5, 0x42), (4096, 0x43), (20479, 0x44)]);
    let text = vmdk::descriptor("vmfsSparse", &["RW 20480 VMFSSPARSE \"c-delta.vmdk\""]);
    vec![
        ("c.vmdk", text),
        ("c-delta.vmdk", vmdk::cowd(20480, 1, &grains)),
    ]
}

fn se_sparse() -> Files {
    let grains = vmdk::filled(8, &[(0, 0x41), (4095, 0x42), (4200, 0x43), (8192, 0x44)]);
    let mut grains: BTreeMap<_, _> = grains
        .into_iter()
        .map(|(number, bytes)| (number, vmdk::SeGrain::Data(bytes)))
        .collect();
    grains.insert(1, vmdk::SeGrain::Zero);
    grains.insert(2, vmdk::SeGrain::Unmapped);
    let text = vmdk::descriptor("seSparse", &["RW 131072 SESPARSE \"s-se.vmdk\""]);
    vec![
        ("s.vmdk", text),
        ("s-se.vmdk", vmdk::se_sparse(131_072, &grains)),
    ]
}
