//! New images, byte by byte; and fixed ones, written into.

use std::sync::Arc;

use diskette_core::{
    BackingImage, BlockReaderExt, BlockWriter, Format, Identity, NewImage, NoParts, OpenOptions,
    Opened, Packed, Result, StorageMut, WritableFormat,
};
use diskette_storage::{FileStorage, MemoryStorage, NewFile};
use diskette_testkit::{check_reader_against, qemu_img, qemu_io};
use diskette_vhdx::Vhdx;

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const UUID: &str = "00112233-4455-6677-8899-aabbccddeeff";

fn format() -> &'static dyn WritableFormat {
    Vhdx.writable().unwrap()
}

/// A disk of `size` bytes, with options as a command gives them.
fn new(size: u64, options: &str) -> NewImage {
    let options = options.split(',').filter(|text| !text.is_empty());
    options.fold(NewImage::new(size), |what, option| {
        let (name, value) = option.split_once('=').unwrap();
        what.with_option(name, value)
    })
}

/// Writes an image with a sector of 0xa5 at each of these guest offsets.
fn write(to: Arc<dyn StorageMut>, what: &NewImage, sectors: &[u64]) -> Result<()> {
    let mut writer = format().create(to, &NoParts, what)?;
    let packer = writer.packer();
    for at in sectors {
        let packed = packer.pack(*at, &[0xa5; 512], &mut Vec::new())?;
        let host = writer.place(*at, packed, 512)?.unwrap();
        writer.storage().write_at(&[0xa5; 512], host).unwrap();
    }
    writer.finish()
}

fn image(what: &NewImage, sectors: &[u64]) -> Result<Vec<u8>> {
    let memory = Arc::new(MemoryStorage::default());
    write(Arc::clone(&memory) as Arc<dyn StorageMut>, what, sectors)?;
    Ok(memory.to_vec())
}

fn open(bytes: &[u8]) -> Opened {
    let storage = Arc::new(MemoryStorage::new(bytes.to_vec()));
    Vhdx.open(storage, &OpenOptions::default().context())
        .unwrap()
}

fn u64_at(bytes: &[u8], at: u64) -> u64 {
    let at = usize::try_from(at).unwrap();
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

fn bytes_at(bytes: &[u8], at: u64, len: usize) -> &[u8] {
    &bytes[usize::try_from(at).unwrap()..][..len]
}

/// Where the region of this GUID lies by the table at `table`, and its length.
fn region(bytes: &[u8], table: u64, guid: u8) -> (u64, u64) {
    let entries = [table + 16, table + 48];
    let entry = entries
        .into_iter()
        .find(|at| bytes_at(bytes, *at, 1) == [guid]);
    let entry = entry.unwrap();
    (u64_at(bytes, entry + 16), u64_at(bytes, entry + 24))
}

const BAT: u8 = 0x66;
const METADATA: u8 = 0x06;

#[test]
fn everything_lies_at_whole_mebibytes_in_hyper_vs_order() {
    let made = image(&new(5 * MIB, "block_size=1M,log_size=2M"), &[MIB, 4 * MIB]).unwrap();
    assert_eq!(made.len() as u64, 7 * MIB);
    assert!(made.starts_with(b"vhdxfiled\0i\0s\0k\0e\0t\0t\0e\0\0\0"));
    // Sequence numbers; versions and the log's length; its offset.
    for (header, number) in [(0x10000, 1), (0x20000, 2)] {
        assert_eq!(bytes_at(&made, header, 4), b"head");
        assert_eq!(u64_at(&made, header + 8), number);
        assert_eq!(u64_at(&made, header + 48), 0, "the log is empty");
        assert_eq!(u64_at(&made, header + 64), 1 << 16 | (2 * MIB) << 32);
        assert_eq!(u64_at(&made, header + 72), MIB);
    }
    for table in [0x30000, 0x40000] {
        let required = 1 << 32 | MIB;
        assert_eq!(region(&made, table, METADATA), (3 * MIB, required));
        assert_eq!(region(&made, table, BAT), (4 * MIB, required));
    }
    let bat: Vec<_> = (0..6)
        .map(|index| u64_at(&made, 4 * MIB + 8 * index))
        .collect();
    assert_eq!(bat, [2, 5 * MIB + 6, 2, 2, 6 * MIB + 6, 0]);
}

#[test]
fn metadata_are_qemu_imgs_but_for_order_and_id() {
    let Some(qemu_img) = qemu_img() else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    for size in [MIB, GIB, GIB + 512, 100 * GIB, 100 * GIB + 512] {
        for options in [
            "subformat=dynamic",
            "block_size=1,log_size=1",
            "block_size=300M",
        ] {
            let text = size.to_string();
            let args = ["create", "-q", "-f", "vhdx", "-o", options, "theirs", &text];
            qemu_img.run_in(folder.path(), args);
            let theirs = std::fs::read(folder.path().join("theirs")).unwrap();
            let ours = image(&new(size, options), &[]).unwrap();
            assert_eq!(items(&ours), items(&theirs), "{size} {options}");
            let log = |bytes: &[u8]| u64_at(bytes, 0x10000 + 64);
            assert_eq!(log(&ours), log(&theirs));
        }
    }
}

/// The metadata items that count: their GUIDs, flags and contents.
fn items(bytes: &[u8]) -> Vec<(Vec<u8>, u64, Vec<u8>)> {
    const DISK_ID: u8 = 0xab;
    const PHYSICAL_SECTOR_SIZE: u8 = 0xc7;
    let (at, _) = region(bytes, 0x30000, METADATA);
    let mut items: Vec<_> = (0..5)
        .map(|index| {
            let entry = at + 32 + 32 * index;
            let place = u64_at(bytes, entry + 16);
            let len = usize::try_from(place >> 32).unwrap();
            let guid = bytes_at(bytes, entry, 16).to_vec();
            let content = match guid[0] {
                // Theirs is a matter of chance; of 512 bytes.
                DISK_ID | PHYSICAL_SECTOR_SIZE => vec![0; len],
                _ => bytes_at(bytes, at + (place & 0xffff_ffff), len).to_vec(),
            };
            (guid, u64_at(bytes, entry + 24), content)
        })
        .collect();
    items.sort();
    items
}

/// The entries of sector bitmaps between those of blocks, and blocks far out, in a sparse file.
#[test]
fn blocks_behind_the_first_chunk_are_found() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("image");
    let size = 10 * GIB + 1536;
    let sectors = [0, 4 * GIB - 512, 4 * GIB, 8 * GIB, size - 512];
    for options in [
        "block_size=256M",
        "block_size=1M",
        "block_size=32M,subformat=fixed",
    ] {
        let file = NewFile::create(&path).unwrap();
        write(file.storage(), &new(size, options), &sectors).unwrap();
        file.commit(false).unwrap();
        let storage = Arc::new(FileStorage::open(&path).unwrap());
        let opened = Vhdx
            .open(storage, &OpenOptions::default().context())
            .unwrap();
        for at in sectors {
            let sector = opened.reader.read_vec(at, 512).unwrap();
            assert_eq!(sector, [0xa5; 512], "{options}: {at:#x}");
        }
        assert_eq!(opened.reader.read_vec(512, 512).unwrap(), [0; 512]);
        if let (Some(qemu_img), Some(qemu_io)) = (qemu_img(), qemu_io()) {
            qemu_img.run_in(folder.path(), ["check", "-q", "-f", "vhdx", "image"]);
            for at in sectors {
                let read = format!("read -P 0xa5 {at} 512");
                let said =
                    qemu_io.run_in(folder.path(), ["-r", "-f", "vhdx", "-c", &read, "image"]);
                assert!(!said.contains("failed"), "{options}: {said}");
            }
        }
    }
}

#[test]
fn a_child_has_its_parents_identification_and_room_for_bitmaps() {
    let mut backing = BackingImage::new("base.vhdx", "vhdx");
    let identity = |kind, value: &str| Identity {
        kind,
        value: value.to_owned(),
    };
    backing.identity = vec![
        identity("DataWriteGuid", UUID),
        identity("VirtualDiskId", "00000000-0000-0000-0000-000000000001"),
        identity("logical sector size", "4096"),
    ];
    let made = image(&new(3 * MIB, "").with_backing(backing.clone()), &[]).unwrap();
    let opened = open(&made);
    let parent = opened.backing.unwrap();
    assert_eq!(parent.target, "base.vhdx");
    assert!(parent.identity.contains(&identity("DataWriteGuid", UUID)));
    assert!(opened.info.identity.contains(&backing.identity[1]));
    assert!(opened.info.identity.contains(&backing.identity[2]));
    let bat: Vec<_> = (0..3)
        .map(|index| u64_at(&made, 3 * MIB + 8 * index))
        .collect();
    assert_eq!(bat, [0, 0, 0], "nothing is here: the parent shows");
    for (options, said) in [
        (
            "logical_sector_size=512",
            "vhdx: option logical_sector_size: not the backing file's",
        ),
        (
            "block_size=4M",
            "vhdx: option block_size: more than 2M over a backing file",
        ),
        (
            "subformat=fixed",
            "vhdx: option subformat: not fixed over a backing file",
        ),
    ] {
        let error = image(&new(MIB, options).with_backing(backing.clone()), &[]).unwrap_err();
        assert_eq!(error.to_string(), said);
    }
}

#[test]
fn ids_follow_from_the_content_or_are_given() {
    let ids = |what: &NewImage, sectors: &[u64]| {
        let made = image(what, sectors).unwrap();
        let guids = bytes_at(&made, 0x10000 + 16, 32).to_vec();
        let disk = bytes_at(&made, 2 * MIB + 0x10018, 16).to_vec();
        (guids, disk)
    };
    let what = new(5 * MIB, "");
    let (guids, disk) = ids(&what, &[MIB]);
    assert_eq!((guids.clone(), disk.clone()), ids(&what, &[MIB]));
    assert_ne!(guids[..16], guids[16..]);
    let (others, other) = ids(&what, &[2 * MIB]);
    assert!(guids[..16] != others[..16] && guids[16..] != others[16..] && disk != other);
    let (_, given) = ids(&new(5 * MIB, &format!("uuid={UUID}")), &[]);
    assert_eq!(given[..8], [0x33, 0x22, 0x11, 0, 0x55, 0x44, 0x77, 0x66]);
    let random = new(5 * MIB, "uuid=random");
    assert_ne!(ids(&random, &[]), ids(&random, &[]));
}

#[test]
fn what_cannot_be_made_is_refused() {
    for (what, said) in [
        (
            NewImage::new(MIB).compressed(),
            "vhdx: compression is not supported",
        ),
        (
            new((64 << 40) + 1, ""),
            "vhdx: option size: more than 64 TiB",
        ),
        (
            new(MIB, "block_size=3M"),
            "vhdx: option block_size: not a power of two",
        ),
        (
            new(MIB, "log_size=4G"),
            "vhdx: option log_size: more than 4095 MiB",
        ),
        (
            new(MIB, "subformat=thin"),
            "vhdx: option subformat: neither dynamic nor fixed",
        ),
        (
            new(MIB, "logical_sector_size=1k"),
            "vhdx: option logical_sector_size: neither 512 nor 4096",
        ),
    ] {
        assert_eq!(image(&what, &[]).unwrap_err().to_string(), said);
    }
}

#[test]
fn an_image_that_was_not_finished_is_none() {
    let memory = Arc::new(MemoryStorage::default());
    let to = Arc::clone(&memory) as Arc<dyn StorageMut>;
    let mut writer = format().create(to, &NoParts, &new(5 * MIB, "")).unwrap();
    let host = writer.place(0, Packed::Plain, 512).unwrap().unwrap();
    writer.storage().write_at(&[1; 512], host).unwrap();
    drop(writer);
    let opened = Vhdx.open(memory, &OpenOptions::default().context());
    assert!(opened.is_err());
}

#[test]
fn a_fixed_image_is_written_in_place() {
    let made = image(&new(3 * MIB + 512, "subformat=fixed,block_size=1M"), &[MIB]).unwrap();
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
    let opened = open(&changed);
    check_reader_against(&*opened.reader, &expected);
    assert_eq!(opened.info.warnings, Vec::<String>::new());
    for header in [0x10000, 0x20000] {
        let guids = |bytes| bytes_at(bytes, header + 16, 32).to_vec();
        let (before, after): (Vec<u8>, Vec<u8>) = (guids(&made), guids(&changed));
        assert!(before[..16] != after[..16] && before[16..] != after[16..]);
    }
}

fn edit(memory: &Arc<MemoryStorage>) -> Result<Box<dyn BlockWriter>> {
    let storage = Arc::clone(memory) as Arc<dyn StorageMut>;
    format().edit(storage, None, &OpenOptions::default().context())
}

#[test]
fn sizes_are_foretold() {
    for options in ["block_size=2M", "subformat=fixed,block_size=2M,log_size=2M"] {
        let what = new(5 * MIB + 512, options);
        let granule = format().granule_size(&what).unwrap();
        let measure = format().measure(&what, 2 * granule).unwrap();
        let made = image(&what, &[0, 5 * MIB]).unwrap();
        assert_eq!(measure.required, made.len() as u64, "{options}");
        let full = image(&what, &[0, 2 * MIB, 4 * MIB]).unwrap();
        assert_eq!(measure.fully_allocated, full.len() as u64, "{options}");
    }
}
