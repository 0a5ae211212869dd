//! Encrypted images by the command, held against qemu-img: what one makes the other reads, and says the same of.

#![allow(clippy::unwrap_used, reason = "a panic is a failed test")]

mod common;

use std::fs;
use std::path::Path;

use common::{Answer, ours};
use diskette_testkit::{Rng, Tool, qemu_img};

const SECRET: [&str; 2] = ["--object", "secret,id=s0,data=hunter2"];

/// Data, zeros and a run that ends within a cluster; the disk ends within a cluster, too.
fn disk(folder: &Path) -> Vec<u8> {
    let mut bytes = vec![0; (1 << 20) + 512 * 5];
    let mut rng = Rng::new(3);
    rng.fill(&mut bytes[..150_000]);
    rng.fill(&mut bytes[600_000..600_010]);
    rng.fill(&mut bytes[1 << 20..]);
    fs::write(folder.join("disk.raw"), &bytes).unwrap();
    bytes
}

/// Runs a line of words, with the secret.
fn run(folder: &Path, line: &str) -> Answer {
    let mut words: Vec<&str> = line.split_whitespace().collect();
    words.splice(1..1, SECRET);
    ours(folder, words)
}

fn done(folder: &Path, line: &str) -> Answer {
    let answer = run(folder, line);
    assert_eq!(answer.code, Some(0), "{line}: {}", answer.err);
    answer
}

fn qemu(tool: &Tool, folder: &Path, line: &str) -> Answer {
    let mut words: Vec<&str> = line.split_whitespace().collect();
    words.splice(1..1, SECRET);
    let answer = common::theirs(tool, folder, words);
    assert_eq!(answer.code, Some(0), "{line}: {}", answer.err);
    answer
}

const QCOW2: &str = "driver=qcow2,encrypt.key-secret=s0,file.filename=";
const LUKS: &str = "driver=luks,key-secret=s0,file.filename=";
const FAST: &str = "encrypt.format=luks,encrypt.key-secret=s0,encrypt.iterations=1000";

#[test]
fn what_the_command_encrypts_is_read_by_qemu_img() {
    let Some(tool) = qemu_img() else { return };
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    disk(folder);
    for options in [
        "",
        ",cluster_size=512",
        ",cluster_size=2M",
        ",extended_l2=on,refcount_bits=1",
        ",compat=0.10",
        ",encrypt.cipher-alg=aes-256,encrypt.cipher-mode=cbc,encrypt.ivgen-alg=essiv",
        ",encrypt.cipher-alg=twofish-128,encrypt.hash-alg=sha1",
    ] {
        done(
            folder,
            &format!("convert -f raw -O qcow2 -o {FAST}{options} disk.raw x.qcow2"),
        );
        qemu(
            &tool,
            folder,
            &format!("compare --image-opts {QCOW2}x.qcow2 driver=raw,file.filename=disk.raw"),
        );
        qemu(&tool, folder, &format!("check --image-opts {QCOW2}x.qcow2"));
        done(
            folder,
            &format!("compare --image-opts {QCOW2}x.qcow2 driver=raw,file.filename=disk.raw"),
        );
        done(folder, &format!("check --image-opts {QCOW2}x.qcow2"));
        for what in ["map --output=json", "check --output=json"] {
            let line = format!("{what} --image-opts {QCOW2}x.qcow2");
            let (ours, theirs) = (
                done(folder, &line).json(),
                qemu(&tool, folder, &line).json(),
            );
            assert_eq!(
                ours.map(without_name),
                theirs.map(without_name),
                "{options}: {what}"
            );
        }
        for what in ["info", "info --output=json"] {
            let line = format!("{what} x.qcow2");
            assert_eq!(
                done(folder, &line).out,
                qemu(&tool, folder, &line).out,
                "{options}: {what}"
            );
        }
    }
}

/// `check` tells the name as it was given, be it a description.
fn without_name(mut answer: serde_json::Value) -> serde_json::Value {
    if let Some(object) = answer.as_object_mut() {
        object.remove("filename");
    }
    answer
}

#[test]
fn what_qemu_img_encrypts_is_read_by_the_command() {
    let Some(tool) = qemu_img() else { return };
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let bytes = disk(folder);
    for options in [
        "encrypt.format=luks,encrypt.iter-time=10",
        "encrypt.format=aes",
        "encrypt.format=aes,cluster_size=512",
    ] {
        qemu(
            &tool,
            folder,
            &format!("convert -f raw -O qcow2 -o {options},encrypt.key-secret=s0 disk.raw x.qcow2"),
        );
        done(
            folder,
            &format!("convert --image-opts {QCOW2}x.qcow2 back.raw"),
        );
        assert!(
            fs::read(folder.join("back.raw")).unwrap() == bytes,
            "{options}"
        );
        let line = format!("map --output=json --image-opts {QCOW2}x.qcow2");
        assert_eq!(
            done(folder, &line).json(),
            qemu(&tool, folder, &line).json()
        );
    }
    // A preallocated image: what was never written is noise, the same for both.
    qemu(
        &tool,
        folder,
        "create -q -f qcow2 -o encrypt.format=aes,encrypt.key-secret=s0,preallocation=metadata x.qcow2 1M",
    );
    let line = format!("map --output=json --image-opts {QCOW2}x.qcow2");
    assert_eq!(
        done(folder, &line).json(),
        qemu(&tool, folder, &line).json()
    );
    qemu(
        &tool,
        folder,
        &format!("convert --image-opts -O raw {QCOW2}x.qcow2 theirs.raw"),
    );
    done(
        folder,
        &format!("convert --image-opts {QCOW2}x.qcow2 ours.raw"),
    );
    assert!(
        fs::read(folder.join("theirs.raw")).unwrap() == fs::read(folder.join("ours.raw")).unwrap()
    );
}

#[test]
fn an_encrypted_overlay_hides_and_shows_what_lies_below() {
    let Some(tool) = qemu_img() else { return };
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let bytes = disk(folder);
    done(
        folder,
        &format!("convert -f raw -O qcow2 -o {FAST} disk.raw base.qcow2"),
    );
    // Over an encrypted base: zeros where it has data, data where it has none.
    let mut changed = bytes;
    changed[65536..131_072].fill(0);
    changed[700_000..700_100].fill(7);
    fs::write(folder.join("changed.raw"), &changed).unwrap();
    for compat in ["1.1", "0.10"] {
        done(
            folder,
            &format!("create -q -f qcow2 -b base.qcow2 -F qcow2 -o compat={compat} plain.qcow2"),
        );
        let overlay = format!("-o {FAST},compat={compat} -B base.qcow2 -F qcow2");
        done(
            folder,
            &format!("convert -f raw -O qcow2 {overlay} -S 0 changed.raw x.qcow2"),
        );
        let opts = "driver=qcow2,file.filename=x.qcow2,encrypt.key-secret=s0,backing.encrypt.key-secret=s0";
        done(
            folder,
            &format!("compare --image-opts {opts} driver=raw,file.filename=changed.raw"),
        );
        done(
            folder,
            &format!("convert -f raw -O qcow2 {overlay} changed.raw x.qcow2"),
        );
        done(
            folder,
            &format!("compare --image-opts {opts} driver=raw,file.filename=changed.raw"),
        );
        qemu(
            &tool,
            folder,
            &format!("compare --image-opts {opts} driver=raw,file.filename=changed.raw"),
        );
        // A secret that is given for the top alone is tried below, too.
        let opts = "driver=qcow2,file.filename=plain.qcow2,encrypt.key-secret=s0";
        done(
            folder,
            &format!("compare --image-opts {opts} driver=raw,file.filename=disk.raw"),
        );
    }
}

#[test]
fn luks_images_are_made_and_read_alike() {
    let Some(tool) = qemu_img() else { return };
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let bytes = disk(folder);
    done(
        folder,
        "convert --verify -f raw -O luks -o key-secret=s0,iterations=1000 disk.raw x.luks",
    );
    qemu(
        &tool,
        folder,
        &format!("compare --image-opts {LUKS}x.luks driver=raw,file.filename=disk.raw"),
    );
    for what in ["info", "info --output=json"] {
        let line = format!("{what} x.luks");
        assert_eq!(done(folder, &line).out, qemu(&tool, folder, &line).out);
    }
    let line = format!("map --output=json --image-opts {LUKS}x.luks");
    assert_eq!(
        done(folder, &line).json(),
        qemu(&tool, folder, &line).json()
    );
    fs::write(folder.join("zeros.raw"), vec![0; bytes.len()]).unwrap();
    let into = format!("--target-image-opts {LUKS}x.luks");
    done(folder, &format!("convert -n -f raw zeros.raw {into}"));
    qemu(
        &tool,
        folder,
        &format!("compare --image-opts {LUKS}x.luks driver=raw,file.filename=zeros.raw"),
    );
}

#[test]
fn new_images_are_announced_and_measured_alike() {
    let Some(tool) = qemu_img() else { return };
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    for line in [
        "create -f qcow2 -o encrypt.format=luks,encrypt.iter-time=10,encrypt.key-secret=s0,cluster_size=4k x 1M",
        "measure -O qcow2 --size 1G -o encrypt.format=luks,encrypt.iter-time=10,encrypt.key-secret=s0",
        "measure -O luks --size 1G -o iter-time=10,key-secret=s0",
    ] {
        assert_eq!(
            done(folder, line).out,
            qemu(&tool, folder, line).out,
            "{line}"
        );
    }
}

#[test]
fn a_missing_and_a_wrong_secret_are_told_clearly() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    disk(folder);
    done(
        folder,
        &format!("convert -f raw -O qcow2 -o {FAST} disk.raw x.qcow2"),
    );
    let said = |words: &[&str]| {
        let answer = ours(folder, words);
        assert_eq!(answer.code, Some(1), "{words:?}");
        answer.err
    };
    assert_eq!(
        said(&["map", "x.qcow2"]),
        "diskette: qcow2: option encrypt.key-secret: not given, and the image is encrypted; --object \
         secret,id=ID,file=FILE gives it, and --open-options or -o names its ID\n"
    );
    let opening = ["--open-options", "encrypt.key-secret=s0", "x.qcow2"];
    assert_eq!(
        said(
            &[
                &["map", "--object", "secret,id=s0,data=wrong"],
                &opening[..]
            ]
            .concat()
        ),
        "diskette: qcow2: option encrypt.key-secret: this secret opens none of the key slots\n"
    );
    assert_eq!(
        said(&[&["map"], &opening[..]].concat()),
        "diskette: qcow2: option encrypt.key-secret: no secret has the id \"s0\"\n"
    );
    done(folder, &["map --output=json", &opening.join(" ")].join(" "));
    let create = run(folder, "create -f qcow2 -o encrypt.format=luks y.qcow2 1M");
    assert!(
        create.err.contains("option encrypt.key-secret: not given"),
        "{}",
        create.err
    );
    assert!(!folder.join("y.qcow2").exists());
    assert_eq!(
        done(folder, "info x.qcow2").code,
        Some(0),
        "metadata need no secret"
    );
}
