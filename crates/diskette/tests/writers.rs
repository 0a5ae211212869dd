//! Disks of any content, converted to every sub-format of VDI, VPC and VHDX: read back equal by us and by qemu-img, found
//! sound, of qemu-img's size, and the same for any number of threads.
#![allow(clippy::unwrap_used, reason = "a panic is a failed test")]

use std::path::Path;
use std::sync::Arc;

use diskette::core::{
    BlockReaderExt, FormatChoice, NewImage, NoParts, OpenOptions, Opened, Result, Severity,
    Storage, StorageMut,
};
use diskette::engine::{Control, ConvertOptions, convert};
use diskette::storage::MemoryStorage;
use diskette_testkit::{Content, RecordingStorage, Tool, check_reader_against, qemu_img};

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;

/// A sub-format: the format's name, and options. `theirs` are those with which qemu-img makes the same.
#[derive(Clone, Copy)]
struct Flavour {
    format: &'static str,
    ours: &'static str,
    theirs: &'static str,
}

macro_rules! come_back_whole {
    ($($name:ident: $format:literal, $ours:literal, $theirs:literal;)*) => {
        $(
            #[test]
            fn $name() {
                test(Flavour { format: $format, ours: $ours, theirs: $theirs });
            }
        )*
    };
}

come_back_whole! {
    vdi_dynamic_comes_back_whole: "vdi", "", "";
    vdi_static_comes_back_whole: "vdi", "static=on", "static=on";
    vpc_dynamic_comes_back_whole: "vpc", "", "";
    vpc_dynamic_of_any_size_comes_back_whole: "vpc", "force_size=on", "force_size=on";
    vpc_fixed_comes_back_whole: "vpc", "subformat=fixed", "subformat=fixed";
    vpc_for_azure_comes_back_whole: "vpc", "azure=on", "subformat=fixed,force_size=on";
    vhdx_dynamic_comes_back_whole: "vhdx", "", "";
    vhdx_with_small_blocks_comes_back_whole: "vhdx", "block_size=1M,log_size=3M", "block_size=1M,log_size=3M";
    vhdx_with_absent_blocks_comes_back_whole: "vhdx", "block_size=2M,block_state_zero=off", "block_size=2M";
    vhdx_with_large_sectors_comes_back_whole: "vhdx", "block_size=4M,logical_sector_size=4096", "";
    vhdx_fixed_comes_back_whole: "vhdx", "subformat=fixed,block_size=2M", "subformat=fixed,block_size=2M";
}

/// Wherever the writing ends, what is there is no image, or holds the whole disk.
#[test]
fn an_image_cut_short_is_none() {
    for (format, ours) in [
        ("vdi", ""),
        ("vdi", "static=on"),
        ("vpc", "force_size=on"),
        ("vpc", "subformat=fixed,force_size=on"),
        ("vhdx", "block_size=1M"),
        ("vhdx", "block_size=1M,subformat=fixed"),
    ] {
        let flavour = Flavour {
            format,
            ours,
            theirs: "",
        };
        let mut disk = vec![0; 3 * MIB];
        disk[MIB + 70 * KIB..][..1000].fill(1);
        disk[2 * MIB + 200 * KIB..][..1000].fill(2);
        let recording = Arc::new(RecordingStorage::new(Vec::new()));
        convert_to(Arc::clone(&recording) as _, &disk, flavour, 1);
        let count = recording.operations().len();
        assert!(count > 4);
        for done in 0..count {
            let part = recording.bytes_after(done);
            let Ok(opened) = try_open(&part, format) else {
                continue;
            };
            let read = opened.reader.read_vec(0, disk.len()).unwrap();
            assert!(read == disk, "{format} {ours}: {done} of {count}");
        }
        check_read_back(&recording.bytes(), flavour, &disk);
    }
}

fn test(flavour: Flavour) {
    let folder = tempfile::tempdir().unwrap();
    let qemu_img = qemu_img();
    for (name, disk) in disks() {
        eprintln!("{} {}: {name}", flavour.format, flavour.ours);
        let one = converted(&disk, flavour, 1);
        for threads in [2, 8] {
            let same = converted(&disk, flavour, threads) == one;
            assert!(same, "{threads} threads make another image");
        }
        check_read_back(&one, flavour, &disk);
        check_sound(&one, flavour);
        if let Some(qemu_img) = &qemu_img {
            std::fs::write(folder.path().join("source"), &disk).unwrap();
            std::fs::write(folder.path().join("image"), &one).unwrap();
            check_with(qemu_img, folder.path(), flavour);
        }
    }
}

/// Disks by what is peculiar about them.
fn disks() -> Vec<(&'static str, Vec<u8>)> {
    let mut last = vec![0; 5 * MIB + 512];
    *last.last_mut().unwrap() = 1;
    let mut sparse = vec![0; 20 * MIB + 100 * KIB];
    for at in [70 * KIB, 3 * MIB - 512, 12 * MIB, 19 * MIB + 5] {
        sparse[at..at + 512].fill(0xa5);
    }
    vec![
        ("no byte", Vec::new()),
        ("one byte", vec![1]),
        ("zeros", vec![0; 3 * MIB]),
        ("the last byte alone", last),
        ("little here and there", sparse),
        ("an even size", Content::new(1).bytes(4 * MIB)),
        ("an odd size", Content::new(2).bytes(3 * MIB + 1_000_001)),
        ("all data", vec![0x5a; 6 * MIB + 512]),
    ]
}

fn converted(source: &[u8], flavour: Flavour, threads: usize) -> Vec<u8> {
    let to = Arc::new(MemoryStorage::new(vec![0xee; 100]));
    convert_to(Arc::clone(&to) as _, source, flavour, threads);
    to.to_vec()
}

fn convert_to(target: Arc<dyn StorageMut>, source: &[u8], flavour: Flavour, threads: usize) {
    let disk = open(source, "raw").reader;
    let mut image = NewImage::new(disk.size());
    for option in flavour.ours.split(',').filter(|text| !text.is_empty()) {
        let (name, value) = option.split_once('=').unwrap();
        image = image.with_option(name, value);
    }
    let writable = diskette::writable(flavour.format).unwrap();
    let target = writable.create(target, &NoParts, &image).unwrap();
    let mut control = Control::default();
    control.threads = Some(threads);
    let mut options = ConvertOptions::default();
    options.control = control;
    convert(&*disk, target, &options).unwrap();
}

fn open(bytes: &[u8], format: &str) -> Opened {
    try_open(bytes, format).unwrap()
}

fn try_open(bytes: &[u8], format: &str) -> Result<Opened> {
    let mut options = OpenOptions::default();
    options.format = FormatChoice::Named(format.to_owned());
    let storage: Arc<dyn Storage> = Arc::new(MemoryStorage::new(bytes.to_vec()));
    diskette::registry().open(storage, &options)
}

/// The disk is as large as that was, or larger by zeros where the format counts in more than sectors.
fn check_read_back(image: &[u8], flavour: Flavour, disk: &[u8]) {
    let opened = open(image, flavour.format);
    let mut expected = disk.to_vec();
    let size = usize::try_from(opened.reader.size()).unwrap();
    assert!(size >= disk.len());
    let grows = flavour.format == "vpc" || flavour.ours.contains("4096");
    assert!(grows || size == disk.len().next_multiple_of(512));
    expected.resize(size, 0);
    check_reader_against(&*opened.reader, &expected);
    assert_eq!(
        opened.info.warnings.len(),
        usize::from(flavour.ours.contains("4096"))
    );
}

fn check_sound(image: &[u8], flavour: Flavour) {
    let options = OpenOptions::default();
    let format = diskette::registry().get(flavour.format).unwrap();
    let storage: Arc<dyn Storage> = Arc::new(MemoryStorage::new(image.to_vec()));
    let report = format.checkable().unwrap();
    let report = report.check(storage, &options.context()).unwrap();
    let bad = |severity| severity != Severity::Note;
    let found = report.findings.iter().find(|found| bad(found.severity));
    assert!(found.is_none(), "{found:?}");
}

/// qemu-img reads the same, finds nothing wrong, and makes an image of the same size.
fn check_with(qemu_img: &Tool, folder: &Path, flavour: Flavour) {
    let run = |args: &str| qemu_img.run_in(folder, args.split(' '));
    if flavour.ours.contains("4096") {
        return; // QEMU reads no sectors of 4096 bytes.
    }
    let Flavour { format, theirs, .. } = flavour;
    let empty = std::fs::metadata(folder.join("source")).unwrap().len() == 0;
    if empty && (format == "vhdx" || theirs.contains("fixed")) {
        return; // QEMU does not even read its own.
    }
    run(&format!("compare -f {format} -F raw image source"));
    if format != "vpc" {
        run(&format!("check -q -f {format} image"));
    }
    let options = match theirs {
        "" => String::new(),
        options => format!("-o {options} "),
    };
    run(&format!(
        "convert -f raw -O {format} {options}source theirs"
    ));
    let size = |name: &str| std::fs::metadata(folder.join(name)).unwrap().len();
    // What is aligned to 1 MiB, and tables.
    const SLACK: u64 = 3 << 20;
    let (ours, theirs) = (size("image"), size("theirs"));
    assert!(
        ours <= theirs + theirs / 100 + SLACK,
        "{ours}, qemu-img: {theirs}"
    );
}
