//! Raw images against QEMU, against the conformance suite, and on what is no ordinary file.
#![expect(clippy::unwrap_used, reason = "a panic is a failed test")]

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use diskette_core::{
    BlockReader, BlockReaderExt, ExtentKind, Format, NewImage, NoParts, OpenOptions, Packed, Run,
    Storage, StorageMut, WritableFormat,
};
use diskette_raw::Raw;
use diskette_storage::{FileStorage, MemoryStorage, NewFile};
use diskette_testkit::{check_reader_against, qemu_img};

fn open(path: &Path) -> Box<dyn BlockReader> {
    let storage = Arc::new(FileStorage::open(path).unwrap());
    let opened = Raw.open(storage, &OpenOptions::default().context());
    opened.unwrap().reader
}

/// A file of `size` bytes with these bytes at these places, and holes between them.
fn sparse(folder: &Path, size: u64, data: &[(u64, usize)]) -> PathBuf {
    let path = folder.join("disk.raw");
    let file = File::create(&path).unwrap();
    for (offset, len) in data {
        file.write_all_at(&vec![0x41; *len], *offset).unwrap();
    }
    file.set_len(size).unwrap();
    path
}

/// The extents, as `qemu-img map --output=json` writes them.
fn map(disk: &dyn BlockReader) -> String {
    let entries = disk.extents().map(|extent| {
        let extent = extent.unwrap();
        let (zero, at) = match extent.kind {
            ExtentKind::Data(at) => (false, at.offset),
            ExtentKind::Zero(Some(at)) => (true, at.offset),
            other => panic!("{other:?} in a raw image"),
        };
        format!(
            "{{ \"start\": {}, \"length\": {}, \"depth\": 0, \"present\": true, \"zero\": {zero}, \"data\": {}, \
             \"compressed\": false, \"offset\": {at}}}",
            extent.offset, extent.len, !zero,
        )
    });
    format!("[{}]\n", entries.collect::<Vec<_>>().join(",\n"))
}

#[test]
fn the_map_is_qemus() {
    let Some(qemu_img) = qemu_img() else {
        return;
    };
    const MIB: u64 = 1 << 20;
    for (size, data) in [
        (MIB + 100, &[(0, 4096), (65536, 4096), (200_000, 10)][..]),
        (81_920, &[(0, 4096), (7680, 512), (12_288, 4096)]),
        (700, &[(0, 700)]),
        (513, &[]),
        (3 * MIB, &[]),
        (3 * MIB + 1, &[(3 * MIB, 1)]),
        (3 * MIB + 5000, &[(MIB, 65536)]),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let path = sparse(folder.path(), size, data);
        let path_text = path.to_str().unwrap();
        let expected = qemu_img.run(["map", "-f", "raw", "--output=json", path_text]);
        assert_eq!(map(&*open(&path)), expected, "{size}, {data:?}");
    }
}

#[test]
fn a_sparse_file_reads_as_its_bytes_by_any_way() {
    let folder = tempfile::tempdir().unwrap();
    let data = [(0, 4096), (65536, 4096), (200_000, 10), (1_048_600, 76)];
    let path = sparse(folder.path(), 1_048_676, &data);
    let mut expected = std::fs::read(&path).unwrap();
    expected.resize(1_049_088, 0);
    check_reader_against(&*open(&path), &expected);
}

#[test]
fn what_is_written_is_what_qemu_makes() {
    let Some(qemu_img) = qemu_img() else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let data = [(0, 4096), (65536, 70_000), (300_000, 10)];
    let source = sparse(folder.path(), 1_048_676, &data);
    let (ours, theirs) = (folder.path().join("ours"), folder.path().join("theirs"));
    for preallocation in ["off", "falloc", "full"] {
        let option = format!("preallocation={preallocation}");
        let [from, to] = [&source, &theirs].map(|path| path.to_str().unwrap());
        qemu_img.run(["convert", "-O", "raw", "-f", "raw", "-o", &option, from, to]);

        let disk = open(&source);
        let what = NewImage::new(disk.size()).with_option("preallocation", preallocation);
        write(&*disk, &what, &ours);
        assert!(std::fs::read(&ours).unwrap() == std::fs::read(&theirs).unwrap());
    }
}

fn write(disk: &dyn BlockReader, what: &NewImage, path: &Path) {
    let file = NewFile::create(path).unwrap();
    let mut writer = Raw.create(file.storage(), &NoParts, what).unwrap();
    let packer = writer.packer();
    let chunk_size = u64::from(packer.chunk_size());
    for offset in (0..disk.size()).step_by(65536) {
        let len = chunk_size.min(disk.size() - offset);
        let chunk = disk
            .read_vec(offset, usize::try_from(len).unwrap())
            .unwrap();
        let packed = packer.pack(offset, &chunk, &mut Vec::new()).unwrap();
        if let Some(at) = writer.place(offset, packed, len).unwrap() {
            writer.storage().write_at(&chunk, at).unwrap();
        }
    }
    writer.finish().unwrap();
    file.commit(false).unwrap();
}

#[test]
fn options_are_told_as_they_were_given() {
    let told = |what: &NewImage| Raw.settled_options(what).unwrap();
    assert_eq!(told(&NewImage::new(1000)), [("size", "1000".to_owned())]);
    assert_eq!(
        told(&NewImage::new(1000).with_option("preallocation", "off")),
        [
            ("size", "1000".to_owned()),
            ("preallocation", "off".to_owned())
        ]
    );
    let measure = Raw.measure(&NewImage::new(1000), 0).unwrap();
    assert_eq!((measure.required, measure.fully_allocated), (1024, 1024));
}

#[test]
fn a_device_is_zeroed_where_nothing_is_stored_and_must_be_large_enough() {
    let device = Arc::new(Device(MemoryStorage::new(vec![9; 256 << 10])));
    let mut writer = Raw
        .create(
            Arc::clone(&device) as _,
            &NoParts,
            &NewImage::new(128 << 10),
        )
        .unwrap();
    let at = writer.place(65536, Packed::Plain, 65536).unwrap().unwrap();
    writer.storage().write_at(&[1; 65536], at).unwrap();
    writer.finish().unwrap();
    let bytes = device.0.to_vec();
    assert_eq!(bytes.len(), 256 << 10);
    assert!(bytes[..65536].iter().all(|byte| *byte == 0));
    assert!(bytes[65536..131_072].iter().all(|byte| *byte == 1));
    assert!(bytes[131_072..].iter().all(|byte| *byte == 9));

    let small = Raw.create(device, &NoParts, &NewImage::new((256 << 10) + 512));
    assert!(
        small
            .unwrap_err()
            .to_string()
            .contains("cannot grow 262656 bytes")
    );
}

/// Storage of a size that nobody can change.
#[derive(Debug)]
struct Device(MemoryStorage);

impl Storage for Device {
    fn name(&self) -> &str {
        self.0.name()
    }

    fn size(&self) -> io::Result<u64> {
        self.0.size()
    }

    fn allocated(&self) -> io::Result<u64> {
        self.0.allocated()
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.0.read_at(buf, offset)
    }

    fn run_at(&self, offset: u64) -> io::Result<Run> {
        self.0.run_at(offset)
    }

    fn as_bytes(&self) -> Option<&[u8]> {
        None
    }
}

impl StorageMut for Device {
    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        self.0.write_at(buf, offset)
    }

    fn write_zeros(&self, offset: u64, len: u64) -> io::Result<()> {
        self.0.write_zeros(offset, len)
    }

    fn allocate(&self, offset: u64, len: u64) -> io::Result<()> {
        self.0.allocate(offset, len)
    }

    fn set_size(&self, size: u64) -> io::Result<()> {
        if size <= self.size()? {
            return Ok(());
        }
        Err(io::ErrorKind::StorageFull.into())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }
}
