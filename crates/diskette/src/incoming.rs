//! Images that come out of a pipe: read as they come where that is possible, kept in a spool where not.

use std::io::Read;
use std::sync::Arc;

use diskette_convert::OnePass;
use diskette_core::{
    ByteStream, Chain, Ends, NoReferences, OpenOptions, Passes, Result, StreamFormat,
};
use diskette_storage::{HeadStream, Packing, ReadStream, Unpacker, spool};

use crate::container::{MOST_PACKED, Source, is_named_raw, refuse_what_only_containers_have};
use crate::one_pass::{is_nested, streamed_format};
use crate::registry;

/// An image that comes out of a pipe, of which the beginning has been looked at. What is compressed is unpacked.
///
/// It may refer to no other file: it lies in no folder.
#[derive(Debug)]
pub struct Incoming {
    bytes: HeadStream,
    packing: Option<Packing>,
    options: OpenOptions,
    /// How it can be read in one pass, if it can.
    streamed: Option<&'static dyn StreamFormat>,
    len: Option<u64>,
}

impl Incoming {
    /// What comes `from` there; error messages call it `name`. `len` is the size of the raw disk that comes, compressed or
    /// not, if it is known before: it can be read in one pass then.
    pub fn new(
        name: &str,
        from: Box<dyn Read + Send>,
        len: Option<u64>,
        options: &OpenOptions,
    ) -> Result<Self> {
        let mut options = options.clone();
        options.files = Arc::new(NoReferences);
        let mut bytes = head_of(Box::new(ReadStream::new(name, from)))?;
        let mut packing = None;
        if options.containers && !is_named_raw(&options) {
            for _ in 0..MOST_PACKED {
                let Some(found) = Packing::of(bytes.head()) else {
                    break;
                };
                packing = packing.or(Some(found));
                let unpacked = Unpacker::of_stream(Box::new(bytes), found, &options.limits)?;
                bytes = head_of(Box::new(unpacked))?;
            }
        }
        let streamed = one_pass_format(bytes.head(), len.is_some(), &options)?;
        Ok(Self {
            bytes,
            packing,
            options,
            streamed,
            len,
        })
    }

    /// Whether it can be read in one pass, without a spool.
    #[must_use]
    pub const fn is_one_pass(&self) -> bool {
        self.streamed.is_some()
    }

    /// The disk, to be read in one pass where that can be; else after it has been kept in a file without a name, which
    /// goes when nobody reads it any more.
    pub fn open(self) -> Result<Arrived> {
        let Some(format) = self.streamed else {
            return self.open_spooled().map(Arrived::Spooled);
        };
        let head = self.bytes.head().to_vec();
        let cx = self.options.context();
        let stream = format.open_stream(&head, Box::new(self.bytes), self.len, &cx)?;
        Ok(Arrived::OnePass(OnePass::new(stream)))
    }

    /// The disk, to be read anywhere, after it has been kept in a file without a name.
    pub fn open_spooled(mut self) -> Result<Chain> {
        let source = Source {
            storage: spool(&mut self.bytes, &self.options.limits)?,
            options: self.options,
            ova: None,
            packing: self.packing,
        };
        let source = source.entered()?.unpacked()?;
        if source.ova.is_none() {
            refuse_what_only_containers_have(&source)?;
        }
        registry().open_chain(source.storage, &source.options)
    }
}

/// A disk that has come out of a pipe. Complete by nature.
#[derive(Debug)]
pub enum Arrived {
    /// It is read as it comes.
    OnePass(OnePass),
    /// It is kept in a spool.
    Spooled(Chain),
}

fn head_of(bytes: Box<dyn ByteStream>) -> Result<HeadStream> {
    HeadStream::new(bytes, Ends::HEAD)
}

/// The format by which an image that begins so can be read in one pass.
fn one_pass_format(
    head: &[u8],
    len_is_known: bool,
    options: &OpenOptions,
) -> Result<Option<&'static dyn StreamFormat>> {
    let wants_more =
        options.snapshot.is_some() || options.disk.is_some() || options.verify_manifest;
    if wants_more || !is_named_raw(options) && options.containers && is_nested(head) {
        return Ok(None);
    }
    let Some(format) = streamed_format(head, options)? else {
        return Ok(None);
    };
    Ok(match format.passes(head, &options.context()) {
        Passes::One => Some(format),
        Passes::OneOfKnownLen if len_is_known => Some(format),
        Passes::OneOfKnownLen | Passes::More => None,
    })
}
