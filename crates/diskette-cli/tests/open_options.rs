//! Options for opening images: what they change, held against qemu-img's of the same names.

#![allow(clippy::unwrap_used, reason = "a panic is a failed test")]

mod common;

use std::fs;

use common::{ours, theirs};
use diskette_testkit::qemu_img;
use diskette_testkit::vpc::Vpc;

const SIZE: usize = (10 << 20) + 51200;

#[test]
fn the_size_of_a_vhd_is_found_as_the_option_says() {
    let folder = tempfile::tempdir().unwrap();
    let image = Vpc::new(SIZE).filled(0, 0x41).build();
    fs::write(folder.path().join("a.vhd"), image).unwrap();
    let size = |options: &[&str]| {
        let args = ["info", "--output=json", "a.vhd"].iter().chain(options);
        let answer = ours(folder.path(), args);
        assert_eq!(answer.code, Some(0), "{}", answer.err);
        answer.json().unwrap()["virtual-size"].as_u64().unwrap()
    };
    assert_eq!(size(&[]), SIZE as u64);
    let qemu_img = qemu_img();
    for rule in ["chs", "current_size"] {
        let ours = size(&["--open-options", &format!("force_size_calc={rule}")]);
        assert_eq!(
            ours == SIZE as u64,
            rule == "current_size",
            "{rule}: {ours}"
        );
        let Some(qemu_img) = &qemu_img else { continue };
        let opts = format!("driver=vpc,file.filename=a.vhd,force_size_calc={rule}");
        let args = ["info", "--output=json", "--image-opts", &opts];
        let told = theirs(qemu_img, folder.path(), args).json().unwrap();
        assert_eq!(told["virtual-size"].as_u64(), Some(ours), "{rule}");
    }
}

#[test]
fn an_option_that_no_format_knows_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("a.vhd"), Vpc::new(1 << 20).build()).unwrap();
    for options in ["tracks=3", "force_size_calc=tracks"] {
        let answer = ours(folder.path(), ["info", "--open-options", options, "a.vhd"]);
        assert_eq!(answer.code, Some(1));
        assert!(
            answer.err.contains(options.split('=').next().unwrap()),
            "{}",
            answer.err
        );
    }
}
