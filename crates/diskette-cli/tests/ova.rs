//! OVAs, as tar packs them: their disks listed, chosen, converted, and held against the manifest.

#![allow(clippy::unwrap_used, reason = "a panic is a failed test")]

mod common;

use std::fmt::Write;
use std::fs;
use std::path::Path;

use common::{Answer, ours};
use diskette_testkit::{Tool, qemu_img, qemu_io};
use serde_json::json;
use tempfile::TempDir;

/// A folder with disks and the tools to pack them.
struct Bench {
    folder: TempDir,
    qemu_img: Tool,
    tar: Tool,
}

impl Bench {
    /// Two disks: `one` of 3 MiB and `two` of 5 MiB. `None` where a tool is missing, which has been said then.
    fn new() -> Option<Self> {
        let bench = Self {
            folder: tempfile::tempdir().unwrap(),
            qemu_img: qemu_img()?,
            tar: Tool::find("tar")?,
        };
        let qemu_io = qemu_io()?;
        for (name, size, write) in [
            ("one", "3M", "write -P 1 64k 1M"),
            ("two", "5M", "write -P 2 2M 2M"),
        ] {
            let raw = format!("{name}.raw");
            bench
                .qemu_img
                .run_in(bench.path(), ["create", "-q", "-f", "raw", &raw, size]);
            qemu_io.run_in(bench.path(), ["-f", "raw", "-c", write, &raw]);
        }
        bench.theirs("convert -O vmdk -o subformat=streamOptimized one.raw vm-disk1.vmdk");
        bench.theirs("convert -O vmdk -o subformat=streamOptimized two.raw vm-disk2.vmdk");
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

    /// Runs our command, which must fail with one line.
    fn fails(&self, args: &str) -> String {
        let answer = self.ours(args);
        assert_eq!(answer.code, Some(1), "{args}: {}", answer.err);
        assert_eq!(answer.err.lines().count(), 1, "{}", answer.err);
        answer.err
    }

    /// Packs `vm.ova` of a descriptor with these files (name, attributes of its `File`), and of `more`.
    fn pack(&self, disks: &[(&str, &str)], more: &[&str]) {
        self.write("vm.ovf", &descriptor(disks));
        let mut args = vec!["-cf", "vm.ova", "--format=ustar", "vm.ovf"];
        args.extend(more);
        args.extend(
            disks
                .iter()
                .map(|(name, _)| *name)
                .filter(|name| self.path().join(name).is_file()),
        );
        self.tar.run_in(self.path(), args);
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path().join(name), text).unwrap();
    }
}

fn descriptor(disks: &[(&str, &str)]) -> String {
    let mut files = String::new();
    let mut list = String::new();
    for (index, (name, attributes)) in disks.iter().enumerate() {
        writeln!(
            files,
            r#"<File ovf:href="{name}" ovf:id="file{index}" {attributes}/>"#
        )
        .unwrap();
        writeln!(
            list,
            r#"<Disk ovf:diskId="vmdisk{index}" ovf:fileRef="file{index}" ovf:capacity="5" ovf:capacityAllocationUnits="byte * 2^20"/>"#
        )
        .unwrap();
    }
    format!(
        r#"<?xml version="1.0" encoding="UTF-8"?>
<Envelope xmlns="http://schemas.dmtf.org/ovf/envelope/1" xmlns:ovf="http://schemas.dmtf.org/ovf/envelope/1">
<References>{files}</References><DiskSection><Info>Disks</Info>{list}</DiskSection></Envelope>"#
    )
}

const BOTH: [(&str, &str); 2] = [("vm-disk1.vmdk", ""), ("vm-disk2.vmdk", "")];

#[test]
fn the_disks_of_an_ova_are_listed() {
    let Some(bench) = Bench::new() else { return };
    bench.pack(&BOTH, &[]);
    fs::rename(bench.path().join("vm.ova"), bench.path().join("vm.tar")).unwrap(); // its name tells nothing
    let text = bench.succeeds("info vm.tar");
    assert!(text.contains("container format: ova\n"), "{text}");
    let lines: Vec<Vec<&str>> = text
        .lines()
        .map(|line| line.split_whitespace().collect())
        .collect();
    assert!(
        lines
            .iter()
            .any(|line| line.starts_with(&["0", "vmdk", "3", "MiB"])
                && line.ends_with(&["vmdisk0", "vm-disk1.vmdk"])),
        "{text}"
    );
    assert!(
        lines
            .iter()
            .any(|line| line.starts_with(&["1", "vmdk", "5", "MiB"])),
        "{text}"
    );

    let listed = bench.ours("info --output=json vm.tar").json().unwrap();
    assert_eq!(listed["format"], "ova");
    assert_eq!(listed["disks"][1]["name"], "vm-disk2.vmdk");
    assert_eq!(listed["disks"][1]["id"], "vmdisk1");
    assert_eq!(listed["disks"][1]["index"], 1);
    assert_eq!(listed["disks"][1]["format"], "vmdk");
    assert_eq!(listed["disks"][1]["virtual-size"], 5 << 20);
    assert_eq!(
        listed["disks"][1]["image"]["filename"],
        "vm.tar#vm-disk2.vmdk"
    );
}

#[test]
fn a_disk_is_chosen_by_number_name_or_identifier() {
    let Some(bench) = Bench::new() else { return };
    bench.pack(&BOTH, &[]);
    for (which, raw) in [
        ("0", "one.raw"),
        ("vm-disk2.vmdk", "two.raw"),
        ("vmdisk1", "two.raw"),
    ] {
        bench.succeeds(&format!("convert --disk {which} -O qcow2 vm.ova out.qcow2"));
        bench.theirs(&format!("compare -f raw -F qcow2 {raw} out.qcow2"));
        bench.succeeds(&format!("compare --disk {which} vm.ova {raw}"));
    }
    let info = bench
        .ours("info --disk 1 --output=json vm.ova")
        .json()
        .unwrap();
    assert_eq!(info["virtual-size"], 5 << 20);
    assert_eq!(
        info["format-specific"]["data"]["create-type"],
        "streamOptimized"
    );
    let map = |args: &str| {
        bench
            .ours(&format!("map --output=json {args}"))
            .json()
            .unwrap()
    };
    assert_eq!(map("--disk 1 vm.ova"), map("vm-disk2.vmdk"));
    bench.succeeds("check --disk 1 vm.ova");
    let picture = bench.succeeds("inspect --disk 1 vm.ova");
    let bars = picture.lines().filter(|line| line.starts_with("  ["));
    assert_eq!(bars.count(), 2, "{picture}");
    assert_eq!(
        bench.succeeds("measure -O qcow2 --disk 1 vm.ova"),
        bench.succeeds("measure -O qcow2 vm-disk2.vmdk")
    );
}

#[test]
fn of_several_disks_one_must_be_named_and_of_one_none() {
    let Some(bench) = Bench::new() else { return };
    bench.pack(&BOTH, &[]);
    for command in [
        "convert -O qcow2 vm.ova out.qcow2",
        "map vm.ova",
        "check vm.ova",
    ] {
        let why = bench.fails(command);
        assert!(
            why.contains("vm.ova holds several disks: 0 (\"vm-disk1.vmdk\"), 1 (\"vm-disk2.vmdk\"); --disk chooses one"),
            "{why}"
        );
    }
    assert!(
        bench
            .fails("map --disk 2 vm.ova")
            .contains("no disk in the OVA \"2\"")
    );
    assert!(bench.fails("map --disk 0 one.raw").contains("container"));
    assert!(!bench.path().join("out.qcow2").exists());

    bench.pack(&BOTH[..1], &[]);
    bench.succeeds("convert -O qcow2 vm.ova out.qcow2");
    bench.theirs("compare -f raw -F qcow2 one.raw out.qcow2");
    bench.succeeds("convert -n --disk 0 -O qcow2 vm.ova out.qcow2");
    bench.succeeds("convert --verify --disk 0 -O qcow2 vm.ova out.qcow2");
    bench.theirs("compare -f raw -F qcow2 one.raw out.qcow2");
    // A file that is said to be raw is what it is.
    bench.succeeds("compare -f raw -F raw vm.ova vm.ova");
    bench.succeeds("convert -f raw -O raw vm.ova copy.raw");
    bench.succeeds("compare -f raw -F raw vm.ova copy.raw");
}

#[test]
fn a_manifest_is_verified_by_each_of_its_digests() {
    let Some(bench) = Bench::new() else { return };
    for (tool, word) in [
        ("sha1sum", "SHA1"),
        ("sha256sum", "SHA256"),
        ("sha512sum", "SHA512"),
    ] {
        let Some(sum) = Tool::find(tool) else { return };
        bench.write("vm.ovf", &descriptor(&BOTH));
        let digest = |name: &str| {
            let line = sum.run_in(bench.path(), [name]);
            format!("{word}({name})= {}\n", line.split(' ').next().unwrap())
        };
        let right = ["vm.ovf", "vm-disk1.vmdk", "vm-disk2.vmdk"]
            .map(digest)
            .concat();
        bench.write("vm.mf", &right);
        bench.pack(&BOTH, &["vm.mf"]);
        let text = bench.succeeds("info --verify-manifest vm.ova");
        assert!(
            text.contains("manifest: vm-disk2.vmdk is right\n"),
            "{text}"
        );
        bench.succeeds("convert --disk 0 --verify-manifest -O qcow2 vm.ova out.qcow2");

        let at = right.rfind('=').unwrap() + 2;
        let wrong = format!(
            "{}{}\n",
            &right[..at],
            "0".repeat(right.trim_end().len() - at)
        );
        bench.write("vm.mf", &wrong);
        bench.pack(&BOTH, &["vm.mf"]);
        let _ = fs::remove_file(bench.path().join("out.qcow2"));
        for command in [
            "info --verify-manifest vm.ova",
            "convert --disk 0 --verify-manifest -O qcow2 vm.ova out.qcow2",
        ] {
            let why = bench.fails(command);
            assert!(why.contains("vm-disk2.vmdk"), "{why}");
        }
        assert!(!bench.path().join("out.qcow2").exists());
        let listed = bench
            .ours("info --verify-manifest --output=json vm.ova")
            .json()
            .unwrap();
        assert_eq!(
            listed["manifest"][1],
            json!({"filename": "vm-disk1.vmdk", "right": true})
        );
        assert_eq!(listed["manifest"][2]["right"], false);
    }
    bench.pack(&BOTH, &[]);
    assert!(
        bench
            .fails("info --verify-manifest vm.ova")
            .contains("no manifest")
    );
}

#[test]
fn disks_of_any_format_are_taken() {
    let Some(bench) = Bench::new() else { return };
    bench.theirs("convert -O qcow2 one.raw one.qcow2");
    bench.theirs("convert -O vdi one.raw one.vdi");
    bench.theirs("convert -O vmdk -o subformat=monolithicFlat one.raw flat.vmdk");
    let disks = [
        ("one.qcow2", ""),
        ("one.vdi", ""),
        ("one.raw", ""),
        ("flat.vmdk", ""),
    ];
    bench.pack(&disks, &["flat-flat.vmdk"]);
    let listed = bench.ours("info --output=json vm.ova").json().unwrap();
    for (index, format) in ["qcow2", "vdi", "raw", "vmdk"].iter().enumerate() {
        assert_eq!(listed["disks"][index]["format"], **format);
        bench.succeeds(&format!("compare --disk {index} vm.ova one.raw"));
    }
}

#[test]
fn nothing_outside_of_the_archive_is_opened() {
    let Some(bench) = Bench::new() else { return };
    // The parts lie beside the OVA, and must not be found there.
    bench.theirs("convert -O vmdk -o subformat=monolithicFlat one.raw flat.vmdk");
    bench.theirs("create -q -f qcow2 -b one.raw -F raw overlay.qcow2");
    bench.pack(&[("flat.vmdk", ""), ("overlay.qcow2", "")], &[]);
    let why = bench.fails("map --disk 0 --trust vm.ova");
    assert!(
        why.contains("refused extent file \"flat-flat.vmdk\""),
        "{why}"
    );
    let why = bench.fails("map --disk 1 --trust vm.ova");
    assert!(why.contains("refused backing file \"one.raw\""), "{why}");

    let absolute = bench.path().join("one.raw").display().to_string();
    bench.pack(
        &[
            ("../one.raw", ""),
            (&absolute, ""),
            ("gone.vmdk", ""),
            ("vm-disk1.vmdk", ""),
        ],
        &[],
    );
    bench.tar.run_in(bench.path(), ["-rf", "vm.ova", "one.raw"]);
    assert!(
        bench
            .fails("map --disk 0 vm.ova")
            .contains("a path with \"..\"")
    );
    assert!(
        bench
            .fails("map --disk 1 vm.ova")
            .contains("an absolute path")
    );
    assert!(
        bench
            .fails("map --disk 2 vm.ova")
            .contains("\"gone.vmdk\", the archive has no such file")
    );
    let listed = bench.ours("info --output=json vm.ova").json().unwrap();
    assert!(
        listed["disks"][2]["error"]
            .as_str()
            .unwrap()
            .contains("no such file")
    );
    assert_eq!(listed["disks"][3]["virtual-size"], 3 << 20);
}

#[test]
fn an_ova_is_not_overwritten_by_its_own_disk() {
    let Some(bench) = Bench::new() else { return };
    bench.pack(&BOTH[..1], &[]);
    let before = fs::read(bench.path().join("vm.ova")).unwrap();
    assert!(
        bench
            .fails("convert -O qcow2 vm.ova vm.ova")
            .contains("one of the files that are read")
    );
    assert_eq!(fs::read(bench.path().join("vm.ova")).unwrap(), before);
    // A chain does not lead into one, so that none is made over it.
    assert_eq!(
        bench
            .ours("create -q -f qcow2 -b vm.ova -F vmdk over.qcow2")
            .code,
        Some(1)
    );
}

#[test]
fn chunks_of_a_disk_are_refused_by_name() {
    let Some(bench) = Bench::new() else { return };
    let chunked = r#"ovf:compression="gzip" ovf:chunkSize="1048576""#;
    let odd = r#"ovf:compression="brotli""#;
    bench.pack(&[("vm-disk1.vmdk", chunked), ("vm-disk2.vmdk", odd)], &[]);
    assert!(
        bench
            .fails("map --disk 0 vm.ova")
            .contains("a disk's file in chunks is not supported")
    );
    assert!(
        bench
            .fails("map --disk 1 vm.ova")
            .contains("compressed by \"brotli\" is not supported")
    );
}
