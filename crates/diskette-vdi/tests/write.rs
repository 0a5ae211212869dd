//! New images, byte by byte; and static ones, written into.
#![allow(clippy::unwrap_used, reason = "a panic is a failed test")]

use std::sync::Arc;

use diskette_core::{
    BlockReaderExt, BlockWriter, Format, NewImage, NoParts, OpenOptions, Opened, Packed, Result,
    StorageMut, WritableFormat,
};
use diskette_storage::MemoryStorage;
use diskette_testkit::{check_reader_against, qemu_img};
use diskette_vdi::Vdi;

const MIB: u64 = 1 << 20;
const UUID: &str = "00112233-4455-6677-8899-aabbccddeeff";

fn format() -> &'static dyn WritableFormat {
    Vdi.writable().unwrap()
}

/// An image with a sector of 0xa5 at each of these guest offsets.
fn image(what: &NewImage, sectors: &[u64]) -> Result<Vec<u8>> {
    let memory = Arc::new(MemoryStorage::default());
    let mut writer = format().create(Arc::clone(&memory) as Arc<dyn StorageMut>, &NoParts, what)?;
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
    Vdi.open(storage, &OpenOptions::default().context())
        .unwrap()
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

#[test]
fn blocks_follow_one_another_behind_the_map() {
    let what = NewImage::new(5 * MIB).with_option("uuid", UUID);
    let made = image(&what, &[MIB, MIB + 65536, 4 * MIB]).unwrap();
    assert_eq!(made.len() as u64, 4 * MIB);
    assert_eq!([u32_at(&made, 340), u32_at(&made, 344)], [1 << 20, 2 << 20]);
    assert_eq!([u32_at(&made, 384), u32_at(&made, 388)], [5, 2]);
    let free = 0xffff_ffff;
    let map: Vec<_> = (0..5)
        .map(|index| u32_at(&made, (1 << 20) + 4 * index))
        .collect();
    assert_eq!(map, [free, 0, free, free, 1]);
    // Mixed-endian, as GUIDs are stored.
    assert_eq!(
        made[392..400],
        [0x33, 0x22, 0x11, 0, 0x55, 0x44, 0x77, 0x66]
    );
    assert!(made[408..424].iter().any(|byte| *byte != 0));
    assert!(made[424..456].iter().all(|byte| *byte == 0));
}

#[test]
fn headers_are_qemu_imgs_but_for_places_and_ids() {
    let Some(qemu_img) = qemu_img() else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    for option in ["static=off", "static=on"] {
        let create = ["create", "-q", "-f", "vdi", "-o", option, "theirs", "5M"];
        qemu_img.run_in(folder.path(), create);
        let theirs = std::fs::read(folder.path().join("theirs")).unwrap();
        let (name, value) = option.split_once('=').unwrap();
        let what = NewImage::new(5 * MIB).with_option(name, value);
        let ours = image(&what, &[]).unwrap();
        for at in (64..392).step_by(4) {
            match at {
                72 => assert_eq!(u32_at(&ours, at), 0x190),
                340 | 344 => assert!(u32_at(&ours, at).is_multiple_of(1 << 20)),
                _ => assert_eq!(
                    u32_at(&ours, at),
                    u32_at(&theirs, at),
                    "{option}, byte {at}"
                ),
            }
        }
        assert_eq!(ours[424..456], theirs[424..456]);
    }
}

#[test]
fn ids_follow_from_the_content() {
    let what = NewImage::new(5 * MIB);
    let one = image(&what, &[MIB]).unwrap();
    assert_eq!(one, image(&what, &[MIB]).unwrap());
    let another = image(&what, &[2 * MIB]).unwrap();
    assert_ne!(one[392..424], another[392..424]);
    assert_ne!(one[392..408], one[408..424]);
    let random = what.with_option("uuid", "random");
    assert_ne!(image(&random, &[]).unwrap(), image(&random, &[]).unwrap());
}

#[test]
fn what_cannot_be_made_is_refused() {
    let refused = |what: NewImage| image(&what, &[]).unwrap_err().to_string();
    assert_eq!(
        refused(NewImage::new(MIB).compressed()),
        "vdi: compression is not supported"
    );
    assert_eq!(
        refused(NewImage::new(MIB).with_option("static", "perhaps")),
        "vdi: option static: neither on nor off"
    );
    assert_eq!(
        refused(NewImage::new(0x1_ffff_f800_0001)),
        "vdi: option size: more than 562949819203584 bytes"
    );
}

#[test]
fn an_image_that_was_not_finished_is_none() {
    let memory = Arc::new(MemoryStorage::default());
    let to = Arc::clone(&memory) as Arc<dyn StorageMut>;
    let mut writer = format()
        .create(to, &NoParts, &NewImage::new(5 * MIB))
        .unwrap();
    let host = writer.place(0, Packed::Plain, 512).unwrap().unwrap();
    writer.storage().write_at(&[1; 512], host).unwrap();
    drop(writer);
    let opened = Vdi.open(memory, &OpenOptions::default().context());
    assert!(opened.is_err());
}

#[test]
fn a_static_image_is_written_in_place() {
    let what = NewImage::new(3 * MIB + 512).with_option("static", "on");
    let made = image(&what, &[MIB]).unwrap();
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
    assert_eq!(changed[392..408], made[392..408], "the image is the same");
    assert_ne!(changed[408..424], made[408..424], "its content is not");
}

fn edit(memory: &Arc<MemoryStorage>) -> Result<Box<dyn BlockWriter>> {
    let storage = Arc::clone(memory) as Arc<dyn StorageMut>;
    format().edit(storage, None, &OpenOptions::default().context())
}

#[test]
fn sizes_are_foretold() {
    for option in ["static=off", "static=on"] {
        let (name, value) = option.split_once('=').unwrap();
        let what = NewImage::new(5 * MIB + 512).with_option(name, value);
        let granule = format().granule_size(&what).unwrap();
        let measure = format().measure(&what, 2 * granule).unwrap();
        let made = image(&what, &[0, 5 * MIB]).unwrap();
        assert_eq!(measure.required, made.len() as u64);
        assert_eq!(measure.fully_allocated, 8 * MIB);
    }
}
