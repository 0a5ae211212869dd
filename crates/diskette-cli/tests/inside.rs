//! `inspect` names what sfdisk and blkid name, and `digest` gives what sha256sum gives, whatever the format.

#![allow(clippy::unwrap_used, reason = "a panic is a failed test")]

mod common;

use std::path::{Path, PathBuf};
use std::{env, fs};

use common::ours;
use diskette_testkit::Tool;
use serde_json::Value as Json;

/// A VMDK with two partitions, whatever its name says.
fn router() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/router.qcow2")
}

fn json(folder: &Path, args: &[&str]) -> Json {
    let answer = ours(folder, args);
    assert_eq!(
        (answer.code, answer.err.as_str()),
        (Some(0), ""),
        "{args:?}"
    );
    answer.json().unwrap()
}

/// Partitions as sfdisk sees them, file systems as blkid does: what `inspect` must say of the same disk.
fn expect_as_sfdisk_and_blkid(sfdisk: &Tool, blkid: &Tool, raw: &str, inspected: &Json) {
    let theirs: Json = serde_json::from_str(&sfdisk.run(["--json", raw])).unwrap();
    let table = &theirs["partitiontable"];
    assert_eq!(inspected["partition-table"]["type"], table["label"]);
    assert_eq!(inspected["partition-table"]["id"], table["id"]);
    let theirs = table["partitions"].as_array().unwrap();
    let ours = inspected["partitions"].as_array().unwrap();
    assert_eq!(ours.len(), theirs.len());
    for (ours, theirs) in ours.iter().zip(theirs) {
        let bytes = |name: &str| theirs[name].as_u64().unwrap() * 512;
        assert_eq!(ours["start"], bytes("start"));
        assert_eq!(ours["size"], bytes("size"));
        assert_eq!(ours["type"], theirs["type"]);
        assert_eq!(ours["bootable"], theirs["bootable"] == true);
        let offset = format!("--offset={}", bytes("start"));
        let size = format!("--size={}", bytes("size"));
        let found = blkid.run(["--probe", "--output", "export", &offset, &size, raw]);
        let value = |name: &str| {
            let mut lines = found.lines();
            let value = lines.find_map(|line| line.strip_prefix(&format!("{name}=")));
            value.map_or(Json::Null, |value| value.into())
        };
        assert_eq!(ours["file-system"]["type"], value("TYPE"), "{found}");
        assert_eq!(ours["file-system"]["label"], value("LABEL"), "{found}");
        assert_eq!(ours["file-system"]["uuid"], value("UUID"), "{found}");
    }
}

#[test]
fn partitions_and_file_systems_are_those_of_sfdisk_and_blkid() {
    let (Some(sfdisk), Some(blkid)) = (Tool::find("sfdisk"), Tool::find("blkid")) else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let router = router();
    let router = router.to_str().unwrap();
    let converted = ours(folder.path(), ["convert", "-O", "raw", router, "a.raw"]);
    assert_eq!(converted.code, Some(0), "{}", converted.err);
    let raw = folder.path().join("a.raw");
    let inspected = json(folder.path(), &["inspect", "--output=json", router]);
    expect_as_sfdisk_and_blkid(&sfdisk, &blkid, raw.to_str().unwrap(), &inspected);
}

#[test]
fn the_real_disk_is_named_alike_in_every_format() {
    let Some(folder) = env::var_os("DISKETTE_REAL_IMAGE").map(PathBuf::from) else {
        eprintln!("skipped: DISKETTE_REAL_IMAGE does not name the folder of a real disk's images");
        return;
    };
    let (Some(sfdisk), Some(blkid)) = (Tool::find("sfdisk"), Tool::find("blkid")) else {
        return;
    };
    let raw = folder.join("disk.raw");
    for name in [
        "disk.raw",
        "disk.vmdk",
        "disk-stream.vmdk",
        "disk.vhdx",
        "disk-zstd.qcow2",
    ] {
        let inspected = json(&folder, &["inspect", "--output=json", name]);
        expect_as_sfdisk_and_blkid(&sfdisk, &blkid, raw.to_str().unwrap(), &inspected);
    }
}

#[test]
fn the_picture_counts_every_byte_of_the_disk_and_is_drawn_as_svg() {
    let folder = tempfile::tempdir().unwrap();
    let router = router();
    let router = router.to_str().unwrap();
    let inspected = json(
        folder.path(),
        &["inspect", "--output=json", "--svg", "a.svg", router],
    );
    let kinds = ["data", "compressed", "zero", "hole"];
    let bytes = kinds.map(|kind| inspected["allocation"][kind].as_u64().unwrap());
    assert_eq!(
        bytes.iter().sum::<u64>(),
        inspected["virtual-size"].as_u64().unwrap()
    );
    let svg = fs::read_to_string(folder.path().join("a.svg")).unwrap();
    assert!(
        svg.starts_with("<svg") && svg.contains("ext4 router"),
        "{svg}"
    );
    let text = ours(folder.path(), ["inspect", router]).out;
    assert!(
        text.contains("ext4 \"router\" d15ce77e-0000-4000-8000-000000000001"),
        "{text}"
    );
}

#[test]
fn one_disk_has_one_digest_in_every_format() {
    let Some(sha256sum) = Tool::find("sha256sum") else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let router = router();
    let router = router.to_str().unwrap();
    let targets = [
        ("a.raw", "-O raw"),
        ("plain.qcow2", "-O qcow2"),
        ("small.qcow2", "-c -O qcow2"),
    ];
    for (name, options) in targets {
        let args = ["convert"].into_iter().chain(options.split(' '));
        let answer = ours(folder.path(), args.chain([router, name]));
        assert_eq!(answer.code, Some(0), "{}", answer.err);
    }
    let answer = ours(
        folder.path(),
        ["digest", router, "plain.qcow2", "small.qcow2", "a.raw"],
    );
    let lines: Vec<_> = answer.out.lines().collect();
    let of = |line: usize| lines[line].rsplit(' ').next().unwrap();
    assert!(
        (2..8).all(|line| of(line) == of(line % 2)),
        "{}",
        answer.out
    );
    let theirs = sha256sum.run_in(folder.path(), ["--tag", "a.raw"]);
    assert_eq!(lines[6], theirs.trim_end());
    let listed = json(folder.path(), &["digest", "--output=json", "a.raw"]);
    assert_eq!(listed[0]["sha256"], of(0));
    assert_eq!(listed[0]["blake3"], of(1));
}

#[test]
fn verify_is_compare() {
    let folder = tempfile::tempdir().unwrap();
    let router = router();
    let router = router.to_str().unwrap();
    let answer = ours(folder.path(), ["verify", router, router]);
    assert_eq!(
        (answer.code, answer.out.as_str()),
        (Some(0), "Images are identical.\n")
    );
}
