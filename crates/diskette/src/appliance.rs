//! Disks as an appliance: an OVA, for VMware's and VirtualBox's importers.

use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;

use diskette_convert::{ConvertOptions, convert};
use diskette_core::{
    BlockReader, NewImage, OptionSpec, Options, Result, SequentialFormat, StorageMut,
};
use diskette_storage::{Machine, NewFiles, NewOva, SequentialStorage};
use diskette_vmdk::Vmdk;

/// Disks that are to be made into an OVA, and the machine that it describes.
///
/// ```no_run
/// # fn main() -> diskette::core::Result<()> {
/// let disk = diskette::open("router.qcow2")?;
/// let mut appliance = diskette::Appliance::default();
/// appliance.options.set("memory", "4G");
/// appliance.write(&[&disk], "router.ova")?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Appliance<'a> {
    /// The machine, by [`Appliance::options`].
    pub options: Options,
    /// How the engine works: threads, progress, sparseness.
    pub engine: ConvertOptions<'a>,
    /// Whether the file is on stable storage before it gets its name.
    pub sync: bool,
}

impl Appliance<'_> {
    /// The options by which the machine is described.
    #[must_use]
    pub const fn options() -> &'static [OptionSpec] {
        Machine::options()
    }

    /// Writes the OVA. Under the name `path` there is a whole one afterwards, or what was there before.
    pub fn write(&self, disks: &[&dyn BlockReader], path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        let name = path.file_stem().and_then(|stem| stem.to_str());
        let machine = Machine::new(&self.options, name.unwrap_or("machine"))?;
        let files = NewFiles::create(path)?;
        let sizes: Vec<u64> = disks.iter().map(|disk| disk.size()).collect();
        let mut ova = NewOva::create(files.storage(), machine, &sizes)?;
        self.add_disks(&mut ova, disks)?;
        ova.finish()?;
        files.commit(self.sync)
    }

    /// Writes the OVA from its first byte to its last, passing these on `to` a pipe or the like, which error messages call
    /// `name`; `machine` is called so where the options do not say it. An OVA begins with the lengths of what follows: each
    /// disk is compressed twice.
    pub fn write_into_stream(
        &self,
        disks: &[&dyn BlockReader],
        machine: &str,
        name: &str,
        to: Box<dyn Write + Send>,
    ) -> Result<()> {
        let machine = Machine::new(&self.options, machine)?;
        let sizes: Vec<u64> = disks.iter().map(|disk| disk.size()).collect();
        let lengths: Result<Vec<u64>> = disks.iter().map(|disk| self.file_len(*disk)).collect();
        let to = Arc::new(SequentialStorage::new(name, to));
        let storage = Arc::<SequentialStorage>::clone(&to);
        let mut ova = NewOva::create_in_order(storage, machine, &sizes, &lengths?)?;
        self.add_disks(&mut ova, disks)?;
        ova.finish()?;
        to.finish().map(|_| ())
    }

    fn add_disks(&self, ova: &mut NewOva, disks: &[&dyn BlockReader]) -> Result<()> {
        for disk in disks {
            let file = ova.begin_disk()?;
            self.write_disk(*disk, file.storage(), &self.engine)?;
            ova.end_disk(&file)?;
        }
        Ok(())
    }

    /// How long a disk's file will be.
    fn file_len(&self, disk: &dyn BlockReader) -> Result<u64> {
        let mut engine = self.engine;
        engine.digests = None;
        let nowhere = Arc::new(SequentialStorage::new("nowhere", Box::new(io::sink())));
        let storage = Arc::<SequentialStorage>::clone(&nowhere);
        self.write_disk(disk, storage, &engine)?;
        nowhere.finish()
    }

    fn write_disk(
        &self,
        disk: &dyn BlockReader,
        to: Arc<dyn StorageMut>,
        engine: &ConvertOptions<'_>,
    ) -> Result<()> {
        let mut image = NewImage::new(disk.size());
        if let Some(level) = self.options.text("compression_level") {
            image = image.with_option("compression_level", level);
        }
        convert(disk, Vmdk.create_in_order(to, &image, None)?, engine)
    }
}
