//! New images on the host's disk: whole under their final name, or absent.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::{fs, io};

use diskette_convert::{ConvertOptions, OnePass, convert, convert_into};
use diskette_core::{
    BackingImage, BitmapFormat, BitmapReader, BitmapWriter, BlockReader, BlockWriter, Chain, Error,
    FormatChoice, Measure, NewBitmap, NewImage, OpenOptions, Result, StorageMut, WritableFormat,
};
use diskette_storage::{FileStorageMut, NewFiles, UnsyncedStorage};

use crate::bitmaps::bitmap_format;
use crate::{registry, safe_options};

/// A conversion of a disk into an image, to be described step by step and then run.
///
/// ```no_run
/// # fn main() -> diskette::core::Result<()> {
/// let disk = diskette::open("router.vmdk")?;
/// diskette::Conversion::to("qcow2")
///     .compressed()
///     .option("compression_type", "zstd")
///     .write(&disk, "router.qcow2")?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Conversion<'a> {
    /// The name of the target's format.
    pub format: String,
    /// What the new image is to be. Its size is the source's.
    pub image: NewImage,
    /// How the engine works: threads, progress, sparseness.
    pub engine: ConvertOptions<'a>,
    /// Whether the image is on stable storage before it gets its name.
    pub sync: bool,
    /// Whether the image is sent on to stable storage while it is written, so that little is left to wait for when it is
    /// synced: what [`sync`](Self::sync) does, too.
    pub send_on: bool,
    /// Whether the host is to keep space for all of the image's files, holes in them included: what fixed images are for,
    /// of formats that have no `preallocation`.
    pub reserve: bool,
    /// Files that no part of the image may replace: those that the source is read from.
    pub kept: Vec<String>,
    /// Persistent bitmaps that the image is to have copies of.
    pub bitmaps: Vec<Arc<dyn BitmapReader>>,
}

impl<'a> Conversion<'a> {
    /// A conversion to the format of this name, with its defaults.
    pub fn to(format: impl Into<String>) -> Self {
        Self {
            format: format.into(),
            image: NewImage::default(),
            engine: ConvertOptions::default(),
            sync: false,
            send_on: false,
            reserve: false,
            kept: Vec::new(),
            bitmaps: Vec::new(),
        }
    }

    /// The same, with guest data compressed.
    #[must_use]
    pub fn compressed(mut self) -> Self {
        self.image.compress = true;
        self
    }

    /// The same, with one of the format's options.
    #[must_use]
    pub fn option(mut self, name: &str, value: &str) -> Self {
        self.image.options.set(name, value);
        self
    }

    /// The same, as an overlay on a backing image whose disk has `size` bytes: holes of the source are left out, so
    /// that it shows through. [`TopLayer`](diskette_convert::TopLayer) has the right holes.
    #[must_use]
    pub fn over(mut self, backing: BackingImage, size: u64) -> Self {
        self.image.backing = Some(backing);
        self.engine.backing_size = Some(size);
        self
    }

    /// The same, with the engine's options.
    #[must_use]
    pub fn with_engine(mut self, engine: ConvertOptions<'a>) -> Self {
        let backing_size = self.engine.backing_size;
        self.engine = engine;
        self.engine.backing_size = backing_size;
        self
    }

    /// The same, but that the image is on stable storage before it gets its name.
    #[must_use]
    pub const fn synced(mut self) -> Self {
        self.sync = true;
        self
    }

    /// The same, but that the image is sent on to stable storage while it is written. Whoever asks for it syncs the file.
    #[must_use]
    pub const fn sent_on(mut self) -> Self {
        self.send_on = true;
        self
    }

    /// The same, but that no part of the image replaces a file that one of these is read from; see
    /// [`refuse_source_as_target`] for the image's own file.
    #[must_use]
    pub fn keeping(mut self, sources: &[Chain]) -> Self {
        self.kept
            .extend(files_of(sources).map(host_name).map(str::to_owned));
        self
    }

    /// Writes the image. Under the name `path` there is a whole image afterwards, or what was there before; the
    /// other files of an image that takes several appear beside it.
    pub fn write(&self, source: &dyn BlockReader, path: impl AsRef<Path>) -> Result<()> {
        self.write_uncommitted(source, path, &self.engine)?
            .commit(self.sync)
    }

    /// The same, from a disk that can be read only once. What the stream is found to be at its end decides whether the
    /// image gets its name.
    pub fn write_one_pass(&self, source: OnePass, path: impl AsRef<Path>) -> Result<()> {
        let mut engine = self.engine;
        engine.single_pass = true;
        let files = self.write_uncommitted(&source, path, &engine)?;
        source.finish()?;
        files.commit(self.sync)
    }

    fn write_uncommitted(
        &self,
        source: &dyn BlockReader,
        path: impl AsRef<Path>,
        engine: &ConvertOptions<'_>,
    ) -> Result<NewFiles> {
        let mut image = self.image.clone();
        image.size = source.size();
        let format = writable(&self.format)?;
        let files = NewFiles::create(path)?.keeping(&self.kept);
        let files = match self.sync || self.send_on {
            true => files.sent_on(),
            false => files,
        };
        let writer = format.create(files.storage(), &files, &image)?;
        convert(source, writer, engine)?;
        self.add_bitmaps(|format| {
            let options = safe_options();
            let mut context = options.context();
            context.secrets = &image.secrets;
            context.options = &image.options;
            format.edit_bitmaps(files.storage(), &context)
        })?;
        if self.reserve {
            files.reserve()?;
        }
        Ok(files)
    }

    /// Adds copies of the bitmaps to an image that is whole otherwise.
    fn add_bitmaps(
        &self,
        edit: impl FnOnce(&dyn BitmapFormat) -> Result<Box<dyn BitmapWriter>>,
    ) -> Result<()> {
        if self.bitmaps.is_empty() {
            return Ok(());
        }
        let bitmaps = edit(bitmap_format(registry().get(&self.format)?)?)?;
        for from in &self.bitmaps {
            let known = from.info();
            let mut copy = NewBitmap::named(&known.name);
            copy.granularity = Some(known.granularity);
            copy.enabled = known.enabled;
            bitmaps.add(&copy)?;
            bitmaps.merge(&known.name, &**from)?;
        }
        Ok(())
    }

    /// Writes into the image at `path`, which is there already. What its disk has beyond the source's stays.
    pub fn write_into(
        &self,
        source: &dyn BlockReader,
        path: impl AsRef<Path>,
        options: &OpenOptions,
    ) -> Result<()> {
        let target = editor(
            path.as_ref(),
            writable(&self.format)?,
            options,
            |file| match self.sync {
                true => Arc::new(file),
                false => Arc::new(UnsyncedStorage::new(file)),
            },
        )?;
        convert_into(source, &*target, &self.engine)?;
        target.close()?;
        drop(target);
        let mut named = options.clone();
        named.format = FormatChoice::Named(self.format.clone());
        self.add_bitmaps(|_| crate::edit_bitmaps(path.as_ref(), &named))
    }
}

/// The disk that the image at `path` holds, to be written anywhere, with what lies below it. No other program may write
/// the image meanwhile; QEMU's keep to that.
pub fn edit(path: impl AsRef<Path>, options: &OpenOptions) -> Result<Box<dyn BlockWriter>> {
    let path = path.as_ref();
    let format = registry().choose(&options.format, &FileStorageMut::open(path)?)?;
    editor(path, writable(format.name())?, options, |file| {
        Arc::new(file)
    })
}

fn editor(
    path: &Path,
    format: &dyn WritableFormat,
    options: &OpenOptions,
    storage: impl FnOnce(FileStorageMut) -> Arc<dyn StorageMut>,
) -> Result<Box<dyn BlockWriter>> {
    let file = FileStorageMut::open(path)?;
    file.lock()?;
    let mut reading = options.clone();
    reading.ignore_locks = true; // The lock is our own.
    reading.containers = false;
    let below = crate::open_with(path, &reading)?.into_below();
    let below = below.map(|below| Arc::new(below) as _);
    format.edit(storage(file), below, &options.context())
}

/// Makes a new image without data at `path`. What was there before is replaced when the image is whole.
pub fn create(path: impl AsRef<Path>, format: &str, image: &NewImage) -> Result<()> {
    let format = writable(format)?;
    let files = NewFiles::create(path)?;
    format.create(files.storage(), &files, image)?.finish()?;
    files.commit(false)
}

/// How large an image will be that holds `source`, or a disk without data of `image.size` bytes.
pub fn measure(
    format: &str,
    mut image: NewImage,
    source: Option<&dyn BlockReader>,
) -> Result<Measure> {
    let format = writable(format)?;
    let data = match source {
        Some(source) => {
            image.size = source.size();
            diskette_convert::data_len(source, format.granule_size(&image)?)?
        }
        None => 0,
    };
    format.measure(&image, data)
}

/// How the format of this name is written.
pub fn writable(format: &str) -> Result<&'static dyn WritableFormat> {
    let format = registry().get(format)?;
    format
        .writable()
        .ok_or_else(|| Error::unsupported(format.name(), "writing"))
}

/// That `target` is none of the files that the sources are read from.
pub fn refuse_source_as_target(sources: &[Chain], target: impl AsRef<Path>) -> Result<()> {
    refuse_as_target(files_of(sources), target.as_ref())
}

fn files_of(sources: &[Chain]) -> impl Iterator<Item = &str> {
    let layers = sources.iter().flat_map(Chain::layers);
    let files = layers.flat_map(|layer| &layer.info.files);
    files.map(String::as_str)
}

/// That `target` is none of these files.
pub(crate) fn refuse_as_target<'a>(
    mut files: impl Iterator<Item = &'a str>,
    target: &Path,
) -> Result<()> {
    let Some(target_id) = file_id(target) else {
        return Ok(());
    };
    match files.find(|file| host_file_id(file) == Some(target_id)) {
        Some(_) => Err(Error::File {
            op: "write to",
            path: target.display().to_string(),
            source: io::Error::other("it is one of the files that are read"),
        }),
        None => Ok(()),
    }
}

/// The same of a file that may be a part of another: `machine.ova#disk.vmdk`.
fn host_file_id(name: &str) -> Option<(u64, u64)> {
    file_id(Path::new(host_name(name)))
}

/// The file of the host that a file is, or lies in.
fn host_name(name: &str) -> &str {
    let mut wholes = name.rmatch_indices('#').map(|(at, _)| &name[..at]);
    match file_id(Path::new(name)) {
        Some(_) => name,
        None => wholes
            .find(|whole| file_id(Path::new(whole)).is_some())
            .unwrap_or(name),
    }
}

/// What tells one file of the host from all others, whatever names it has.
pub(crate) fn file_id(path: &Path) -> Option<(u64, u64)> {
    let facts = fs::metadata(path).ok()?;
    Some((facts.dev(), facts.ino()))
}
