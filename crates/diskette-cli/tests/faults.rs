//! Every call of the system that a command makes fails in turn: under strace, which answers in the kernel's place. A command
//! must say so, must leave what was there before or a whole image, and must not say that all is well when it is not.

#![allow(clippy::unwrap_used, reason = "a panic is a failed test")]

mod common;

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use common::{command, ours};
use diskette_testkit::{Rng, Tool};

/// Calls, and how they fail.
const FAULTS: [(&str, &str); 6] = [
    ("pread64,preadv,read", "EIO"),
    ("pwrite64,pwritev,write", "ENOSPC"),
    ("fsync,fdatasync", "EIO"),
    ("ftruncate,fallocate", "ENOSPC"),
    ("linkat,renameat2,renameat,rename,unlink", "EIO"),
    ("lseek,copy_file_range", "EIO"),
];

/// Commands that only look: `base.qcow2` and `overlay.qcow2` are there, `disk.raw` and `other.vmdk` are the same disk as
/// the base.
const LOOKING: [&str; 8] = [
    "info overlay.qcow2",
    "map --output=json overlay.qcow2",
    "check base.qcow2",
    "compare base.qcow2 disk.raw",
    "digest overlay.qcow2",
    "measure -O qcow2 disk.raw",
    "inspect base.qcow2",
    "snapshot -l overlay.qcow2",
];

/// Commands that make `out`, in which something else stands before.
const MAKING: [&str; 8] = [
    "convert -f raw -O qcow2 disk.raw out",
    "convert -c -O qcow2 base.qcow2 out",
    "convert -O raw base.qcow2 out",
    "convert -O vmdk -o subformat=streamOptimized base.qcow2 out",
    "convert -O vhdx base.qcow2 out",
    "convert -O vdi other.vmdk out",
    "convert -O vpc overlay.qcow2 out",
    "create -f qcow2 out 10M",
];

/// Commands that change an image and not what its disk holds.
const CHANGING: [&str; 6] = [
    "snapshot -c now overlay.qcow2",
    "amend -o lazy_refcounts=on overlay.qcow2",
    "rebase -u -F qcow2 -b base.qcow2 overlay.qcow2",
    "rebase -b  overlay.qcow2",
    "commit overlay.qcow2",
    "check -r all overlay.qcow2",
];

/// With how many threads a command works does not matter; one makes its calls come in one order.
struct Bench {
    folder: tempfile::TempDir,
    strace: Tool,
}

impl Bench {
    fn new() -> Option<Self> {
        let strace = Tool::find("strace")?;
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        let mut disk = vec![0; 1 << 20];
        Rng::new(7).fill(&mut disk[..300_000]);
        Rng::new(8).fill(&mut disk[700_000..800_000]);
        fs::write(root.join("disk.raw"), disk).unwrap();
        let run = |line: &str| {
            let answer = ours(root, line.split(' '));
            assert_eq!(answer.code, Some(0), "{line}: {}", answer.err);
        };
        run("convert -f raw -O qcow2 disk.raw base.qcow2");
        run("convert -O vmdk base.qcow2 other.vmdk");
        run("create -f qcow2 -b base.qcow2 -F qcow2 overlay.qcow2");
        run("dd -f raw -O raw bs=64k count=3 if=disk.raw of=part.raw");
        run("snapshot -c before overlay.qcow2");
        let traced = strace.command().args(["-o", "/dev/null", "true"]).status();
        if !traced.is_ok_and(|status| status.success()) {
            eprintln!("skipped: strace may not trace here");
            return None;
        }
        Some(Self { folder, strace })
    }

    fn root(&self) -> &Path {
        self.folder.path()
    }

    /// Runs a command in `folder` with the call number `when` of this kind failing. Whether one did, and how it ended.
    fn run(
        &self,
        folder: &Path,
        line: &str,
        fault: (&str, &str),
        when: usize,
    ) -> (bool, std::process::Output) {
        let (calls, error) = fault;
        let log = folder.join("strace.log");
        let mut strace: Command = self.strace.command();
        let output = strace
            .current_dir(folder)
            .args(["-f", "-qq", "-o"])
            .arg(&log)
            .args(["-e", &format!("trace={calls}")])
            .args(["-e", &format!("inject={calls}:error={error}:when={when}")])
            .arg(env!("CARGO_BIN_EXE_diskette"))
            .args(line.split(' '))
            .env("RAYON_NUM_THREADS", "1")
            .env("LC_ALL", "C")
            .output()
            .unwrap();
        let told = fs::read_to_string(&log).unwrap_or_default();
        let _ = fs::remove_file(&log);
        (told.contains("(INJECTED)"), output)
    }

    /// Each call in turn, until there are no more; `judge` sees the folder afterwards. How many runs there were.
    fn all(&self, line: &str, judge: impl Fn(&Path, Option<&str>, &str)) -> usize {
        let mut runs = 0;
        for fault in FAULTS {
            for when in 1.. {
                assert!(when < 2000, "{line} makes no end of {}", fault.0);
                let folder = self.copy();
                let (failed, output) = self.run(folder.path(), line, fault, when);
                if !failed {
                    break;
                }
                runs += 1;
                let said = String::from_utf8_lossy(&output.stderr);
                let what = format!(
                    "{line}, {} number {when} failing with {}: {:?}: {said}",
                    fault.0, fault.1, output.status
                );
                let code = output.status.code();
                assert!(code.is_some(), "a signal: {what}");
                assert!(!said.contains("panicked"), "{what}");
                // The word itself may not have been written.
                let mute = fault.0.contains("write");
                assert!(
                    code == Some(0) || mute || !said.is_empty(),
                    "no word: {what}"
                );
                let out = String::from_utf8_lossy(&output.stdout);
                judge(folder.path(), (code == Some(0)).then_some(&*out), &what);
            }
        }
        runs
    }

    fn copy(&self) -> tempfile::TempDir {
        let copy = tempfile::tempdir().unwrap();
        for entry in fs::read_dir(self.root()).unwrap() {
            let entry = entry.unwrap();
            fs::copy(entry.path(), copy.path().join(entry.file_name())).unwrap();
        }
        copy
    }
}

/// The SHA-256 of what a disk holds.
fn digest(folder: &Path, image: &str) -> String {
    let answer = ours(folder, ["digest", image]);
    assert_eq!(answer.code, Some(0), "{image}: {}", answer.err);
    answer.out.split_whitespace().next().unwrap().to_owned()
}

#[test]
fn a_command_that_looks_says_what_failed_and_changes_nothing() {
    let Some(bench) = Bench::new() else { return };
    let before = files(bench.root());
    let mut runs = 0;
    for line in LOOKING {
        let well = without_disk_size(&ours(bench.root(), line.split(' ')).out);
        runs += bench.all(line, |folder, said, what| {
            assert_eq!(files(folder), before, "{what}");
            // Not every call matters: whether the machine has more processors, say. Where holes cannot be asked for, all is
            // data; a picture draws what it cannot look at as data, too.
            if let Some(said) = said
                && !what.contains("lseek")
                && !line.starts_with("inspect")
            {
                assert_eq!(without_disk_size(said), well, "{what}");
            }
        });
    }
    eprintln!("{runs} faults in commands that look");
}

#[test]
fn a_target_is_whole_or_what_it_was_before() {
    let Some(bench) = Bench::new() else { return };
    let (whole, top) = (
        digest(bench.root(), "disk.raw"),
        digest(bench.root(), "overlay.qcow2"),
    );
    fs::write(bench.root().join("out"), "what was there before").unwrap();
    let names = files(bench.root())
        .into_iter()
        .map(|(name, _)| name)
        .collect::<Vec<_>>();
    let mut runs = 0;
    for line in MAKING {
        runs += bench.all(line, |folder, said, what| {
            let left: Vec<_> = files(folder).into_iter().map(|(name, _)| name).collect();
            assert_eq!(left, names, "{what}");
            let out = fs::read(folder.join("out")).unwrap();
            if out == b"what was there before" {
                return assert!(said.is_none(), "{what}");
            }
            // It may have failed after the target had its name, but the target is whole.
            if line.starts_with("convert") {
                let same = digest(folder, "out");
                assert!(same == whole || same == top, "{what}");
            }
        });
    }
    eprintln!("{runs} faults in commands that make an image");
}

#[test]
fn an_image_that_is_changed_keeps_what_its_disk_holds() {
    let Some(bench) = Bench::new() else { return };
    let held = digest(bench.root(), "overlay.qcow2");
    let mut runs = 0;
    for line in CHANGING {
        runs += bench.all(line, |folder, _, what| {
            assert_eq!(digest(folder, "overlay.qcow2"), held, "{what}");
            for image in ["overlay.qcow2", "base.qcow2"] {
                let check = ours(folder, ["check", image]);
                // 3: there are clusters that nobody uses.
                assert!(
                    [Some(0), Some(3)].contains(&check.code),
                    "{what}: {image}: {}{}",
                    check.out,
                    check.err
                );
            }
        });
    }
    eprintln!("{runs} faults in commands that change an image");
}

/// How much of a file is stored is up to how it was copied.
fn without_disk_size(said: &str) -> String {
    let lines = said
        .lines()
        .filter(|line| !line.trim_start().starts_with("disk size:"));
    lines.collect::<Vec<_>>().join("\n")
}

fn files(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let mut files: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| {
            let entry = entry.unwrap();
            (
                entry.file_name().into_string().unwrap(),
                fs::read(entry.path()).unwrap(),
            )
        })
        .collect();
    files.sort();
    files
}

#[test]
fn killed_at_any_moment_a_conversion_leaves_nothing_or_a_whole_image() {
    const MOMENTS: u32 = 200;
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    let mut disk = vec![0; 2 << 20];
    Rng::new(9).fill(&mut disk);
    fs::write(root.join("disk.raw"), disk).unwrap();
    let line = [
        "convert",
        "-c",
        "-f",
        "raw",
        "-O",
        "qcow2",
        "disk.raw",
        "out.qcow2",
    ];
    let start = Instant::now();
    assert_eq!(ours(root, line).code, Some(0));
    let whole = start.elapsed();
    let held = digest(root, "out.qcow2");
    let finished = AtomicUsize::new(0);
    for moment in 0..MOMENTS {
        fs::remove_file(root.join("out.qcow2")).ok();
        let mut child = command(root).args(line).spawn().unwrap();
        std::thread::sleep(whole * moment / MOMENTS + Duration::from_micros(100));
        child.kill().unwrap();
        child.wait().unwrap();
        let left: Vec<_> = files(root).into_iter().map(|(name, _)| name).collect();
        if left.len() > 1 {
            assert_eq!(left, ["disk.raw", "out.qcow2"]);
            assert_eq!(digest(root, "out.qcow2"), held);
            finished.fetch_add(1, Ordering::Relaxed);
        }
    }
    eprintln!(
        "{MOMENTS} kills, {} of them too late",
        finished.load(Ordering::Relaxed)
    );
}
