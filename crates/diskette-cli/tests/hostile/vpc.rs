//! VPC (VHD) images that lie.

use diskette_testkit::vpc::{Footer, Vpc, fixed, seal};

use crate::case::{Case, Order, Sound, Take};

pub(crate) fn cases(take: Take<'_>) {
    dynamic(take);
    child(take);
    of_fixed_size(take);
    let mut image = Vpc::new(8 << 20);
    image.entries = Some(1 << 24);
    let bytes = image.build();
    take(Case::new("vpc: a table of 64 MiB", "vpc", bytes));
}

fn small() -> Vpc {
    let mut image = Vpc::new(1 << 20);
    image.block_size = 64 << 10;
    image.filled(0, 1).sectors(3, &[(0, 3), (5, 4)])
}

/// Both footers, and the header, of a dynamic image.
fn seal_all(bytes: &mut [u8]) {
    if bytes.len() < 2048 {
        return;
    }
    seal(&mut bytes[..512], 64);
    let rear = bytes.len() - 512;
    let (before, footer) = bytes.split_at_mut(rear);
    footer.copy_from_slice(&before[..512]);
    seal(&mut bytes[512..1536], 36);
}

fn dynamic(take: Take<'_>) {
    let sound = Sound::new("vpc", "vpc", Order::Big, small().build()).sealed(&seal_all);
    sound.sound(take);
    footer(&sound, take);
    sound.field(take, "Cookie of the header", (512, 8), &[]);
    sound.field(take, "Header Version", (536, 4), &[0x10001, 0x20000]);
    sound.offset(take, "Table Offset", (528, 8), 1);
    sound.field(
        take,
        "Max Table Entries",
        (540, 4),
        &[1, 15, 17, 1 << 20, 1 << 24, 1 << 30],
    );
    let blocks = [
        1,
        511,
        512,
        1024,
        32 << 10,
        2 << 20,
        256 << 20,
        512 << 20,
        1 << 31,
        65537,
    ];
    sound.field(take, "Block Size", (544, 4), &blocks);
    sound.offset(take, "BAT[0]", (1536, 4), 512);
    sound.offset(take, "BAT[3]", (1548, 4), 512);
    sound.changed(take, "vpc: a block twice".to_owned(), |bytes| {
        bytes.copy_within(1536..1540, 1548);
    });
    sound.cuts(take, &[1024, 1536, 1540, 2048, sound.bytes.len() - 100]);
    let unsealed = Sound::new("vpc", "vpc", Order::Big, small().build());
    unsealed.field(take, "Checksum at the front", (64, 4), &[]);
    unsealed.field(
        take,
        "Checksum at the end",
        (unsealed.bytes.len() - 512 + 64, 4),
        &[],
    );
    unsealed.field(take, "Checksum of the header", (548, 4), &[]);
}

fn footer(sound: &Sound<'_>, take: Take<'_>) {
    sound.field(take, "Cookie", (0, 8), &[]);
    sound.field(take, "Features", (8, 4), &[1, 3]);
    sound.field(take, "File Format Version", (12, 4), &[0x20000]);
    sound.offset(take, "Data Offset", (16, 8), 1);
    sound.field(take, "Original Size", (40, 8), &[1, 512]);
    let sizes = [
        1,
        511,
        512,
        (1 << 20) + 512,
        2 << 40,
        1 << 43,
        1 << 62,
        1 << 63,
    ];
    sound.field(take, "Current Size", (48, 8), &sizes);
    sound.field(
        take,
        "Disk Geometry",
        (56, 4),
        &[0x0001_0101, 0xffff_1000, 0xffff_00ff],
    );
    sound.field(take, "Disk Type", (60, 4), &[1, 2, 4, 5, 6]);
    sound.field(take, "Saved State", (84, 1), &[1]);
}

fn child(take: Take<'_>) {
    let mut image = small().over(0x22, "parent.vhd");
    image.footer.id = 0x33;
    let parent = || {
        let mut parent = small();
        parent.footer.id = 0x22;
        parent.build()
    };
    let sound = Sound::new("vpc child", "vpc", Order::Big, image.build()).sealed(&seal_all);
    let mut with_parent = |mut case: Case| {
        case.beside.push(("parent.vhd".to_owned(), parent()));
        take(case);
    };
    sound.sound(&mut with_parent);
    sound.field(&mut with_parent, "Parent Unique ID", (552, 8), &[1]);
    for (name, at, width) in [("Code", 0, 4), ("Data Space", 4, 4), ("Data Length", 8, 4)] {
        let name = format!("locator[0].{name}");
        sound.field(
            &mut with_parent,
            &name,
            (1088 + at, width),
            &[1, 3, 512, 1 << 20],
        );
    }
    sound.offset(&mut with_parent, "locator[0].Data Offset", (1104, 8), 1);
    sound.sound(&mut |mut case| {
        case.name = "vpc child: no parent".to_owned();
        take(case);
    });
}

fn of_fixed_size(take: Take<'_>) {
    let image = fixed(vec![7; 64 << 10], &Footer::new(64 << 10));
    let seal_end = |bytes: &mut [u8]| {
        let at = bytes.len() - 512;
        seal(&mut bytes[at..], 64);
    };
    let sound = Sound::new("fixed vpc", "vpc", Order::Big, image).sealed(&seal_end);
    sound.sound(take);
    let at = 64 << 10;
    sound.field(
        take,
        "Current Size",
        (at + 48, 8),
        &[1, 512, (64 << 10) - 512, (64 << 10) + 512, 1 << 40, 1 << 63],
    );
    sound.field(take, "Disk Type", (at + 60, 4), &[1, 3, 4]);
    sound.field(take, "Disk Geometry", (at + 56, 4), &[0x0001_0101]);
    sound.cuts(take, &[1024]);
}
