//! OVAs that the command makes, held against other programs and our own reader.

#![allow(clippy::unwrap_used, reason = "a panic is a failed test")]

mod common;

use std::fs;
use std::path::Path;

use common::{Answer, ours};
use diskette_testkit::{Tool, qemu_img};
use tempfile::TempDir;

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
        for (name, size) in [("first.raw", 5 << 20), ("second.raw", 3_000_832)] {
            let mut bytes: Vec<u8> = (0..size)
                .map(|at: usize| u8::try_from(at / 4096 % 251).unwrap())
                .collect();
            bytes[1 << 20..2 << 20].fill(0);
            fs::write(bench.path().join(name), bytes).unwrap();
        }
        Some(bench)
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn ours(&self, args: &str) -> Answer {
        ours(self.path(), args.split(' '))
    }

    fn succeeds(&self, args: &str) -> String {
        let answer = self.ours(args);
        assert_eq!((answer.code, answer.err.as_str()), (Some(0), ""), "{args}");
        answer.out
    }

    fn descriptor(&self) -> String {
        let tar = Tool::find("tar").unwrap();
        tar.run_in(self.path(), ["xf", "machine.ova"]);
        fs::read_to_string(self.path().join("machine.ovf")).unwrap()
    }
}

/// That another parser takes a file for XML.
fn assert_well_formed(bench: &Bench, name: &str) {
    let Some(python) = Tool::find("python3") else {
        return;
    };
    let parse = "import sys, xml.dom.minidom as dom; dom.parse(sys.argv[1])";
    python.run_in(bench.path(), ["-c", parse, name]);
}

#[test]
fn an_ova_is_a_tar_of_descriptor_disks_and_manifest() {
    let Some(bench) = Bench::new() else { return };
    let Some(tar) = Tool::find("tar") else { return };
    bench.succeeds("convert -O ova first.raw second.raw machine.ova");
    let names = tar.run_in(bench.path(), ["tf", "machine.ova"]);
    let names: Vec<_> = names.lines().collect();
    assert_eq!(
        names,
        [
            "machine.ovf",
            "machine-disk1.vmdk",
            "machine-disk2.vmdk",
            "machine.mf"
        ]
    );
    tar.run_in(bench.path(), ["xf", "machine.ova"]);
    for (disk, raw) in [
        ("machine-disk1.vmdk", "first.raw"),
        ("machine-disk2.vmdk", "second.raw"),
    ] {
        let args = ["compare", "-f", "vmdk", "-F", "raw", disk, raw];
        let told = bench.qemu_img.run_in(bench.path(), args);
        assert!(told.contains("identical"), "{told}");
    }
    assert_well_formed(&bench, "machine.ovf");
}

#[test]
fn the_digests_of_an_ova_are_those_of_its_files() {
    let Some(bench) = Bench::new() else { return };
    bench.succeeds("convert -O ova first.raw second.raw machine.ova");
    let told = bench.succeeds("info --verify-manifest machine.ova");
    assert_eq!(told.matches(" is right").count(), 3, "{told}");
    let Some(sha256sum) = Tool::find("sha256sum") else {
        return;
    };
    bench.descriptor();
    let manifest = fs::read_to_string(bench.path().join("machine.mf")).unwrap();
    for line in manifest.lines() {
        let (name, digest) = line.split_once(")= ").unwrap();
        let name = name.strip_prefix("SHA256(").unwrap();
        let sum = sha256sum.run_in(bench.path(), [name]);
        assert!(sum.starts_with(digest), "{line}: {sum}");
    }
}

#[test]
fn our_reader_finds_the_disks_of_an_ova_that_we_made() {
    let Some(bench) = Bench::new() else { return };
    bench.succeeds("convert -O ova first.raw second.raw machine.ova");
    for (number, raw) in ["first.raw", "second.raw"].iter().enumerate() {
        bench.succeeds(&format!(
            "convert --disk {number} --verify-manifest -O raw machine.ova back.raw"
        ));
        let same = fs::read(bench.path().join("back.raw")).unwrap()
            == fs::read(bench.path().join(raw)).unwrap();
        assert!(same, "{raw}");
    }
}

#[test]
fn the_machine_is_as_the_options_say() {
    let Some(bench) = Bench::new() else { return };
    bench.succeeds(
        "convert -O ova -o name=R&D,cpus=3,memory=768M,disk_controller=ahci,nic=vmxnet3 \
         -o network=a<b,os=debian64 first.raw machine.ova",
    );
    let tar = Tool::find("tar").unwrap();
    tar.run_in(bench.path(), ["xf", "machine.ova"]);
    assert_well_formed(&bench, "R_D.ovf");
    let text = fs::read_to_string(bench.path().join("R_D.ovf")).unwrap();
    for part in [
        "<Name>R&amp;D</Name>",
        "<rasd:VirtualQuantity>3</rasd:VirtualQuantity>",
        "<rasd:VirtualQuantity>768</rasd:VirtualQuantity>",
        "<rasd:ResourceSubType>AHCI</rasd:ResourceSubType>",
        "<rasd:ResourceSubType>VmxNet3</rasd:ResourceSubType>",
        "<rasd:Connection>a&lt;b</rasd:Connection>",
        "ovf:id=\"96\" vmw:osType=\"debian8_64Guest\"",
        "ovf:capacity=\"5242880\"",
    ] {
        assert!(text.contains(part), "{part}:\n{text}");
    }
    let size = fs::metadata(bench.path().join("R_D-disk1.vmdk")).unwrap();
    assert!(text.contains(&format!("ovf:size=\"{}\"", size.len())));
}

#[test]
fn an_ova_is_the_same_for_any_number_of_threads() {
    let Some(bench) = Bench::new() else { return };
    bench.succeeds("convert -O ova --threads 1 -o name=m first.raw one.ova");
    bench.succeeds("convert -O ova --threads 4 -o name=m first.raw four.ova");
    let read = |name: &str| fs::read(bench.path().join(name)).unwrap();
    assert!(read("one.ova") == read("four.ova"));
}

#[test]
fn what_makes_no_ova_is_told() {
    let Some(bench) = Bench::new() else { return };
    for (args, why) in [
        ("convert --verify -O ova first.raw -", "a pipe cannot"),
        ("convert -O ova -o cpus=0 first.raw m.ova", "cpus"),
        ("convert -O ova -o memory=1000 first.raw m.ova", "memory"),
        ("convert -O ova -o os=vms first.raw m.ova", "os"),
        ("convert -O ova -o nic=ne2000 first.raw m.ova", "nic"),
        ("convert -O ova -o colour=red first.raw m.ova", "colour"),
        (
            "convert -O ova -o disk_controller=ide first.raw first.raw first.raw m.ova",
            "disk_controller",
        ),
    ] {
        let answer = bench.ours(args);
        assert_eq!(answer.code, Some(1), "{args}");
        assert!(answer.err.contains(why), "{args}: {}", answer.err);
        assert!(!bench.path().join("m.ova").exists(), "{args}");
    }
}

#[test]
fn the_disks_of_an_ova_are_read_back_and_digested_on_the_way() {
    let Some(bench) = Bench::new() else { return };
    let told = bench.succeeds("convert --verify --digest -O ova first.raw second.raw machine.ova");
    let digests = bench.succeeds("digest -f raw first.raw second.raw");
    let sha256 = digests.lines().filter(|line| line.starts_with("SHA256"));
    assert_eq!(told.lines().collect::<Vec<_>>(), sha256.collect::<Vec<_>>());
}

#[test]
fn an_ova_from_a_pipe_is_the_one_in_a_file() {
    let Some(bench) = Bench::new() else { return };
    bench.succeeds("convert -O ova first.raw second.raw machine.ova");
    let line = format!(
        "'{}' convert --digest -O ova first.raw second.raw - | cat > piped.ova",
        env!("CARGO_BIN_EXE_diskette")
    );
    let Some(shell) = Tool::find("sh") else {
        return;
    };
    shell.run_in(bench.path(), ["-c", &line]);
    let read = |name: &str| fs::read(bench.path().join(name)).unwrap();
    assert!(read("machine.ova") == read("piped.ova"));
}
