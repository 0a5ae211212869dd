//! What scripts read as text, and how a command ends, is as with qemu-img.

#![allow(clippy::unwrap_used, reason = "a panic is a failed test")]

mod common;

use std::fs;
use std::path::Path;

use common::{Answer, ours, theirs};
use diskette_testkit::{Tool, qemu_img, qemu_io};
use tempfile::TempDir;

/// A folder with some images in it.
struct Images {
    qemu_img: Tool,
    folder: TempDir,
}

impl Images {
    /// `None` where qemu-img is missing, which has been said then.
    fn make() -> Option<Self> {
        let (qemu_img, qemu_io) = (qemu_img()?, qemu_io()?);
        let folder = tempfile::tempdir().unwrap();
        let image = |args: &str| qemu_img.run_in(folder.path(), args.split(' '));
        image("create -q -f qcow2 disk.qcow2 5M");
        image("create -q -f qcow2 other.qcow2 5M");
        image("create -q -f qcow2 longer.qcow2 6M");
        image("create -q -f qcow2 -b disk.qcow2 -F qcow2 over.qcow2");
        image("create -q -f raw disk.raw 5M");
        image("create -q -f vmdk -o subformat=twoGbMaxExtentFlat split.vmdk 3M");
        image("snapshot -c first disk.qcow2");
        image("bitmap --add disk.qcow2 bitmap");
        for name in ["other.qcow2", "longer.qcow2", "disk.qcow2"] {
            let write = ["-f", "qcow2", "-c", "write -P 1 1M 100k", name];
            qemu_io.run_in(folder.path(), write);
        }
        qemu_io.run_in(
            folder.path(),
            ["-f", "raw", "-c", "write -P 2 0 4k", "disk.raw"],
        );
        fs::write(
            folder.path().join("leak.qcow2"),
            with_leak(&folder.path().join("other.qcow2")),
        )
        .unwrap();
        Some(Self { qemu_img, folder })
    }

    fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// What both answer.
    fn both(&self, args: &str) -> (Answer, Answer) {
        let args: Vec<_> = args.split(' ').collect();
        (
            ours(self.folder(), &args),
            theirs(&self.qemu_img, self.folder(), &args),
        )
    }

    /// That both print the same, and end the same way.
    fn expect_same(&self, args: &str) {
        let (ours, theirs) = self.both(args);
        assert_eq!(ours.out, theirs.out, "{args}");
        assert_eq!(ours.code, theirs.code, "{args}: {}", ours.err);
    }
}

/// The same image with a reference counted for the cluster behind its last one.
fn with_leak(path: &Path) -> Vec<u8> {
    let mut bytes = fs::read(path).unwrap();
    let number = |bytes: &[u8], at: usize| {
        usize::try_from(u64::from_be_bytes(bytes[at..at + 8].try_into().unwrap())).unwrap()
    };
    let refcount_table = number(&bytes, 48);
    let block = number(&bytes, refcount_table);
    let clusters = bytes.len().div_ceil(65536);
    bytes.resize((clusters + 1) * 65536, 0);
    bytes[block + 2 * clusters + 1] = 1;
    bytes
}

#[test]
fn info_prints_the_same_text() {
    let Some(images) = Images::make() else { return };
    for image in ["disk.qcow2", "over.qcow2", "disk.raw", "split.vmdk"] {
        images.expect_same(&format!("info {image}"));
    }
    images.expect_same("info -U --backing-chain over.qcow2");
}

#[test]
fn map_prints_the_same_text() {
    let Some(images) = Images::make() else { return };
    for image in ["disk.qcow2", "over.qcow2", "disk.raw", "split.vmdk"] {
        images.expect_same(&format!("map {image}"));
    }
    images.expect_same("map --start-offset=1M --max-length=5000 --output=json over.qcow2");
    images.expect_same("map -s 20M --output=json disk.qcow2");
}

#[test]
fn check_prints_the_same_text_and_has_the_same_exit_codes() {
    let Some(images) = Images::make() else { return };
    images.expect_same("check disk.qcow2");
    images.expect_same("check over.qcow2");
    images.expect_same("check split.vmdk");
    images.expect_same("check leak.qcow2");
    images.expect_same("check -q leak.qcow2");
    images.expect_same("check disk.raw");
    images.expect_same("check missing.qcow2");
}

#[test]
fn check_mends_with_the_same_text_and_exit_codes() {
    let Some(images) = Images::make() else { return };
    let path = images.folder().join("leak.qcow2");
    let leaking = fs::read(&path).unwrap();
    // The flag in the L1 table. (A refcount of 0 is mended where it lies; qemu-img makes the file larger for it.)
    let mut corrupt = leaking.clone();
    corrupt[0x3_0000] = 0;
    for (damaged, args) in [
        (&leaking, "check -r leaks leak.qcow2"),
        (&leaking, "check -r all leak.qcow2"),
        (&leaking, "check -q -r all leak.qcow2"),
        (&corrupt, "check -r all leak.qcow2"),
    ] {
        fs::write(&path, damaged).unwrap();
        let words: Vec<_> = args.split(' ').collect();
        let ours = ours(images.folder(), &words);
        fs::write(&path, damaged).unwrap();
        let theirs = theirs(&images.qemu_img, images.folder(), &words);
        assert_eq!((ours.out, ours.code), (theirs.out, theirs.code), "{args}");
    }
    images.expect_same("check -r all other.qcow2");
    images.expect_same("check -r all disk.raw");
    images.expect_same("check -r all missing.qcow2");
}

#[test]
fn compare_prints_the_same_text_and_has_the_same_exit_codes() {
    let Some(images) = Images::make() else { return };
    images.expect_same("compare disk.qcow2 other.qcow2");
    images.expect_same("compare disk.qcow2 disk.raw");
    images.expect_same("compare other.qcow2 longer.qcow2");
    images.expect_same("compare -s other.qcow2 longer.qcow2");
    images.expect_same("compare -s disk.qcow2 other.qcow2");
    images.expect_same("compare -q disk.qcow2 disk.raw");
    images.expect_same("compare -f raw -F qcow2 disk.raw disk.qcow2");
    images.expect_same("compare disk.qcow2 missing.qcow2");
    images.expect_same("compare disk.qcow2");
}

#[test]
fn create_says_the_same() {
    let Some(images) = Images::make() else { return };
    for args in [
        "create -f qcow2 new 1.5G",
        "create -f qcow2 -o cluster_size=1M,lazy_refcounts=on new 10k",
        "create -f qcow2 -o compat=0.10 new 1M",
        "create -f qcow2 -o compression_type=zstd,preallocation=metadata new 1M",
        "create -f qcow2 -o extended_l2=on new 1M",
        "create -f qcow2 -b disk.qcow2 -F qcow2 new",
        "create -f qcow2 -o backing_file=disk.raw,backing_fmt=raw new 7M",
        "create -f qcow2 -u -b missing -F raw new 7M",
        "create -f raw new 1000",
        "create new 1T",
        "create -f raw -o size=4k new",
        "create -q -f qcow2 new 1M",
    ] {
        images.expect_same(args);
    }
}

#[test]
fn create_refuses_the_same() {
    let Some(images) = Images::make() else { return };
    for args in [
        "create -f qcow2 new",
        "create -f qcow2 new 1Z",
        "create -f qcow2 -b missing -F raw new",
        "create -f qcow2 -b disk.qcow2 new",
        "create -f qcow2 -u -b disk.qcow2 -F qcow2 new",
        "create -f qcow2 -o cluster_size=3k new 1M",
        "create -f qcow2 -o nonsense=1 new 1M",
        "create -f nonsense new 1M",
        "create",
        "create missing/new 1M",
    ] {
        let (ours, theirs) = images.both(args);
        assert_eq!((ours.code, theirs.code), (Some(1), Some(1)), "{args}");
        assert!(!images.folder().join("new").exists(), "{args}");
    }
}

#[test]
fn measure_prints_the_same_text() {
    let Some(images) = Images::make() else { return };
    images.expect_same("measure --size 10G");
    images.expect_same("measure --size 10G -O qcow2");
    images.expect_same("measure --size 1T -O qcow2 -o cluster_size=2M --output=json");
    images.expect_same("measure -O qcow2 -o extended_l2=on disk.qcow2");
    images.expect_same("measure -O qcow2 -l first disk.qcow2");
    images.expect_same("measure -O qcow2 split.vmdk");
    images.expect_same("measure");
}

#[test]
fn a_word_that_is_no_command_ends_with_1() {
    let folder = tempfile::tempdir().unwrap();
    for args in [
        &["nonsense"][..],
        &["info"],
        &["info", "--nonsense"],
        &["info", "missing"],
    ] {
        let answer = ours(folder.path(), args);
        assert_eq!(
            (answer.code, answer.out.as_str()),
            (Some(1), ""),
            "{args:?}"
        );
        assert!(answer.err.starts_with("diskette: "), "{}", answer.err);
    }
}
