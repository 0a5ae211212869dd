//! New VMDK images by the command.

#![allow(clippy::unwrap_used, reason = "a panic is a failed test")]

mod common;

use std::fs;

use common::{ours, theirs};
use diskette_testkit::qemu_img;

/// All five in all their files, over the arguments that scripts use.
#[test]
fn new_images_are_said_and_named_as_by_qemu_img() {
    let Some(qemu_img) = qemu_img() else {
        return;
    };
    for subformat in [
        "monolithicSparse",
        "monolithicFlat",
        "twoGbMaxExtentSparse",
        "twoGbMaxExtentFlat",
        "streamOptimized",
    ] {
        let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let options = format!("subformat={subformat},adapter_type=lsilogic");
        let args = ["create", "-f", "vmdk", "-o", &options, "a.b.vmdk", "5G"];
        let our = ours(one.path(), args);
        assert_eq!(our, theirs(&qemu_img, other.path(), args));
        let names = |folder: &tempfile::TempDir| {
            let entries = fs::read_dir(folder.path()).unwrap();
            let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name()).collect();
            names.sort();
            names
        };
        assert_eq!(names(&one), names(&other));
    }
}

#[test]
fn a_delta_link_is_made_and_filled_over_its_parent() {
    let Some(qemu_img) = qemu_img() else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let run = |args: &str| {
        let answer = ours(folder.path(), args.split(' '));
        assert_eq!((answer.code, answer.err.as_str()), (Some(0), ""), "{args}");
        answer.out
    };
    let theirs = |args: &str| qemu_img.run_in(folder.path(), args.split(' '));
    fs::write(folder.path().join("base.raw"), vec![7; 300_032]).unwrap();
    run("convert -f raw -O vmdk base.raw base.vmdk");
    let said = run("create -f vmdk -b base.vmdk -F vmdk delta.vmdk");
    assert_eq!(
        said,
        theirs("create -f vmdk -b base.vmdk -F vmdk other.vmdk").replace("other", "delta")
    );
    theirs("compare -q -F raw delta.vmdk base.raw");
    run("convert -O vmdk -B base.vmdk -F vmdk other.vmdk copy.vmdk");
    theirs("compare -q -F raw copy.vmdk base.raw");
    assert!(fs::metadata(folder.path().join("copy.vmdk")).unwrap().len() < 100_000);

    // Who does not look at the parent cannot note down its id.
    let args = "create -q -u -f vmdk -b base.vmdk -F vmdk blind.vmdk 1M";
    let answer = ours(folder.path(), args.split(' '));
    assert_eq!(answer.code, Some(1));
    assert!(
        answer.err.contains("its CID has to be noted down"),
        "{}",
        answer.err
    );
    let refused = ours(
        folder.path(),
        "create -f vmdk -b base.raw -F raw new.vmdk".split(' '),
    );
    assert!(refused.err.contains("must be VMDK too"), "{}", refused.err);
    assert!(!folder.path().join("new.vmdk").exists() && !folder.path().join("blind.vmdk").exists());
}
