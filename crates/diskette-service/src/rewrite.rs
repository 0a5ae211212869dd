//! A disk that is read, written anew as an image of the catalog: converted, held against what went by, and recorded.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use diskette::Conversion;
use diskette::core::{BlockReader, Chain, FormatChoice, OpenOptions};
use diskette::engine::{Control, Pieces, Progress, Witness, digest, pieces};
use serde_json::{Value, json};

use crate::api::blocking;
use crate::catalog::{self, Row};
use crate::fault;
use crate::ingest::{MOST_HASHED, Made, check_as_json, hex, info_as_json, sha256_of_file};
use crate::operations::Steering;
use crate::problem::{CORRUPT, Problem, Result};
use crate::state::{App, Shared};
use crate::work;

/// A disk to be written anew.
pub(crate) struct Task {
    pub(crate) app: Shared,
    /// The id of the image that it becomes.
    pub(crate) image: String,
    pub(crate) disk: Chain,
    pub(crate) origin: Origin,
    pub(crate) form: Form,
    pub(crate) steering: Arc<Steering>,
}

/// Where a disk comes from, for the records.
pub(crate) struct Origin {
    pub(crate) format: &'static str,
    pub(crate) sha256: String,
    pub(crate) size: u64,
    /// What the report says was found.
    pub(crate) found: Value,
    /// What the new image does not have any more.
    pub(crate) dropped: Value,
}

/// How it is written.
#[derive(Clone, Debug)]
pub(crate) struct Form {
    pub(crate) format: &'static str,
    /// `zlib` or `zstd`, where it is compressed.
    pub(crate) compress: Option<String>,
    /// Bytes of the disk, where these are to be others.
    pub(crate) size: Option<u64>,
}

/// Makes the image that was announced as `row`. If that fails, its record says why.
pub(crate) async fn into_image(app: &Shared, row: &Row, task: Result<Task>) -> Result<()> {
    let made = match task {
        Ok(task) => blocking(move || task.run()).await,
        Err(problem) => Err(problem),
    };
    let ended = match made {
        Ok(made) => work::finished(app, &row.id, made).await,
        Err(problem) => Err(problem),
    };
    if let Err(problem) = &ended {
        catalog::failed(&app.db, &row.id, "failed", problem).await?;
        let _ = std::fs::remove_file(staged(app, &row.id));
    }
    ended
}

fn staged(app: &App, image: &str) -> PathBuf {
    app.store.staging().join(format!("{image}.rewritten"))
}

impl Task {
    fn run(self) -> Result<Made> {
        let image = |error| fault::of_image(&error);
        let staged = staged(&self.app, &self.image);
        let size = self.disk.size();
        let witness = match size > MOST_HASHED {
            true => Witness::of_pieces(),
            false => Witness::new(),
        };
        let progress = |progress: Progress| self.steering.progress(progress);
        let mut conversion = Conversion::to(self.form.format).synced();
        if let Some(codec) = &self.form.compress {
            conversion = conversion.compressed().option("compression_type", codec);
        }
        conversion.engine.control = self.steering.control(self.app.settings.threads, &progress);
        conversion.engine.witness = Some(&witness);
        conversion.write(&self.disk, &staged).map_err(image)?;
        self.same(&staged, &witness.pieces())?;
        let guest_sha256 = match self.form.size {
            Some(size) => self.resized(&staged, size)?,
            None => {
                let sha256 = witness.sha256(size, &conversion.engine.control);
                sha256.map_err(image)?.map(|sha256| hex(&sha256))
            }
        };
        self.made(&staged, guest_sha256)
    }

    /// That the new image holds what the old one does.
    fn same(&self, staged: &Path, seen: &Pieces) -> Result<()> {
        let image = |error| fault::of_image(&error);
        let new = diskette::open_with(staged, &named(self.form.format)).map_err(image)?;
        let progress = |progress: Progress| self.steering.progress(progress);
        let control = self.steering.control(self.app.settings.threads, &progress);
        match pieces(&new, &control).map_err(image)? == *seen {
            true => Ok(()),
            false => Err(Problem::new(
                CORRUPT,
                "the result does not hold what the source does",
            )),
        }
    }

    /// Gives the new image another size; gives the digest of its disk then.
    fn resized(&self, staged: &Path, size: u64) -> Result<Option<String>> {
        let image = |error| fault::of_image(&error);
        let options = named(self.form.format);
        let edited = diskette::edit(staged, &options).map_err(image)?;
        let resized = edited.resize(size).and_then(|()| edited.flush());
        resized.map_err(image)?;
        drop(edited);
        if size > MOST_HASHED {
            return Ok(None);
        }
        let resized = diskette::open_with(staged, &options).map_err(image)?;
        let progress = |progress: Progress| self.steering.progress(progress);
        let control = self.steering.control(self.app.settings.threads, &progress);
        let digests = digest(&resized, &control).map_err(image)?;
        Ok(Some(hex(&digests.sha256)))
    }

    fn made(&self, staged: &Path, guest_sha256: Option<String>) -> Result<Made> {
        let image = |error| fault::of_image(&error);
        let machine = |error| fault::of_machine("the result", &error);
        let Form {
            format, compress, ..
        } = &self.form;
        std::fs::File::open(staged)
            .and_then(|file| file.sync_all())
            .map_err(machine)?;
        let options = named(format);
        let check = match *format {
            "raw" => Value::Null,
            _ => {
                let (_, report) = diskette::check(staged, &options).map_err(image)?;
                if report.corruptions > 0 {
                    return Err(Problem::new(CORRUPT, "the result is not consistent"));
                }
                check_as_json(&report)
            }
        };
        let new = diskette::inspect(staged, options).map_err(image)?;
        let mut control = Control::default();
        control.cancel = Some(&self.steering.cancel);
        Ok(Made {
            staged: staged.to_owned(),
            sha256: sha256_of_file(staged, &control).map_err(machine)?,
            size: std::fs::metadata(staged).map_err(machine)?.len(),
            format,
            kind: "disk",
            virtual_size: new.info.size,
            source_format: self.origin.format,
            source_sha256: self.origin.sha256.clone(),
            source_size: self.origin.size,
            flags: Vec::new(),
            report: json!({
                "found": self.origin.found,
                "rewritten": { "to": format, "compressed": compress, "image": info_as_json(&new.info) },
                "dropped": self.origin.dropped,
                "verified": { "check": check, "same_guest_data": true, "guest_sha256": guest_sha256 },
            }),
            guest_sha256,
        })
    }
}

fn named(format: &str) -> OpenOptions {
    let mut options = OpenOptions::default();
    options.format = FormatChoice::Named(format.to_owned());
    options.containers = false;
    options
}
