//! Disks as sfdisk and mkfs make them, held against what sfdisk and blkid say of them.
#![expect(clippy::unwrap_used, reason = "a panic is a failed test")]

use std::fs::{self, File};
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;

use diskette_core::{BlockReader, Format, OpenOptions};
use diskette_inspect::{Contents, Picture, Share, TableKind, contents};
use diskette_raw::Raw;
use diskette_storage::{FileStorage, MemoryStorage};
use diskette_testkit::Tool;
use tempfile::TempDir;

const MIB: u64 = 1 << 20;

fn disk(path: &Path) -> Box<dyn BlockReader> {
    let storage = Arc::new(FileStorage::open(path).unwrap());
    Raw.open(storage, &OpenOptions::default().context())
        .unwrap()
        .reader
}

fn look(path: &Path) -> Contents {
    contents(&*disk(path)).unwrap()
}

/// A sparse file of `size` bytes with the partitions of an sfdisk script.
fn partitioned(folder: &TempDir, size: u64, script: &str) -> Option<(Tool, PathBuf)> {
    let sfdisk = Tool::find("sfdisk")?;
    let path = folder.path().join("disk");
    File::create(&path).unwrap().set_len(size).unwrap();
    let mut child = sfdisk
        .command()
        .arg("--quiet")
        .arg(&path)
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(script.as_bytes())
        .unwrap();
    assert!(child.wait().unwrap().success());
    Some((sfdisk, path))
}

/// What `sfdisk --dump` would say of these contents, without its first lines.
fn dumped(contents: &Contents, path: &Path) -> Vec<String> {
    let line = |part: &diskette_inspect::Partition| {
        let mut line = format!(
            "{}{} : start={:>12}, size={:>12}, type={}",
            path.display(),
            part.number,
            part.start / 512,
            part.len / 512,
            part.type_id
        );
        part.uuid
            .iter()
            .for_each(|uuid| line += &format!(", uuid={uuid}"));
        part.name
            .iter()
            .for_each(|name| line += &format!(", name=\"{name}\""));
        if part.bootable {
            line += if part.uuid.is_some() {
                ", attrs=\"LegacyBIOSBootable\""
            } else {
                ", bootable"
            };
        }
        line
    };
    contents.partitions.iter().map(line).collect()
}

fn dump(sfdisk: &Tool, path: &Path) -> (Vec<String>, String) {
    let text = sfdisk.run(["--dump".as_ref(), path.as_os_str()]);
    let id = text
        .lines()
        .find_map(|line| line.strip_prefix("label-id: "))
        .unwrap()
        .to_owned();
    (
        text.lines()
            .filter(|line| line.contains("start="))
            .map(str::to_owned)
            .collect(),
        id,
    )
}

#[test]
fn partitions_of_an_mbr_are_those_that_sfdisk_lists() {
    let folder = tempfile::tempdir().unwrap();
    let script = "label: dos\nlabel-id: 0x5ea1d15c\nsize=1MiB, type=c, bootable\nsize=2MiB, type=83\n\
                  size=20MiB, type=5\nsize=1MiB, type=82\nsize=1MiB, type=ef\nsize=3MiB, type=83\nsize=2MiB, type=7\n";
    let Some((sfdisk, path)) = partitioned(&folder, 64 * MIB, script) else {
        return;
    };
    let found = look(&path);
    let (partitions, id) = dump(&sfdisk, &path);
    assert!(partitions.len() >= 7);
    assert_eq!(dumped(&found, &path), partitions);
    let table = found.table.unwrap();
    assert_eq!((table.kind, table.id), (TableKind::Dos, id));
    assert!(found.boot.bios_partition && found.boot.esp && !found.boot.bios_code);
    assert_eq!(found.warnings, [""; 0]);
}

const GPT: &str = "label: gpt\nsize=1MiB, type=21686148-6449-6E6F-744E-656564454649, name=\"boot code\"\n\
                   size=4MiB, type=C12A7328-F81F-11D2-BA4B-00A0C93EC93B, name=\"Système\"\n\
                   size=9MiB, type=0FC63DAF-8483-4772-8E79-3D69D8477DE4, attrs=\"LegacyBIOSBootable\"\n";

#[test]
fn partitions_of_a_gpt_are_those_that_sfdisk_lists() {
    let folder = tempfile::tempdir().unwrap();
    let Some((sfdisk, path)) = partitioned(&folder, 64 * MIB, GPT) else {
        return;
    };
    let found = look(&path);
    let (partitions, id) = dump(&sfdisk, &path);
    let unescaped: Vec<_> = partitions
        .iter()
        .map(|line| line.replace("\\xc3\\xa8", "è"))
        .collect();
    assert_eq!(dumped(&found, &path), unescaped);
    assert_eq!(found.table.as_ref().unwrap().id, id);
    assert!(found.boot.esp && found.boot.bios_partition);
    assert_eq!(found.warnings, [""; 0]);
}

#[test]
fn a_gpt_with_one_wrong_byte_is_read_by_its_other_copy() {
    let folder = tempfile::tempdir().unwrap();
    let Some((_, path)) = partitioned(&folder, 64 * MIB, GPT) else {
        return;
    };
    let sound = look(&path);
    let broken = |offset: u64| {
        let file = File::options().write(true).read(true).open(&path).unwrap();
        let mut byte = [0];
        file.read_exact_at(&mut byte, offset).unwrap();
        file.write_all_at(&[byte[0] ^ 1], offset).unwrap();
        let found = look(&path);
        file.write_all_at(&byte, offset).unwrap();
        found
    };
    for offset in [
        512 + 60,
        1024 + 40,
        64 * MIB - 512 + 60,
        64 * MIB - 33 * 512 + 40,
    ] {
        let found = broken(offset);
        assert_eq!(found.partitions, sound.partitions, "byte {offset}");
        assert_eq!(
            found.warnings.len(),
            1,
            "byte {offset}: {:?}",
            found.warnings
        );
    }
}

#[test]
fn file_systems_have_the_type_label_and_uuid_that_blkid_finds() {
    let Some(blkid) = Tool::find("blkid") else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("volume");
    let makers: [(&str, &[&str]); 8] = [
        ("mkfs.ext4", &["-q", "-L", "ext four"]),
        ("mkfs.ext4", &["-q", "-t", "ext3", "-L", "three"]),
        ("mkfs.ext4", &["-q", "-t", "ext2"]),
        ("mkfs.vfat", &["-n", "TWELVE"]),
        ("mkfs.vfat", &["-F", "16", "-n", "SIXTEEN"]),
        ("mkfs.vfat", &["-F", "32"]),
        ("mkswap", &["-L", "swapped"]),
        ("mkswap", &["-q", "-p", "4096"]),
    ];
    for (maker, options) in makers {
        let Some(tool) = Tool::find(maker) else {
            return;
        };
        let mut file = File::create(&path).unwrap();
        file.set_len(64 * MIB).unwrap();
        file.seek(SeekFrom::Start(0)).unwrap();
        let output = tool.command().args(options).arg(&path).output().unwrap();
        assert!(
            output.status.success(),
            "{maker} {options:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );

        let said = blkid.run([
            "-p".as_ref(),
            "-o".as_ref(),
            "export".as_ref(),
            path.as_os_str(),
        ]);
        let value = |key: &str| {
            said.lines()
                .find_map(|line| line.strip_prefix(key)?.strip_prefix('='))
                .map(str::to_owned)
        };
        let found = look(&path);
        let system = found
            .file_system
            .unwrap_or_else(|| panic!("{maker} {options:?}"));
        assert_eq!(
            Some(system.kind.to_owned()),
            value("TYPE"),
            "{maker} {options:?}"
        );
        assert_eq!(
            system.label,
            value("LABEL").map(|label| label.replace('\\', "")),
            "{maker} {options:?}"
        );
        assert_eq!(system.uuid, value("UUID"), "{maker} {options:?}");
        assert_eq!(found.table, None, "{maker} {options:?}");
    }
}

#[test]
fn no_byte_of_a_table_can_make_it_panic_or_hang() {
    let folder = tempfile::tempdir().unwrap();
    let script = "label: dos\nsize=1MiB, type=c\nsize=5MiB, type=5\nsize=1MiB, type=83\n";
    for script in [script, GPT] {
        let Some((_, path)) = partitioned(&folder, 32 * MIB, script) else {
            return;
        };
        let mut head = fs::read(&path).unwrap();
        head.truncate(4 * 1024 * 1024);
        for at in (440..512).chain(512..700).chain(1024..1280) {
            for value in [0, 1, 0x7f, 0xff] {
                let before = std::mem::replace(&mut head[at], value);
                let storage = Arc::new(MemoryStorage::new(head[..16384].to_vec()));
                let disk = Raw
                    .open(storage, &OpenOptions::default().context())
                    .unwrap()
                    .reader;
                contents(&*disk).unwrap();
                head[at] = before;
            }
        }
    }
}

#[test]
fn a_picture_shares_all_bytes_out() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("disk");
    let file = File::create(&path).unwrap();
    file.write_all_at(&vec![1; 1 << 20], 3 * MIB).unwrap();
    file.set_len(10 * MIB + 512).unwrap();
    let files = [("a.raw".to_owned(), 10 * MIB + 512)];
    for cells in [1, 7, 64, 1000] {
        let picture = Picture::of(&*disk(&path), &files, cells).unwrap();
        assert_eq!(picture.disk.len(), cells);
        for share in Share::ALL {
            let shared: u64 = picture.disk.iter().map(|cell| cell.of(share)).sum();
            assert_eq!(
                shared,
                picture.total.of(share),
                "{cells} cells, {}",
                share.name()
            );
        }
        assert_eq!(picture.total.data + picture.total.zero, 10 * MIB + 512);
        assert_eq!(picture.bar().chars().count(), cells);
    }
    let picture = Picture::of(&*disk(&path), &files, 10).unwrap();
    assert_eq!(picture.bar(), "░░░█░░░░░░");
    assert_eq!(picture.files[0].bar(), "···█······");
    // The second half of the data, twice as fine, and what lies around it.
    let part =
        |cells, of_disk, of_file| Picture::part(&*disk(&path), &files, cells, of_disk, of_file);
    let near = part(4, 3 * MIB + MIB / 2..4 * MIB + MIB / 2, 3 * MIB..5 * MIB).unwrap();
    assert_eq!(near.bar(), "██░░");
    assert_eq!(near.files[0].bar(), "██··");
    assert_eq!(near.disk[0].data, MIB / 4);
    assert_eq!(near.total, picture.total);
    let behind = part(2, 11 * MIB..u64::MAX, 11 * MIB..u64::MAX).unwrap();
    assert_eq!(behind.disk, vec![Default::default(); 2]);
    let svg = picture.svg("a <disk> & more", &Contents::default());
    assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"));
    assert!(svg.contains("a &lt;disk&gt; &amp; more"));
}
