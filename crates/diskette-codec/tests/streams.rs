//! Streams that other writers make, and those that nobody should take; what other readers ask of ours.
#![expect(clippy::unwrap_used, reason = "a panic is a failed test")]

use diskette_codec::{Codec, Decoded, Encoder, Encoding, decode};

/// Bytes without any pattern, the same each time.
fn noise(len: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    })
    .take(len)
    .collect()
}

fn text(len: usize) -> Vec<u8> {
    let lines = (0_u32..).flat_map(|number| format!("line {}\n", number * 7919).into_bytes());
    lines.take(len).collect()
}

fn encoded(codec: Codec, level: Option<i32>, window_bits: u8, data: &[u8]) -> Vec<u8> {
    let encoding = Encoding {
        codec,
        level,
        window_bits,
    };
    let mut out = Vec::new();
    let mut encoder = Encoder::new(&encoding).unwrap();
    assert!(encoder.encode(data, &mut out, usize::MAX).unwrap());
    out
}

/// Those that this build has.
fn codecs() -> impl Iterator<Item = Codec> {
    [Codec::Deflate, Codec::Zlib, Codec::Zstd]
        .into_iter()
        .filter(|codec| cfg!(feature = "zstd") || *codec != Codec::Zstd)
}

const fn ended(len: usize) -> Decoded {
    Decoded {
        len,
        finished: true,
    }
}

#[cfg(feature = "zstd")]
const fn filled(len: usize) -> Decoded {
    Decoded {
        len,
        finished: false,
    }
}

#[test]
fn a_zlib_stream_by_python_is_read_and_its_header_asked_for() {
    // zlib.compress(b"hello hello hello hello")
    let stream = b"\x78\x9c\xcb\x48\xcd\xc9\xc9\x57\xc8\x40\x27\x01\x68\x03\x08\xb1";
    let mut out = [0; 23];
    assert_eq!(decode(Codec::Zlib, stream, &mut out).unwrap(), ended(23));
    assert_eq!(&out, b"hello hello hello hello");
    assert!(decode(Codec::Deflate, stream, &mut out).is_err());
    assert!(decode(Codec::Zlib, &stream[2..], &mut out).is_err());
    let mut damaged = *stream;
    damaged[15] ^= 1;
    assert!(decode(Codec::Zlib, &damaged, &mut out).is_err());
}

#[test]
fn a_stream_that_reaches_back_32_kib_is_read() {
    let data = noise(32000).repeat(3)[..65536].to_vec();
    let stream = encoded(Codec::Deflate, Some(9), 15, &data);
    assert!(stream.len() < 33000);
    let mut out = vec![0; data.len()];
    assert_eq!(
        decode(Codec::Deflate, &stream, &mut out).unwrap(),
        ended(65536)
    );
    assert!(out == data);
}

#[test]
fn a_reader_that_keeps_only_the_window_can_read_what_was_written_for_it() {
    let data = [text(20000), noise(5000).repeat(3), vec![0; 9000]].concat();
    for window_bits in 9..=15 {
        for level in 0..=9 {
            let stream = encoded(Codec::Deflate, Some(level), window_bits, &data);
            let found = inflate_in_steps(&stream, window_bits, data.len());
            assert!(found == data, "level {level}, window {window_bits}");
        }
    }
}

fn inflate_in_steps(stream: &[u8], window_bits: u8, len: usize) -> Vec<u8> {
    let mut inflater = flate2::Decompress::new_with_window_bits(false, window_bits);
    let mut out = vec![0; len];
    for part in out.chunks_mut(100) {
        let used = usize::try_from(inflater.total_in()).unwrap();
        inflater
            .decompress(&stream[used..], part, flate2::FlushDecompress::None)
            .unwrap();
    }
    out
}

#[test]
fn a_stream_of_exactly_the_limit_is_kept() {
    for codec in codecs() {
        for window_bits in [12, 15] {
            let data = text(4096);
            let len = encoded(codec, None, window_bits, &data).len();
            let mut encoder = Encoder::new(&Encoding {
                codec,
                level: None,
                window_bits,
            })
            .unwrap();
            let mut out = b"before".to_vec();
            assert!(!encoder.encode(&data, &mut out, len - 1).unwrap());
            assert_eq!(out, b"before");
            assert!(encoder.encode(&data, &mut out, len).unwrap());
            assert_eq!(out.len(), 6 + len);
        }
    }
}

#[test]
fn nothing_is_compressed_to_something_and_back() {
    for codec in codecs() {
        let stream = encoded(codec, None, 15, &[]);
        assert_eq!(decode(codec, &stream, &mut [0; 9]).unwrap(), ended(0));
    }
}

#[cfg(feature = "zstd")]
mod zstandard {
    use super::*;

    /// A frame without its content's size, of one stored block, for a window of `1 << window_log` bytes.
    fn frame(window_log: u8, data: &[u8]) -> Vec<u8> {
        let block = u32::try_from(data.len()).unwrap() << 3 | 1;
        let mut frame = b"\x28\xb5\x2f\xfd\x00".to_vec();
        frame.push((window_log - 10) << 3);
        frame.extend(&block.to_le_bytes()[..3]);
        frame.extend(data);
        frame
    }

    #[test]
    fn a_window_of_128_mib_is_read_and_a_larger_one_refused() {
        let mut out = [0; 100];
        let read = decode(Codec::Zstd, &frame(27, &[7; 100]), &mut out);
        assert_eq!(read.unwrap(), ended(100));
        assert_eq!(out, [7; 100]);
        assert!(decode(Codec::Zstd, &frame(28, &[7; 100]), &mut out).is_err());
    }

    #[test]
    fn a_frame_that_holds_more_than_the_buffer_is_not_finished() {
        let read = decode(Codec::Zstd, &frame(17, &[7; 101]), &mut [0; 100]);
        assert_eq!(read.unwrap(), filled(100));
        let known_size = encoded(Codec::Zstd, None, 15, &text(101));
        let read = decode(Codec::Zstd, &known_size, &mut [0; 100]);
        assert_eq!(read.unwrap(), filled(100));
    }

    #[test]
    fn frames_follow_one_another_and_what_is_to_be_skipped_is_skipped() {
        let skipped = b"\x50\x2a\x4d\x18\x03\x00\x00\x00xyz";
        let stream = [
            skipped,
            &*frame(17, &[1; 40]),
            &frame(17, &[]),
            skipped,
            &frame(17, &[2; 60]),
            b"garbage",
        ]
        .concat();
        let mut out = [0; 100];
        assert_eq!(decode(Codec::Zstd, &stream, &mut out).unwrap(), ended(100));
        assert_eq!((out[0], out[39], out[40], out[99]), (1, 1, 2, 2));
        let mut out = [0; 101];
        assert!(decode(Codec::Zstd, &stream, &mut out).is_err());
    }

    #[test]
    fn a_frame_tells_its_size_and_has_no_checksum_and_no_dictionary() {
        // Single segment, a size of two bytes, as QEMU writes a cluster of 64 KiB.
        let stream = encoded(Codec::Zstd, None, 15, &text(65536));
        assert_eq!(stream[..7], [0x28, 0xb5, 0x2f, 0xfd, 0x60, 0x00, 0xff]);
    }
}
