//! New images, byte by byte; and fixed ones, written into.
#![allow(clippy::unwrap_used, reason = "a panic is a failed test")]

use std::path::Path;
use std::sync::Arc;

use diskette_core::{
    BackingImage, BlockReaderExt, BlockWriter, Format, Identity, NewImage, NoParts, OpenOptions,
    Opened, Packed, Result, StorageMut, WritableFormat,
};
use diskette_storage::MemoryStorage;
use diskette_testkit::{check_reader_against, qemu_img};
use diskette_vpc::Vpc;

const MIB: u64 = 1 << 20;
const UUID: &str = "00112233-4455-6677-8899-aabbccddeeff";

fn format() -> &'static dyn WritableFormat {
    Vpc.writable().unwrap()
}

/// A disk of `size` bytes, with options as a command gives them.
fn new(size: u64, options: &str) -> NewImage {
    let options = options.split(',').filter(|text| !text.is_empty());
    options.fold(NewImage::new(size), |what, option| {
        let (name, value) = option.split_once('=').unwrap();
        what.with_option(name, value)
    })
}

/// An image with a sector of 0xa5 at each of these guest offsets.
fn image(what: &NewImage, sectors: &[u64]) -> Result<Vec<u8>> {
    let memory = Arc::new(MemoryStorage::default());
    let to = Arc::clone(&memory) as Arc<dyn StorageMut>;
    let mut writer = format().create(to, &NoParts, what)?;
    let packer = writer.packer();
    for at in sectors {
        let packed = packer.pack(*at, &[0xa5; 512], &mut Vec::new())?;
        let host = writer.place(*at, packed, 512)?.unwrap();
        writer.storage().write_at(&[0xa5; 512], host).unwrap();
    }
    writer.finish()?;
    Ok(memory.to_vec())
}

fn open(bytes: &[u8]) -> Opened {
    let storage = Arc::new(MemoryStorage::new(bytes.to_vec()));
    Vpc.open(storage, &OpenOptions::default().context())
        .unwrap()
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap())
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_be_bytes(bytes[at..at + 8].try_into().unwrap())
}

#[test]
fn blocks_are_aligned_to_pages_behind_their_bitmaps() {
    let what = new(10 * MIB, "force_size=on");
    let made = image(&what, &[3 * MIB, 3 * MIB + 65536, 8 * MIB]).unwrap();
    let absent = 0xffff_ffff;
    let bat: Vec<_> = (0..128)
        .map(|index| u32_at(&made, 1536 + 4 * index))
        .collect();
    assert_eq!(bat[..5], [absent, 7, absent, absent, 7 + 4096 + 8]);
    assert!(bat[5..].iter().all(|entry| *entry == absent));
    for place in [0, 2 * 1048576 + 4096] {
        let bitmap = 4096 - 512 + place;
        assert!(made[bitmap..bitmap + 512].iter().all(|byte| *byte == 0xff));
    }
    assert_eq!(made.len() as u64, 4096 + 4 * MIB + 4096 + 512);
    assert_eq!(made[..512], made[made.len() - 512..]);
    assert_eq!(
        u32_at(&made, 512 + 28),
        5,
        "entries of the table: no more than Azure takes"
    );
}

/// All that qemu-img writes into an image without data, but for time stamps and UUIDs.
#[test]
fn headers_are_qemu_imgs() {
    let Some(qemu_img) = qemu_img() else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    for size in [
        1_000_001,
        10 * MIB,
        504 * MIB,
        3000 * MIB,
        128 << 30,
        2040 << 30,
    ] {
        for options in ["", "force_size=on", "subformat=fixed"] {
            if options.contains("fixed") && size > 20 * MIB {
                continue; // A footer behind zeros, all of which would be read.
            }
            let theirs = by_qemu_img(&qemu_img, folder.path(), size, options);
            let ours = image(&new(size, options), &[]).unwrap();
            assert_eq!(ours.len(), theirs.len(), "{size} {options}");
            let footer = ours.len() - 512;
            let mut footers = vec![footer];
            if !options.contains("fixed") {
                footers.push(0);
            }
            for (at, (our, their)) in ours.iter().zip(&theirs).enumerate() {
                let free = footers.iter().any(|footer| {
                    let within = at.wrapping_sub(*footer);
                    (24..28).contains(&within) || (64..84).contains(&within)
                });
                assert!(free || our == their, "{size} {options}: byte {at}");
            }
        }
    }
}

fn by_qemu_img(
    qemu_img: &diskette_testkit::Tool,
    folder: &Path,
    size: u64,
    options: &str,
) -> Vec<u8> {
    let size = size.to_string();
    let mut args = vec!["create", "-q", "-f", "vpc", "theirs", &size];
    if !options.is_empty() {
        args.extend(["-o", options]);
    }
    qemu_img.run_in(folder, args);
    std::fs::read(folder.join("theirs")).unwrap()
}

#[test]
fn azure_gets_whole_mebibytes_and_a_footer_behind_them() {
    let what = new(7 * MIB + 1, "azure=on");
    let made = image(&what, &[MIB]).unwrap();
    assert_eq!(made.len() as u64, 8 * MIB + 512);
    let footer = &made[8 * 1048576..];
    assert_eq!(footer[..8], *b"conectix");
    assert_eq!(u64_at(footer, 16), u64::MAX);
    assert_eq!(footer[28..32], *b"win ");
    assert_eq!(u64_at(footer, 48), 8 * MIB);
    assert_eq!(u32_at(footer, 60), 2);
    assert!(
        format()
            .settled_options(&what)
            .unwrap()
            .contains(&("size", (8 * MIB).to_string()))
    );
    for (wrong, said) in [
        (
            "azure=on,subformat=dynamic",
            "vpc: option subformat: azure needs a fixed disk",
        ),
        (
            "azure=on,force_size=off",
            "vpc: option force_size: azure needs it",
        ),
    ] {
        assert_eq!(image(&new(MIB, wrong), &[]).unwrap_err().to_string(), said);
    }
}

#[test]
fn a_child_names_its_parent_in_windows_way() {
    let mut backing = BackingImage::new("./folder/base.vhd", "vpc");
    let said = image(&new(3 * MIB, "").with_backing(backing.clone()), &[]).unwrap_err();
    assert_eq!(
        said.to_string(),
        "vpc: option backing_file: its UUID is not known, for it was not opened"
    );
    backing.identity = vec![Identity {
        kind: "UUID",
        value: UUID.to_owned(),
    }];
    let made = image(&new(3 * MIB, "").with_backing(backing.clone()), &[]).unwrap();
    assert_eq!(u32_at(&made, 60), 4);
    assert_eq!(made[512 + 40..512 + 44], [0x00, 0x11, 0x22, 0x33]);
    assert_eq!(
        made[512 + 64..512 + 84],
        *b"\0b\0a\0s\0e\0.\0v\0h\0d\0\0\0\0"
    );
    let path: Vec<u8> = r".\folder\base.vhd"
        .bytes()
        .flat_map(|byte| [byte, 0])
        .collect();
    assert_eq!(made[512 + 576..512 + 580], *b"W2ru");
    assert_eq!(u32_at(&made, 512 + 584), 34);
    assert_eq!(u64_at(&made, 512 + 592), 2048);
    assert_eq!(made[2048..2048 + 34], path);
    backing.target = "/folder/base.vhd".to_owned();
    let said = image(&new(3 * MIB, "").with_backing(backing), &[]).unwrap_err();
    assert!(
        said.to_string()
            .ends_with("not a relative path that Windows can have")
    );
}

#[test]
fn id_and_time_follow_from_the_content_or_are_given() {
    let footer = |what: &NewImage, sectors: &[u64]| image(what, sectors).unwrap()[..512].to_vec();
    let what = new(5 * MIB, "");
    let one = footer(&what, &[MIB]);
    assert_eq!(one, footer(&what, &[MIB]));
    assert_eq!(one[24..28], [0; 4]);
    assert_ne!(one[68..84], footer(&what, &[2 * MIB])[68..84]);
    let given = footer(
        &new(5 * MIB, &format!("uuid={UUID},timestamp=946684801")),
        &[],
    );
    assert_eq!(given[24..28], [0, 0, 0, 1]);
    assert_eq!(given[68..72], [0x00, 0x11, 0x22, 0x33]);
    let now = footer(&new(5 * MIB, "timestamp=now,uuid=random"), &[]);
    assert!(u32_at(&now, 24) > 800_000_000);
}

#[test]
fn what_cannot_be_made_is_refused() {
    for (what, said) in [
        (
            NewImage::new(MIB).compressed(),
            "vpc: compression is not supported",
        ),
        (
            new((2040 << 30) + 1, ""),
            "vpc: option size: more than 2040 GiB",
        ),
        (
            new(u64::MAX, "force_size=on"),
            "vpc: option size: more than 2040 GiB",
        ),
        (
            new(0, "subformat=thin"),
            "vpc: option subformat: neither dynamic nor fixed",
        ),
        (
            new(0, "timestamp=1"),
            "vpc: option timestamp: not within 2000 and 2136",
        ),
        (
            new(0, "timestamp=today"),
            "vpc: option timestamp: not a number",
        ),
    ] {
        assert_eq!(image(&what, &[]).unwrap_err().to_string(), said);
    }
}

#[test]
fn an_image_that_was_not_finished_is_none() {
    for options in ["", "subformat=fixed"] {
        let memory = Arc::new(MemoryStorage::default());
        let to = Arc::clone(&memory) as Arc<dyn StorageMut>;
        let mut writer = format()
            .create(to, &NoParts, &new(5 * MIB, options))
            .unwrap();
        let host = writer.place(0, Packed::Plain, 512).unwrap().unwrap();
        writer.storage().write_at(&[1; 512], host).unwrap();
        drop(writer);
        let opened = Vpc.open(memory, &OpenOptions::default().context());
        assert!(opened.is_err());
    }
}

#[test]
fn a_fixed_image_is_written_in_place() {
    let made = image(&new(3 * MIB + 512, "subformat=fixed,force_size=on"), &[MIB]).unwrap();
    let memory = Arc::new(MemoryStorage::new(made.clone()));
    let editor = edit(&memory).unwrap();
    editor.write_at(&[7; 3000], MIB - 1000).unwrap();
    editor.write_zeros(MIB + 100, 200).unwrap();
    editor.write_at(&[8; 512], 3 * MIB).unwrap();
    assert!(editor.write_at(&[8; 2], 3 * MIB + 511).is_err());
    editor.flush().unwrap();
    let mut expected = open(&made).reader.read_vec(0, 3 * 1048576 + 512).unwrap();
    expected[1048576 - 1000..][..3000].fill(7);
    expected[1048576 + 100..][..200].fill(0);
    expected[3 * 1048576..].fill(8);
    check_reader_against(&*editor, &expected);
    drop(editor);
    let changed = memory.to_vec();
    check_reader_against(&*open(&changed).reader, &expected);
    assert_eq!(changed[changed.len() - 512..], made[made.len() - 512..]);
}

fn edit(memory: &Arc<MemoryStorage>) -> Result<Box<dyn BlockWriter>> {
    let storage = Arc::clone(memory) as Arc<dyn StorageMut>;
    format().edit(storage, None, &OpenOptions::default().context())
}

#[test]
fn sizes_are_foretold() {
    for options in ["force_size=on", "subformat=fixed"] {
        let what = new(5 * MIB + 512, options);
        let granule = format().granule_size(&what).unwrap();
        let measure = format().measure(&what, 2 * granule).unwrap();
        let made = image(&what, &[0, 5 * MIB]).unwrap();
        assert_eq!(measure.required, made.len() as u64, "{options}");
        let full = image(&what, &[0, 2 * MIB, 4 * MIB]).unwrap();
        assert_eq!(measure.fully_allocated, full.len() as u64, "{options}");
    }
}
