//! VDI, VPC and VHDX made by the command, in qemu-img's words.

#![allow(clippy::unwrap_used, reason = "a panic is a failed test")]

mod common;

use std::fs;
use std::path::Path;

use common::{ours, theirs};
use diskette_testkit::{Content, Rng, Tool, qemu_img, qemu_io};

const MIB: usize = 1 << 20;

/// Runs our command, which must succeed, and gives what it prints.
fn run(folder: &Path, args: &str) -> String {
    let answer = ours(folder, args.split(' '));
    assert_eq!((answer.code, answer.err.as_str()), (Some(0), ""), "{args}");
    answer.out
}

#[test]
fn create_tells_what_qemu_img_tells_and_makes_the_same_disk() {
    let Some(qemu_img) = qemu_img() else { return };
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    for words in [
        "-f vdi",
        "-f vdi -o static=on",
        "-f vpc",
        "-f vpc -o subformat=fixed,force_size=on",
        "-f vhdx",
        "-f vhdx -o subformat=fixed,block_size=2M,log_size=3M,block_state_zero=off",
        "-f vhdx -o block_size=3M",
        "-f vpc -o size=7M",
    ] {
        let size = if words.contains("size=7M") {
            ""
        } else {
            " 5000001"
        };
        let args = format!("create {words} image{size}");
        let (our, their) = (
            ours(folder, args.split(' ')),
            theirs(&qemu_img, folder, args.split(' ')),
        );
        assert_eq!(our.code == Some(0), their.code == Some(0), "{args}");
        if our.code != Some(0) {
            continue;
        }
        assert_eq!(our.out, their.out, "{args}");
        let size = |folder: &Path| {
            let format = words.split(' ').nth(1).unwrap();
            let args = ["info", "-f", format, "--output=json", "image"];
            let info = theirs(&qemu_img, folder, args).json().unwrap();
            info["virtual-size"].as_u64().unwrap()
        };
        let theirs = size(folder);
        run(folder, &args);
        assert_eq!(size(folder), theirs, "{args}");
    }
}

#[test]
fn options_are_listed() {
    let folder = tempfile::tempdir().unwrap();
    for (format, options) in [
        ("vdi", ["static=<on|off>", "uuid=<UUID|random|derived>"]),
        ("vpc", ["azure=<on|off>", "subformat=<dynamic|fixed>"]),
        (
            "vhdx",
            ["block_size=<size>", "logical_sector_size=<512|4096>"],
        ),
    ] {
        for words in ["create -f", "convert -O"] {
            let help = run(folder.path(), &format!("{words} {format} -o help"));
            for option in options {
                assert!(help.contains(option), "{help}");
            }
        }
    }
}

#[test]
fn sizes_are_measured_before_and_found_after() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let mut noise = vec![0; 11 * MIB];
    Rng::new(1).fill(&mut noise);
    fs::write(folder.join("raw"), noise).unwrap();
    for words in [
        "-O vdi",
        "-O vdi -o static=on",
        "-O vpc -o force_size=on",
        "-O vpc -o azure",
        "-O vhdx",
        "-O vhdx -o subformat=fixed",
    ] {
        let measured = run(folder, &format!("measure --output=json -f raw {words} raw"));
        let measured: serde_json::Value = serde_json::from_str(&measured).unwrap();
        run(folder, &format!("convert -f raw {words} raw image"));
        let len = fs::metadata(folder.join("image")).unwrap().len();
        assert_eq!(measured["required"], len, "{words}");
        assert_eq!(measured["fully-allocated"], len, "{words}");
    }
}

#[test]
fn the_same_disk_gives_the_same_image_twice_unless_told_otherwise() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    fs::write(folder.join("raw"), Content::new(3).bytes(5 * MIB)).unwrap();
    let image = |words: &str| {
        run(folder, &format!("convert -f raw {words} raw image"));
        fs::read(folder.join("image")).unwrap()
    };
    for words in ["-O vdi", "-O vpc", "-O vhdx"] {
        assert!(image(words) == image(&format!("{words} -m 7")), "{words}");
        let random = format!("{words} -o uuid=random");
        assert!(image(&random) != image(&random), "{words}");
    }
}

#[test]
fn images_that_exist_are_written_into() {
    let Some(qemu_img) = qemu_img() else { return };
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    fs::write(folder.join("one"), Content::new(3).bytes(5 * MIB)).unwrap();
    fs::write(folder.join("two"), Content::new(4).bytes(5 * MIB)).unwrap();
    for (format, options) in [
        ("vdi", "static=on"),
        ("vdi", "static=off"),
        ("vpc", "subformat=fixed,force_size=on"),
        ("vpc", "subformat=dynamic,force_size=on"),
        ("vhdx", "subformat=fixed"),
        ("vhdx", "subformat=dynamic"),
        ("vmdk", "subformat=monolithicSparse"),
        ("vmdk", "subformat=twoGbMaxExtentSparse"),
        ("vmdk", "subformat=monolithicFlat"),
    ] {
        let convert = format!("convert -f raw -O {format} -o {options} one image");
        run(folder, &convert);
        run(folder, &format!("convert -n -f raw -O {format} two image"));
        let compare = format!("compare -f raw -F {format} two image");
        qemu_img.run_in(folder, compare.split(' '));
        run(folder, &format!("check -f {format} image"));
    }
}

#[test]
fn after_a_failure_there_is_no_new_image() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    fs::write(folder.join("raw"), Content::new(3).bytes(5 * MIB)).unwrap();
    run(folder, "convert -f raw -O vdi raw whole");
    // Its last block is not there.
    let whole = fs::read(folder.join("whole")).unwrap();
    fs::write(folder.join("cut"), &whole[..whole.len() - MIB]).unwrap();
    let before = names(folder);
    for format in ["vdi", "vpc", "vhdx"] {
        for words in ["", " -o size=1000P", " -c", " -o color=red"] {
            let args = format!("convert -f vdi -O {format}{words} cut image");
            let answer = ours(folder, args.split(' '));
            assert_eq!(answer.code, Some(1), "{args}");
            assert_eq!(names(folder), before, "{args}");
        }
    }
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> = names.collect();
    names.sort();
    names
}

/// qemu-img makes none of these overlays, but the source of what goes into them.
#[test]
fn overlays_hold_what_their_source_has_and_show_the_rest() {
    let (Some(qemu_img), Some(qemu_io)) = (qemu_img(), qemu_io()) else {
        return;
    };
    for (format, option) in [
        ("vdi", "uuid=random"),
        ("vpc", "timestamp=now"),
        ("vhdx", "block_size=1M"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        let run = |args: &str| run(folder, args);
        fs::create_dir(folder.join("sub")).unwrap();
        fs::write(folder.join("raw"), Content::new(3).bytes(17 * MIB + 512)).unwrap();
        run(&format!("convert -f raw -O {format} raw sub/base"));
        let create = format!("create -q -f qcow2 -b sub/base -F {format} source 20M");
        qemu_img.run_in(folder, create.split(' '));
        let commands = [
            "write -P 1 3M 512",
            "write -P 2 6000k 3M",
            "write -z 12M 2M",
            "write -z 14500k 64k",
            "write -P 3 18M 1M",
        ];
        let args = ["-f", "qcow2"].into_iter();
        let args = args.chain(commands.into_iter().flat_map(|command| ["-c", command]));
        qemu_io.run_in(folder, args.chain(["source"]));

        // VDI knows no paths: its parent is looked for in its own folder.
        let (base, image) = match format {
            "vdi" => ("base", "sub/image"),
            _ => ("sub/base", "image"),
        };
        let over = format!("-O {format} -o {option} -B {base} -F {format}");
        run(&format!("convert -f qcow2 {over} source {image}"));
        run(&format!("compare -f qcow2 -F {format} source {image}"));
        run(&format!("check -f {format} {image}"));
        let len = |name: &str| fs::metadata(folder.join(name)).unwrap().len();
        assert!(len(image) < len("sub/base"), "{format}");

        // A parent that is another one now is not taken for the first.
        run(&format!(
            "convert -f raw -O {format} -o uuid=random raw sub/base"
        ));
        let args = format!("compare -f qcow2 -F {format} source {image}");
        assert_ne!(ours(folder, args.split(' ')).code, Some(0), "{format}");

        run(&format!(
            "create -q -f {format} -b {base} -F {format} {image}"
        ));
        let size = |name: &str| {
            let info = ours(folder, ["info", "-f", format, "--output=json", name]);
            info.json().unwrap()["virtual-size"].as_u64().unwrap()
        };
        assert_eq!(size(image), size("sub/base"));
        run(&format!("compare -f {format} -F {format} {image} sub/base"));
    }
}

#[test]
fn overlays_that_cannot_be_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    for (format, fixed) in [
        ("vdi", "static=on"),
        ("vpc", "subformat=fixed"),
        ("vhdx", "subformat=fixed"),
    ] {
        run(folder, &format!("create -q -f {format} base 1M"));
        run(folder, "create -q -f raw other 1M");
        for (words, said) in [
            (
                format!("-o {fixed} -b base -F {format}"),
                "over a backing file",
            ),
            ("-b other -F raw".to_owned(), "of another format"),
            (format!("-u -b base -F {format}"), "it was not opened"),
        ] {
            let args = format!("create -q -f {format} {words} image 1M");
            let answer = ours(folder, args.split(' '));
            assert_eq!(answer.code, Some(1), "{args}");
            assert!(answer.err.contains(said), "{args}: {}", answer.err);
        }
    }
}

/// What qemu-img's own options and ours have in common, the other way round: its images are converted, too.
#[test]
fn images_go_from_each_format_to_each() {
    let Some(qemu_img) = qemu_img() else { return };
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let disk = Content::new(5).bytes(3 * MIB + 512);
    fs::write(folder.join("raw"), disk).unwrap();
    let formats = ["vdi", "vpc", "vhdx", "qcow2"];
    for format in formats {
        their_image(&qemu_img, folder, format);
    }
    for from in formats {
        for to in formats {
            run(folder, &format!("convert -f {from} -O {to} {from} image"));
            let compare = format!("compare -f raw -F {to} raw image");
            qemu_img.run_in(folder, compare.split(' '));
        }
    }
}

fn their_image(qemu_img: &Tool, folder: &Path, format: &str) {
    let args = format!("convert -f raw -O {format} raw {format}");
    qemu_img.run_in(folder, args.split(' '));
}
