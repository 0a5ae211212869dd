//! Images that are cut short, or whose tables and streams lie: an error that names the place, or zeros where asked for.

use diskette_core::{BlockReaderExt, Error};
use diskette_testkit::check_reader_against;
use diskette_testkit::qcow2::{Built, Cluster, Qcow2};

use crate::support::{memory, open_bytes, options, registry};

const CLUSTER: usize = 1 << 16;

fn image() -> Built {
    let image = Qcow2::v3(1 << 20)
        .cluster(0, Cluster::Data(vec![1; CLUSTER]))
        .cluster(1, Cluster::Data(vec![2; CLUSTER]));
    image.build()
}

/// The error that reading the whole disk gives.
fn failure(bytes: Vec<u8>) -> String {
    let read = open_bytes(bytes).and_then(|opened| {
        let size = usize::try_from(opened.reader.size()).unwrap();
        opened.reader.read_vec(0, size)
    });
    match read {
        Ok(_) => panic!("the damage was not seen"),
        Err(error @ (Error::Malformed { .. } | Error::Unsupported { .. })) => error.to_string(),
        Err(error) => panic!("{error}"),
    }
}

fn salvaged(bytes: Vec<u8>) -> Vec<u8> {
    let mut options = options();
    options.salvage = true;
    let opened = registry().open(memory(bytes), &options).unwrap();
    opened.reader.read_vec(0, 1 << 20).unwrap()
}

/// The first lie of an L2 entry: what is said of it.
fn lie(index: u64, entry: u64) -> String {
    let mut image = image();
    let at = image.l2_entry_at(index);
    image.put_u64(at, entry);
    failure(image.bytes)
}

#[test]
fn an_entry_that_lies_is_named() {
    let place = format!("at {:#x}", image().l2_entry_at(1));
    for (entry, expected) in [
        (1 << 63 | 0x5_0200, "its cluster at 0x50200 is not aligned"),
        (
            1 << 63 | 0xff_0000,
            "its cluster at 0xff0000 lies beyond the file's end at",
        ),
        (
            1 << 62 | 0xff_0000,
            "its compressed cluster at 0xff0000 lies beyond the file's end at",
        ),
    ] {
        let found = lie(1, entry);
        let start = format!("qcow2: l2_entry[1] {place} is {entry:#x}, {expected}");
        assert!(found.starts_with(&start), "{found}");
    }
}

#[test]
fn a_zero_cluster_in_version_2_is_an_error() {
    let mut image = Qcow2::v2(1 << 20)
        .cluster(0, Cluster::Data(vec![1]))
        .build();
    let at = image.l2_entry_at(0);
    image.put_u64(at, 1);
    assert!(failure(image.bytes).ends_with("a zero cluster, in an image of version 2"));
}

#[test]
fn an_l2_table_that_is_not_there_is_named() {
    for (entry, expected) in [
        (
            1_u64 << 63 | 0x5_0200,
            "its L2 table at 0x50200 is not aligned",
        ),
        (
            1 << 63 | 0xff_0000,
            "its L2 table at 0xff0000 reaches beyond the file's end at",
        ),
    ] {
        let mut image = image();
        let at = image.l1_offset;
        image.put_u64(at, entry);
        let found = failure(image.bytes);
        assert!(found.starts_with("qcow2: l1_entry[0] at 0x"), "{found}");
        assert!(found.contains(expected), "{found}");
    }
}

#[test]
fn wherever_an_image_is_cut_its_data_is_whole_or_the_loss_is_told() {
    let whole = image().bytes;
    let disk = open_bytes(whole.clone())
        .unwrap()
        .reader
        .read_vec(0, 1 << 20)
        .unwrap();
    let mut losses = 0;
    for len in (0..whole.len()).step_by(4096 + 512) {
        let read =
            open_bytes(whole[..len].to_vec()).and_then(|opened| opened.reader.read_vec(0, 1 << 20));
        match read {
            Ok(found) => assert!(found == disk, "data was lost at {len:#x}, and nothing said"),
            Err(Error::Malformed { .. }) => losses += 1,
            Err(error) => panic!("{error}"),
        }
    }
    assert!(losses > 10, "{losses}");
}

#[test]
fn what_is_lost_reads_as_zeros_where_data_is_to_be_saved() {
    let mut image = image();
    let at = image.l2_entry_at(1);
    image.put_u64(at, 1 << 63 | 0xff_0000);
    let disk = salvaged(image.bytes.clone());
    assert_eq!(disk[..CLUSTER], [1; CLUSTER]);
    assert_eq!(disk[CLUSTER..], [0; (1 << 20) - CLUSTER]);
    let at = image.l1_offset;
    image.put_u64(at, 1 << 63 | 0xff_0000);
    assert_eq!(salvaged(image.bytes), [0; 1 << 20]);
}

#[test]
fn the_last_cluster_of_a_file_may_be_short() {
    let mut image = image();
    let last = image.bytes.len().next_multiple_of(CLUSTER);
    let at = image.l2_entry_at(1);
    image.put_u64(at, 1 << 63 | last as u64);
    image.bytes.resize(last, 0);
    image.bytes.extend_from_slice(&[3; 1000]);
    let mut expected = vec![0; 1 << 20];
    expected[..CLUSTER].fill(1);
    expected[CLUSTER..CLUSTER + 1000].fill(3);
    let opened = open_bytes(image.bytes).unwrap();
    check_reader_against(&*opened.reader, &expected);
}

fn deflated(data: &[u8]) -> Vec<u8> {
    packed(diskette_codec::Codec::Deflate, data)
}

fn packed(codec: diskette_codec::Codec, data: &[u8]) -> Vec<u8> {
    let encoding = diskette_codec::Encoding {
        codec,
        level: None,
        window_bits: 15,
    };
    let mut out = Vec::new();
    let mut encoder = diskette_codec::Encoder::new(&encoding).unwrap();
    assert!(encoder.encode(data, &mut out, 4 * CLUSTER).unwrap());
    out
}

fn compressed(compression_type: u8, stream: Vec<u8>) -> Vec<u8> {
    let mut image = Qcow2::v3(1 << 20);
    image.compression_type = compression_type;
    image.cluster(3, Cluster::Compressed(stream)).build().bytes
}

#[test]
fn a_deflate_stream_fills_its_cluster_and_what_follows_does_not_count() {
    let data = diskette_testkit::Content::new(1).bytes(CLUSTER);
    let mut long = data.clone();
    long.extend_from_slice(&data[..100]);
    let mut padded = deflated(&data);
    padded.extend_from_slice(&[0xff; 99]);
    for stream in [deflated(&data), deflated(&long), padded] {
        let opened = open_bytes(compressed(0, stream)).unwrap();
        assert_eq!(opened.reader.read_vec(3 << 16, CLUSTER).unwrap(), data);
    }
}

#[test]
fn distances_of_32_kib_are_followed() {
    let part = diskette_testkit::Content::new(2).bytes(32_000);
    let data = [&part[..], &part[..], &part[..]].concat()[..CLUSTER].to_vec();
    let stream = deflated(&data);
    assert!(stream.len() < 40_000, "the encoder found the repeats");
    let opened = open_bytes(compressed(0, stream)).unwrap();
    assert_eq!(opened.reader.read_vec(3 << 16, CLUSTER).unwrap(), data);
}

#[test]
fn a_stream_that_is_too_short_or_damaged_is_told() {
    let data = vec![7; CLUSTER];
    for (compression_type, codec) in [
        (0, diskette_codec::Codec::Deflate),
        (1, diskette_codec::Codec::Zstd),
    ] {
        let short = failure(compressed(compression_type, packed(codec, &data[1..])));
        assert!(
            short.contains("the compressed cluster of guest offset 0x30000 at 0x"),
            "{short}"
        );
        // A byte is missing, or what follows is no frame.
        let missing = short.contains("it holds only 65535 of 65536 bytes");
        assert!(
            missing || short.contains("the compressed data are damaged"),
            "{short}"
        );
        let wrong = failure(compressed(compression_type, vec![0xff; 600]));
        assert!(wrong.contains("the compressed data are damaged"), "{wrong}");
    }
}

#[test]
fn a_zstd_frame_of_more_than_a_cluster_is_an_error_and_a_second_frame_is_none() {
    let zstd = |data: &[u8]| packed(diskette_codec::Codec::Zstd, data);
    let data = diskette_testkit::Content::new(3).bytes(CLUSTER);
    let mut long = data.clone();
    long.push(1);
    assert!(failure(compressed(1, zstd(&long))).contains("it holds more than 65536 bytes"));
    let (one, other) = data.split_at(1000);
    let frames = [zstd(one), zstd(&[]), zstd(other), zstd(b"more")].concat();
    let opened = open_bytes(compressed(1, frames)).unwrap();
    assert_eq!(opened.reader.read_vec(3 << 16, CLUSTER).unwrap(), data);
}

#[test]
fn subclusters_that_contradict_are_an_error() {
    for (allocated, zero, data) in [(1, 1, Some(vec![1; CLUSTER])), (1, 0, None)] {
        let mut image = Qcow2::v3(1 << 20);
        image.extended_l2 = true;
        let entry = Cluster::Subclusters {
            allocated,
            zero,
            data,
        };
        let found = failure(image.cluster(2, entry).build().bytes);
        assert!(
            found.starts_with("qcow2: l2_entry[2].bitmap at 0x"),
            "{found}"
        );
    }
}

#[test]
fn a_compressed_cluster_read_in_parts_is_the_same() {
    let data = diskette_testkit::Content::new(4).bytes(CLUSTER);
    let mut expected = vec![0; 1 << 20];
    expected[3 * CLUSTER..4 * CLUSTER].copy_from_slice(&data);
    let opened = open_bytes(compressed(0, deflated(&data))).unwrap();
    check_reader_against(&*opened.reader, &expected);
}
