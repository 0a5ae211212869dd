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

/// The disk of an image, by qemu-img and by the command.
fn expect_disk(tool: &Tool, folder: &Path, image: &str, bytes: &[u8]) {
    fs::write(folder.join("expected.raw"), bytes).unwrap();
    let line = format!("compare --image-opts {image} driver=raw,file.filename=expected.raw");
    qemu(tool, folder, &line);
    done(folder, &line);
}

#[test]
fn encrypted_images_are_created_changed_and_lived_with() {
    let Some(tool) = qemu_img() else { return };
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let mut bytes = disk(folder);
    let image = format!("{QCOW2}x.qcow2");
    done(
        folder,
        &format!("create -q -f qcow2 -o {FAST} x.qcow2 {}", bytes.len()),
    );
    done(
        folder,
        &format!("convert -n -f raw disk.raw --target-image-opts {image}"),
    );
    expect_disk(&tool, folder, &image, &bytes);

    done(folder, &format!("snapshot -c one --image-opts {image}"));
    bytes[4096..8192].fill(9);
    let line = format!("bench -q -w --pattern 9 -c 1 -s 4096 -o 4096 --image-opts {image}");
    done(folder, &line);
    expect_disk(&tool, folder, &image, &bytes);
    qemu(
        &tool,
        folder,
        &format!("snapshot -a one --image-opts {image}"),
    );
    expect_disk(
        &tool,
        folder,
        &image,
        &fs::read(folder.join("disk.raw")).unwrap(),
    );
    done(folder, &format!("snapshot -d one --image-opts {image}"));

    let mut bytes = fs::read(folder.join("disk.raw")).unwrap();
    bytes.resize(3 << 20, 0);
    done(folder, &format!("resize --image-opts {image} 3M"));
    expect_disk(&tool, folder, &image, &bytes);
    bytes.truncate(700_416);
    done(
        folder,
        &format!("resize --shrink --image-opts {image} 684k"),
    );
    expect_disk(&tool, folder, &image, &bytes);
    bytes.resize(1 << 20, 0);
    done(folder, &format!("resize --image-opts {image} 1M"));
    expect_disk(&tool, folder, &image, &bytes);
    done(
        folder,
        &format!("amend -o refcount_bits=64,lazy_refcounts=on --image-opts {image}"),
    );
    expect_disk(&tool, folder, &image, &bytes);
    qemu(&tool, folder, &format!("check --image-opts {image}"));
}

#[test]
fn encrypted_overlays_are_committed_and_rebased() {
    let Some(tool) = qemu_img() else { return };
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let mut bytes = disk(folder);
    done(
        folder,
        &format!("convert -f raw -O qcow2 -o {FAST} disk.raw base.qcow2"),
    );
    done(
        folder,
        &format!(
            "create -q -f qcow2 -b base.qcow2 -F qcow2 -o {FAST},cluster_size=4k x.qcow2 {}",
            bytes.len()
        ),
    );
    let image =
        "driver=qcow2,file.filename=x.qcow2,encrypt.key-secret=s0,backing.encrypt.key-secret=s0";
    let patched = |bytes: &mut Vec<u8>, at: usize, pattern: u8| {
        bytes[at..at + 1024].fill(pattern);
        let line =
            format!("bench -q -w --pattern {pattern} -c 1 -s 1024 -o {at} --image-opts {image}");
        done(folder, &line);
        expect_disk(&tool, folder, image, bytes);
    };
    patched(&mut bytes, 512, 1);
    patched(&mut bytes, 700_416, 2);
    done(folder, &format!("commit -q --image-opts {image}"));
    expect_disk(&tool, folder, image, &bytes);
    expect_disk(&tool, folder, &format!("{QCOW2}base.qcow2"), &bytes);
    patched(&mut bytes, 90_112, 3);

    fs::write(folder.join("other.raw"), vec![0x33; 300_032]).unwrap();
    done(
        folder,
        &format!("rebase -b other.raw -F raw --image-opts {image}"),
    );
    let alone = format!("{QCOW2}x.qcow2");
    expect_disk(&tool, folder, &alone, &bytes);
    let line = ["rebase", "-b", "", "--image-opts", &alone];
    let answer = ours(folder, [&line[..1], &SECRET[..], &line[1..]].concat());
    assert_eq!(answer.code, Some(0), "{}", answer.err);
    expect_disk(&tool, folder, &alone, &bytes);
    qemu(&tool, folder, &format!("check --image-opts {alone}"));
}

#[test]
fn compression_and_encryption_exclude_each_other() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    disk(folder);
    let answer = run(
        folder,
        &format!("convert -c -f raw -O qcow2 -o {FAST} disk.raw x.qcow2"),
    );
    assert_eq!(answer.code, Some(1));
    assert!(answer.err.contains("compress"), "{}", answer.err);
    assert!(!folder.join("x.qcow2").exists());
}

const SECRETS: [&str; 6] = [
    "--object",
    "secret,id=s0,data=hunter2",
    "--object",
    "secret,id=s1,data=second",
    "--object",
    "secret,id=s2,data=third",
];

#[test]
fn key_slots_are_amended_in_turns_with_qemu_img() {
    let Some(tool) = qemu_img() else { return };
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    disk(folder);
    done(
        folder,
        &format!("convert -f raw -O qcow2 -o {FAST} disk.raw x.qcow2"),
    );
    done(
        folder,
        "convert -f raw -O luks -o key-secret=s0,iterations=1000 disk.raw x.luks",
    );
    for (driver, prefix, file) in [("qcow2", "encrypt.", "x.qcow2"), ("luks", "", "x.luks")] {
        let image = |secret: &str| {
            format!("driver={driver},{prefix}key-secret={secret},file.filename={file}")
        };
        let options = |pairs: &str| {
            let pairs = pairs.split(',').map(|pair| format!("{prefix}{pair}"));
            pairs.collect::<Vec<_>>().join(",")
        };
        let amend = |theirs: bool, secret: &str, pairs: &str, force: bool| {
            let (options, image) = (options(pairs), image(secret));
            let mut words = vec!["amend"];
            words.extend(SECRETS);
            words.extend(["-o", &options, "--image-opts", &image]);
            words.extend(force.then_some("--force"));
            let answer = match theirs {
                true => common::theirs(&tool, folder, &words),
                false => ours(folder, &words),
            };
            answer.code
        };
        let opens = |secret: &str| {
            let image = image(secret);
            let mut words = vec!["compare"];
            words.extend(SECRETS);
            words.extend(["--image-opts", &image, "driver=raw,file.filename=disk.raw"]);
            let (ours, theirs) = (ours(folder, &words), common::theirs(&tool, folder, &words));
            assert_eq!(
                ours.code, theirs.code,
                "{file}, {secret}: {} {}",
                ours.err, theirs.err
            );
            ours.code == Some(0)
        };
        let fast = "iter-time=10";
        assert_eq!(
            amend(
                false,
                "s0",
                &format!("state=active,new-secret=s1,{fast}"),
                false
            ),
            Some(0)
        );
        assert!(opens("s0") && opens("s1") && !opens("s2"));
        assert_eq!(
            amend(
                true,
                "s1",
                &format!("state=active,new-secret=s2,keyslot=5,{fast}"),
                false
            ),
            Some(0)
        );
        assert!(opens("s2"));
        // A slot in use, and the last one, take force.
        for theirs in [true, false] {
            assert_eq!(
                amend(theirs, "s0", "state=active,new-secret=s1,keyslot=5", false),
                Some(1)
            );
        }
        assert_eq!(
            amend(false, "s0", "state=inactive,old-secret=s0", false),
            Some(0)
        );
        assert!(!opens("s0") && opens("s1") && opens("s2"));
        assert_eq!(
            amend(true, "s2", "state=inactive,old-secret=s1", false),
            Some(0)
        );
        for theirs in [true, false] {
            assert_eq!(
                amend(theirs, "s2", "state=inactive,old-secret=s2", false),
                Some(1)
            );
        }
        assert!(opens("s2"));
        assert_eq!(
            amend(
                false,
                "s2",
                &format!("state=active,new-secret=s1,keyslot=5,{fast}"),
                true
            ),
            Some(0)
        );
        assert!(opens("s1") && !opens("s2"));
        assert_eq!(
            amend(false, "s1", "state=inactive,keyslot=5", true),
            Some(0)
        );
        assert!(!opens("s1"));
    }
}

#[test]
fn a_luks_image_of_ours_is_opened_by_cryptsetup() {
    let Some(cryptsetup) = Tool::find("cryptsetup") else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    disk(folder);
    done(
        folder,
        "convert -f raw -O luks -o key-secret=s0,iterations=1000 disk.raw x.luks",
    );
    let amend = "amend -o state=active,new-secret=s1,iterations=1000 --image-opts driver=luks,key-secret=s0,file.filename=x.luks";
    let mut words: Vec<&str> = amend.split_whitespace().collect();
    words.splice(1..1, SECRETS);
    assert_eq!(ours(folder, &words).code, Some(0));
    for (passphrase, slot) in [("hunter2", "0"), ("second", "1")] {
        fs::write(folder.join("key"), passphrase).unwrap();
        cryptsetup.run_in(
            folder,
            [
                "open",
                "--test-passphrase",
                "--type",
                "luks1",
                "--key-slot",
                slot,
                "--key-file",
                "key",
                "x.luks",
            ],
        );
    }
}
