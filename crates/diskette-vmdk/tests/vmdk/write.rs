//! New images, byte by byte, and held against qemu-img's.

use std::collections::BTreeMap;
use std::fs;
use std::sync::{Arc, Mutex};

use diskette_core::{
    BackingImage, Format, NewImage, NewParts, NoParts, OpenOptions, Packed, Result, StorageExt,
    StorageMut, WritableFormat,
};
use diskette_storage::{MemoryStorage, NewFiles};
use diskette_testkit::failing::What;
use diskette_testkit::recording::Operation;
use diskette_testkit::{Content, FailingStorage, Failure, How, RecordingStorage, qemu_img};
use diskette_vmdk::Vmdk;

fn format() -> &'static dyn WritableFormat {
    Vmdk.writable().expect("VMDK is written")
}

fn of_subformat(size: u64, subformat: &str) -> NewImage {
    NewImage::new(size).with_option("subformat", subformat)
}

/// Writes a whole image of `disk`, by one thread.
fn write_to(
    to: Arc<dyn StorageMut>,
    parts: &dyn NewParts,
    what: &NewImage,
    disk: &[u8],
) -> Result<()> {
    let mut writer = format().create(to, parts, what)?;
    let packer = writer.packer();
    let storage = writer.storage();
    let mut out = Vec::new();
    let mut offset = 0;
    for chunk in disk.chunks(packer.chunk_size() as usize) {
        out.clear();
        if chunk.iter().any(|byte| *byte != 0) {
            let packed = packer.pack(offset, chunk, &mut out)?;
            let bytes = match packed {
                Packed::Compressed => &out[..],
                Packed::Zero | Packed::Plain => chunk,
            };
            if let Some(host) = writer.place(offset, packed, bytes.len() as u64)? {
                storage
                    .write_at(bytes, host)
                    .map_err(|source| storage.failed("write", host, 0, source))?;
            }
        }
        offset += chunk.len() as u64;
    }
    writer.finish()
}

fn stream_of(disk: &[u8]) -> Vec<u8> {
    let memory = Arc::new(MemoryStorage::default());
    let what = of_subformat(disk.len() as u64, "streamOptimized");
    write_to(memory.clone(), &NoParts, &what, disk).expect("memory does not fail");
    memory.to_vec()
}

/// The id's line, and what VMware and we pad to eight digits.
fn without_ids(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let (before, behind) = text.split_once("CID=").expect("a descriptor");
    let (id, behind) = behind.split_once('\n').expect("a line");
    // Zeros fill the descriptor up: as many more as the number had digits, which may be fewer than eight.
    let (descriptor, behind) = behind.split_once('\0').unwrap_or((behind, ""));
    let filling = "\0".repeat(id.len() + 1);
    format!("{before}{descriptor}{filling}{behind}")
        .trim_end_matches('\0')
        .to_owned()
}

#[test]
fn empty_images_are_those_of_qemu_img_but_for_their_ids() {
    let Some(qemu_img) = qemu_img() else {
        return;
    };
    let folder = tempfile::tempdir().expect("a folder");
    let (ours, theirs) = (folder.path().join("ours"), folder.path().join("theirs"));
    fs::create_dir(&ours).expect("a folder");
    fs::create_dir(&theirs).expect("a folder");
    for subformat in [
        "monolithicSparse",
        "monolithicFlat",
        "twoGbMaxExtentSparse",
        "twoGbMaxExtentFlat",
    ] {
        for (size, more) in [
            (5 << 20, ""),
            (512, "adapter_type=lsilogic,hwversion=21,toolsversion=12352"),
            ((5_u64 << 30) + 512, "compat6=on,adapter_type=legacyESX"),
            (3_000_000, "zeroed_grain=on,adapter_type=buslogic"),
        ] {
            if more.contains("zeroed") && subformat.ends_with("Flat") {
                continue;
            }
            let mut options = format!("subformat={subformat}");
            let mut what = of_subformat(size, subformat);
            for (name, value) in more.split(',').filter_map(|one| one.split_once('=')) {
                options.push_str(&format!(",{name}={value}"));
                what = what.with_option(name, value);
            }
            eprintln!("{size} {options}");
            let size = size.to_string();
            let args = [
                "create",
                "-q",
                "-f",
                "vmdk",
                "-o",
                &options,
                "disk.vmdk",
                &size,
            ];
            qemu_img.run_in(&theirs, args);
            let files = NewFiles::create(ours.join("disk.vmdk")).expect("a new file");
            write_to(files.storage(), &files, &what, &[]).expect("a new image");
            files.commit(false).expect("room");
            for entry in fs::read_dir(&theirs).expect("a folder") {
                let name = entry.expect("an entry").file_name();
                let (our, their) = (ours.join(&name), theirs.join(&name));
                let len = |path| fs::metadata(path).expect("the file is there").len();
                if subformat.ends_with("Flat") && name != "disk.vmdk" {
                    assert_eq!(len(&our), len(&their), "{name:?}");
                    continue;
                }
                let (mut our, mut their) = (
                    fs::read(&our).expect("ours"),
                    fs::read(&their).expect("theirs"),
                );
                if name == "disk.vmdk" {
                    assert_eq!(without_ids(&our), without_ids(&their));
                    continue;
                }
                // A part bears no descriptor; QEMU's says that it does.
                our[28..44].fill(0);
                their[28..44].fill(0);
                assert!(our == their, "{name:?}");
            }
            for folder in [&ours, &theirs] {
                fs::remove_dir_all(folder).expect("removed");
                fs::create_dir(folder).expect("a folder");
            }
        }
    }
}

#[test]
fn the_options_are_told_as_by_qemu_img() {
    let Some(qemu_img) = qemu_img() else {
        return;
    };
    let folder = tempfile::tempdir().expect("a folder");
    for options in [
        "",
        "adapter_type=lsilogic,hwversion=7,subformat=streamOptimized",
        "compat6=on,zeroed_grain=on,toolsversion=3",
        "zeroed_grain=off,subformat=monolithicFlat",
    ] {
        let mut what = NewImage::new(5_000_001);
        for (name, value) in options.split(',').filter_map(|one| one.split_once('=')) {
            what = what.with_option(name, value);
        }
        let mut args = vec!["create", "-f", "vmdk", "x.vmdk", "5000001"];
        if !options.is_empty() {
            args.extend(["-o", options]);
        }
        let told = qemu_img.run_in(folder.path(), args);
        let settled = format().settled_options(&what).expect("sound options");
        let settled = settled
            .iter()
            .map(|(name, value)| format!(" {name}={value}"));
        let ours = format!(
            "Formatting 'x.vmdk', fmt=vmdk{}\n",
            settled.collect::<String>()
        );
        assert_eq!(ours, told);
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

/// Walks over a stream as one does who reads it from a pipe: the sector of each grain's marker by its LBA, then the tables
/// and the directory as they were met, with their sectors.
#[derive(Debug, Default)]
struct Walked {
    grains: BTreeMap<u64, u64>,
    tables: Vec<(u64, Vec<u32>)>,
    directory: Option<(u64, Vec<u32>)>,
    footer: Option<u64>,
    end: Option<u64>,
}

fn walk(stream: &[u8]) -> Walked {
    let mut walked = Walked::default();
    let mut at = usize::try_from(u64_at(stream, 64)).expect("an offset") * 512;
    let entries = |at: usize, len: usize| -> Vec<u32> {
        (at..at + len)
            .step_by(4)
            .map(|at| u32_at(stream, at))
            .collect()
    };
    while walked.end.is_none() {
        let (value, size) = (u64_at(stream, at), u32_at(stream, at + 8) as usize);
        let sector = at as u64 / 512;
        if size > 0 {
            let ascends = walked
                .grains
                .last_key_value()
                .is_none_or(|(last, _)| *last < value);
            assert!(ascends, "grains come in the disk's order");
            walked.grains.insert(value, sector);
            let end = at + 12 + size;
            at = end.next_multiple_of(512);
            assert!(stream[end..at].iter().all(|byte| *byte == 0));
            continue;
        }
        let kind = u32_at(stream, at + 12);
        assert!(stream[at + 16..at + 512].iter().all(|byte| *byte == 0));
        let len = usize::try_from(value).expect("sectors") * 512;
        let next = at + 512;
        match kind {
            0 => walked.end = Some(sector),
            1 => walked.tables.push((sector + 1, entries(next, len))),
            2 => walked.directory = Some((sector + 1, entries(next, len))),
            3 => walked.footer = Some(sector + 1),
            _ => panic!("a marker of kind {kind}"),
        }
        at = next + len;
    }
    walked
}

#[test]
fn a_stream_can_be_read_from_its_first_byte_to_its_last() {
    // Two tables with grains, and one without between them.
    let mut disk = Content::new(4).bytes(1 << 20);
    disk.resize((32 << 20) - (128 << 10), 0);
    disk.extend(Content::new(5).bytes(1 << 20));
    disk.resize(97 << 20, 0);
    disk.extend(Content::new(6).bytes((1 << 20) + 1024));
    let stream = stream_of(&disk);
    let walked = walk(&stream);

    assert_eq!(
        walked.end,
        Some(stream.len() as u64 / 512 - 1),
        "one marker, and nothing behind it"
    );
    assert_eq!(walked.footer, Some(stream.len() as u64 / 512 - 2));
    let (head, footer) = (
        &stream[..512],
        &stream[stream.len() - 1024..stream.len() - 512],
    );
    assert_eq!(&head[..8], b"KDMV\x03\0\0\0");
    assert_eq!(u32_at(head, 8), 0x30001);
    assert_eq!(u64_at(head, 12), disk.len() as u64 / 512);
    assert_eq!((u64_at(head, 28), u64_at(head, 36)), (1, 20));
    assert_eq!((u64_at(head, 48), u64_at(head, 56)), (0, u64::MAX));
    assert_eq!(&head[72..79], b"\0\n \r\n\x01\0");
    let (directory_at, directory) = walked.directory.expect("a directory");
    assert_eq!(u64_at(footer, 56), directory_at);
    // But for that, the footer is the header.
    assert_eq!((&head[..56], &head[64..]), (&footer[..56], &footer[64..]));

    let found: Vec<u32> = directory
        .iter()
        .copied()
        .filter(|entry| *entry != 0)
        .collect();
    let tables: Vec<u32> = walked
        .tables
        .iter()
        .map(|(at, _)| u32::try_from(*at).expect("small"))
        .collect();
    assert_eq!(found, tables);
    assert_eq!((directory[2], directory.len()), (0, 128));
    let mut named = BTreeMap::new();
    for (number, at) in directory.iter().enumerate().filter(|(_, at)| **at != 0) {
        let (_, entries) = walked
            .tables
            .iter()
            .find(|(table, _)| *table == u64::from(*at))
            .expect("a table");
        assert_eq!(entries.len(), 512);
        for (index, entry) in entries.iter().enumerate().filter(|(_, entry)| **entry != 0) {
            named.insert((number * 512 + index) as u64 * 128, u64::from(*entry));
        }
    }
    assert_eq!(
        named, walked.grains,
        "each entry leads to its grain's marker"
    );
}

#[test]
fn each_grain_of_a_stream_is_whole() {
    // VirtualBox reads no others. What cannot be compressed is a little longer than it was.
    let mut disk = vec![0; 200_192];
    diskette_testkit::Rng::new(1).fill(&mut disk);
    let stream = stream_of(&disk);
    for at in walk(&stream).grains.values() {
        let at = usize::try_from(*at).expect("small") * 512;
        let len = u32_at(&stream, at + 8) as usize;
        let mut grain = vec![0; 65537];
        let data = &stream[at + 12..at + 12 + len];
        let decoded = diskette_codec::decode(diskette_codec::Codec::Zlib, data, &mut grain);
        assert_eq!(decoded.expect("a zlib stream").len, 65536);
    }
}

#[test]
fn a_stream_is_written_in_ascending_order() {
    let mut disk = Content::new(6).bytes(1 << 20);
    disk.resize(33 << 20, 0);
    disk.extend(Content::new(7).bytes(1 << 20));
    let storage = Arc::new(RecordingStorage::new(Vec::new()));
    let what = of_subformat(disk.len() as u64, "streamOptimized");
    write_to(storage.clone(), &NoParts, &what, &disk).expect("memory does not fail");
    let mut end = 0;
    for operation in storage.operations() {
        match operation {
            Operation::Write { offset, bytes } => {
                assert_eq!(offset, end);
                end += bytes.len() as u64;
            }
            Operation::SetSize(0) if end == 0 => {}
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn the_header_of_a_sparse_image_comes_last() {
    let disk = Content::new(6).bytes(3 << 20);
    let storage = Arc::new(RecordingStorage::new(Vec::new()));
    let what = NewImage::new(disk.len() as u64);
    write_to(storage.clone(), &NoParts, &what, &disk).expect("memory does not fail");
    let operations = storage.operations();
    let header = operations
        .iter()
        .position(|operation| matches!(operation, Operation::Write { offset: 0, .. }));
    assert_eq!(header, Some(operations.len() - 1));
}

/// Files in memory that fail together.
#[derive(Debug)]
struct FailingParts(Failure, Mutex<Vec<Arc<FailingStorage<MemoryStorage>>>>);

impl NewParts for FailingParts {
    fn create(&self, _name: &str) -> Result<Arc<dyn StorageMut>> {
        let file = Arc::new(FailingStorage::new(MemoryStorage::default(), self.0));
        self.1.lock().expect("one thread").push(file.clone());
        Ok(file)
    }
}

#[test]
fn a_storage_that_fails_makes_an_error_and_no_image() {
    let disk = Content::new(7).bytes(1 << 20);
    for subformat in [
        "monolithicSparse",
        "monolithicFlat",
        "twoGbMaxExtentSparse",
        "streamOptimized",
    ] {
        let run = |failure| {
            let own = Arc::new(FailingStorage::new(MemoryStorage::new(Vec::new()), failure));
            let parts = FailingParts(failure, Mutex::default());
            let what = of_subformat(disk.len() as u64, subformat);
            let done = write_to(own.clone(), &parts, &what, &disk);
            (done, own, parts)
        };
        let (done, own, parts) = run(Failure::never());
        done.unwrap_or_else(|error| panic!("{subformat}: {error}"));
        let parts = parts.1.into_inner().expect("one thread");
        let operations = own.operations().max(
            parts
                .iter()
                .map(|part| part.operations())
                .max()
                .unwrap_or(0),
        );
        assert!(operations > 1);
        for after in 0..operations {
            for how in [How::Error, How::Half] {
                let (done, own, _) = run(Failure::new(What::Everything, after).with(how));
                assert!(done.is_err(), "{subformat} {after}");
                let own = Arc::new(MemoryStorage::new(own.inner().to_vec()));
                let opened = Vmdk.open(own, &OpenOptions::default().context());
                let whole = opened.is_ok_and(|opened| opened.info.warnings.is_empty());
                // All that counts of the last write is in its first half.
                let last = how == How::Half && after + 1 == operations;
                assert!(!whole || last, "{subformat} {after}");
            }
        }
    }
}

#[test]
fn what_cannot_be_made_is_refused() {
    let refused = |what: &NewImage| {
        let done = write_to(Arc::new(MemoryStorage::default()), &NoParts, what, &[]);
        done.expect_err("refused").to_string()
    };
    let with = |name, value| refused(&NewImage::new(1 << 20).with_option(name, value));
    for (name, value, why) in [
        (
            "adapter_type",
            "scsi",
            "none of ide, lsilogic, buslogic and legacyESX",
        ),
        (
            "subformat",
            "vmfs",
            "no such subformat, or none that is written",
        ),
        ("hwversion", "4\"\nx", "not a number"),
        ("toolsversion", "", "not a number"),
        (
            "cid",
            "123456789",
            "none of derived, random and up to 8 hexadecimal digits",
        ),
        (
            "cid",
            "+1",
            "none of derived, random and up to 8 hexadecimal digits",
        ),
        ("cid", "ffffffff", "ffffffff stands for no image"),
        ("compression_level", "5", "only with streamOptimized"),
        ("backing_file", "x", "needs backing_fmt"),
        ("zeroed_grain", "maybe", "neither on nor off"),
        ("color", "red", "no such option"),
    ] {
        assert_eq!(with(name, value), format!("vmdk: option {name}: {why}"));
    }
    let what = NewImage::new(1)
        .with_option("compat6", "on")
        .with_option("hwversion", "7");
    assert_eq!(refused(&what), "vmdk: option compat6: not with hwversion");
    let flat = of_subformat(1, "monolithicFlat").with_option("zeroed_grain", "on");
    assert_eq!(
        refused(&flat),
        "vmdk: option zeroed_grain: not with a flat subformat"
    );
    let too_large = [
        (1 << 49, "monolithicSparse"),
        (9 << 40, "twoGbMaxExtentSparse"),
        (u64::MAX, "monolithicFlat"),
    ];
    for (size, subformat) in too_large {
        let why = refused(&of_subformat(size, subformat));
        assert_eq!(why, "vmdk: option size: too large for this subformat");
    }
    let compressed = NewImage::new(1).compressed();
    assert!(refused(&compressed).contains("than streamOptimized is not supported"));
    assert!(refused(&of_subformat(1, "monolithicFlat")).contains("parts beside a file"));

    let over = |target: &str, format: &str, cid: &str| {
        let mut backing = BackingImage::new(target, format);
        backing.identity.push(diskette_core::Identity {
            kind: "CID",
            value: cid.to_owned(),
        });
        NewImage::new(1).with_backing(backing)
    };
    assert!(refused(&over("base", "qcow2", "1")).contains("must be VMDK too"));
    assert!(refused(&over("a\"b", "vmdk", "1")).contains("without quotes"));
    assert!(refused(&over("a\nb", "vmdk", "1")).contains("without quotes"));
    assert!(refused(&over("base", "vmdk", "none")).contains("CID"));
    for subformat in ["monolithicFlat", "streamOptimized"] {
        let what = over("base", "vmdk", "1").with_option("subformat", subformat);
        assert!(refused(&what).contains("backing"), "{subformat}");
    }
}

#[test]
fn a_name_that_is_not_ascii_is_told_as_utf_8() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("größe.vmdk");
    let files = NewFiles::create(&path).expect("a new file");
    let what = of_subformat(1 << 20, "monolithicFlat");
    write_to(files.storage(), &files, &what, &[1; 512]).expect("a new image");
    files.commit(false).expect("room");
    let text = fs::read_to_string(&path).expect("a text");
    assert!(
        text.starts_with("# Disk DescriptorFile\nversion=1\nencoding=\"UTF-8\"\nCID="),
        "{text}"
    );
    assert!(folder.path().join("größe-flat.vmdk").is_file());
    if let Some(qemu_img) = qemu_img() {
        qemu_img.run_in(folder.path(), ["check", "-q", "größe.vmdk"]);
    }
    let storage = Arc::new(diskette_storage::FileStorage::open(&path).expect("it is there"));
    let opened = Vmdk.open(storage, &crate::common::Beside::options().context());
    assert_eq!(opened.expect("a sound image").reader.size(), 1 << 20);
}

#[test]
fn a_measure_is_at_least_what_an_image_takes() {
    let mut disk = Content::new(12).bytes(2 << 20);
    disk.resize(64 << 20, 0);
    disk.extend(Content::new(13).bytes((1 << 20) + 512));
    for subformat in ["monolithicSparse", "streamOptimized"] {
        let what = of_subformat(disk.len() as u64, subformat);
        let memory = Arc::new(MemoryStorage::default());
        write_to(memory.clone(), &NoParts, &what, &disk).expect("memory does not fail");
        let granule = usize::try_from(format().granule_size(&what).expect("sound")).expect("small");
        let chunks = disk.chunks(granule);
        let data = chunks
            .filter(|chunk| chunk.iter().any(|byte| *byte != 0))
            .count()
            * granule;
        let measure = format().measure(&what, data as u64).expect("sound");
        let len = memory.to_vec().len() as u64;
        assert!(len <= measure.required && measure.required <= measure.fully_allocated);
        if subformat == "monolithicSparse" {
            assert_eq!(len, measure.required);
        }
    }
}
