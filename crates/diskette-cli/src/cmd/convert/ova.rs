//! `diskette convert -O ova`: each source becomes a disk of a machine.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use diskette::Appliance;
use diskette::core::BlockReader;
use diskette::engine::PassingDigests;

use super::{Convert, Source};
use crate::failure::{Failure, Outcome};
use crate::sink::{self, Sink};
use crate::{pipes, progress};

/// The name by which it is asked for. It is no format of images.
pub(super) const NAME: &str = "ova";

impl Convert {
    pub(super) fn write_ova(&self, sources: &[PathBuf], target: &Path) -> Outcome {
        self.refuse_with_ova(target)?;
        let chains = match self.open_source_to_keep(sources, target)? {
            Source::Chains(chains) => chains,
            Source::OnePass(_) | Source::Piped(_) => Vec::new(), // These are not to be kept.
        };
        let disks: Vec<&dyn BlockReader> = chains.iter().map(|chain| chain as _).collect();
        let wanted = self.work.progress && !self.quiet;
        let progress = match pipes::is_output(target) {
            true => progress::Meter::beside(wanted),
            false => progress::Meter::new(wanted),
        };
        let tell = |at| progress.tell(at);
        let mut appliance = Appliance::default();
        appliance.options = self.options.parse()?.into_options();
        let digests = PassingDigests::new();
        appliance.engine = self.engine(&tell, &digests);
        appliance.sync = self.target_cache != "unsafe";
        let done = match sink::is_sink(target) {
            true => write_into_stream(&appliance, &disks, target),
            false => appliance.write(&disks, target).map_err(Failure::from),
        };
        match &done {
            Ok(()) => progress.complete(),
            Err(_) => progress.end(),
        }
        done?;
        if self.verify {
            self.expect_equal_disks(&disks, target)?;
        }
        for (source, digest) in sources.iter().zip(digests.take()) {
            self.print_digest(source, digest, target)?;
        }
        Ok(ExitCode::SUCCESS)
    }

    /// That each disk of the OVA reads as its source, and that its files are those in its manifest.
    fn expect_equal_disks(&self, disks: &[&dyn BlockReader], target: &Path) -> Result<(), Failure> {
        for (number, disk) in disks.iter().enumerate() {
            let mut options = self.opening.options(None)?;
            options.disk = Some(number.to_string());
            options.verify_manifest = number == 0;
            let written = diskette::open_with(target, &options)?;
            self.expect_same(
                *disk,
                &written,
                &format!("disk {number} of '{}'", target.display()),
            )?;
        }
        Ok(())
    }

    fn refuse_with_ova(&self, target: &Path) -> Result<(), Failure> {
        let why = match () {
            () if pipes::is_output(target) && self.verify => {
                "--verify needs a target that can be read, and a pipe cannot"
            }
            () if self.no_create => "-n: an OVA is made anew",
            () if self.backing.is_some() => "-B: a disk in an OVA has no backing image",
            () => return Ok(()),
        };
        Err(Failure::new(why))
    }

    /// Sources that are read in any order.
    fn open_source_to_keep(&self, sources: &[PathBuf], target: &Path) -> Result<Source, Failure> {
        if let [only] = sources {
            let (path, options) = self.opening(only)?;
            if let Some(pipe) = pipes::input(&path)? {
                return self.receive(pipe, &options, false);
            }
        }
        self.open_chains(sources, target).map(Source::Chains)
    }
}

/// Into a pipe, or into an object.
fn write_into_stream(
    appliance: &Appliance<'_>,
    disks: &[&dyn BlockReader],
    target: &Path,
) -> Result<(), Failure> {
    let sink = Sink::open(target, disks.iter().map(|disk| disk.size()).sum())?;
    let stem = target.file_stem().and_then(|stem| stem.to_str());
    let machine = stem
        .filter(|_| sink::is_object(target))
        .unwrap_or("machine");
    appliance.write_into_stream(disks, machine, &sink.name, sink.writer()?)?;
    sink.finish()
}
