//! VMDK images that lie: every kind of extent, and descriptors.

use diskette_testkit::vmdk::{self, Hosted, SeGrain, Stream};

use crate::case::{Case, Order, Sound, Take};

/// Sectors of the disk: two tables of 512 grains of 64 KiB, almost.
const CAPACITY: u64 = 2048;

pub(crate) fn cases(take: Take<'_>) {
    hosted(take);
    stream(take);
    markers(take);
    cowd(take);
    se_sparse(take);
    descriptors(take);
}

fn hosted(take: Take<'_>) {
    let image = Hosted::new(CAPACITY, &[(0, 1), (3, 2)]).bytes();
    let sound = Sound::new("vmdk", "vmdk", Order::Little, image);
    sound.sound(take);
    sound.field(take, "version", (4, 4), &[2, 3, 4]);
    sound.field(take, "flags", (8, 4), &[1, 2, 4, 1 << 16, 1 << 17, 3 << 16]);
    let capacities = [1, 127, 2047, 2049, 1 << 32, 1 << 54, 1 << 55, 1 << 63];
    sound.field(take, "capacity", (12, 8), &capacities);
    let grains = [1, 4, 7, 8, 9, 64, 256, 1 << 20, 1 << 32, 1 << 55, 1 << 63];
    sound.field(take, "grainSize", (20, 8), &grains);
    sound.offset(take, "descriptorOffset", (28, 8), 512);
    sound.field(take, "descriptorSize", (36, 8), &[1, 2048, 2049, 1 << 55]);
    sound.field(
        take,
        "numGTEsPerGT",
        (44, 4),
        &[1, 511, 513, 1024, 1 << 20, 1 << 31],
    );
    sound.offset(take, "rgdOffset", (48, 8), 512);
    sound.offset(take, "gdOffset", (56, 8), 512);
    sound.offset(take, "overHead", (64, 8), 512);
    sound.field(take, "uncleanShutdown", (72, 1), &[1]);
    sound.field(take, "singleEndLineChar", (73, 1), &[]);
    sound.field(take, "doubleEndLineChar2", (76, 1), &[b'\n'.into()]);
    sound.field(take, "compressAlgorithm", (77, 2), &[1, 2]);
    let directory = place(&sound, 56);
    let table = usize::try_from(sound.number(directory, 4) * 512).unwrap();
    sound.offset(take, "grain directory[0]", (directory, 4), 512);
    for (index, field) in [(0, "grain table[0]"), (3, "grain table[3]")] {
        sound.offset(take, field, (table + 4 * index, 4), 512);
    }
    let of_both = format!("{}: a grain twice", sound.name);
    sound.changed(take, of_both, |bytes| {
        bytes.copy_within(table..table + 4, table + 12);
    });
    sound.cuts(take, &[1024, directory, table, table + 4]);
}

fn stream(take: Take<'_>) {
    let image = Stream::new(CAPACITY, &[(0, 1), (3, 2)]).bytes();
    let sound = Sound::new("stream", "vmdk", Order::Little, image);
    sound.sound(take);
    let footer = sound.bytes.len() - 1024;
    for (name, at) in [("header", 0), ("footer", footer)] {
        let named = |field: &str| format!("{name}.{field}");
        sound.field(take, &named("magicNumber"), (at, 4), &[]);
        sound.field(take, &named("version"), (at + 4, 4), &[1, 2, 4]);
        sound.field(take, &named("flags"), (at + 8, 4), &[1, 1 << 16, 1 << 17]);
        sound.field(take, &named("capacity"), (at + 12, 8), &[1, 4096, 1 << 55]);
        sound.field(
            take,
            &named("grainSize"),
            (at + 20, 8),
            &[8, 256, 1 << 20, 1 << 55],
        );
        sound.field(take, &named("numGTEsPerGT"), (at + 44, 4), &[1, 1 << 31]);
        sound.offset(take, &named("gdOffset"), (at + 56, 8), 512);
        sound.field(take, &named("compressAlgorithm"), (at + 77, 2), &[2]);
    }
    for (name, at) in [
        ("footer marker", footer - 512),
        ("end of stream", footer + 512),
    ] {
        sound.field(take, &format!("{name}.val"), (at, 8), &[2]);
        sound.field(take, &format!("{name}.size"), (at + 8, 4), &[1]);
        sound.field(take, &format!("{name}.type"), (at + 12, 4), &[1, 2, 3, 4]);
    }
    sound.cuts(
        take,
        &[footer, footer + 512, footer - 512, 128 * 512, 128 * 512 + 6],
    );
}

/// What lies before a grain of a stream, and the grain.
fn markers(take: Take<'_>) {
    let image = Stream::new(CAPACITY, &[(0, 1), (3, 2)]);
    let sound = Sound::new("stream", "vmdk", Order::Little, image.bytes());
    let grain = 128 * 512;
    sound.field(
        take,
        "grain marker.val",
        (grain, 8),
        &[1, 128, 384, 2048, 1 << 54],
    );
    sound.field(
        take,
        "grain marker.size",
        (grain + 8, 4),
        &[1, 20, 65536, 1 << 20, 1 << 31],
    );
    for at in [0, 1, 2, 10, 40] {
        let name = format!("stream: byte {at} of a grain's data is another");
        sound.changed(take, name, |bytes| bytes[grain + 12 + at] ^= 0xff);
    }
    let mut short = image.clone();
    short.short = true;
    short.grains.insert(0, vec![1; 1000]);
    take(Case::new(
        "stream: a grain that is too short",
        "vmdk",
        short.bytes(),
    ));
    let mut long = image.clone();
    long.grains.insert(0, vec![1; 65537]);
    take(Case::new(
        "stream: a grain that is too long",
        "vmdk",
        long.bytes(),
    ));
    let mut shifted = image.clone();
    shifted.shift = 1;
    take(Case::new(
        "stream: grains that say to lie elsewhere",
        "vmdk",
        shifted.bytes(),
    ));
    let mut tail = image;
    tail.tail = vec![7; 5000];
    take(Case::new(
        "stream: bytes behind its end",
        "vmdk",
        tail.bytes(),
    ));
}

fn cowd(take: Take<'_>) {
    let image = vmdk::cowd(CAPACITY, 8, &vmdk::filled(8, &[(0, 1), (9, 2)]));
    let sound = Sound::new("cowd", "vmdk", Order::Little, image);
    sound.sound(take);
    sound.field(take, "version", (4, 4), &[2]);
    sound.field(take, "flags", (8, 4), &[1, 2]);
    sound.field(take, "numSectors", (12, 4), &[1, 2047, 2049, 1 << 31]);
    sound.field(take, "grainSize", (16, 4), &[1, 7, 16, 1 << 20, 1 << 31]);
    sound.offset(take, "gdOffset", (20, 4), 512);
    sound.field(take, "numGDEntries", (24, 4), &[2, 512, 1 << 30]);
    sound.offset(take, "freeSector", (28, 4), 512);
    sound.offset(take, "directory[0]", (2048, 4), 512);
    let table = usize::try_from(sound.number(2048, 4) * 512).unwrap();
    sound.offset(take, "table[0]", (table, 4), 512);
    sound.cuts(take, &[2048, 2052, table + 4]);
}

fn se_sparse(take: Take<'_>) {
    let grains = [
        (0, SeGrain::Data(vec![1; 4096])),
        (2, SeGrain::Zero),
        (3, SeGrain::Unmapped),
    ];
    let sound = Sound::new(
        "sesparse",
        "vmdk",
        Order::Little,
        vmdk::se_sparse(CAPACITY, &grains.into()),
    );
    sound.sound(take);
    sound.field(take, "version", (8, 8), &[0x2_0000_0000, 0x2_0000_0002]);
    sound.field(take, "capacity", (16, 8), &[1, 2049, 1 << 40, 1 << 55]);
    sound.field(take, "grain_size", (24, 8), &[1, 7, 16, 128, 1 << 55]);
    sound.field(take, "grain_table_size", (32, 8), &[1, 32, 128, 1 << 55]);
    sound.field(take, "flags", (40, 8), &[1]);
    for (name, at) in [
        ("volatile_header", 80),
        ("journal_header", 96),
        ("grain_dir", 128),
        ("grain_tables", 144),
        ("free_bitmap", 160),
        ("grain", 192),
    ] {
        sound.offset(take, &format!("{name}_offset"), (at, 8), 512);
        sound.field(take, &format!("{name}_size"), (at + 8, 8), &[1, 1 << 55]);
    }
    sound.field(take, "volatile.replay_journal", (512 + 24, 1), &[1]);
    let directory = place(&sound, 128);
    let entries = [
        0x1000_0000_0000_0001,
        1 << 61,
        0x1000_0000_ffff_ffff,
        0x2000_0000_0000_0000,
    ];
    sound.field(take, "grain directory[0]", (directory, 8), &entries);
    let table = place(&sound, 144);
    let entries = [1 << 60, 2 << 60, 3 << 60 | 1, 3 << 60 | 0xffff, 4 << 60, 5];
    sound.field(take, "grain table[0]", (table, 8), &entries);
    sound.cuts(take, &[1024, directory, table, table + 8]);
}

fn descriptors(take: Take<'_>) {
    let flat = || vec![7; 4096];
    for (name, extents) in [
        ("sound", &["RW 8 FLAT \"flat\" 0"][..]),
        ("no extent", &[]),
        ("an extent of no sectors", &["RW 0 FLAT \"flat\" 0"]),
        ("an extent one sector too long", &["RW 9 FLAT \"flat\" 0"]),
        (
            "an extent that begins at its file's end",
            &["RW 1 FLAT \"flat\" 8"],
        ),
        (
            "an extent that begins past its file's end",
            &["RW 1 FLAT \"flat\" 9"],
        ),
        (
            "an extent whose end wraps",
            &["RW 8 FLAT \"flat\" 18446744073709551615"],
        ),
        (
            "an extent of the most sectors",
            &["RW 18446744073709551615 FLAT \"flat\" 0"],
        ),
        (
            "an extent of too many sectors",
            &["RW 18446744073709551616 FLAT \"flat\" 0"],
        ),
        ("an extent of -1 sectors", &["RW -1 FLAT \"flat\" 0"]),
        (
            "extents whose sum wraps",
            &["RW 18446744073709551615 ZERO", "RW 8 FLAT \"flat\" 0"],
        ),
        ("extents of 2^55 sectors", &["RW 36028797018963968 ZERO"]),
        ("an extent without access", &["NOACCESS 8 FLAT \"flat\" 0"]),
        ("an extent of unknown access", &["XX 8 FLAT \"flat\" 0"]),
        ("an extent of unknown kind", &["RW 8 ROUND \"flat\" 0"]),
        ("an extent without a name", &["RW 8 FLAT"]),
        ("an extent of an empty name", &["RW 8 FLAT \"\" 0"]),
        ("an extent of an open name", &["RW 8 FLAT \"flat 0"]),
        ("an extent of no offset", &["RW 8 FLAT \"flat\" x"]),
        ("an extent that is not there", &["RW 8 FLAT \"gone\" 0"]),
        (
            "an extent that is the descriptor",
            &["RW 8 FLAT \"image\" 0"],
        ),
        (
            "a sparse extent that is the descriptor",
            &["RW 8 SPARSE \"image\""],
        ),
        ("a sparse extent that is flat", &["RW 8 SPARSE \"flat\""]),
        ("a raw device", &["RW 8 VMFSRDM \"flat\""]),
        (
            "extents of one file",
            &[
                "RW 4 FLAT \"flat\" 0",
                "RW 4 FLAT \"flat\" 4",
                "RW 8 FLAT \"flat\" 0",
            ],
        ),
    ] {
        let text = vmdk::descriptor("monolithicFlat", extents);
        take(Case::new(format!("descriptor: {name}"), "vmdk", text).beside("flat", flat()));
    }
    let good = String::from_utf8(vmdk::descriptor(
        "monolithicFlat",
        &["RW 8 FLAT \"flat\" 0"],
    ))
    .unwrap();
    for (name, text) in [
        ("without createType", good.replace("createType", "nothing")),
        (
            "of unknown createType",
            good.replace("monolithicFlat", "round"),
        ),
        (
            "of createType of another kind",
            good.replace("monolithicFlat", "monolithicSparse"),
        ),
        ("of version 0", good.replace("version=1", "version=0")),
        ("of version 4", good.replace("version=1", "version=4")),
        (
            "of a version that is no number",
            good.replace("version=1", "version=x"),
        ),
        ("without CID", good.replace("\nCID=", "\nXID=")),
        (
            "of a CID that is no number",
            good.replace("CID=12345678", "CID=rose"),
        ),
        ("with zeros in it", good.replace('\n', "\0\n")),
        (
            "with a last line that is cut",
            good[..good.len() - 9].to_owned(),
        ),
        (
            "with a line of 100 000 bytes",
            good.clone() + &"x".repeat(100_000),
        ),
        (
            "of more than 1 MiB",
            good.clone() + &"# padding\n".repeat(110_000),
        ),
        (
            "of 200 000 extents",
            good.replace("RW 8 FLAT \"flat\" 0", &"RW 1 ZERO\n".repeat(100_000)),
        ),
        (
            "of 5000 files",
            good.replace(
                "RW 8 FLAT \"flat\" 0",
                &"RW 1 FLAT \"flat\" 0\n".repeat(5000),
            ),
        ),
        (
            "with its own name as parent",
            good.replace("ffffffff", "12345678")
                .replace("createType", "parentFileNameHint=\"image\"\ncreateType"),
        ),
        (
            "with a parent that is not there",
            good.replace("ffffffff", "12345678")
                .replace("createType", "parentFileNameHint=\"gone\"\ncreateType"),
        ),
        (
            "with a parent without a name",
            good.replace("ffffffff", "12345678"),
        ),
        (
            "of UTF-16",
            good.encode_utf16()
                .map(|unit| char::from_u32(unit.into()).unwrap())
                .flat_map(|char| ['\0', char])
                .collect(),
        ),
        (
            "of an unknown encoding",
            good.replace("version=1", "version=1\nencoding=\"rose\""),
        ),
    ] {
        take(
            Case::new(format!("descriptor: {name}"), "vmdk", text.into_bytes())
                .beside("flat", flat()),
        );
    }
    for len in [0, 1, 511, 512] {
        let text = good.clone().into_bytes();
        take(
            Case::new(format!("descriptor: a file of {len} bytes"), "vmdk", text)
                .beside("flat", vec![7; len]),
        );
    }
}

/// The place that a number of sectors at `at` tells.
fn place(sound: &Sound<'_>, at: usize) -> usize {
    usize::try_from(sound.number(at, 8) * 512).unwrap()
}
