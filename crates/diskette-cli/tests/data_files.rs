//! QCOW2 images whose data lie in another file, made by the command and held against qemu-img's.

#![allow(clippy::unwrap_used, reason = "a panic is a failed test")]

mod common;

use std::fs;
use std::path::Path;

use common::{Answer, ours, theirs};
use diskette_testkit::{Rng, Tool, qemu_img};

const SECRET: &str = "--object=secret,id=s0,data=hunter2";

fn disk(folder: &Path) -> Vec<u8> {
    let mut bytes = vec![0; (1 << 20) + 512 * 3];
    let mut rng = Rng::new(5);
    rng.fill(&mut bytes[..150_000]);
    rng.fill(&mut bytes[600_000..600_010]);
    rng.fill(&mut bytes[1 << 20..]);
    fs::write(folder.join("disk.raw"), &bytes).unwrap();
    bytes
}

fn run(folder: &Path, line: &str) -> Answer {
    let answer = ours(folder, line.split_whitespace());
    assert_eq!(answer.code, Some(0), "{line}: {}", answer.err);
    answer
}

fn qemu(tool: &Tool, folder: &Path, line: &str) -> Answer {
    let answer = theirs(tool, folder, line.split_whitespace());
    assert_eq!(answer.code, Some(0), "{line}: {}", answer.err);
    answer
}

#[test]
fn what_the_command_puts_into_a_data_file_is_read_and_changed_by_qemu_img() {
    let Some(tool) = qemu_img() else { return };
    for options in [
        "",
        ",data_file_raw=on",
        ",cluster_size=4k",
        ",extended_l2=on,cluster_size=16k",
        ",extended_l2=on,data_file_raw=on",
        ",preallocation=metadata",
        ",preallocation=falloc,data_file_raw=on",
        ",preallocation=full",
    ] {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        let mut bytes = disk(folder);
        let made = format!("-o data_file=ours.data{options} disk.raw ours.qcow2");
        run(folder, &format!("convert -f raw -O qcow2 {made}"));
        qemu(&tool, folder, "check ours.qcow2");
        run(folder, "check ours.qcow2");
        qemu(&tool, folder, "compare ours.qcow2 disk.raw");
        run(folder, "compare ours.qcow2 disk.raw");
        let raw = options.contains("data_file_raw");
        let data = fs::read(folder.join("ours.data")).unwrap();
        assert_eq!(data.len(), bytes.len(), "{options}");
        assert!(!raw || data == bytes, "{options}");
        let theirs = format!("-o data_file=theirs.data{options} disk.raw theirs.qcow2");
        qemu(&tool, folder, &format!("convert -f raw -O qcow2 {theirs}"));
        let told = |image: &str| {
            let out = qemu(&tool, folder, &format!("info --output=json {image}.qcow2")).json();
            let mut out = out.unwrap()["format-specific"].take();
            out["data"]["data-file"] = image.into();
            out.to_string().replace(image, "")
        };
        assert_eq!(told("ours"), told("theirs"), "{options}");

        run(folder, "resize ours.qcow2 2M");
        bytes.resize(2 << 20, 0);
        run(
            folder,
            "bench -q -w --pattern 3 -c 2 -s 5000 -S 900000 -o 12288 ours.qcow2",
        );
        bytes[12_288..17_288].fill(3);
        bytes[912_288..917_288].fill(3);
        fs::write(folder.join("disk.raw"), &bytes).unwrap();
        qemu(&tool, folder, "compare ours.qcow2 disk.raw");
        qemu(&tool, folder, "check ours.qcow2");
        assert!(
            !raw || fs::read(folder.join("ours.data")).unwrap() == bytes,
            "{options}"
        );
    }
}

#[test]
fn images_with_a_data_file_are_created_as_by_qemu_img() {
    let Some(tool) = qemu_img() else { return };
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    for options in [
        "data_file=d.data",
        "data_file=d.data,data_file_raw=on",
        "data_file=d.data,data_file_raw=on,preallocation=falloc,extended_l2=on",
    ] {
        let line = format!("create -f qcow2 -o {options} x.qcow2 3M");
        assert_eq!(run(folder, &line).out, qemu(&tool, folder, &line).out);
        run(folder, &line);
        let map = run(folder, "map --output=json x.qcow2").json();
        assert_eq!(
            map,
            qemu(&tool, folder, "map --output=json x.qcow2").json(),
            "{options}"
        );
        qemu(&tool, folder, "check x.qcow2");
        assert_eq!(fs::metadata(folder.join("d.data")).unwrap().len(), 3 << 20);
    }
}

#[test]
fn an_encrypted_data_file_and_an_overlay_with_one_are_read_by_qemu_img() {
    let Some(tool) = qemu_img() else { return };
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    disk(folder);
    let luks = "encrypt.format=luks,encrypt.key-secret=s0,encrypt.iterations=1000";
    run(
        folder,
        &format!("convert {SECRET} -f raw -O qcow2 -o data_file=x.data,{luks} disk.raw x.qcow2"),
    );
    let image = "driver=qcow2,encrypt.key-secret=s0,file.filename=x.qcow2";
    let line = format!("compare {SECRET} --image-opts {image} driver=raw,file.filename=disk.raw");
    qemu(&tool, folder, &line);
    run(folder, &line);

    let mut bytes = fs::read(folder.join("disk.raw")).unwrap();
    fs::write(folder.join("base.raw"), &bytes).unwrap();
    bytes[..70_000].fill(0);
    bytes[700_000..700_100].fill(8);
    fs::write(folder.join("disk.raw"), &bytes).unwrap();
    let over =
        "convert -f raw -O qcow2 -B base.raw -F raw -o data_file=over.data disk.raw over.qcow2";
    run(folder, over);
    qemu(&tool, folder, "compare over.qcow2 disk.raw");
    qemu(&tool, folder, "check over.qcow2");
}

#[test]
fn a_data_file_is_made_beside_the_image_and_nowhere_else() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    disk(folder);
    for (options, why) in [
        ("data_file=../x.data", "not a name of one file"),
        ("data_file=/nonexistent/x.data", "not a name of one file"),
        ("data_file=x.qcow2", "it is the image's own file"),
        ("data_file_raw=on", "data_file_raw: needs data_file"),
    ] {
        let answer = ours(
            folder,
            ["create", "-f", "qcow2", "-o", options, "x.qcow2", "1M"],
        );
        assert_eq!(answer.code, Some(1), "{options}");
        assert!(answer.err.contains(why), "{options}: {}", answer.err);
        assert!(!folder.join("x.qcow2").exists());
    }
    let piped = ours(
        folder,
        [
            "convert",
            "-O",
            "qcow2",
            "-o",
            "data_file=d",
            "disk.raw",
            "-",
        ],
    );
    assert_eq!(piped.code, Some(1));
    assert!(piped.err.contains("one file only"), "{}", piped.err);
    let packed = ours(
        folder,
        [
            "convert",
            "-c",
            "-O",
            "qcow2",
            "-o",
            "data_file=d",
            "disk.raw",
            "x.qcow2",
        ],
    );
    assert!(
        packed.err.contains("compressed data need the image's own"),
        "{}",
        packed.err
    );
}
