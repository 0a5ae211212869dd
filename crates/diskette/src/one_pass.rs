//! Compressed images that are read while they are unpacked, without a file in between.
//!
//! They are unpacked twice: first to learn how large the disk is and what its format is, and that the data are whole; then
//! to be read.

use std::path::Path;
use std::sync::Arc;

use diskette_convert::OnePass;
use diskette_core::{ByteStream, Ends, FormatChoice, OpenOptions, Passes, Result, StreamFormat};
use diskette_storage::{Packing, Unpacker};

use crate::container::packed_source;
use crate::registry;
use crate::write::refuse_as_target;

/// The formats that have images which can be read in one pass.
static STREAMED: &[&dyn StreamFormat] = &[&diskette_raw::Raw, &diskette_vmdk::Vmdk];

/// The disk in the compressed file at `path`, which is to be converted into `target`, if it can be read in one pass; `None` where the file is not compressed, or
/// its image must be looked at in more than one place: then [`open_with`](crate::open_with) unpacks it into a spool.
pub fn open_one_pass(
    path: impl AsRef<Path>,
    target: impl AsRef<Path>,
    options: &OpenOptions,
) -> Result<Option<OnePass>> {
    let source = packed_source(path, options)?;
    let Some(packing) = source.packed()? else {
        return Ok(None);
    };
    refuse_as_target([source.storage.name()].into_iter(), target.as_ref())?;
    if source.ova.is_none() && (options.disk.is_some() || options.verify_manifest) {
        return Ok(None);
    }
    let options = &source.options;
    if options.snapshot.is_some() {
        return Ok(None);
    }
    let open = || Unpacker::new(Arc::clone(&source.storage), packing, &options.limits);
    let Some(survey) = Survey::of(&mut open()?, options)? else {
        return Ok(None);
    };
    let Some(format) = by_name(survey.format) else {
        return Ok(None);
    };
    let stream = format.open_stream(
        &survey.head,
        Box::new(open()?),
        Some(survey.len),
        &options.context(),
    )?;
    Ok(Some(OnePass::new(stream)))
}

/// What a first pass tells.
struct Survey {
    head: Vec<u8>,
    len: u64,
    format: &'static str,
}

impl Survey {
    /// `None` where the image's beginning tells that more than one pass is needed.
    fn of(stream: &mut Unpacker, options: &OpenOptions) -> Result<Option<Self>> {
        let mut head = vec![0; Ends::HEAD];
        let len = stream.read(&mut head)?;
        head.truncate(len);
        if is_nested(&head) || !takes_one_pass(&head, options)? {
            return Ok(None);
        }
        let (len, tail) = rest(stream, &head)?;
        let ends = Ends {
            head: &head,
            tail: &tail,
            size: len,
        };
        let format = match &options.format {
            FormatChoice::Named(name) => registry().get(name)?.name(),
            FormatChoice::Probe => registry().probe_ends(&ends, stream.name())?.name(),
        };
        Ok(Some(Self { head, len, format }))
    }
}

/// Whether there is something else to be taken out first: an OVA, or compressed data again.
pub(crate) fn is_nested(head: &[u8]) -> bool {
    Packing::of(head).is_some() || diskette_storage::Ova::may_be_ova(head)
}

/// Whether an image that begins so can be read in one pass, as far as can be told.
fn takes_one_pass(head: &[u8], options: &OpenOptions) -> Result<bool> {
    let format = streamed_format(head, options)?;
    Ok(format.is_some_and(|format| format.passes(head, &options.context()) != Passes::More))
}

/// The format of an image that begins so, as far as can be told without its end; `None` where it is none that has images
/// for one pass.
pub(crate) fn streamed_format(
    head: &[u8],
    options: &OpenOptions,
) -> Result<Option<&'static dyn StreamFormat>> {
    if let FormatChoice::Named(name) = &options.format {
        return Ok(by_name(registry().get(name)?.name()));
    }
    let ends = Ends {
        head,
        tail: &[],
        size: head.len() as u64,
    };
    let found = registry().probe_ends(&ends, "stream")?;
    Ok(by_name(found.name()))
}

fn by_name(name: &str) -> Option<&'static dyn StreamFormat> {
    let mut streamed = STREAMED.iter().copied();
    streamed.find(|format| format.name() == name)
}

/// How many bytes there are in all, and the last of them.
fn rest(stream: &mut Unpacker, head: &[u8]) -> Result<(u64, Vec<u8>)> {
    const PIECE: usize = 256 << 10;
    let mut len = head.len() as u64;
    let mut piece = vec![0; Ends::TAIL + PIECE];
    let kept = head.len().min(Ends::TAIL);
    // The piece begins with what came last, right before the place where new bytes go.
    piece[Ends::TAIL - kept..Ends::TAIL].copy_from_slice(&head[head.len() - kept..]);
    loop {
        let came = stream.read(&mut piece[Ends::TAIL..])?;
        len += came as u64;
        piece.copy_within(came..came + Ends::TAIL, 0);
        if came < PIECE {
            let there = usize::try_from(len).unwrap_or(usize::MAX).min(Ends::TAIL);
            return Ok((len, piece[Ends::TAIL - there..Ends::TAIL].to_vec()));
        }
    }
}
