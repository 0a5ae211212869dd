//! A disk that is full, at many sizes: a tmpfs in a mount namespace of the test's own. A command says so, and leaves what
//! was there before or a whole image.

#![allow(clippy::unwrap_used, reason = "a panic is a failed test")]

mod common;

use std::env;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use common::ours;
use diskette_testkit::{Rng, Tool};

/// Commands that make `full/out`, in which something else stands before. What they make at most is said in KiB.
const MAKING: [(&str, u64); 8] = [
    ("convert -f raw -O qcow2 disk.raw full/out", 900),
    ("convert -c -f raw -O qcow2 disk.raw full/out", 800),
    ("convert -f raw -O raw disk.raw full/out", 800),
    (
        "convert -f raw -O vmdk -o subformat=streamOptimized disk.raw full/out",
        900,
    ),
    ("convert -f raw -O vpc disk.raw full/out", 2200),
    ("convert -f raw -O vdi disk.raw full/out", 1200),
    (
        "convert -f raw -O vhdx -o block_size=1M disk.raw full/out",
        6400,
    ),
    ("create -f qcow2 -o preallocation=full full/out 512K", 1100),
];

/// Commands that change `full/overlay.qcow2`, and not what its disk holds, or add zeros to it. What they take at most is said in
/// KiB.
const CHANGING: [(&str, u64); 4] = [
    ("snapshot -c now full/overlay.qcow2", 60),
    ("rebase -b  full/overlay.qcow2", 600),
    ("commit full/overlay.qcow2", 300),
    ("resize full/overlay.qcow2 +20G", 240),
];

/// Sizes for each command; or as many as the environment's `DISKETTE_FULL_SIZES` says.
const FEW: u64 = 10;
const INSIDE: &str = "DISKETTE_FULL_DISK";

#[test]
fn a_disk_full_at_any_size_loses_nothing() {
    let Some(unshare) = Tool::find("unshare") else {
        return;
    };
    let mount = "mount -t tmpfs none /mnt";
    let may = unshare.command().args(["-Urm", "sh", "-c", mount]).output();
    if !may.is_ok_and(|output| output.status.success()) {
        eprintln!("skipped: no file system may be mounted here");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    prepare(folder.path());
    let inside = unshare
        .command()
        .args(["-Urm", "--"])
        .arg(env::current_exe().unwrap())
        .args(["--exact", "inside", "--ignored", "--nocapture"])
        .env(INSIDE, folder.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&inside.stderr);
    assert!(
        inside.status.success(),
        "{said}{}",
        String::from_utf8_lossy(&inside.stdout)
    );
    eprint!("{said}");
}

#[test]
fn a_file_larger_than_the_process_may_write_is_an_error_and_no_death_by_a_signal() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    prepare(root);
    // Blocks of 512 bytes: 64 KiB.
    let most = "ulimit -f 128; exec \"$0\" \"$@\"";
    for (line, _) in MAKING {
        fs::write(root.join("full/out"), "what was there before").unwrap();
        let answer: common::Answer = Command::new("sh")
            .args(["-c", most, env!("CARGO_BIN_EXE_diskette")])
            .args(line.split(' '))
            .current_dir(root)
            .output()
            .unwrap()
            .into();
        assert_eq!(answer.code, Some(1), "{line}: {}", answer.err);
        assert!(
            answer.err.contains("File too large"),
            "{line}: {}",
            answer.err
        );
        assert!(answer.err.contains("ulimit -f"), "{line}: {}", answer.err);
        assert_eq!(answer.err.lines().count(), 1, "{line}: {}", answer.err);
        let kept = fs::read(root.join("full/out")).unwrap();
        assert_eq!(kept, b"what was there before", "{line}");
        assert_eq!(
            fs::read_dir(root.join("full")).unwrap().count(),
            1,
            "{line} left a file"
        );
    }
}

fn prepare(root: &Path) {
    let mut disk = vec![0; 1 << 20];
    Rng::new(7).fill(&mut disk[..300_000]);
    Rng::new(8).fill(&mut disk[700_000..800_000]);
    fs::write(root.join("disk.raw"), &disk).unwrap();
    Rng::new(9).fill(&mut disk[100_000..200_000]);
    Rng::new(10).fill(&mut disk[400_000..600_000]);
    fs::write(root.join("top.raw"), &disk).unwrap();
    fs::create_dir(root.join("full")).unwrap();
    for line in [
        "convert -f raw -O qcow2 -o cluster_size=4k disk.raw base.qcow2",
        "create -q -f qcow2 -o cluster_size=4k -b base.qcow2 -F qcow2 overlay.qcow2",
    ] {
        run(root, line, 0);
    }
    let mut options = diskette::core::OpenOptions::default();
    options.files = Arc::new(diskette::storage::FolderResolver::new());
    let overlay = diskette::edit(root.join("overlay.qcow2"), &options).unwrap();
    for changed in [100_000..200_000, 400_000..600_000] {
        let at = changed.start as u64;
        overlay.write_at(&disk[changed], at).unwrap();
    }
    overlay.close().unwrap();
}

fn run(root: &Path, line: &str, code: i32) -> String {
    let answer = ours(root, line.split(' '));
    assert_eq!(answer.code, Some(code), "{line}: {}", answer.err);
    answer.out
}

#[test]
#[ignore = "run by the other"]
fn inside() {
    let Some(root) = env::var_os(INSIDE) else {
        return;
    };
    let root = Path::new(&root);
    let sizes = env::var("DISKETTE_FULL_SIZES").map_or(FEW, |sizes| sizes.parse().unwrap());
    let (mut failed, mut whole) = (0, 0);
    for (line, most) in MAKING {
        for step in 0..sizes {
            let full = Full::mount(root, 12 + most * step / sizes);
            fs::write(root.join("full/out"), "what was there before").unwrap();
            let done = made_or_kept(root, line);
            *(if done { &mut whole } else { &mut failed }) += 1;
            drop(full);
        }
        assert!(
            whole > 0 && failed > 0,
            "{line}: {failed} failed, {whole} whole"
        );
    }
    eprintln!("{failed} images found no room, {whole} did");
    let (mut all_failed, mut all_whole) = (0, 0);
    for (line, most) in CHANGING {
        (failed, whole) = (0, 0);
        for step in 0..sizes {
            let full = Full::mount(root, 64 << 10);
            for image in ["base.qcow2", "overlay.qcow2"] {
                fs::copy(root.join(image), root.join("full").join(image)).unwrap();
            }
            full.leave(most * step / sizes);
            let done = changed_or_kept(root, line);
            *(if done { &mut whole } else { &mut failed }) += 1;
            drop(full);
        }
        assert!(
            whole > 0 && failed > 0,
            "{line}: {failed} failed, {whole} whole"
        );
        all_failed += failed;
        all_whole += whole;
    }
    eprintln!("{all_failed} changes found no room, {all_whole} did");
}

/// Makes an image; whether it could. If not, what was there before is there.
fn made_or_kept(root: &Path, line: &str) -> bool {
    let answer = ours(root, line.split(' '));
    let names: Vec<_> = fs::read_dir(root.join("full")).unwrap().collect();
    assert_eq!(names.len(), 1, "{line} left a file");
    if answer.code == Some(0) {
        if line.starts_with("convert") {
            run(root, "compare -f raw disk.raw full/out", 0);
        }
        return true;
    }
    assert_eq!(answer.code, Some(1), "{line}: {}", answer.err);
    assert_eq!(answer.err.lines().count(), 1, "{line}: {}", answer.err);
    assert!(answer.err.contains("space"), "{line}: {}", answer.err);
    let kept = fs::read(root.join("full/out")).unwrap();
    assert_eq!(kept, b"what was there before", "{line}");
    false
}

/// Changes the overlay; whether it could. Its disk is the same, and leaks are the worst that a check finds.
fn changed_or_kept(root: &Path, line: &str) -> bool {
    let answer = ours(root, line.split(' '));
    assert!(
        answer.code.is_some_and(|code| code <= 1),
        "{line}: {}",
        answer.err
    );
    run(root, "compare -f raw top.raw full/overlay.qcow2", 0);
    for image in ["full/base.qcow2", "full/overlay.qcow2"] {
        let check = ours(root, ["check", image]);
        assert!(
            [Some(0), Some(3)].contains(&check.code),
            "{line}: {}{}",
            check.out,
            check.err
        );
    }
    answer.code == Some(0)
}

/// A file system of some KiB over the folder `full`.
struct Full<'a>(&'a Path);

impl<'a> Full<'a> {
    fn mount(root: &'a Path, kib: u64) -> Self {
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={kib}k"), "none", "full"])
            .current_dir(root)
            .status();
        assert!(mounted.is_ok_and(|status| status.success()));
        Self(root)
    }

    /// Has it be full but for some KiB.
    fn leave(&self, kib: u64) {
        let held = nix::sys::statvfs::statvfs(&self.0.join("full")).unwrap();
        let used = (held.blocks() - held.blocks_free()) * held.fragment_size() / 1024;
        let mounted = Command::new("mount")
            .args(["-o", &format!("remount,size={}k", used + kib), "full"])
            .current_dir(self.0)
            .status();
        assert!(mounted.is_ok_and(|status| status.success()));
    }
}

impl Drop for Full<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount")
            .arg("full")
            .current_dir(self.0)
            .status();
    }
}
