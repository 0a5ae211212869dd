//! `json:` names, taken of the user by every subcommand, as by qemu-img; and of images by none.

#![allow(clippy::unwrap_used, reason = "a panic is a failed test")]

mod common;

use std::fs;
use std::path::Path;

use common::ours;
use diskette_testkit::qemu_img;

const NESTED: &str = r#"json:{"driver":"qcow2","file":{"driver":"file","filename":"disk.qcow2"}}"#;
const DOTTED: &str = "json:{'driver':'qcow2','file.driver':'file','file.filename':'disk.qcow2'}";
const RAW: &str = r#"json:{"driver":"raw","file":{"driver":"file","filename":"disk.raw"}}"#;

fn done(folder: &Path, args: &[&str]) -> String {
    let answer = ours(folder, args);
    assert_eq!(answer.code, Some(0), "{args:?}: {}", answer.err);
    answer.out
}

/// A raw disk, and a QCOW2 image of it.
fn disks(folder: &Path) {
    let mut bytes = vec![0; 300 << 10];
    bytes[70_000..140_000].fill(7);
    fs::write(folder.join("disk.raw"), bytes).unwrap();
    done(
        folder,
        &["convert", "-O", "qcow2", "disk.raw", "disk.qcow2"],
    );
}

#[test]
fn every_subcommand_takes_them() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    disks(folder);
    for name in [NESTED, DOTTED] {
        done(folder, &["info", name]);
        done(folder, &["check", name]);
        done(folder, &["map", name]);
        done(folder, &["compare", name, RAW]);
        done(folder, &["measure", "-O", "raw", name]);
        done(folder, &["bench", "-c", "2", name]);
        done(folder, &["convert", "-O", "raw", name, "back.raw"]);
        done(
            folder,
            &["dd", "count=2", &format!("if={name}"), "of=part.raw"],
        );
        done(folder, &["snapshot", "-c", "one", name]);
        assert!(done(folder, &["snapshot", "-l", name]).contains("one"));
        done(folder, &["snapshot", "-d", "one", name]);
        done(folder, &["resize", name, "+64k"]);
        done(folder, &["resize", "--shrink", name, "300k"]);
        done(folder, &["amend", "-o", "lazy_refcounts=off", name]);
        done(folder, &["convert", "-n", "-O", "qcow2", "disk.raw", name]);
        done(folder, &["digest", name]);
        done(folder, &["inspect", name]);
    }
    done(
        folder,
        &[
            "create",
            "-q",
            "-f",
            "qcow2",
            "-b",
            "disk.qcow2",
            "-F",
            "qcow2",
            "over.qcow2",
        ],
    );
    let over = NESTED.replace("disk.qcow2", "over.qcow2");
    done(
        folder,
        &["rebase", "-u", "-b", "disk.raw", "-F", "raw", &over],
    );
    done(folder, &["commit", &over]);
    done(folder, &["compare", "disk.raw", RAW]);
}

#[test]
fn what_they_name_is_what_qemu_img_takes_it_for() {
    let Some(tool) = qemu_img() else { return };
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    disks(folder);
    let name = |driver: &str| {
        format!(
            r#"json:{{"driver":"{driver}","file":{{"driver":"file","filename":"disk.qcow2"}}}}"#
        )
    };
    for args in [
        vec!["map", "--output=json", NESTED],
        vec!["map", "--output=json", DOTTED],
        vec!["map", "--output=json", &name("raw")],
        // What is named besides goes before.
        vec!["map", "--output=json", "-f", "raw", NESTED],
        vec!["info", NESTED],
        vec!["info", "--output=json", DOTTED],
        vec!["info", &name("raw")],
        vec!["check", NESTED],
    ] {
        let theirs = common::theirs(&tool, folder, &args);
        assert_eq!(ours(folder, &args), theirs, "{args:?}");
        assert_eq!(theirs.code, Some(0), "{args:?}: {}", theirs.err);
    }
}

#[test]
fn they_are_followed_nowhere_else() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    disks(folder);
    let refused = |args: &[&str], why: &str| {
        let answer = ours(folder, args);
        assert_eq!(answer.code, Some(1), "{args:?}");
        assert!(answer.err.contains(why), "{args:?}: {}", answer.err);
    };
    let needs_a_name = "need a file's name";
    refused(&["create", NESTED, "1M"], needs_a_name);
    refused(
        &[
            "create", "-f", "qcow2", "-b", NESTED, "-F", "qcow2", "x.qcow2",
        ],
        needs_a_name,
    );
    let backing = format!(
        "backing_file={},backing_fmt=qcow2",
        DOTTED.replace(',', ",,")
    );
    refused(
        &["create", "-f", "qcow2", "-o", &backing, "x.qcow2"],
        needs_a_name,
    );
    refused(&["convert", "disk.raw", NESTED], needs_a_name);
    refused(
        &[
            "convert", "-O", "qcow2", "-B", NESTED, "-F", "qcow2", "disk.raw", "x.qcow2",
        ],
        needs_a_name,
    );
    refused(
        &["rebase", "-u", "-b", NESTED, "-F", "qcow2", "disk.qcow2"],
        needs_a_name,
    );
    refused(
        &["dd", "if=disk.raw", &format!("of={NESTED}")],
        needs_a_name,
    );
    refused(
        &[
            "info",
            r#"json:{"driver":"qcow2","file":{"driver":"nbd","host":"x"}}"#,
        ],
        "option file.driver: only file and host_device are supported",
    );
    refused(
        &["info", r#"json:{"driver":"qcow2","file":"node"}"#],
        "option file: not supported",
    );
    refused(&["info", "json:{"], "json:: option name: EOF");
    assert_eq!(
        ours(folder, ["compare", "json:{", "disk.raw"]).code,
        Some(2)
    );

    // An image that names one, made by a patch of its bytes.
    let name = "json:{'driver':'raw','file':{'driver':'file','filename':'disk.raw'}}";
    let stand_in = "a".repeat(name.len());
    done(
        folder,
        &[
            "create",
            "-q",
            "-u",
            "-f",
            "qcow2",
            "-b",
            &stand_in,
            "-F",
            "raw",
            "evil.qcow2",
            "300k",
        ],
    );
    let image = fs::read(folder.join("evil.qcow2")).unwrap();
    let at = image
        .windows(name.len())
        .position(|found| found == stand_in.as_bytes())
        .unwrap();
    let mut image = image;
    image[at..at + name.len()].copy_from_slice(name.as_bytes());
    fs::write(folder.join("evil.qcow2"), image).unwrap();
    refused(&["map", "evil.qcow2"], "refused backing file");
}
