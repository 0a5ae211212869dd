//! What can be done with an image that is ready. What changes its bytes makes a new version: the old one stays as it is,
//! for whatever lies over it; names and aliases stand for the new one.

use std::sync::Arc;

use diskette::core::parse_size;
use serde::Deserialize;
use serde_json::{Value, json};
use utoipa::ToSchema;

use crate::api::{Stored, blocking};
use crate::catalog::{self, New, Row};
use crate::fault;
use crate::ingest::Wanted;
use crate::operations::Steering;
use crate::problem::{Problem, Result, UNSUPPORTED_FORMAT, VIRTUAL_SIZE_TOO_LARGE};
use crate::rewrite::{self, Form, Origin, Task};
use crate::state::{App, Shared};

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
    let form = Form {
        format: format(&wanted)?,
        compress: wanted.compress.clone(),
        size: new_size(&app, &row, kind, &wanted)?,
    };
    let next = announce(&app, &row, kind).await?;
    let origin = Origin {
        format: stored.format,
        sha256: row.blob.clone().unwrap_or_default(),
        size: u64::try_from(row.stored_size.unwrap_or(0)).unwrap_or(0),
        found: json!({"image": row.id, "version": row.version}),
        dropped: json!([]),
    };
    let opened = blocking(move || {
        diskette::open_with(&stored.path, &stored.options())
            .map_err(|error| fault::of_image(&error))
    });
    let task = |disk| Task {
        app: Arc::clone(&app),
        image: next.id.clone(),
        disk,
        origin,
        form,
        steering,
    };
    rewrite::into_image(&app, &next, opened.await.map(task)).await?;
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

/// The format that is asked for.
fn format(wanted: &Rewrite) -> Result<&'static str> {
    let Some(wanted) = &wanted.format else {
        return Ok("qcow2");
    };
    let known = ["qcow2", "raw", "vmdk", "vdi", "vhdx", "vpc"].into_iter();
    let found = known.into_iter().find(|format| format == wanted);
    found.ok_or_else(|| {
        let detail = format!("\"{}\" is not written here", wanted.escape_debug());
        Problem::new(UNSUPPORTED_FORMAT, detail)
    })
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
        is_snapshot: row.kind == "snapshot",
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
