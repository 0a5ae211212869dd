//! New images that go into a pipe or an object store: from their first byte to their last.

use std::io::{self, Write};
use std::ops::Range;
use std::sync::Arc;

use diskette_convert::{ConvertOptions, OnePass, convert};
use diskette_core::{
    BlockReader, BlockReaderExt, Error, ImageWriter, NewImage, NoParts, Result, SequentialFormat,
};
use diskette_storage::{OutgoingSpool, SequentialStorage};

use crate::write::writable;
use crate::{Conversion, registry};

impl Conversion<'_> {
    /// Writes the image from its first byte to its last, passing these on `to` a pipe or the like; error messages call it
    /// `name`.
    ///
    /// Where its tables need to know how long compressed data become, the source is gone through twice. An image that cannot
    /// be written in order at all is kept in an unnamed file until it is whole; `keeping` is called before.
    pub fn write_into_stream(
        &self,
        source: &dyn BlockReader,
        name: &str,
        to: Box<dyn Write + Send>,
        keeping: &dyn Fn(),
    ) -> Result<()> {
        let to = Arc::new(SequentialStorage::new(name, to));
        match self.begin_after_rehearsal(source, &to) {
            Ok(writer) => convert(source, writer, &self.engine)?,
            Err(Error::Unsupported { .. }) => {
                keeping();
                self.write_spooled(source, &to, &self.engine)?
                    .pass_on(&mut Onward(&to, 0))?;
            }
            Err(error) => return Err(error),
        }
        to.finish().map(|_| ())
    }

    /// The same, from a disk that can be read only once.
    pub fn write_one_pass_into_stream(
        &self,
        source: OnePass,
        name: &str,
        to: Box<dyn Write + Send>,
        keeping: &dyn Fn(),
    ) -> Result<()> {
        let mut engine = self.engine;
        engine.single_pass = true;
        let to = Arc::new(SequentialStorage::new(name, to));
        let image = self.image_of(&source);
        match begin(&self.format, &to, &image, None) {
            Ok(writer) => {
                convert(&source, writer, &engine)?;
                source.finish()?;
            }
            Err(Error::Unsupported { .. }) => {
                keeping();
                let spool = self.write_spooled(&source, &to, &engine)?;
                source.finish()?;
                spool.pass_on(&mut Onward(&to, 0))?;
            }
            Err(error) => return Err(error),
        }
        to.finish().map(|_| ())
    }

    /// Begins an image that is written in order, once all is known of the source that it takes.
    fn begin_after_rehearsal(
        &self,
        source: &dyn BlockReader,
        to: &Arc<SequentialStorage>,
    ) -> Result<Box<dyn ImageWriter>> {
        let image = self.image_of(source);
        let nowhere = Arc::new(SequentialStorage::new("nowhere", Box::new(io::sink())));
        if let Some(mut rehearsal) = sequential(&self.format)?.rehearse(&image, nowhere)? {
            let mut engine = self.engine;
            engine.digests = None;
            convert(source, rehearsal.writer(), &engine)?;
            return rehearsal.perform(Arc::<SequentialStorage>::clone(to));
        }
        let data = match self.engine.sparse_size {
            0 => std::iter::once(0..source.size()).collect(),
            _ => data_ranges(source)?,
        };
        begin(&self.format, to, &image, Some(&data))
    }

    fn write_spooled(
        &self,
        source: &dyn BlockReader,
        to: &SequentialStorage,
        engine: &ConvertOptions<'_>,
    ) -> Result<OutgoingSpool> {
        let spool = OutgoingSpool::new(diskette_core::Storage::name(to))?;
        let image = self.image_of(source);
        let writer = writable(&self.format)?.create(spool.storage(), &NoParts, &image)?;
        convert(source, writer, engine)?;
        Ok(spool)
    }

    fn image_of(&self, source: &dyn BlockReader) -> NewImage {
        let mut image = self.image.clone();
        image.size = source.size();
        image
    }
}

/// Begins an image that is written in order; where that cannot be, nothing has been written.
fn begin(
    format: &str,
    to: &Arc<SequentialStorage>,
    image: &NewImage,
    data: Option<&[Range<u64>]>,
) -> Result<Box<dyn ImageWriter>> {
    sequential(format)?.create_in_order(Arc::<SequentialStorage>::clone(to), image, data)
}

/// How an image of the format of this name is written from its first byte to its last.
fn sequential(format: &str) -> Result<&'static dyn SequentialFormat> {
    let name = registry().get(format)?.name();
    let mut known = SEQUENTIAL.iter();
    let found = known.find(|(known, _)| *known == name);
    let found = found.map(|(_, format)| *format);
    found.ok_or_else(|| Error::unsupported(name, "writing into a stream"))
}

/// The formats that can be written so, by their names.
static SEQUENTIAL: &[(&str, &dyn SequentialFormat)] = &[
    ("raw", &diskette_raw::Raw),
    ("vmdk", &diskette_vmdk::Vmdk),
    ("qcow2", &diskette_qcow2::Qcow2),
];

/// The ranges outside of which a disk holds zeros, by its map.
fn data_ranges(disk: &dyn BlockReader) -> Result<Vec<Range<u64>>> {
    let mut ranges: Vec<Range<u64>> = Vec::new();
    for extent in disk.extents() {
        let extent = extent?;
        if extent.kind.reads_as_zeros() {
            continue;
        }
        match ranges.last_mut() {
            Some(last) if last.end == extent.offset => last.end = extent.end(),
            _ => ranges.push(extent.offset..extent.end()),
        }
    }
    Ok(ranges)
}

/// Bytes that go on into a storage, from the place on that is noted down.
struct Onward<'a>(&'a SequentialStorage, u64);

impl Write for Onward<'_> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        diskette_core::StorageMut::write_at(self.0, buf, self.1)?;
        self.1 += buf.len() as u64;
        Ok(buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
