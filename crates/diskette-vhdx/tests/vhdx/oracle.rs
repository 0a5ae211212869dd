//! Files that QEMU makes and writes, read as QEMU reads them.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use diskette_core::{
    BlockReader, BlockReaderExt, Chain, CheckReport, Format, OpenOptions, StorageExt,
};
use diskette_storage::FileStorage;
use diskette_testkit::{Tool, qemu_img, qemu_io};
use diskette_vhdx::Vhdx;

use crate::support::registry;

fn open(path: &Path) -> Chain {
    let storage = Arc::new(FileStorage::open(path).unwrap());
    registry()
        .open_chain(storage, &OpenOptions::default())
        .unwrap()
}

fn check(path: &Path) -> CheckReport {
    let storage = Arc::new(FileStorage::open(path).unwrap());
    let options = OpenOptions::default();
    let checkable = Vhdx.checkable().unwrap();
    checkable.check(storage, &options.context()).unwrap()
}

/// That we see the disk as QEMU does, and say of it what QEMU says.
fn assert_same(qemu_img: &Tool, image: &Path) {
    let raw = image.with_extension("raw");
    qemu_img.run([
        "convert".as_ref(),
        "-O".as_ref(),
        "raw".as_ref(),
        image.as_os_str(),
        raw.as_os_str(),
    ]);
    let chain = open(image);
    assert_eq!(chain.size(), fs::metadata(&raw).unwrap().len());
    let raw = FileStorage::open(raw).unwrap();
    for offset in (0..chain.size()).step_by(1 << 20) {
        let len = usize::try_from((chain.size() - offset).min(1 << 20)).unwrap();
        let wanted = raw.read_vec(len, offset).unwrap();
        assert!(
            chain.read_vec(offset, len).unwrap() == wanted,
            "{offset:#x}"
        );
    }
    let said = qemu_img.run(["info".as_ref(), "--output=json".as_ref(), image.as_os_str()]);
    let info = &chain.top().info;
    for wanted in [
        format!("\"virtual-size\": {}", chain.size()),
        format!("\"cluster-size\": {}", info.granule_size.unwrap()),
        format!("\"dirty-flag\": {}", info.dirty),
    ] {
        assert!(said.contains(&wanted), "no {wanted} in {said}");
    }
    assert_eq!(check(image), CheckReport::default());
}

#[test]
fn what_qemu_makes_and_writes_reads_as_qemu_reads_it() {
    let (Some(qemu_img), Some(qemu_io)) = (qemu_img(), qemu_io()) else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    for (number, (options, size)) in [
        ("block_size=1M", "10M"),
        ("block_size=1M,block_state_zero=off", "10M"),
        ("block_size=1M,subformat=fixed", "9M"),
        ("block_size=2M,subformat=fixed,block_state_zero=off", "10M"),
        ("block_size=8M,log_size=2M", "33M"),
        ("block_size=32M", "65M"),
        ("block_size=256M,block_state_zero=off", "100M"),
        ("subformat=dynamic", "10M"),
    ]
    .into_iter()
    .enumerate()
    {
        let image = folder.path().join(format!("{number}.vhdx"));
        let name = image.to_str().unwrap();
        qemu_img.run(["create", "-q", "-f", "vhdx", "-o", options, name, size]);
        assert_same(&qemu_img, &image);
        qemu_io.run([
            "-f",
            "vhdx",
            "-c",
            "write -P 0x41 1M 512",
            "-c",
            "write -P 0x42 7M 1M",
            "-c",
            "write -P 0x43 3000k 2000k",
            name,
        ]);
        assert_same(&qemu_img, &image);
    }
}

#[test]
fn a_bat_of_more_than_one_chunk_reads_as_qemu_reads_it() {
    let (Some(qemu_img), Some(qemu_io)) = (qemu_img(), qemu_io()) else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let image = folder.path().join("large.vhdx");
    let name = image.to_str().unwrap();
    // Chunks of 4 GiB: with blocks of 1 MiB, 4096 blocks each; 2.5 million entries in all.
    let options = ["create", "-q", "-f", "vhdx", "-o", "block_size=1M"];
    qemu_img.run(options.into_iter().chain([name, "2400G"]));
    let places = ["4095M", "4096M", "4097M", "8192M", "1000G", "2457599M"];
    let writes: Vec<_> = places
        .map(|place| format!("write -P 0x5a {place} 4k"))
        .into();
    let commands = writes.iter().flat_map(|write| ["-c", write.as_str()]);
    qemu_io.run(["-f", "vhdx"].into_iter().chain(commands).chain([name]));

    let chain = open(&image);
    let found: Vec<_> = chain
        .extents()
        .map(|extent| extent.unwrap())
        .filter(|extent| !extent.kind.reads_as_zeros())
        .map(|extent| (extent.offset >> 20, extent.len >> 20))
        .collect();
    let sum: u64 = found.iter().map(|(_, len)| len).sum();
    assert_eq!(sum, 6, "{found:?}");
    for megabyte in [4095, 4096, 4097, 8192, 1000 << 10, 2_457_599] {
        let offset = megabyte << 20;
        assert_eq!(chain.read_vec(offset, 4096).unwrap(), [0x5a; 4096]);
        assert_eq!(chain.read_vec(offset + 4096, 1).unwrap(), [0]);
    }
}

#[test]
fn what_a_fixed_disk_has_not_written_is_known_without_reading() {
    let Some(qemu_img) = qemu_img() else { return };
    let folder = tempfile::tempdir().unwrap();
    let image = folder.path().join("fixed.vhdx");
    let name = image.to_str().unwrap();
    let options = "subformat=fixed,block_size=1M,block_state_zero=off";
    qemu_img.run(["create", "-q", "-f", "vhdx", "-o", options, name, "8M"]);
    let kinds: Vec<_> = open(&image)
        .extents()
        .map(|extent| extent.unwrap())
        .map(|extent| (extent.len, extent.kind.reads_as_zeros()))
        .collect();
    assert_eq!(kinds, [(8 << 20, true)]);
}
