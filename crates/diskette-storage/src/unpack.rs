//! Files that are compressed as a whole: gzip, xz, Zstandard, bzip2, told by their first bytes.
//!
//! Members, streams and frames may follow one another, as all these tools allow. Data that are damaged or cut are an error
//! at the latest at their end, and what comes out is bounded by the limits, in all and by its ratio to what went in.

use std::fmt;
use std::io::{self, BufReader, ErrorKind, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use diskette_core::{ByteStream, Error, Limits, Result, Storage, StorageExt};

/// How a file is compressed as a whole. Complete by nature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packing {
    /// RFC 1952.
    Gzip,
    /// The .xz file format.
    Xz,
    /// RFC 8878.
    Zstd,
    /// bzip2.
    Bzip2,
}

impl Packing {
    /// How a file that begins with `head` is compressed, if it is.
    #[must_use]
    pub fn of(head: &[u8]) -> Option<Self> {
        match head {
            // Deflate, and no flag that is not known.
            [0x1f, 0x8b, 8, flags, ..] if flags & 0xe0 == 0 => Some(Self::Gzip),
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Some(Self::Xz),
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Some(Self::Zstd),
            // A frame to be skipped, such as stands before others.
            [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Some(Self::Zstd),
            // A block, or the end of a file without one.
            [b'B', b'Z', b'h', b'1'..=b'9', rest @ ..]
                if rest.starts_with(b"\x31\x41\x59\x26\x53\x59")
                    || rest.starts_with(b"\x17\x72\x45\x38\x50\x90") =>
            {
                Some(Self::Bzip2)
            }
            _ => None,
        }
    }

    /// How `storage` is compressed, if it is.
    pub fn of_storage(storage: &dyn Storage) -> Result<Option<Self>> {
        let mut head = [0; 16];
        let len = storage.read_padded(&mut head, 0)?;
        Ok(Self::of(&head[..len]))
    }

    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Xz => "xz",
            Self::Zstd => "zstd",
            Self::Bzip2 => "bzip2",
        }
    }
}

/// What a compressed file holds, from its first byte to its last.
pub struct Unpacker {
    name: String,
    packing: Packing,
    decoder: Box<dyn Read + Send>,
    source: Arc<Source>,
    limits: Limits,
    /// Bytes that came out.
    done: u64,
}

/// What is known of the compressed bytes while a decoder has them.
#[derive(Debug, Default)]
struct Source {
    /// Bytes that went in.
    taken: AtomicU64,
    /// Whether the machine could not read them.
    failed: AtomicBool,
}

/// Compressed bytes are read in pieces of this size.
const PIECE: usize = 256 << 10;
/// Memory that a decoder of xz may take: that of `xz -9` and as much again.
const XZ_MEMORY_KIB: u32 = 128 << 10;

impl Unpacker {
    /// Unpacks `storage`, which is compressed by `packing`.
    pub fn new(storage: Arc<dyn Storage>, packing: Packing, limits: &Limits) -> Result<Self> {
        let stored = Stored {
            size: storage.total_size()?,
            storage,
            at: 0,
        };
        Self::of_stream(Box::new(stored), packing, limits)
    }

    /// Unpacks what comes by `bytes`, and is compressed by `packing`.
    pub fn of_stream(
        bytes: Box<dyn ByteStream>,
        packing: Packing,
        limits: &Limits,
    ) -> Result<Self> {
        let name = bytes.name().to_owned();
        let source = Arc::new(Source::default());
        let packed = Packed {
            bytes,
            source: Arc::clone(&source),
        };
        let packed = BufReader::with_capacity(PIECE, packed);
        let decoder = decoder(packing, packed);
        let decoder = decoder.map_err(|source| Error::Io {
            storage: name.clone(),
            op: "unpack",
            offset: 0,
            len: 0,
            source,
        })?;
        let decoder = decoder.ok_or_else(|| Error::unsupported("zstd", "a build without it"))?;
        Ok(Self {
            name,
            packing,
            decoder,
            source,
            limits: limits.clone(),
            done: 0,
        })
    }

    fn failed(&self, why: io::Error, len: u64) -> Error {
        let taken = self.source.taken.load(Ordering::Relaxed);
        if self.source.failed.load(Ordering::Relaxed) {
            return Error::Io {
                storage: self.name.clone(),
                op: "unpack",
                offset: taken,
                len,
                source: why,
            };
        }
        let wrong = |text: String| {
            let format = self.packing.name();
            Error::malformed(format, "compressed data", taken, self.name.as_str(), text)
        };
        match why.kind() {
            ErrorKind::UnexpectedEof => wrong("cut short".to_owned()).truncated(),
            _ => wrong(why.to_string()),
        }
    }
}

fn decoder<R: Read + Send + 'static>(
    packing: Packing,
    packed: BufReader<R>,
) -> io::Result<Option<Box<dyn Read + Send>>> {
    Ok(Some(match packing {
        Packing::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(packed)),
        Packing::Xz => {
            let several = true;
            Box::new(lzma_rust2::XzReader::new_mem_limit(
                packed,
                several,
                XZ_MEMORY_KIB,
            ))
        }
        #[cfg(feature = "zstd")]
        Packing::Zstd => Box::new(zstd::stream::read::Decoder::with_buffer(packed)?),
        #[cfg(not(feature = "zstd"))]
        Packing::Zstd => return Ok(None),
        Packing::Bzip2 => Box::new(bzip2::bufread::MultiBzDecoder::new(packed)),
    }))
}

impl ByteStream for Unpacker {
    fn name(&self) -> &str {
        &self.name
    }

    fn read(&mut self, buf: &mut [u8]) -> Result<usize> {
        let mut came = 0;
        while came < buf.len() {
            match self.decoder.read(&mut buf[came..]) {
                Ok(0) => break,
                Ok(len) => came += len,
                Err(why) if why.kind() == ErrorKind::Interrupted => {}
                Err(why) => return Err(self.failed(why, (buf.len() - came) as u64)),
            }
        }
        self.done = self.done.saturating_add(came as u64);
        let taken = self.source.taken.load(Ordering::Relaxed);
        self.limits.allow_unpacked(self.done, taken)?;
        Ok(came)
    }
}

impl fmt::Debug for Unpacker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Unpacker")
            .field("name", &self.name)
            .field("packing", &self.packing)
            .field("done", &self.done)
            .finish_non_exhaustive()
    }
}

/// The compressed bytes.
struct Packed {
    bytes: Box<dyn ByteStream>,
    source: Arc<Source>,
}

impl Read for Packed {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let came = self.bytes.read(buf).map_err(|error| {
            self.source.failed.store(true, Ordering::Relaxed);
            match error {
                Error::Io { source, .. } => source,
                other => io::Error::other(other),
            }
        })?;
        self.source.taken.fetch_add(came as u64, Ordering::Relaxed);
        Ok(came)
    }
}

/// A storage's bytes, from its first to its last.
#[derive(Debug)]
struct Stored {
    storage: Arc<dyn Storage>,
    size: u64,
    at: u64,
}

impl ByteStream for Stored {
    fn name(&self) -> &str {
        self.storage.name()
    }

    fn read(&mut self, buf: &mut [u8]) -> Result<usize> {
        let left = usize::try_from(self.size.saturating_sub(self.at)).unwrap_or(usize::MAX);
        let len = left.min(buf.len());
        self.storage.read(&mut buf[..len], self.at)?;
        self.at += len as u64;
        Ok(len)
    }
}

#[cfg(test)]
mod tests;
