//! Descriptors in all their spellings, and the parts that they name.

use std::fs;
use std::process::Command;
use std::sync::Arc;

use diskette_core::{
    BlockReaderExt, Chain, Ends, Error, ExtentKind, Format, Identity, Match, OpenOptions, Registry,
    Value,
};
use diskette_storage::{FileStorage, FolderResolver};
use diskette_testkit::vmdk::{Hosted, Stream, descriptor, disk, link};
use diskette_vmdk::Vmdk;

use crate::common::Files;

/// Three flat files of eight sectors each, and a descriptor of these lines.
fn flat(extents: &[&str]) -> Files {
    of_type("monolithicFlat", extents)
}

fn of_type(create_type: &str, extents: &[&str]) -> Files {
    let files = Files::described(create_type, extents);
    let file = |byte| vec![byte; 4096];
    files
        .with("a.bin", file(0x41))
        .with("b.bin", file(0x42))
        .with("c.bin", file(0x43))
}

fn text(text: &str) -> Files {
    Files::one(text.as_bytes().to_vec()).with("a.bin", vec![0x41; 4096])
}

const A: &str = "RW 8 FLAT \"a.bin\" 0";

#[test]
fn parts_lie_end_to_end_and_none_is_passed_over() {
    let zeros = flat(&[A, "RW 8 ZERO", "RW 8 FLAT \"b.bin\" 0"]);
    zeros.assert_reads(&disk(&[(0x41, 8), (0, 8), (0x42, 8)]));
    let read_only = flat(&[A, "RDONLY 8 FLAT \"b.bin\" 0", "RW 8 FLAT \"c.bin\" 0"]);
    let opened = read_only.assert_reads(&disk(&[(0x41, 8), (0x42, 8), (0x43, 8)]));
    assert_eq!(opened.info.files, ["x.vmdk", "a.bin", "b.bin", "c.bin"]);
    let offsets = flat(&["RW 4 FLAT \"a.bin\" 4", "RW 4 FLAT \"b.bin\" 2"]);
    let opened = offsets.assert_reads(&disk(&[(0x41, 4), (0x42, 4)]));
    let second = opened.reader.extent_at(2048).expect("there is an extent");
    assert!(
        matches!(second.kind, ExtentKind::Data(at) if at.file == 2 && at.offset == 1024),
        "{second:?}"
    );
    let none = flat(&[A, "RW 0 FLAT \"missing\" 0", "rw\t8  flat \"b.bin\"\t0  "]);
    none.assert_reads(&disk(&[(0x41, 8), (0x42, 8)]));
}

#[test]
fn a_part_without_access_reads_as_zeros_with_a_warning() {
    let opened =
        flat(&[A, "NOACCESS 8 FLAT \"missing\" 0"]).assert_reads(&disk(&[(0x41, 8), (0, 8)]));
    assert_eq!(
        opened.info.warnings,
        ["extent \"missing\" may not be accessed: it reads as zeros"]
    );
}

#[test]
fn every_type_that_names_files_is_read() {
    for create_type in [
        "monolithicFlat",
        "twoGbMaxExtentFlat",
        "2GbMaxExtentFlat",
        "vmfs",
        "vmfsThin",
        "vmfsPreallocated",
        "vmfsEagerZeroedThick",
        "vmfsThick",
        "VMFS",
        "custom",
    ] {
        of_type(
            create_type,
            &["RW 8 VMFS \"a.bin\"", "RW 4 VMFS \"b.bin\" 4"],
        )
        .assert_reads(&disk(&[(0x41, 8), (0x42, 4)]));
    }
}

#[test]
fn sparse_parts_of_any_kind_are_read() {
    let mut first = Hosted::new(256, &[(1, 0x41)]);
    first.descriptor.clear();
    let second = Stream::new(200, &[(0, 0x42)]);
    let lines = ["RW 256 SPARSE \"s1\"", "RW 200 SPARSE \"s2\"", A];
    let files = of_type("twoGbMaxExtentSparse", &lines)
        .with("s1", first.bytes())
        .with("s2", second.bytes());
    files.assert_reads(&disk(&[
        (0, 128),
        (0x41, 128),
        (0x42, 128),
        (0, 72),
        (0x41, 8),
    ]));
    // In monolithicSparse, too, though nobody writes it as a text of its own.
    let files =
        Files::described("monolithicSparse", &["RW 256 SPARSE \"s1\""]).with("s1", first.bytes());
    files.assert_reads(&disk(&[(0, 128), (0x41, 128)]));
}

#[test]
fn a_sparse_part_of_another_size_than_its_line_says_is_refused() {
    let files = Files::described("twoGbMaxExtentSparse", &["RW 128 SPARSE \"s1\""]);
    let files = files.with("s1", Hosted::new(256, &[]).bytes());
    assert_eq!(
        files.refusal(),
        "vmdk: sectors of extent \"s1\" at 0x78 is 0x80, but its file has 0x100"
    );
}

#[test]
fn lines_that_cannot_be_served_are_refused() {
    for (line, why) in [
        ("RW 8 FLAT a.bin 0", "without a name in quotes"),
        ("RW 8 FLAT \"\" 0", "without a name in quotes"),
        ("RW 8 FLAT \"a.bin 0", "without an end of its name"),
        ("RW 8 FLAT \"a.bin\"", "without a sound offset"),
        (
            "RW 8 FLAT \"a.bin\" 36028797018963968",
            "without a sound offset",
        ),
        (
            "RW -8 FLAT \"a.bin\" 0",
            "without a sound number of sectors",
        ),
        (
            "RW 36028797018963968 FLAT \"a.bin\" 0",
            "without a sound number of sectors",
        ),
        ("RW 8", "without a type"),
        ("RW 8 SPARSE \"a.bin\" 0", "with something behind its name"),
        ("RW 8 ZERO \"a.bin\"", "zeros, yet with a name"),
        ("RO 8 FLAT \"a.bin\" 0", "not with RW, RDONLY or NOACCESS"),
    ] {
        let text = flat(&[line]).refusal();
        let shown = line.escape_debug();
        assert_eq!(
            text,
            format!("vmdk: descriptor's extent at 0x72 is \"{shown}\", {why}")
        );
    }
}

#[test]
fn devices_and_objects_are_refused_by_name() {
    for (create_type, line, feature) in [
        ("fullDevice", A, "createType \"fullDevice\" (a raw device)"),
        (
            "partitionedDevice",
            A,
            "createType \"partitionedDevice\" (a raw device)",
        ),
        ("vmfsRDMP", A, "createType \"vmfsRDMP\" (a raw device)"),
        (
            "vmfsRawDeviceMap",
            A,
            "createType \"vmfsRawDeviceMap\" (a raw device)",
        ),
        (
            "custom",
            "RW 8 VMFSRDM \"x-rdm.vmdk\"",
            "an extent of type VMFSRDM (a raw device)",
        ),
        (
            "custom",
            "RW 8 VSANSPARSE \"x\"",
            "an extent of type VSANSPARSE",
        ),
        (
            "vmfs",
            "RW 8 VMFS \"vsan://52d5\"",
            "an extent that is an object of vsan",
        ),
        ("holographic", A, "createType \"holographic\""),
    ] {
        assert_eq!(
            of_type(create_type, &[line]).refusal(),
            format!("vmdk: {feature} is not supported")
        );
    }
    let encrypted = link(
        "monolithicFlat",
        &[A],
        1,
        u32::MAX,
        "encryption.keySafe = \"vmware:key/list\"",
    );
    assert_eq!(
        Files::one(encrypted).refusal(),
        "vmdk: an encrypted image is not supported"
    );
}

#[test]
fn other_files_are_opened_by_the_resolver_alone() {
    let text = flat(&["RW 1 FLAT \"/etc/hostname\" 0"]).refusal();
    assert_eq!(text, "refused extent file \"/etc/hostname\": no such file");
    let options = OpenOptions::default();
    let refused = flat(&[A]).open_with("x.vmdk", &options);
    assert!(matches!(refused, Err(Error::Refused { .. })), "{refused:?}");
    assert_eq!(
        flat(&["RW 1 FLAT \"x.vmdk\" 0"]).refusal(),
        "refused extent file \"x.vmdk\": it is the file that bears the descriptor"
    );
}

#[test]
fn parts_outside_of_the_folder_and_pipes_are_refused_by_the_folder_resolver() {
    let above = tempfile::tempdir().expect("there is room");
    let folder = above.path().join("inside");
    fs::create_dir(&folder).expect("there is room");
    fs::write(folder.join("a.bin"), [0x41; 4096]).expect("there is room");
    let made = Command::new("mkfifo").arg(folder.join("pipe")).status();
    assert!(
        made.is_ok_and(|status| status.success()),
        "no pipe was made"
    );
    let mut options = OpenOptions::default();
    options.files = Arc::new(FolderResolver::new());
    let open = |name: &str| {
        let path = folder.join("x.vmdk");
        let line = format!("RW 8 FLAT \"{name}\" 0");
        fs::write(&path, descriptor("monolithicFlat", &[&line])).expect("there is room");
        Vmdk.open(Arc::new(FileStorage::open(path)?), &options.context())
    };
    open("a.bin").expect("a file beside the descriptor");
    for name in ["/etc/hostname", "../inside/a.bin", "pipe", "file:a.bin"] {
        let found = open(name);
        assert!(
            matches!(found, Err(Error::Refused { .. })),
            "{name}: {found:?}"
        );
    }
}

#[test]
fn no_more_parts_are_opened_than_the_limits_allow() {
    let files = flat(&[A; 9]);
    let mut options = files.options();
    options.limits.parts = 8;
    let found = files.open_with("x.vmdk", &options);
    assert!(
        matches!(
            found,
            Err(Error::LimitExceeded {
                wanted: 9,
                limit: 8,
                ..
            })
        ),
        "{found:?}"
    );
}

#[test]
fn a_flat_file_that_is_too_short_is_refused_and_padded_with_zeros_when_salvaging() {
    let files = flat(&["RW 16 FLAT \"a.bin\" 0"]);
    assert_eq!(
        files.refusal(),
        "vmdk: sectors of extent \"a.bin\" at 0x72 is 0x10, they reach beyond the file's end at 0x1000"
    );
    assert!(
        files
            .salvage()
            .is_ok_and(|bytes| bytes == disk(&[(0x41, 8), (0, 8)]))
    );
}

#[test]
fn spellings_that_other_programs_write_are_understood() {
    let expected = disk(&[(0x41, 8)]);
    for spelling in [
        "version=1\nCID=1\nparentCID=ffffffff\ncreateType=\"vmfs\"\nRW 8 FLAT \"a.bin\" 0\n",
        "# Disk Descriptor File\r\nversion=1 \r\nCID = 00000001\r\nParentCID=FFFFFFFF\r\ncreatetype = \"vmfs\"\r\n  RW 8 VMFS \"a.bin\"\r\n",
        "\u{feff}# disk descriptorfile\nencoding=\"windows-1252\"\nversion=4\nCID=\"1\"\nparentCID=ffffffff\ncreateType=vmfs\nRW 8 VMFS \"a.bin\"",
        "\n\n#Disk DescriptorFile\nCID=1\nparentCID=ffffffff\ncreateType=\"vmfs\"\nRW 8 VMFS \"a.bin\"\n\0\0RW 8 VMFS \"b.bin\"\n",
        "#\nCID=1\nCID=2\nddb.longContentID=\"CID=3\"\nparentCID=ffffffff\ncreateType=\"vmfs\"\nRW 8 VMFS \"a.bin\"\n",
    ] {
        let opened = text(spelling).assert_reads(&expected);
        let cid = Identity {
            kind: "CID",
            value: "00000001".to_owned(),
        };
        assert_eq!(opened.info.identity, [cid], "{spelling}");
        let head = spelling.as_bytes();
        let ends = Ends {
            head,
            tail: head,
            size: head.len() as u64,
        };
        assert!(Vmdk.probe(&ends) >= Match::Likely, "{spelling}");
    }
}

#[test]
fn a_name_in_the_descriptors_own_encoding_is_found() {
    let mut bytes =
        b"version=1\nencoding=\"Shift_JIS\"\nCID=1\nparentCID=ffffffff\ncreateType=\"vmfs\"\n"
            .to_vec();
    bytes.extend(b"RW 8 VMFS \"\x83\x5c.bin\"\n"); // Its second byte looks like a backslash.
    Files::one(bytes)
        .with("ソ.bin", vec![0x41; 4096])
        .assert_reads(&disk(&[(0x41, 8)]));
}

#[test]
fn a_descriptor_without_its_keys_is_refused() {
    for (without, key) in [
        ("CID", "CID"),
        ("parentCID", "parentCID"),
        ("createType", "createType"),
    ] {
        let bytes = descriptor("vmfs", &["RW 8 VMFS \"a.bin\""]);
        let whole = String::from_utf8_lossy(&bytes).into_owned();
        let lines = whole
            .lines()
            .filter(|line| !line.starts_with(&format!("{without}=")));
        let found = text(&lines.collect::<Vec<_>>().join("\n")).refusal();
        assert_eq!(
            found,
            format!("vmdk: descriptor.{key} at 0x0 is \"\", missing")
        );
    }
    let found = text("CID=xyz\n").refusal();
    assert_eq!(
        found,
        "vmdk: descriptor.CID at 0x0 is \"xyz\", not a number of 8 hexadecimal digits"
    );
}

#[test]
fn what_is_no_descriptor_is_refused_and_not_read_whole() {
    let mut bytes = vec![0xeb; 3 << 20];
    let found = Files::one(bytes.clone()).refusal();
    assert!(
        found.ends_with("neither that of a sparse extent nor the beginning of a descriptor"),
        "{found}"
    );
    bytes.splice(..0, b"# Disk DescriptorFile\n".iter().copied());
    assert!(matches!(
        Files::one(bytes).open(),
        Err(Error::LimitExceeded { .. })
    ));
}

#[test]
fn probing_knows_images_from_other_files() {
    let probe = |head: &[u8]| {
        Vmdk.probe(&Ends {
            head,
            tail: head,
            size: head.len() as u64,
        })
    };
    assert_eq!(probe(&Hosted::new(128, &[]).bytes()), Match::Sure);
    assert_eq!(probe(&descriptor("vmfs", &[])), Match::Sure);
    assert_eq!(probe(b"#\n  \nversion=3\r\n"), Match::Sure);
    assert_eq!(
        probe(b"\nversion=1\ncreateType = \"vmfs\"\n"),
        Match::Likely
    );
    assert_eq!(probe(b"version=1"), Match::No);
    assert_eq!(probe(b"#!/bin/sh\necho createType=vmfs\n"), Match::No);
    assert_eq!(probe(&[0; 512]), Match::No);
    assert_eq!(probe(b""), Match::No);
}

/// A delta link over a parent with this content id.
fn delta(parent: u32, hint: &str) -> Vec<u8> {
    let mut image = Hosted::new(384, &[(1, 0x42)]);
    image.grains.insert(2, diskette_testkit::vmdk::Grain::Zero);
    let line = "RW 384 SPARSE \"x.vmdk\"";
    image.descriptor = link("monolithicSparse", &[line], 9, parent, hint);
    image.bytes()
}

fn open_chain(parent: u32) -> diskette_core::Result<Chain> {
    let base = Hosted::new(384, &[(0, 0x41), (1, 0x41), (2, 0x41)]).bytes();
    let files =
        Files::one(delta(parent, "parentFileNameHint=\"base.vmdk\"")).with("base.vmdk", base);
    let registry = Registry::new(vec![&Vmdk]);
    registry.open_chain(files.storage("x.vmdk"), &files.options())
}

#[test]
fn a_delta_link_shows_its_parent_through_holes_and_hides_it_with_zeros() {
    let chain = open_chain(0x1234_5678).expect("the parent is the right one");
    assert_eq!(chain.layers().len(), 2);
    let bytes = chain.read_vec(0, 384 * 512).expect("it can be read");
    assert!(bytes == disk(&[(0x41, 128), (0x42, 128), (0, 128)]));
}

#[test]
fn a_parent_that_was_changed_is_refused_with_both_content_ids() {
    let error = open_chain(0x1234_5679).expect_err("the parent is another one");
    assert_eq!(
        error.to_string(),
        "vmdk: the backing image's CID is 12345678, but the overlay was made over 12345679"
    );
}

#[test]
fn a_delta_link_that_does_not_name_its_parent_is_refused_but_shown() {
    let files = Files::one(delta(5, ""));
    assert_eq!(
        files.refusal(),
        "vmdk: descriptor.parentFileNameHint at 0x200 is \"\", missing"
    );
    let mut options = files.options();
    options.metadata_only = true;
    let opened = files
        .open_with("x.vmdk", &options)
        .expect("its metadata are sound");
    assert_eq!(
        opened.info.warnings,
        ["parentCID is 00000005, but the parent is not named"]
    );
    let details = opened.info.details.expect("there are details");
    assert!(details.contains(&("parent-cid", Value::Number(5))));
}
