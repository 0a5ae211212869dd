//! Images written in place: held against a disk in memory, by turns with QEMU, and cut off at every write.

use std::collections::BTreeMap;
use std::fs;
use std::sync::Arc;

use diskette_core::{BlockReaderExt, Format, OpenOptions, StorageMut};
use diskette_storage::MemoryStorage;
use diskette_testkit::editing::{Bytes, Subject, cut_off, live};
use diskette_testkit::vhdx::{Block, Change, LogEntry, M, Vhdx as Builder};
use diskette_testkit::{RecordingStorage, Tool, qemu_img};
use diskette_vhdx::Vhdx;

const MIB: usize = 1 << 20;

struct Image {
    bytes: Vec<u8>,
    disk: Vec<u8>,
    below: Option<Vec<u8>>,
    most: usize,
}

impl Image {
    /// Of 3 blocks and a half the second is there.
    fn new(change: impl FnOnce(Builder) -> Builder) -> Self {
        let size = 3 * MIB + MIB / 2;
        let mut builder = change(Builder::new(size as u64).filled(1, 1));
        // Zeros beyond the guest's bytes, where the block is whole.
        let below = builder.parent.is_some().then(|| vec![9; 2 * MIB + 4096]);
        let mut disk = below.clone().unwrap_or_default();
        disk.resize(size, 0);
        for (number, block) in &mut builder.blocks {
            let start = usize::try_from(*number).unwrap() * MIB;
            match block {
                Block::Full(bytes) => {
                    let end = (start + bytes.len()).min(size);
                    disk[start..end].copy_from_slice(&bytes[..end - start]);
                }
                Block::Partial(sectors) => {
                    for (sector, bytes) in sectors {
                        let at = start + usize::try_from(*sector).unwrap() * 512;
                        disk[at..at + bytes.len()].copy_from_slice(bytes);
                    }
                }
                Block::Entry(..) => disk[start..(start + MIB).min(size)].fill(0),
            }
        }
        let most = if builder.flags & 1 == 0 { 6 * MIB } else { 0 };
        Self {
            bytes: builder.build(),
            disk,
            below,
            most,
        }
    }

    fn subject(&self) -> Subject<'_> {
        Subject {
            format: &Vhdx,
            image: &self.bytes,
            disk: &self.disk,
            below: self.below.as_deref(),
            granule: MIB,
            most: self.most,
            may_leak: false,
        }
    }
}

fn dynamic() -> Image {
    Image::new(|image| image.block(2, Block::Entry(2, 0)))
}

fn fixed() -> Image {
    Image::new(|mut image| {
        image.flags = 1;
        image.filled(0, 5).filled(2, 6).filled(3, 7)
    })
}

fn differencing() -> Image {
    Image::new(|mut image| {
        let linkage = "{d0d0d0d0-d0d0-d0d0-d0d0-d0d0d0d0d0d0}";
        image.parent = Some(vec![
            ("parent_linkage".to_owned(), linkage.to_owned()),
            ("relative_path".to_owned(), ".\\parent.vhdx".to_owned()),
        ]);
        let sectors = [(0, 3), (7, 4), (8, 4), (2047, 5)];
        let sectors: BTreeMap<_, _> = sectors
            .into_iter()
            .map(|(sector, fill)| (sector, vec![fill; 512]))
            .collect();
        image
            .block(0, Block::Partial(sectors))
            .block(2, Block::Entry(2, 0))
    })
}

#[test]
fn a_dynamic_image_is_what_the_model_is() {
    eprintln!("{} acts", live(&dynamic().subject(), 1, 3, 150, None));
}

#[test]
fn a_fixed_image_is_what_the_model_is() {
    eprintln!("{} acts", live(&fixed().subject(), 2, 2, 100, None));
}

#[test]
fn a_differencing_image_is_what_the_model_is() {
    eprintln!("{} acts", live(&differencing().subject(), 3, 3, 150, None));
}

#[test]
fn images_are_changed_by_turns_with_qemu() {
    let Some(qemu_img) = qemu_img() else { return };
    let folder = tempfile::tempdir().unwrap();
    for (seed, options) in [
        (1, "block_size=1M"),
        (2, "block_size=1M,subformat=fixed"),
        (3, "block_size=2M,block_state_zero=off"),
    ] {
        let args = [
            "create",
            "-q",
            "-f",
            "vhdx",
            "-o",
            options,
            "disk.vhdx",
            "5M",
        ];
        qemu_img.run_in(folder.path(), args);
        let image = fs::read(folder.path().join("disk.vhdx")).unwrap();
        let subject = Subject {
            format: &Vhdx,
            image: &image,
            disk: &vec![0; 5 * MIB],
            below: None,
            granule: if seed == 3 { 2 * MIB } else { MIB },
            most: 0,
            may_leak: false,
        };
        live(&subject, seed, 3, 30, Some((folder.path(), "disk.vhdx")));
    }
}

#[test]
fn writes_into_a_dynamic_image_that_are_cut_off_lose_nothing() {
    eprintln!("{} crash points", cut_off(&dynamic().subject(), 1, 40));
}

#[test]
fn writes_into_a_differencing_image_that_are_cut_off_lose_nothing() {
    eprintln!("{} crash points", cut_off(&differencing().subject(), 5, 30));
}

#[test]
fn writes_into_a_fixed_image_that_are_cut_off_lose_nothing() {
    eprintln!("{} crash points", cut_off(&fixed().subject(), 7, 15));
}

/// What a file whose writer was cut off says: QEMU replays our log, and finds what was flushed.
#[test]
fn qemu_replays_the_log_of_an_image_that_was_cut_off() {
    let Some(qemu_img) = qemu_img() else { return };
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let image = dynamic();
    let storage = Arc::new(RecordingStorage::new(image.bytes.clone()));
    let to = Arc::clone(&storage) as Arc<dyn StorageMut>;
    let options = OpenOptions::default();
    let writer = Vhdx.writable().unwrap().edit(to, None, &options.context());
    let writer = writer.unwrap();
    let mut disk = image.disk.clone();
    for (block, byte) in [(0, 11), (3, 12)] {
        writer.write_at(&[byte; 4096], block * M).unwrap();
        disk[usize::try_from(block).unwrap() * MIB..][..4096].fill(byte);
        writer.flush().unwrap();
    }
    // The sector of the BAT that the last entry holds did not come into its place.
    let mut cut = storage.bytes();
    cut[3 << 20..][..4096].fill(0);
    drop(writer);
    fs::write(folder.join("cut.vhdx"), cut).unwrap();
    fs::write(folder.join("expected.raw"), disk).unwrap();
    qemu_img.run_in(
        folder,
        ["check", "-q", "-f", "vhdx", "-r", "all", "cut.vhdx"],
    );
    let compare = [
        "compare",
        "-q",
        "-f",
        "vhdx",
        "-F",
        "raw",
        "cut.vhdx",
        "expected.raw",
    ];
    qemu_img.run_in(folder, compare);
    // And Python's reader, which knows no log, what was replayed.
    let Some(python) = Tool::python_with("dissect.hypervisor") else {
        return;
    };
    let program = "from dissect.hypervisor.disk.vhdx import VHDX\n\
                   disk = VHDX(open('cut.vhdx', 'rb')).read(3670016)\n\
                   assert disk == open('expected.raw', 'rb').read()";
    python.run_in(folder, ["-c", program]);
}

#[test]
fn a_log_that_waits_is_replayed_before_anything_is_written() {
    let mut image = Builder::new(4 * M).filled(0, 0x41);
    let mut sector = vec![0; 4096];
    // The block is given to another one of the guest's.
    sector[8..16].copy_from_slice(&(4 << 20 | 6_u64).to_le_bytes());
    let entry = LogEntry {
        guid: [9; 16],
        sequence_number: 1,
        tail: 0,
        changes: vec![(3 * M, Change::Sector(sector))],
        flushed: 5 * M,
        last: 5 * M,
    };
    image.log = Some(([9; 16], vec![(0, entry.bytes())]));
    let storage = Arc::new(MemoryStorage::new(image.build()));
    let to = Arc::clone(&storage) as Arc<dyn StorageMut>;
    let options = OpenOptions::default();
    let writer = Vhdx.writable().unwrap().edit(to, None, &options.context());
    let writer = writer.unwrap();
    writer.write_at(&[1; 512], 0).unwrap();
    assert_eq!(writer.read_vec(M, 2).unwrap(), [0x41; 2]);
    writer.close().unwrap();
    let opened = Vhdx.open(storage, &options.context()).unwrap();
    assert!(!opened.info.dirty);
    assert_eq!(opened.reader.read_vec(511, 2).unwrap(), [1, 0]);
}

#[test]
fn what_cannot_be_written_in_place_is_refused() {
    let refused = |bytes: Vec<u8>| {
        let storage = Arc::new(MemoryStorage::new(bytes)) as Arc<dyn StorageMut>;
        let options = OpenOptions::default();
        let writer = Vhdx
            .writable()
            .unwrap()
            .edit(storage, None, &options.context());
        writer.map(|_| ()).unwrap_err().to_string()
    };
    assert_eq!(
        refused(differencing().bytes),
        "vhdx: writing into a differencing image whose parent is not at hand is not supported"
    );
    let twice = Builder::new(4 * M)
        .filled(0, 1)
        .block(2, Block::Entry(6, 4));
    assert!(refused(twice.build()).ends_with("its block overlaps another"));
}

#[test]
fn a_disk_grows_as_far_as_its_table_has_room() {
    let image = differencing();
    let storage = Arc::new(MemoryStorage::new(image.bytes));
    let to = Arc::clone(&storage) as Arc<dyn StorageMut>;
    let options = OpenOptions::default();
    let below = Arc::new(Bytes(vec![9; 9 * MIB]));
    let writer = Vhdx
        .writable()
        .unwrap()
        .edit(to, Some(below), &options.context());
    let writer = writer.unwrap();
    let error = writer.resize(1 << 30).map_err(|error| error.to_string());
    error.unwrap();
    assert_eq!(writer.size(), 1 << 30);
    // What lies below does not show.
    assert_eq!(writer.read_vec(4 * M, 16).unwrap(), [0; 16]);
    assert!(writer.resize(65 << 40).is_err());
    assert!(writer.resize(1 << 20).is_err());
    drop(writer);
    let opened = Vhdx.open(storage, &options.context()).unwrap();
    assert_eq!(opened.reader.size(), 1 << 30);
}
