//! Sources that shrink or change while they are read: an error, or a disk; no crash, and no file that is half written.

#![allow(clippy::unwrap_used, reason = "a panic is a failed test")]

use std::fs::{self, File, OpenOptions};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use diskette::Conversion;
use diskette::core::Error;
use diskette_testkit::Rng;

const SIZE: usize = 24 << 20;

#[test]
fn a_source_that_shrinks_while_it_is_read_is_an_error_that_leaves_no_file() {
    for format in ["raw", "qcow2", "vmdk", "vdi", "vpc", "vhdx"] {
        let folder = tempfile::tempdir().unwrap();
        let source = source(folder.path(), format);
        let disk = diskette::open(&source).unwrap();
        let cut = AtomicBool::new(false);
        let mut conversion = Conversion::to("qcow2");
        let shrink = |_| {
            if !cut.swap(true, Ordering::Relaxed) {
                let file = OpenOptions::new().write(true).open(&source).unwrap();
                file.set_len(file.metadata().unwrap().len() / 8).unwrap();
            }
        };
        conversion.engine.control.progress = Some(&shrink);
        conversion.engine.control.threads = Some(2);
        let target = folder.path().join("target");
        let done = conversion.write(&disk, &target);
        assert!(cut.load(Ordering::Relaxed), "{format}: nothing was cut");
        let error = done.expect_err(format);
        assert!(
            matches!(error, Error::Io { .. } | Error::Malformed { .. }),
            "{format}: {error}"
        );
        assert!(!target.exists(), "{format}");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "{format}");
    }
}

#[test]
fn a_source_that_changes_while_it_is_read_brings_nothing_down() {
    for format in ["qcow2", "vmdk", "vdi", "vpc", "vhdx"] {
        let folder = tempfile::tempdir().unwrap();
        let path = source(folder.path(), format);
        let whole = fs::read(&path).unwrap();
        let end = AtomicBool::new(false);
        thread::scope(|scope| {
            let changes = scope.spawn(|| {
                let mut rng = Rng::new(3);
                while !end.load(Ordering::Relaxed) {
                    let mut bytes = whole.clone();
                    for _ in 0..200 {
                        let at = rng.index_below(bytes.len() / 8) * 8;
                        rng.fill(&mut bytes[at..at + 8]);
                    }
                    overwrite(&path, &bytes[..1 << 20]);
                    overwrite(&path, &whole[..1 << 20]);
                }
            });
            for _ in 0..6 {
                let target = folder.path().join("target");
                let done = diskette::open(&path)
                    .and_then(|disk| Conversion::to("qcow2").write(&disk, &target));
                assert_eq!(done.is_ok(), target.exists(), "{format}: {done:?}");
                fs::remove_file(&target).unwrap_or_default();
            }
            end.store(true, Ordering::Relaxed);
            changes.join().unwrap();
        });
    }
}

fn source(folder: &Path, format: &str) -> std::path::PathBuf {
    let mut disk = vec![0; SIZE];
    Rng::new(1).fill(&mut disk);
    let raw = folder.join("disk.raw");
    fs::write(&raw, disk).unwrap();
    if format == "raw" {
        return raw;
    }
    let path = folder.join("disk");
    let disk = diskette::open(&raw).unwrap();
    Conversion::to(format).write(&disk, &path).unwrap();
    fs::remove_file(raw).unwrap();
    path
}

fn overwrite(path: &Path, bytes: &[u8]) {
    use std::io::Write;
    let mut file: File = OpenOptions::new().write(true).open(path).unwrap();
    file.write_all(bytes).unwrap();
}
