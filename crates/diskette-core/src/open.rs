//! From a storage to an image, or to a chain of them: the only loop that follows backing files.

use std::sync::Arc;

use crate::{
    Chain, Ends, Error, Format, Identity, Limits, Match, NoReferences, OpenContext, Opened,
    Options, Reference, Resolver, Result, Secrets, Storage, StorageExt,
};

/// The formats that a program knows, in the order in which they are asked.
#[derive(Clone, Debug)]
pub struct Registry {
    formats: Vec<&'static dyn Format>,
}

/// How an image's format is settled. Complete by nature.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FormatChoice {
    /// It is this one.
    Named(String),
    /// By the file's first and last bytes. A guest that owns a raw disk can make it look like any format: name `raw`
    /// where that is what it is.
    Probe,
}

/// How images are opened.
///
/// By default the top image's format is probed, no other file is opened, and a backing image whose format is not named
/// is refused.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct OpenOptions {
    /// The format of the top image.
    pub format: FormatChoice,
    /// Opens the files that images name, or refuses.
    pub files: Arc<dyn Resolver>,
    /// Budgets.
    pub limits: Limits,
    /// Whether the format of a backing image may be probed where the overlay does not name it.
    pub probe_backing: bool,
    /// Whether a backing image is taken although it is not the one that the overlay was made over.
    pub ignore_identity: bool,
    /// The format's own options for opening, as qemu-img names them (`force_size_calc`).
    pub format_options: Options,
    /// What opens encrypted images; options name them by their ids.
    pub secrets: Secrets,
    /// An internal snapshot of the top image, by id or name, instead of its present state.
    pub snapshot: Option<String>,
    /// Whether a file is read although another program writes it. For whoever opens the file that holds the top image.
    pub ignore_locks: bool,
    /// Whether a container of images (an OVA) is looked into for the top image, and a compressed file is unpacked. For
    /// whoever opens the file that holds it. A file whose format is named raw is taken for what it is: its guest may have
    /// written it.
    pub containers: bool,
    /// Which disk of a container is the top image: by the name of its file, by its identifier, or by its number from 0.
    /// Where there is but one it need not be said.
    pub disk: Option<String>,
    /// Whether the digests in a container's manifest must be right, which costs a read of all of it.
    pub verify_manifest: bool,
    /// See [`OpenContext::salvage`].
    pub salvage: bool,
    /// See [`OpenContext::metadata_only`].
    pub metadata_only: bool,
}

impl Default for OpenOptions {
    fn default() -> Self {
        Self {
            format: FormatChoice::Probe,
            files: Arc::new(NoReferences),
            limits: Limits::default(),
            probe_backing: false,
            ignore_identity: false,
            format_options: Options::new(),
            secrets: Secrets::default(),
            snapshot: None,
            ignore_locks: false,
            containers: true,
            disk: None,
            verify_manifest: false,
            salvage: false,
            metadata_only: false,
        }
    }
}

impl OpenOptions {
    /// What formats are handed when they open an image.
    #[must_use]
    pub fn context(&self) -> OpenContext<'_> {
        OpenContext {
            files: &*self.files,
            limits: &self.limits,
            options: &self.format_options,
            secrets: &self.secrets,
            salvage: self.salvage,
            metadata_only: self.metadata_only,
        }
    }
}

impl Registry {
    /// A registry of these formats.
    #[must_use]
    pub const fn new(formats: Vec<&'static dyn Format>) -> Self {
        Self { formats }
    }

    /// The formats, in the order in which they are asked.
    #[must_use]
    pub fn formats(&self) -> &[&'static dyn Format] {
        &self.formats
    }

    /// The format of this name.
    pub fn get(&self, name: &str) -> Result<&'static dyn Format> {
        let found = self
            .formats
            .iter()
            .copied()
            .find(|format| format.name() == name);
        found.ok_or_else(|| Error::UnknownFormat {
            name: name.to_owned(),
        })
    }

    /// The format of a file, by its first and last bytes. A file with the signatures of two formats is refused.
    pub fn probe(&self, storage: &dyn Storage) -> Result<&'static dyn Format> {
        let size = storage.total_size()?;
        let head = storage.read_vec(clamped(size, Ends::HEAD), 0)?;
        let tail_len = clamped(size, Ends::TAIL);
        let tail = storage.read_vec(tail_len, size - tail_len as u64)?;
        let ends = Ends {
            head: &head,
            tail: &tail,
            size,
        };
        self.probe_ends(&ends, storage.name())
    }

    /// The same, of a file with these ends; `name` is for messages.
    pub fn probe_ends(&self, ends: &Ends<'_>, name: &str) -> Result<&'static dyn Format> {
        let mut best: Option<(Match, &'static dyn Format)> = None;
        for &format in &self.formats {
            let sure = format.probe(ends);
            match best {
                Some((Match::Sure, first)) if sure == Match::Sure => {
                    return Err(Error::Ambiguous {
                        storage: name.to_owned(),
                        first: first.name(),
                        second: format.name(),
                    });
                }
                Some((so_far, _)) if sure <= so_far => {}
                _ if sure == Match::No => {}
                _ => best = Some((sure, format)),
            }
        }
        best.map(|(_, format)| format)
            .ok_or_else(|| Error::UnknownFormat {
                name: name.to_owned(),
            })
    }

    /// The format that `choice` settles for `storage`.
    pub fn choose(
        &self,
        choice: &FormatChoice,
        storage: &dyn Storage,
    ) -> Result<&'static dyn Format> {
        match choice {
            FormatChoice::Named(name) => self.get(name),
            FormatChoice::Probe => self.probe(storage),
        }
    }

    /// One image. Its backing image is only named.
    pub fn open(&self, storage: Arc<dyn Storage>, options: &OpenOptions) -> Result<Opened> {
        let format = self.choose(&options.format, &*storage)?;
        let mut options = options.clone();
        options.limits = options.limits.for_chain();
        let Some(snapshot) = &options.snapshot else {
            return open_as(format, storage, &options);
        };
        let Some(snapshots) = format.snapshots() else {
            return Err(Error::unsupported(
                format.name(),
                "reading an internal snapshot",
            ));
        };
        let name = storage.name().to_owned();
        Ok(with_name(
            snapshots.open_snapshot(storage, snapshot, &options.context())?,
            name,
        ))
    }

    /// An image, and all that lie below it.
    pub fn open_chain(&self, storage: Arc<dyn Storage>, options: &OpenOptions) -> Result<Chain> {
        let mut from = Arc::clone(&storage);
        let mut seen = vec![storage.name().to_owned()];
        let mut options = options.clone();
        options.limits = options.limits.for_chain();
        let mut chain = Chain::new(self.open(storage, &options)?);
        while let Some(reference) = chain.lowest().backing.clone() {
            options.limits.allow_layers(seen.len() as u64 + 1)?;
            options.format_options = options.format_options.below();
            let storage = options.files.open(&reference, &*from)?;
            if seen.iter().any(|name| name == storage.name()) {
                return Err(reference
                    .refused("the chain leads back to an image that is already part of it"));
            }
            let image = self.open_backing(
                Arc::clone(&storage),
                &reference,
                chain.lowest().info.format,
                &options,
            )?;
            seen.push(storage.name().to_owned());
            from = storage;
            chain.push(image)?;
        }
        Ok(chain)
    }

    /// The image that `reference` of an overlay in format `overlay` leads to: `storage` is that file.
    pub fn open_backing(
        &self,
        storage: Arc<dyn Storage>,
        reference: &Reference,
        overlay: &'static str,
        options: &OpenOptions,
    ) -> Result<Opened> {
        let format = match &reference.format {
            Some(name) => self.get(name)?,
            None if options.probe_backing => self.probe(&*storage)?,
            None => {
                return Err(Error::UnnamedFormat {
                    role: reference.role,
                    target: reference.target.clone(),
                });
            }
        };
        let image = open_as(format, storage, options)?;
        if !options.ignore_identity {
            check_identity(reference, &image, overlay)?;
        }
        Ok(image)
    }
}

fn open_as(
    format: &'static dyn Format,
    storage: Arc<dyn Storage>,
    options: &OpenOptions,
) -> Result<Opened> {
    let name = storage.name().to_owned();
    let image = format.open(storage, &options.context())?;
    options.limits.allow_disk(image.info.size)?;
    Ok(with_name(image, name))
}

/// An image of one file need not list it.
fn with_name(mut image: Opened, name: String) -> Opened {
    if image.info.files.is_empty() {
        image.info.files.push(name);
    }
    image
}

/// That the backing image is the one the overlay was made over. Of several values of one kind any will do.
fn check_identity(reference: &Reference, image: &Opened, overlay: &'static str) -> Result<()> {
    for expected in &reference.identity {
        let same_kind = |found: &&Identity| found.kind == expected.kind;
        let mut found = image.info.identity.iter().filter(same_kind).peekable();
        let Some(first) = found.peek().copied() else {
            continue;
        };
        if !found.any(|found| reference.identity.contains(found)) {
            return Err(Error::WrongBacking {
                format: overlay,
                what: expected.kind,
                expected: expected.value.clone(),
                found: first.value.clone(),
            });
        }
    }
    Ok(())
}

fn clamped(size: u64, most: usize) -> usize {
    usize::try_from(size).unwrap_or(usize::MAX).min(most)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{BlockReader, Extent, ImageInfo, Role};

    #[derive(Debug)]
    struct Empty;

    impl BlockReader for Empty {
        fn size(&self) -> u64 {
            0
        }

        fn extent_at(&self, offset: u64) -> Result<Extent> {
            Err(Error::OutOfRange {
                offset,
                len: 1,
                size: 0,
            })
        }

        fn read_extent(&self, _extent: &Extent, _buf: &mut [u8], _offset: u64) -> Result<()> {
            Ok(())
        }
    }

    fn identity(kind: &'static str, value: &str) -> Identity {
        Identity {
            kind,
            value: value.to_owned(),
        }
    }

    fn image() -> Opened {
        let mut info = ImageInfo::new("test", 0);
        info.identity = vec![identity("UUID", "a"), identity("CID", "1")];
        Opened {
            reader: Box::new(Empty),
            info,
            backing: None,
        }
    }

    fn is_taken(expected: &[(&'static str, &str)]) -> bool {
        let reference = expected
            .iter()
            .map(|(kind, value)| identity(kind, value))
            .fold(
                Reference::new(Role::Backing, "base"),
                Reference::with_identity,
            );
        check_identity(&reference, &image(), "test").is_ok()
    }

    #[test]
    fn a_backing_image_must_be_right_in_every_kind_of_identity() {
        assert!(is_taken(&[]));
        assert!(is_taken(&[("UUID", "a"), ("CID", "1")]));
        assert!(!is_taken(&[("UUID", "a"), ("CID", "2")]));
        assert!(is_taken(&[("UUID", "a"), ("colour", "red")]));
    }

    #[test]
    fn of_several_values_of_one_kind_any_will_do() {
        assert!(is_taken(&[("UUID", "b"), ("UUID", "a")]));
        assert!(!is_taken(&[("UUID", "b"), ("UUID", "c")]));
    }
}
