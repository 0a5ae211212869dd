//! Disks as an appliance: an OVA, for VMware's and VirtualBox's importers.

use std::path::Path;

use diskette_convert::{ConvertOptions, convert};
use diskette_core::{BlockReader, NewImage, OptionSpec, Options, Result, SequentialFormat};
use diskette_storage::{Machine, NewFiles, NewOva};
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
        for disk in disks {
            let file = ova.begin_disk()?;
            let mut image = NewImage::new(disk.size());
            if let Some(level) = self.options.text("compression_level") {
                image = image.with_option("compression_level", level);
            }
            let writer = Vmdk.create_in_order(file.storage(), &image, None)?;
            convert(*disk, writer, &self.engine)?;
            ova.end_disk(&file)?;
        }
        ova.finish()?;
        files.commit(self.sync)
    }
}
