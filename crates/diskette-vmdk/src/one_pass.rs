//! A stream-optimized image that is read as it comes: each grain where its marker stands, without a look at the tables
//! in front or a seek to the footer.
//!
//! Only the layout of VMware's and VirtualBox's products will do, where each grain table stands behind its grains: so it
//! is seen at once whether all the grains that a table lists have come. Streams whose tables stand in front say so in
//! their header, and are left to the reader that can seek.

use std::sync::Arc;

use diskette_core::{
    ByteStream, DiskStream, Error, Field, OpenContext, Passes, Result, RunDecoder, SECTOR,
    StoredRun, StreamFormat,
};
use zerocopy::FromBytes;
use zerocopy::little_endian::U32;

use crate::descriptor::{Descriptor, NO_PARENT};
use crate::header::Header;
use crate::image::size_of_embedded;
use crate::remarks::Remarks;
use crate::stream::{grain_len, inflate_grain};
use crate::{FORMAT, Vmdk, spec};

impl StreamFormat for Vmdk {
    fn passes(&self, head: &[u8], cx: &OpenContext<'_>) -> Passes {
        // What is wrong with an image is told by the reader that can seek.
        match beginning(head, cx) {
            Ok(Some(_)) => Passes::One,
            Ok(None) | Err(_) => Passes::More,
        }
    }

    fn open_stream(
        &self,
        head: &[u8],
        bytes: Box<dyn ByteStream>,
        _len: Option<u64>,
        cx: &OpenContext<'_>,
    ) -> Result<Box<dyn DiskStream>> {
        let beginning = beginning(head, cx)?;
        let (header, size) = beginning.ok_or_else(|| one_pass("it is laid out otherwise"))?;
        Ok(Box::new(Stream {
            bytes,
            at: 0,
            size,
            header,
            grains: Vec::new(),
            footer: false,
            ended: false,
        }))
    }
}

/// The header of an image that can be read in one pass, and its disk's size.
fn beginning(head: &[u8], cx: &OpenContext<'_>) -> Result<Option<(Header, u64)>> {
    if !head.starts_with(&spec::HOSTED_MAGIC) {
        return Ok(None);
    }
    let header = Header::parse_head(head, cx.limits)?;
    let at_end = header.compressed && header.directory.is_none() && header.size > 0;
    let Some(descriptor) = descriptor_in(head, &header).filter(|_| at_end) else {
        return Ok(None);
    };
    let descriptor = Descriptor::parse(descriptor, SECTOR, cx.limits)?;
    if descriptor.encrypted || descriptor.parent_cid != Some(NO_PARENT) || cx.salvage {
        return Ok(None);
    }
    let size = size_of_embedded(&header, &descriptor, &mut Remarks::default())?;
    Ok(Some((header, size)))
}

/// The descriptor, if it lies in the image's first bytes.
fn descriptor_in<'a>(head: &'a [u8], header: &Header) -> Option<&'a [u8]> {
    let (at, len) = header.descriptor?;
    let end = usize::try_from(at.checked_add(len)?).ok()?;
    head.get(usize::try_from(at).ok()?..end)
}

#[derive(Debug)]
struct Stream {
    bytes: Box<dyn ByteStream>,
    /// Host offset of the next byte.
    at: u64,
    /// Bytes of the disk.
    size: u64,
    header: Header,
    /// The sectors at which grains have come that no table has listed yet.
    grains: Vec<u32>,
    /// Whether the footer has come.
    footer: bool,
    ended: bool,
}

impl DiskStream for Stream {
    fn size(&self) -> u64 {
        self.size
    }

    fn next_run(&mut self, mut buffer: Vec<u8>) -> Result<Option<StoredRun>> {
        if self.at == 0 {
            self.skip(self.header.overhead)?;
        }
        while !self.ended {
            if let Some((offset, len)) = self.piece(&mut buffer)? {
                return Ok(Some(StoredRun {
                    offset,
                    len,
                    bytes: buffer,
                    compressed: true,
                }));
            }
        }
        self.skip_rest()?;
        Ok(None)
    }

    fn decoder(&self) -> Arc<dyn RunDecoder> {
        Arc::new(Inflate {
            grain_size: self.header.grain_size,
        })
    }
}

impl Stream {
    /// Takes what the next marker stands for. Of a grain: its bytes into `buffer`, and where it belongs.
    fn piece(&mut self, buffer: &mut Vec<u8>) -> Result<Option<(u64, u64)>> {
        let at = self.at;
        let mut sector = [0; 512];
        self.fill(&mut sector)?;
        let (marker, _) = spec::Marker::ref_from_prefix(&sector)
            .map_err(|_| Error::malformed(FORMAT, "marker", at, 0, "cut short").truncated())?;
        let (value, size) = (marker.value.get(), u64::from(marker.size.get()));
        if size > 0 {
            return self.grain(at, value, size, &sector, buffer).map(Some);
        }
        match marker.kind.get() {
            spec::marker::GRAIN_TABLE => self.table(value)?,
            spec::marker::GRAIN_DIRECTORY => self.skip_sectors(at, value)?,
            spec::marker::FOOTER => {
                self.footer = true;
                self.skip(SECTOR)?;
            }
            spec::marker::PROGRESS => {}
            spec::marker::END_OF_STREAM => self.end(at)?,
            kind => {
                return Err(Field::new(FORMAT, "marker.type", at + 12, kind).malformed("unknown"));
            }
        }
        Ok(None)
    }

    fn grain(
        &mut self,
        at: u64,
        first_sector: u64,
        size: u64,
        sector: &[u8],
        buffer: &mut Vec<u8>,
    ) -> Result<(u64, u64)> {
        let field = || Field::new(FORMAT, "marker.val", at, first_sector);
        let offset = field().times(SECTOR)?;
        if offset >= self.size || offset % self.header.grain_size != 0 {
            return Err(field().malformed("not the first sector of a grain of the disk"));
        }
        let whole = grain_len(size, self.header.grain_size, at)?;
        let there = u32::try_from(at / SECTOR)
            .map_err(|_| field().malformed("a grain beyond 2 TiB of file"))?;
        if self.grains.len() as u64 >= self.header.table_entries {
            return Err(field().malformed("more grains than a table has entries, and no table"));
        }
        self.grains.push(there);
        let behind = spec::GRAIN_MARKER_LEN;
        let first = whole.min(SECTOR) - behind;
        buffer.clear();
        buffer.extend_from_slice(part(sector, behind, first));
        if whole > SECTOR {
            let padded = whole.div_ceil(SECTOR) * SECTOR - SECTOR;
            let start = buffer.len();
            buffer.resize(start.saturating_add(usize_of(padded)), 0);
            self.fill(&mut buffer[start..])?;
            buffer.truncate(usize_of(size));
        }
        Ok((offset, self.header.grain_size.min(self.size - offset)))
    }

    /// A grain table: the grains that it lists are those that have come since the last one.
    fn table(&mut self, sectors: u64) -> Result<()> {
        let at = self.at;
        let len = self.header.table_entries * 4;
        if sectors != len.div_ceil(SECTOR) {
            let field = Field::new(FORMAT, "marker.val", at - SECTOR, sectors);
            return Err(field.malformed("not the sectors of a grain table"));
        }
        let mut bytes = vec![0; usize_of(sectors * SECTOR)];
        self.fill(&mut bytes)?;
        let (entries, _) = bytes.as_chunks::<4>();
        let listed = entries
            .iter()
            .map(|entry| U32::from_bytes(*entry).get())
            .filter(|entry| *entry > spec::GTE_ZERO);
        if !listed.eq(self.grains.drain(..)) {
            return Err(one_pass("grains in another order than their table's"));
        }
        Ok(())
    }

    /// What follows the last marker is padding; but before it all must have come.
    fn end(&mut self, at: u64) -> Result<()> {
        if !self.footer || !self.grains.is_empty() {
            let field = Field::new(FORMAT, "marker.type", at + 12, spec::marker::END_OF_STREAM);
            return Err(field.malformed("the stream ends before its tables or its footer"));
        }
        self.ended = true;
        Ok(())
    }

    fn skip_sectors(&mut self, at: u64, sectors: u64) -> Result<()> {
        let len = Field::new(FORMAT, "marker.val", at, sectors).times(SECTOR)?;
        self.skip(len)
    }

    fn fill(&mut self, buf: &mut [u8]) -> Result<()> {
        let came = self.bytes.read(buf)?;
        if came < buf.len() {
            let end = self.at + came as u64;
            let field = Field::new(FORMAT, "stream's end", end, end);
            return Err(field
                .malformed("no end-of-stream marker came: it was cut short")
                .truncated());
        }
        self.at += came as u64;
        Ok(())
    }

    fn skip(&mut self, mut len: u64) -> Result<()> {
        let mut piece = vec![0; usize_of(len.min(PIECE))];
        while len > 0 {
            let part = len.min(PIECE);
            self.fill(&mut piece[..usize_of(part)])?;
            len -= part;
        }
        Ok(())
    }

    fn skip_rest(&mut self) -> Result<()> {
        let mut piece = vec![0; usize_of(PIECE)];
        while self.bytes.read(&mut piece)? == piece.len() {}
        Ok(())
    }
}

/// Bytes that are skipped at once.
const PIECE: u64 = 64 << 10;

fn one_pass(why: &'static str) -> Error {
    Error::unsupported(FORMAT, format!("reading a stream in one pass: {why}"))
}

fn part(bytes: &[u8], from: u64, len: u64) -> &[u8] {
    let from = usize_of(from);
    let end = from.saturating_add(usize_of(len));
    bytes.get(from..end).unwrap_or_default()
}

/// A number of bytes in memory: of a grain, or less.
fn usize_of(len: u64) -> usize {
    usize::try_from(len).unwrap_or(usize::MAX)
}

#[derive(Debug)]
struct Inflate {
    grain_size: u64,
}

impl RunDecoder for Inflate {
    fn decode(&self, run: &StoredRun, buf: &mut [u8], within: u64) -> Result<()> {
        // Where the grain lay is of no use to anybody any more: its place on the disk is told.
        if buf.len() as u64 == self.grain_size {
            return inflate_grain(&run.bytes, run.offset, run.len, buf);
        }
        let mut whole = vec![0; usize_of(self.grain_size)];
        inflate_grain(&run.bytes, run.offset, run.len, &mut whole)?;
        let wanted = part(&whole, within, buf.len() as u64);
        if wanted.len() != buf.len() {
            return Err(Error::OutOfRange {
                offset: run.offset.saturating_add(within),
                len: buf.len() as u64,
                size: run.offset.saturating_add(run.len),
            });
        }
        buf.copy_from_slice(wanted);
        Ok(())
    }
}
