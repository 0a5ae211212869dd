//! VHDX images that lie.

use diskette_testkit::vhdx::{self, Block, Change, LogEntry, Vhdx, guid, seal};

use crate::case::{Case, Order, Sound, Take};

const K: usize = 1 << 10;
const M: usize = 1 << 20;
const REGIONS: usize = 192 * K;
const METADATA: usize = 2 * M;

pub(crate) fn cases(take: Take<'_>) {
    let sound = Sound::new("vhdx", "vhdx", Order::Little, image().build()).sealed(&seal_all);
    sound.sound(take);
    header(&sound, take);
    regions(&sound, take);
    metadata(&sound, take);
    blocks(&sound, take);
    log(take);
    child(take);
    sound.cuts(
        take,
        &[
            64 * K,
            64 * K + 100,
            REGIONS,
            REGIONS + 40,
            M,
            METADATA,
            METADATA + 100,
            METADATA + 64 * K,
            3 * M,
            3 * M + 8,
        ],
    );
    take(Case::new(
        "vhdx: 1 TiB of nothing",
        "vhdx",
        Vhdx::new(1 << 40).build(),
    ));
}

/// 4 MiB in blocks of 1 MiB, with one header and one region table: what they say counts.
fn image() -> Vhdx {
    let mut image = Vhdx::new(4 << 20).filled(0, 1).filled(2, 2);
    image.headers = [None, Some(vec![0; 4096])];
    image.region_tables = [true, false];
    image
}

fn seal_all(bytes: &mut [u8]) {
    if bytes.len() >= M {
        seal(&mut bytes[64 * K..68 * K]);
        seal(&mut bytes[REGIONS..REGIONS + 64 * K]);
    }
}

fn header(sound: &Sound<'_>, take: Take<'_>) {
    let at = 64 * K;
    sound.field(take, "signature", (0, 8), &[]);
    sound.field(take, "header.Signature", (at, 4), &[]);
    sound.field(take, "header.SequenceNumber", (at + 8, 8), &[]);
    sound.field(take, "header.LogGuid", (at + 48, 8), &[1]);
    sound.field(take, "header.LogVersion", (at + 64, 2), &[1]);
    sound.field(take, "header.Version", (at + 66, 2), &[2]);
    sound.field(
        take,
        "header.LogLength",
        (at + 68, 4),
        &[1, 4096, (1 << 20) + 1, 1 << 31],
    );
    sound.offset(take, "header.LogOffset", (at + 72, 8), 1);
    let unsealed = Sound::new("vhdx", "vhdx", Order::Little, sound.bytes.clone());
    unsealed.field(take, "header.Checksum", (at + 4, 4), &[]);
    unsealed.field(take, "region table.Checksum", (REGIONS + 4, 4), &[]);
}

fn regions(sound: &Sound<'_>, take: Take<'_>) {
    sound.field(take, "region table.Signature", (REGIONS, 4), &[]);
    sound.field(
        take,
        "region table.EntryCount",
        (REGIONS + 8, 4),
        &[1, 3, 2047, 2048],
    );
    for index in 0..2 {
        let at = REGIONS + 16 + 32 * index;
        let named = |field: &str| format!("region[{index}].{field}");
        sound.field(take, &named("Guid"), (at, 8), &[1]);
        sound.offset(take, &named("FileOffset"), (at + 16, 8), 1);
        sound.field(
            take,
            &named("FileOffset on"),
            (at + 16, 8),
            &[1 << 20, 2 << 20, 3 << 20],
        );
        sound.field(
            take,
            &named("Length"),
            (at + 24, 4),
            &[1, 64 << 10, (1 << 20) + 1, 1 << 31],
        );
        sound.field(take, &named("Required"), (at + 28, 4), &[2]);
    }
    let twice = "vhdx: a region twice".to_owned();
    sound.changed(take, twice, |bytes| {
        bytes.copy_within(REGIONS + 16..REGIONS + 48, REGIONS + 48);
    });
}

fn metadata(sound: &Sound<'_>, take: Take<'_>) {
    sound.field(take, "metadata.Signature", (METADATA, 8), &[]);
    sound.field(
        take,
        "metadata.EntryCount",
        (METADATA + 10, 2),
        &[1, 2047, 2048],
    );
    for (id, name, values) in [
        (
            "CAA16737-FA36-4D43-B3B6-33F0AA44E76B",
            "File Parameters",
            &[
                1,
                512,
                512 << 10,
                1 << 20 | 1,
                256 << 20,
                512 << 20,
                1 << 31,
                1 << 33 | 1 << 20,
                1 << 32 | 1 << 20,
            ][..],
        ),
        (
            "2FA54224-CD1B-4876-B211-5DBED83BF4B8",
            "Virtual Disk Size",
            &[
                1,
                511,
                512,
                513,
                5 << 20,
                1 << 40,
                64 << 40,
                (64 << 40) + 512,
                1 << 62,
            ],
        ),
        (
            "8141BF1D-A96F-4709-BA47-F233A8FAAB5F",
            "Logical Sector Size",
            &[1, 511, 513, 4096, 8192],
        ),
        (
            "CDA348C7-445D-4471-9CC9-E9885251C556",
            "Physical Sector Size",
            &[1, 513, 4096, 8192],
        ),
    ] {
        let entries = (0..16).map(|index| METADATA + 32 + 32 * index);
        let entry = entries
            .into_iter()
            .find(|at| sound.bytes[*at..*at + 16] == guid(id))
            .unwrap();
        let item = METADATA + usize::try_from(sound.number(entry + 16, 4)).unwrap();
        let width = usize::try_from(sound.number(entry + 20, 4)).unwrap();
        sound.field(take, name, (item, width), values);
        sound.field(take, &format!("{name}.ItemId"), (entry, 8), &[]);
        sound.field(
            take,
            &format!("{name}.Offset"),
            (entry + 16, 4),
            &[1, 65535, (1 << 20) - 1, 1 << 20, 1 << 31],
        );
        sound.field(
            take,
            &format!("{name}.Length"),
            (entry + 20, 4),
            &[1, 16, (1 << 20) + 1],
        );
        sound.field(
            take,
            &format!("{name}.flags"),
            (entry + 24, 4),
            &[1, 2, 7, 8],
        );
    }
}

fn blocks(sound: &Sound<'_>, take: Take<'_>) {
    let bat = (0..2).map(|index| REGIONS + 16 + 32 * index);
    let bat_guid = guid("2DC27766-F623-4200-9D64-115E9BFD4A08");
    let entry = bat
        .into_iter()
        .find(|at| sound.bytes[*at..*at + 16] == bat_guid)
        .unwrap();
    let bat = usize::try_from(sound.number(entry + 16, 8)).unwrap();
    let end = (sound.bytes.len() / M) as u64;
    for index in 0..2 {
        for state in 0..8 {
            for place in [0, 1, 2, end - 1, end, 1 << 20, (1 << 44) - 1] {
                let name = format!("vhdx: BAT[{index}] is state {state} at {place} MiB");
                let value = place << 20 | state;
                if sound.number(bat + 8 * index, 8) == value || (index == 1 && place > 2) {
                    continue;
                }
                sound.changed(take, name, |bytes| {
                    bytes[bat + 8 * index..][..8].copy_from_slice(&u64::to_le_bytes(value));
                });
            }
        }
    }
    sound.field(
        take,
        "BAT[0] with reserved bits",
        (bat, 8),
        &[6 | 8 | 3 << 20, 6 | 1 << 19 | 3 << 20],
    );
}

fn log(take: Take<'_>) {
    let log_guid = [7; 16];
    let sound = |change: &dyn Fn(&mut LogEntry)| {
        let mut entry = LogEntry {
            guid: log_guid,
            sequence_number: 5,
            tail: 0,
            changes: vec![(4 << 20, Change::Sector(vec![9; 4096]))],
            flushed: 6 << 20,
            last: 6 << 20,
        };
        change(&mut entry);
        let mut image = image();
        image.log = Some((log_guid, vec![(0, entry.bytes())]));
        image
    };
    let mut give = |name: &str, image: Vhdx| {
        take(Case::new(
            format!("vhdx log: {name}"),
            "vhdx",
            image.build(),
        ));
    };
    give("sound", sound(&|_| {}));
    give("of another image", sound(&|entry| entry.guid = [8; 16]));
    give("that is empty", {
        let mut image = sound(&|_| {});
        image.log = Some((log_guid, Vec::new()));
        image
    });
    for tail in [1, 512, 4096, 1 << 20, u32::MAX] {
        give(
            &format!("Tail is {tail:#x}"),
            sound(&|entry| entry.tail = tail),
        );
    }
    for number in [0, u64::MAX] {
        give(
            &format!("SequenceNumber is {number:#x}"),
            sound(&|entry| entry.sequence_number = number),
        );
    }
    for size in [0, 1, 1 << 20, 7 << 20, 1 << 40, 1 << 62, u64::MAX] {
        give(
            &format!("FlushedFileOffset is {size:#x}"),
            sound(&|entry| entry.flushed = size),
        );
        give(
            &format!("LastFileOffset is {size:#x}"),
            sound(&|entry| entry.last = size),
        );
        let change = move |entry: &mut LogEntry| entry.changes[0].0 = size;
        give(&format!("a sector at {size:#x}"), sound(&change));
        let change =
            move |entry: &mut LogEntry| entry.changes = vec![(4 << 20, Change::Zeros(size))];
        give(&format!("{size:#x} bytes of zeros"), sound(&change));
        let change = move |entry: &mut LogEntry| {
            entry.changes = vec![(size & !4095, Change::Zeros(1 << 62))];
        };
        give(&format!("zeros without end at {size:#x}"), sound(&change));
    }
    // Checksums that are right, and numbers that are not.
    for (name, at, width) in [("EntryLength", 8, 4), ("DescriptorCount", 24, 4)] {
        for value in [
            0_u32,
            1,
            127,
            4095,
            4096,
            1 << 20,
            (1 << 20) + 4096,
            u32::MAX,
        ] {
            let mut image = sound(&|_| {});
            let pieces = &mut image.log.as_mut().unwrap().1;
            pieces[0].1[at..at + width].copy_from_slice(&value.to_le_bytes());
            seal(&mut pieces[0].1);
            give(&format!("{name} is {value:#x}"), image);
        }
    }
}

fn child(take: Take<'_>) {
    let linkage = "{d0d0d0d0-d0d0-d0d0-d0d0-d0d0d0d0d0d0}";
    let parent = || Vhdx::new(4 << 20).filled(1, 5).build();
    let pairs = |pairs: &[(&str, &str)]| {
        let owned = pairs
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        Some(owned.collect::<Vec<_>>())
    };
    for (name, parent_locator) in [
        (
            "sound",
            pairs(&[
                ("parent_linkage", linkage),
                ("relative_path", r".\parent.vhdx"),
            ]),
        ),
        ("no linkage", pairs(&[("relative_path", r".\parent.vhdx")])),
        (
            "a linkage that is none",
            pairs(&[
                ("parent_linkage", "rose"),
                ("relative_path", r".\parent.vhdx"),
            ]),
        ),
        (
            "another linkage",
            pairs(&[
                ("parent_linkage", "{00000000-0000-0000-0000-000000000001}"),
                ("relative_path", r".\parent.vhdx"),
            ]),
        ),
        ("no path", pairs(&[("parent_linkage", linkage)])),
        (
            "itself",
            pairs(&[("parent_linkage", linkage), ("relative_path", r".\image")]),
        ),
        (
            "a key twice",
            pairs(&[
                ("parent_linkage", linkage),
                ("parent_linkage", linkage),
                ("relative_path", r".\parent.vhdx"),
            ]),
        ),
        (
            "an empty path",
            pairs(&[("parent_linkage", linkage), ("relative_path", "")]),
        ),
        (
            "a long path",
            pairs(&[
                ("parent_linkage", linkage),
                ("relative_path", &"x".repeat(30000)),
            ]),
        ),
        ("nothing", pairs(&[])),
    ] {
        let mut image = image().block(1, Block::Entry(0, 0));
        image.parent = parent_locator;
        take(
            Case::new(format!("vhdx child: {name}"), "vhdx", image.build())
                .beside("parent.vhdx", parent()),
        );
    }
    let mut image = image().block(1, Block::Entry(7, 3));
    image.parent = pairs(&[
        ("parent_linkage", linkage),
        ("relative_path", r".\parent.vhdx"),
    ]);
    take(
        Case::new(
            "vhdx child: a partial block without its bitmap",
            "vhdx",
            image.build(),
        )
        .beside("parent.vhdx", parent()),
    );
    let _ = vhdx::guid_text;
}
