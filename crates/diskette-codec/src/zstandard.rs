//! Zstandard, by its C library.

use std::cell::RefCell;
use std::io::{self, Cursor};

use zstd::bulk::Compressor;
use zstd::stream::raw::{Decoder, InBuffer, Operation, OutBuffer};
use zstd::zstd_safe::compress_bound;

use crate::{Codec, CodecError, Decoded};

pub(crate) fn decode(src: &[u8], dst: &mut [u8]) -> Result<Decoded, CodecError> {
    thread_local! {
        static DECODER: RefCell<Option<Decoder<'static>>> = const { RefCell::new(None) };
    }
    DECODER.with_borrow_mut(|slot| {
        let decoder = match slot {
            Some(decoder) => decoder,
            None => slot.insert(Decoder::new().map_err(damaged)?),
        };
        decoder.reinit().map_err(damaged)?;
        decode_with(decoder, src, dst)
    })
}

fn decode_with(
    decoder: &mut Decoder<'_>,
    src: &[u8],
    dst: &mut [u8],
) -> Result<Decoded, CodecError> {
    let room = dst.len();
    let mut input = InBuffer::around(src);
    let mut output = OutBuffer::around(dst);
    loop {
        let before = (input.pos(), output.pos());
        let wanted = decoder.run(&mut input, &mut output).map_err(damaged)?;
        let (used, len) = (input.pos(), output.pos());
        // At a frame's end nothing more is wanted; what follows may be another frame, or no matter of ours.
        let finished = wanted == 0;
        let all =
            finished && len == room || used == src.len() && (finished || (used, len) == before);
        if all || (used, len) == before {
            return Ok(Decoded { len, finished });
        }
    }
}

/// Appends a frame, with its content's size and without a checksum; whether it was not longer than `limit`.
pub(crate) fn encode(
    compressor: &mut Compressor<'static>,
    src: &[u8],
    out: &mut Vec<u8>,
    limit: usize,
) -> Result<bool, CodecError> {
    let start = out.len();
    out.reserve(compress_bound(src.len()));
    // Behind what is there, into memory that needs no filling before.
    let mut behind = Cursor::new(&mut *out);
    behind.set_position(start as u64);
    let done = compressor.compress_to_buffer(src, &mut behind);
    let fits = done.as_ref().is_ok_and(|len| *len <= limit);
    if !fits {
        out.truncate(start);
    }
    done.map(|_| fits).map_err(damaged)
}

pub(crate) fn compressor(level: i32) -> Result<Compressor<'static>, CodecError> {
    if !zstd::compression_level_range().contains(&level) {
        return Err(CodecError::Setting {
            codec: Codec::Zstd,
            what: "level",
            value: level.into(),
        });
    }
    Compressor::new(level).map_err(damaged)
}

fn damaged(error: io::Error) -> CodecError {
    CodecError::Damaged {
        why: error.to_string(),
    }
}
