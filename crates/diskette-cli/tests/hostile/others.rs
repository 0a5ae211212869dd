//! Raw and LUKS images, OVAs and compressed files that lie; files of two faces.

use std::io::Write;

use diskette_testkit::qcow2::{Cluster, Qcow2};
use diskette_testkit::vmdk::Stream;
use diskette_testkit::vpc::{Footer, fixed};
use flate2::Compression;
use flate2::write::GzEncoder;

use crate::case::{Case, Order, Sound, Take};

pub(crate) fn cases(take: Take<'_>) {
    for len in [0, 1, 511, 512, 513, 4096] {
        take(Case::new(format!("raw: {len} bytes"), "raw", vec![7; len]));
        take(Case::new(
            format!("no format: {len} bytes"),
            None,
            vec![7; len],
        ));
        for format in ["qcow2", "vmdk", "vdi", "vhdx", "vpc", "luks"] {
            take(Case::new(
                format!("{format}: {len} bytes of noise"),
                format,
                vec![7; len],
            ));
            take(Case::new(
                format!("{format}: {len} bytes of zeros"),
                format,
                vec![0; len],
            ));
        }
    }
    two_faces(take);
    luks(take);
    archives(take);
    packed(take);
}

fn small() -> Vec<u8> {
    Qcow2::v3(1 << 20)
        .cluster_bits(12)
        .cluster(0, Cluster::Data(vec![1; 4096]))
        .build()
        .bytes
}

/// Files that are of one format by one end, and of another by the other.
fn two_faces(take: Take<'_>) {
    let footer = Footer::new(64 << 10);
    for (name, head) in [
        ("qcow2", small()),
        ("vmdk", b"KDMV\x01\0\0\0".to_vec()),
        (
            "vmdk descriptor",
            b"# Disk DescriptorFile\nversion=1\n".to_vec(),
        ),
        (
            "vdi",
            diskette_testkit::vdi::Vdi::new(1 << 20, &[0], &[(0, 1)]).build(),
        ),
        ("vhdx", b"vhdxfile".to_vec()),
        ("luks", b"LUKS\xba\xbe\0\x01".to_vec()),
        ("gzip", gzip(&[1; 4096])),
    ] {
        let mut data = head;
        data.resize(data.len().next_multiple_of(512).max(64 << 10), 7);
        let mut footer = footer.clone();
        footer.size = data.len() as u64;
        take(Case::new(
            format!("two faces: {name} and vpc"),
            None,
            fixed(data.clone(), &footer),
        ));
        take(Case::new(
            format!("two faces: {name} and vpc, named vpc"),
            "vpc",
            fixed(data.clone(), &footer),
        ));
        take(Case::new(
            format!("two faces: {name} named raw"),
            "raw",
            data,
        ));
    }
    let mut sector = b"KDMV".to_vec();
    sector.resize(64 << 10, 0);
    sector[32769..32774].copy_from_slice(b"CD001");
    take(Case::new("two faces: vmdk and ISO 9660", None, sector));
}

/// A LUKS1 header as cryptsetup lays it out, with keys that nobody has.
fn luks(take: Take<'_>) {
    let mut bytes = vec![0; 2 << 20];
    bytes[..8].copy_from_slice(b"LUKS\xba\xbe\0\x01");
    bytes[8..11].copy_from_slice(b"aes");
    bytes[40..51].copy_from_slice(b"xts-plain64");
    bytes[72..78].copy_from_slice(b"sha256");
    bytes[104..108].copy_from_slice(&2048_u32.to_be_bytes());
    bytes[108..112].copy_from_slice(&64_u32.to_be_bytes());
    bytes[164..168].copy_from_slice(&1000_u32.to_be_bytes());
    bytes[168..204].copy_from_slice(b"01234567-89ab-cdef-0123-456789abcdef");
    for slot in 0..8_u32 {
        let at = 208 + 48 * usize::try_from(slot).unwrap();
        let state: u32 = if slot == 0 { 0x00ac_71f3 } else { 0x0000_dead };
        bytes[at..at + 4].copy_from_slice(&state.to_be_bytes());
        bytes[at + 4..at + 8].copy_from_slice(&1000_u32.to_be_bytes());
        bytes[at + 40..at + 44].copy_from_slice(&(8 + slot * 504 / 2).to_be_bytes());
        bytes[at + 44..at + 48].copy_from_slice(&4000_u32.to_be_bytes());
    }
    let sound = Sound::new("luks", "luks", Order::Big, bytes);
    sound.sound(take);
    sound.field(take, "version", (6, 2), &[2, 3]);
    sound.field(take, "cipher-name", (8, 8), &[]);
    sound.field(take, "cipher-mode", (40, 8), &[]);
    sound.field(take, "hash-spec", (72, 8), &[]);
    sound.offset(take, "payload-offset", (104, 4), 512);
    sound.field(take, "key-bytes", (108, 4), &[1, 31, 32, 33, 128, 1 << 20]);
    sound.field(
        take,
        "mk-digest-iter",
        (164, 4),
        &[1, 50_000_000, 50_000_001],
    );
    sound.field(take, "key slot[0].active", (208, 4), &[0xdead]);
    sound.field(take, "key slot[0].iterations", (212, 4), &[1, 50_000_001]);
    sound.offset(take, "key slot[0].key-material-offset", (248, 4), 512);
    sound.field(
        take,
        "key slot[0].stripes",
        (252, 4),
        &[1, 3999, 4001, 1 << 31],
    );
    sound.cuts(take, &[208, 592, 4096, 1 << 20]);
}

fn archives(take: Take<'_>) {
    let disk = Stream::new(2048, &[(0, 1)]).bytes();
    let text = descriptor("disk.vmdk");
    let mut give = |name: &str, files: &[(&str, &[u8])], change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = tar(files);
        change(&mut bytes);
        take(Case::new(format!("ova: {name}"), None, bytes));
    };
    let good: &[(&str, &[u8])] = &[("vm.ovf", text.as_bytes()), ("disk.vmdk", &disk)];
    give("sound", good, &|_| {});
    for cut in [0, 1, 511, 512, 513, 1024, 2048, 4096] {
        give(&format!("cut to {cut} bytes"), good, &|bytes| {
            bytes.truncate(cut);
        });
    }
    for (name, value) in [
        ("zero", "00000000000\0"),
        ("one", "00000000001\0"),
        ("the most", "77777777777\0"),
        ("no number", "rose rose!!\0"),
        ("negative", "-0000000001\0"),
    ] {
        give(
            &format!("size of the descriptor is {name}"),
            good,
            &|bytes| {
                bytes[124..136].copy_from_slice(value.as_bytes());
                seal_tar(&mut bytes[..512]);
            },
        );
        let second = 512 + text.len().next_multiple_of(512);
        give(&format!("size of the disk is {name}"), good, &|bytes| {
            bytes[second + 124..second + 136].copy_from_slice(value.as_bytes());
            seal_tar(&mut bytes[second..second + 512]);
        });
    }
    give("a size in base 256, past all", good, &|bytes| {
        bytes[124..136].fill(0xff);
        seal_tar(&mut bytes[..512]);
    });
    give("a checksum that is wrong", good, &|bytes| bytes[148] ^= 1);
    for kind in [b'1', b'2', b'3', b'5', b'6', b'L', b'x', b'S'] {
        let second = 512 + text.len().next_multiple_of(512);
        give(
            &format!("the disk is an entry of type {}", char::from(kind)),
            good,
            &|bytes| {
                bytes[second + 156] = kind;
                bytes[second + 157..second + 168].copy_from_slice(b"/etc/passwd");
                seal_tar(&mut bytes[second..second + 512]);
            },
        );
    }
    for name in [
        "gone.vmdk",
        "/etc/passwd",
        "../secret",
        "vm.ovf",
        "",
        "http://host/disk.vmdk",
        "json:{}",
    ] {
        let text = descriptor(name);
        give(
            &format!("the disk is named '{name}'"),
            &[("vm.ovf", text.as_bytes()), ("disk.vmdk", &disk)],
            &|_| {},
        );
    }
    give(
        "two descriptors",
        &[
            ("vm.ovf", text.as_bytes()),
            ("b.ovf", text.as_bytes()),
            ("disk.vmdk", &disk),
        ],
        &|_| {},
    );
    give("no descriptor", &[("disk.vmdk", &disk)], &|_| {});
    give("no disk", &[("vm.ovf", text.as_bytes())], &|_| {});
    give(
        "one name twice",
        &[
            ("vm.ovf", text.as_bytes()),
            ("disk.vmdk", &disk),
            ("disk.vmdk", &[7; 512]),
        ],
        &|_| {},
    );
    let long = text.replace("<Info>", &format!("<Info>{}", " ".repeat(17 << 20)));
    give(
        "a descriptor of 17 MiB",
        &[("vm.ovf", long.as_bytes()), ("disk.vmdk", &disk)],
        &|_| {},
    );
    for (name, text) in [
        ("that is empty", String::new()),
        ("that is cut", text[..text.len() / 2].to_owned()),
        ("that is no XML", "rose".to_owned()),
        ("of nested elements", "<a>".repeat(100_000)),
        (
            "with entities that grow",
            format!(
                "<!DOCTYPE a [<!ENTITY a \"{}\"><!ENTITY b \"{}\">]><a>{}</a>",
                "x".repeat(1000),
                "&a;".repeat(1000),
                "&b;".repeat(1000)
            ),
        ),
        (
            "with an external entity",
            "<!DOCTYPE a [<!ENTITY a SYSTEM \"file:///etc/passwd\">]><Envelope>&a;</Envelope>"
                .to_owned(),
        ),
        (
            "of 100 000 disks",
            text.replace("<Disk ", &"<Disk x=\"\" /><Disk ".repeat(10000)),
        ),
        (
            "that fits in the largest",
            text.replace("<Info>", &"<Info>x</Info>".repeat(70_000)),
        ),
    ] {
        give(
            &format!("a descriptor {name}"),
            &[("vm.ovf", text.as_bytes()), ("disk.vmdk", &disk)],
            &|_| {},
        );
    }
}

fn packed(take: Take<'_>) {
    let disk: Vec<u8> = (0..64 << 10)
        .map(|n: u32| u8::try_from(n / 7 % 251).unwrap())
        .collect();
    let qcow2 = small();
    let zstd = |bytes: &[u8]| zstd::encode_all(bytes, 3).unwrap();
    for (kind, good, good_qcow2) in [
        ("gzip", gzip(&disk), gzip(&qcow2)),
        ("zstd", zstd(&disk), zstd(&qcow2)),
        ("xz", XZ.to_vec(), XZ.to_vec()),
        ("bzip2", BZIP2.to_vec(), BZIP2.to_vec()),
    ] {
        let mut give = |name: &str, bytes: Vec<u8>| {
            take(Case::new(format!("{kind}: {name}"), None, bytes));
        };
        give("sound", good.clone());
        give("a sound QCOW2", good_qcow2.clone());
        for (of, good) in [("raw", &good), ("QCOW2", &good_qcow2)] {
            for cut in [6, 10, good.len() / 2, good.len() - 9, good.len() - 1] {
                give(&format!("{of}, cut to {cut} bytes"), good[..cut].to_vec());
            }
            for at in [4, 8, good.len() / 2, good.len() - 6, good.len() - 1] {
                let mut bytes = good.clone();
                bytes[at] ^= 0x55;
                give(&format!("{of}, byte {at} is another"), bytes);
            }
        }
        give("noise behind it", [good.clone(), vec![7; 1000]].concat());
        give("zeros behind it", [good.clone(), vec![0; 1000]].concat());
        give("twice", [good.clone(), good.clone()].concat());
    }
    let mut four = gzip(&disk);
    for _ in 0..4 {
        four = gzip(&four);
    }
    take(Case::new("gzip: five times over", None, four));
    take(Case::new(
        "gzip: 32 MiB of zeros",
        None,
        gzip(&vec![0; 32 << 20]),
    ));
    let text = descriptor("disk.vmdk.gz");
    let disk = gzip(&Stream::new(2048, &[(0, 1)]).bytes());
    let ova = tar(&[("vm.ovf", text.as_bytes()), ("disk.vmdk.gz", &disk)]);
    take(Case::new(
        "gzip: an OVA with a compressed disk",
        None,
        gzip(&ova),
    ));
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn descriptor(file: &str) -> String {
    format!(
        r#"<?xml version="1.0"?>
<Envelope xmlns="http://schemas.dmtf.org/ovf/envelope/1" xmlns:ovf="http://schemas.dmtf.org/ovf/envelope/1">
<References><File ovf:href="{file}" ovf:id="file1"/></References>
<DiskSection><Info>Disks</Info><Disk ovf:diskId="disk1" ovf:fileRef="file1" ovf:capacity="1048576"/></DiskSection></Envelope>"#
    )
}

fn tar(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut all = Vec::new();
    for (name, bytes) in files {
        let mut header = [0; 512];
        header[..name.len()].copy_from_slice(name.as_bytes());
        header[100..108].copy_from_slice(b"0000644\0");
        header[124..136].copy_from_slice(format!("{:011o}\0", bytes.len()).as_bytes());
        header[136..148].copy_from_slice(b"00000000000\0");
        header[156] = b'0';
        header[257..265].copy_from_slice(b"ustar\x0000");
        seal_tar(&mut header);
        all.extend(header);
        all.extend(*bytes);
        all.resize(all.len().next_multiple_of(512), 0);
    }
    all.extend([0; 1024]);
    all
}

fn seal_tar(header: &mut [u8]) {
    header[148..156].fill(b' ');
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}

/// 512 bytes, compressed by xz.
#[rustfmt::skip]
const XZ: &[u8] = &[
    0xfd, 0x37, 0x7a, 0x58, 0x5a, 0x00, 0x00, 0x04, 0xe6, 0xd6, 0xb4, 0x46, 0x02, 0x00, 0x21, 0x01,
    0x16, 0x00, 0x00, 0x00, 0x74, 0x2f, 0xe5, 0xa3, 0xe0, 0x01, 0xff, 0x00, 0x1d, 0x5d, 0x00, 0x30,
    0x88, 0x08, 0x86, 0xd4, 0x4c, 0x23, 0x67, 0x8f, 0xe9, 0x16, 0x0d, 0xef, 0x10, 0x72, 0xfa, 0x6c,
    0x9b, 0x1c, 0x50, 0x47, 0x6f, 0xb6, 0x04, 0xc1, 0x56, 0x49, 0xa0, 0x00, 0x00, 0x00, 0x00, 0x00,
    0x92, 0xed, 0x39, 0x7e, 0x5d, 0x14, 0x4d, 0xb5, 0x00, 0x01, 0x39, 0x80, 0x04, 0x00, 0x00, 0x00,
    0x7d, 0xa5, 0xa4, 0xde, 0xb1, 0xc4, 0x67, 0xfb, 0x02, 0x00, 0x00, 0x00, 0x00, 0x04, 0x59, 0x5a,
];
/// 512 bytes, compressed by bzip2.
#[rustfmt::skip]
const BZIP2: &[u8] = &[
    0x42, 0x5a, 0x68, 0x39, 0x31, 0x41, 0x59, 0x26, 0x53, 0x59, 0xd4, 0x1f, 0x14, 0x74, 0x00, 0x00,
    0x07, 0xd9, 0x81, 0xc0, 0x00, 0x40, 0x00, 0x32, 0x00, 0x37, 0x28, 0x8c, 0x20, 0x00, 0x10, 0x00,
    0x08, 0x20, 0x00, 0x22, 0x20, 0x07, 0xa8, 0xd3, 0x4f, 0x28, 0x53, 0x4c, 0x8c, 0x4c, 0x4c, 0x45,
    0x14, 0x69, 0x73, 0x1a, 0xe8, 0x01, 0x4d, 0x89, 0x87, 0xb7, 0x8a, 0x45, 0xbe, 0x2e, 0xe4, 0x8a,
    0x70, 0xa1, 0x21, 0xa8, 0x3e, 0x28, 0xe8,
];
