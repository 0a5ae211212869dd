//! What can be done with an image that is ready. What changes its bytes makes a new version: the old one stays as it is,
//! for whatever lies over it; names and aliases stand for the new one.

use std::path::Path;
use std::sync::Arc;

use diskette::Conversion;
use diskette::core::{BlockReader, OpenOptions, parse_size};
use diskette::engine::{Progress, Witness, pieces};
use serde::Deserialize;
use serde_json::{Value, json};
use utoipa::ToSchema;

use crate::api::{Stored, blocking};
use crate::catalog::{self, New, Row};
use crate::fault;
use crate::ingest::{MOST_HASHED, Made, Wanted, check_as_json, hex, info_as_json, sha256_of_file};
use crate::operations::Steering;
use crate::problem::{CORRUPT, Problem, Result, UNSUPPORTED_FORMAT, VIRTUAL_SIZE_TOO_LARGE};
use crate::state::{App, Shared};
use crate::work;

/// How an image is to be rewritten.
#[derive(Clone, Debug, Default, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Rewrite {
    /// `zlib` or `zstd`: the new version is compressed.
    pub(crate) compress: Option<String>,
    /// For `convert`: the format in which the new version is stored.
    pub(crate) format: Option<String>,
    /// For `resize`: the disk's new size, such as `20G`, or `+5G`.
    pub(crate) size: Option<String>,
    /// For `resize`: whether the disk may become smaller, and lose what lies behind.
    pub(crate) shrink: bool,
}

/// A new version of an image, rewritten.
pub(crate) async fn rewritten(
    app: Shared,
    row: Row,
    kind: &'static str,
    wanted: Rewrite,
    steering: Arc<Steering>,
) -> Result<Value> {
    let stored = Stored::of(&app, &row)?;
    let size = new_size(&app, &row, kind, &wanted)?;
    let next = announce(&app, &row, kind).await?;
    let task = Task {
        app: Arc::clone(&app),
        stored,
        row: next.clone(),
        source: row.clone(),
        wanted,
        size,
        steering,
    };
    let made = blocking(move || task.run()).await;
    let ended = match made {
        Ok(made) => work::finished(&app, &next.id, made).await,
        Err(problem) => Err(problem),
    };
    if let Err(problem) = ended {
        catalog::failed(&app.db, &next.id, "failed", &problem).await?;
        let _ = std::fs::remove_file(staged(&app, &next));
        return Err(problem);
    }
    move_aliases(&app, &row.id, &next.id).await?;
    let old = row.stored_size;
    let new: Option<i64> = sqlx::query_scalar("SELECT stored_size FROM images WHERE id = ?")
        .bind(&next.id)
        .fetch_one(app.db.reader())
        .await?;
    Ok(
        json!({ "image": next.id, "version": next.version, "stored_size_before": old, "stored_size": new }),
    )
}

/// The size that a disk is to have, if it is to have another.
fn new_size(app: &App, row: &Row, kind: &str, wanted: &Rewrite) -> Result<Option<u64>> {
    if kind != "resize" {
        return Ok(None);
    }
    let wrong = || Problem::bad_request("resize takes a `size`, such as 20G, or +5G");
    let text = wanted.size.as_deref().ok_or_else(wrong)?;
    let old = u64::try_from(row.virtual_size.unwrap_or(0)).unwrap_or(0);
    let size = match text.strip_prefix('+') {
        Some(more) => parse_size(more).and_then(|more| old.checked_add(more)),
        None => parse_size(text),
    };
    let size = size.filter(|size| *size > 0).ok_or_else(wrong)?;
    if size < old && !wanted.shrink {
        return Err(Problem::bad_request(
            "the disk would become smaller: say `shrink` if that is meant",
        ));
    }
    let limit = app.settings.max_virtual_size;
    if size > limit {
        let detail = format!("{size} bytes; the setting `max_virtual_size` allows {limit}");
        return Err(Problem::new(VIRTUAL_SIZE_TOO_LARGE, detail));
    }
    Ok(Some(size))
}

async fn announce(app: &Shared, row: &Row, kind: &str) -> Result<Row> {
    let parsed = |text: &str| serde_json::from_str(text).unwrap_or_default();
    let tags: Value = parsed(&row.tags);
    let tags = tags.as_array().into_iter().flatten();
    let new = New {
        project: row.project.clone(),
        name: row.name.clone(),
        display_name: row.display_name.clone(),
        description: row.description.clone(),
        tags: tags
            .filter_map(|tag| Some(tag.as_str()?.to_owned()))
            .collect(),
        properties: parsed(&row.properties),
        os: row.os.clone(),
        wanted: Wanted {
            overwrite: true,
            ..Wanted::default()
        },
        source: json!({"type": "action", "action": kind, "image": row.id}),
        source_name: row.source_name.clone(),
        state: "converting",
        // What is there is read, what is made takes as much at the most.
        total: row
            .stored_size
            .and_then(|size| u64::try_from(size / 2).ok()),
    };
    let mut change = app.db.change().await?;
    let row = catalog::create(app, &mut change, new).await?;
    change.commit().await?;
    Ok(row)
}

async fn move_aliases(app: &App, old: &str, new: &str) -> Result<()> {
    let mut change = app.db.change().await?;
    sqlx::query(
        "UPDATE aliases SET image = ?, revision = revision + 1, updated_at = ? WHERE image = ?",
    )
    .bind(new)
    .bind(crate::db::now())
    .bind(old)
    .execute(change.on())
    .await?;
    Ok(change.commit().await?)
}

fn staged(app: &App, row: &Row) -> std::path::PathBuf {
    app.store.staging().join(format!("{}.rewritten", row.id))
}

struct Task {
    app: Shared,
    stored: Stored,
    row: Row,
    source: Row,
    wanted: Rewrite,
    size: Option<u64>,
    steering: Arc<Steering>,
}

impl Task {
    fn run(&self) -> Result<Made> {
        let image = |error| fault::of_image(&error);
        let format = self.format()?;
        let staged = staged(&self.app, &self.row);
        let disk = diskette::open_with(&self.stored.path, &self.stored.options()).map_err(image)?;
        let witness = match disk.size() > MOST_HASHED {
            true => Witness::of_pieces(),
            false => Witness::new(),
        };
        let progress = |progress: Progress| self.steering.progress(progress);
        let mut conversion = Conversion::to(format);
        if let Some(codec) = &self.wanted.compress {
            conversion = conversion.compressed().option("compression_type", codec);
        }
        conversion.engine.control = self.steering.control(self.app.settings.threads, &progress);
        conversion.engine.witness = Some(&witness);
        conversion.write(&disk, &staged).map_err(image)?;
        let seen = witness.finish(disk.size());
        self.same(format, &staged, &seen.pieces)?;
        let mut guest_sha256 = seen.sha256.map(|sha256| hex(&sha256));
        if let Some(size) = self.size {
            let options = named(format);
            let edited = diskette::edit(&staged, &options).map_err(image)?;
            edited
                .resize(size)
                .and_then(|()| edited.flush())
                .map_err(image)?;
            drop(edited);
            let resized = diskette::open_with(&staged, &options).map_err(image)?;
            let control = self.steering.control(self.app.settings.threads, &progress);
            guest_sha256 = match size > MOST_HASHED {
                true => None,
                false => {
                    let digests = diskette::engine::digest(&resized, &control).map_err(image)?;
                    Some(hex(&digests.sha256))
                }
            };
        }
        self.made(format, &staged, guest_sha256)
    }

    fn format(&self) -> Result<&'static str> {
        let Some(wanted) = &self.wanted.format else {
            return Ok("qcow2");
        };
        let known = ["qcow2", "raw", "vmdk", "vdi", "vhdx", "vpc"].into_iter();
        let found = known.into_iter().find(|format| format == wanted);
        found.ok_or_else(|| {
            let detail = format!("\"{}\" is not written here", wanted.escape_debug());
            Problem::new(UNSUPPORTED_FORMAT, detail)
        })
    }

    /// That the new image holds what the old one does.
    fn same(&self, format: &str, staged: &Path, seen: &diskette::engine::Pieces) -> Result<()> {
        let image = |error| fault::of_image(&error);
        let new = diskette::open_with(staged, &named(format)).map_err(image)?;
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

    fn made(
        &self,
        format: &'static str,
        staged: &Path,
        guest_sha256: Option<String>,
    ) -> Result<Made> {
        let image = |error| fault::of_image(&error);
        let machine = |error| fault::of_machine("the result", &error);
        std::fs::File::open(staged)
            .and_then(|file| file.sync_all())
            .map_err(machine)?;
        let options = named(format);
        let check = match format {
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
        Ok(Made {
            staged: staged.to_owned(),
            sha256: sha256_of_file(staged).map_err(machine)?,
            size: std::fs::metadata(staged).map_err(machine)?.len(),
            format,
            kind: "disk",
            virtual_size: new.info.size,
            source_format: self.stored.format,
            source_sha256: self.source.blob.clone().unwrap_or_default(),
            source_size: u64::try_from(self.source.stored_size.unwrap_or(0)).unwrap_or(0),
            flags: Vec::new(),
            report: json!({
                "found": { "image": self.source.id, "version": self.source.version },
                "rewritten": { "to": format, "compressed": self.wanted.compress, "image": info_as_json(&new.info) },
                "dropped": [],
                "verified": { "check": check, "guest_sha256": guest_sha256 },
            }),
            guest_sha256,
        })
    }
}

fn named(format: &str) -> OpenOptions {
    let mut options = OpenOptions::default();
    options.format = diskette::core::FormatChoice::Named(format.to_owned());
    options.containers = false;
    options
}
