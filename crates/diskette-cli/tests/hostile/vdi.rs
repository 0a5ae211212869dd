//! VDI images that lie.

use diskette_testkit::vdi::{FREE, Vdi, ZERO};

use crate::case::{Case, Order, Sound, Take};

pub(crate) fn cases(take: Take<'_>) {
    let mut image = Vdi::new(1 << 20, &[0, FREE, ZERO, 1], &[(0, 1), (1, 2)]);
    image.block_size = 256 << 10;
    let sound = Sound::new("vdi", "vdi", Order::Little, image.build());
    sound.sound(take);
    sound.field(take, "signature", (64, 4), &[]);
    sound.field(take, "version", (68, 4), &[2, 0x10000, 0x10002, 0x20001]);
    sound.field(
        take,
        "header size",
        (72, 4),
        &[1, 0x17f, 0x180, 0x200, 1 << 20],
    );
    sound.field(take, "type", (76, 4), &[2, 3, 4, 5]);
    sound.field(take, "flags", (80, 4), &[1, 2, 4]);
    sound.offset(take, "offBlocks", (340, 4), 1);
    sound.offset(take, "offData", (344, 4), 1);
    sound.field(take, "sector size", (360, 4), &[1, 511, 513, 4096]);
    let sizes = [
        1,
        511,
        512,
        (1 << 20) - 1,
        (1 << 20) + 1,
        2 << 20,
        1 << 40,
        1 << 62,
        1 << 63,
    ];
    sound.field(take, "disk size", (368, 8), &sizes);
    let blocks = [
        1,
        511,
        512,
        4096,
        1 << 20,
        (1 << 20) + 1,
        256 << 20,
        512 << 20,
        1 << 31,
    ];
    sound.field(take, "block size", (376, 4), &blocks);
    sound.field(take, "block extra", (380, 4), &[1, 512, 1 << 20, 1 << 31]);
    sound.field(
        take,
        "blocks",
        (384, 4),
        &[1, 3, 5, 0x1000_0000, 0x4000_0000],
    );
    sound.field(take, "allocated blocks", (388, 4), &[1, 3, 5]);
    sound.field(take, "parent", (424, 8), &[1]);
    for (index, name) in ["map[0]", "map[1]", "map[2]", "map[3]"]
        .into_iter()
        .enumerate()
    {
        sound.field(
            take,
            name,
            (512 + 4 * index, 4),
            &[1, 2, 3, 0x7fff_ffff, 0xffff_fffd, 0xffff_fffe],
        );
    }
    sound.cuts(take, &[72, 400, 516, 520, 1024, 1024 + (256 << 10)]);
    let mut fixed = image;
    fixed.image_type = 2;
    fixed.map = vec![0, 1, 2, 3];
    let sound = Sound::new("static vdi", "vdi", Order::Little, fixed.build());
    sound.sound(take);
    // Large maps, in files of holes.
    for count in [1 << 20, 1 << 22, 1 << 26] {
        let map_len = 4 * count;
        let mut image = Vdi::new(0, &[], &[]);
        image.disk = count as u64 * (1 << 20);
        image.block_count = Some(u32::try_from(count).unwrap());
        image.data_offset = Some(512 + map_len);
        take(Case::new(
            format!("vdi: a map of {map_len} bytes"),
            "vdi",
            image.build(),
        ));
    }
}
