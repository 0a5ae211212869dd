//! Images that exist are changed as qemu-img changes them.

#![allow(clippy::unwrap_used, reason = "a panic is a failed test")]

mod common;

use std::path::Path;

use common::{Answer, ours};
use diskette_testkit::{Tool, qemu_img, qemu_io};
use serde_json::Value as Json;
use tempfile::TempDir;

struct Bench {
    qemu_img: Tool,
    qemu_io: Tool,
    folder: TempDir,
}

impl Bench {
    /// `None` where qemu-img is missing, which has been said then.
    fn new() -> Option<Self> {
        Some(Self {
            qemu_img: qemu_img()?,
            qemu_io: qemu_io()?,
            folder: tempfile::tempdir().unwrap(),
        })
    }

    fn folder(&self) -> &Path {
        self.folder.path()
    }

    fn theirs(&self, args: &str) -> String {
        self.qemu_img.run_in(self.folder(), args.split(' '))
    }

    fn write(&self, name: &str, action: &str) {
        let args = ["-f", "qcow2", "-c", action, name];
        self.qemu_io.run_in(self.folder(), args);
    }

    /// Runs our command, which must succeed. Gives what it prints.
    fn ours(&self, args: &str) -> String {
        let answer = ours(self.folder(), args.split(' '));
        assert_eq!((answer.code, answer.err.as_str()), (Some(0), ""), "{args}");
        answer.out
    }

    /// Runs our command, which must fail with one line.
    fn refused(&self, args: &str) -> Answer {
        let answer = ours(self.folder(), args.split(' '));
        assert_eq!(answer.code, Some(1), "{args}: {}", answer.err);
        assert_eq!(answer.err.lines().count(), 1, "{}", answer.err);
        answer
    }

    fn virtual_size(&self, name: &str) -> u64 {
        let info = self.theirs(&format!("info --output=json {name}"));
        let info: Json = serde_json::from_str(&info).unwrap();
        info["virtual-size"].as_u64().unwrap()
    }
}

#[test]
fn snapshots_are_taken_listed_applied_and_deleted() {
    let Some(bench) = Bench::new() else { return };
    bench.theirs("create -q -f qcow2 a.qcow2 8M");
    bench.write("a.qcow2", "write -P 1 0 1M");
    bench.theirs("convert -O qcow2 a.qcow2 first.qcow2");
    bench.ours("snapshot -c one a.qcow2");
    bench.write("a.qcow2", "write -P 2 512k 3M");
    bench.ours("snapshot -c two a.qcow2");
    bench.write("a.qcow2", "write -z 0 1M");
    assert_eq!(
        bench.ours("snapshot a.qcow2"),
        bench.theirs("snapshot -l a.qcow2")
    );
    assert_eq!(bench.ours("snapshot -l a.qcow2").lines().count(), 4);

    bench.ours("snapshot -a one a.qcow2");
    bench.theirs("check -q a.qcow2");
    bench.theirs("compare -q a.qcow2 first.qcow2");
    bench.ours("snapshot -d two a.qcow2");
    bench.ours("snapshot --delete 1 a.qcow2");
    bench.theirs("check -q a.qcow2");
    assert_eq!(bench.theirs("snapshot -l a.qcow2"), "");
    assert_eq!(bench.ours("snapshot a.qcow2"), "");
    bench.refused("snapshot -a one a.qcow2");
}

#[test]
fn disks_grow_and_shrink() {
    let Some(bench) = Bench::new() else { return };
    for (format, name) in [("qcow2", "a.qcow2"), ("raw", "a.raw")] {
        bench.theirs(&format!("create -q -f {format} {name} 8M"));
        let resize = |size: &str| format!("resize -f {format} {name} {size}");
        assert_eq!(bench.ours(&resize("+3M")), "Image resized.\n");
        assert_eq!(bench.virtual_size(name), 11 << 20);
        assert!(bench.refused(&resize("5M")).err.contains("--shrink"));
        bench.ours(&resize("--shrink -4M"));
        assert_eq!(bench.virtual_size(name), 7 << 20);
        bench.ours(&resize("-q 3G"));
        assert_eq!(bench.virtual_size(name), 3 << 30);
        bench.refused(&resize("--shrink -4G"));
        bench.refused(&resize("big"));
    }
    bench.theirs("check -q a.qcow2");
}

#[test]
fn what_is_new_gets_its_place_as_qemu_img_gives_it() {
    let Some(bench) = Bench::new() else { return };
    // Neighbours alike are one run.
    let map = |name: &str| -> Vec<(u64, Json, Json)> {
        let map = bench.theirs(&format!("map --output=json {name}"));
        let map: Json = serde_json::from_str(&map).unwrap();
        let runs = map.as_array().unwrap().iter();
        let runs = runs.map(|run| {
            let start = run["start"].as_u64().unwrap();
            (start, run["data"].clone(), run["zero"].clone())
        });
        let mut runs: Vec<_> = runs.collect();
        runs.dedup_by(|next, run| (&next.1, &next.2) == (&run.1, &run.2));
        runs
    };
    for options in [
        "compat=1.1",
        "cluster_size=4k",
        "compat=0.10",
        "extended_l2=on",
    ] {
        for mode in ["off", "metadata", "falloc", "full"] {
            for name in ["ours.qcow2", "theirs.qcow2"] {
                bench.theirs(&format!("create -q -f qcow2 -o {options} {name} 2M"));
                bench.write(name, "write -P 1 0 1M");
            }
            let args = |name: &str| format!("resize --preallocation={mode} {name} 5M");
            assert_eq!(
                bench.ours(&args("ours.qcow2")),
                bench.theirs(&args("theirs.qcow2"))
            );
            bench.theirs("check -q ours.qcow2");
            bench.theirs("compare -q ours.qcow2 theirs.qcow2");
            // Where a cluster has zeros that are stored, the host tells of them as it likes.
            if mode != "full" || options != "extended_l2=on" {
                assert_eq!(map("ours.qcow2"), map("theirs.qcow2"), "{options} {mode}");
            }
        }
    }
    bench.theirs("create -q -f raw disk.raw 1M");
    for mode in ["falloc", "full"] {
        bench.ours(&format!(
            "resize -f raw --preallocation={mode} disk.raw +1M"
        ));
    }
    bench.refused("resize -f raw --preallocation=metadata disk.raw +1M");
    bench.refused("resize --preallocation=full ours.qcow2 5M");
    bench.refused("resize --shrink --preallocation=full ours.qcow2 1M");
    let wrong = ours(
        bench.folder(),
        "resize --preallocation=none ours.qcow2 6M".split(' '),
    );
    assert_eq!(wrong.code, Some(1));
    assert_eq!(bench.virtual_size("ours.qcow2"), 5 << 20);
}

#[test]
fn overlays_are_brought_down_into_bases_of_any_format() {
    let Some(bench) = Bench::new() else { return };
    for (format, options) in [
        ("vdi", "static=off"),
        ("vpc", "force_size=on"),
        ("vhdx", "block_size=1M"),
        ("vmdk", "subformat=monolithicSparse"),
        ("vmdk", "subformat=twoGbMaxExtentSparse"),
    ] {
        let base = format!("base.{format}");
        bench.theirs(&format!("create -q -f {format} -o {options} {base} 8M"));
        let io = |format: &str, name: &str, acts: &[&str]| {
            let mut args = vec!["-f", format];
            args.extend(acts.iter().flat_map(|act| ["-c", *act]));
            args.push(name);
            bench.qemu_io.run_in(bench.folder(), args);
        };
        io(format, &base, &["write -P 1 0 2M", "write -P 3 6M 1M"]);
        bench.theirs(&format!(
            "create -q -f qcow2 -b {base} -F {format} over.qcow2"
        ));
        io(
            "qcow2",
            "over.qcow2",
            &["write -P 2 1M 3M", "write -z 6M 64k", "write -P 4 7M 512"],
        );
        bench.theirs("convert -O raw over.qcow2 expected.raw");
        bench.ours("commit -q over.qcow2");
        bench.theirs(&format!(
            "compare -q -f {format} -F raw {base} expected.raw"
        ));
        bench.ours(&format!("check -q -f {format} {base}"));
    }
}

#[test]
fn disks_of_vdi_and_vhdx_grow_and_others_say_that_they_do_not() {
    let Some(bench) = Bench::new() else { return };
    for (format, name) in [("vdi", "a.vdi"), ("vhdx", "a.vhdx")] {
        bench.ours(&format!("create -q -f {format} {name} 8M"));
        bench.ours(&format!("resize -f {format} {name} +3M"));
        assert_eq!(bench.virtual_size(name), 11 << 20);
        bench.theirs(&format!("check -q -f {format} {name}"));
        let said = bench.refused(&format!("resize --shrink -f {format} {name} 5M"));
        assert!(said.err.contains("a smaller disk"), "{}", said.err);
    }
    for (format, name) in [("vpc", "a.vhd"), ("vmdk", "a.vmdk")] {
        bench.ours(&format!("create -q -f {format} {name} 8M"));
        let said = bench.refused(&format!("resize -f {format} {name} 50M"));
        assert!(said.err.contains("another size for a disk"), "{}", said.err);
    }
}
