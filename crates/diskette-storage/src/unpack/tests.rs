use std::io::Write;

use super::*;
use crate::{MemoryStorage, spool};

/// Bytes of all kinds: some that pack, some that do not, zeros.
fn content() -> Vec<u8> {
    let mut state = 1_u32;
    let noise = std::iter::repeat_with(|| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    });
    let mut bytes: Vec<u8> = noise.take(300_000).collect();
    bytes.extend(vec![0; 500_000]);
    bytes.extend(b"the same again ".repeat(20_000));
    bytes
}

fn packed(packing: Packing, bytes: &[u8]) -> Vec<u8> {
    match packing {
        Packing::Gzip => {
            let mut to = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            to.write_all(bytes).unwrap();
            to.finish().unwrap()
        }
        Packing::Xz => {
            let options = lzma_rust2::XzOptions::with_preset(1);
            let mut to = lzma_rust2::XzWriter::new(Vec::new(), options).unwrap();
            to.write_all(bytes).unwrap();
            to.finish().unwrap()
        }
        Packing::Zstd => {
            let mut to = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
            to.include_checksum(true).unwrap();
            to.write_all(bytes).unwrap();
            to.finish().unwrap()
        }
        Packing::Bzip2 => {
            let mut to = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
            to.write_all(bytes).unwrap();
            to.finish().unwrap()
        }
    }
}

const ALL: [Packing; 4] = [Packing::Gzip, Packing::Xz, Packing::Zstd, Packing::Bzip2];

fn unpacker(bytes: Vec<u8>, limits: &Limits) -> Result<Unpacker> {
    let packing = Packing::of(&bytes).expect("its mark");
    Unpacker::new(
        Arc::new(MemoryStorage::named("packed", bytes)),
        packing,
        limits,
    )
}

fn unpacked(bytes: Vec<u8>) -> Result<Vec<u8>> {
    let mut from = unpacker(bytes, &Limits::default())?;
    let mut all = Vec::new();
    let mut piece = vec![0; 100_000];
    loop {
        let came = from.read(&mut piece)?;
        all.extend_from_slice(&piece[..came]);
        if came < piece.len() {
            return Ok(all);
        }
    }
}

#[test]
fn what_was_packed_comes_out_and_members_follow_one_another() {
    let content = content();
    for packing in ALL {
        let bytes = packed(packing, &content);
        assert_eq!(Packing::of(&bytes), Some(packing));
        assert!(unpacked(bytes.clone()).unwrap() == content, "{packing:?}");
        let twice = [bytes, packed(packing, b"and more")].concat();
        let expected = [content.as_slice(), b"and more"].concat();
        assert!(unpacked(twice).unwrap() == expected, "{packing:?}");
        assert_eq!(unpacked(packed(packing, b"")).unwrap(), b"", "{packing:?}");
    }
    assert_eq!(Packing::of(b"BZh9 is how a text may begin"), None);
    assert_eq!(Packing::of(b""), None);
}

#[test]
fn data_that_are_cut_are_an_error_wherever_they_are_cut() {
    let content = &content()[299_000..302_000];
    for packing in ALL {
        let bytes = packed(packing, content);
        let mut twice = bytes.clone();
        twice.extend(packed(packing, b"more"));
        for len in 16..twice.len() {
            if len == bytes.len() {
                continue;
            }
            let error = unpacked(twice[..len].to_vec()).err();
            let error = error.unwrap_or_else(|| panic!("{packing:?} of {len} bytes is taken"));
            assert!(matches!(error, Error::Malformed { .. }), "{error}");
        }
    }
}

#[test]
fn data_that_are_damaged_are_an_error() {
    let content = content();
    for packing in ALL {
        let sound = packed(packing, &content);
        for at in (sound.len() / 7..sound.len() - 4).step_by(sound.len() / 7) {
            let mut bytes = sound.clone();
            bytes[at] ^= 0x55;
            let error = unpacked(bytes).expect_err("a checksum");
            assert!(
                matches!(error, Error::Malformed { .. }),
                "{packing:?}: {error}"
            );
        }
        let mut garbage = sound.clone();
        garbage.extend(b"this is something else");
        assert!(unpacked(garbage).is_err(), "{packing:?}");
    }
}

#[test]
fn what_comes_out_is_bounded_in_all_and_by_its_ratio() {
    for packing in ALL {
        let bytes = packed(packing, &vec![0; 1 << 20]);
        let mut limits = Limits::default();
        limits.unpacked_bytes = 100_000;
        let mut from = unpacker(bytes, &limits).unwrap();
        let error = (0..30).find_map(|_| from.read(&mut [0; 4096]).err());
        assert!(
            matches!(error, Some(Error::LimitExceeded { .. })),
            "{packing:?}"
        );
    }
    let limits = Limits::default();
    assert!(limits.allow_unpacked(1 << 30, 1).is_ok());
    assert!(limits.allow_unpacked((1 << 30) + 1, 1000).is_err());
    assert!(limits.allow_unpacked(2 << 30, 1 << 16).is_ok());
}

#[test]
fn a_spool_holds_all_bytes_zeros_as_holes_and_no_more_than_it_may() {
    let content = content();
    let bytes = packed(Packing::Gzip, &content);
    let limits = Limits::default();
    let storage = spool(&mut unpacker(bytes.clone(), &limits).unwrap(), &limits).unwrap();
    assert_eq!(
        (storage.name(), storage.size().unwrap()),
        ("packed", content.len() as u64)
    );
    assert!(storage.read_vec(content.len(), 0).unwrap() == content);
    assert!(storage.allocated().unwrap() < content.len() as u64 - 300_000);
    let mut small = Limits::default();
    small.spool_bytes = 100_000;
    let error = spool(&mut unpacker(bytes, &limits).unwrap(), &small).unwrap_err();
    assert!(matches!(error, Error::LimitExceeded { .. }), "{error}");
}
