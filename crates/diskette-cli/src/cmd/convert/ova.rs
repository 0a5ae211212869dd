//! `diskette convert -O ova`: each source becomes a disk of a machine.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use diskette::Appliance;
use diskette::core::BlockReader;

use super::{Convert, Source};
use crate::failure::{Failure, Outcome};
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
        let progress = progress::Meter::new(self.work.progress && !self.quiet);
        let tell = |at| progress.tell(at);
        let mut appliance = Appliance::default();
        appliance.options = self.options.parse()?.into_options();
        appliance.engine = self.engine(&tell);
        appliance.sync = self.target_cache != "unsafe";
        let done = appliance.write(&disks, target);
        match &done {
            Ok(()) => progress.complete(),
            Err(_) => progress.end(),
        }
        done?;
        Ok(ExitCode::SUCCESS)
    }

    fn refuse_with_ova(&self, target: &Path) -> Result<(), Failure> {
        let why = match () {
            () if pipes::is_output(target) => {
                "an OVA goes into a file: it begins with the sizes of what follows"
            }
            () if self.no_create => "-n: an OVA is made anew",
            () if self.backing.is_some() => "-B: a disk in an OVA has no backing image",
            () if self.verify => {
                "--verify: not with -O ova; 'info --verify-manifest' holds an OVA against its digests"
            }
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
