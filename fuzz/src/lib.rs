//! What the fuzz targets do: each of them takes bytes, and must neither panic, nor hang, nor take much memory.

mod edits;
mod files;
mod pages;
mod repair;
mod sealed;
mod seeds;
mod service;

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::sync::Arc;

use diskette::core::{
    BlockReader, BlockReaderExt, FormatChoice, Limits, NewImage, NoParts, OpenOptions, Storage,
    StorageMut,
};
use diskette::storage::{MemoryStorage, Ova};
use diskette_convert::{ConvertOptions, convert};
use diskette_testkit::walk;

pub use edits::{edit_any, edits};
pub use files::{Files, framed};
pub use repair::qcow2_repair;
pub use sealed::{vhdx_sealed, vpc_sealed};
pub use seeds::seeds;
pub use service::service;

/// A target's name, and what it does with an input.
pub type Target = (&'static str, fn(&[u8]));

/// All targets.
pub const TARGETS: [Target; 17] = [
    ("open_raw", |data| open("raw", data)),
    ("open_qcow2", |data| open("qcow2", data)),
    ("open_vmdk", |data| open("vmdk", data)),
    ("open_vdi", |data| open("vdi", data)),
    ("open_vpc", |data| open("vpc", data)),
    ("open_luks", |data| open("luks", data)),
    ("open_vhdx", open_vhdx),
    ("vhdx_sealed", vhdx_sealed),
    ("vpc_sealed", vpc_sealed),
    ("qcow2_repair", qcow2_repair),
    ("open_ova", open_ova),
    ("chain", chain),
    ("convert_roundtrip", convert_roundtrip),
    ("edits", edits),
    ("edit_any", edit_any),
    ("command_line", command_line),
    ("service", service),
];

/// Opens `data` as an image of `format`, walks its map, reads, checks, and looks at its snapshots.
pub fn open(format: &str, data: &[u8]) {
    let Ok(format) = diskette::registry().get(format) else {
        return;
    };
    let storage = memory(data);
    let options = options();
    let cx = options.context();
    if let Some(checkable) = format.checkable() {
        let _ = checkable.check(Arc::clone(&storage), &cx);
    }
    let Ok(image) = format.open(Arc::clone(&storage), &cx) else {
        return;
    };
    let _ = walk(&*image.reader);
    for snapshot in image.info.snapshots.iter().take(3) {
        let snapshots = format.snapshots().expect("a format that lists them");
        if let Ok(image) = snapshots.open_snapshot(Arc::clone(&storage), &snapshot.id, &cx) {
            let _ = walk(&*image.reader);
        }
    }
}

/// Opens a VHDX of which `data` has the pages that are not zero ([`pages`]): its parts lie a MiB from one another.
pub fn open_vhdx(data: &[u8]) {
    open("vhdx", &pages::spread(data));
}

/// Opens `data` as an OVA, holds it against its manifest, and walks over each of its disks.
pub fn open_ova(data: &[u8]) {
    let mut options = options();
    let storage = memory(data);
    let _ = Ova::is_ova(&*storage, &options.limits);
    let Ok(ova) = Ova::open(storage, &options.limits) else {
        return;
    };
    let _ = ova.verify();
    options.files = Arc::new(ova.clone());
    for disk in ova.disks().iter().take(3) {
        let image = ova
            .storage_of(disk)
            .and_then(|storage| diskette::registry().open_chain(storage, &options));
        if let Ok(image) = image {
            let _ = walk(&image);
        }
    }
}

/// Takes `data` for several images ([`Files`]), and walks over the chain that begins with the first.
pub fn chain(data: &[u8]) {
    let files = Files::of(data);
    let mut options = options();
    options.probe_backing = true;
    let top = files.first();
    options.files = Arc::new(files);
    if let Ok(chain) = diskette::registry().open_chain(top, &options) {
        let _ = walk(&chain);
    }
}

/// Opens the image that follows the first byte, converts it to QCOW2 as that byte says, and reads it back.
pub fn convert_roundtrip(data: &[u8]) {
    let Some((flavour, image)) = data.split_first() else {
        return;
    };
    let Ok(source) = diskette::registry().open_chain(memory(image), &options()) else {
        return;
    };
    let size = source.size();
    if size > LARGEST_DISK {
        return;
    }
    let Some(expected) = read_whole(&source) else {
        return;
    };

    let to = Arc::new(MemoryStorage::new(Vec::new()));
    let format = diskette::registry().get("qcow2").expect("QCOW2 is known");
    let writable = format.writable().expect("QCOW2 is written");
    let target = writable
        .create(
            Arc::clone(&to) as Arc<dyn StorageMut>,
            &NoParts,
            &what(*flavour, size),
        )
        .expect("a new image of a sound size");
    convert(&source, target, &ConvertOptions::default()).expect("a disk that could be read");

    let mut options = OpenOptions::default();
    options.format = FormatChoice::Named("qcow2".to_owned());
    let made = diskette::registry()
        .open(to, &options)
        .expect("an image of our own");
    // A QCOW2 disk is as large as whole sectors.
    let found = read_whole(&*made.reader).expect("an image of our own");
    let (found, padding) = found.split_at(expected.len());
    assert!(found == expected, "the disk has changed");
    assert!(padding.len() < 512 && padding.iter().all(|byte| *byte == 0));
}

/// Takes lines for the words of the command, which are understood or refused. Nothing is run.
pub fn command_line(data: &[u8]) {
    let words = data.split(|byte| *byte == b'\n').take(MOST_WORDS);
    let words = words.map(|word| OsString::from_vec(word.to_vec()));
    diskette_cli::understands([OsString::from("diskette")].into_iter().chain(words));
}

fn what(flavour: u8, size: u64) -> NewImage {
    let cluster_size = 1_u32 << (9 + flavour % 8);
    let what = NewImage::new(size).with_option("cluster_size", &cluster_size.to_string());
    match flavour >> 6 {
        0 => what,
        1 => what.compressed(),
        2 => what.compressed().with_option("compression_type", "zstd"),
        _ => what.with_option("refcount_bits", "1"),
    }
}

fn read_whole(disk: &dyn BlockReader) -> Option<Vec<u8>> {
    let len = usize::try_from(disk.size()).ok()?;
    disk.read_vec(0, len).ok()
}

fn memory(data: &[u8]) -> Arc<dyn Storage> {
    Arc::new(MemoryStorage::new(data.to_vec()))
}

/// Low limits: "too large" is an answer, and not a find.
fn options() -> OpenOptions {
    let mut limits = Limits::default();
    limits.table_bytes = 1 << 20;
    limits.cache_bytes = 1 << 20;
    limits.chain_depth = 8;
    limits.parts = 16;
    limits.descriptor_bytes = 1 << 16;
    limits.granule_bytes = 4 << 20;
    limits.snapshots = 16;
    limits.key_iterations = 4000;
    let mut options = OpenOptions::default();
    options.limits = limits;
    options.secrets.set("sec0", SECRET.to_vec());
    options.format_options.set("key-secret", "sec0");
    options.format_options.set("encrypt.key-secret", "sec0");
    options
}

const MOST_WORDS: usize = 64;
const LARGEST_DISK: u64 = 4 << 20;

/// What opens the seeds that are encrypted.
pub const SECRET: &[u8] = b"hunter2";
