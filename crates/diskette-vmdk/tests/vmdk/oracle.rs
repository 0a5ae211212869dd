//! Images that qemu-img makes, and what it says of them and of ours.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use diskette_core::{BlockReaderExt, Chain, Extent, ExtentKind, Format, Opened, Registry, Value};
use diskette_storage::FileStorage;
use diskette_testkit::vmdk::{Hosted, SeGrain, Stream, cowd, descriptor, disk, filled, se_sparse};
use diskette_testkit::{Tool, qemu_img, qemu_io};
use diskette_vmdk::Vmdk;
use serde_json::{Value as Json, json};

use crate::common::Beside;

/// A disk of 20 MiB: data, zeros, and data at its very end.
fn content() -> Vec<u8> {
    let mut rng = diskette_testkit::Rng::new(11);
    let noise = (0..300_000).map(|_| rng.below(256).to_le_bytes()[0]);
    let mut bytes: Vec<u8> = noise.collect();
    bytes.resize(1 << 20, 0);
    bytes.resize(3 << 20, 0x41);
    bytes.resize((20 << 20) - 512, 0);
    bytes.resize(20 << 20, 0x42);
    bytes
}

#[test]
fn every_subformat_of_qemu_img_reads_as_qemu_img_wrote_it() {
    let Some(qemu_img) = qemu_img() else {
        return;
    };
    let folder = tempfile::tempdir().expect("there is room");
    fs::write(folder.path().join("disk.raw"), content()).expect("there is room");
    for subformat in [
        "monolithicSparse",
        "monolithicSparse,zeroed_grain=on",
        "monolithicFlat",
        "twoGbMaxExtentSparse",
        "twoGbMaxExtentFlat",
        "streamOptimized",
    ] {
        let option = format!("subformat={subformat}");
        let args = [
            "convert",
            "-O",
            "vmdk",
            "-o",
            &option,
            "disk.raw",
            "disk.vmdk",
        ];
        qemu_img.run_in(folder.path(), args);
        let opened = assert_told_alike(&qemu_img, &folder.path().join("disk.vmdk"));
        assert!(whole(&opened) == content(), "{subformat}");
        assert_eq!(opened.info.warnings, [""; 0], "{subformat}");
    }
}

#[test]
fn many_parts_of_a_large_disk_are_told_as_by_qemu_img() {
    let (Some(qemu_img), Some(qemu_io)) = (qemu_img(), qemu_io()) else {
        return;
    };
    let folder = tempfile::tempdir().expect("there is room");
    for subformat in ["twoGbMaxExtentSparse", "twoGbMaxExtentFlat"] {
        let option = format!("subformat={subformat}");
        qemu_img.run_in(
            folder.path(),
            [
                "create", "-q", "-f", "vmdk", "-o", &option, "big.vmdk", "5G",
            ],
        );
        // Across the edge of two parts.
        let write = [
            "-f",
            "vmdk",
            "-c",
            "write -P 0x41 2047M 2M",
            "-c",
            "write -P 0x42 4G 512",
            "big.vmdk",
        ];
        qemu_io.run_in(folder.path(), write);
        let opened = assert_told_alike(&qemu_img, &folder.path().join("big.vmdk"));
        assert_eq!(opened.info.files.len(), 4);
        let bytes = opened
            .reader
            .read_vec((2047 << 20) - 512, (2 << 20) + 1024)
            .expect("it can be read");
        assert!(bytes == disk(&[(0, 1), (0x41, 4096), (0, 1)]));
    }
}

#[test]
fn a_chain_of_qemu_img_reads_as_qemu_img_reads_it() {
    let (Some(qemu_img), Some(qemu_io)) = (qemu_img(), qemu_io()) else {
        return;
    };
    let folder = tempfile::tempdir().expect("there is room");
    let run = |args: &[&str]| qemu_img.run_in(folder.path(), args);
    let write = |commands: &[&str], file: &str| {
        let commands = commands.iter().flat_map(|command| ["-c", command]);
        qemu_io.run_in(
            folder.path(),
            ["-f", "vmdk"].into_iter().chain(commands).chain([file]),
        )
    };
    run(&["create", "-q", "-f", "vmdk", "base.vmdk", "1M"]);
    write(&["write -P 0x11 0 1M"], "base.vmdk");
    run(&[
        "create",
        "-q",
        "-f",
        "vmdk",
        "-b",
        "base.vmdk",
        "-F",
        "vmdk",
        "-o",
        "zeroed_grain=on",
        "d.vmdk",
    ]);
    write(&["write -P 0x22 64k 1k", "write -z 128k 64k"], "d.vmdk");

    let chain = open_chain(&folder.path().join("d.vmdk")).expect("the chain is sound");
    let bytes = chain.read_vec(0, 1 << 20).expect("it can be read");
    assert!(bytes == disk(&[(0x11, 128), (0x22, 2), (0x11, 126), (0, 128), (0x11, 1664)]));
    let opened = assert_told_alike(&qemu_img, &folder.path().join("d.vmdk"));
    let backing = opened.backing.expect("it names its parent");
    assert_eq!(
        (backing.target.as_str(), backing.format.as_deref()),
        ("base.vmdk", Some("vmdk"))
    );

    write(&["write -P 0x33 512k 512"], "base.vmdk");
    let error = open_chain(&folder.path().join("d.vmdk")).expect_err("the parent was changed");
    assert!(
        error
            .to_string()
            .starts_with("vmdk: the backing image's CID is "),
        "{error}"
    );
}

#[test]
fn images_by_hand_are_told_as_by_qemu_img() {
    let Some(qemu_img) = qemu_img() else {
        return;
    };
    let folder = tempfile::tempdir().expect("there is room");
    let put = |name: &str, bytes: Vec<u8>| {
        fs::write(folder.path().join(name), bytes).expect("there is room");
    };
    let told_alike = || {
        let opened = assert_told_alike(&qemu_img, &folder.path().join("x.vmdk"));
        qemu_img.run_in(folder.path(), ["convert", "-O", "raw", "x.vmdk", "x.raw"]);
        let theirs = fs::read(folder.path().join("x.raw")).expect("it was made");
        assert!(whole(&opened) == theirs);
    };

    put(
        "x.vmdk",
        Hosted::new(10240, &[(0, 0x41), (3, 0x42), (79, 0x43)]).bytes(),
    );
    told_alike();
    put(
        "x.vmdk",
        Stream::new(200_000, &[(0, 0x41), (1024, 0x42), (1500, 0x43)]).bytes(),
    );
    told_alike();
    let mut hosted = Hosted::new(256, &[(1, 0x41)]);
    hosted.descriptor.clear();
    put("s1", hosted.bytes());
    put(
        "cowd",
        cowd(
            20480,
            1,
            &filled(1, &[(0, 0x41), (5, 0x42), (4096, 0x43), (20479, 0x44)]),
        ),
    );
    let grain = SeGrain::Data(vec![0x41; 4096]);
    put(
        "se",
        se_sparse(
            131_072,
            &[(0, grain.clone()), (1, SeGrain::Zero), (9000, grain)].into(),
        ),
    );
    put("flat", disk(&[(0x41, 8), (0x42, 8)]));
    put(
        "x.vmdk",
        descriptor("vmfsSparse", &["RW 20480 VMFSSPARSE \"cowd\""]),
    );
    told_alike();
    put(
        "x.vmdk",
        descriptor("seSparse", &["RW 131072 SESPARSE \"se\""]),
    );
    told_alike();
    let mixed = [
        "RW 256 SPARSE \"s1\"",
        "RW 4 FLAT \"flat\" 4",
        "RW 20480 SPARSE \"cowd\"",
        "RW 8 VMFS \"flat\"",
    ];
    put("x.vmdk", descriptor("twoGbMaxExtentSparse", &mixed));
    told_alike();
}

/// That we say of an image what qemu-img says; gives it.
pub(crate) fn assert_told_alike(qemu_img: &Tool, path: &Path) -> Opened {
    let storage = Arc::new(FileStorage::open(path).expect("there is such a file"));
    let opened = Vmdk
        .open(storage.clone(), &Beside::options().context())
        .unwrap_or_else(|error| panic!("{error}"));
    let ask = |command: &str| {
        let path = path.to_str().expect("a plain path");
        let text = qemu_img.run([command, "--output=json", "-f", "vmdk", path]);
        serde_json::from_str::<Json>(&text).expect("qemu-img writes JSON")
    };

    let info = ask("info");
    let details = opened.info.details.clone().unwrap_or_default();
    assert_eq!(
        json_of(&Value::Map(details)),
        info["format-specific"]["data"]
    );
    assert_eq!(info["virtual-size"], json!(opened.info.size));
    assert_eq!(info["cluster-size"].as_u64(), opened.info.granule_size);
    assert_eq!(
        info["dirty-flag"].as_bool().unwrap_or(false),
        opened.info.dirty
    );
    let backing = opened
        .backing
        .as_ref()
        .map(|backing| backing.target.as_str());
    assert_eq!(info["backing-filename"].as_str(), backing);

    let report = Vmdk
        .checkable()
        .map(|checkable| checkable.check(storage, &Beside::options().context()));
    let report = report
        .expect("VMDK can be checked")
        .unwrap_or_else(|error| panic!("{error}"));
    let check = ask("check");
    assert_eq!(check["check-errors"], json!(report.check_errors));
    assert_eq!(
        check["corruptions"].as_u64().unwrap_or(0),
        report.corruptions
    );
    assert_eq!(
        (report.leaks, report.total_granules, report.image_end_offset),
        (0, 0, None)
    );

    if opened.backing.is_none() {
        let extents = opened
            .reader
            .extents()
            .map(|extent| extent.unwrap_or_else(|error| panic!("{error}")));
        assert_eq!(
            mapped(extents),
            mapped_by_them(&ask("map")),
            "{}",
            path.display()
        );
    }
    opened
}

/// One run of a map: where it begins, present, zero, data, compressed, and its host offset.
type Run = (u64, bool, bool, bool, bool, Option<u64>);

fn mapped(extents: impl Iterator<Item = Extent>) -> Vec<Run> {
    let runs = extents.map(|extent| {
        let start = extent.offset;
        let run = match extent.kind {
            ExtentKind::Data(at) => (start, true, false, true, false, Some(at.offset)),
            ExtentKind::Unwritten(at) => (start, true, true, true, false, Some(at.offset)),
            ExtentKind::Encrypted(_) => (start, true, false, true, false, None),
            ExtentKind::Compressed { .. } => (start, true, false, true, true, None),
            ExtentKind::Zero(_) => (start, true, true, false, false, None),
            ExtentKind::Hole(_) => (start, false, true, false, false, None),
        };
        (run, extent.len)
    });
    joined(runs)
}

fn mapped_by_them(map: &Json) -> Vec<Run> {
    let flag = |run: &Json, key: &str| run[key].as_bool().unwrap_or(false);
    let runs = map.as_array().into_iter().flatten().map(|run| {
        let start = run["start"].as_u64().unwrap_or_default();
        let kinds = ["present", "zero", "data", "compressed"].map(|key| flag(run, key));
        let [present, zero, data, compressed] = kinds;
        let run_of_them = (
            start,
            present,
            zero,
            data,
            compressed,
            run["offset"].as_u64(),
        );
        (run_of_them, run["length"].as_u64().unwrap_or_default())
    });
    joined(runs)
}

/// Neighbours of one kind as one run.
fn joined(runs: impl Iterator<Item = (Run, u64)>) -> Vec<Run> {
    let mut joined: Vec<Run> = Vec::new();
    let mut previous_len = 0;
    for (run, len) in runs {
        let continues = joined.last().is_some_and(|last| {
            let offset = last.5.map(|offset| offset + previous_len);
            (last.1, last.2, last.3, last.4, offset) == (run.1, run.2, run.3, run.4, run.5)
        });
        if continues {
            previous_len += len;
        } else {
            joined.push(run);
            previous_len = len;
        }
    }
    joined
}

fn json_of(value: &Value) -> Json {
    match value {
        Value::Bool(value) => json!(value),
        Value::Number(value) => json!(value),
        Value::Text(value) => json!(value),
        Value::List(values) => values.iter().map(json_of).collect(),
        Value::Map(values) => Json::Object(
            values
                .iter()
                .map(|(name, value)| ((*name).to_owned(), json_of(value)))
                .collect(),
        ),
    }
}

fn whole(opened: &Opened) -> Vec<u8> {
    let len = usize::try_from(opened.reader.size()).expect("the disks here are small");
    opened
        .reader
        .read_vec(0, len)
        .unwrap_or_else(|error| panic!("{error}"))
}

fn open_chain(path: &Path) -> diskette_core::Result<Chain> {
    let registry = Registry::new(vec![&Vmdk]);
    registry.open_chain(Arc::new(FileStorage::open(path)?), &Beside::options())
}
