//! Compress or decompress one chunk of a disk image, all of it in memory.
//!
//! [`decode`] and [`EncoderPool`] may be called by any number of threads; what is costly to make is used again.
//!
//! | codec | by default | with feature `libdeflate` |
//! | --- | --- | --- |
//! | [`Deflate`](Codec::Deflate), [`Zlib`](Codec::Zlib) | zlib-rs, in Rust | libdeflate, in C: to decode, and to encode with a window of 32 KiB |
//! | [`Deflate`](Codec::Deflate), encoded with a smaller window | an encoder of its own, in Rust | likewise |
//! | [`Zstd`](Codec::Zstd), a feature that is on by default | libzstd, in C | likewise |

#![forbid(unsafe_code)]

mod decode;
mod deflate;
mod encode;
#[cfg(feature = "zstd")]
mod zstandard;

pub use decode::{Decoded, decode};
pub use encode::{Encoder, EncoderPool, Encoding};

/// How a chunk is compressed. Complete by nature.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Codec {
    /// Raw deflate (RFC 1951): no header, no checksum.
    Deflate,
    /// Deflate with zlib's header and checksum (RFC 1950).
    Zlib,
    /// Zstandard frames (RFC 8878).
    Zstd,
}

/// Why a chunk could not be compressed or decompressed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CodecError {
    /// The compressed bytes are no sound stream.
    #[error("the compressed data are damaged: {why}")]
    Damaged {
        /// What the codec says of it.
        why: String,
    },
    /// The library was built without this codec.
    #[error("this program was built without {codec:?} compression")]
    Missing {
        /// The codec.
        codec: Codec,
    },
    /// There is no such level or window.
    #[error("{codec:?} has no {what} {value}")]
    Setting {
        /// The codec.
        codec: Codec,
        /// "level" or "window of 2^n bytes, n =".
        what: &'static str,
        /// What was asked for.
        value: i64,
    },
}
