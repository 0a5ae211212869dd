//! Compressed images as sources: what comes out is what would have come from the plain file.

#![allow(clippy::unwrap_used, reason = "a panic is a failed test")]

mod common;

use std::fs;
use std::path::Path;

use common::{Answer, command, ours};
use diskette_testkit::{Tool, qemu_img, qemu_io};
use tempfile::TempDir;

/// A folder with a disk of 20 MiB in several formats.
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
        bench.theirs("create -q -f raw disk.raw 20971008"); // the last sector is half of a KiB
        let mut args = vec!["-f", "raw"];
        for write in [
            "write -P 1 0 64k",
            "write -P 2 1000k 3M",
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
            ("disk.vdi", "-O vdi"),
            ("disk.vhdx", "-O vhdx"),
            ("disk.vhd", "-O vpc -o force_size=on"),
            ("fixed.vhd", "-O vpc -o subformat=fixed,force_size=on"),
            ("disk.vmdk", "-O vmdk"),
            ("stream.vmdk", "-O vmdk -o subformat=streamOptimized"),
        ] {
            bench.theirs(&format!("convert {how} disk.raw {name}"));
        }
        // Theirs has its tables in front, ours behind the grains.
        bench.succeeds("convert -O vmdk -o subformat=streamOptimized disk.raw exported.vmdk");
        Some(bench)
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn theirs(&self, args: &str) -> String {
        self.qemu_img.run_in(self.path(), args.split(' '))
    }

    fn ours(&self, args: &str) -> Answer {
        ours(self.path(), args.split(' '))
    }

    fn succeeds(&self, args: &str) -> String {
        let answer = self.ours(args);
        assert_eq!((answer.code, answer.err.as_str()), (Some(0), ""), "{args}");
        answer.out
    }

    fn fails(&self, args: &str) -> String {
        let answer = self.ours(args);
        assert_eq!(answer.code, Some(1), "{args}: {}", answer.err);
        assert_eq!(answer.err.lines().count(), 1, "{}", answer.err);
        answer.err
    }

    fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.path().join(name)).unwrap()
    }

    /// Compresses the file `name` into `to`.
    fn pack(&self, packer: &Tool, name: &str, to: &str) {
        let path = self.path().join(name);
        self.write(
            to,
            packer.output(["-c", "-1", path.to_str().unwrap()]).stdout,
        );
    }

    fn write(&self, name: &str, bytes: impl AsRef<[u8]>) {
        fs::write(self.path().join(name), bytes).unwrap();
    }
}

/// The tools that are installed, each with the ending of its files.
fn packers() -> Vec<(Tool, &'static str)> {
    let all = [
        ("gzip", "gz"),
        ("xz", "xz"),
        ("zstd", "zst"),
        ("bzip2", "bz2"),
    ];
    let found = all.into_iter();
    found
        .filter_map(|(name, ending)| Some((Tool::find(name)?, ending)))
        .collect()
}

#[test]
fn a_compressed_raw_image_converts_to_what_the_plain_one_converts_to() {
    let Some(bench) = Bench::new() else { return };
    for how in ["-O qcow2", "-c -O qcow2", "-O raw", "-S 0 -O raw"] {
        bench.succeeds(&format!("convert {how} disk.raw plain.out"));
        for (packer, _) in packers() {
            bench.pack(&packer, "disk.raw", "packed");
            for threads in [1, 3] {
                bench.succeeds(&format!(
                    "convert {how} --threads {threads} packed packed.out"
                ));
                let equal = bench.read("plain.out") == bench.read("packed.out");
                assert!(equal, "{}, {how}, {threads} threads", packer.name());
            }
        }
    }
    bench.theirs("compare -f raw -F raw disk.raw packed.out");
}

#[test]
fn a_compressed_image_of_any_format_converts_to_what_the_plain_one_converts_to() {
    let Some(bench) = Bench::new() else { return };
    let Some(gzip) = Tool::find("gzip") else {
        return;
    };
    for name in [
        "disk.qcow2",
        "zlib.qcow2",
        "disk.vdi",
        "disk.vhdx",
        "disk.vhd",
        "fixed.vhd",
        "disk.vmdk",
        "stream.vmdk",
        "exported.vmdk",
    ] {
        bench.pack(&gzip, name, "packed");
        bench.succeeds(&format!("convert -O qcow2 {name} plain.out"));
        bench.succeeds("convert -p -q -O qcow2 packed packed.out");
        assert!(
            bench.read("plain.out") == bench.read("packed.out"),
            "{name}"
        );
    }
    bench.theirs("compare -f raw -F qcow2 disk.raw packed.out");
}

#[test]
fn every_command_that_reads_takes_a_compressed_image() {
    let Some(bench) = Bench::new() else { return };
    let Some(gzip) = Tool::find("gzip") else {
        return;
    };
    gzip.run_in(bench.path(), ["-k", "disk.raw", "disk.qcow2"]);
    let info = bench
        .ours("info --output=json disk.qcow2.gz")
        .json()
        .unwrap();
    assert_eq!(info["format"], "qcow2");
    assert_eq!(info["packed-by"], "gzip");
    assert_eq!(info["virtual-size"], 20_971_008);
    assert!(
        bench
            .succeeds("info disk.raw.gz")
            .contains("packed by: gzip\n")
    );
    assert_eq!(
        bench.ours("map --output=json disk.qcow2.gz").json(),
        bench.ours("map --output=json disk.qcow2").json()
    );
    bench.succeeds("compare disk.raw.gz disk.qcow2.gz");
    bench.succeeds("compare -s disk.qcow2 disk.qcow2.gz");
    bench.succeeds("check disk.qcow2.gz");
    bench.succeeds("convert -O raw disk.raw.gz disk.qcow2.gz both.raw");
    assert_eq!(bench.read("both.raw").len(), 2 * 20_971_008);
    // What is said to be raw is not unpacked: its guest may have written it.
    bench.succeeds("convert -f raw -O raw disk.raw.gz as-it-is.raw");
    assert!(
        bench
            .read("as-it-is.raw")
            .starts_with(&bench.read("disk.raw.gz"))
    );
    assert!(
        bench
            .fails("convert -f qcow2 -O raw disk.raw.gz out.raw")
            .contains("qcow2")
    );
}

#[test]
fn members_that_follow_one_another_are_one_image() {
    let Some(bench) = Bench::new() else { return };
    let whole = bench.read("disk.raw");
    for (packer, ending) in packers() {
        let mut packed = Vec::new();
        for part in whole.chunks(7_000_000) {
            bench.write("part", part);
            packed.extend(
                packer
                    .output(["-c", bench.path().join("part").to_str().unwrap()])
                    .stdout,
            );
        }
        let name = format!("several.{ending}");
        bench.write(&name, packed);
        bench.succeeds(&format!("convert -O raw {name} out.raw"));
        assert!(bench.read("out.raw") == whole, "{name}");
    }
}

#[test]
fn damaged_or_cut_data_are_an_error_and_leave_no_image() {
    let Some(bench) = Bench::new() else { return };
    for (packer, ending) in packers() {
        for image in ["disk.raw", "disk.qcow2"] {
            let sound = packer
                .output(["-c", bench.path().join(image).to_str().unwrap()])
                .stdout;
            let mut damaged = sound.clone();
            let middle = damaged.len() / 2;
            damaged[middle] ^= 0xff;
            for bytes in [&sound[..sound.len() - 3], &sound[..middle], &damaged] {
                let name = format!("bad.{ending}");
                bench.write(&name, bytes);
                bench.fails(&format!("convert -O qcow2 {name} out.qcow2"));
                assert!(!bench.path().join("out.qcow2").exists(), "{name}");
                bench.fails(&format!("info {name}"));
            }
        }
    }
}

#[test]
fn a_bomb_is_bounded() {
    let Some(bench) = Bench::new() else { return };
    for (packer, ending) in packers()
        .into_iter()
        .filter(|(_, ending)| ["gz", "zst"].contains(ending))
    {
        // A member of 64 MiB of zeros, again and again: 10 GiB.
        bench.write("zeros", vec![0; 64 << 20]);
        let member = packer
            .output(["-c", bench.path().join("zeros").to_str().unwrap()])
            .stdout;
        let name = format!("bomb.{ending}");
        bench.write(&name, member.repeat(160));
        let why = bench.fails(&format!(
            "convert --unpack-limit 1G -O qcow2 {name} out.qcow2"
        ));
        assert!(
            why.contains("over the limit of 1073741824; --unpack-limit"),
            "{why}"
        );

        // One that is no disk of zeros fills no disk of ours.
        bench.write("ones", [&b"QFI\xfb"[..], &[1; 64 << 20]].concat());
        let member = packer
            .output(["-c", bench.path().join("ones").to_str().unwrap()])
            .stdout;
        bench.write(&name, member);
        let why = bench.fails(&format!("info --spool-limit 10M {name}"));
        assert!(
            why.contains("spool") && why.contains("--spool-limit"),
            "{why}"
        );
    }
}

#[test]
fn what_is_read_in_one_pass_makes_no_temporary_file() {
    let Some(bench) = Bench::new() else { return };
    for (packer, ending) in packers() {
        let packed = |image: &str| {
            let name = format!("{image}.{ending}");
            bench.write(
                &name,
                packer
                    .output(["-c", bench.path().join(image).to_str().unwrap()])
                    .stdout,
            );
            name
        };
        // No spool can be made where there is no such folder.
        let convert = |name: &str| {
            let mut command = command(bench.path());
            command.env("TMPDIR", "/does/not/exist");
            let args = ["convert", "-O", "qcow2", name, "out.qcow2"];
            Answer::from(command.args(args).output().unwrap())
        };
        for image in ["disk.raw", "exported.vmdk"] {
            let answer = convert(&packed(image));
            assert_eq!((answer.code, answer.err.as_str()), (Some(0), ""), "{image}");
            bench.theirs("compare -q -f raw -F qcow2 disk.raw out.qcow2");
        }
        let answer = convert(&packed("disk.qcow2"));
        assert!(
            answer
                .err
                .contains("cannot create a spool in /does/not/exist"),
            "{}",
            answer.err
        );
    }
}

#[test]
fn a_stream_that_is_not_whole_is_an_error_though_its_packing_is_sound() {
    let Some(bench) = Bench::new() else { return };
    let Some(gzip) = Tool::find("gzip") else {
        return;
    };
    let whole = bench.read("exported.vmdk");
    for len in (512..whole.len()).step_by(512) {
        bench.write("cut.vmdk", &whole[..len]);
        bench.pack(&gzip, "cut.vmdk", "cut.gz");
        let why = bench.fails("convert -O qcow2 cut.gz out.qcow2");
        assert!(why.starts_with("diskette: "), "{len} bytes: {why}");
        assert!(!bench.path().join("out.qcow2").exists(), "{len} bytes");
    }
    // A grain that a table lists, and that never came.
    let marker = whole
        .chunks(512)
        .skip(128)
        .position(|sector| sector[8..12] != [0; 4]);
    let first = 128 + marker.unwrap();
    let size = u32::from_le_bytes(whole[first * 512 + 8..][..4].try_into().unwrap());
    let sectors = (size as usize + 12).div_ceil(512);
    let lost = [&whole[..first * 512], &whole[(first + sectors) * 512..]].concat();
    bench.write("lost.vmdk", lost);
    bench.pack(&gzip, "lost.vmdk", "lost.gz");
    bench.fails("convert -O qcow2 lost.gz out.qcow2");
    assert!(!bench.path().join("out.qcow2").exists());
}

#[test]
fn a_compressed_source_is_not_its_own_target() {
    let Some(bench) = Bench::new() else { return };
    let Some(gzip) = Tool::find("gzip") else {
        return;
    };
    gzip.run_in(bench.path(), ["-k", "disk.raw", "disk.qcow2"]);
    for name in ["disk.raw.gz", "disk.qcow2.gz"] {
        let why = bench.fails(&format!("convert -O qcow2 {name} {name}"));
        assert!(why.contains("one of the files that are read"), "{why}");
    }
}

#[test]
fn a_disk_of_an_ova_may_be_compressed_and_the_ova_too() {
    let Some(bench) = Bench::new() else { return };
    let (Some(gzip), Some(tar)) = (Tool::find("gzip"), Tool::find("tar")) else {
        return;
    };
    let text = r#"<Envelope xmlns:ovf="o"><References><File ovf:href="disk.raw.gz" ovf:id="f" ovf:compression="gzip"/>
        </References><Disk ovf:diskId="d" ovf:fileRef="f"/></Envelope>"#;
    bench.write("vm.ovf", text);
    gzip.run_in(bench.path(), ["-k", "disk.raw"]);
    tar.run_in(bench.path(), ["-cf", "vm.ova", "vm.ovf", "disk.raw.gz"]);
    gzip.run_in(bench.path(), ["-k", "vm.ova"]);
    for name in ["vm.ova", "vm.ova.gz"] {
        bench.succeeds(&format!("convert -O raw {name} out.raw"));
        assert!(bench.read("out.raw") == bench.read("disk.raw"));
        bench.succeeds(&format!("compare {name} disk.raw"));
    }
    let listed = bench.ours("info --output=json vm.ova").json().unwrap();
    assert_eq!(listed["disks"][0]["virtual-size"], 20_971_008);
    assert_eq!(listed["disks"][0]["image"]["packed-by"], "gzip");
}
