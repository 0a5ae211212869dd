//! One image: as it is recorded, as it is answered, as it is written down beside its blob.

use std::sync::atomic::Ordering;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sqlx::FromRow;
use utoipa::ToSchema;

use crate::auth::{Caller, Scope};
use crate::db::Database;
use crate::problem::{Problem, Result};
use crate::state::App;

/// A row of the table `images`. Numbers are SQLite's.
#[derive(Clone, Debug, Default, FromRow, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Row {
    pub(crate) id: String,
    pub(crate) project: String,
    pub(crate) name: String,
    pub(crate) version: i64,
    pub(crate) current: bool,
    pub(crate) display_name: Option<String>,
    pub(crate) description: Option<String>,
    pub(crate) tags: String,
    pub(crate) properties: String,
    pub(crate) os: Option<String>,
    pub(crate) kind: String,
    pub(crate) state: String,
    pub(crate) problem: Option<String>,
    pub(crate) wanted: String,
    pub(crate) source: String,
    pub(crate) source_name: Option<String>,
    pub(crate) source_format: Option<String>,
    pub(crate) source_sha256: Option<String>,
    pub(crate) format: Option<String>,
    pub(crate) blob: Option<String>,
    pub(crate) virtual_size: Option<i64>,
    pub(crate) stored_size: Option<i64>,
    pub(crate) guest_sha256: Option<String>,
    pub(crate) flags: String,
    pub(crate) report: Option<String>,
    pub(crate) bytes_received: i64,
    pub(crate) bytes_total: Option<i64>,
    pub(crate) reserved: i64,
    pub(crate) revision: i64,
    pub(crate) created_at: String,
    pub(crate) updated_at: String,
}

/// An image, as it is answered.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Image {
    pub(crate) id: String,
    pub(crate) project: String,
    pub(crate) name: String,
    pub(crate) version: i64,
    /// Whether its name stands for this version.
    pub(crate) current: bool,
    pub(crate) display_name: Option<String>,
    pub(crate) description: Option<String>,
    pub(crate) tags: Vec<String>,
    #[schema(value_type = Object)]
    pub(crate) properties: Value,
    pub(crate) os: Option<String>,
    /// `disk`, `iso` or `snapshot`.
    pub(crate) kind: String,
    /// `queued`, `receiving`, `fetching`, `converting`, `verifying`, `ready`, `deactivated`, `failed`, `expired`.
    pub(crate) state: String,
    /// Why it failed: a code, a title, a detail, a hint.
    #[schema(value_type = Option<Object>)]
    pub(crate) problem: Option<Value>,
    pub(crate) source: ImageSource,
    /// Of what is stored: `qcow2`, or `iso`.
    pub(crate) format: Option<String>,
    pub(crate) virtual_size: Option<i64>,
    pub(crate) stored_size: Option<i64>,
    /// The SHA-256 of what is stored.
    pub(crate) sha256: Option<String>,
    /// The SHA-256 of what the guest reads: that of the raw disk.
    pub(crate) guest_sha256: Option<String>,
    /// `name_mismatch`, `dirty_source`, `internal_snapshots`, `hybrid`.
    pub(crate) flags: Vec<String>,
    pub(crate) progress: Progress,
    /// How many nodes use it.
    pub(crate) in_use_by: i64,
    pub(crate) revision: i64,
    pub(crate) created_at: String,
    pub(crate) updated_at: String,
}

/// Where an image has come from.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ImageSource {
    /// The name of the file that was sent.
    pub(crate) name: Option<String>,
    pub(crate) format: Option<String>,
    /// The SHA-256 of the file that was sent.
    pub(crate) sha256: Option<String>,
    pub(crate) url: Option<String>,
}

/// How far an image is.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Progress {
    pub(crate) bytes_received: i64,
    pub(crate) bytes_total: Option<i64>,
    /// Bytes of the disk that have been converted, or held against the source.
    pub(crate) guest_done: u64,
    pub(crate) guest_total: u64,
}

impl Row {
    /// The image, with how far whoever works on it is.
    pub(crate) fn into_image(self, app: &App, in_use_by: i64) -> Image {
        let mut progress = Progress {
            bytes_received: self.bytes_received,
            bytes_total: self.bytes_total,
            guest_done: 0,
            guest_total: 0,
        };
        if let Some(job) = app.job(&self.id) {
            progress.bytes_received = number(job.spool.received());
            progress.bytes_total = job.spool.total().map(number);
            progress.guest_done = job.done.load(Ordering::Relaxed);
            progress.guest_total = job.total.load(Ordering::Relaxed);
        }
        let source: Value = parsed(&self.source);
        Image {
            source: ImageSource {
                name: self.source_name,
                format: self.source_format,
                sha256: self.source_sha256,
                url: source["url"].as_str().map(str::to_owned),
            },
            id: self.id,
            project: self.project,
            name: self.name,
            version: self.version,
            current: self.current,
            display_name: self.display_name,
            description: self.description,
            tags: parsed(&self.tags),
            properties: parsed(&self.properties),
            os: self.os,
            kind: self.kind,
            state: self.state,
            problem: self.problem.as_deref().map(parsed),
            format: self.format,
            virtual_size: self.virtual_size,
            stored_size: self.stored_size,
            sha256: self.blob,
            guest_sha256: self.guest_sha256,
            flags: parsed(&self.flags),
            progress,
            in_use_by,
            revision: self.revision,
            created_at: self.created_at,
            updated_at: self.updated_at,
        }
    }

    /// Why it failed, if it did.
    pub(crate) fn failure(&self) -> Option<Problem> {
        let record: Value = serde_json::from_str(self.problem.as_deref()?).ok()?;
        let code = crate::problem::ALL
            .iter()
            .find(|code| record["code"] == code.name)?;
        Some(Problem::new(
            code,
            record["detail"].as_str().unwrap_or_default(),
        ))
    }

    /// That nothing is being done with it any more, and that it went well.
    pub(crate) fn expect_ready(&self) -> Result<&str> {
        match (&self.blob, self.state.as_str()) {
            (Some(blob), "ready") => Ok(blob),
            (_, state) => {
                let detail = format!("the image is `{state}`");
                Err(Problem::new(crate::problem::NOT_READY, detail))
            }
        }
    }
}

/// What stands beside a blob.
pub(crate) fn manifest(row: &Row) -> Value {
    json!({ "manifest": 1, "image": row })
}

/// The image of this id, or for which this name or alias stands.
pub(crate) async fn row(db: &Database, caller: &Caller, id: &str) -> Result<Row> {
    let by_id: Option<Row> = sqlx::query_as("SELECT * FROM images WHERE id = ?")
        .bind(id)
        .fetch_optional(db.reader())
        .await?;
    let found = match by_id {
        Some(row) => Some(row),
        None => {
            sqlx::query_as(
                "SELECT images.* FROM images JOIN aliases ON aliases.image = images.id \
                 WHERE aliases.project = ?1 AND aliases.name = ?2 \
                 UNION ALL SELECT * FROM images WHERE project = ?1 AND name = ?2 AND current LIMIT 1",
            )
            .bind(&caller.project)
            .bind(id)
            .fetch_optional(db.reader())
            .await?
        }
    };
    let seen = |row: &Row| row.project == caller.project || caller.scope == Scope::Admin;
    found
        .filter(seen)
        .ok_or_else(|| Problem::not_found("image", id))
}

/// The same, as it is answered.
pub(crate) async fn for_caller(app: &App, caller: &Caller, id: &str) -> Result<Image> {
    let row = row(&app.db, caller, id).await?;
    let uses: i64 = sqlx::query_scalar("SELECT count(*) FROM image_uses WHERE image = ?")
        .bind(&row.id)
        .fetch_one(app.db.reader())
        .await?;
    Ok(row.into_image(app, uses))
}

/// The images that nobody had done with when the service ended.
pub(crate) async fn rows_in_work(db: &Database) -> Result<Vec<Row>> {
    let rows = sqlx::query_as(
        "SELECT * FROM images WHERE state IN ('queued', 'receiving', 'fetching', 'converting', 'verifying') ORDER BY id",
    );
    Ok(rows.fetch_all(db.reader()).await?)
}

/// What we have written ourselves.
fn parsed<T: Default + serde::de::DeserializeOwned>(text: &str) -> T {
    serde_json::from_str(text).unwrap_or_default()
}

/// A number, as SQLite has it.
pub(crate) fn number(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}
