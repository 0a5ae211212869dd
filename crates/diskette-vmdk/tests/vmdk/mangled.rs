//! Small images with bytes changed: whatever they say, opening, mapping, reading and checking them ends, and soon.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use diskette_core::{BlockReader, BlockReaderExt};
use diskette_testkit::vmdk::{
    Grain, Hosted, SeGrain, Stream, cowd, descriptor, disk, filled, se_sparse,
};
use proptest::prelude::*;

use crate::common::Files;

/// An image of each kind: the bytes to be mangled, and the descriptor, if it is another file.
static IMAGES: LazyLock<Vec<(Vec<u8>, Option<&'static str>)>> = LazyLock::new(|| {
    let mut hosted = Hosted::new(1000, &[(0, 0x41), (3, 0x42)]);
    hosted.grains.insert(1, Grain::Zero);
    let stream = Stream::new(1000, &[(0, 0x41), (3, 0x42)]);
    let mut front = stream.clone();
    front.footer = false;
    let cowd = cowd(1000, 8, &filled(8, &[(0, 0x41), (99, 0x42)]));
    let grain = SeGrain::Data(vec![0x41; 4096]);
    let se = se_sparse(
        1000,
        &BTreeMap::from([(0, grain.clone()), (1, SeGrain::Zero), (9, grain)]),
    );
    let lines = [
        "RW 8 FLAT \"part\" 0",
        "RW 8 ZERO",
        "NOACCESS 4 SPARSE \"part\"",
    ];
    vec![
        (hosted.bytes(), None),
        (stream.bytes(), None),
        (front.bytes(), None),
        (cowd, Some("RW 1000 VMFSSPARSE \"part\"")),
        (se, Some("RW 1000 SESPARSE \"part\"")),
        (descriptor("custom", &lines), None),
    ]
});

fn look_at_all_of_it(bytes: Vec<u8>, line: Option<&str>) {
    let files = match line {
        Some(line) => Files::described("custom", &[line]).with("part", bytes),
        None => Files::one(bytes).with("part", disk(&[(0x41, 8)])),
    };
    let _ = files.check();
    for salvage in [false, true] {
        let mut options = files.options();
        options.salvage = salvage;
        options.limits.table_bytes = 1 << 20;
        let Ok(opened) = files.open_with("x.vmdk", &options) else {
            continue;
        };
        read_some(&*opened.reader);
    }
}

/// Reads some of a disk that may be very large.
fn read_some(reader: &dyn BlockReader) {
    for extent in reader.extents().take(200).flatten() {
        assert!(extent.len > 0 && extent.end() <= reader.size());
        let len = extent.len.min(200_000);
        let mut bytes = vec![0; usize::try_from(len).unwrap_or(0)];
        let _ = reader.read_extent(&extent, &mut bytes, extent.offset);
    }
    let _ = reader.read_at(&mut [0; 100], reader.size() / 2);
    let _ = reader.read_at(&mut [0; 100], reader.size().saturating_sub(100));
}

/// Where the tables and headers are: changes elsewhere change mostly data.
fn change() -> impl Strategy<Value = (u32, u8)> {
    let value = prop_oneof![
        Just(0),
        Just(1),
        Just(0x7f),
        Just(0x80),
        Just(0xff),
        any::<u8>()
    ];
    (prop_oneof![0..100_u32, 0..1024_u32, any::<u32>()], value)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn no_change_of_bytes_makes_it_panic(
        which in 0..6_usize,
        changes in prop::collection::vec(change(), 1..6),
        cut in prop::option::weighted(0.2, any::<u32>()),
        from_end: bool,
    ) {
        let (mut bytes, line) = IMAGES[which].clone();
        for (at, value) in changes {
            let at = at as usize % bytes.len();
            let at = if from_end { bytes.len() - 1 - at } else { at };
            bytes[at] = value;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut as usize % bytes.len());
        }
        look_at_all_of_it(bytes, line);
    }

    #[test]
    fn no_change_of_words_makes_it_panic(
        which in 0..5_usize,
        sector in 0..64_u32,
        word in 0..32_u32,
        value in prop_oneof![Just(u64::MAX), Just(1 << 63), Just(1 << 54), Just(1 << 40), Just(1 << 31), 0..2000_u64],
        wide: bool,
    ) {
        let (mut bytes, line) = IMAGES[which].clone();
        let len = if wide { 8 } else { 4 };
        let at = (sector * 512 + word * 4) as usize;
        if let Some(field) = bytes.get_mut(at..at + len) {
            field.copy_from_slice(&value.to_le_bytes()[..len]);
        }
        look_at_all_of_it(bytes, line);
    }
}
