//! Headers that break the rules: each is refused, by the name of the field that is wrong.

use diskette_testkit::qcow2::Qcow2;

use crate::support::{open_bytes, options, registry};

/// Bytes to be written at an offset.
type Patch<'a> = (usize, &'a [u8]);

fn patched(patches: &[Patch]) -> Vec<u8> {
    let mut bytes = Qcow2::v3(1 << 20).build().bytes;
    for (offset, patch) in patches {
        bytes[*offset..*offset + patch.len()].copy_from_slice(patch);
    }
    bytes
}

/// The text of the error that opening the patched image gives.
fn refusal(patches: &[Patch]) -> String {
    match open_bytes(patched(patches)) {
        Ok(_) => panic!("{patches:x?} was not refused"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn each_field_of_the_header_that_lies_is_named() {
    let wrong: &[(&[Patch], &str)] = &[
        (&[(0, b"QFJ")], "header.magic at 0x0 is 0x51464afb"),
        (&[(7, &[1])], "version 1 (header.version at 0x4)"),
        (&[(7, &[4])], "version 4 (header.version at 0x4)"),
        (
            &[(20, &[0, 0, 0, 8])],
            "header.cluster_bits at 0x14 is 0x8, not within 9 to 21",
        ),
        (
            &[(20, &[0, 0, 0, 22])],
            "header.cluster_bits at 0x14 is 0x16, not within 9 to 21",
        ),
        (
            &[(26, &[1])],
            "header.l1_size at 0x24 is 0x1, less than the",
        ),
        (
            &[(24, &[0x80])],
            "header.size at 0x18 is 0x8000000000100000",
        ),
        (&[(36, &[0, 0, 0, 0])], "header.l1_size at 0x24 is 0x0"),
        (
            &[(36, &[0, 0x40, 0, 1])],
            "header.l1_size at 0x24 is 0x400001, not within 0 to 4194304",
        ),
        (&[(46, &[2])], "header.l1_table_offset at 0x28 is"),
        (&[(40, &[0x80])], "header.l1_table_offset at 0x28 is"),
        (&[(54, &[2])], "header.refcount_table_offset at 0x30 is"),
        (
            &[(56, &[0, 0, 0, 0])],
            "header.refcount_table_clusters at 0x38 is 0x0",
        ),
        (
            &[(56, &[0, 0, 0, 129])],
            "header.refcount_table_clusters at 0x38 is 0x81",
        ),
        (&[(99, &[7])], "header.refcount_order at 0x60 is 0x7"),
        (
            &[(100, &[0, 0, 0, 96])],
            "header.header_length at 0x64 is 0x60",
        ),
        (
            &[(100, &[0, 1, 0, 8])],
            "header.header_length at 0x64 is 0x10008",
        ),
        (
            &[(69, &[3, 0, 1])],
            "header.snapshots_offset at 0x40 is 0x30001",
        ),
        (
            &[(60, &[0, 1, 0, 1])],
            "header.nb_snapshots at 0x3c is 0x10001",
        ),
        (&[(35, &[3])], "header.crypt_method at 0x20 is 0x3"),
        (
            &[(35, &[2])],
            "header.crypt_method at 0x20 is 0x2, but there is no encryption header",
        ),
        (
            &[(35, &[1])],
            "option encrypt.key-secret: not given, and the image is encrypted",
        ),
        (
            &[(79, &[0x20])],
            "incompatible feature bit 5 is not supported",
        ),
        (
            &[(72, &[0x80])],
            "incompatible feature bit 63 is not supported",
        ),
        (&[(79, &[8])], "header.compression_type at 0x68 is 0x0, but"),
        (
            &[(104, &[1])],
            "header.compression_type at 0x68 is 0x1, but",
        ),
        (&[(79, &[8]), (104, &[2])], "compression type 2"),
        (
            &[(13, &[1, 0, 1])],
            "header.backing_file_offset at 0x8 is 0x10001",
        ),
        (
            &[(14, &[2]), (18, &[4])],
            "header.backing_file_size at 0x10 is 0x400",
        ),
        (
            &[(112, &[0, 0, 0, 9, 0, 1, 0x11, 0x70])],
            "header extension's length at 0x74 is 0x11170",
        ),
        (
            &[(112, &[0, 0, 0, 0, 0, 1, 0x11, 0x70])],
            "header extension's length at 0x74 is 0x11170",
        ),
        (
            &[(112, &[0xe2, 0x79, 0x2a, 0xca, 0, 0, 0, 16])],
            "backing format's length at 0x74 is 0x10",
        ),
        (
            &[(79, &[4])],
            "header.incompatible_features at 0x48 is 0x4, a data file, but its name is missing",
        ),
        (
            &[(95, &[2])],
            "header.autoclear_features at 0x58 is 0x2, a raw data file, but no data file",
        ),
    ];
    for (patches, expected) in wrong {
        let found = refusal(patches);
        assert!(
            found.contains(expected),
            "{found:?} does not say {expected:?}"
        );
    }
}

#[test]
fn what_qemu_takes_is_taken() {
    let right: &[&[Patch]] = &[
        &[(36, &[0, 0, 0, 2])],
        &[(87, &[0x80])],
        &[(95, &[0x80])],
        &[(103, &[104])],
        &[(103, &[113])],
        &[(79, &[1])],
        &[(79, &[2])],
        &[(14, &[2])], // A backing file's name without a letter.
        &[(112, &[0xe2, 0x79, 0x2a, 0xca, 0, 0, 0, 0])],
        &[(112, &[0x12, 0x34, 0x56, 0x78, 0, 0, 0, 5, 1, 2, 3, 4, 5])],
    ];
    for patches in right {
        let opened = open_bytes(patched(patches));
        let opened = opened.unwrap_or_else(|error| panic!("{patches:x?}: {error}"));
        assert_eq!(opened.reader.size(), 1 << 20);
        assert_eq!(opened.backing, None);
    }
}

#[test]
fn a_size_that_is_no_multiple_of_a_sector_is_rounded_down() {
    let opened = open_bytes(patched(&[(31, &[100])])).unwrap();
    assert_eq!(opened.info.size, 1 << 20);
    assert_eq!(opened.info.warnings.len(), 1);
}

#[test]
fn an_unknown_feature_is_refused_by_the_name_that_the_image_gives_it() {
    let mut name = [0; 48];
    name[1] = 7;
    name[2..7].copy_from_slice(b"shiny");
    let mut image = Qcow2::v3(1 << 20);
    image.incompatible = 1 << 7 | 1 << 9;
    image.extensions = vec![(0x6803_f857, name.to_vec())];
    let error = open_bytes(image.build().bytes).unwrap_err();
    assert_eq!(
        error.to_string(),
        "qcow2: incompatible feature \"shiny\" (bit 7), bit 9 is not supported"
    );
}

#[test]
fn a_backing_file_is_named_with_its_format_and_nothing_is_opened() {
    let mut image = Qcow2::v2(1 << 20);
    image.backing = Some("../base.img".into());
    let opened = open_bytes(image.build().bytes).unwrap();
    let reference = opened.backing.unwrap();
    assert_eq!(
        (reference.target.as_str(), reference.format),
        ("../base.img", None)
    );
    image.extensions = vec![(0xe279_2aca, b"raw".to_vec())];
    let opened = open_bytes(image.build().bytes).unwrap();
    assert_eq!(opened.backing.unwrap().format.as_deref(), Some("raw"));
}

#[test]
fn a_file_too_short_for_a_header_is_refused() {
    for len in [0, 4, 71] {
        let error = open_bytes(patched(&[])[..len].to_vec()).unwrap_err();
        assert!(
            error.to_string().contains("too short for a header"),
            "{error}"
        );
    }
}

#[test]
fn limits_are_asked_before_tables_are_read() {
    let mut options = options();
    options.limits.table_bytes = 1024;
    let image = Qcow2::v3(1 << 40).build().bytes;
    let storage = crate::support::memory(image);
    let error = registry().open(storage, &options).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("L1 table's bytes would be 16384"),
        "{error}"
    );
}

#[test]
fn broken_bitmaps_are_no_obstacle_to_data() {
    let mut image = Qcow2::v3(1 << 20);
    image.autoclear = 1;
    image.extensions = vec![(0x2385_2875, vec![0xff; 24])];
    let opened = open_bytes(image.build().bytes).unwrap();
    assert!(opened.info.warnings[0].starts_with("bitmaps ignored: qcow2: "));
    image.extensions = vec![(0x2385_2875, vec![0; 23])];
    let opened = open_bytes(image.build().bytes).unwrap();
    assert!(opened.info.warnings[0].contains("not 24"));
}
