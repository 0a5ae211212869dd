use diskette_core::Error;
use sha1::Sha1;
use sha2::{Digest, Sha256, Sha512};

use super::*;
use crate::MemoryStorage;

const DESCRIPTOR: &str = r#"<?xml version="1.0"?>
<Envelope xmlns="http://schemas.dmtf.org/ovf/envelope/1" xmlns:ovf="http://schemas.dmtf.org/ovf/envelope/1">
  <References>
    <File ovf:href="disk-1.vmdk" ovf:id="file1" ovf:size="5"/>
    <File ovf:href="data%20disk.vmdk" ovf:id="file2"/>
    <File ovf:href="lost.vmdk" ovf:id="file3"/>
    <File ovf:href="../disk-1.vmdk" ovf:id="file4"/>
    <File ovf:href="disk-1.vmdk" ovf:id="file5" ovf:compression="gzip" ovf:chunkSize="1000"/>
  </References>
  <DiskSection>
    <Disk ovf:diskId="vmdisk1" ovf:fileRef="file1" ovf:capacity="8" ovf:capacityAllocationUnits="byte * 2^30"/>
    <Disk ovf:diskId="empty" ovf:capacity="1"/>
    <Disk ovf:diskId="vmdisk2" ovf:fileRef="file2" ovf:capacity="4096"/>
    <Disk ovf:diskId="vmdisk3" ovf:fileRef="file3" ovf:capacity="${size}"/>
    <Disk ovf:diskId="vmdisk4" ovf:fileRef="file4"/>
    <Disk ovf:diskId="vmdisk5" ovf:fileRef="file5"/>
  </DiskSection>
</Envelope>"#;

fn archive(members: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, bytes) in members {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, name, *bytes).unwrap();
    }
    builder.into_inner().unwrap()
}

fn ova(bytes: Vec<u8>) -> Result<Ova> {
    let storage = Arc::new(MemoryStorage::named("dir/vm.ova", bytes));
    Ova::open(storage, &Limits::default())
}

fn is_ova(bytes: Vec<u8>) -> bool {
    Ova::is_ova(&MemoryStorage::new(bytes), &Limits::default()).unwrap()
}

fn hexadecimal(digest: &[u8]) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn sound() -> Vec<u8> {
    let manifest = format!(
        "SHA256(vm.ovf)= {}\nSHA1(disk-1.vmdk)= {}\nSHA512(data disk.vmdk)= {}\n",
        hexadecimal(&Sha256::digest(DESCRIPTOR)),
        hexadecimal(&Sha1::digest("hello")),
        hexadecimal(&Sha512::digest("data")),
    );
    with_manifest(&manifest)
}

fn with_manifest(manifest: &str) -> Vec<u8> {
    archive(&[
        ("vm.ovf", DESCRIPTOR.as_bytes()),
        ("vm.mf", manifest.as_bytes()),
        ("disk-1.vmdk", b"hello"),
        ("data disk.vmdk", b"data"),
        ("sub/part", b"part"),
        ("sub/other", b"other"),
    ])
}

#[test]
fn an_ova_is_a_tar_file_with_a_descriptor() {
    assert!(is_ova(sound()));
    assert!(is_ova(archive(&[("readme", b""), ("vm.ovf", b"")])));
    assert!(!is_ova(archive(&[("readme", b""), ("disk.vmdk", b"")])));
    assert!(!is_ova(vec![0; 4096]));
    assert!(!is_ova(b"vm.ovf".to_vec()));
    let mut bytes = sound();
    bytes[3] ^= 1; // the header's checksum is wrong now
    assert!(!is_ova(bytes));
}

#[test]
fn disks_are_those_of_the_descriptor_that_have_files() {
    let ova = ova(sound()).unwrap();
    let told = ova.disks().iter().map(|disk| {
        let len = ova.stored_len(disk);
        (disk.id.as_str(), disk.file.as_str(), len, disk.capacity)
    });
    assert_eq!(
        told.take(3).collect::<Vec<_>>(),
        [
            ("vmdisk1", "disk-1.vmdk", Some(5), Some(8 << 30)),
            ("vmdisk2", "data%20disk.vmdk", Some(4), Some(4096)),
            ("vmdisk3", "lost.vmdk", None, None),
        ]
    );
}

#[test]
fn a_disk_is_found_by_file_identifier_or_number() {
    let ova = ova(sound()).unwrap();
    for which in ["data%20disk.vmdk", "vmdisk2", "1"] {
        let storage = ova.storage_of(ova.find(which).unwrap()).unwrap();
        assert_eq!(storage.read_vec(4, 0).unwrap(), b"data");
        assert_eq!(storage.name(), "dir/vm.ova#data disk.vmdk");
    }
    assert!(matches!(ova.find("5"), Err(Error::NotFound { .. })));
    assert!(matches!(ova.find("-1"), Err(Error::NotFound { .. })));
}

#[test]
fn of_several_disks_one_must_be_chosen() {
    let error = ova(sound()).unwrap().choose(None).unwrap_err().to_string();
    assert!(
        error.contains("0 (\"disk-1.vmdk\"), 1 (\"data%20disk.vmdk\")"),
        "{error}"
    );
}

#[test]
fn a_disk_that_cannot_be_had_is_refused_for_its_reason() {
    let ova = ova(sound()).unwrap();
    let why = |which| {
        ova.storage_of(ova.find(which).unwrap())
            .unwrap_err()
            .to_string()
    };
    assert!(why("vmdisk3").contains("lost.vmdk\", the archive has no such file"));
    assert!(why("vmdisk4").contains("refused extent file \"../disk-1.vmdk\""));
    assert!(why("vmdisk5").contains("a disk's file in chunks is not supported"));
}

#[test]
fn what_a_disk_refers_to_is_a_file_of_the_archive_or_refused() {
    let ova = ova(sound()).unwrap();
    let open = |from: &str, target: &str| {
        let from = MemoryStorage::named(format!("dir/vm.ova#{from}"), Vec::new());
        Resolver::open(&ova, &Reference::new(Role::Part, target), &from)
    };
    assert_eq!(
        open("disk-1.vmdk", "sub/part").unwrap().name(),
        "dir/vm.ova#sub/part"
    );
    assert_eq!(
        open("sub/part", "other").unwrap().name(),
        "dir/vm.ova#sub/other"
    );
    assert_eq!(
        open("disk-1.vmdk", "./sub\\part").unwrap().name(),
        "dir/vm.ova#sub/part"
    );
    for target in [
        "",
        "part",
        "/etc/passwd",
        "../vm.ova",
        "sub/../vm.ovf",
        "C:x",
        "file:vm.ovf",
    ] {
        let error = open("disk-1.vmdk", target).unwrap_err();
        assert!(matches!(error, Error::Refused { .. }), "{target}: {error}");
    }
    let stranger = MemoryStorage::named("dir/other", Vec::new());
    let reference = Reference::new(Role::Part, "vm.ovf");
    assert!(Resolver::open(&ova, &reference, &stranger).is_err());
}

#[test]
fn the_manifest_is_held_against_the_files() {
    let ova = ova(sound()).unwrap();
    let entries = ova.verify().unwrap();
    assert!(
        entries.iter().all(|entry| entry.verdict == Verdict::Right),
        "{entries:?}"
    );
    assert_eq!(entries.len(), 3);
    ova.expect_as_in_manifest().unwrap();
}

#[test]
fn a_file_that_is_not_as_in_the_manifest_is_named() {
    let why = |manifest: &str| {
        let ova = ova(with_manifest(manifest)).unwrap();
        ova.expect_as_in_manifest().unwrap_err().to_string()
    };
    assert!(why("SHA256(disk-1.vmdk)= 00").contains("digest of \"disk-1.vmdk\""));
    assert!(why("SHA256(away.vmdk)= 00").contains("\"away.vmdk\""));
    assert!(why("").contains("the manifest does not list this file"));
    assert!(why("MD5(disk-1.vmdk)= 00").contains("a manifest with MD5 is not supported"));
    assert!(why("nonsense").contains("ALGORITHM(file)= digest"));
    let none = ova(archive(&[("vm.ovf", b"<Envelope/>")])).unwrap();
    assert!(matches!(none.verify(), Err(Error::NotFound { .. })));
}

#[test]
fn long_names_of_gnu_and_pax_are_read() {
    let long = format!("{}/disk.vmdk", "x".repeat(150));
    let bytes = archive(&[("vm.ovf", b"<Envelope/>"), (&long, b"gnu")]);
    assert_eq!(
        ova(bytes).unwrap().range_of(&long).map(|range| range.size),
        Some(3)
    );

    let mut builder = tar::Builder::new(Vec::new());
    let mut add = |name: &str, bytes: &[u8], pax: &[(&str, &[u8])]| {
        if !pax.is_empty() {
            builder.append_pax_extensions(pax.iter().copied()).unwrap();
        }
        let mut header = tar::Header::new_ustar();
        header.set_size(bytes.len() as u64);
        builder.append_data(&mut header, name, bytes).unwrap();
    };
    add("vm.ovf", b"<Envelope/>", &[]);
    add(
        "short",
        b"pax",
        &[("path", long.as_bytes()), ("mtime", b"1.5")],
    );
    let bytes = builder.into_inner().unwrap();
    assert_eq!(
        ova(bytes).unwrap().range_of(&long).map(|range| range.size),
        Some(3)
    );
}

#[test]
fn an_archive_that_lies_is_refused() {
    assert!(ova(archive(&[("readme", b"")])).is_err());
    assert!(ova(archive(&[("vm.ovf", b"<Envelope")])).is_err());
    let twice = archive(&[("vm.ovf", b"<Envelope/>"), ("a", b""), ("a", b"")]);
    assert!(
        ova(twice)
            .unwrap_err()
            .to_string()
            .contains("this name too")
    );
    let two = archive(&[("a.ovf", b"<Envelope/>"), ("b.ovf", b"<Envelope/>")]);
    assert!(
        ova(two)
            .unwrap_err()
            .to_string()
            .contains("two descriptors")
    );
    let bytes = sound();
    for len in (0..bytes.len()).step_by(97) {
        let _ = ova(bytes[..len].to_vec());
    }
    for at in 0..512 {
        let mut bytes = sound();
        bytes[at] ^= 0xff;
        let _ = ova(bytes);
    }
}

#[test]
fn an_extension_header_is_not_read_beyond_the_limit() {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::GNULongName);
    header.set_path("././@LongLink").unwrap();
    header.set_size(2 << 20);
    header.set_cksum();
    let mut bytes = header.as_bytes().to_vec();
    bytes.resize(4 << 20, b'x');
    let error = ova(bytes).unwrap_err();
    assert!(matches!(error, Error::LimitExceeded { .. }), "{error}");
}
