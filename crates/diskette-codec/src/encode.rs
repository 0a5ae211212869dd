//! From a chunk to compressed bytes, if they are short enough.

use std::fmt;
use std::sync::{Mutex, PoisonError};

use flate2::{Compress, Compression, FlushCompress, Status};

use crate::deflate::Deflater;
use crate::{Codec, CodecError};

/// What compressed bytes are to be like. Complete by nature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Encoding {
    /// How to compress.
    pub codec: Codec,
    /// From fast to small: deflate and zlib 0 to 9 (12 where libdeflate does it), zstd -7 to 22. `None`: where streams are
    /// as short as those of C zlib and libzstd by default.
    pub level: Option<i32>,
    /// Deflate and zlib reach back at most 2 to this power bytes, 9 to 15. Zstd takes no notice.
    pub window_bits: u8,
}

/// Compresses chunks, one after another.
pub struct Encoder {
    kind: Kind,
}

enum Kind {
    Deflate(Compress),
    Narrow(Box<Deflater>),
    #[cfg(feature = "libdeflate")]
    OneShot(Codec, libdeflater::Compressor),
    #[cfg(feature = "zstd")]
    Zstd(zstd::bulk::Compressor<'static>),
}

impl Encoder {
    /// An encoder for this encoding.
    pub fn new(encoding: &Encoding) -> Result<Self, CodecError> {
        let kind = match encoding.codec {
            Codec::Deflate | Codec::Zlib => deflate(encoding)?,
            #[cfg(feature = "zstd")]
            Codec::Zstd => Kind::Zstd(crate::zstandard::compressor(encoding.level.unwrap_or(3))?),
            #[cfg(not(feature = "zstd"))]
            Codec::Zstd => {
                return Err(CodecError::Missing {
                    codec: encoding.codec,
                });
            }
        };
        Ok(Self { kind })
    }

    /// Appends to `out` the stream that `src` makes. `false`, and `out` as it was, if that is longer than `limit` bytes.
    pub fn encode(
        &mut self,
        src: &[u8],
        out: &mut Vec<u8>,
        limit: usize,
    ) -> Result<bool, CodecError> {
        match &mut self.kind {
            Kind::Deflate(deflate) => encode_deflate(deflate, src, out, limit),
            Kind::Narrow(deflater) => Ok(deflater.encode(src, out, limit)),
            #[cfg(feature = "libdeflate")]
            Kind::OneShot(codec, compressor) => {
                Ok(one_shot::encode(*codec, compressor, src, out, limit))
            }
            #[cfg(feature = "zstd")]
            Kind::Zstd(compressor) => crate::zstandard::encode(compressor, src, out, limit),
        }
    }
}

impl fmt::Debug for Encoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Encoder")
    }
}

fn deflate(encoding: &Encoding) -> Result<Kind, CodecError> {
    let Encoding {
        codec,
        level,
        window_bits,
    } = *encoding;
    if !(9..=15).contains(&window_bits) {
        let value = window_bits.into();
        return Err(CodecError::Setting {
            codec,
            what: "window of 2^n bytes, n =",
            value,
        });
    }
    #[cfg(feature = "libdeflate")]
    if window_bits == 15 {
        return Ok(Kind::OneShot(
            codec,
            one_shot::compressor(codec, level.unwrap_or(5))?,
        ));
    }
    let level = level.unwrap_or(6);
    match u8::try_from(level) {
        Ok(level @ 1..=9) if codec == Codec::Deflate && window_bits < 15 => {
            return Ok(Kind::Narrow(Box::new(Deflater::new(level, window_bits))));
        }
        _ => {}
    }
    match u32::try_from(level) {
        Ok(level @ 0..=9) => {
            let zlib = codec == Codec::Zlib;
            Ok(Kind::Deflate(Compress::new_with_window_bits(
                Compression::new(level),
                zlib,
                window_bits,
            )))
        }
        _ => Err(CodecError::Setting {
            codec,
            what: "level",
            value: level.into(),
        }),
    }
}

fn encode_deflate(
    deflate: &mut Compress,
    src: &[u8],
    out: &mut Vec<u8>,
    limit: usize,
) -> Result<bool, CodecError> {
    let start = out.len();
    deflate.reset();
    // A stream is never longer than that: stored blocks add some bytes to every few kilobytes. And the codec says that
    // it has come to the end only where a byte of room is left.
    let longest = src.len().saturating_add(src.len() / 4 + 64);
    out.reserve(limit.min(longest).saturating_add(1));
    let mut status = deflate_rest(deflate, src, out)?;
    // The vector may have more room than the limit.
    let fits = status == Status::StreamEnd && out.len() - start <= limit;
    // zlib-rs 0.6 loses room in its output buffer, and panics in the end, where it is reset within a stream.
    while status != Status::StreamEnd {
        out.truncate(start);
        out.reserve(64);
        status = deflate_rest(deflate, src, out)?;
    }
    if !fits {
        out.truncate(start);
    }
    Ok(fits)
}

/// Goes on with the part of `src` that has not been read yet, while `out` has room.
fn deflate_rest(
    deflate: &mut Compress,
    src: &[u8],
    out: &mut Vec<u8>,
) -> Result<Status, CodecError> {
    let read = usize::try_from(deflate.total_in()).unwrap_or(usize::MAX);
    let rest = src.get(read..).unwrap_or_default();
    let status = deflate.compress_vec(rest, out, FlushCompress::Finish);
    status.map_err(|error| CodecError::Damaged {
        why: error.to_string(),
    })
}

#[cfg(feature = "libdeflate")]
mod one_shot {
    use libdeflater::{CompressionLvl, Compressor};

    use crate::{Codec, CodecError};

    pub(super) fn compressor(codec: Codec, level: i32) -> Result<Compressor, CodecError> {
        match CompressionLvl::new(level) {
            Ok(level) => Ok(Compressor::new(level)),
            Err(_) => Err(CodecError::Setting {
                codec,
                what: "level",
                value: level.into(),
            }),
        }
    }

    pub(super) fn encode(
        codec: Codec,
        compressor: &mut Compressor,
        src: &[u8],
        out: &mut Vec<u8>,
        limit: usize,
    ) -> bool {
        let start = out.len();
        let longest = match codec {
            Codec::Zlib => compressor.zlib_compress_bound(src.len()),
            Codec::Deflate | Codec::Zstd => compressor.deflate_compress_bound(src.len()),
        };
        out.resize(start.saturating_add(limit.min(longest)), 0);
        let dst = &mut out[start..];
        let done = match codec {
            Codec::Zlib => compressor.zlib_compress(src, dst),
            Codec::Deflate | Codec::Zstd => compressor.deflate_compress(src, dst),
        };
        // The only error is that there was not room enough.
        out.truncate(start + done.as_ref().map_or(0, |len| *len));
        done.is_ok()
    }
}

/// Encoders of one kind for any number of threads: an idle one is used again.
#[derive(Debug)]
pub struct EncoderPool {
    encoding: Encoding,
    idle: Mutex<Vec<Encoder>>,
}

impl EncoderPool {
    /// A pool for this encoding.
    pub fn new(encoding: Encoding) -> Result<Self, CodecError> {
        let first = Encoder::new(&encoding)?;
        Ok(Self {
            encoding,
            idle: Mutex::new(vec![first]),
        })
    }

    /// [`Encoder::encode`], by an encoder that is idle, or a new one.
    pub fn encode(&self, src: &[u8], out: &mut Vec<u8>, limit: usize) -> Result<bool, CodecError> {
        let idle = || self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = idle().pop();
        let mut encoder = match taken {
            Some(encoder) => encoder,
            None => Encoder::new(&self.encoding)?,
        };
        let done = encoder.encode(src, out, limit);
        idle().push(encoder);
        done
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{Decoded, decode};

    fn encodings() -> impl Iterator<Item = Encoding> {
        let deflate = [Codec::Deflate, Codec::Zlib].into_iter().flat_map(|codec| {
            [
                (12, None),
                (15, None),
                (12, Some(9)),
                (12, Some(1)),
                (9, Some(4)),
                (15, Some(1)),
            ]
            .map(|(window_bits, level)| Encoding {
                codec,
                level,
                window_bits,
            })
        });
        let zstd = [None, Some(19), Some(-3)].map(|level| Encoding {
            codec: Codec::Zstd,
            level,
            window_bits: 15,
        });
        deflate
            .chain(zstd)
            .filter(|encoding| cfg!(feature = "zstd") || encoding.codec != Codec::Zstd)
    }

    fn text() -> Vec<u8> {
        (0..4000_u32)
            .flat_map(|number| format!("line {} of {number}\n", number * 7).into_bytes())
            .take(65536)
            .collect()
    }

    #[test]
    fn what_is_encoded_is_decoded() {
        let text = text();
        for encoding in encodings() {
            let pool = EncoderPool::new(encoding).unwrap();
            for _ in 0..3 {
                let mut stream = b"before".to_vec();
                assert!(pool.encode(&text, &mut stream, 65535).unwrap());
                assert!(stream.len() < 30_000, "{encoding:?}: {}", stream.len());
                let mut back = vec![0; text.len()];
                let decoded = decode(encoding.codec, &stream[6..], &mut back).unwrap();
                assert_eq!(
                    decoded,
                    Decoded {
                        len: text.len(),
                        finished: true
                    },
                    "{encoding:?}"
                );
                assert_eq!(back, text);
            }
        }
    }

    #[test]
    fn an_encoder_that_gave_up_often_works_on() {
        let mut number = 1_u32;
        let noise: Vec<u8> = std::iter::repeat_with(|| {
            number = number.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            number.to_be_bytes()[0]
        })
        .take(4096)
        .collect();
        for encoding in encodings() {
            let mut encoder = Encoder::new(&encoding).unwrap();
            let mut stream = Vec::new();
            for limit in (0..100).map(|number| number * 40) {
                assert!(!encoder.encode(&noise, &mut stream, limit).unwrap());
            }
            assert!(encoder.encode(&text(), &mut stream, 65535).unwrap());
            let mut back = vec![0; 65536];
            decode(encoding.codec, &stream, &mut back).unwrap();
            assert_eq!(back, text(), "{encoding:?}");
        }
    }

    #[test]
    fn a_stream_longer_than_the_limit_leaves_nothing() {
        let mut noise = 1_u32;
        let noise: Vec<u8> = std::iter::repeat_with(|| {
            noise = noise.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            noise.to_be_bytes()[0]
        })
        .take(65536)
        .collect();
        for encoding in encodings() {
            let mut out = Vec::with_capacity(1 << 20);
            out.extend(b"before");
            assert!(
                !EncoderPool::new(encoding)
                    .unwrap()
                    .encode(&noise, &mut out, 65535)
                    .unwrap(),
                "{encoding:?}"
            );
            assert_eq!(out, b"before");
        }
    }

    #[test]
    fn a_narrow_window_is_not_left() {
        // A block that repeats after 5000 bytes gains nothing from a window of 4 KiB, and much from one of 32 KiB.
        let block: Vec<u8> = text().into_iter().rev().take(5000).collect();
        let mut noise = 9_u64;
        let block: Vec<u8> = block
            .into_iter()
            .map(|byte| {
                noise = noise
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1);
                byte ^ noise.to_be_bytes()[0]
            })
            .collect();
        let data = block.repeat(4);
        let len = |window_bits| {
            let mut out = Vec::new();
            let encoding = Encoding {
                codec: Codec::Deflate,
                level: None,
                window_bits,
            };
            assert!(
                Encoder::new(&encoding)
                    .unwrap()
                    .encode(&data, &mut out, 1 << 20)
                    .unwrap()
            );
            out.len()
        };
        assert!(
            len(12) > 19_000 && len(15) < 6000,
            "{} {}",
            len(12),
            len(15)
        );
    }

    #[test]
    fn settings_that_do_not_exist_are_refused() {
        let refused = |codec, level, window_bits| {
            let encoding = Encoding {
                codec,
                level,
                window_bits,
            };
            matches!(EncoderPool::new(encoding), Err(CodecError::Setting { .. }))
        };
        assert!(refused(Codec::Deflate, Some(99), 12));
        assert!(refused(Codec::Deflate, Some(99), 15));
        assert!(refused(Codec::Deflate, Some(-1), 12));
        assert!(refused(Codec::Zlib, None, 8));
        assert!(refused(Codec::Zlib, None, 16));
        #[cfg(feature = "zstd")]
        assert!(refused(Codec::Zstd, Some(23), 15));
    }

    proptest! {
        #[test]
        fn no_bytes_can_make_a_decoder_panic_or_claim_too_much(
            bytes in proptest::collection::vec(any::<u8>(), 0..2000), room in 0..5000_usize,
        ) {
            for codec in [Codec::Deflate, Codec::Zlib, Codec::Zstd] {
                let mut dst = vec![0; room];
                if let Ok(decoded) = decode(codec, &bytes, &mut dst) {
                    prop_assert!(decoded.len <= room);
                }
            }
        }

        #[test]
        fn a_stream_cut_short_is_never_finished(cut in 0..1000_usize, pick in 0..15_usize) {
            let Some(encoding) = encodings().nth(pick) else { return Ok(()) };
            let text = text();
            let mut stream = Vec::new();
            prop_assert!(Encoder::new(&encoding).unwrap().encode(&text, &mut stream, 65535).unwrap());
            stream.truncate(stream.len() - 1 - cut.min(stream.len() - 1));
            let mut back = vec![0; text.len() + 1];
            if let Ok(decoded) = decode(encoding.codec, &stream, &mut back) {
                prop_assert!(!decoded.finished);
                prop_assert_eq!(&back[..decoded.len], &text[..decoded.len]);
            }
        }
    }
}
