//! From compressed bytes to a buffer whose length is known.

use std::cell::RefCell;

use flate2::{Decompress, FlushDecompress, Status};

use crate::{Codec, CodecError};

/// What became of a stream. Complete by nature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decoded {
    /// Bytes that were written to the buffer.
    pub len: usize,
    /// Whether the stream ended there, with a right checksum if it has one. If not, the buffer was full before, or the
    /// compressed bytes were all used up.
    pub finished: bool,
}

/// Decompresses `src` into `dst` until the stream ends or `dst` is full. Bytes behind the stream's end are ignored.
///
/// Zstandard frames that follow one another are one stream; a window of more than 128 MiB is refused.
pub fn decode(codec: Codec, src: &[u8], dst: &mut [u8]) -> Result<Decoded, CodecError> {
    match codec {
        Codec::Deflate | Codec::Zlib => inflate(codec, src, dst),
        #[cfg(feature = "zstd")]
        Codec::Zstd => crate::zstandard::decode(src, dst),
        #[cfg(not(feature = "zstd"))]
        Codec::Zstd => Err(CodecError::Missing { codec }),
    }
}

fn inflate(codec: Codec, src: &[u8], dst: &mut [u8]) -> Result<Decoded, CodecError> {
    #[cfg(feature = "libdeflate")]
    if let Some(decoded) = one_shot::inflate(codec, src, dst) {
        return Ok(decoded);
    }
    thread_local! {
        static INFLATE: RefCell<Decompress> = RefCell::new(Decompress::new(false));
    }
    INFLATE.with_borrow_mut(|inflate| {
        inflate.reset(codec == Codec::Zlib);
        // One call with all of input and output: distances reach back into `dst`, whatever window the stream claims.
        let status = inflate.decompress(src, dst, FlushDecompress::Finish);
        let status = status.map_err(|error| CodecError::Damaged {
            why: error.to_string(),
        })?;
        let len = usize::try_from(inflate.total_out()).unwrap_or(usize::MAX);
        Ok(Decoded {
            len,
            finished: status == Status::StreamEnd,
        })
    })
}

/// libdeflate knows whole streams alone: what it does not take is left to the other decoder, which then says what is
/// wrong.
#[cfg(feature = "libdeflate")]
mod one_shot {
    use std::cell::RefCell;

    use libdeflater::Decompressor;

    use super::Decoded;
    use crate::Codec;

    pub(super) fn inflate(codec: Codec, src: &[u8], dst: &mut [u8]) -> Option<Decoded> {
        thread_local! {
            static INFLATE: RefCell<Decompressor> = RefCell::new(Decompressor::new());
        }
        let len = INFLATE.with_borrow_mut(|inflate| match codec {
            Codec::Zlib => inflate.zlib_decompress(src, dst).ok(),
            Codec::Deflate => inflate.deflate_decompress(src, dst).ok(),
            Codec::Zstd => None,
        })?;
        Some(Decoded {
            len,
            finished: true,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// "yes 0123456789abcdef" for 64 KiB, as C zlib and libzstd compress it; both were written into images by qemu-img.
    const DEFLATED: &[u8] = &[
        0xed, 0xc8, 0xc1, 0x01, 0x80, 0x10, 0x00, 0x00, 0xc0, 0xbf, 0x69, 0x88, 0xc8, 0x38, 0x44,
        0xfb, 0x8f, 0x60, 0x90, 0xee, 0x9e, 0x17, 0xd3, 0x95, 0xcb, 0x5d, 0xdb, 0xd3, 0xc7, 0x7c,
        0xd7, 0xfe, 0x42, 0x14, 0x42, 0x08, 0x21, 0x84, 0x10, 0x42, 0x08, 0x21, 0x84, 0x10, 0x42,
        0x08, 0x21, 0x84, 0x10, 0x42, 0x08, 0x21, 0x84, 0x10, 0x42, 0x08, 0x21, 0x84, 0x10, 0x42,
        0x08, 0x21, 0x84, 0x10, 0x42, 0x08, 0x21, 0x84, 0x10, 0x42, 0x08, 0x21, 0x84, 0x10, 0x42,
        0x08, 0x21, 0x84, 0x10, 0x42, 0x08, 0x21, 0x84, 0x10, 0x42, 0x08, 0x21, 0x84, 0x10, 0x42,
        0x08, 0x21, 0x84, 0x10, 0x42, 0x08, 0x21, 0x84, 0x10, 0x42, 0x08, 0x21, 0x84, 0x10, 0x42,
        0x08, 0x21, 0x84, 0x10, 0x42, 0x08, 0x21, 0x84, 0x10, 0x42, 0x08, 0x21, 0x84, 0x10, 0x42,
        0x08, 0x21, 0x84, 0x10, 0x42, 0x08, 0x21, 0x84, 0x10, 0x42, 0x08, 0x21, 0x84, 0x10, 0x42,
        0x08, 0x21, 0x84, 0x10, 0x42, 0x08, 0x21, 0x84, 0x10, 0x42, 0x08, 0x21, 0x84, 0x10, 0x42,
        0x08, 0x21, 0x84, 0x10, 0x42, 0x08, 0x21, 0x84, 0x10, 0x42, 0x08, 0x21, 0x84, 0x10, 0x42,
        0x08, 0x21, 0x84, 0x10, 0x42, 0x08, 0x21, 0x84, 0x10, 0x42, 0x08, 0x21, 0x84, 0x10, 0x42,
        0x08, 0x21, 0x84, 0x10, 0x42, 0x08, 0x21, 0x84, 0x10, 0x42, 0x08, 0xf1, 0xc7, 0x38,
    ];
    #[cfg(feature = "zstd")]
    const ZSTANDARD: &[u8] = &[
        0x28, 0xb5, 0x2f, 0xfd, 0x60, 0x00, 0xff, 0xcd, 0x00, 0x00, 0x88, 0x30, 0x31, 0x32, 0x33,
        0x34, 0x35, 0x36, 0x37, 0x38, 0x39, 0x61, 0x62, 0x63, 0x64, 0x65, 0x66, 0x0a, 0x01, 0x00,
        0xd9, 0xff, 0xa4, 0xcf, 0x25,
    ];

    fn expected() -> Vec<u8> {
        b"0123456789abcdef\n"
            .iter()
            .copied()
            .cycle()
            .take(65536)
            .collect()
    }

    #[test]
    #[cfg(feature = "zstd")]
    fn a_frame_by_libzstd_with_bytes_behind_it_fills_the_buffer() {
        let mut dst = vec![0; 65536];
        let stream = [ZSTANDARD, b"whatever"].concat();
        let decoded = decode(Codec::Zstd, &stream, &mut dst).unwrap();
        assert_eq!(
            decoded,
            Decoded {
                len: 65536,
                finished: true
            }
        );
        assert_eq!(dst, expected());
    }

    #[test]
    fn a_stream_by_zlib_with_bytes_behind_it_fills_the_buffer() {
        let stream = [DEFLATED, b"whatever"].concat();
        for (room, finished) in [(65536, true), (65537, true), (65535, false), (100, false)] {
            let mut dst = vec![0; room];
            let len = room.min(65536);
            assert_eq!(
                decode(Codec::Deflate, &stream, &mut dst).unwrap(),
                Decoded { len, finished }
            );
            assert_eq!(dst[..len], expected()[..len]);
        }
    }

    #[test]
    fn the_beginning_of_a_stream_gives_the_beginning_of_the_data() {
        let mut dst = vec![0; 65536];
        let decoded = decode(Codec::Deflate, &DEFLATED[..100], &mut dst).unwrap();
        assert!(!decoded.finished);
        assert!(decoded.len >= 17);
        assert_eq!(dst[..decoded.len], expected()[..decoded.len]);
    }

    #[test]
    fn noise_is_damage_or_an_end_before_the_buffer_is_full() {
        let mut dst = [0; 64];
        assert!(decode(Codec::Deflate, &[0xff; 32], &mut dst).is_err());
        assert!(decode(Codec::Zlib, &[0; 32], &mut dst).is_err());
        for codec in [Codec::Deflate, Codec::Zlib] {
            assert_eq!(
                decode(codec, &[], &mut dst).unwrap(),
                Decoded {
                    len: 0,
                    finished: false
                }
            );
        }
    }
}
