//! Images that go into a pipe, and those that come out of one.

#![allow(clippy::unwrap_used, reason = "a panic is a failed test")]

mod common;

use std::fs::{self, File};
use std::path::Path;

use common::{Answer, command, ours};
use diskette_testkit::{Tool, qemu_img, qemu_io};
use tempfile::TempDir;

/// A folder with a disk of 20 MiB, its last sector half of a KiB, in some formats.
struct Bench {
    folder: TempDir,
    qemu_img: Tool,
}

impl Bench {
    fn new() -> Option<Self> {
        let bench = Self {
            folder: tempfile::tempdir().unwrap(),
            qemu_img: qemu_img()?,
        };
        let qemu_io = qemu_io()?;
        bench.theirs("create -q -f raw disk.raw 20971008");
        let mut args = vec!["-f", "raw"];
        for write in [
            "write -P 1 0 64k",
            "write -P 2 1000k 3M",
            "write -P 0 6M 1M", // zeros that the map tells as data
            "write -P 3 9M 512",
            "write -P 4 20970496 512",
        ] {
            args.extend(["-c", write]);
        }
        args.push("disk.raw");
        qemu_io.run_in(bench.path(), args);
        for (name, how) in [
            ("disk.qcow2", "-O qcow2"),
            ("zlib.qcow2", "-c -O qcow2"),
            ("stream.vmdk", "-O vmdk -o subformat=streamOptimized"),
        ] {
            bench.theirs(&format!("convert {how} disk.raw {name}"));
        }
        Some(bench)
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn theirs(&self, args: &str) -> String {
        self.qemu_img.run_in(self.path(), args.split(' '))
    }

    /// Runs our command with its output in the file `out`.
    fn piped(&self, args: &str, out: &str) -> Answer {
        let mut cat = std::process::Command::new("cat")
            .stdin(std::process::Stdio::piped())
            .stdout(File::create(self.path().join(out)).unwrap())
            .spawn()
            .unwrap();
        let pipe = cat.stdin.take().unwrap();
        let mut ours = command(self.path());
        let answer = ours.args(args.split(' ')).stdout(pipe).output().unwrap();
        drop(ours);
        cat.wait().unwrap();
        answer.into()
    }

    fn assert_same(&self, name: &str) {
        let told = self.theirs(&format!("compare -f raw disk.raw {name}"));
        assert!(told.contains("identical"), "{name}: {told}");
        let compared = ours(self.path(), ["compare", "-f", "raw", "disk.raw", name]);
        assert_eq!(compared.code, Some(0), "{name}: {compared:?}");
    }
}

#[test]
fn what_goes_through_a_pipe_is_a_sound_image_with_the_same_content() {
    let Some(bench) = Bench::new() else { return };
    for (number, how) in [
        "-O raw",
        "-S 0 -O raw",
        "-O vmdk",
        "-O vmdk -o subformat=streamOptimized,compression_level=9",
        "-O qcow2",
        "-S 0 -O qcow2",
        "-O qcow2 -o cluster_size=512",
        "-O qcow2 -o cluster_size=2M",
        "-O qcow2 -o compat=0.10",
        "-O qcow2 -o extended_l2=on,refcount_bits=1",
        "-O qcow2 -o cluster_size=4k,refcount_bits=64",
    ]
    .iter()
    .enumerate()
    {
        for source in ["disk.raw", "disk.qcow2", "zlib.qcow2", "stream.vmdk"] {
            let out = format!("{number}-{source}.out");
            let answer = bench.piped(&format!("convert {how} {source} -"), &out);
            assert_eq!(
                (answer.code, answer.err.as_str()),
                (Some(0), ""),
                "{how} {source}"
            );
            bench.assert_same(&out);
            if how.contains("qcow2") {
                let checked = bench.theirs(&format!("check -f qcow2 {out}"));
                assert!(checked.contains("No errors"), "{how}: {checked}");
            }
        }
    }
}

#[test]
fn a_qcow2_from_a_pipe_is_hardly_larger_than_one_in_a_file() {
    let Some(bench) = Bench::new() else { return };
    bench.piped("convert -O qcow2 disk.qcow2 -", "piped.qcow2");
    let size = |name: &str| fs::metadata(bench.path().join(name)).unwrap().len();
    let (piped, theirs) = (size("piped.qcow2"), size("disk.qcow2"));
    assert!(piped <= theirs + (128 << 10), "{piped} and {theirs}");
}

#[test]
fn what_cannot_be_written_in_order_is_refused_before_the_first_byte() {
    let Some(bench) = Bench::new() else { return };
    for (how, why) in [
        ("-O vdi", "vdi: writing into a stream is not supported"),
        ("-O vhdx", "vhdx: writing into a stream is not supported"),
        ("-O vpc", "vpc: writing into a stream is not supported"),
        ("-c -O qcow2", "compressed clusters"),
        ("-O qcow2 -B disk.raw -F raw", "over a backing file"),
        ("-O raw -o preallocation=full", "preallocation"),
        ("-O vmdk -o subformat=monolithicSparse", "streamOptimized"),
        ("--verify", "a target that can be read"),
        ("-n", "a target that can be read"),
    ] {
        let answer = bench.piped(&format!("convert {how} disk.raw -"), "out");
        assert_eq!(answer.code, Some(1), "{how}");
        assert!(answer.err.contains(why), "{how}: {}", answer.err);
        assert_eq!(answer.err.lines().count(), 1, "{how}: {}", answer.err);
        assert_eq!(
            fs::read(bench.path().join("out")).unwrap().len(),
            0,
            "{how}"
        );
    }
}

#[test]
fn progress_goes_beside_the_image() {
    let Some(bench) = Bench::new() else { return };
    let answer = bench.piped("convert -p -O qcow2 disk.raw -", "out");
    assert_eq!(answer.code, Some(0));
    assert!(answer.err.contains("(100.00/100%)"), "{}", answer.err);
    bench.assert_same("out");
}

#[test]
fn a_named_pipe_is_a_pipe() {
    let Some(bench) = Bench::new() else { return };
    let made = std::process::Command::new("mkfifo")
        .arg(bench.path().join("fifo"))
        .status();
    assert!(made.unwrap().success());
    let mut cat = std::process::Command::new("cat")
        .arg(bench.path().join("fifo"))
        .stdout(File::create(bench.path().join("out")).unwrap())
        .spawn()
        .unwrap();
    let answer = ours(bench.path(), ["convert", "-O", "vmdk", "disk.raw", "fifo"]);
    cat.wait().unwrap();
    assert_eq!((answer.code, answer.err.as_str()), (Some(0), ""));
    bench.assert_same("out");
}
