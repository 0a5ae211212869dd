//! The files of an image that is being changed, and how a piece of the disk is read from them.

use std::sync::Arc;

use diskette_codec::{Codec, decode};
use diskette_core::{BlockReader, BlockReaderExt, Result, StorageExt, StorageMut};
use diskette_crypto::EncryptedStorage;

use crate::geometry::{Geometry, Stream};
use crate::header::field;

/// What can be read and written without a lock on the image.
#[derive(Clone, Debug)]
pub(super) struct Files {
    pub(super) storage: Arc<dyn StorageMut>,
    /// Where guest data lies, if not in the image's own file.
    pub(super) data_file: Option<DataFile>,
    /// The file that holds the clusters, behind the image's cipher, where it has one.
    pub(super) sealed: Option<Arc<EncryptedStorage>>,
    /// What holes show. `None` where they read as zeros.
    pub(super) below: Option<Arc<dyn BlockReader>>,
    pub(super) geometry: Geometry,
    pub(super) codec: Codec,
}

/// A file for guest data alone: what is at an offset of the disk is at the same offset of the file.
#[derive(Clone, Debug)]
pub(super) struct DataFile {
    pub(super) storage: Arc<dyn StorageMut>,
    /// Whether it is the whole disk by itself.
    pub(super) is_raw: bool,
}

/// A run of the disk's bytes that come from one place.
#[derive(Clone, Copy, Debug)]
pub(super) struct Piece {
    /// Guest offset.
    pub(super) start: u64,
    /// Bytes; never 0.
    pub(super) len: u64,
    pub(super) source: Source,
}

/// Where bytes come from.
#[derive(Clone, Copy, Debug)]
pub(super) enum Source {
    /// From a host offset on.
    Stored(u64),
    Zeros,
    /// A part of the cluster that the stream holds.
    Stream(Stream),
    /// What lies below, as far as it reaches: up to this guest offset. Then zeros.
    Below(u64),
}

impl Files {
    /// The file that holds the clusters; it takes guest data, and enciphers them where they are to be.
    pub(super) fn payload(&self) -> &dyn StorageMut {
        match (&self.sealed, &self.data_file) {
            (Some(sealed), _) => &**sealed,
            (None, Some(data_file)) => &*data_file.storage,
            (None, None) => &*self.storage,
        }
    }

    fn read_stored(&self, buf: &mut [u8], place: u64) -> Result<()> {
        match &self.sealed {
            Some(sealed) => sealed.read_deciphered(buf, place),
            None => self.payload().read_padded(buf, place).map(drop),
        }
    }

    /// Reads the first bytes of a piece: at most as many as it has.
    pub(super) fn read(&self, piece: &Piece, buf: &mut [u8]) -> Result<()> {
        match piece.source {
            Source::Stored(place) => self.read_stored(buf, place)?,
            Source::Zeros => buf.fill(0),
            Source::Below(end) => self.read_below(buf, piece.start, end)?,
            Source::Stream(stream) => self.read_stream(stream, buf, piece.start)?,
        }
        Ok(())
    }

    fn read_below(&self, buf: &mut [u8], offset: u64, end: u64) -> Result<()> {
        let there = end.saturating_sub(offset).min(buf.len() as u64);
        let (head, tail) = buf.split_at_mut(usize::try_from(there).unwrap_or(0));
        tail.fill(0);
        match &self.below {
            Some(below) if !head.is_empty() => below.read_at(head, offset),
            Some(_) | None => Ok(()),
        }
    }

    fn read_stream(&self, stream: Stream, buf: &mut [u8], offset: u64) -> Result<()> {
        let size = self.storage.total_size()?;
        let len = stream.len.min(size.saturating_sub(stream.offset));
        // At most two clusters.
        let mut packed = vec![0; usize::try_from(len).unwrap_or(0)];
        self.storage.read(&mut packed, stream.offset)?;
        let within = offset % self.geometry.cluster_size();
        let claim = || {
            let start = offset - within;
            let name = format!("length of the compressed cluster of guest offset {start:#x}");
            field(name, stream.offset, len)
        };
        let mut cluster = vec![0; self.geometry.cluster_len()];
        let decoded = decode(self.codec, &packed, &mut cluster)
            .map_err(|error| claim().malformed(error.to_string()))?;
        if decoded.len < cluster.len() || self.codec == Codec::Zstd && !decoded.finished {
            return Err(claim().malformed("it does not hold one whole cluster"));
        }
        let start = usize::try_from(within).unwrap_or(usize::MAX);
        if let Some(part) = cluster.get(start..start.saturating_add(buf.len())) {
            buf.copy_from_slice(part);
        }
        Ok(())
    }
}
