//! QCOW2 images that lie.

use std::io::Write;

use diskette_testkit::qcow2::{Built, Cluster, Qcow2, Snapshot};
use flate2::Compression;
use flate2::write::DeflateEncoder;

use crate::case::{Case, Order, Sound, Take};

const SIZE: u64 = 1 << 20;
const CLUSTER: u64 = 4096;

pub(crate) fn cases(take: Take<'_>) {
    let built = image().build();
    let sound = Sound::new("qcow2", "qcow2", Order::Big, built.bytes.clone());
    sound.sound(take);
    header(&sound, take);
    tables(&sound, &built, take);
    snapshots(&sound, &built, take);
    compressed(take);
    extensions(take);
    bombs(take);
    let at = |offset: u64| usize::try_from(offset).unwrap();
    sound.cuts(
        take,
        &[
            72,
            104,
            4096,
            at(built.l1_offset),
            at(built.l1_offset) + 8,
            at(built.l2_offsets[&0]) + 8,
            at(built.refcount_table_offset),
            at(built.refcount_block_offsets[0]) + 100,
        ],
    );
}

/// 1 MiB in clusters of 4 KiB: some data, zeros, a compressed cluster; a snapshot.
fn image() -> Qcow2 {
    let snapshot = Snapshot {
        id: "1".to_owned(),
        name: "first".to_owned(),
        disk_size: SIZE,
        clusters: [(0, Cluster::Data(vec![3; 4096]))].into(),
    };
    Qcow2::v3(SIZE)
        .cluster_bits(12)
        .cluster(0, Cluster::Data(vec![1; 4096]))
        .cluster(1, Cluster::Compressed(deflated(&[2; 4096])))
        .cluster(2, Cluster::Zero)
        .cluster(9, Cluster::Data(vec![9; 4096]))
        .snapshot(snapshot)
}

fn header(sound: &Sound<'_>, take: Take<'_>) {
    sound.field(take, "magic", (0, 4), &[]);
    sound.field(take, "version", (4, 4), &[1, 2, 4]);
    sound.offset(take, "backing_file_offset", (8, 8), 1);
    sound.field(take, "backing_file_size", (16, 4), &[1, 1023, 1024]);
    sound.field(
        take,
        "cluster_bits",
        (20, 4),
        &[8, 9, 11, 13, 16, 21, 22, 31, 32, 63, 64],
    );
    let sizes = [
        1,
        511,
        512,
        SIZE - 1,
        SIZE + 1,
        2 << 20,
        2 << 20 | 1,
        1 << 40,
        i64::MAX as u64,
        1 << 63,
    ];
    sound.field(take, "size", (24, 8), &sizes);
    sound.field(take, "crypt_method", (32, 4), &[1, 2, 3]);
    sound.field(
        take,
        "l1_size",
        (36, 4),
        &[1, 3, 512, 513, 0x40_0000, 0x40_0001, 0x800_0000],
    );
    sound.offset(take, "l1_table_offset", (40, 8), 1);
    sound.offset(take, "refcount_table_offset", (48, 8), 1);
    sound.field(
        take,
        "refcount_table_clusters",
        (56, 4),
        &[2, 0x1000, 0x10_0000],
    );
    sound.field(take, "nb_snapshots", (60, 4), &[2, 65535, 65536, 65537]);
    sound.offset(take, "snapshots_offset", (64, 8), 1);
    let features = [1, 2, 4, 8, 16, 32, 1 << 31, 1 << 32, 1 << 63];
    sound.field(take, "incompatible_features", (72, 8), &features);
    sound.field(take, "compatible_features", (80, 8), &[1, 2]);
    sound.field(take, "autoclear_features", (88, 8), &[1, 2, 4]);
    sound.field(take, "refcount_order", (96, 4), &[1, 6, 7, 32, 64]);
    sound.field(
        take,
        "header_length",
        (100, 4),
        &[72, 103, 104, 105, 111, 113, 4096, 4097],
    );
    sound.field(take, "compression_type", (104, 1), &[1, 2]);
}

fn tables(sound: &Sound<'_>, built: &Built, take: Take<'_>) {
    let at = |offset: u64| usize::try_from(offset).unwrap();
    let places = [
        0x1,
        0x200,
        CLUSTER,
        built.l1_offset,
        built.refcount_table_offset,
        built.refcount_block_offsets[0],
        built.l2_offsets[&0],
        1 << 55,
        1 << 56,
        1 << 61,
        1 << 62,
        1 << 63,
        1 << 63 | built.l1_offset,
        1 << 63 | 0x200,
        1 << 63 | 1 << 40,
        1 << 63 | 0x00ff_ffff_ffff_f000,
    ];
    for (name, offset) in [
        ("l1_entry[0]", built.l1_offset),
        ("l2_entry[0]", built.l2_entry_at(0)),
        ("l2_entry[1]", built.l2_entry_at(1)),
        ("refcount_table_entry[0]", built.refcount_table_offset),
    ] {
        sound.offset(take, name, (at(offset), 8), 1);
        let lies = format!("{name} as a place");
        sound.field(take, &lies, (at(offset), 8), &places);
    }
    let block = at(built.refcount_block_offsets[0]);
    for index in [0, 1, 3] {
        let name = format!("refcount[{index}]");
        sound.field(take, &name, (block + 2 * index, 2), &[2]);
    }
}

fn snapshots(sound: &Sound<'_>, built: &Built, take: Take<'_>) {
    let at = usize::try_from(built.snapshots_offset).unwrap();
    sound.offset(take, "snapshot[0].l1_table_offset", (at, 8), 1);
    sound.field(
        take,
        "snapshot[0].l1_size",
        (at + 8, 4),
        &[1, 512, 0x40_0001],
    );
    sound.field(take, "snapshot[0].id_str_size", (at + 12, 2), &[2, 500]);
    sound.field(take, "snapshot[0].name_size", (at + 14, 2), &[2, 500]);
    sound.field(take, "snapshot[0].vm_state_size", (at + 32, 4), &[1]);
    sound.field(
        take,
        "snapshot[0].extra_data_size",
        (at + 36, 4),
        &[8, 15, 16, 24, 1024, 1025, 4096],
    );
}

fn compressed(take: Take<'_>) {
    let good = deflated(&[2; 4096]);
    let noise: Vec<u8> = (0..300_u32)
        .map(|n| u8::try_from(n * 131 % 251).unwrap())
        .collect();
    let mut damaged = good.clone();
    damaged[2] ^= 0xff;
    for (name, stream) in [
        ("to too little", deflated(&[2; 4095])),
        ("to nothing", deflated(&[])),
        ("to too much", deflated(&[2; 4097])),
        ("to far too much", deflated(&[0; 1 << 20])),
        ("that is cut", good[..good.len() / 2].to_vec()),
        ("that is damaged", damaged),
        ("that is noise", noise),
        ("that is zeros", vec![0; 100]),
    ] {
        let image = Qcow2::v3(SIZE).cluster_bits(12);
        let deflate = image
            .clone()
            .cluster(0, Cluster::Compressed(stream.clone()));
        take(Case::new(
            format!("qcow2: a stream {name}"),
            "qcow2",
            deflate.build().bytes,
        ));
        let zstd = image.zstd().cluster(0, Cluster::Compressed(stream));
        take(Case::new(
            format!("qcow2: zstd, a stream {name}"),
            "qcow2",
            zstd.build().bytes,
        ));
    }
    for (name, bitmap) in [
        ("both", u64::MAX),
        ("stored without a place", 0xffff_ffff),
        ("zero", u64::MAX << 32),
    ] {
        let image = Qcow2::v3(SIZE)
            .cluster_bits(14)
            .extended_l2()
            .cluster(0, Cluster::Entry(0, bitmap));
        take(Case::new(
            format!("qcow2: subclusters {name}"),
            "qcow2",
            image.build().bytes,
        ));
    }
}

fn extensions(take: Take<'_>) {
    let image = Qcow2::v3(SIZE).cluster_bits(12);
    for (name, kind, data) in [
        ("unknown", 0x1234_5678, vec![1; 5]),
        (
            "backing format of 1000 bytes",
            0xe279_2aca,
            vec![b'a'; 1000],
        ),
        ("backing format that is no text", 0xe279_2aca, vec![0xff; 4]),
        ("feature names of a wrong length", 0x6803_f857, vec![1; 47]),
        ("LUKS header of a wrong length", 0x0537_be77, vec![1; 15]),
        ("bitmaps of a wrong length", 0x2385_2875, vec![1; 23]),
        ("bitmaps anywhere", 0x2385_2875, vec![0xff; 24]),
        (
            "data file name without data file",
            0x4441_5441,
            b"x".to_vec(),
        ),
    ] {
        let image = image.clone().extension(kind, &data);
        take(Case::new(
            format!("qcow2: extension {name}"),
            "qcow2",
            image.build().bytes,
        ));
    }
    let mut built = image.extension(0x1234_5678, &[0; 8]).build();
    for len in [u32::MAX, 0x7fff_fff8, 4096, 3968] {
        built.put_u32(116, len);
        take(Case::new(
            format!("qcow2: extension of {len:#x} bytes"),
            "qcow2",
            built.bytes.clone(),
        ));
    }
}

/// Small files that would cost much.
fn bombs(take: Take<'_>) {
    // An L1 table of 32 MiB, the most that QEMU takes, in a file that has holes.
    let mut bytes = Qcow2::v3(SIZE).cluster_bits(9).build().bytes;
    let at = bytes.len().next_multiple_of(512);
    bytes.resize(at + (32 << 20), 0);
    bytes[24..32].copy_from_slice(&(((32_u64 << 20) / 8) * 64 * 512).to_be_bytes());
    bytes[36..40].copy_from_slice(&((32_u32 << 20) / 8).to_be_bytes());
    bytes[40..48].copy_from_slice(&(at as u64).to_be_bytes());
    take(Case::new(
        "qcow2: an L1 table of 32 MiB",
        "qcow2",
        bytes.clone(),
    ));
    // And each of its entries leads to one table.
    for entry in bytes[at..].chunks_mut(8) {
        entry.copy_from_slice(&(1_u64 << 63 | at as u64).to_be_bytes());
    }
    take(Case::new(
        "qcow2: an L1 table of 32 MiB that leads to itself",
        "qcow2",
        bytes,
    ));
    // A refcount table of 8 MiB.
    let mut bytes = Qcow2::v3(SIZE).cluster_bits(9).build().bytes;
    let at = bytes.len().next_multiple_of(512);
    bytes.resize(at + (8 << 20), 0);
    bytes[48..56].copy_from_slice(&(at as u64).to_be_bytes());
    bytes[56..60].copy_from_slice(&((8_u32 << 20) / 512).to_be_bytes());
    take(Case::new(
        "qcow2: a refcount table of 8 MiB",
        "qcow2",
        bytes,
    ));
}

pub(crate) fn deflated(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = DeflateEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}
