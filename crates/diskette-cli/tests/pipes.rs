//! Images that go into a pipe, and those that come out of one.

#![allow(clippy::unwrap_used, reason = "a panic is a failed test")]

mod common;

use std::fs::{self, File};
use std::path::Path;

use common::{Answer, command, ours};
use diskette_testkit::{Rng, Tool, qemu_img, qemu_io};
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

    /// Runs our command with what `cat` makes of files at its input.
    fn fed(&self, files: &str, args: &str) -> Answer {
        let mut cat = std::process::Command::new("cat")
            .current_dir(self.path())
            .args(files.split(' '))
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        let pipe = cat.stdout.take().unwrap();
        let mut ours = command(self.path());
        let answer = ours.args(args.split(' ')).stdin(pipe).output().unwrap();
        drop(ours);
        cat.wait().unwrap();
        answer.into()
    }

    fn pack(&self, packer: &Tool, name: &str, to: &str) {
        let path = self.path().join(name);
        let packed = packer.output(["-c", "-1", path.to_str().unwrap()]);
        fs::write(self.path().join(to), packed.stdout).unwrap();
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
        "-c -O qcow2",
        "-c -O qcow2 -o compression_type=zstd",
        "-c -O qcow2 -o cluster_size=512,refcount_bits=1",
        "-c -O qcow2 -o cluster_size=2M",
        "-c -O qcow2 -o compat=0.10",
        "-c -O qcow2 -o extended_l2=on",
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

/// A disk of which neighbours can be compressed and cannot, in turn.
#[test]
fn clusters_and_streams_may_alternate_in_a_pipe() {
    let Some(bench) = Bench::new() else { return };
    let mut disk = vec![7; 9 << 20];
    let mut random = Rng::new(3);
    for (number, chunk) in disk.chunks_mut(64 << 10).enumerate() {
        if number % 3 != 1 {
            random.fill(chunk);
        }
    }
    fs::write(bench.path().join("disk.raw"), disk).unwrap();
    bench.theirs("convert -c -O qcow2 disk.raw theirs.qcow2");
    for how in ["-c -O qcow2", "-c -O qcow2 -o compression_type=zstd"] {
        let answer = bench.piped(&format!("convert {how} disk.raw -"), "out");
        assert_eq!((answer.code, answer.err.as_str()), (Some(0), ""), "{how}");
        bench.assert_same("out");
        let checked = bench.theirs("check -f qcow2 out");
        assert!(checked.contains("No errors"), "{how}: {checked}");
        let threads = bench.piped(&format!("convert --threads 1 {how} disk.raw -"), "again");
        assert_eq!(threads.code, Some(0));
        let read = |name: &str| fs::read(bench.path().join(name)).unwrap();
        assert!(read("out") == read("again"), "{how}");
    }
}

#[test]
fn a_compressed_qcow2_from_a_pipe_is_hardly_larger_than_one_in_a_file() {
    let Some(bench) = Bench::new() else { return };
    bench.piped("convert -c -O qcow2 disk.qcow2 -", "piped.qcow2");
    let size = |name: &str| fs::metadata(bench.path().join(name)).unwrap().len();
    let (piped, theirs) = (size("piped.qcow2"), size("zlib.qcow2"));
    assert!(piped <= theirs + (64 << 10), "{piped} and {theirs}");
}

#[test]
fn what_cannot_be_written_in_order_is_kept_meanwhile_and_that_is_told() {
    let Some(bench) = Bench::new() else { return };
    for how in [
        "-O vdi",
        "-O vhdx",
        "-O vpc -o force_size=on",
        "-O qcow2 -o preallocation=metadata",
        "-O raw -o preallocation=full",
        "-O vmdk -o subformat=monolithicSparse",
    ] {
        let answer = bench.piped(&format!("convert {how} disk.raw -"), "out");
        let told = "diskette: standard output: cannot be written in order: it is kept in an unnamed file meanwhile\n";
        assert_eq!((answer.code, answer.err.as_str()), (Some(0), told), "{how}");
        bench.assert_same("out");
    }
}

#[test]
fn what_cannot_go_into_a_pipe_is_refused_before_the_first_byte() {
    let Some(bench) = Bench::new() else { return };
    for (how, why) in [
        ("-q -O vmdk -o subformat=monolithicFlat", "one file only"),
        ("-O qcow2 -o cluster_size=1000", "cluster_size"),
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

/// What is told where an image must be kept meanwhile.
const KEPT: &str = "diskette: standard input: cannot be read in one pass: it is kept in an unnamed file meanwhile\n";

#[test]
fn a_stream_optimized_image_is_read_as_it_comes() {
    let Some(bench) = Bench::new() else { return };
    let made = ours(
        bench.path(),
        "convert -O vmdk -o subformat=streamOptimized disk.raw own.vmdk".split(' '),
    );
    assert_eq!(made.code, Some(0));
    for how in ["-O raw", "-O qcow2", "-c -O qcow2", "-O vdi", "-O vhdx"] {
        let answer = bench.fed("own.vmdk", &format!("convert {how} - out"));
        assert_eq!((answer.code, answer.err.as_str()), (Some(0), ""), "{how}");
        bench.assert_same("out");
    }
    let Some(gzip) = Tool::find("gzip") else {
        return;
    };
    bench.pack(&gzip, "own.vmdk", "own.vmdk.gz");
    let answer = bench.fed("own.vmdk.gz", "convert -O qcow2 - out");
    assert_eq!((answer.code, answer.err.as_str()), (Some(0), ""));
    bench.assert_same("out");
    let answer = ours(
        bench.path(),
        ["convert", "-O", "qcow2", "own.vmdk.gz", "out"],
    );
    assert_eq!((answer.code, answer.err.as_str()), (Some(0), ""));
    bench.assert_same("out");
}

#[test]
fn what_comes_by_a_pipe_goes_into_another() {
    let Some(bench) = Bench::new() else { return };
    bench.piped("convert -O vmdk disk.raw -", "own.vmdk");
    for how in [
        "-O raw",
        "-O vmdk",
        "-q -O qcow2",
        "-q -c -O qcow2",
        "-q -O vdi",
    ] {
        let program = env!("CARGO_BIN_EXE_diskette");
        let line = format!("cat own.vmdk | '{program}' convert {how} - - | cat > out");
        let mut shell = std::process::Command::new("sh");
        let answer: Answer = shell
            .current_dir(bench.path())
            .args(["-c", &line])
            .output()
            .unwrap()
            .into();
        assert_eq!(answer.err, "", "{how}");
        bench.assert_same("out");
    }
}

#[test]
fn what_cannot_be_read_as_it_comes_is_kept_meanwhile_and_that_is_told() {
    let Some(bench) = Bench::new() else { return };
    let mut sources = vec!["disk.raw", "disk.qcow2", "zlib.qcow2", "stream.vmdk"];
    if let Some(gzip) = Tool::find("gzip") {
        bench.pack(&gzip, "zlib.qcow2", "zlib.qcow2.gz");
        bench.pack(&gzip, "disk.raw", "disk.raw.gz");
        sources.extend(["zlib.qcow2.gz", "disk.raw.gz"]);
    }
    for source in sources {
        let answer = bench.fed(source, "convert -O qcow2 - out");
        assert_eq!(
            (answer.code, answer.err.as_str()),
            (Some(0), KEPT),
            "{source}"
        );
        bench.assert_same("out");
        let answer = bench.fed(source, "convert -q -O raw - out");
        assert_eq!(
            (answer.code, answer.err.as_str()),
            (Some(0), ""),
            "{source}"
        );
        bench.assert_same("out");
    }
}

#[test]
fn a_raw_disk_of_known_size_is_read_as_it_comes() {
    let Some(bench) = Bench::new() else { return };
    let args = "convert --source-size 20971008 -O qcow2 - out";
    let answer = bench.fed("disk.raw", args);
    assert_eq!((answer.code, answer.err.as_str()), (Some(0), ""));
    bench.assert_same("out");
    for wrong in ["20970496", "20971520"] {
        let args = format!("convert --source-size {wrong} -O qcow2 - wrong");
        let answer = bench.fed("disk.raw", &args);
        assert_eq!(answer.code, Some(1), "{wrong}");
        assert!(!bench.path().join("wrong").exists());
    }
}

#[test]
fn a_file_at_the_standard_input_is_read_as_a_file() {
    let Some(bench) = Bench::new() else { return };
    let file = File::open(bench.path().join("disk.qcow2")).unwrap();
    let mut ours = command(bench.path());
    let args = ["convert", "-O", "raw", "-", "out"];
    let answer: Answer = ours.args(args).stdin(file).output().unwrap().into();
    assert_eq!((answer.code, answer.err.as_str()), (Some(0), ""));
    bench.assert_same("out");
}

#[test]
fn a_stream_that_was_cut_short_makes_no_image() {
    let Some(bench) = Bench::new() else { return };
    bench.piped("convert -O vmdk disk.raw -", "own.vmdk");
    let whole = fs::read(bench.path().join("own.vmdk")).unwrap();
    for len in (1..=whole.len() / 512).rev().step_by(7) {
        fs::write(bench.path().join("cut"), &whole[..len * 512 - 1]).unwrap();
        let answer = bench.fed("cut", "convert -q -f vmdk -O qcow2 - out");
        assert_eq!(answer.code, Some(1), "{len}: {}", answer.err);
        assert!(!bench.path().join("out").exists(), "{len}");
    }
}

#[test]
fn an_image_that_comes_by_a_pipe_leads_to_no_other_file() {
    let Some(bench) = Bench::new() else { return };
    bench.theirs("create -q -f qcow2 -b disk.qcow2 -F qcow2 top.qcow2");
    let answer = bench.fed("top.qcow2", "convert -q --trust -O raw - out");
    assert_eq!(answer.code, Some(1));
    assert!(answer.err.contains("refused"), "{}", answer.err);
}

/// The greatest memory that the command may take, in KiB.
const MOST_MEMORY: u64 = 64 << 10;

#[test]
fn a_stream_of_3_gib_is_read_in_little_memory_and_without_a_file() {
    let Some(bench) = Bench::new() else { return };
    if Tool::find("strace").is_none() || Tool::find("time").is_none() {
        return;
    }
    bench.theirs("create -q -f raw large.raw 3G");
    let Some(qemu_io) = qemu_io() else { return };
    let writes: Vec<String> = (0..24)
        .map(|at| format!("write -q -P {} {}M 8M", at + 1, at * 128))
        .collect();
    let mut args = vec!["-f", "raw"];
    args.extend(writes.iter().flat_map(|write| ["-c", write]));
    args.push("large.raw");
    qemu_io.run_in(bench.path(), args);
    bench.piped("convert -O vmdk large.raw -", "large.vmdk");
    let program = env!("CARGO_BIN_EXE_diskette");
    let line = format!(
        "cat large.vmdk | strace -f -e trace=openat,open,memfd_create -o calls \
         env time -o memory -f %M '{program}' convert -O qcow2 - large.qcow2"
    );
    let mut shell = std::process::Command::new("sh");
    let output = shell.current_dir(bench.path()).args(["-c", &line]).output();
    let answer: Answer = output.unwrap().into();
    assert_eq!((answer.code, answer.err.as_str()), (Some(0), ""));
    let told = bench.theirs("compare -f raw -F qcow2 large.raw large.qcow2");
    assert!(told.contains("identical"), "{told}");

    let read = |name: &str| fs::read_to_string(bench.path().join(name)).unwrap();
    let memory: u64 = read("memory").trim().parse().unwrap();
    assert!(memory < MOST_MEMORY, "{memory} KiB");
    let calls = read("calls");
    let made = calls.lines().filter(|call| {
        call.contains("O_TMPFILE") || call.contains("O_CREAT") || call.contains("memfd_create")
    });
    // The new image, and what the time goes into.
    let made: Vec<_> = made.filter(|call| !call.contains("\"memory\"")).collect();
    assert_eq!(made.len(), 1, "{made:?}");
}
