//! `--limit`: what an image may cost.

#![allow(clippy::unwrap_used, reason = "a panic is a failed test")]

mod common;

use std::fs;
use std::process::Stdio;
use std::time::{Duration, Instant};

use common::{command, ours};
use diskette_testkit::qemu_img;

#[test]
fn a_table_over_the_default_limit_is_taken_if_the_limit_says_so() {
    let Some(qemu_img) = qemu_img() else { return };
    let folder = tempfile::tempdir().unwrap();
    let image = folder.path().join("large.qcow2");
    // 80 GiB in clusters of 512 bytes: 20 MiB of L1 table.
    let image = image.as_os_str();
    qemu_img.run(
        ["create", "-q", "-f", "qcow2", "-o", "cluster_size=512"]
            .map(AsRef::as_ref)
            .into_iter()
            .chain([image, "80G".as_ref()]),
    );
    let refused = ours(folder.path(), ["info", "large.qcow2"]);
    assert_eq!(refused.code, Some(1));
    assert!(
        refused.err.contains("over the limit of 16777216"),
        "{}",
        refused.err
    );
    let taken = ours(
        folder.path(),
        ["info", "--limit", "table-bytes=32M", "large.qcow2"],
    );
    assert_eq!(taken.code, Some(0), "{}", taken.err);
    let small = ours(
        folder.path(),
        [
            "info",
            "--limit",
            "table-bytes=32M",
            "--limit",
            "disk-bytes=1G",
            "large.qcow2",
        ],
    );
    assert_eq!(small.code, Some(1));
    assert!(
        small
            .err
            .contains("disk's bytes would be 85899345920, over the limit of 1073741824"),
        "{}",
        small.err
    );
}

#[test]
fn a_limit_that_is_none_is_told_with_all_that_are() {
    let folder = tempfile::tempdir().unwrap();
    for (limit, said) in [
        ("help=1", "table-bytes (16777216)"),
        ("parts", "NAME=VALUE"),
        ("parts=many", "not a size"),
    ] {
        let answer = ours(folder.path(), ["info", "--limit", limit, "image"]);
        assert_eq!(answer.code, Some(1), "{limit}");
        assert!(answer.err.contains(said), "{limit}: {}", answer.err);
    }
}

#[test]
fn a_conversion_ends_when_its_time_is_over_and_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let start = Instant::now();
    // A pipe in which nothing more comes.
    let mut child = command(folder.path())
        .args([
            "convert",
            "--limit",
            "time=1",
            "-f",
            "raw",
            "-O",
            "qcow2",
            "-",
            "out.qcow2",
        ])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let held = child.stdin.take();
    let output = child.wait_with_output().unwrap();
    drop(held);
    assert_eq!(output.status.code(), Some(1));
    assert!(start.elapsed() < Duration::from_secs(60));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("the limit time"), "{said}");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}
