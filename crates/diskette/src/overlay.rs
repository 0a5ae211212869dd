//! Overlays and what lies below them: brought down, put over another image, changed where they lie.

use std::path::Path;
use std::sync::Arc;

use diskette_convert::{
    Control, ConvertOptions, DifferenceOptions, UpperLayers, convert_into, copy_differences,
};
use diskette_core::{
    BackingImage, BlockReader, BlockWriter, Chain, Error, Format, FormatChoice, OpenOptions,
    Options, OverlayFormat, Result, Storage, StorageMut,
};
use diskette_storage::FileStorageMut;

use crate::registry;
use crate::write::{edit, file_id, refuse_as_target, writable};

/// What an overlay holds, brought down into an image below it: to be described and then run.
///
/// ```no_run
/// diskette::Commit::default().run("overlay.qcow2", &diskette::safe_options())?;
/// # Ok::<(), diskette::core::Error>(())
/// ```
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Commit<'a> {
    /// The image of the chain that is written to, by its name or as the chain names it. `None`: the one right below. All
    /// layers above it are brought down, and the overlay stays as it is.
    pub base: Option<String>,
    /// Whether the overlay stays as it is. Otherwise it is emptied.
    pub keep_overlay: bool,
    /// Threads, progress, cancellation.
    pub control: Control<'a>,
}

/// An overlay put over another image, so that its guest sees no difference: to be described and then run.
///
/// ```no_run
/// use diskette::core::BackingImage;
///
/// let rebase = diskette::Rebase::onto(BackingImage::new("new-base.qcow2", "qcow2"));
/// rebase.run("overlay.qcow2", &diskette::safe_options())?;
/// # Ok::<(), diskette::core::Error>(())
/// ```
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Rebase<'a> {
    /// The image that is to lie below, named as seen from the overlay's folder. `None`: the overlay is to hold all itself.
    pub backing: Option<BackingImage>,
    /// Whether only the name is changed: what the guest sees then is the caller's affair. No other file is opened.
    pub name_only: bool,
    /// Whether what is copied is compressed.
    pub compress: bool,
    /// Progress and cancellation.
    pub control: Control<'a>,
}

/// What an overlay lies over, and is to lie over.
struct Around {
    /// The overlay, and all below it.
    chain: Chain,
    /// All below it, once more.
    below: Option<Chain>,
    new: Option<Chain>,
}

impl Commit<'_> {
    /// Brings it down. A base that is shorter than the overlay grows.
    ///
    /// First the base holds it all, on stable storage; then the overlay is emptied.
    pub fn run(&self, path: impl AsRef<Path>, options: &OpenOptions) -> Result<()> {
        let path = path.as_ref();
        let options = in_hand(options);
        let overlay = lock(path)?;
        let chain = crate::open_with(path, &options)?;
        let count = self.layers_above_base(&chain, path)?;
        let keeps = self.keep_overlay || self.base.is_some();
        let emptied = match keeps {
            true => None,
            false => Some(overlays(registry().get(chain.top().info.format)?)?),
        };
        let base = open_base(&chain, count, &overlay, &options)?;
        self.copy(&chain, count, &*base)?;
        drop(base);
        match emptied {
            Some(format) => format.empty(overlay, &options.context()),
            None => Ok(()),
        }
    }

    fn copy(&self, chain: &Chain, count: usize, base: &dyn BlockWriter) -> Result<()> {
        let old_size = base.size();
        if old_size < chain.size() {
            base.resize(chain.size())?;
        }
        let mut engine = ConvertOptions::default();
        engine.control = self.control;
        engine.backing_size = Some(old_size);
        let above = UpperLayers::new(chain, count, base, old_size);
        convert_into(&above, base, &engine)?;
        base.close()
    }

    /// How many layers lie above the one that is meant.
    fn layers_above_base(&self, chain: &Chain, path: &Path) -> Result<usize> {
        let layers = chain.layers();
        if layers.len() < 2 {
            let what = "backing file of";
            let name = path.display().to_string();
            return Err(Error::NotFound { what, name });
        }
        let Some(base) = &self.base else {
            return Ok(1);
        };
        let beside = path.parent().unwrap_or(Path::new("")).join(base);
        let meant = [file_id(Path::new(base)), file_id(&beside)];
        let found = (1..layers.len()).find(|depth| {
            let named = layers[depth - 1].backing.as_ref();
            let file = layers[*depth].info.files.first();
            let id = file.and_then(|file| file_id(Path::new(file)));
            named.is_some_and(|named| named.target == *base) || id.is_some() && meant.contains(&id)
        });
        found.ok_or_else(|| Error::NotFound {
            what: "image in the backing chain of that name:",
            name: base.clone(),
        })
    }
}

/// The layer below the first `count`, to be written, with what lies below it.
fn open_base(
    chain: &Chain,
    count: usize,
    overlay: &Arc<dyn StorageMut>,
    options: &OpenOptions,
) -> Result<Box<dyn BlockWriter>> {
    let mut from: Arc<dyn Storage> = Arc::clone(overlay) as _;
    let mut named = chain.layers()[..count]
        .iter()
        .filter_map(|layer| layer.backing.as_ref());
    let last = named.next_back();
    for reference in named {
        from = options.files.open(reference, &*from)?;
    }
    let (Some(reference), Some(layer)) = (last, chain.layers().get(count)) else {
        return Err(Error::unsupported(
            "a chain",
            "an image that is named by none",
        ));
    };
    let storage = options.files.open_mut(reference, &*from)?;
    let mut options = options.clone();
    options.format = FormatChoice::Named(layer.info.format.to_owned());
    for _ in 0..count {
        options.format_options = options.format_options.below();
    }
    let below = registry().open_chain(Arc::clone(&storage) as _, &options)?;
    let below = below.into_below().map(|below| Arc::new(below) as _);
    writable(layer.info.format)?.edit(storage, below, &options.context())
}

impl Rebase<'_> {
    /// A change to another image below.
    #[must_use]
    pub fn onto(backing: BackingImage) -> Self {
        Self {
            backing: Some(backing),
            ..Self::default()
        }
    }

    /// A change to no image below.
    #[must_use]
    pub fn onto_nothing() -> Self {
        Self::default()
    }

    /// Changes it. What the new image would show otherwise is copied into the overlay first, and is on stable storage
    /// before the overlay names the new one.
    ///
    /// The new image is opened wherever the name leads, as the caller has given it; what it refers to itself, as `options`
    /// say.
    pub fn run(&self, path: impl AsRef<Path>, options: &OpenOptions) -> Result<()> {
        let path = path.as_ref();
        let options = in_hand(options);
        let overlay = lock(path)?;
        let format = registry().choose(&options.format, &*overlay)?;
        overlays(format)?;
        if let Some(backing) = &self.backing {
            registry().get(&backing.format)?;
        }
        let around = match self.name_only {
            true => None,
            false => Some(Around {
                new: self.open_new(path, &options)?,
                chain: crate::open_with(path, &options)?,
                below: crate::open_with(path, &options)?.into_below(),
            }),
        };
        self.change(overlay, format, around, &options)
    }

    /// First the data, then the name.
    fn change(
        &self,
        overlay: Arc<dyn StorageMut>,
        format: &'static dyn Format,
        around: Option<Around>,
        options: &OpenOptions,
    ) -> Result<()> {
        if let Some(Around { chain, below, new }) = around {
            let below = below.map(|below| Arc::new(below) as _);
            let (target, context) = (Arc::clone(&overlay), options.context());
            let target = overlays(format)?.edit_overlay(target, below, self.compress, &context)?;
            self.copy(&chain, new.as_ref(), &*target)?;
        }
        overlays(format)?.set_backing(overlay, self.backing.as_ref(), &options.context())
    }

    fn copy(&self, chain: &Chain, new: Option<&Chain>, target: &dyn BlockWriter) -> Result<()> {
        let mut options = DifferenceOptions::default();
        options.control = self.control;
        options.shared_depth = new.and_then(|new| shared_depth(chain, new));
        copy_differences(chain, new.map(|new| new as _), target, &options)?;
        target.close()
    }

    fn open_new(&self, path: &Path, options: &OpenOptions) -> Result<Option<Chain>> {
        let Some(backing) = &self.backing else {
            return Ok(None);
        };
        let mut options = options.clone();
        options.format = FormatChoice::Named(backing.format.clone());
        let folder = path.parent().unwrap_or(Path::new(""));
        let new = crate::open_with(folder.join(&backing.target), &options)?;
        let files = new.layers().iter().flat_map(|layer| &layer.info.files);
        refuse_as_target(files.map(String::as_str), path)?;
        Ok(Some(new))
    }
}

/// The depth of the layer of `old` that is the top layer of `new`.
fn shared_depth(old: &Chain, new: &Chain) -> Option<usize> {
    let id_of = |files: &[String]| file_id(Path::new(files.first()?));
    let top = id_of(&new.top().info.files)?;
    let mut layers = old.layers().iter();
    layers.position(|layer| id_of(&layer.info.files) == Some(top))
}

/// Changes options of the image at `path`, as `qemu-img amend` names them. What cannot be changed is refused. By `force`
/// alone the last key of an encrypted image is erased, or one that is in use replaced.
pub fn amend(
    path: impl AsRef<Path>,
    options: &Options,
    force: bool,
    opening: &OpenOptions,
) -> Result<()> {
    let path = path.as_ref();
    let overlay = lock(path)?;
    let format = registry().choose(&opening.format, &*overlay)?;
    let Some(amendable) = format.amendable() else {
        let what = "changing options of an image that exists";
        return Err(Error::unsupported(format.name(), what));
    };
    let size = options.size(format.name(), "size")?;
    let rest = options.iter().filter(|(name, _)| *name != "size");
    amendable.amend(overlay, &rest.collect(), force, &opening.context())?;
    match size {
        Some(size) => {
            let disk = edit(path, opening)?;
            if size < disk.size() {
                let why = "less than the disk has now, which resizing does";
                return Err(Error::invalid_option(format.name(), "size", why));
            }
            disk.resize(size)
        }
        None => Ok(()),
    }
}

/// How images are opened whose files we have locked ourselves.
fn in_hand(options: &OpenOptions) -> OpenOptions {
    let mut options = options.clone();
    options.ignore_locks = true;
    options.containers = false;
    options
}

fn lock(path: &Path) -> Result<Arc<dyn StorageMut>> {
    let file = FileStorageMut::open(path)?;
    file.lock()?;
    Ok(Arc::new(file))
}

fn overlays(format: &'static dyn Format) -> Result<&'static dyn OverlayFormat> {
    let what = "changing what lies below an image";
    let overlays = format.overlays();
    overlays.ok_or_else(|| Error::unsupported(format.name(), what))
}

#[cfg(test)]
mod tests {
    use diskette_core::{BlockReaderExt, NewImage, NoParts, Opened};
    use diskette_storage::MemoryStorage;
    use diskette_testkit::{RecordingStorage, Rng};

    use super::*;

    const SIZE: usize = 300 << 10;

    fn opened(format: &str, bytes: Vec<u8>) -> Opened {
        let mut options = OpenOptions::default();
        options.format = FormatChoice::Named(format.to_owned());
        let storage = Arc::new(MemoryStorage::new(bytes));
        registry().open(storage, &options).unwrap()
    }

    fn raw(byte: u8, len: usize) -> Opened {
        opened("raw", vec![byte; len])
    }

    /// The overlay's disk over the base that it names.
    fn disk(image: Vec<u8>) -> Vec<u8> {
        let top = opened("qcow2", image);
        let below = match top.backing.as_ref().map(|below| below.target.as_str()) {
            Some("old.raw") => Some(raw(1, SIZE / 2)),
            Some(_) => Some(raw(2, SIZE)),
            None => None,
        };
        let mut chain = Chain::new(top);
        if let Some(below) = below {
            chain.push(below).unwrap();
        }
        chain.read_vec(0, SIZE).unwrap()
    }

    #[test]
    fn the_guest_sees_no_difference_wherever_a_rebase_is_cut_off() {
        let format = registry().get("qcow2").unwrap();
        let what = NewImage::new(SIZE as u64)
            .with_option("cluster_size", "4k")
            .with_backing(BackingImage::new("old.raw", "raw"));
        let storage = Arc::new(MemoryStorage::new(Vec::new()));
        let to = Arc::clone(&storage) as Arc<dyn StorageMut>;
        let writer = format.writable().unwrap().create(to, &NoParts, &what);
        writer.unwrap().finish().unwrap();
        let image = storage.to_vec();
        let before = disk(image.clone());

        let new = BackingImage::new("new.raw", "raw");
        for rebase in [Rebase::onto(new), Rebase::onto_nothing()] {
            let overlay = Arc::new(RecordingStorage::new(image.clone()));
            let mut chain = Chain::new(opened("qcow2", image.clone()));
            chain.push(raw(1, SIZE / 2)).unwrap();
            let around = Around {
                chain,
                below: Some(Chain::new(raw(1, SIZE / 2))),
                new: rebase.backing.as_ref().map(|_| Chain::new(raw(2, SIZE))),
            };
            let to = Arc::clone(&overlay) as Arc<dyn StorageMut>;
            let options = OpenOptions::default();
            rebase.change(to, format, Some(around), &options).unwrap();
            let mut rng = Rng::new(3);
            let count = overlay.operations().len();
            for done in 0..=count {
                assert!(disk(overlay.bytes_after(done)) == before, "{done}");
                let torn = overlay.bytes_after_crash(done, &mut rng);
                assert!(disk(torn) == before, "{done} of {count}");
            }
            assert_ne!(
                opened("qcow2", overlay.bytes())
                    .backing
                    .map(|below| below.target),
                Some("old.raw".to_owned())
            );
        }
    }
}
