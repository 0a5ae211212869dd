//! What the engine writes and finds, held against qemu-img.
#![allow(clippy::unwrap_used, reason = "a test may")]

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use diskette_convert::{CompareOptions, Comparison, ConvertOptions, compare, convert};
use diskette_core::{Format, NewImage, NoParts, OpenOptions, Opened, WritableFormat};
use diskette_raw::Raw;
use diskette_storage::{FileStorage, NewFile};
use diskette_testkit::{Tool, qemu_img};

fn open_raw(path: &Path) -> Opened {
    let storage = Arc::new(FileStorage::open(path).unwrap());
    Raw.open(storage, &OpenOptions::default().context())
        .unwrap()
}

fn convert_raw(from: &Path, to: &Path, sparse_size: u64) {
    let source = open_raw(from).reader;
    let file = NewFile::create(to).unwrap();
    let what = NewImage::new(source.size());
    let image = Raw.create(file.storage(), &NoParts, &what).unwrap();
    let mut options = ConvertOptions::default();
    options.sparse_size = sparse_size;
    convert(&*source, image, &options).unwrap();
    file.commit(false).unwrap();
}

fn map_of(qemu_img: &Tool, image: &Path) -> String {
    let args = ["map", "-f", "raw", "--output=json"].map(AsRef::as_ref);
    qemu_img.run(args.into_iter().chain([image.as_os_str()]))
}

/// 4096 'A', 3584 zeros, 512 'B', 4096 zeros, 4096 'C', 64 KiB of zeros.
fn striped(path: &Path) {
    let file = File::create(path).unwrap();
    file.write_all_at(&[0; 81_920], 0).unwrap();
    file.write_all_at(&[b'A'; 4096], 0).unwrap();
    file.write_all_at(&[b'B'; 512], 7680).unwrap();
    file.write_all_at(&[b'C'; 4096], 12_288).unwrap();
}

#[test]
fn the_same_runs_of_zeros_are_left_out() {
    let Some(qemu_img) = qemu_img() else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    striped(&path("source"));
    for sparse_size in [0, 4096, 16_384] {
        let size = sparse_size.to_string();
        let words = ["convert", "-f", "raw", "-O", "raw", "-S", &size].map(AsRef::as_ref);
        let (source, theirs, ours) = (path("source"), path("theirs"), path("ours"));
        qemu_img.run(
            words
                .into_iter()
                .chain([source.as_os_str(), theirs.as_os_str()]),
        );
        convert_raw(&source, &ours, sparse_size);
        assert_eq!(
            map_of(&qemu_img, &ours),
            map_of(&qemu_img, &theirs),
            "-S {size}"
        );
    }
}

#[test]
fn the_same_offset_is_named_where_content_differs() {
    let Some(qemu_img) = qemu_img() else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let (left, right) = (folder.path().join("left"), folder.path().join("right"));
    for changed in [0_u64, 511, 512, 8191, 20_000, 81_919] {
        striped(&left);
        striped(&right);
        let file = File::options().write(true).open(&right).unwrap();
        file.write_all_at(&[7], changed).unwrap();
        let words = ["compare", "-f", "raw", "-F", "raw"].map(AsRef::as_ref);
        let output = qemu_img.output(
            words
                .into_iter()
                .chain([left.as_os_str(), right.as_os_str()]),
        );
        let said = String::from_utf8(output.stdout).unwrap();

        let disks = (open_raw(&left).reader, open_raw(&right).reader);
        let found = compare(&*disks.0, &*disks.1, &CompareOptions::default()).unwrap();
        let Comparison::ContentDiffers(offset) = found else {
            panic!("{found:?}");
        };
        assert_eq!(said, format!("Content mismatch at offset {offset}!\n"));
    }
}
