//! `bitmap` does what qemu-img's does, and ends with the same exit code.

#![allow(clippy::unwrap_used, reason = "a panic is a failed test")]

mod common;

use std::path::Path;

use common::{Answer, ours, theirs};
use diskette_testkit::{Tool, qemu_img, qemu_io};
use serde_json::Value as Json;

/// Two folders with the same images: in one we act, in the other qemu-img does.
struct Sides {
    qemu_img: Tool,
    ours: tempfile::TempDir,
    theirs: tempfile::TempDir,
}

impl Sides {
    fn new() -> Option<Self> {
        let (qemu_img, qemu_io) = (qemu_img()?, qemu_io()?);
        let sides = Self {
            qemu_img,
            ours: tempfile::tempdir().unwrap(),
            theirs: tempfile::tempdir().unwrap(),
        };
        for folder in [sides.ours.path(), sides.theirs.path()] {
            let run = |args: &str| sides.qemu_img.run_in(folder, args.split(' '));
            run("create -q -f qcow2 disk.qcow2 1M");
            run("create -q -f qcow2 -o compat=0.10 old.qcow2 1M");
            run("create -q -f raw disk.raw 1M");
            run("create -q -f qcow2 source.qcow2 1M");
            run("bitmap --add -g 4k source.qcow2 fine");
            run("create -q -f qcow2 larger.qcow2 2M");
            run("bitmap --add larger.qcow2 large");
            run("create -q -f qcow2 broken.qcow2 1M");
            run("bitmap --add broken.qcow2 broken");
            let io = |args: &[&str]| qemu_io.command().current_dir(folder).args(args).output();
            io(&["-c", "write 68k 4k", "-c", "write 900k 50k", "source.qcow2"]).unwrap();
            io(&["-c", "write 0 4k", "-c", "sigraise 9", "broken.qcow2"]).unwrap();
        }
        Some(sides)
    }

    fn run<'a>(&self, args: impl IntoIterator<Item = &'a str> + Clone) -> (Answer, Answer) {
        let ours = ours(self.ours.path(), args.clone());
        (ours, theirs(&self.qemu_img, self.theirs.path(), args))
    }

    /// The bitmaps of an image, by their names.
    fn bitmaps(&self, folder: &Path, image: &str) -> Vec<String> {
        let args = ["info", "--output=json", image];
        let info = theirs(&self.qemu_img, folder, args).json().unwrap();
        let list = &info["format-specific"]["data"]["bitmaps"];
        let mut list: Vec<String> = list
            .as_array()
            .into_iter()
            .flatten()
            .map(Json::to_string)
            .collect();
        list.sort();
        list
    }
}

#[test]
fn every_act_ends_as_with_qemu_img() {
    let Some(sides) = Sides::new() else {
        return;
    };
    for args in [
        "--add disk.qcow2 one",
        "--add disk.qcow2 one",
        "--add -g 4k disk.qcow2 two",
        "--add --disable -g 4096 disk.qcow2 three",
        "--add --enable --disable --clear --remove disk.qcow2 gone",
        "--disable --enable --clear disk.qcow2 one",
        "--remove disk.qcow2 none",
        "--clear disk.qcow2 none",
        "--enable disk.qcow2 none",
        "--disable disk.qcow2 none",
        "--merge one disk.qcow2 none",
        "--merge none disk.qcow2 one",
        "--merge one --merge two disk.qcow2 three",
        "--merge one disk.qcow2 one",
        "--merge fine -b source.qcow2 disk.qcow2 one",
        "--merge fine -b source.qcow2 -F qcow2 disk.qcow2 two",
        "--merge large -b larger.qcow2 -F qcow2 disk.qcow2 two",
        "--add --merge large -b larger.qcow2 disk.qcow2 kept",
        "--merge fine -b none.qcow2 disk.qcow2 two",
        "--add --add disk.qcow2 twice",
        "disk.qcow2 one",
        "--add disk.qcow2",
        "--add",
        "--add -g 3 disk.qcow2 bad",
        "--add -g 256 disk.qcow2 bad",
        "--add -g 4G disk.qcow2 bad",
        "--add -g 2G disk.qcow2 wide",
        "--clear -g 64k disk.qcow2 one",
        "--clear -b source.qcow2 disk.qcow2 one",
        "--merge one -F qcow2 disk.qcow2 one",
        "--frob disk.qcow2 one",
        "--add -f raw disk.raw one",
        "--add -f qcow2 disk.raw one",
        "--add old.qcow2 one",
        "--add none.qcow2 one",
        "--add --image-opts driver=qcow2,file.filename=disk.qcow2 described",
        "--add --image-opts -f qcow2 driver=qcow2,file.filename=disk.qcow2 both",
        "--clear broken.qcow2 broken",
        "--enable broken.qcow2 broken",
        "--add broken.qcow2 broken",
        "--add --merge broken broken.qcow2 other",
        "--remove broken.qcow2 other",
        "--remove broken.qcow2 broken",
    ] {
        let (ours, theirs) = sides.run(["bitmap"].into_iter().chain(args.split(' ')));
        assert_eq!(
            ours.code, theirs.code,
            "{args}: {} / {}",
            ours.err, theirs.err
        );
        assert_eq!(ours.out, theirs.out, "{args}");
        assert_eq!(ours.err.is_empty(), theirs.err.is_empty(), "{args}");
        for image in ["disk.qcow2", "broken.qcow2", "old.qcow2"] {
            let lists = [&sides.ours, &sides.theirs].map(|side| sides.bitmaps(side.path(), image));
            assert_eq!(lists[0], lists[1], "{args}: {image}");
            let check = ["check", "-q", image];
            sides.qemu_img.run_in(sides.ours.path(), check);
        }
    }
    let (ours, theirs) = sides.run(["bitmap", "--add", "disk.qcow2", ""]);
    assert_eq!((ours.code, theirs.code), (Some(1), Some(1)));
    let long = "x".repeat(1024);
    let (ours, theirs) = sides.run(["bitmap", "--add", "disk.qcow2", &long]);
    assert_eq!((ours.code, theirs.code), (Some(1), Some(1)));
}

#[test]
fn what_fails_is_told_with_the_act_and_the_bitmap() {
    let Some(sides) = Sides::new() else {
        return;
    };
    let told = |args: &str| {
        let (ours, _) = sides.run(["bitmap"].into_iter().chain(args.split(' ')));
        ours.err
    };
    assert_eq!(
        told("--clear disk.qcow2 none"),
        "diskette: Operation clear on bitmap none failed: no bitmap \"none\"\n"
    );
    assert_eq!(
        told("--enable broken.qcow2 broken"),
        "diskette: Operation enable on bitmap broken failed: bitmap \"broken\" is inconsistent and cannot be used; it can be removed\n"
    );
    assert_eq!(
        told("--add --merge large -b larger.qcow2 disk.qcow2 two"),
        "diskette: Operation merge on bitmap two failed: bitmap \"two\" is of a disk of 1048576 bytes, what it is merged with of 2097152\n"
    );
    assert_eq!(
        told("disk.qcow2 one"),
        "diskette: Need at least one of --add, --remove, --clear, --enable, --disable, or --merge\n"
    );
}

/// A folder with an image that has two bitmaps, and one that has an inconsistent one besides.
fn sources() -> Option<(Tool, tempfile::TempDir)> {
    let sides = Sides::new()?;
    let folder = sides.theirs;
    let run = |args: &str| sides.qemu_img.run_in(folder.path(), args.split(' '));
    run("bitmap --add --merge fine source.qcow2 coarse");
    run("bitmap --add --disable -g 1M source.qcow2 none");
    run("bitmap --add broken.qcow2 sound");
    Some((sides.qemu_img, folder))
}

#[test]
fn bitmaps_are_copied_as_qemu_img_copies_them() {
    let Some((qemu_img, folder)) = sources() else {
        return;
    };
    let bitmaps = |image: &str| {
        let info = theirs(&qemu_img, folder.path(), ["info", "--output=json", image]);
        let list = &info.json().unwrap()["format-specific"]["data"]["bitmaps"];
        let list = list.as_array().into_iter().flatten();
        let mut list: Vec<String> = list.map(Json::to_string).collect();
        list.sort();
        list
    };
    for args in [
        "-O qcow2 --bitmaps source.qcow2",
        "-O qcow2 -c -o cluster_size=4k --bitmaps source.qcow2",
        "-O qcow2 -n --bitmaps source.qcow2",
        "-O qcow2 --bitmaps --skip-broken-bitmaps broken.qcow2",
        "-O qcow2 --bitmaps broken.qcow2",
        "-O qcow2 --skip-broken-bitmaps broken.qcow2",
        "-O raw --bitmaps source.qcow2",
        "-O qcow2 -o compat=0.10 --bitmaps source.qcow2",
        "-O qcow2 --bitmaps disk.raw",
        "-O qcow2 --bitmaps disk.qcow2",
        "-O qcow2 --bitmaps old.qcow2",
        "-O qcow2 --bitmaps source.qcow2 source.qcow2",
    ] {
        for name in ["ours.img", "theirs.img"] {
            let _ = std::fs::remove_file(folder.path().join(name));
            if args.contains("-n") {
                qemu_img.run_in(folder.path(), ["create", "-q", "-f", "qcow2", name, "1M"]);
            }
        }
        let with = |target| {
            ["convert"]
                .into_iter()
                .chain(args.split(' '))
                .chain([target])
        };
        let ours = ours(folder.path(), with("ours.img"));
        let theirs = theirs(&qemu_img, folder.path(), with("theirs.img"));
        assert_eq!(
            ours.code, theirs.code,
            "{args}: {} / {}",
            ours.err, theirs.err
        );
        assert_eq!(ours.err.is_empty(), theirs.err.is_empty(), "{args}");
        if ours.code != Some(0) {
            assert!(!folder.path().join("ours.img").exists(), "{args}");
            continue;
        }
        assert_eq!(bitmaps("ours.img"), bitmaps("theirs.img"), "{args}");
        qemu_img.run_in(folder.path(), ["check", "-q", "ours.img"]);
        let compare = ["compare", "-q", "ours.img", "theirs.img"];
        qemu_img.run_in(folder.path(), compare);
    }
    // What they say: merged into one that knew nothing, and told by us and by QEMU alike.
    for name in ["fine", "coarse", "none"] {
        let args = [
            "convert",
            "-O",
            "qcow2",
            "--bitmaps",
            "source.qcow2",
            "ours.img",
        ];
        assert_eq!(ours(folder.path(), args).code, Some(0));
        let options = diskette::safe_options();
        let runs = |image: &str| {
            let path = folder.path().join(image);
            let bitmap = diskette::open_bitmap(path, name, &options).unwrap();
            (
                bitmap.next_dirty(0).unwrap(),
                bitmap.next_dirty(500 << 10).unwrap(),
            )
        };
        assert_eq!(runs("ours.img"), runs("source.qcow2"), "{name}");
    }
}

#[test]
fn measure_counts_all_bitmaps_as_qemu_img_does() {
    let Some((qemu_img, folder)) = sources() else {
        return;
    };
    for image in ["source.qcow2", "broken.qcow2", "disk.qcow2", "old.qcow2"] {
        for options in ["cluster_size=64k", "cluster_size=512", "compat=0.10"] {
            let args = [
                "measure",
                "--output=json",
                "-O",
                "qcow2",
                "-o",
                options,
                image,
            ];
            let ours = ours(folder.path(), args).json().unwrap();
            let theirs = theirs(&qemu_img, folder.path(), args).json().unwrap();
            assert_eq!(ours, theirs, "{image} {options}");
        }
    }
}
